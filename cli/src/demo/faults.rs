//! The faults, one after the other, and when all is well again after each.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use funk::NodeId;
use funk::engine::placement::minimum_moves;
use funk::engine::shard_map::ShardMap;
use funk::ids::{Epoch, ShardId};
use funk::time::Time;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::fleet::{Fleet, FleetError, LiveNode};
use super::measure::now;
use super::measure::windows::WindowId;
use super::options::Preset;
use super::probe::{Probes, Touched};
use super::progress::Progress;

/// How often it is looked whether all is well again.
const LOOK: Duration = Duration::from_millis(1);
/// Undisturbed time before the first fault.
const WARM_UP: Duration = Duration::from_secs(1);

/// What is done to the cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// The power of a node that does not lead is cut.
    KillNode,
    /// It comes back, with nothing remembered.
    RestartNode,
    /// The leader's power is cut.
    KillLeader,
    /// It comes back, with nothing remembered.
    RestartLeader,
    /// The leader hands the lead to another node.
    StepDown,
    /// A node leaves in order.
    Leave,
    /// It comes back.
    Return,
}

impl Kind {
    /// All faults in the order in which they take place.
    pub(crate) const SCHEDULE: [Self; 7] = [
        Self::KillNode,
        Self::RestartNode,
        Self::KillLeader,
        Self::RestartLeader,
        Self::StepDown,
        Self::Leave,
        Self::Return,
    ];

    fn is_kill(self) -> bool {
        matches!(self, Self::KillNode | Self::KillLeader)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::KillNode => "kill a node",
            Self::RestartNode => "restart it",
            Self::KillLeader => "kill the leader",
            Self::RestartLeader => "restart it",
            Self::StepDown => "leader steps down",
            Self::Leave => "a node leaves",
            Self::Return => "it comes back",
        })
    }
}

/// Why a fault did not take place, or was not over in time.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FaultError {
    #[error("the cluster was not ready for it within {0:?}: one map, one leader, enough voters")]
    NotReady(Duration),
    #[error("{node} did not end within {patience:?}")]
    NotStopped { node: NodeId, patience: Duration },
    #[error("no map of exactly the live nodes was in force on all of them within {0:?}")]
    NotSettled(Duration),
    #[error("{0} shards did not answer")]
    Unanswered(usize),
    #[error("peers of {node}, whose power was cut, saw {frames} close frames")]
    CloseFrame { node: NodeId, frames: u64 },
    #[error(transparent)]
    Start(#[from] FleetError),
}

/// A fault that took place and is over.
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    pub(crate) node: NodeId,
    /// When it happened.
    pub(crate) at: Time,
    /// When every shard was answered again.
    pub(crate) recovered: Time,
    pub(crate) window: WindowId,
    /// How often shards changed their node.
    pub(crate) moves: usize,
    pub(crate) minimum_moves: usize,
    /// Which shards changed their node, by number.
    pub(crate) moved: Vec<bool>,
}

/// Runs the schedule.
pub(crate) struct Faults<'a> {
    pub(crate) fleet: &'a mut Fleet,
    pub(crate) probes: Probes,
    pub(crate) preset: Preset,
    pub(crate) progress: &'a mut Progress,
    pub(crate) seed: u64,
}

/// Follows the map of one node and counts moves from each committed map to the next.
struct Observer {
    node: Arc<LiveNode>,
    before: Arc<ShardMap>,
    last: Arc<ShardMap>,
    moves: usize,
    moved: Vec<bool>,
}

impl Observer {
    fn new(node: Arc<LiveNode>) -> Self {
        let map = node.cluster.shard_map();
        Self {
            node,
            before: map.clone(),
            moved: vec![false; map.shards() as usize],
            last: map,
            moves: 0,
        }
    }

    fn look(&mut self) {
        let map = self.node.cluster.shard_map();
        if map.index() == self.last.index() {
            return;
        }
        for shard in changed_owner(&self.last, &map) {
            self.moves += 1;
            self.moved[shard.0 as usize] = true;
        }
        self.last = map;
    }

    fn moved_shards(&self) -> Vec<ShardId> {
        let moved = self.moved.iter().zip(0..).filter(|(moved, _)| **moved);
        moved.map(|(_, shard)| ShardId(shard)).collect()
    }
}

/// Shards that are on another node (by name) in the second map.
fn changed_owner<'a>(
    before: &'a ShardMap,
    after: &'a ShardMap,
) -> impl Iterator<Item = ShardId> + 'a {
    let name = |map: &'a ShardMap, shard| map.owner(shard).map(|owner| &owner.node);
    let shards = (0..after.shards()).map(ShardId);
    shards.filter(move |shard| name(before, *shard) != name(after, *shard))
}

impl Faults<'_> {
    /// Waits until the cluster is as a fault should find it, with one map, one leader and enough voters. Who leads.
    pub(crate) async fn ready(&self) -> Result<NodeId, FaultError> {
        let patience = self.preset.patience();
        let wait = async {
            loop {
                let settled = self.fleet.settled_map().is_some() && self.fleet.has_voters();
                if let Some(leader) = self.fleet.leader().filter(|_| settled) {
                    return leader;
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        let waited = tokio::time::timeout(patience, wait).await;
        waited.map_err(|_| FaultError::NotReady(patience))
    }

    /// All faults, spread over `span`; each waits for the one before to be over. Ends at the first that fails.
    pub(crate) async fn run(
        &mut self,
        begin: Time,
        span: Duration,
    ) -> (Vec<Fault>, Option<(Kind, FaultError)>) {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let slot = span.saturating_sub(WARM_UP * 2) / Kind::SCHEDULE.len() as u32;
        let mut over: Vec<Fault> = Vec::new();
        for (kind, number) in Kind::SCHEDULE.into_iter().zip(0..) {
            let due = begin + WARM_UP + slot * number;
            tokio::time::sleep(due.since(now())).await;
            self.progress
                .say("waiting until the cluster is ready for the next fault");
            let victim = over.last().map(|fault| fault.node.clone());
            match self.one(kind, victim, &mut rng).await {
                Ok(fault) => over.push(fault),
                Err(error) => return (over, Some((kind, error))),
            }
            self.progress.say("undisturbed");
            tokio::time::sleep(self.preset.rest()).await;
        }
        (over, None)
    }

    async fn one(
        &mut self,
        kind: Kind,
        former: Option<NodeId>,
        rng: &mut ChaCha8Rng,
    ) -> Result<Fault, FaultError> {
        let victim = match (kind, former) {
            (Kind::RestartNode | Kind::RestartLeader | Kind::Return, Some(former)) => former,
            (Kind::KillLeader | Kind::StepDown, _) => self.ready().await?,
            _ => {
                let leader = self.ready().await?;
                self.choose(&leader, rng)
            }
        };
        let others = self
            .fleet
            .live()
            .into_iter()
            .filter(|node| *node.name() != victim);
        let mut others: Vec<_> = others.collect();
        let observer = Observer::new(others.swap_remove(rng.random_range(0..others.len())));
        self.progress.say(&format!("{kind}: {victim}"));

        let prober = self.probes.start(observer.before.shards(), rng.random());
        let fault = self.strike(kind, victim, observer, rng.random()).await;
        if fault.is_ok() {
            // Let the gets of the fault's last moment end while others are still sent.
            tokio::time::sleep(self.preset.rest()).await;
        }
        drop(prober);
        fault
    }

    /// The fault itself, and the wait until it is over.
    async fn strike(
        &mut self,
        kind: Kind,
        victim: NodeId,
        mut observer: Observer,
        seed: u64,
    ) -> Result<Fault, FaultError> {
        let patience = self.preset.patience();
        let shards_of = |map: &ShardMap| -> Vec<ShardId> {
            let member = map.member(&victim).map(|member| member.instance.clone());
            member
                .iter()
                .flat_map(|owner| map.owned_by(owner))
                .map(|(shard, _)| shard)
                .collect()
        };
        let mut first = None;
        let mut ends: Option<tokio::task::JoinHandle<()>> = None;
        let frames = self.close_frames(&victim);
        let at = now();
        let window = self.probes.requests.windows.open(at);
        match kind {
            Kind::KillNode | Kind::KillLeader => {
                ends = self.fleet.cut(&victim).map(tokio::spawn);
                let (probes, lost) = (self.probes.clone(), shards_of(&observer.before));
                first = Some(tokio::spawn(async move { probes.touch(&lost, seed).await }));
            }
            Kind::RestartNode | Kind::RestartLeader | Kind::Return => {
                self.fleet.restart(&victim).await?;
            }
            Kind::StepDown => {
                let leader = self
                    .fleet
                    .live()
                    .into_iter()
                    .find(|node| *node.name() == victim);
                if let Some(leader) = leader {
                    leader.cluster.step_down();
                }
            }
            Kind::Leave => ends = self.fleet.leave(&victim).map(tokio::spawn),
        }

        let is_over = |fleet: &Fleet| {
            let other_leader =
                kind != Kind::StepDown || fleet.leader().is_some_and(|leader| leader != victim);
            other_leader && fleet.settled_map().is_some()
        };
        while !is_over(self.fleet) {
            if now().since(at) > patience {
                return Err(FaultError::NotSettled(patience));
            }
            observer.look();
            tokio::time::sleep(LOOK).await;
        }
        let settled = now();
        observer.look();

        let mut touched = match first {
            Some(first) => first.await.unwrap_or_else(|_| Touched {
                unanswered: 1,
                ..Touched::default()
            }),
            None => Touched::default(),
        };
        let again = unanswered_by_new_owner(&observer, &touched.answers);
        let second = self.probes.touch(&again, seed ^ 1).await;
        touched.unanswered += second.unanswered;
        if touched.unanswered > 0 {
            return Err(FaultError::Unanswered(touched.unanswered));
        }
        // The shards of a dead node are back when they answer; other faults are over when the cluster says so, too.
        let said = if kind.is_kill() { None } else { Some(settled) };
        let recovered = said
            .max(touched.last_answer)
            .max(second.last_answer)
            .unwrap_or(settled);
        self.probes.requests.windows.close(window, recovered);

        if let Some(ends) = ends {
            let ended = tokio::time::timeout(patience, ends).await;
            ended
                .map_err(|_| FaultError::NotStopped {
                    node: victim.clone(),
                    patience,
                })?
                .ok();
        }
        let frames = self.close_frames(&victim).saturating_sub(frames);
        if kind.is_kill() && frames > 0 {
            return Err(FaultError::CloseFrame {
                node: victim,
                frames,
            });
        }
        let nodes: Vec<NodeId> = self
            .fleet
            .live()
            .iter()
            .map(|node| node.name().clone())
            .collect();
        Ok(Fault {
            kind,
            node: victim,
            at,
            recovered,
            window,
            moves: observer.moves,
            minimum_moves: minimum_moves(&observer.before, &nodes),
            moved: observer.moved,
        })
    }

    /// Close frames that all but this node have got so far.
    fn close_frames(&self, except: &NodeId) -> u64 {
        let others = self
            .fleet
            .live()
            .into_iter()
            .filter(|node| node.name() != except);
        others.map(|node| node.closed_by_peer()).sum()
    }

    fn choose(&self, leader: &NodeId, rng: &mut ChaCha8Rng) -> NodeId {
        let followers = self
            .fleet
            .live()
            .into_iter()
            .map(|node| node.name().clone());
        let mut followers: Vec<NodeId> = followers.filter(|name| name != leader).collect();
        followers.swap_remove(rng.random_range(0..followers.len()))
    }
}

/// Shards that moved and whose new owner has not been heard yet.
fn unanswered_by_new_owner(observer: &Observer, answers: &[(ShardId, Epoch)]) -> Vec<ShardId> {
    let map = &observer.last;
    let mut heard = vec![false; map.shards() as usize];
    for (shard, epoch) in answers {
        heard[shard.0 as usize] |= *epoch >= map.epoch(*shard);
    }
    let moved = observer.moved_shards().into_iter();
    moved.filter(|shard| !heard[shard.0 as usize]).collect()
}
