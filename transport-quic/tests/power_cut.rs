//! A power cut is silent, and its end is noticed at once.

mod common;

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use common::{Behaviour, Node, Raw, back_to, eventually, id, loopback, soon};
use funk::runtime::Environment;
use funk::transport::Transport;
use funk_quic::{Authority, Credentials, QuicConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

/// A node that would wait an hour before it believed a silent peer to be gone.
fn patient() -> QuicConfig {
    QuicConfig {
        idle_timeout: Duration::from_secs(3_600),
        ..QuicConfig::default()
    }
}

/// Starts a node at an address that another one is about to free.
async fn restart(addr: SocketAddr, credentials: Credentials, name: &str, boot: u64) -> Node {
    eventually(|| UdpSocket::bind(addr).is_ok()).await;
    Node::at(addr, credentials, name, boot, "test", patient())
}

/// Writes until the connection turns out to be dead.
async fn write_until_lost(send: &mut (impl tokio::io::AsyncWrite + Unpin)) {
    soon(async {
        while send.write_all(b"still there?").await.is_ok() {
            Environment::current().sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_of_a_restarted_node_learn_it_from_their_next_packet() {
    let authority = Authority::new().unwrap();
    let peer = authority.node_credentials(&id("n1")).unwrap();
    let mut peer = Node::with(peer, "n1", 1, "test", patient());
    let credentials = authority.node_credentials(&id("n2")).unwrap();
    // Dialled by either side: connection ids are made by both.
    for (round, peer_dials) in [true, false, true, false].into_iter().enumerate() {
        let boot = 2 * round as u64 + 1;
        let mut cut = Node::with(credentials.clone(), "n2", boot, "test", patient());
        let addr = cut.addr();
        let (ours, _theirs) = if peer_dials {
            peer.exchange(&mut cut).await
        } else {
            let (theirs, ours) = cut.exchange(&mut peer).await;
            (ours, theirs)
        };
        cut.transport.abort();
        drop(_theirs);
        drop(cut);
        let mut again = restart(addr, credentials.clone(), "n2", boot + 1).await;
        // The restarted node says nothing of itself: the old connection must come to an end all the same.
        let mut ours = ours;
        write_until_lost(&mut ours.send).await;
        peer.exchange(&mut again).await;
        assert_eq!(peer.counters().closed_by_peer, 0, "no close frame");
        again.transport.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_node_resets_the_connections_of_its_earlier_run() {
    let authority = Authority::new().unwrap();
    let raw = Raw::new(
        Some(&authority.issue_node(&id("n1")).unwrap()),
        Behaviour::default(),
    );
    let credentials = authority.node_credentials(&id("n2")).unwrap();
    let cut = Node::with(credentials.clone(), "n2", 1, "test", patient());
    let addr = cut.addr();
    let connection = raw.join(addr, "n1").await;
    cut.transport.abort();
    drop(cut);
    let _again = restart(addr, credentials, "n2", 2).await;
    // It may be lost already: what was never acknowledged is sent again.
    if let Ok((mut send, _recv)) = connection.open_bi().await {
        write_until_lost(&mut send).await;
    }
    let end = soon(connection.closed()).await;
    assert_eq!(end, quinn::ConnectionError::Reset);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_introduction_of_the_restarted_node_ends_the_old_streams_at_once() {
    let authority = Authority::new().unwrap();
    let peer = authority.node_credentials(&id("n1")).unwrap();
    let mut peer = Node::with(peer, "n1", 1, "test", patient());
    let credentials = authority.node_credentials(&id("n2")).unwrap();
    let mut cut = Node::with(credentials.clone(), "n2", 1, "test", patient());
    let addr = cut.addr();
    let (mut ours, _theirs) = peer.exchange(&mut cut).await;
    cut.transport.abort();
    drop((_theirs, cut));
    let again = restart(addr, credentials, "n2", 2).await;
    // The peer only reads, so that nothing but the newer run's introduction can tell it.
    again.exchange(&mut peer).await;
    let end = soon(ours.recv.read(&mut [0])).await;
    assert!(end.is_err(), "{end:?}");
    assert_eq!(peer.counters().closed_by_peer, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_close_frame_is_seen_and_counted_but_a_cut_sends_nothing_at_all() {
    let authority = Authority::new().unwrap();
    let mut peer = Node::start(&authority, "n1", 1);
    let polite = Node::start(&authority, "n2", 1);
    let _streams = polite.exchange(&mut peer).await;
    soon(polite.transport.close()).await;
    eventually(|| peer.counters().closed_by_peer == 1).await;

    // A relay of bare UDP in the middle sees every packet that leaves the node.
    let mut cut = Node::start(&authority, "n3", 1);
    let mut relay = Relay::start(cut.addr());
    let to = funk::ids::PeerAddr {
        node: Some(id("n3")),
        addr: relay.addr,
    };
    let (_, mut ours) = peer.open(&to).await.unwrap();
    soon(ours.send.write_all(b"x")).await.unwrap();
    let (from, mut theirs) = cut.stream().await;
    soon(theirs.recv.read_exact(&mut [0])).await.unwrap();
    assert_ne!(relay.packets(), 0);
    cut.transport.abort();
    // What was sent before the cut may still lie in the relay's queue.
    let before = relay.after_what_was_sent().await;
    // Everything that might make the node speak: writes, drops, packets from the peer, a close.
    let _ = theirs.send.write_all(b"late").await;
    drop(theirs);
    cut.transport
        .send_datagram(&back_to(&from), Bytes::from_static(b"late"));
    for _ in 0..20 {
        let _ = ours.send.write_all(b"hello?").await;
        Environment::current()
            .sleep(Duration::from_millis(10))
            .await;
    }
    soon(cut.transport.close()).await;
    drop(cut);
    assert_eq!(
        relay.after_what_was_sent().await,
        before,
        "packets after the cut"
    );
    assert_eq!(peer.counters().closed_by_peer, 1);
}

/// Passes packets between one peer and a node, and counts those of the node.
struct Relay {
    addr: SocketAddr,
    from_node: Arc<AtomicUsize>,
    /// What was counted when the relay came to a [`MARK`].
    marked: mpsc::UnboundedReceiver<usize>,
}

const MARK: &[u8] = b"mark";

impl Relay {
    fn start(node: SocketAddr) -> Self {
        let socket = UdpSocket::bind(loopback()).unwrap();
        socket.set_nonblocking(true).unwrap();
        let addr = socket.local_addr().unwrap();
        let socket = tokio::net::UdpSocket::from_std(socket).unwrap();
        let from_node = Arc::<AtomicUsize>::default();
        let count = from_node.clone();
        let (mark, marked) = mpsc::unbounded_channel();
        Environment::current().spawn(async move {
            let (mut peer, mut packet) = (None, vec![0; 65_536]);
            loop {
                let (length, sender) = socket.recv_from(&mut packet).await.unwrap();
                let packet = &packet[..length];
                if packet == MARK {
                    let _ = mark.send(count.load(Ordering::SeqCst));
                } else if sender == node {
                    count.fetch_add(1, Ordering::SeqCst);
                    let _ = socket.send_to(packet, peer.unwrap()).await;
                } else {
                    peer = Some(sender);
                    let _ = socket.send_to(packet, node).await;
                }
            }
        });
        Self {
            addr,
            from_node,
            marked,
        }
    }

    fn packets(&self) -> usize {
        self.from_node.load(Ordering::SeqCst)
    }

    /// Packets of the node, once all that were sent before this call have been counted.
    async fn after_what_was_sent(&mut self) -> usize {
        let socket = UdpSocket::bind(loopback()).unwrap();
        socket.send_to(MARK, self.addr).unwrap();
        soon(self.marked.recv()).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_work_while_garbage_floods_the_port() {
    let authority = Authority::new().unwrap();
    let mut n1 = Node::start(&authority, "n1", 1);
    let n2 = Node::start(&authority, "n2", 1);
    let target = n1.addr();
    let flood = Environment::current().spawn(async move {
        let socket = tokio::net::UdpSocket::bind(loopback()).await.unwrap();
        let mut word = 0x9e37_79b9_7f4a_7c15_u64;
        for round in 0.. {
            let mut packet = vec![0; 1 + (round * 37) % 1_400];
            for byte in &mut packet {
                word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                *byte = (word >> 56) as u8;
            }
            // All kinds of headers, QUIC's version now and then.
            if round % 3 == 0 && packet.len() > 5 {
                packet[0] |= 0xc0;
                packet[1..5].copy_from_slice(&[0, 0, 0, 1]);
            }
            let _ = socket.send_to(&packet, target).await;
            tokio::task::yield_now().await;
        }
    });
    for _ in 0..200 {
        n2.exchange(&mut n1).await;
    }
    flood.abort();
    assert_eq!(n1.counters().closed_by_peer, 0);
    assert_eq!(n2.counters().refused, 0);
}
