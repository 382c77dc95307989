//! What fuzz targets reach into: decoders of what peers send that nothing outside this crate has a use for.
//!
//! Not covered by semantic versioning.

use bytes::Bytes;

pub use crate::raft::fuzzing::{reencode_reply, reencode_request};

/// Reads gossip of the cluster called `cluster` and writes it again; `None` if it is none.
pub fn reencode_gossip(cluster: &crate::ids::ClusterName, bytes: &[u8]) -> Option<Bytes> {
    crate::engine::membership::reencode(cluster, bytes)
}
