//! The durable store: histories of changes, on a disk that loses, tears and fails, compared with a model.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
use openraft::type_config::TypeConfigExt;

use super::super::durable::{self, Owner};
use super::super::log_store::{KeptSnapshot, Origin};
use super::super::types::{LogEntry, LogId, SnapshotMeta, TypeConfig, Vote};
use super::*;
use crate::ids::{ClusterName, NodeId, StoreId};
use crate::storage::{Storage, StorageError};
use crate::store::disk::Disk;
use crate::store::files::Files;
use crate::store::sim_disk::{SimDisk, Unsynced};

mod crash;
mod faults;
mod format;
mod refusals;

/// Small segments, so that short histories have several.
const ROLL_AT: u64 = 700;

fn owner() -> Owner {
    Owner {
        cluster: ClusterName::new("test").unwrap(),
        node: NodeId::new("n1").unwrap(),
    }
}

pub(super) fn open(disk: &SimDisk, fresh: u64) -> Result<(StoreId, Stores), StorageError> {
    let files: Arc<dyn Files> = Arc::new(disk.clone());
    let (id, stores) = durable::open(&files, &owner(), StoreId(fresh))?;
    stores.roll_at(ROLL_AT);
    Ok((id, stores))
}

/// An empty store on a disk of its own.
pub(super) fn fresh() -> Stores {
    open(&SimDisk::new(), 1).unwrap().1
}

/// Runs a test in a node's environment.
fn on_a_node<F: Future>(test: F) -> F::Output {
    simulate(async {
        let environment = Environment::simulated(1, 1.0, Duration::ZERO);
        environment.scope(test).await
    })
}

fn id(index: u64, term: u64) -> LogId {
    openraft::LogId {
        leader_id: openraft::vote::leader_id_std::CommittedLeaderId::new(term),
        index,
    }
}

fn vote(term: u64) -> Vote {
    Vote::new(term, RaftId::from(1))
}

fn payload(index: u64, term: u64) -> Vec<u8> {
    // Some are longer than a block of the disk.
    let len = if index % 5 == 3 { 900 } else { 30 };
    let mut bytes = vec![index as u8; len];
    bytes.extend_from_slice(&term.to_le_bytes());
    bytes
}

fn entry(index: u64, term: u64) -> LogEntry {
    LogEntry {
        log_id: id(index, term),
        payload: openraft::EntryPayload::Normal(Entry::raw(&payload(index, term))),
    }
}

/// A directory that goes with the test.
struct Temporary(std::path::PathBuf);

impl Temporary {
    fn new(name: &str) -> Self {
        let name = format!("funk-store-{name}-{}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&dir);
        Self(dir)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// One change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Op {
    Origin,
    Vote(u64),
    /// So many entries of this term, in one call.
    Append(u64, u64),
    /// Keeps the log up to this index.
    Truncate(u64),
    Purge(u64),
    /// Of the log up to this index.
    Snapshot(u64),
    Committed(u64),
}

/// What the log holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Model {
    origin: bool,
    vote: Option<Vote>,
    purged: Option<LogId>,
    entries: BTreeMap<u64, u64>,
}

impl Model {
    fn last(&self) -> Option<LogId> {
        let last = self.entries.last_key_value();
        last.map(|(index, term)| id(*index, *term)).or(self.purged)
    }

    fn next(&self) -> u64 {
        self.last().map_or(0, |last| last.index + 1)
    }

    fn id_at(&self, index: u64) -> Option<LogId> {
        let kept = self.entries.get(&index).map(|term| id(index, *term));
        kept.or(self.purged.filter(|purged| purged.index == index))
    }

    fn purge(&mut self, upto: LogId) {
        self.purged = self.purged.max(Some(upto));
        self.entries = self.entries.split_off(&(upto.index + 1));
    }
}

/// A history as it happens: what was issued, and from where on nothing may be lost.
struct History {
    stores: Stores,
    model: Model,
    /// After each record, oldest first.
    states: Vec<Model>,
    /// The state up to which all is acknowledged.
    durable: usize,
    /// The last entry of the newest snapshot: acknowledged, and written.
    snapshot: Option<LogId>,
    begun_snapshot: Option<LogId>,
    pending: Vec<(usize, <TypeConfig as TypeConfigOneshot>::Receiver)>,
}

/// Shortens a type of openraft's.
trait TypeConfigOneshot {
    type Receiver: Future<
        Output = Result<std::io::Result<()>, tokio::sync::oneshot::error::RecvError>,
    >;
}

impl TypeConfigOneshot for TypeConfig {
    type Receiver = tokio::sync::oneshot::Receiver<std::io::Result<()>>;
}

impl History {
    fn new(stores: Stores) -> Self {
        Self {
            stores,
            model: Model::default(),
            states: vec![Model::default()],
            durable: 0,
            snapshot: None,
            begun_snapshot: None,
            pending: Vec::new(),
        }
    }

    fn note(&mut self) {
        self.states.push(self.model.clone());
    }

    fn here(&self) -> usize {
        self.states.len() - 1
    }

    /// Issues a change; an append is not waited for. An error: the disk is gone.
    async fn issue(&mut self, op: Op) -> std::io::Result<()> {
        match op {
            Op::Origin => {
                self.model.origin = true;
                self.note();
                let (cluster, own) = (CLUSTER, false);
                self.stores.save_origin(Origin { cluster, own })?;
            }
            Op::Vote(term) => {
                self.model.vote = Some(vote(term));
                self.note();
                let here = self.here();
                self.stores.save_vote(&vote(term)).await?;
                self.durable = here;
            }
            Op::Append(count, term) => {
                let first = self.model.next();
                for index in first..first + count {
                    self.model.entries.insert(index, term);
                    self.note();
                }
                let (sender, receiver) = TypeConfig::oneshot();
                let entries = (first..first + count).map(|index| entry(index, term));
                let entries: Vec<LogEntry> = entries.collect();
                let here = self.here();
                self.stores
                    .append(entries, IOFlushed::signal(sender))
                    .await?;
                self.pending.push((here, receiver));
            }
            Op::Truncate(index) => {
                self.model.entries.split_off(&(index + 1));
                self.note();
                let last = self.model.id_at(index);
                self.stores.truncate_after(last).await?;
            }
            Op::Purge(index) => {
                let upto = self.model.id_at(index).expect("an entry of the log");
                self.model.purge(upto);
                self.note();
                self.stores.purge(upto).await?;
            }
            Op::Snapshot(index) => {
                let last = self.model.id_at(index).expect("an entry of the log");
                self.begun_snapshot = Some(last);
                let here = self.here();
                self.stores.save_snapshot(snapshot(last)).await?;
                self.snapshot = Some(last);
                self.durable = here;
            }
            Op::Committed(index) => {
                let committed = self.model.id_at(index);
                self.stores.save_committed(committed).await?;
            }
        }
        Ok(())
    }

    /// Waits for the appends that are under way.
    async fn wait(&mut self) -> std::io::Result<()> {
        for (here, receiver) in std::mem::take(&mut self.pending) {
            let lost = |_| std::io::Error::other("the answer was lost");
            receiver.await.map_err(lost)??;
            self.durable = self.durable.max(here);
        }
        Ok(())
    }

    /// The changes one after the other; appends that follow each other are under way together.
    async fn play(&mut self, ops: &[Op]) -> std::io::Result<()> {
        for op in ops {
            if !matches!(op, Op::Append(..)) {
                self.wait().await?;
            }
            self.issue(*op).await?;
        }
        self.wait().await
    }

    /// Whether what was found after a crash is what was acknowledged, with perhaps some of what was written since.
    async fn check(&self, mut found: Stores) {
        let held = held(&mut found).await;
        let snapshot = found.snapshot().await.unwrap();
        let covered = snapshot.as_ref().map(|kept| {
            let last = kept.meta.last_log_id.unwrap();
            assert_eq!(
                *kept,
                super::durable::snapshot(last),
                "the snapshot is another"
            );
            last
        });
        assert!(
            covered >= self.snapshot,
            "{covered:?}, not {:?}",
            self.snapshot
        );
        assert!(covered <= self.begun_snapshot.max(self.snapshot));
        let possible = self.states[self.durable..].iter().map(|state| {
            let mut state = state.clone();
            if let Some(covered) = covered
                && state.last().is_none_or(|last| last.index < covered.index)
            {
                state.purge(covered);
            }
            if state.last().is_none() && covered.is_none() {
                // A store without a log is begun anew.
                state = Model::default();
            }
            state
        });
        let possible: Vec<Model> = possible.collect();
        assert!(
            possible.contains(&held),
            "found {held:?}\nacknowledged {:?}\nissued {:?}",
            possible.first(),
            possible.last()
        );
    }
}

impl PartialEq for KeptSnapshot {
    fn eq(&self, other: &Self) -> bool {
        self.meta == other.meta && self.bytes == other.bytes
    }
}

fn snapshot(last: LogId) -> KeptSnapshot {
    KeptSnapshot {
        meta: SnapshotMeta {
            last_log_id: Some(last),
            ..SnapshotMeta::default()
        },
        bytes: format!("the state after {last}; ").repeat(60).into(),
    }
}

/// What a store holds, through openraft's traits.
async fn held(stores: &mut Stores) -> Model {
    let state = stores.get_log_state().await.unwrap();
    let entries = stores.try_get_log_entries(0..u64::MAX).await.unwrap();
    for found in &entries {
        let (index, term) = (found.log_id.index, found.log_id.leader_id.term);
        assert_eq!(found.payload, entry(index, term).payload, "entry {index}");
    }
    let model = Model {
        origin: stores.origin().is_some(),
        vote: stores.read_vote().await.unwrap(),
        purged: state.last_purged_log_id,
        entries: entries
            .iter()
            .map(|entry| (entry.log_id.index, entry.log_id.leader_id.term))
            .collect(),
    };
    assert_eq!(model.last(), state.last_log_id);
    let committed = stores.read_committed().await.unwrap();
    assert!(committed <= state.last_log_id, "committed {committed:?}");
    model
}
