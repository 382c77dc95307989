//! Names and numbers of the protocol, each a type of its own so that they cannot be confused.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::limits::MAX_NAME_BYTES;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name has no characters.
    #[error("a name must have at least one character")]
    Empty,
    /// The name is longer than [`MAX_NAME_BYTES`].
    #[error("the name {name:?} has {len} bytes; at most {max} are allowed", max = MAX_NAME_BYTES)]
    TooLong {
        /// The name that was given.
        name: String,
        /// Its length in bytes.
        len: usize,
    },
    /// The name has a character that cannot stand in a DNS label, which certificates need.
    #[error(
        "the name {name:?} contains {found:?}; use lower-case letters, digits and hyphens, and begin and end with a letter or digit"
    )]
    Character {
        /// The name that was given.
        name: String,
        /// The first character that is not allowed where it stands.
        found: char,
    },
}

fn checked_name(name: &str) -> Result<Arc<str>, NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > MAX_NAME_BYTES {
        return Err(NameError::TooLong {
            name: name.to_owned(),
            len: name.len(),
        });
    }
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let last = name.chars().count() - 1;
    for (at, c) in name.chars().enumerate() {
        let inner_hyphen = c == '-' && at != 0 && at != last;
        if !allowed(c) && !inner_hyphen {
            return Err(NameError::Character {
                name: name.to_owned(),
                found: c,
            });
        }
    }
    Ok(Arc::from(name))
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks the name: 1 to 63 bytes, lower-case letters, digits and inner hyphens (a DNS label).
            pub fn new(name: &str) -> Result<Self, NameError> {
                checked_name(name).map(Self)
            }

            /// The name itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(name: &str) -> Result<Self, NameError> {
                Self::new(name)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(name: String) -> Result<Self, NameError> {
                Self::new(&name)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type! {
    /// The stable name of a node, the same after a restart.
    NodeId
}
name_type! {
    /// The name that all nodes of a cluster are configured with.
    ClusterName
}

macro_rules! number_type {
    ($(#[$doc:meta])* $name:ident($inner:ty), $format:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }
    };
}

number_type! {
    /// One run of a node: fresh at each start, larger than that of any earlier run of the same name.
    BootId(u64), "{:x}"
}
number_type! {
    /// Identity of a raft log: random when a store is created, so that a node that lost its memory is
    /// another raft member and cannot vote twice (rule M0).
    StoreId(u64), "{:016x}"
}
number_type! {
    /// Identity of a cluster: random, chosen when it is bootstrapped.
    ClusterId(u128), "{:032x}"
}
number_type! {
    /// A shard, `0..n`.
    ShardId(u32), "{}"
}
number_type! {
    /// The fencing token of a shard: the log index of the proposal that gave it to its present owner.
    /// Larger at every change of owner. 0 is before any owner.
    Epoch(u64), "{}"
}
number_type! {
    /// Position in the raft log, from 0 (openraft's first entry). As the name of a shard map: the index of its proposal.
    LogIndex(u64), "{}"
}
number_type! {
    /// Raft term.
    Term(u64), "{}"
}
number_type! {
    /// Smallest positive integer not held by another member; stable while the node stays. 0: none.
    WorkerId(u16), "{}"
}

/// One run of a node: what owns shards, holds leases and acknowledges maps.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Instance {
    /// Stable name.
    pub node: NodeId,
    /// The run.
    pub boot: BootId,
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.node, self.boot)
    }
}

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A member of the raft group: a name together with the store that holds its log (rule M0).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RaftId {
    /// Stable name.
    pub node: NodeId,
    /// The store.
    pub store: StoreId,
}

impl fmt::Display for RaftId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.node, self.store)
    }
}

impl fmt::Debug for RaftId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where to send: an address and, once it is known, who must answer there.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PeerAddr {
    /// The node expected at the address; `None` for a seed address, whose name is learnt from the answer.
    pub node: Option<NodeId>,
    /// UDP address.
    pub addr: SocketAddr,
}

/// What part a node takes.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub enum MemberKind {
    /// Owns shards, replicates the log and may become a voter and the leader.
    #[default]
    Voter,
    /// Owns shards and replicates the log; never votes.
    NonVoter,
    /// Gossip only: sees the cluster and calls into it, owns nothing, has no log.
    NonMember,
}
