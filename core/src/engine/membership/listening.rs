//! What others say: what is refused, and why.

use foca::Message;

use super::identity::Identity;
use super::packet::{Packet, SwimMessage};
use super::{MAX_KNOWN, Membership, MembershipOutput};
use crate::ids::{BootId, ClusterId, PeerAddr};
use crate::transport::Peer;

/// The same foreign cluster is reported by the same node at most this often, in probe intervals.
const PROBES_A_REFUSAL: u32 = 10;
/// Nodes of foreign clusters that are kept apart from each other in that.
const MAX_REFUSALS: usize = 256;

impl Membership {
    /// The cluster of that node, if it is not the one of this node.
    pub(super) fn foreign(&self, identity: &Identity) -> Option<ClusterId> {
        let own = self.profile.cluster?;
        identity.profile.cluster.filter(|theirs| *theirs != own)
    }

    /// Two clusters of one name never merge. Both are told, and neither believes anything.
    pub(super) fn refuse(&mut self, from: &Peer, packet: &Packet, cluster: ClusterId) {
        self.counters.add("gossip of another cluster");
        let node = &from.instance.node;
        let again = self.timing.probe * PROBES_A_REFUSAL;
        self.refusals.retain(|_, at| *at + again > self.now);
        if self.refusals.contains_key(node) || self.refusals.len() >= MAX_REFUSALS {
            return;
        }
        self.refusals.insert(node.clone(), self.now);
        self.outputs.push_back(MembershipOutput::ForeignCluster {
            node: node.clone(),
            cluster,
        });
        if !matches!(packet, Packet::Refusal(_)) {
            let to = PeerAddr {
                node: Some(node.clone()),
                addr: from.addr,
            };
            let refusal = Packet::Refusal(self.swim.identity().clone());
            self.send(to, &refusal);
        }
        if let Some(known) = self.known.get(node).filter(|known| known.state.is_there()) {
            self.swim.declare_down(self.now, known.identity.clone());
            self.sync();
        }
    }

    pub(super) fn handle_message(&mut self, mut message: SwimMessage) {
        let is_undead = message.header.message == Message::TurnUndead;
        if self.farewell.is_some() {
            if !is_undead {
                self.send_goodbye(message.header.src);
            }
            return;
        }
        let own = self.swim.identity().clone();
        let dst = &message.header.dst;
        if dst.node != own.node || *dst > own {
            // Another run of this node lives, or lived, and this one is not meant.
            self.counters.add("gossip for another run");
            if dst.node == own.node {
                self.hear_of_run(dst.boot);
            }
            return;
        }
        if *dst < own {
            if is_undead {
                // The sender buried an earlier self of this node and has not heard of the present one.
                let to = message.header.src.peer_addr();
                return self.send(to, &Packet::Join(own));
            }
            message.header.dst = own;
        }
        if !self.screen(&mut message) {
            return self.counters.add("malformed gossip");
        }
        let is_feed = message.header.message == Message::Feed;
        self.swim.handle_message(self.now, &message);
        let joined = self.sync();
        if is_feed && joined > 0 {
            self.joining.learnt(self.now);
        }
        self.pull_tags();
    }

    /// Somebody speaks of a run of this node. Of two runs the newer one stands: everybody else believes it, too.
    pub(super) fn hear_of_run(&mut self, boot: BootId) {
        if boot > self.instance.boot {
            self.outputs.push_back(MembershipOutput::Superseded(boot));
        }
    }

    /// Takes out what must not be believed; whether the rest makes sense.
    fn screen(&mut self, message: &mut SwimMessage) -> bool {
        let own = self.swim.identity().clone();
        let about = match &message.header.message {
            Message::PingReq { target, .. } | Message::IndirectAck { target, .. } => Some(target),
            Message::IndirectPing { origin, .. } | Message::ForwardedAck { origin, .. } => {
                Some(origin)
            }
            _ => None,
        };
        if about.is_some_and(|about| about.node == own.node) {
            return false;
        }
        let mut newest_run = own.boot;
        let mut room = MAX_KNOWN.saturating_sub(self.known.len());
        let mut dropped = Vec::new();
        message.members.retain(|member| {
            let id = member.id();
            let reason = if id.node == own.node {
                newest_run = newest_run.max(id.boot);
                (*id > own).then_some("gossip about another run of this node")
            } else if self.foreign(id).is_some() {
                Some("gossip about another cluster")
            } else if !self.known.contains_key(&id.node) {
                let full = room == 0;
                room = room.saturating_sub(1);
                full.then_some("gossip about one member too many")
            } else {
                None
            };
            dropped.extend(reason);
            // An earlier self of this node is nothing to remember; whoever speaks of it hears from the present one.
            reason.is_none() && (id.node != own.node || *id == own)
        });
        self.hear_of_run(newest_run);
        let src = &message.header.src;
        let full = self.known.len() >= MAX_KNOWN && !self.known.contains_key(&src.node);
        dropped
            .into_iter()
            .for_each(|reason| self.counters.add(reason));
        if full {
            self.counters.add("gossip about one member too many");
        }
        !full
    }
}
