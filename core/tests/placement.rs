//! Capacities, weights and budgets, with whole nodes.
#![allow(
    clippy::disallowed_methods,
    reason = "a test outside the nodes, under a stepped clock"
)]

mod common;

use std::time::Duration;

use common::{PATIENCE, World, simulate};
use funk::engine::placement::{Balance, Candidate};
use funk::limits::MAX_WEIGHT;
use funk::{Cluster, Notice, ShardId, Storage, WeightsError};

/// Three nodes with these capacities.
async fn three(seed: u64, capacities: [u32; 3]) -> World {
    let mut world = World::new(seed);
    for (n, capacity) in (1..).zip(capacities) {
        world
            .start_with(n, Storage::memory(), |builder| builder.capacity(capacity))
            .await;
    }
    world.settled().await;
    world
}

/// How many shards each node has, by name.
fn counts(cluster: &Cluster) -> Vec<usize> {
    cluster.shard_map().counts()
}

fn balance(cluster: &Cluster) -> Balance {
    let map = cluster.shard_map();
    let candidate = |member: &funk::engine::shard_map::MapMember| Candidate {
        instance: member.instance.clone(),
        capacity: member.capacity,
    };
    let nodes: Vec<Candidate> = map.members().iter().map(candidate).collect();
    Balance::of(&map, &nodes)
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "{what}");
}

#[test]
fn another_capacity_at_a_restart_moves_the_shares() {
    simulate(async {
        let mut world = three(1, [1, 2, 1]).await;
        let cluster = world.node(1).cluster.clone();
        until("balanced", || counts(&cluster) == [16, 32, 16]).await;
        let said: Vec<u32> = cluster.members().iter().map(|m| m.capacity).collect();
        assert_eq!(said, [1, 2, 1]);
        let shown: Vec<u32> = cluster
            .status()
            .members
            .iter()
            .map(|m| m.capacity)
            .collect();
        assert_eq!(shown, [1, 2, 1]);
        let storage = world.kill("n3").await;
        world
            .start_with(3, storage, |builder| builder.capacity(5))
            .await;
        until("balanced again", || counts(&cluster) == [8, 16, 40]).await;
        world.settled().await;
    });
}

#[test]
fn weights_are_set_from_any_node_and_outlive_the_leader() {
    simulate(async {
        let mut world = three(2, [1, 1, 1]).await;
        let weights: Vec<u32> = (0..64)
            .map(|shard| if shard < 21 { 9 } else { 1 })
            .collect();
        for (at, name) in [world.followers()[0].clone(), world.leader()]
            .iter()
            .enumerate()
        {
            let cluster = &world.nodes[name].cluster;
            let mut weights = weights.clone();
            weights[0] += at as u32;
            cluster.set_weights(&weights).await.unwrap();
            let map = cluster.shard_map();
            assert_eq!(map.weights().map(|weights| weights.to_vec()), Some(weights));
            assert!(balance(cluster).holds(), "{:?}", balance(cluster));
        }
        world.settled().await;
        let leader = world.leader();
        let storage = world.kill(&leader).await;
        let n = leader[1..].parse().unwrap();
        world.start_with(n, storage, |builder| builder).await;
        world.settled().await;
        let cluster = &world.nodes[&world.leader()].cluster;
        assert_eq!(cluster.shard_map().weights().unwrap()[0], 10);
        assert!(balance(cluster).holds());
        cluster.set_weights(&[7; 64]).await.unwrap();
        assert_eq!(cluster.shard_map().weights(), None);
        until("even again", || balance(cluster).holds()).await;
    });
}

#[test]
fn weights_that_cannot_be_are_refused() {
    simulate(async {
        let world = three(3, [1, 1, 1]).await;
        let cluster = world.node(2).cluster.clone();
        let (found, expected) = (63, 64);
        let count = cluster.set_weights(&[2; 63]).await;
        assert_eq!(count, Err(WeightsError::Count { found, expected }));
        let mut weights = [1; 64];
        weights[5] = MAX_WEIGHT + 1;
        let (shard, weight) = (ShardId(5), MAX_WEIGHT + 1);
        let range = cluster.set_weights(&weights).await;
        assert_eq!(range, Err(WeightsError::Range { shard, weight }));
        weights[5] = MAX_WEIGHT;
        cluster.set_weights(&weights).await.unwrap();
        cluster.stop().await;
        assert_eq!(
            cluster.set_weights(&[1; 64]).await,
            Err(WeightsError::Stopped)
        );
    });
}

#[test]
fn m8_a_join_moves_so_many_shards_at_a_time() {
    simulate(async {
        let mut world = World::new(4);
        let storage = Storage::memory;
        for n in 1..=3 {
            world
                .start_with(n, storage(), |builder| builder.max_moves(5))
                .await;
        }
        world.settled().await;
        let mut events = world.node(1).cluster.events();
        world
            .start_with(4, storage(), |builder| builder.max_moves(5))
            .await;
        let cluster = world.node(1).cluster.clone();
        until("balanced", || counts(&cluster) == [16, 16, 16, 16]).await;
        world.settled().await;
        cluster.stop().await;
        let mut gained = Vec::new();
        while let Some(notice) = events.next().await {
            if let Notice::Event(funk::Event::MapCommitted(_)) = notice {
                gained.push(());
            }
        }
        assert_eq!(gained.len(), 4, "16 shards, 5 at a time");
    });
}
