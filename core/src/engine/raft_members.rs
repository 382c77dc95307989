//! The raft configuration that should be (rules M0 to M3): a pure function of what the leader knows.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::io::{MemberChange, RaftMembers};
use super::membership::{Member, MemberState, ZONE_TAG};
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

    /// What fails together with the node, as it says itself.
    fn zone(&self, node: &NodeId) -> Option<&str> {
        self.members.get(node)?.tags.get(ZONE_TAG)
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

/// Keeps as many voters as asked for, spread over zones: dead ones are replaced, free places filled (rule M3).
fn choose_voters(s: &Situation<'_>, next: &mut MemberChange) {
    let replaceable =
        |id: &RaftId| id.node != *s.me && (s.silent_for)(&id.node) >= s.timing.replace_after;
    while next.voters.len() < s.voters {
        let Some(id) = promotable(s, next, None, false) else {
            break;
        };
        next.voters.insert(id);
    }
    while let Some(dead) = next.voters.iter().find(|id| replaceable(id)).cloned() {
        let Some(id) = promotable(s, next, Some(&dead), false) else {
            return;
        };
        next.voters.remove(&dead);
        next.voters.insert(id);
    }
    while next.voters.len() >= s.voters
        && let Some((crowded, id)) = spread(s, next)
    {
        next.voters.remove(&crowded);
        next.voters.insert(id);
    }
}

/// A node that may become a voter, of the zone that has the fewest of them, `without` this one; then by name. If
/// `zoned`, only one that says its zone.
fn promotable(
    s: &Situation<'_>,
    next: &MemberChange,
    without: Option<&RaftId>,
    zoned: bool,
) -> Option<RaftId> {
    let fit = |id: &&RaftId| {
        let node = &id.node;
        !next.voters.contains(*id)
            && s.kind(node) == MemberKind::Voter
            && s.is_live(id)
            && !s.is_going(node)
            && s.has_caught_up(id)
            && (!zoned || s.zone(node).is_some())
    };
    let voters = |zone: Option<&str>| {
        let staying = next.voters.iter().filter(|&id| Some(id) != without);
        staying.filter(|id| s.zone(&id.node) == zone).count()
    };
    let candidates = next.members.keys().filter(fit);
    candidates
        .min_by_key(|id| voters(s.zone(&id.node)))
        .cloned()
}

/// A voter to be replaced by a node of a zone that has at least two voters fewer. Each such exchange makes zones more
/// alike, so it ends, and the loss of one zone of three takes no more voters than it must.
///
/// Only if each voter says its zone: one whose tags are still on their way would seem to be in none.
fn spread(s: &Situation<'_>, next: &MemberChange) -> Option<(RaftId, RaftId)> {
    let zones = |id: &RaftId| s.zone(&id.node);
    if !next.voters.iter().all(|id| zones(id).is_some()) {
        return None;
    }
    let voters = |zone: Option<&str>| next.voters.iter().filter(|id| zones(id) == zone).count();
    let id = promotable(s, next, None, true)?;
    let least = voters(zones(&id));
    let crowded = |id: &&RaftId| id.node != *s.me && voters(zones(id)) >= least + 2;
    // Of the fullest zone one that does not answer, if there is one; else the last by name.
    let crowded = next.voters.iter().filter(crowded);
    let last = crowded.max_by_key(|id| (voters(zones(id)), !s.is_live(id)))?;
    Some((last.clone(), id))
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
                capacity: 1,
                ready: true,
                state: MemberState::Alive,
                tag_version: 0,
                tags: Arc::new(Tags::default()),
                since: Time(0),
            };
            self.members.insert(node, member);
        }

        fn zone(&mut self, node: &str, zone: &str) {
            let mut tags = Tags::default();
            tags.insert(ZONE_TAG, zone).unwrap();
            let member = self.members.get_mut(&NodeId::new(node).unwrap());
            member.unwrap().tags = Arc::new(tags);
        }

        /// Of all these members only the first vote.
        fn demote(&mut self, from: usize) {
            let voters = std::mem::take(&mut self.raft.voters[0]);
            self.raft.voters[0] = voters.into_iter().take(from).collect();
        }

        /// Carries out one change after the other until none is wanted; how many that were.
        fn settle(&mut self) -> usize {
            for count in 0..20 {
                let Some(next) = self.next() else {
                    return count;
                };
                (self.raft.voters, self.raft.members) = (vec![next.voters], next.members);
            }
            panic!("it does not end")
        }

        fn voters(&self) -> Vec<&str> {
            let voters = self.raft.voters[0].iter();
            voters.map(|id| id.node.as_str()).collect()
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

    const NINE: [&str; 9] = ["n0", "n1", "n2", "n3", "n4", "n5", "n6", "n7", "n8"];

    /// Nine nodes, of which the first `voting` vote, in zones as given.
    fn zoned(voting: usize, voters: usize, zones: &str) -> World {
        let mut world = World::new(&NINE[..zones.len()]);
        world.demote(voting);
        world.voters = voters;
        for (node, zone) in NINE.iter().zip(zones.chars()) {
            if zone != '-' {
                world.zone(node, &zone.to_string());
            }
        }
        world
    }

    #[test]
    fn m3_free_places_go_to_zones_with_the_fewest_voters() {
        let mut world = zoned(1, 5, "aaaabbbcc");
        world.settle();
        assert_eq!(world.voters(), ["n0", "n1", "n4", "n5", "n7"]);
    }

    #[test]
    fn m3_a_dead_voter_is_replaced_from_its_own_zone_if_that_has_the_fewest_then() {
        let mut world = zoned(5, 5, "abcabcabc");
        world.silence("n2", LONG);
        world.settle();
        assert_eq!(world.voters(), ["n0", "n1", "n3", "n4", "n5"]);
    }

    #[test]
    fn m3_voters_move_to_a_zone_that_comes_later_and_the_leader_stays() {
        let mut world = zoned(5, 5, "aaabbccc");
        assert_eq!(world.voters(), ["n0", "n1", "n2", "n3", "n4"]);
        world.settle();
        assert_eq!(world.voters(), ["n0", "n1", "n3", "n4", "n5"], "2, 2 and 1");
        assert_eq!(world.settle(), 0, "and there it rests");
        let mut world = zoned(3, 3, "aaabc");
        world.settle();
        assert_eq!(world.voters(), ["n0", "n3", "n4"]);
    }

    #[test]
    fn m3_a_silent_voter_of_a_crowded_zone_goes_first() {
        let mut world = zoned(5, 5, "aaabbc");
        world.silence("n1", Duration::from_secs(1));
        world.settle();
        assert_eq!(world.voters(), ["n0", "n2", "n3", "n4", "n5"]);
    }

    #[test]
    fn m3_while_a_voter_does_not_say_its_zone_no_healthy_one_is_replaced() {
        let mut world = zoned(5, 5, "aaa-bccc");
        assert_eq!(world.settle(), 0);
        let mut world = zoned(5, 5, "aaabb---");
        assert_eq!(world.settle(), 0, "and no node without a zone replaces one");
        let mut world = zoned(5, 5, "aaabb-c");
        world.settle();
        assert_eq!(
            world.voters(),
            ["n0", "n1", "n3", "n4", "n6"],
            "but another does"
        );
    }

    #[test]
    fn m3_with_three_zones_no_loss_of_one_takes_a_quorum() {
        // All ways to put seven nodes into three zones of which none is empty, whoever votes at first.
        for code in 0..3_usize.pow(7) {
            let zones: String = (0..7)
                .map(|at| ['a', 'b', 'c'][code / 3_usize.pow(at) % 3])
                .collect();
            let size = |zone: char| zones.chars().filter(|&z| z == zone).count();
            for (voting, voters) in [(1, 3), (3, 3), (5, 5), (2, 5)] {
                let mut world = zoned(voting, voters, &zones);
                world.settle();
                let in_zone = |zone: char| {
                    let of = |node: &&&str| {
                        zones
                            .chars()
                            .nth(NINE.iter().position(|n| **n == ***node).unwrap())
                    };
                    world
                        .voters()
                        .iter()
                        .filter(|node| of(node) == Some(zone))
                        .count()
                };
                let counts = ['a', 'b', 'c'].map(in_zone);
                assert_eq!(counts.iter().sum::<usize>(), voters, "{zones}");
                let most = *counts.iter().max().unwrap();
                // A zone has more than another only if that one has no more nodes.
                for (zone, count) in ['a', 'b', 'c'].into_iter().zip(counts) {
                    assert!(
                        count + 1 >= most || count == size(zone),
                        "{zones}: {counts:?}"
                    );
                }
            }
        }
    }
}
