//! Requests and proposals as their senders see them, and what can become of them.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::engine::replicated::StaleEpoch;
use crate::ids::{Epoch, LogIndex, NodeId, ShardId};

/// Deadline of a request that names none.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(5);
/// How long a proposal is tried.
pub const PROPOSE_DEADLINE: Duration = Duration::from_secs(10);
/// The service that is called if none is named.
pub const DEFAULT_SERVICE: &str = "default";

/// What a request is for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Target {
    Key(Bytes),
    Shard(ShardId),
}

/// A request to whoever owns a key or shard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    pub(crate) target: Target,
    pub(crate) service: String,
    pub(crate) body: Bytes,
    pub(crate) deadline: Duration,
    pub(crate) idempotent: bool,
}

impl Request {
    fn new(target: Target, body: Bytes) -> Self {
        Self {
            target,
            service: DEFAULT_SERVICE.to_owned(),
            body,
            deadline: DEFAULT_DEADLINE,
            idempotent: false,
        }
    }

    /// A request to the owner of the shard that `key` belongs to.
    pub fn key(key: impl Into<Bytes>, body: impl Into<Bytes>) -> Self {
        Self::new(Target::Key(key.into()), body.into())
    }

    /// A request to the owner of a shard.
    pub fn shard(shard: ShardId, body: impl Into<Bytes>) -> Self {
        Self::new(Target::Shard(shard), body.into())
    }

    /// Names the service; without it the one called [`DEFAULT_SERVICE`].
    pub fn service(mut self, name: &str) -> Self {
        name.clone_into(&mut self.service);
        self
    }

    /// How long to wait for the answer, [`DEFAULT_DEADLINE`] if not given. It is sent on as time remaining.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Executing it twice does no harm: it is sent again where it would otherwise be [`CallError::Ambiguous`].
    pub fn idempotent(mut self) -> Self {
        self.idempotent = true;
        self
    }
}

/// The answer to a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// What the service returned.
    pub body: Bytes,
    /// Who answered.
    pub owner: NodeId,
    /// The token under which it answered: never lower than that of an earlier answer for the same shard.
    pub epoch: Epoch,
    /// The shard.
    pub shard: ShardId,
}

/// Why a request has no answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CallError {
    /// The service answered with an error of its own.
    #[error("the service answered with an error of {} bytes", .0.len())]
    Service(Bytes),
    /// It may have been executed or not: ask before you send it again, or mark it idempotent.
    #[error("the request may have been executed or not: {0}")]
    Ambiguous(String),
    /// It was certainly not executed before its deadline.
    #[error("the deadline passed before the request could be executed; it waited for {waited_for}")]
    Deadline {
        /// What it waited for at the end.
        waited_for: String,
    },
    /// Too many calls wait already, here or on the owner. It was certainly not executed; slow down.
    #[error("overloaded: {0}")]
    Overloaded(String),
    /// The owner has no service of this name.
    #[error("{node} has no service {service:?}; every node that owns shards must register it")]
    NoSuchService {
        /// The node.
        node: NodeId,
        /// The name.
        service: String,
    },
    /// There is no such shard.
    #[error("there is no shard {shard}; the cluster has {shards}")]
    NoSuchShard {
        /// The shard.
        shard: ShardId,
        /// How many there are.
        shards: u32,
    },
    /// The body is larger than [`MAX_REQUEST_BYTES`](crate::limits::MAX_REQUEST_BYTES).
    #[error("a body of {found} bytes; at most {max} are allowed")]
    TooLarge {
        /// Its size.
        found: usize,
        /// The bound.
        max: usize,
    },
    /// No node could be asked (of a [`Client`](crate::Client)). Certainly not executed.
    #[error("no node could be asked: {0}")]
    Unreachable(String),
    /// The node was stopped. Certainly not executed.
    #[error("the node was stopped")]
    Stopped,
}

impl CallError {
    /// Whether the request certainly was not executed for a reason that may pass: it may be sent again.
    pub fn is_not_executed(&self) -> bool {
        match self {
            Self::Deadline { .. } | Self::Overloaded(_) | Self::Unreachable(_) | Self::Stopped => {
                true
            }
            Self::Service(_)
            | Self::Ambiguous(_)
            | Self::NoSuchService { .. }
            | Self::NoSuchShard { .. }
            | Self::TooLarge { .. } => false,
        }
    }
}

/// Why a proposal has no result.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProposeError {
    /// The shard has another epoch by now: the guard's owner lost it. Certainly not applied.
    #[error(transparent)]
    Stale(#[from] StaleEpoch),
    /// It may be applied or not.
    #[error("the proposal may be applied or not: {0}")]
    Ambiguous(String),
    /// No leader took it in time. Certainly not applied.
    #[error("no leader took the proposal within {0:?}")]
    NoLeader(Duration),
    /// The guard's lease lapsed before the proposal was sent. Certainly not applied.
    #[error("the guard's lease lapsed before the proposal was sent")]
    Lapsed,
    /// [`MAX_PROPOSALS_IN_FLIGHT`](crate::limits::MAX_PROPOSALS_IN_FLIGHT) are under way already.
    #[error("too many proposals are in flight; wait for some to return")]
    Overloaded,
    /// Larger than [`MAX_APP_ENTRY_BYTES`](crate::limits::MAX_APP_ENTRY_BYTES).
    #[error("a proposal of {found} bytes; at most {max} are allowed")]
    TooLarge {
        /// Its size.
        found: usize,
        /// The bound.
        max: usize,
    },
    /// The node was stopped.
    #[error("the node was stopped")]
    Stopped,
}

/// A proposal that was applied on this node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proposed {
    /// Where it stands in the log.
    pub index: LogIndex,
    /// What [`ReplicatedState::apply`](crate::state::ReplicatedState::apply) returned.
    pub response: Bytes,
}
