//! What a store on a disk must do, on a whole node that is alone, with a simulated disk.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use funk::runtime::Environment;
use funk::store::files::Files;
use funk::store::sim_disk::{SimDisk, Unsynced};
use funk::transport::memory::MemoryNetwork;
use funk::{Applied, Cluster, ReplicatedState, RestoreError, StartError, Storage, StorageError};

/// Long enough for a node that is alone to found its cluster, and to lead it again.
const PATIENCE: Duration = Duration::from_secs(20);
/// Entries between snapshots.
const SNAPSHOT_EVERY: u64 = 5;

/// How many entries were applied.
#[derive(Default)]
struct Count(u64);

impl ReplicatedState for Count {
    fn apply(&mut self, _: Applied<'_>) -> Bytes {
        self.0 += 1;
        Bytes::copy_from_slice(&self.0.to_be_bytes())
    }

    fn snapshot(&self) -> Bytes {
        Bytes::copy_from_slice(&self.0.to_be_bytes())
    }

    fn restore(&mut self, snapshot: Bytes) -> Result<(), RestoreError> {
        let bytes = snapshot[..].try_into();
        self.0 = u64::from_be_bytes(bytes.map_err(|_| RestoreError("eight bytes".to_owned()))?);
        Ok(())
    }
}

/// Runs a script under a stepped clock.
#[allow(
    clippy::disallowed_methods,
    reason = "the world around the node, not the node"
)]
fn simulate(script: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(script);
}

/// The node with this disk; its network has nobody else.
async fn start(disk: &SimDisk) -> Result<(Cluster, Storage), StartError> {
    let addr = SocketAddr::from(([127, 0, 0, 1], 7_001));
    let transport = MemoryNetwork::new().transport_at(addr).unwrap();
    let storage = Storage::simulated(disk.clone());
    let started = Cluster::builder("rules", "n1")
        .transport(transport)
        .bootstrap_expect(1)
        .shards(4)
        .state(Count::default())
        .snapshot_every(SNAPSHOT_EVERY)
        .storage(storage.clone())
        .start();
    // Each start has chance of its own. Only the node: what panics in there stands still, and the script shall not.
    let environment = Environment::simulated(disk.operations(), 1.0, Duration::ZERO);
    Ok((environment.scope(started).await?, storage))
}

/// Starts it, writes so many entries, and stops it.
async fn write(disk: &SimDisk, entries: u64) -> Storage {
    let (cluster, storage) = start(disk).await.unwrap();
    assert!(
        cluster.operational(PATIENCE).await,
        "a node that is alone founds a cluster"
    );
    for _ in 0..entries {
        cluster.propose(Bytes::from_static(b"one")).await.unwrap();
    }
    cluster.stop().await;
    storage
}

pub(super) fn checksums_are_compared() {
    simulate(async {
        let disk = SimDisk::new();
        write(&disk, 1).await;
        let files: Arc<dyn Files> = Arc::new(disk.clone());
        let is_log = |name: &String| name.ends_with(".log");
        let log = files.list().unwrap().into_iter().find(is_log).unwrap();
        // The first records: nothing of them can be the torn end of the log.
        for offset in 0..200 {
            assert!(disk.flip(&log, offset), "byte {offset} is there");
            match start(&disk).await {
                Err(StartError::Storage(
                    StorageError::Damaged { .. } | StorageError::OtherVersion { .. },
                )) => {}
                Err(other) => panic!("byte {offset}: {other}"),
                Ok(_) => panic!("byte {offset} is another, and the node starts"),
            }
            disk.flip(&log, offset);
        }
        let (cluster, _) = start(&disk).await.unwrap();
        assert!(cluster.operational(PATIENCE).await);
    });
}

pub(super) fn directories_are_synchronised() {
    simulate(async {
        let disk = SimDisk::new();
        let (cluster, storage) = start(&disk).await.unwrap();
        assert!(cluster.operational(PATIENCE).await);
        let before = (storage.store_id(), cluster.cluster_id());
        cluster.stop().await;
        disk.cut_power(Unsynced::Lost);
        let (cluster, storage) = start(&disk).await.unwrap();
        assert!(cluster.operational(PATIENCE).await);
        assert_eq!(
            (storage.store_id(), cluster.cluster_id()),
            before,
            "the same raft member of the same cluster"
        );
    });
}

pub(super) fn snapshots_hold_the_configuration() {
    simulate(async {
        let disk = SimDisk::new();
        write(&disk, 6 * SNAPSHOT_EVERY).await;
        let (cluster, _) = start(&disk).await.unwrap();
        assert!(
            cluster.operational(PATIENCE).await,
            "the node knows from its snapshot that it is a voter"
        );
        let proposed = cluster.propose(Bytes::from_static(b"one")).await.unwrap();
        assert_eq!(
            proposed.response,
            Bytes::copy_from_slice(&(6 * SNAPSHOT_EVERY + 1).to_be_bytes())
        );
    });
}
