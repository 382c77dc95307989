//! One node: its engine, its store and its hooks.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use funk::engine::message::Message;
use funk::engine::replicated::Replicated;
use funk::engine::{
    Engine, EngineConfig, Event, Input, MemberChange, NodeState, Output, RaftMembers, Tags,
};
use funk::ids::{
    BootId, ClusterId, Epoch, Instance, MemberKind, PeerAddr, RaftId, ShardId, StoreId, Term,
};
use funk::limits::MAX_DATAGRAM_BYTES;
use funk::log_message::LogMessage;
use funk::time::Time;
use funk::timing::Timing;
use funk::wire::{decode_datagram, encode_datagram};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::hostile::{addr, name};
use super::plan::Setup;

/// What one input may make an engine want: more would be a way to make it work for others.
const MAX_OUTPUTS: usize = 1_024;

type Slot = (ShardId, Epoch);

/// A node and what its shell knows.
pub(super) struct Seat {
    setup: Setup,
    at: usize,
    pub(super) engine: Engine,
    pub(super) instance: Instance,
    kind: MemberKind,
    store: StoreId,
    /// The cluster of its log, and whether that holds nothing but the node's own initialisation.
    pub(super) holds: Option<(ClusterId, bool)>,
    /// The configuration of its own initialisation.
    pub(super) group: RaftMembers,
    pub(super) replica: Replicated,
    /// Entries applied.
    pub(super) applied: usize,
    /// The newest term that raft told it.
    pub(super) term: Term,
    /// It leads in that term.
    pub(super) leads_since: Option<Time>,
    /// It asked for an empty store.
    pub(super) abandons: bool,
    /// It asked for an initialisation.
    pub(super) initialises: Option<(ClusterId, BTreeMap<RaftId, SocketAddr>)>,
    /// It asked for another configuration.
    pub(super) change: Option<MemberChange>,
    acquiring: BTreeSet<Slot>,
    closing: BTreeSet<Slot>,
    pub(super) open: BTreeSet<Slot>,
    pub(super) has_left: bool,
    state: NodeState,
}

/// What an engine wants from outside its node.
#[derive(Default)]
pub(super) struct Wanted {
    pub(super) sent: Vec<(PeerAddr, Message)>,
    pub(super) proposed: Vec<(Term, LogMessage)>,
    pub(super) heir: Option<RaftId>,
}

fn config(setup: &Setup, at: usize, count: usize, boot: BootId, store: StoreId) -> EngineConfig {
    let last = at + 1 == count;
    let kind = if setup.observer && last && count > 1 {
        MemberKind::NonMember
    } else if setup.non_voter && at > 0 && (last || at + 2 == count) {
        MemberKind::NonVoter
    } else {
        MemberKind::Voter
    };
    let timings = [Timing::lan(), Timing::fast(), Timing::wan()];
    let settled = setup.settled;
    EngineConfig {
        versions: funk::versions::VersionRange::SPOKEN,
        cluster: crate::wire::gossip_cluster(),
        instance: Instance {
            node: name(at as u8),
            boot,
        },
        addr: addr(at as u8),
        store,
        kind,
        seeds: (0..count as u8)
            .filter(|&other| usize::from(other) != at)
            .map(addr)
            .collect(),
        bootstrap_expect: if settled {
            0
        } else {
            u16::from(setup.expect) % 4 + 1
        },
        shards: u32::from(setup.shards) % 48 + 1,
        voters: usize::from(setup.voters) % 5 + 1,
        // As many setups as there are: nodes of one to three capacities, and a budget in half of them.
        capacity: u32::from(setup.seed) * at as u32 % 3 + 1,
        max_moves: (setup.voters % 2 == 1).then_some(u32::from(setup.shards) % 7 + 1),
        timing: timings[usize::from(setup.timing) % timings.len()].clone(),
        tags: Tags::default(),
    }
}

impl Seat {
    pub(super) fn new(setup: &Setup, at: usize, count: usize, now: Time) -> Self {
        let (boot, store) = (BootId(1), StoreId(100 + at as u64));
        let config = config(setup, at, count, boot, store);
        let seed = u64::from(setup.seed) << 8 | at as u64;
        Self {
            setup: *setup,
            at,
            instance: config.instance.clone(),
            kind: config.kind,
            store,
            engine: Engine::new(config, ChaCha8Rng::seed_from_u64(seed), now),
            holds: None,
            group: RaftMembers::default(),
            replica: Replicated::default(),
            applied: 0,
            term: Term(0),
            leads_since: None,
            abandons: false,
            initialises: None,
            change: None,
            acquiring: BTreeSet::new(),
            closing: BTreeSet::new(),
            open: BTreeSet::new(),
            has_left: false,
            state: NodeState::Starting,
        }
    }

    pub(super) fn is_member(&self) -> bool {
        self.kind != MemberKind::NonMember
    }

    pub(super) fn may_vote(&self) -> bool {
        self.kind == MemberKind::Voter
    }

    pub(super) fn addr(&self) -> SocketAddr {
        addr(self.at as u8)
    }

    pub(super) fn raft_id(&self) -> RaftId {
        RaftId {
            node: self.instance.node.clone(),
            store: self.store,
        }
    }

    /// The next run, with the store as it is; one that holds nothing is made anew.
    pub(super) fn restart(&mut self, count: usize, now: Time) {
        let boot = BootId(self.instance.boot.0 + 1);
        if self.holds.is_none() {
            self.replace_store();
        }
        let config = config(&self.setup, self.at, count, boot, self.store);
        let seed = boot.0 << 16 | u64::from(self.setup.seed) << 8 | self.at as u64;
        let old = std::mem::replace(self, Self::new(&self.setup, self.at, count, now));
        self.instance = config.instance.clone();
        self.engine = Engine::new(config, ChaCha8Rng::seed_from_u64(seed), now);
        self.store = old.store;
        self.holds = old.holds;
        self.group = old.group;
        (self.replica, self.applied, self.term) = (old.replica, old.applied, old.term);
    }

    /// An empty store of a new id.
    pub(super) fn replace_store(&mut self) -> StoreId {
        self.store = StoreId(self.store.0 + 100);
        self.holds = None;
        self.group = RaftMembers::default();
        (self.replica, self.applied) = (Replicated::default(), 0);
        self.leads_since = None;
        self.change = None;
        self.store
    }

    /// A hook or a drain ends: the answer to what was asked for.
    pub(super) fn end_hook(&mut self, which: usize, ok: bool) -> Option<Input> {
        let running = self.acquiring.len() + self.closing.len();
        let which = which % running.max(1);
        if let Some(&slot) = self.acquiring.iter().nth(which) {
            self.acquiring.remove(&slot);
            let (shards, failed) = if ok {
                (vec![slot], Vec::new())
            } else {
                (Vec::new(), vec![slot])
            };
            return Some(Input::Acquired { shards, failed });
        }
        let &slot = self.closing.iter().nth(which - self.acquiring.len())?;
        // The `acquire` hook ends before `release` runs; of that end nobody needs to be told.
        self.acquiring.remove(&slot);
        self.closing.remove(&slot);
        Some(Input::Drained(vec![slot]))
    }

    /// Takes all outputs, and checks what can be checked of each.
    pub(super) fn drain(&mut self) -> Wanted {
        self.engine.check_invariants();
        let mut wanted = Wanted::default();
        let mut count = 0;
        while let Some(output) = self.engine.poll_output() {
            count += 1;
            assert!(
                count <= MAX_OUTPUTS,
                "one input, {count} outputs: {output:?}"
            );
            self.take(output, &mut wanted);
        }
        assert_eq!(
            self.state,
            self.engine.state(),
            "all steps of the state were told"
        );
        if self.state == NodeState::Invalid {
            self.leads_since = None;
        }
        wanted
    }

    fn take(&mut self, output: Output, wanted: &mut Wanted) {
        match output {
            Output::Send { to, message } => {
                let bytes = encode_datagram(&message, funk::versions::NEWEST);
                assert!(bytes.len() <= MAX_DATAGRAM_BYTES, "{} bytes", bytes.len());
                assert_eq!(
                    decode_datagram(&bytes, funk::versions::VersionRange::SPOKEN).as_ref(),
                    Ok(&message)
                );
                wanted.sent.push((to, message));
            }
            Output::Propose { term, message } => {
                assert_eq!(
                    LogMessage::decode(&message.encode(), funk::versions::VersionRange::SPOKEN)
                        .as_ref(),
                    Ok(&message)
                );
                wanted.proposed.push((term, message));
            }
            Output::Initialise { cluster, members } => {
                let own = self.raft_id();
                assert!(
                    members.contains_key(&own),
                    "{own} is not in its own cluster"
                );
                self.initialises = Some((cluster, members));
            }
            Output::AbandonLog => self.abandons = true,
            Output::ChangeMembers(change) => {
                let names_voters = change
                    .voters
                    .iter()
                    .all(|id| change.members.contains_key(id));
                assert!(names_voters && !change.voters.is_empty(), "{change:?}");
                self.change = Some(change);
            }
            Output::TransferLeadership(to) => wanted.heir = Some(to),
            Output::Acquire(slots) => {
                for slot in slots {
                    self.assert_free(slot);
                    self.acquiring.insert(slot);
                }
            }
            Output::Open(slots) => {
                for slot in slots {
                    self.assert_free(slot);
                    self.open.insert(slot);
                }
            }
            Output::Close(slots) => {
                for slot in slots {
                    self.open.remove(&slot);
                    assert!(self.closing.insert(slot), "{slot:?} is closed twice");
                }
            }
            Output::Event(Event::StateChanged { from, to }) => {
                assert_eq!(from, self.state);
                assert!(from.may_become(to), "{from:?} -> {to:?}");
                self.state = to;
            }
            Output::Left => self.has_left = true,
            Output::PullTags { .. }
            | Output::Accept(_)
            | Output::Lease(_)
            | Output::Routes(_)
            | Output::Event(_) => {}
        }
    }

    /// Rule S3: a shard is acquired, and served, when nothing of it is left on this node.
    fn assert_free(&self, slot: Slot) {
        let mut all = self.acquiring.iter().chain(&self.closing).chain(&self.open);
        let other = all.find(|(shard, _)| *shard == slot.0);
        assert_eq!(other, None, "{slot:?} is acquired or opened meanwhile");
    }
}
