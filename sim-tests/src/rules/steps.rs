//! Rule M8: capacities, weights, and changes in steps.

use funk::engine::Input;
use funk::engine::placement::{Balance, Candidate};
use funk::ids::ShardId;

use super::bench::{Bench, Options, SHARDS, ms, timing};

/// Four nodes, the first two of which are in the group and have a map in force.
fn two_of_four(capacities: &[u32], max_moves: Option<u32>) -> Bench {
    let capacities = capacities.to_vec();
    let mut bench = Bench::of(
        4,
        2,
        Options {
            capacities,
            max_moves,
        },
    );
    bench.elect(0);
    bench.run(ms(1_000));
    bench
}

fn join(bench: &mut Bench, nodes: &[usize]) {
    bench.group.extend(nodes);
    bench.tell_group();
}

fn owned(bench: &Bench) -> Vec<usize> {
    (0..bench.seats.len()).map(|at| bench.owned(at)).collect()
}

/// The numbers of shards that the node had, one after the other.
fn counts_of(bench: &mut Bench, at: usize, span: u64) -> Vec<usize> {
    let mut counts = vec![bench.owned(at)];
    for _ in 0..span {
        bench.run(ms(1));
        let count = bench.owned(at);
        if counts.last() != Some(&count) {
            counts.push(count);
        }
    }
    counts
}

pub(super) fn without_a_budget_all_move_at_once() {
    let mut bench = two_of_four(&[], None);
    join(&mut bench, &[2, 3]);
    assert_eq!(counts_of(&mut bench, 2, 3_000), [0, 3]);
    assert_eq!(owned(&bench), [3, 3, 3, 3]);
}

pub(super) fn m8_a_join_moves_so_many_shards_at_a_time() {
    let mut bench = two_of_four(&[], Some(2));
    let before = bench.proposals().len();
    join(&mut bench, &[2, 3]);
    bench.run(ms(3_000));
    assert_eq!(owned(&bench), [3, 3, 3, 3]);
    assert_eq!(
        bench.proposals().len() - before,
        3,
        "six moves, two at a time"
    );
    let rests = bench.log.len();
    bench.run(ms(5_000));
    assert_eq!(bench.log.len(), rests, "and there it rests");
}

pub(super) fn m8_the_next_step_waits_until_what_moved_is_served() {
    let mut bench = two_of_four(&[], Some(1));
    bench.seats[2].slow = true;
    join(&mut bench, &[2]);
    assert!(bench.run_until(ms(1_000), |bench| bench.owned(2) == 1));
    bench.run(timing().acquire_timeout - ms(500));
    assert_eq!(bench.owned(2), 1, "it has not served its first");
    bench.seats[2].slow = false;
    let shards: Vec<_> = std::mem::take(&mut bench.seats[2].acquiring)
        .into_iter()
        .collect();
    let failed = Vec::new();
    bench.input(2, Input::Acquired { shards, failed });
    assert!(bench.run_until(ms(100), |bench| bench.owned(2) == 2));
    bench.run(ms(1_000));
    assert_eq!(owned(&bench), [4, 4, 4, 0]);
}

pub(super) fn m8_a_hook_that_never_ends_does_not_hold_up_the_others_for_ever() {
    let mut bench = two_of_four(&[], Some(1));
    bench.seats[2].slow = true;
    join(&mut bench, &[2]);
    assert!(bench.run_until(ms(1_000), |bench| bench.owned(2) == 1));
    assert!(
        bench.run_until(timing().acquire_timeout + ms(200), |bench| bench.owned(2)
            == 2)
    );
}

pub(super) fn m8_what_must_move_is_not_held_back() {
    let mut bench = two_of_four(&[], Some(1));
    join(&mut bench, &[2, 3]);
    bench.run(ms(6_000));
    assert_eq!(owned(&bench), [3, 3, 3, 3]);
    let before = bench.proposals().len();
    bench.kill(3);
    bench.run(ms(1_500));
    assert_eq!(owned(&bench), [4, 4, 4, 0]);
    assert_eq!(bench.proposals().len() - before, 1, "all three at once");
    let before = bench.proposals().len();
    bench.input(2, Input::Leave);
    bench.run(ms(1_500));
    assert_eq!(owned(&bench), [6, 6, 0, 0]);
    assert_eq!(bench.proposals().len() - before, 1, "all four at once");
}

pub(super) fn m8_a_death_in_the_middle_of_a_change_in_steps() {
    let mut bench = two_of_four(&[], Some(1));
    bench.seats[2].slow = true;
    join(&mut bench, &[2, 3]);
    assert!(bench.run_until(ms(1_000), |bench| bench.owned(2) == 1));
    // n2 has not served what it got: no voluntary move is due, but this one is none.
    bench.kill(1);
    assert!(bench.run_until(ms(1_500), |bench| bench.owned(1) == 0));
    let nobody = |shard: u32| {
        let map = bench.seats[0].engine.committed();
        map.owner(ShardId(shard)).is_none()
    };
    assert!(!(0..SHARDS).any(nobody));
}

pub(super) fn m8_a_new_leader_goes_on_with_the_steps() {
    let mut bench = two_of_four(&[], Some(1));
    join(&mut bench, &[2, 3]);
    assert!(bench.run_until(ms(1_000), |bench| bench.owned(2) == 1));
    bench.elect(1);
    bench.run(ms(3_000));
    assert_eq!(owned(&bench), [3, 3, 3, 3]);
}

pub(super) fn the_load_follows_the_capacities_that_gossip_tells() {
    let mut bench = two_of_four(&[1, 1, 4], None);
    join(&mut bench, &[2]);
    bench.run(ms(1_000));
    assert_eq!(owned(&bench), [2, 2, 8, 0]);
    // It comes back smaller; its new run is told by gossip, and by its first pong perhaps before.
    bench.options.capacities[2] = 1;
    bench.restart(2);
    bench.run(ms(3_000));
    assert_eq!(owned(&bench), [4, 4, 4, 0]);
}

pub(super) fn weights_come_with_the_next_map_and_stay() {
    let mut bench = two_of_four(&[], Some(2));
    let mut weights = vec![1; SHARDS as usize];
    weights[0] = 4;
    let weights: std::sync::Arc<[u32]> = weights.into();
    bench.input(1, Input::SetWeights(Some(weights.clone())));
    bench.run(ms(1_000));
    assert_eq!(
        bench.seats[0].engine.committed().weights(),
        None,
        "n1 does not lead"
    );
    bench.input(0, Input::SetWeights(Some(vec![3; 5].into())));
    bench.input(0, Input::SetWeights(Some(weights.clone())));
    bench.run(ms(2_000));
    for seat in &bench.seats[..2] {
        assert_eq!(seat.engine.committed().weights(), Some(&weights));
    }
    let nodes = [0, 1].map(|at| Candidate {
        instance: bench.seats[at].instance.clone(),
        capacity: 1,
    });
    let balance = Balance::of(bench.seats[0].engine.committed(), &nodes);
    assert!(balance.holds(), "{balance:?}");
    bench.elect(1);
    join(&mut bench, &[2]);
    bench.run(ms(3_000));
    let map = bench.seats[1].engine.committed();
    assert_eq!(map.weights(), Some(&weights), "another leader keeps them");
    assert!(bench.owned(2) > 0);
    bench.input(1, Input::SetWeights(None));
    bench.run(ms(3_000));
    assert_eq!(bench.seats[0].engine.committed().weights(), None);
    assert_eq!(owned(&bench)[..3], [4, 4, 4]);
}
