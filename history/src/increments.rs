//! Increments by the count: those that were answered are in the final value, each once; those of which nobody knows are
//! in it at most once.

use std::collections::{BTreeMap, BTreeSet};

use crate::calls::{Call, Kind, Outcome};

/// The increments of one counter, and what was read when they were over.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Count {
    /// Increments that were answered, those with an id once for each id.
    pub acknowledged: u64,
    /// Increments of which nobody knows, those with an id once for each id.
    pub ambiguous: u64,
    /// The lowest and the highest value read by calls that began when all increments had ended.
    pub read: Option<(u64, u64)>,
    /// Answers that two increments with different ids (or without) got: one of them was lost.
    pub same_answers: BTreeSet<u64>,
    /// Ids that were answered with more than one value: executed more than once.
    pub many_answers: BTreeSet<String>,
}

impl Count {
    /// The increments that are missing from what was read.
    pub fn lost(&self) -> u64 {
        self.read
            .map_or(0, |(lowest, _)| self.acknowledged.saturating_sub(lowest))
    }

    /// The increments in what was read that nobody asked for.
    pub fn surplus(&self) -> u64 {
        self.read.map_or(0, |(_, highest)| {
            highest.saturating_sub(self.acknowledged + self.ambiguous)
        })
    }
}

/// Counts the increments of each counter.
pub fn count(calls: &[Call]) -> BTreeMap<&str, Count> {
    let mut by_key: BTreeMap<&str, Vec<&Call>> = BTreeMap::new();
    for call in calls {
        by_key.entry(&call.key).or_default().push(call);
    }
    by_key
        .into_iter()
        .map(|(key, calls)| (key, count_one(&calls)))
        .collect()
}

fn count_one(calls: &[&Call]) -> Count {
    let mut count = Count::default();
    let mut by_id: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
    let mut unknown_ids = BTreeSet::new();
    let mut answers: BTreeMap<u64, Option<&str>> = BTreeMap::new();
    let mut over = 0;
    for call in calls.iter().filter(|call| call.kind == Kind::Increment) {
        over = over.max(call.end);
        let id = call.id.as_deref();
        match (&call.outcome, id) {
            (Outcome::Answered { value, .. }, id) => {
                let other = answers.insert(*value, id);
                if other.is_some_and(|other| other.is_none() || other != id) {
                    count.same_answers.insert(*value);
                }
                match id {
                    Some(id) => {
                        by_id.entry(id).or_default().insert(*value);
                    }
                    None => count.acknowledged += 1,
                }
            }
            (Outcome::Ambiguous(_), Some(id)) => {
                unknown_ids.insert(id);
            }
            (Outcome::Ambiguous(_), None) => count.ambiguous += 1,
            (Outcome::Failed(_), _) => {}
        }
    }
    count.acknowledged += by_id.len() as u64;
    count.ambiguous += unknown_ids
        .iter()
        .filter(|id| !by_id.contains_key(*id))
        .count() as u64;
    count.many_answers = by_id
        .into_iter()
        .filter(|(_, values)| values.len() > 1)
        .map(|(id, _)| id.to_owned())
        .collect();
    let gets = calls
        .iter()
        .filter(|call| call.kind == Kind::Get && call.start > over);
    for value in gets.filter_map(|call| call.answer().map(|(_, value)| value)) {
        let (lowest, highest) = count.read.unwrap_or((value, value));
        count.read = Some((lowest.min(value), highest.max(value)));
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calls::Kind::{Get, Increment};
    use crate::calls::testing::{ambiguous, answered};

    fn with_id(call: Call, id: &str) -> Call {
        Call {
            id: Some(id.to_owned()),
            ..call
        }
    }

    fn count(calls: &[Call]) -> Count {
        super::count(calls)["k"].clone()
    }

    #[test]
    fn the_value_lies_between_what_was_answered_and_what_was_asked() {
        let calls = |read| {
            [
                answered((0, 1), Increment, 1, 1),
                answered((0, 9), Increment, 1, 2),
                ambiguous((0, 20)),
                answered((15, 16), Get, 1, 1),
                answered((21, 22), Get, 1, read),
            ]
        };
        for (read, lost, surplus) in [(1, 1, 0), (2, 0, 0), (3, 0, 0), (5, 0, 2)] {
            let count = count(&calls(read));
            assert_eq!((count.acknowledged, count.ambiguous), (2, 1));
            assert_eq!(
                count.read,
                Some((read, read)),
                "only what was read at the end"
            );
            assert_eq!((count.lost(), count.surplus()), (lost, surplus), "{read}");
        }
    }

    #[test]
    fn an_id_counts_once_however_often_it_was_sent() {
        let count = count(&[
            with_id(answered((0, 1), Increment, 1, 1), "a"),
            with_id(answered((2, 3), Increment, 1, 1), "a"),
            with_id(ambiguous((2, 3)), "a"),
            with_id(ambiguous((2, 3)), "b"),
            with_id(ambiguous((4, 5)), "b"),
        ]);
        assert_eq!((count.acknowledged, count.ambiguous), (1, 1));
        assert!(count.same_answers.is_empty() && count.many_answers.is_empty());
        assert_eq!(count.read, None);
    }

    #[test]
    fn answers_that_are_shared_and_ids_with_two_answers_are_seen() {
        let calls = [
            with_id(answered((0, 1), Increment, 1, 1), "a"),
            with_id(answered((0, 1), Increment, 1, 1), "b"),
            with_id(answered((0, 1), Increment, 1, 2), "b"),
        ];
        let count = count(&calls);
        assert_eq!(count.same_answers, BTreeSet::from([1]));
        assert_eq!(count.many_answers, BTreeSet::from(["b".to_owned()]));
        let twice = [
            answered((0, 1), Increment, 1, 4),
            answered((0, 1), Increment, 1, 4),
        ];
        assert_eq!(super::count(&twice)["k"].same_answers, BTreeSet::from([4]));
    }
}
