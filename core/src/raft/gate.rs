//! Which cluster's raft messages are let in (and which cluster this node's messages name).

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::log_store::{Origin, Stores};
use crate::ids::ClusterId;

/// One for each device; clones are the same.
///
/// While the log is empty the engine decides, and may change its mind. From the first message on that may put
/// an entry into the log the cluster is fixed for the life of the store.
#[derive(Clone)]
pub(super) struct Gate {
    accepted: Arc<Mutex<Accepted>>,
    stores: Stores,
}

#[derive(Default)]
struct Accepted {
    cluster: Option<ClusterId>,
    fixed: bool,
}

impl Gate {
    pub(super) fn new(stores: Stores) -> Self {
        let origin = stores.origin();
        let accepted = Accepted {
            cluster: origin.map(|origin| origin.cluster),
            fixed: origin.is_some(),
        };
        Self {
            accepted: Arc::new(Mutex::new(accepted)),
            stores,
        }
    }

    fn accepted(&self) -> MutexGuard<'_, Accepted> {
        self.accepted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn cluster(&self) -> Option<ClusterId> {
        self.accepted().cluster
    }

    /// Lets in messages of `cluster` and of no other. `false`: the log belongs to another one already.
    pub(super) fn accept(&self, cluster: ClusterId) -> bool {
        let mut accepted = self.accepted();
        if accepted.fixed {
            return accepted.cluster == Some(cluster);
        }
        accepted.cluster = Some(cluster);
        true
    }

    /// The log is about to get entries of `cluster`. `false`: it belongs, or the node is promised, to another one.
    pub(super) fn fix(&self, cluster: ClusterId, own: bool) -> io::Result<bool> {
        let mut accepted = self.accepted();
        if accepted.cluster != Some(cluster) {
            return Ok(false);
        }
        if !accepted.fixed {
            self.stores.save_origin(Origin { cluster, own })?;
            accepted.fixed = true;
        }
        Ok(true)
    }

    /// Whether this node began the log itself.
    pub(super) fn is_own(&self) -> bool {
        self.stores.origin().is_some_and(|origin| origin.own)
    }
}
