//! The lease as requests see it: two words, written by the driver alone.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::engine::LeaseView;
use crate::time::Time;

/// The lease of this node. A reader that races with a writer sees a lease that is void, never one that is too long.
#[derive(Default)]
pub(crate) struct LeaseCell {
    generation: AtomicU64,
    until: AtomicU64,
}

impl LeaseCell {
    pub(crate) fn store(&self, view: LeaseView) {
        if view.generation != self.generation.load(Ordering::Relaxed) {
            self.until.store(0, Ordering::SeqCst);
            self.generation.store(view.generation, Ordering::SeqCst);
        }
        self.until.store(view.until.0, Ordering::SeqCst);
    }

    /// Void it for good: the node has stopped.
    pub(crate) fn revoke(&self) {
        self.until.store(0, Ordering::SeqCst);
        self.generation.store(u64::MAX, Ordering::SeqCst);
    }

    /// The generation that a guard issued at `now` belongs to, if the lease is valid then.
    #[inline]
    pub(crate) fn generation_at(&self, now: Time) -> Option<u64> {
        // Generation first: if it changes meanwhile, the guard belongs to the old one and is void at once.
        let generation = self.generation.load(Ordering::Acquire);
        (now.0 < self.until.load(Ordering::Acquire)).then_some(generation)
    }

    /// Until when this node may serve; in the past, if it may not.
    pub(crate) fn end(&self) -> Time {
        Time(self.until.load(Ordering::Acquire))
    }

    /// Until when guards of this generation hold; `None`: a lapse lay between, they are void for good (rule S6).
    #[inline]
    pub(crate) fn until(&self, generation: u64) -> Option<Time> {
        let until = Time(self.until.load(Ordering::Acquire));
        // Generation second: an end that a later lease brought is never taken for this one's.
        (self.generation.load(Ordering::Acquire) == generation).then_some(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s6_a_guard_of_an_earlier_generation_is_void_for_good() {
        let cell = LeaseCell::default();
        assert_eq!(cell.generation_at(Time(0)), None);
        let view = |generation, until| LeaseView {
            generation,
            until: Time(until),
        };
        cell.store(view(1, 100));
        let generation = cell.generation_at(Time(99)).unwrap();
        assert_eq!(cell.generation_at(Time(100)), None, "valid before its end");
        cell.store(view(1, 150));
        assert_eq!(
            cell.until(generation),
            Some(Time(150)),
            "it follows renewals"
        );
        cell.store(view(2, 300));
        assert_eq!(cell.until(generation), None);
    }

    #[test]
    fn s5_a_stopped_node_has_no_lease() {
        let cell = LeaseCell::default();
        cell.store(LeaseView {
            generation: 1,
            until: Time(100),
        });
        cell.revoke();
        assert_eq!(cell.generation_at(Time(0)), None);
        assert_eq!(cell.until(1), None);
    }
}
