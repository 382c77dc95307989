//! The suite that every transport passes, and the faults that only this one makes.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::conformance::{self, Fixture};
use super::*;
use crate::ids::ClusterName;

struct Memory(MemoryNetwork);

impl Fixture for Memory {
    fn bind<'a>(
        &'a self,
        _: &'a NodeId,
        addr: Option<SocketAddr>,
    ) -> BoxFuture<'a, Arc<dyn Transport>> {
        Box::pin(async move {
            let bound: Arc<dyn Transport> = match addr {
                Some(addr) => self.0.transport_at(addr).expect("the address is free"),
                None => self.0.transport(),
            };
            bound
        })
    }

    fn vacant_addr(&self) -> SocketAddr {
        ([10, 255, 255, 255], 1).into()
    }
}

#[tokio::test(start_paused = true)]
async fn conforms_in_simulated_time() {
    conformance::run_all(&Memory(MemoryNetwork::new())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn conforms_on_several_threads() {
    conformance::run_all(&Memory(MemoryNetwork::new())).await;
}

struct TestNode {
    transport: Arc<MemoryTransport>,
    incoming: mpsc::Receiver<Incoming>,
}

impl TestNode {
    fn start(network: &MemoryNetwork, node: &str, boot: u64) -> Self {
        let transport = network.transport();
        let incoming = transport.start(LocalNode {
            versions: crate::versions::VersionRange::SPOKEN,
            kind: crate::transport::PeerKind::Node,
            cluster: ClusterName::new("test").unwrap(),
            instance: Instance {
                node: NodeId::new(node).unwrap(),
                boot: BootId(boot),
            },
        });
        Self {
            transport,
            incoming: incoming.unwrap(),
        }
    }

    fn addr(&self) -> PeerAddr {
        PeerAddr {
            node: None,
            addr: self.transport.local_addr(),
        }
    }

    fn send(&self, to: &Self) {
        let payload = Bytes::from_static(b"datagram");
        self.transport.send_datagram(&to.addr(), payload);
    }
}

#[tokio::test(start_paused = true)]
async fn a_cut_stops_everything_and_heals_without_loss_on_streams() {
    let network = MemoryNetwork::new();
    let alice = TestNode::start(&network, "alice", 1);
    let mut bob = TestNode::start(&network, "bob", 1);
    let (_, mut ours) = alice.transport.open_stream(&bob.addr()).await.unwrap();
    let Some(Incoming::Stream { stream, .. }) = bob.incoming.recv().await else {
        panic!("no stream");
    };
    let mut theirs = stream;
    network.isolate(alice.transport.local_addr());
    alice.send(&bob);
    assert_eq!(alice.transport.counters().datagrams_dropped, 1);
    let opened = alice.transport.open_stream(&bob.addr()).await;
    assert!(matches!(
        opened.unwrap_err(),
        TransportError::Unreachable { .. }
    ));
    ours.send.write_all(b"abc").await.unwrap();
    ours.send.shutdown().await.unwrap();
    let environment = Environment::system();
    let mut text = String::new();
    let read = theirs.recv.read_to_string(&mut text);
    let early = environment.timeout(Duration::from_secs(60), read).await;
    assert!(early.is_none(), "{early:?} through a cut");
    network.heal_all();
    theirs.recv.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "abc");
    assert!(bob.incoming.try_recv().is_err(), "datagrams do not wait");
}

#[tokio::test]
async fn an_older_run_that_comes_late_is_refused() {
    let network = MemoryNetwork::new();
    let alice = TestNode::start(&network, "alice", 1);
    let older = TestNode::start(&network, "bob", 1);
    let newer = TestNode::start(&network, "bob", 2);
    newer.send(&alice);
    let opened = older.transport.open_stream(&alice.addr()).await;
    assert!(matches!(
        opened.unwrap_err(),
        TransportError::Refused { .. }
    ));
    assert_eq!(alice.transport.counters().refused, 1);
}

#[tokio::test]
async fn loss_takes_some_datagrams_and_counts_them() {
    let network = MemoryNetwork::new();
    network.lose_datagrams(0.5);
    let alice = TestNode::start(&network, "alice", 1);
    let mut bob = TestNode::start(&network, "bob", 1);
    (0..100).for_each(|_| alice.send(&bob));
    let lost = alice.transport.counters().datagrams_dropped;
    assert!((30..70).contains(&lost), "{lost} of 100 lost");
    let mut arrived = 0;
    while bob.incoming.try_recv().is_ok() {
        arrived += 1;
    }
    assert_eq!(lost + arrived, 100);
}

#[tokio::test]
async fn ended_streams_leave_the_books() {
    let network = MemoryNetwork::new();
    let alice = TestNode::start(&network, "alice", 1);
    let mut bob = TestNode::start(&network, "bob", 1);
    for _ in 0..10 * FIRST_SWEEP {
        alice.transport.open_stream(&bob.addr()).await.unwrap();
        bob.incoming.recv().await;
    }
    assert!(network.lock().streams.len() <= FIRST_SWEEP);
}

#[tokio::test]
async fn an_address_in_use_is_refused() {
    let network = MemoryNetwork::new();
    let first = network.transport();
    let addr = first.local_addr();
    let second = network.transport_at(addr);
    assert!(matches!(second.unwrap_err(), TransportError::Bind { .. }));
    drop(first);
    network.transport_at(addr).unwrap();
}
