//! What engines say to each other in datagrams.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::bootstrap::BootstrapMessage;
use crate::ids::{BootId, ClusterId, LogIndex, ShardId, Term};
use crate::time::Time;

/// One datagram of the protocol. Lossy: every message is repeated until its effect is seen.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Message {
    /// SWIM membership, opaque to all but the membership machine.
    Gossip(Bytes),
    /// Leader to member: are you there, and here is your lease.
    Ping(Ping),
    /// Member to leader: I am, and this far I got.
    Pong(Pong),
    /// Between candidates that form a new cluster.
    Bootstrap(BootstrapMessage),
}

/// From a ready leader, every ping interval (rule L1).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ping {
    /// The leader's cluster: another cluster of the same name is not listened to.
    pub cluster: ClusterId,
    /// The leader's term.
    pub term: Term,
    /// The run that is meant; another run of the same name ignores the ping's grant.
    pub boot: BootId,
    /// The lease, if the leader may grant one now.
    pub grant: Option<Grant>,
    /// Nothing is held against the receiver's going any more: it owns nothing and is no raft member (rule M5).
    pub dismissed: bool,
}

/// A promise not to give the receiver's shards away until `stamp + L` on the receiver's clock.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Grant {
    /// The newest stamp that the leader has received from the receiver, on the receiver's clock.
    pub stamp: Time,
    /// The committed map that the leader granted under; the grant counts once its proposal is applied.
    pub map: LogIndex,
}

/// Answer to a ping; also sent unasked when a drain ends, because it carries the acknowledgement (rule S2).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Pong {
    /// The sender's cluster.
    pub cluster: ClusterId,
    /// The sender's run.
    pub boot: BootId,
    /// The sender's lease clock when it sent this.
    pub stamp: Time,
    /// Newest term that the sender has seen.
    pub term: Term,
    /// The latest proposal that the sender has applied; 0 before any.
    pub applied: LogIndex,
    /// The latest proposal whose lost shards the sender has fully drained; acknowledges it in `term`.
    pub acked: Option<LogIndex>,
    /// The latest map in force of which the sender serves all that it owns; 0 while it is to serve more (rule M8).
    pub served: LogIndex,
    /// Shards that the sender owns but could not acquire, at most [`MAX_UNACQUIRABLE`](super::MAX_UNACQUIRABLE) of them.
    pub unacquirable: Vec<ShardId>,
}
