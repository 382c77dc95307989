//! Rules P1 to P5, and what I3 asks of the log.

use bytes::Bytes;
use funk::engine::Input;
use funk::engine::map_encoding::encode_assignment;
use funk::engine::replicated::{Change, Replicated, VoidReason};
use funk::engine::shard_map::{Assignment, MapMember};
use funk::ids::{Epoch, LogIndex, ShardId, Term, WorkerId};
use funk::log_message::LogMessage;

use super::bench::{Bench, instance, ms, timing};

pub(super) fn p1_a_leader_does_nothing_before_it_has_applied_its_own_entry() {
    let mut bench = Bench::new(3, 3);
    bench.commits = false;
    bench.elect(0);
    let since = bench.now;
    bench.run(ms(300));
    assert!(
        bench
            .log
            .iter()
            .all(|(_, _, message)| matches!(message, LogMessage::LeaderOpened { .. }))
    );
    assert!(bench.grants(0, 1, since).is_empty());
    assert!(!bench.is_leased(0), "it serves nothing under L3");
    bench.commits = true;
    bench.run(ms(20));
    assert!(bench.is_leased(0) && bench.is_leased(1));
}

pub(super) fn p1_a_commit_decided_in_another_term_is_void() {
    let mut bench = Bench::new(3, 3);
    bench.elect(0);
    bench.seats[1].busy = true;
    bench.run_until(ms(500), |bench| !bench.proposals().is_empty());
    let mut replica = Replicated::default();
    let mut applied = LogIndex(0);
    for (_, term, message) in &bench.log {
        applied = LogIndex(applied.0 + 1);
        if !matches!(message, LogMessage::ShardMapCommitted { .. }) {
            replica.apply(applied, *term, message);
        }
    }
    let commit = LogMessage::ShardMapCommitted {
        map: replica.latest(),
        term: Term(1),
    };
    assert_eq!(
        replica.apply(LogIndex(50), Term(2), &commit),
        Change::Void(VoidReason::OtherTerm)
    );
    assert!(matches!(
        replica.apply(LogIndex(51), Term(1), &commit),
        Change::Committed { .. }
    ));
}

pub(super) fn p2_a_proposal_that_is_not_the_latest_cannot_come_into_force() {
    let mut bench = Bench::settled(3, 3);
    bench.kill(2);
    assert!(bench.run_until(ms(1_000), Bench::pending));
    let replica = &mut bench.seats[0].replica;
    let older = replica.committed.index();
    let term = Term(1);
    let change = replica.apply(
        LogIndex(90),
        term,
        &LogMessage::ShardMapCommitted { map: older, term },
    );
    assert_eq!(change, Change::Void(VoidReason::NotLatest));
}

pub(super) fn p2_new_triggers_wait_while_a_proposal_is_pending() {
    let mut bench = Bench::settled(4, 2);
    bench.seats[1].busy = true;
    bench.group = vec![0, 1, 2];
    bench.tell_group();
    assert!(bench.run_until(ms(1_000), Bench::pending), "n2 came");
    let proposals = bench.proposals().len();
    bench.group = vec![0, 1, 2, 3];
    bench.tell_group();
    bench.run(timing().drain_timeout / 2);
    assert_eq!(bench.proposals().len(), proposals, "n3 waits");
    bench.let_go(1);
    bench.run(ms(1_000));
    assert_eq!(bench.owned(3), 3);
}

pub(super) fn p3_a_snapshot_closes_what_its_pending_proposal_takes() {
    let mut bench = Bench::settled(3, 2);
    bench.seats[1].lags = true;
    bench.seats[0].busy = true;
    bench.group = vec![0, 1, 2];
    bench.tell_group();
    assert!(bench.run_until(ms(1_000), Bench::pending));
    let before = bench.seats[1].open.len();
    let snapshot = Replicated::decode(&bench.seats[0].replica.encode()).unwrap();
    assert_eq!(
        snapshot, bench.seats[0].replica,
        "nothing is lost on the way"
    );
    let pending = snapshot.pending.clone().unwrap();
    bench.input(1, Input::Installed(snapshot));
    let kept = pending.map.owned_by(&bench.seats[1].instance).count();
    assert!(kept < before);
    assert_eq!(bench.seats[1].open.len(), kept);
    assert_eq!(
        bench.ack(1),
        Some(pending.map.index()),
        "it may acknowledge: it has drained"
    );
}

pub(super) fn p4_a_node_that_does_not_drain_delays_only_its_own_shards_and_is_asked_again() {
    let mut bench = Bench::settled(3, 2);
    bench.seats[1].busy = true;
    bench.group = vec![0, 1, 2];
    bench.tell_group();
    assert!(bench.run_until(ms(1_000), Bench::pending));
    let proposed = bench.now;
    assert!(bench.run_until(ms(2_000), |bench| !bench.pending()));
    assert!(bench.now >= proposed + timing().drain_timeout);
    assert_eq!(bench.owned(1), 6, "what it does not let go of stays");
    assert_eq!(
        (bench.owned(0), bench.owned(2)),
        (3, 3),
        "the others share without it"
    );
    // Asked again after the back-off, in vain; then twice as long passes.
    let mut waits = Vec::new();
    for _ in 0..2 {
        let since = bench.now;
        assert!(bench.run_until(ms(5_000), Bench::pending));
        waits.push(bench.now.since(since));
        assert!(bench.run_until(ms(5_000), |bench| !bench.pending()));
    }
    assert!(waits[1] > waits[0].mul_f64(1.5), "{waits:?}");
    bench.let_go(1);
    assert!(bench.run_until(ms(10_000), |bench| bench.owned(1) == 4));
}

pub(super) fn p4_a_pin_ends_when_its_owner_is_gone() {
    let mut bench = Bench::settled(3, 2);
    bench.seats[1].busy = true;
    bench.group = vec![0, 1, 2];
    bench.tell_group();
    for _ in 0..3 {
        assert!(bench.run_until(ms(10_000), Bench::pending));
        assert!(bench.run_until(ms(2_000), |bench| !bench.pending()));
    }
    // The pin holds for some seconds by now; the death of the node ends it.
    bench.kill(1);
    let most = timing().dead_after + timing().starred(timing().lease) + ms(200);
    assert!(bench.run_until(most, |bench| bench.owned(0) == 6 && bench.owned(2) == 6));
}

pub(super) fn p4_a_node_that_holds_on_to_what_it_lost_long_ago_does_not_hold_up_the_others() {
    let mut bench = Bench::settled(4, 4);
    bench.seats[3].busy = true;
    bench.isolate(3);
    assert!(
        bench.run_until(ms(2_000), |bench| bench.owned(3) == 0),
        "it was excused"
    );
    bench.cut.clear();
    assert!(
        bench.run_until(ms(2_000), Bench::pending),
        "it is to get shards again"
    );
    bench.kill(2);
    assert!(
        bench.run_until(timing().drain_timeout * 3, |bench| bench.owned(0) == 6
            && bench.owned(1) == 6),
        "n2's shards do not wait for n3's old guard: {:?}",
        bench.proposals()
    );
    bench.let_go(3);
    assert!(bench.run_until(ms(10_000), |bench| bench.owned(3) == 4));
}

pub(super) fn p5_a_new_leader_supersedes_what_it_finds_pending() {
    let mut bench = Bench::settled(3, 2);
    bench.group = vec![0, 1, 2];
    bench.seats[0].busy = true;
    bench.tell_group();
    assert!(bench.run_until(ms(1_000), Bench::pending));
    let found = bench.seats[1].engine.pending().unwrap().map.index();
    bench.let_go(0);
    bench.elect(1);
    assert!(bench.run_until(ms(500), |bench| !bench.pending()));
    assert!(
        bench.seats[1].engine.committed().index() > found,
        "what the former leader proposed is void"
    );
}

/// However late it comes.
pub(super) fn i3_an_entry_under_an_older_token_has_no_effect() {
    let mut replica = Replicated::default();
    let first = give_all_to(&mut replica, 0, 1);
    assert!(takes(&mut replica, 3, first), "under the shard's token");
    let second = give_all_to(&mut replica, 1, 4);
    assert!(!takes(&mut replica, 6, first), "under an older one");
    assert!(takes(&mut replica, 7, second), "under the new owner's");
}

/// Puts a map in force that gives every shard to this node. Returns the token of the first.
fn give_all_to(replica: &mut Replicated, at: usize, index: u64) -> Epoch {
    let assignment = Assignment {
        members: vec![MapMember {
            worker: WorkerId(1),
            instance: instance(at, 1),
            capacity: 1,
        }],
        owners: vec![WorkerId(1); 4],
        weights: None,
    };
    let proposed = LogMessage::ProposedShardMap {
        base: replica.committed.index(),
        assignment: encode_assignment(&assignment, Some(&replica.committed)),
        reason: String::new(),
    };
    replica.apply(LogIndex(index), Term(1), &proposed);
    let committed = LogMessage::ShardMapCommitted {
        map: LogIndex(index),
        term: Term(1),
    };
    replica.apply(LogIndex(index + 1), Term(1), &committed);
    replica.committed.epoch(ShardId(0))
}

/// Whether an application's entry for the first shard takes effect.
fn takes(replica: &mut Replicated, index: u64, epoch: Epoch) -> bool {
    let entry = LogMessage::App {
        shard: Some(ShardId(0)),
        epoch,
        bytes: Bytes::new(),
    };
    let change = replica.apply(LogIndex(index), Term(1), &entry);
    matches!(change, Change::App(Ok(())))
}

/// The cluster's version rises by an entry, when all members and owners speak the new one, and not earlier.
pub(super) fn v1_the_version_rises_once_every_member_and_owner_speaks_it() {
    let next = funk::versions::VersionRange {
        oldest: funk::versions::OLDEST,
        newest: funk::versions::NEWEST + 1,
    };
    let raised = |bench: &Bench| {
        let mut log = bench.log.iter();
        log.any(|(_, _, message)| matches!(message, LogMessage::VersionRaised { .. }))
    };
    let mut bench = Bench::settled(3, 3);
    for at in [0, 1] {
        bench.upgrade(at, next);
    }
    bench.elect(0);
    bench.run(ms(2_000));
    assert!(!raised(&bench), "one of them is old");
    assert_eq!(
        bench.seats[0]
            .engine
            .counters()
            .count("versions held back until all members speak them"),
        1
    );
    bench.upgrade(2, next);
    bench.run(ms(2_000));
    assert!(raised(&bench));
    for seat in &bench.seats {
        assert_eq!(seat.engine.cluster_version(), next.newest);
    }
}
