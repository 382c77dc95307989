//! The durable store: a log of records in segment files, an identity, a snapshot. What the records mean is the raft
//! module's business; how they survive is this one's. The format and its rules: `docs/store.md`.
//!
//! | file | what |
//! | --- | --- |
//! | [`files`] | the file layer: a trait |
//! | [`disk`], [`sim_disk`] | the operating system's files; a disk for simulations, which loses and tears |
//! | `record` | one record, its checksum, and the proof that an earlier one was durable |
//! | `segments` | the log: reading it after a crash, appending, rolling over, letting go of old segments |
//! | `identity` | whose directory it is |
//! | `snapshot_file` | a snapshot of the state machine |
//! | `error` | why a directory is not used |

pub mod disk;
mod error;
pub mod files;
pub(crate) mod identity;
pub(crate) mod record;
pub(crate) mod segments;
pub mod sim_disk;
pub(crate) mod snapshot_file;

pub use error::StorageError;

pub(crate) use crate::ids::StoreId;
pub(crate) use error::Fault;

use crate::mutants::{Mutant, mutated};

/// Version of the format of all files. Another one is refused.
pub(crate) const FORMAT_VERSION: u32 = 1;

/// The deliberate fault that what is read is taken as it is.
fn ignores_checksums() -> bool {
    mutated(Mutant::ChecksumIgnored)
}

/// Takes the directory for this process alone.
pub(crate) fn lock(files: &dyn files::Files) -> Result<Box<dyn files::Lock>, StorageError> {
    let dir = files.path("");
    let lock = files.lock().map_err(StorageError::io("lock", &dir))?;
    lock.ok_or(StorageError::Locked { dir })
}

/// Makes durable what was created, renamed or removed.
fn sync_dir(files: &dyn files::Files) -> std::io::Result<()> {
    if mutated(Mutant::DirectoryNotSynced) {
        return Ok(());
    }
    files.sync_dir()
}
