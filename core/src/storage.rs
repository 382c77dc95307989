//! Where a node keeps its log.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::ids::StoreId;
use crate::raft::Stores;
use crate::runtime::Environment;

/// A store of the raft log. Cheap to clone; clones are the same store, so that a test can stop a node and start it
/// again with what it had.
///
/// A store belongs to one node of one cluster and to one run at a time.
#[derive(Clone)]
pub struct Storage(Arc<Mutex<Option<(StoreId, Stores)>>>);

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Storage::memory()")
    }
}

impl Storage {
    /// In memory: lost with the process (or with the last clone of this). A node that comes back without it is
    /// another raft member, which is admitted anew (rule M0).
    pub fn memory() -> Self {
        Self(Arc::default())
    }

    /// The store as it is. As long as no log was begun in it, every look gives it another random id: what an earlier
    /// run promised under the old one binds nobody (rule B2).
    pub(crate) fn open(&self, environment: &Environment) -> (StoreId, Stores) {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || (StoreId(environment.next_seed()), Stores::in_memory());
        slot.take_if(|(_, stores)| stores.origin().is_none());
        slot.get_or_insert_with(fresh).clone()
    }

    /// Throws everything away; the next [`open`](Self::open) makes another store.
    pub(crate) fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
