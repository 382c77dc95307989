//! What a data directory holds, for people and tools. Offline: the node must not run.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use crate::ids::{ClusterId, LogIndex, RaftId, StoreId, Term};
use crate::storage::StorageError;
use crate::store;
use crate::store::disk::Disk;
use crate::store::files::Files;

/// A data directory, every byte of which was checked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Inspection {
    /// The directory.
    pub dir: PathBuf,
    /// Version of the format.
    pub format_version: u32,
    /// Name of the cluster.
    pub cluster: String,
    /// Name of the node.
    pub node: String,
    /// Id of the store: with the node's name the raft member.
    pub store: StoreId,
    /// Id of the cluster; `None`: no log was begun.
    pub cluster_id: Option<ClusterId>,
    /// Term of the vote; `None`: it never voted.
    pub term: Option<Term>,
    /// For whom it voted in that term.
    pub voted_for: Option<RaftId>,
    /// The log.
    pub log: LogInspection,
    /// The snapshot, if there is one.
    pub snapshot: Option<SnapshotInspection>,
    /// The raft configuration: the last one in the log or the snapshot, committed or not.
    pub membership: MembershipInspection,
    /// Bytes after the last whole record: the end of a write that was interrupted. They are cut off at the next start.
    pub torn_bytes: u64,
    /// All files, by name, with their sizes in bytes.
    pub files: Vec<(String, u64)>,
}

/// The log of a data directory.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct LogInspection {
    /// Index of the first entry that is kept; `None`: none is.
    pub first: Option<LogIndex>,
    /// Index of the last entry, kept or in the snapshot.
    pub last: Option<LogIndex>,
    /// Term of that.
    pub last_term: Option<Term>,
    /// Up to where it was known to be committed, at least.
    pub committed: Option<LogIndex>,
    /// Up to where entries were dropped because the snapshot has them.
    pub purged: Option<LogIndex>,
    /// Entries kept.
    pub entries: u64,
    /// Records written since the store was made.
    pub records: u64,
    /// Segment files.
    pub segments: u64,
}

/// The snapshot of a data directory.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct SnapshotInspection {
    /// The last entry in it.
    pub last: Option<LogIndex>,
    /// Term of that.
    pub last_term: Option<Term>,
    /// Bytes of state.
    pub bytes: u64,
}

/// A raft configuration.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct MembershipInspection {
    /// Sets of voters: two while the configuration changes.
    pub voters: Vec<Vec<RaftId>>,
    /// All members with their addresses.
    pub members: Vec<(RaftId, std::net::SocketAddr)>,
}

/// Reads and checks a data directory, without changing it. Blocks for as long as the disk takes.
pub fn inspect(dir: &Path) -> Result<Inspection, StorageError> {
    let disk = Disk::open(dir).map_err(StorageError::io("open the data directory", dir))?;
    let files: Arc<dyn Files> = Arc::new(disk);
    let _lock = match store::lock(&*files) {
        // A copy that can only be read cannot be in use.
        Err(StorageError::Io { source, .. }) if is_read_only(&source) => None,
        locked => Some(locked?),
    };
    crate::raft::durable::inspect(&*files, dir)
}

fn is_read_only(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(
        error.kind(),
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem
    )
}
