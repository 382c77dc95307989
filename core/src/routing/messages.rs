//! What caller and owner say to each other: one request frame, one response frame on a stream of its own.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, Instance, LogIndex, ShardId};

/// A call on its way to the owner.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct CallRequest {
    pub(super) service: String,
    pub(super) shard: ShardId,
    pub(super) key: Bytes,
    pub(super) body: Bytes,
    /// The map by which the caller found the owner: an owner that is behind catches up before it answers.
    pub(super) map: LogIndex,
    /// How long the caller waits, in microseconds: clocks are not compared.
    pub(super) time_left_us: u64,
}

/// What became of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum CallResponse {
    /// The service's answer.
    Answer { epoch: Epoch, body: Bytes },
    /// The service's own error.
    ServiceError(Bytes),
    /// Certainly not executed: another node owns the shard by map `map`.
    NotOwner {
        owner: Option<Instance>,
        epoch: Epoch,
        map: LogIndex,
    },
    /// Certainly not executed: the shard is on its way in or out, or the lease has lapsed. Ask again.
    NotServing,
    /// Certainly not executed: too many calls wait.
    Overloaded,
    /// Certainly not executed: no such service there.
    NoSuchService,
    /// It may have been executed.
    Ambiguous(String),
}

pub(super) fn encode<T: Serialize>(message: &T) -> Bytes {
    postcard::to_stdvec(message)
        .expect("plain data always encodes")
        .into()
}

/// `None`: the bytes are no such message.
pub(super) fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    let (message, rest) = postcard::take_from_bytes(bytes).ok()?;
    rest.is_empty().then_some(message)
}
