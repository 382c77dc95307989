//! A new cluster from what one node has, when a quorum is lost for good. Offline: the node must not run.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::ids::{ClusterId, LogIndex, NodeId, StoreId};
use crate::state::ReplicatedState;
use crate::storage::StorageError;
use crate::store;
use crate::store::disk::{Disk, LOCK_FILE};
use crate::store::files::Files;

/// How far the new log begins behind the old one. Epochs are log indices: those of the new cluster are larger than any that
/// the lost nodes gave away, unless their log was longer than this one by more than that.
pub const EPOCH_LEAP: u64 = 1 << 32;

/// What was done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recovered {
    /// The node that is the new cluster's only member.
    pub node: NodeId,
    /// Its new raft member.
    pub store: StoreId,
    /// The new cluster: nodes of the old one are refused by it.
    pub cluster_id: ClusterId,
    /// The last entry that the directory held; it and all before it are in the new cluster.
    pub last: LogIndex,
    /// Where the new log begins.
    pub begins_after: LogIndex,
    /// A copy of the directory as it was.
    pub backup: PathBuf,
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The directory cannot be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The copy could not be made.
    #[error("the copy {path} cannot be made: {source}", path = path.display())]
    Backup {
        /// The copy.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// There is nothing to go on from.
    #[error("{dir} holds no log: there is nothing to recover", dir = dir.display())]
    NoLog {
        /// The directory.
        dir: PathBuf,
    },
    /// The node is in no configuration that it knows.
    #[error("{dir} knows no address of its own node {node}: it was never a member", dir = dir.display())]
    NoMember {
        /// The directory.
        dir: PathBuf,
        /// The node.
        node: String,
    },
    /// The log cannot be applied to the application's state.
    #[error("the log cannot be applied: {0}")]
    State(io::Error),
}

/// Makes the directory's node the only member of a new cluster, with everything that its log holds, committed or not.
///
/// What only the lost nodes had is lost. The other nodes of the old cluster must join the new one with empty
/// directories: it has another id, and refuses them with their old ones. `state` is an empty state of the application, of
/// the same kind as the node's: the log is applied to it. The directory is copied to `DIR.backup-STORE` first, and is as it
/// was unless this returns success. Blocks.
pub fn force_new_cluster(
    dir: &Path,
    state: Box<dyn ReplicatedState>,
) -> Result<Recovered, RecoverError> {
    let disk = Disk::open(dir).map_err(StorageError::io("open the data directory", dir))?;
    let files: Arc<dyn Files> = Arc::new(disk);
    let _lock = store::lock(&*files)?;
    let found = crate::raft::recover::read(&files, dir)?;
    let backup = backup_of(dir, found.store());
    copy(&*files, dir, &backup).map_err(|source| RecoverError::Backup {
        path: backup.clone(),
        source,
    })?;
    crate::raft::recover::rewrite(&files, dir, found, state, backup)
}

fn backup_of(dir: &Path, store: StoreId) -> PathBuf {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    dir.with_file_name(format!("{name}.backup-{store}"))
}

fn copy(files: &dyn Files, dir: &Path, backup: &Path) -> io::Result<()> {
    fs::create_dir(backup)?;
    for name in files.list()?.iter().filter(|name| *name != LOCK_FILE) {
        fs::copy(dir.join(name), backup.join(name))?;
        fs::File::open(backup.join(name))?.sync_all()?;
    }
    Disk::open(backup)?.sync_dir()
}
