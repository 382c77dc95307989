//! The search against one that tries every order, on histories small enough for that.

use funk_history::linearizability::{Timed, Verdict, check};
use funk_history::models::{Counter, CounterOperation, Model, Register, RegisterOperation};
use proptest::prelude::*;
use proptest::strategy::ValueTree;

/// Operations in one history: 6 of them have a thousand orders and more, with those that never took effect.
const MOST: usize = 6;
/// Times are small, so that operations overlap, touch and follow each other.
const LATEST: u64 = 12;

/// Whether some order of some of the operations, among them all that ended, explains every answer. Straight from the
/// definition: nothing is remembered and nothing is left out.
fn explained<M: Model>(
    model: &M,
    history: &[Timed<M::Operation>],
    state: &M::State,
    taken: &mut Vec<usize>,
) -> bool {
    let ended = (0..history.len()).filter(|at| history[*at].end.is_some());
    if ended.clone().all(|at| taken.contains(&at)) {
        return true;
    }
    for next in 0..history.len() {
        let must_wait = ended.clone().any(|other| {
            !taken.contains(&other)
                && history[other]
                    .end
                    .is_some_and(|end| end < history[next].start)
        });
        if must_wait || taken.contains(&next) {
            continue;
        }
        if let Some(state) = model.apply(state, &history[next].operation) {
            taken.push(next);
            if explained(model, history, &state, taken) {
                return true;
            }
            taken.pop();
        }
    }
    false
}

fn agrees<M: Model>(model: &M, history: &[Timed<M::Operation>]) -> Result<bool, TestCaseError> {
    let expected = explained(model, history, &model.initial(), &mut Vec::new());
    let found = check(model, history, usize::MAX);
    prop_assert!(found != Verdict::Unknown);
    prop_assert_eq!(found == Verdict::Linearizable, expected);
    if let Verdict::NotLinearizable(stuck) = found {
        prop_assert!(stuck.explained < stuck.of);
        prop_assert!(!stuck.next.is_empty());
    }
    Ok(expected)
}

fn times() -> impl Strategy<Value = (u64, u64)> {
    (0..LATEST, 0..LATEST).prop_map(|(a, b)| (a.min(b), a.max(b)))
}

fn counter_history() -> impl Strategy<Value = Vec<Timed<CounterOperation>>> {
    let one = (times(), 0..8u8, 0..4u64).prop_map(|((start, end), kind, value)| {
        let (end, operation) = match kind {
            0 => (None, CounterOperation::Get(None)),
            1 | 2 => (None, CounterOperation::Increment(None)),
            3..=5 => (Some(end), CounterOperation::Get(Some(value))),
            _ => (Some(end), CounterOperation::Increment(Some(value))),
        };
        Timed {
            start,
            end,
            operation,
        }
    });
    prop::collection::vec(one, 0..=MOST)
}

fn register_history() -> impl Strategy<Value = Vec<Timed<RegisterOperation>>> {
    let one = (times(), 0..8u8, 0..3u64, 0..3u64).prop_map(|((start, end), kind, value, to)| {
        let swap = |swapped| RegisterOperation::CompareAndSet {
            from: value,
            to,
            swapped,
        };
        let read = value.checked_sub(1);
        let (end, operation) = match kind {
            0 => (None, RegisterOperation::Write(value)),
            1 => (None, swap(None)),
            2 => (Some(end), swap(Some(true))),
            3 => (Some(end), swap(Some(false))),
            4 | 5 => (Some(end), RegisterOperation::Write(value)),
            _ => (Some(end), RegisterOperation::Read(Some(read))),
        };
        Timed {
            start,
            end,
            operation,
        }
    });
    prop::collection::vec(one, 0..=MOST)
}

/// What a counter really did, each operation at a moment between its begin and its end: linearizable by construction.
fn real_history() -> impl Strategy<Value = Vec<Timed<CounterOperation>>> {
    let one = (0..4u64, 0..4u64, 0..4u8);
    prop::collection::vec(one, 0..60).prop_map(|operations| {
        let mut value = 0;
        let timed = operations
            .into_iter()
            .zip(1..)
            .map(|((before, after, kind), moment)| {
                let moment = 2 * moment;
                let (end, operation) = match kind {
                    0 | 1 => (true, CounterOperation::Get(Some(value))),
                    2 => {
                        value += 1;
                        (true, CounterOperation::Increment(Some(value)))
                    }
                    _ => {
                        // Nobody saw it; every second one took effect.
                        value += before % 2;
                        (false, CounterOperation::Increment(None))
                    }
                };
                Timed {
                    start: moment - 2 * before.min(moment / 2),
                    end: end.then_some(moment + 2 * after),
                    operation,
                }
            });
        timed.collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn counters(history in counter_history()) {
        agrees(&Counter, &history)?;
    }

    #[test]
    fn registers(history in register_history()) {
        agrees(&Register, &history)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn what_happened_is_linearizable(history in real_history()) {
        prop_assert_eq!(check(&Counter, &history, 100_000), Verdict::Linearizable);
    }
}

/// The comparison is worth something only if both verdicts are common.
#[test]
fn both_verdicts_occur() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut good = 0;
    const TRIED: usize = 500;
    for _ in 0..TRIED {
        let history = counter_history().new_tree(&mut runner).unwrap().current();
        let history: Vec<_> = history.into_iter().take(4).collect();
        good += usize::from(agrees(&Counter, &history).unwrap());
    }
    assert!(
        (TRIED / 10..TRIED * 9 / 10).contains(&good),
        "{good} of {TRIED}"
    );
}
