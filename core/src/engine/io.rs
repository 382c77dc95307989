//! What goes into the engine and what comes out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use super::cordons::{Cordon, Cordons};
use super::events::Event;
use super::membership::Tags;
use super::message::Message;
use super::replicated::{Change, Replicated};
use super::shard_map::ShardMap;
use crate::ids::{
    BootId, ClusterId, Epoch, Instance, LogIndex, NodeId, PeerAddr, RaftId, ShardId, StoreId, Term,
};
use crate::log_message::LogMessage;
use crate::time::Time;
use crate::transport::Peer;

/// Everything that the engine learns.
#[derive(Clone, Debug)]
pub enum Input {
    /// Time passed: due timers fire. Every other input does this too.
    Tick,
    /// A datagram of the protocol.
    Message {
        /// Who sent it, proven by the transport.
        from: Peer,
        /// What it says.
        message: Message,
    },
    /// What raft says about leadership now. On election it must be given *after* the deciding vote arrived (rule L4).
    Leadership(Leadership),
    /// An entry of the protocol was applied, in order; what it did was decided by [`Replicated::apply`].
    Applied {
        /// Log index of the entry.
        index: LogIndex,
        /// Raft term of the entry.
        term: Term,
        /// What it did.
        change: Change,
    },
    /// A snapshot replaced the state machine (rule P3).
    Installed(Replicated),
    /// The raft configuration, when it changed, with how far each member has come (leader only).
    RaftMembers(RaftMembers),
    /// A quorum of voters has answered, in this term, heartbeats *sent* at or after this time (rule L3).
    QuorumAck {
        /// Term in which it was answered.
        term: Term,
        /// `q`, on the lease clock.
        sent_at: Time,
    },
    /// The result of [`Output::ChangeMembers`]: the change ended, well or not.
    MembersChanged {
        /// Whether it took effect.
        done: bool,
    },
    /// Clock and suspend-counting clock parted: the machine slept. Leases are dropped.
    ClockJumped,
    /// All guards of a closed shard are gone and its hooks have ended: answer to [`Output::Close`].
    Drained(Vec<(ShardId, Epoch)>),
    /// The `acquire` hooks of these have ended: answer to [`Output::Acquire`].
    Acquired {
        /// They may be served.
        shards: Vec<(ShardId, Epoch)>,
        /// They may not: the hook is to be run again, later.
        failed: Vec<(ShardId, Epoch)>,
    },
    /// Answer to [`Output::PullTags`]; `None`: it failed, the engine tries again.
    TagsPulled {
        /// Whose tags.
        from: Instance,
        /// Their version.
        version: u64,
        /// The tags.
        tags: Option<Tags>,
    },
    /// The raft log of this node is initialised, by itself or by a leader.
    Initialised {
        /// The cluster it belongs to.
        cluster: ClusterId,
        /// Whether it holds nothing but an initialisation: the first membership and blank entries. It is told again
        /// when that changes; in doubt `false`. A store that holds a log is reported before any other input.
        only_own: bool,
    },
    /// The node's store was replaced by an empty one (after [`Output::AbandonLog`]).
    StoreReplaced(StoreId),
    /// For a non-member: what a member said about leader and map.
    Observed {
        /// The leader, if one is known.
        leader: Option<NodeId>,
        /// The committed map.
        map: Arc<ShardMap>,
    },
    /// A peer refuses this run because a newer one of the same name was seen (the transport says so).
    Superseded {
        /// The newer run, if the peer named it.
        by: Option<BootId>,
    },
    /// The application asks for these weights, checked by the caller: one for each shard, or `None`: all weigh the same.
    /// On the leader they come with the next map; on any other node nothing happens.
    SetWeights(Option<Arc<[u32]>>),
    /// Somebody asks that shards be kept from a node, or not any more (`None`). On the leader it goes into the log, on
    /// any other node nothing happens (rule M9).
    SetCordon {
        /// The node.
        node: NodeId,
        /// What is to hold for it.
        cordon: Option<Cordon>,
    },
    /// Whether all services of this node say that they are ready; they are until the first such input (rule M10).
    Ready(bool),
    /// The application asks to leave: drain, then be removed (rule M5).
    Leave,
    /// The application asks that another node leads.
    StepDown,
    /// The node stops at once.
    Stop,
}

/// Leadership as raft sees it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Leadership {
    /// Current term.
    pub term: Term,
    /// The leader of that term, if known.
    pub leader: Option<RaftId>,
    /// Whether that is this node.
    pub is_leader: bool,
}

/// The raft configuration and, on the leader, its progress.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RaftMembers {
    /// Voters; two sets while a joint change is under way.
    pub voters: Vec<BTreeSet<RaftId>>,
    /// All members, non-voters too, with their addresses.
    pub members: BTreeMap<RaftId, SocketAddr>,
    /// On the leader: the last index known to be stored on each member.
    pub matched: BTreeMap<RaftId, LogIndex>,
    /// Last index in this node's log.
    pub last_index: LogIndex,
}

/// The raft configuration that should be: reached by one joint change.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MemberChange {
    /// The voters.
    pub voters: BTreeSet<RaftId>,
    /// All members, voters included, with their addresses.
    pub members: BTreeMap<RaftId, SocketAddr>,
}

/// The lease as the router must see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LeaseView {
    /// Guards of another generation are void: a lapse lay between (rule S6).
    pub generation: u64,
    /// Valid before this time; never, if it has passed.
    pub until: Time,
}

/// Where requests go.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    /// The committed map.
    pub map: Arc<ShardMap>,
    /// Index of the pending proposal, if there is one.
    pub pending: Option<LogIndex>,
    /// The leader, if known.
    pub leader: Option<NodeId>,
    /// Where members are.
    pub addrs: Arc<BTreeMap<NodeId, PeerAddr>>,
    /// Members that are suspect, failed or have left: waiting for their answers is no use.
    pub unreachable: Arc<BTreeSet<NodeId>>,
    /// Nodes that the operator keeps shards from.
    pub cordons: Arc<Cordons>,
}

/// Everything that the engine wants done.
#[derive(Clone, Debug)]
pub enum Output {
    /// Send a datagram.
    Send {
        /// To whom.
        to: PeerAddr,
        /// What.
        message: Message,
    },
    /// Fetch a node's tags over a stream; answer with [`Input::TagsPulled`].
    PullTags {
        /// From whom.
        from: PeerAddr,
        /// Whose tags.
        instance: Instance,
        /// The version that gossip speaks of.
        version: u64,
    },
    /// Initialise the raft log with these members, as this cluster; answer with [`Input::Initialised`].
    Initialise {
        /// The new cluster's id.
        cluster: ClusterId,
        /// Its first voters.
        members: BTreeMap<RaftId, SocketAddr>,
    },
    /// Raft messages of this cluster are acceptable from now on (and of no other).
    Accept(ClusterId),
    /// Throw the log away, which is empty or holds nothing but an initialisation, and begin with an empty store of
    /// a new id; answer with [`Input::StoreReplaced`].
    AbandonLog,
    /// Append to the log if this node leads in exactly `term`: fire and observe.
    Propose {
        /// The term.
        term: Term,
        /// The entry.
        message: LogMessage,
    },
    /// Change the raft configuration; answer with [`Input::MembersChanged`].
    ChangeMembers(MemberChange),
    /// Hand leadership to this member.
    TransferLeadership(RaftId),
    /// Run the `acquire` hooks; answer each with [`Input::Acquired`].
    Acquire(Vec<(ShardId, Epoch)>),
    /// Answer requests for these from now on.
    Open(Vec<(ShardId, Epoch)>),
    /// Hand out no more guards, wait for those in flight, run the `release` hooks; answer each with [`Input::Drained`].
    Close(Vec<(ShardId, Epoch)>),
    /// The lease changed.
    Lease(LeaseView),
    /// Where requests go changed.
    Routes(Routes),
    /// Something happened.
    Event(Event),
    /// The node has left (or given up leaving gracefully) and may be stopped.
    Left,
}
