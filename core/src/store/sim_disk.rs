//! A disk for simulations: what was not synchronised when its power is cut is lost, kept or torn.
//!
//! A write lands in a cache. [`File::sync`](super::files::File::sync) makes a file's bytes durable, `sync_dir` makes
//! durable which names there are. At [`SimDisk::cut_power`] each block of each cached write, and each creation, renaming
//! and removal, is lost or kept on its own: that stands for tearing and for reordering alike. Blocks that were lost
//! behind others that were kept read as zeros, as on file systems that keep the bytes of one file from another.
//!
//! Faults, all from a seed or from a count of operations: the power goes after the n-th operation, an fsync fails, an
//! fsync lies, the disk is full, bytes are flipped, the disk is slow. A process that ends without its machine
//! ([`SimDisk::end_process`]) leaves the cache as it is.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::files::{File, Files, Lock};

/// What is lost or kept as a whole.
pub const BLOCK_BYTES: usize = 512;

/// What becomes of what was not synchronised when the power is cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unsynced {
    /// All of it is lost.
    Lost,
    /// All of it is there.
    Kept,
    /// Each block, each creation, renaming and removal is lost or kept by chance, from this seed.
    Torn(u64),
}

/// A simulated disk with one directory. Clones are the same disk.
#[derive(Clone, Debug)]
pub struct SimDisk(Arc<Mutex<State>>);

type FileId = u64;

#[derive(Clone, Debug)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Truncate { len: usize },
}

#[derive(Clone, Debug)]
enum Naming {
    Create {
        name: String,
        file: FileId,
    },
    Rename {
        from: String,
        to: String,
        file: FileId,
    },
    Remove {
        name: String,
    },
}

#[derive(Clone, Default, Debug)]
struct Contents {
    /// As every reader sees it.
    bytes: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
    /// Its length at the latest sync, and at the one before it.
    synced: usize,
    synced_before: usize,
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<FileId, Contents>,
    names: BTreeMap<String, FileId>,
    durable_names: BTreeMap<String, FileId>,
    unsynced_names: Vec<Naming>,
    next_file: FileId,
    /// Counts cuts of power: what was opened before one cannot be used after it.
    boot: u64,
    locked: bool,
    /// Operations that changed something since the disk was made.
    operations: u64,
    /// The power goes at this operation, which does not take place.
    power_ends_at: Option<u64>,
    is_off: bool,
    /// The sync at this operation, or the first after it, fails.
    sync_fails_at: Option<u64>,
    /// Bytes that all files together may take.
    capacity: Option<usize>,
    sync_lies: bool,
    sync_dir_lies: bool,
    delay: Duration,
    /// Operations that failed because of a fault that was asked for.
    faults: u64,
}

impl SimDisk {
    /// An empty disk that works.
    pub fn new() -> Self {
        Self(Arc::default())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Operations so far that changed something: writes, syncs, creations, renamings, removals.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// The power goes instead of the operation of this number (the first is 0): it and all later ones fail until
    /// [`cut_power`](Self::cut_power).
    pub fn end_power_at(&self, operation: u64) {
        self.state().power_ends_at = Some(operation);
    }

    /// The first sync that is the operation of this number or a later one fails, and what was to be synchronised is
    /// gone from the cache, as on Linux: a second sync would succeed without having written it.
    pub fn fail_sync_at(&self, operation: u64) {
        self.state().sync_fails_at = Some(operation);
    }

    /// The disk is full when all files together have so many bytes; a write takes what fits and fails. `None`: never.
    pub fn limit(&self, bytes: Option<usize>) {
        self.state().capacity = bytes;
    }

    /// From now on a sync of a file returns without having done anything.
    pub fn lie(&self, lies: bool) {
        self.state().sync_lies = lies;
    }

    /// From now on a sync of the directory returns without having done anything.
    pub fn lie_about_directory(&self, lies: bool) {
        self.state().sync_dir_lies = lies;
    }

    /// How long every sync takes from now on.
    pub fn slow_down(&self, delay: Duration) {
        self.state().delay = delay;
    }

    /// Ends what is to fail, and makes room: no power that ends, no sync that fails, no limit. How long a sync takes and
    /// whether it lies stays as it is.
    pub fn mend(&self) {
        let mut state = self.state();
        state.power_ends_at = None;
        state.sync_fails_at = None;
        state.capacity = None;
    }

    /// Operations so far that failed because they were to: for want of power or room, or as a sync that fails.
    pub fn faults(&self) -> u64 {
        self.state().faults
    }

    /// Whether the power has gone, at [`end_power_at`](Self::end_power_at), and has not come back.
    pub fn is_off(&self) -> bool {
        self.state().is_off
    }

    /// How many bytes of a file were durable before the latest sync of it: a log has written something durable behind
    /// them, by which damage to them is told from a torn end.
    pub fn synced_before(&self, name: &str) -> usize {
        let state = self.state();
        let contents = state.names.get(name).and_then(|file| state.files.get(file));
        contents.map_or(0, |contents| contents.synced_before)
    }

    /// The process ends and the machine goes on: nothing is lost, but whatever was open or locked cannot be used any
    /// more.
    pub fn end_process(&self) {
        let mut state = self.state();
        state.boot += 1;
        state.locked = false;
    }

    /// Flips a bit of what is stored. Whether there is such a byte.
    pub fn flip(&self, name: &str, offset: usize) -> bool {
        let mut state = self.state();
        let Some(contents) = state
            .names
            .get(name)
            .copied()
            .and_then(|file| state.files.get_mut(&file))
        else {
            return false;
        };
        let flip = |bytes: &mut Vec<u8>| bytes.get_mut(offset).map(|byte| *byte ^= 0x10).is_some();
        let stored = flip(&mut contents.bytes);
        flip(&mut contents.durable);
        stored
    }

    /// Replaces what a file holds, durably; for tests that damage it.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        let mut state = self.state();
        let state = &mut *state;
        let file = *state.names.entry(name.to_owned()).or_insert_with(|| {
            state.next_file += 1;
            state.next_file
        });
        state.durable_names.insert(name.to_owned(), file);
        let contents = Contents {
            bytes: bytes.to_vec(),
            durable: bytes.to_vec(),
            ..Contents::default()
        };
        state.files.insert(file, contents);
    }

    /// What a file holds, as every reader sees it.
    pub fn look(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state();
        let contents = state.files.get(state.names.get(name)?)?;
        Some(contents.bytes.clone())
    }

    /// Bytes of all files together.
    pub fn used(&self) -> usize {
        self.state().used()
    }

    /// The machine loses its power and gets it back. Whatever was open or locked cannot be used any more.
    pub fn cut_power(&self, unsynced: Unsynced) {
        let mut state = self.state();
        let mut chance = Chance::new(unsynced);
        let State {
            names,
            durable_names,
            unsynced_names,
            ..
        } = &mut *state;
        for naming in unsynced_names.drain(..).filter(|_| chance.keeps()) {
            apply_naming(durable_names, naming);
        }
        *names = durable_names.clone();
        let kept: Vec<FileId> = names.values().copied().collect();
        state.files.retain(|file, _| kept.contains(file));
        for contents in state.files.values_mut() {
            contents.settle(&mut chance);
        }
        state.boot += 1;
        state.locked = false;
        state.is_off = false;
        state.power_ends_at = None;
        state.sync_fails_at = None;
    }
}

impl Default for SimDisk {
    fn default() -> Self {
        Self::new()
    }
}

/// Decides what of the unsynchronised is kept.
struct Chance {
    always: Option<bool>,
    rng: ChaCha8Rng,
}

impl Chance {
    fn new(unsynced: Unsynced) -> Self {
        let (always, seed) = match unsynced {
            Unsynced::Lost => (Some(false), 0),
            Unsynced::Kept => (Some(true), 0),
            Unsynced::Torn(seed) => (None, seed),
        };
        let rng = ChaCha8Rng::seed_from_u64(seed);
        Self { always, rng }
    }

    fn keeps(&mut self) -> bool {
        self.always.unwrap_or_else(|| self.rng.next_u32() & 1 == 1)
    }
}

fn apply_naming(names: &mut BTreeMap<String, FileId>, naming: Naming) {
    match naming {
        Naming::Create { name, file } => {
            names.insert(name, file);
        }
        Naming::Rename { from, to, file } => {
            names.remove(&from);
            names.insert(to, file);
        }
        Naming::Remove { name } => {
            names.remove(&name);
        }
    }
}

fn write_at(bytes: &mut Vec<u8>, offset: usize, new: &[u8]) {
    let end = offset + new.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset..end].copy_from_slice(new);
}

impl Contents {
    /// After a loss of power.
    fn settle(&mut self, chance: &mut Chance) {
        for change in self.unsynced.drain(..) {
            match change {
                Change::Truncate { len } => {
                    if chance.keeps() {
                        self.durable.truncate(len);
                    }
                }
                Change::Write { offset, bytes } => {
                    // The length may have reached the disk without the bytes.
                    if chance.keeps() {
                        let len = self.durable.len().max(offset + bytes.len());
                        self.durable.resize(len, 0);
                    }
                    let mut from = 0;
                    while from < bytes.len() {
                        let in_block = BLOCK_BYTES - (offset + from) % BLOCK_BYTES;
                        let to = bytes.len().min(from + in_block);
                        if chance.keeps() {
                            write_at(&mut self.durable, offset + from, &bytes[from..to]);
                        }
                        from = to;
                    }
                }
            }
        }
        self.bytes = self.durable.clone();
        self.bound_synced();
    }

    /// What was cut off is not durable any more.
    fn bound_synced(&mut self) {
        self.synced = self.synced.min(self.bytes.len());
        self.synced_before = self.synced_before.min(self.bytes.len());
    }

    /// Writes the cache, and only that: what an earlier failure dropped from it stays lost.
    fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            match change {
                Change::Write { offset, bytes } => write_at(&mut self.durable, offset, &bytes),
                Change::Truncate { len } => self.durable.truncate(len),
            }
        }
        if self.bytes.len() > self.synced {
            self.synced_before = self.synced;
            self.synced = self.bytes.len();
        }
    }
}

fn off() -> io::Error {
    io::Error::other("the simulated machine has no power")
}

impl State {
    fn used(&self) -> usize {
        self.names
            .values()
            .filter_map(|file| self.files.get(file))
            .map(|contents| contents.bytes.len())
            .sum()
    }

    /// Counts an operation that changes something.
    fn operate(&mut self) -> io::Result<u64> {
        if self.power_ends_at.is_some_and(|at| self.operations >= at) {
            self.is_off = true;
        }
        if self.is_off {
            self.faults += 1;
            return Err(off());
        }
        self.operations += 1;
        Ok(self.operations - 1)
    }

    fn check_sync(&mut self, operation: u64) -> io::Result<()> {
        if self.sync_fails_at.is_some_and(|at| operation >= at) {
            self.sync_fails_at = None;
            self.faults += 1;
            return Err(io::Error::other("simulated input/output error"));
        }
        Ok(())
    }

    fn contents(&mut self, file: FileId, boot: u64) -> io::Result<&mut Contents> {
        if self.is_off || self.boot != boot {
            return Err(off());
        }
        self.files.get_mut(&file).ok_or_else(off)
    }
}

impl Files for SimDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let state = self.state();
        if state.is_off {
            return Err(off());
        }
        Ok(state.names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn File>> {
        let mut state = self.state();
        state.operate()?;
        state.next_file += 1;
        let (file, name) = (state.next_file, name.to_owned());
        state.files.insert(file, Contents::default());
        state.names.insert(name.clone(), file);
        state.unsynced_names.push(Naming::Create { name, file });
        let boot = state.boot;
        Ok(Box::new(SimFile {
            disk: self.clone(),
            file,
            boot,
        }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn File>> {
        let state = self.state();
        if state.is_off {
            return Err(off());
        }
        let file = state.names.get(name).copied();
        let file = file.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let boot = state.boot;
        Ok(Box::new(SimFile {
            disk: self.clone(),
            file,
            boot,
        }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.operate()?;
        let file = state.names.remove(from);
        let file = file.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        state.names.insert(to.to_owned(), file);
        state.unsynced_names.push(Naming::Rename {
            from: from.to_owned(),
            to: to.to_owned(),
            file,
        });
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.operate()?;
        let removed = state.names.remove(name);
        removed.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let name = name.to_owned();
        state.unsynced_names.push(Naming::Remove { name });
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.state();
        let operation = state.operate()?;
        state.check_sync(operation)?;
        if !state.sync_dir_lies {
            state.durable_names = state.names.clone();
            state.unsynced_names.clear();
        }
        Ok(())
    }

    fn lock(&self) -> io::Result<Option<Box<dyn Lock>>> {
        let mut state = self.state();
        if state.is_off {
            return Err(off());
        }
        if std::mem::replace(&mut state.locked, true) {
            return Ok(None);
        }
        let boot = state.boot;
        Ok(Some(Box::new(SimLock {
            disk: self.clone(),
            boot,
        })))
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::new("simulated").join(name)
    }

    fn delay(&self) -> Duration {
        self.state().delay
    }
}

#[derive(Debug)]
struct SimLock {
    disk: SimDisk,
    boot: u64,
}

impl Lock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if state.boot == self.boot {
            state.locked = false;
        }
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    file: FileId,
    boot: u64,
}

impl File for SimFile {
    fn len(&self) -> io::Result<u64> {
        let mut state = self.disk.state();
        Ok(state.contents(self.file, self.boot)?.bytes.len() as u64)
    }

    fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut state = self.disk.state();
        let bytes = &state.contents(self.file, self.boot)?.bytes;
        let from = bytes.len().min(offset as usize);
        let to = bytes.len().min(from.saturating_add(len));
        Ok(bytes[from..to].to_vec())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.disk.state();
        state.contents(self.file, self.boot)?;
        state.operate()?;
        let room = state.capacity.map(|most| most.saturating_sub(state.used()));
        let fits = bytes.len().min(room.unwrap_or(usize::MAX));
        let contents = state.contents(self.file, self.boot)?;
        let offset = contents.bytes.len();
        contents.bytes.extend_from_slice(&bytes[..fits]);
        contents.unsynced.push(Change::Write {
            offset,
            bytes: bytes[..fits].to_vec(),
        });
        if fits < bytes.len() {
            state.faults += 1;
            return Err(io::Error::new(
                io::ErrorKind::StorageFull,
                "no space left on the simulated disk",
            ));
        }
        Ok(())
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.contents(self.file, self.boot)?;
        state.operate()?;
        let contents = state.contents(self.file, self.boot)?;
        contents.bytes.truncate(len as usize);
        contents.bound_synced();
        let len = len as usize;
        contents.unsynced.push(Change::Truncate { len });
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.contents(self.file, self.boot)?;
        let operation = state.operate()?;
        let lies = state.sync_lies;
        let checked = state.check_sync(operation);
        let contents = state.contents(self.file, self.boot)?;
        if checked.is_err() {
            contents.unsynced.clear();
        } else if !lies {
            contents.sync();
        }
        checked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(synced: bool) -> SimDisk {
        let disk = SimDisk::new();
        let mut file = disk.create("a").unwrap();
        disk.sync_dir().unwrap();
        file.append(&[1; 100]).unwrap();
        file.sync().unwrap();
        file.append(&[2; 2_000]).unwrap();
        if synced {
            file.sync().unwrap();
        }
        disk
    }

    #[test]
    fn what_was_synchronised_survives_and_the_rest_as_the_cut_says() {
        let disk = written(true);
        disk.cut_power(Unsynced::Lost);
        assert_eq!(disk.look("a").unwrap().len(), 2_100);
        let disk = written(false);
        disk.cut_power(Unsynced::Lost);
        assert_eq!(disk.look("a").unwrap(), [1; 100]);
        let disk = written(false);
        disk.cut_power(Unsynced::Kept);
        assert_eq!(disk.look("a").unwrap().len(), 2_100);
        let mut holes = 0;
        for seed in 0..20 {
            let disk = written(false);
            disk.cut_power(Unsynced::Torn(seed));
            let bytes = disk.look("a").unwrap();
            assert_eq!(bytes[..100], [1; 100]);
            let tail = &bytes[100..];
            let zero = tail.iter().position(|byte| *byte == 0);
            holes += usize::from(zero.is_some_and(|zero| tail[zero..].contains(&2)));
        }
        assert!(holes > 0, "a later block is kept behind one that is lost");
    }

    #[test]
    fn a_name_is_durable_when_the_directory_is() {
        let disk = SimDisk::new();
        let mut file = disk.create("a").unwrap();
        file.append(b"x").unwrap();
        file.sync().unwrap();
        disk.sync_dir().unwrap();
        disk.rename("a", "b").unwrap();
        disk.cut_power(Unsynced::Lost);
        assert_eq!(disk.list().unwrap(), ["a"]);
        disk.rename("a", "b").unwrap();
        disk.sync_dir().unwrap();
        disk.create("c").unwrap();
        disk.cut_power(Unsynced::Lost);
        assert_eq!(disk.list().unwrap(), ["b"]);
        assert!(file.append(b"y").is_err(), "opened before the cut");
    }
}
