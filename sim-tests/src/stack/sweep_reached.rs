//! Situations that a sweep must reach: what no seed meets, no seed tests.

use crate::tally::Tally;

/// So many seeds reach everything in [`OFTEN`].
pub const ENOUGH: u64 = 300;
/// So many seeds reach everything in [`RARELY`] too.
pub const PLENTY: u64 = 2_000;

/// What [`ENOUGH`] seeds reach.
pub const OFTEN: &[&str] = &[
    "maps proposed",
    "maps committed",
    "maps superseded",
    "leader changes",
    "leader changed before a proposal committed",
    "leader changed before the first ack",
    "leader changed between acks",
    "leader changed between the last ack and the commit",
    "leader changed after the commit",
    "faults before a proposal committed",
    "faults before the first ack",
    "faults between acks",
    "faults between the last ack and the commit",
    "faults after the commit",
    "leases lapsed while serving",
    "excused nodes",
    "snapshots installed",
    "torn ends cut off at a start",
    "power ended in the middle of a write",
    "nodes stopped by a failed fsync",
    "nodes stopped by a full disk",
    "slow disks",
    "damaged stores refused",
    "power ended at a disk that lied",
    "guarded writes accepted",
    "guarded writes rejected by token",
    "keys found linearizable",
];

/// What takes [`PLENTY`] seeds.
pub const RARELY: &[&str] = &["snapshots installed during a change"];

/// A situation that a sweep should reach.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Expected {
    /// Its name in the tally.
    pub name: &'static str,
    /// Within so many seeds.
    pub within: u64,
}

/// Everything that should be reached.
pub fn expected() -> impl Iterator<Item = Expected> {
    let of = |names: &'static [&'static str], within| {
        names.iter().map(move |&name| Expected { name, within })
    };
    of(OFTEN, ENOUGH).chain(of(RARELY, PLENTY))
}

/// What was not reached.
pub fn missing(tally: &Tally) -> Vec<Expected> {
    let expected = expected();
    expected
        .filter(|situation| tally.count(situation.name) == 0)
        .collect()
}

/// What was not reached although that many seeds should have.
pub fn overdue(tally: &Tally, seeds: u64) -> Vec<Expected> {
    let mut missing = missing(tally);
    missing.retain(|situation| situation.within <= seeds);
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_seeds_owe_nothing_and_many_owe_everything() {
        let mut tally = Tally::default();
        assert_eq!(overdue(&tally, ENOUGH - 1), []);
        assert_eq!(overdue(&tally, ENOUGH).len(), OFTEN.len());
        assert_eq!(overdue(&tally, PLENTY).len(), OFTEN.len() + RARELY.len());
        tally.add(OFTEN[0]);
        assert_eq!(overdue(&tally, ENOUGH).len(), OFTEN.len() - 1);
    }

    #[test]
    fn no_situation_is_named_twice() {
        let mut names: Vec<_> = expected().map(|situation| situation.name).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
