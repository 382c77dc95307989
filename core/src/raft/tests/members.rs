//! Changes of the configuration (rules M0, M1).

use super::*;

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
