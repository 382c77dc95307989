//! The log: records in segment files of one store, numbered from the first that is still needed.
//!
//! A segment begins with a header of 40 bytes, whose layout is the same in all versions:
//!
//! | bytes | what |
//! | --- | --- |
//! | 8 | `funk-log` |
//! | 4 | version of the format |
//! | 4 | CRC-32C of the header without these four bytes |
//! | 8 | store id |
//! | 8 | number of the segment |
//! | 8 | sequence number of its first record |
//!
//! Its first record is a checkpoint: what the segments before it come to, entries excepted. So they can be removed once
//! their entries are not needed. A segment is begun only when the one before it is durable to its last byte.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use super::files::{File, Files};
use super::record::{
    Place, RECORD_HEADER, checksum, proves_durable, read_record, u32_at, u64_at, write_record,
};
use super::{FORMAT_VERSION, Fault, StoreId, sync_dir};

/// A segment is closed when it has this many bytes: small enough that removing old ones keeps the log's size near what
/// is needed, large enough that it is rare.
pub(crate) const SEGMENT_BYTES: u64 = 16 << 20;
/// Bytes in the header of a segment.
pub(crate) const SEGMENT_HEADER: usize = 40;
const MAGIC: &[u8; 8] = b"funk-log";
const SUFFIX: &str = ".log";
/// What the last segment is called while it is written anew.
const TEMPORARY: &str = ".log.new";

/// Name of a segment file.
pub(crate) fn segment_name(store: StoreId, number: u64) -> String {
    format!("{store}-{number:010}{SUFFIX}")
}

/// The store and the number in the name of a segment file.
pub(crate) fn parse_segment_name(name: &str) -> Option<(StoreId, u64)> {
    let (store, number) = name.strip_suffix(SUFFIX)?.split_once('-')?;
    let store = StoreId(u64::from_str_radix(store, 16).ok()?);
    let number = number.parse().ok()?;
    (segment_name(store, number) == name).then_some((store, number))
}

/// Whether the file is a segment that was being written anew.
pub(crate) fn is_temporary(name: &str) -> bool {
    name.ends_with(TEMPORARY)
}

fn write_header(place: Place, first: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(SEGMENT_HEADER);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    for word in [place.store.0, place.segment, first] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    let crc = checksum(&[&bytes[..12], &bytes[16..]]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// The sequence number of the first record; `None`: no whole header.
fn read_header(bytes: &[u8], place: Place, name: &str) -> Result<Option<u64>, Fault> {
    let Some(header) = bytes.get(..SEGMENT_HEADER) else {
        return Ok(None);
    };
    let crc = checksum(&[&header[..12], &header[16..]]);
    if &header[..8] != MAGIC || u32_at(header, 12) != Some(crc) {
        return Ok(None);
    }
    match u32_at(header, 8) {
        Some(FORMAT_VERSION) => {}
        other => return Err(Fault::Version(name.to_owned(), other.unwrap_or_default())),
    }
    let words = [16, 24, 32].map(|at| u64_at(header, at));
    if words[..2] != [Some(place.store.0), Some(place.segment)] {
        return Err(Fault::damaged(
            name,
            16,
            "the file was renamed, or is a copy of another",
        ));
    }
    Ok(words[2])
}

/// A segment that is not written to any more.
#[derive(Clone, Copy, Debug)]
struct Sealed {
    number: u64,
    /// The highest entry in it.
    highest: Option<u64>,
}

/// What stands in the segment files.
#[derive(Debug)]
pub(crate) struct Found {
    place: Place,
    sealed: VecDeque<Sealed>,
    highest: Option<u64>,
    /// Length of the last segment, without a torn tail.
    len: u64,
    /// Bytes of the torn tail.
    pub(crate) torn_bytes: u64,
    /// A segment whose beginning was interrupted: it holds nothing.
    unborn: Option<String>,
    next: u64,
}

impl Found {
    /// How many records there are, and have been.
    pub(crate) fn records(&self) -> u64 {
        self.next
    }

    /// Number of the first segment.
    pub(crate) fn oldest(&self) -> u64 {
        self.sealed
            .front()
            .map_or(self.place.segment, |oldest| oldest.number)
    }

    /// How many segment files hold them.
    pub(crate) fn segments(&self) -> usize {
        self.sealed.len() + 1
    }
}

/// What the reader of a log says of a record: the index of the entry in it, if it is one; or what is wrong with it.
pub(crate) type Visit<'a> = &'a mut dyn FnMut(bool, &[u8]) -> Result<Option<u64>, String>;

fn read_file(files: &dyn Files, name: &str) -> Result<Vec<u8>, Fault> {
    let file = files.open(name).map_err(Fault::io("open", name))?;
    let read = || file.read(0, usize::try_from(file.len()?).unwrap_or(usize::MAX));
    read().map_err(Fault::io("read", name))
}

/// Reads the log of a store without changing anything: `visit` is shown each payload, and whether it is the first of its
/// segment.
///
/// A torn tail is what follows the last whole record of the last segment, if no record behind it proves that it had
/// been durable. Whatever else is not as it was written is a fault with its place.
pub(crate) fn read(files: &dyn Files, store: StoreId, visit: Visit<'_>) -> Result<Found, Fault> {
    let names = files.list().map_err(Fault::io("list", ""))?;
    let mut numbers: Vec<u64> = names
        .iter()
        .filter_map(|name| parse_segment_name(name))
        .filter_map(|(of, number)| (of == store).then_some(number))
        .collect();
    let missing = |number| Fault::damaged(&segment_name(store, number), 0, "the file is missing");
    let (Some(&first), Some(&newest)) = (numbers.first(), numbers.last()) else {
        return Err(missing(0));
    };
    if let Some(gap) = (first..=newest).find(|number| !numbers.contains(number)) {
        return Err(missing(gap));
    }
    // A segment without a header that is the last one may never have been begun.
    let newest_place = Place {
        store,
        segment: newest,
    };
    let newest_name = segment_name(store, newest);
    let newest_bytes = read_file(files, &newest_name)?;
    let header = read_header(&newest_bytes, newest_place, &newest_name)?;
    let has_records =
        header.is_some() && read_record(&newest_bytes, newest_place, SEGMENT_HEADER).is_some();
    let unborn = (!has_records && numbers.len() > 1)
        .then(|| numbers.pop())
        .flatten();
    let mut reader = Reader {
        found: Found {
            place: newest_place,
            sealed: VecDeque::new(),
            highest: None,
            len: 0,
            torn_bytes: 0,
            unborn: unborn.map(|_| newest_name.clone()),
            next: 0,
        },
        expected: None,
    };
    for (at, number) in numbers.iter().enumerate() {
        let is_last = at + 1 == numbers.len();
        let name = segment_name(store, *number);
        let bytes = match number == &newest {
            true => newest_bytes.clone(),
            false => read_file(files, &name)?,
        };
        let place = Place {
            store,
            segment: *number,
        };
        reader.read_segment(&bytes, place, &name, is_last, visit)?;
    }
    if unborn.is_some() && proves_durable(&newest_bytes, newest_place, 0, reader.found.next) {
        return Err(Fault::damaged(
            &newest_name,
            0,
            "its beginning is not what was written",
        ));
    }
    Ok(reader.found)
}

struct Reader {
    found: Found,
    expected: Option<u64>,
}

impl Reader {
    fn read_segment(
        &mut self,
        bytes: &[u8],
        place: Place,
        name: &str,
        is_last: bool,
        visit: Visit<'_>,
    ) -> Result<(), Fault> {
        let first = read_header(bytes, place, name)?
            .ok_or_else(|| Fault::damaged(name, 0, "its beginning is not what was written"))?;
        let expected = *self.expected.get_or_insert(first);
        if first != expected {
            let what = format!("it begins with record {first}, not with {expected}");
            return Err(Fault::damaged(name, 32, what));
        }
        let mut sequence = first;
        let mut highest = None;
        let mut offset = SEGMENT_HEADER;
        while offset < bytes.len() {
            let Some(record) = read_record(bytes, place, offset) else {
                let torn = is_last
                    && offset > SEGMENT_HEADER
                    && !proves_durable(bytes, place, offset + 1, sequence);
                if torn {
                    self.found.torn_bytes = (bytes.len() - offset) as u64;
                    break;
                }
                let what = format!("record {sequence} is not what was written");
                return Err(Fault::damaged(name, offset as u64, what));
            };
            if record.sequence != sequence {
                let what = format!("record {} stands where {sequence} should", record.sequence);
                return Err(Fault::damaged(name, offset as u64, what));
            }
            let index = visit(offset == SEGMENT_HEADER, record.payload)
                .map_err(|what| Fault::damaged(name, offset as u64, what))?;
            highest = highest.max(index);
            sequence += 1;
            offset = record.end;
        }
        if offset == SEGMENT_HEADER {
            return Err(Fault::damaged(
                name,
                offset as u64,
                "its records are missing",
            ));
        }
        self.expected = Some(sequence);
        self.found.next = sequence;
        if is_last {
            self.found.place = place;
            self.found.len = offset as u64;
            self.found.highest = highest;
        } else {
            let number = place.segment;
            self.found.sealed.push_back(Sealed { number, highest });
        }
        Ok(())
    }
}

/// The log, open for writing. An error of any method leaves it unusable: what is on the disk is then unknown.
#[derive(Debug)]
pub(crate) struct Log {
    files: Arc<dyn Files>,
    place: Place,
    file: Box<dyn File>,
    /// Length of the last segment, with what is in `buffer`.
    len: u64,
    highest: Option<u64>,
    sealed: VecDeque<Sealed>,
    next: u64,
    /// Records below this number are durable.
    synced: u64,
    buffer: Vec<u8>,
    segment_bytes: u64,
}

impl Log {
    /// The log of a new store, with its first checkpoint; durable on return.
    pub(crate) fn create(
        files: Arc<dyn Files>,
        store: StoreId,
        checkpoint: &[u8],
    ) -> io::Result<Self> {
        let place = Place { store, segment: 0 };
        let (file, len) = begin_segment(&*files, place, 0, checkpoint)?;
        Ok(Self {
            files,
            place,
            file,
            len,
            highest: None,
            sealed: VecDeque::new(),
            next: 1,
            synced: 1,
            buffer: Vec::new(),
            segment_bytes: SEGMENT_BYTES,
        })
    }

    /// Goes on after what was found: without the torn tail, and without what was never begun. All of it is durable on
    /// return.
    ///
    /// The last segment is written anew and replaced whole. What can be read of it may be in the cache only, from a process
    /// that was killed or stopped; and where that one's fsync had failed, the cache takes it for written, so that another
    /// fsync would do nothing.
    pub(crate) fn resume(files: Arc<dyn Files>, found: Found) -> io::Result<Self> {
        if let Some(unborn) = &found.unborn {
            files.remove(unborn)?;
        }
        let name = segment_name(found.place.store, found.place.segment);
        let len = usize::try_from(found.len).unwrap_or(usize::MAX);
        let whole = files.open(&name)?.read(0, len)?;
        let temporary = format!("{}{TEMPORARY}", name.trim_end_matches(SUFFIX));
        let mut file = files.create(&temporary)?;
        file.append(&whole)?;
        file.sync()?;
        files.rename(&temporary, &name)?;
        sync_dir(&*files)?;
        Ok(Self {
            files,
            place: found.place,
            file,
            len: found.len,
            highest: found.highest,
            sealed: found.sealed,
            next: found.next,
            synced: found.next,
            buffer: Vec::new(),
            segment_bytes: SEGMENT_BYTES,
        })
    }

    /// Rolls over at another size, for tests.
    #[cfg(test)]
    pub(crate) fn roll_at(&mut self, bytes: u64) {
        self.segment_bytes = bytes;
    }

    /// Whether the next record belongs into a new segment.
    pub(crate) fn is_full(&self) -> bool {
        self.len >= self.segment_bytes
    }

    /// Puts a record behind the others; `index` is that of the entry in it. Written by [`write`](Self::write).
    pub(crate) fn append(&mut self, payload: &[u8], index: Option<u64>) {
        let before = self.buffer.len();
        write_record(
            &mut self.buffer,
            self.place,
            self.len,
            self.next,
            self.synced,
            payload,
        );
        self.len += (self.buffer.len() - before) as u64;
        self.next += 1;
        self.highest = self.highest.max(index);
    }

    /// Hands what was appended to the operating system.
    pub(crate) fn write(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.file.append(&self.buffer)?;
        self.buffer.clear();
        // A batch may have been large.
        self.buffer.shrink_to(1 << 20);
        Ok(())
    }

    /// Returns when all that was written is durable.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        self.file.sync()?;
        self.synced = self.next;
        Ok(())
    }

    /// Begins a new segment; everything before it, and it, are durable on return.
    pub(crate) fn roll(&mut self, checkpoint: &[u8]) -> io::Result<()> {
        self.write()?;
        self.sync()?;
        let place = Place {
            segment: self.place.segment + 1,
            ..self.place
        };
        let (file, len) = begin_segment(&*self.files, place, self.next, checkpoint)?;
        self.sealed.push_back(Sealed {
            number: self.place.segment,
            highest: self.highest,
        });
        self.place = place;
        self.file = file;
        self.len = len;
        self.highest = None;
        self.next += 1;
        self.synced = self.next;
        Ok(())
    }

    /// Removes the oldest segments, as long as they hold no entries above `index`. The record that says that those up
    /// to it are not needed must be durable.
    pub(crate) fn release(&mut self, index: u64) -> io::Result<()> {
        while let Some(oldest) = self.sealed.front() {
            if oldest.highest.is_some_and(|highest| highest > index) {
                break;
            }
            let name = segment_name(self.place.store, oldest.number);
            self.files.remove(&name)?;
            // One after the other: a gap would be taken for damage.
            sync_dir(&*self.files)?;
            self.sealed.pop_front();
        }
        Ok(())
    }
}

fn begin_segment(
    files: &dyn Files,
    place: Place,
    first: u64,
    checkpoint: &[u8],
) -> io::Result<(Box<dyn File>, u64)> {
    let mut bytes = write_header(place, first);
    debug_assert_eq!(bytes.len(), SEGMENT_HEADER);
    let offset = bytes.len() as u64;
    write_record(&mut bytes, place, offset, first, first, checkpoint);
    debug_assert!(bytes.len() >= SEGMENT_HEADER + RECORD_HEADER);
    let mut file = files.create(&segment_name(place.store, place.segment))?;
    file.append(&bytes)?;
    file.sync()?;
    sync_dir(files)?;
    Ok((file, bytes.len() as u64))
}
