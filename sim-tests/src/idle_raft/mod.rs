//! Raft alone: five openraft nodes on simulated hosts, with nothing of funk above them, doing nothing but keeping a
//! leader. The speed of the simulated stack is compared with it.

mod network;
mod store;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use funk::timing::Timing;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::impls::EmptyNode;
use openraft::{Config, SnapshotPolicy};
use openraft_rt::deterministic_rng::DeterministicRng;
use openraft_rt_tokio::TokioRuntime;

use network::Network;
use store::{Log, Machine};

/// Tokio as it is, with chance that follows from the seed.
type Runtime = DeterministicRng<TokioRuntime>;

openraft::declare_raft_types!(
    /// Entries that say nothing.
    pub(crate) TypeConfig:
        D = u64,
        R = (),
        NodeId = u64,
        Node = EmptyNode,
        Term = u64,
        LeaderId = openraft::impls::leader_id_std::LeaderId<Self::Term, Self::NodeId>,
        AsyncRuntime = Runtime,
);

type Raft = openraft::Raft<TypeConfig, Machine>;

/// Turmoil wants an end; nobody simulates longer than this.
const LONGEST_RUN: Duration = Duration::from_secs(1_000_000);
/// How long the first election may take.
const FORMATION: Duration = Duration::from_secs(10);

/// A cluster of bare raft nodes.
pub struct IdleRaft {
    sim: turmoil::Sim<'static>,
    tick: Duration,
    rafts: Arc<Mutex<BTreeMap<u64, Raft>>>,
    messages: Arc<AtomicU64>,
}

impl fmt::Debug for IdleRaft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdleRaft")
            .field("elapsed", &self.elapsed())
            .finish_non_exhaustive()
    }
}

impl IdleRaft {
    /// Nodes that are about to start, with raft's part of the default timing and messages that take a millisecond.
    pub fn new(seed: u64, nodes: u64, tick: Duration) -> Self {
        let mut sim = turmoil::Builder::new()
            .rng_seed(seed)
            .epoch(UNIX_EPOCH)
            .simulation_duration(LONGEST_RUN)
            .tick_duration(tick)
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(Duration::from_millis(1))
            .tcp_capacity(1_024)
            .build();
        let (rafts, messages) = (Arc::default(), Arc::default());
        for id in 1..=nodes {
            let rafts: Arc<Mutex<BTreeMap<u64, Raft>>> = Arc::clone(&rafts);
            let messages: Arc<AtomicU64> = Arc::clone(&messages);
            sim.host(network::host(id), move || {
                let network = Network {
                    messages: messages.clone(),
                };
                let live = live(id, nodes, network, rafts.clone());
                Runtime::scope(seed.wrapping_mul(1_000) + id, live)
            });
        }
        Self {
            sim,
            tick,
            rafts,
            messages,
        }
    }

    /// Goes on until all nodes follow one leader.
    ///
    /// # Errors
    ///
    /// That there is none within ten seconds, or why a node failed.
    pub fn form(&mut self) -> Result<(), String> {
        let end = self.elapsed() + FORMATION;
        while self.elapsed() < end {
            self.run_for(self.tick)?;
            if self.leader().is_some() {
                return Ok(());
            }
        }
        Err(format!("no leader within {FORMATION:?}"))
    }

    /// Goes on for a while of simulated time.
    ///
    /// # Errors
    ///
    /// Why a node failed.
    pub fn run_for(&mut self, span: Duration) -> Result<(), String> {
        let end = self.elapsed() + span;
        while self.elapsed() < end {
            self.sim.step().map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Whom all nodes follow, if they agree.
    pub fn leader(&self) -> Option<u64> {
        let rafts = self.rafts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut leaders = rafts
            .values()
            .map(|raft| raft.metrics().borrow_watched().current_leader);
        let first = leaders.next()??;
        leaders.all(|leader| leader == Some(first)).then_some(first)
    }

    /// Simulated time since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.sim.elapsed()
    }

    /// Requests and answers sent so far.
    pub fn messages(&self) -> u64 {
        self.messages.load(Ordering::Relaxed)
    }
}

/// A node, for ever. The first begins the log of all.
async fn live(
    id: u64,
    nodes: u64,
    network: Network,
    rafts: Arc<Mutex<BTreeMap<u64, Raft>>>,
) -> turmoil::Result {
    let listener = network::listen().await?;
    let messages = network.messages.clone();
    let config = Arc::new(config().validate()?);
    let raft = Raft::new(id, config, network, Log::default(), Machine::default()).await?;
    if id == 1 {
        let members = (1..=nodes).map(|id| (id, EmptyNode::new()));
        let members: BTreeMap<u64, EmptyNode> = members.collect();
        raft.initialize(members).await?;
    }
    rafts
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(id, raft.clone());
    network::serve(listener, raft, messages).await
}

/// The part of the default timing that is raft's, as funk hands it to openraft.
fn config() -> Config {
    let timing = Timing::lan();
    let ms = |span: Duration| span.as_millis() as u64;
    Config {
        heartbeat_interval: ms(timing.heartbeat),
        election_timeout_min: ms(timing.election_min),
        election_timeout_max: ms(timing.election_max),
        quorum_loss_probe_interval: Some(ms(timing.quorum_loss_probe)),
        enable_pre_vote: Some(true),
        snapshot_policy: SnapshotPolicy::Never,
        ..Config::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_nodes_keep_a_leader_and_do_little_else() {
        for tick in [1, 5] {
            let mut raft = IdleRaft::new(1, 5, Duration::from_millis(tick));
            raft.form().unwrap();
            raft.run_for(Duration::from_secs(1)).unwrap();
            let (leader, before) = (raft.leader(), raft.messages());
            raft.run_for(Duration::from_secs(10)).unwrap();
            assert!(leader.is_some());
            assert_eq!(raft.leader(), leader);
            // A heartbeat every 20 ms to each of four, and its answer.
            let messages = (raft.messages() - before) / 10;
            assert!((300..=500).contains(&messages), "{messages} a second");
        }
    }
}
