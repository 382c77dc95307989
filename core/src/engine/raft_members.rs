//! The raft configuration that should be (rules M0 to M3): a pure function of what the leader knows.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::io::{MemberChange, RaftMembers};
use super::membership::{Member, MemberState};
use crate::ids::{Instance, LogIndex, MemberKind, NodeId, RaftId};
use crate::timing::Timing;

/// A non-voter that lacks at most so many entries has caught up: it is one round of replication behind.
const CAUGHT_UP_LAG: u64 = 64;

/// What the leader knows.
pub(super) struct Situation<'a> {
    pub(super) me: &'a NodeId,
    pub(super) raft: &'a RaftMembers,
    pub(super) members: &'a BTreeMap<NodeId, Member>,
    pub(super) timing: &'a Timing,
    /// How many voters to keep.
    pub(super) voters: usize,
    /// For how long a node has not answered pings.
    pub(super) silent_for: &'a dyn Fn(&NodeId) -> Duration,
    /// Whether a run has answered pings lately, in this term.
    pub(super) answers: &'a dyn Fn(&Instance) -> bool,
    /// Whether a map in force or pending names the node.
    pub(super) owns: &'a dyn Fn(&NodeId) -> bool,
}

impl Situation<'_> {
    fn kind(&self, node: &NodeId) -> MemberKind {
        self.members
            .get(node)
            .map_or(MemberKind::NonVoter, |member| member.kind)
    }

    /// Whether the run that holds *this store* answers: a name that lost its store cannot vote as what it was
    /// (rule M0). A run that was not heard in this term yet counts as dead here: to wait costs nothing.
    fn is_live(&self, id: &RaftId) -> bool {
        let holds = |member: &Member| member.store == id.store && (self.answers)(&member.instance);
        id.node == *self.me || self.members.get(&id.node).is_some_and(holds)
    }

    fn is_going(&self, node: &NodeId) -> bool {
        let going =
            |member: &Member| matches!(member.state, MemberState::Leaving | MemberState::Left);
        self.members.get(node).is_some_and(going)
    }

    fn has_caught_up(&self, id: &RaftId) -> bool {
        let matched = self.raft.matched.get(id).copied().unwrap_or(LogIndex(0));
        self.raft.last_index.0.saturating_sub(matched.0) <= CAUGHT_UP_LAG
    }
}

/// The next configuration, if another one is due: one joint change at a time (rule M1).
pub(super) fn next_change(s: &Situation<'_>) -> Option<MemberChange> {
    let current = match s.raft.voters.as_slice() {
        [current] => current,
        [before, wanted] => return end_joint_change(s, before, wanted),
        _ => return None,
    };
    let mut next = MemberChange {
        voters: current.clone(),
        members: s.raft.members.clone(),
    };
    admit(s, &mut next);
    dismiss(s, &mut next);
    choose_voters(s, &mut next);
    let unchanged = next.voters == *current && next.members == s.raft.members;
    (!unchanged && is_safe(s, &next)).then_some(next)
}

/// The leader that began this joint change is gone: it is brought to an end before anything else (rule M1),
/// forwards if the voters that were wanted are there, else back.
fn end_joint_change(
    s: &Situation<'_>,
    before: &BTreeSet<RaftId>,
    wanted: &BTreeSet<RaftId>,
) -> Option<MemberChange> {
    let to = |voters: &BTreeSet<RaftId>| MemberChange {
        voters: voters.clone(),
        members: s.raft.members.clone(),
    };
    [to(wanted), to(before)]
        .into_iter()
        .find(|next| is_safe(s, next))
}

/// New nodes, and names that came back with a new store: as non-voters (rule M0).
fn admit(s: &Situation<'_>, next: &mut MemberChange) {
    for (node, member) in s.members {
        let present = matches!(member.state, MemberState::Alive | MemberState::Suspect);
        if member.kind == MemberKind::NonMember || !present || node == s.me {
            continue;
        }
        let id = RaftId {
            node: node.clone(),
            store: member.store,
        };
        next.members
            .retain(|old, _| old.node != *node || *old == id);
        next.voters.retain(|old| old.node != *node || *old == id);
        next.members.insert(id, member.addr);
    }
}

/// Nodes that left and own nothing any more, and those that are silent for `stale_after` (rules M2, M5).
fn dismiss(s: &Situation<'_>, next: &mut MemberChange) {
    let gone = |id: &RaftId| {
        let left = s.is_going(&id.node);
        let stale = (s.silent_for)(&id.node) >= s.timing.stale_after;
        id.node != *s.me && (left || stale) && !(s.owns)(&id.node)
    };
    next.members.retain(|id, _| !gone(id));
    next.voters.retain(|id| !gone(id));
}

/// Keeps as many voters as asked for: dead ones are replaced, free places filled (rule M3).
fn choose_voters(s: &Situation<'_>, next: &mut MemberChange) {
    let promotable = |next: &MemberChange| {
        let fit = |id: &&RaftId| {
            let node = &id.node;
            !next.voters.contains(*id)
                && s.kind(node) == MemberKind::Voter
                && s.is_live(id)
                && !s.is_going(node)
        };
        next.members
            .keys()
            .filter(fit)
            .find(|id| s.has_caught_up(id))
            .cloned()
    };
    let replaceable =
        |id: &RaftId| id.node != *s.me && (s.silent_for)(&id.node) >= s.timing.replace_after;
    while next.voters.len() < s.voters {
        let Some(id) = promotable(next) else { return };
        next.voters.insert(id);
    }
    while let Some(dead) = next.voters.iter().find(|id| replaceable(id)).cloned() {
        let Some(id) = promotable(next) else { return };
        next.voters.remove(&dead);
        next.voters.insert(id);
    }
}

/// Never fewer live voters than a quorum (rule M2), and never none.
fn is_safe(s: &Situation<'_>, next: &MemberChange) -> bool {
    let live = next.voters.iter().filter(|id| s.is_live(id)).count();
    live > next.voters.len() / 2
}
