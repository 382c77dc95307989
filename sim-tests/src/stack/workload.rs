//! Calls from nodes and from clients, and the history of what became of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use funk::ids::NodeId;
use funk::runtime::Environment;
use funk::{Answer, CallError, Client, Cluster, Request};
use funk_history::linearizability::Timed;
use funk_history::models::{CounterOperation, RegisterOperation};

use super::plan::Load;
use super::service::{Operation, chance, decode_value};
use crate::invariants::Violation;
use crate::invariants::i9_nothing_lost::Increments;
use crate::invariants::i10_linearizable::{Answered, Judged, Operations};

/// What became of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nobody knows: it is under way, its caller was killed, or it said so.
    Unknown,
    /// It certainly took no effect.
    NotExecuted,
    /// It was answered with this value, under this token.
    Answered(u64, u64),
}

/// A call.
#[derive(Clone, Debug)]
pub struct Call {
    /// When it began, true time.
    pub start: Duration,
    /// When its outcome was known.
    pub end: Duration,
    /// The key's number.
    pub key: u64,
    /// What it asked for.
    pub operation: Operation,
    /// What became of it.
    pub outcome: Outcome,
    /// The node that made it; `None`: a client.
    pub by: Option<NodeId>,
    /// What its caller was told, if that was no answer.
    pub error: Option<String>,
}

/// All calls of a run.
#[derive(Clone, Debug, Default)]
pub struct History {
    calls: Arc<Mutex<Vec<Call>>>,
    /// Nobody begins another call.
    stopped: Arc<AtomicBool>,
}

impl History {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Call>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many calls have been made, and how many of those were answered.
    pub fn count(&self) -> (usize, usize) {
        let calls = self.lock();
        let answered = |call: &&Call| matches!(call.outcome, Outcome::Answered(..));
        (calls.len(), calls.iter().filter(answered).count())
    }

    /// Calls that began at or after `from`, and that ended without an answer.
    pub fn unanswered_since(&self, from: Duration) -> Vec<Call> {
        let calls = self.lock();
        let failed = |call: &&Call| {
            call.start >= from
                && !call.end.is_zero()
                && !matches!(call.outcome, Outcome::Answered(..))
        };
        calls.iter().filter(failed).cloned().collect()
    }

    /// All calls so far.
    pub fn calls(&self) -> Vec<Call> {
        self.lock().clone()
    }

    /// Ends the load: calls that are under way go on.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// What is known of the increments of each counter.
    pub fn increments(&self) -> BTreeMap<u64, Increments> {
        let calls = self.lock();
        let mut counters: BTreeMap<u64, Increments> = BTreeMap::new();
        for call in calls.iter().filter(|call| !is_register(call.key)) {
            if let Operation::Increment { .. } = call.operation {
                let known = counters.entry(call.key).or_default();
                match call.outcome {
                    Outcome::Answered(..) => known.acknowledged += 1,
                    Outcome::Unknown => known.unknown += 1,
                    Outcome::NotExecuted => {}
                }
            }
        }
        counters
    }

    fn begin(&self, by: Option<NodeId>, key: u64, operation: Operation) -> usize {
        let mut calls = self.lock();
        calls.push(Call {
            start: now(),
            end: Duration::ZERO,
            key,
            operation,
            outcome: Outcome::Unknown,
            by,
            error: None,
        });
        calls.len() - 1
    }

    fn end(&self, call: usize, outcome: Outcome, error: Option<String>) {
        let mut calls = self.lock();
        calls[call].end = now();
        calls[call].outcome = outcome;
        calls[call].error = error;
    }

    /// I10 of every key.
    pub fn judge(&self) -> Result<Judged, Violation> {
        let calls = self.lock();
        let mut judged = Judged::default();
        let keys: BTreeSet<u64> = calls.iter().map(|call| call.key).collect();
        for key in keys {
            let of_key = || calls.iter().filter(|call| call.key == key);
            let operations = if is_register(key) {
                Operations::Register(of_key().filter_map(Call::on_register).collect())
            } else {
                Operations::Counter(of_key().filter_map(Call::on_counter).collect())
            };
            let answers: Vec<Answered> = of_key().filter_map(Call::answered).collect();
            judged.judge(key, &operations, &answers)?;
        }
        Ok(judged)
    }
}

impl Call {
    fn timed<O>(&self, operation: O) -> Option<Timed<O>> {
        let end = match self.outcome {
            Outcome::NotExecuted => return None,
            Outcome::Unknown => None,
            Outcome::Answered(..) => Some(self.end.as_nanos() as u64),
        };
        Some(Timed {
            start: self.start.as_nanos() as u64,
            end,
            operation,
        })
    }

    fn answered(&self) -> Option<Answered> {
        match self.outcome {
            Outcome::Answered(_, epoch) => Some(Answered {
                start: self.start,
                end: self.end,
                epoch,
            }),
            _ => None,
        }
    }

    fn value(&self) -> Option<u64> {
        match self.outcome {
            Outcome::Answered(value, _) => Some(value),
            _ => None,
        }
    }

    fn on_counter(&self) -> Option<Timed<CounterOperation>> {
        self.timed(match self.operation {
            Operation::Get => CounterOperation::Get(self.value()),
            _ => CounterOperation::Increment(self.value()),
        })
    }

    fn on_register(&self) -> Option<Timed<RegisterOperation>> {
        self.timed(match self.operation {
            Operation::Write { value, .. } => RegisterOperation::Write(value),
            _ => {
                let read = self.value().map(|value| (value != 0).then_some(value));
                RegisterOperation::Read(read)
            }
        })
    }
}

fn now() -> Duration {
    turmoil::sim_elapsed().unwrap_or_default()
}

/// Odd keys are registers, even ones counters.
fn is_register(key: u64) -> bool {
    key % 2 == 1
}

/// Somebody who can call.
#[derive(Clone, Debug)]
pub enum Caller {
    /// A node.
    Node(Cluster),
    /// A client.
    Client(Client),
}

impl Caller {
    fn node(&self) -> Option<NodeId> {
        match self {
            Self::Node(node) => Some(node.node_id().clone()),
            Self::Client(_) => None,
        }
    }

    async fn call(&self, request: Request) -> Result<Answer, CallError> {
        match self {
            Self::Node(node) => node.call(request).await,
            Self::Client(client) => client.call(request).await,
        }
    }
}

/// Calls at random until it is dropped, one call after the other or several at once, as their times fall.
pub async fn call_on_and_on(caller: Caller, load: Load, history: History) {
    let environment = Environment::current();
    loop {
        let mean = load.every.as_nanos() as f64;
        let unit = ((environment.next_seed() >> 11) as f64 + 1.0) / (1_u64 << 53) as f64;
        let pause = Duration::from_nanos((mean * -unit.ln()) as u64);
        environment.sleep(pause).await;
        if history.stopped.load(Ordering::Relaxed) {
            return;
        }
        let key = environment.next_seed() % load.keys;
        let operation = if chance(&environment, load.gets) {
            Operation::Get
        } else if is_register(key) {
            let value = environment.next_seed() | 1;
            Operation::Write { value, id: value }
        } else {
            Operation::Increment {
                id: environment.next_seed(),
            }
        };
        let (caller, history) = (caller.clone(), history.clone());
        environment.spawn(async move {
            call(&caller, key, operation, load.deadline, &history).await;
        });
    }
}

/// Gets every key, again and again, until the load ends: so that a gap in the answers is seen.
pub async fn probe(
    caller: Caller,
    keys: u64,
    every: Duration,
    deadline: Duration,
    history: History,
) {
    let environment = Environment::current();
    while !history.stopped.load(Ordering::Relaxed) {
        for key in 0..keys {
            let (caller, history) = (caller.clone(), history.clone());
            environment.spawn(async move {
                call(&caller, key, Operation::Get, deadline, &history).await;
            });
        }
        environment.sleep(every).await;
    }
}

/// One call, with its place in the history.
pub async fn call(
    caller: &Caller,
    key: u64,
    operation: Operation,
    deadline: Duration,
    history: &History,
) -> Outcome {
    let request = Request::key(key.to_string(), operation.encode())
        .deadline(deadline)
        .idempotent();
    let number = history.begin(caller.node(), key, operation);
    let result = caller.call(request).await;
    let error = result.as_ref().err().map(|error| match error {
        CallError::Service(text) => format!("the service: {}", String::from_utf8_lossy(text)),
        error => error.to_string(),
    });
    let outcome = match result {
        Ok(answer) => match decode_value(&answer.body) {
            Some(value) => Outcome::Answered(value, answer.epoch.0),
            None => Outcome::Unknown,
        },
        // What was sent again may have been executed by an earlier attempt.
        Err(error) if error.is_not_executed() && operation == Operation::Get => {
            Outcome::NotExecuted
        }
        Err(_) => Outcome::Unknown,
    };
    history.end(number, outcome.clone(), error);
    outcome
}
