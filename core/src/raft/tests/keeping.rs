//! Snapshots, restarts, and stores (rule P3, invariant I9).

use super::*;

#[test]
fn p3_a_late_joiner_gets_a_snapshot_with_the_pending_proposal_and_the_applications_state() {
    simulate(async {
        let mut cluster = Cluster::new(14);
        cluster.snapshot_every = 20;
        for n in 1..=3 {
            cluster.start(n).await;
        }
        cluster.initialise(1..=3);
        cluster.until("a leader", |c| c.leader().is_some()).await;
        let leader = cluster.leader().unwrap();
        let term = cluster.term(leader);
        cluster.nodes[&leader]
            .device
            .propose(term, proposal(&cluster, &[1, 2, 3]));
        let large = "x".repeat(100_000);
        for n in 0..50 {
            cluster
                .append(leader, &format!("{n} {large}"))
                .await
                .unwrap();
        }
        cluster.run_for(100 * MS).await;
        cluster.start(4).await;
        let members = cluster.members(&[1, 2, 3, 4]);
        cluster.change(cluster.voters(&[1, 2, 3]), members).await;
        let (index, _) = cluster.append(leader, "last").await.unwrap();
        cluster.nodes[&4].device.wait_applied(index).await.unwrap();
        cluster.drain();
        let joiner = &cluster.nodes[&4];
        assert_eq!(joiner.installed.len(), 1, "it came by snapshot");
        let Change::Proposed { pending, .. } = &cluster.nodes[&leader].changes[0].2 else {
            panic!("{:?}", cluster.nodes[&leader].changes);
        };
        assert_eq!(joiner.installed[0].pending.as_ref(), Some(pending));
        assert_eq!(
            joiner.journal.texts(),
            cluster.nodes[&leader].journal.texts()
        );
        assert_eq!(joiner.journal.texts().len(), 51);
        assert_eq!(joiner.only_own, Some(false));
        // What was restored is what the log goes on from.
        let map = pending.map.index();
        cluster.nodes[&leader]
            .device
            .propose(term, LogMessage::ShardMapCommitted { map, term });
        cluster
            .until("the commit", |c| !c.nodes[&4].changes.is_empty())
            .await;
        let (_, _, change) = &cluster.nodes[&4].changes[0];
        assert!(
            matches!(change, Change::Committed { map: made } if made.index() == map),
            "{change:?}"
        );
    });
}

#[test]
fn a_log_of_large_entries_is_kept_small_and_still_reaches_a_late_joiner() {
    simulate(async {
        let mut cluster = Cluster::formed(26, 1).await;
        cluster.start(2).await;
        let large = "x".repeat(MAX_APP_ENTRY_BYTES);
        let mut most = 0;
        for _ in 0..100 {
            cluster.append(1, &large).await.unwrap();
            cluster.nodes[&1].journal.0.lock().unwrap().clear();
            cluster.run_for(20 * MS).await;
            most = most.max(cluster.nodes[&1].stores.log_bytes());
        }
        assert!(most < compact::MAX_LOG_BYTES + (20 << 20), "{most} bytes");
        cluster
            .change(cluster.voters(&[1]), cluster.members(&[1, 2]))
            .await;
        let (index, _) = cluster.append(1, "last").await.unwrap();
        cluster.nodes[&2].device.wait_applied(index).await.unwrap();
        assert!(cluster.nodes[&2].stores.log_bytes() < compact::MAX_LOG_BYTES);
    });
}

#[test]
fn i9_nodes_that_stop_come_back_with_what_they_kept() {
    simulate(async {
        let mut cluster = Cluster::new(15);
        cluster.snapshot_every = 10;
        for n in 1..=3 {
            cluster.start(n).await;
        }
        cluster.initialise(1..=3);
        cluster.until("a leader", |c| c.leader().is_some()).await;
        let leader = cluster.leader().unwrap();
        let term = cluster.term(leader);
        cluster.nodes[&leader]
            .device
            .propose(term, proposal(&cluster, &[1, 2]));
        for n in 0..25 {
            cluster.append(leader, &n.to_string()).await.unwrap();
        }
        let expected = cluster.nodes[&leader].journal.texts();
        for n in 1..=3 {
            let stores = cluster.stop(n).await;
            cluster.start_on(n, StoreId(n), stores, 2).await;
        }
        cluster
            .until("a leader again", |c| c.leader().is_some())
            .await;
        let again = cluster.leader().unwrap();
        assert!(
            cluster.term(again) > term,
            "leadership is not restored without a vote"
        );
        let (index, _) = cluster.append(again, "after").await.unwrap();
        for node in cluster.nodes.values() {
            node.device.wait_applied(index).await.unwrap();
            let texts = node.journal.texts();
            assert_eq!(texts[..25], expected);
            assert_eq!(texts[25], "after");
        }
        cluster.drain();
        for node in cluster.nodes.values() {
            let pending = node
                .installed
                .iter()
                .any(|replicated| replicated.pending.is_some());
            assert!(pending, "the proposal is in the snapshot of {}", node.id);
            assert_eq!(node.only_own, Some(false));
        }
    });
}

#[test]
fn only_the_own_initialisation_can_be_abandoned() {
    simulate(async {
        let mut cluster = Cluster::new(16);
        for n in 1..=3 {
            cluster.start(n).await;
        }
        cluster.isolate(1);
        cluster.initialise(1..=3);
        cluster
            .until("initialised", |c| c.nodes[&1].only_own == Some(true))
            .await;
        cluster.run_for(500 * MS).await;
        assert_eq!(cluster.nodes[&1].only_own, Some(true));
        assert_eq!(cluster.nodes[&2].only_own, None);
        let stores = cluster.stop(1).await;
        cluster.start_on(1, StoreId(1), stores, 2).await;
        cluster
            .until("known again", |c| c.nodes[&1].only_own == Some(true))
            .await;
        cluster.heal();
        cluster
            .until("a cluster", |c| {
                c.nodes.values().all(|n| n.only_own == Some(false))
            })
            .await;
    });
}

/// Makes stores for openraft's suite.
struct Fresh {
    durable: bool,
}

impl StoreBuilder<TypeConfig, Stores, StateMachine> for Fresh {
    async fn build(
        &self,
    ) -> Result<((), Stores, StateMachine), openraft::StorageError<TypeConfig>> {
        let stores = match self.durable {
            true => super::durable::fresh(),
            false => Stores::in_memory(),
        };
        let (facts, _) = mpsc::unbounded_channel();
        let applied = Arc::new(watch::Sender::new(0));
        Ok((
            (),
            stores.clone(),
            StateMachine::new(
                Box::new(NoState),
                stores,
                facts,
                applied,
                crate::versions::VersionRange::SPOKEN,
            ),
        ))
    }
}

#[test]
fn openrafts_suite_for_stores() {
    for durable in [false, true] {
        simulate(async {
            let environment = Environment::simulated(1, 1.0, Duration::ZERO);
            let suite = Suite::test_all(Fresh { durable });
            environment.scope(suite).await.unwrap();
        });
    }
}
