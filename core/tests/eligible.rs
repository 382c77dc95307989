//! Cordons, readiness and damping, with whole nodes.
#![allow(
    clippy::disallowed_methods,
    reason = "a test outside the nodes, under a stepped clock"
)]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use common::{PATIENCE, World, get, simulate};
use funk::status::MemberStatus;
use funk::{
    Client, Cluster, Cordon, CordonError, NodeId, Service, ServiceError, ServiceRequest, Storage,
};

async fn three(seed: u64) -> World {
    let mut world = World::new(seed);
    for n in 1..=3 {
        world.start(n).await;
    }
    world.settled().await;
    world
}

fn name(n: u16) -> NodeId {
    NodeId::new(&format!("n{n}")).unwrap()
}

fn shown(cluster: &Cluster, n: u16) -> MemberStatus {
    let members = cluster.status().members;
    let member = members.into_iter().find(|m| m.node == name(n));
    member.expect("it is a member")
}

/// How many shards it has; none, before it is known.
fn shards(cluster: &Cluster, n: u16) -> usize {
    let members = cluster.status().members.into_iter();
    let owned = members.filter(|m| m.node == name(n)).map(|m| m.shards);
    owned.sum()
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
fn m9_any_node_drains_any_other_and_no_call_fails() {
    simulate(async {
        let mut world = three(1).await;
        let follower = world.followers()[0].clone();
        let asked = world.nodes[&follower].cluster.clone();
        let drained = world.followers()[1].clone();
        let n: u16 = drained[1..].parse().unwrap();
        let served = world.nodes[&drained].cluster.clone();
        let (calls, done) = (AtomicU64::new(0), AtomicBool::new(false));
        let load = async {
            for key in (0..).map(|n| format!("key-{n}")) {
                // Through the node that is drained: it goes on delivering calls.
                served.call(get(&key)).await.expect("no call fails");
                calls.fetch_add(1, Ordering::Relaxed);
                if done.load(Ordering::Relaxed) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let drain = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            asked.drain(&name(n)).await.unwrap();
            assert_eq!(shown(&asked, n).shards, 0);
            tokio::time::sleep(Duration::from_millis(50)).await;
            done.store(true, Ordering::Relaxed);
        };
        tokio::join!(load, drain);
        assert!(calls.load(Ordering::Relaxed) > 50);
        assert_eq!(shown(&served, n).cordon, Some(Cordon::Drained));
        let member = asked.members().into_iter().find(|m| m.node == name(n));
        assert_eq!(member.unwrap().cordon, Some(Cordon::Drained));
        // Another leader, and another run of the node.
        let leader = world.leader();
        world.kill(&leader).await;
        until("another leads", || {
            asked.leader().is_some_and(|l| l.as_str() != leader)
        })
        .await;
        let storage = world.kill(&drained).await;
        let again = leader[1..].parse().unwrap();
        world.start(again).await;
        world.start_with(n, storage, |builder| builder).await;
        until("all are there", || {
            shards(&asked, again) == 32 && asked.nodes().len() == 3
        })
        .await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let node = &world.nodes[&drained].cluster;
        assert_eq!(shown(node, n).cordon, Some(Cordon::Drained));
        assert_eq!(shown(node, n).shards, 0);
        node.uncordon(&name(n)).await.unwrap();
        world.settled().await;
        assert_eq!(shown(&asked, n).cordon, None);
        assert!(shown(&asked, n).shards > 20);
    });
}

#[test]
fn m9_a_client_cordons_and_is_told_what_is_wrong() {
    simulate(async {
        let mut world = three(2).await;
        let addr = |n: u16| SocketAddr::from(([127, 0, 0, 1], 7_000 + n));
        let transport = world.network.transport();
        let client = Client::start("test", "cli", transport, [addr(1)]).unwrap();
        let cordon = Some(Cordon::Cordoned);
        client.set_cordon(addr(1), &name(2), cordon).await.unwrap();
        let one = world.node(1).cluster.clone();
        let before = shown(&one, 2).shards;
        assert_eq!(shown(&one, 2).cordon, cordon);
        world.start(4).await;
        until("the new one has shards", || shards(&one, 4) > 0).await;
        assert_eq!(shown(&one, 2).shards, before);
        let nobody = client.set_cordon(addr(1), &name(9), cordon).await;
        assert_eq!(nobody, Err(CordonError::Unknown(name(9))));
        let nowhere = client.set_cordon(addr(8), &name(2), cordon).await;
        assert!(
            matches!(nowhere, Err(CordonError::Unreachable(_))),
            "{nowhere:?}"
        );
        // Nobody else may have them.
        for n in [1, 2, 4] {
            one.drain(&name(n)).await.unwrap();
        }
        let last = client
            .set_cordon(addr(1), &name(3), Some(Cordon::Drained))
            .await;
        let Err(CordonError::StillOwns { shards: 64, .. }) = last else {
            panic!("{last:?}")
        };
        client.set_cordon(addr(1), &name(1), None).await.unwrap();
        until("the drain went on", || shown(&one, 1).shards == 64).await;
    });
}

/// A service that is ready when it is said to be.
struct Moody(Arc<AtomicBool>);

impl Service for Moody {
    async fn call(&self, _: ServiceRequest) -> Result<Bytes, ServiceError> {
        Ok(Bytes::new())
    }

    async fn ready(&self) -> bool {
        if !self.0.load(Ordering::Relaxed) {
            // No answer is a no.
            std::future::pending::<()>().await;
        }
        true
    }
}

#[test]
fn m10_a_service_that_is_not_ready_loses_its_shards_for_as_long() {
    simulate(async {
        let mut world = World::new(3);
        let ready = Arc::new(AtomicBool::new(true));
        for n in 1..=3 {
            let mood = match n {
                2 => ready.clone(),
                _ => Arc::new(AtomicBool::new(true)),
            };
            let storage = Storage::memory();
            world
                .start_with(n, storage, |b| b.named_service("moody", Moody(mood)))
                .await;
        }
        world.settled().await;
        let one = world.node(1).cluster.clone();
        assert!(shown(&one, 2).ready && shown(&one, 2).shards > 20);
        ready.store(false, Ordering::Relaxed);
        let unready_after = funk::Timing::lan().unready_after;
        tokio::time::sleep(unready_after).await;
        assert!(
            shown(&one, 2).shards > 20,
            "asked only now and then, it is later"
        );
        until("its shards are elsewhere", || shown(&one, 2).shards == 0).await;
        assert!(!shown(&one, 2).ready);
        let two = &world.node(2).cluster;
        assert_eq!(two.state(), funk::NodeState::Operational);
        ready.store(true, Ordering::Relaxed);
        world.settled().await;
        assert!(shown(&one, 2).ready && shown(&one, 2).shards > 20);
    });
}

#[test]
fn m11_a_node_that_bounces_is_seen_to_wait() {
    simulate(async {
        let mut world = three(4).await;
        let n: u16 = world.followers()[0][1..].parse().unwrap();
        let other = world.followers()[1].clone();
        for _ in 0..6 {
            let storage = world.kill(name(n).as_str()).await;
            let one = world.nodes[&other].cluster.clone();
            until("it is out", || shown(&one, n).shards == 0).await;
            world.start_with(n, storage, |builder| builder).await;
            world.settled().await;
        }
        let one = world.nodes[&other].cluster.clone();
        assert_eq!(shown(&one, n).waits_ms, 0, "it is in the map");
        world.kill(name(n).as_str()).await;
        let out = || one.shard_map().member(&name(n)).is_none();
        until("it is out", out).await;
        let waits = shown(&one, n).waits_ms;
        assert!((6_000..=6_400).contains(&waits), "{waits}");
        until("it need not wait any more", || shown(&one, n).waits_ms == 0).await;
    });
}
