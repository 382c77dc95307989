//! Datagrams travel in packets of their own, or as short streams where those are too small.

mod common;

use bytes::Bytes;
use common::{Behaviour, Node, Raw, eventually, hello, id, soon};
use funk::limits::MAX_DATAGRAM_BYTES;
use funk::transport::Transport;
use funk_quic::Authority;

fn largest() -> Bytes {
    (0..MAX_DATAGRAM_BYTES).map(|at| at as u8).collect()
}

fn raw(authority: &Authority, behaviour: Behaviour) -> Raw {
    Raw::new(Some(&authority.issue_node(&id("n2")).unwrap()), behaviour)
}

#[tokio::test]
async fn the_largest_datagram_fits_a_packet_of_the_smallest_path() {
    let authority = Authority::new().unwrap();
    let n1 = Node::start(&authority, "n1", 1);
    let raw = raw(&authority, Behaviour::default());
    let to = raw.to("n2");
    // Queued until the connection is there; sent before any larger packet size was discovered.
    n1.transport.send_datagram(&to, largest());
    let connection = raw.accept(&hello("test", "n2", 1, 1)).await;
    let arrived = soon(connection.read_datagram()).await.unwrap();
    assert_eq!(arrived, largest());
    assert_eq!(n1.counters().datagrams_dropped, 0);
}

#[tokio::test]
async fn a_datagram_that_fits_no_packet_travels_as_a_stream() {
    let authority = Authority::new().unwrap();
    let n1 = Node::start(&authority, "n1", 1);
    let behaviour = Behaviour {
        datagrams: false,
        ..Behaviour::default()
    };
    let raw = raw(&authority, behaviour);
    let to = raw.to("n2");
    n1.transport.send_datagram(&to, largest());
    let connection = raw.accept(&hello("test", "n2", 1, 1)).await;
    let mut stream = soon(connection.accept_uni()).await.unwrap();
    let arrived = soon(stream.read_to_end(2 * MAX_DATAGRAM_BYTES))
        .await
        .unwrap();
    assert_eq!(arrived, largest());
    assert_eq!(n1.counters().datagrams_dropped, 0);
}

#[tokio::test]
async fn datagrams_and_short_streams_are_delivered_alike_and_oversized_ones_are_not() {
    let authority = Authority::new().unwrap();
    let mut n1 = Node::start(&authority, "n1", 1);
    let behaviour = Behaviour {
        mtu: 1_400,
        ..Behaviour::default()
    };
    let raw = raw(&authority, behaviour);
    let connection = raw.join(n1.addr(), "n2").await;
    let message = async |payload: &[u8]| {
        let mut stream = connection.open_uni().await.unwrap();
        // Refused in the middle if it is too long.
        let _ = stream.write_all(payload).await;
        let _ = stream.finish();
    };
    message(&largest()).await;
    let (from, payload) = n1.datagram().await;
    assert_eq!(from.instance.node, id("n2"));
    assert_eq!(payload, largest());
    connection.send_datagram(largest()).unwrap();
    assert_eq!(n1.datagram().await.1, largest());

    message(&[0; MAX_DATAGRAM_BYTES + 1]).await;
    eventually(|| n1.counters().malformed == 1).await;
    let oversized = Bytes::from_static(&[0; MAX_DATAGRAM_BYTES + 1]);
    connection.send_datagram(oversized).unwrap();
    eventually(|| n1.counters().malformed == 2).await;

    // An empty datagram is a probe; an empty stream is an empty datagram.
    connection.send_datagram(Bytes::new()).unwrap();
    message(b"").await;
    assert_eq!(n1.datagram().await.1, Bytes::new());
    message(b"last").await;
    assert_eq!(n1.datagram().await.1, Bytes::from_static(b"last"));
}

#[tokio::test]
async fn few_datagrams_wait_for_a_connection_and_arrive_when_it_is_there() {
    let authority = Authority::new().unwrap();
    let mut n1 = Node::start(&authority, "n1", 1);
    let n2 = Node::start(&authority, "n2", 1);
    for n in 0..20_u8 {
        n2.transport.send_datagram(&n1.to(), Bytes::from(vec![n]));
    }
    assert_eq!(n2.counters().datagrams_dropped, 4, "sixteen wait");
    for n in 0..16_u8 {
        assert_eq!(n1.datagram().await.1, Bytes::from(vec![n]));
    }
    let dropped = n2.counters().datagrams_dropped;
    n2.transport
        .send_datagram(&n2.to(), Bytes::from_static(b"to myself"));
    assert_eq!(n2.counters().datagrams_dropped, dropped + 1);
}
