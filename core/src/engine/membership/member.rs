//! A member as the rest of the engine sees it.

use std::net::SocketAddr;
use std::sync::Arc;

use super::identity::Identity;
use super::tags::Tags;
use crate::ids::{Instance, MemberKind, StoreId};
use crate::time::Time;
use crate::versions::VersionRange;

/// What gossip says about a member.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum MemberState {
    /// It answers.
    Alive,
    /// Somebody's probe was not answered, and the member has not denied yet that it is dead.
    Suspect,
    /// It said that it leaves and is still there.
    Leaving,
    /// It said that it leaves and is gone.
    Left,
    /// It stopped answering without a word.
    Failed,
}

impl MemberState {
    /// Whether the node is there: alive, suspect or leaving.
    pub fn is_there(self) -> bool {
        !matches!(self, MemberState::Left | MemberState::Failed)
    }

    pub(super) fn of(state: foca::State, identity: &Identity) -> Self {
        match (state, identity.profile.leaving) {
            (foca::State::Alive, false) => MemberState::Alive,
            (foca::State::Suspect, false) => MemberState::Suspect,
            (foca::State::Alive | foca::State::Suspect, true) => MemberState::Leaving,
            (foca::State::Down, true) => MemberState::Left,
            (foca::State::Down, false) => MemberState::Failed,
        }
    }
}

/// A node that gossip knows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Name and run.
    pub instance: Instance,
    /// Where it is reached.
    pub addr: SocketAddr,
    /// Its raft store.
    pub store: StoreId,
    /// What part it takes.
    pub kind: MemberKind,
    /// How many candidates it waits for to form a cluster; 0: it only joins.
    pub expect: u16,
    /// The versions of the protocol that it speaks.
    pub versions: VersionRange,
    /// What share of the load it takes, compared to others.
    pub capacity: u32,
    /// What gossip says about it.
    pub state: MemberState,
    /// Whether its services can be given shards: they have not failed to be ready for `unready_after` (rule M10).
    pub ready: bool,
    /// Version of `tags`. Gossip may speak of a newer one already, which is then on its way.
    pub tag_version: u64,
    /// Its tags, as far as they were pulled; those of an earlier run are not shown.
    pub tags: Arc<Tags>,
    /// Since when, on this node's clock, it is in `state` as this run.
    pub since: Time,
}

impl Member {
    /// Whether it is there to stay: alive or suspect.
    pub fn is_present(&self) -> bool {
        matches!(self.state, MemberState::Alive | MemberState::Suspect)
    }

    pub(super) fn new(identity: &Identity, state: MemberState, now: Time) -> Self {
        Self {
            instance: identity.instance(),
            addr: identity.profile.addr,
            store: identity.profile.store,
            kind: identity.profile.kind,
            expect: identity.profile.expect,
            versions: identity.profile.versions,
            capacity: identity.profile.capacity,
            state,
            ready: !identity.profile.unready,
            tag_version: 0,
            tags: Arc::default(),
            since: now,
        }
    }

    /// Takes over what gossip says now; answers what that means to somebody who watches.
    pub(super) fn update(
        &mut self,
        identity: &Identity,
        state: MemberState,
        now: Time,
    ) -> Option<MemberEvent> {
        let mut next = Self::new(identity, state, now);
        let same_run = next.instance == self.instance;
        if same_run {
            next.tag_version = self.tag_version;
            next.tags = self.tags.clone();
            if state == self.state {
                next.since = self.since;
            }
        }
        let was_there = self.state.is_there();
        let instance = next.instance.clone();
        let event = match (was_there, state) {
            (false, _) if state.is_there() => Some(MemberEvent::Joined(instance)),
            (false, _) => None,
            (true, MemberState::Left) => Some(MemberEvent::Left(instance)),
            (true, MemberState::Failed) => Some(MemberEvent::Failed(instance)),
            (true, _) if !same_run => Some(MemberEvent::Joined(instance)),
            (true, _) => self
                .differs_visibly(&next)
                .then_some(MemberEvent::Updated(instance)),
        };
        *self = next;
        event
    }

    /// Suspicion comes and goes without an event; everything else that a member says about itself is one.
    fn differs_visibly(&self, next: &Self) -> bool {
        let is_leaving = |member: &Self| member.state == MemberState::Leaving;
        let said = |member: &Self| {
            let addr = (member.addr, member.store);
            (addr, member.kind, member.expect, member.ready)
        };
        said(self) != said(next) || is_leaving(self) != is_leaving(next)
    }
}

/// Something that happened to a member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MemberEvent {
    /// A node is there that was not, or it is there as another run.
    Joined(Instance),
    /// It said that it leaves, and is gone.
    Left(Instance),
    /// It stopped answering.
    Failed(Instance),
    /// Its address, store, part, readiness or tags changed, or it said that it is about to leave.
    Updated(Instance),
}

#[cfg(test)]
mod tests {
    use super::super::identity::identity;
    use super::*;
    use crate::ids::BootId;

    const T: Time = Time(5);

    #[test]
    fn suspicion_is_no_event_but_restarts_the_clock() {
        let id = identity("a", 1, 0);
        let mut member = Member::new(&id, MemberState::Alive, Time(1));
        assert_eq!(member.update(&id, MemberState::Suspect, T), None);
        assert_eq!((member.state, member.since), (MemberState::Suspect, T));
        assert_eq!(member.update(&id, MemberState::Suspect, Time(9)), None);
        assert_eq!(member.since, T);
    }

    #[test]
    fn a_node_that_said_it_leaves_left_and_did_not_fail() {
        let mut id = identity("a", 1, 0);
        let mut member = Member::new(&id, MemberState::Alive, T);
        id.profile.leaving = true;
        let leaving = MemberState::of(foca::State::Suspect, &id);
        assert_eq!(leaving, MemberState::Leaving);
        assert_eq!(
            member.update(&id, leaving, T),
            Some(MemberEvent::Updated(id.instance()))
        );
        let left = MemberState::of(foca::State::Down, &id);
        assert_eq!(
            member.update(&id, left, T),
            Some(MemberEvent::Left(id.instance()))
        );
        assert_eq!(member.update(&id, MemberState::Failed, T), None);
    }

    #[test]
    fn another_run_joins_and_does_not_show_the_former_runs_tags() {
        let mut member = Member::new(&identity("a", 1, 0), MemberState::Alive, T);
        member.tag_version = 3;
        let id = identity("a", 2, 0);
        assert_eq!(
            member.update(&id, MemberState::Alive, T),
            Some(MemberEvent::Joined(id.instance()))
        );
        assert_eq!((member.instance.boot, member.tag_version), (BootId(2), 0));
    }
}
