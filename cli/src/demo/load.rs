//! The load: open loop, at a fixed rate, from random nodes for random keys.
//!
//! Requests are sent when they are due, whether earlier ones were answered or not; the number in flight is bounded,
//! and what is due beyond the bound is skipped and counted. A request ends in one of these ways:
//!
//! - *ok*: answered.
//! - *ambiguous*: an increment that may have been executed or not. Increments are never sent twice.
//! - *abandoned*: the node it was sent from was killed meanwhile, so that nobody was left to hear the answer. That is
//!   the caller's death, not a failure of the cluster; an increment counts as ambiguous then, a get not at all.
//! - *failed*: everything else; for a get, no answer before the deadline.
//!
//! What the service certainly did not execute is asked for again until the deadline, as any client would.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use funk::ids::ShardId;
use funk::key::shard_of;
use funk::{CallError, Request};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};

use super::fleet::{Callers, LiveNode};
use super::measure::counts::Counts;
use super::measure::histogram::Histogram;
use super::measure::now;
use super::measure::windows::Windows;
use super::options::Options;
use crate::counter::protocol::{self, GET, INCREMENT, Refusal};

/// Counters that the load uses.
const KEYS: usize = 4_096;
/// How often it is looked whether requests are due.
const TICK: Duration = Duration::from_millis(1);
/// Pause before a request that was certainly not executed is sent again.
const PAUSE: Duration = Duration::from_millis(2);
/// Descriptions of failures that are kept.
const MAX_REASONS: usize = 5;
/// Gets under way at once when all counters are read at the end.
const READERS: usize = 32;

/// What requests share.
pub(crate) struct Requests {
    callers: Callers,
    names: Vec<Bytes>,
    shards: Vec<ShardId>,
    deadline: Duration,
    pub(crate) counts: Counts,
    pub(crate) windows: Arc<Windows>,
    results: Mutex<Results>,
}

/// What became of the requests.
#[derive(Clone, Default)]
pub(crate) struct Results {
    pub(crate) ok: u64,
    pub(crate) failed: u64,
    pub(crate) ambiguous: u64,
    /// Gets whose caller was killed.
    pub(crate) abandoned: u64,
    /// Requests that were due while too many were in flight.
    pub(crate) skipped: u64,
    /// Times that a request was sent again because it was certainly not executed.
    pub(crate) asked_again: u64,
    pub(crate) get: Histogram,
    pub(crate) increment: Histogram,
    /// Why the first few failed.
    pub(crate) reasons: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Get,
    Increment,
}

#[derive(Debug)]
enum Outcome {
    Ok(u64),
    Ambiguous,
    Abandoned,
    Failed(String),
}

impl Requests {
    pub(crate) fn new(options: &Options, callers: Callers, windows: Arc<Windows>) -> Self {
        let names: Vec<Bytes> = (0..KEYS).map(|key| format!("key-{key}").into()).collect();
        Self {
            callers,
            shards: names
                .iter()
                .map(|name| shard_of(name, options.shards))
                .collect(),
            names,
            deadline: options.preset.deadline(),
            counts: Counts::new(KEYS),
            windows,
            results: Mutex::default(),
        }
    }

    /// What has become of the requests so far.
    pub(crate) fn results(&self) -> Results {
        self.locked().clone()
    }

    /// How many were answered so far.
    pub(crate) fn answered(&self) -> u64 {
        self.locked().ok
    }

    /// A request failed: one of the load, or a probe.
    pub(crate) fn note_failure(&self, reason: String) {
        let mut results = self.locked();
        results.failed += 1;
        if results.reasons.len() < MAX_REASONS {
            results.reasons.push(reason);
        }
    }

    /// One request of the load, from beginning to end.
    async fn run(&self, node: &Arc<LiveNode>, key: usize, kind: Kind) {
        let _in_flight = node.enter();
        let floor = self.counts.floor(key);
        if kind == Kind::Increment {
            self.counts.sent(key);
        }
        let start = now();
        let outcome = tokio::select! {
            biased;
            () = node.was_cut() => Outcome::Abandoned,
            outcome = self.ask(node, key, kind) => outcome,
        };
        let end = now();
        let outcome = match outcome {
            // What a node without power tells its own callers is heard by nobody.
            Outcome::Failed(_) | Outcome::Ambiguous if node.is_cut() => Outcome::Abandoned,
            outcome => outcome,
        };
        if kind == Kind::Get && !matches!(outcome, Outcome::Abandoned) {
            self.windows.note_get(self.shards[key], start, end);
        }
        self.windows.note_load(self.shards[key], start, end);
        let latency_us = u64::try_from(end.since(start).as_micros()).unwrap_or(u64::MAX);
        match (outcome, kind) {
            (Outcome::Ok(value), Kind::Get) => {
                self.counts.observed(key, floor, value);
                let mut results = self.locked();
                results.ok += 1;
                results.get.record(latency_us);
            }
            (Outcome::Ok(_), Kind::Increment) => {
                self.counts.acked(key);
                self.windows.note_ack(end);
                let mut results = self.locked();
                results.ok += 1;
                results.increment.record(latency_us);
            }
            (Outcome::Ambiguous | Outcome::Abandoned, Kind::Increment) => {
                self.counts.ambiguous(key);
                self.locked().ambiguous += 1;
            }
            (Outcome::Abandoned, Kind::Get) => self.locked().abandoned += 1,
            (Outcome::Ambiguous, Kind::Get) => {
                self.note_failure("a get is never ambiguous".to_owned())
            }
            (Outcome::Failed(reason), _) => {
                self.note_failure(format!(
                    "{kind:?} of shard {} from {}: {reason}",
                    self.shards[key],
                    node.name()
                ));
            }
        }
    }

    async fn ask(&self, node: &LiveNode, key: usize, kind: Kind) -> Outcome {
        let deadline = Instant::now() + self.deadline;
        loop {
            let time_left = deadline.saturating_duration_since(Instant::now());
            let name = self.names[key].clone();
            let request = match kind {
                Kind::Get => Request::key(name, GET).idempotent(),
                Kind::Increment => Request::key(name, INCREMENT),
            };
            let error = match node.cluster.call(request.deadline(time_left)).await {
                Ok(answer) => match protocol::decode(&answer.body) {
                    Some(value) => return Outcome::Ok(value),
                    None => return Outcome::Failed("the answer holds no value".to_owned()),
                },
                Err(error) => error,
            };
            match (&error, kind) {
                (CallError::Service(refusal), _) => match Refusal::decode(refusal) {
                    Some(Refusal::NotExecuted) if Instant::now() + PAUSE < deadline => {
                        self.locked().asked_again += 1;
                        tokio::time::sleep(PAUSE).await;
                    }
                    Some(Refusal::Ambiguous) => return Outcome::Ambiguous,
                    refusal => return Outcome::Failed(format!("the service refused: {refusal:?}")),
                },
                (CallError::Ambiguous(_), Kind::Increment) => return Outcome::Ambiguous,
                _ => return Outcome::Failed(error.to_string()),
            }
        }
    }

    /// Reads every counter once more and settles its account; how many could not be read.
    pub(crate) async fn settle(self: &Arc<Self>) -> usize {
        let mut readers = Vec::new();
        for first in 0..READERS {
            let requests = self.clone();
            readers.push(tokio::spawn(async move {
                let mut unreadable = 0;
                for key in (first..requests.counts.len()).step_by(READERS) {
                    let Some(node) = requests.callers.choose(key as u64) else {
                        unreadable += 1;
                        continue;
                    };
                    match requests.ask(&node, key, Kind::Get).await {
                        Outcome::Ok(value) => requests.counts.settled(key, value),
                        _ => unreadable += 1,
                    }
                }
                unreadable
            }));
        }
        let mut unreadable = 0;
        for reader in readers {
            unreadable += reader.await.unwrap_or(1);
        }
        unreadable
    }

    fn locked(&self) -> MutexGuard<'_, Results> {
        self.results.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running load.
pub(crate) struct Load {
    pacer: JoinHandle<()>,
    stop: watch::Sender<bool>,
}

impl Load {
    pub(crate) fn start(requests: Arc<Requests>, rate: u32, seed: u64) -> Self {
        let stop = watch::Sender::new(false);
        let pacer = tokio::spawn(pace(requests, rate, seed, stop.subscribe()));
        Self { pacer, stop }
    }

    /// Sends no more and waits until nothing is in flight any more.
    pub(crate) async fn finish(self) {
        self.stop.send_replace(true);
        // A panic in the pacer has been printed, and shows as too few requests.
        let _ = self.pacer.await;
    }
}

async fn pace(requests: Arc<Requests>, rate: u32, seed: u64, stop: watch::Receiver<bool>) {
    // Two seconds' worth: the longest outage that is expected, several times over.
    let most = (rate * 2).clamp(512, 16_384);
    let places = Arc::new(Semaphore::new(most as usize));
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let begin = Instant::now();
    let mut sent = 0;
    while !*stop.borrow() {
        ticks.tick().await;
        let due = (begin.elapsed().as_secs_f64() * f64::from(rate)) as u64;
        while sent < due {
            sent += 1;
            let (caller, key) = (rng.random::<u64>(), rng.random_range(0..KEYS));
            let kind = if rng.random::<bool>() {
                Kind::Get
            } else {
                Kind::Increment
            };
            let place = places.clone().try_acquire_owned();
            let (Ok(place), Some(node)) = (place, requests.callers.choose(caller)) else {
                requests.locked().skipped += 1;
                continue;
            };
            let requests = requests.clone();
            tokio::spawn(async move {
                requests.run(&node, key, kind).await;
                drop(place);
            });
        }
    }
    // Everything that is under way ends by its deadline.
    let _ = places.acquire_many(most).await;
}
