//! Sequential objects: what an operation does, and which answers fit.

use std::fmt::Debug;

/// An object whose operations take effect one after the other.
///
/// Its operations carry their answer if it is known, so that whether one can have taken effect in a state is a
/// question of the two alone.
pub trait Model {
    /// All that later answers depend on.
    type State: Clone + Ord + Debug;
    /// An operation with its answer. Equal operations without an answer have equal effects.
    type Operation: PartialEq + Debug;

    /// The state before the first operation.
    fn initial(&self) -> Self::State;

    /// The state after `operation` took effect in `state`; `None`: in that state the answer would have been another.
    fn apply(&self, state: &Self::State, operation: &Self::Operation) -> Option<Self::State>;

    /// Whether the operation leaves every state as it is.
    fn reads_only(&self, operation: &Self::Operation) -> bool;

    /// Whether the answer fits neither in `state` nor in any state that can be reached from it. `false` if in doubt: it
    /// costs time, never the verdict.
    fn is_too_late(&self, _state: &Self::State, _operation: &Self::Operation) -> bool {
        false
    }
}

/// A counter that begins at 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counter;

/// An operation on a [`Counter`]; `None`: the answer is not known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CounterOperation {
    /// Answers with the value.
    Get(Option<u64>),
    /// Adds one and answers with the sum.
    Increment(Option<u64>),
}

impl Model for Counter {
    type State = u64;
    type Operation = CounterOperation;

    fn initial(&self) -> u64 {
        0
    }

    fn apply(&self, state: &u64, operation: &CounterOperation) -> Option<u64> {
        let (next, answer) = match *operation {
            CounterOperation::Get(answer) => (*state, answer),
            CounterOperation::Increment(answer) => (state + 1, answer),
        };
        answer.is_none_or(|answer| answer == next).then_some(next)
    }

    fn reads_only(&self, operation: &CounterOperation) -> bool {
        matches!(operation, CounterOperation::Get(_))
    }

    fn is_too_late(&self, state: &u64, operation: &CounterOperation) -> bool {
        match *operation {
            CounterOperation::Get(answer) => answer.is_some_and(|answer| answer < *state),
            CounterOperation::Increment(answer) => answer.is_some_and(|answer| answer <= *state),
        }
    }
}

/// A register that begins without a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Register;

/// An operation on a [`Register`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RegisterOperation {
    /// Answers with what was written last: `None` if the answer is not known, `Some(None)` if nothing was written.
    Read(Option<Option<u64>>),
    /// Writes a value.
    Write(u64),
    /// Writes `to` if the value is `from`, and answers whether it was; `None` if the answer is not known.
    CompareAndSet {
        /// What must be there.
        from: u64,
        /// What is written.
        to: u64,
        /// Whether it was.
        swapped: Option<bool>,
    },
}

impl Model for Register {
    type State = Option<u64>;
    type Operation = RegisterOperation;

    fn initial(&self) -> Option<u64> {
        None
    }

    fn apply(&self, state: &Option<u64>, operation: &RegisterOperation) -> Option<Option<u64>> {
        match *operation {
            RegisterOperation::Read(answer) => answer
                .is_none_or(|answer| answer == *state)
                .then_some(*state),
            RegisterOperation::Write(value) => Some(Some(value)),
            RegisterOperation::CompareAndSet { from, to, swapped } => {
                let fits = *state == Some(from);
                let next = if fits { Some(to) } else { *state };
                swapped.is_none_or(|answer| answer == fits).then_some(next)
            }
        }
    }

    fn reads_only(&self, operation: &RegisterOperation) -> bool {
        match operation {
            RegisterOperation::Read(_) => true,
            RegisterOperation::Write(_) => false,
            RegisterOperation::CompareAndSet { swapped, .. } => *swapped == Some(false),
        }
    }
}
