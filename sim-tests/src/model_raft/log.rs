//! What a member keeps: vote, log, snapshot. Positions are lengths: the entry at `len - 1` is the last.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use funk::ids::ClusterId;
use funk::log_message::LogMessage;

use super::Rid;

/// A raft configuration; two sets of voters while a joint change is under way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// Voters.
    pub voters: Vec<BTreeSet<Rid>>,
    /// All members.
    pub members: BTreeSet<Rid>,
}

impl Config {
    /// Whether the member votes, in either half.
    pub fn is_voter(&self, id: Rid) -> bool {
        self.voters.iter().any(|half| half.contains(&id))
    }

    /// Whether these are a quorum of every half.
    pub fn is_quorum(&self, ids: &BTreeSet<Rid>) -> bool {
        self.voters
            .iter()
            .all(|half| half.intersection(ids).count() > half.len() / 2)
    }

    /// What is left when these voters are taken out.
    pub fn without(&self, ids: &BTreeSet<Rid>) -> Self {
        let left = |half: &BTreeSet<Rid>| half.difference(ids).copied().collect();
        Self {
            voters: self.voters.iter().map(left).collect(),
            members: self.members.clone(),
        }
    }

    /// The largest value that a quorum of every half has reached.
    pub fn quorum_value<T: Ord + Copy>(&self, value: impl Fn(Rid) -> T) -> Option<T> {
        let of_half = |half: &BTreeSet<Rid>| {
            let mut values: Vec<T> = half.iter().map(|&id| value(id)).collect();
            values.sort_unstable();
            (!values.is_empty()).then(|| values[(values.len() - 1) / 2])
        };
        self.voters.iter().map(of_half).min().flatten()
    }
}

/// What an entry holds.
#[derive(Clone, Debug)]
pub enum Payload {
    /// A new leader's first.
    Blank,
    /// A configuration, in effect as soon as it is in the log.
    Config(Arc<Config>),
    /// The engine's.
    Message(Arc<LogMessage>),
}

/// An entry.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Term.
    pub term: u64,
    /// Content.
    pub payload: Payload,
}

/// The state machine at some length of the log.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// How many entries it covers.
    pub len: u64,
    /// Term of the last of them.
    pub term: u64,
    /// Configuration as of then.
    pub config: Arc<Config>,
    /// Encoded state machine.
    pub machine: Bytes,
}

/// Entries from `first` on.
#[derive(Clone, Debug, Default)]
pub struct Log {
    first: u64,
    /// Term of the entry before the first.
    before: u64,
    entries: Vec<Entry>,
}

impl Log {
    /// Number of entries, purged ones too.
    pub fn len(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    /// Whether nothing was ever appended.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the entries that are kept begin.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// The entry at this index.
    pub fn get(&self, index: u64) -> Option<&Entry> {
        self.entries.get(index.checked_sub(self.first)? as usize)
    }

    /// Term of the last of the first `len` entries; `None` if it is purged or not there. 0 of none.
    pub fn term_at(&self, len: u64) -> Option<u64> {
        if len == self.first {
            return Some(self.before);
        }
        self.get(len.checked_sub(1)?).map(|entry| entry.term)
    }

    /// Term of the last entry.
    pub fn last_term(&self) -> u64 {
        self.entries.last().map_or(self.before, |entry| entry.term)
    }

    pub(super) fn push(&mut self, entry: Entry) {
        self.entries.push(entry);
    }

    pub(super) fn truncate(&mut self, len: u64) {
        self.entries
            .truncate(len.saturating_sub(self.first) as usize);
    }

    pub(super) fn slice(&self, from: u64, most: usize) -> Vec<Entry> {
        let from = (from.saturating_sub(self.first) as usize).min(self.entries.len());
        let to = (from + most).min(self.entries.len());
        self.entries[from..to].to_vec()
    }

    fn purge(&mut self, to: u64) {
        let to = to.min(self.len());
        if let Some(term) = self.term_at(to).filter(|_| to > self.first) {
            self.entries.drain(..(to - self.first) as usize);
            (self.first, self.before) = (to, term);
        }
    }

    fn restart(&mut self, len: u64, term: u64) {
        *self = Self {
            first: len,
            before: term,
            entries: Vec::new(),
        };
    }
}

/// All that is durable.
#[derive(Clone, Debug, Default)]
pub struct Store {
    /// Newest term.
    pub term: u64,
    /// Vote in it.
    pub voted: Option<Rid>,
    /// Cluster, once the log holds anything.
    pub cluster: Option<ClusterId>,
    /// Whether this node began the log itself.
    pub own: bool,
    /// Entries.
    pub log: Log,
    /// Newest snapshot.
    pub snapshot: Option<Arc<Snapshot>>,
    /// Configurations in the log, each with the length of the log that ends with it.
    pub(super) configs: Vec<(u64, Arc<Config>)>,
}

impl Store {
    /// The configuration in effect: the last one in the log, committed or not.
    pub fn config(&self) -> Option<&Arc<Config>> {
        let in_log = self.configs.last().map(|(_, config)| config);
        in_log.or_else(|| self.snapshot.as_ref().map(|snapshot| &snapshot.config))
    }

    /// Every configuration that may still decide something.
    pub fn all_configs(&self) -> impl Iterator<Item = &Arc<Config>> {
        let snapshot = self.snapshot.iter().map(|snapshot| &snapshot.config);
        self.configs
            .iter()
            .map(|(_, config)| config)
            .chain(snapshot)
    }

    pub(super) fn push(&mut self, entry: Entry) {
        if let Payload::Config(config) = &entry.payload {
            self.configs.push((self.log.len() + 1, config.clone()));
        }
        self.log.push(entry);
    }

    pub(super) fn truncate(&mut self, len: u64) {
        self.log.truncate(len);
        self.configs.retain(|&(at, _)| at <= len);
    }

    pub(super) fn take_snapshot(&mut self, len: u64, machine: Bytes, keep: u64) {
        let config_at = |(at, _): &&(u64, Arc<Config>)| *at <= len;
        let config = self
            .configs
            .iter()
            .rev()
            .find(config_at)
            .map(|(_, config)| config.clone());
        let config = config.or_else(|| {
            self.snapshot
                .as_ref()
                .map(|snapshot| snapshot.config.clone())
        });
        let (Some(config), Some(term)) = (config, self.log.term_at(len)) else {
            return;
        };
        self.snapshot = Some(Arc::new(Snapshot {
            len,
            term,
            config,
            machine,
        }));
        self.log.purge(len.saturating_sub(keep));
        self.forget_configs(len);
    }

    pub(super) fn install(&mut self, snapshot: &Arc<Snapshot>) {
        if self.log.term_at(snapshot.len) != Some(snapshot.term) {
            self.log.restart(snapshot.len, snapshot.term);
            self.configs.clear();
        }
        self.snapshot = Some(snapshot.clone());
        self.forget_configs(snapshot.len);
    }

    /// The snapshot stands for the configurations that it covers.
    fn forget_configs(&mut self, len: u64) {
        self.configs.retain(|&(at, _)| at > len);
    }
}
