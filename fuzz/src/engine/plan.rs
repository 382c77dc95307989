//! A run, derived from bytes.

use arbitrary::{Arbitrary, Unstructured};

use super::entry::HostileEntry;
use super::hostile::{From, HostileMessage, HostileTags, Number};

/// Steps past which a plan is cut off.
pub const MAX_STEPS: usize = 96;

/// A run.
#[derive(Arbitrary, Clone, Debug)]
pub struct Plan {
    /// The nodes.
    pub setup: Setup,
    /// What happens to them.
    #[arbitrary(with = steps)]
    pub steps: Vec<Step>,
}

fn steps(bytes: &mut Unstructured<'_>) -> arbitrary::Result<Vec<Step>> {
    bytes.arbitrary_iter()?.take(MAX_STEPS).collect()
}

/// The nodes of a run.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Setup {
    /// How many, modulo.
    pub nodes: u8,
    /// The last one is no member.
    pub observer: bool,
    /// The one before it, or the last, never votes.
    pub non_voter: bool,
    /// How many shards, modulo.
    pub shards: u8,
    /// How many voters, modulo.
    pub voters: u8,
    /// Whether a cluster is there already; otherwise they have to form one.
    pub settled: bool,
    /// What `bootstrap_expect` is where they have to form one, modulo.
    pub expect: u8,
    /// Which of the presets of times.
    pub timing: u8,
    /// Seed of the generators.
    pub seed: u8,
}

/// What does not go on in a round; by default it does.
#[derive(Arbitrary, Clone, Copy, Debug, Default)]
pub struct Held {
    /// No hook and no drain ends.
    pub hooks: bool,
    /// No message arrives.
    pub mail: bool,
    /// No quorum answers.
    pub quorum: bool,
    /// No entry is applied by the nodes of these bits.
    pub log: u8,
    /// No change of the configuration ends.
    pub changes: bool,
    /// `acquire` hooks fail.
    pub acquire: bool,
}

impl Step {
    /// So many rounds in which all is well.
    pub fn settle(rounds: u8) -> Self {
        Self::Settle { rounds, held: None }
    }
}

/// One of the nodes, modulo.
pub type At = u8;

/// Something that happens.
#[derive(Arbitrary, Clone, Debug)]
pub enum Step {
    /// So many milliseconds pass, and nobody gets to run.
    Wait(u16),
    /// So many microseconds pass.
    WaitShort(u16),
    /// The next timers fire, so many of them.
    Due(u8),
    /// A node is woken for nothing.
    Tick(At),
    /// Some rounds pass.
    Settle {
        /// How many, modulo.
        rounds: u8,
        /// What does not go on meanwhile; `None`: all is well.
        held: Option<Held>,
    },
    /// A message arrives; perhaps it stays on its way and arrives again.
    Deliver {
        /// Which.
        mail: u8,
        /// It arrives once more later.
        keep: bool,
    },
    /// All messages that are on their way are lost.
    DropMail,
    /// A peer sends what it likes.
    Hostile {
        /// To whom.
        to: At,
        /// Who.
        from: From,
        /// What.
        message: HostileMessage,
    },
    /// A node wins the next term; those of the bits hear of it.
    Elect {
        /// The node.
        at: At,
        /// Who hears of it.
        heard: u8,
    },
    /// Raft knows no leader any more.
    LeaderLost(At),
    /// Entries of the log are applied.
    Apply {
        /// By whom.
        at: At,
        /// How many at most.
        most: u8,
    },
    /// A leader puts an entry of its own making into the log.
    Append(HostileEntry),
    /// A node gets the snapshot of another.
    Install {
        /// Who gets it.
        at: At,
        /// Whose.
        of: At,
    },
    /// A node gets a snapshot that somebody made up.
    InstallBytes {
        /// Who gets it.
        at: At,
        /// What.
        bytes: Vec<u8>,
    },
    /// A quorum answered heartbeats that were sent so many milliseconds ago.
    QuorumAck {
        /// The leader.
        at: At,
        /// How long ago.
        ago: u8,
    },
    /// Raft tells its configuration.
    Members(At),
    /// A change of the configuration ends.
    Changed {
        /// Who asked for it.
        at: At,
        /// It took effect.
        done: bool,
    },
    /// The machine slept.
    ClockJumped(At),
    /// A hook ends, or a drain.
    Hook {
        /// Whose.
        at: At,
        /// Which.
        which: u8,
        /// An `acquire` hook succeeded.
        ok: bool,
    },
    /// A peer answers the question for its tags, or tells them unasked.
    TagsPulled {
        /// Who asked.
        at: At,
        /// Who answers.
        from: From,
        /// Which version.
        version: Number,
        /// The tags.
        tags: Option<HostileTags>,
    },
    /// A store that was thrown away is replaced.
    Store(At),
    /// A peer tells a non-member leader and map.
    Observed {
        /// The non-member.
        at: At,
        /// The leader.
        leader: Option<u8>,
        /// The map that is in force; otherwise the one that follows.
        real: bool,
        /// An encoded map.
        map: Vec<u8>,
    },
    /// A peer refuses this run.
    Superseded {
        /// Which run.
        at: At,
        /// The newer run.
        by: Option<Number>,
    },
    /// The application asks to leave.
    Leave(At),
    /// The application asks that another node leads.
    StepDown(At),
    /// The node stops.
    Stop(At),
    /// The application sets tags.
    SetTags {
        /// Where.
        at: At,
        /// The tags.
        tags: HostileTags,
    },
    /// The node stops and starts again with its store.
    Restart(At),
}
