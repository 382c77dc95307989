//! Applies the log: the shard maps by [`Replicated`], the rest by the application.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};

use super::log_store::{KeptSnapshot, Stores};
use super::types::{
    Entry, LogEntry, LogId, Response, Snapshot, SnapshotMeta, StoredMembership, TypeConfig,
    index_of, term_of,
};
use crate::engine::Input;
use crate::engine::replicated::{Change, Replicated};
use crate::ids::{ClusterId, LogIndex, Term};
use crate::log_message::{LogMessage, LogMessageError};
use crate::mutants::{Mutant, mutated};
use crate::state::{Applied, ReplicatedState};
use crate::versions::{FIRST, VersionRange};

/// What a snapshot holds, after its version byte, which is the version that the cluster had reached. Openraft's membership is in it too, so that a snapshot file
/// can be read without the transfer that brought it.
#[derive(Serialize, Deserialize)]
struct SnapshotBody {
    cluster: Option<ClusterId>,
    membership: StoredMembership,
    replicated: Bytes,
    application: Bytes,
}

/// The state machine that openraft drives. Clones are the same one.
pub(crate) struct StateMachine {
    state: Arc<Mutex<State>>,
    stores: Stores,
    facts: mpsc::UnboundedSender<Input>,
    /// How many entries have been applied: one more than the index of the last.
    applied: Arc<watch::Sender<u64>>,
    /// What is of no later version can be applied.
    versions: VersionRange,
}

struct State {
    last_applied: Option<LogId>,
    membership: StoredMembership,
    replicated: Replicated,
    application: Box<dyn ReplicatedState>,
}

impl State {
    /// What the entry does to the maps decides whether the application sees it.
    fn apply(&mut self, index: LogIndex, term: Term, message: &LogMessage) -> (Change, Response) {
        let change = self.replicated.apply(index, term, message);
        let response = match (message, &change) {
            (
                LogMessage::App {
                    shard,
                    epoch,
                    bytes,
                },
                Change::App(Ok(())),
            ) => {
                let applied = Applied {
                    index,
                    shard: *shard,
                    epoch: *epoch,
                    bytes,
                };
                Response::Applied(self.application.apply(applied))
            }
            (_, Change::App(Err(stale))) => Response::Refused {
                shard: stale.shard,
                given: stale.given,
                current: stale.current,
            },
            _ => Response::None,
        };
        (change, response)
    }
}

impl StateMachine {
    pub(super) fn new(
        application: Box<dyn ReplicatedState>,
        stores: Stores,
        facts: mpsc::UnboundedSender<Input>,
        applied: Arc<watch::Sender<u64>>,
        versions: VersionRange,
    ) -> Self {
        let state = State {
            last_applied: None,
            membership: StoredMembership::default(),
            replicated: Replicated::default(),
            application,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            stores,
            facts,
            applied,
            versions,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies an entry of the protocol or of the application, and tells the engine what it did.
    fn apply_normal(&self, id: &LogId, entry: &Entry) -> io::Result<Response> {
        let message = entry.message(self.versions).map_err(|error| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("entry {} of the log cannot be applied: {error}", id.index),
            )
        })?;
        let index = index_of(id);
        let mut state = self.state();
        let (change, response) = guarded("apply", || state.apply(index, term_of(id), &message))?;
        drop(state);
        if !matches!(change, Change::App(_)) {
            // The driver gone: the node is stopping, and nobody asks any more.
            let _ = self.facts.send(Input::Applied {
                index,
                term: term_of(id),
                change,
            });
        }
        Ok(response)
    }

    fn note_applied(&self, id: LogId) {
        self.state().last_applied = Some(id);
        self.applied.send_replace(id.index + 1);
    }
}

/// Calls the application. A panic there leaves its state unknown: the node must not go on with it. (Openraft would:
/// it does not notice that the task which applies entries is gone.)
fn guarded<T>(what: &str, call: impl FnOnce() -> T) -> io::Result<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).map_err(|_| {
        io::Error::other(format!(
            "the application panicked in {what} of its replicated state"
        ))
    })
}

fn decode_snapshot(snapshot: &[u8], versions: VersionRange) -> io::Result<SnapshotBody> {
    let (&version, body) = snapshot
        .split_first()
        .ok_or_else(|| unreadable("it is empty"))?;
    if version < FIRST || version > versions.newest {
        return Err(unreadable(LogMessageError::UnknownVersion {
            found: version,
            newest: versions.newest,
        }));
    }
    postcard::from_bytes(body).map_err(unreadable)
}

fn encode_snapshot(body: &SnapshotBody, version: u8) -> io::Result<Bytes> {
    let bytes = postcard::to_extend(body, vec![version]);
    Ok(bytes.map_err(io::Error::other)?.into())
}

/// Applies a log without raft, to what the snapshot before it holds, and takes a snapshot of what it comes to: for the
/// cluster and the configuration that are given.
pub(super) fn fold(
    application: Box<dyn ReplicatedState>,
    snapshot: Option<&[u8]>,
    entries: impl Iterator<Item = LogEntry>,
    cluster: ClusterId,
    membership: StoredMembership,
) -> io::Result<Bytes> {
    let mut state = State {
        last_applied: None,
        membership: StoredMembership::default(),
        replicated: Replicated::default(),
        application,
    };
    if let Some(snapshot) = snapshot {
        let body = decode_snapshot(snapshot, VersionRange::SPOKEN)?;
        let application = &mut state.application;
        guarded("restore", || application.restore(body.application))?.map_err(unreadable)?;
        state.replicated = Replicated::decode(&body.replicated).map_err(unreadable)?;
    }
    for entry in entries {
        let EntryPayload::Normal(message) = &entry.payload else {
            continue;
        };
        let id = &entry.log_id;
        let message = message
            .message(VersionRange::SPOKEN)
            .map_err(io::Error::other)?;
        guarded("apply", || state.apply(index_of(id), term_of(id), &message))?;
    }
    let application = guarded("snapshot", || state.application.snapshot())?;
    let body = SnapshotBody {
        cluster: Some(cluster),
        membership,
        replicated: state.replicated.encode(),
        application,
    };
    encode_snapshot(&body, state.replicated.version)
}

fn unreadable(error: impl std::fmt::Display) -> io::Error {
    let text = format!("a snapshot cannot be read: {error}");
    io::Error::new(io::ErrorKind::InvalidData, text)
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = Bytes;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let state = self.state();
        Ok((state.last_applied, state.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let id = entry.log_id;
            let response = match entry.payload {
                EntryPayload::Blank => Response::None,
                EntryPayload::Membership(membership) => {
                    self.state().membership = StoredMembership::new(Some(id), membership);
                    Response::None
                }
                EntryPayload::Normal(entry) => self.apply_normal(&id, &entry)?,
            };
            self.note_applied(id);
            if let Some(responder) = responder {
                responder.send(response);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let state = self.state();
        let membership = match mutated(Mutant::SnapshotWithoutMembership) {
            true => StoredMembership::default(),
            false => state.membership.clone(),
        };
        let application = guarded("snapshot", || state.application.snapshot());
        let body = application.map(|application| SnapshotBody {
            cluster: self.stores.origin().map(|origin| origin.cluster),
            membership: membership.clone(),
            replicated: state.replicated.encode(),
            application,
        });
        Builder {
            meta: SnapshotMeta {
                last_log_id: state.last_applied,
                last_membership: membership,
            },
            body,
            version: state.replicated.version,
            stores: self.stores.clone(),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Bytes) -> io::Result<()> {
        let body = decode_snapshot(&snapshot, self.versions)?;
        let own = self.stores.origin().map(|origin| origin.cluster);
        if own.is_some() && body.cluster.is_some() && own != body.cluster {
            return Err(unreadable("it is of another cluster"));
        }
        let replicated = Replicated::decode(&body.replicated).map_err(unreadable)?;
        let last = meta.last_log_id.as_ref().map_or(LogIndex(0), index_of);
        if replicated.latest() > last {
            return Err(unreadable(
                "it holds a map that is newer than its last entry",
            ));
        }
        {
            let mut state = self.state();
            let application = &mut state.application;
            guarded("restore", || application.restore(body.application))?.map_err(unreadable)?;
            state.replicated = replicated.clone();
            state.membership = meta.last_membership.clone();
        }
        let kept = KeptSnapshot {
            meta: meta.clone(),
            bytes: snapshot,
        };
        self.stores.save_snapshot(kept).await?;
        let _ = self.facts.send(Input::Installed(replicated));
        if let Some(id) = meta.last_log_id {
            self.note_applied(id);
        }
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        let kept = self.stores.snapshot().await?;
        Ok(kept.map(|kept| Snapshot {
            meta: kept.meta,
            snapshot: kept.bytes,
        }))
    }
}

/// Writes a snapshot of the state as it was when the builder was made.
pub(crate) struct Builder {
    meta: SnapshotMeta,
    body: io::Result<SnapshotBody>,
    /// The version that the cluster had reached.
    version: u8,
    stores: Stores,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let body = match &self.body {
            Ok(body) => body,
            Err(error) => return Err(io::Error::new(error.kind(), error.to_string())),
        };
        let bytes = encode_snapshot(body, self.version)?;
        let meta = self.meta.clone();
        let kept = KeptSnapshot {
            meta: meta.clone(),
            bytes: bytes.clone(),
        };
        self.stores.save_snapshot(kept).await?;
        Ok(Snapshot {
            meta,
            snapshot: bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::map_encoding::encode_assignment;
    use crate::engine::placement::{Candidate, place};
    use crate::engine::shard_map::ShardMap;
    use crate::ids::{BootId, Instance, NodeId};
    use crate::state::NoState;

    /// A map that was proposed in entry 3.
    fn proposed() -> Replicated {
        let instance = Instance {
            node: NodeId::new("a").unwrap(),
            boot: BootId(1),
        };
        let nodes = [Candidate {
            instance,
            capacity: 1,
        }];
        let assignment = place(&ShardMap::empty(), 4, &nodes, &Default::default());
        let mut replicated = Replicated::default();
        let message = LogMessage::ProposedShardMap {
            base: LogIndex(0),
            assignment: encode_assignment(&assignment, None),
            reason: String::new(),
        };
        replicated.apply(LogIndex(3), Term(1), &message);
        replicated
    }

    /// The entries that follow would be older than the map that they are applied to.
    #[tokio::test]
    async fn a_snapshot_with_a_map_that_is_newer_than_its_entries_is_refused() {
        let body = SnapshotBody {
            cluster: None,
            membership: StoredMembership::default(),
            replicated: proposed().encode(),
            application: Bytes::new(),
        };
        let bytes: Bytes = encode_snapshot(&body, FIRST).unwrap();
        for (last, fits) in [(2, false), (3, true)] {
            let (facts, mut told) = mpsc::unbounded_channel();
            let applied = Arc::new(watch::channel(0).0);
            let stores = Stores::in_memory();
            let mut machine = StateMachine::new(
                Box::new(NoState),
                stores,
                facts,
                applied,
                VersionRange::SPOKEN,
            );
            let meta = SnapshotMeta {
                last_log_id: Some(openraft::LogId {
                    leader_id: openraft::vote::leader_id_std::CommittedLeaderId::new(1),
                    index: last,
                }),
                ..SnapshotMeta::default()
            };
            let installed = machine.install_snapshot(&meta, bytes.clone()).await;
            assert_eq!(installed.is_ok(), fits, "{installed:?}");
            assert_eq!(matches!(told.try_recv(), Ok(Input::Installed(_))), fits);
        }
    }
}
