//! Turns any service into a cluster.
//!
//! A program embeds this crate, gives it a [transport] and a way to find peers, and gets: who is in the
//! cluster, who leads, which node owns which shard, a proof that no two nodes own the same shard at once (with a
//! fencing token for stores that others write too), and requests delivered to the owner, through crashes, partitions
//! and rolling restarts.
//!
//! Begin with [`Cluster::builder`]; write a [`Service`]; send it [`Request`]s with [`Cluster::call`].

pub mod builder;
pub mod call;
pub mod client;
pub mod cluster;
pub mod cordon;
mod driver;
pub mod engine;
#[doc(hidden)]
pub mod fuzzing;
pub mod guard;
pub mod ids;
pub mod inspect;
pub mod key;
pub mod limits;
pub mod log_message;
#[cfg_attr(not(funk_mutants), allow(unused))]
pub mod mutants;
mod node;
pub mod observer;
mod proposals;
mod raft;
pub mod recover;
mod routing;
pub mod runtime;
pub mod service;
pub mod state;
pub mod status;
pub mod storage;
#[doc(hidden)]
pub mod store;
pub mod time;
pub mod timing;
pub mod transport;
pub mod versions;
pub mod weights;
pub mod wire;

pub use builder::{Builder, ConfigError, StartError};
pub use call::{Answer, CallError, ProposeError, Proposed, Request};
pub use client::Client;
pub use cluster::{Cluster, Events, MemberInfo, Notice, Route};
pub use cordon::CordonError;
pub use engine::cordons::Cordon;
pub use engine::events::{Event, NodeState, Role};
pub use guard::ShardGuard;
pub use ids::{Epoch, NodeId, ShardId};
pub use service::{AcquireError, OwnedShard, Service, ServiceError, ServiceRequest};
pub use state::{Applied, ReplicatedState, RestoreError};
pub use status::NodeStatus;
pub use storage::{Durability, Storage, StorageError};
pub use timing::Timing;
pub use weights::WeightsError;
