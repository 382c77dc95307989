//! The order of tokens: a call that starts after an answer was there never gets a lower one for the same counter.

use std::collections::BTreeMap;

use crate::calls::Call;

/// A token that went back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Backwards {
    /// The call with the higher token, as an index of the history: it ended before the other began.
    pub earlier: usize,
    /// The call with the lower one.
    pub later: usize,
}

/// The calls whose token is lower than one that was seen before they began, by begin.
pub fn backwards(calls: &[Call]) -> Vec<Backwards> {
    let mut by_key: BTreeMap<&str, Vec<(usize, u64)>> = BTreeMap::new();
    for (at, call) in calls.iter().enumerate() {
        if let Some((epoch, _)) = call.answer() {
            by_key.entry(&call.key).or_default().push((at, epoch));
        }
    }
    let mut found: Vec<_> = by_key
        .into_values()
        .flat_map(|answers| backwards_of_one(calls, answers))
        .collect();
    found.sort_by_key(|backwards| calls[backwards.later].start);
    found
}

fn backwards_of_one(calls: &[Call], answers: Vec<(usize, u64)>) -> Vec<Backwards> {
    let mut by_begin = answers.clone();
    by_begin.sort_by_key(|(at, _)| calls[*at].start);
    let mut by_end = answers;
    by_end.sort_by_key(|(at, _)| calls[*at].end);
    let mut ended = by_end.into_iter().peekable();
    let mut highest: Option<(usize, u64)> = None;
    let mut found = Vec::new();
    for (later, epoch) in by_begin {
        while let Some(seen) = ended.next_if(|(at, _)| calls[*at].end < calls[later].start) {
            if highest.is_none_or(|(_, highest)| highest < seen.1) {
                highest = Some(seen);
            }
        }
        if let Some((earlier, highest)) = highest
            && epoch < highest
        {
            found.push(Backwards { earlier, later });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calls::Kind::Get;
    use crate::calls::testing::{ambiguous, answered};

    #[test]
    fn a_lower_token_counts_only_after_the_higher_was_seen_and_for_one_counter() {
        let first = answered((0, 10), Get, 7, 0);
        assert_eq!(
            backwards(&[first.clone(), answered((11, 12), Get, 6, 0)]),
            [Backwards {
                earlier: 0,
                later: 1
            }]
        );
        // Listed in another order, and with a call between that says nothing.
        assert_eq!(
            backwards(&[
                answered((30, 40), Get, 6, 0),
                ambiguous((11, 12)),
                first.clone()
            ]),
            [Backwards {
                earlier: 2,
                later: 0
            }]
        );
        assert!(backwards(&[first.clone(), answered((11, 12), Get, 7, 0)]).is_empty());
        assert!(backwards(&[first.clone(), answered((10, 12), Get, 6, 0)]).is_empty());
        let mut other = answered((11, 12), Get, 6, 0);
        other.key = "other".to_owned();
        assert!(backwards(&[first, other]).is_empty());
    }

    #[test]
    fn the_highest_token_stands_although_lower_ones_are_seen_later() {
        let calls = [
            answered((0, 10), Get, 7, 0),
            answered((5, 20), Get, 6, 0),
            answered((21, 30), Get, 6, 0),
        ];
        assert_eq!(
            backwards(&calls),
            [Backwards {
                earlier: 0,
                later: 2
            }]
        );
    }
}
