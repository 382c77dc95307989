//! Gets of the demo's own around faults: to every shard that a fault concerns, and to random ones all the while.

use std::sync::Arc;
use std::time::Duration;

use funk::ids::{Epoch, ShardId};
use funk::time::Time;
use funk::{Answer, CallError, Request};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};

use super::fleet::{Callers, LiveNode};
use super::load::Requests;
use super::measure::now;
use crate::counter::protocol::{GET, Refusal};

/// Time between two probes of random shards: about what a stall of a millisecond needs to be seen.
const PERIOD: Duration = Duration::from_millis(1);
/// Gets under way at once when many shards are touched.
const LANES: usize = 32;
/// Shards touched at most, spread evenly: more would measure the machine.
const MAX_TOUCHED: usize = 8_192;
/// Pause before a probe is sent again from elsewhere.
const PAUSE: Duration = Duration::from_millis(1);

/// What a probe needs.
#[derive(Clone)]
pub(crate) struct Probes {
    pub(crate) callers: Callers,
    pub(crate) requests: Arc<Requests>,
    pub(crate) deadline: Duration,
}

/// Shards that were asked, and what they said.
#[derive(Default)]
pub(crate) struct Touched {
    /// When the last of them answered; `None`: none was asked.
    pub(crate) last_answer: Option<Time>,
    /// Token of each answer.
    pub(crate) answers: Vec<(ShardId, Epoch)>,
    /// How many did not answer within the deadline.
    pub(crate) unanswered: usize,
}

impl Touched {
    fn merge(&mut self, other: Self) {
        self.last_answer = self.last_answer.max(other.last_answer);
        self.answers.extend(other.answers);
        self.unanswered += other.unanswered;
    }
}

impl Probes {
    /// Asks each of these shards once and waits for all answers.
    pub(crate) async fn touch(&self, shards: &[ShardId], seed: u64) -> Touched {
        let stride = shards.len().div_ceil(MAX_TOUCHED).max(1);
        let chosen: Vec<ShardId> = shards.iter().copied().step_by(stride).collect();
        let mut lanes = Vec::new();
        for first in 0..LANES.min(chosen.len()) {
            let (probes, seed) = (self.clone(), seed.wrapping_add(first as u64));
            let lane: Vec<ShardId> = chosen[first..].iter().copied().step_by(LANES).collect();
            lanes.push(tokio::spawn(
                async move { probes.touch_lane(lane, seed).await },
            ));
        }
        let mut touched = Touched::default();
        for lane in lanes {
            match lane.await {
                Ok(lane) => touched.merge(lane),
                Err(_) => touched.unanswered += 1,
            }
        }
        touched
    }

    async fn touch_lane(&self, shards: Vec<ShardId>, seed: u64) -> Touched {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut touched = Touched::default();
        for shard in shards {
            match self.probe(shard, &mut rng).await {
                Some((answer, at)) => {
                    touched.last_answer = touched.last_answer.max(Some(at));
                    touched.answers.push((shard, answer.epoch));
                }
                None => touched.unanswered += 1,
            }
        }
        touched
    }

    /// One get, from a random live node; `None`: no answer within the deadline. That counts as a failed request.
    async fn probe(&self, shard: ShardId, rng: &mut ChaCha8Rng) -> Option<(Answer, Time)> {
        let start = now();
        let deadline = Instant::now() + self.deadline;
        loop {
            let time_left = deadline.saturating_duration_since(Instant::now());
            let answer = match self.callers.choose(rng.random()) {
                Some(node) => ask(&node, shard, time_left).await,
                None => Err("no node is there to ask from".to_owned()),
            };
            let reason = match answer {
                Ok(Some(answer)) => {
                    let end = now();
                    self.requests.windows.note_get(shard, start, end);
                    return Some((answer, end));
                }
                // The caller was killed, or the guard lapsed: once more, from elsewhere.
                Ok(None) if Instant::now() + PAUSE < deadline => {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                Ok(None) => "it was certainly not executed in time".to_owned(),
                Err(reason) => reason,
            };
            self.requests.windows.note_get(shard, start, now());
            self.requests
                .note_failure(format!("probe of shard {shard}: {reason}"));
            return None;
        }
    }

    /// Probes random shards until the result is dropped.
    pub(crate) fn start(&self, shards: u32, seed: u64) -> Prober {
        let probes = self.clone();
        Prober(tokio::spawn(async move {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mut ticks = tokio::time::interval(PERIOD);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            loop {
                ticks.tick().await;
                let (probes, shard) = (probes.clone(), ShardId(rng.random_range(0..shards)));
                let mut rng = ChaCha8Rng::seed_from_u64(rng.random());
                tokio::spawn(async move { probes.probe(shard, &mut rng).await });
            }
        }))
    }
}

/// `Ok(None)`: certainly not answered, and worth another try.
async fn ask(
    node: &Arc<LiveNode>,
    shard: ShardId,
    time_left: Duration,
) -> Result<Option<Answer>, String> {
    let _in_flight = node.enter();
    let request = Request::shard(shard, GET).idempotent().deadline(time_left);
    let result = tokio::select! {
        biased;
        () = node.was_cut() => return Ok(None),
        result = node.cluster.call(request) => result,
    };
    match result {
        Ok(answer) => Ok(Some(answer)),
        Err(_) if node.is_cut() => Ok(None),
        Err(CallError::Service(refusal))
            if Refusal::decode(&refusal) == Some(Refusal::NotExecuted) =>
        {
            Ok(None)
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Probes under way. Those that were sent are still answered after it is dropped.
pub(crate) struct Prober(JoinHandle<()>);

impl Drop for Prober {
    fn drop(&mut self) {
        self.0.abort();
    }
}
