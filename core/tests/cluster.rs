//! Whole nodes on the in-memory network: forming, calling, failing, leaving.
#![allow(
    clippy::disallowed_methods,
    reason = "a test outside the nodes, under a stepped clock"
)]

mod common;

use std::time::Duration;

use common::{PATIENCE, World, add, get, simulate};
use funk::{Cluster, Event, NodeState, Notice, Storage};

#[test]
fn one_node_alone_is_a_cluster() {
    simulate(async {
        let mut world = World::new(1);
        world.seeds.clear();
        world
            .start_with(1, Storage::memory(), |builder| builder.bootstrap_expect(1))
            .await;
        world.settled().await;
        let cluster = &world.node(1).cluster;
        assert_eq!(cluster.call(add("a")).await.unwrap().body, "1");
        assert_eq!(cluster.call(get("a")).await.unwrap().body, "1");
    });
}

#[test]
fn three_nodes_form_a_cluster_and_every_node_reaches_every_shard() {
    simulate(async {
        let mut world = World::new(2);
        for n in 1..=3 {
            world.start(n).await;
        }
        world.settled().await;
        for key in 0..50 {
            let key = format!("key-{key}");
            for (at, node) in world.nodes.values().enumerate() {
                let answer = node.cluster.call(add(&key)).await.unwrap();
                assert_eq!(answer.body, (at + 1).to_string());
            }
        }
        let counts = world.node(1).cluster.shard_map().counts();
        assert_eq!(counts.iter().sum::<usize>(), 64);
        assert!(
            counts.iter().all(|&count| count == 21 || count == 22),
            "{counts:?}"
        );
    });
}

#[test]
fn a_dead_node_gives_its_shards_up_and_what_was_acknowledged_stays() {
    simulate(async {
        let mut world = World::new(3);
        for n in 1..=5 {
            world.start(n).await;
        }
        world.settled().await;
        let caller = world.leader();
        for key in 0..40 {
            world.nodes[&caller]
                .cluster
                .call(add(&format!("key-{key}")))
                .await
                .unwrap();
        }
        let victim = world.followers()[0].clone();
        world.kill(&victim).await;
        for key in 0..40 {
            let answer = world.nodes[&caller]
                .cluster
                .call(get(&format!("key-{key}")))
                .await
                .unwrap();
            assert_eq!(answer.body, "1");
        }
        world.settled().await;
    });
}

#[test]
fn the_leader_dies_and_another_takes_over() {
    simulate(async {
        let mut world = World::new(4);
        for n in 1..=5 {
            world.start(n).await;
        }
        world.settled().await;
        let leader = world.leader();
        let before = world.nodes[&leader].cluster.term();
        world.kill(&leader).await;
        let caller = world.nodes.keys().next().unwrap().clone();
        for key in 0..40 {
            world.nodes[&caller]
                .cluster
                .call(add(&format!("key-{key}")))
                .await
                .unwrap();
        }
        world.settled().await;
        assert!(world.nodes[&caller].cluster.term() > before);
        assert_ne!(world.leader(), leader);
    });
}

#[test]
fn m5_a_node_that_leaves_is_drained_first() {
    simulate(async {
        let mut world = World::new(5);
        for n in 1..=4 {
            world.start(n).await;
        }
        world.settled().await;
        for name in [world.followers()[0].clone(), world.leader()] {
            let node = world.nodes.remove(&name).unwrap();
            let mut events = world.nodes.values().next().unwrap().cluster.events();
            tokio::time::timeout(PATIENCE, node.cluster.leave())
                .await
                .expect("it leaves");
            assert_eq!(node.cluster.state(), NodeState::Invalid);
            loop {
                match events.next().await.unwrap() {
                    Notice::Event(Event::NodeLeft(left)) => {
                        break assert_eq!(left.node.as_str(), name);
                    }
                    Notice::Event(Event::NodeFailed(failed)) => panic!("{failed} counts as failed"),
                    _ => {}
                }
            }
            world.settled().await;
        }
    });
}

#[test]
fn a_killed_node_comes_back_with_its_store_or_with_none() {
    simulate(async {
        let mut world = World::new(6);
        for n in 1..=3 {
            world.start(n).await;
        }
        world.settled().await;
        for kept in [true, false] {
            let victim = world.followers()[1].clone();
            let storage = world.kill(&victim).await;
            let caller = world.leader();
            world.nodes[&caller].cluster.call(add("a")).await.unwrap();
            let storage = if kept { storage } else { Storage::memory() };
            world
                .start_with(victim[1..].parse().unwrap(), storage, |b| b)
                .await;
            world.settled().await;
            let expected = world.nodes[&caller].counters.value(b"a");
            assert_eq!(world.nodes[&victim].counters.value(b"a"), expected);
        }
    });
}

#[test]
fn stepping_down_moves_the_leadership_and_no_shard() {
    simulate(async {
        let mut world = World::new(7);
        for n in 1..=3 {
            world.start(n).await;
        }
        world.settled().await;
        let leader = world.leader();
        let map = world.node(1).cluster.shard_map();
        world.nodes[&leader].cluster.step_down();
        let other: &Cluster = &world.nodes[&world.followers()[0]].cluster;
        while other.leader().is_none_or(|now| now.as_str() == leader) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        world.settled().await;
        assert_eq!(world.node(1).cluster.shard_map().index(), map.index());
    });
}

#[test]
fn non_voters_own_shards_and_non_members_only_call() {
    simulate(async {
        let mut world = World::new(8);
        for n in 1..=3 {
            world.start(n).await;
        }
        world
            .start_with(4, Storage::memory(), funk::Builder::non_voter)
            .await;
        world
            .start_with(5, Storage::memory(), funk::Builder::non_member)
            .await;
        world.settled().await;
        assert_eq!(world.node(4).cluster.role(), funk::Role::NonVoter);
        assert_eq!(world.node(5).cluster.role(), funk::Role::NonMember);
        for key in 0..20 {
            let answer = world
                .node(5)
                .cluster
                .call(add(&format!("key-{key}")))
                .await
                .unwrap();
            assert_eq!(answer.body, "1");
        }
        let owned = world.node(5).cluster.shard_map();
        assert_eq!(owned.members().len(), 4);
    });
}

#[test]
fn tags_reach_everybody_and_late_joiners_too() {
    simulate(async {
        let mut world = World::new(9);
        for n in 1..=3 {
            world.start(n).await;
        }
        world
            .node(1)
            .cluster
            .set_endpoint("http", "10.0.0.1:80")
            .await
            .unwrap();
        world.settled().await;
        world.start(4).await;
        world.settled().await;
        let name = world.node(1).cluster.node_id().clone();
        for n in 2..=4 {
            while world.node(n).cluster.endpoint(&name, "http").as_deref() != Some("10.0.0.1:80") {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        assert!(
            world
                .node(1)
                .cluster
                .set_tag("x", Some(&"v".repeat(2_000)))
                .await
                .is_err()
        );
    });
}
