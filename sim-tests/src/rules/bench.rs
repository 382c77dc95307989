//! Engines on a bench: real ones, one clock, an instant network and log, and a hand on everything.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use funk::engine::replicated::Replicated;
use funk::engine::{
    Engine, EngineConfig, Event, Input, Leadership, LeaseView, MemberChange, Message, Output,
    RaftMembers, Routes, Tags,
};
use funk::ids::{
    BootId, ClusterId, ClusterName, Epoch, Instance, LogIndex, MemberKind, NodeId, RaftId, ShardId,
    StoreId, Term,
};
use funk::log_message::LogMessage;
use funk::time::Time;
use funk::timing::Timing;
use funk::transport::{Peer, PeerKind};
use funk::versions::{NEWEST, VersionRange};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

pub(super) const SHARDS: u32 = 12;
pub(super) const CLUSTER: ClusterId = ClusterId(7);

pub(super) const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// One node and what it did.
pub(super) struct Seat {
    pub(super) engine: Engine,
    pub(super) instance: Instance,
    pub(super) replica: Replicated,
    pub(super) applied: usize,
    pub(super) alive: bool,
    /// Drains do not end.
    pub(super) busy: bool,
    /// `acquire` does not end.
    pub(super) slow: bool,
    /// It applies nothing.
    pub(super) lags: bool,
    pub(super) open: BTreeMap<ShardId, Epoch>,
    pub(super) closing: BTreeSet<(ShardId, Epoch)>,
    pub(super) acquiring: BTreeSet<(ShardId, Epoch)>,
    pub(super) lease: LeaseView,
    pub(super) routes: Option<Routes>,
    pub(super) events: Vec<Event>,
    pub(super) sent: Vec<(Time, NodeId, Message)>,
    pub(super) changes: Vec<MemberChange>,
    pub(super) transfers: Vec<RaftId>,
    pub(super) left: bool,
}

pub(super) struct Bench {
    pub(super) now: Time,
    pub(super) seats: Vec<Seat>,
    pub(super) log: Vec<(Time, Term, LogMessage)>,
    pub(super) term: Term,
    pub(super) leader: Option<usize>,
    /// Whether a quorum answers the leader.
    pub(super) quorum: bool,
    /// Whether the log commits.
    pub(super) commits: bool,
    pub(super) cut: BTreeSet<(usize, usize)>,
    /// Members of the raft group, by seat; the first five vote.
    pub(super) group: Vec<usize>,
    /// What nodes are told at their next start.
    pub(super) options: Options,
    mail: Vec<(usize, usize, Message)>,
}

pub(super) fn name(at: usize) -> NodeId {
    NodeId::new(&format!("n{at}")).unwrap()
}

pub(super) fn addr(at: usize) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::new(10, 0, 0, at as u8 + 1).into(), 7_000)
}

pub(super) fn raft_id(at: usize) -> RaftId {
    RaftId {
        node: name(at),
        store: StoreId(at as u64 + 100),
    }
}

pub(super) fn timing() -> Timing {
    Timing {
        drain_timeout: ms(600),
        ..Timing::lan()
    }
}

/// What is the same for all nodes of a bench, or for each run of one of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Options {
    /// By seat; 1 for those that are not named.
    pub(super) capacities: Vec<u32>,
    pub(super) max_moves: Option<u32>,
}

pub(super) fn instance(at: usize, boot: u64) -> Instance {
    Instance {
        node: name(at),
        boot: BootId(boot),
    }
}

fn config(
    at: usize,
    boot: u64,
    seeds: impl Iterator<Item = usize>,
    options: &Options,
) -> EngineConfig {
    EngineConfig {
        versions: VersionRange::SPOKEN,
        cluster: ClusterName::new("bench").unwrap(),
        instance: instance(at, boot),
        addr: addr(at),
        store: raft_id(at).store,
        kind: MemberKind::Voter,
        seeds: seeds.map(addr).collect(),
        bootstrap_expect: 0,
        shards: SHARDS,
        voters: 5,
        capacity: options.capacities.get(at).copied().unwrap_or(1),
        max_moves: options.max_moves,
        timing: timing(),
        tags: Tags::default(),
    }
}

fn engine(config: EngineConfig, at: usize, now: Time) -> Engine {
    Engine::new(config, ChaCha8Rng::seed_from_u64(at as u64), now)
}

/// A node without a cluster, that forms one with another.
pub(super) fn candidate(at: usize, other: usize, now: Time) -> Engine {
    let config = EngineConfig {
        bootstrap_expect: 2,
        ..config(at, 1, [other].into_iter(), &Options::default())
    };
    engine(config, at, now)
}

fn seat(config: EngineConfig, at: usize, now: Time) -> Seat {
    Seat {
        instance: config.instance.clone(),
        engine: engine(config, at, now),
        replica: Replicated::default(),
        applied: 0,
        alive: true,
        busy: false,
        slow: false,
        lags: false,
        open: BTreeMap::new(),
        closing: BTreeSet::new(),
        acquiring: BTreeSet::new(),
        lease: LeaseView::default(),
        routes: None,
        events: Vec::new(),
        sent: Vec::new(),
        changes: Vec::new(),
        transfers: Vec::new(),
        left: false,
    }
}

impl Bench {
    /// Nodes that know each other, with the first `group` of them in the raft group, and no leader.
    pub(super) fn new(seats: usize, group: usize) -> Self {
        Self::of(seats, group, Options::default())
    }

    /// The same with options.
    pub(super) fn of(seats: usize, group: usize, options: Options) -> Self {
        let now = Time(1_000_000_000);
        let mut bench = Self {
            now,
            seats: (0..seats)
                .map(|at| {
                    let others = (0..seats).filter(|&other| other != at);
                    seat(config(at, 1, others, &options), at, now)
                })
                .collect(),
            log: Vec::new(),
            term: Term(0),
            leader: None,
            quorum: true,
            commits: true,
            cut: BTreeSet::new(),
            group: (0..group).collect(),
            options,
            mail: Vec::new(),
        };
        for at in 0..seats {
            bench.input(
                at,
                Input::Initialised {
                    cluster: CLUSTER,
                    only_own: false,
                },
            );
        }
        bench.tell_group();
        bench.run(ms(400));
        bench
    }

    /// The same with a leader, a map and a lease for everybody in the group.
    pub(super) fn settled(seats: usize, group: usize) -> Self {
        let mut bench = Self::new(seats, group);
        bench.elect(0);
        bench.run(ms(1_000));
        for at in 0..group {
            assert_eq!(bench.seats[at].engine.pending(), None);
            assert!(bench.is_leased(at), "n{at} is not leased");
            assert_eq!(
                bench.seats[at].open.len(),
                SHARDS as usize / group,
                "n{at} serves its part"
            );
        }
        bench
    }

    pub(super) fn is_leased(&self, at: usize) -> bool {
        self.now < self.seats[at].lease.until
    }

    pub(super) fn members(&self) -> RaftMembers {
        let ids = |most: usize| {
            self.group
                .iter()
                .take(most)
                .map(|&at| raft_id(at))
                .collect::<BTreeSet<_>>()
        };
        let last = LogIndex(self.log.len() as u64);
        RaftMembers {
            voters: vec![ids(5)],
            members: self
                .group
                .iter()
                .map(|&at| (raft_id(at), addr(at)))
                .collect(),
            matched: self.group.iter().map(|&at| (raft_id(at), last)).collect(),
            last_index: last,
        }
    }

    /// Raft tells everybody who is in the group.
    pub(super) fn tell_group(&mut self) {
        let members = self.members();
        for at in 0..self.seats.len() {
            self.input(at, Input::RaftMembers(members.clone()));
        }
    }

    /// The node wins the next term, and all that are there hear of it.
    pub(super) fn elect(&mut self, at: usize) {
        self.term = Term(self.term.0 + 1);
        self.leader = Some(at);
        let term = self.term;
        for to in 0..self.seats.len() {
            let heard = to == at || !self.cut.contains(&(at, to));
            if heard {
                let leader = Some(raft_id(at));
                self.input(
                    to,
                    Input::Leadership(Leadership {
                        term,
                        leader,
                        is_leader: to == at,
                    }),
                );
            }
        }
    }

    pub(super) fn kill(&mut self, at: usize) {
        self.seats[at].alive = false;
    }

    /// Another run of the node, with the same store.
    pub(super) fn restart(&mut self, at: usize) {
        let versions = self.seats[at].engine.config().versions;
        self.upgrade(at, versions);
    }

    /// A restart as a release that speaks these versions.
    pub(super) fn upgrade(&mut self, at: usize, versions: VersionRange) {
        let boot = self.seats[at].instance.boot.0 + 1;
        let (replica, applied) = (self.seats[at].replica.clone(), self.seats[at].applied);
        let others = (0..self.seats.len()).filter(|&other| other != at);
        let config = EngineConfig {
            versions,
            ..config(at, boot, others, &self.options)
        };
        self.seats[at] = seat(config, at, self.now);
        (self.seats[at].replica, self.seats[at].applied) = (replica.clone(), applied);
        self.input(
            at,
            Input::Initialised {
                cluster: CLUSTER,
                only_own: false,
            },
        );
        self.input(at, Input::Installed(replica));
        let members = self.members();
        self.input(at, Input::RaftMembers(members));
        let leadership = Leadership {
            term: self.term,
            leader: self.leader.map(raft_id),
            is_leader: false,
        };
        self.input(at, Input::Leadership(leadership));
    }

    pub(super) fn isolate(&mut self, at: usize) {
        self.cut
            .extend((0..self.seats.len()).flat_map(|other| [(at, other), (other, at)]));
    }

    /// A drain that was held up ends.
    pub(super) fn let_go(&mut self, at: usize) {
        self.seats[at].busy = false;
        let closing = std::mem::take(&mut self.seats[at].closing);
        self.input(at, Input::Drained(closing.into_iter().collect()));
    }

    pub(super) fn input(&mut self, at: usize, input: Input) {
        if !self.seats[at].alive {
            return;
        }
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            self.seats[at].engine.handle_input(self.now, input);
            while let Some(output) = self.seats[at].engine.poll_output() {
                inputs.extend(self.output(at, output));
            }
        }
    }

    fn output(&mut self, at: usize, output: Output) -> Vec<Input> {
        let now = self.now;
        let seat = &mut self.seats[at];
        match output {
            Output::Send { to, message } => {
                let Some(to) = (0..self.seats.len()).find(|&other| addr(other) == to.addr) else {
                    return vec![];
                };
                self.seats[at].sent.push((now, name(to), message.clone()));
                self.mail.push((at, to, message));
            }
            Output::Propose { term, message } if self.leader == Some(at) && term == self.term => {
                self.log.push((now, term, message));
            }
            Output::ChangeMembers(change) => seat.changes.push(change),
            Output::TransferLeadership(to) => seat.transfers.push(to),
            Output::Acquire(shards) => {
                if !seat.slow {
                    let failed = Vec::new();
                    return vec![Input::Acquired { shards, failed }];
                }
                seat.acquiring.extend(shards);
            }
            Output::Open(shards) => seat.open.extend(shards),
            Output::Close(shards) => {
                shards.iter().for_each(|(shard, _)| {
                    seat.open.remove(shard);
                });
                let (held, free): (Vec<_>, Vec<_>) = shards
                    .into_iter()
                    .partition(|pair| seat.busy || seat.acquiring.contains(pair));
                seat.closing.extend(held);
                return free
                    .into_iter()
                    .map(|pair| Input::Drained(vec![pair]))
                    .collect();
            }
            Output::Lease(lease) => seat.lease = lease,
            Output::Routes(routes) => seat.routes = Some(routes),
            Output::Event(event) => seat.events.push(event),
            Output::Left => seat.left = true,
            _ => {}
        }
        vec![]
    }

    /// Time passes, a millisecond at a time.
    pub(super) fn run(&mut self, span: Duration) {
        let end = self.now + span;
        while self.now < end {
            self.now = self.now + ms(1);
            self.deliver();
            self.apply();
            if let Some(leader) = self.leader.filter(|_| self.quorum) {
                let (term, sent_at) = (self.term, self.now - ms(1));
                self.input(leader, Input::QuorumAck { term, sent_at });
            }
            for at in 0..self.seats.len() {
                if self.seats[at]
                    .engine
                    .poll_timeout()
                    .is_some_and(|due| due <= self.now)
                {
                    self.input(at, Input::Tick);
                }
            }
        }
    }

    /// Runs until it holds, at most for `most`; answers whether it does.
    pub(super) fn run_until(&mut self, most: Duration, holds: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + most;
        while self.now < end && !holds(self) {
            self.run(ms(1));
        }
        holds(self)
    }

    fn deliver(&mut self) {
        for (from, to, message) in std::mem::take(&mut self.mail) {
            if self.seats[from].alive && !self.cut.contains(&(from, to)) {
                let peer = Peer {
                    version: NEWEST,
                    kind: PeerKind::Node,
                    instance: self.seats[from].instance.clone(),
                    addr: addr(from),
                };
                self.input(
                    to,
                    Input::Message {
                        from: peer,
                        message,
                    },
                );
            }
        }
    }

    /// Everybody applies what is in the log and has not been applied.
    fn apply(&mut self) {
        if !self.commits {
            return;
        }
        for at in 0..self.seats.len() {
            let cut = self
                .leader
                .is_some_and(|leader| self.cut.contains(&(leader, at)));
            while !self.seats[at].lags && !cut && self.seats[at].applied < self.log.len() {
                let seat = &mut self.seats[at];
                let (_, term, message) = self.log[seat.applied].clone();
                seat.applied += 1;
                // Index 0 is raft's own.
                let index = LogIndex(seat.applied as u64);
                let change = seat.replica.apply(index, term, &message);
                self.input(
                    at,
                    Input::Applied {
                        index,
                        term,
                        change,
                    },
                );
            }
        }
    }

    // What was seen.

    pub(super) fn proposals(&self) -> Vec<(Time, Term)> {
        let proposals = |(at, term, message): &(Time, Term, LogMessage)| {
            matches!(message, LogMessage::ProposedShardMap { .. }).then_some((*at, *term))
        };
        self.log.iter().filter_map(proposals).collect()
    }

    /// When the last commit was decided.
    pub(super) fn decided(&self) -> Vec<Time> {
        let commits = |(at, _, message): &(Time, Term, LogMessage)| {
            matches!(message, LogMessage::ShardMapCommitted { .. }).then_some(*at)
        };
        self.log.iter().filter_map(commits).collect()
    }

    /// Grants that one node sent to another since then.
    pub(super) fn grants(&self, from: usize, to: usize, since: Time) -> Vec<Time> {
        let grant = |(at, node, message): &(Time, NodeId, Message)| {
            let granted = matches!(message, Message::Ping(ping) if ping.grant.is_some());
            (granted && *node == name(to) && *at >= since).then_some(*at)
        };
        self.seats[from].sent.iter().filter_map(grant).collect()
    }

    /// The newest acknowledgement that a node sent.
    pub(super) fn ack(&self, at: usize) -> Option<LogIndex> {
        let pong = |(_, _, message): &(Time, NodeId, Message)| match message {
            Message::Pong(pong) => Some(pong.acked),
            _ => None,
        };
        self.seats[at].sent.iter().rev().find_map(pong).flatten()
    }

    pub(super) fn owned(&self, by: usize) -> usize {
        let map = self.seats[self.leader.expect("somebody leads")]
            .engine
            .committed();
        map.owned_by(&self.seats[by].instance).count()
    }

    pub(super) fn pending(&self) -> bool {
        self.seats[self.leader.expect("somebody leads")]
            .engine
            .pending()
            .is_some()
    }
}
