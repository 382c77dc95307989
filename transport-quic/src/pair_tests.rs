//! Two endpoints on loopback, seen from inside: how many connections there are, and which one is kept.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use funk::ids::{BootId, ClusterName, Instance, NodeId, PeerAddr};
use funk::runtime::Environment;
use funk::transport::{Incoming, LocalNode, PeerKind, Stream, Transport};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::connections::Origin;
use crate::{Authority, QuicConfig, QuicTransport};

/// Ends what would hang; no test measures time.
const HANG: Duration = Duration::from_secs(60);

struct Node {
    transport: Arc<QuicTransport>,
    incoming: mpsc::Receiver<Incoming>,
    name: NodeId,
}

impl Node {
    fn start(authority: &Authority, name: &str, idle_timeout: Duration) -> Self {
        let name = NodeId::new(name).unwrap();
        let config = QuicConfig {
            idle_timeout,
            ..QuicConfig::default()
        };
        let credentials = authority.node_credentials(&name).unwrap();
        let addr = "127.0.0.1:0".parse().unwrap();
        let transport = QuicTransport::bind(addr, credentials, config).unwrap();
        let local = LocalNode {
            versions: funk::versions::VersionRange::SPOKEN,
            cluster: ClusterName::new("test").unwrap(),
            instance: Instance {
                node: name.clone(),
                boot: BootId(1),
            },
            kind: PeerKind::Node,
        };
        let incoming = transport.start(local).unwrap();
        Self {
            transport,
            incoming,
            name,
        }
    }

    fn to(&self) -> PeerAddr {
        PeerAddr {
            node: Some(self.name.clone()),
            addr: self.transport.local_addr(),
        }
    }

    async fn open(&self, to: &PeerAddr) -> Stream {
        let mut stream = self.transport.open_stream(to).await.unwrap().1;
        stream.send.write_all(b"x").await.unwrap();
        stream
    }

    async fn accept(&mut self) -> Stream {
        loop {
            match self.incoming.recv().await.unwrap() {
                Incoming::Stream { mut stream, .. } => {
                    stream.recv.read_exact(&mut [0]).await.unwrap();
                    return stream;
                }
                Incoming::Datagram { .. } | Incoming::Superseded { .. } => {}
            }
        }
    }

    /// The connection that is kept with a peer.
    fn kept(&self, peer: &Node) -> Option<Origin> {
        self.transport.endpoint().kept(&peer.to())
    }

    /// Connections as quinn counts them, those that are being closed included.
    fn connections(&self) -> usize {
        self.transport.endpoint().open_connections()
    }
}

async fn soon<F: Future>(future: F) -> F::Output {
    let done = Environment::current().timeout(HANG, future).await;
    done.expect("hung")
}

async fn eventually(mut holds: impl FnMut() -> bool) {
    soon(async {
        while !holds() {
            Environment::current().sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

async fn answer(from: &mut Stream, to: &mut Stream) {
    soon(async {
        from.send.write_all(b"y").await.unwrap();
        to.recv.read_exact(&mut [0]).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn simultaneous_dials_converge_on_the_connection_of_the_smaller_name() {
    const ROUNDS: usize = 40;
    let authority = Authority::new().unwrap();
    let mut really_simultaneous = 0;
    for round in 0..ROUNDS {
        let idle = Duration::from_secs(1);
        let mut a = Node::start(&authority, "a", idle);
        let mut b = Node::start(&authority, "b", idle);
        let (to_a, to_b) = (a.to(), b.to());
        // Two tasks, so that neither side hears of the other's dial before it has begun its own.
        let (mut from_a, mut from_b) =
            soon(async { tokio::join!(a.open(&to_b), b.open(&to_a)) }).await;
        let (mut at_b, mut at_a) = soon(async { tokio::join!(b.accept(), a.accept()) }).await;
        let both = a.connections() == 2;
        really_simultaneous += usize::from(both);
        if both {
            let of_a = |dialed_here| {
                Some(Origin {
                    dialed_here,
                    dial: 1,
                })
            };
            eventually(|| a.kept(&b) == of_a(true) && b.kept(&a) == of_a(false)).await;
        }
        // What was opened before the choice was made still works: in both directions, on either connection.
        answer(&mut at_b, &mut from_a).await;
        answer(&mut at_a, &mut from_b).await;
        answer(&mut from_a, &mut at_b).await;
        answer(&mut from_b, &mut at_a).await;
        drop((from_a, from_b, at_a, at_b));
        // With traffic on the kept one only, the other one goes.
        let spares_gone = || {
            a.transport.send_datagram(&to_b, Bytes::from_static(b"."));
            b.transport.send_datagram(&to_a, Bytes::from_static(b"."));
            a.connections() == 1 && b.connections() == 1
        };
        if round % 20 == 0 {
            eventually(spares_gone).await;
            let (mut opened, mut accepted) =
                soon(async { tokio::join!(a.open(&to_b), b.accept()) }).await;
            answer(&mut accepted, &mut opened).await;
        }
        for node in [&a, &b] {
            let counters = node.transport.counters();
            assert_eq!((counters.refused, counters.closed_by_peer), (0, 0));
        }
        a.transport.abort();
        b.transport.abort();
    }
    assert!(
        really_simultaneous > ROUNDS / 4,
        "only {really_simultaneous} of {ROUNDS} rounds had two dials"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_without_use_ends_silently_and_is_made_again() {
    let authority = Authority::new().unwrap();
    let idle = Duration::from_millis(500);
    let mut a = Node::start(&authority, "a", idle);
    let mut b = Node::start(&authority, "b", idle);
    let (to_a, to_b) = (a.to(), b.to());
    for _ in 0..2 {
        let (mut opened, mut accepted) =
            soon(async { tokio::join!(a.open(&to_b), b.accept()) }).await;
        answer(&mut accepted, &mut opened).await;
        drop((opened, accepted));
        eventually(|| a.connections() == 0 && b.connections() == 0).await;
        assert_eq!((a.kept(&b), b.kept(&a)), (None, None));
        let (mut opened, mut accepted) =
            soon(async { tokio::join!(b.open(&to_a), a.accept()) }).await;
        answer(&mut accepted, &mut opened).await;
        drop((opened, accepted));
        eventually(|| a.connections() == 0 && b.connections() == 0).await;
    }
    for node in [&a, &b] {
        let counters = node.transport.counters();
        assert_eq!((counters.refused, counters.closed_by_peer), (0, 0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_a_transport_closes_its_connections_and_frees_its_port() {
    let authority = Authority::new().unwrap();
    let idle = Duration::from_secs(3_600);
    let a = Node::start(&authority, "a", idle);
    let mut b = Node::start(&authority, "b", idle);
    let (to_b, addr) = (b.to(), a.transport.local_addr());
    let (opened, mut accepted) = soon(async { tokio::join!(a.open(&to_b), b.accept()) }).await;
    drop((a, opened));
    let end = soon(accepted.recv.read(&mut [0])).await;
    assert!(end.is_err(), "{end:?}");
    eventually(|| std::net::UdpSocket::bind(addr).is_ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_stream_keeps_its_connection_alive_however_silent_it_is() {
    let authority = Authority::new().unwrap();
    let idle = Duration::from_secs(1);
    let a = Node::start(&authority, "a", idle);
    let mut b = Node::start(&authority, "b", idle);
    let to_b = b.to();
    let (mut opened, mut accepted) = soon(async { tokio::join!(a.open(&to_b), b.accept()) }).await;
    Environment::current().sleep(idle * 3).await;
    answer(&mut accepted, &mut opened).await;
    assert!(
        b.incoming.try_recv().is_err(),
        "what keeps it alive is not delivered"
    );
}
