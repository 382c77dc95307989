//! Openraft as a device beside the engine: its messages go from the network to openraft and back without passing
//! the engine; what it learns arrives there as inputs; a proposal is fire-and-observe.
//!
//! Nothing of openraft is visible outside this module and the runtime seam.
//!
//! | file | what |
//! | --- | --- |
//! | [`types`] | the one type configuration |
//! | [`log_store`] | log, vote and snapshot, behind openraft's storage traits |
//! | [`journal`], [`log_record`], [`durable`] | the log on the disk: writing it, its records, reading it again |
//! | [`recover`] | a new cluster from one directory, when the quorum is lost for good |
//! | [`state_machine`] | applies entries: shard maps and the application's state |
//! | [`network`] | requests to other members |
//! | [`rpc`], [`gate`], [`serve`] | their encoding, which are let in, and what is done with them |
//! | [`facts`] | openraft's metrics as inputs of the engine |
//! | [`change`] | changes of the configuration |
//! | [`compact`] | keeps the log small |

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, ForwardReason};
use openraft::impls::ProgressResponder;
use tokio::sync::{Semaphore, mpsc, watch};

use crate::engine::replicated::StaleEpoch;
use crate::engine::{Input, MemberChange};
use crate::ids::{ClusterId, Epoch, Instance, LogIndex, NodeId, RaftId, ShardId, StoreId, Term};
use crate::limits::{MAX_APP_ENTRY_BYTES, MAX_LOG_MESSAGE_BYTES};
use crate::log_message::LogMessage;
use crate::runtime::{Environment, Task};
use crate::state::ReplicatedState;
use crate::time::Time;
use crate::timing::Timing;
use crate::transport::Peer;
use crate::versions::VersionRange;

mod change;
mod compact;
pub(crate) mod durable;
mod facts;
pub(crate) mod fuzzing;
mod gate;
mod journal;
mod log_record;
mod log_store;
mod network;
pub(crate) mod recover;
mod rpc;
mod serve;
mod state_machine;
mod types;

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "the world's clock, not a node's")]
mod testing;
#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "the world's clock, not a node's")]
mod tests;

pub(crate) use log_store::Stores;
pub(crate) use network::{RaftPeers, RpcFailure};

use gate::Gate;
use network::{Addresses, Network};
use serve::IncomingSnapshot;
use state_machine::StateMachine;
use types::{Entry, Fatal, MemberAddr, Raft, Response};

/// Entries after which a snapshot is taken and the log before it dropped.
pub(crate) const SNAPSHOT_EVERY: u64 = 10_000;
/// Proposals of the engine that are on their way at once; past it they are dropped (the engine tries again).
const MAX_PROPOSALS: usize = 64;
/// How long a member may take to install a snapshot after its last chunk.
const INSTALL_SNAPSHOT: Duration = Duration::from_secs(10);

/// What a device is told at its birth.
#[derive(Clone, Debug)]
pub(crate) struct RaftConfig {
    /// This run of the node.
    pub(crate) instance: Instance,
    /// Identity of its stores.
    pub(crate) store: StoreId,
    /// All times.
    pub(crate) timing: Timing,
    /// The versions of the protocol that it speaks: later entries are not applied.
    pub(crate) versions: VersionRange,
    /// Entries between two snapshots; [`SNAPSHOT_EVERY`] unless there is a reason.
    pub(crate) snapshot_every: u64,
}

/// Why the device did not start.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum RaftStartError {
    /// The times do not fit together; `Timing::check` says which.
    #[error("raft refuses the timing: {0}")]
    Timing(String),
    /// What is in the store cannot be read.
    #[error("the raft store cannot be read: {0}")]
    Store(String),
}

/// Why an application's entry was not applied here.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum AppendError {
    /// It is in the log, but its token was stale when it was applied: it had no effect.
    #[error(transparent)]
    Refused(#[from] StaleEpoch),
    /// This node does not lead, or lost its quorum. Certainly not appended.
    #[error("not the leader")]
    NotLeader(Option<NodeId>),
    /// Leadership changed under it: it may or may not be in the log.
    #[error("whether the entry was committed is unknown")]
    Unknown,
    /// Larger than [`MAX_APP_ENTRY_BYTES`]. Not appended.
    #[error("an entry of {0} bytes; at most {max} are allowed", max = MAX_APP_ENTRY_BYTES)]
    TooLarge(usize),
    /// Raft has stopped on this node. Not appended.
    #[error("raft has stopped")]
    Stopped,
}

/// Raft has stopped on this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("raft has stopped")]
pub(crate) struct Stopped;

/// Openraft, running. Clones are the same device.
#[derive(Clone)]
pub(crate) struct RaftDevice(Arc<Device>);

struct Device {
    me: RaftId,
    timing: Arc<Timing>,
    environment: Environment,
    raft: Raft,
    gate: Gate,
    stores: Stores,
    addresses: Addresses,
    /// Unbounded: the state machine must not wait for the driver, nor the driver for raft. It holds one input for
    /// each entry of the protocol and a few for each heartbeat, all of which the driver takes at once.
    facts: mpsc::UnboundedSender<Input>,
    /// How many entries have been applied.
    applied: watch::Receiver<u64>,
    /// Why raft has stopped, if it did so by itself.
    failure: watch::Sender<Option<String>>,
    proposals: Arc<Semaphore>,
    changing: AtomicBool,
    incoming: Mutex<Option<IncomingSnapshot>>,
    /// Held while a leader's entries or a whole snapshot are taken in: one after the other.
    entries: tokio::sync::Mutex<()>,
    /// Term and time (in nanoseconds) of the last message of a leader.
    heard: [AtomicU64; 2],
    tasks: Mutex<Vec<Task<()>>>,
}

impl RaftDevice {
    /// Starts raft on what the stores hold. Must run inside the node's [`Environment`] scope.
    ///
    /// What is applied, found in the store or heard is told through `facts`, from before this returns.
    pub(crate) async fn start(
        config: RaftConfig,
        stores: Stores,
        state: Box<dyn ReplicatedState>,
        peers: Arc<dyn RaftPeers>,
        facts: mpsc::UnboundedSender<Input>,
    ) -> Result<Self, RaftStartError> {
        let me = RaftId {
            node: config.instance.node.clone(),
            store: config.store,
        };
        let settings = settings(&config).map_err(RaftStartError::Timing)?;
        let timing = Arc::new(config.timing);
        let gate = Gate::new(stores.clone());
        let addresses = Addresses::default();
        let network = Network {
            me: me.clone(),
            peers,
            gate: gate.clone(),
            addresses: addresses.clone(),
            timing: timing.clone(),
        };
        let (applied_sender, applied) = watch::channel(0);
        let machine = StateMachine::new(
            state,
            stores.clone(),
            facts.clone(),
            Arc::new(applied_sender),
            config.versions,
        );
        let raft = Raft::new(
            me.clone(),
            Arc::new(settings),
            network,
            stores.clone(),
            machine,
        )
        .await
        .map_err(|fatal| RaftStartError::Store(fatal.to_string()))?;
        let environment = Environment::current();
        let device = Arc::new(Device {
            me,
            timing,
            environment: environment.clone(),
            raft,
            gate,
            stores: stores.clone(),
            addresses,
            facts,
            applied,
            failure: watch::Sender::new(None),
            proposals: Arc::new(Semaphore::new(MAX_PROPOSALS)),
            changing: AtomicBool::new(false),
            incoming: Mutex::new(None),
            entries: tokio::sync::Mutex::new(()),
            heard: [AtomicU64::new(0), AtomicU64::new(0)],
            tasks: Mutex::new(Vec::new()),
        });
        let facts = environment.spawn(facts::run(device.clone()));
        let compact = environment.spawn(compact::run(device.clone(), stores));
        device.tasks().extend([facts, compact]);
        Ok(Self(device))
    }

    /// What the engine must know before it says anything: the cluster of a log that was found in the store.
    pub(crate) fn found(&self) -> Option<Input> {
        let seen = self.0.raft.metrics().borrow_watched().clone();
        let (cluster, only_own) = facts::initialised(&self.0, &seen)?;
        Some(Input::Initialised { cluster, only_own })
    }

    /// Appends an entry of the protocol, if this node leads in exactly `term` (rule P1). Its outcome is seen in
    /// what is applied, or not at all.
    pub(crate) fn propose(&self, term: Term, message: LogMessage) {
        let Ok(permit) = self.0.proposals.clone().try_acquire_owned() else {
            return;
        };
        let entry = Entry::new(&message);
        if entry.len() > MAX_LOG_MESSAGE_BYTES {
            tracing::error!(bytes = entry.len(), "a proposal is too large for the log");
            return;
        }
        let device = self.0.clone();
        self.0.environment.spawn(async move {
            if let Err(error) = device.write(Some(term), entry).await {
                tracing::debug!(%error, %term, "proposal not applied");
            }
            drop(permit);
        });
    }

    /// Appends an application's entry, on the leader only; returns once it is applied here, with the application's
    /// answer.
    pub(crate) async fn append(
        &self,
        shard: Option<ShardId>,
        epoch: Epoch,
        bytes: Bytes,
    ) -> Result<(LogIndex, Bytes), AppendError> {
        if bytes.len() > MAX_APP_ENTRY_BYTES {
            return Err(AppendError::TooLarge(bytes.len()));
        }
        let message = LogMessage::App {
            shard,
            epoch,
            bytes,
        };
        match self.0.write(None, Entry::new(&message)).await? {
            (index, Response::Applied(answer)) => Ok((index, answer)),
            (index, Response::None) => Ok((index, Bytes::new())),
            (
                _,
                Response::Refused {
                    shard,
                    given,
                    current,
                },
            ) => Err(AppendError::Refused(StaleEpoch {
                shard,
                given,
                current,
            })),
        }
    }

    /// Returns once the entry at `index` has been applied on this node.
    pub(crate) async fn wait_applied(&self, index: LogIndex) -> Result<(), Stopped> {
        let mut applied = self.0.applied.clone();
        let reached = applied.wait_for(|count| *count > index.0).await;
        reached.map(|_| ()).map_err(|_| Stopped)
    }

    /// Begins the log of a new cluster with these voters, of which this node must be one. Answered by
    /// [`Input::Initialised`] once the entry is in the log; not at all if the log is not empty.
    pub(crate) fn initialise(&self, cluster: ClusterId, members: BTreeMap<RaftId, SocketAddr>) {
        let device = self.0.clone();
        self.0.environment.spawn(async move {
            let fixed = device.gate.accept(cluster) && device.fix_own(cluster);
            if !fixed {
                tracing::warn!(%cluster, "the log belongs to another cluster: not initialised");
                return;
            }
            let members: BTreeMap<RaftId, MemberAddr> = members
                .into_iter()
                .map(|(id, addr)| (id, MemberAddr(addr)))
                .collect();
            if let Err(error) = device.raft.initialize(members).await {
                tracing::warn!(%error, %cluster, "not initialised");
            }
        });
    }

    /// Lets in messages of this cluster and of no other. Without effect once the log holds entries.
    pub(crate) fn accept(&self, cluster: ClusterId) {
        if !self.0.gate.accept(cluster) {
            tracing::warn!(%cluster, "the log belongs to another cluster");
        }
    }

    /// Changes the configuration, by one joint change if voters change. Answered by [`Input::MembersChanged`].
    pub(crate) fn change_members(&self, change: MemberChange) {
        let device = self.0.clone();
        self.0.environment.spawn(async move {
            let done = device.change_members(change).await;
            if !done {
                // Whoever asks again at once must not spin.
                device.environment.sleep(device.timing.heartbeat).await;
            }
            device.tell(Input::MembersChanged { done });
        });
    }

    /// Hands leadership to another voter. Without effect if this node does not lead, or `to` is no voter that answered
    /// a heartbeat within the shortest election timeout.
    pub(crate) fn transfer_leadership(&self, to: RaftId) {
        let device = self.0.clone();
        self.0
            .environment
            .spawn(async move { device.transfer_leadership(to).await });
    }

    /// Answers a request of another member: one frame in, one out.
    pub(crate) async fn handle_rpc(&self, from: &Peer, request: Bytes) -> Bytes {
        self.0.serve(from, &request).await.encode()
    }

    /// Why raft stopped by itself: the store failed, or an entry cannot be applied. The node must stop.
    pub(crate) fn failure(&self) -> watch::Receiver<Option<String>> {
        self.0.failure.subscribe()
    }

    /// Stops raft. The stores may then be used for another device.
    pub(crate) async fn shutdown(&self) {
        for task in self.0.tasks().drain(..) {
            task.abort();
        }
        if self.0.raft.shutdown().await.is_err() {
            tracing::error!("a task of raft panicked");
        }
    }
}

impl Device {
    fn tasks(&self) -> MutexGuard<'_, Vec<Task<()>>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn incoming(&self) -> MutexGuard<'_, Option<IncomingSnapshot>> {
        self.incoming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The driver gone: the node is stopping, and nobody asks any more.
    fn tell(&self, input: Input) {
        let _ = self.facts.send(input);
    }

    fn fix_own(&self, cluster: ClusterId) -> bool {
        self.gate.fix(cluster, true).unwrap_or_else(|error| {
            self.note_failure(error.to_string());
            false
        })
    }

    fn note_heard(&self, term: Term) {
        let now = self.environment.now();
        self.heard[0].store(term.0, Ordering::Relaxed);
        self.heard[1].store(now.0, Ordering::Relaxed);
    }

    /// When the leader of `term` was last heard of.
    fn heard(&self, term: Term) -> Time {
        let [of, at] = &self.heard;
        if of.load(Ordering::Relaxed) == term.0 {
            Time(at.load(Ordering::Relaxed))
        } else {
            Time::default()
        }
    }

    fn note_fatal(&self, fatal: &Fatal) {
        if !matches!(fatal, Fatal::Stopped) {
            self.note_failure(fatal.to_string());
        }
    }

    fn note_failure(&self, reason: String) {
        tracing::error!(%reason, "raft stops");
        self.failure.send_replace(Some(reason));
    }

    /// Writes an entry if this node leads (in `term`, if one is given); returns once it is applied here.
    ///
    /// A leader may write once a quorum has answered it: just elected, it has to wait for that a moment.
    async fn write(
        &self,
        term: Option<Term>,
        entry: Entry,
    ) -> Result<(LogIndex, Response), AppendError> {
        let deadline = self.environment.now() + self.timing.election_max;
        let mut metrics = self.raft.metrics();
        loop {
            let refused_at = metrics.borrow_and_update().last_quorum_acked;
            let (responder, outcome) = ProgressResponder::complete_only();
            let mut write = self.raft.write(entry.clone()).responder(responder);
            if let Some(term) = term {
                write = write.with_leader(openraft::vote::leader_id_std::CommittedLeaderId::new(
                    term.0,
                ));
            }
            write.await.map_err(|_| AppendError::Stopped)?;
            // Raft ended with the entry in its hands.
            let outcome = outcome.await.map_err(|_| AppendError::Unknown)?;
            let forward = match outcome {
                Ok(response) => return Ok((LogIndex(response.log_id.index), response.data)),
                Err(ClientWriteError::ForwardToLeader(forward)) => forward,
                // Not "forward", whatever its helpers say: the entry may be in the next leader's log.
                Err(_) => return Err(AppendError::Unknown),
            };
            let left = deadline.since(self.environment.now());
            if forward.reason != ForwardReason::LeaseExpired || left.is_zero() {
                let leader = forward.leader_id.filter(|leader| *leader != self.me);
                return Err(AppendError::NotLeader(leader.map(|leader| leader.node)));
            }
            let acked = async {
                while metrics.changed().await.is_ok() {
                    let seen = metrics.borrow_and_update();
                    if seen.last_quorum_acked != refused_at || seen.state != ServerState::Leader {
                        return;
                    }
                }
            };
            let _ = self.environment.timeout(left, acked).await;
        }
    }

    async fn transfer_leadership(&self, to: RaftId) {
        let fit = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            let is_voter = metrics.membership_config.voter_ids().any(|id| id == to);
            let answered = metrics.heartbeat.as_ref().and_then(|acks| *acks.get(&to)?);
            let lately = self.environment.now() - self.timing.election_min;
            is_voter && answered.is_some_and(|at| at.into_inner().0 >= lately)
        };
        // Openraft does not look, and a leader that has begun to hand over never leads again in its term.
        if !fit || to == self.me {
            tracing::info!(%to, "no voter that answers: leadership stays");
        } else if self.raft.trigger().transfer_leader(to).await.is_err() {
            tracing::debug!("raft has stopped: leadership not transferred");
        }
    }
}

/// Openraft's configuration.
fn settings(config: &RaftConfig) -> Result<openraft::Config, String> {
    let timing = &config.timing;
    let ms = |span: Duration| span.as_millis() as u64;
    let settings = openraft::Config {
        cluster_name: config.instance.node.to_string(),
        heartbeat_interval: ms(timing.heartbeat),
        election_timeout_min: ms(timing.election_min),
        election_timeout_max: ms(timing.election_max),
        quorum_loss_probe_interval: Some(ms(timing.quorum_loss_probe)),
        enable_pre_vote: Some(true),
        enable_leader_restore: Some(false),
        allow_log_reversion: Some(false),
        removed_leader_step_down: openraft::StepDownPolicy::After(ms(timing.election_max)),
        snapshot_policy: openraft::SnapshotPolicy::LogsSinceLast(config.snapshot_every),
        max_in_snapshot_log_to_keep: config.snapshot_every / 2,
        replication_lag_threshold: config.snapshot_every * 2,
        install_snapshot_timeout: ms(INSTALL_SNAPSHOT),
        backoff: format!(
            "{}ms ...{}ms",
            ms(timing.heartbeat),
            ms(timing.quorum_loss_probe)
        ),
        ..openraft::Config::default()
    };
    settings.validate().map_err(|error| error.to_string())
}
