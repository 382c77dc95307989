//! The log, the vote and where they belong, behind openraft's storage traits.
//!
//! The log is served from memory, which [`compact`](super::compact) bounds. A durable store has a [`Journal`] beside
//! it: every change goes there too, in the same order, and counts once it is on the disk. A store in memory has none.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{EntryPayload, OptionalSend};
use serde::{Deserialize, Serialize};

use super::durable::snapshot_number;
use super::journal::{Failure, Journal};
use super::log_record::{LogRecord, Replay};
use super::types::{LogEntry, LogId, SnapshotMeta, TypeConfig, Vote};
use crate::ids::{ClusterId, LogIndex, StoreId, Term};
use crate::mutants::{Mutant, mutated};
use crate::runtime::Environment;
use crate::storage::Durability;
use crate::store::snapshot_file;

/// Most bytes of entries in one AppendEntries, unless a single entry is larger.
pub(super) const MAX_APPEND_BYTES: usize = 1 << 20;
/// What an entry takes besides its payload, about: log id, variant, length.
const ENTRY_OVERHEAD: usize = 32;

/// Which cluster a log belongs to. Written before the log's first entry; without meaning while the log is empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
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
pub(crate) struct Stores {
    kept: Arc<Mutex<Kept>>,
    durable: Option<Durable>,
}

/// The disk under a durable store.
#[derive(Clone, Debug)]
struct Durable {
    journal: Arc<Journal>,
    store: StoreId,
}

#[derive(Default)]
struct Kept {
    origin: Option<Origin>,
    vote: Option<Vote>,
    entries: BTreeMap<u64, LogEntry>,
    /// Entries before this index would survive.
    flushed: u64,
    /// As `flushed`, when the store was opened.
    found: u64,
    /// What was cut off then.
    torn_bytes: u64,
    /// Appends that do not survive yet: the index after the last entry, and whom to tell. Oldest first.
    flushing: VecDeque<(u64, Option<IOFlushed<TypeConfig>>)>,
    /// Entries from here on were appended since the last [`Stores::look`].
    unseen_from: u64,
    /// Invariant: the sum of [`size`] over `entries`.
    bytes: usize,
    purged: Option<LogId>,
    committed: Option<LogId>,
    /// The snapshot of a store in memory.
    snapshot: Option<KeptSnapshot>,
    /// What the snapshot of a durable store is of; the rest is on the disk.
    snapshot_meta: Option<SnapshotMeta>,
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let entries = self.entries.len();
        write!(f, "Kept({entries} entries, vote {:?})", self.vote)
    }
}

impl Kept {
    fn last(&self) -> Option<LogId> {
        let last = self.entries.last_key_value();
        last.map(|(_, entry)| entry.log_id).or(self.purged)
    }

    /// Drops all entries from `first` on.
    fn discard_from(&mut self, first: u64) {
        let gone = self.entries.split_off(&first);
        self.bytes -= gone.values().map(size).sum::<usize>();
        self.flushed = self.flushed.min(first);
        self.unseen_from = self.unseen_from.min(first);
        for (end, _) in &mut self.flushing {
            *end = (*end).min(first);
        }
    }
}

fn identify(id: &LogId) -> (LogIndex, Term) {
    (super::types::index_of(id), super::types::term_of(id))
}

impl Stores {
    /// Empty stores, which live as long as the process.
    pub(crate) fn in_memory() -> Self {
        Self::default()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A durable store that holds what was read.
    pub(super) fn durable(
        journal: Journal,
        store: StoreId,
        replay: Replay,
        snapshot_meta: Option<SnapshotMeta>,
    ) -> Self {
        let Replay { head, entries, .. } = replay;
        let kept = Kept {
            origin: head.origin,
            vote: head.vote,
            flushed: head.last.map_or(0, |last| last.index + 1),
            found: head.last.map_or(0, |last| last.index + 1),
            bytes: entries.values().map(size).sum(),
            entries,
            purged: head.purged,
            // Others may have committed what this log holds no more; it will be told again.
            committed: head.committed.min(head.last),
            snapshot_meta,
            ..Kept::default()
        };
        let journal = Arc::new(journal);
        Self {
            kept: Arc::new(Mutex::new(kept)),
            durable: Some(Durable { journal, store }),
        }
    }

    /// Writes what is not written yet and refuses every change from then on. Blocks. Without effect in memory.
    pub(crate) fn close(&self) {
        if let Some(durable) = &self.durable {
            durable.journal.close();
        }
    }

    /// Sees to it that what was queued is written.
    fn kick(&self, durable: &Durable) {
        let stores = self.clone();
        durable.journal.kick(move |landed| stores.landed(landed));
    }

    fn landed(&self, landed: Result<usize, Failure>) {
        match landed {
            Ok(appends) => (0..appends).for_each(|_| self.flushed_one()),
            Err(failure) => {
                let left = std::mem::take(&mut self.kept().flushing);
                for callback in left.into_iter().filter_map(|(_, callback)| callback) {
                    callback.io_completed(Err(failure.error()));
                }
            }
        }
    }

    /// Returns when all that was changed so far is durable.
    async fn settle(&self, durable: &Durable, record: Option<LogRecord>) -> io::Result<()> {
        let done = durable.journal.push_waiting(record)?;
        self.kick(durable);
        done.await
    }

    /// Rolls over at another size, for tests.
    #[cfg(test)]
    pub(super) fn roll_at(&self, bytes: u64) {
        if let Some(durable) = &self.durable {
            durable.journal.roll_at(bytes);
        }
    }

    /// The entries that were appended since the last look, as (index, term).
    pub(crate) fn look(&self) -> Vec<(LogIndex, Term)> {
        let mut kept = self.kept();
        let unseen = kept.entries.range(kept.unseen_from..);
        let unseen: Vec<_> = unseen.map(|(_, entry)| identify(&entry.log_id)).collect();
        kept.unseen_from = kept.last().map_or(0, |last| last.index + 1);
        unseen
    }

    /// Whether the log holds this entry. What was purged counts as held: its term is not known any more.
    pub(crate) fn holds(&self, index: LogIndex, term: Term) -> bool {
        let kept = self.kept();
        let purged = kept.purged.is_some_and(|purged| index.0 <= purged.index);
        let entry = kept.entries.get(&index.0);
        purged || entry.is_some_and(|entry| identify(&entry.log_id) == (index, term))
    }

    /// Whether this very entry is in the log.
    pub(super) fn holds_entry(&self, id: &LogId) -> bool {
        let kept = self.kept();
        let entry = kept.entries.get(&id.index);
        entry.is_some_and(|entry| entry.log_id == *id)
    }

    /// Whether the entry at this place would survive a loss of power.
    pub(super) fn has_flushed(&self, id: &LogId) -> bool {
        id.index < self.kept().flushed
    }

    /// Whether no entry would survive a loss of power.
    pub(crate) fn is_volatile(&self) -> bool {
        self.kept().flushed == 0
    }

    /// What of the log is durable.
    pub(crate) fn durability(&self) -> Durability {
        let kept = self.kept();
        Durability {
            survives: LogIndex(kept.flushed),
            found: LogIndex(kept.found),
            torn_bytes: kept.torn_bytes,
        }
    }

    /// Notes what was cut off when the store was opened.
    pub(super) fn note_torn(&self, bytes: u64) {
        self.kept().torn_bytes = bytes;
    }

    /// One append has reached the disk: appends do so in their order.
    fn flushed_one(&self) {
        let mut kept = self.kept();
        let Some((end, callback)) = kept.flushing.pop_front() else {
            return;
        };
        kept.flushed = kept.flushed.max(end);
        drop(kept);
        if let Some(callback) = callback {
            callback.io_completed(Ok(()));
        }
    }

    /// The cluster that the log belongs to; `None` while the log is empty.
    pub(crate) fn origin(&self) -> Option<Origin> {
        let kept = self.kept();
        kept.last().and(kept.origin)
    }

    /// Says where the log that begins now belongs.
    pub(super) fn save_origin(&self, origin: Origin) -> io::Result<()> {
        self.kept().origin = Some(origin);
        match &self.durable {
            // Before the entries that follow: they are durable only with it.
            Some(durable) => durable.journal.push(LogRecord::Origin(origin)),
            None => Ok(()),
        }
    }

    /// What the entries take.
    pub(super) fn log_bytes(&self) -> usize {
        self.kept().bytes
    }

    /// Replaces the snapshot, unless a newer one was installed while this one was built. It is durable on return.
    pub(super) async fn save_snapshot(&self, snapshot: KeptSnapshot) -> io::Result<()> {
        let Some(durable) = self.durable.clone() else {
            let mut kept = self.kept();
            let newer = |old: &KeptSnapshot| old.meta.last_log_id > snapshot.meta.last_log_id;
            if !kept.snapshot.as_ref().is_some_and(newer) {
                kept.snapshot = Some(snapshot);
            }
            return Ok(());
        };
        // What the log said before the snapshot was taken must not be younger than it.
        self.settle(&durable, None).await?;
        let environment = Environment::current();
        let delay = durable.journal.files.delay();
        if !delay.is_zero() {
            environment.sleep(delay).await;
        }
        let (stores, journal) = (self.clone(), durable.journal.clone());
        let job = move || stores.write_snapshot(&durable, &snapshot);
        let written = environment.blocking(job).await;
        let written =
            written.unwrap_or_else(|| Err(io::Error::other("writing a snapshot panicked")));
        written.map_err(|error| journal.fail(&error).error())
    }

    fn write_snapshot(&self, durable: &Durable, snapshot: &KeptSnapshot) -> io::Result<()> {
        let journal = &durable.journal;
        let _alone = lock(&journal.snapshots);
        journal.check()?;
        let present = self.kept().snapshot_meta.clone();
        // A snapshot that was read at the start is installed, and would be written again.
        if present.is_some_and(|present| {
            present.last_log_id > snapshot.meta.last_log_id || present == snapshot.meta
        }) {
            return Ok(());
        }
        let description = postcard::to_stdvec(&snapshot.meta).map_err(io::Error::other)?;
        let number = snapshot_number(&snapshot.meta);
        snapshot_file::write(
            &*journal.files,
            durable.store,
            number,
            &description,
            &snapshot.bytes,
        )?;
        self.kept().snapshot_meta = Some(snapshot.meta.clone());
        Ok(())
    }

    pub(super) async fn snapshot(&self) -> io::Result<Option<KeptSnapshot>> {
        let Some(durable) = self.durable.clone() else {
            return Ok(self.kept().snapshot.clone());
        };
        let stores = self.clone();
        let environment = Environment::current();
        let read = environment.blocking(move || stores.read_snapshot(&durable));
        read.await
            .unwrap_or_else(|| Err(io::Error::other("reading a snapshot panicked")))
    }

    fn read_snapshot(&self, durable: &Durable) -> io::Result<Option<KeptSnapshot>> {
        let journal = &durable.journal;
        let _alone = lock(&journal.snapshots);
        let Some(meta) = self.kept().snapshot_meta.clone() else {
            return Ok(None);
        };
        let number = snapshot_number(&meta);
        let read = snapshot_file::open(&*journal.files, durable.store, number)
            .and_then(|snapshot| snapshot.read());
        let bytes = read.map_err(|fault| fault.at(&*journal.files))?;
        Ok(Some(KeptSnapshot { meta, bytes }))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
        if let Some(durable) = &self.durable {
            let record = LogRecord::Vote(vote.clone());
            if mutated(Mutant::VoteNotPersisted) {
                durable.journal.push(record)?;
            } else {
                self.settle(durable, Some(record)).await?;
            }
        }
        self.kept().vote = Some(vote.clone());
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.kept().committed = committed;
        match &self.durable {
            Some(durable) => durable.journal.note_committed(committed),
            None => Ok(()),
        }
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.kept().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut records = Vec::new();
        let mut kept = self.kept();
        for entry in entries {
            debug_assert!(
                kept.last()
                    .is_none_or(|last| last.index + 1 == entry.log_id.index),
                "a hole in the log before {}",
                entry.log_id.index
            );
            kept.bytes += size(&entry);
            if self.durable.is_some() {
                records.push(LogRecord::Entry(entry.clone()));
            }
            kept.entries.insert(entry.log_id.index, entry);
        }
        let end = kept.last().map_or(0, |last| last.index + 1);
        if let Some(durable) = &self.durable {
            // Under the lock, so that the callbacks are in the order of the records.
            durable.journal.push_append(records)?;
            kept.flushing.push_back((end, Some(callback)));
            drop(kept);
            self.kick(durable);
            return Ok(());
        }
        kept.flushed = end;
        drop(kept);
        callback.io_completed(Ok(()));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let first = last.map_or(0, |last| last.index + 1);
        let mut kept = self.kept();
        kept.discard_from(first);
        if let Some(durable) = &self.durable {
            durable.journal.push(LogRecord::Truncate(last))?;
            drop(kept);
            self.kick(durable);
        }
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        let mut kept = self.kept();
        kept.purged = kept.purged.max(Some(upto));
        let left = kept.entries.split_off(&(upto.index + 1));
        let gone = std::mem::replace(&mut kept.entries, left);
        kept.bytes -= gone.values().map(size).sum::<usize>();
        kept.flushed = kept.flushed.max(upto.index + 1);
        if let Some(durable) = &self.durable {
            durable.journal.push(LogRecord::Purge(upto))?;
            drop(kept);
            self.kick(durable);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use openraft::vote::leader_id_std::CommittedLeaderId;

    use super::super::durable::{self, Owner};
    use super::super::testing::simulate;
    use super::super::types;
    use super::*;
    use crate::ids::{ClusterName, NodeId, RaftId};
    use crate::store::files::Files;
    use crate::store::sim_disk::{SimDisk, Unsynced};
    use openraft::type_config::TypeConfigExt;

    const MS: Duration = Duration::from_millis(1);
    const FSYNC: Duration = Duration::from_millis(10);

    type Acknowledged = openraft::alias::OneshotReceiverOf<TypeConfig, io::Result<()>>;

    fn id(term: u64, index: u64) -> LogId {
        LogId {
            leader_id: CommittedLeaderId::new(term),
            index,
        }
    }

    fn open(disk: &SimDisk) -> Stores {
        let files: Arc<dyn Files> = Arc::new(disk.clone());
        let owner = Owner {
            cluster: ClusterName::new("test").unwrap(),
            node: NodeId::new("n1").unwrap(),
        };
        durable::open(&files, &owner, StoreId(1)).unwrap().1
    }

    /// A store on a disk that takes its time.
    fn slow() -> (SimDisk, Stores) {
        let disk = SimDisk::new();
        disk.slow_down(FSYNC);
        let stores = open(&disk);
        (disk, stores)
    }

    /// What is there after a loss of power.
    fn cut_power(disk: &SimDisk) -> Stores {
        disk.cut_power(Unsynced::Lost);
        open(disk)
    }

    /// Appends entries of a term; answered once they are acknowledged.
    async fn append(stores: &Stores, term: u64, indexes: std::ops::Range<u64>) -> Acknowledged {
        let (sender, acknowledged) = TypeConfig::oneshot();
        let entries = indexes.map(|index| LogEntry {
            log_id: id(term, index),
            payload: EntryPayload::Normal(types::Entry::raw(b"entry")),
        });
        let callback = IOFlushed::signal(sender);
        stores.clone().append(entries, callback).await.unwrap();
        acknowledged
    }

    fn is_done(acknowledged: &mut Acknowledged) -> bool {
        acknowledged.try_recv().is_ok()
    }

    async fn wait(span: Duration) {
        Environment::current().sleep(span).await;
    }

    /// Terms and indexes of the log.
    async fn log(stores: &Stores) -> Vec<(u64, u64)> {
        let entries = stores.clone().try_get_log_entries(0..).await.unwrap();
        let expected: usize = entries.iter().map(size).sum();
        assert_eq!(stores.log_bytes(), expected);
        let ids = entries.iter().map(|entry| entry.log_id);
        ids.map(|id| (id.leader_id.term, id.index)).collect()
    }

    fn test(test: impl Future<Output = ()>) {
        simulate(async {
            let environment = Environment::simulated(1, 1.0, Duration::ZERO);
            environment.scope(test).await;
        });
    }

    #[test]
    fn a_loss_of_power_takes_exactly_what_was_not_synchronised() {
        test(async {
            let (disk, mut stores) = slow();
            append(&stores, 1, 0..2).await;
            wait(6 * MS).await;
            append(&stores, 1, 2..5).await;
            stores.save_committed(Some(id(1, 3))).await.unwrap();
            assert!(stores.is_volatile());
            wait(5 * MS).await;
            assert!(stores.has_flushed(&id(1, 1)) && !stores.has_flushed(&id(1, 2)));
            assert_eq!(stores.durability().survives, LogIndex(2));
            assert_eq!(log(&stores).await.len(), 5, "all of it can be read before");
            assert_eq!(stores.look().len(), 5);
            assert!(stores.look().is_empty());
            let mut stores = cut_power(&disk);
            assert_eq!(log(&stores).await, [(1, 0), (1, 1)]);
            let state = stores.get_log_state().await.unwrap();
            assert_eq!(state.last_log_id, Some(id(1, 1)));
            assert_eq!(stores.durability().found, LogIndex(2));
            assert_eq!(stores.look().len(), 2, "what was found is looked at again");
            let committed = stores.read_committed().await.unwrap();
            assert!(committed <= Some(id(1, 1)), "what is lost is not committed");
            // A second loss takes nothing more.
            assert_eq!(log(&cut_power(&disk)).await.len(), 2);
        });
    }

    #[test]
    fn appends_are_acknowledged_in_their_order_and_not_before_they_would_survive() {
        test(async {
            let (_, stores) = slow();
            let mut pending = Vec::new();
            for index in 0..4 {
                pending.push(append(&stores, 1, index..index + 1).await);
                wait(MS).await;
            }
            let mut done = 0;
            for elapsed in 4..30 {
                while done < pending.len() && is_done(&mut pending[done]) {
                    done += 1;
                }
                // Those after the first that waits wait as well.
                assert!(!pending[done..].iter_mut().any(is_done), "out of order");
                for index in 0..4 {
                    let flushed = stores.has_flushed(&id(1, index));
                    assert_eq!(flushed, (index as usize) < done, "after {elapsed} ms");
                }
                // The first alone, then all that came meanwhile.
                let most = if elapsed < 10 { 0 } else { 1 };
                assert!(elapsed >= 20 || done <= most, "{done} after {elapsed} ms");
                wait(MS).await;
            }
            assert_eq!(done, 4);
        });
    }

    #[test]
    fn what_replaces_a_truncated_entry_is_not_durable_with_it() {
        test(async {
            let (disk, mut stores) = slow();
            append(&stores, 1, 0..4).await;
            wait(5 * MS).await;
            stores.truncate_after(Some(id(1, 1))).await.unwrap();
            append(&stores, 2, 2..4).await;
            wait(6 * MS).await;
            assert!(stores.has_flushed(&id(1, 1)));
            assert!(
                !stores.has_flushed(&id(2, 2)),
                "the first append is the old one"
            );
            let found = log(&cut_power(&disk)).await;
            assert_eq!(found[..2], [(1, 0), (1, 1)]);
            assert!(found[2..].iter().all(|(term, _)| *term == 1));
        });
    }

    #[test]
    fn a_vote_is_answered_once_it_would_survive_and_no_earlier() {
        test(async {
            let (disk, mut stores) = slow();
            let vote = |term| Vote::new(term, RaftId::from(1));
            // A store without a log is thrown away at its next opening.
            stores.save_vote(&vote(1)).await.unwrap();
            append(&stores, 1, 0..1).await.await.unwrap().unwrap();
            let mut saving = stores.clone();
            let save = async move { saving.save_vote(&vote(2)).await };
            let saved = Environment::current().timeout(FSYNC / 2, save).await;
            assert!(saved.is_none(), "it was answered at once");
            let mut stores = cut_power(&disk);
            assert_eq!(stores.read_vote().await.unwrap(), Some(vote(1)));
            stores.save_vote(&vote(3)).await.unwrap();
            let mut stores = cut_power(&disk);
            assert_eq!(stores.read_vote().await.unwrap(), Some(vote(3)));
        });
    }

    #[test]
    fn stores_in_memory_acknowledge_at_once() {
        test(async {
            let mut stores = Stores::in_memory();
            let mut acknowledged = append(&stores, 1, 0..3).await;
            assert!(is_done(&mut acknowledged));
            assert_eq!(stores.durability().survives, LogIndex(3));
            stores
                .save_vote(&Vote::new(4, RaftId::from(1)))
                .await
                .unwrap();
            stores.purge(id(1, 0)).await.unwrap();
            assert_eq!(log(&stores).await, [(1, 1), (1, 2)]);
            assert!(stores.read_vote().await.unwrap().is_some());
        });
    }
}
