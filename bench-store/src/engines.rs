//! The engines, each used as its documentation says for a log whose appends must survive a loss of power.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};

use raft_log::api::raft_log_writer::RaftLogWriter;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use crate::ENTRY;

/// A log of entries.
pub(crate) trait Engine: Sized {
    /// As in the table.
    const NAME: &'static str;
    fn open(dir: &Path) -> io::Result<Self>;
    /// Returns when the entries `first..first + count` would survive a loss of power.
    fn append(&mut self, first: u64, count: u64) -> io::Result<()>;
    /// Reads every entry; how many there are.
    fn read_all(&mut self) -> io::Result<u64>;
}

pub(crate) fn entry(index: u64) -> Vec<u8> {
    let mut bytes = vec![(index % 251) as u8; ENTRY];
    bytes[..8].copy_from_slice(&index.to_le_bytes());
    bytes
}

fn other(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(error.to_string())
}

/// The floor: the bytes alone, written and synchronised.
pub(crate) struct PayloadFile(File);

impl Engine for PayloadFile {
    const NAME: &'static str = "bytes alone";

    fn open(dir: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let options = options.create(true).append(true).read(true);
        Ok(Self(options.open(dir.join("bytes"))?))
    }

    fn append(&mut self, first: u64, count: u64) -> io::Result<()> {
        let bytes: Vec<u8> = (first..first + count).flat_map(entry).collect();
        self.0.write_all(&bytes)?;
        self.0.sync_data()
    }

    fn read_all(&mut self) -> io::Result<u64> {
        let mut bytes = Vec::new();
        self.0.read_to_end(&mut bytes)?;
        Ok((bytes.len() / ENTRY) as u64)
    }
}

/// Records of a length, a sequence number, what is known to be synchronised, and a CRC-32C.
pub(crate) struct Segment {
    file: File,
    path: PathBuf,
    next: u64,
}

/// Bytes before the payload: checksum, length, number, synchronised.
const HEADER: usize = 24;

impl Segment {
    /// The entries up to the first that is not whole; if a later record proves that it was, an error.
    fn scan(bytes: &[u8]) -> io::Result<u64> {
        let record = |at: usize| -> Option<(usize, u64, u64)> {
            let header = bytes.get(at..at + HEADER)?;
            let word = |from: usize| u64::from_le_bytes(header[from..from + 8].try_into().unwrap());
            let crc = u32::from_le_bytes(header[..4].try_into().unwrap());
            let len = u32::from_le_bytes(header[4..8].try_into().unwrap()) as usize;
            let body = bytes.get(at + 4..at.checked_add(HEADER)?.checked_add(len)?)?;
            let whole = crc32c::crc32c_append(at as u32, body) == crc;
            whole.then(|| (at + HEADER + len, word(8), word(16)))
        };
        let (mut at, mut count) = (0, 0);
        while at < bytes.len() {
            let Some((end, number, _)) = record(at) else {
                let proof = (at + 1..bytes.len())
                    .filter_map(record)
                    .any(|(_, _, synced)| synced > count);
                if proof {
                    return Err(other(format!("the record at offset {at} is damaged")));
                }
                break;
            };
            if number != count {
                return Err(other(format!(
                    "record {number} at offset {at}, not {count}"
                )));
            }
            (at, count) = (end, count + 1);
        }
        Ok(count)
    }
}

impl Engine for Segment {
    const NAME: &'static str = "segment file";

    fn open(dir: &Path) -> io::Result<Self> {
        let path = dir.join("segment");
        let mut options = OpenOptions::new();
        let mut file = options.create(true).append(true).read(true).open(&path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let next = Self::scan(&bytes)?;
        Ok(Self { file, path, next })
    }

    fn append(&mut self, first: u64, count: u64) -> io::Result<()> {
        let synced = self.next;
        let mut at = self.file.metadata()?.len();
        let mut batch = Vec::new();
        for index in first..first + count {
            let payload = entry(index);
            let mut body = Vec::with_capacity(HEADER + payload.len());
            body.extend_from_slice(&(payload.len() as u32).to_le_bytes());
            body.extend_from_slice(&self.next.to_le_bytes());
            body.extend_from_slice(&synced.to_le_bytes());
            body.extend_from_slice(&payload);
            let crc = crc32c::crc32c_append(at as u32, &body);
            batch.extend_from_slice(&crc.to_le_bytes());
            batch.extend_from_slice(&body);
            at += 4 + body.len() as u64;
            self.next += 1;
        }
        self.file.write_all(&batch)?;
        self.file.sync_data()
    }

    fn read_all(&mut self) -> io::Result<u64> {
        // Opening has read and checked them; the log is served from memory.
        let bytes = std::fs::read(&self.path)?;
        std::hint::black_box(&bytes);
        Ok(self.next)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Types;

impl raft_log::Types for Types {
    type LogId = (u64, u64);
    type LogPayload = Vec<u8>;
    type Vote = (u64, u64);
    type UserData = String;
    type Callback = SyncSender<io::Result<()>>;

    fn log_index(id: &(u64, u64)) -> u64 {
        id.1
    }

    fn payload_size(payload: &Vec<u8>) -> u64 {
        payload.len() as u64
    }
}

/// The crate `raft-log`, without the pause in which it waits for more to write.
pub(crate) struct RaftLog(raft_log::RaftLog<Types>);

impl Engine for RaftLog {
    const NAME: &'static str = "raft-log";

    fn open(dir: &Path) -> io::Result<Self> {
        let mut config = raft_log::Config::new(dir.to_str().expect("plain path"));
        config.wal.flush_batch_wait = Some(std::time::Duration::ZERO);
        Ok(Self(raft_log::RaftLog::open(Arc::new(config))?))
    }

    fn append(&mut self, first: u64, count: u64) -> io::Result<()> {
        let entries = (first..first + count).map(|index| ((1, index), entry(index)));
        self.0.append(entries)?;
        let (done, flushed) = sync_channel(1);
        self.0.flush(true, Some(done))?;
        flushed.recv().map_err(other)?
    }

    fn read_all(&mut self) -> io::Result<u64> {
        let mut count = 0;
        for entry in self.0.read(0, u64::MAX) {
            std::hint::black_box(entry?);
            count += 1;
        }
        Ok(count)
    }
}

const TABLE: TableDefinition<u64, &[u8]> = TableDefinition::new("log");

/// redb, with its durability for each commit (one fsync where it can, two where it must).
pub(crate) struct Redb(Database);

impl Engine for Redb {
    const NAME: &'static str = "redb";

    fn open(dir: &Path) -> io::Result<Self> {
        let database = Database::create(dir.join("log.redb")).map_err(other)?;
        Ok(Self(database))
    }

    fn append(&mut self, first: u64, count: u64) -> io::Result<()> {
        let write = self.0.begin_write().map_err(other)?;
        {
            let mut table = write.open_table(TABLE).map_err(other)?;
            for index in first..first + count {
                table
                    .insert(index, entry(index).as_slice())
                    .map_err(other)?;
            }
        }
        write.commit().map_err(other)
    }

    fn read_all(&mut self) -> io::Result<u64> {
        let read = self.0.begin_read().map_err(other)?;
        let table = read.open_table(TABLE).map_err(other)?;
        let mut count = 0;
        for item in table.iter().map_err(other)? {
            let (_, value) = item.map_err(other)?;
            std::hint::black_box(value.value().to_vec());
            count += 1;
        }
        Ok(count)
    }
}
