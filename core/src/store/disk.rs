//! The operating system's files.

use std::fs::{self, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::files::{File, Files, Lock};

/// The file whose lock says that the directory is in use. It stays when the lock is gone.
pub const LOCK_FILE: &str = "lock";

/// A directory of the operating system.
#[derive(Clone, Debug)]
pub struct Disk {
    dir: PathBuf,
}

impl Disk {
    /// The directory, which is made if it is not there (its parent must be).
    pub fn create(dir: &Path) -> io::Result<Self> {
        match fs::create_dir(dir) {
            Ok(()) => {
                let parent = dir.parent().filter(|parent| *parent != Path::new(""));
                sync_directory(parent.unwrap_or(Path::new(".")))?;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
            Err(error) => return Err(error),
        }
        Self::open(dir)
    }

    /// The directory, which must be there.
    pub fn open(dir: &Path) -> io::Result<Self> {
        fs::read_dir(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
        })
    }
}

#[cfg(unix)]
fn sync_directory(dir: &Path) -> io::Result<()> {
    fs::File::open(dir)?.sync_all()
}

// A directory cannot be opened as a file here; the file system's journal keeps creations in order.
#[cfg(not(unix))]
fn sync_directory(_dir: &Path) -> io::Result<()> {
    Ok(())
}

impl Files for Disk {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for file in fs::read_dir(&self.dir)? {
            // A name that is no text is none of ours.
            names.extend(file?.file_name().into_string().ok());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn File>> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(true);
        let file = options.open(self.path(name))?;
        Ok(Box::new(DiskFile(Mutex::new(file))))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn File>> {
        let mut options = OpenOptions::new();
        let path = self.path(name);
        // A copy that may only be read can be looked at; writing to it fails.
        let file = match options.read(true).write(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => fs::File::open(&path)?,
            opened => opened?,
        };
        Ok(Box::new(DiskFile(Mutex::new(file))))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        sync_directory(&self.dir)
    }

    fn lock(&self) -> io::Result<Option<Box<dyn Lock>>> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false);
        let file = options.open(self.path(LOCK_FILE))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(DiskLock { _file: file }))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

/// The operating system lets go of the lock when the file is closed, however the process ends.
#[derive(Debug)]
struct DiskLock {
    _file: fs::File,
}

impl Lock for DiskLock {}

/// Reading moves the file's cursor, hence the lock.
#[derive(Debug)]
struct DiskFile(Mutex<fs::File>);

impl DiskFile {
    fn exclusive(&mut self) -> &mut fs::File {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

impl File for DiskFile {
    fn len(&self) -> io::Result<u64> {
        let file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(file.metadata()?.len())
    }

    fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::new();
        (&mut *file).take(len as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let file = self.exclusive();
        file.seek(SeekFrom::End(0))?;
        file.write_all(bytes)
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.exclusive().set_len(len)
    }

    fn sync(&mut self) -> io::Result<()> {
        // The length is synchronised with the bytes; times of access are not.
        self.exclusive().sync_data()
    }
}
