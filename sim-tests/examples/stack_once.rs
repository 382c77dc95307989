use funk_sim_tests::stack::{Plan, World, finish};
fn main() {
    let mut args = std::env::args().skip(1);
    let from: u64 = args.next().unwrap().parse().unwrap();
    let to: u64 = args.next().unwrap().parse().unwrap();
    let mut total = std::time::Duration::ZERO;
    let began = std::time::Instant::now();
    let mut tally = funk_sim_tests::tally::Tally::default();
    for seed in from..to {
        let mut world = World::new(Plan::swarm(seed), false);
        let one = std::time::Instant::now();
        match finish(&mut world) {
            Ok(outcome) => {
                total += outcome.simulated;
                tally.merge(&outcome.tally);
                eprintln!(
                    "{seed} held {:?} recovered {:?} in {:?} {:016x}",
                    outcome.simulated,
                    outcome.recovered_in,
                    one.elapsed(),
                    outcome.fingerprint
                );
            }
            Err(failure) => {
                eprintln!("{seed} FAILED {failure} (took {:?})", one.elapsed());
                total += failure.at;
                tally.merge(&failure.tally);
            }
        }
    }
    print!("{tally}");
    println!(
        "{:?} simulated in {:?}: {:.0}x",
        total,
        began.elapsed(),
        total.as_secs_f64() / began.elapsed().as_secs_f64()
    );
}
