//! What became of the calls: a line for each, progress on a terminal, a summary.

use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use funk::ids::ShardId;
use funk::{CallError, Epoch, NodeId};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use crate::demo::{Histogram, Ticker, milliseconds};
use crate::failure::{ERROR, Failure};

/// None failed, but some may have been executed or not.
const AMBIGUOUS: u8 = 3;
/// Failures that are told one by one; the others are only counted.
const MAX_TOLD: u64 = 5;
/// How often the line on the terminal is drawn.
const REDRAW: Duration = Duration::from_millis(100);

/// What one call came to.
pub(super) enum Outcome {
    Ok {
        owner: NodeId,
        shard: ShardId,
        epoch: Epoch,
        value: u64,
    },
    Failed(CallError),
    Ambiguous(CallError),
}

/// One call, by the machine's monotonic clock.
pub(super) struct Record {
    pub(super) start: Duration,
    pub(super) end: Duration,
    pub(super) key: String,
    pub(super) is_get: bool,
    pub(super) id: Option<String>,
    pub(super) outcome: Outcome,
    pub(super) attempts: u32,
}

/// All calls so far.
pub(super) struct Report {
    json: bool,
    /// One call only: its answer is told, and there is nothing to sum up.
    is_single: bool,
    bar: ProgressBar,
    /// How long this machine itself stood still; a single call is over too soon for that.
    ticker: Option<Ticker>,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    ok: u64,
    failed: u64,
    ambiguous: u64,
    latency: Histogram,
    /// The rate on the line: when it was last taken, and how many were answered then.
    drawn: (Duration, u64),
    began: Option<Duration>,
}

impl Record {
    fn json(&self) -> String {
        let (owner, shard, epoch, value, outcome, error) = match &self.outcome {
            Outcome::Ok {
                owner,
                shard,
                epoch,
                value,
            } => (
                Some(owner.as_str()),
                Some(shard.0),
                Some(epoch.0),
                Some(*value),
                "ok",
                None,
            ),
            Outcome::Failed(error) => (None, None, None, None, "failed", Some(error.to_string())),
            Outcome::Ambiguous(error) => {
                (None, None, None, None, "ambiguous", Some(error.to_string()))
            }
        };
        json!({
            "start_us": self.start.as_micros() as u64,
            "end_us": self.end.as_micros() as u64,
            "key": self.key,
            "op": if self.is_get { "get" } else { "increment" },
            "id": self.id,
            "owner": owner,
            "shard": shard,
            "epoch": epoch,
            "value": value,
            "outcome": outcome,
            "error": error,
            "attempts": self.attempts,
        })
        .to_string()
    }

    fn latency(&self) -> Duration {
        self.end.saturating_sub(self.start)
    }
}

impl Report {
    pub(super) fn new(json: bool, is_single: bool) -> Self {
        let target = if is_single {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        let bar = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed:>4}  {msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(REDRAW);
        Self {
            json,
            is_single,
            bar,
            ticker: (!is_single).then(Ticker::start),
            counts: Mutex::default(),
        }
    }

    /// Takes a call down; whether its line, if it has one, could be written.
    pub(super) fn note(&self, record: &Record, explain: impl FnOnce(&CallError) -> String) -> bool {
        let mut counts = self.counts();
        let complaint = match &record.outcome {
            Outcome::Ok { .. } => {
                counts.ok += 1;
                counts.latency.record(record.latency().as_micros() as u64);
                None
            }
            Outcome::Failed(error) => {
                counts.failed += 1;
                Some(("failed", error))
            }
            Outcome::Ambiguous(error) => {
                counts.ambiguous += 1;
                Some(("is ambiguous", error))
            }
        };
        self.draw(&mut counts, record.end);
        let told = counts.failed + counts.ambiguous;
        if let Some((what, error)) = complaint.filter(|_| told <= MAX_TOLD) {
            let op = if record.is_get { "get" } else { "increment" };
            let more = if told == MAX_TOLD && !self.is_single {
                " (further ones are only counted)"
            } else {
                ""
            };
            let text = explain(error);
            self.bar.suspend(|| {
                eprintln!("funk call: {op} of {:?} {what}: {text}{more}", record.key);
            });
        }
        // Still under the lock, so that lines do not mix.
        if self.json {
            return write_line(&record.json()).is_ok();
        }
        match &record.outcome {
            Outcome::Ok {
                owner,
                epoch,
                value,
                ..
            } if self.is_single => write_line(&format!(
                "{} = {value}  (owner {owner}, epoch {epoch}, {:.1} ms)",
                record.key,
                record.latency().as_secs_f64() * 1e3
            ))
            .is_ok(),
            _ => true,
        }
    }

    fn draw(&self, counts: &mut Counts, now: Duration) {
        const RATE_OVER: Duration = Duration::from_millis(500);
        let began = *counts.began.get_or_insert(now);
        let (at, answered) = counts.drawn;
        let at = at.max(began);
        let span = now.saturating_sub(at);
        if self.bar.is_hidden() || span < RATE_OVER {
            return;
        }
        let rate = (counts.ok - answered) as f64 / span.as_secs_f64();
        counts.drawn = (now, counts.ok);
        self.bar.set_message(format!(
            "{rate:>7.0} answers/s  {} ok, {} failed, {} ambiguous",
            counts.ok, counts.failed, counts.ambiguous
        ));
    }

    /// The summary, and the exit status.
    pub(super) fn finish(&self, span: Duration) -> Result<u8, Failure> {
        self.bar.finish_and_clear();
        let counts = self.counts();
        let seconds = span.as_secs_f64();
        let rate = counts.ok as f64 / seconds.max(1e-6);
        let quantile = |part| counts.latency.quantile(part);
        let stall = self.ticker.as_ref().map(Ticker::longest).map(milliseconds);
        let text = if self.json {
            json!({"summary": {
                "ok": counts.ok,
                "failed": counts.failed,
                "ambiguous": counts.ambiguous,
                "seconds": seconds,
                "rate": rate,
                "latency_us": {
                    "p50": quantile(0.5),
                    "p99": quantile(0.99),
                    "max": counts.latency.max(),
                },
                "machine_stall_ms": stall,
            }})
            .to_string()
                + "\n"
        } else if self.is_single {
            String::new()
        } else {
            let ms = |us: u64| us as f64 / 1e3;
            format!(
                "{} ok, {} failed, {} ambiguous in {seconds:.1} s: {rate:.0} answers/s\n\
                 latency in ms: p50 {:.1}, p99 {:.1}, max {:.1}; this machine stood still for up to {:.1}\n",
                counts.ok,
                counts.failed,
                counts.ambiguous,
                ms(quantile(0.5)),
                ms(quantile(0.99)),
                ms(counts.latency.max()),
                stall.unwrap_or_default(),
            )
        };
        crate::write_out(&text)?;
        Ok(match (counts.failed, counts.ambiguous) {
            (0, 0) => 0,
            (0, _) => AMBIGUOUS,
            _ => ERROR,
        })
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write_line(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
