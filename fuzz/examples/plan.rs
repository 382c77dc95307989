//! Prints the plan in a file of the target `engine`: `cargo run --example plan -- FILE`; then runs it.

use arbitrary::{Arbitrary, Unstructured};
use funk_fuzz::engine::plan::Plan;
use funk_fuzz::engine::world::World;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::env::args().nth(1).ok_or("usage: plan FILE")?;
    let bytes = std::fs::read(file)?;
    let plan = Plan::arbitrary_take_rest(Unstructured::new(&bytes))?;
    println!("{:#?}", plan.setup);
    let mut world = World::new(&plan.setup);
    for (at, step) in plan.steps.iter().enumerate() {
        println!("{at}: {step:?}");
        world.run(std::slice::from_ref(step));
    }
    println!("{:#?}", world.situations());
    Ok(())
}
