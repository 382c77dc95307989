//! The device in clusters of one process, and openraft's own suite for stores.

use std::time::Duration;

use bytes::Bytes;
use openraft::testing::log::{StoreBuilder, Suite};
use tokio::sync::{mpsc, watch};

use super::rpc::{Call, Refusal, Reply, Request};
use super::testing::{CLUSTER, Cluster, addr, name, simulate};
use super::types::TypeConfig;
use super::*;
use crate::engine::map_encoding::encode_assignment;
use crate::engine::placement::{Candidate, place};
use crate::engine::replicated::{Change, VoidReason};
use crate::engine::shard_map::ShardMap;
use crate::ids::BootId;
use crate::state::NoState;

mod durable;
mod keeping;
mod leading;
mod members;
mod overtaken;
mod resuming;
mod trust;

const MS: Duration = Duration::from_millis(1);

fn proposal(cluster: &Cluster, nodes: &[u64]) -> LogMessage {
    let candidate = |n: &u64| Candidate {
        instance: cluster.nodes[n].instance.clone(),
        capacity: 1,
    };
    let nodes: Vec<Candidate> = nodes.iter().map(candidate).collect();
    let assignment = place(&ShardMap::empty(), 16, &nodes, &Default::default());
    LogMessage::ProposedShardMap {
        base: LogIndex(0),
        assignment: encode_assignment(&assignment, None),
        reason: "test".into(),
    }
}
