//! Rule B1: a candidate is promised to one bootstrap set at a time. n2's set has n3's promise, of which n2 may or may not have
//! heard; then n1, who does not hear that n3 is held, invites it too.

use funk::engine::bootstrap::{BootstrapMessage, Invite, Refusal};

use super::*;

pub(super) fn play() -> Verdict {
    let mut engines = Engines::new();
    engines.start(2, 1, 2, &[3]);
    engines.start(3, 1, 2, &[2]);
    // Between n2 and n3 everything but promises arrives.
    let without_promises = |_, _, message: &Message| {
        !matches!(
            message,
            Message::Bootstrap(BootstrapMessage::Promise { .. })
        )
    };
    engines.run(Duration::from_secs(2), &without_promises);
    if answer(&engines, 2).is_none_or(|(_, refusal)| refusal.is_some()) {
        return violation("B1", "n3 does not promise itself to n2's set");
    }
    // n1 is there, and n2 falls silent; nobody misses it yet.
    engines.start(1, 1, 2, &[3]);
    let gossip =
        |from, to, message: &Message| from != 2 && to != 2 && matches!(message, Message::Gossip(_));
    engines.run(Duration::from_millis(300), &gossip);
    let invite = BootstrapMessage::Invite(Invite {
        cluster: CLUSTER,
        expect: 2,
        members: vec![raft_id(1), raft_id(3)],
        voters: 2,
        boot: BootId(1),
        addr: addr(3),
    });
    let (from, message) = (peer(1), Message::Bootstrap(invite));
    engines.input(3, Input::Message { from, message }, &nothing);
    match answer(&engines, 1) {
        Some((CLUSTER, Some(Refusal::Bound))) => Ok(()),
        Some((CLUSTER, None)) => violation("B1", "n3 is promised to two sets at once"),
        other => violation("B1", &format!("n3 answers n1's invitation with {other:?}")),
    }
}

/// What n3 has last said of a set to this node: which set, and why not; `None`: it promised itself.
fn answer(engines: &Engines, to: u8) -> Option<(ClusterId, Option<Refusal>)> {
    let mut said = engines.sent.iter().rev();
    said.find_map(|(from, receiver, message)| match message {
        _ if (*from, *receiver) != (3, to) => None,
        Message::Bootstrap(BootstrapMessage::Promise { cluster }) => Some((*cluster, None)),
        Message::Bootstrap(BootstrapMessage::Refuse { cluster, reason }) => {
            Some((*cluster, Some(*reason)))
        }
        _ => None,
    })
}
