//! Whole nodes whose log is on a disk: they stop, lose their power, have disks that fail; and come back as themselves.
#![allow(
    clippy::disallowed_methods,
    reason = "a test outside the nodes, under a stepped clock"
)]

mod common;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use common::{PATIENCE, World, add, simulate};
use funk::ids::{ClusterId, StoreId};
use funk::recover::{EPOCH_LEAP, force_new_cluster};
use funk::store::sim_disk::{SimDisk, Unsynced};
use funk::{Cluster, NodeState, StartError, Storage, StorageError};

/// A directory that goes with the test.
struct Temporary(PathBuf);

impl Temporary {
    fn new(name: &str) -> Self {
        let name = format!("funk-durable-{name}-{}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir(&dir).unwrap();
        Self(dir)
    }

    fn of(&self, n: u16) -> PathBuf {
        self.0.join(format!("n{n}"))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
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

fn store_ids(world: &World) -> BTreeMap<String, (Option<StoreId>, Option<ClusterId>)> {
    let ids = world.nodes.iter().map(|(name, node)| {
        let ids = (node.storage.store_id(), node.cluster.cluster_id());
        (name.clone(), ids)
    });
    ids.collect()
}

/// Every node has applied between `least` and `most` increments of the key, and all the same.
async fn agreed(world: &World, key: &[u8], least: u64, most: u64) {
    until("the same count everywhere", || {
        let values: Vec<u64> = world
            .nodes
            .values()
            .map(|n| n.counters.value(key))
            .collect();
        values
            .iter()
            .all(|value| *value == values[0] && *value >= least)
    })
    .await;
    let value = world.node(1).counters.value(key);
    assert!(
        (least..=most).contains(&value),
        "{value}: {least} acknowledged, {most} tried"
    );
}

#[test]
fn i9_nodes_that_are_all_restarted_from_their_directories_hold_everything() {
    let directory = Temporary::new("restart");
    simulate(async {
        let mut world = World::new(41);
        let start = async |world: &mut World, n: u16| {
            let storage = Storage::dir(directory.of(n));
            world.start_with(n, storage, |b| b.snapshot_every(20)).await;
        };
        for n in 1..=3 {
            start(&mut world, n).await;
        }
        world.settled().await;
        for round in 1..=3 {
            for n in 0..30 {
                let caller = &world.node(1 + n % 3).cluster;
                caller.call(add("a")).await.unwrap();
            }
            let proposed = world.node(1).cluster.shard_map();
            let before = store_ids(&world);
            // Handles may outlive their node.
            let handles: Vec<Cluster> = world.nodes.values().map(|n| n.cluster.clone()).collect();
            for n in 1..=3 {
                world.kill(&format!("n{n}")).await;
            }
            for n in 1..=3 {
                start(&mut world, n).await;
            }
            drop(handles);
            world.settled().await;
            assert_eq!(
                store_ids(&world),
                before,
                "the same raft members, the same cluster"
            );
            agreed(&world, b"a", round * 30, round * 30).await;
            let map = world.node(1).cluster.shard_map();
            assert!(map.index() > proposed.index(), "epochs never go back");
            assert_eq!(map.shards(), 64);
        }
        let files = std::fs::read_dir(directory.of(1)).unwrap();
        let names: Vec<_> = files.map(|file| file.unwrap().file_name()).collect();
        let is_snapshot = |name: &std::ffi::OsString| name.to_string_lossy().ends_with(".snapshot");
        assert_eq!(
            names.iter().filter(|name| is_snapshot(name)).count(),
            1,
            "{names:?}"
        );
    });
}

/// All nodes lose their power under load, at any moment, and what was not synchronised is lost, kept or torn.
#[test]
fn i9_a_loss_of_power_everywhere_loses_nothing_that_was_acknowledged() {
    for seed in 0..6u64 {
        simulate(async {
            let mut world = World::new(50 + seed);
            let disks: Vec<SimDisk> = (0..3).map(|_| SimDisk::new()).collect();
            for (n, disk) in (1..).zip(&disks) {
                disk.slow_down(Duration::from_millis(seed % 3));
                let storage = Storage::simulated(disk.clone());
                world.start_with(n, storage, |b| b.snapshot_every(25)).await;
            }
            world.settled().await;
            let (mut acknowledged, mut tried) = (0, 0);
            for _ in 0..20 {
                tried += 1;
                acknowledged += u64::from(world.node(1).cluster.call(add("a")).await.is_ok());
            }
            for disk in &disks {
                disk.end_power_at(disk.operations() + 30 + seed * 7);
            }
            // Each node ends by itself when its disk answers no more.
            let load = async {
                while tried < 400 {
                    tried += 1;
                    let call = world
                        .node(1)
                        .cluster
                        .call(add("a").deadline(Duration::from_secs(2)));
                    match call.await {
                        Ok(_) => acknowledged += 1,
                        Err(_) if world.node(1).cluster.state() == NodeState::Invalid => break,
                        Err(_) => {}
                    }
                }
            };
            load.await;
            for (n, disk) in (1..=3u16).zip(&disks) {
                world.kill(&format!("n{n}")).await;
                disk.cut_power(Unsynced::Torn(seed * 3 + u64::from(n)));
            }
            for (n, disk) in (1..).zip(&disks) {
                let storage = Storage::simulated(disk.clone());
                world.start_with(n, storage, |b| b.snapshot_every(25)).await;
            }
            world.settled().await;
            assert!(acknowledged >= 20);
            agreed(&world, b"a", acknowledged, tried).await;
        });
    }
}

#[test]
fn a_node_whose_disk_fails_stops_and_the_others_go_on() {
    for full in [true, false] {
        simulate(async {
            let mut world = World::new(61);
            let disks: Vec<SimDisk> = (0..3).map(|_| SimDisk::new()).collect();
            for (n, disk) in (1..).zip(&disks) {
                let storage = Storage::simulated(disk.clone());
                world.start_with(n, storage, |b| b).await;
            }
            world.settled().await;
            let victim = world.followers()[0].clone();
            let n: u16 = victim[1..].parse().unwrap();
            let disk = disks[usize::from(n) - 1].clone();
            if full {
                disk.limit(Some(disk.used()));
            } else {
                disk.fail_sync_at(disk.operations());
            }
            let caller = world.leader();
            for _ in 0..10 {
                world.nodes[&caller].cluster.call(add("a")).await.unwrap();
            }
            let failed = world.nodes[&victim].cluster.clone();
            until("the node to stop", || failed.state() == NodeState::Invalid).await;
            world.kill(&victim).await;
            world.settled().await;
            disk.limit(None);
            let storage = Storage::simulated(disk);
            world.start_with(n, storage, |b| b).await;
            world.settled().await;
            agreed(&world, b"a", 10, 10).await;
        });
    }
}

#[test]
fn a_node_that_left_comes_back_with_its_directory() {
    let directory = Temporary::new("left");
    simulate(async {
        let mut world = World::new(71);
        for n in 1..=4 {
            let storage = Storage::dir(directory.of(n));
            world.start_with(n, storage, |b| b).await;
        }
        world.settled().await;
        world.node(2).cluster.call(add("a")).await.unwrap();
        let leaver = world.nodes.remove("n4").unwrap();
        leaver.cluster.leave().await;
        world.settled().await;
        world.node(2).cluster.call(add("a")).await.unwrap();
        let storage = Storage::dir(directory.of(4));
        world.start_with(4, storage, |b| b).await;
        world.settled().await;
        agreed(&world, b"a", 2, 2).await;
    });
}

#[test]
fn a_directory_that_cannot_be_used_is_a_typed_error_and_the_address_is_free_again() {
    let directory = Temporary::new("refused");
    simulate(async {
        let mut world = World::new(81);
        world.seeds.clear();
        let alone = |b: funk::Builder| b.bootstrap_expect(1);
        world
            .start_with(1, Storage::dir(directory.of(1)), alone)
            .await;
        world.settled().await;
        let refused = async |node: &str, storage: Storage| {
            let transport = world.network.transport_at(([127, 0, 0, 1], 7_777).into());
            let builder = Cluster::builder("test", node)
                .transport(transport.unwrap())
                .storage(storage);
            match builder.start().await {
                Err(StartError::Storage(error)) => error,
                other => panic!("{other:?}"),
            }
        };
        let error = refused("n1", Storage::dir(directory.of(1))).await;
        assert!(matches!(error, StorageError::Locked { .. }), "{error}");
        let nowhere = Storage::dir(directory.0.join("no/such/parent"));
        let error = refused("n1", nowhere).await;
        assert!(matches!(error, StorageError::Io { .. }), "{error}");
        let nodes = std::mem::take(&mut world.nodes);
        nodes["n1"].cluster.stop().await;
        let error = refused("n2", Storage::dir(directory.of(1))).await;
        assert!(matches!(error, StorageError::OtherNode { .. }), "{error}");
    });
}

/// Two of three are lost for good.
#[test]
fn a_new_cluster_is_made_from_one_directory_and_old_tokens_stay_fenced() {
    let directory = Temporary::new("recover");
    simulate(async {
        let mut world = World::new(91);
        for n in 1..=3 {
            let storage = Storage::dir(directory.of(n));
            world.start_with(n, storage, |b| b.snapshot_every(20)).await;
        }
        world.settled().await;
        for _ in 0..30 {
            world.node(1).cluster.call(add("a")).await.unwrap();
        }
        let old = world.node(1).cluster.cluster_id();
        let map = world.node(1).cluster.shard_map();
        let newest = (0..64)
            .map(|shard| map.epoch(funk::ShardId(shard)).0)
            .max()
            .unwrap();
        for n in 1..=3 {
            world.kill(&format!("n{n}")).await;
        }
        let empty = || Box::new(common::Counters::default());
        let recovered = force_new_cluster(&directory.of(2), empty()).unwrap();
        assert_eq!(recovered.node.as_str(), "n2");
        let backup = funk::inspect::inspect(&recovered.backup).unwrap();
        assert_eq!(backup.cluster_id, old);
        assert_eq!(backup.log.last, Some(recovered.last));
        let inspected = funk::inspect::inspect(&directory.of(2)).unwrap();
        assert_eq!(inspected.cluster_id, Some(recovered.cluster_id));
        assert_eq!(inspected.membership.voters.len(), 1);

        world
            .start_with(2, Storage::dir(directory.of(2)), |b| b)
            .await;
        world.settled().await;
        assert_eq!(
            world.node(2).cluster.cluster_id(),
            Some(recovered.cluster_id)
        );
        assert_eq!(world.node(2).counters.value(b"a"), 30);
        let map = world.node(2).cluster.shard_map();
        for shard in 0..64 {
            let epoch = map.epoch(funk::ShardId(shard)).0;
            assert!(
                epoch > newest + EPOCH_LEAP / 2,
                "{epoch}, not above {newest}"
            );
        }
        // The others join it with empty directories.
        for n in [1, 3] {
            std::fs::remove_dir_all(directory.of(n)).unwrap();
            let storage = Storage::dir(directory.of(n));
            world.start_with(n, storage, |b| b).await;
        }
        world.settled().await;
        world.node(3).cluster.call(add("a")).await.unwrap();
        agreed(&world, b"a", 31, 31).await;
        // And what was recovered is as durable as before.
        for n in 1..=3 {
            world.kill(&format!("n{n}")).await;
        }
        for n in 1..=3 {
            let storage = Storage::dir(directory.of(n));
            world.start_with(n, storage, |b| b).await;
        }
        world.settled().await;
        agreed(&world, b"a", 31, 31).await;
    });
}
