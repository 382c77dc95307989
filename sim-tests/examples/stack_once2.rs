//! x
use funk_sim_tests::stack::{Plan, World};
fn main() {
    let secs: u64 = std::env::args().nth(1).unwrap().parse().unwrap();
    let mut plan = Plan::quiet(1, 5);
    plan.load.every =
        std::time::Duration::from_millis(std::env::args().nth(2).unwrap().parse().unwrap());
    let mut world = World::new(plan, false);
    let began = std::time::Instant::now();
    world.run_for(std::time::Duration::from_secs(secs)).unwrap();
    println!(
        "{:.0}x {:?}",
        secs as f64 / began.elapsed().as_secs_f64(),
        world.history.count()
    );
    println!("{} messages", world.sim.simulation().network().messages());
}
