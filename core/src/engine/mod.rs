//! The protocol, pure: no clock, randomness source, IO or `async`.
//!
//! [`Engine`] is one node's protocol. Feed it: [`handle_input`](Engine::handle_input) with the reading of the
//! node's lease clock and what happened; then drain [`poll_output`](Engine::poll_output) until it is empty and
//! arm one timer for [`poll_timeout`](Engine::poll_timeout), which is answered by [`Input::Tick`]. Time never
//! goes back. Nothing in here fails because of a peer: bad messages are counted and dropped.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use rand_chacha::ChaCha8Rng;

pub mod bootstrap;
pub mod events;
pub mod io;
pub mod map_encoding;
pub mod membership;
pub mod message;
pub mod placement;
pub mod replicated;
pub mod shard_map;

pub use events::{Event, NodeState, Role};
pub use io::{Input, Leadership, LeaseView, MemberChange, Output, RaftMembers, Routes};
pub use membership::Tags;
pub use message::Message;

use crate::ids::{ClusterName, Instance, MemberKind, NodeId, StoreId};
use crate::time::Time;
use crate::timing::Timing;

/// What an engine is told at its birth and keeps.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Name of the cluster; others refuse members of another name.
    pub cluster: ClusterName,
    /// This node and this run of it.
    pub instance: Instance,
    /// Where peers reach it.
    pub addr: SocketAddr,
    /// Its raft store.
    pub store: StoreId,
    /// What part it takes.
    pub kind: MemberKind,
    /// Addresses to join by.
    pub seeds: Vec<SocketAddr>,
    /// How many candidates form a new cluster together; 0: never form one, only join.
    pub bootstrap_expect: u16,
    /// Number of shards of a new cluster, 1 to [`MAX_SHARDS`](crate::limits::MAX_SHARDS); an existing one keeps its own.
    pub shards: u32,
    /// Relative capacity of this node, at least 1.
    pub capacity: u32,
    /// How many voters the leader keeps (rule M3).
    pub voters: usize,
    /// All times.
    pub timing: Timing,
    /// Tags to begin with.
    pub tags: Tags,
}

/// One node's protocol. See the [module](self) for its use.
#[derive(Debug)]
pub struct Engine {
    config: EngineConfig,
    outputs: VecDeque<Output>,
}

#[allow(missing_docs, unused_variables)]
impl Engine {
    pub fn new(config: EngineConfig, rng: ChaCha8Rng, now: Time) -> Self {
        let _ = rng;
        Self {
            config,
            outputs: VecDeque::new(),
        }
    }
    /// Takes one input in and does all that follows from it.
    pub fn handle_input(&mut self, now: Time, input: Input) {}
    /// What to do next; `None`: nothing until the next input.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }
    /// When [`Input::Tick`] is due.
    pub fn poll_timeout(&self) -> Option<Time> {
        None
    }
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }
    pub fn set_tags(&mut self, now: Time, tags: Tags) {}
    pub fn state(&self) -> NodeState {
        NodeState::Starting
    }
    pub fn role(&self) -> Role {
        Role::Unknown
    }
    pub fn leader(&self) -> Option<&NodeId> {
        None
    }
    /// The lease under which guards may be handed out.
    pub fn lease(&self) -> LeaseView {
        LeaseView::default()
    }
    /// Situations seen so far, by name: which rare paths a test has reached.
    pub fn counters(&self) -> &BTreeMap<&'static str, u64> {
        unreachable!()
    }
    /// Asserts every relation between fields that must hold after each input.
    pub fn check_invariants(&self) {}
}
