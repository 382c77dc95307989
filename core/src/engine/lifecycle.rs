//! From start to stop: forming or finding a cluster, states and roles, leaving.

use super::bootstrap::{BootstrapConfig, BootstrapOutput, CandidateView};
use super::membership::{MembershipConfig, MembershipTiming};
use super::*;

/// What the raft log of this node holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum LogState {
    /// This node's own initialisation and nothing else. It is not announced, and gives way to any cluster that is.
    OnlyOwnInitialisation,
    /// Entries of a cluster.
    Entries,
}

pub(super) fn membership_config(config: &EngineConfig) -> MembershipConfig {
    MembershipConfig {
        cluster: config.cluster.clone(),
        instance: config.instance.clone(),
        addr: config.addr,
        store: config.store,
        kind: config.kind,
        expect: config.bootstrap_expect,
        capacity: config.capacity,
        tags: config.tags.clone(),
        versions: config.versions,
        timing: MembershipTiming {
            probe: config.timing.gossip_probe,
            suspect: config.timing.gossip_suspect,
            stale_after: config.timing.stale_after,
        },
    }
}

pub(super) fn bootstrap_config(config: &EngineConfig) -> BootstrapConfig {
    BootstrapConfig {
        instance: config.instance.clone(),
        addr: config.addr,
        store: config.store,
        expect: if config.kind == MemberKind::Voter {
            config.bootstrap_expect
        } else {
            0
        },
        voters: config.voters,
        has_seeds: !config.seeds.is_empty(),
        timing: config.timing.clone(),
    }
}

impl Engine {
    /// A gap between two inputs that is longer than any timer: this process did not run.
    pub(super) fn note_stall(&mut self, now: Time) {
        let stalled = now.since(self.now) > self.config.timing.ping * 2;
        if let Some(leading) = self.leading.as_mut().filter(|_| stalled) {
            // A leader that hears no quorum sends no pings and may rest for long: then silence proves nothing either.
            if leading.handle_stall(now) {
                self.counters.add("stalls while leading");
            }
        }
    }

    // Membership.

    pub(super) fn drain_membership(&mut self) {
        while let Some(output) = self.membership.poll_output() {
            match output {
                MembershipOutput::Send { to, payload } => {
                    self.outputs.push_back(Output::Send {
                        to,
                        message: Message::Gossip(payload),
                    });
                }
                MembershipOutput::PullTags {
                    from,
                    instance,
                    version,
                } => {
                    self.outputs.push_back(Output::PullTags {
                        from,
                        instance,
                        version,
                    });
                }
                MembershipOutput::Event(event) => self.show_member_event(event),
                MembershipOutput::ForeignCluster { node, cluster } => {
                    self.meet_foreign_cluster(node, cluster)
                }
                MembershipOutput::Superseded(by) => self.handle_superseded(Some(by)),
            }
        }
        // A suspicion is no event, but calls that wait for the suspect are given up.
        let revision = self.membership.revision();
        self.routes_changed |= std::mem::replace(&mut self.shown_members, revision) != revision;
    }

    fn show_member_event(&mut self, event: MemberEvent) {
        match event {
            MemberEvent::Joined(instance) => self.emit(Event::NodeJoined(instance)),
            MemberEvent::Left(instance) => self.emit(Event::NodeLeft(instance)),
            MemberEvent::Failed(instance) => self.emit(Event::NodeFailed(instance)),
            MemberEvent::Updated(instance) => self.emit(Event::NodeUpdated(instance)),
        }
    }

    /// Two clusters of one name: they never merge. A log that holds nothing but this node's own initialisation
    /// is no cluster yet and gives way. Never both: such a log is not announced, so that one that is heard of has more.
    fn meet_foreign_cluster(&mut self, node: NodeId, heard: ClusterId) {
        self.counters.add("foreign clusters refused");
        match self.log {
            Some(LogState::OnlyOwnInitialisation) if self.cluster != Some(heard) => {
                self.abandon_own_initialisation()
            }
            Some(_) => self.emit(Event::ForeignClusterRefused(node)),
            None => {}
        }
    }

    fn abandon_own_initialisation(&mut self) {
        if self.log == Some(LogState::OnlyOwnInitialisation) {
            self.counters.add("own initialisations abandoned");
            self.log = None;
            self.leading = None;
            self.abandoning = true;
            self.outputs.push_back(Output::AbandonLog);
        }
    }

    // Bootstrap.

    pub(super) fn drive_bootstrap(&mut self) {
        if self.log != Some(LogState::Entries) && !self.leaving && !self.abandoning {
            self.update_bootstrap();
        }
        self.bootstrap.handle_timeout(self.now);
        while let Some(output) = self.bootstrap.poll_output() {
            match output {
                BootstrapOutput::Send { to, message } => {
                    self.outputs.push_back(Output::Send {
                        to,
                        message: Message::Bootstrap(message),
                    });
                }
                BootstrapOutput::Initialise { cluster, members } => {
                    self.accept(cluster);
                    self.outputs
                        .push_back(Output::Initialise { cluster, members });
                }
                BootstrapOutput::Fence => {
                    self.abandoning = true;
                    self.outputs.push_back(Output::AbandonLog);
                }
                BootstrapOutput::Abandon => self.abandon_own_initialisation(),
                BootstrapOutput::Mismatch { instance, expect } => {
                    self.emit(Event::BootstrapMismatch { instance, expect })
                }
            }
        }
        self.counters.absorb(self.bootstrap.take_counters());
        if self.log.is_none()
            && !self.abandoning
            && let Some(cluster) = self
                .bootstrap
                .promised_to()
                .or_else(|| self.membership.heard_cluster())
        {
            self.accept(cluster);
        }
    }

    fn update_bootstrap(&mut self) {
        let candidate = |member: &Member| CandidateView {
            instance: member.instance.clone(),
            addr: member.addr,
            store: member.store,
            expect: member.expect,
            is_present: member.is_present(),
            is_voter: member.kind == MemberKind::Voter,
        };
        let candidates = self
            .membership
            .members()
            .iter()
            .map(|(node, member)| (node.clone(), candidate(member)))
            .collect();
        let heard = self.membership.heard_cluster();
        self.bootstrap.update(self.now, &candidates, heard);
        if self.log == Some(LogState::OnlyOwnInitialisation) {
            if heard.is_some() && heard != self.cluster {
                self.abandon_own_initialisation();
            } else if let Some(voters) = self.raft.voters.last() {
                self.bootstrap.update_own_voters(voters);
            }
        }
    }

    /// Raft messages of this cluster, and of no other, are acceptable from now on.
    fn accept(&mut self, cluster: ClusterId) {
        if self.cluster != Some(cluster) {
            if self.terms_of.replace(cluster) != Some(cluster) {
                // Terms of another cluster say nothing here, where they begin anew: whoever led one that came to nothing
                // would not take itself for the leader until the terms had caught up. Those of the same cluster are
                // remembered, also by a new store: grants of older ones are still under way (rule L1).
                self.newest_term = self.leadership.term;
            }
            self.cluster = Some(cluster);
            self.outputs.push_back(Output::Accept(cluster));
        }
    }

    pub(super) fn handle_initialised(&mut self, cluster: ClusterId, only_own: bool) {
        self.accept(cluster);
        self.bootstrap.handle_initialised(cluster, only_own);
        if only_own {
            self.log = Some(LogState::OnlyOwnInitialisation);
        } else {
            // A leader was faster than the wish to begin anew.
            self.abandoning = false;
            self.establish();
        }
    }

    /// The log holds more than this node's own initialisation: from now on the cluster is announced.
    pub(super) fn establish(&mut self) {
        let Some(cluster) = self.cluster.filter(|_| self.log != Some(LogState::Entries)) else {
            return;
        };
        self.log = Some(LogState::Entries);
        self.membership.set_cluster(cluster);
        self.bootstrap.handle_initialised(cluster, false);
    }

    pub(super) fn handle_store_replaced(&mut self, store: StoreId) {
        self.config.store = store;
        self.log = None;
        self.cluster = None;
        self.abandoning = false;
        self.raft = RaftMembers::default();
        self.leadership = Leadership::default();
        self.leading = None;
        self.set_leader(None);
        self.membership.set_store(self.now, store);
        self.bootstrap.handle_store_replaced(self.now, store);
    }

    /// A non-member learns leader and map from a member.
    pub(super) fn handle_observed(&mut self, leader: Option<NodeId>, map: Arc<ShardMap>) {
        if self.config.kind != MemberKind::NonMember {
            return;
        }
        self.set_leader(leader);
        if map.index() > self.committed.index() {
            let index = map.index();
            self.set_maps(map, None);
            self.emit(Event::MapCommitted(index));
        }
    }

    // Suspend, leave, stop.

    /// Rule L0: nobody knows how long the machine slept. Leases are void; the leader waits for a fresh quorum.
    pub(super) fn handle_clock_jump(&mut self) {
        self.counters.add("clock jumps");
        self.lease.cap(Time::default());
        self.stamps_from = self.now;
        if let Some(leading) = &mut self.leading {
            leading.handle_clock_jump(self.now);
        }
    }

    /// Rule M5: the leader drains a leaving node by an ordinary map change, removes it from raft, then dismisses it.
    pub(super) fn handle_leave(&mut self) {
        if self.leaving {
            return;
        }
        self.leaving = true;
        self.bootstrap.withdraw(self.now);
        self.membership.announce_leaving(self.now);
        let in_cluster = self.log.is_some() && self.config.kind != MemberKind::NonMember;
        if !in_cluster {
            self.depart();
        }
    }

    /// Nothing is held against this node's going: the last word of gossip, and the shell may stop.
    pub(super) fn depart(&mut self) {
        if self.state == NodeState::Invalid || std::mem::replace(&mut self.departed, true) {
            return;
        }
        self.membership.leave(self.now);
        self.drain_membership();
        self.outputs.push_back(Output::Left);
    }

    /// A newer run of this node is in the cluster, and nobody believes this one any more: it serves nothing from now
    /// on and ends. No goodbye, which would be said in the name of the newer run.
    pub(super) fn handle_superseded(&mut self, by: Option<BootId>) {
        if self.state == NodeState::Invalid || std::mem::replace(&mut self.departed, true) {
            return;
        }
        self.leaving = true;
        self.lease.cap(Time::default());
        self.leading = None;
        self.emit(Event::Superseded { by });
        self.outputs.push_back(Output::Left);
    }

    /// Leadership goes to the live voter that has the most of the log.
    pub(super) fn hand_leadership_on(&mut self) {
        let Some(leading) = &self.leading else { return };
        let Some(voters) = self.raft.voters.last() else {
            return;
        };
        let context_free = |id: &&crate::ids::RaftId| {
            id.node != self.config.instance.node
                && leading.answers(&id.node, self.now, &self.config.timing)
        };
        let progress = |id: &&crate::ids::RaftId| {
            (
                self.raft.matched.get(*id).copied(),
                std::cmp::Reverse((*id).clone()),
            )
        };
        if let Some(to) = voters.iter().filter(context_free).max_by_key(progress) {
            self.outputs
                .push_back(Output::TransferLeadership(to.clone()));
        }
    }

    pub(super) fn handle_stop(&mut self) {
        self.emit(Event::Stopping);
        self.set_state(NodeState::Stopping);
        self.lease.cap(Time::default());
        self.show_lease();
        self.leading = None;
        self.set_state(NodeState::Invalid);
    }

    // States and roles.

    pub(super) fn update_state(&mut self) {
        if matches!(self.state, NodeState::Invalid) {
            return;
        }
        let role = self.present_role();
        if role != self.role {
            self.emit(Event::RoleChanged {
                from: self.role,
                to: role,
            });
            self.role = role;
        }
        if self.leaving {
            self.lead_out();
            return self.set_state(NodeState::Stopping);
        }
        if self.state == NodeState::Starting {
            self.set_state(NodeState::Joining);
        }
        let joined = self.state != NodeState::Joining
            || (self.role != Role::Unknown && self.leader.is_some());
        if joined {
            self.set_state(self.present_state());
        }
    }

    /// A leader that leaves hands leadership on once its own shards are gone.
    fn lead_out(&mut self) {
        let owns = |map: &ShardMap| map.member(&self.config.instance.node).is_some();
        let empty = self.pending.is_none() && !owns(&self.committed) && self.serving.is_empty();
        let alone = |leading: &Leading| {
            leading.is_ready()
                && self
                    .raft
                    .members
                    .keys()
                    .all(|id| id.node == self.config.instance.node)
        };
        if empty && self.leading.as_ref().is_some_and(alone) {
            // Nobody is left who could dismiss it.
            return self.depart();
        }
        if empty
            && self
                .leading
                .as_ref()
                .is_some_and(|leading| leading.may_hand_on(self.now))
        {
            self.hand_leadership_on();
            let again = self.now + self.config.timing.election_max * 2;
            self.leading
                .iter_mut()
                .for_each(|leading| leading.handed_on(again));
        }
    }

    fn present_role(&self) -> Role {
        let node = &self.config.instance.node;
        if self.config.kind == MemberKind::NonMember {
            Role::NonMember
        } else if self.leading.is_some() {
            Role::Leader
        } else if self.raft.voters.iter().flatten().any(|id| id.node == *node) {
            Role::Follower
        } else if self.raft.members.keys().any(|id| id.node == *node) {
            Role::NonVoter
        } else {
            Role::Unknown
        }
    }

    fn present_state(&self) -> NodeState {
        if self.leader.is_none() {
            return NodeState::Voting;
        }
        let current = if self.config.kind == MemberKind::NonMember {
            self.committed.index() != LogIndex(0)
        } else {
            self.pending.is_none()
                && self.committed.index() != LogIndex(0)
                && self.lease.is_valid(self.now)
        };
        if current {
            NodeState::Operational
        } else {
            NodeState::Resharding
        }
    }

    fn set_state(&mut self, state: NodeState) {
        if state == self.state {
            return;
        }
        debug_assert!(
            self.state.may_become(state),
            "{:?} -> {state:?}",
            self.state
        );
        self.emit(Event::StateChanged {
            from: self.state,
            to: state,
        });
        self.state = state;
    }
}
