//! The device in clusters of one process, and openraft's own suite for stores.

use std::time::Duration;

use bytes::Bytes;
use openraft::testing::log::{StoreBuilder, Suite};
use tokio::sync::{mpsc, watch};

use super::rpc::{Call, Refusal, Reply, Request};
use super::testing::{CLUSTER, Cluster, addr, name, simulate};
use super::types::TypeConfig;
use super::*;
use crate::engine::map_encoding::encode_assignment;
use crate::engine::placement::{Candidate, place};
use crate::engine::replicated::{Change, VoidReason};
use crate::engine::shard_map::ShardMap;
use crate::ids::BootId;
use crate::state::NoState;

const MS: Duration = Duration::from_millis(1);

fn proposal(cluster: &Cluster, nodes: &[u64]) -> LogMessage {
    let candidate = |n: &u64| Candidate {
        instance: cluster.nodes[n].instance.clone(),
        capacity: 1,
    };
    let nodes: Vec<Candidate> = nodes.iter().map(candidate).collect();
    let assignment = place(&ShardMap::empty(), 16, &nodes, &Default::default());
    LogMessage::ProposedShardMap {
        base: LogIndex(0),
        assignment: encode_assignment(&assignment, None),
        reason: "test".into(),
    }
}

#[test]
fn three_nodes_elect_a_leader_and_agree_on_entries() {
    simulate(async {
        let mut cluster = Cluster::formed(1, 3).await;
        let leader = cluster.leader().unwrap();
        let (index, answer) = cluster.append(leader, "a").await.unwrap();
        assert_eq!(answer, "1 entries");
        cluster.append(leader, "b").await.unwrap();
        let last = LogIndex(index.0 + 1);
        for node in cluster.nodes.values() {
            node.device.wait_applied(last).await.unwrap();
            assert_eq!(node.journal.texts(), ["a", "b"]);
        }
        cluster
            .until("all know", |c| {
                c.nodes.values().all(|n| n.leadership.leader.is_some())
            })
            .await;
        let terms: Vec<Term> = (1..=3).map(|n| cluster.term(n)).collect();
        assert_eq!(terms, [terms[0]; 3]);
        for node in cluster.nodes.values() {
            assert_eq!(node.only_own, Some(false), "{}", node.id);
        }
    });
}

#[test]
fn a_follower_says_who_leads_and_appends_nothing() {
    simulate(async {
        let mut cluster = Cluster::formed(2, 3).await;
        let leader = cluster.leader().unwrap();
        let follower = leader % 3 + 1;
        cluster
            .until("it knows", |c| {
                c.nodes[&follower].leadership.leader.is_some()
            })
            .await;
        let refused = cluster.append(follower, "x").await.unwrap_err();
        assert_eq!(refused, AppendError::NotLeader(Some(name(leader))));
        let large = Bytes::from(vec![0; MAX_APP_ENTRY_BYTES + 1]);
        let refused = cluster.nodes[&leader]
            .device
            .append(None, Epoch(0), large)
            .await;
        assert_eq!(refused, Err(AppendError::TooLarge(MAX_APP_ENTRY_BYTES + 1)));
        let stale = cluster.nodes[&leader]
            .device
            .append(Some(ShardId(3)), Epoch(5), Bytes::new())
            .await;
        assert!(
            matches!(stale, Err(AppendError::Refused(stale)) if stale.given == Epoch(5)),
            "{stale:?}"
        );
        cluster.append(leader, "y").await.unwrap();
        assert_eq!(cluster.nodes[&leader].journal.texts(), ["y"]);
    });
}

#[test]
fn the_first_proposal_of_a_term_does_not_wait_for_another_try() {
    simulate(async {
        let mut cluster = Cluster::new(3);
        for n in 1..=3 {
            cluster.start(n).await;
        }
        cluster.initialise(1..=3);
        cluster
            .until("elected", |c| {
                c.nodes.values().any(|n| n.leadership.is_leader)
            })
            .await;
        let leader = cluster
            .nodes
            .values()
            .find(|n| n.leadership.is_leader)
            .unwrap();
        let (n, term) = (leader.id.store.0, leader.leadership.term);
        // Before any quorum ack: openraft refuses writes at this moment.
        assert_eq!(leader.quorum, None);
        let opened = LogMessage::LeaderOpened {
            leader: leader.instance.clone(),
        };
        let begun = tokio::time::Instant::now();
        leader.device.propose(term, opened);
        cluster
            .until("opened", |c| !c.nodes[&n].changes.is_empty())
            .await;
        assert!(begun.elapsed() < 20 * MS, "{:?}", begun.elapsed());
        assert!(matches!(
            cluster.nodes[&n].changes[0].2,
            Change::LeaderOpened { .. }
        ));
    });
}

#[test]
fn p1_a_proposal_of_another_term_is_dropped() {
    simulate(async {
        let mut cluster = Cluster::formed(4, 3).await;
        let leader = cluster.leader().unwrap();
        let term = cluster.term(leader);
        let commit = |decided| LogMessage::ShardMapCommitted {
            map: LogIndex(1),
            term: decided,
        };
        let node = &cluster.nodes[&leader];
        node.device.propose(Term(term.0 - 1), commit(Term(8)));
        node.device.propose(Term(term.0 + 1), commit(Term(9)));
        for other in cluster.nodes.values().filter(|n| n.id != node.id) {
            other.device.propose(term, commit(Term(10)));
        }
        cluster.run_for(300 * MS).await;
        cluster.nodes[&leader].device.propose(term, commit(term));
        cluster
            .until("the one of this term", |c| {
                !c.nodes[&leader].changes.is_empty()
            })
            .await;
        let changes: Vec<_> = cluster.nodes[&leader]
            .changes
            .iter()
            .map(|(_, _, change)| change)
            .collect();
        // One of another deciding term would be void by `OtherTerm`.
        assert_eq!(changes, [&Change::Void(VoidReason::NotLatest)]);
    });
}

#[test]
fn l3_l6_an_isolated_leader_gets_no_quorum_appends_nothing_and_knows_no_leader() {
    simulate(async {
        let mut cluster = Cluster::formed(5, 3).await;
        let old = cluster.leader().unwrap();
        let old_term = cluster.term(old);
        cluster.run_for(200 * MS).await;
        cluster.isolate(old);
        let cut_at = cluster.nodes[&old].environment.now();
        let device = cluster.nodes[&old].device.clone();
        let append = |text| device.append(None, Epoch(0), Bytes::from_static(text));
        let mut lost = Box::pin(append(b"lost"));
        // Its lease is still valid: the entry is in its log, and its fate is known only after the cut is healed.
        assert!(tokio::time::timeout(20 * MS, &mut lost).await.is_err());
        cluster
            .until("a successor", |c| c.leader().is_some_and(|n| n != old))
            .await;
        cluster.run_for(100 * MS).await;
        assert_eq!(append(b"late").await, Err(AppendError::NotLeader(None)));
        cluster.drain();
        let q = cluster.nodes[&old].quorum.unwrap();
        assert!(q.0 == old_term && q.1 <= cut_at, "{q:?} after {cut_at:?}");
        let view = &cluster.nodes[&old].leadership;
        assert_eq!((view.term, view.leader.as_ref()), (old_term, None));
        cluster.heal();
        assert_eq!(lost.await, Err(AppendError::Unknown));
        cluster
            .until("deposed", |c| !c.nodes[&old].leadership.is_leader)
            .await;
        let successor = cluster.leader().unwrap();
        let (index, _) = cluster.append(successor, "kept").await.unwrap();
        device.wait_applied(index).await.unwrap();
        assert_eq!(cluster.nodes[&old].journal.texts(), ["kept"]);
    });
}

#[test]
fn l3_a_deaf_leader_is_acknowledged_by_nobody() {
    simulate(async {
        let mut cluster = Cluster::formed(6, 3).await;
        let old = cluster.leader().unwrap();
        cluster.run_for(200 * MS).await;
        for other in (1..=3).filter(|&n| n != old) {
            cluster.cut_one_way(other, old);
        }
        let cut_at = cluster.nodes[&old].environment.now();
        // Its heartbeats still arrive; it must fall silent for the others to elect one (rule L6).
        cluster
            .until("a successor", |c| c.leader().is_some_and(|n| n != old))
            .await;
        assert!(cluster.nodes[&old].quorum.unwrap().1 <= cut_at);
    });
}

#[test]
fn l3_quorum_acks_come_with_every_heartbeat_and_name_when_it_was_sent() {
    simulate(async {
        let mut cluster = Cluster::formed(7, 3).await;
        let leader = cluster.leader().unwrap();
        let timing = Timing::lan();
        let mut oldest = Duration::ZERO;
        for _ in 0..400 {
            cluster.run_for(MS).await;
            let now = cluster.nodes[&leader].environment.now();
            oldest = oldest.max(now.since(cluster.nodes[&leader].quorum.unwrap().1));
        }
        // Heartbeat, the tick that it waits for, there and back.
        let bound = timing.heartbeat + timing.heartbeat * 13 / 64 * 2 + 4 * MS;
        assert!(oldest <= bound, "{oldest:?}");
        assert!(
            oldest >= 2 * MS,
            "it takes 1.4 ms there and back: {oldest:?} is when the answer came"
        );
    });
}

#[test]
fn l3_q_is_never_later_than_an_append_that_was_answered() {
    simulate(async {
        let mut cluster = Cluster::formed(21, 3).await;
        let leader = cluster.leader().unwrap();
        cluster.jitter(12 * MS);
        let mut appends = Vec::new();
        let mut seen = 0;
        for step in 0..2_000 {
            let device = cluster.nodes[&leader].device.clone();
            appends.push(tokio::spawn(async move {
                device.append(None, Epoch(0), Bytes::new()).await
            }));
            tokio::time::sleep(MS).await;
            let before = cluster.nodes[&leader].quorum;
            cluster.drain();
            let q = cluster.nodes[&leader].quorum;
            if q != before {
                // With the leader itself, one of the two others is a quorum.
                let answered = cluster.hub.answered.lock().unwrap();
                let from = |(pair, _): &(&(_, _), _)| pair.0 == name(leader);
                let newest = answered
                    .iter()
                    .filter(from)
                    .map(|(_, at)| *at)
                    .max()
                    .unwrap();
                assert!(q.unwrap().1 <= newest, "step {step}: {q:?}, but {newest:?}");
                seen += 1;
            }
        }
        assert!(seen > 100, "{seen}");
        for append in appends {
            append.await.unwrap().unwrap();
        }
    });
}

#[test]
fn an_isolated_follower_knows_no_leader_and_disturbs_nobody_when_it_comes_back() {
    simulate(async {
        let mut cluster = Cluster::formed(22, 3).await;
        let leader = cluster.leader().unwrap();
        let follower = leader % 3 + 1;
        let term = cluster.term(leader);
        cluster
            .until("it knows", |c| {
                c.nodes[&follower].leadership.leader.is_some()
            })
            .await;
        cluster.isolate(follower);
        cluster
            .until("it knows nobody", |c| {
                c.nodes[&follower].leadership.leader.is_none()
            })
            .await;
        cluster.run_for(2_000 * MS).await;
        let (index, _) = cluster.append(leader, "meanwhile").await.unwrap();
        cluster.heal();
        let begun = tokio::time::Instant::now();
        cluster.nodes[&follower]
            .device
            .wait_applied(index)
            .await
            .unwrap();
        assert!(
            begun.elapsed() < 400 * MS,
            "it caught up after {:?}",
            begun.elapsed()
        );
        cluster.run_for(1_000 * MS).await;
        assert_eq!(cluster.leader(), Some(leader));
        assert_eq!(
            (cluster.term(leader), cluster.term(follower)),
            (term, term),
            "pre-vote"
        );
    });
}

#[test]
fn a_hand_over_to_a_node_that_dies_ends_in_another_election() {
    simulate(async {
        let mut cluster = Cluster::formed(23, 3).await;
        let leader = cluster.leader().unwrap();
        let (to, third) = (leader % 3 + 1, (leader + 1) % 3 + 1);
        cluster.run_for(100 * MS).await;
        // The third lacks an entry that is committed: only the old leader can give it to it.
        cluster.isolate(third);
        cluster.append(leader, "a").await.unwrap();
        cluster.heal();
        let id = cluster.nodes[&to].id.clone();
        cluster.nodes[&leader].device.transfer_leadership(id);
        cluster.isolate(to);
        let old_term = cluster.term(leader);
        cluster
            .until("another leader", |c| {
                c.leader().is_some_and(|n| n != to && c.term(n) > old_term)
            })
            .await;
        let next = cluster.leader().unwrap();
        cluster.append(next, "b").await.unwrap();
        assert_eq!(cluster.nodes[&next].journal.texts(), ["a", "b"]);
    });
}

#[test]
fn a_snapshot_transfer_that_breaks_off_begins_again() {
    simulate(async {
        let mut cluster = Cluster::new(24);
        cluster.snapshot_every = 20;
        cluster.start(1).await;
        cluster.initialise(1..=1);
        cluster.until("a leader", |c| c.leader().is_some()).await;
        let large = "x".repeat(200_000);
        for _ in 0..50 {
            cluster.append(1, &large).await.unwrap();
        }
        cluster.start(2).await;
        cluster.run_for(100 * MS).await;
        let chunks = |c: &Cluster| {
            let trace = c.hub.trace.lock().unwrap();
            trace
                .iter()
                .filter(|(_, _, _, bytes)| *bytes > 1 << 20)
                .count()
        };
        let change = MemberChange {
            voters: cluster.voters(&[1]),
            members: cluster.members(&[1, 2]),
        };
        cluster.nodes[&1].device.change_members(change);
        cluster.until("three chunks", |c| chunks(c) == 3).await;
        cluster.isolate(2);
        cluster.run_for(500 * MS).await;
        cluster.heal();
        let (index, _) = cluster.append(1, "last").await.unwrap();
        cluster.nodes[&2].device.wait_applied(index).await.unwrap();
        assert_eq!(
            cluster.nodes[&2].journal.texts(),
            cluster.nodes[&1].journal.texts()
        );
    });
}

#[test]
fn an_application_that_panics_stops_the_node() {
    struct Broken;
    impl ReplicatedState for Broken {
        fn apply(&mut self, _: crate::state::Applied<'_>) -> Bytes {
            panic!("a bug of the application");
        }
        fn snapshot(&self) -> Bytes {
            Bytes::new()
        }
        fn restore(&mut self, _: Bytes) -> Result<(), crate::state::RestoreError> {
            Ok(())
        }
    }
    simulate(async {
        let mut cluster = Cluster::new(25);
        cluster.start_with(1, Box::new(Broken)).await;
        cluster.initialise(1..=1);
        cluster.until("a leader", |c| c.leader().is_some()).await;
        let lost = cluster.append(1, "a").await;
        assert_eq!(lost, Err(AppendError::Unknown));
        let mut failure = cluster.nodes[&1].device.failure();
        let reason = failure
            .wait_for(Option::is_some)
            .await
            .unwrap()
            .clone()
            .unwrap();
        assert!(reason.contains("the application panicked"), "{reason}");
    });
}

#[test]
fn l3_a_sole_voter_acknowledges_itself_until_it_stops() {
    simulate(async {
        let mut cluster = Cluster::formed(8, 1).await;
        cluster.run_for(500 * MS).await;
        let node = &cluster.nodes[&1];
        let age = node.environment.now().since(node.quorum.unwrap().1);
        assert!(age <= 30 * MS, "{age:?}");
        cluster.append(1, "a").await.unwrap();
    });
}

#[test]
fn leadership_is_handed_to_the_node_that_is_named() {
    simulate(async {
        let mut cluster = Cluster::formed(9, 3).await;
        let from = cluster.leader().unwrap();
        let to = from % 3 + 1;
        let term = cluster.term(from);
        let stranger = RaftId {
            node: name(9),
            store: StoreId(9),
        };
        cluster.nodes[&from].device.transfer_leadership(stranger);
        cluster.run_for(300 * MS).await;
        assert_eq!(cluster.leader(), Some(from), "handed to nobody");
        let begun = tokio::time::Instant::now();
        let id = cluster.nodes[&to].id.clone();
        cluster.nodes[&from].device.transfer_leadership(id);
        cluster
            .until("handed over", |c| c.nodes[&to].leadership.is_leader)
            .await;
        assert!(begun.elapsed() < 40 * MS, "{:?}", begun.elapsed());
        assert_eq!(cluster.term(to), Term(term.0 + 1));
        cluster.append(to, "after").await.unwrap();
    });
}

#[test]
fn the_configuration_grows_by_joint_changes_and_learners_do_not_vote() {
    simulate(async {
        let mut cluster = Cluster::formed(10, 1).await;
        for n in 2..=6 {
            cluster.start(n).await;
        }
        cluster
            .change(cluster.voters(&[1, 2, 3]), cluster.members(&[1, 2, 3]))
            .await;
        cluster
            .change(
                cluster.voters(&[1, 2, 3, 4, 5]),
                cluster.members(&[1, 2, 3, 4, 5, 6]),
            )
            .await;
        let (index, _) = cluster.append(1, "a").await.unwrap();
        for node in cluster.nodes.values() {
            node.device.wait_applied(index).await.unwrap();
        }
        cluster.run_for(100 * MS).await;
        let members = &cluster.nodes[&6].members;
        assert_eq!(members.voters, [cluster.voters(&[1, 2, 3, 4, 5])]);
        assert_eq!(members.members, cluster.members(&[1, 2, 3, 4, 5, 6]));
        let matched = &cluster.nodes[&1].members.matched;
        assert_eq!(
            matched.get(&cluster.nodes[&6].id),
            Some(&cluster.nodes[&1].members.last_index)
        );
        // Two voters and a learner are no quorum of five.
        for cut in [3, 4, 5] {
            cluster.isolate(cut);
        }
        cluster.run_for(100 * MS).await;
        let q = cluster.nodes[&1].quorum;
        cluster.run_for(300 * MS).await;
        assert_eq!(cluster.nodes[&1].quorum, q);
    });
}

#[test]
fn m0_a_store_is_swapped_in_one_change_and_voters_can_become_learners() {
    simulate(async {
        let mut cluster = Cluster::formed(11, 3).await;
        let leader = cluster.leader().unwrap();
        let lost = leader % 3 + 1;
        let demoted = lost % 3 + 1;
        let old = cluster.nodes[&lost].id.clone();
        cluster.stop(lost).await;
        cluster
            .start_on(lost, StoreId(100), Stores::in_memory(), 2)
            .await;
        cluster
            .change(cluster.voters(&[1, 2, 3]), cluster.members(&[1, 2, 3]))
            .await;
        let members = cluster.nodes[&leader].members.clone();
        assert_eq!(
            (members.voters.as_slice(), members.members.len()),
            ([cluster.voters(&[1, 2, 3])].as_slice(), 3)
        );
        assert!(!members.members.contains_key(&old));
        // One voter goes, one becomes a learner, one is new.
        cluster.start(4).await;
        cluster.stop(lost).await;
        cluster
            .change(
                cluster.voters(&[leader, 4]),
                cluster.members(&[leader, demoted, 4]),
            )
            .await;
        let members = cluster.nodes[&leader].members.clone();
        assert_eq!(members.voters, [cluster.voters(&[leader, 4])]);
        assert_eq!(members.members, cluster.members(&[leader, demoted, 4]));
        let (index, _) = cluster.append(leader, "a").await.unwrap();
        cluster.nodes[&demoted]
            .device
            .wait_applied(index)
            .await
            .unwrap();
    });
}

#[test]
fn an_address_is_changed_and_used() {
    simulate(async {
        let mut cluster = Cluster::formed(12, 3).await;
        let leader = cluster.leader().unwrap();
        let moved = leader % 3 + 1;
        let id = cluster.nodes[&moved].id.clone();
        cluster.hub.move_to(moved, addr(40));
        let mut members = cluster.members(&[1, 2, 3]);
        members.insert(id.clone(), addr(40));
        cluster.change(cluster.voters(&[1, 2, 3]), members).await;
        let (index, _) = cluster.append(leader, "a").await.unwrap();
        cluster.nodes[&moved]
            .device
            .wait_applied(index)
            .await
            .unwrap();
        cluster.run_for(100 * MS).await;
        assert_eq!(cluster.nodes[&moved].members.members[&id], addr(40));
    });
}

#[test]
fn a_joint_configuration_whose_leader_fell_is_finished_by_the_next() {
    simulate(async {
        let mut cluster = Cluster::formed(13, 3).await;
        let old = cluster.leader().unwrap();
        cluster.start(4).await;
        // Only the new voter does not answer: the joint entry commits, the second one cannot.
        let change = MemberChange {
            voters: cluster.voters(&[old, 4]),
            members: cluster.members(&[old, 4]),
        };
        let joint = |c: &Cluster, n: u64| c.nodes[&n].members.voters.len() == 2;
        cluster.nodes[&old].device.change_members(change);
        cluster.until("joint", |c| joint(c, old)).await;
        let survivors: Vec<u64> = (1..=3).filter(|&n| n != old).collect();
        cluster
            .until("joint everywhere", |c| {
                joint(c, 4) && survivors.iter().all(|&n| joint(c, n))
            })
            .await;
        let other = cluster.nodes[&4].id.clone();
        cluster.nodes[&old].device.transfer_leadership(other);
        cluster
            .until("uniform", |c| {
                c.nodes.values().all(|n| n.members.voters.len() == 1)
            })
            .await;
        assert_eq!(
            cluster.nodes[&old].members.voters,
            [cluster.voters(&[old, 4])]
        );
    });
}

#[test]
fn p3_a_late_joiner_gets_a_snapshot_with_the_pending_proposal_and_the_applications_state() {
    simulate(async {
        let mut cluster = Cluster::new(14);
        cluster.snapshot_every = 20;
        for n in 1..=3 {
            cluster.start(n).await;
        }
        cluster.initialise(1..=3);
        cluster.until("a leader", |c| c.leader().is_some()).await;
        let leader = cluster.leader().unwrap();
        let term = cluster.term(leader);
        cluster.nodes[&leader]
            .device
            .propose(term, proposal(&cluster, &[1, 2, 3]));
        let large = "x".repeat(100_000);
        for n in 0..50 {
            cluster
                .append(leader, &format!("{n} {large}"))
                .await
                .unwrap();
        }
        cluster.run_for(100 * MS).await;
        cluster.start(4).await;
        let members = cluster.members(&[1, 2, 3, 4]);
        cluster.change(cluster.voters(&[1, 2, 3]), members).await;
        let (index, _) = cluster.append(leader, "last").await.unwrap();
        cluster.nodes[&4].device.wait_applied(index).await.unwrap();
        cluster.drain();
        let joiner = &cluster.nodes[&4];
        assert_eq!(joiner.installed.len(), 1, "it came by snapshot");
        let Change::Proposed { pending, .. } = &cluster.nodes[&leader].changes[0].2 else {
            panic!("{:?}", cluster.nodes[&leader].changes);
        };
        assert_eq!(joiner.installed[0].pending.as_ref(), Some(pending));
        assert_eq!(
            joiner.journal.texts(),
            cluster.nodes[&leader].journal.texts()
        );
        assert_eq!(joiner.journal.texts().len(), 51);
        assert_eq!(joiner.only_own, Some(false));
        // What was restored is what the log goes on from.
        let map = pending.map.index();
        cluster.nodes[&leader]
            .device
            .propose(term, LogMessage::ShardMapCommitted { map, term });
        cluster
            .until("the commit", |c| !c.nodes[&4].changes.is_empty())
            .await;
        let (_, _, change) = &cluster.nodes[&4].changes[0];
        assert!(
            matches!(change, Change::Committed { map: made } if made.index() == map),
            "{change:?}"
        );
    });
}

#[test]
fn a_log_of_large_entries_is_kept_small_and_still_reaches_a_late_joiner() {
    simulate(async {
        let mut cluster = Cluster::formed(26, 1).await;
        cluster.start(2).await;
        let large = "x".repeat(MAX_APP_ENTRY_BYTES);
        let mut most = 0;
        for _ in 0..100 {
            cluster.append(1, &large).await.unwrap();
            cluster.nodes[&1].journal.0.lock().unwrap().clear();
            cluster.run_for(20 * MS).await;
            most = most.max(cluster.nodes[&1].stores.log_bytes());
        }
        assert!(most < compact::MAX_LOG_BYTES + (20 << 20), "{most} bytes");
        cluster
            .change(cluster.voters(&[1]), cluster.members(&[1, 2]))
            .await;
        let (index, _) = cluster.append(1, "last").await.unwrap();
        cluster.nodes[&2].device.wait_applied(index).await.unwrap();
        assert!(cluster.nodes[&2].stores.log_bytes() < compact::MAX_LOG_BYTES);
    });
}

#[test]
fn i9_nodes_that_stop_come_back_with_what_they_kept() {
    simulate(async {
        let mut cluster = Cluster::new(15);
        cluster.snapshot_every = 10;
        for n in 1..=3 {
            cluster.start(n).await;
        }
        cluster.initialise(1..=3);
        cluster.until("a leader", |c| c.leader().is_some()).await;
        let leader = cluster.leader().unwrap();
        let term = cluster.term(leader);
        cluster.nodes[&leader]
            .device
            .propose(term, proposal(&cluster, &[1, 2]));
        for n in 0..25 {
            cluster.append(leader, &n.to_string()).await.unwrap();
        }
        let expected = cluster.nodes[&leader].journal.texts();
        for n in 1..=3 {
            let stores = cluster.stop(n).await;
            cluster.start_on(n, StoreId(n), stores, 2).await;
        }
        cluster
            .until("a leader again", |c| c.leader().is_some())
            .await;
        let again = cluster.leader().unwrap();
        assert!(
            cluster.term(again) > term,
            "leadership is not restored without a vote"
        );
        let (index, _) = cluster.append(again, "after").await.unwrap();
        for node in cluster.nodes.values() {
            node.device.wait_applied(index).await.unwrap();
            let texts = node.journal.texts();
            assert_eq!(texts[..25], expected);
            assert_eq!(texts[25], "after");
        }
        cluster.drain();
        for node in cluster.nodes.values() {
            let pending = node
                .installed
                .iter()
                .any(|replicated| replicated.pending.is_some());
            assert!(pending, "the proposal is in the snapshot of {}", node.id);
            assert_eq!(node.only_own, Some(false));
        }
    });
}

#[test]
fn only_the_own_initialisation_can_be_abandoned() {
    simulate(async {
        let mut cluster = Cluster::new(16);
        for n in 1..=3 {
            cluster.start(n).await;
        }
        cluster.isolate(1);
        cluster.initialise(1..=3);
        cluster
            .until("initialised", |c| c.nodes[&1].only_own == Some(true))
            .await;
        cluster.run_for(500 * MS).await;
        assert_eq!(cluster.nodes[&1].only_own, Some(true));
        assert_eq!(cluster.nodes[&2].only_own, None);
        let stores = cluster.stop(1).await;
        cluster.start_on(1, StoreId(1), stores, 2).await;
        cluster
            .until("known again", |c| c.nodes[&1].only_own == Some(true))
            .await;
        cluster.heal();
        cluster
            .until("a cluster", |c| {
                c.nodes.values().all(|n| n.only_own == Some(false))
            })
            .await;
    });
}

fn request(cluster: &Cluster, from: u64, to: u64) -> Request {
    let vote = openraft::alias::VoteOf::<TypeConfig>::new(99, cluster.nodes[&from].id.clone());
    Request {
        cluster: CLUSTER,
        from: cluster.nodes[&from].id.clone(),
        to: cluster.nodes[&to].id.clone(),
        call: Call::Vote(openraft::raft::VoteRequest::new(vote, None)),
    }
}

fn peer(n: u64) -> Peer {
    Peer {
        instance: Instance {
            node: name(n),
            boot: BootId(1),
        },
        addr: addr(n),
    }
}

#[test]
fn requests_that_are_not_for_this_member_are_refused() {
    simulate(async {
        let mut cluster = Cluster::formed(17, 3).await;
        cluster.run_for(100 * MS).await;
        let good = request(&cluster, 2, 1);
        let ask = async |request: &Request| {
            let reply = cluster.nodes[&1]
                .device
                .handle_rpc(&peer(2), request.encode())
                .await;
            Reply::decode(&reply).unwrap()
        };
        assert!(matches!(ask(&good).await, Reply::Vote(response) if !response.vote_granted));
        let mut other = good.clone();
        other.cluster = ClusterId(78);
        assert_eq!(ask(&other).await, Reply::Refused(Refusal::OtherCluster));
        let mut other = good.clone();
        other.to.store = StoreId(50);
        assert_eq!(ask(&other).await, Reply::Refused(Refusal::OtherStore));
        let mut other = good.clone();
        other.from.node = name(3);
        assert_eq!(ask(&other).await, Reply::Refused(Refusal::OtherSender));
        let mut other = good.clone();
        other.from.store = StoreId(51);
        assert_eq!(
            ask(&other).await,
            Reply::Refused(Refusal::Malformed),
            "a vote for another"
        );
        let device = &cluster.nodes[&1].device;
        device.accept(ClusterId(78));
        assert!(
            matches!(ask(&good).await, Reply::Vote(_)),
            "the log decides, once it holds entries"
        );
        for garbage in [
            &b""[..],
            b"\x01",
            b"\x02\x00",
            &[0xff; 64],
            &[1; 64],
            &[1, 0xff, 0xff, 0xff, 0xff, 0x7f],
        ] {
            let reply = device
                .handle_rpc(&peer(2), Bytes::copy_from_slice(garbage))
                .await;
            assert!(
                matches!(Reply::decode(&reply), Ok(Reply::Refused(_))),
                "{garbage:?}"
            );
        }
    });
}

#[test]
fn an_entry_of_a_newer_release_stops_the_node_with_a_message() {
    simulate(async {
        let mut cluster = Cluster::formed(18, 3).await;
        let leader = cluster.leader().unwrap();
        cluster.append(leader, "a").await.unwrap();
        let raft = cluster.nodes[&leader].device.0.raft.clone();
        raft.write(types::Entry::raw(&[200, 0])).await.unwrap();
        let device = cluster.nodes[&leader].device.clone();
        let mut failure = device.failure();
        let reason = failure
            .wait_for(Option::is_some)
            .await
            .unwrap()
            .clone()
            .unwrap();
        assert!(reason.contains("upgrade this node"), "{reason}");
        assert_eq!(cluster.nodes[&leader].journal.texts(), ["a"]);
        assert_eq!(cluster.append(leader, "b").await, Err(AppendError::Stopped));
        assert_eq!(device.wait_applied(LogIndex(99)).await, Err(Stopped));
    });
}

#[test]
fn a_seed_repeats_its_elections_to_the_message() {
    let run = |seed| {
        simulate(async move {
            let mut cluster = Cluster::formed(seed, 5).await;
            for _ in 0..3 {
                let leader = cluster.leader().unwrap();
                cluster.isolate(leader);
                cluster
                    .until("a successor", |c| c.leader().is_some_and(|n| n != leader))
                    .await;
                cluster.heal();
                cluster.run_for(200 * MS).await;
            }
            let trace = cluster.hub.trace.lock().unwrap().clone();
            trace
        })
    };
    let first = run(19);
    assert!(first.len() > 100);
    assert_eq!(first, run(19));
    assert_ne!(first, run(20));
}

struct Fresh;

impl StoreBuilder<TypeConfig, Stores, StateMachine> for Fresh {
    async fn build(
        &self,
    ) -> Result<((), Stores, StateMachine), openraft::StorageError<TypeConfig>> {
        let stores = Stores::in_memory();
        let (facts, _) = mpsc::unbounded_channel();
        let applied = Arc::new(watch::Sender::new(0));
        Ok((
            (),
            stores.clone(),
            StateMachine::new(Box::new(NoState), stores, facts, applied),
        ))
    }
}

#[test]
fn openrafts_suite_for_stores() {
    simulate(async {
        let environment = Environment::simulated(1, 1.0, Duration::ZERO);
        environment.scope(Suite::test_all(Fresh)).await.unwrap();
    });
}
