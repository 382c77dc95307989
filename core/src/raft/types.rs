//! The one type configuration that openraft is used with.

use std::fmt;
use std::net::SocketAddr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, LogIndex, RaftId, ShardId, Term};
use crate::log_message::{LogMessage, LogMessageError};
use crate::versions::VersionRange;

openraft::declare_raft_types!(
    /// At most one leader a term (`leader_id_std`): terms name leaders in the protocol.
    pub(crate) TypeConfig:
        D = Entry,
        R = Response,
        NodeId = RaftId,
        Node = MemberAddr,
        Term = u64,
        LeaderId = openraft::impls::leader_id_std::LeaderId<Self::Term, Self::NodeId>,
        AsyncRuntime = crate::runtime::raft::Runtime,
);

pub(super) type Raft = openraft::Raft<TypeConfig, super::state_machine::StateMachine>;
pub(super) type LogId = openraft::alias::LogIdOf<TypeConfig>;
pub(super) type LogEntry = openraft::alias::EntryOf<TypeConfig>;
pub(super) type Vote = openraft::alias::VoteOf<TypeConfig>;
pub(super) type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
pub(super) type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
pub(super) type Snapshot = openraft::alias::SnapshotOf<TypeConfig, Bytes>;
pub(super) type Metrics = openraft::RaftMetrics<TypeConfig>;
pub(super) type Fatal = openraft::errors::Fatal<TypeConfig>;
pub(super) type RpcError = openraft::errors::RPCError<TypeConfig>;

/// An encoded [`LogMessage`]. It is decoded when it is applied and no earlier, so that a node that is too old to
/// read it stops there, with all before it applied, instead of refusing its leader.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Entry(Bytes);

impl Entry {
    pub(super) fn new(message: &LogMessage) -> Self {
        Self(message.encode())
    }

    /// What it says, to a program that speaks these versions.
    pub(super) fn message(&self, versions: VersionRange) -> Result<LogMessage, LogMessageError> {
        LogMessage::decode(&self.0, versions)
    }

    /// Bytes that it takes, frame and log id excluded.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// What applying an entry gave its proposer. (Openraft wants it serialisable; it never leaves the node.)
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Response {
    /// Not an application's entry.
    None,
    /// What the application answered.
    Applied(Bytes),
    /// The entry's token is not the shard's epoch.
    Refused {
        shard: ShardId,
        given: Epoch,
        current: Epoch,
    },
}

/// Where a raft member is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct MemberAddr(pub(crate) SocketAddr);

pub(super) fn term_of(id: &LogId) -> Term {
    Term(id.leader_id.term)
}

pub(super) fn index_of(id: &LogId) -> LogIndex {
    LogIndex(id.index)
}

/// What tests (openraft's storage suite among them) ask of the types.
#[cfg(test)]
mod for_tests {
    use super::*;
    use crate::ids::{NodeId, StoreId};

    impl Entry {
        /// Bytes that need not be a message.
        pub(crate) fn raw(bytes: &[u8]) -> Self {
            Self(Bytes::copy_from_slice(bytes))
        }
    }

    impl From<u64> for RaftId {
        fn from(number: u64) -> Self {
            RaftId {
                node: NodeId::new(&format!("n{number}")).unwrap(),
                store: StoreId(number),
            }
        }
    }

    impl Default for MemberAddr {
        fn default() -> Self {
            Self(([127, 0, 0, 1], 1).into())
        }
    }
}
