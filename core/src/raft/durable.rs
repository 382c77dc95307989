//! Opening a data directory: what is in it, checked, and then repaired where a loss of power explains what is wrong.

use std::path::Path;
use std::sync::Arc;

use openraft::EntryPayload;

use super::journal::{Journal, Writer, encode};
use super::log_record::{Head, LogRecord, Replay};
use super::log_store::Stores;
use super::types::{SnapshotMeta, index_of, term_of};
use crate::ids::{ClusterName, LogIndex, NodeId, StoreId, Term};
use crate::inspect::{Inspection, LogInspection, MembershipInspection, SnapshotInspection};
use crate::store::files::Files;
use crate::store::identity::{self, IDENTITY_FILE, Identity};
use crate::store::segments::{self, Found, Log};
use crate::store::{Fault, StorageError, snapshot_file};

/// The log of a store that was never completed has a checkpoint of nothing, and no more.
const UNBORN_BYTES: u64 = 128;

/// Whose directory it must be.
#[derive(Clone, Debug)]
pub(crate) struct Owner {
    pub(crate) cluster: ClusterName,
    pub(crate) node: NodeId,
}

/// An open store and its id; or why there is none.
pub(crate) type Opened = Result<(StoreId, Stores), StorageError>;

/// What a store holds, as read without changing it.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) identity: Identity,
    pub(super) replay: Replay,
    pub(super) found: Found,
    /// The newest snapshot: its number in the file's name, its description, and bytes of state.
    pub(super) snapshot: Option<(u64, SnapshotMeta, u64)>,
}

/// The number of a snapshot in its file's name: entries in it, counted from the log's first.
pub(super) fn snapshot_number(meta: &SnapshotMeta) -> u64 {
    meta.last_log_id.map_or(0, |last| last.index + 1)
}

/// Opens the store of a directory that is locked by the caller, for this owner; a directory without a log, or with an
/// empty one, gets a new store with the id `fresh`. Blocks.
pub(crate) fn open(files: &Arc<dyn Files>, owner: &Owner, fresh: StoreId) -> Opened {
    open_files(files, owner, fresh).map_err(|refusal| match refusal {
        Refusal::Fault(fault) => fault.at(&**files),
        Refusal::Other(error) => error,
    })
}

/// Throws away what is in the directory: a new, empty store with the id `fresh`. Blocks.
pub(crate) fn begin_anew(files: &Arc<dyn Files>, owner: &Owner, fresh: StoreId) -> Opened {
    begin(files, owner, fresh).map_err(|fault| fault.at(&**files))
}

enum Refusal {
    Fault(Fault),
    Other(StorageError),
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

fn open_files(
    files: &Arc<dyn Files>,
    owner: &Owner,
    fresh: StoreId,
) -> Result<(StoreId, Stores), Refusal> {
    let Some(identity) = identity::read(&**files)? else {
        check_unborn(&**files)?;
        return Ok(begin(files, owner, fresh)?);
    };
    let dir = || files.path("");
    if identity.cluster != owner.cluster.as_str() {
        return Err(Refusal::Other(StorageError::OtherCluster {
            dir: dir(),
            found: identity.cluster,
            expected: owner.cluster.to_string(),
        }));
    }
    if identity.node != owner.node.as_str() {
        return Err(Refusal::Other(StorageError::OtherNode {
            dir: dir(),
            found: identity.node,
            expected: owner.node.to_string(),
        }));
    }
    let contents = read(&**files, identity)?;
    if contents.replay.head.last.is_none() && contents.snapshot.is_none() {
        // What an earlier run promised under this store's id binds nobody (rule B2).
        return Ok(begin(files, owner, fresh)?);
    }
    Ok(resume(files, contents)?)
}

/// Reads and checks everything, without changing anything.
pub(super) fn read(files: &dyn Files, identity: Identity) -> Result<Contents, Fault> {
    let store = identity.store;
    let mut replay = Replay::default();
    let found = segments::read(files, store, &mut |is_first, payload| {
        replay.read(is_first, payload)
    })?;
    if let Some(what) = replay.hole() {
        let oldest = found.oldest();
        return Err(Fault::damaged(
            &segments::segment_name(store, oldest),
            0,
            what,
        ));
    }
    let number = snapshot_file::newest(files, store)?;
    let snapshot = number.map(|number| read_snapshot(files, store, number));
    let snapshot = snapshot.transpose()?;
    let covered = snapshot.as_ref().and_then(|(_, meta, _)| meta.last_log_id);
    if let Some(purged) = replay.head.purged
        && covered.is_none_or(|covered| covered.index < purged.index)
    {
        let name = snapshot_file::snapshot_name(store, purged.index + 1);
        let what =
            format!("the snapshot that the log goes on from, after entry {purged}, is missing");
        return Err(Fault::damaged(&name, 0, what));
    }
    Ok(Contents {
        identity,
        replay,
        found,
        snapshot,
    })
}

fn read_snapshot(
    files: &dyn Files,
    store: StoreId,
    number: u64,
) -> Result<(u64, SnapshotMeta, u64), Fault> {
    let snapshot = snapshot_file::open(files, store, number)?;
    let meta: SnapshotMeta = postcard::from_bytes(&snapshot.description).map_err(|error| {
        let name = snapshot_file::snapshot_name(store, number);
        Fault::damaged(
            &name,
            0,
            format!("its description cannot be understood: {error}"),
        )
    })?;
    snapshot.read_chunks(|_| {})?;
    Ok((number, meta, snapshot.state_bytes()))
}

/// What a directory holds, for people.
pub(crate) fn inspect(files: &dyn Files, dir: &Path) -> Result<Inspection, StorageError> {
    let fault = |fault: Fault| fault.at(files);
    let Some(identity) = identity::read(files).map_err(fault)? else {
        check_unborn(files).map_err(fault)?;
        let dir = dir.to_owned();
        return Err(StorageError::Empty { dir });
    };
    let contents = read(files, identity).map_err(fault)?;
    let sizes = || -> Result<Vec<(String, u64)>, Fault> {
        let names = files.list().map_err(Fault::io("list", ""))?;
        let size = |name: String| {
            let len = files.open(&name).and_then(|file| file.len());
            let len = len.map_err(Fault::io("open", &name))?;
            Ok((name, len))
        };
        names.into_iter().map(size).collect()
    };
    let head = &contents.replay.head;
    let snapshot = contents.snapshot.as_ref().map(|(_, meta, bytes)| {
        let last = meta.last_log_id.as_ref();
        SnapshotInspection {
            last: last.map(index_of),
            last_term: last.map(term_of),
            bytes: *bytes,
        }
    });
    let last = head.last.as_ref();
    Ok(Inspection {
        dir: dir.to_owned(),
        format_version: crate::store::FORMAT_VERSION,
        cluster: contents.identity.cluster.clone(),
        node: contents.identity.node.clone(),
        store: contents.identity.store,
        cluster_id: head.origin.map(|origin| origin.cluster),
        term: head.vote.as_ref().map(|vote| Term(vote.leader_id.term)),
        voted_for: head
            .vote
            .as_ref()
            .map(|vote| vote.leader_id.voted_for.clone()),
        log: LogInspection {
            first: contents.replay.entries.keys().next().copied().map(LogIndex),
            last: last.map(index_of),
            last_term: last.map(term_of),
            committed: head.committed.min(head.last).as_ref().map(index_of),
            purged: head.purged.as_ref().map(index_of),
            entries: contents.replay.entries.len() as u64,
            records: contents.found.records(),
            segments: contents.found.segments() as u64,
        },
        snapshot,
        membership: contents.membership(),
        torn_bytes: contents.found.torn_bytes,
        files: sizes().map_err(fault)?,
    })
}

impl Contents {
    /// The last configuration, committed or not.
    pub(super) fn membership(&self) -> MembershipInspection {
        let logged = self.replay.entries.values().rev();
        let logged = logged.filter_map(|entry| match &entry.payload {
            EntryPayload::Membership(membership) => Some(membership.clone()),
            _ => None,
        });
        let kept = self.snapshot.as_ref();
        let kept = kept.map(|(_, meta, _)| meta.last_membership.membership().clone());
        let Some(membership) = logged.into_iter().next().or(kept) else {
            return MembershipInspection::default();
        };
        let voters = membership.get_joint_config().iter();
        MembershipInspection {
            voters: voters.map(|set| set.iter().cloned().collect()).collect(),
            members: membership
                .nodes()
                .map(|(id, node)| (id.clone(), node.0))
                .collect(),
        }
    }
}

/// Without an identity there may be the beginning of a log, from a first start that was interrupted.
fn check_unborn(files: &dyn Files) -> Result<(), Fault> {
    for name in files.list().map_err(Fault::io("list", ""))? {
        let log = segments::parse_segment_name(&name);
        let snapshot = snapshot_file::parse_snapshot_name(&name);
        let len = || files.open(&name).and_then(|file| file.len());
        let is_unborn = match (log, snapshot) {
            (None, None) => true,
            (Some((_, 0)), None) => len().map_err(Fault::io("open", &name))? <= UNBORN_BYTES,
            _ => false,
        };
        if !is_unborn {
            let what = format!("the file is missing, but {name} is there");
            return Err(Fault::damaged(IDENTITY_FILE, 0, what));
        }
    }
    Ok(())
}

/// Makes a new store, and then lets go of the one before.
fn begin(
    files: &Arc<dyn Files>,
    owner: &Owner,
    store: StoreId,
) -> Result<(StoreId, Stores), Fault> {
    let failed = Fault::io("write", &segments::segment_name(store, 0));
    let head = Head::default();
    let checkpoint = encode(&LogRecord::Checkpoint(head.clone())).map_err(&failed)?;
    let log = Log::create(files.clone(), store, &checkpoint).map_err(&failed)?;
    let identity = Identity {
        cluster: owner.cluster.to_string(),
        node: owner.node.to_string(),
        store,
    };
    identity::write(&**files, &identity).map_err(Fault::io("write", IDENTITY_FILE))?;
    remove_leftovers(&**files, store).map_err(Fault::io("clean up", ""))?;
    let journal = Journal::new(files.clone(), Writer::new(log, head));
    Ok((
        store,
        Stores::durable(journal, store, Replay::default(), None),
    ))
}

fn resume(files: &Arc<dyn Files>, contents: Contents) -> Result<(StoreId, Stores), Fault> {
    let Contents {
        identity,
        mut replay,
        found,
        snapshot,
    } = contents;
    let store = identity.store;
    let torn_bytes = found.torn_bytes;
    if torn_bytes > 0 {
        tracing::info!(bytes = torn_bytes, "the torn end of the log was cut off");
    }
    remove_leftovers(&**files, store).map_err(Fault::io("clean up", ""))?;
    if let Some((number, _, _)) = &snapshot {
        let cleaned = snapshot_file::remove_others(&**files, store, *number);
        cleaned.map_err(Fault::io("clean up", ""))?;
    }
    let failed = Fault::io("write", "");
    let log = Log::resume(files.clone(), found).map_err(&failed)?;
    let mut writer = Writer::new(log, replay.head.clone());
    let meta = snapshot.map(|(_, meta, _)| meta);
    // The power went between a snapshot from the leader and the purge of the log before it.
    let covered = meta.as_ref().and_then(|meta| meta.last_log_id);
    if let Some(covered) = covered
        && replay
            .head
            .last
            .is_none_or(|last| last.index < covered.index)
    {
        let purge = LogRecord::Purge(covered);
        writer.write(&[purge]).map_err(&failed)?;
        writer.sync(Some(covered.index)).map_err(&failed)?;
        replay.entries.clear();
        replay.head.purged = Some(covered);
        replay.head.last = Some(covered);
    }
    let journal = Journal::new(files.clone(), writer);
    let stores = Stores::durable(journal, store, replay, meta);
    stores.note_torn(torn_bytes);
    Ok((store, stores))
}

/// Removes what was being written when the power went, and what belongs to a store that was thrown away.
pub(super) fn remove_leftovers(files: &dyn Files, store: StoreId) -> std::io::Result<()> {
    for name in files.list()? {
        let log = segments::parse_segment_name(&name).map(|(of, _)| of);
        let snapshot = snapshot_file::parse_snapshot_name(&name).map(|(of, _)| of);
        let is_other = log.or(snapshot).is_some_and(|of| of != store);
        let is_temporary = identity::is_temporary(&name)
            || snapshot_file::is_temporary(&name)
            || segments::is_temporary(&name);
        if is_other || is_temporary {
            files.remove(&name)?;
        }
    }
    Ok(())
}
