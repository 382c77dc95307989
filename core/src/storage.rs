//! Where a node keeps its log.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::ids::{ClusterId, ClusterName, LogIndex, NodeId, StoreId, Term};
use crate::mutants::{Mutant, mutated};
use crate::raft::Stores;
use crate::raft::durable::{self, Opened, Owner};
use crate::runtime::Environment;
use crate::store;
pub use crate::store::StorageError;
use crate::store::disk::Disk;
use crate::store::files::{Files, Lock};
use crate::store::sim_disk::SimDisk;

/// A store of the raft log. Cheap to clone; clones are the same store, so that a test can stop a node and start it
/// again with what it had.
///
/// A store belongs to one node of one cluster and to one run at a time.
#[derive(Clone)]
pub struct Storage {
    medium: Medium,
    slot: Arc<Mutex<Option<Open>>>,
}

#[derive(Clone)]
enum Medium {
    Memory,
    Files(Place),
}

/// Where files are.
#[derive(Clone)]
enum Place {
    Dir(PathBuf),
    Simulated(SimDisk),
}

impl Place {
    fn open(&self) -> Result<Arc<dyn Files>, StorageError> {
        Ok(match self {
            Self::Simulated(disk) => Arc::new(disk.clone()),
            Self::Dir(dir) => {
                let disk = Disk::create(dir);
                Arc::new(disk.map_err(StorageError::io("open the data directory", dir))?)
            }
        })
    }
}

/// What of a store is durable. For simulators, which compare it over a crash (I9).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Durability {
    /// The index after the last entry that would survive a loss of power now.
    pub survives: LogIndex,
    /// The index after the last entry that was there when the store was opened.
    pub found: LogIndex,
    /// Bytes of the torn end that was cut off then.
    pub torn_bytes: u64,
}

/// The store as a node uses it.
struct Open {
    id: StoreId,
    stores: Stores,
    /// Keeps others out of the directory.
    lock: Option<Box<dyn Lock>>,
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.medium {
            Medium::Memory => f.write_str("Storage::memory()"),
            Medium::Files(Place::Dir(dir)) => write!(f, "Storage::dir({dir:?})"),
            Medium::Files(Place::Simulated(_)) => f.write_str("Storage::simulated(..)"),
        }
    }
}

impl Storage {
    fn on(medium: Medium) -> Self {
        Self {
            medium,
            slot: Arc::default(),
        }
    }

    /// In memory: lost with the process (or with the last clone of this). A node that comes back without it is
    /// another raft member, which is admitted anew (rule M0).
    pub fn memory() -> Self {
        Self::on(Medium::Memory)
    }

    /// In a directory of its own, which is made if it is not there (its parent must be). What the node acknowledges is
    /// on the disk by then, and a node that is started with the same name and directory comes back as itself.
    ///
    /// The directory is locked while the node runs. It is looked at when the node starts: one that is damaged, in use or
    /// another node's is a [`StartError::Storage`](crate::StartError::Storage). It takes at most about 150 MiB (the log
    /// before it is dropped, and a segment) and twice the size of the application's snapshot: see `docs/store.md`.
    pub fn dir(path: impl AsRef<Path>) -> Self {
        Self::on(Medium::Files(Place::Dir(path.as_ref().to_owned())))
    }

    /// What a node without a log uses.
    pub(crate) fn or_memory(self) -> Self {
        match self.medium {
            Medium::Memory => self,
            Medium::Files(_) => Self::memory(),
        }
    }

    /// On a simulated disk.
    pub fn simulated(disk: SimDisk) -> Self {
        Self::on(Medium::Files(Place::Simulated(disk)))
    }

    /// Entries that were appended since the last look, by index and term. For simulators, which check what logs of
    /// different nodes have in common (I6 of the protocol).
    pub fn look(&self) -> Vec<(LogIndex, Term)> {
        let slot = self.slot();
        slot.as_ref()
            .map_or_else(Vec::new, |open| open.stores.look())
    }

    /// Whether the log holds this entry, or has held it before it was purged into a snapshot.
    pub fn holds(&self, index: LogIndex, term: Term) -> bool {
        let slot = self.slot();
        slot.as_ref()
            .is_some_and(|open| open.stores.holds(index, term))
    }

    /// Random id of the raft store, once there is one: with the node's name the raft member (rule M0).
    pub fn store_id(&self) -> Option<StoreId> {
        self.slot().as_ref().map(|open| open.id)
    }

    /// The cluster that its log belongs to; `None`: no log was begun in it.
    pub fn cluster(&self) -> Option<ClusterId> {
        let slot = self.slot();
        slot.as_ref()?.stores.origin().map(|origin| origin.cluster)
    }

    /// Whether nothing of a log would survive a loss of power: the node would come back as another raft member.
    pub fn is_volatile(&self) -> bool {
        self.slot()
            .as_ref()
            .is_none_or(|open| open.stores.is_volatile())
    }

    /// What would survive a loss of power now, and what had survived when it was opened; `None`: it is not open.
    pub fn durability(&self) -> Option<Durability> {
        let slot = self.slot();
        slot.as_ref().map(|open| open.stores.durability())
    }

    fn slot(&self) -> MutexGuard<'_, Option<Open>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store as it is. As long as no log was begun in it, every look gives it another random id: what an earlier
    /// run promised under the old one binds nobody (rule B2).
    pub(crate) async fn open(
        &self,
        environment: &Environment,
        cluster: &ClusterName,
        node: &NodeId,
    ) -> Opened {
        self.prepare(environment, cluster, node, durable::open)
            .await
    }

    /// Throws everything away: an empty store with another id.
    pub(crate) async fn begin_anew(
        &self,
        environment: &Environment,
        cluster: &ClusterName,
        node: &NodeId,
    ) -> Opened {
        if let Medium::Memory = self.medium {
            *self.slot() = None;
        }
        self.prepare(environment, cluster, node, durable::begin_anew)
            .await
    }

    async fn prepare(
        &self,
        environment: &Environment,
        cluster: &ClusterName,
        node: &NodeId,
        open: fn(&Arc<dyn Files>, &Owner, StoreId) -> Opened,
    ) -> Opened {
        let fresh = || match mutated(Mutant::StoreIdIgnored) {
            true => StoreId(1),
            false => StoreId(environment.next_seed()),
        };
        let Medium::Files(place) = &self.medium else {
            return Ok(self.in_memory(fresh));
        };
        let (storage, place, fresh) = (self.clone(), place.clone(), fresh());
        let owner = Owner {
            cluster: cluster.clone(),
            node: node.clone(),
        };
        let job = move || storage.open_files(&place, |files| open(files, &owner, fresh));
        let opened = environment.blocking(job).await;
        opened.unwrap_or_else(|| {
            Err(StorageError::Io {
                action: "open",
                path: PathBuf::new(),
                source: std::io::Error::other("opening the data directory panicked"),
            })
        })
    }

    fn in_memory(&self, fresh: impl FnOnce() -> StoreId) -> (StoreId, Stores) {
        let mut slot = self.slot();
        slot.take_if(|open| open.stores.origin().is_none());
        let open = slot.get_or_insert_with(|| Open {
            id: fresh(),
            stores: Stores::in_memory(),
            lock: None,
        });
        (open.id, open.stores.clone())
    }

    fn open_files(&self, place: &Place, open: impl FnOnce(&Arc<dyn Files>) -> Opened) -> Opened {
        let mut slot = self.slot();
        let files = place.open()?;
        // A run that did not close its store must not write to it any more.
        let before = slot.take().and_then(|before| {
            before.stores.close();
            before.lock
        });
        let lock = match before {
            Some(lock) => lock,
            None => store::lock(&*files)?,
        };
        let (id, stores) = open(&files)?;
        *slot = Some(Open {
            id,
            stores: stores.clone(),
            lock: Some(lock),
        });
        Ok((id, stores))
    }

    /// Writes what is not written yet and lets go of the directory. A store in memory stays as it is.
    pub(crate) async fn close(&self, environment: &Environment) {
        if let Medium::Memory = self.medium {
            return;
        }
        let storage = self.clone();
        let job = move || {
            let open = storage.slot().take();
            if let Some(open) = open {
                open.stores.close();
                drop(open.lock);
            }
        };
        if environment.blocking(job).await.is_none() {
            tracing::error!("closing the data directory panicked");
        }
    }
}
