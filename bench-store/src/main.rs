//! Measures three engines for the durable raft log: redb, the `raft-log` crate and an append-only segment file.
//!
//! `cargo run --release -- DIR [APPENDS]` writes below DIR (which should be on the disk that counts) and prints a table.
//! All engines do the same: entries of 200 bytes, appended in batches, each batch on the disk before the next one.

mod damage;
mod engines;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use engines::{Engine, PayloadFile, RaftLog, Redb, Segment};

/// Bytes in an entry.
pub(crate) const ENTRY: usize = 200;
/// Bytes of entries in the log whose recovery is measured.
const RECOVERED: usize = 100 << 20;
/// Entries in a batch while that log is written.
const FILL: u64 = 4_096;

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() - 1) * percent / 100]
}

/// Median and 99th percentile of an append of `batch` entries with its fsync.
fn appends<E: Engine>(dir: &Path, batch: u64, count: u64) -> [Duration; 2] {
    let dir = fresh(dir, E::NAME);
    let mut engine = E::open(&dir).expect("opens");
    let mut took = Vec::new();
    for n in 0..count {
        let begun = Instant::now();
        engine.append(n * batch, batch).expect("appends");
        took.push(begun.elapsed());
    }
    drop(engine);
    let _ = std::fs::remove_dir_all(dir);
    took.sort_unstable();
    [percentile(&took, 50), percentile(&took, 99)]
}

/// How long it takes to open a log of [`RECOVERED`] bytes and to read every entry; and what it takes on the disk.
fn recovery<E: Engine>(dir: &Path) -> (Duration, u64) {
    let dir = fresh(dir, E::NAME);
    let entries = (RECOVERED / ENTRY) as u64;
    let mut engine = E::open(&dir).expect("opens");
    let mut next = 0;
    while next < entries {
        let batch = FILL.min(entries - next);
        engine.append(next, batch).expect("appends");
        next += batch;
    }
    drop(engine);
    let size = size_of(&dir);
    let begun = Instant::now();
    let mut engine = E::open(&dir).expect("opens");
    let read = engine.read_all().expect("reads");
    let took = begun.elapsed();
    assert_eq!(read, entries, "{} lost entries", E::NAME);
    drop(engine);
    let _ = std::fs::remove_dir_all(dir);
    (took, size)
}

pub(crate) fn fresh(dir: &Path, name: &str) -> PathBuf {
    let dir = dir.join(name);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).expect("the directory can be made");
    dir
}

fn size_of(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir).expect("lists");
    files
        .map(|file| file.and_then(|file| file.metadata()).map_or(0, |m| m.len()))
        .sum()
}

fn row<E: Engine>(dir: &Path, count: u64) {
    // Once before it counts, for the disk's sake.
    appends::<E>(dir, 1, count / 10);
    let [one_50, one_99] = appends::<E>(dir, 1, count);
    let [many_50, many_99] = appends::<E>(dir, 64, count);
    let us = |span: Duration| span.as_micros();
    print!(
        "| {} | {} / {} | {} / {} |",
        E::NAME,
        us(one_50),
        us(one_99),
        us(many_50),
        us(many_99)
    );
    let (took, size) = recovery::<E>(dir);
    println!(" {} | {} |", took.as_millis(), size >> 20);
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let Some(dir) = arguments.next().map(PathBuf::from) else {
        eprintln!("usage: funk-bench-store DIR [APPENDS]");
        std::process::exit(2);
    };
    let count = arguments
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(1_000);
    println!("{count} appends each; entries of {ENTRY} bytes\n");
    println!(
        "| engine | 1 entry, p50 / p99 us | 64 entries, p50 / p99 us | recovery of 100 MiB, ms | MiB on disk |"
    );
    println!("| --- | --- | --- | --- | --- |");
    row::<PayloadFile>(&dir, count);
    row::<Segment>(&dir, count);
    row::<RaftLog>(&dir, count);
    row::<Redb>(&dir, count);
    println!("\n| engine | damage | what opening does, of 1000 entries |");
    println!("| --- | --- | --- |");
    damage::report::<Segment>(&dir);
    damage::report::<RaftLog>(&dir);
    damage::report::<Redb>(&dir);
}
