//! Rewrites a store so that its node is the only member of a new cluster.
//!
//! The new store holds one snapshot and an empty log behind it. It takes the place of the old one when the identity is
//! replaced, as any new store does.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use openraft::Membership;

use super::durable::{self, Contents, snapshot_number};
use super::journal::encode;
use super::log_record::{Head, LogRecord};
use super::log_store::Origin;
use super::state_machine::fold;
use super::types::{MemberAddr, SnapshotMeta, StoredMembership, Vote};
use crate::ids::{ClusterId, LogIndex, NodeId, RaftId, StoreId};
use crate::recover::{EPOCH_LEAP, RecoverError, Recovered};
use crate::runtime::Environment;
use crate::state::ReplicatedState;
use crate::store::files::Files;
use crate::store::identity::{self, Identity};
use crate::store::segments::Log;
use crate::store::{Fault, StorageError, snapshot_file};

/// What is recovered from.
pub(crate) struct Old(Contents);

impl Old {
    /// Id of the store.
    pub(crate) fn store(&self) -> StoreId {
        self.0.identity.store
    }
}

/// Reads and checks the directory.
pub(crate) fn read(files: &Arc<dyn Files>, dir: &Path) -> Result<Old, RecoverError> {
    let fault = |fault: Fault| RecoverError::Storage(fault.at(&**files));
    let Some(identity) = identity::read(&**files).map_err(fault)? else {
        let dir = dir.to_owned();
        return Err(StorageError::Empty { dir }.into());
    };
    Ok(Old(durable::read(&**files, identity).map_err(fault)?))
}

/// Replaces the store.
pub(crate) fn rewrite(
    files: &Arc<dyn Files>,
    dir: &Path,
    old: Old,
    state: Box<dyn ReplicatedState>,
    backup: PathBuf,
) -> Result<Recovered, RecoverError> {
    let Old(contents) = old;
    let fault = |fault: Fault| RecoverError::Storage(fault.at(&**files));
    let dir_of = || dir.to_owned();
    let name = contents.identity.node.clone();
    let unknown = || RecoverError::NoMember {
        dir: dir_of(),
        node: name.clone(),
    };
    let node = NodeId::new(&name).map_err(|_| unknown())?;
    let covered = contents
        .snapshot
        .as_ref()
        .and_then(|(_, meta, _)| meta.last_log_id);
    let last = contents.replay.head.last.max(covered);
    let last = last.ok_or_else(|| RecoverError::NoLog { dir: dir_of() })?;
    let members = contents.membership().members;
    let known = members.iter().find(|(id, _)| id.node == node);
    let (_, addr) = known.ok_or_else(unknown)?;

    let environment = Environment::current();
    let wide = |high: u64, low: u64| ClusterId(u128::from(high) << 64 | u128::from(low));
    let cluster = wide(environment.next_seed(), environment.next_seed());
    let me = RaftId {
        node: node.clone(),
        store: StoreId(environment.next_seed()),
    };
    let voted = contents.replay.head.vote.as_ref();
    let term = voted
        .map_or(0, |vote| vote.leader_id.term)
        .max(last.leader_id.term)
        + 1;
    let begins_after = openraft::LogId {
        leader_id: openraft::vote::leader_id_std::CommittedLeaderId::new(term),
        index: last.index + EPOCH_LEAP,
    };
    let voters = BTreeSet::from([me.clone()]);
    let nodes = BTreeMap::from([(me.clone(), MemberAddr(*addr))]);
    let membership = Membership::new(vec![voters], nodes)
        .map_err(|error| RecoverError::State(std::io::Error::other(error.to_string())))?;
    let membership = StoredMembership::new(Some(begins_after), membership);

    let snapshot = contents.snapshot.as_ref().map(|(number, _, _)| {
        let opened = snapshot_file::open(&**files, contents.identity.store, *number);
        opened.and_then(|snapshot| snapshot.read())
    });
    let snapshot = snapshot.transpose().map_err(fault)?;
    let first = covered.map_or(0, |covered| covered.index + 1);
    let entries = contents
        .replay
        .entries
        .range(first..)
        .map(|(_, entry)| entry.clone());
    let body = fold(
        state,
        snapshot.as_deref(),
        entries,
        cluster,
        membership.clone(),
    )
    .map_err(RecoverError::State)?;

    let meta = SnapshotMeta {
        last_log_id: Some(begins_after),
        last_membership: membership,
    };
    let head = Head {
        origin: Some(Origin {
            cluster,
            own: false,
        }),
        vote: Some(Vote::new(term, me.clone())),
        committed: Some(begins_after),
        purged: Some(begins_after),
        last: Some(begins_after),
    };
    let identity = Identity {
        store: me.store,
        ..contents.identity
    };
    write(files, &identity, &head, &meta, &body).map_err(|source| {
        RecoverError::Storage(StorageError::Io {
            action: "write the new store",
            path: dir_of(),
            source,
        })
    })?;
    Ok(Recovered {
        node,
        store: me.store,
        cluster_id: cluster,
        last: LogIndex(last.index),
        begins_after: LogIndex(begins_after.index),
        backup,
    })
}

fn write(
    files: &Arc<dyn Files>,
    identity: &Identity,
    head: &Head,
    meta: &SnapshotMeta,
    body: &[u8],
) -> std::io::Result<()> {
    let checkpoint = encode(&LogRecord::Checkpoint(head.clone()))?;
    Log::create(files.clone(), identity.store, &checkpoint)?;
    let description = postcard::to_stdvec(meta).map_err(std::io::Error::other)?;
    let number = snapshot_number(meta);
    snapshot_file::write(&**files, identity.store, number, &description, body)?;
    identity::write(&**files, identity)?;
    durable::remove_leftovers(&**files, identity.store)
}
