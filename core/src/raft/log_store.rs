//! The log, the vote and where they belong: in memory, behind the traits that a durable store implements too.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{EntryPayload, OptionalSend};

use super::types::{LogEntry, LogId, SnapshotMeta, TypeConfig, Vote};
use crate::ids::ClusterId;

/// Most bytes of entries in one AppendEntries, unless a single entry is larger.
pub(super) const MAX_APPEND_BYTES: usize = 1 << 20;
/// What an entry takes besides its payload, about: log id, variant, length.
const ENTRY_OVERHEAD: usize = 32;

/// Which cluster a log belongs to. Written before the log's first entry; without meaning while the log is empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Origin {
    /// The cluster.
    pub(crate) cluster: ClusterId,
    /// Whether this node initialised the log itself, rather than being sent its first entries by a leader.
    pub(crate) own: bool,
}

/// A snapshot as it is kept.
#[derive(Clone, Debug)]
pub(super) struct KeptSnapshot {
    pub(super) meta: SnapshotMeta,
    pub(super) bytes: Bytes,
}

/// Everything of a raft member that must survive a restart. Clones are the same store.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stores(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    origin: Option<Origin>,
    vote: Option<Vote>,
    entries: BTreeMap<u64, LogEntry>,
    /// Invariant: the sum of [`size`] over `entries`.
    bytes: usize,
    purged: Option<LogId>,
    committed: Option<LogId>,
    snapshot: Option<KeptSnapshot>,
}

impl Kept {
    fn last(&self) -> Option<LogId> {
        let last = self.entries.last_key_value();
        last.map(|(_, entry)| entry.log_id).or(self.purged)
    }
}

impl Stores {
    /// Empty stores, which live as long as the process.
    pub(crate) fn in_memory() -> Self {
        Self::default()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cluster that the log belongs to; `None` while the log is empty.
    pub(crate) fn origin(&self) -> Option<Origin> {
        let kept = self.kept();
        kept.last().and(kept.origin)
    }

    /// Says where the log that begins now belongs.
    pub(super) fn save_origin(&self, origin: Origin) -> io::Result<()> {
        self.kept().origin = Some(origin);
        Ok(())
    }

    /// What the entries take.
    pub(super) fn log_bytes(&self) -> usize {
        self.kept().bytes
    }

    /// Replaces the snapshot, unless a newer one was installed while this one was built.
    pub(super) fn save_snapshot(&self, snapshot: KeptSnapshot) -> io::Result<()> {
        let mut kept = self.kept();
        let newer = |old: &KeptSnapshot| old.meta.last_log_id > snapshot.meta.last_log_id;
        if !kept.snapshot.as_ref().is_some_and(newer) {
            kept.snapshot = Some(snapshot);
        }
        Ok(())
    }

    pub(super) fn snapshot(&self) -> io::Result<Option<KeptSnapshot>> {
        Ok(self.kept().snapshot.clone())
    }
}

fn size(entry: &LogEntry) -> usize {
    let payload = match &entry.payload {
        EntryPayload::Blank => 0,
        EntryPayload::Normal(entry) => entry.len(),
        EntryPayload::Membership(membership) => membership.nodes().count() * 2 * 96,
    };
    payload + ENTRY_OVERHEAD
}

impl RaftLogReader<TypeConfig> for Stores {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<LogEntry>> {
        let kept = self.kept();
        Ok(kept
            .entries
            .range(range)
            .map(|(_, entry)| entry.clone())
            .collect())
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<LogEntry>> {
        let kept = self.kept();
        let mut bytes = 0;
        let mut entries = Vec::new();
        for entry in kept
            .entries
            .range(start..end.max(start))
            .map(|(_, entry)| entry)
        {
            bytes += size(entry);
            if bytes > MAX_APPEND_BYTES && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        Ok(entries)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.kept().vote.clone())
    }
}

impl RaftLogStorage<TypeConfig> for Stores {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let kept = self.kept();
        Ok(LogState {
            last_purged_log_id: kept.purged,
            last_log_id: kept.last(),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.kept().vote = Some(vote.clone());
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.kept().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.kept().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut kept = self.kept();
        for entry in entries {
            debug_assert!(
                kept.last()
                    .is_none_or(|last| last.index + 1 == entry.log_id.index),
                "a hole in the log before {}",
                entry.log_id.index
            );
            kept.bytes += size(&entry);
            kept.entries.insert(entry.log_id.index, entry);
        }
        drop(kept);
        callback.io_completed(Ok(()));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let first = last.map_or(0, |last| last.index + 1);
        let mut kept = self.kept();
        let gone = kept.entries.split_off(&first);
        kept.bytes -= gone.values().map(size).sum::<usize>();
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        let mut kept = self.kept();
        kept.purged = kept.purged.max(Some(upto));
        let left = kept.entries.split_off(&(upto.index + 1));
        let gone = std::mem::replace(&mut kept.entries, left);
        kept.bytes -= gone.values().map(size).sum::<usize>();
        Ok(())
    }
}
