//! What the log holds. (Stand-in: replaced on merge.)
use crate::ids::*;
use bytes::Bytes;
#[allow(missing_docs)]
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub enum LogMessage {
    LeaderOpened {
        leader: Instance,
    },
    ProposedShardMap {
        base: LogIndex,
        assignment: Bytes,
        reason: String,
    },
    ShardMapCommitted {
        map: LogIndex,
        term: Term,
    },
    App {
        shard: Option<ShardId>,
        epoch: Epoch,
        bytes: Bytes,
    },
}
