//! I6: raft's own properties: election safety, log matching, leader completeness, state-machine safety.

use std::collections::BTreeMap;

use funk::ids::{Instance, LogIndex, Term};

use super::{Verdict, Violation};

/// What logs, elections and state machines of all nodes have shown so far.
#[derive(Debug, Default)]
pub struct RaftLogs {
    leaders: BTreeMap<Term, Instance>,
    /// Of each entry that was ever in a log: the term of the entry before it.
    entries: BTreeMap<(LogIndex, Term), Option<Term>>,
    /// Of each index that was applied anywhere: the entry.
    applied: BTreeMap<LogIndex, Applied>,
    /// The last index that each node has applied.
    last: BTreeMap<usize, LogIndex>,
}

/// An entry that was applied.
#[derive(Clone, Copy, Debug)]
struct Applied {
    term: Term,
    /// The newest term that had a leader when it was first applied: it was committed in that term or an earlier one,
    /// perhaps long after its own.
    committed_by: Term,
}

impl RaftLogs {
    /// Election safety: at most one leader in a term.
    pub fn elected(&mut self, term: Term, leader: &Instance) -> Verdict {
        let known = self.leaders.entry(term).or_insert_with(|| leader.clone());
        if known == leader {
            return Ok(());
        }
        let what = format!("term {term} has two leaders: {known} and {leader}");
        Err(Violation::new("I6", what))
    }

    /// Log matching: an entry of one index and term has the same entry before it in every log, and so all before that.
    /// `entries` were appended to one log, one after the other.
    pub fn appended(&mut self, entries: &[(LogIndex, Term)]) -> Verdict {
        let mut before: Option<(LogIndex, Term)> = None;
        for &(index, term) in entries {
            let previous = before.filter(|(last, _)| last.0 + 1 == index.0);
            let previous = previous.map(|(_, term)| term);
            let known = self.entries.entry((index, term)).or_insert(previous);
            match (*known, previous) {
                (Some(one), Some(other)) if one != other => {
                    let what = format!(
                        "entry {index} of term {term} follows one of term {one} in one log and of term {other} in another"
                    );
                    return Err(Violation::new("I6", what));
                }
                (None, Some(_)) => *known = previous,
                _ => {}
            }
            before = Some((index, term));
        }
        Ok(())
    }

    /// State-machine safety: what is applied at an index is the same everywhere; on one run in order.
    pub fn applied(&mut self, node: usize, index: LogIndex, term: Term) -> Verdict {
        let newest = self.leaders.last_key_value().map(|(term, _)| *term);
        let entry = Applied {
            term,
            committed_by: newest.unwrap_or_default().max(term),
        };
        let known = self.applied.entry(index).or_insert(entry).term;
        if known != term {
            let what =
                format!("at index {index} an entry of term {known} was applied, and one of {term}");
            return Err(Violation::new("I6", what));
        }
        let last = self.last.entry(node).or_default();
        if index <= *last {
            let what = format!("node {node} applied {index} after {last}");
            return Err(Violation::new("I6", what));
        }
        *last = index;
        Ok(())
    }

    /// A new run applies its log again.
    pub fn restarted(&mut self, node: usize) {
        self.last.remove(&node);
    }

    /// Leader completeness: a leader's log holds what was committed in an earlier term. `holds` looks into it.
    ///
    /// What was committed later need not be there, whatever its own term: a leader that stood still since its election
    /// may be looked at when others have led after it.
    pub fn leads(&self, term: Term, holds: impl Fn(LogIndex, Term) -> bool) -> Verdict {
        // The latest ones: by log matching the others follow.
        let earlier = |entry: &(&LogIndex, &Applied)| entry.1.committed_by < term;
        let latest = self.applied.iter().rev().filter(earlier);
        for (&index, &Applied { term: of, .. }) in latest.take(8) {
            if !holds(index, of) {
                let what = format!(
                    "the leader of term {term} does not hold entry {index} of term {of}, which was applied"
                );
                return Err(Violation::new("I6", what));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use funk::ids::{BootId, NodeId};

    fn instance(name: &str) -> Instance {
        Instance {
            node: NodeId::new(name).unwrap(),
            boot: BootId(1),
        }
    }

    #[test]
    fn two_leaders_of_a_term_are_seen() {
        let mut logs = RaftLogs::default();
        assert!(logs.elected(Term(1), &instance("a")).is_ok());
        assert!(logs.elected(Term(1), &instance("a")).is_ok());
        assert!(logs.elected(Term(2), &instance("b")).is_ok());
        assert!(logs.elected(Term(1), &instance("b")).is_err());
    }

    #[test]
    fn logs_that_part_and_meet_again_are_seen() {
        let mut logs = RaftLogs::default();
        let entry = |index, term| (LogIndex(index), Term(term));
        assert!(
            logs.appended(&[entry(1, 1), entry(2, 1), entry(3, 2)])
                .is_ok()
        );
        assert!(
            logs.appended(&[entry(3, 2)]).is_ok(),
            "what is before is not known"
        );
        assert!(logs.appended(&[entry(1, 1), entry(2, 3)]).is_ok());
        assert!(logs.appended(&[entry(2, 3), entry(3, 2)]).is_err());
    }

    #[test]
    fn another_entry_at_an_index_and_one_applied_twice_are_seen() {
        let mut logs = RaftLogs::default();
        assert!(logs.applied(0, LogIndex(4), Term(1)).is_ok());
        assert!(logs.applied(1, LogIndex(4), Term(1)).is_ok());
        assert!(logs.applied(0, LogIndex(4), Term(1)).is_err());
        assert!(logs.applied(2, LogIndex(4), Term(2)).is_err());
        logs.restarted(0);
        assert!(logs.applied(0, LogIndex(4), Term(1)).is_ok());
    }

    #[test]
    fn a_leader_that_lacks_what_was_applied_is_seen() {
        let mut logs = RaftLogs::default();
        logs.applied(0, LogIndex(4), Term(1)).unwrap();
        assert!(logs.leads(Term(2), |_, _| true).is_ok());
        assert!(logs.leads(Term(2), |_, _| false).is_err());
        assert!(logs.leads(Term(1), |_, _| false).is_ok(), "its own term");
    }

    #[test]
    fn a_leader_need_not_hold_what_a_later_one_committed() {
        let mut logs = RaftLogs::default();
        logs.elected(Term(4), &instance("c")).unwrap();
        // Of term 1, and committed by the leader of term 4.
        logs.applied(0, LogIndex(4), Term(1)).unwrap();
        assert!(logs.leads(Term(3), |_, _| false).is_ok());
        assert!(logs.leads(Term(5), |_, _| false).is_err());
    }
}
