//! What a process prints: every line in a file, to be read when a test fails, and in memory, to be waited for.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The lines of one pipe.
pub(crate) struct Transcript {
    file: PathBuf,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    lines: Mutex<Lines>,
    changed: Condvar,
}

#[derive(Default)]
struct Lines {
    lines: Vec<String>,
    closed: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Transcript {
    /// Reads `pipe` until its end, on a thread of its own.
    pub(crate) fn record(pipe: impl Read + Send + 'static, file: PathBuf) -> Self {
        let mut copy = File::create(&file)
            .unwrap_or_else(|error| panic!("{} cannot be made: {error}", file.display()));
        let shared = Arc::new(Shared::default());
        let writer = shared.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                // Without the copy the test still judges; with it a failure can be understood.
                let _ = writeln!(copy, "{line}");
                writer.lock().lines.push(line);
                writer.changed.notify_all();
            }
            writer.lock().closed = true;
            writer.changed.notify_all();
        });
        Self { file, shared }
    }

    /// Where the lines are kept.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// All lines so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.shared.lock().lines.clone()
    }

    /// How many lines there are.
    pub(crate) fn count(&self) -> usize {
        self.shared.lock().lines.len()
    }

    /// Waits for the first line from number `from` on in which `wanted` finds something. `None`: the process ended, or
    /// patience did.
    pub(crate) fn wait<T>(
        &self,
        from: usize,
        patience: Duration,
        mut wanted: impl FnMut(&str) -> Option<T>,
    ) -> Option<T> {
        let until = Instant::now() + patience;
        let mut next = from;
        let mut lines = self.shared.lock();
        loop {
            while let Some(line) = lines.lines.get(next) {
                if let Some(found) = wanted(line) {
                    return Some(found);
                }
                next += 1;
            }
            let left = until.checked_duration_since(Instant::now())?;
            if lines.closed {
                return None;
            }
            lines = self
                .shared
                .changed
                .wait_timeout(lines, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Waits until the process has closed the pipe, which it does when it ends.
    pub(crate) fn wait_closed(&self, patience: Duration) -> bool {
        let lines = self.shared.lock();
        let (lines, _) = self
            .shared
            .changed
            .wait_timeout_while(lines, patience, |lines| !lines.closed)
            .unwrap_or_else(PoisonError::into_inner);
        lines.closed
    }
}
