//! The initiator's side: choose a set, collect its promises, start it or give it up.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use rand_chacha::rand_core::Rng;

use super::{
    Backoff, Bootstrap, BootstrapMessage, BootstrapOutput, CandidateView, Invite, MAX_SET_MEMBERS,
    Refusal, Status, is_later_run, peer_addr,
};
use crate::ids::{ClusterId, Instance, NodeId, PeerAddr, RaftId};
use crate::mutants::{Mutant, mutated};
use crate::transport::Peer;

/// Invitations without a promise after which another candidate is preferred, if there is one.
const PATIENCE: u32 = 12;

/// Started sets that are remembered: each stands for a log that was thrown away.
const MAX_STARTED_SETS: usize = 16;

/// The set that this node is the initiator of.
#[derive(Debug)]
pub(super) struct OwnSet {
    pub(super) cluster: ClusterId,
    /// The other members, exactly as they were in sight when they were chosen.
    others: BTreeMap<NodeId, CandidateView>,
    promised: BTreeSet<NodeId>,
    pub(super) invites: Backoff,
    rounds: u32,
    /// The log is being initialised: from here on the set can only be abandoned with its store.
    pub(super) started: bool,
}

impl Bootstrap {
    pub(super) fn drive_own_set(&mut self) {
        if self.log.is_some() {
            return;
        }
        if self.own.as_ref().is_some_and(|own| !own.started) && !self.own_set_holds() {
            self.give_own_set_up();
        }
        if self.own.is_none() && self.may_choose() {
            self.choose();
        }
        self.start_or_invite();
    }

    /// Nothing better is in sight, and this node is the one to act.
    fn may_initiate(&self) -> bool {
        self.heard.is_none()
            && (self.promised.is_none() || mutated(Mutant::BootstrapPromiseIgnored))
            && !self.fencing
            && self.mismatches.is_empty()
            && !self.sees_smaller(&self.config.instance.node)
    }

    fn may_choose(&self) -> bool {
        let in_sight = self.candidates().count() + 1;
        self.may_initiate()
            && in_sight >= usize::from(self.config.expect)
            && self.now >= self.settles_at()
    }

    /// The set may still start: its members are those that were chosen.
    fn own_set_holds(&self) -> bool {
        let Some(own) = &self.own else { return false };
        let same = |chosen: &CandidateView| self.view.get(&chosen.instance.node) == Some(chosen);
        self.may_initiate() && own.others.values().all(same)
    }

    fn choose(&mut self) {
        let size = usize::from(self.config.expect).min(MAX_SET_MEMBERS);
        let mut candidates: Vec<&CandidateView> = self.candidates().collect();
        candidates.sort_by_key(|view| self.shunned.contains_key(&view.instance.node));
        let others = candidates
            .into_iter()
            .take(size - 1)
            .map(|view| (view.instance.node.clone(), view.clone()))
            .collect();
        let cluster = u128::from(self.rng.next_u64()) << 64 | u128::from(self.rng.next_u64());
        self.counters.add("bootstrap sets chosen");
        self.own = Some(OwnSet {
            cluster: ClusterId(cluster),
            others,
            promised: BTreeSet::new(),
            invites: Backoff::new(&self.config.timing, self.now),
            rounds: 0,
            started: false,
        });
    }

    fn start_or_invite(&mut self) {
        let Some(own) = self.own.as_ref().filter(|own| !own.started) else {
            return;
        };
        let missing = own.others.len() - own.promised.len();
        if missing == 0 || (missing == 1 && mutated(Mutant::BootstrapWithoutAllPromises)) {
            return self.start();
        }
        let others = own.others.len();
        let spare = self.candidates().count() > others;
        let Some(own) = &mut self.own else { return };
        if !own.invites.is_due(self.now) {
            return;
        }
        own.rounds += 1;
        if own.rounds > PATIENCE && spare {
            let silent = own
                .others
                .keys()
                .filter(|node| !own.promised.contains(*node));
            let until = self.now + self.config.timing.gossip_probe * PATIENCE;
            self.shunned
                .extend(silent.map(|node| (node.clone(), until)));
            return self.give_own_set_up();
        }
        self.invite();
    }

    /// All members, sorted by name: the initiator, whose name is the smallest, is the first.
    fn own_members(&self, own: &OwnSet) -> BTreeMap<RaftId, SocketAddr> {
        let others = own.others.values().map(|view| (view.raft_id(), view.addr));
        std::iter::once((self.raft_id(), self.config.addr))
            .chain(others)
            .collect()
    }

    fn invite(&mut self) {
        let Some(own) = &self.own else { return };
        let members = Vec::from_iter(self.own_members(own).into_keys());
        let waiting = own.others.iter();
        let invites: Vec<(PeerAddr, Invite)> = waiting
            .filter(|(node, _)| !own.promised.contains(*node))
            .map(|(_, view)| {
                let invite = Invite {
                    cluster: own.cluster,
                    expect: self.config.expect,
                    members: members.clone(),
                    voters: members.len().min(self.config.voters.max(1)) as u16,
                    boot: view.instance.boot,
                    addr: view.addr,
                };
                (peer_addr(view), invite)
            })
            .collect();
        for (to, invite) in invites {
            self.send(to, BootstrapMessage::Invite(invite));
        }
    }

    fn start(&mut self) {
        let Some(own) = &self.own else { return };
        let (cluster, voters) = (own.cluster, self.config.voters.max(1));
        let members = self.own_members(own).into_iter().take(voters).collect();
        self.own.iter_mut().for_each(|own| own.started = true);
        if self.started_sets.len() == MAX_STARTED_SETS {
            self.started_sets.pop_front();
        }
        self.started_sets.push_back(cluster);
        self.counters.add("bootstrap sets started");
        self.outputs
            .push_back(BootstrapOutput::Initialise { cluster, members });
    }

    /// The set will never be started: its members need not wait.
    pub(super) fn give_own_set_up(&mut self) {
        let Some(own) = self.own.take_if(|own| !own.started) else {
            return;
        };
        self.counters.add("bootstrap sets given up");
        let status = Status::Void;
        for view in own.others.values() {
            let cluster = own.cluster;
            self.send(
                peer_addr(view),
                BootstrapMessage::Status { cluster, status },
            );
        }
    }

    pub(super) fn handle_promise(&mut self, from: &Peer, cluster: ClusterId) {
        match self.invited(from, cluster) {
            Some(own) => {
                own.promised.insert(from.instance.node.clone());
            }
            None => self.counters.add("bootstrap messages dropped"),
        }
    }

    pub(super) fn handle_refusal(&mut self, from: &Peer, cluster: ClusterId, reason: Refusal) {
        if self.invited(from, cluster).is_none() {
            return self.counters.add("bootstrap messages dropped");
        }
        self.counters.add("bootstrap invitations refused");
        if matches!(reason, Refusal::Initialised(_) | Refusal::NoCandidate) {
            let until = self.now + self.busy_span();
            self.busy.insert(from.instance.clone(), until);
            self.give_own_set_up();
        }
    }

    /// The set that the message is about, if it has not been started and its sender is a member of it.
    fn invited(&mut self, from: &Peer, cluster: ClusterId) -> Option<&mut OwnSet> {
        self.own.as_mut().filter(|own| {
            let member = own.others.get(&from.instance.node);
            !own.started
                && own.cluster == cluster
                && member.is_some_and(|member| member.instance == from.instance)
        })
    }

    /// What this node can say about a set.
    pub(super) fn status_of(&self, cluster: ClusterId, initiator: &Instance) -> Status {
        let held = self.log.map(|log| log.cluster);
        let current = self.own.as_ref().map(|own| own.cluster);
        // The run that made the set knows best, whatever its log holds by now.
        let never_started = *initiator == self.config.instance
            && ![held, current].contains(&Some(cluster))
            && !self.started_sets.contains(&cluster);
        if never_started {
            return Status::Void;
        }
        if let Some(held) = held {
            return Status::Initialised(held);
        }
        if *initiator == self.config.instance {
            return if current == Some(cluster) {
                Status::Pending
            } else {
                Status::Uninitialised
            };
        }
        let Some(view) = self.view.get(&initiator.node) else {
            return Status::Uninitialised;
        };
        let is_promised = self.promised.as_ref().map(|promised| promised.cluster) == Some(cluster);
        if view.is_present && view.instance == *initiator {
            Status::Pending
        } else if is_later_run(view, initiator.boot) && !is_promised {
            Status::Unpromised
        } else {
            Status::Uninitialised
        }
    }
}
