//! What a seed means: every option of a run, and every fault with its time. A plan is data: it is printed, shrunk and
//! run again.

use std::time::Duration;

use funk::engine::flaps::FLAP_MOST;
use funk::timing::Timing;
use funk_sim::Disk;
use serde::{Deserialize, Serialize};

use super::plan_json::{DiskJson, TimingJson};
use super::service::Manners;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Whom a fault strikes; found out when it does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Target {
    /// The node at this place.
    Node(usize),
    /// Whoever leads then.
    Leader,
    /// Somebody else, the place counted among those who do not lead.
    Follower(usize),
}

/// What becomes of what a disk had not synchronised when its power goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Unsynced {
    /// All of it is lost.
    Lost,
    /// All of it is there.
    Kept,
    /// Each block and each name of a file is lost or kept by chance.
    Torn,
}

/// A cut in the network. Sides are sets of places, as bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Cut {
    /// Between the side and the others.
    Split(u32),
    /// The same, but for one node that both reach.
    Bridge(u32, usize),
    /// One node alone.
    Isolate(Target),
    /// One node hears nothing, and is heard.
    Deaf(Target),
    /// One node is not heard, and hears.
    Mute(Target),
    /// The leader with one follower on one side, the others on the other.
    LeaderAndOne(usize),
    /// One direction of some links, as bits `from * nodes + to`.
    OneWay(u64),
}

/// A fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Fault {
    /// Power cut; the node starts again after a while.
    Crash {
        /// Who.
        target: Target,
        /// For how long it is down.
        down: Duration,
        /// What becomes of its store.
        #[serde(with = "DiskJson")]
        disk: Disk,
        /// What becomes of what its disk had not synchronised.
        unsynced: Unsynced,
    },
    /// Power cut of all nodes at once; stores are kept.
    CrashAll {
        /// For how long they are down.
        down: Duration,
        /// What becomes of what their disks had not synchronised.
        unsynced: Unsynced,
    },
    /// A process is killed, its machine goes on; it starts again after a while.
    Kill {
        /// Who.
        target: Target,
        /// For how long it is down.
        down: Duration,
    },
    /// The power goes in the middle of what a node writes; it starts again after a while.
    PowerEnds {
        /// Who.
        target: Target,
        /// At this operation of its disk from now on.
        operation: u64,
        /// For how long it is down then.
        down: Duration,
    },
    /// An fsync fails, and what was to be written is gone from the cache. The node stops, and starts again after a while.
    SyncFails {
        /// Who.
        target: Target,
        /// Which of its disk's operations from now on is the first that may fail.
        operation: u64,
        /// For how long it is down then.
        down: Duration,
    },
    /// A disk has little room left. The node stops when it is full, and starts again when there is room.
    DiskFull {
        /// Who.
        target: Target,
        /// Bytes that are left.
        room: u32,
        /// For how long it is down then.
        down: Duration,
    },
    /// An fsync takes long.
    SlowDisk {
        /// Who.
        target: Target,
        /// So long.
        delay: Duration,
        /// For how long.
        span: Duration,
    },
    /// Power cut, and a bit of what was stored is another one. The node must not start; it comes back with an empty disk.
    Damage {
        /// Who.
        target: Target,
        /// Which byte, in thousandths of all that may be damaged.
        place: u32,
        /// For how long it is down.
        down: Duration,
    },
    /// A disk says that it has written what it has not; then its power goes. What it lost counts as a store that is
    /// lost: the node comes back with an empty disk.
    Lies {
        /// Who.
        target: Target,
        /// For how long it lies.
        span: Duration,
        /// For how long the node is down then.
        down: Duration,
    },
    /// A process stands still, its clock goes on.
    Pause {
        /// Who.
        target: Target,
        /// For how long.
        span: Duration,
    },
    /// The machine sleeps: lease clock and monotonic clock part.
    Sleep {
        /// Who.
        target: Target,
        /// For how long.
        span: Duration,
    },
    /// Links are cut.
    Cut {
        /// Which.
        cut: Cut,
        /// For how long.
        span: Duration,
    },
    /// Datagrams are lost.
    Loss {
        /// How many of a hundred.
        percent: u32,
        /// For how long.
        span: Duration,
    },
    /// All messages take longer.
    Slow {
        /// At most so long.
        latency: Duration,
        /// For how long.
        span: Duration,
    },
    /// The leader is asked to hand on.
    StepDown,
    /// A node leaves, and comes back.
    Leave {
        /// Who.
        target: Target,
        /// After so long.
        back: Duration,
    },
    /// A node changes a tag of its own, several times in a row.
    Tags {
        /// Who.
        target: Target,
        /// How often.
        times: u32,
    },
    /// Somebody takes guards of a node and does not let them go, whatever the lease says.
    Hold {
        /// Who.
        target: Target,
        /// For how long.
        span: Duration,
    },
}

impl Fault {
    /// How long it goes on; zero if it is over at once.
    pub fn lasts(&self) -> Duration {
        match *self {
            Self::Crash { down, .. }
            | Self::CrashAll { down, .. }
            | Self::Kill { down, .. }
            | Self::PowerEnds { down, .. }
            | Self::SyncFails { down, .. }
            | Self::DiskFull { down, .. }
            | Self::Damage { down, .. } => down,
            Self::Lies { span, down, .. } => span + down,
            Self::Leave { back, .. } => back,
            Self::Pause { span, .. }
            | Self::Sleep { span, .. }
            | Self::Cut { span, .. }
            | Self::Loss { span, .. }
            | Self::Slow { span, .. }
            | Self::SlowDisk { span, .. }
            | Self::Hold { span, .. } => span,
            Self::StepDown | Self::Tags { .. } => Duration::ZERO,
        }
    }
}

/// Where a fault strikes in the middle of a hand-off, instead of at its time: at the next time that it is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Moment {
    /// At its time.
    Now,
    /// When the next proposal is in a log and applied nowhere.
    Proposed,
    /// When it is applied, and nobody has acknowledged it.
    Draining,
    /// When somebody has.
    Acked,
    /// When the decision is in a log.
    Deciding,
    /// When it is in force, and what was gained is not all served.
    InForce,
}

/// A fault with its time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Strike {
    /// After the nodes were started.
    pub at: Duration,
    /// And then this.
    pub moment: Moment,
    /// What.
    pub fault: Fault,
}

/// How the nodes reach each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Transport {
    /// The simulator's own, over its TCP and UDP.
    Tcp,
    /// QUIC as it ships, over simulated UDP.
    Quic,
}

/// A node.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct NodePlan {
    /// Speed of its clock.
    pub rate: f64,
    /// What its clock shows at a start.
    pub offset: Duration,
    /// How long its disk takes for an fsync.
    pub fsync: Duration,
    /// Whether it may vote.
    pub votes: bool,
    /// When it is started.
    pub starts_at: Duration,
}

/// The load.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Load {
    /// Mean time between the calls of each node.
    pub every: Duration,
    /// Hosts beside the nodes that call as clients.
    pub clients: usize,
    /// Keys.
    pub keys: u64,
    /// How many of the calls are gets.
    pub gets: f64,
    /// Deadline of a call.
    pub deadline: Duration,
}

/// Every option of a run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Everything that chance does besides follows from it.
    pub seed: u64,
    /// Step of time.
    pub tick: Duration,
    /// Longest time that a message takes.
    pub latency: Duration,
    /// How many datagrams of a thousand are lost all the time.
    pub loss_permille: u32,
    /// The transport.
    pub transport: Transport,
    /// The nodes.
    pub nodes: Vec<NodePlan>,
    /// How many found the cluster.
    pub bootstrap_expect: u16,
    /// Voters that the leader keeps.
    pub voters: usize,
    /// Shards.
    pub shards: u32,
    /// Timing of all nodes.
    #[serde(with = "TimingJson")]
    pub timing: Timing,
    /// Applied entries between snapshots.
    pub snapshot_every: u64,
    /// How the service misbehaves.
    pub manners: Manners,
    /// The load.
    pub load: Load,
    /// Faults begin only once a first map is in force.
    pub forms_in_peace: bool,
    /// The faults, by time.
    pub strikes: Vec<Strike>,
    /// When all faults end.
    pub calm_at: Duration,
    /// How long the run goes on at least.
    pub length: Duration,
}

/// Shortest simulated time of a run of the swarm.
pub const SHORTEST: Duration = Duration::from_secs(60);

impl Plan {
    /// Nodes with exact clocks, a light load, no faults: what scenarios begin with.
    pub fn quiet(seed: u64, nodes: usize) -> Self {
        Self {
            seed,
            tick: ms(5),
            latency: ms(1),
            loss_permille: 0,
            transport: Transport::Tcp,
            nodes: vec![NodePlan::exact(); nodes],
            bootstrap_expect: nodes.min(3) as u16,
            voters: 5,
            shards: 32,
            timing: Timing {
                drain_timeout: ms(1_000),
                acquire_timeout: ms(1_000),
                ..Timing::lan()
            },
            snapshot_every: 1_000,
            manners: Manners::default(),
            load: Load {
                every: ms(100),
                clients: 0,
                keys: 16,
                gets: 0.5,
                deadline: Duration::from_secs(5),
            },
            forms_in_peace: true,
            strikes: Vec::new(),
            calm_at: Duration::ZERO,
            length: Duration::ZERO,
        }
    }

    /// The longest time that something configured may take, on top of what recovery takes anyway (I8).
    pub fn longest_timeout(&self) -> Duration {
        let timing = &self.timing;
        let voter = timing.replace_after.min(timing.stale_after);
        // A node that came and went too often.
        let bounced = timing.settle_joins * FLAP_MOST;
        let hooks = timing.drain_timeout.max(timing.acquire_timeout);
        voter.max(hooks).max(bounced)
    }
}

impl NodePlan {
    /// As `starts_at`: the node starts when a scenario says so.
    pub const ON_REQUEST: Duration = Duration::MAX;

    /// A voter with an exact clock, started at once.
    pub fn exact() -> Self {
        Self {
            rate: 1.0,
            offset: Duration::ZERO,
            fsync: Duration::ZERO,
            votes: true,
            starts_at: Duration::ZERO,
        }
    }
}
