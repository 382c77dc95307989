//! What raft members say to each other: one version byte, then postcard. One request, one reply.

use bytes::Bytes;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::types::{SnapshotMeta, TypeConfig, Vote};
use crate::ids::{ClusterId, RaftId};

/// Version of the encoding. Another one is refused, and the refusal says which this node speaks.
pub(super) const RPC_VERSION: u8 = 1;
/// Bytes of a snapshot in one request: a few of them fill any link, and a frame has room for it.
pub(super) const SNAPSHOT_CHUNK_BYTES: usize = 1 << 20;
/// Largest snapshot that is accepted; it is held in memory once more while it arrives, and one at a time.
pub(super) const MAX_SNAPSHOT_BYTES: u64 = 1 << 30;

/// From a raft member to another.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Request {
    /// A log belongs to one cluster; messages of another are refused whatever they say.
    pub(super) cluster: ClusterId,
    pub(super) from: RaftId,
    /// Names the store too: a node that lost its memory must not answer for the member it was (rule M0).
    pub(super) to: RaftId,
    pub(super) call: Call,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Call {
    Append(AppendEntriesRequest<TypeConfig>),
    Vote(VoteRequest<TypeConfig>),
    PreVote(VoteRequest<TypeConfig>),
    TransferLeader(TransferLeaderRequest<TypeConfig>),
    Snapshot(SnapshotChunk),
}

impl PartialEq for Call {
    /// Openraft's append request has no comparison of its own: compares the encodings.
    fn eq(&self, other: &Self) -> bool {
        postcard::to_stdvec(self).ok() == postcard::to_stdvec(other).ok()
    }
}

/// A part of a snapshot. One without bytes asks how much of it is there; the others follow in order from there.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct SnapshotChunk {
    pub(super) vote: Vote,
    pub(super) meta: SnapshotMeta,
    pub(super) offset: u64,
    /// Bytes of the whole snapshot.
    pub(super) total: u64,
    pub(super) bytes: Bytes,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    Append(AppendEntriesResponse<TypeConfig>),
    Vote(VoteResponse<TypeConfig>),
    TransferLeader(TransferLeaderResponse<TypeConfig>),
    /// The chunk was taken, or the vote is too low: `vote` is the newest.
    Snapshot {
        vote: Vote,
        /// Bytes of this snapshot that are there, counted from its start; all of them: it is installed.
        held: u64,
    },
    Refused(Refusal),
}

/// Why a request was not even looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
pub(super) enum Refusal {
    #[error("it cannot be read, or is no request that a correct member sends")]
    Malformed,
    #[error("another version of the encoding")]
    OtherVersion,
    #[error("another cluster")]
    OtherCluster,
    #[error("meant for another store of this node")]
    OtherStore,
    #[error("the sender is not who it says it is")]
    OtherSender,
    #[error("the chunk does not continue the snapshot")]
    OutOfOrder,
    #[error("the snapshot is too large")]
    TooLarge,
    #[error("the member has stopped")]
    Stopped,
}

/// Why bytes are no message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum RpcDecodeError {
    Malformed,
    OtherVersion,
}

fn encode<T: Serialize>(message: &T) -> Bytes {
    postcard::to_extend(message, vec![RPC_VERSION])
        .expect("plain data always encodes")
        .into()
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, RpcDecodeError> {
    let (&version, body) = bytes.split_first().ok_or(RpcDecodeError::Malformed)?;
    if version != RPC_VERSION {
        return Err(RpcDecodeError::OtherVersion);
    }
    match postcard::take_from_bytes(body) {
        Ok((message, [])) => Ok(message),
        _ => Err(RpcDecodeError::Malformed),
    }
}

impl Request {
    pub(super) fn encode(&self) -> Bytes {
        encode(self)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, RpcDecodeError> {
        decode(bytes)
    }
}

impl Reply {
    pub(super) fn encode(&self) -> Bytes {
        encode(self)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, RpcDecodeError> {
        decode(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{NodeId, StoreId};
    use proptest::prelude::*;

    fn id(n: u64) -> RaftId {
        RaftId {
            node: NodeId::new(&format!("n{n}")).unwrap(),
            store: StoreId(n),
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn log_id(term: u64, index: u64) -> super::super::types::LogId {
        openraft::LogId {
            leader_id: openraft::vote::leader_id_std::CommittedLeaderId::new(term),
            index,
        }
    }

    fn requests() -> [(Call, &'static str); 3] {
        let vote = Vote::new(3, id(1));
        let heartbeat = AppendEntriesRequest {
            vote: Vote::new_committed(3, id(1)),
            prev_log_id: Some(log_id(2, 300)),
            entries: vec![],
            leader_commit: None,
        };
        let chunk = SnapshotChunk {
            vote: Vote::new_committed(3, id(1)),
            meta: SnapshotMeta::default(),
            offset: 1,
            total: 3,
            bytes: Bytes::from_static(&[0xaa, 0xbb]),
        };
        [
            (
                Call::Vote(VoteRequest::new(vote, None)),
                "0107026e3101026e3202010301026e3101000000",
            ),
            (
                Call::Append(heartbeat),
                "0107026e3101026e3202000301026e3101010102ac020000",
            ),
            (
                Call::Snapshot(chunk),
                "0107026e3101026e3202040301026e3101010000000000010302aabb",
            ),
        ]
    }

    fn request(call: Call) -> Request {
        Request {
            cluster: ClusterId(7),
            from: id(1),
            to: id(2),
            call,
        }
    }

    #[test]
    fn golden_bytes() {
        for (call, golden) in requests() {
            let request = request(call);
            assert_eq!(hex(&request.encode()), golden, "{request:?}");
            assert_eq!(Request::decode(&request.encode()), Ok(request));
        }
        let reply = Reply::Append(AppendEntriesResponse::Conflict);
        assert_eq!(hex(&reply.encode()), "010002");
        assert_eq!(Reply::decode(&reply.encode()), Ok(reply));
    }

    #[test]
    fn what_cannot_be_read_is_told_apart() {
        let bytes = request(requests()[0].0.clone()).encode();
        for cut in 0..bytes.len() {
            assert_eq!(
                Request::decode(&bytes[..cut]),
                Err(RpcDecodeError::Malformed),
                "{cut}"
            );
        }
        let mut longer = bytes.to_vec();
        longer.push(0);
        assert_eq!(Request::decode(&longer), Err(RpcDecodeError::Malformed));
        longer[0] = 2;
        assert_eq!(Request::decode(&longer), Err(RpcDecodeError::OtherVersion));
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_errors_or_come_back(mut bytes in prop::collection::vec(any::<u8>(), 0..96), own in any::<bool>()) {
            if own && !bytes.is_empty() { bytes[0] = RPC_VERSION; }
            if let Ok(request) = Request::decode(&bytes) {
                prop_assert_eq!(Request::decode(&request.encode()), Ok(request));
            }
            let _ = Reply::decode(&bytes);
        }
    }
}
