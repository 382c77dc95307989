//! Writes the durable log: in order, in batches, off the asynchronous threads.
//!
//! Whoever changes the log queues a record. One task at a time takes all that is queued, writes it, synchronises it and
//! only then says so; what is queued meanwhile is the next batch. An error is final: what the disk holds is unknown from
//! then on, so nothing is retried, everything that waits is told, and raft stops.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::log_record::{Head, LogRecord};
use super::types::LogId;
use crate::mutants::{Mutant, mutated};
use crate::runtime::Environment;
use crate::store::files::Files;
use crate::store::segments::Log;

/// The log on the disk.
#[derive(Debug)]
pub(super) struct Journal {
    pub(super) files: Arc<dyn Files>,
    queue: Mutex<Queue>,
    /// Held while a batch is written.
    writer: Mutex<Writer>,
    /// Held while a snapshot is written or read.
    pub(super) snapshots: Mutex<()>,
}

/// What is not yet on the disk.
#[derive(Debug, Default)]
struct Queue {
    batch: Batch,
    /// Written with the next batch; it is not worth one of its own.
    committed: Option<Option<LogId>>,
    is_writing: bool,
    failed: Option<Failure>,
}

/// Records that are written together, and who waits for them.
#[derive(Debug, Default)]
struct Batch {
    records: Vec<LogRecord>,
    /// How many calls of `append` are among them.
    appends: usize,
    waiting: Vec<oneshot::Sender<Result<(), Failure>>>,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.records.is_empty() && self.waiting.is_empty()
    }

    fn purged(&self) -> Option<u64> {
        let purged = self.records.iter().filter_map(|record| match record {
            LogRecord::Purge(upto) => Some(upto.index),
            _ => None,
        });
        purged.max()
    }
}

/// What became of a batch: whom to tell, and what may be removed.
#[derive(Debug, Default)]
struct Taken {
    purged: Option<u64>,
    appends: usize,
    waiting: Vec<oneshot::Sender<Result<(), Failure>>>,
}

/// Why nothing is written any more.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    kind: io::ErrorKind,
    text: Arc<str>,
}

impl Failure {
    fn new(error: &io::Error) -> Self {
        let advice = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                "make room on the disk, then start the node again"
            }
            _ => "look at the disk and at the system's log, then start the node again",
        };
        let text = format!(
            "the data directory cannot be written: {error}. Nothing is retried, since what the disk holds is unknown \
             now: {advice}"
        );
        Self {
            kind: error.kind(),
            text: text.into(),
        }
    }

    fn closed() -> Self {
        Self {
            kind: io::ErrorKind::NotConnected,
            text: "the store was closed".into(),
        }
    }

    pub(super) fn error(&self) -> io::Error {
        io::Error::new(self.kind, &*self.text)
    }
}

/// The files, and what the records in them come to.
#[derive(Debug)]
pub(super) struct Writer {
    log: Log,
    head: Head,
}

pub(super) fn encode(record: &LogRecord) -> io::Result<Vec<u8>> {
    postcard::to_stdvec(record).map_err(io::Error::other)
}

impl Writer {
    pub(super) fn new(log: Log, head: Head) -> Self {
        Self { log, head }
    }

    /// Rolls over at another size, for tests.
    #[cfg(test)]
    pub(super) fn roll_at(&mut self, bytes: u64) {
        self.log.roll_at(bytes);
    }

    fn put(&mut self, record: &LogRecord) -> io::Result<()> {
        if self.log.is_full() {
            let checkpoint = encode(&LogRecord::Checkpoint(self.head.clone()))?;
            self.log.roll(&checkpoint)?;
        }
        let applied = self.head.apply(record);
        applied.map_err(|what| io::Error::new(io::ErrorKind::InvalidInput, what))?;
        self.log.append(&encode(record)?, record.index());
        Ok(())
    }

    /// Hands records to the operating system.
    pub(super) fn write(&mut self, records: &[LogRecord]) -> io::Result<()> {
        records.iter().try_for_each(|record| self.put(record))?;
        self.log.write()
    }

    /// Makes durable what was written, and removes segments whose entries were purged up to `purged`.
    pub(super) fn sync(&mut self, purged: Option<u64>) -> io::Result<()> {
        if !mutated(Mutant::FlushAcknowledgedEarly) {
            self.log.sync()?;
        }
        match purged {
            Some(purged) => self.log.release(purged),
            None => Ok(()),
        }
    }

    /// Writes, without waiting for the disk, that all before is durable: should the last record be damaged one day, it
    /// is not mistaken for a torn one.
    fn mark(&mut self, committed: Option<Option<LogId>>) -> io::Result<()> {
        let committed = committed.unwrap_or(self.head.committed);
        self.write(&[LogRecord::Committed(committed)])
    }
}

impl Journal {
    pub(super) fn new(files: Arc<dyn Files>, writer: Writer) -> Self {
        Self {
            files,
            queue: Mutex::default(),
            writer: Mutex::new(writer),
            snapshots: Mutex::default(),
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The queue, unless nothing is written any more.
    fn open_queue(&self) -> io::Result<MutexGuard<'_, Queue>> {
        let queue = self.queue();
        match &queue.failed {
            Some(failure) => Err(failure.error()),
            None => Ok(queue),
        }
    }

    /// An error if nothing is written any more.
    pub(super) fn check(&self) -> io::Result<()> {
        self.open_queue().map(|_| ())
    }

    /// Queues a record that nobody waits for.
    pub(super) fn push(&self, record: LogRecord) -> io::Result<()> {
        self.open_queue()?.batch.records.push(record);
        Ok(())
    }

    /// Queues entries; that they are durable is told to the sink of [`run`](Self::run).
    pub(super) fn push_append(&self, entries: Vec<LogRecord>) -> io::Result<()> {
        let mut queue = self.open_queue()?;
        queue.batch.records.extend(entries);
        queue.batch.appends += 1;
        Ok(())
    }

    /// Notes how far the log is committed; written with whatever is written next.
    pub(super) fn note_committed(&self, committed: Option<LogId>) -> io::Result<()> {
        self.open_queue()?.committed = Some(committed);
        Ok(())
    }

    /// Queues a record, if one is given. What is returned ends when all that was queued is durable.
    pub(super) fn push_waiting(
        &self,
        record: Option<LogRecord>,
    ) -> io::Result<impl Future<Output = io::Result<()>> + use<>> {
        let (sender, done) = oneshot::channel();
        let mut queue = self.open_queue()?;
        queue.batch.records.extend(record);
        queue.batch.waiting.push(sender);
        Ok(async move {
            let done = done.await.unwrap_or_else(|_| Err(Failure::closed()));
            done.map_err(|failure| failure.error())
        })
    }

    /// Sees to it that what is queued is written. `landed` is told how many appends are durable, or that none will be.
    pub(super) fn kick<F>(self: &Arc<Self>, landed: F)
    where
        F: Fn(Result<usize, Failure>) + Send + Sync + 'static,
    {
        {
            let mut queue = self.queue();
            if queue.is_writing || queue.batch.is_empty() {
                return;
            }
            queue.is_writing = true;
        }
        let environment = Environment::current();
        let journal = self.clone();
        let clock = environment.clone();
        environment.spawn(async move { journal.run(clock, landed).await });
    }

    async fn run<F>(self: Arc<Self>, environment: Environment, landed: F)
    where
        F: Fn(Result<usize, Failure>) + Send + Sync + 'static,
    {
        loop {
            {
                let mut queue = self.queue();
                if queue.batch.is_empty() || queue.failed.is_some() {
                    queue.is_writing = false;
                    return;
                }
            }
            let (taken, written) = self.carry_out(&environment).await;
            let result = written.map_err(|error| self.fail(&error));
            landed(result.clone().map(|()| taken.appends));
            for waiting in taken.waiting {
                let _ = waiting.send(result.clone());
            }
            if result.is_err() {
                return;
            }
        }
    }

    /// Writes and synchronises the next batch.
    async fn carry_out(self: &Arc<Self>, environment: &Environment) -> (Taken, io::Result<()>) {
        let panicked = || Err(io::Error::other("the writer of the log panicked"));
        let delay = self.files.delay();
        let journal = self.clone();
        let job = move || {
            let mut writer = journal.writer();
            let (taken, written) = journal.write_batch(&mut writer);
            let synced = match written {
                Ok(()) if delay.is_zero() => journal.sync(&mut writer, taken.purged),
                written => written,
            };
            (taken, synced)
        };
        let done = environment.blocking(job).await;
        let (taken, written) = done.unwrap_or_else(|| (Taken::default(), panicked()));
        if delay.is_zero() || written.is_err() {
            return (taken, written);
        }
        // A simulated disk: the power may go while it is busy.
        environment.sleep(delay).await;
        let (journal, purged) = (self.clone(), taken.purged);
        let job = move || journal.sync(&mut journal.writer(), purged);
        let synced = environment.blocking(job).await;
        (taken, synced.unwrap_or_else(panicked))
    }

    /// Takes all that is queued, and hands it to the operating system. It is taken under the writer's lock: what is
    /// queued first is written first, whoever writes.
    fn write_batch(&self, writer: &mut Writer) -> (Taken, io::Result<()>) {
        let (batch, committed) = {
            let mut queue = match self.open_queue() {
                Ok(queue) => queue,
                Err(error) => return (Taken::default(), Err(error)),
            };
            (std::mem::take(&mut queue.batch), queue.committed.take())
        };
        let taken = Taken {
            purged: batch.purged(),
            appends: batch.appends,
            waiting: batch.waiting,
        };
        let mut records = batch.records;
        records.extend(committed.map(LogRecord::Committed));
        let written = writer.write(&records);
        (taken, written)
    }

    fn sync(&self, writer: &mut Writer, purged: Option<u64>) -> io::Result<()> {
        self.check()?;
        writer.sync(purged)?;
        let committed = {
            let mut queue = self.queue();
            if !queue.batch.is_empty() {
                // What is written next says it as well.
                return Ok(());
            }
            queue.committed.take()
        };
        writer.mark(committed)
    }

    /// From now on nothing is written.
    pub(super) fn fail(&self, error: &io::Error) -> Failure {
        let mut queue = self.queue();
        queue.is_writing = false;
        let failure = queue.failed.get_or_insert_with(|| Failure::new(error));
        let failure = failure.clone();
        let left = std::mem::take(&mut queue.batch);
        drop(queue);
        for waiting in left.waiting {
            let _ = waiting.send(Err(failure.clone()));
        }
        failure
    }

    /// Writes what is queued and refuses everything from then on. Blocks.
    pub(super) fn close(&self) {
        let mut writer = self.writer();
        let (taken, written) = self.write_batch(&mut writer);
        let closed = written.and_then(|()| self.sync(&mut writer, taken.purged));
        let was_open = self.queue().failed.replace(Failure::closed()).is_none();
        if let (true, Err(error)) = (was_open, closed) {
            tracing::error!(%error, "the end of the log could not be written");
        }
    }

    /// Rolls over at another size, for tests.
    #[cfg(test)]
    pub(super) fn roll_at(&self, bytes: u64) {
        self.writer().roll_at(bytes);
    }
}
