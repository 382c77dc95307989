//! Cases about who is who.

use bytes::Bytes;
use tokio::io::AsyncWriteExt;

use super::{Fixture, Node, exchange, name, pattern, read_all, send_until_received, stays_silent};
use crate::ids::PeerAddr;
use crate::transport::{Transport, TransportError};

/// Pairs of nodes that dial each other at the same moment.
const DUELS: usize = 5;

async fn is_refused(from: &dyn Transport, to: &PeerAddr) -> bool {
    match from.open_stream(to).await {
        Err(TransportError::Refused { .. }) => true,
        Err(error) => panic!("not refused but: {error}"),
        Ok((peer, _)) => panic!("{} was taken for {:?}", peer.instance, to.node),
    }
}

pub(super) async fn a_seed_address_says_who_answers(fixture: &dyn Fixture) {
    let alice = Node::start(fixture, "alice").await;
    let mut bob = Node::start(fixture, "bob").await;
    let (seed, named) = (bob.seed(), bob.addr());
    let expected = bob.as_peer();
    let calls = async {
        // First without the name, then with it, then without it on the connection that exists.
        for to in [&seed, &named, &seed] {
            let peer = exchange(&*alice.transport, to, b"who is there?").await;
            assert_eq!(peer, expected);
        }
    };
    tokio::select! {
        biased;
        () = calls => {}
        () = bob.echo() => panic!("bob ended"),
    }
}

pub(super) async fn a_named_peer_that_is_somebody_else_is_refused(fixture: &dyn Fixture) {
    let alice = Node::start(fixture, "alice").await;
    let mut bob = Node::start(fixture, "bob").await;
    let carol = PeerAddr {
        node: Some(name("carol")),
        ..bob.seed()
    };
    assert_eq!(alice.transport.counters().refused, 0);
    assert!(is_refused(&*alice.transport, &carol).await);
    assert!(alice.transport.counters().refused > 0, "counted");
    alice.send(&carol, &Bytes::from_static(b"for carol only"));
    assert!(stays_silent(bob.incoming.recv()).await, "bob got it");
    // And it does not spoil the way to bob.
    send_until_received(&alice, &mut bob, &Bytes::from_static(b"for bob")).await;
}

pub(super) async fn a_name_is_checked_on_a_connection_that_exists(fixture: &dyn Fixture) {
    let alice = Node::start(fixture, "alice").await;
    let mut bob = Node::start(fixture, "bob").await;
    let carol = PeerAddr {
        node: Some(name("carol")),
        ..bob.seed()
    };
    let first = Bytes::from_static(b"first");
    send_until_received(&alice, &mut bob, &first).await;
    assert!(is_refused(&*alice.transport, &carol).await);
    alice.send(&carol, &Bytes::from_static(b"for carol only"));
    let wrong_arrives = async { while bob.datagram().await.1 == first {} };
    assert!(stays_silent(wrong_arrives).await, "bob got it");
}

pub(super) async fn another_cluster_is_refused(fixture: &dyn Fixture) {
    let stranger = Node::start_as(fixture, "stranger", 1, "elsewhere", None).await;
    let mut bob = Node::start(fixture, "bob").await;
    for to in [bob.addr(), bob.seed()] {
        assert!(is_refused(&*stranger.transport, &to).await);
        stranger.send(&to, &Bytes::from_static(b"let me in"));
    }
    assert!(stays_silent(bob.incoming.recv()).await, "bob heard it");
    assert!(stranger.transport.counters().refused > 0);
    assert!(bob.transport.counters().refused > 0);
}

pub(super) async fn nobody_there_is_unreachable(fixture: &dyn Fixture) {
    let alice = Node::start(fixture, "alice").await;
    for node in [None, Some(name("nobody"))] {
        let addr = fixture.vacant_addr();
        let opened = alice.transport.open_stream(&PeerAddr { node, addr }).await;
        let error = opened.map(|(peer, _)| peer).unwrap_err();
        assert!(
            matches!(error, TransportError::Unreachable { addr: at, .. } if at == addr),
            "{error}"
        );
    }
}

pub(super) async fn simultaneous_dials_both_succeed(fixture: &dyn Fixture) {
    for round in 0..DUELS {
        let mut alice = Node::start(fixture, "alice").await;
        let mut bob = Node::start(fixture, "bob").await;
        let (to_alice, to_bob) = (alice.addr(), bob.addr());
        let (from_alice, from_bob) = (alice.transport.clone(), bob.transport.clone());
        let content = pattern(10_000, round as u8);
        let calls = async {
            // Twice: on whatever connections the duel makes, and on the one that is left after it.
            for _ in 0..2 {
                tokio::join!(
                    exchange(&*from_alice, &to_bob, &content),
                    exchange(&*from_bob, &to_alice, &content),
                    exchange(&*from_alice, &to_bob, &content),
                    exchange(&*from_bob, &to_alice, &content),
                );
            }
        };
        tokio::select! {
            biased;
            () = calls => {}
            () = alice.echo() => panic!("alice ended"),
            () = bob.echo() => panic!("bob ended"),
        }
    }
}

pub(super) async fn a_newer_run_replaces_an_older_one(fixture: &dyn Fixture) {
    let mut alice = Node::start(fixture, "alice").await;
    let mut older = Node::start(fixture, "bob").await;
    let (_, mut to_older) = alice.open(&older.addr()).await;
    to_older.send.write_all(b"hello").await.unwrap();
    let (_, _theirs) = older.stream().await;
    older.transport.abort();

    let mut newer = Node::start_as(fixture, "bob", 2, "conformance", None).await;
    let from = send_until_received(&newer, &mut alice, &Bytes::from_static(b"I am new")).await;
    assert_eq!(from, newer.as_peer());
    let pending = read_all(&mut to_older).await;
    assert!(pending.is_err(), "the old run ended well");
    let to_newer = newer.addr();
    tokio::select! {
        biased;
        peer = exchange(&*alice.transport, &to_newer, b"welcome") => {
            assert_eq!(peer.instance, from.instance);
        }
        () = newer.echo() => panic!("bob ended"),
    }
}

pub(super) async fn a_restarted_node_is_reached_at_its_old_address(fixture: &dyn Fixture) {
    let mut alice = Node::start(fixture, "alice").await;
    let mut older = Node::start(fixture, "bob").await;
    let addr = older.transport.local_addr();
    send_until_received(&alice, &mut older, &Bytes::from_static(b"first")).await;
    older.transport.abort();
    drop(older);

    let mut newer = Node::start_as(fixture, "bob", 2, "conformance", Some(addr)).await;
    assert_eq!(newer.transport.local_addr(), addr);
    let from = send_until_received(&newer, &mut alice, &Bytes::from_static(b"I am new")).await;
    assert_eq!(from, newer.as_peer());
    let to_newer = newer.addr();
    let answering = async {
        let peer = exchange(&*alice.transport, &to_newer, b"welcome").await;
        assert_eq!(peer, from);
    };
    tokio::select! {
        biased;
        () = answering => {}
        () = newer.echo() => panic!("bob ended"),
    }
}
