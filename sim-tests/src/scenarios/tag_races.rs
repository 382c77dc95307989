//! Tags change faster than they are pulled.

use std::time::Duration;

use super::Scenario;
use super::stage::{choice, coarse, cut, followers, form, ms, with_more};
use crate::stack::plan::Cut;
use crate::stack::{Failure, Outcome, World};
use funk_sim::Disk;

/// Changes of one node.
const CHANGES: u64 = 40;

/// All nodes change tags of their own at once, over and over; one is cut off meanwhile, one restarts and begins again at the
/// first version, one joins. Every node ends with the last value of each.
pub(super) const SCENARIO: Scenario = Scenario {
    name: "tag-update-races",
    about: "tags change everywhere at once, under a cut, a restart and a join: all end with the last values",
    plan: |seed| with_more(coarse(seed, 4), 1),
    play,
};

fn play(world: &mut World) -> Result<Outcome, Failure> {
    form(world)?;
    let away = followers(world)[choice(world, 1, 3)];
    let again = followers(world).into_iter().find(|at| *at != away);
    let again = again.ok_or_else(|| world.not_staged("no second follower".to_owned()))?;
    (0..4).for_each(|at| change(world, at, 0));
    world.run_for(ms(30))?;
    cut(world, Cut::Isolate(crate::stack::plan::Target::Node(away)))?;
    world.start(4);
    world.run_for(ms(200))?;
    (0..5)
        .filter(|at| *at != again)
        .for_each(|at| change(world, at, 1));
    world.run_for(ms(30))?;
    // What it said before is void: its run is another, and counts from the beginning.
    world.crash(again);
    world.run_for(ms(50))?;
    world.restart(again, Disk::Kept);
    world.run_for(ms(1_500))?;
    change(world, again, 2);
    let last: Vec<u64> = (0..5).map(|at| if at == again { 2 } else { 1 }).collect();
    world.sim.simulation().heal_all();
    world.note("healed");
    let seen = |world: &World, from: usize, of: usize| {
        let handle = world.sim.handle(&world.names[from])?;
        handle.endpoint(&world.names[of], "raced")
    };
    let pairs = || (0..5).flat_map(|from| (0..5).map(move |of| (from, of)));
    let wanted = |of: usize| Some(format!("{}.{}", last[of], CHANGES - 1));
    let behind = pairs().filter(|&(from, of)| seen(world, from, of) != wanted(of));
    let behind = behind.count();
    world.require(behind > 0, || "there was no race".to_owned())?;
    let agree = world.run_until(Duration::from_secs(20), |world| {
        pairs().all(|(from, of)| seen(world, from, of) == wanted(of))
    })?;
    world.expect("the last tag is seen", agree, || {
        let wrong = pairs().find(|&(from, of)| seen(world, from, of) != wanted(of));
        let seen = wrong.map(|(from, of)| (seen(world, from, of), wanted(of)));
        format!("{wrong:?}: {seen:?}")
    })?;
    world.conclude()
}

/// Many changes of an endpoint, some with time between them.
fn change(world: &World, at: usize, round: u64) {
    world
        .sim
        .spawn(&world.names[at], move |cluster| async move {
            let environment = funk::runtime::Environment::current();
            for number in 0..CHANGES {
                let value = format!("{round}.{number}");
                // Of a node that has stopped nobody expects anything.
                let _ = cluster.set_endpoint("raced", &value).await;
                if number % 4 == 0 {
                    environment.sleep(ms(environment.next_seed() % 20)).await;
                }
            }
        });
}
