//! Whole nodes of two releases in one cluster: the later one is a fake that differs from this program by nothing but its
//! numbers, and by the entry of the log with which the version of the cluster rises.
#![allow(
    clippy::disallowed_methods,
    reason = "a test outside the nodes, under a stepped clock"
)]

mod common;

use std::time::Duration;

use common::{PATIENCE, World, add, simulate};
use funk::versions::{NEWEST, OLDEST, VersionRange};
use funk::{Builder, StartError, Storage};

/// What the next release speaks.
const NEXT: VersionRange = VersionRange {
    oldest: OLDEST,
    newest: NEWEST + 1,
};

fn next(builder: Builder) -> Builder {
    builder.versions(NEXT).snapshot_every(20)
}

fn this(builder: Builder) -> Builder {
    builder.snapshot_every(20)
}

async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let waited = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waited).await;
    waited.unwrap_or_else(|_| panic!("waited too long for {what}"));
}

fn cluster_versions(world: &World) -> Vec<u8> {
    let nodes = world.nodes.values();
    nodes
        .map(|node| node.cluster.status().cluster_version)
        .collect()
}

async fn adds(world: &World, key: &str) {
    for node in world.nodes.values() {
        node.cluster
            .call(add(key))
            .await
            .expect("a call is answered");
    }
}

fn node(name: &str) -> u16 {
    name[1..].parse().expect("n and a number")
}

/// One node after the other is upgraded, the leader first: they work together in the old version, and the cluster reaches
/// the new one with the last of them.
#[test]
fn a_rolling_upgrade_ends_with_the_new_version_and_not_earlier() {
    simulate(async {
        let mut world = World::new(71);
        for n in 1..=3 {
            world.start_with(n, Storage::memory(), this).await;
        }
        world.settled().await;
        let first = world.leader();
        let mut order = vec![first.clone()];
        order.extend(world.followers());
        let mut held_back = 0;
        for name in &order {
            assert_eq!(cluster_versions(&world), [NEWEST; 3]);
            let storage = world.kill(name).await;
            adds(&world, "a").await;
            world.start_with(node(name), storage, next).await;
            world.settled().await;
            // An upgraded leader must see that it may not raise the version yet.
            if name != order.last().unwrap() {
                let step_down = world.leader();
                if step_down != first {
                    world.nodes[&step_down].cluster.step_down();
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    world.settled().await;
                }
                adds(&world, "a").await;
                tokio::time::sleep(Duration::from_secs(1)).await;
                held_back += world
                    .nodes
                    .values()
                    .filter_map(|node| {
                        let counters = node.cluster.counters();
                        counters
                            .get("versions held back until all members speak them")
                            .copied()
                    })
                    .sum::<u64>();
            }
        }
        assert!(held_back > 0, "no upgraded node led while others were old");
        until("the new version", || {
            // Only a leader that speaks it raises it; all do now.
            cluster_versions(&world) == [NEXT.newest; 3]
        })
        .await;
        adds(&world, "a").await;
        for node in world.nodes.values() {
            let status = node.cluster.status();
            assert_eq!(status.versions, NEXT);
            assert!(status.members.iter().all(|member| member.versions == NEXT));
        }
    });
}

/// What an old program must say when it meets what it does not know.
fn expect_explained(why: &str) {
    for part in ["version 2", "up to 1", "upgrade this node", "stays usable"] {
        assert!(why.contains(part), "{part} is not in {why:?}");
    }
}

/// An old program on a directory that holds a later entry refuses to start; the same directory serves the new program.
#[test]
fn a_directory_with_a_later_entry_is_refused_unharmed() {
    simulate(async {
        let name = format!("funk-upgrades-{}", std::process::id());
        let root = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&root);
        std::fs::create_dir(&root).unwrap();
        let directory = |n: u16| Storage::dir(root.join(format!("n{n}")));
        let mut world = World::new(72);
        for n in 1..=3 {
            world.start_with(n, directory(n), next).await;
        }
        world.settled().await;
        until("the new version", || {
            cluster_versions(&world) == [NEXT.newest; 3]
        })
        .await;
        adds(&world, "a").await;
        let victim = world.followers()[0].clone();
        world.kill(&victim).await;

        // Twice: the first time did it no harm.
        for _ in 0..2 {
            let refused = world
                .try_start_with(node(&victim), directory(node(&victim)), this)
                .await;
            match refused.map(|_| ()) {
                Err(StartError::Raft(why)) => expect_explained(&why),
                other => panic!("not refused: {other:?}"),
            }
        }
        adds(&world, "a").await;

        world
            .start_with(node(&victim), directory(node(&victim)), next)
            .await;
        world.settled().await;
        let counters = world.nodes[&victim].counters.clone();
        until("all increments", || counters.value(b"a") == 5).await;
        drop(world);
        std::fs::remove_dir_all(&root).unwrap();
    });
}

/// An old program that joins such a cluster stops before it applies the entry, or the snapshot that holds what came of it.
#[test]
fn a_node_that_does_not_know_an_entry_stops_before_it() {
    for snapshots in [false, true] {
        simulate(async move {
            let mut world = World::new(74);
            for n in 1..=3 {
                world.start_with(n, Storage::memory(), next).await;
            }
            world.settled().await;
            until("the new version", || {
                cluster_versions(&world) == [NEXT.newest; 3]
            })
            .await;
            for _ in 0..if snapshots { 30 } else { 1 } {
                adds(&world, "a").await;
            }
            let joins = |builder: Builder| this(builder).bootstrap_expect(0);
            let storage = Storage::memory();
            let old = world.start_with(4, storage.clone(), joins).await;
            let (cluster, counters) = (old.cluster.clone(), old.counters.clone());
            until("the end of the old program", || cluster.failure().is_some()).await;
            expect_explained(cluster.failure().unwrap());
            assert_eq!(counters.value(b"a"), 0, "nothing later was applied");
            world.kill("n4").await;
            adds(&world, "a").await;

            let upgraded = |builder: Builder| next(builder).bootstrap_expect(0);
            world.start_with(4, storage, upgraded).await;
            world.settled().await;
            adds(&world, "a").await;
        });
    }
}

/// Releases that are too far apart do not form a cluster, and say why.
#[test]
fn a_node_without_a_version_in_common_is_let_in_by_nobody() {
    simulate(async {
        let mut world = World::new(73);
        for n in 1..=3 {
            world.start(n).await;
        }
        world.settled().await;
        let far = VersionRange {
            oldest: 7,
            newest: 9,
        };
        let describe = |builder: Builder| builder.versions(far).bootstrap_expect(0);
        world.start_with(4, Storage::memory(), describe).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        let refused = |n| world.node(n).cluster.counters()["connections refused"];
        assert!(refused(4) > 0 && refused(1) > 0);
        for n in 1..=3 {
            assert_eq!(world.node(n).cluster.members().len(), 3);
        }
        assert_eq!(world.node(4).cluster.members().len(), 1);
        world.kill("n4").await;
        adds(&world, "a").await;
    });
}
