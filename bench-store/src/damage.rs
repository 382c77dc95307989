//! What each engine does with a file that is not as it was written.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use crate::engines::Engine;
use crate::fresh;

const ENTRIES: u64 = 1_000;

/// The largest file: the one that the entries are in.
fn data_file(dir: &Path) -> PathBuf {
    let files = fs::read_dir(dir)
        .expect("lists")
        .map(|file| file.expect("lists").path());
    files
        .max_by_key(|path| fs::metadata(path).map_or(0, |m| m.len()))
        .expect("a file")
}

fn opened<E: Engine>(dir: &Path) -> String {
    let result = catch_unwind(AssertUnwindSafe(|| {
        E::open(dir).and_then(|mut engine| engine.read_all())
    }));
    match result {
        Ok(Ok(count)) => format!("{count} entries, no error"),
        Ok(Err(error)) => format!("error: {}", error.to_string().replace('\n', " ")),
        Err(_) => "panics".to_owned(),
    }
}

/// Offset of the last byte that belongs to the entry.
fn place_of(bytes: &[u8], index: u64) -> usize {
    let entry = crate::engines::entry(index);
    let found = bytes
        .windows(entry.len())
        .position(|window| window == entry);
    found.expect("the entry is stored as it is") + 100
}

pub(crate) fn report<E: Engine>(dir: &Path) {
    let damages: [(&str, fn(&mut Vec<u8>)); 5] = [
        ("last 50 bytes cut off", |bytes| {
            bytes.truncate(bytes.len() - 50)
        }),
        ("last 50 bytes are zeros", |bytes| {
            let from = bytes.len() - 50;
            bytes[from..].fill(0);
        }),
        ("a byte flipped in entry 500", |bytes| {
            let at = place_of(bytes, 500);
            bytes[at] ^= 0x40;
        }),
        ("a byte flipped in entry 998, the last but one", |bytes| {
            let at = place_of(bytes, 998);
            bytes[at] ^= 0x40;
        }),
        ("a block of 512 zeros within entries 500 to 503", |bytes| {
            let at = place_of(bytes, 500).next_multiple_of(512);
            bytes[at..at + 512].fill(0);
        }),
    ];
    for (what, damage) in damages {
        let dir = fresh(dir, E::NAME);
        let mut engine = E::open(&dir).expect("opens");
        for index in 0..ENTRIES {
            engine.append(index, 1).expect("appends");
        }
        drop(engine);
        let path = data_file(&dir);
        let mut bytes = fs::read(&path).expect("reads");
        damage(&mut bytes);
        fs::write(&path, bytes).expect("writes");
        println!("| {} | {what} | {} |", E::NAME, opened::<E>(&dir));
        let _ = fs::remove_dir_all(dir);
    }
}
