//! The lease as its holder sees it (rules L1, L3 and S6).

use super::io::LeaseView;
use crate::ids::LogIndex;
use crate::mutants::{Mutant, mutated};
use crate::time::Time;

/// Grants that wait for their map to be applied; a leader sends one each ping, so more are never useful.
const MAX_WAITING: usize = 16;

/// A grant that was accepted but does not count yet.
#[derive(Debug)]
struct Waiting {
    until: Time,
    map: LogIndex,
}

/// What this node may serve under, and until when.
///
/// Invariant: `view.generation` is larger than that of every lapse before `view.until` was last moved.
#[derive(Debug, Default)]
pub(super) struct Lease {
    view: LeaseView,
    waiting: Vec<Waiting>,
}

impl Lease {
    pub(super) fn view(&self) -> LeaseView {
        self.view
    }

    pub(super) fn is_valid(&self, now: Time) -> bool {
        now < self.view.until
    }

    /// Takes a grant that stands until `until`: it counts once proposal `map` or a later one is applied (L1).
    pub(super) fn grant(&mut self, now: Time, until: Time, map: LogIndex, applied: LogIndex) {
        if applied >= map || mutated(Mutant::GrantCountsAtOnce) {
            return self.extend(now, until);
        }
        if self.waiting.len() == MAX_WAITING {
            self.waiting.remove(0);
        }
        self.waiting.push(Waiting { until, map });
    }

    /// A proposal was applied: grants that waited for it count from now on.
    pub(super) fn applied(&mut self, now: Time, applied: LogIndex) {
        let counting = self
            .waiting
            .iter()
            .filter(|grant| grant.map <= applied)
            .map(|grant| grant.until)
            .max();
        self.waiting.retain(|grant| grant.map > applied);
        if let Some(until) = counting {
            self.extend(now, until);
        }
    }

    /// Moves the end of the lease forwards, never backwards. After a lapse it is a new lease (S6).
    pub(super) fn extend(&mut self, now: Time, until: Time) {
        if until <= self.view.until || until <= now {
            return;
        }
        if !self.is_valid(now) && !mutated(Mutant::RenewalRevivesLapsed) {
            self.view.generation += 1;
        }
        self.view.until = until;
    }

    /// Moves the end of the lease backwards to `until`, and forgets grants that do not count yet.
    pub(super) fn cap(&mut self, until: Time) {
        self.view.until = self.view.until.min(until);
        self.waiting.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l1_a_grant_counts_only_once_its_map_is_applied() {
        let mut lease = Lease::default();
        lease.grant(Time(10), Time(100), LogIndex(5), LogIndex(4));
        assert!(!lease.is_valid(Time(11)));
        lease.applied(Time(12), LogIndex(5));
        assert!(lease.is_valid(Time(99)));
        assert!(!lease.is_valid(Time(100)));
    }

    #[test]
    fn l1_an_earlier_grant_stands_while_a_later_one_waits() {
        let mut lease = Lease::default();
        lease.grant(Time(10), Time(100), LogIndex(0), LogIndex(4));
        lease.grant(Time(20), Time(200), LogIndex(9), LogIndex(4));
        assert_eq!(lease.view().until, Time(100));
    }

    #[test]
    fn s6_a_renewal_after_a_lapse_is_another_generation() {
        let mut lease = Lease::default();
        lease.extend(Time(0), Time(100));
        let before = lease.view().generation;
        lease.extend(Time(50), Time(150));
        assert_eq!(lease.view().generation, before, "renewed in time");
        lease.extend(Time(150), Time(250));
        assert_ne!(lease.view().generation, before, "lapsed between");
    }

    #[test]
    fn a_grant_that_has_run_out_is_worth_nothing() {
        let mut lease = Lease::default();
        lease.extend(Time(100), Time(100));
        assert!(!lease.is_valid(Time(99)));
    }
}
