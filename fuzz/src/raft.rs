//! What raft members say to each other.

use funk::fuzzing::{reencode_reply, reencode_request};

use crate::allocation::Bound;

/// A list of entries or of members: the largest element has some 200 bytes in memory, and 3 when it is encoded. Both
/// directions are measured, reading and writing.
const RPC: Bound = Bound::linear(4 << 10, 256);

/// A request and a reply of a raft member.
pub fn rpc(bytes: &[u8]) {
    for reencode in [reencode_request, reencode_reply] {
        if let Some(again) = RPC.hold(bytes.len(), || reencode(bytes)) {
            assert_eq!(reencode(&again), Some(again));
        }
    }
}
