//! Rules M4 and M5, and what engines do about M1.

use funk::engine::{Input, MemberChange, NodeState};

use super::bench::{Bench, ms, name, raft_id, timing};

pub(super) fn m1_a_refused_change_is_asked_for_again_but_not_at_once() {
    let mut bench = Bench::settled(4, 4);
    let before = bench.seats[0].changes.len();
    bench.input(2, Input::Leave);
    assert!(bench.run_until(ms(2_000), |bench| bench.seats[0].changes.len() > before));
    bench.run(ms(200));
    assert_eq!(
        bench.seats[0].changes.len(),
        before + 1,
        "one change at a time"
    );
    bench.input(0, Input::MembersChanged { done: false });
    bench.run(ms(5));
    assert_eq!(bench.seats[0].changes.len(), before + 1);
    bench.run(timing().election_max);
    assert_eq!(bench.seats[0].changes.len(), before + 2);
}

pub(super) fn m2_a_voter_that_leaves_stays_where_the_others_alone_would_be_no_quorum() {
    let mut bench = Bench::settled(3, 3);
    bench.kill(1);
    assert!(bench.run_until(ms(2_000), |bench| bench.owned(1) == 0));
    bench.input(2, Input::Leave);
    assert!(bench.run_until(ms(2_000), |bench| bench.owned(2) == 0));
    bench.run(ms(1_000));
    let without = |change: &MemberChange| !change.voters.contains(&raft_id(2));
    let changes = &bench.seats[0].changes;
    assert!(
        !changes.iter().any(without),
        "n0 would need n1: {changes:?}"
    );
    bench.restart(1);
    let asked = |bench: &Bench| bench.seats[0].changes.iter().any(without);
    assert!(bench.run_until(ms(3_000), asked), "with n1 it may go");
}

pub(super) fn m4_deaths_within_the_settling_time_become_one_map() {
    let mut bench = Bench::settled(5, 4);
    let before = bench.decided().len();
    bench.kill(2);
    bench.run(ms(10));
    bench.kill(3);
    assert!(bench.run_until(ms(2_000), |bench| bench.owned(0) == 6));
    assert_eq!(bench.decided().len(), before + 1);
}

pub(super) fn m5_a_node_that_leaves_is_drained_removed_and_dismissed() {
    let mut bench = Bench::settled(3, 3);
    bench.input(2, Input::Leave);
    assert_eq!(bench.seats[2].engine.state(), NodeState::Stopping);
    assert!(bench.run_until(ms(1_000), |bench| bench.owned(2) == 0));
    assert!(!bench.seats[2].left, "it is in the raft group still");
    bench.run(ms(50));
    let change = bench.seats[0]
        .changes
        .last()
        .expect("it is to be removed")
        .clone();
    assert!(!change.members.contains_key(&raft_id(2)) && !change.voters.contains(&raft_id(2)));
    bench.group = vec![0, 1];
    bench.tell_group();
    bench.input(0, Input::MembersChanged { done: true });
    assert!(bench.run_until(ms(200), |bench| bench.seats[2].left));
}

pub(super) fn m5_a_leader_that_leaves_gives_its_shards_away_and_then_leadership() {
    let mut bench = Bench::settled(3, 3);
    bench.input(0, Input::Leave);
    assert!(bench.run_until(ms(1_000), |bench| bench.owned(0) == 0));
    assert!(bench.run_until(ms(100), |bench| !bench.seats[0].transfers.is_empty()));
    assert_ne!(bench.seats[0].transfers[0].node, name(0));
}

pub(super) fn m5_the_last_node_may_leave_alone() {
    let mut bench = Bench::settled(1, 1);
    bench.input(0, Input::Leave);
    assert!(bench.run_until(ms(1_000), |bench| bench.seats[0].left));
    assert!(bench.seats[0].open.is_empty(), "drained like any other");
}
