//! A snapshot of the state machine: one file, written aside and renamed when it is durable.
//!
//! | bytes | what |
//! | --- | --- |
//! | 8 | `funk-snp` |
//! | 4 | version of the format |
//! | 4 | CRC-32C of the header without these four bytes, and of the description |
//! | 8 | store id |
//! | 8 | index of the last entry in it |
//! | 8 | bytes in the state |
//! | 8 | bytes in the description |
//! | n | the description (the raft module's business) |
//! | n | the state, in chunks of 1 MiB, each after its CRC-32C |

use bytes::{Bytes, BytesMut};

use super::files::{File, Files};
use super::record::{checksum, u32_at, u64_at};
use super::{FORMAT_VERSION, Fault, StoreId, sync_dir};

/// Bytes of state under one checksum; so much is written and read at once.
pub(crate) const CHUNK_BYTES: usize = 1 << 20;
const MAGIC: &[u8; 8] = b"funk-snp";
const HEADER: usize = 48;
const SUFFIX: &str = ".snapshot";
const TEMPORARY: &str = ".snapshot.new";
/// A description names the members of a configuration.
const MAX_DESCRIPTION_BYTES: u64 = 64 << 20;

/// Name of the snapshot that ends with the entry at `index`.
pub(crate) fn snapshot_name(store: StoreId, index: u64) -> String {
    format!("{store}-{index:020}{SUFFIX}")
}

/// The store and the index in the name of a snapshot file.
pub(crate) fn parse_snapshot_name(name: &str) -> Option<(StoreId, u64)> {
    let (store, index) = name.strip_suffix(SUFFIX)?.split_once('-')?;
    let store = StoreId(u64::from_str_radix(store, 16).ok()?);
    let index = index.parse().ok()?;
    (snapshot_name(store, index) == name).then_some((store, index))
}

/// Whether the file is a snapshot that was being written.
pub(crate) fn is_temporary(name: &str) -> bool {
    name.ends_with(TEMPORARY)
}

/// Writes a snapshot; durable on return, and the only one of its store.
pub(crate) fn write(
    files: &dyn Files,
    store: StoreId,
    index: u64,
    description: &[u8],
    state: &[u8],
) -> std::io::Result<()> {
    let mut head = MAGIC.to_vec();
    head.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    head.extend_from_slice(&[0; 4]);
    for word in [store.0, index, state.len() as u64, description.len() as u64] {
        head.extend_from_slice(&word.to_le_bytes());
    }
    head.extend_from_slice(description);
    let crc = checksum(&[&head[..12], &head[16..]]);
    head[12..16].copy_from_slice(&crc.to_le_bytes());
    let temporary = format!("{store}{TEMPORARY}");
    let mut file = files.create(&temporary)?;
    file.append(&head)?;
    for chunk in state.chunks(CHUNK_BYTES) {
        let mut bytes = Vec::with_capacity(chunk.len() + 4);
        bytes.extend_from_slice(&checksum(&[chunk]).to_le_bytes());
        bytes.extend_from_slice(chunk);
        file.append(&bytes)?;
    }
    file.sync()?;
    files.rename(&temporary, &snapshot_name(store, index))?;
    sync_dir(files)?;
    remove_others(files, store, index)
}

/// Removes the snapshots of a store except this one. They may come back if the power is cut now; the newest counts.
pub(crate) fn remove_others(files: &dyn Files, store: StoreId, index: u64) -> std::io::Result<()> {
    for name in files.list()? {
        let older = parse_snapshot_name(&name).is_some_and(|(of, at)| of == store && at != index);
        if older {
            files.remove(&name)?;
        }
    }
    Ok(())
}

/// The index of the newest snapshot of a store.
pub(crate) fn newest(files: &dyn Files, store: StoreId) -> Result<Option<u64>, Fault> {
    let names = files.list().map_err(Fault::io("list", ""))?;
    let snapshots = names.iter().filter_map(|name| parse_snapshot_name(name));
    let own = snapshots.filter_map(|(of, index)| (of == store).then_some(index));
    Ok(own.max())
}

/// An open snapshot whose beginning was checked.
pub(crate) struct Snapshot {
    name: String,
    file: Box<dyn File>,
    state_bytes: u64,
    /// Offset of the first chunk.
    begin: u64,
    /// As it was given to [`write`].
    pub(crate) description: Vec<u8>,
}

/// Opens the snapshot that ends with the entry at `index`.
pub(crate) fn open(files: &dyn Files, store: StoreId, index: u64) -> Result<Snapshot, Fault> {
    let name = snapshot_name(store, index);
    let failed = Fault::io("read", &name);
    let damaged = |offset, what: &str| Fault::damaged(&name, offset, what);
    let file = files.open(&name).map_err(&failed)?;
    let mut head = file.read(0, HEADER).map_err(&failed)?;
    if head.len() < HEADER || &head[..8] != MAGIC {
        return Err(damaged(0, "its beginning is not what was written"));
    }
    let word = |at| u64_at(&head, at).unwrap_or_default();
    let (state_bytes, description_bytes) = (word(32), word(40));
    let named = (word(16), word(24)) == (store.0, index);
    if description_bytes > MAX_DESCRIPTION_BYTES {
        return Err(damaged(40, "its beginning is not what was written"));
    }
    let description = file
        .read(HEADER as u64, description_bytes as usize)
        .map_err(&failed)?;
    head.extend_from_slice(&description);
    let whole = description.len() as u64 == description_bytes;
    if !whole || u32_at(&head, 12) != Some(checksum(&[&head[..12], &head[16..]])) {
        return Err(damaged(0, "its beginning is not what was written"));
    }
    match u32_at(&head, 8) {
        Some(FORMAT_VERSION) => {}
        found => return Err(Fault::Version(name, found.unwrap_or_default())),
    }
    if !named {
        return Err(damaged(16, "the file was renamed, or is a copy of another"));
    }
    let chunks = state_bytes.div_ceil(CHUNK_BYTES as u64);
    let begin = head.len() as u64;
    let expected = begin.saturating_add(state_bytes).saturating_add(4 * chunks);
    let len = file.len().map_err(&failed)?;
    if len != expected {
        let what = format!("it has {len} bytes, not {expected}");
        return Err(Fault::damaged(&name, len.min(expected), what));
    }
    Ok(Snapshot {
        name,
        file,
        state_bytes,
        begin,
        description,
    })
}

impl Snapshot {
    /// Bytes in the state.
    pub(crate) fn state_bytes(&self) -> u64 {
        self.state_bytes
    }

    /// Reads the state chunk by chunk, and shows each that is whole.
    pub(crate) fn read_chunks(&self, mut show: impl FnMut(&[u8])) -> Result<(), Fault> {
        let (mut offset, mut left) = (self.begin, self.state_bytes);
        while left > 0 {
            let len = left.min(CHUNK_BYTES as u64) as usize;
            let chunk = self.file.read(offset, len + 4);
            let chunk = chunk.map_err(Fault::io("read", &self.name))?;
            let body = chunk.get(4..).unwrap_or_default();
            let whole = super::ignores_checksums() || u32_at(&chunk, 0) == Some(checksum(&[body]));
            if body.len() != len || !whole {
                return Err(Fault::damaged(
                    &self.name,
                    offset,
                    "the state is not what was written",
                ));
            }
            show(body);
            offset += chunk.len() as u64;
            left -= len as u64;
        }
        Ok(())
    }

    /// The whole state.
    pub(crate) fn read(&self) -> Result<Bytes, Fault> {
        // The length is believed only as far as the file goes: it was compared.
        let mut state = BytesMut::with_capacity(self.state_bytes as usize);
        self.read_chunks(|chunk| state.extend_from_slice(chunk))?;
        Ok(state.freeze())
    }
}
