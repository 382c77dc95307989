//! Why a data directory is not used.

use std::io;
use std::path::{Path, PathBuf};

/// Why a data directory cannot be used. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The operating system refused: no such directory, no permission, no space, a broken disk.
    #[error("{path}: {action}: {source}", path = path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Another process, or another node of this one, has it open.
    #[error(
        "{dir} is in use by another process: give each node a data directory of its own",
        dir = dir.display()
    )]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// There is no store in it.
    #[error("{dir} holds no data of a node", dir = dir.display())]
    Empty {
        /// The directory.
        dir: PathBuf,
    },
    /// It was written by a node of another name.
    #[error(
        "{dir} belongs to node `{found}`, not to `{expected}`: give each node a data directory of its own",
        dir = dir.display()
    )]
    OtherNode {
        /// The directory.
        dir: PathBuf,
        /// The node whose it is.
        found: String,
        /// The node that was to be started.
        expected: String,
    },
    /// It was written by a node of another cluster.
    #[error(
        "{dir} belongs to cluster `{found}`, not to `{expected}`: start the node with the directory of this cluster, or \
         with an empty one to join it anew",
        dir = dir.display()
    )]
    OtherCluster {
        /// The directory.
        dir: PathBuf,
        /// The cluster whose it is.
        found: String,
        /// The cluster that the node was to be started in.
        expected: String,
    },
    /// It was written by another release, in a format that this one does not read.
    #[error(
        "{file} has format version {found}; this release reads version {supported}: start the release that wrote it, or \
         move the directory away and let the node join anew",
        file = file.display()
    )]
    OtherVersion {
        /// The file that says so.
        file: PathBuf,
        /// The version found.
        found: u32,
        /// The version that this release reads and writes.
        supported: u32,
    },
    /// A file does not hold what was written to it, or is missing, and not because the end of it was never written.
    #[error(
        "{file} is damaged at offset {offset}: {what}. What this node acknowledged may be lost, so it does not start. To \
         rejoin: move the data directory away and start the node again; it comes back as a new member under its name and \
         is given everything by the others. Keep what you moved until they have a majority without it",
        file = file.display()
    )]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Bytes from its beginning to what is wrong.
        offset: u64,
        /// What is wrong.
        what: String,
    },
}

impl StorageError {
    /// For what the operating system refuses.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}

/// What was found to be wrong, before it is known where the files are.
#[derive(Debug)]
pub(crate) enum Fault {
    Io(&'static str, String, io::Error),
    Version(String, u32),
    Damaged(String, u64, String),
}

impl Fault {
    pub(crate) fn damaged(file: &str, offset: u64, what: impl ToString) -> Self {
        Self::Damaged(file.to_owned(), offset, what.to_string())
    }

    /// Names what was attempted on a file whose operation failed.
    pub(crate) fn io(action: &'static str, file: &str) -> impl Fn(io::Error) -> Self + use<> {
        let file = file.to_owned();
        move |error| Self::Io(action, file.clone(), error)
    }

    /// The same, for people: with the file's path.
    pub(crate) fn at(self, files: &dyn super::files::Files) -> StorageError {
        match self {
            Self::Io(action, file, source) => StorageError::Io {
                action,
                path: files.path(&file),
                source,
            },
            Self::Version(file, found) => StorageError::OtherVersion {
                file: files.path(&file),
                found,
                supported: super::FORMAT_VERSION,
            },
            Self::Damaged(file, offset, what) => StorageError::Damaged {
                file: files.path(&file),
                offset,
                what,
            },
        }
    }
}

impl From<StorageError> for io::Error {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Io { ref source, .. } => io::Error::new(source.kind(), error.to_string()),
            error => io::Error::new(io::ErrorKind::InvalidData, error.to_string()),
        }
    }
}
