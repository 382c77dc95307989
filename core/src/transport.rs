//! What the library asks of a network: lossy datagrams and byte streams between named, authenticated nodes.
//!
//! Framing, RPC, deadlines and size limits are not the transport's business; they live once in this
//! crate. [`memory`] is a transport for unit tests, [`conformance`] the suite that every transport passes.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use crate::ids::{BootId, ClusterName, Instance, PeerAddr};
use crate::versions::VersionRange;

pub mod conformance;
pub mod memory;
#[doc(hidden)]
pub mod pipes;

/// A boxed future, because [`Transport`] is used as a trait object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What part somebody on the network takes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum PeerKind {
    /// A node of the cluster.
    #[default]
    Node,
    /// A client: it asks nodes and is asked nothing. Nodes never connect to one, and its name is in no relation to
    /// those of nodes; any number of clients may have the same name.
    Client,
}

impl fmt::Display for PeerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Node => "node",
            Self::Client => "client",
        })
    }
}

/// Who a message came from: proven by the transport, not merely claimed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Authenticated name, and the run that it announced.
    pub instance: Instance,
    /// Whether that is the name of a node or of a client. Proven, too.
    pub kind: PeerKind,
    /// The version of the protocol that the two speak: the highest that both know.
    pub version: u8,
    /// Address that the message came from and that answers reach.
    pub addr: SocketAddr,
}

/// A bidirectional byte stream. Dropping a half resets its direction; `shutdown` ends it cleanly.
pub struct Stream {
    /// Bytes to the peer.
    pub send: Box<dyn AsyncWrite + Send + Unpin>,
    /// Bytes from the peer.
    pub recv: Box<dyn AsyncRead + Send + Unpin>,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stream")
    }
}

/// What arrives from the network.
#[derive(Debug)]
pub enum Incoming {
    /// A datagram, at most [`crate::limits::MAX_DATAGRAM_BYTES`].
    Datagram {
        /// Sender.
        from: Peer,
        /// Content.
        payload: Bytes,
    },
    /// A stream that the peer opened.
    Stream {
        /// Opener.
        from: Peer,
        /// The stream.
        stream: Stream,
    },
    /// A peer refuses this run of the node because a newer one was seen; a transport may say so more than once.
    Superseded {
        /// The newer run, if the peer named it.
        by: Option<BootId>,
    },
}

/// How a node introduces itself on every connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LocalNode {
    /// Peers configured with another cluster name are refused.
    pub cluster: ClusterName,
    /// Name and run. The name must be the one that the node's credentials prove.
    pub instance: Instance,
    /// The versions of the protocol that it speaks. Peers with which it has none in common are refused.
    pub versions: VersionRange,
    /// A node, or a client, which only connects to others.
    pub kind: PeerKind,
}

/// Why a transport could not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TransportError {
    /// The address cannot be listened on.
    #[error(
        "cannot listen on {addr}: {reason}; choose another address, or port 0 for any free one"
    )]
    Bind {
        /// The address that was asked for.
        addr: SocketAddr,
        /// What the system said.
        reason: String,
    },
    /// The credentials do not fit the node or cannot be read.
    #[error("credentials: {0}")]
    Credentials(String),
    /// Nobody answers at the address, or the connection broke.
    #[error("{addr} is unreachable: {reason}")]
    Unreachable {
        /// The peer's address.
        addr: SocketAddr,
        /// What happened.
        reason: String,
    },
    /// Somebody answered who is not the node that was asked for, or who refused us.
    #[error("{addr} was refused or refused us: {reason}")]
    Refused {
        /// The peer's address.
        addr: SocketAddr,
        /// Why: certificate, name, cluster or protocol version.
        reason: String,
    },
    /// The transport was closed, or not yet started.
    #[error("the transport is closed")]
    Closed,
}

/// Counted drops and refusals of a transport since its start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TransportCounters {
    /// Connections refused, or refused by the peer, for their certificate, name, cluster or version.
    pub refused: u64,
    /// Datagrams dropped because a queue was full or the peer not connected in time.
    pub datagrams_dropped: u64,
    /// Bytes on the port that were no valid packet or frame of the transport.
    pub malformed: u64,
    /// Connections that peers ended by saying so, for another reason than that a second one of the pair is kept.
    /// A power cut ([`Transport::abort`]) adds nothing to it.
    pub closed_by_peer: u64,
}

/// A network between nodes. Object-safe: users choose one at run time.
///
/// Connections are the transport's own affair: made on demand, kept one for each pair, replaced when
/// the peer comes back with a newer [`BootId`], closed when idle.
pub trait Transport: Send + Sync + 'static {
    /// Begins to listen and to deliver. Called once, within the tokio runtime that the node lives on.
    ///
    /// The receiver is bounded: datagrams that find it full are dropped and counted; streams wait.
    fn start(&self, local: LocalNode) -> Result<mpsc::Receiver<Incoming>, TransportError>;

    /// The address that peers reach this node at. Valid from construction on.
    fn local_addr(&self) -> SocketAddr;

    /// Sends a datagram, or drops and counts it. Never waits; connects in the background if need be.
    fn send_datagram(&self, to: &PeerAddr, payload: Bytes);

    /// Opens a stream and says who is at its other end.
    fn open_stream<'a>(
        &'a self,
        to: &'a PeerAddr,
    ) -> BoxFuture<'a, Result<(Peer, Stream), TransportError>>;

    /// Closes all connections so that peers notice, and stops listening. Idempotent.
    fn close(&self) -> BoxFuture<'_, ()>;

    /// Goes deaf and dumb at once: nothing is sent any more, not even a closing frame (a power cut). Idempotent.
    fn abort(&self);

    /// Drops and refusals so far.
    fn counters(&self) -> TransportCounters;
}
