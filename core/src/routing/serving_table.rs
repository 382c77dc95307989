//! Which shards are answered here, as requests see it: one atomic word for each shard, no lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;

use crate::ids::{Epoch, ShardId};

/// Guards may be handed out.
const OPEN: u64 = 1 << 63;
/// The drain took too long: futures that the library runs must end.
const CANCELLED: u64 = 1 << 62;
/// The other bits count the guards in flight.
const GUARDS: u64 = CANCELLED - 1;

#[derive(Default)]
struct Cell {
    /// [`OPEN`], [`CANCELLED`], and how many guards are in flight.
    word: AtomicU64,
    /// Written while closed and free of guards, read by guards only.
    epoch: AtomicU64,
}

/// The serving set with the guards in flight. Written by the driver, read by every request.
pub(crate) struct ServingTable {
    cells: Box<[Cell]>,
    /// Told about closed shards whose last guard has gone.
    drained: mpsc::UnboundedSender<ShardId>,
}

impl ServingTable {
    pub(crate) fn new(shards: u32, drained: mpsc::UnboundedSender<ShardId>) -> Self {
        Self {
            cells: (0..shards).map(|_| Cell::default()).collect(),
            drained,
        }
    }

    pub(crate) fn shards(&self) -> u32 {
        self.cells.len() as u32
    }

    /// Starts to serve. The shard must be closed and drained.
    pub(crate) fn open(&self, shard: ShardId, epoch: Epoch) {
        let Some(cell) = self.cells.get(shard.0 as usize) else {
            return;
        };
        debug_assert_eq!(
            cell.word.load(Ordering::SeqCst) & OPEN,
            0,
            "shard {shard} is opened twice"
        );
        cell.epoch.store(epoch.0, Ordering::Relaxed);
        cell.word.fetch_and(GUARDS, Ordering::Relaxed);
        cell.word.fetch_or(OPEN, Ordering::Release);
    }

    /// Hands out no more guards. When the last one has gone, `drained` is told, possibly more than once.
    pub(crate) fn close(&self, shard: ShardId) {
        if let Some(cell) = self.cells.get(shard.0 as usize)
            && cell.word.fetch_and(!OPEN, Ordering::AcqRel) & GUARDS == 0
        {
            self.tell_drained(shard);
        }
    }

    /// Ends the futures that the library runs on a closed shard.
    pub(crate) fn cancel(&self, shard: ShardId) {
        if let Some(cell) = self.cells.get(shard.0 as usize) {
            cell.word.fetch_or(CANCELLED, Ordering::AcqRel);
        }
    }

    /// Whether the drain of a closed shard took too long.
    pub(crate) fn is_cancelled(&self, shard: ShardId) -> bool {
        let cell = self.cells.get(shard.0 as usize);
        cell.is_some_and(|cell| cell.word.load(Ordering::Acquire) & CANCELLED != 0)
    }

    /// Whether the shard is closed and no guard is in flight on it.
    pub(crate) fn is_drained(&self, shard: ShardId) -> bool {
        self.cells
            .get(shard.0 as usize)
            .is_none_or(|cell| cell.word.load(Ordering::Acquire) & (OPEN | GUARDS) == 0)
    }

    /// Whether guards are handed out for the shard.
    pub(crate) fn is_open(&self, shard: ShardId) -> bool {
        let cell = self.cells.get(shard.0 as usize);
        cell.is_some_and(|cell| cell.word.load(Ordering::Acquire) & OPEN != 0)
    }

    /// Takes the shard for one request, if it is served here. The lease is checked by the caller, afterwards.
    #[inline]
    pub(crate) fn enter(self: &Arc<Self>, shard: ShardId) -> Option<Entry> {
        let cell = self.cells.get(shard.0 as usize)?;
        if cell.word.load(Ordering::Relaxed) & OPEN == 0 {
            return None;
        }
        // Counted before the look at the bit: a close that comes between sees this request and waits for it.
        if cell.word.fetch_add(1, Ordering::AcqRel) & OPEN == 0 {
            self.exit(shard);
            return None;
        }
        let epoch = Epoch(cell.epoch.load(Ordering::Relaxed));
        Some(Entry {
            table: self.clone(),
            shard,
            epoch,
        })
    }

    fn exit(&self, shard: ShardId) {
        let before = self.cells[shard.0 as usize]
            .word
            .fetch_sub(1, Ordering::AcqRel);
        if before & OPEN == 0 && before & GUARDS == 1 {
            self.tell_drained(shard);
        }
    }

    fn tell_drained(&self, shard: ShardId) {
        // Nobody listens once the node has stopped; then nobody waits for a drain either.
        let _ = self.drained.send(shard);
    }
}

/// One request in flight on a shard. Dropping it lets the shard go.
pub(crate) struct Entry {
    table: Arc<ServingTable>,
    pub(crate) shard: ShardId,
    pub(crate) epoch: Epoch,
}

impl Entry {
    pub(crate) fn table(&self) -> &Arc<ServingTable> {
        &self.table
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.table.exit(self.shard);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> (Arc<ServingTable>, mpsc::UnboundedReceiver<ShardId>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Arc::new(ServingTable::new(4, sender)), receiver)
    }

    #[test]
    fn s2_a_closed_shard_is_drained_when_its_last_guard_goes() {
        let (table, mut drained) = table();
        let shard = ShardId(2);
        assert!(table.enter(shard).is_none(), "closed from the start");
        assert!(drained.try_recv().is_err(), "nothing was ever in flight");
        table.open(shard, Epoch(7));
        let (a, b) = (table.enter(shard).unwrap(), table.enter(shard).unwrap());
        assert_eq!(a.epoch, Epoch(7));
        table.close(shard);
        assert!(table.enter(shard).is_none());
        drop(a);
        while drained.try_recv().is_ok() {
            assert!(!table.is_drained(shard), "told too early: {shard}");
        }
        drop(b);
        assert_eq!(drained.try_recv(), Ok(shard));
        assert!(table.is_drained(shard));
    }

    #[test]
    fn a_shard_without_guards_is_drained_at_once() {
        let (table, mut drained) = table();
        table.open(ShardId(0), Epoch(1));
        table.close(ShardId(0));
        assert_eq!(drained.try_recv(), Ok(ShardId(0)));
    }

    #[test]
    fn only_guards_of_the_slow_drain_are_cancelled() {
        let (table, _drained) = table();
        table.open(ShardId(0), Epoch(1));
        let slow = table.enter(ShardId(0)).unwrap();
        table.close(ShardId(0));
        table.cancel(ShardId(0));
        assert!(table.is_cancelled(ShardId(0)));
        assert!(!table.is_cancelled(ShardId(1)));
        drop(slow);
        table.open(ShardId(0), Epoch(2));
        assert!(!table.is_cancelled(ShardId(0)));
    }
}
