//! From what SWIM knows to what is shown: who came, who went, who is forgotten.

use super::identity::Identity;
use super::{Known, Member, MemberEvent, MemberState, Membership, MembershipOutput};
use crate::time::Time;

/// A dead member is remembered, though not shown, for so many `stale_after`: it may be the other half of a long
/// partition, and old gossip must not bring it back.
const REMEMBERED: u32 = 4;

impl Membership {
    /// Compares with what SWIM knows now; how many members are there that were not.
    pub(super) fn sync(&mut self) -> usize {
        let mut changed = Vec::new();
        let mut any_suspect = false;
        for member in self.swim.states() {
            let (id, state) = (member.id(), MemberState::of(member.state(), member.id()));
            let known = self.known.get(&id.node);
            if known.is_none_or(|known| known.state != state || known.identity != *id) {
                changed.push((id.clone(), state));
            }
            any_suspect |= member.state() == foca::State::Suspect;
        }
        // SWIM's own order is shuffled.
        changed.sort();
        let mut joined = 0;
        for (identity, state) in &changed {
            joined += usize::from(self.learn(identity, *state));
        }
        if !changed.is_empty() {
            let there = self.known.values().filter(|known| known.state.is_there());
            let clusters = there.filter_map(|known| known.identity.profile.cluster);
            self.heard = clusters.min();
            self.swim.resize(self.known.len());
        }
        let question = self.next_question.unwrap_or(self.now);
        self.next_question = any_suspect.then_some(question);
        self.flush();
        joined
    }

    /// One member is not as it was; whether it is there and was not.
    pub(super) fn learn(&mut self, identity: &Identity, state: MemberState) -> bool {
        self.revision += 1;
        let now = self.now;
        let node = &identity.node;
        let before = self.known.get(node);
        let was_there = before.is_some_and(|known| known.state.is_there());
        let still_gone = before.is_some() && !was_there && !state.is_there();
        let known = Known {
            identity: identity.clone(),
            state,
            since: before
                .filter(|known| known.state.is_there() == state.is_there())
                .map_or(now, |known| known.since),
            stale: still_gone && before.is_some_and(|known| known.stale),
        };
        let stale = known.stale;
        self.known.insert(node.clone(), known);
        let mut event = None;
        if let Some(member) = self.members.get_mut(node) {
            if member.instance.boot != identity.boot {
                self.pulls.forget(node);
            }
            event = member.update(identity, state, now);
        } else if !stale {
            let member = Member::new(identity, state, now);
            event = state
                .is_there()
                .then(|| MemberEvent::Joined(identity.instance()));
            self.members.insert(node.clone(), member);
        }
        let held = self
            .members
            .get(node)
            .map_or(0, |member| member.tag_version);
        if state.is_there() && identity.profile.tag_version > held {
            self.pulls.want(now, node);
        } else {
            self.pulls.forget(node);
        }
        if !state.is_there() {
            let at = now + self.timing.stale_after;
            self.next_sweep = Some(self.next_sweep.map_or(at, |next| next.min(at)));
            let alone = self.is_alone();
            self.joining.wake(now, alone);
        }
        self.outputs.extend(event.map(MembershipOutput::Event));
        state.is_there() && !was_there
    }

    pub(super) fn is_alone(&self) -> bool {
        !self.known.values().any(|known| known.state.is_there())
    }

    /// Hides members that are gone for long, and forgets those gone for much longer.
    pub(super) fn sweep(&mut self) {
        let (now, shown) = (self.now, self.timing.stale_after);
        let remembered = shown * REMEMBERED;
        let mut next: Option<Time> = None;
        let mut forgotten = Vec::new();
        for (node, known) in self
            .known
            .iter_mut()
            .filter(|(_, known)| !known.state.is_there())
        {
            if known.since + remembered <= now {
                forgotten.push(known.identity.clone());
                continue;
            }
            if known.since + shown <= now {
                known.stale = true;
                self.revision += u64::from(self.members.remove(node).is_some());
            }
            let at = known.since + if known.stale { remembered } else { shown };
            next = Some(next.map_or(at, |next| next.min(at)));
        }
        for identity in forgotten {
            self.revision += u64::from(self.members.remove(&identity.node).is_some());
            self.known.remove(&identity.node);
            self.swim.forget(now, identity);
        }
        self.next_sweep = next;
        self.flush();
    }
}
