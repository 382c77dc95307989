//! What happens next, in true time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::clock::TrueTime;

/// Events in the order of their times; of equal times in the order in which they were put in.
#[derive(Debug)]
pub(super) struct Queue<E> {
    heap: BinaryHeap<Reverse<Slot<E>>>,
    count: u64,
}

#[derive(Debug)]
struct Slot<E> {
    key: (TrueTime, u64),
    event: E,
}

impl<E> PartialEq for Slot<E> {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}
impl<E> Eq for Slot<E> {}
impl<E> PartialOrd for Slot<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<E> Ord for Slot<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key.cmp(&other.key)
    }
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self {
            heap: BinaryHeap::new(),
            count: 0,
        }
    }
}

impl<E> Queue<E> {
    /// It will happen then.
    pub(super) fn push(&mut self, at: TrueTime, event: E) {
        self.count += 1;
        self.heap.push(Reverse(Slot {
            key: (at, self.count),
            event,
        }));
    }

    /// What happens first.
    pub(super) fn pop(&mut self) -> Option<(TrueTime, E)> {
        self.heap
            .pop()
            .map(|Reverse(slot)| (slot.key.0, slot.event))
    }
}
