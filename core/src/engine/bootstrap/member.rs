//! The side of those who promise: to one set at a time, until it has become a cluster or never can.

use std::collections::BTreeSet;

use super::{
    Backoff, Bootstrap, BootstrapMessage, BootstrapOutput, CandidateView, Invite, MAX_SET_MEMBERS,
    Refusal, Status, is_later_run, peer_addr,
};
use crate::ids::{ClusterId, Instance, NodeId, PeerAddr, RaftId};
use crate::mutants::{Mutant, mutated};
use crate::transport::Peer;

/// The set that this node is promised to.
#[derive(Debug)]
pub(super) struct Promised {
    pub(super) cluster: ClusterId,
    pub(super) initiator: Instance,
    pub(super) members: Vec<RaftId>,
    voters: usize,
    /// Members whose logs are not of this set, said after the initiator was gone.
    empty_handed: BTreeSet<NodeId>,
    pub(super) asks: Backoff,
}

impl Bootstrap {
    pub(super) fn handle_invite(&mut self, from: &Peer, invite: Invite) {
        if !self.is_well_formed(from, &invite) {
            return self.counters.add("bootstrap messages dropped");
        }
        let cluster = invite.cluster;
        let answer = match self.reason_to_refuse(from, &invite) {
            Some(reason) => BootstrapMessage::Refuse { cluster, reason },
            None => {
                self.promise(from, invite);
                BootstrapMessage::Promise { cluster }
            }
        };
        self.reply(from, answer);
    }

    /// The sender may say this, and it is this run with this store and address that is meant.
    fn is_well_formed(&self, from: &Peer, invite: &Invite) -> bool {
        let members = &invite.members;
        let sorted = members.windows(2).all(|pair| pair[0].node < pair[1].node);
        sorted
            && members.len() <= MAX_SET_MEMBERS
            && members
                .first()
                .is_some_and(|id| id.node == from.instance.node)
            && from.instance.node != self.config.instance.node
            && members.contains(&self.raft_id())
            && (1..=members.len()).contains(&usize::from(invite.voters))
            && members.len() == usize::from(invite.expect).min(MAX_SET_MEMBERS)
            && invite.boot == self.config.instance.boot
            && invite.addr == self.config.addr
    }

    fn reason_to_refuse(&mut self, from: &Peer, invite: &Invite) -> Option<Refusal> {
        if let Some(log) = self.log {
            return Some(Refusal::Initialised(log.cluster));
        }
        if self.withdrawn || self.config.expect == 0 {
            return Some(Refusal::NoCandidate);
        }
        if invite.expect != self.config.expect {
            return Some(Refusal::OtherExpect(self.config.expect));
        }
        if let Some(heard) = self.heard {
            return Some(Refusal::Heard(heard));
        }
        if let Some(promised) = &mut self.promised
            && !mutated(Mutant::BootstrapPromiseIgnored)
        {
            if promised.cluster == invite.cluster && promised.initiator == from.instance {
                return None;
            }
            // Perhaps that set is void, and the word of it was lost.
            promised.asks.reset(self.now);
            return Some(Refusal::Bound);
        }
        if self.fencing || self.own.as_ref().is_some_and(|own| own.started) {
            return Some(Refusal::Bound);
        }
        let initiator = self.view.get(&from.instance.node);
        let known = initiator.is_some_and(|view| view.is_present && view.instance == from.instance);
        // An older store of a member would later be taken for a newer one, and the promise for void.
        let sees = |id: &RaftId| {
            let view = self.view.get(&id.node);
            *id == self.raft_id() || view.is_some_and(|view| view.raft_id() == *id)
        };
        if !known || !invite.members.iter().all(sees) {
            return Some(Refusal::Unknown);
        }
        self.sees_smaller(&from.instance.node)
            .then_some(Refusal::Smaller)
    }

    fn promise(&mut self, from: &Peer, invite: Invite) {
        let again = |promised: &Promised| promised.cluster == invite.cluster;
        if self.promised.as_ref().is_some_and(again) {
            return;
        }
        self.give_own_set_up();
        self.counters.add("bootstrap promises");
        self.promised = Some(Promised {
            cluster: invite.cluster,
            initiator: from.instance.clone(),
            voters: usize::from(invite.voters),
            members: invite.members,
            empty_handed: BTreeSet::new(),
            asks: Backoff::new(&self.config.timing, self.now),
        });
        // The first question is for when the cluster has not come by then.
        if let Some(promised) = &mut self.promised {
            promised.asks.is_due(self.now);
        }
    }

    /// Whether the run that made the set cannot say any more what became of it.
    pub(super) fn is_gone(&self, promised: &Promised) -> bool {
        let Some(view) = self.view.get(&promised.initiator.node) else {
            return true;
        };
        !view.is_present
            || is_later_run(view, promised.initiator.boot)
            || view.raft_id() != promised.members[0]
    }

    pub(super) fn drive_promised(&mut self) {
        let Some(promised) = self.promised.as_ref().filter(|_| self.log.is_none()) else {
            return;
        };
        if self.is_without_quorum(promised.members[..promised.voters].iter()) {
            self.counters.add("bootstrap promises lapsed");
            self.promised = None;
            return;
        }
        let gone = self.is_gone(promised);
        if gone && self.may_fence(promised) {
            self.counters.add("bootstrap members fenced");
            self.fencing = true;
            self.outputs.push_back(BootstrapOutput::Fence);
        }
        let Some(promised) = &mut self.promised else {
            return;
        };
        if !gone {
            promised.empty_handed.clear();
        }
        if promised.asks.is_due(self.now) {
            self.ask(gone);
        }
    }

    /// Nobody who is there has a log of the set.
    fn may_fence(&self, promised: &Promised) -> bool {
        let fenced = !promised.members.contains(&self.raft_id());
        let silent = |view: &&CandidateView| !promised.empty_handed.contains(&view.instance.node);
        !fenced
            && !self.fencing
            && self.heard.is_none()
            && self.members_in_sight(promised).find(silent).is_none()
    }

    /// The other members of the set that still have the store with which they are in it.
    fn members_in_sight(&self, promised: &Promised) -> impl Iterator<Item = &CandidateView> {
        self.others()
            .filter(|view| promised.members.contains(&view.raft_id()))
    }

    /// Asks the initiator, or everybody else if it is gone.
    fn ask(&mut self, gone: bool) {
        let Some(promised) = &self.promised else {
            return;
        };
        let message = BootstrapMessage::Ask {
            cluster: promised.cluster,
            initiator: promised.initiator.clone(),
        };
        let initiator = &promised.initiator.node;
        let targets: Vec<PeerAddr> = self
            .members_in_sight(promised)
            .filter(|view| gone || view.instance.node == *initiator)
            .map(peer_addr)
            .collect();
        for to in targets {
            self.send(to, message.clone());
        }
    }

    pub(super) fn handle_status(&mut self, from: &Peer, cluster: ClusterId, status: Status) {
        let gone = self
            .promised
            .as_ref()
            .is_some_and(|promised| self.is_gone(promised));
        let promised = self.promised.as_mut().filter(|promised| {
            let member = |id: &RaftId| id.node == from.instance.node;
            promised.cluster == cluster && promised.members.iter().any(member)
        });
        let Some(promised) = promised else {
            return self.counters.add("bootstrap messages dropped");
        };
        let node = from.instance.node.clone();
        let sender = self.view.get(&node);
        let in_set = sender.is_some_and(|view| {
            view.instance == from.instance && promised.members.contains(&view.raft_id())
        });
        match status {
            // A start takes the promises of all: whoever is in the set and has none to it never gave one, or gave it
            // back for a reason that holds for everybody.
            Status::Unpromised if in_set => {
                self.counters.add("bootstrap sets that were never started");
                self.promised = None;
            }
            Status::Void if from.instance == promised.initiator => {
                self.counters.add("bootstrap promises given back");
                self.promised = None;
            }
            Status::Void | Status::Unpromised => self.counters.add("bootstrap messages dropped"),
            Status::Uninitialised if gone => {
                promised.empty_handed.insert(node);
            }
            Status::Initialised(other) if gone && other != cluster => {
                promised.empty_handed.insert(node);
            }
            Status::Uninitialised | Status::Initialised(_) | Status::Pending => {
                promised.empty_handed.remove(&node);
            }
        }
    }
}
