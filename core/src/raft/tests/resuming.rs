//! Snapshots whose transfer is cut off: they go on where they stood.

use super::overtaken::Follower;
use super::*;
use crate::raft::rpc::{SNAPSHOT_CHUNK_BYTES, SnapshotChunk};
use crate::raft::serve::SNAPSHOT_RESUME_WITHIN;
use crate::raft::testing::Cutting;
use crate::raft::types::Vote;

/// A leader whose snapshot has ten chunks and a bit, and a node that is about to join it.
async fn leader_and_joiner(seed: u64) -> (Cluster, MemberChange) {
    let mut cluster = Cluster::new(seed);
    cluster.snapshot_every = 20;
    cluster.start(1).await;
    cluster.initialise(1..=1);
    cluster.until("a leader", |c| c.leader().is_some()).await;
    let large = "x".repeat(SNAPSHOT_CHUNK_BYTES / 4);
    for _ in 0..41 {
        cluster.append(1, &large).await.unwrap();
    }
    cluster.start(2).await;
    cluster.run_for(100 * MS).await;
    let change = MemberChange {
        voters: cluster.voters(&[1]),
        members: cluster.members(&[1, 2]),
    };
    (cluster, change)
}

async fn expect_caught_up(cluster: &mut Cluster) {
    let (index, _) = cluster.append(1, "last").await.unwrap();
    cluster.nodes[&2].device.wait_applied(index).await.unwrap();
    assert_eq!(
        cluster.nodes[&2].journal.texts(),
        cluster.nodes[&1].journal.texts()
    );
    cluster.drain();
    assert_eq!(cluster.nodes[&2].installed.len(), 1, "it came by snapshot");
}

/// Each connection carries so many chunks and no more; the last answer is lost with every second one.
#[test]
fn a_transfer_over_connections_that_break_sends_little_more_than_the_snapshot() {
    for chunks in 1..=3 {
        simulate(async move {
            let (mut cluster, change) = leader_and_joiner(24).await;
            *cluster.hub.cutting.lock().unwrap() = Some(Cutting::after(chunks));
            cluster.nodes[&1].device.change_members(change);
            expect_caught_up(&mut cluster).await;
            let cutting = cluster.hub.cutting.lock().unwrap().take().unwrap();
            let size = 41 * (SNAPSHOT_CHUNK_BYTES as u64 / 4);
            let most = size + (cutting.lost + 1) * SNAPSHOT_CHUNK_BYTES as u64;
            assert!(cutting.cuts >= 10 / chunks, "{cutting:?}");
            assert!((size..most).contains(&cutting.bytes), "{size}: {cutting:?}");
        });
    }
}

/// The link is gone for a while in the middle of the transfer, and requests run into timeouts.
#[test]
fn a_transfer_that_a_partition_interrupts_goes_on_where_it_stood() {
    simulate(async {
        let (mut cluster, change) = leader_and_joiner(25).await;
        *cluster.hub.cutting.lock().unwrap() = Some(Cutting::never());
        let bytes = |c: &Cluster| c.hub.cutting.lock().unwrap().as_ref().unwrap().bytes;
        cluster.nodes[&1].device.change_members(change);
        let chunk = SNAPSHOT_CHUNK_BYTES as u64;
        cluster
            .until("five chunks", |c| bytes(c) >= 5 * chunk)
            .await;
        cluster.isolate(2);
        cluster.run_for(500 * MS).await;
        let before = bytes(&cluster);
        cluster.heal();
        expect_caught_up(&mut cluster).await;
        // Ten and a bit, of which four at least had arrived.
        assert!(
            bytes(&cluster) - before <= 7 * chunk,
            "{}",
            bytes(&cluster) - before
        );
    });
}

/// A chunk of a snapshot, and how much of it the follower then has; `None`: refused.
async fn held(follower: &Follower, chunk: SnapshotChunk) -> Option<u64> {
    match follower.ask(Call::Snapshot(chunk)).await {
        Reply::Snapshot { held, .. } => Some(held),
        Reply::Refused(_) => None,
        other => panic!("{other:?} answers no chunk"),
    }
}

fn part(whole: &SnapshotChunk, start: usize, end: usize) -> SnapshotChunk {
    SnapshotChunk {
        offset: start as u64,
        bytes: whole.bytes.slice(start..end),
        ..whole.clone()
    }
}

async fn snapshot(last: u64, vote: Vote) -> SnapshotChunk {
    match Follower::snapshot(last, vote).await {
        Call::Snapshot(whole) => whole,
        other => panic!("{other:?} is no snapshot"),
    }
}

#[test]
fn what_is_there_is_kept_for_its_own_transfer_and_for_a_while() {
    simulate(async {
        let mut follower = Follower::new(Stores::in_memory()).await;
        let whole = snapshot(3, Follower::vote()).await;
        let ask = part(&whole, 0, 0);
        assert_eq!(held(&follower, ask.clone()).await, Some(0));
        assert_eq!(held(&follower, part(&whole, 0, 2)).await, Some(2));
        assert_eq!(held(&follower, ask.clone()).await, Some(2), "kept");
        assert_eq!(
            held(&follower, part(&whole, 0, 1)).await,
            Some(2),
            "sent twice"
        );
        assert_eq!(held(&follower, part(&whole, 3, 4)).await, None, "a gap");

        // Another snapshot, then another term: from the start.
        let other = snapshot(4, Follower::vote()).await;
        assert_eq!(held(&follower, part(&other, 2, 3)).await, None);
        assert_eq!(held(&follower, part(&other, 0, 0)).await, Some(0));
        assert_eq!(
            held(&follower, ask.clone()).await,
            Some(0),
            "the first is gone"
        );
        assert_eq!(held(&follower, part(&whole, 0, 2)).await, Some(2));
        let newer = Vote::new_committed(9, Follower::leader());
        let newer = snapshot(3, newer).await;
        assert_eq!(held(&follower, part(&newer, 0, 0)).await, Some(0));
        assert_eq!(held(&follower, part(&newer, 0, 2)).await, Some(2));

        follower.cluster.run_for(SNAPSHOT_RESUME_WITHIN - MS).await;
        assert_eq!(
            held(&follower, part(&newer, 0, 0)).await,
            Some(2),
            "in time"
        );
        follower.cluster.run_for(2 * MS).await;
        assert_eq!(
            held(&follower, part(&newer, 0, 0)).await,
            Some(0),
            "too late"
        );

        let all = newer.bytes.len();
        assert_eq!(
            held(&follower, part(&newer, 0, all)).await,
            Some(all as u64)
        );
        assert_eq!(follower.snapshots_installed(), 1);
        // Its answer was lost: it is not sent again.
        assert_eq!(held(&follower, part(&newer, 0, 0)).await, Some(all as u64));
        assert_eq!(follower.snapshots_installed(), 1);
    });
}
