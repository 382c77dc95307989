//! The calls of a program that loads a cluster of counters, as it recorded them.

use crate::linearizability::Timed;
use crate::models::CounterOperation;

/// One call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Call {
    /// When it began: microseconds of a clock that all who record share.
    pub start: u64,
    /// When its outcome was known, by the same clock.
    pub end: u64,
    /// The counter.
    pub key: String,
    /// What it asked for.
    pub kind: Kind,
    /// What it is executed once by, however often it is sent; `None`: it is executed as often as it is sent.
    pub id: Option<String>,
    /// What became of it.
    pub outcome: Outcome,
}

/// What a call asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The value.
    Get,
    /// One more, and the value after that.
    Increment,
}

/// What became of a call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It was answered.
    Answered {
        /// By whom.
        owner: String,
        /// Under which token.
        epoch: u64,
        /// With which value.
        value: u64,
    },
    /// It may have been executed, or may yet be.
    Ambiguous(String),
    /// It certainly was not executed and never will be.
    Failed(String),
}

impl Call {
    /// The token and the value of its answer, if it has one.
    pub fn answer(&self) -> Option<(u64, u64)> {
        match self.outcome {
            Outcome::Answered { epoch, value, .. } => Some((epoch, value)),
            Outcome::Ambiguous(_) | Outcome::Failed(_) => None,
        }
    }

    /// Whether the caller was left with nothing that it could go on with. That includes what may have been executed if
    /// it could have been sent again without harm.
    pub fn is_unanswered(&self) -> bool {
        match self.outcome {
            Outcome::Answered { .. } => false,
            Outcome::Ambiguous(_) => self.kind == Kind::Get || self.id.is_some(),
            Outcome::Failed(_) => true,
        }
    }

    /// The call as an operation on its counter; `None`: it took no effect and saw nothing.
    pub fn operation(&self) -> Option<Timed<CounterOperation>> {
        let value = self.answer().map(|(_, value)| value);
        let end = match self.outcome {
            Outcome::Answered { .. } => Some(self.end),
            Outcome::Ambiguous(_) => None,
            Outcome::Failed(_) => return None,
        };
        Some(Timed {
            start: self.start,
            end,
            operation: match self.kind {
                Kind::Get => CounterOperation::Get(value),
                Kind::Increment => CounterOperation::Increment(value),
            },
        })
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// A call of counter `k` that was answered.
    pub(crate) fn answered(times: (u64, u64), kind: Kind, epoch: u64, value: u64) -> Call {
        Call {
            start: times.0,
            end: times.1,
            key: "k".to_owned(),
            kind,
            id: None,
            outcome: Outcome::Answered {
                owner: "n1".to_owned(),
                epoch,
                value,
            },
        }
    }

    /// An increment of counter `k` of which nobody knows what became.
    pub(crate) fn ambiguous(times: (u64, u64)) -> Call {
        Call {
            outcome: Outcome::Ambiguous("the connection broke".to_owned()),
            ..answered(times, Kind::Increment, 0, 0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{ambiguous, answered};
    use super::*;

    #[test]
    fn what_may_be_sent_again_must_be_answered() {
        let mut call = ambiguous((0, 1));
        assert!(!call.is_unanswered());
        call.id = Some("1".to_owned());
        assert!(call.is_unanswered());
        let get = Call {
            kind: Kind::Get,
            ..ambiguous((0, 1))
        };
        assert!(get.is_unanswered());
        let failed = Call {
            outcome: Outcome::Failed("deadline".to_owned()),
            ..ambiguous((0, 1))
        };
        assert!(failed.is_unanswered());
        assert_eq!(failed.operation(), None);
        assert!(!answered((0, 1), Kind::Get, 1, 0).is_unanswered());
    }
}
