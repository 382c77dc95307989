//! However nodes are started, one cluster forms; and two that exist never become one.
#![allow(
    clippy::disallowed_methods,
    reason = "a test outside the nodes, under a stepped clock"
)]

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::{PATIENCE, World, add, simulate};
use funk::{Cluster, Event, Notice, StartError, Storage, Timing};

/// Starts `count` nodes, each after the pause that `pause` gives, and waits for one cluster of all of them.
async fn start_all(seed: u64, count: u16, expect: u16, pause: impl Fn(u16) -> Duration) -> World {
    let mut world = World::new(seed);
    for n in 1..=count {
        world
            .start_with(n, Storage::memory(), |b| b.bootstrap_expect(expect))
            .await;
        tokio::time::sleep(pause(n)).await;
    }
    world.settled().await;
    let ids: BTreeSet<_> = world
        .nodes
        .values()
        .map(|node| node.cluster.cluster_id())
        .collect();
    assert_eq!(ids.len(), 1, "one cluster: {ids:?}");
    world
}

#[test]
fn nodes_started_at_the_same_moment_form_one_cluster() {
    for count in [3, 5, 9] {
        for seed in 0..10 {
            simulate(async {
                let world = start_all(seed, count, count, |_| Duration::ZERO).await;
                let cluster = &world.node(count).cluster;
                cluster.call(add("a")).await.expect("it serves");
            });
        }
    }
}

#[test]
fn fewer_may_be_expected_than_are_started() {
    for seed in 0..5 {
        simulate(async {
            start_all(seed, 9, 5, |_| Duration::ZERO).await;
        });
        simulate(async {
            start_all(seed, 5, 3, |n| {
                Duration::from_millis(u64::from(n) * 137 * (seed + 1))
            })
            .await;
        });
    }
}

#[test]
fn two_nodes_that_may_start_alone_become_one_cluster_if_they_know_each_other() {
    for seed in 0..10 {
        simulate(async {
            start_all(seed, 2, 1, |_| Duration::from_millis(seed * 50)).await;
        });
    }
}

#[test]
fn an_existing_cluster_is_joined_and_keeps_its_number_of_shards() {
    simulate(async {
        let mut world = start_all(1, 3, 3, |_| Duration::ZERO).await;
        world
            .start_with(4, Storage::memory(), |b| b.bootstrap_expect(1).shards(7))
            .await;
        world.settled().await;
        assert_eq!(world.node(4).cluster.shard_map().shards(), 64);
        assert_eq!(
            world.node(4).cluster.cluster_id(),
            world.node(1).cluster.cluster_id()
        );
    });
}

#[test]
fn two_clusters_of_one_name_refuse_each_other_loudly() {
    simulate(async {
        let mut world = World::new(1);
        let seeds = std::mem::take(&mut world.seeds);
        for n in 1..=2 {
            world
                .start_with(n, Storage::memory(), |b| b.bootstrap_expect(1))
                .await;
            let cluster = &world.node(n).cluster;
            assert!(cluster.operational(PATIENCE).await);
            cluster.call(add("a")).await.unwrap();
        }
        let ids = [1, 2].map(|n| world.node(n).cluster.cluster_id().unwrap());
        assert_ne!(ids[0], ids[1]);
        // Node 1 comes back with its log, and this time with a seed of the other cluster.
        let storage = world.kill("n1").await;
        world
            .start_with(1, storage, |b| b.bootstrap_expect(1).seeds(seeds))
            .await;
        let mut events = world.node(1).cluster.events();
        let refused = async {
            loop {
                match events.next().await.expect("it runs") {
                    Notice::Event(Event::ForeignClusterRefused(node)) => return node,
                    _ => continue,
                }
            }
        };
        let refused = tokio::time::timeout(PATIENCE, refused)
            .await
            .expect("it is told");
        assert_eq!(refused.as_str(), "n2");
        for n in [1, 2] {
            let cluster = &world.node(n).cluster;
            assert!(
                cluster.operational(PATIENCE).await,
                "{}",
                common::describe(world.node(n))
            );
            assert_eq!(cluster.shard_map().members().len(), 1, "they do not mix");
            assert_eq!(cluster.cluster_id(), Some(ids[usize::from(n) - 1]));
            cluster.call(add("a")).await.expect("both go on");
        }
    });
}

#[test]
fn the_initiator_dies_while_the_cluster_forms() {
    for pause in [5, 50, 150, 250, 400] {
        simulate(async {
            let mut world = World::new(pause);
            for n in 1..=4 {
                world.start(n).await;
            }
            tokio::time::sleep(Duration::from_millis(pause)).await;
            world.kill("n1").await;
            world.settled().await;
            world.start(1).await;
            world.settled().await;
        });
    }
}

#[test]
fn everything_wrong_with_a_description_is_said_at_once() {
    simulate(async {
        let timing = Timing {
            lease: Duration::from_millis(100),
            ..Timing::lan()
        };
        let start = Cluster::builder("Not A Name", "")
            .shards(0)
            .voters(4)
            .capacity(0)
            .max_moves(0)
            .timing(timing)
            .tag(&"t".repeat(200), "x")
            .start();
        let Err(StartError::Config(errors)) = start.await else {
            panic!("it must not start");
        };
        let keys: Vec<_> = errors.iter().map(|error| error.key).collect();
        assert_eq!(
            keys,
            [
                "cluster",
                "node",
                "transport",
                "shards",
                "voters",
                "capacity",
                "max_moves",
                "lease",
                "lease",
                "tag"
            ]
        );
        assert!(
            errors[0].to_string().contains("Not A Name"),
            "{}",
            errors[0]
        );
    });
}
