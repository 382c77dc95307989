//! What happened in a run, in the order of true time, for people.

use std::time::Duration;

use funk::engine::{Event, Message};
use funk::ids::{NodeId, PeerAddr, Term};

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Mark {
    /// A node says that something happened.
    Event(Box<Event>),
    /// A node's lease is renewed, for so long by its own clock; zero: it lapses.
    Lease(Duration),
    /// A node answers for so many shards from now on.
    Serving(usize),
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
    /// A fault takes place.
    Fault(String),
    /// An invariant is broken.
    Violation(String),
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
}
