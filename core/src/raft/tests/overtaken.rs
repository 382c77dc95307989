//! A snapshot that arrives when the log holds what it stands for already.

use openraft::raft::AppendEntriesRequest;
use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine};
use openraft::vote::leader_id_std::CommittedLeaderId;
use openraft::{EntryPayload, Membership};

use super::*;
use crate::ids::Epoch;
use crate::raft::rpc::SnapshotChunk;
use crate::raft::testing::Journal;
use crate::raft::types::{LogEntry, LogId, Vote};
use crate::store::sim_disk::{SimDisk, Unsynced};

const TERM: u64 = 5;
const FLUSH: Duration = Duration::from_millis(30);

fn id(index: u64) -> LogId {
    LogId {
        leader_id: CommittedLeaderId::new(TERM),
        index,
    }
}

/// A member that hears from a leader which is played by the test.
pub(super) struct Follower {
    pub(super) cluster: Cluster,
}

impl Follower {
    pub(super) async fn new(stores: Stores) -> Self {
        let mut cluster = Cluster::new(31);
        cluster.start_on(2, StoreId(2), stores, 1).await;
        Self { cluster }
    }

    pub(super) fn leader() -> RaftId {
        RaftId::from(1)
    }

    pub(super) fn vote() -> Vote {
        Vote::new_committed(TERM, Self::leader())
    }

    fn stores(&self) -> &Stores {
        &self.cluster.nodes[&2].stores
    }

    fn journal(&self) -> Vec<String> {
        self.cluster.nodes[&2].journal.texts()
    }

    pub(super) fn snapshots_installed(&mut self) -> usize {
        self.cluster.drain();
        self.cluster.nodes[&2].installed.len()
    }

    pub(super) async fn ask(&self, call: Call) -> Reply {
        let request = Request {
            cluster: CLUSTER,
            from: Self::leader(),
            to: self.cluster.nodes[&2].id.clone(),
            call,
        };
        let leader = Peer {
            version: crate::versions::NEWEST,
            instance: Instance {
                node: name(1),
                boot: BootId(1),
            },
            kind: crate::transport::PeerKind::Node,
            addr: addr(1),
        };
        let node = &self.cluster.nodes[&2];
        let answer = node.device.handle_rpc(&leader, request.encode());
        Reply::decode(&node.environment.scope(answer).await).unwrap()
    }

    /// Entries `0..end`: the members, then the application's.
    fn entries(end: u64, committed: Option<u64>) -> Call {
        let members = [Self::leader(), RaftId::from(2)];
        let entry = |index: u64| LogEntry {
            log_id: id(index),
            payload: match index {
                0 => {
                    let voters = vec![members.iter().cloned().collect()];
                    let nodes = members
                        .iter()
                        .cloned()
                        .map(|id| (id, types::MemberAddr(addr(1))));
                    let nodes: BTreeMap<_, _> = nodes.collect();
                    EntryPayload::Membership(Membership::new(voters, nodes).unwrap())
                }
                _ => {
                    let message = LogMessage::App {
                        shard: None,
                        epoch: Epoch(0),
                        bytes: Bytes::from(format!("entry {index}")),
                    };
                    EntryPayload::Normal(types::Entry::new(&message))
                }
            },
        };
        Call::Append(AppendEntriesRequest {
            vote: Self::vote(),
            prev_log_id: None,
            entries: (0..end).map(entry).collect(),
            leader_commit: committed.map(id),
        })
    }

    /// The whole snapshot of an application that has applied nothing, as if it stood for all entries up to `last`: where
    /// it is installed, the application forgets.
    pub(super) async fn snapshot(last: u64, vote: Vote) -> Call {
        let (facts, _) = mpsc::unbounded_channel();
        let applied = Arc::new(watch::Sender::new(0));
        let state = Box::new(Journal::default());
        let mut machine = StateMachine::new(
            state,
            Stores::in_memory(),
            facts,
            applied,
            crate::versions::VersionRange::SPOKEN,
        );
        let mut builder = machine.get_snapshot_builder().await;
        let built = builder.build_snapshot().await.unwrap();
        let mut meta = built.meta;
        meta.last_log_id = Some(id(last));
        Call::Snapshot(SnapshotChunk {
            vote,
            meta,
            offset: 0,
            total: built.snapshot.len() as u64,
            bytes: built.snapshot,
        })
    }
}

fn texts(indexes: std::ops::RangeInclusive<u64>) -> Vec<String> {
    indexes.map(|index| format!("entry {index}")).collect()
}

#[test]
fn a_snapshot_that_later_entries_have_overtaken_is_left() {
    simulate(async {
        let mut follower = Follower::new(Stores::in_memory()).await;
        let appended = follower.ask(Follower::entries(6, None)).await;
        assert!(matches!(appended, Reply::Append(_)), "{appended:?}");
        let late = Follower::snapshot(3, Follower::vote()).await;
        let taken = follower.ask(late).await;
        assert!(
            matches!(&taken, Reply::Snapshot { vote, .. } if *vote == Follower::vote()),
            "{taken:?}"
        );
        assert_eq!(follower.snapshots_installed(), 0);
        assert!(follower.stores().snapshot().await.unwrap().is_none());
        assert!((0..6).all(|index| follower.stores().holds_entry(&id(index))));
        // The log is applied as it is, the entries under the snapshot among them.
        follower.ask(Follower::entries(7, Some(6))).await;
        let device = &follower.cluster.nodes[&2].device;
        device.wait_applied(LogIndex(6)).await.unwrap();
        assert_eq!(follower.journal(), texts(1..=6));
    });
}

#[test]
fn a_snapshot_beyond_the_log_is_installed() {
    simulate(async {
        let mut follower = Follower::new(Stores::in_memory()).await;
        follower.ask(Follower::entries(3, None)).await;
        let snapshot = Follower::snapshot(3, Follower::vote()).await;
        let taken = follower.ask(snapshot).await;
        assert!(
            matches!(&taken, Reply::Snapshot { vote, .. } if *vote == Follower::vote()),
            "{taken:?}"
        );
        assert_eq!(follower.snapshots_installed(), 1);
        assert!(follower.stores().snapshot().await.unwrap().is_some());
    });
}

/// The answer says that the entries are kept.
#[test]
fn an_overtaken_snapshot_is_answered_once_the_entries_would_survive() {
    simulate(async {
        let disk = SimDisk::new();
        let (_, stores) = durable::open(&disk, 2).unwrap();
        disk.slow_down(FLUSH);
        let mut follower = Follower::new(stores).await;
        let environment = follower.cluster.nodes[&2].environment.clone();
        // The leader gives up on the append while it is on its way to the disk, and sends the snapshot.
        let append = follower.ask(Follower::entries(4, None));
        let early = environment.timeout(FLUSH + FLUSH / 2, append).await;
        assert!(early.is_none(), "{early:?}");
        assert!(follower.stores().holds_entry(&id(3)));
        assert!(!follower.stores().has_flushed(&id(3)));
        let snapshot = Follower::snapshot(3, Follower::vote()).await;
        let taken = follower.ask(snapshot).await;
        assert!(
            matches!(&taken, Reply::Snapshot { vote, .. } if *vote == Follower::vote()),
            "{taken:?}"
        );
        disk.cut_power(Unsynced::Lost);
        let (_, found) = durable::open(&disk, 3).unwrap();
        assert!((0..4).all(|index| found.holds_entry(&id(index))));
        assert_eq!(follower.snapshots_installed(), 0);
    });
}
