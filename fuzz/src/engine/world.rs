//! Nodes on one clock and one log, and what a step does to them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use funk::engine::map_encoding::decode_map;
use funk::engine::message::Message;
use funk::engine::replicated::Replicated;
use funk::engine::{Input, NodeState, RaftMembers};
use funk::ids::{ClusterId, Instance, PeerAddr, RaftId, Term};
use funk::log_message::LogMessage;
use funk::time::Time;
use funk::transport::{Peer, PeerKind};
use funk::wire::decode_datagram;

use super::group::MAX_LOG;
use super::hostile::{self, From, HostileMessage, Truth, addr};
use super::plan::{Held, Setup, Step};
use super::seat::Seat;
use crate::allocation::Bound;

/// The cluster that is there already in a settled run.
pub const CLUSTER: ClusterId = ClusterId(7);
/// Messages on their way; past it the oldest is lost.
const MAX_MAIL: usize = 64;
/// Messages that were sent last, for damage.
const MAX_RECENT: usize = 32;
/// Ticks of one node at one moment after which it is said to spin.
const SPINS: u32 = 100;
/// Hooks that end in one round.
const MAX_HOOKS: usize = 256;
/// How long a round of a settled world is.
const ROUND: Duration = Duration::from_millis(20);
/// What one datagram may make an engine allocate: answers, routes (a copy of all addresses), timers.
const MESSAGE: Bound = Bound::linear(256 << 10, 1 << 10);

/// A message on its way.
pub struct Mail {
    from: usize,
    to: PeerAddr,
    message: Message,
}

/// The nodes and what is between them.
pub struct World {
    pub(super) now: Time,
    pub(super) seats: Vec<Seat>,
    pub(super) cluster: Option<ClusterId>,
    pub(super) log: Vec<(Term, LogMessage)>,
    pub(super) term: Term,
    pub(super) leader: Option<usize>,
    /// The raft configuration of the cluster.
    pub(super) group: RaftMembers,
    mail: VecDeque<Mail>,
    recent: VecDeque<Message>,
    /// Whom leadership is to be handed to.
    heir: Option<usize>,
}

/// Version and digest of the cluster's name: the first bytes of what a node gossips.
pub fn gossip_head() -> Vec<u8> {
    static HEAD: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let setup = Setup {
            nodes: 1,
            observer: false,
            non_voter: false,
            shards: 1,
            voters: 1,
            settled: false,
            expect: 1,
            timing: 0,
            seed: 0,
        };
        let mut world = World::empty();
        world.seats = (0..2)
            .map(|at| Seat::new(&setup, at, 2, world.now))
            .collect();
        world.input(0, Input::Tick);
        let gossip = world.recent.iter().find_map(|message| match message {
            Message::Gossip(packet) => Some(packet[..9].to_vec()),
            _ => None,
        });
        gossip.expect("a node that starts asks its seeds")
    });
    HEAD.clone()
}

impl World {
    fn empty() -> Self {
        Self {
            now: Time(1_000_000_000),
            seats: Vec::new(),
            cluster: None,
            log: Vec::new(),
            term: Term(0),
            leader: None,
            group: RaftMembers::default(),
            mail: VecDeque::new(),
            recent: VecDeque::new(),
            heir: None,
        }
    }

    /// Nodes that have started.
    pub fn new(setup: &Setup) -> Self {
        let mut world = Self::empty();
        let count = usize::from(setup.nodes) % 4 + 1;
        world.seats = (0..count)
            .map(|at| Seat::new(setup, at, count, world.now))
            .collect();
        if setup.settled {
            world.settle_in(usize::from(setup.voters) % 5 + 1);
        }
        for at in 0..count {
            world.input(at, Input::Tick);
        }
        world
    }

    /// All members are in a raft group whose log holds entries.
    fn settle_in(&mut self, voters: usize) {
        self.cluster = Some(CLUSTER);
        let members = self.seats.iter().filter(|seat| seat.is_member());
        let members: Vec<(RaftId, _)> = members.map(|seat| (seat.raft_id(), seat.addr())).collect();
        let may_vote = self.seats.iter().filter(|seat| seat.may_vote());
        self.group.voters = vec![may_vote.map(Seat::raft_id).take(voters).collect()];
        self.group.members = members.into_iter().collect();
        for at in 0..self.seats.len() {
            if self.seats[at].is_member() {
                self.seats[at].holds = Some((CLUSTER, false));
                let told = Input::Initialised {
                    cluster: CLUSTER,
                    only_own: false,
                };
                self.input(at, told);
                self.tell_members(at);
            }
        }
    }

    /// Does all steps.
    pub fn run(&mut self, steps: &[Step]) {
        for step in steps {
            self.step(step);
        }
    }

    fn at(&self, at: u8) -> usize {
        usize::from(at) % self.seats.len()
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Wait(ms) => self.now = self.now + Duration::from_millis(u64::from(*ms)),
            Step::WaitShort(us) => self.now = self.now + Duration::from_micros(u64::from(*us)),
            Step::Due(times) => (0..times % 16 + 1).for_each(|_| self.fire()),
            Step::Tick(at) => self.input(self.at(*at), Input::Tick),
            Step::Settle { rounds, held } => {
                (0..rounds % 12 + 1).for_each(|_| self.round(held.unwrap_or_default()));
            }
            Step::Deliver { mail, keep } => self.deliver(usize::from(*mail), *keep),
            Step::DropMail => self.mail.clear(),
            Step::Hostile { to, from, message } => self.hostile(self.at(*to), from, message),
            Step::Elect { at, heard } => self.elect(self.at(*at), *heard),
            Step::LeaderLost(at) => self.lose_leader(self.at(*at)),
            Step::Apply { at, most } => self.apply(self.at(*at), usize::from(*most)),
            Step::Append(entry) => self.append(entry),
            Step::Install { at, of } => {
                let bytes = self.seats[self.at(*of)].replica.encode();
                if self.seats[self.at(*of)].applied > self.seats[self.at(*at)].applied {
                    self.install(self.at(*at), &bytes, self.seats[self.at(*of)].applied);
                }
            }
            Step::InstallBytes { at, bytes } => {
                self.install(self.at(*at), bytes, self.log.len());
            }
            Step::QuorumAck { at, ago } => self.quorum(self.at(*at), u64::from(*ago)),
            Step::Members(at) => self.tell_members(self.at(*at)),
            Step::Changed { at, done } => self.change_members(self.at(*at), *done),
            Step::ClockJumped(at) => self.input(self.at(*at), Input::ClockJumped),
            Step::Hook { at, which, ok } => {
                let at = self.at(*at);
                if let Some(input) = self.seats[at].end_hook(usize::from(*which), *ok) {
                    self.input(at, input);
                }
            }
            Step::TagsPulled {
                at,
                from,
                version,
                tags,
            } => {
                let input = Input::TagsPulled {
                    from: self.peer(from).instance,
                    version: version.at(1),
                    tags: tags.as_ref().map(hostile::HostileTags::tags),
                };
                self.input(self.at(*at), input);
            }
            Step::Store(at) => self.work_on_store(self.at(*at)),
            Step::Observed {
                at,
                leader,
                real,
                map,
            } => {
                let map = if *real {
                    self.newest_replica().committed.clone()
                } else if let Ok(map) = decode_map(map) {
                    Arc::new(map)
                } else {
                    return;
                };
                let leader = leader.map(hostile::name);
                self.input(self.at(*at), Input::Observed { leader, map });
            }
            Step::Superseded { at, by } => {
                let at = self.at(*at);
                let boot = self.seats[at].instance.boot.0;
                let by = by.map(|by| funk::ids::BootId(by.at(boot)));
                self.input(at, Input::Superseded { by });
            }
            Step::Leave(at) => self.input(self.at(*at), Input::Leave),
            Step::StepDown(at) => self.input(self.at(*at), Input::StepDown),
            Step::Stop(at) => self.input(self.at(*at), Input::Stop),
            Step::SetTags { at, tags } => {
                let at = self.at(*at);
                if self.seats[at].engine.state() != NodeState::Invalid {
                    self.seats[at].engine.set_tags(self.now, tags.tags());
                    self.drain(at);
                }
            }
            Step::Restart(at) => self.restart(self.at(*at)),
        }
    }

    // Inputs and outputs.

    /// Gives an engine an input, checks it and does what it wants.
    pub(super) fn input(&mut self, at: usize, input: Input) {
        self.seats[at].engine.handle_input(self.now, input);
        self.drain(at);
    }

    fn drain(&mut self, at: usize) {
        let wanted = self.seats[at].drain();
        for (to, message) in wanted.sent {
            if self.recent.len() == MAX_RECENT {
                self.recent.pop_front();
            }
            self.recent.push_back(message.clone());
            if self.mail.len() == MAX_MAIL {
                self.mail.pop_front();
            }
            self.mail.push_back(Mail {
                from: at,
                to,
                message,
            });
        }
        for (term, message) in wanted.proposed {
            let leads = self.leader == Some(at) && term == self.term;
            if leads && self.log.len() < MAX_LOG {
                self.log.push((term, message));
            }
        }
        if let Some(heir) = wanted.heir {
            self.heir = self.seats.iter().position(|seat| seat.raft_id() == heir);
        }
    }

    /// The earliest timer fires.
    fn fire(&mut self) {
        let live = |seat: &Seat| seat.engine.state() != NodeState::Invalid;
        let due = |(at, seat): (usize, &Seat)| {
            let due = seat.engine.poll_timeout().filter(|_| live(seat))?;
            Some((due, at))
        };
        if let Some((due, at)) = self.seats.iter().enumerate().filter_map(due).min() {
            self.now = self.now.max(due);
            self.input(at, Input::Tick);
            self.check_progress(at);
        }
    }

    /// Time must pass before a node asks for another tick, and another.
    fn check_progress(&mut self, at: usize) {
        for _ in 0..SPINS {
            let seat = &self.seats[at];
            let again = seat
                .engine
                .poll_timeout()
                .is_some_and(|due| due <= self.now);
            if !again || seat.engine.state() == NodeState::Invalid {
                return;
            }
            self.input(at, Input::Tick);
        }
        let due = self.seats[at].engine.poll_timeout();
        panic!(
            "n{at} asks for a tick at {due:?}, again and again; it is {:?}",
            self.now
        );
    }

    /// A little time in which nothing goes wrong but what is held up.
    fn round(&mut self, held: Held) {
        self.now = self.now + ROUND;
        for at in 0..self.seats.len() {
            self.work_on_store(at);
            if self.seats[at].has_left {
                self.input(at, Input::Stop);
            }
        }
        if let Some(heir) = self.heir.take() {
            self.elect(heir, u8::MAX);
        } else if self.leader.is_none() {
            let holder = self.seats.iter().position(|seat| self.may_lead(seat));
            holder.into_iter().for_each(|at| self.elect(at, u8::MAX));
        }
        if held.mail {
            self.mail.clear();
        }
        for _ in 0..self.mail.len() {
            self.deliver(0, false);
        }
        for at in 0..self.seats.len() {
            if !held.quorum {
                self.quorum(at, 0);
            }
            if held.log & (1 << at) == 0 {
                self.apply(at, usize::MAX);
            }
            if !held.changes {
                self.change_members(at, true);
            }
            let hooks = if held.hooks { 0 } else { MAX_HOOKS };
            for _ in 0..hooks {
                let Some(input) = self.seats[at].end_hook(0, !held.acquire) else {
                    break;
                };
                self.input(at, input);
            }
            self.tell_members(at);
            self.input(at, Input::Tick);
            self.check_progress(at);
        }
    }

    // The network.

    fn deliver(&mut self, which: usize, keep: bool) {
        let which = which % self.mail.len().max(1);
        let Some(mail) = self.mail.remove(which) else {
            return;
        };
        let is_there = |seat: &Seat| {
            let meant = mail
                .to
                .node
                .as_ref()
                .is_none_or(|node| *node == seat.instance.node);
            seat.addr() == mail.to.addr && meant
        };
        let to = self.seats.iter().position(is_there);
        let sender = &self.seats[mail.from];
        let from = Peer {
            version: funk::versions::NEWEST,
            instance: sender.instance.clone(),
            kind: PeerKind::Node,
            addr: sender.addr(),
        };
        let message = mail.message.clone();
        if keep {
            self.mail.push_back(mail);
        }
        if let Some(to) = to {
            self.input(to, Input::Message { from, message });
        }
    }

    fn peer(&self, from: &From) -> Peer {
        let node = hostile::name(from.node);
        let run = self.seats.iter().find(|seat| seat.instance.node == node);
        let right = run.map_or(1, |seat| seat.instance.boot.0);
        let boot = funk::ids::BootId(from.boot.at(right));
        Peer {
            version: funk::versions::NEWEST,
            instance: Instance { node, boot },
            kind: PeerKind::Node,
            addr: addr(from.elsewhere.unwrap_or(from.node)),
        }
    }

    fn hostile(&mut self, to: usize, from: &From, message: &HostileMessage) {
        let from = self.peer(from);
        let committed = self.newest_replica().committed.clone();
        let head = gossip_head();
        let seat = &self.seats[to];
        let truth = Truth {
            now: self.now,
            term: self.term.0,
            index: self.log.len() as u64,
            cluster: seat.engine.cluster().or(self.cluster).unwrap_or(CLUSTER),
            committed: &committed,
            boot: seat.instance.boot,
            sender: &from.instance,
            receiver: &seat.instance,
            gossip_head: &head,
        };
        let datagram = message.datagram(&truth, self.recent.make_contiguous());
        let Ok(message) = decode_datagram(&datagram, funk::versions::VersionRange::SPOKEN) else {
            return;
        };
        let (now, engine) = (self.now, &mut self.seats[to].engine);
        let input = Input::Message { from, message };
        MESSAGE.hold(datagram.len(), || engine.handle_input(now, input));
        self.drain(to);
    }

    /// Situations that the engines have counted, for the generator of seeds.
    pub fn situations(&self) -> BTreeMap<&'static str, u64> {
        let mut all = BTreeMap::new();
        for (name, count) in self
            .seats
            .iter()
            .flat_map(|seat| seat.engine.counters().iter())
        {
            *all.entry(name).or_default() += count;
        }
        all.insert("entries", self.log.len() as u64);
        let open = self.seats.iter().map(|seat| seat.open.len() as u64);
        all.insert("shards open", open.sum());
        all
    }

    /// The messages that were sent last.
    pub fn sent(&self) -> impl Iterator<Item = &Message> {
        self.recent.iter()
    }

    /// The entries of the log.
    pub fn entries(&self) -> impl Iterator<Item = &LogMessage> {
        self.log.iter().map(|(_, message)| message)
    }

    /// What each node has made of the entries.
    pub fn replicas(&self) -> impl Iterator<Item = &Replicated> {
        self.seats.iter().map(|seat| &seat.replica)
    }
}
