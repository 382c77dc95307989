//! What happened in a run, in the order of true time, for people.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::Hasher;
use std::time::Duration;

use funk::engine::{Event, Message};
use funk::ids::{Epoch, NodeId, PeerAddr, ShardId, Term};

use super::plan::Fault;
use super::record::Phase;

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Mark {
    /// A node says that something happened.
    Event(Box<Event>),
    /// A node's lease is renewed, for so long by its own clock; zero: it lapses.
    Lease(Duration),
    /// A node answers for so many shards from now on.
    Serving(usize),
    /// A node answers for these shards from now on, as long as its lease is valid.
    Opened(Vec<(ShardId, Epoch)>),
    /// A node does not answer for these any more.
    Closed(Vec<ShardId>),
    /// Where the latest hand-off stands.
    Phase(Phase),
    /// A node is elected.
    Elected(Term),
    /// A message of the engine leaves.
    Sent(PeerAddr, Message),
    /// A message of the engine is handled.
    Received(NodeId, Message),
    /// A node starts.
    Started,
    /// A node's power is cut, or it has ended.
    Stopped(String),
    /// A fault strikes, this node if it is given.
    Strike(Fault),
    /// Something else is done to the world.
    Fault(String),
    /// An invariant is broken.
    Violation(String),
}

impl Mark {
    /// Whether it is about one of the messages, which are many.
    pub fn is_message(&self) -> bool {
        matches!(self, Self::Sent(..) | Self::Received(..))
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Event(event) => write!(f, "{event:?}"),
            Self::Lease(Duration::ZERO) => write!(f, "lease has lapsed"),
            Self::Lease(span) => write!(f, "lease for {span:?}"),
            Self::Opened(shards) => {
                write!(f, "serves")?;
                let mut shards = shards.iter();
                shards.try_for_each(|(shard, epoch)| write!(f, " {shard}@{epoch}"))
            }
            Self::Closed(shards) => {
                write!(f, "gives up")?;
                shards.iter().try_for_each(|shard| write!(f, " {shard}"))
            }
            Self::Phase(phase) => write!(f, "hand-off: {}", phase_text(*phase)),
            Self::Serving(0) => write!(f, "serves nothing"),
            Self::Serving(shards) => write!(f, "serves {shards} shards"),
            Self::Elected(term) => write!(f, "elected for term {term}"),
            Self::Sent(to, message) => match &to.node {
                Some(node) => write!(f, "to {node}: {}", Short(message)),
                None => write!(f, "to {}: {}", to.addr, Short(message)),
            },
            Self::Received(from, message) => write!(f, "from {from}: {}", Short(message)),
            Self::Started => write!(f, "starts"),
            Self::Stopped(why) => write!(f, "is down: {why}"),
            Self::Strike(fault) => write!(f, "FAULT {fault:?}"),
            Self::Fault(fault) => write!(f, "FAULT {fault}"),
            Self::Violation(violation) => write!(f, "VIOLATION {violation}"),
        }
    }
}

/// A phase in a few words.
pub(super) fn phase_text(phase: Phase) -> &'static str {
    match phase {
        Phase::None => "none",
        Phase::Proposed => "proposed",
        Phase::Draining(0) => "draining, no ack",
        Phase::Draining(_) => "draining, some acked",
        Phase::Deciding => "deciding",
        Phase::InForce => "in force, not all served",
    }
}

/// A message in a few words.
pub(super) struct Short<'a>(pub(super) &'a Message);

impl fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Message::Gossip(bytes) => write!(f, "gossip of {} bytes", bytes.len()),
            Message::Ping(ping) => {
                write!(f, "ping of term {}", ping.term)?;
                match &ping.grant {
                    Some(grant) => {
                        write!(f, ", grant from {:?} under map {}", grant.stamp, grant.map)?;
                    }
                    None => write!(f, ", no grant")?,
                }
                if ping.dismissed {
                    write!(f, ", dismissed")?;
                }
                Ok(())
            }
            Message::Pong(pong) => {
                write!(f, "pong of term {}, stamp {:?}", pong.term, pong.stamp)?;
                write!(f, ", applied {}", pong.applied)?;
                match pong.acked {
                    Some(index) => write!(f, ", acks {index}"),
                    None => Ok(()),
                }
            }
            Message::Bootstrap(message) => write!(f, "bootstrap {message:?}"),
        }
    }
}

/// A mark with its time and node.
#[derive(Clone, Debug)]
pub struct Entry {
    /// True time.
    pub at: Duration,
    /// At which node; `None`: it concerns all.
    pub node: Option<usize>,
    /// What.
    pub mark: Mark,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>12.6}  ", self.at.as_secs_f64())?;
        match self.node {
            Some(node) => write!(f, "n{:<3}", node + 1)?,
            None => write!(f, "--  ")?,
        }
        write!(f, " {}", self.mark)
    }
}

/// All marks of a run.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// In the order of their coming.
    pub entries: Vec<Entry>,
}

impl Trace {
    /// One more.
    pub fn add(&mut self, at: Duration, node: Option<usize>, mark: Mark) {
        self.entries.push(Entry { at, node, mark });
    }

    /// Hash over everything in it: of one plan always the same.
    pub fn fingerprint(&self) -> u64 {
        // Debug and not Display: nothing is left out.
        hash(&self.entries)
    }

    /// The event log: a line for each, by time. Unless `all` is asked for it leaves out the messages, and what renews a
    /// lease that is valid.
    pub fn log(&self, all: bool) -> Vec<&Entry> {
        let mut leased = BTreeMap::new();
        let mut log: Vec<&Entry> = self.entries.iter().collect();
        // Nodes take turns within a step: what one did may be written down before what another did earlier.
        log.sort_by_key(|entry| entry.at);
        log.retain(|Entry { at, node, mark }| {
            let renews = match mark {
                Mark::Lease(span) => {
                    let until = leased.insert(*node, *at + *span);
                    !span.is_zero() && until.is_some_and(|until| until > *at)
                }
                Mark::Started | Mark::Stopped(_) => {
                    leased.remove(node);
                    false
                }
                _ => false,
            };
            all || !(renews || mark.is_message())
        });
        log
    }

    /// Whether the trace holds this violation already.
    pub(super) fn holds(&self, violation: &str) -> bool {
        let mut entries = self.entries.iter();
        entries.any(|entry| matches!(&entry.mark, Mark::Violation(text) if text == violation))
    }

    /// When the first invariant was broken.
    pub fn violated_at(&self) -> Option<Duration> {
        let broken = |entry: &&Entry| matches!(entry.mark, Mark::Violation(_));
        self.entries.iter().find(broken).map(|entry| entry.at)
    }
}

/// Hash of what something looks like to its last detail.
pub(super) fn hash(what: &impl fmt::Debug) -> u64 {
    let mut hash = Fnv::default();
    // It never fails: the hash takes everything.
    let _ = fmt::write(&mut hash, format_args!("{what:?}"));
    hash.finish()
}

/// FNV-1a: one hash in all builds, unlike that of the standard library.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl fmt::Write for Fnv {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.write(text.as_bytes());
        Ok(())
    }
}
