//! What an application replicates: a state machine of its own beside the shard maps.

use bytes::Bytes;

use crate::ids::{Epoch, LogIndex, ShardId};

/// An application's entry that is being applied. Every replica sees the same entries in the same order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Applied<'a> {
    /// Its position in the log.
    pub index: LogIndex,
    /// The shard whose guard proposed it; `None`: not guarded.
    pub shard: Option<ShardId>,
    /// Token of that guard; it was the shard's epoch in the committed map when this was applied.
    pub epoch: Epoch,
    /// The application's bytes, at most [`MAX_APP_ENTRY_BYTES`](crate::limits::MAX_APP_ENTRY_BYTES).
    pub bytes: &'a [u8],
}

/// A snapshot that the application cannot read. The node stops: it cannot go on without the state.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the application cannot restore a snapshot: {0}")]
pub struct RestoreError(pub String);

/// The application's replicated state.
///
/// It must be a function of the entries alone: no clock, no randomness, nothing of the node it runs on.
/// The calls are made one at a time, by a task of the node; a slow one delays everything that waits for the log.
pub trait ReplicatedState: Send + 'static {
    /// Applies an entry. What it returns goes to whoever proposed the entry, if that was on this node.
    fn apply(&mut self, entry: Applied<'_>) -> Bytes;

    /// The whole state as bytes, such that [`restore`](Self::restore) on any replica continues from here.
    fn snapshot(&self) -> Bytes;

    /// Replaces the whole state by a snapshot.
    fn restore(&mut self, snapshot: Bytes) -> Result<(), RestoreError>;
}

/// No state of the application's own: entries are accepted and forgotten.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NoState;

impl ReplicatedState for NoState {
    fn apply(&mut self, _: Applied<'_>) -> Bytes {
        Bytes::new()
    }

    fn snapshot(&self) -> Bytes {
        Bytes::new()
    }

    fn restore(&mut self, _: Bytes) -> Result<(), RestoreError> {
        Ok(())
    }
}
