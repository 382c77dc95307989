//! Rules S1 to S6, and what goes on meanwhile.

use funk::engine::membership::MemberState;
use funk::engine::{Event, Input, Leadership, NodeState};
use funk::ids::Epoch;

use super::bench::{Bench, ms, name, timing};

pub(super) fn s1_s2_what_a_proposal_takes_is_closed_at_once_and_acknowledged_when_it_has_drained() {
    let mut bench = Bench::settled(3, 2);
    bench.seats[1].busy = true;
    bench.group = vec![0, 1, 2];
    bench.tell_group();
    assert!(bench.run_until(ms(1_000), Bench::pending));
    bench.run(ms(100));
    assert_eq!(
        bench.seats[1].open.len(),
        4,
        "two are closed, four are served without a pause"
    );
    assert_eq!(bench.ack(1), None);
    let proposal = bench.seats[1].engine.pending().unwrap().map.index();
    bench.let_go(1);
    assert_eq!(
        bench.ack(1),
        Some(proposal),
        "it is acknowledged the moment the drain ends"
    );
    bench.run(ms(100));
    assert_eq!(bench.owned(2), 4);
}

pub(super) fn s1_what_a_void_proposal_took_comes_back_through_acquire() {
    let mut bench = Bench::settled(3, 2);
    bench.seats[0].busy = true;
    bench.group = vec![0, 1, 2];
    bench.tell_group();
    assert!(bench.run_until(ms(1_000), Bench::pending));
    bench.run(ms(10));
    let epochs: Vec<Epoch> = bench.seats[1].open.values().copied().collect();
    assert_eq!(epochs.len(), 4);
    // n2 goes before the change is decided: the next proposal gives back what n1 had let go.
    bench.kill(2);
    bench.seats[1].slow = true;
    assert!(bench.run_until(ms(2_000), |bench| bench.seats[1].acquiring.len() == 2));
    assert_eq!(bench.seats[1].open.len(), 4, "not before acquire returns");
    for (shard, epoch) in std::mem::take(&mut bench.seats[1].acquiring) {
        assert!(
            epochs.contains(&epoch),
            "the token is the same: nobody else ever had it"
        );
        bench.input(
            1,
            Input::Acquired {
                shards: vec![(shard, epoch)],
                failed: Vec::new(),
            },
        );
    }
    assert_eq!(bench.seats[1].open.len(), 6);
}

pub(super) fn s2_no_ack_while_what_an_earlier_step_took_is_draining() {
    let mut bench = Bench::settled(3, 2);
    bench.seats[1].busy = true;
    bench.group = vec![0, 1, 2];
    bench.tell_group();
    assert!(bench.run_until(ms(1_000), Bench::pending));
    let first = bench.seats[1].engine.pending().unwrap().map.index();
    // A new leader supersedes it with the same: n1 loses nothing in this step.
    bench.elect(0);
    let superseded = |bench: &Bench| {
        bench.seats[1]
            .engine
            .pending()
            .is_some_and(|p| p.map.index() > first)
    };
    assert!(bench.run_until(ms(200), superseded));
    bench.run(ms(50));
    assert_eq!(bench.ack(1), None);
    bench.let_go(1);
    assert!(bench.ack(1) > Some(first));
}

pub(super) fn s3_what_was_taken_while_acquire_ran_is_not_opened() {
    let mut bench = Bench::settled(3, 2);
    bench.seats[2].slow = true;
    bench.group = vec![0, 1, 2];
    bench.tell_group();
    assert!(bench.run_until(ms(1_000), |bench| bench.seats[2].acquiring.len() == 4));
    // Meanwhile it is drained.
    bench.input(2, Input::Leave);
    assert!(bench.run_until(ms(1_000), |bench| bench.seats[2].closing.len() == 4));
    for (shard, epoch) in std::mem::take(&mut bench.seats[2].acquiring) {
        bench.input(
            2,
            Input::Acquired {
                shards: vec![(shard, epoch)],
                failed: Vec::new(),
            },
        );
    }
    assert!(bench.seats[2].open.is_empty());
    assert_eq!(bench.ack(2), None, "nor acknowledged while the hook runs");
    bench.let_go(2);
    assert!(bench.ack(2).is_some());
}

pub(super) fn s3_acquire_waits_until_the_same_shard_is_released() {
    let mut bench = Bench::settled(3, 2);
    bench.seats[1].busy = true;
    bench.group = vec![0, 1, 2];
    bench.tell_group();
    assert!(bench.run_until(ms(1_000), Bench::pending));
    bench.run(ms(5));
    bench.seats[1].slow = true;
    // What it does not drain stays: it comes back once it has been released, not before.
    assert!(bench.run_until(ms(2_000), |bench| !bench.pending()));
    assert!(bench.seats[1].acquiring.is_empty());
    bench.let_go(1);
    assert_eq!(bench.seats[1].acquiring.len(), 2);
}

pub(super) fn s4_nothing_is_served_past_the_lease() {
    let mut bench = Bench::settled(3, 3);
    bench.isolate(2);
    let cut = bench.now;
    bench.run(timing().lease);
    assert!(bench.seats[2].lease.until <= cut + timing().lease);
    assert_eq!(bench.seats[2].engine.state(), NodeState::Resharding);
    let lapsed = |event: &Event| {
        matches!(
            event,
            Event::StateChanged {
                to: NodeState::Resharding,
                ..
            }
        )
    };
    assert!(
        bench.seats[2].events.iter().any(lapsed),
        "the moment of the lapse is told"
    );
}

pub(super) fn s5_a_restarted_node_serves_nothing_until_a_map_names_its_new_run() {
    let mut bench = Bench::settled(3, 3);
    bench.restart(2);
    bench.run(ms(10));
    assert!(bench.seats[2].open.is_empty(), "whatever its disk says");
    let new = bench.seats[2].instance.clone();
    assert!(bench.run_until(ms(2_000), |bench| bench.owned(2) == 4));
    let epoch = bench.seats[0]
        .engine
        .committed()
        .owned_by(&new)
        .next()
        .unwrap()
        .1;
    assert!(epoch > Epoch(2), "another owner, another token");
    bench.run(ms(20));
    assert_eq!(bench.seats[2].open.len(), 4);
}

pub(super) fn s6_a_lease_after_a_lapse_is_another_one() {
    let mut bench = Bench::settled(3, 3);
    let first = bench.seats[2].lease.generation;
    bench.run(ms(500));
    assert_eq!(
        bench.seats[2].lease.generation, first,
        "renewals in time do not end it"
    );
    bench.isolate(2);
    bench.run(timing().lease + ms(10));
    bench.cut.clear();
    assert!(bench.run_until(ms(3_000), |bench| bench.is_leased(2)));
    assert_ne!(bench.seats[2].lease.generation, first);
}

pub(super) fn unmoved_shards_never_pause() {
    let mut bench = Bench::settled(4, 3);
    let lost = |bench: &Bench, at: usize| -> usize {
        let lost = |event: &Event| {
            if let Event::ShardsLost(shards) = event {
                shards.len()
            } else {
                0
            }
        };
        bench.seats[at].events.iter().map(lost).sum()
    };
    bench.group = vec![0, 1, 2, 3];
    bench.tell_group();
    assert!(bench.run_until(ms(1_000), |bench| bench.owned(3) == 3));
    assert_eq!(
        [0, 1, 2].map(|at| lost(&bench, at)),
        [1, 1, 1],
        "one each, and no more"
    );
    bench.kill(3);
    assert!(bench.run_until(ms(1_000), |bench| bench.owned(3) == 0));
    assert_eq!([0, 1, 2].map(|at| lost(&bench, at)), [1, 1, 1]);
    assert_eq!(
        [0, 1, 2].map(|at| bench.seats[at].lease.generation),
        [1, 1, 1],
        "and no lease ever lapsed"
    );
}

/// A doubt that one lost datagram too many has raised would end everything that is under way to the leader.
pub(super) fn a_leader_that_raft_hears_is_not_given_up_for_a_doubt_of_gossip() {
    let mut bench = Bench::settled(3, 3);
    let is_given_up = |bench: &Bench| {
        let routes = bench.seats[1].routes.as_ref().expect("it has routes");
        routes.unreachable.contains(&name(0))
    };
    bench.isolate(0);
    let is_doubted = |bench: &Bench| {
        let member = &bench.seats[1].engine.members()[&name(0)];
        member.state == MemberState::Suspect
    };
    assert!(bench.run_until(ms(5_000), is_doubted));
    assert!(!is_given_up(&bench), "its raft messages arrive");
    let lost = Leadership {
        term: bench.term,
        leader: None,
        is_leader: false,
    };
    bench.input(1, Input::Leadership(lost));
    assert!(is_doubted(&bench) && is_given_up(&bench));
}
