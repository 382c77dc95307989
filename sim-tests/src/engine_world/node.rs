//! A node between its engine, its raft and the network.

use std::collections::BTreeMap;

use funk::engine::{Engine, EngineConfig, Leadership, Output, RaftMembers};
use funk::ids::{ClusterName, MemberKind, StoreId, Term};
use funk::log_message::LogMessage;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::*;
use crate::invariants::i7_states::States;
use crate::model_raft::{Options, Out, Raft};

/// Ticks at one moment after which the engine is said to spin.
const SPINS: u32 = 100;

impl World {
    /// Starts a process, unless one runs.
    pub(super) fn start(&mut self, at: usize) {
        let now = self.clock(at);
        let seed = self.random.next();
        let fork = self.random.fork(at as u64);
        let node = &mut self.nodes[at];
        if node.process.is_some() {
            return;
        }
        node.boot += 1;
        let store = node.store.take().unwrap_or_default();
        let instance = Instance {
            node: node.name.clone(),
            boot: BootId(node.boot),
        };
        let (addr, rid) = (node.addr, node.rid);
        let config = EngineConfig {
            versions: funk::versions::VersionRange::SPOKEN,
            cluster: ClusterName::new("sim").expect("a short lower-case name"),
            instance: instance.clone(),
            addr,
            store: self.raft_id(rid).store,
            kind: MemberKind::Voter,
            seeds: self
                .nodes
                .iter()
                .map(|node| node.addr)
                .filter(|&seed| seed != addr)
                .collect(),
            bootstrap_expect: self.profile.nodes as u16,
            shards: self.profile.shards,
            voters: self.profile.voters,
            capacity: self.profile.capacities[at % self.profile.capacities.len()],
            max_moves: self.profile.max_moves,
            timing: self.profile.timing.clone(),
            tags: Tags::default(),
        };
        let options = Options::new(
            &self.profile.timing,
            self.profile.snapshot_every,
            self.profile.keep,
        );
        let shards = self.profile.shards as usize;
        let process = Process {
            engine: Engine::new(config, ChaCha8Rng::seed_from_u64(seed), now),
            raft: Raft::new(rid, options, fork, store, now),
            accepts: None,
            inputs: Default::default(),
            lagging: Default::default(),
            lags_until: 0,
            timer_at: TrueTime::MAX,
            raft_timer_at: TrueTime::MAX,
            ticks: (0, 0),
            lease: Default::default(),
            lapse_at: TrueTime::MAX,
            slots: Default::default(),
            guards: Default::default(),
            open: vec![Epoch(0); shards],
            live: vec![0; shards],
            paused: false,
            suspended: false,
            deferred: Vec::new(),
            states: States::default(),
            leaving: false,
            committed: Default::default(),
            instance,
        };
        trace!(self, "{} starts", process.instance);
        self.nodes[at].process = Some(Box::new(process));
        self.input(at, Input::Tick);
    }

    /// The power is cut.
    pub(super) fn kill(&mut self, at: usize, keep_store: bool) {
        let Some(process) = self.nodes[at].process.take() else {
            return;
        };
        trace!(
            self,
            "{} dies{}",
            process.instance,
            if keep_store {
                ""
            } else {
                ", its store is lost"
            }
        );
        self.count_engine(&process.engine);
        // A store that holds nothing is made anew at every start: a promise that was given for it died with the
        // process, so nobody may count on it any more.
        if keep_store && !process.raft.store().log.is_empty() {
            self.nodes[at].store = Some(process.raft.into_store());
        } else {
            self.replace_store(at);
        }
    }

    /// The node goes on with an empty store, as another raft member.
    fn replace_store(&mut self, at: usize) -> StoreId {
        let name = self.nodes[at].name.clone();
        let rid = self.new_rid(&name, at);
        self.nodes[at].rid = rid;
        self.nodes[at].store = Some(Store::default());
        self.raft_id(rid).store
    }

    pub(super) fn count_engine(&mut self, engine: &Engine) {
        self.pins |= engine.counters().count("drains given up") > 0;
        engine
            .counters()
            .iter()
            .for_each(|(name, count)| self.tally.add_many(name, count));
    }

    /// A message arrives.
    pub(super) fn deliver(&mut self, at: usize, parcel: Parcel) {
        let lost = self.random.chance(self.profile.pause_loses);
        let deaf = self.now < self.nodes[at].raft_deaf_until && !self.calm;
        if deaf && matches!(parcel, Parcel::Raft { .. }) {
            return;
        }
        let now = self.clock(at);
        let Some(process) = self.process(at) else {
            return;
        };
        if process.paused {
            if !lost {
                process.deferred.push(Event::Deliver(at, Box::new(parcel)));
            }
            return;
        }
        match parcel {
            Parcel::Engine(from, message) => self.input(at, Input::Message { from, message }),
            Parcel::Raft {
                from,
                to,
                cluster,
                message,
            } => {
                if process.raft.id() == to && process.accepts == Some(cluster) {
                    process.raft.receive(now, from, cluster, message);
                    self.pump(at);
                }
            }
        }
    }

    pub(super) fn timer(&mut self, at: usize) {
        let (now, clock) = (self.now, self.clock(at));
        let Some(process) = self.process(at).filter(|process| process.timer_at <= now) else {
            return;
        };
        process.timer_at = TrueTime::MAX;
        if process.engine.poll_timeout().is_none_or(|due| due > clock) {
            return self.pump(at);
        }
        process.ticks = if process.ticks.0 == now {
            (now, process.ticks.1 + 1)
        } else {
            (now, 0)
        };
        if process.ticks.1 > SPINS {
            let what = format!(
                "{} asks for a tick at once, again and again",
                process.instance
            );
            return self.note(Err(Violation::new("the engine does not spin", what)));
        }
        self.input(at, Input::Tick);
    }

    pub(super) fn raft_timer(&mut self, at: usize) {
        let (now, clock) = (self.now, self.clock(at));
        let Some(process) = self
            .process(at)
            .filter(|process| process.raft_timer_at <= now)
        else {
            return;
        };
        process.raft_timer_at = TrueTime::MAX;
        process.raft.tick(clock);
        self.pump(at);
    }

    pub(super) fn lagged(&mut self, at: usize) {
        let Some(process) = self.process(at) else {
            return;
        };
        if let Some(input) = process.lagging.pop_front() {
            self.input(at, input);
        }
    }

    pub(super) fn input(&mut self, at: usize, input: Input) {
        if let Some(process) = self.process(at) {
            process.inputs.push_back(input);
            self.pump(at);
        }
    }

    /// Gives the engine what there is, does what it wants, until nothing is left; then arms the timers.
    pub(super) fn pump(&mut self, at: usize) {
        let clock = self.clock(at);
        loop {
            let Some(process) = self.process(at) else {
                return;
            };
            let outs = process.raft.take_out();
            if !outs.is_empty() {
                outs.into_iter().for_each(|out| self.raft_out(at, out));
                continue;
            }
            let Some(input) = process.inputs.pop_front() else {
                break;
            };
            let installs = matches!(input, Input::Installed(_));
            process.engine.handle_input(clock, input);
            self.observe_engine(at, installs);
            while let Some(output) = self
                .process(at)
                .and_then(|process| process.engine.poll_output())
            {
                self.output(at, output);
                if self.violation.is_some() {
                    return;
                }
            }
        }
        self.arm(at);
    }

    fn arm(&mut self, at: usize) {
        let (now, clock) = (self.now, self.nodes[at].clock);
        let Some(process) = self.nodes[at].process.as_deref_mut() else {
            return;
        };
        let boot = process.instance.boot.0;
        let due = |time: Option<funk::time::Time>| {
            time.map_or(TrueTime::MAX, |time| clock.when(time).max(now))
        };
        let timer = due(process.engine.poll_timeout());
        if timer < process.timer_at {
            process.timer_at = timer;
            self.queue.push(timer, Event::Timer(at, boot));
        }
        let timer = due(process.raft.poll_timeout());
        if timer < process.raft_timer_at {
            process.raft_timer_at = timer;
            self.queue.push(timer, Event::RaftTimer(at, boot));
        }
    }

    fn send(&mut self, from: usize, to: usize, parcel: Parcel) {
        let [first, second] = self.network.send(self.now, from, to);
        if let Some(second) = second {
            self.queue
                .push(second, Event::Deliver(to, Box::new(parcel.clone())));
        }
        if let Some(first) = first {
            self.queue.push(first, Event::Deliver(to, Box::new(parcel)));
        }
    }

    fn raft_out(&mut self, at: usize, out: Out) {
        let input = match out {
            Out::Send(to, message) => {
                let Some(process) = self.process(at) else {
                    return;
                };
                let from = process.raft.id();
                let Some(cluster) = process.raft.store().cluster.or(process.accepts) else {
                    return;
                };
                let node = self.rids[usize::from(to.0)].1;
                return self.send(
                    at,
                    node,
                    Parcel::Raft {
                        from,
                        to,
                        cluster,
                        message,
                    },
                );
            }
            Out::Leadership {
                term,
                leader,
                is_leader,
            } => {
                if is_leader && self.leader_terms.insert(term) {
                    self.tally.add("leader changes");
                    self.former_leader = self.newest_leader.replace(at);
                    trace!(self, "n{at} wins term {term}");
                }
                Input::Leadership(Leadership {
                    term: Term(term),
                    leader: leader.map(|rid| self.raft_id(rid).clone()),
                    is_leader,
                })
            }
            Out::Applied {
                index,
                term,
                message,
                change,
            } => {
                self.observe_applied(at, index, term, &message, &change);
                Input::Applied {
                    index,
                    term,
                    change,
                }
            }
            Out::Installed(replicated) => {
                trace!(
                    self,
                    "n{at} installs a snapshot, pending {:?}",
                    replicated.pending.as_ref().map(|p| p.map.index())
                );
                Input::Installed(replicated)
            }
            Out::Initialised { cluster, only_own } => {
                trace!(
                    self,
                    "n{at} holds a log of {cluster}, only its own: {only_own}"
                );
                self.observe_cluster(at, cluster, only_own);
                Input::Initialised { cluster, only_own }
            }
            Out::Members => match self.raft_members(at) {
                Some(members) => Input::RaftMembers(members),
                None => return,
            },
            Out::QuorumAck { term, sent_at } => Input::QuorumAck {
                term: Term(term),
                sent_at,
            },
            Out::MembersChanged { done } => Input::MembersChanged { done },
        };
        self.tell_engine(at, input);
    }

    /// Raft and engine run beside each other: the engine hears a little later, in order.
    fn tell_engine(&mut self, at: usize, input: Input) {
        let lag = self.random.below(ns(self.profile.raft_lag) + 1);
        let now = self.now;
        let Some(process) = self.process(at) else {
            return;
        };
        if lag == 0 && process.lagging.is_empty() {
            process.inputs.push_back(input);
            return;
        }
        process.lagging.push_back(input);
        process.lags_until = process.lags_until.max(now + lag);
        let (then, boot) = (process.lags_until, process.instance.boot.0);
        self.queue.push(then, Event::Lagged(at, boot));
    }

    fn raft_members(&mut self, at: usize) -> Option<RaftMembers> {
        let raft = &self.nodes[at].process.as_ref()?.raft;
        let config = raft.store().config()?;
        let (matched, last_index) = raft.progress();
        let member = |rid: &Rid| {
            let (id, node) = &self.rids[usize::from(rid.0)];
            (id.clone(), self.nodes[*node].addr)
        };
        Some(RaftMembers {
            voters: config
                .voters
                .iter()
                .map(|half| half.iter().map(|&rid| self.raft_id(rid).clone()).collect())
                .collect(),
            members: config.members.iter().map(member).collect(),
            matched: matched
                .into_iter()
                .map(|(rid, index)| (self.raft_id(rid).clone(), index))
                .collect(),
            last_index,
        })
    }

    fn output(&mut self, at: usize, output: Output) {
        let clock = self.clock(at);
        match output {
            Output::Send { to, message } => self.send_message(at, &to, message),
            Output::PullTags {
                from,
                instance,
                version,
            } => self.pull_tags(at, &from, instance, version),
            Output::Initialise { cluster, members } => {
                let members = members.keys().filter_map(|id| self.rid_of(id)).collect();
                trace!(
                    self,
                    "n{at} initialises the log of cluster {cluster} with {members:?}"
                );
                if let Some(process) = self.process(at) {
                    process.raft.initialise(clock, cluster, members);
                }
            }
            Output::Accept(cluster) => {
                if let Some(process) = self.process(at) {
                    process.accepts = Some(cluster);
                }
            }
            Output::AbandonLog => self.abandon_log(at),
            Output::Propose { term, message } => self.propose(at, term, message),
            Output::ChangeMembers(change) => {
                trace!(
                    self,
                    "n{at} changes the configuration to voters {:?} of {:?}",
                    change.voters,
                    change.members.keys()
                );
                let voters = change
                    .voters
                    .iter()
                    .filter_map(|id| self.rid_of(id))
                    .collect();
                let members = change
                    .members
                    .keys()
                    .filter_map(|id| self.rid_of(id))
                    .collect();
                self.tally.add("configuration changes");
                if let Some(process) = self.process(at) {
                    process.raft.change_members(clock, voters, members);
                }
            }
            Output::TransferLeadership(to) => {
                let to = self.rid_of(&to);
                self.tally.add("leadership transfers");
                trace!(self, "n{at} transfers leadership");
                if let (Some(to), Some(process)) = (to, self.process(at)) {
                    process.raft.transfer(to);
                }
            }
            Output::Acquire(shards) => shards
                .into_iter()
                .for_each(|(shard, epoch)| self.acquire(at, shard, epoch)),
            Output::Open(shards) => self.open(at, &shards),
            Output::Close(shards) => self.close(at, &shards),
            Output::Lease(lease) => self.set_lease(at, lease),
            Output::Routes(_) => {}
            Output::Event(event) => self.observe_event(at, &event),
            Output::Left => self.left(at),
        }
    }

    fn send_message(&mut self, at: usize, to: &funk::ids::PeerAddr, message: Message) {
        let Some(target) = self.nodes.iter().position(|node| node.addr == to.addr) else {
            return;
        };
        if to
            .node
            .as_ref()
            .is_some_and(|name| *name != self.nodes[target].name)
            || target == at
        {
            return;
        }
        let Some(process) = self.process(at) else {
            return;
        };
        let instance = process.instance.clone();
        let from = Peer {
            version: funk::versions::NEWEST,
            instance,
            kind: funk::transport::PeerKind::Node,
            addr: self.nodes[at].addr,
        };
        self.send(at, target, Parcel::Engine(from, message));
    }

    fn pull_tags(
        &mut self,
        at: usize,
        from: &funk::ids::PeerAddr,
        instance: Instance,
        version: u64,
    ) {
        let Some(target) = self.nodes.iter().position(|node| node.addr == from.addr) else {
            return;
        };
        let whole = self.network.is_open(at, target) && self.network.is_open(target, at);
        let there = self.nodes[target]
            .process
            .as_deref()
            .filter(|process| !process.paused && whole);
        let tags = there
            .filter(|process| process.instance == instance)
            .and_then(own_tags);
        let boot = self.nodes[at].boot;
        let delay = ns(self.profile.net.base + self.profile.net.jitter) * 2;
        let (version, tags) = tags.map_or((version, None), |(version, tags)| {
            (version, Some(Box::new(tags)))
        });
        self.queue.push(
            self.now + delay,
            Event::TagsPulled {
                node: at,
                boot,
                from: instance,
                version,
                tags,
            },
        );
    }

    fn propose(&mut self, at: usize, term: Term, message: LogMessage) {
        let clock = self.clock(at);
        let (shown, committing) = match &message {
            LogMessage::ProposedShardMap { reason, base, .. } => {
                (format!("a map on {base}: {reason}"), None)
            }
            LogMessage::ShardMapCommitted { map, .. } => (format!("to commit {map}"), Some(*map)),
            LogMessage::LeaderOpened { .. } => ("to open its term".to_owned(), None),
            LogMessage::App { .. } => ("an entry".to_owned(), None),
            LogMessage::NodeCordoned { node, cordon } => (format!("{cordon:?} for {node}"), None),
            LogMessage::VersionRaised { version } => (format!("version {version}"), None),
        };
        let is_map = matches!(message, LogMessage::ProposedShardMap { .. });
        let Some(process) = self.process(at) else {
            return;
        };
        let taken = process.raft.propose(clock, term.0, message);
        trace!(
            self,
            "n{at} proposes {shown} in term {term}{}",
            if taken { "" } else { ": dropped" }
        );
        if taken && is_map {
            self.handoff_proposing(at);
        }
        if let Some(map) = committing.filter(|_| taken) {
            self.handoff_deciding(map);
        }
    }

    fn abandon_log(&mut self, at: usize) {
        self.tally.add("logs abandoned");
        trace!(self, "n{at} abandons its log");
        let store = self.replace_store(at);
        let clock = self.clock(at);
        let options = Options::new(
            &self.profile.timing,
            self.profile.snapshot_every,
            self.profile.keep,
        );
        let (rid, fork) = (self.nodes[at].rid, self.random.fork(at as u64));
        self.nodes[at].store = None;
        let Some(process) = self.process(at) else {
            return;
        };
        process.raft = Raft::new(rid, options, fork, Store::default(), clock);
        process.lagging.clear();
        process.raft_timer_at = TrueTime::MAX;
        process.accepts = None;
        process.inputs.push_back(Input::StoreReplaced(store));
    }

    /// The node has left: it stops, and comes back later with an empty store.
    fn left(&mut self, at: usize) {
        trace!(self, "n{at} has left");
        self.tally.add("nodes left");
        let keep = !self.may_lose_store(at);
        self.kill(at, keep);
        let back = self.now + self.random.below(2_000_000_000);
        self.queue.push(back, Event::Start(at));
    }

    /// How many members every process sees, for the trace.
    pub(super) fn members_seen(&self) -> BTreeMap<usize, usize> {
        self.running()
            .map(|(at, process)| (at, process.engine.members().len()))
            .collect()
    }
}
