//! I9: nothing that was acknowledged is lost.

use std::collections::BTreeMap;

use super::{Verdict, Violation};

/// What callers know of the increments of one counter.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Increments {
    /// Answered.
    pub acknowledged: u64,
    /// Nobody knows whether they were executed.
    pub unknown: u64,
}

/// The state of one replica: values by key.
pub type Contents = BTreeMap<Vec<u8>, u64>;

/// At the end of a run all replicas, each with its name, are the same, and every counter is at least what was
/// acknowledged, and at most that and what may have been executed.
pub fn check(replicas: &[(String, Contents)], counters: &BTreeMap<u64, Increments>) -> Verdict {
    let violation = |what| Err(Violation::new("I9", what));
    let Some(((first, contents), others)) = replicas.split_first() else {
        return violation("no replica is left".to_owned());
    };
    for (name, other) in others {
        if other != contents {
            return violation(format!(
                "{name} and {first} end with different states: {other:?} and {contents:?}"
            ));
        }
    }
    for (key, known) in counters {
        let value = contents.get(key.to_string().as_bytes());
        let value = value.copied().unwrap_or_default();
        let Increments {
            acknowledged,
            unknown,
        } = *known;
        if value < acknowledged || value > acknowledged + unknown {
            return violation(format!(
                "counter {key} is {value} after {acknowledged} acknowledged increments and {unknown} of which nobody knows"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(name: &str, value: u64) -> (String, Contents) {
        (name.to_owned(), Contents::from([(b"7".to_vec(), value)]))
    }

    #[test]
    fn counters_lie_between_what_was_acknowledged_and_what_may_have_been_executed() {
        let known = Increments {
            acknowledged: 3,
            unknown: 2,
        };
        let counters = BTreeMap::from([(7, known)]);
        for value in 0..8 {
            let verdict = check(&[replica("n1", value)], &counters);
            assert_eq!(verdict.is_ok(), (3..=5).contains(&value), "{value}");
        }
        let empty = [("n1".to_owned(), Contents::new())];
        assert!(check(&empty, &counters).is_err(), "the counter is gone");
    }

    #[test]
    fn replicas_end_alike() {
        let none = BTreeMap::new();
        assert_eq!(check(&[replica("n1", 3), replica("n2", 3)], &none), Ok(()));
        let verdict = check(&[replica("n1", 3), replica("n2", 4)], &none);
        assert!(verdict.unwrap_err().what.contains("n2 and n1"));
        assert!(check(&[], &none).is_err());
    }
}
