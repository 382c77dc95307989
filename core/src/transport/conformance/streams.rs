//! Cases about streams.

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    Fixture, Node, exchange, pattern, read_all, send_until_received, stays_silent, write_all,
};

/// As large as the largest request.
const LARGE: usize = 8 << 20;
/// Streams at the same time.
const MANY: usize = 200;
/// Streams for an acceptor that does not accept yet.
const WAITING: usize = 32;
/// What may lie in the buffers of a stream that nobody reads.
const MOST_BUFFERED: usize = 64 << 20;

pub(super) async fn streams_carry_bytes_both_ways_and_say_who_is_there(fixture: &dyn Fixture) {
    let alice = Node::start(fixture, "alice").await;
    let mut bob = Node::start(fixture, "bob").await;
    let to_bob = bob.addr();
    let opener = async {
        let (peer, mut stream) = alice.open(&to_bob).await;
        stream.send.write_all(b"question").await.unwrap();
        let mut answer = [0; 6];
        stream.recv.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"answer");
        write_all(&mut stream, b", thanks").await.unwrap();
        (peer, stream)
    };
    let acceptor = async {
        let (peer, mut stream) = bob.stream().await;
        let mut question = [0; 8];
        stream.recv.read_exact(&mut question).await.unwrap();
        assert_eq!(&question, b"question");
        stream.send.write_all(b"answer").await.unwrap();
        assert_eq!(read_all(&mut stream).await.unwrap(), b", thanks");
        peer
    };
    let ((callee, _stream), caller) = tokio::join!(opener, acceptor);
    assert_eq!(callee, bob.as_peer());
    assert_eq!(caller, alice.as_peer());
}

pub(super) async fn each_direction_ends_on_its_own(fixture: &dyn Fixture) {
    let alice = Node::start(fixture, "alice").await;
    let mut bob = Node::start(fixture, "bob").await;
    // The opener ends first; the acceptor answers after it has seen the end.
    let (_, mut ours) = alice.open(&bob.addr()).await;
    write_all(&mut ours, b"that is all").await.unwrap();
    let (_, mut theirs) = bob.stream().await;
    assert_eq!(read_all(&mut theirs).await.unwrap(), b"that is all");
    theirs.send.write_all(b"so be it").await.unwrap();
    theirs.send.shutdown().await.unwrap();
    assert_eq!(read_all(&mut ours).await.unwrap(), b"so be it");
    // The acceptor ends first; the opener goes on after it has seen the end.
    let (_, mut ours) = alice.open(&bob.addr()).await;
    ours.send.write_all(b"hello").await.unwrap();
    let (_, mut theirs) = bob.stream().await;
    write_all(&mut theirs, b"busy").await.unwrap();
    assert_eq!(read_all(&mut ours).await.unwrap(), b"busy");
    write_all(&mut ours, b" anyway").await.unwrap();
    assert_eq!(read_all(&mut theirs).await.unwrap(), b"hello anyway");
}

pub(super) async fn eight_mebibytes_pass_both_ways_at_once(fixture: &dyn Fixture) {
    let alice = Node::start(fixture, "alice").await;
    let mut bob = Node::start(fixture, "bob").await;
    let (there, back) = (pattern(LARGE, 1), pattern(LARGE, 2));
    let (_, mut ours) = alice.open(&bob.addr()).await;
    ours.send.write_all(&there[..1]).await.unwrap();
    let (_, mut theirs) = bob.stream().await;
    let (mut at_bob, mut at_alice) = (Vec::new(), Vec::new());
    let (first, second, third, fourth) = tokio::join!(
        async {
            ours.send.write_all(&there[1..]).await?;
            ours.send.shutdown().await
        },
        theirs.recv.read_to_end(&mut at_bob),
        async {
            theirs.send.write_all(&back).await?;
            theirs.send.shutdown().await
        },
        ours.recv.read_to_end(&mut at_alice),
    );
    let sent = first.and(third);
    let lengths = (second.unwrap(), fourth.unwrap());
    sent.unwrap();
    assert_eq!(lengths, (LARGE, LARGE));
    assert!(at_bob == there && at_alice == back, "the content differs");
}

pub(super) async fn what_was_shut_down_arrives_although_the_stream_is_dropped(
    fixture: &dyn Fixture,
) {
    let alice = Node::start(fixture, "alice").await;
    let mut bob = Node::start(fixture, "bob").await;
    let content = pattern(20_000, 3);
    let (_, mut ours) = alice.open(&bob.addr()).await;
    write_all(&mut ours, &content).await.unwrap();
    drop(ours);
    let (_, mut theirs) = bob.stream().await;
    assert!(read_all(&mut theirs).await.unwrap() == content);
}

pub(super) async fn a_dropped_sender_is_no_clean_end(fixture: &dyn Fixture) {
    let alice = Node::start(fixture, "alice").await;
    let mut bob = Node::start(fixture, "bob").await;
    // Only the sending half, and then the whole stream.
    for keep_receiver in [true, false] {
        let (_, mut ours) = alice.open(&bob.addr()).await;
        ours.send.write_all(b"half a sen").await.unwrap();
        let (_, mut theirs) = bob.stream().await;
        let mut some = [0; 4];
        theirs.recv.read_exact(&mut some).await.unwrap();
        drop(ours.send);
        let kept = keep_receiver.then_some(ours.recv);
        let end = read_all(&mut theirs).await;
        assert!(end.is_err(), "the reader saw a clean end");
        drop(kept);
    }
    // And by the acceptor.
    let (_, mut ours) = alice.open(&bob.addr()).await;
    ours.send.write_all(b"hello").await.unwrap();
    let (_, mut theirs) = bob.stream().await;
    theirs.send.write_all(b"half an ans").await.unwrap();
    drop(theirs);
    assert!(
        read_all(&mut ours).await.is_err(),
        "the opener saw a clean end"
    );
}

pub(super) async fn a_dropped_receiver_stops_the_sender(fixture: &dyn Fixture) {
    let alice = Node::start(fixture, "alice").await;
    let mut bob = Node::start(fixture, "bob").await;
    let (_, mut ours) = alice.open(&bob.addr()).await;
    ours.send.write_all(b"hello").await.unwrap();
    let (_, theirs) = bob.stream().await;
    drop(theirs.recv);
    let chunk = pattern(64 << 10, 4);
    let mut written = 0;
    while ours.send.write_all(&chunk).await.is_ok() {
        written += chunk.len();
        assert!(written <= MOST_BUFFERED, "the sender was not stopped");
    }
    drop(theirs.send);
}

pub(super) async fn many_streams_at_once_do_not_mix(fixture: &dyn Fixture) {
    let alice = Node::start(fixture, "alice").await;
    let mut bob = Node::start(fixture, "bob").await;
    let to_bob = bob.addr();
    let contents: Vec<_> = (0..MANY).map(|at| pattern(1 + 37 * at, at as u8)).collect();
    let calls = contents
        .iter()
        .map(|content| exchange(&*alice.transport, &to_bob, content));
    tokio::select! {
        biased;
        peers = join_all(calls) => assert!(peers.iter().all(|peer| peer.addr == to_bob.addr)),
        () = bob.echo() => panic!("bob ended"),
    }
}

pub(super) async fn streams_wait_for_a_busy_acceptor(fixture: &dyn Fixture) {
    let alice = Node::start(fixture, "alice").await;
    let mut bob = Node::start(fixture, "bob").await;
    send_until_received(&alice, &mut bob, &Bytes::from_static(b"first")).await;
    // Its queue is full of datagrams when the streams come.
    for _ in 0..5_000 {
        alice.send(&bob.addr(), &Bytes::from_static(b"noise"));
    }
    let to_bob = bob.addr();
    let contents: Vec<_> = (0..WAITING).map(|at| pattern(100, at as u8)).collect();
    let calls = contents
        .iter()
        .map(|content| exchange(&*alice.transport, &to_bob, content));
    let mut calls = std::pin::pin!(join_all(calls));
    assert!(stays_silent(&mut calls).await, "nobody answered, and yet");
    tokio::select! {
        biased;
        _ = calls => {}
        () = bob.echo() => panic!("bob ended"),
    }
}

pub(super) async fn a_stalled_stream_does_not_hold_up_others(fixture: &dyn Fixture) {
    let alice = Node::start(fixture, "alice").await;
    let mut bob = Node::start(fixture, "bob").await;
    let to_bob = bob.addr();
    let (_, mut stalled) = alice.open(&to_bob).await;
    stalled.send.write_all(b"hello").await.unwrap();
    let (_, _unread) = bob.stream().await;
    let chunk = pattern(64 << 10, 5);
    let fill = async {
        loop {
            stalled.send.write_all(&chunk).await.unwrap();
        }
    };
    assert!(stays_silent(fill).await);
    let content = pattern(100_000, 6);
    tokio::select! {
        biased;
        _ = exchange(&*alice.transport, &to_bob, &content) => {}
        () = bob.echo() => panic!("bob ended"),
    }
}
