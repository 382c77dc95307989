//! Two processes with one name: the newer run stands, the older one notices, stops serving and ends.
#![allow(
    clippy::disallowed_methods,
    reason = "a test outside the nodes, under a stepped clock"
)]

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::{CounterService, Counters, PATIENCE, World, add, simulate};
use funk::ids::{BootId, ShardId};
use funk::runtime::Environment;
use funk::{Cluster, Event, NodeState, Notice};

/// A second process of the name `n1`, at an address of its own.
async fn second_n1(world: &World, boot: u64) -> Cluster {
    let counters = Counters::default();
    let addr = SocketAddr::from(([127, 0, 0, 1], 7_099));
    let builder = Cluster::builder("test", "n1")
        .transport(world.network.transport_at(addr).unwrap())
        .seeds(world.seeds.clone())
        .bootstrap_expect(3)
        .shards(64)
        .boot_id(BootId(boot))
        .service(CounterService(counters.clone()))
        .state(counters);
    let environment = Environment::simulated(7_777, 1.0, Duration::from_secs(77));
    environment.scope(builder.start()).await.unwrap()
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    assert!(waited.is_ok(), "never {what}");
}

fn both_serve(first: &Cluster, second: &Cluster) -> Option<ShardId> {
    (0..64)
        .map(ShardId)
        .find(|&shard| first.guard(shard).is_some() && second.guard(shard).is_some())
}

#[test]
fn an_older_run_ends_when_a_newer_one_of_its_name_joins() {
    simulate(async {
        let mut world = World::new(11);
        for n in 1..=4 {
            world.start(n).await;
        }
        world.settled().await;
        let first = world.node(1).cluster.clone();
        let mut events = first.events();
        let second = second_n1(&world, 1_000).await;
        until("ended", || {
            assert_eq!(both_serve(&first, &second), None);
            first.state() == NodeState::Invalid
        })
        .await;
        let mut seen = Vec::new();
        while let Some(notice) = events.next().await {
            seen.push(notice);
        }
        let superseded = |notice: &Notice| {
            matches!(
                notice,
                Notice::Event(Event::Superseded {
                    by: Some(BootId(1_000))
                })
            )
        };
        assert_eq!(seen.iter().filter(|n| superseded(n)).count(), 1, "{seen:?}");
        assert!(first.call(add("a")).await.is_err());
        // The newer one is the node from now on.
        until("operational", || {
            second.state() == NodeState::Operational
                && (0..64).any(|shard| second.guard(ShardId(shard)).is_some())
        })
        .await;
        second.call(add("a")).await.unwrap();
    });
}

#[test]
fn a_second_process_with_an_older_run_is_refused_and_ends() {
    simulate(async {
        let mut world = World::new(12);
        for n in 2..=4 {
            world.start(n).await;
        }
        let first = world
            .start_with(1, funk::Storage::memory(), |builder| {
                builder.boot_id(BootId(1_000))
            })
            .await
            .cluster
            .clone();
        world.settled().await;
        let second = second_n1(&world, 1).await;
        let mut events = second.events();
        until("refused", || second.state() == NodeState::Invalid).await;
        let mut superseded = false;
        while let Some(notice) = events.next().await {
            superseded |= matches!(notice, Notice::Event(Event::Superseded { .. }));
        }
        assert!(superseded);
        assert_eq!(first.state(), NodeState::Operational);
        first.call(add("a")).await.unwrap();
    });
}
