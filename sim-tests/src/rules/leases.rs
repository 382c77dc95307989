//! Rules L0 to L6.

use funk::engine::message::{Grant, Ping};
use funk::engine::{Input, Message, NodeState};
use funk::ids::{BootId, LogIndex, Term};
use funk::time::Time;
use funk::transport::{Peer, PeerKind};

use super::bench::{Bench, ms, timing};

pub(super) fn l0_a_clock_jump_ends_every_lease() {
    let mut bench = Bench::settled(3, 3);
    let generation = bench.seats[1].lease.generation;
    bench.input(1, Input::ClockJumped);
    assert!(!bench.is_leased(1));
    bench.run(ms(50));
    assert!(bench.is_leased(1));
    assert_ne!(
        bench.seats[1].lease.generation, generation,
        "guards from before are void"
    );
    let asleep = bench.now;
    bench.run(ms(1));
    bench.input(1, Input::ClockJumped);
    let (term, map) = (
        bench.seats[0].engine.term(),
        bench.seats[0].engine.committed().index(),
    );
    ping(&mut bench, term, 1, asleep, map);
    assert!(
        !bench.is_leased(1),
        "nor does a grant count that was on its way when the machine slept"
    );
    bench.input(0, Input::ClockJumped);
    assert!(
        !bench.is_leased(0),
        "a leader too, until a fresh quorum answers"
    );
    let since = bench.now;
    bench.quorum = false;
    bench.run(ms(100));
    assert!(bench.grants(0, 1, since).is_empty());
}

fn ping(bench: &mut Bench, term: Term, boot: u64, stamp: Time, map: LogIndex) {
    let from = Peer {
        version: funk::versions::NEWEST,
        kind: PeerKind::Node,
        instance: bench.seats[0].instance.clone(),
        addr: "10.0.0.1:7000".parse().unwrap(),
    };
    let grant = Some(Grant { stamp, map });
    let message = Message::Ping(Ping {
        cluster: super::bench::CLUSTER,
        term,
        boot: BootId(boot),
        grant,
        dismissed: false,
    });
    bench.input(1, Input::Message { from, message });
}

pub(super) fn l1_a_grant_is_refused_from_an_older_term_for_another_run_and_for_a_stamp_not_taken_yet()
 {
    let mut bench = Bench::settled(3, 3);
    bench.elect(2);
    bench.isolate(1);
    bench.run(timing().lease + ms(10));
    let (now, none) = (bench.now, LogIndex(0));
    ping(&mut bench, Term(1), 1, now, none);
    assert!(!bench.is_leased(1), "the term is old");
    ping(&mut bench, Term(2), 9, now, none);
    assert!(!bench.is_leased(1), "another run is meant");
    ping(&mut bench, Term(2), 1, now + ms(1), none);
    assert!(!bench.is_leased(1), "it has never taken this stamp");
    ping(&mut bench, Term(2), 1, now - ms(5), none);
    assert_eq!(bench.seats[1].lease.until, now - ms(5) + timing().lease);
}

pub(super) fn l1_a_grant_counts_once_its_map_is_applied() {
    let mut bench = Bench::settled(3, 3);
    bench.isolate(1);
    bench.run(timing().lease + ms(10));
    let now = bench.now;
    let map = bench.seats[1].engine.committed().index();
    ping(&mut bench, Term(1), 1, now, LogIndex(map.0 + 1));
    assert!(
        !bench.is_leased(1),
        "under a map that is not known here, nothing is served"
    );
    ping(&mut bench, Term(1), 1, now, map);
    assert!(bench.is_leased(1));
}

pub(super) fn l1_a_new_leader_keeps_what_it_was_granted_for_b_at_most() {
    let mut bench = Bench::settled(3, 3);
    bench.commits = false;
    let generation = bench.seats[1].lease.generation;
    bench.elect(1);
    let elected = bench.now;
    assert!(
        bench.is_leased(1),
        "its own shards do not pause while it becomes ready"
    );
    assert_eq!(bench.seats[1].lease.until, elected + timing().leader_bound);
    assert_eq!(bench.seats[1].lease.generation, generation);
    bench.run(timing().leader_bound);
    assert!(!bench.is_leased(1));
}

pub(super) fn l1_a_new_ready_leader_pings_at_once() {
    let mut bench = Bench::settled(3, 3);
    bench.elect(1);
    let elected = bench.now;
    bench.run(ms(8));
    assert!(!bench.grants(1, 0, elected).is_empty() && !bench.grants(1, 2, elected).is_empty());
}

pub(super) fn l2_a_silent_node_is_excused_once_its_lease_has_lapsed_on_any_clock() {
    let mut bench = Bench::settled(3, 3);
    let decided = bench.decided().len();
    bench.kill(2);
    let killed = bench.now;
    assert!(bench.run_until(ms(2_000), |bench| bench.decided().len() > decided));
    // The newest stamp it sent was received within the last ping.
    let received = killed - timing().ping - ms(2);
    let span = timing().starred(timing().lease);
    assert!(span > timing().lease);
    assert!(
        bench.now >= received + span,
        "{:?} after its death",
        bench.now.since(killed)
    );
    assert!(
        bench.now <= killed + span + ms(30),
        "and no later than needed"
    );
}

pub(super) fn l3_without_a_quorum_nothing_is_granted_and_the_leader_serves_nothing() {
    let mut bench = Bench::settled(3, 3);
    bench.quorum = false;
    let since = bench.now;
    bench.run(timing().leader_bound + ms(1));
    let last = since + timing().leader_bound;
    assert!(!bench.is_leased(0));
    bench.run(ms(500));
    assert!(bench.grants(0, 1, last).is_empty());
    assert!(!bench.is_leased(1), "its grants run out");
    bench.quorum = true;
    bench.run(ms(60));
    assert!(bench.is_leased(0) && bench.is_leased(1));
}

pub(super) fn l3_q_is_what_raft_says_of_this_term_only() {
    let mut bench = Bench::settled(3, 3);
    bench.quorum = false;
    bench.run(ms(200));
    let now = bench.now;
    bench.input(
        0,
        Input::QuorumAck {
            term: Term(9),
            sent_at: now,
        },
    );
    assert!(!bench.is_leased(0));
    bench.input(
        0,
        Input::QuorumAck {
            term: Term(1),
            sent_at: now - ms(30),
        },
    );
    assert_eq!(
        bench.seats[0].lease.until,
        now - ms(30) + timing().leader_bound
    );
}

pub(super) fn l4_a_new_leader_takes_every_node_for_leased_and_its_predecessor_for_serving_itself() {
    let timing = timing();
    let long = timing.starred(timing.leader_bound + timing.lease);
    let short = timing.starred(timing.leader_bound);
    for (dead, wait) in [(0, short), (2, long)] {
        let mut bench = Bench::settled(4, 4);
        let decided = bench.decided().len();
        bench.kill(dead);
        bench.elect(1);
        let elected = bench.now;
        assert!(bench.run_until(ms(2_000), |bench| bench.decided().len() > decided));
        let waited = bench.now.since(elected);
        // Its predecessor is found dead later than it lapses, so that it waits for the detection.
        let detection = timing.dead_after + timing.settle_deaths;
        assert!(waited >= wait, "n{dead}: {waited:?} < {wait:?}");
        assert!(
            waited <= wait.max(detection) + ms(40),
            "n{dead}: {waited:?}"
        );
    }
}

pub(super) fn l5_a_node_that_lags_is_excused_and_gets_no_grant_before_the_map_without_it_is_in_force()
 {
    let mut bench = Bench::settled(4, 4);
    bench.seats[2].lags = true;
    bench.kill(3);
    assert!(bench.run_until(ms(1_000), Bench::pending));
    let before = bench.decided().len();
    bench.run(timing().ack_timeout + ms(10));
    assert!(
        bench.pending(),
        "it answers pings: its lease must run out first"
    );
    let since = bench.now;
    assert!(bench.run_until(ms(1_000), |bench| bench.decided().len() > before));
    assert!(bench.grants(0, 2, since).is_empty());
    assert!(!bench.is_leased(2));
    bench.run(ms(5));
    assert_eq!(
        bench.owned(2),
        0,
        "the map that came into force leaves it out"
    );
    bench.seats[2].lags = false;
    assert!(bench.run_until(ms(2_000), |bench| bench.owned(2) == 4 && bench.is_leased(2)));
}

pub(super) fn l5_a_node_that_answers_again_before_it_is_excused_keeps_its_lease() {
    let mut bench = Bench::settled(4, 4);
    bench.seats[1].busy = true;
    let generation = bench.seats[2].lease.generation;
    bench.kill(3);
    assert!(bench.run_until(ms(1_000), Bench::pending));
    bench.isolate(2);
    bench.run(timing().dead_after + ms(20));
    bench.cut.clear();
    bench.run(ms(400));
    assert!(bench.is_leased(2));
    assert_eq!(bench.seats[2].lease.generation, generation);
}

pub(super) fn l6_a_leader_without_a_quorum_stops_acting() {
    let mut bench = Bench::settled(3, 3);
    bench.quorum = false;
    bench.run(timing().leader_bound + ms(1));
    let entries = bench.log.len();
    bench.kill(2);
    bench.run(ms(1_000));
    assert_eq!(bench.log.len(), entries, "it proposes nothing");
    assert_eq!(bench.seats[0].engine.state(), NodeState::Resharding);
    let due = bench.seats[0].engine.poll_timeout();
    assert!(due.is_none_or(|due| due > bench.now), "and does not spin");
}
