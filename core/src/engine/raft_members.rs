//! The raft configuration that should be (rules M0 to M3): a pure function of what the leader knows.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::io::{MemberChange, RaftMembers};
use super::membership::{Member, MemberState};
use crate::ids::{Instance, LogIndex, MemberKind, NodeId, RaftId};
use crate::mutants::{Mutant, mutated};
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

    fn is_present(&self, node: &NodeId) -> bool {
        let present =
            |member: &Member| matches!(member.state, MemberState::Alive | MemberState::Suspect);
        self.members.get(node).is_some_and(present)
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
        if member.kind == MemberKind::NonMember || !s.is_present(node) || node == s.me {
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
///
/// Not those that gossip sees: they would have been admitted just now. Only members are pinged, so one that was
/// not, because it was new or had been away for long, would stay silent, and outside, for ever.
fn dismiss(s: &Situation<'_>, next: &mut MemberChange) {
    let gone = |id: &RaftId| {
        let left = s.is_going(&id.node);
        let silent = (s.silent_for)(&id.node) >= s.timing.stale_after;
        let stale = silent && !s.is_present(&id.node);
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
    if mutated(Mutant::RemovalBelowQuorum) {
        return true;
    }
    let live = next.voters.iter().filter(|id| s.is_live(id)).count();
    live > next.voters.len() / 2
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::SocketAddr;
    use std::sync::Arc;

    use super::*;
    use crate::engine::membership::Tags;
    use crate::ids::{BootId, StoreId};
    use crate::time::Time;

    const ME: &str = "n0";

    fn id(node: &str, store: u64) -> RaftId {
        let node = NodeId::new(node).unwrap();
        let store = StoreId(store);
        RaftId { node, store }
    }

    fn addr() -> SocketAddr {
        "10.0.0.1:7000".parse().unwrap()
    }

    /// What a leader might know. All that gossip names answers, but for the silent.
    struct World {
        raft: RaftMembers,
        members: BTreeMap<NodeId, Member>,
        silent: BTreeMap<NodeId, Duration>,
        owners: BTreeSet<NodeId>,
        voters: usize,
    }

    impl World {
        /// Voters and gossip: each node with store 1.
        fn new(voters: &[&str]) -> Self {
            let ids: BTreeSet<RaftId> = voters.iter().map(|node| id(node, 1)).collect();
            let raft = RaftMembers {
                voters: vec![ids.clone()],
                members: ids.iter().map(|id| (id.clone(), addr())).collect(),
                matched: ids.iter().map(|id| (id.clone(), LogIndex(1_000))).collect(),
                last_index: LogIndex(1_000),
            };
            let mut world = Self {
                raft,
                members: BTreeMap::new(),
                silent: BTreeMap::new(),
                owners: BTreeSet::new(),
                voters: 5,
            };
            voters.iter().for_each(|node| world.gossip(node, 1));
            world
        }

        fn gossip(&mut self, node: &str, store: u64) {
            let node = NodeId::new(node).unwrap();
            let boot = BootId(store);
            let member = Member {
                instance: Instance {
                    node: node.clone(),
                    boot,
                },
                addr: addr(),
                store: StoreId(store),
                kind: MemberKind::Voter,
                expect: 0,
                versions: crate::versions::VersionRange::SPOKEN,
                state: MemberState::Alive,
                tag_version: 0,
                tags: Arc::new(Tags::default()),
                since: Time(0),
            };
            self.members.insert(node, member);
        }

        fn silence(&mut self, node: &str, span: Duration) {
            self.silent.insert(NodeId::new(node).unwrap(), span);
        }

        fn is_lost(&mut self, node: &str) {
            let node = NodeId::new(node).unwrap();
            self.members.get_mut(&node).unwrap().state = MemberState::Failed;
        }

        fn says_goodbye(&mut self, node: &str) {
            let node = NodeId::new(node).unwrap();
            self.members.get_mut(&node).unwrap().state = MemberState::Leaving;
        }

        fn next(&self) -> Option<MemberChange> {
            let silent = |node: &NodeId| self.silent.get(node).copied().unwrap_or_default();
            let timing = Timing::lan();
            next_change(&Situation {
                me: &NodeId::new(ME).unwrap(),
                raft: &self.raft,
                members: &self.members,
                timing: &timing,
                voters: self.voters,
                silent_for: &silent,
                answers: &|instance| silent(&instance.node) < timing.dead_after,
                owns: &|node| self.owners.contains(node),
            })
        }
    }

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn a_group_that_is_right_is_left_alone() {
        assert_eq!(World::new(&["n0", "n1", "n2"]).next(), None);
    }

    #[test]
    fn m0_a_name_with_a_new_store_comes_back_as_a_non_voter() {
        let mut world = World::new(&["n0", "n1", "n2"]);
        world.gossip("n2", 2);
        let next = world.next().unwrap();
        let members: Vec<RaftId> = next.members.into_keys().collect();
        assert_eq!(members, [id("n0", 1), id("n1", 1), id("n2", 2)]);
        assert_eq!(next.voters, BTreeSet::from([id("n0", 1), id("n1", 1)]));
    }

    #[test]
    fn m0_an_old_store_never_stays_beside_a_new_one_of_its_name() {
        // Left behind by a joint change whose leader died.
        let mut world = World::new(&["n0", "n1", "n2"]);
        world.raft.members.insert(id("n2", 2), addr());
        world.gossip("n2", 2);
        let next = world.next().unwrap();
        assert!(!next.members.contains_key(&id("n2", 1)));
    }

    #[test]
    fn m0_a_lost_store_is_no_live_voter_though_its_name_answers() {
        let mut world = World::new(&["n0", "n1", "n2"]);
        world.gossip("n3", 1);
        world.gossip("n1", 2);
        world.silence("n2", LONG);
        // n1 answers, but with a store that does not vote: n0 alone is no quorum of what would be left.
        assert_eq!(world.next(), None);
    }

    #[test]
    fn m1_a_joint_change_left_behind_is_ended_before_anything_else() {
        let mut world = World::new(&["n0", "n1", "n2", "n3"]);
        let (before, wanted) = (world.raft.voters[0].clone(), [id("n0", 1), id("n1", 1)]);
        let wanted = BTreeSet::from(wanted);
        world.raft.voters = vec![before.clone(), wanted.clone()];
        assert_eq!(world.next().unwrap().voters, wanted);
        world.silence("n1", LONG);
        assert_eq!(
            world.next().unwrap().voters,
            before,
            "back, where forwards is not safe"
        );
        world.silence("n2", LONG);
        assert_eq!(world.next(), None, "and nowhere without a quorum");
    }

    #[test]
    fn m2_a_dead_voter_is_replaced_later_and_forgotten_last() {
        let timing = Timing::lan();
        let mut world = World::new(&["n0", "n1", "n2", "n3"]);
        world.voters = 3;
        let spare = id("n3", 1);
        world.raft.voters[0].remove(&spare);
        world.silence("n1", timing.replace_after - Duration::from_millis(1));
        assert_eq!(world.next(), None);
        world.silence("n1", timing.replace_after);
        let next = world.next().unwrap();
        assert!(next.voters.contains(&spare) && !next.voters.contains(&id("n1", 1)));
        assert!(
            next.members.contains_key(&id("n1", 1)),
            "it is a member still"
        );
        world.silence("n1", timing.stale_after);
        world.is_lost("n1");
        assert!(!world.next().unwrap().members.contains_key(&id("n1", 1)));
        world.owners.insert(NodeId::new("n1").unwrap());
        assert!(
            world.next().unwrap().members.contains_key(&id("n1", 1)),
            "while a map names it"
        );
    }

    #[test]
    fn m2_one_that_was_forgotten_or_never_heard_is_admitted_when_gossip_sees_it() {
        let mut world = World::new(&["n0", "n1", "n2"]);
        // Nobody has pinged it yet: by the leader's clock it has been silent for as long as there is a leader.
        world.gossip("n3", 1);
        world.silence("n3", Timing::lan().stale_after * 2);
        let next = world.next().unwrap();
        assert!(next.members.contains_key(&id("n3", 1)));
        world.raft.members = next.members;
        assert_eq!(world.next(), None, "and it stays");
        world.is_lost("n3");
        assert!(!world.next().unwrap().members.contains_key(&id("n3", 1)));
    }

    #[test]
    fn m2_never_fewer_live_voters_than_a_quorum() {
        let mut world = World::new(&["n0", "n1", "n2"]);
        world.says_goodbye("n2");
        world.silence("n1", Duration::from_secs(1));
        assert_eq!(world.next(), None, "without n2, n0 would need n1");
        world.silence("n1", Duration::ZERO);
        assert_eq!(world.next().unwrap().voters.len(), 2);
    }

    #[test]
    fn m3_places_for_voters_are_filled_by_those_that_have_caught_up() {
        let mut world = World::new(&["n0", "n1", "n2", "n3", "n4", "n5"]);
        let learners = [id("n3", 1), id("n4", 1), id("n5", 1)];
        world.raft.voters[0].retain(|voter| !learners.contains(voter));
        world.raft.matched.insert(learners[0].clone(), LogIndex(1));
        let next = world.next().unwrap();
        let five = ["n0", "n1", "n2", "n4", "n5"].map(|node| id(node, 1));
        assert_eq!(next.voters, BTreeSet::from(five));
        world.voters = 4;
        assert_eq!(world.next().unwrap().voters.len(), 4);
    }
}
