//! What the callers know about each counter, and what the counters may therefore say.
//!
//! At the end `acked <= value <= acked + ambiguous` must hold for each key. While the run goes on a get must answer at
//! least what was acknowledged before it was sent, and at most what had been sent until it was answered.

use std::sync::atomic::{AtomicU64, Ordering};

/// All keys, by number.
pub(crate) struct Counts(Box<[Key]>);

#[derive(Default)]
struct Key {
    sent: AtomicU64,
    acked: AtomicU64,
    ambiguous: AtomicU64,
    /// Most increments that were acknowledged and yet missing in an answer.
    missing: AtomicU64,
    /// Most increments in an answer that nobody sent, or that were sent once and executed twice.
    surplus: AtomicU64,
}

impl Counts {
    pub(crate) fn new(keys: usize) -> Self {
        Self((0..keys).map(|_| Key::default()).collect())
    }

    /// How many keys there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// An increment is about to be sent.
    pub(crate) fn sent(&self, key: usize) {
        self.0[key].sent.fetch_add(1, Ordering::SeqCst);
    }

    /// It was acknowledged.
    pub(crate) fn acked(&self, key: usize) {
        self.0[key].acked.fetch_add(1, Ordering::SeqCst);
    }

    /// It may have been executed or not.
    pub(crate) fn ambiguous(&self, key: usize) {
        self.0[key].ambiguous.fetch_add(1, Ordering::SeqCst);
    }

    /// What a get that is sent now must at least answer.
    pub(crate) fn floor(&self, key: usize) -> u64 {
        self.0[key].acked.load(Ordering::SeqCst)
    }

    /// A get was answered just now that was sent when the floor was `floor`.
    pub(crate) fn observed(&self, key: usize, floor: u64, value: u64) {
        let ceiling = self.0[key].sent.load(Ordering::SeqCst);
        self.check(key, floor, value, ceiling);
    }

    /// The counter's value after all is over.
    pub(crate) fn settled(&self, key: usize, value: u64) {
        let acked = self.floor(key);
        let ambiguous = self.0[key].ambiguous.load(Ordering::SeqCst);
        self.check(key, acked, value, acked + ambiguous);
    }

    fn check(&self, key: usize, floor: u64, value: u64, ceiling: u64) {
        let key = &self.0[key];
        key.missing
            .fetch_max(floor.saturating_sub(value), Ordering::SeqCst);
        key.surplus
            .fetch_max(value.saturating_sub(ceiling), Ordering::SeqCst);
    }

    /// Acknowledged increments that were missing, summed over keys.
    pub(crate) fn lost(&self) -> u64 {
        self.0
            .iter()
            .map(|key| key.missing.load(Ordering::SeqCst))
            .sum()
    }

    /// Increments too many, summed over keys.
    pub(crate) fn duplicated(&self) -> u64 {
        self.0
            .iter()
            .map(|key| key.surplus.load(Ordering::SeqCst))
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 10 sent: 7 acknowledged, 2 ambiguous, 1 certainly not executed.
    fn ten() -> Counts {
        let counts = Counts::new(2);
        (0..10).for_each(|_| counts.sent(0));
        (0..7).for_each(|_| counts.acked(0));
        (0..2).for_each(|_| counts.ambiguous(0));
        counts
    }

    #[test]
    fn between_acked_and_acked_plus_ambiguous_all_is_well() {
        for value in 7..=9 {
            let counts = ten();
            counts.settled(0, value);
            assert_eq!((counts.lost(), counts.duplicated()), (0, 0), "{value}");
        }
    }

    #[test]
    fn less_is_lost_and_more_is_duplicated() {
        let counts = ten();
        counts.settled(0, 5);
        assert_eq!((counts.lost(), counts.duplicated()), (2, 0));
        let counts = ten();
        counts.settled(0, 10);
        assert_eq!((counts.lost(), counts.duplicated()), (0, 1));
    }

    #[test]
    fn a_get_that_misses_what_was_acknowledged_before_it_is_a_loss() {
        let counts = ten();
        let floor = counts.floor(0);
        counts.acked(0);
        counts.observed(0, floor, 7);
        assert_eq!(counts.lost(), 0, "acknowledged after it was sent");
        counts.observed(0, floor, 6);
        counts.observed(0, floor, 6);
        assert_eq!(
            counts.lost(),
            1,
            "one increment, however often it was missed"
        );
        counts.observed(0, floor, 11);
        assert_eq!(counts.duplicated(), 1);
    }
}
