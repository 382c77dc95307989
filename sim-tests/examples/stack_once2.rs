//! x
use funk_sim_tests::stack::{Plan, World, finish, trace::Mark};
fn main() {
    let mut args = std::env::args().skip(1);
    let seed: u64 = args.next().unwrap().parse().unwrap();
    let from: f64 = args.next().unwrap().parse().unwrap();
    let plan = Plan::swarm(seed);
    println!(
        "{:#?}",
        Plan {
            strikes: vec![],
            ..plan.clone()
        }
    );
    let mut world = World::new(plan, true);
    let r = finish(&mut world);
    println!("{:?}", r.map(|o| o.recovered_in).map_err(|e| e.to_string()));
    for e in world.take_trace().unwrap().entries.iter().filter(|e| {
        e.at.as_secs_f64() > from
            && !matches!(
                e.mark,
                Mark::Sent(..) | Mark::Received(..) | Mark::Lease(..)
            )
    }) {
        println!(
            "{:?} {} {:?}",
            e.at,
            e.node.map_or("-".into(), |n| format!("n{}", n + 1)),
            e.mark
        );
    }
}
