//! Cases about the beginning and the end of a transport.

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Fixture, Node, name, read_all, send_until_received, stays_silent};
use crate::transport::{Incoming, Stream, TransportCounters, TransportError};

pub(super) async fn the_local_address_is_known_before_the_start(fixture: &dyn Fixture) {
    let bound = fixture.bind(&name("bob"), None).await;
    let addr = bound.local_addr();
    assert_ne!(addr.port(), 0);
    assert!(!addr.ip().is_unspecified(), "{addr}");
    assert_eq!(bound.counters(), TransportCounters::default());
    assert_eq!(bound.local_addr(), addr);
    let other = fixture.bind(&name("alice"), None).await;
    assert_ne!(other.local_addr(), addr, "two nodes at one address");
}

/// A stream between two nodes on which a byte has passed each way.
async fn open_between(opener: &Node, acceptor: &mut Node) -> (Stream, Stream) {
    let (_, mut ours) = opener.open(&acceptor.addr()).await;
    ours.send.write_all(b"x").await.unwrap();
    let (_, mut theirs) = acceptor.stream().await;
    theirs.recv.read_exact(&mut [0]).await.unwrap();
    theirs.send.write_all(b"y").await.unwrap();
    ours.recv.read_exact(&mut [0]).await.unwrap();
    (ours, theirs)
}

pub(super) async fn a_close_is_noticed(fixture: &dyn Fixture) {
    let mut alice = Node::start(fixture, "alice").await;
    let mut bob = Node::start(fixture, "bob").await;
    // One that bob opened and one that he accepted: both end, and not as if all had been said.
    let (_from_alice, mut accepted) = open_between(&alice, &mut bob).await;
    let (mut opened, _at_alice) = open_between(&bob, &mut alice).await;
    alice.transport.close().await;
    assert!(read_all(&mut accepted).await.is_err(), "a clean end");
    assert!(read_all(&mut opened).await.is_err(), "a clean end");
}

pub(super) async fn a_closed_transport_says_so(fixture: &dyn Fixture) {
    let mut alice = Node::start(fixture, "alice").await;
    let mut bob = Node::start(fixture, "bob").await;
    send_until_received(&alice, &mut bob, &Bytes::from_static(b"first")).await;
    alice.transport.close().await;
    alice.transport.close().await;
    while alice.incoming.recv().await.is_some() {}
    let opened = alice.transport.open_stream(&bob.addr()).await;
    let error = opened.map(|(peer, _)| peer).unwrap_err();
    assert!(matches!(error, TransportError::Closed), "{error}");
    alice.send(&bob.addr(), &Bytes::from_static(b"late"));
    let opened = bob.transport.open_stream(&alice.addr()).await;
    assert!(opened.is_err(), "a closed node was reached");
    alice.transport.abort();
}

pub(super) async fn an_abort_is_silent(fixture: &dyn Fixture) {
    let mut alice = Node::start(fixture, "alice").await;
    let mut bob = Node::start(fixture, "bob").await;
    let (ours, mut accepted) = open_between(&alice, &mut bob).await;
    let (mut opened, theirs) = open_between(&bob, &mut alice).await;
    alice.transport.abort();
    alice.transport.abort();
    // What a dying process drops must not be heard either.
    drop((ours, theirs));
    alice.transport.close().await;
    drop(alice);
    let mut byte = [0];
    let noticed = async {
        tokio::select! {
            biased;
            end = accepted.recv.read(&mut byte) => format!("accepted stream: {end:?}"),
            end = read_all(&mut opened) => format!("opened stream: {end:?}"),
            message = bob.incoming.recv() => format!("{message:?}"),
        }
    };
    assert!(stays_silent(noticed).await, "bob noticed");
}

pub(super) async fn an_aborted_node_neither_sends_nor_hears(fixture: &dyn Fixture) {
    let mut alice = Node::start(fixture, "alice").await;
    let mut bob = Node::start(fixture, "bob").await;
    let first = Bytes::from_static(b"first");
    send_until_received(&alice, &mut bob, &first).await;
    let (mut ours, mut accepted) = open_between(&alice, &mut bob).await;
    alice.transport.abort();
    let late = Bytes::from_static(b"late");
    alice.send(&bob.addr(), &late);
    bob.send(&alice.addr(), &late);
    let write = async {
        let _ = ours.send.write_all(b"late").await;
        let _ = ours.send.shutdown().await;
        std::future::pending::<()>().await;
    };
    let heard = async {
        let repeated = |incoming: &Option<Incoming>| matches!(incoming, Some(Incoming::Datagram { payload, .. }) if *payload == first);
        let at_alice = async {
            // What was delivered before may still be there; then nothing or the end.
            while let Some(incoming) = alice.incoming.recv().await {
                if let Incoming::Datagram { payload, .. } = incoming {
                    assert_ne!(payload, late, "alice heard");
                }
            }
            std::future::pending::<()>().await;
        };
        let at_bob = async { while repeated(&bob.incoming.recv().await) {} };
        let mut byte = [0];
        tokio::select! {
            biased;
            () = write => {}
            () = at_alice => {}
            () = at_bob => {}
            _ = accepted.recv.read(&mut byte) => {}
        }
    };
    assert!(stays_silent(heard).await, "bob heard");
}
