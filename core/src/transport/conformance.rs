//! What every transport must do, as a suite that every transport runs.
//!
//! Implement [`Fixture`] for the transport and await [`run_all`] in a test, inside the runtime (or the simulated
//! host) that the transport needs. Each case starts nodes of its own, so their order does not matter, and one
//! that fails panics with its name. Nothing measures a wall clock; [`HANG`] only ends what would never end.
//!
//! The contract beyond the words of [`Transport`]:
//! a peer may learn of a stream only with its first byte; a datagram may be lost, so cases send again until one
//! arrives; whoever is refused can be told apart from nobody there; a newer run of a node that gets in touch
//! breaks the streams with its older run.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use super::{BoxFuture, Incoming, LocalNode, Peer, Stream, Transport};
use crate::ids::{BootId, ClusterName, Instance, NodeId, PeerAddr};
use crate::runtime::Environment;
use crate::versions::VersionRange;

mod datagrams;
mod endings;
mod identity;
mod streams;
mod versions;

/// How long a case may take by the node's clock before it counts as hung. Generous: a loaded machine is not a bug.
pub const HANG: Duration = Duration::from_secs(120);
/// How long a node must stay silent to be believed. Long enough for a message on loopback.
const SILENCE: Duration = Duration::from_millis(400);
/// Between two sendings of a datagram that may be lost.
const RESEND: Duration = Duration::from_millis(50);

/// How the suite gets nodes of the transport under test.
pub trait Fixture: Send + Sync {
    /// A transport whose credentials prove `node`, not started, that peers of this fixture reach.
    ///
    /// It listens at `addr` if one is given: the address of an earlier transport that was closed or aborted (wait
    /// for it to come free if need be), otherwise at any free one. [`Transport::local_addr`] must be an address
    /// that peers can send to.
    fn bind<'a>(
        &'a self,
        node: &'a NodeId,
        addr: Option<SocketAddr>,
    ) -> BoxFuture<'a, Arc<dyn Transport>>;

    /// An address at which nobody listens.
    fn vacant_addr(&self) -> SocketAddr;
}

type Run = for<'a> fn(&'a dyn Fixture) -> BoxFuture<'a, ()>;

/// One case of the suite.
#[derive(Clone, Copy)]
pub struct Case {
    /// What it shows, in snake case.
    pub name: &'static str,
    run: Run,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Case {
    /// Runs the case.
    ///
    /// # Panics
    ///
    /// With the case's name, if the transport fails it or takes longer than [`HANG`]. The reason is printed before.
    pub async fn run(&self, fixture: &dyn Fixture) {
        let case = AssertUnwindSafe((self.run)(fixture)).catch_unwind();
        match Environment::current().timeout(HANG, case).await {
            Some(Ok(())) => {}
            Some(Err(panic)) => {
                let reason = panic
                    .downcast_ref::<String>()
                    .map(String::as_str)
                    .or_else(|| panic.downcast_ref::<&str>().copied())
                    .unwrap_or("see above");
                panic!("transport conformance, {}: {reason}", self.name);
            }
            None => panic!("transport conformance, {}: hung", self.name),
        }
    }
}

macro_rules! cases {
    ($($module:ident::$case:ident,)*) => {
        /// Every case.
        pub const CASES: &[Case] = &[$(Case {
            name: stringify!($case),
            run: |fixture| Box::pin($module::$case(fixture)),
        },)*];
    };
}

cases! {
    datagrams::datagrams_arrive_whole_and_say_who_sent_them,
    datagrams::a_sender_can_be_answered,
    datagrams::too_large_a_datagram_is_dropped_and_counted,
    datagrams::a_full_queue_drops_datagrams_and_counts_them,
    streams::streams_carry_bytes_both_ways_and_say_who_is_there,
    streams::each_direction_ends_on_its_own,
    streams::eight_mebibytes_pass_both_ways_at_once,
    streams::what_was_shut_down_arrives_although_the_stream_is_dropped,
    streams::a_dropped_sender_is_no_clean_end,
    streams::a_dropped_receiver_stops_the_sender,
    streams::many_streams_at_once_do_not_mix,
    streams::streams_wait_for_a_busy_acceptor,
    streams::a_stalled_stream_does_not_hold_up_others,
    identity::a_seed_address_says_who_answers,
    identity::a_named_peer_that_is_somebody_else_is_refused,
    identity::a_name_is_checked_on_a_connection_that_exists,
    identity::another_cluster_is_refused,
    versions::the_highest_version_in_common_is_spoken,
    versions::without_a_version_in_common_both_are_told_which_the_other_speaks,
    identity::nobody_there_is_unreachable,
    identity::simultaneous_dials_both_succeed,
    identity::a_newer_run_replaces_an_older_one,
    identity::a_restarted_node_is_reached_at_its_old_address,
    endings::the_local_address_is_known_before_the_start,
    endings::a_close_is_noticed,
    endings::a_closed_transport_says_so,
    endings::an_abort_is_silent,
    endings::an_aborted_node_neither_sends_nor_hears,
}

/// Runs every case, one after the other.
///
/// # Panics
///
/// At the first case that fails: see [`Case::run`].
pub async fn run_all(fixture: &dyn Fixture) {
    for case in CASES {
        case.run(fixture).await;
    }
}

/// A node of a case.
struct Node {
    transport: Arc<dyn Transport>,
    instance: Instance,
    incoming: mpsc::Receiver<Incoming>,
}

fn name(name: &str) -> NodeId {
    NodeId::new(name).expect("a name of the suite")
}

impl Node {
    /// The first run of a node of the cluster `conformance`, at any address.
    async fn start(fixture: &dyn Fixture, node: &str) -> Self {
        Self::start_as(fixture, node, 1, "conformance", None).await
    }

    async fn start_as(
        fixture: &dyn Fixture,
        node: &str,
        boot: u64,
        cluster: &str,
        addr: Option<SocketAddr>,
    ) -> Self {
        let instance = Instance {
            node: name(node),
            boot: BootId(boot),
        };
        let local = LocalNode {
            versions: VersionRange::SPOKEN,
            kind: crate::transport::PeerKind::Node,
            cluster: ClusterName::new(cluster).expect("a name of the suite"),
            instance,
        };
        Self::start_local(fixture, local, addr).await
    }

    /// One that speaks these versions of the protocol.
    async fn start_speaking(fixture: &dyn Fixture, node: &str, oldest: u8, newest: u8) -> Self {
        let local = LocalNode {
            versions: VersionRange { oldest, newest },
            kind: crate::transport::PeerKind::Node,
            cluster: ClusterName::new("conformance").expect("a name of the suite"),
            instance: Instance {
                node: name(node),
                boot: BootId(1),
            },
        };
        Self::start_local(fixture, local, None).await
    }

    async fn start_local(
        fixture: &dyn Fixture,
        local: LocalNode,
        addr: Option<SocketAddr>,
    ) -> Self {
        let instance = local.instance.clone();
        let transport = fixture.bind(&instance.node, addr).await;
        let incoming = transport.start(local).expect("the transport starts");
        Self {
            transport,
            instance,
            incoming,
        }
    }

    /// Where others reach this node, by name.
    fn addr(&self) -> PeerAddr {
        PeerAddr {
            node: Some(self.instance.node.clone()),
            ..self.seed()
        }
    }

    /// Where others reach this node, without knowing who it is.
    fn seed(&self) -> PeerAddr {
        PeerAddr {
            node: None,
            addr: self.transport.local_addr(),
        }
    }

    fn as_peer(&self) -> Peer {
        Peer {
            version: crate::versions::NEWEST,
            instance: self.instance.clone(),
            kind: crate::transport::PeerKind::Node,
            addr: self.transport.local_addr(),
        }
    }

    fn send(&self, to: &PeerAddr, payload: &Bytes) {
        self.transport.send_datagram(to, payload.clone());
    }

    async fn open(&self, to: &PeerAddr) -> (Peer, Stream) {
        let opened = self.transport.open_stream(to).await;
        opened.unwrap_or_else(|error| panic!("{} opens a stream: {error}", self.instance))
    }

    async fn next(&mut self) -> Incoming {
        let next = self.incoming.recv().await;
        next.unwrap_or_else(|| panic!("{} hears no more", self.instance))
    }

    /// The next datagram; streams are not expected.
    async fn datagram(&mut self) -> (Peer, Bytes) {
        match self.next().await {
            Incoming::Datagram { from, payload } => (from, payload),
            Incoming::Stream { from, .. } => panic!("{} opened a stream", from.instance),
            Incoming::Superseded { by } => panic!("superseded by {by:?}"),
        }
    }

    /// The next stream; datagrams that were sent more than once may lie before it.
    async fn stream(&mut self) -> (Peer, Stream) {
        loop {
            if let Incoming::Stream { from, stream } = self.next().await {
                return (from, stream);
            }
        }
    }

    /// Answers every stream with its own bytes until the node ends.
    async fn echo(&mut self) {
        while let Some(incoming) = self.incoming.recv().await {
            if let Incoming::Stream { mut stream, .. } = incoming {
                Environment::current().spawn(async move {
                    let bytes = read_all(&mut stream).await?;
                    write_all(&mut stream, &bytes).await
                });
            }
        }
    }
}

/// Repeats a datagram until it arrives; others that arrive meanwhile must be repetitions of earlier ones.
async fn send_until_received(from: &Node, to: &mut Node, payload: &Bytes) -> Peer {
    let target = to.addr();
    loop {
        from.send(&target, payload);
        let receive = async {
            loop {
                let (peer, received) = to.datagram().await;
                if received == *payload {
                    return peer;
                }
            }
        };
        if let Some(peer) = Environment::current().timeout(RESEND, receive).await {
            return peer;
        }
    }
}

/// Sends bytes and ends the direction.
async fn write_all(stream: &mut Stream, bytes: &[u8]) -> std::io::Result<()> {
    stream.send.write_all(bytes).await?;
    stream.send.shutdown().await
}

/// Reads to the clean end.
async fn read_all(stream: &mut Stream) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.recv.read_to_end(&mut bytes).await?;
    Ok(bytes)
}

/// Sends bytes on a new stream to a node that echoes, and checks what comes back.
async fn exchange(from: &dyn Transport, to: &PeerAddr, bytes: &[u8]) -> Peer {
    let (peer, mut stream) = from.open_stream(to).await.expect("a stream opens");
    write_all(&mut stream, bytes).await.expect("bytes leave");
    let echoed = read_all(&mut stream).await.expect("an answer comes");
    assert!(echoed == bytes, "the answer is of {} bytes", echoed.len());
    peer
}

/// Whether the future is still pending after a while in which it could have finished.
async fn stays_silent<F: Future>(future: F) -> bool {
    let finished = Environment::current().timeout(SILENCE, future).await;
    finished.is_none()
}

/// Bytes in which a swap, a gap or a repetition shows.
fn pattern(len: usize, seed: u8) -> Vec<u8> {
    let byte = |at: usize| (at as u8) ^ ((at >> 8) as u8).wrapping_mul(7) ^ seed;
    (0..len).map(byte).collect()
}
