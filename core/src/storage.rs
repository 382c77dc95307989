//! Where a node keeps its log.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::ids::{ClusterId, LogIndex, StoreId, Term};
use crate::raft::Stores;
use crate::runtime::Environment;

/// A store of the raft log. Cheap to clone; clones are the same store, so that a test can stop a node and start it
/// again with what it had.
///
/// A store belongs to one node of one cluster and to one run at a time.
#[derive(Clone)]
pub struct Storage {
    slot: Arc<Mutex<Option<(StoreId, Stores)>>>,
    flush: Duration,
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Storage::memory()")
    }
}

impl Storage {
    /// In memory: lost with the process (or with the last clone of this). A node that comes back without it is
    /// another raft member, which is admitted anew (rule M0).
    pub fn memory() -> Self {
        Self::memory_with_flush(Duration::ZERO)
    }

    /// In memory, but a write takes `flush` until it would survive a loss of power: votes and entries are acknowledged
    /// only then, as by a disk, and [`cut_power`](Self::cut_power) takes back what is younger. For simulations.
    pub fn memory_with_flush(flush: Duration) -> Self {
        Self {
            slot: Arc::default(),
            flush,
        }
    }

    /// The machine loses power: writes that were not flushed are lost. The node must not run any more.
    pub fn cut_power(&self) {
        if let Some((_, stores)) = &*self.slot() {
            stores.cut_power();
        }
    }

    /// Entries that were appended since the last look, by index and term. For simulators, which check what logs of
    /// different nodes have in common (I6 of the protocol).
    pub fn look(&self) -> Vec<(LogIndex, Term)> {
        let slot = self.slot();
        slot.as_ref()
            .map_or_else(Vec::new, |(_, stores)| stores.look())
    }

    /// Whether the log holds this entry, or has held it before it was purged into a snapshot.
    pub fn holds(&self, index: LogIndex, term: Term) -> bool {
        let slot = self.slot();
        slot.as_ref()
            .is_some_and(|(_, stores)| stores.holds(index, term))
    }

    /// Random id of the raft store, once there is one: with the node's name the raft member (rule M0).
    pub fn store_id(&self) -> Option<StoreId> {
        self.slot().as_ref().map(|(id, _)| *id)
    }

    /// The cluster that its log belongs to; `None`: no log was begun in it.
    pub fn cluster(&self) -> Option<ClusterId> {
        let slot = self.slot();
        let (_, stores) = slot.as_ref()?;
        stores.origin().map(|origin| origin.cluster)
    }

    /// Whether nothing of a log would survive a loss of power: the node would come back as another raft member.
    pub fn is_volatile(&self) -> bool {
        self.slot()
            .as_ref()
            .is_none_or(|(_, stores)| stores.is_volatile())
    }

    fn slot(&self) -> MutexGuard<'_, Option<(StoreId, Stores)>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store as it is. As long as no log was begun in it, every look gives it another random id: what an earlier
    /// run promised under the old one binds nobody (rule B2).
    pub(crate) fn open(&self, environment: &Environment) -> (StoreId, Stores) {
        let mut slot = self.slot();
        let fresh = || {
            let stores = if self.flush.is_zero() {
                Stores::in_memory()
            } else {
                Stores::with_flush(self.flush)
            };
            (StoreId(environment.next_seed()), stores)
        };
        slot.take_if(|(_, stores)| stores.origin().is_none());
        slot.get_or_insert_with(fresh).clone()
    }

    /// Throws everything away; the next [`open`](Self::open) makes another store.
    pub(crate) fn clear(&self) {
        *self.slot() = None;
    }
}
