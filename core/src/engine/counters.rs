//! Which rare situations a run has reached.

use std::collections::BTreeMap;

/// Named counts, in the order of their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters(BTreeMap<&'static str, u64>);

impl Counters {
    /// Counts one more.
    pub fn add(&mut self, name: &'static str) {
        *self.0.entry(name).or_default() += 1;
    }

    /// Counts all that another machine has counted.
    pub fn absorb(&mut self, others: Counters) {
        for (name, count) in others.0 {
            *self.0.entry(name).or_default() += count;
        }
    }

    /// How often, 0 if never.
    pub fn count(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or_default()
    }

    /// All that were counted.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.0.iter().map(|(&name, &count)| (name, count))
    }
}
