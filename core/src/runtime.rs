//! The one seam between a node and the world's time, tasks and chance.
//!
//! Every task, timer, clock read, blocking job and random number of this crate, of raft and of the QUIC
//! transport goes through an [`Environment`]: a handle that travels with the node's tasks. In production it
//! stands for the machine: clocks run at rate 1, seeds come from the operating system, nothing is ever paused.
//! In a simulation it is made from a seed, has a clock that errs by a fixed rate, and can be paused: then none of
//! the node's tasks runs until it is resumed, while the world's time goes on. What ships is what is simulated.
//!
//! `clippy.toml` forbids the ways around it.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::mutants::{Mutant, mutated};
use crate::time::Time;

pub(crate) mod raft;

tokio::task_local! {
    static CURRENT: Environment;
}

/// A task that was spawned. Dropping it lets the task go on; [`abort`](tokio::task::JoinHandle::abort) ends it.
pub type Task<T> = tokio::task::JoinHandle<T>;

/// What a node sees of the world. Cheap to clone; clones are the same environment.
#[derive(Clone)]
pub struct Environment(Arc<World>);

struct World {
    seeds: AtomicU64,
    clock: Clock,
    /// Only a simulated node can be paused; the others do not pay for it.
    gate: Option<Gate>,
}

enum Clock {
    /// The machine's own.
    System,
    /// Tokio's (paused, stepped) clock times `rate`; the monotonic clock is behind the lease clock by `lead`.
    Simulated {
        origin: tokio::time::Instant,
        rate: f64,
        offset: Duration,
        lead_nanos: AtomicU64,
    },
}

#[derive(Default)]
struct Gate {
    paused: AtomicBool,
    /// Tasks that were woken meanwhile, by the order of their birth so that runs repeat.
    waiting: Mutex<BTreeMap<u64, Waker>>,
    births: AtomicU64,
    /// What tasks that panicked said.
    panics: Mutex<Vec<String>>,
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.0.clock {
            Clock::System => "system",
            Clock::Simulated { .. } => "simulated",
        };
        f.debug_tuple("Environment").field(&kind).finish()
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "this is where they are allowed: the seam itself"
)]
impl Environment {
    /// The machine as it is: the operating system's clocks and randomness.
    pub fn system() -> Self {
        let seed = rand::random();
        Self(Arc::new(World {
            seeds: AtomicU64::new(seed),
            clock: Clock::System,
            gate: None,
        }))
    }

    /// One run of a simulated node. Everything that happens by chance in it follows from `seed`.
    ///
    /// Its clock starts at `offset` and runs at `rate` times tokio's clock (1.01: 1 % fast). Call this inside the
    /// runtime whose clock the simulation steps.
    pub fn simulated(seed: u64, rate: f64, offset: Duration) -> Self {
        assert!(rate > 0.0, "a clock's rate must be positive, not {rate}");
        Self(Arc::new(World {
            seeds: AtomicU64::new(seed),
            clock: Clock::Simulated {
                origin: tokio::time::Instant::now(),
                rate,
                offset,
                lead_nanos: AtomicU64::new(0),
            },
            gate: Some(Gate::default()),
        }))
    }

    /// The environment of the running task; outside any node, the system's.
    pub fn current() -> Self {
        Self::with_current(Self::clone)
    }

    fn with_current<T>(look: impl Fn(&Self) -> T) -> T {
        static SYSTEM: OnceLock<Environment> = OnceLock::new();
        CURRENT
            .try_with(&look)
            .unwrap_or_else(|_| look(SYSTEM.get_or_init(Environment::system)))
    }

    /// Runs a future, which is not a task of its own, in this environment.
    pub fn scope<F: Future>(&self, future: F) -> impl Future<Output = F::Output> + use<F> {
        CURRENT.scope(
            self.clone(),
            raft::seeded(self.next_seed(), self.gated(future)),
        )
    }

    /// Starts a task in this environment.
    pub fn spawn<F>(&self, future: F) -> Task<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        tokio::spawn(self.scope(future))
    }

    /// The lease clock: it goes on while the machine sleeps (CLOCK_BOOTTIME on Linux, rule L0).
    pub fn now(&self) -> Time {
        match &self.0.clock {
            Clock::System => system_now(),
            Clock::Simulated { .. } if mutated(Mutant::ClockStopsInSleep) => {
                Time::default() + self.monotonic()
            }
            Clock::Simulated { origin, .. } => self.at(origin.elapsed()),
        }
    }

    /// Time that stands still while the machine sleeps, since an arbitrary origin.
    pub fn monotonic(&self) -> Duration {
        match &self.0.clock {
            Clock::System => system_monotonic(),
            Clock::Simulated {
                origin,
                rate,
                offset,
                lead_nanos,
            } => {
                let lead = Duration::from_nanos(lead_nanos.load(Ordering::Relaxed));
                (*offset + origin.elapsed().mul_f64(*rate)).saturating_sub(lead)
            }
        }
    }

    /// What a simulated node's lease clock shows when so much true time has passed since it was made, read from
    /// outside the node: a paused node's clock goes on as well. In production: now.
    pub fn at(&self, elapsed: Duration) -> Time {
        match &self.0.clock {
            Clock::System => system_now(),
            Clock::Simulated { rate, offset, .. } => {
                Time::default() + *offset + elapsed.mul_f64(*rate)
            }
        }
    }

    /// Nanoseconds since 1970 by the wall clock; in a simulation the lease clock. Nothing is ever timed by it: it only
    /// makes the number of a run larger than those of earlier runs.
    pub fn wall_nanos(&self) -> u64 {
        match &self.0.clock {
            Clock::System => {
                let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
                since.unwrap_or_default().as_nanos() as u64
            }
            Clock::Simulated { .. } => self.now().0,
        }
    }

    /// The monotonic clock as the standard library's type, for libraries that want that.
    pub fn instant(&self) -> std::time::Instant {
        match &self.0.clock {
            Clock::System => tokio::time::Instant::now().into_std(),
            Clock::Simulated { origin, .. } => origin.into_std() + self.monotonic(),
        }
    }

    /// Waits, by this node's clock.
    pub fn sleep(&self, span: Duration) -> tokio::time::Sleep {
        tokio::time::sleep(self.true_span(span))
    }

    /// Waits until this node's lease clock has reached `deadline`.
    pub fn sleep_until(&self, deadline: Time) -> tokio::time::Sleep {
        // A hair later rather than earlier: whoever wakes finds the deadline reached.
        self.sleep(deadline.since(self.now()) + Duration::from_nanos(1))
    }

    /// Runs the future for at most `span`; `None`: it took longer and was dropped.
    pub async fn timeout<F: Future>(&self, span: Duration, future: F) -> Option<F::Output> {
        tokio::time::timeout(self.true_span(span), future)
            .await
            .ok()
    }

    /// Runs a job that blocks: on a thread of its own, or at once in a simulation. `None`: it panicked.
    pub async fn blocking<F, T>(&self, job: F) -> Option<T>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        match self.0.clock {
            Clock::System => tokio::task::spawn_blocking(job).await.ok(),
            Clock::Simulated { .. } => Some(job()),
        }
    }

    /// A fresh seed: drawn from the operating system's randomness, or from the simulation's seed.
    pub fn next_seed(&self) -> u64 {
        // Weyl sequence and mixer of SplitMix64 (Steele, Lea, Flood 2014).
        let mut z = self
            .0
            .seeds
            .fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A fresh generator. In production it is seeded with 256 bits of the operating system.
    pub fn rng(&self) -> ChaCha8Rng {
        match self.0.clock {
            Clock::System => ChaCha8Rng::from_seed(rand::random()),
            Clock::Simulated { .. } => ChaCha8Rng::seed_from_u64(self.next_seed()),
        }
    }

    /// Whether this is a simulated node.
    pub fn is_simulated(&self) -> bool {
        matches!(self.0.clock, Clock::Simulated { .. })
    }

    /// Stops all tasks of a simulated node where they stand (SIGSTOP). No effect in production.
    pub fn pause(&self) {
        if let Some(gate) = &self.0.gate {
            gate.paused.store(true, Ordering::SeqCst);
        }
    }

    /// Lets the tasks of a paused node go on.
    pub fn resume(&self) {
        let Some(gate) = &self.0.gate else { return };
        gate.paused.store(false, Ordering::SeqCst);
        let waiting =
            std::mem::take(&mut *gate.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        waiting.into_values().for_each(Waker::wake);
    }

    /// The simulated node was paused for so long (true time) because its machine slept: its monotonic clock stood
    /// still meanwhile, its lease clock went on. To be called before it is resumed.
    pub fn slept(&self, span: Duration) {
        if let Clock::Simulated {
            rate, lead_nanos, ..
        } = &self.0.clock
        {
            let own = span.mul_f64(*rate);
            lead_nanos.fetch_add(own.as_nanos() as u64, Ordering::Relaxed);
        }
    }

    /// What the tasks of a simulated node that panicked said, since it was asked last. Such a task stands still from then
    /// on: a simulated host would otherwise go down with it, and the whole simulation.
    pub fn take_panics(&self) -> Vec<String> {
        let gate = self.0.gate.as_ref();
        gate.map_or_else(Vec::new, |gate| {
            std::mem::take(&mut *gate.panics.lock().unwrap_or_else(PoisonError::into_inner))
        })
    }

    /// The same span on the clock that timers run on.
    fn true_span(&self, span: Duration) -> Duration {
        match &self.0.clock {
            Clock::Simulated { rate, .. } if *rate != 1.0 => span.div_f64(*rate),
            _ => span,
        }
    }

    fn gated<F: Future>(&self, future: F) -> Gated<F> {
        let birth = self
            .0
            .gate
            .as_ref()
            .map_or(0, |gate| gate.births.fetch_add(1, Ordering::Relaxed));
        Gated {
            environment: self.clone(),
            birth,
            has_panicked: false,
            future,
        }
    }
}

pin_project_lite::pin_project! {
    /// A task that does not run while its node is paused.
    struct Gated<F> {
        environment: Environment,
        birth: u64,
        has_panicked: bool,
        #[pin]
        future: F,
    }
}

impl<F: Future> Future for Gated<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let Some(gate) = &this.environment.0.gate else {
            return this.future.poll(cx);
        };
        if gate.paused.load(Ordering::SeqCst) {
            let mut waiting = gate.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.insert(*this.birth, cx.waker().clone());
            // `resume` may have come between the look and the lock.
            if gate.paused.load(Ordering::SeqCst) {
                return Poll::Pending;
            }
        }
        if *this.has_panicked {
            return Poll::Pending;
        }
        let polled = catch_unwind(AssertUnwindSafe(|| this.future.poll(cx)));
        polled.unwrap_or_else(|panic| {
            *this.has_panicked = true;
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            let mut panics = gate.panics.lock().unwrap_or_else(PoisonError::into_inner);
            panics.push(text.unwrap_or_default());
            Poll::Pending
        })
    }
}

#[cfg(target_os = "linux")]
fn system_now() -> Time {
    clock(rustix::time::ClockId::Boottime)
}

#[cfg(target_os = "linux")]
fn system_monotonic() -> Duration {
    clock(rustix::time::ClockId::Monotonic).since(Time::default())
}

#[cfg(target_os = "linux")]
fn clock(id: rustix::time::ClockId) -> Time {
    let now = rustix::time::clock_gettime(id);
    Time(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
}

// Elsewhere the standard library's clock serves for both; README says which platforms stop it in suspend.
#[cfg(not(target_os = "linux"))]
fn system_now() -> Time {
    Time::default() + system_monotonic()
}

#[cfg(not(target_os = "linux"))]
#[allow(clippy::disallowed_methods, reason = "the seam itself")]
fn system_monotonic() -> Duration {
    static ORIGIN: OnceLock<std::time::Instant> = OnceLock::new();
    ORIGIN.get_or_init(std::time::Instant::now).elapsed() + Duration::from_secs(1)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "the tests watch from outside")]
mod tests {
    use super::*;

    fn paused_runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap()
    }

    #[test]
    fn a_paused_node_stands_still_while_time_goes_on() {
        paused_runtime().block_on(async {
            let node = Environment::simulated(1, 1.0, Duration::ZERO);
            let ticks = Arc::new(AtomicU64::new(0));
            let (seen, env) = (ticks.clone(), node.clone());
            node.spawn(async move {
                loop {
                    env.sleep(Duration::from_millis(10)).await;
                    seen.fetch_add(1, Ordering::SeqCst);
                }
            });
            tokio::time::sleep(Duration::from_millis(55)).await;
            assert_eq!(ticks.load(Ordering::SeqCst), 5);
            node.pause();
            let before = node.now();
            tokio::time::sleep(Duration::from_millis(500)).await;
            assert_eq!(ticks.load(Ordering::SeqCst), 5, "nothing runs while paused");
            assert_eq!(node.now().since(before), Duration::from_millis(500));
            node.resume();
            tokio::time::sleep(Duration::from_millis(15)).await;
            assert_eq!(ticks.load(Ordering::SeqCst), 7, "it goes on where it stood");
        });
    }

    #[test]
    fn clocks_err_by_their_rate_and_timers_with_them() {
        paused_runtime().block_on(async {
            let fast = Environment::simulated(1, 1.25, Duration::from_secs(7));
            let start = tokio::time::Instant::now();
            fast.sleep(Duration::from_millis(250)).await;
            assert_eq!(start.elapsed(), Duration::from_millis(200));
            assert_eq!(fast.monotonic(), Duration::from_millis(7_250));
            fast.pause();
            tokio::time::sleep(Duration::from_secs(2)).await;
            fast.slept(Duration::from_secs(2));
            fast.resume();
            assert_eq!(fast.now(), Time(9_750_000_000));
            assert_eq!(fast.monotonic(), Duration::from_millis(7_250));
        });
    }

    #[test]
    fn tasks_know_their_environment_and_so_do_their_children() {
        paused_runtime().block_on(async {
            let node = Environment::simulated(1, 2.0, Duration::ZERO);
            let inherited = node
                .spawn(async {
                    let child = Environment::current().spawn(async { Environment::current() });
                    child.await.unwrap()
                })
                .await
                .unwrap();
            assert!(Arc::ptr_eq(&inherited.0, &node.0));
            assert!(!Environment::current().is_simulated());
        });
    }

    #[test]
    fn one_seed_gives_one_sequence() {
        paused_runtime().block_on(async {
            let draw = |seed| {
                let node = Environment::simulated(seed, 1.0, Duration::ZERO);
                [node.next_seed(), node.next_seed()]
            };
            assert_eq!(draw(3), draw(3));
            assert_ne!(draw(3), draw(4));
        });
    }

    #[test]
    fn the_lease_clock_never_runs_behind_the_monotonic_one() {
        let system = Environment::system();
        let monotonic = Time::default() + system.monotonic();
        assert!(system.now() >= monotonic);
    }
}
