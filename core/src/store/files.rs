//! The file layer: the few operations on one directory that the durable store is made of.
//!
//! Two implementations: [`Disk`](super::disk::Disk), the operating system's files, and
//! [`SimDisk`](super::sim_disk::SimDisk), which loses what was not synchronised when its power is cut.

use std::fmt::Debug;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// A directory without subdirectories. Names are plain file names.
///
/// What is written is durable only after [`File::sync`]; that a file is there, is gone or has another name, only after
/// [`sync_dir`](Self::sync_dir).
pub trait Files: Send + Sync + Debug + 'static {
    /// Names of all files, in their order.
    fn list(&self) -> io::Result<Vec<String>>;

    /// An empty file; one of this name that is there already is emptied.
    fn create(&self, name: &str) -> io::Result<Box<dyn File>>;

    /// A file that is there, to be read and appended to.
    fn open(&self, name: &str) -> io::Result<Box<dyn File>>;

    /// Gives a file another name, replacing one that has it. Atomic: after a loss of power either name is there.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes everything durable that was created, renamed or removed.
    fn sync_dir(&self) -> io::Result<()>;

    /// Keeps others out, in this process and in others, until the lock is dropped; `None`: somebody else has it.
    fn lock(&self) -> io::Result<Option<Box<dyn Lock>>>;

    /// Where a file is, for people.
    fn path(&self, name: &str) -> PathBuf;

    /// How much longer the next fsync takes than calling it: a simulated disk answers at once and says here how slow
    /// it is. Zero on a real one.
    fn delay(&self) -> Duration {
        Duration::ZERO
    }
}

/// An open file.
pub trait File: Send + Debug {
    /// Its length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Whether it has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Up to `len` bytes from `offset` on; fewer only where the file ends.
    fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>>;

    /// Writes behind the last byte.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Cuts it to this length.
    fn truncate(&mut self, len: u64) -> io::Result<()>;

    /// Returns when all bytes and the length are durable.
    fn sync(&mut self) -> io::Result<()>;
}

/// Held as long as a directory is in use.
pub trait Lock: Send + Sync + Debug {}
