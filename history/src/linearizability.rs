//! Whether operations that overlapped can have taken effect one after the other, each between its begin and its end.
//!
//! The search is that of Wing and Gong ("Testing and verifying concurrent objects", 1993): of the operations that may
//! come next try each that fits, go on from there, and go back where nothing fits. As Lowe proposed ("Testing for
//! linearizability", 2017) a configuration, that is a set of operations that took effect and the state after
//! them, is searched once only. Three observations make it fast on what clusters produce, without changing the
//! verdict (`tests/brute_force.rs` compares it with trying every order):
//!
//! - An operation that only reads and fits is taken at once: in every order in which it comes later it can be moved
//!   here, for whatever must come before it has already taken effect and the state stays the same.
//! - A configuration in which an operation that must come soon can never fit any more ([`Model::is_too_late`]) leads
//!   nowhere.
//! - Of operations without an end that have equal effects the one that began first is taken first: wherever a later
//!   one can stand, it can.
//!
//! The problem is NP-complete, so the search has a budget; when it is spent there is no verdict.

use std::collections::BTreeSet;

use crate::models::Model;

/// One operation: when it began, when it ended, what it was.
///
/// An operation without an end may take effect at any time after its begin, or never. One that certainly took no effect
/// does not belong in a history.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Timed<O> {
    /// When it began, by a clock that all clients share.
    pub start: u64,
    /// When its answer was there, by the same clock; `None`: nobody knows whether it took effect. Two operations of
    /// which one ended at the moment at which the other began overlap.
    pub end: Option<u64>,
    /// What it was, and its answer.
    pub operation: O,
}

/// What the search found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// There is an order that explains every answer.
    Linearizable,
    /// There is none.
    NotLinearizable(Stuck),
    /// The budget was spent before one was found or all were tried: nothing is known.
    Unknown,
}

/// Where the order that explains most answers ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stuck {
    /// Operations with an end that it explains.
    pub explained: usize,
    /// Operations with an end.
    pub of: usize,
    /// The state after them.
    pub state: String,
    /// The operations, as indices of the history, that must come next but do not fit.
    pub next: Vec<usize>,
}

/// A set of operations that took effect, and the state after them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Configuration<S> {
    /// All ended operations before this one, in order of their begin, took effect.
    first: usize,
    /// So did these after it, ascending.
    beyond: Vec<usize>,
    /// Of each class of endless operations: how many, those that began first.
    endless: Vec<usize>,
    state: S,
}

/// An operation that may take effect next.
#[derive(Clone, Copy)]
enum Step {
    Ended(usize),
    Endless { class: usize, operation: usize },
}

struct Search<'a, M: Model> {
    model: &'a M,
    history: &'a [Timed<M::Operation>],
    /// Operations with an end, by begin.
    ended: Vec<usize>,
    /// Operations without one that change something: those of equal effect together, by begin.
    classes: Vec<Vec<usize>>,
}

/// Looks for an order that explains the history, visiting at most `budget` configurations.
///
/// The times of an operation that ends before it begins make no order: it is explained by none.
pub fn check<M: Model>(model: &M, history: &[Timed<M::Operation>], budget: usize) -> Verdict {
    let search = Search::new(model, history);
    let mut seen = BTreeSet::new();
    let mut best: Option<Configuration<M::State>> = None;
    let root = search.settle(Configuration {
        first: 0,
        beyond: Vec::new(),
        endless: vec![0; search.classes.len()],
        state: model.initial(),
    });
    let mut open = vec![root];
    while let Some(configuration) = open.pop() {
        if configuration.first == search.ended.len() {
            return Verdict::Linearizable;
        }
        if seen.contains(&configuration) {
            continue;
        }
        if seen.len() == budget {
            return Verdict::Unknown;
        }
        if best
            .as_ref()
            .is_none_or(|best| best.explained() < configuration.explained())
        {
            best = Some(configuration.clone());
        }
        if search.is_hopeless(&configuration) {
            continue;
        }
        // The last one pushed is tried first: answers that were seen before effects that nobody saw.
        let steps = search.steps(&configuration);
        open.extend(
            steps
                .into_iter()
                .rev()
                .filter_map(|step| search.take(&configuration, step)),
        );
        seen.insert(configuration);
    }
    Verdict::NotLinearizable(search.stuck(best))
}

impl<S> Configuration<S> {
    fn explained(&self) -> usize {
        self.first + self.beyond.len()
    }

    fn took_effect(&self, ended: usize) -> bool {
        ended < self.first || self.beyond.binary_search(&ended).is_ok()
    }

    fn insert(&mut self, ended: usize) {
        let at = self.beyond.partition_point(|other| *other < ended);
        self.beyond.insert(at, ended);
        let run = (self.first..)
            .zip(&self.beyond)
            .take_while(|(expected, found)| expected == *found)
            .count();
        self.beyond.drain(..run);
        self.first += run;
    }
}

impl<'a, M: Model> Search<'a, M> {
    fn new(model: &'a M, history: &'a [Timed<M::Operation>]) -> Self {
        let mut by_begin: Vec<usize> = (0..history.len()).collect();
        by_begin.sort_by_key(|at| history[*at].start);
        let (ended, endless): (Vec<_>, Vec<_>) = by_begin
            .into_iter()
            .partition(|at| history[*at].end.is_some());
        let mut classes: Vec<Vec<usize>> = Vec::new();
        for at in endless {
            let operation = &history[at].operation;
            if model.reads_only(operation) {
                continue;
            }
            match classes
                .iter_mut()
                .find(|class| history[class[0]].operation == *operation)
            {
                Some(class) => class.push(at),
                None => classes.push(vec![at]),
            }
        }
        Self {
            model,
            history,
            ended,
            classes,
        }
    }

    /// The ended operations that may take effect next, and the time before which an endless one must have begun to.
    fn ready(&self, configuration: &Configuration<M::State>) -> (Vec<usize>, u64) {
        let mut ready = Vec::new();
        let mut earliest_end = u64::MAX;
        for ended in configuration.first..self.ended.len() {
            let timed = &self.history[self.ended[ended]];
            // Whatever begins later still ends later still.
            if timed.start > earliest_end {
                break;
            }
            if !configuration.took_effect(ended) {
                earliest_end = earliest_end.min(timed.end.unwrap_or(u64::MAX));
                ready.push(ended);
            }
        }
        ready.retain(|ended| self.history[self.ended[*ended]].start <= earliest_end);
        (ready, earliest_end)
    }

    /// Takes all operations that only read and fit.
    fn settle(&self, mut configuration: Configuration<M::State>) -> Configuration<M::State> {
        loop {
            let (ready, _) = self.ready(&configuration);
            let fitting = ready.into_iter().find(|ended| {
                let operation = &self.history[self.ended[*ended]].operation;
                self.model.reads_only(operation)
                    && self.model.apply(&configuration.state, operation).is_some()
            });
            match fitting {
                Some(ended) => configuration.insert(ended),
                None => return configuration,
            }
        }
    }

    fn is_hopeless(&self, configuration: &Configuration<M::State>) -> bool {
        let (ready, _) = self.ready(configuration);
        ready.into_iter().any(|ended| {
            let operation = &self.history[self.ended[ended]].operation;
            self.model.is_too_late(&configuration.state, operation)
        })
    }

    fn steps(&self, configuration: &Configuration<M::State>) -> Vec<Step> {
        let (ready, earliest_end) = self.ready(configuration);
        let endless = self
            .classes
            .iter()
            .zip(&configuration.endless)
            .enumerate()
            .filter_map(|(class, (members, taken))| {
                let operation = *members.get(*taken)?;
                (self.history[operation].start <= earliest_end)
                    .then_some(Step::Endless { class, operation })
            });
        ready.into_iter().map(Step::Ended).chain(endless).collect()
    }

    /// The configuration after a step, if the operation fits.
    fn take(
        &self,
        configuration: &Configuration<M::State>,
        step: Step,
    ) -> Option<Configuration<M::State>> {
        let at = match step {
            Step::Ended(ended) => self.ended[ended],
            Step::Endless { operation, .. } => operation,
        };
        let state = self
            .model
            .apply(&configuration.state, &self.history[at].operation)?;
        let mut next = Configuration {
            state,
            ..configuration.clone()
        };
        match step {
            Step::Ended(ended) => next.insert(ended),
            Step::Endless { class, .. } => next.endless[class] += 1,
        }
        Some(self.settle(next))
    }

    fn stuck(&self, best: Option<Configuration<M::State>>) -> Stuck {
        let (explained, state, next) = match &best {
            Some(best) => {
                let (ready, _) = self.ready(best);
                let next = ready.into_iter().map(|ended| self.ended[ended]).collect();
                (best.explained(), format!("{:?}", best.state), next)
            }
            None => (0, format!("{:?}", self.model.initial()), Vec::new()),
        };
        Stuck {
            explained,
            of: self.ended.len(),
            state,
            next,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::CounterOperation::{self, Get, Increment};
    use crate::models::{Counter, Register, RegisterOperation};

    const BUDGET: usize = 100_000;

    fn timed<O>(start: u64, end: Option<u64>, operation: O) -> Timed<O> {
        Timed {
            start,
            end,
            operation,
        }
    }

    fn ended<O>(start: u64, end: u64, operation: O) -> Timed<O> {
        timed(start, Some(end), operation)
    }

    fn holds(history: &[Timed<CounterOperation>]) -> bool {
        check(&Counter, history, BUDGET) == Verdict::Linearizable
    }

    #[test]
    fn one_after_the_other() {
        assert!(holds(&[]));
        assert!(holds(&[
            ended(0, 1, Get(Some(0))),
            ended(2, 3, Increment(Some(1))),
            ended(4, 5, Get(Some(1))),
        ]));
    }

    #[test]
    fn a_stale_read_is_found_and_shown() {
        let history = [
            ended(0, 1, Increment(Some(1))),
            ended(2, 3, Increment(Some(2))),
            ended(4, 5, Get(Some(1))),
        ];
        let Verdict::NotLinearizable(stuck) = check(&Counter, &history, BUDGET) else {
            panic!("a stale read passed");
        };
        assert_eq!((stuck.explained, stuck.of), (2, 3));
        assert_eq!((stuck.state.as_str(), &stuck.next[..]), ("2", &[2][..]));
    }

    #[test]
    fn operations_that_overlap_may_come_in_either_order() {
        for answer in 1..=2 {
            assert!(holds(&[
                ended(0, 10, Increment(Some(answer))),
                ended(5, 15, Increment(Some(3 - answer))),
                ended(5, 15, Get(Some(answer - 1))),
            ]));
        }
        assert!(!holds(&[
            ended(0, 10, Increment(Some(2))),
            ended(11, 15, Increment(Some(1))),
        ]));
        // The end of one is the begin of the other: they overlap.
        assert!(holds(&[
            ended(0, 10, Increment(Some(2))),
            ended(10, 15, Increment(Some(1))),
        ]));
    }

    #[test]
    fn an_increment_that_was_lost_or_executed_twice_is_found() {
        assert!(!holds(&[
            ended(0, 1, Increment(Some(1))),
            ended(2, 3, Increment(Some(1))),
        ]));
        assert!(!holds(&[
            ended(0, 1, Increment(Some(1))),
            ended(2, 3, Increment(Some(3))),
        ]));
    }

    #[test]
    fn what_nobody_knows_may_take_effect_late_or_never_but_only_once_and_not_before_its_begin() {
        let unknown = timed(0, None, Increment(None));
        let answered = ended(1, 2, Increment(Some(1)));
        let get = |start, value| ended(start, start + 1, Get(Some(value)));
        let history = |answers: &[u64]| {
            let gets = answers
                .iter()
                .zip(10..)
                .map(|(value, at)| get(2 * at, *value));
            [unknown.clone(), answered.clone()]
                .into_iter()
                .chain(gets)
                .collect::<Vec<_>>()
        };
        assert!(holds(&history(&[1, 1, 1])), "never");
        assert!(holds(&history(&[1, 1, 2])), "late");
        assert!(holds(&history(&[2, 2, 2])), "at once");
        assert!(!holds(&history(&[2, 1])), "taken back");
        assert!(!holds(&history(&[2, 3])), "twice");
        assert!(
            !holds(&[get(0, 1), timed(2, None, Increment(None))]),
            "early"
        );
    }

    #[test]
    fn a_read_without_an_answer_says_nothing() {
        assert!(holds(&[
            timed(0, None, Get(None)),
            ended(1, 2, Increment(Some(1))),
        ]));
    }

    #[test]
    fn a_spent_budget_is_no_verdict() {
        // Nothing explains the read, and every subset of the writes is a configuration.
        let mut history: Vec<_> = (0..20)
            .map(|value| ended(0, 100, RegisterOperation::Write(value)))
            .collect();
        history.push(ended(0, 100, RegisterOperation::Read(Some(Some(99)))));
        assert_eq!(check(&Register, &history, 1_000), Verdict::Unknown);
    }

    #[test]
    fn a_register_answers_with_the_last_write() {
        let read = |start, value| ended(start, start + 1, RegisterOperation::Read(Some(value)));
        let write = |start, end, value| ended(start, end, RegisterOperation::Write(value));
        let judge = |history: &[_]| check(&Register, history, BUDGET) == Verdict::Linearizable;
        assert!(judge(&[read(0, None), write(2, 3, 7), read(4, Some(7))]));
        assert!(!judge(&[write(2, 3, 7), read(4, None)]));
        let both = [write(0, 10, 1), write(0, 10, 2)];
        let then = |first, second| [&both[..], &[read(11, first), read(20, second)]].concat();
        assert!(judge(&then(Some(1), Some(1))));
        assert!(judge(&then(Some(2), Some(2))));
        assert!(!judge(&then(Some(1), Some(2))));
        let swap = |start, from, to, swapped| {
            let operation = RegisterOperation::CompareAndSet { from, to, swapped };
            ended(start, start + 1, operation)
        };
        assert!(judge(&[
            write(0, 1, 1),
            swap(2, 1, 2, Some(true)),
            read(4, Some(2))
        ]));
        assert!(!judge(&[write(0, 1, 1), swap(2, 1, 2, Some(false))]));
        assert!(judge(&[
            write(0, 1, 1),
            swap(2, 3, 2, Some(false)),
            read(4, Some(1))
        ]));
    }

    #[test]
    fn thousands_of_overlapping_increments_are_no_burden() {
        let mut history = Vec::new();
        let mut value = 0;
        for at in 0..2_000 {
            // Eight clients: each operation overlaps seven others; every tenth increment was lost sight of.
            let start = 10 * at;
            if at % 10 == 9 {
                value += at / 10 % 2;
                history.push(timed(start, None, Increment(None)));
            } else if at % 3 == 0 {
                history.push(ended(start, start + 75, Get(Some(value))));
            } else {
                value += 1;
                history.push(ended(start, start + 75, Increment(Some(value))));
            }
        }
        assert!(holds(&history));
        // One of them executed twice: nothing is left to explain the end with.
        let last = history.len() as u64 * 10 + 1_000;
        history.push(ended(last, last + 1, Get(Some(value + 200))));
        assert!(matches!(
            check(&Counter, &history, BUDGET),
            Verdict::NotLinearizable(_)
        ));
    }
}
