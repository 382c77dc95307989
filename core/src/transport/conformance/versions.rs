//! Cases about nodes of different releases.

use bytes::Bytes;

use super::{Fixture, Node, exchange, send_until_received, stays_silent};
use crate::transport::TransportError;

pub(super) async fn the_highest_version_in_common_is_spoken(fixture: &dyn Fixture) {
    for (ours, theirs, common) in [
        ((1, 1), (1, 2), 1),
        ((1, 3), (2, 2), 2),
        ((1, 2), (1, 2), 2),
    ] {
        let alice = Node::start_speaking(fixture, "alice", ours.0, ours.1).await;
        let mut bob = Node::start_speaking(fixture, "bob", theirs.0, theirs.1).await;
        let from = send_until_received(&alice, &mut bob, &Bytes::from_static(b"in which?")).await;
        assert_eq!(from.version, common, "as the receiver sees it");
        let to_bob = bob.addr();
        tokio::select! {
            biased;
            peer = exchange(&*alice.transport, &to_bob, b"in which?") => {
                assert_eq!(peer.version, common, "as the caller sees it");
            }
            () = bob.echo() => panic!("bob ended"),
        }
    }
}

pub(super) async fn without_a_version_in_common_both_are_told_which_the_other_speaks(
    fixture: &dyn Fixture,
) {
    let mut older = Node::start_speaking(fixture, "older", 1, 2).await;
    let mut newer = Node::start_speaking(fixture, "newer", 3, 4).await;
    for (from, to) in [(&older, newer.addr()), (&newer, older.addr())] {
        match from.transport.open_stream(&to).await {
            Err(TransportError::Refused { reason, .. }) => {
                for part in ["1 to 2", "3 to 4", "upgrade"] {
                    assert!(reason.contains(part), "{part} is not in {reason:?}");
                }
            }
            Err(error) => panic!("not refused but: {error}"),
            Ok((peer, _)) => panic!("{} was let in", peer.instance),
        }
        from.send(&to, &Bytes::from_static(b"let me in"));
    }
    assert!(
        stays_silent(older.incoming.recv()).await,
        "the older one heard it"
    );
    assert!(
        stays_silent(newer.incoming.recv()).await,
        "the newer one heard it"
    );
    assert!(older.transport.counters().refused > 0 && newer.transport.counters().refused > 0);
}
