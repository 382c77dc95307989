//! x
use funk_sim_tests::stack::{Plan, World};
fn main() {
    let seed: u64 = std::env::args().nth(1).unwrap().parse().unwrap();
    let secs: u64 = std::env::args().nth(2).unwrap().parse().unwrap();
    let plan = Plan::swarm(seed);
    println!("{:#?}", Plan{strikes: vec![], ..plan.clone()});
    let mut world = World::new(plan, true);
    let r = world.run_for(std::time::Duration::from_secs(secs));
    println!("{r:?}");
    for e in world.take_trace().unwrap().entries.iter().filter(|e| !matches!(e.mark, funk_sim_tests::stack::trace::Mark::Sent(..) | funk_sim_tests::stack::trace::Mark::Received(..)| funk_sim_tests::stack::trace::Mark::Lease(..))).take(300) { println!("{:?} {:?} {:?}", e.at, e.node, e.mark); }
}
