//! Rules M9 to M11: cordons, readiness, and nodes that come and go too often.

use std::time::Duration;

use funk::engine::{Cordon, Input};
use funk::ids::ShardId;
use funk::time::Time;

use super::bench::{Bench, SHARDS, ms, name, timing};

fn put_up(bench: &mut Bench, asked: usize, at: usize, cordon: Option<Cordon>) {
    let node = name(at);
    bench.input(asked, Input::SetCordon { node, cordon });
}

fn owned(bench: &Bench) -> Vec<usize> {
    (0..bench.seats.len()).map(|at| bench.owned(at)).collect()
}

fn nobody_lost(bench: &Bench) {
    let leader = bench.leader.expect("somebody leads");
    let map = bench.seats[leader].engine.committed();
    let nobody = (0..SHARDS).find(|&shard| map.owner(ShardId(shard)).is_none());
    assert_eq!(nobody, None, "a shard that nobody owns");
}

pub(super) fn m9_a_cordoned_node_keeps_what_it_has_and_gets_nothing() {
    let mut bench = Bench::settled(4, 3);
    put_up(&mut bench, 1, 1, Some(Cordon::Cordoned));
    bench.run(ms(300));
    assert!(
        bench.seats[0].engine.cordons().is_empty(),
        "n1 does not lead"
    );
    put_up(&mut bench, 0, 1, Some(Cordon::Cordoned));
    bench.run(ms(300));
    assert_eq!(owned(&bench), [4, 4, 4, 0]);
    let rests = bench.proposals().len();
    bench.kill(2);
    bench.run(ms(1_500));
    assert_eq!(owned(&bench), [8, 4, 0, 0]);
    bench.group.push(3);
    bench.tell_group();
    bench.run(ms(1_500));
    assert_eq!(owned(&bench), [4, 4, 0, 4]);
    assert!(bench.is_leased(1) && bench.seats[1].open.len() == 4);
    let maps = bench.proposals().len() - rests;
    assert_eq!(maps, 2, "and there it rests");
    bench.kill(3);
    bench.run(ms(1_500));
    put_up(&mut bench, 0, 1, None);
    bench.run(ms(1_500));
    assert_eq!(owned(&bench), [6, 6, 0, 0]);
}

pub(super) fn m9_a_cordoned_node_that_dies_keeps_nothing() {
    let mut bench = Bench::settled(3, 3);
    put_up(&mut bench, 0, 1, Some(Cordon::Cordoned));
    bench.run(ms(300));
    bench.kill(1);
    bench.run(ms(1_500));
    assert_eq!(owned(&bench), [6, 0, 6]);
    bench.restart(1);
    bench.run(ms(2_000));
    assert_eq!(
        owned(&bench),
        [6, 0, 6],
        "new shards, though it had some once"
    );
}

pub(super) fn m9_a_drained_node_loses_all_at_once_and_stays_a_member() {
    let mut bench = Bench::settled(3, 3);
    let rests = bench.proposals().len();
    put_up(&mut bench, 0, 1, Some(Cordon::Drained));
    assert!(bench.run_until(ms(300), |bench| bench.owned(1) == 0));
    bench.run(ms(3_000));
    assert_eq!(owned(&bench), [6, 0, 6]);
    assert_eq!(bench.proposals().len() - rests, 1);
    assert!(bench.is_leased(1) && !bench.seats[1].left);
    assert!(
        bench.seats[0].changes.is_empty(),
        "{:?}",
        bench.seats[0].changes
    );
    // And back, again and again: what the operator does is no bounce (M11).
    for _ in 0..4 {
        put_up(&mut bench, 0, 1, None);
        assert!(bench.run_until(ms(600), |bench| bench.owned(1) == 4));
        put_up(&mut bench, 0, 1, Some(Cordon::Drained));
        assert!(bench.run_until(ms(600), |bench| bench.owned(1) == 0));
    }
}

pub(super) fn m9_cordons_outlive_leaders_and_runs() {
    let mut bench = Bench::settled(3, 3);
    put_up(&mut bench, 0, 1, Some(Cordon::Drained));
    bench.run(ms(500));
    bench.kill(0);
    bench.elect(2);
    bench.run(ms(1_500));
    assert_eq!(owned(&bench), [0, 0, 12]);
    bench.restart(1);
    bench.restart(0);
    bench.run(ms(2_500));
    assert_eq!(owned(&bench), [6, 0, 6]);
    for seat in &bench.seats {
        assert_eq!(seat.engine.cordons().get(&name(1)), Some(&Cordon::Drained));
    }
    // The leader itself.
    put_up(&mut bench, 2, 2, Some(Cordon::Drained));
    bench.run(ms(500));
    assert_eq!(owned(&bench), [12, 0, 0]);
}

pub(super) fn m9_what_all_are_kept_from_stays_where_it_is() {
    let mut bench = Bench::settled(3, 3);
    for at in 0..3 {
        put_up(&mut bench, 0, at, Some(Cordon::Drained));
    }
    bench.run(ms(1_500));
    nobody_lost(&bench);
    assert_eq!(owned(&bench), [4, 4, 4]);
    put_up(&mut bench, 0, 1, Some(Cordon::Cordoned));
    bench.run(ms(500));
    // A leader that must propose something proposes what is.
    put_up(&mut bench, 0, 1, None);
    bench.seats[0].busy = true;
    assert!(bench.run_until(ms(500), Bench::pending));
    bench.seats[0].busy = false;
    put_up(&mut bench, 0, 1, Some(Cordon::Cordoned));
    bench.run(ms(100));
    bench.elect(2);
    bench.run(ms(1_500));
    nobody_lost(&bench);
    assert!(!bench.pending());
}

pub(super) fn m9_a_cordon_ends_with_its_node() {
    let mut bench = Bench::settled(3, 3);
    put_up(&mut bench, 0, 2, Some(Cordon::Drained));
    put_up(&mut bench, 0, 1, Some(Cordon::Cordoned));
    bench.run(ms(500));
    // Dead, it is still a member of the group.
    bench.kill(1);
    bench.run(ms(5_000));
    assert_eq!(bench.seats[0].engine.cordons().len(), 2);
    bench.input(2, Input::Leave);
    bench.run(ms(1_000));
    bench.group.retain(|&at| at != 2);
    bench.tell_group();
    bench.run(ms(3_000));
    assert!(bench.seats[2].left);
    let left: Vec<_> = bench.seats[0].engine.cordons().keys().collect();
    assert_eq!(left, [&name(1)]);
}

pub(super) fn m10_a_node_that_is_not_ready_for_long_loses_its_shards_until_it_is() {
    let mut bench = Bench::settled(3, 3);
    let unready_after = timing().unready_after;
    bench.input(1, Input::Ready(false));
    bench.run(unready_after - ms(50));
    bench.input(1, Input::Ready(true));
    bench.run(ms(3_000));
    assert_eq!(owned(&bench), [4, 4, 4], "it was ready again in time");
    bench.input(1, Input::Ready(false));
    bench.run(ms(1_000));
    bench.input(1, Input::Ready(false));
    bench.run(unready_after - ms(1_050));
    assert_eq!(owned(&bench), [4, 4, 4]);
    assert!(bench.run_until(ms(3_000), |bench| bench.owned(1) == 0));
    bench.run(ms(3_000));
    assert_eq!(owned(&bench), [6, 0, 6]);
    for seat in &bench.seats {
        let ready = seat.engine.members().values().map(|member| member.ready);
        assert_eq!(ready.collect::<Vec<_>>(), [true, false, true]);
    }
    assert!(bench.is_leased(1), "it answers pings");
    bench.input(1, Input::Ready(true));
    bench.run(ms(3_000));
    assert_eq!(owned(&bench), [4, 4, 4]);
}

pub(super) fn m10_if_nobody_is_ready_shards_stay_served() {
    let mut bench = Bench::settled(3, 3);
    (0..3).for_each(|at| bench.input(at, Input::Ready(false)));
    bench.run(timing().unready_after + ms(6_000));
    assert_eq!(owned(&bench), [4, 4, 4]);
    bench.kill(2);
    bench.run(ms(2_000));
    assert_eq!(owned(&bench), [6, 6, 0], "better than nowhere");
}

/// The node dies, comes back, and is in the map again: how long that took since it was out.
fn bounce(bench: &mut Bench, at: usize) -> Duration {
    bench.kill(at);
    assert!(bench.run_until(ms(2_000), |bench| bench.owned(at) == 0 && !bench.pending()));
    let out: Time = bench.now;
    bench.restart(at);
    assert!(bench.run_until(ms(20_000), |bench| bench.owned(at) > 0));
    bench.run(ms(500));
    bench.now.since(out) - ms(500)
}

pub(super) fn m11_a_node_that_came_and_went_too_often_waits_longer_and_longer() {
    let mut bench = Bench::settled(3, 3);
    let settle = timing().settle_joins;
    let usual = bounce(&mut bench, 2).max(bounce(&mut bench, 2));
    assert!(usual < settle * 2, "{usual:?}");
    for doubled in [2, 4] {
        let took = bounce(&mut bench, 2);
        let waits = settle * doubled;
        assert!(
            (waits..waits + ms(500)).contains(&took),
            "{took:?} {waits:?}"
        );
    }
    // Whoever leads next has counted, too; and it is shown.
    bench.elect(1);
    bench.run(ms(500));
    bench.kill(2);
    assert!(bench.run_until(ms(2_000), |bench| bench.owned(2) == 0 && !bench.pending()));
    let waiting = bench.seats[0].engine.waiting();
    assert_eq!(waiting.keys().collect::<Vec<_>>(), [&name(2)]);
    bench.restart(2);
    bench.run(settle * 8 - ms(50));
    assert_eq!(owned(&bench), [6, 6, 0]);
    bench.run(ms(600));
    assert_eq!(owned(&bench), [4, 4, 4]);
    assert!(bench.seats[0].engine.waiting().is_empty());
}

pub(super) fn m11_who_is_needed_does_not_wait() {
    let mut bench = Bench::settled(2, 2);
    for _ in 0..4 {
        bounce(&mut bench, 1);
    }
    bench.kill(1);
    bench.run(ms(1_000));
    bench.restart(1);
    bench.run(ms(300));
    assert_eq!(owned(&bench), [12, 0], "it waits");
    put_up(&mut bench, 0, 0, Some(Cordon::Drained));
    bench.run(ms(500));
    assert_eq!(owned(&bench), [0, 12], "nobody else is left");
}
