//! The invariants of the protocol, one in each file, on small views that any simulator can fill in.
//!
//! Nothing in here knows where the facts come from: the engine simulator feeds them from engines, a simulator of
//! the whole stack from its nodes.

use std::fmt;

use funk::engine::shard_map::ShardMap;
use funk::ids::{Epoch, Instance, NodeId, ShardId};

pub mod i10_linearizable;
pub mod i1_single_owner;
pub mod i2_same_maps;
pub mod i3_fencing;
pub mod i4_acked;
pub mod i5_fewest_moves;
pub mod i6_raft;
pub mod i7_states;
pub mod i8_recovery;
pub mod i9_nothing_lost;
pub mod unmoved;

/// An invariant that does not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Which, by its name in the protocol document.
    pub invariant: &'static str,
    /// What was seen.
    pub what: String,
}

impl Violation {
    /// A violation of `invariant`.
    pub fn new(invariant: &'static str, what: impl Into<String>) -> Self {
        Self {
            invariant,
            what: what.into(),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.what)
    }
}

/// What a check says.
pub type Verdict = Result<(), Violation>;

/// What one node may answer for, in true time.
#[derive(Clone, Copy, Debug)]
pub struct Serving<'a> {
    /// The run.
    pub instance: &'a Instance,
    /// Whether its lease is valid now, by its own clock read at this moment of true time. A process that stands
    /// still counts too: it would go on where it stopped.
    pub leased: bool,
    /// By shard: the token under which new guards would be handed out; 0: none would.
    pub open: &'a [Epoch],
    /// By shard: guards of the lease's present generation that are not released.
    pub guards: &'a [u32],
}

/// One member, at the end of a run.
#[derive(Clone, Debug)]
pub struct Final<'a> {
    /// The run.
    pub instance: &'a Instance,
    /// Who leads, as it sees it.
    pub leader: Option<&'a NodeId>,
    /// Whether raft says that it leads itself.
    pub leads: bool,
    /// The map in force, as it sees it.
    pub committed: &'a ShardMap,
    /// Whether a proposal is undecided.
    pub pending: bool,
    /// The runs that it thinks are there.
    pub present: Vec<Instance>,
    /// What it serves.
    pub serving: Serving<'a>,
}

fn token(of: &[Epoch], shard: ShardId) -> Epoch {
    of.get(shard.0 as usize).copied().unwrap_or_default()
}
