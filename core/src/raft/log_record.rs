//! What stands in the records of the durable log, and what they come to when they are read again.
//!
//! The encoding is postcard of openraft's own types; golden bytes hold it still.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::log_store::Origin;
use super::types::{LogEntry, LogId, Vote};

/// One change of the log, in the order in which they were made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum LogRecord {
    /// The first of a segment: what those before it come to, entries excepted.
    Checkpoint(Head),
    /// The vote.
    Vote(Vote),
    /// The next entry.
    Entry(LogEntry),
    /// The entries after this one are gone (all, if it is `None`).
    Truncate(Option<LogId>),
    /// The entries up to this one are in a snapshot.
    Purge(LogId),
    /// The cluster that the log belongs to.
    Origin(Origin),
    /// How far the log was known to be committed. Also written as proof that all before it is durable.
    Committed(Option<LogId>),
}

impl LogRecord {
    /// Index of the entry in it.
    pub(super) fn index(&self) -> Option<u64> {
        match self {
            Self::Entry(entry) => Some(entry.log_id.index),
            _ => None,
        }
    }
}

/// Everything but the entries.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) origin: Option<Origin>,
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    pub(super) purged: Option<LogId>,
    pub(super) last: Option<LogId>,
}

impl Head {
    /// After the record; or why it cannot follow.
    pub(super) fn apply(&mut self, record: &LogRecord) -> Result<(), String> {
        match record {
            LogRecord::Checkpoint(head) => {
                if self != head {
                    return Err("the checkpoint is not what the records before it come to".into());
                }
            }
            LogRecord::Vote(vote) => self.vote = Some(vote.clone()),
            LogRecord::Entry(entry) => {
                let id = entry.log_id;
                if self.last.is_some_and(|last| last.index + 1 != id.index) {
                    return Err(format!("entry {} does not follow the last one", id.index));
                }
                self.last = Some(id);
            }
            LogRecord::Truncate(last) => self.last = (*last).max(self.purged),
            LogRecord::Purge(upto) => {
                self.purged = self.purged.max(Some(*upto));
                if self.last.is_none_or(|last| last.index <= upto.index) {
                    self.last = self.purged;
                }
            }
            LogRecord::Origin(origin) => self.origin = Some(*origin),
            LogRecord::Committed(committed) => self.committed = *committed,
        }
        Ok(())
    }
}

/// The log, as its records come to it.
#[derive(Debug, Default)]
pub(super) struct Replay {
    pub(super) head: Head,
    pub(super) entries: BTreeMap<u64, LogEntry>,
    has_begun: bool,
}

impl Replay {
    /// The next record; returns the index of the entry in it.
    pub(super) fn read(&mut self, is_first: bool, payload: &[u8]) -> Result<Option<u64>, String> {
        let record = match postcard::take_from_bytes(payload) {
            Ok((record, [])) => record,
            _ => return Err("the record cannot be understood".into()),
        };
        if is_first != matches!(record, LogRecord::Checkpoint(_)) {
            return Err("a segment begins with a checkpoint, and has no other".into());
        }
        match &record {
            // Of the segments before the first there is nothing left.
            LogRecord::Checkpoint(head) if !self.has_begun => self.head = head.clone(),
            record => self.head.apply(record)?,
        }
        self.has_begun = true;
        let index = record.index();
        match record {
            LogRecord::Entry(entry) => {
                self.entries.insert(entry.log_id.index, entry);
            }
            LogRecord::Truncate(last) => {
                let first = last.map_or(0, |last| last.index + 1);
                self.entries.split_off(&first);
            }
            LogRecord::Purge(upto) => self.entries = self.entries.split_off(&(upto.index + 1)),
            _ => {}
        }
        Ok(index)
    }

    /// What is missing, if the entries are not all there.
    pub(super) fn hole(&self) -> Option<String> {
        let begin = self.head.purged.map_or(0, |purged| purged.index + 1);
        let end = self.head.last.map_or(0, |last| last.index + 1);
        let mut expected = begin..end.max(begin);
        let whole = self.entries.keys().copied().eq(expected.clone());
        if whole {
            return None;
        }
        let missing = expected.find(|index| !self.entries.contains_key(index));
        Some(match missing {
            Some(index) => format!("entry {index} of the log is missing"),
            None => "there are entries that do not belong to the log".to_owned(),
        })
    }
}
