//! I10: what clients saw is linearizable, key by key, and tokens never go back.

use std::collections::BTreeMap;
use std::time::Duration;

use funk_history::linearizability::{self, Timed};
use funk_history::models::{Counter, CounterOperation, Register, RegisterOperation};

use super::Violation;

/// Configurations that the search for an order of one key's operations may visit.
const SEARCH_BUDGET: usize = 200_000;

/// The operations on one key.
#[derive(Clone, Debug)]
pub enum Operations {
    /// The key is a register.
    Register(Vec<Timed<RegisterOperation>>),
    /// The key is a counter.
    Counter(Vec<Timed<CounterOperation>>),
}

/// An answer, and the token that it was given under.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answered {
    /// When the call began.
    pub start: Duration,
    /// When it was answered.
    pub end: Duration,
    /// The token.
    pub epoch: u64,
}

/// What was judged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Judged {
    /// Keys whose operations have an order that explains every answer.
    pub linearizable: u64,
    /// Keys for which the search ran out of budget: nothing is known of them.
    pub unknown: u64,
}

impl Judged {
    /// Judges one more key.
    pub fn judge(
        &mut self,
        key: u64,
        operations: &Operations,
        answers: &[Answered],
    ) -> Result<(), Violation> {
        tokens_rise(key, answers)?;
        let verdict = match operations {
            Operations::Register(history) => {
                linearizability::check(&Register, history, SEARCH_BUDGET)
            }
            Operations::Counter(history) => {
                linearizability::check(&Counter, history, SEARCH_BUDGET)
            }
        };
        match verdict {
            linearizability::Verdict::Linearizable => self.linearizable += 1,
            linearizability::Verdict::Unknown => self.unknown += 1,
            linearizability::Verdict::NotLinearizable(stuck) => {
                let what = format!("key {key} is not linearizable: {stuck:?}");
                return Err(Violation::new("I10", what));
            }
        }
        Ok(())
    }
}

/// No call that began after an answer gets a lower token for its key.
fn tokens_rise(key: u64, answers: &[Answered]) -> Result<(), Violation> {
    let mut moments: Vec<(Duration, bool, u64)> = Vec::new();
    for answer in answers {
        moments.push((answer.start, false, answer.epoch));
        moments.push((answer.end, true, answer.epoch));
    }
    // Of equal times begins come first: calls that touch overlap.
    moments.sort_unstable();
    let mut highest = 0;
    let mut fallen = BTreeMap::new();
    for (at, ends, epoch) in moments {
        if ends {
            highest = highest.max(epoch);
        } else if epoch < highest {
            fallen.insert(at, (epoch, highest));
        }
    }
    match fallen.first_key_value() {
        None => Ok(()),
        Some((at, (epoch, highest))) => Err(Violation::new(
            "I10",
            format!(
                "a call for key {key} that began at {at:?} was answered under token {epoch}, after an answer under {highest}"
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(start: u64, end: u64, epoch: u64) -> Answered {
        Answered {
            start: Duration::from_millis(start),
            end: Duration::from_millis(end),
            epoch,
        }
    }

    fn increment(start: u64, end: u64, value: u64) -> Timed<CounterOperation> {
        Timed {
            start,
            end: Some(end),
            operation: CounterOperation::Increment(Some(value)),
        }
    }

    #[test]
    fn tokens_may_fall_only_among_calls_that_overlap() {
        assert_eq!(
            tokens_rise(1, &[answered(0, 2, 5), answered(2, 3, 4)]),
            Ok(())
        );
        assert_eq!(
            tokens_rise(1, &[answered(0, 2, 5), answered(3, 4, 5)]),
            Ok(())
        );
        let fallen = tokens_rise(1, &[answered(3, 4, 4), answered(0, 2, 5)]);
        assert!(fallen.unwrap_err().what.contains("3ms"));
    }

    #[test]
    fn an_increment_that_counts_twice_is_seen() {
        let mut judged = Judged::default();
        let once = Operations::Counter(vec![increment(0, 1, 1), increment(2, 3, 2)]);
        assert_eq!(judged.judge(1, &once, &[]), Ok(()));
        let twice = Operations::Counter(vec![increment(0, 1, 1), increment(2, 3, 3)]);
        assert_eq!(judged.judge(1, &twice, &[]).unwrap_err().invariant, "I10");
        assert_eq!((judged.linearizable, judged.unknown), (1, 0));
    }
}
