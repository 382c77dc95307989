//! What this node says about itself, to the last word.

use foca::{Header, Member as SwimMember, Message};
use rand::RngExt;

use super::identity::Identity;
use super::packet::{Packet, SwimMessage};
use super::{MemberState, Membership};

/// Members that are told goodbye directly.
const GOODBYES: usize = 16;

impl Membership {
    /// Says what changed, if anything did. Not more often than once in a probe interval, except what must not wait:
    /// each change makes SWIM begin anew with its probes.
    pub(super) fn revise(&mut self) {
        let current = self.swim.identity();
        if current.profile == self.profile || self.farewell.is_some() {
            return;
        }
        if let Some(next) = current.successor(self.profile.clone()) {
            self.swim.change_identity(self.now, next);
            self.next_revision = self.now + self.timing.probe;
            self.flush();
        }
        let state = if self.profile.leaving {
            MemberState::Leaving
        } else {
            MemberState::Alive
        };
        self.show_own(state);
    }

    pub(super) fn show_own(&mut self, state: MemberState) {
        if let Some(own) = self.members.get_mut(&self.instance.node)
            && own.state != state
        {
            own.state = state;
            own.since = self.now;
            self.revision += 1;
        }
    }

    /// Goodbyes to some members that are there, a few times while the node is still driven.
    pub(super) fn say_goodbye(&mut self) {
        let Some((rounds, _)) = self
            .farewell
            .filter(|(rounds, at)| *rounds > 0 && *at <= self.now)
        else {
            return;
        };
        self.farewell = Some((rounds - 1, self.now + self.timing.probe / 2));
        let mut peers: Vec<_> = self
            .known
            .values()
            .filter(|known| known.state.is_there())
            .map(|known| known.identity.clone())
            .collect();
        for _ in 0..GOODBYES.min(peers.len()) {
            let peer = peers.swap_remove(self.rng.random_range(0..peers.len()));
            self.send_goodbye(peer);
        }
    }

    pub(super) fn send_goodbye(&mut self, to: Identity) {
        let own = self.swim.identity().clone();
        let peer = to.peer_addr();
        let goodbye = Packet::Swim(Box::new(SwimMessage {
            header: Header {
                src: own.clone(),
                src_incarnation: 0,
                dst: to,
                message: Message::Gossip,
            },
            members: vec![SwimMember::down(own)],
        }));
        self.send(peer, &goodbye);
    }
}
