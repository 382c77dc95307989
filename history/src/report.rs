//! Everything that a history of counters is judged by, in one report.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::calls::{Call, Kind, Outcome};
use crate::linearizability::{self, Stuck, Verdict};
use crate::models::Counter;
use crate::{fencing, increments};

/// Configurations searched for one counter. A good history needs about one for each call; a bad one is given up here
/// after seconds and some hundred megabytes.
pub const BUDGET: usize = 1_000_000;
/// Findings of one kind that are described; the others are only counted.
const DESCRIBED: usize = 3;

/// What a history shows.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Calls.
    pub calls: usize,
    /// Increments among them that were answered.
    pub increments: usize,
    /// Calls that may have been executed or not.
    pub ambiguous: usize,
    /// Counters.
    pub keys: usize,
    /// Tokens that were seen, over all counters.
    pub tokens: usize,
    /// Calls that could have been answered and were not; see [`Call::is_unanswered`].
    pub unanswered: usize,
    /// Answers under a token lower than one that was seen before the call began.
    pub backwards: usize,
    /// Increments that were answered and are not in the final value.
    pub lost: u64,
    /// Increments in the final value that nobody asked for, and ids that were executed more than once.
    pub duplicated: u64,
    /// Counters with increments whose value nobody read after the last of them: nothing is known about those.
    pub unread: usize,
    /// Counters whose history is linearizable.
    pub linearizable: usize,
    /// Counters whose history is not.
    pub not_linearizable: usize,
    /// Counters for which the search was given up: nothing is known about those.
    pub unknown: usize,
    /// The first few findings of each kind, in words.
    pub findings: Vec<String>,
}

impl Report {
    /// Judges a history; at most `budget` configurations are searched for each counter (usually [`BUDGET`]).
    pub fn new(calls: &[Call], budget: usize) -> Self {
        let tokens: BTreeSet<_> = calls
            .iter()
            .filter_map(|call| Some((&call.key, call.answer()?.0)))
            .collect();
        let mut report = Self {
            calls: calls.len(),
            increments: calls
                .iter()
                .filter(|call| call.kind == Kind::Increment && call.answer().is_some())
                .count(),
            ambiguous: calls
                .iter()
                .filter(|call| matches!(call.outcome, Outcome::Ambiguous(_)))
                .count(),
            tokens: tokens.len(),
            ..Self::default()
        };
        report.judge_answers(calls);
        report.judge_tokens(calls);
        report.judge_increments(calls);
        report.judge_order(calls, budget);
        report
    }

    /// Whether everything held, and is known to have held, except perhaps that calls were not answered.
    pub fn is_safe(&self) -> bool {
        self.backwards == 0
            && (self.lost, self.duplicated) == (0, 0)
            && (self.unread, self.not_linearizable, self.unknown) == (0, 0, 0)
    }

    /// Whether everything held, and every call was answered that could have been.
    pub fn is_good(&self) -> bool {
        self.is_safe() && self.unanswered == 0
    }

    /// The figures in one line.
    pub fn summary(&self) -> String {
        format!(
            "{} calls on {} counters under {} tokens: {} increments, {} ambiguous, {} unanswered, {} tokens back, \
             {} lost, {} duplicated, {} unread; {} linearizable, {} not, {} unknown",
            self.calls,
            self.keys,
            self.tokens,
            self.increments,
            self.ambiguous,
            self.unanswered,
            self.backwards,
            self.lost,
            self.duplicated,
            self.unread,
            self.linearizable,
            self.not_linearizable,
            self.unknown
        )
    }

    fn judge_answers(&mut self, calls: &[Call]) {
        let found: Vec<_> = calls
            .iter()
            .filter(|call| call.is_unanswered())
            .map(|call| format!("not answered: {}", describe(call)))
            .collect();
        self.unanswered = found.len();
        self.describe(found);
    }

    fn judge_tokens(&mut self, calls: &[Call]) {
        let found: Vec<_> = fencing::backwards(calls)
            .iter()
            .map(|found| {
                format!(
                    "a token went back: {}, then {}",
                    describe(&calls[found.earlier]),
                    describe(&calls[found.later])
                )
            })
            .collect();
        self.backwards = found.len();
        self.describe(found);
    }

    fn judge_increments(&mut self, calls: &[Call]) {
        let mut found = Vec::new();
        for (key, count) in increments::count(calls) {
            self.keys += 1;
            self.lost += count.lost().max(count.same_answers.len() as u64);
            self.duplicated += count.surplus().max(count.many_answers.len() as u64);
            match count.read {
                None if count.acknowledged + count.ambiguous > 0 => {
                    self.unread += 1;
                    found.push(format!("{key}: nobody read the value after its increments"));
                }
                Some(read) if count.lost() + count.surplus() > 0 => found.push(format!(
                    "{key}: {} increments answered and {} unknown, but the value is {read:?} at the end",
                    count.acknowledged, count.ambiguous
                )),
                _ => {}
            }
            for value in &count.same_answers {
                found.push(format!("{key}: two increments were answered with {value}"));
            }
            for id in &count.many_answers {
                found.push(format!(
                    "{key}: increment {id} was answered with two values"
                ));
            }
        }
        self.describe(found);
    }

    fn judge_order(&mut self, calls: &[Call], budget: usize) {
        let mut by_key: BTreeMap<&str, Vec<&Call>> = BTreeMap::new();
        for call in calls {
            by_key.entry(&call.key).or_default().push(call);
        }
        let mut found = Vec::new();
        for (key, calls) in by_key {
            let (history, calls): (Vec<_>, Vec<_>) = merge_ids(&calls)
                .into_iter()
                .filter_map(|call| Some((call.operation()?, call)))
                .unzip();
            match linearizability::check(&Counter, &history, budget) {
                Verdict::Linearizable => self.linearizable += 1,
                Verdict::NotLinearizable(stuck) => {
                    self.not_linearizable += 1;
                    found.push(describe_stuck(key, &stuck, &calls));
                }
                Verdict::Unknown => {
                    self.unknown += 1;
                    found.push(format!(
                        "{key}: no verdict on {} calls after {budget} configurations",
                        history.len()
                    ));
                }
            }
        }
        self.describe(found);
    }

    fn describe(&mut self, found: Vec<String>) {
        self.findings.extend(found.into_iter().take(DESCRIBED));
    }
}

/// Makes one call of those with the same id: they are one increment, however often it was asked for.
///
/// It took effect after the first was sent and before the first answer was there.
fn merge_ids(calls: &[&Call]) -> Vec<Call> {
    let mut merged: Vec<Call> = Vec::new();
    let mut by_id: BTreeMap<&str, usize> = BTreeMap::new();
    for call in calls {
        let known = call.id.as_deref().and_then(|id| {
            let at = merged.len();
            let first = *by_id.entry(id).or_insert(at);
            (first != at).then_some(first)
        });
        let Some(first) = known else {
            merged.push((*call).clone());
            continue;
        };
        let first = &mut merged[first];
        first.start = first.start.min(call.start);
        let rank = |outcome: &Outcome| match outcome {
            Outcome::Answered { .. } => 2,
            Outcome::Ambiguous(_) => 1,
            Outcome::Failed(_) => 0,
        };
        let (old, new) = (rank(&first.outcome), rank(&call.outcome));
        if new > old || new == old && call.end < first.end {
            first.outcome = call.outcome.clone();
            first.end = call.end;
        }
    }
    merged
}

fn describe_stuck(key: &str, stuck: &Stuck, calls: &[Call]) -> String {
    let next: Vec<_> = stuck
        .next
        .iter()
        .take(DESCRIBED)
        .map(|at| describe(&calls[*at]))
        .collect();
    format!(
        "{key}: not linearizable: no order explains more than {} of {} answers; the value is {} then, and next \
         must come {}",
        stuck.explained,
        stuck.of,
        stuck.state,
        next.join(" or ")
    )
}

fn describe(call: &Call) -> String {
    let kind = match call.kind {
        Kind::Get => "get",
        Kind::Increment => "increment",
    };
    let id = call
        .id
        .as_ref()
        .map(|id| format!(" {id}"))
        .unwrap_or_default();
    let outcome = match &call.outcome {
        Outcome::Answered {
            owner,
            epoch,
            value,
        } => {
            format!("{value} from {owner} at epoch {epoch}")
        }
        Outcome::Ambiguous(why) => format!("ambiguous ({why})"),
        Outcome::Failed(why) => format!("failed ({why})"),
    };
    format!(
        "{kind}{id} of {} from {} to {} us: {outcome}",
        call.key, call.start, call.end
    )
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.summary())?;
        for finding in &self.findings {
            write!(f, "\n  {finding}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calls::Kind::{Get, Increment};
    use crate::calls::testing::{ambiguous, answered};

    fn report(calls: &[Call]) -> Report {
        Report::new(calls, BUDGET)
    }

    /// Two owners, calls that overlap, one increment of unknown fate that took effect late.
    fn good() -> Vec<Call> {
        vec![
            answered((0, 10), Increment, 1, 1),
            ambiguous((5, 15)),
            answered((5, 12), Get, 1, 0),
            answered((20, 30), Increment, 1, 2),
            answered((31, 40), Get, 4, 2),
            answered((35, 60), Increment, 4, 4),
            answered((61, 70), Get, 4, 4),
        ]
    }

    #[test]
    fn a_good_history_is_good() {
        let report = report(&good());
        assert!(report.is_good(), "{report}");
        assert_eq!((report.calls, report.keys, report.tokens), (7, 1, 2));
        assert_eq!((report.increments, report.ambiguous), (3, 1));
        assert_eq!(report.linearizable, 1);
    }

    #[test]
    fn a_stale_read_is_not_safe() {
        let mut calls = good();
        calls[4] = answered((31, 40), Get, 4, 1);
        let report = report(&calls);
        assert_eq!((report.not_linearizable, report.lost), (1, 0));
        assert!(!report.is_safe());
        assert!(
            report.to_string().contains("get of k from 31 to 40 us"),
            "{report}"
        );
    }

    #[test]
    fn a_lost_increment_is_not_safe() {
        let mut calls = good();
        calls.remove(1);
        calls[4] = answered((35, 60), Increment, 4, 3);
        calls[5] = answered((61, 70), Get, 4, 2);
        let report = report(&calls);
        assert_eq!((report.lost, report.not_linearizable), (1, 1));
        assert!(!report.is_safe());
    }

    #[test]
    fn an_increment_executed_twice_is_not_safe() {
        let mut calls = good();
        calls.remove(1);
        let report = report(&calls);
        assert_eq!((report.duplicated, report.not_linearizable), (1, 1));
        assert!(!report.is_safe());
    }

    #[test]
    fn a_token_that_goes_back_is_not_safe_even_if_the_value_is_right() {
        let mut calls = good();
        calls[6] = answered((61, 70), Get, 1, 4);
        let report = report(&calls);
        assert_eq!((report.backwards, report.linearizable), (1, 1));
        assert!(!report.is_safe());
    }

    #[test]
    fn a_call_that_failed_is_safe_but_not_good() {
        let mut calls = good();
        let failed = Outcome::Failed("deadline".to_owned());
        calls.push(Call {
            outcome: failed,
            ..ambiguous((50, 55))
        });
        let report = report(&calls);
        assert!(report.is_safe() && !report.is_good(), "{report}");
        assert_eq!(report.unanswered, 1);
    }

    #[test]
    fn what_is_not_known_is_not_passed() {
        let mut calls = good();
        calls.pop();
        let unread = report(&calls);
        assert_eq!(unread.unread, 1);
        assert!(!unread.is_safe());
        let given_up = Report::new(&good(), 1);
        assert_eq!((given_up.unknown, given_up.linearizable), (1, 0));
        assert!(!given_up.is_safe());
    }

    #[test]
    fn an_id_is_one_increment_from_its_first_begin_to_its_first_answer() {
        let with_id = |call| Call {
            id: Some("a".to_owned()),
            ..call
        };
        let first = with_id(ambiguous((0, 10)));
        let again = with_id(answered((30, 40), Increment, 1, 1));
        let get = answered((12, 13), Get, 1, 1);
        let last = answered((50, 51), Get, 1, 1);
        let calls = [again.clone(), first, get.clone(), last.clone()];
        let good = report(&calls);
        assert!(good.is_safe(), "{good}");
        let without = report(&[again, get, last]);
        assert_eq!(without.not_linearizable, 1, "read before it was sent");
    }
}
