//! Cases about datagrams.

use std::time::Duration;

use bytes::Bytes;

use super::{Fixture, Node, RESEND, pattern, send_until_received, stays_silent};
use crate::ids::PeerAddr;
use crate::limits::MAX_DATAGRAM_BYTES;
use crate::runtime::Environment;

/// Datagrams with which a queue is flooded at most; far more than any queue should hold.
const FLOOD: usize = 200_000;
/// Lets the network do its work.
const PAUSE: Duration = Duration::from_millis(1);

pub(super) async fn datagrams_arrive_whole_and_say_who_sent_them(fixture: &dyn Fixture) {
    let alice = Node::start(fixture, "alice").await;
    let mut bob = Node::start(fixture, "bob").await;
    for (seed, len) in (0..).zip([1, 100, MAX_DATAGRAM_BYTES - 1, MAX_DATAGRAM_BYTES]) {
        let payload = Bytes::from(pattern(len, seed));
        let from = send_until_received(&alice, &mut bob, &payload).await;
        assert_eq!(from, alice.as_peer(), "sender of {len} bytes");
    }
}

pub(super) async fn a_sender_can_be_answered(fixture: &dyn Fixture) {
    let mut alice = Node::start(fixture, "alice").await;
    let mut bob = Node::start(fixture, "bob").await;
    let (question, answer) = (Bytes::from_static(b"?"), Bytes::from_static(b"!"));
    let asker = send_until_received(&alice, &mut bob, &question).await;
    let to = PeerAddr {
        node: Some(asker.instance.node),
        addr: asker.addr,
    };
    loop {
        bob.send(&to, &answer);
        let environment = Environment::current();
        let received = environment.timeout(RESEND, alice.datagram()).await;
        if let Some((from, payload)) = received {
            assert_eq!((from, payload), (bob.as_peer(), answer));
            return;
        }
    }
}

pub(super) async fn too_large_a_datagram_is_dropped_and_counted(fixture: &dyn Fixture) {
    let alice = Node::start(fixture, "alice").await;
    let mut bob = Node::start(fixture, "bob").await;
    let small = Bytes::from_static(b"small");
    send_until_received(&alice, &mut bob, &small).await;
    let before = alice.transport.counters().datagrams_dropped;
    let large = Bytes::from(pattern(MAX_DATAGRAM_BYTES + 1, 0));
    alice.send(&bob.addr(), &large);
    assert!(
        alice.transport.counters().datagrams_dropped > before,
        "counted at once"
    );
    send_until_received(&alice, &mut bob, &Bytes::from_static(b"marker")).await;
    let large_arrives = async { while bob.datagram().await.1.len() <= MAX_DATAGRAM_BYTES {} };
    assert!(stays_silent(large_arrives).await, "it arrived");
}

pub(super) async fn a_full_queue_drops_datagrams_and_counts_them(fixture: &dyn Fixture) {
    let alice = Node::start(fixture, "alice").await;
    let mut bob = Node::start(fixture, "bob").await;
    send_until_received(&alice, &mut bob, &Bytes::from_static(b"first")).await;
    let dropped = |bob: &Node| {
        let (alice, bob) = (alice.transport.counters(), bob.transport.counters());
        alice.datagrams_dropped + bob.datagrams_dropped
    };
    let before = dropped(&bob);
    let payload = Bytes::from(pattern(1_000, 1));
    for sent in 0..FLOOD {
        alice.send(&bob.addr(), &payload);
        if sent % 256 == 0 {
            // In simulated time nothing arrives before everybody rests.
            Environment::current().sleep(PAUSE).await;
        }
        if dropped(&bob) > before {
            break;
        }
    }
    assert!(dropped(&bob) > before, "{FLOOD} datagrams were kept");
    // The node still hears.
    send_until_received(&alice, &mut bob, &Bytes::from_static(b"last")).await;
}
