//! A small raft, pure like the engine, that behaves towards it as openraft does.
//!
//! Terms and votes; pre-vote, refused by nodes that hear a leader; the follower's lease of `election_max` and then a
//! random election timeout; replication with loss, reordering and duplication; commit by quorum, of both halves
//! under a joint configuration; a leader that hears no quorum suspends its heartbeats but goes on calling itself
//! leader, as openraft does; leadership transfer; snapshots and purged logs.
//!
//! It exists to be fast and to be wrong in no way that openraft is right: it checks nothing of the engine's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use funk::engine::replicated::{Change, Replicated};
use funk::ids::{ClusterId, LogIndex, Term};
use funk::log_message::LogMessage;
use funk::time::Time;
use funk::timing::Timing;

use crate::random::Random;

mod election;
mod log;
mod members;
mod replication;

pub use log::{Config, Entry, Log, Payload, Snapshot, Store};

/// A raft member: an index into the world's table of raft ids. Another store of a name is another one (rule M0).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Rid(pub u16);

/// What members say to each other. Terms, and positions as (term of the last entry, length of the log).
#[allow(missing_docs, reason = "the fields say what they are")]
#[derive(Clone, Debug)]
pub enum Message {
    /// Would you vote for me in the term after `term`?
    PreVote { term: u64, last_term: u64, len: u64 },
    /// Answer to it.
    PreVoted { term: u64, granted: bool },
    /// Vote for me.
    Vote {
        term: u64,
        last_term: u64,
        len: u64,
        transfer: bool,
    },
    /// Answer to it.
    Voted { term: u64, granted: bool },
    /// Heartbeat and replication.
    Append {
        term: u64,
        prev_len: u64,
        prev_term: u64,
        entries: Vec<Entry>,
        commit: u64,
        sent_at: Time,
    },
    /// State machine in place of purged entries.
    Install {
        term: u64,
        snapshot: Arc<Snapshot>,
        sent_at: Time,
    },
    /// Answer to both: up to where the log matches, or a hint where to try.
    Appended {
        term: u64,
        ok: bool,
        len: u64,
        sent_at: Time,
    },
    /// The leader hands leadership on.
    TransferTo { term: u64, to: Rid, len: u64 },
}

/// What the raft tells its node.
#[allow(missing_docs, reason = "the fields say what they are")]
#[derive(Clone, Debug)]
pub enum Out {
    /// Send it.
    Send(Rid, Message),
    /// Leadership changed.
    Leadership {
        term: u64,
        leader: Option<Rid>,
        is_leader: bool,
    },
    /// An entry of the protocol was applied.
    Applied {
        index: LogIndex,
        term: Term,
        message: Arc<LogMessage>,
        change: Change,
    },
    /// A snapshot replaced the state machine.
    Installed(Replicated),
    /// The log holds something now, or more than its own initialisation.
    Initialised { cluster: ClusterId, only_own: bool },
    /// Configuration or progress changed.
    Members,
    /// A quorum answered heartbeats sent at or after this.
    QuorumAck { term: u64, sent_at: Time },
    /// The configuration change ended.
    MembersChanged { done: bool },
}

#[derive(Debug)]
enum Role {
    Follower,
    PreCandidate(BTreeSet<Rid>),
    Candidate {
        votes: BTreeSet<Rid>,
        transfer: bool,
    },
    Leader(Box<Leader>),
}

#[derive(Debug, Default, Clone)]
struct Progress {
    matched: u64,
    next: u64,
    /// Largest sending time of a heartbeat that it answered.
    acked: Option<Time>,
}

#[derive(Debug)]
struct Leader {
    /// Writes count as leased from here; `None` after a transfer, until the first quorum answer.
    elected_at: Option<Time>,
    heartbeat_at: Time,
    progress: BTreeMap<Rid, Progress>,
    /// Entries of this term begin here: only they are counted to commit.
    opened_at: u64,
    quorum_at: Option<Time>,
    transferring: bool,
    change: Option<Arc<Config>>,
    beats: u64,
}

/// How often a leader reports progress, in heartbeats.
const REPORT_EVERY: u64 = 5;
/// Entries in one append.
const MAX_APPEND: usize = 64;

/// How a raft behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Heartbeats and election timeouts.
    pub heartbeat: Duration,
    /// Shortest election timeout.
    pub election_min: Duration,
    /// Longest election timeout and leader lease.
    pub election_max: Duration,
    /// Heartbeats are suspended in every second such slot once no quorum answers.
    pub quorum_loss_probe: Duration,
    /// A snapshot is taken each time that so many entries were applied.
    pub snapshot_every: u64,
    /// Entries kept before a snapshot.
    pub keep: u64,
}

impl Options {
    /// From the engine's timing.
    pub fn new(timing: &Timing, snapshot_every: u64, keep: u64) -> Self {
        Self {
            heartbeat: timing.heartbeat,
            election_min: timing.election_min,
            election_max: timing.election_max,
            quorum_loss_probe: timing.quorum_loss_probe,
            snapshot_every,
            keep,
        }
    }
}

/// One member.
#[derive(Debug)]
pub struct Raft {
    id: Rid,
    options: Options,
    random: Random,
    store: Store,
    role: Role,
    leader: Option<Rid>,
    /// When a leader was last heard: the lease in which votes are refused.
    heard_at: Option<Time>,
    election_at: Time,
    commit: u64,
    applied: u64,
    machine: Replicated,
    shown: (u64, Option<Rid>, bool),
    out: Vec<Out>,
}

impl Raft {
    /// A member that starts with what its store holds.
    pub fn new(id: Rid, options: Options, random: Random, store: Store, now: Time) -> Self {
        let mut raft = Self {
            id,
            options,
            random,
            role: Role::Follower,
            leader: None,
            heard_at: None,
            election_at: now,
            commit: 0,
            applied: 0,
            machine: Replicated::default(),
            shown: (0, None, false),
            out: Vec::new(),
            store,
        };
        raft.rearm(now);
        if let Some(cluster) = raft.store.cluster {
            raft.out.push(Out::Initialised {
                cluster,
                only_own: raft.store.own && raft.store.log.len() <= 1,
            });
        }
        if let Some(snapshot) = raft.store.snapshot.clone() {
            raft.load(&snapshot);
        }
        if raft.store.cluster.is_some() {
            raft.out.push(Out::Members);
        }
        raft
    }

    /// What was to be told or sent.
    pub fn take_out(&mut self) -> Vec<Out> {
        std::mem::take(&mut self.out)
    }

    /// The power is cut: only the store stays.
    pub fn into_store(self) -> Store {
        self.store
    }

    /// What is durable.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// This member.
    pub fn id(&self) -> Rid {
        self.id
    }

    /// Current term.
    pub fn term(&self) -> u64 {
        self.store.term
    }

    /// Whether it thinks that it leads.
    pub fn is_leader(&self) -> bool {
        matches!(self.role, Role::Leader(_))
    }

    /// How many entries are known to be committed.
    pub fn committed_len(&self) -> u64 {
        self.commit
    }

    /// The state machine.
    pub fn machine(&self) -> &Replicated {
        &self.machine
    }

    /// When [`tick`](Self::tick) is due.
    pub fn poll_timeout(&self) -> Option<Time> {
        match &self.role {
            Role::Leader(leader) => Some(leader.heartbeat_at),
            _ => self
                .store
                .config()
                .is_some_and(|c| c.is_voter(self.id))
                .then_some(self.election_at),
        }
    }

    /// Time passed.
    pub fn tick(&mut self, now: Time) {
        match &self.role {
            Role::Leader(leader) if leader.heartbeat_at <= now => self.beat(now),
            Role::Leader(_) => {}
            _ if self.election_at <= now => self.campaign(now),
            _ => {}
        }
    }

    /// A message arrived.
    pub fn receive(&mut self, now: Time, from: Rid, cluster: ClusterId, message: Message) {
        match message {
            Message::PreVote {
                term,
                last_term,
                len,
            } => self.on_pre_vote(now, from, term, (last_term, len)),
            Message::PreVoted { term, granted } => self.on_pre_voted(now, from, term, granted),
            Message::Vote {
                term,
                last_term,
                len,
                transfer,
            } => self.on_vote(now, from, term, (last_term, len), transfer),
            Message::Voted { term, granted } => self.on_voted(now, from, term, granted),
            Message::Append {
                term,
                prev_len,
                prev_term,
                entries,
                commit,
                sent_at,
            } => {
                if self.hear_leader(now, from, term) {
                    self.belong(cluster);
                    self.on_append(from, (prev_len, prev_term), entries, commit, sent_at);
                } else {
                    self.refuse(from, sent_at);
                }
            }
            Message::Install {
                term,
                snapshot,
                sent_at,
            } => {
                if self.hear_leader(now, from, term) {
                    self.belong(cluster);
                    self.on_install(from, &snapshot, sent_at);
                } else {
                    self.refuse(from, sent_at);
                }
            }
            Message::Appended {
                term,
                ok,
                len,
                sent_at,
            } => self.on_appended(now, from, term, ok, len, sent_at),
            Message::TransferTo { term, to, len } => self.on_transfer(now, term, to, len),
        }
        self.show();
    }

    /// Appends if this node leads in exactly this term and may write; else it is dropped, as `Propose` is.
    pub fn propose(&mut self, now: Time, term: u64, message: LogMessage) -> bool {
        if term != self.store.term || !self.may_write(now) {
            return false;
        }
        self.append(now, Payload::Message(Arc::new(message)));
        self.show();
        true
    }

    fn may_write(&self, now: Time) -> bool {
        let Role::Leader(leader) = &self.role else {
            return false;
        };
        let leased = leader.quorum_at.max(leader.elected_at);
        !leader.transferring && leased.is_some_and(|at| now < at + self.options.election_max)
    }

    /// An empty log is about to get entries of this cluster. The node is told once it has.
    fn belong(&mut self, cluster: ClusterId) {
        self.store.cluster.get_or_insert(cluster);
    }

    /// The log held so much before: tells the node of its first entries that are not its own initialisation.
    fn tell_of_first_entries(&mut self, had: u64) {
        if had <= 1
            && self.store.log.len() > had
            && let Some(cluster) = self.store.cluster
        {
            self.out.push(Out::Initialised {
                cluster,
                only_own: false,
            });
        }
    }

    fn send(&mut self, to: Rid, message: Message) {
        self.out.push(Out::Send(to, message));
    }

    /// Tells the node about leadership when it changed. It is called after the deciding vote was counted.
    fn show(&mut self) {
        let now = (self.store.term, self.leader, self.is_leader());
        if now != self.shown {
            self.shown = now;
            self.out.push(Out::Leadership {
                term: now.0,
                leader: now.1,
                is_leader: now.2,
            });
        }
    }

    /// Applies what is committed, and takes a snapshot when it is time.
    fn apply(&mut self, now: Time) {
        while self.applied < self.commit {
            let index = self.applied;
            let entry = self
                .store
                .log
                .get(index)
                .expect("committed entries are kept until applied")
                .clone();
            self.applied += 1;
            match entry.payload {
                Payload::Message(message) => {
                    let (index, term) = (LogIndex(index), Term(entry.term));
                    let change = self.machine.apply(index, term, &message);
                    self.out.push(Out::Applied {
                        index,
                        term,
                        message,
                        change,
                    });
                }
                Payload::Config(config) => self.config_committed(now, &config),
                Payload::Blank => {}
            }
        }
        let covered = self
            .store
            .snapshot
            .as_ref()
            .map_or(0, |snapshot| snapshot.len);
        if self.applied >= covered + self.options.snapshot_every {
            self.store
                .take_snapshot(self.applied, self.machine.encode(), self.options.keep);
        }
    }

    fn load(&mut self, snapshot: &Snapshot) {
        self.machine =
            Replicated::decode(&snapshot.machine).expect("our own snapshots can be read");
        self.commit = snapshot.len;
        self.applied = snapshot.len;
        self.out.push(Out::Installed(self.machine.clone()));
    }
}
