//! Rule P1: a leader serves nothing before it has applied an entry of its own term. Until then entries of earlier terms may be
//! in its log, not applied: a map among them may have given its shards to others, who serve already.

use funk::engine::replicated::Replicated;
use funk::engine::{Leadership, RaftMembers};
use funk::log_message::LogMessage;

use super::*;

pub(super) fn play() -> Verdict {
    let mut engines = Engines::new();
    engines.start(1, 1, 0, &[2, 3]);
    let initialised = Input::Initialised {
        cluster: CLUSTER,
        only_own: false,
    };
    let members = RaftMembers {
        voters: vec![(1..=3).map(raft_id).collect()],
        members: (1..=3)
            .map(|number| (raft_id(number), addr(number)))
            .collect(),
        ..RaftMembers::default()
    };
    let elected = Leadership {
        term: Term(4),
        leader: Some(raft_id(1)),
        is_leader: true,
    };
    for input in [
        initialised,
        Input::RaftMembers(members),
        Input::Leadership(elected),
    ] {
        engines.input(1, input, &nothing);
    }
    engines.run(Duration::from_secs(2), &nothing);
    answered(&mut engines);
    if engines.has_lease(1) {
        return violation(
            "P1",
            "n1 has a lease before it has applied an entry of its term",
        );
    }
    let opened = LogMessage::LeaderOpened {
        leader: instance(1, 1),
    };
    let change = Replicated::default().apply(LogIndex(1), Term(4), &opened);
    let applied = Input::Applied {
        index: LogIndex(1),
        term: Term(4),
        change,
    };
    engines.input(1, applied, &nothing);
    answered(&mut engines);
    if !engines.has_lease(1) {
        return violation(
            "P1",
            "n1 has no lease although it has applied an entry of its term",
        );
    }
    Ok(())
}

/// A quorum answers what was asked at this moment.
fn answered(engines: &mut Engines) {
    let ack = Input::QuorumAck {
        term: Term(4),
        sent_at: engines.now,
    };
    engines.input(1, ack, &nothing);
}
