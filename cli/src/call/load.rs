//! Calls, one or many: workers that each make one call after the other, at a rate if one is given.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use funk::ids::ShardId;
use funk::runtime::Environment;
use funk::{Answer, CallError, Client, Request};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::task::JoinSet;

use super::CallArgs;
use super::report::{Outcome, Record, Report};
use crate::counter::protocol::{self, GET, INCREMENT, Refusal, replica};
use crate::failure::Failure;
use crate::node::Signals;

/// Pause before a call that the service did not execute is sent again.
const PAUSE: Duration = Duration::from_millis(5);

/// What the workers share.
struct Load {
    arguments: CallArgs,
    client: Client,
    environment: Environment,
    report: Arc<Report>,
    /// Distinguishes this process's increments from all others.
    run: u64,
    begin: Duration,
    next: AtomicU64,
    over: AtomicBool,
}

/// One call that is to be made.
struct Call {
    key: String,
    is_get: bool,
    id: Option<String>,
}

pub(super) async fn run(arguments: CallArgs) -> Result<u8, Failure> {
    let mut signals = Signals::new()
        .map_err(|error| Failure::error(format!("signals cannot be listened to: {error}")))?;
    let client = arguments.client.start(&arguments.connect)?;
    let environment = Environment::current();
    let is_single = arguments.count.unwrap_or(1) == 1 && arguments.seconds.is_none();
    let report = Arc::new(Report::new(arguments.json, is_single));
    let load = Arc::new(Load {
        client: client.clone(),
        report: report.clone(),
        run: rand::random(),
        begin: environment.monotonic(),
        next: AtomicU64::new(0),
        over: AtomicBool::new(false),
        environment,
        arguments,
    });
    let mut workers = JoinSet::new();
    for _ in 0..load.arguments.concurrency {
        workers.spawn(work(load.clone()));
    }
    let mut was_told = false;
    loop {
        tokio::select! {
            biased;
            // A panic in a worker has been printed; its call is missing from the count.
            ended = workers.join_next() => if ended.is_none() { break },
            () = signals.next() => {
                if std::mem::replace(&mut was_told, true) {
                    workers.abort_all();
                }
                load.over.store(true, Ordering::Relaxed);
            }
        }
    }
    let span = load.environment.monotonic() - load.begin;
    client.close().await;
    report.finish(span)
}

async fn work(load: Arc<Load>) {
    let mut rng = ChaCha8Rng::from_seed(rand::random());
    while let Some(number) = load.next_call().await {
        let call = load.draw(number, &mut rng);
        let record = load.make(call).await;
        if !load
            .report
            .note(&record, |error| load.arguments.client.explain(error))
        {
            // Nobody reads any more.
            load.over.store(true, Ordering::Relaxed);
        }
    }
}

impl Load {
    /// Waits until another call is due; `None`: there is none.
    async fn next_call(&self) -> Option<u64> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let most = match (self.arguments.count, self.arguments.seconds) {
            (Some(count), _) => count,
            (None, Some(_)) => u64::MAX,
            (None, None) => 1,
        };
        if number >= most {
            return None;
        }
        if let Some(rate) = self.arguments.rate {
            let due = Duration::from_secs_f64(number as f64 / rate);
            self.wait_until(due).await;
        }
        let is_late = self
            .arguments
            .seconds
            .is_some_and(|span| self.elapsed() >= span);
        (!is_late && !self.is_over()).then_some(number)
    }

    /// Waits for a time since the beginning, looking up now and then whether the load is over.
    async fn wait_until(&self, due: Duration) {
        const LOOK_UP: Duration = Duration::from_millis(100);
        let due = due.min(self.arguments.seconds.unwrap_or(Duration::MAX));
        while !self.is_over() {
            let left = due.saturating_sub(self.elapsed());
            if left.is_zero() {
                return;
            }
            self.environment.sleep(left.min(LOOK_UP)).await;
        }
    }

    fn elapsed(&self) -> Duration {
        self.environment.monotonic() - self.begin
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn draw(&self, number: u64, rng: &mut ChaCha8Rng) -> Call {
        let key = match self.arguments.keys {
            Some(keys) => {
                let at = match self.arguments.in_turn {
                    true => number % u64::from(keys),
                    false => rng.random_range(0..u64::from(keys)),
                };
                format!("{}-{at}", self.arguments.key)
            }
            None => self.arguments.key.clone(),
        };
        let is_get = rng.random_bool(self.arguments.gets());
        let has_id = !is_get && self.arguments.idempotent;
        Call {
            key,
            is_get,
            id: has_id.then(|| format!("{:016x}-{number}", self.run)),
        }
    }

    async fn make(&self, call: Call) -> Record {
        let start = self.environment.monotonic();
        let mut attempts = 0;
        let outcome = self.ask(&call, start, &mut attempts).await;
        Record {
            start,
            end: self.environment.monotonic(),
            key: call.key,
            is_get: call.is_get,
            id: call.id,
            outcome,
            attempts,
        }
    }

    /// Sends the request until it is answered for good. What the service says that it did not execute is sent again, as
    /// the client does with what no service saw.
    async fn ask(&self, call: &Call, start: Duration, attempts: &mut u32) -> Outcome {
        let may_repeat = call.is_get || call.id.is_some();
        let mut perhaps_executed = false;
        loop {
            let elapsed = self.environment.monotonic() - start;
            let time_left = self.arguments.deadline.saturating_sub(elapsed);
            let (result, made) = self
                .client
                .call_counting(self.request(call, time_left))
                .await;
            *attempts += made;
            let error = match result {
                Ok(answer) => return answered(answer),
                Err(error) => error,
            };
            let refusal = match &error {
                CallError::Service(refusal) => Refusal::decode(refusal),
                _ => None,
            };
            let error = match refusal {
                None | Some(Refusal::BadRequest) => error,
                Some(Refusal::Ambiguous) if !may_repeat => CallError::Ambiguous(
                    "the owner lost sight of the increment on its way through the log".to_owned(),
                ),
                Some(refusal) => {
                    // What was sent more than once, here or on its way, may have been executed all the same.
                    perhaps_executed |= refusal == Refusal::Ambiguous || call.id.is_some();
                    if time_left > PAUSE {
                        self.environment.sleep(PAUSE).await;
                        continue;
                    }
                    CallError::Deadline {
                        waited_for: "an owner that can write to the log".to_owned(),
                    }
                }
            };
            let is_ambiguous = matches!(error, CallError::Ambiguous(_))
                || (perhaps_executed && error.is_not_executed());
            // Whether a get was executed makes no difference.
            return if is_ambiguous && !call.is_get {
                Outcome::Ambiguous(error)
            } else {
                Outcome::Failed(error)
            };
        }
    }

    fn request(&self, call: &Call, deadline: Duration) -> Request {
        let key = call.key.clone();
        let request = match (&call.id, call.is_get) {
            (_, true) if let Some(shard) = self.arguments.replica => {
                Request::shard(ShardId(shard), replica(&key)).idempotent()
            }
            (_, true) => Request::key(key, GET).idempotent(),
            (Some(id), false) => Request::key(key, protocol::increment(id)).idempotent(),
            (None, false) => Request::key(key, INCREMENT),
        };
        request.deadline(deadline)
    }
}

fn answered(answer: Answer) -> Outcome {
    match protocol::decode(&answer.body) {
        Some(value) => Outcome::Ok {
            owner: answer.owner,
            shard: answer.shard,
            epoch: answer.epoch,
            value,
        },
        None => Outcome::Failed(CallError::Service(answer.body)),
    }
}
