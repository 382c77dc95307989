//! Openraft's view of the seam: its tasks, timers, clock and chance are the node's.

use std::future::Future;
use std::io;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::time::Duration;

use openraft_rt::deterministic_rng::DeterministicRng;
use openraft_rt::{AsyncRuntime, OptionalSend};
use openraft_rt_tokio::{TokioMpsc, TokioMutex, TokioOneshot, TokioRuntime, TokioWatch};

use super::Environment;
use crate::time::Time;

/// What openraft runs on: the node's environment, with every random number drawn from the task's seed.
pub(crate) type Runtime = DeterministicRng<Seam>;

/// Runs the future with a seed of its own; tasks that openraft spawns within derive theirs from it.
pub(super) fn seeded<F: Future>(seed: u64, future: F) -> impl Future<Output = F::Output> + use<F> {
    Runtime::scope(seed, future)
}

/// Openraft's instants are readings of the lease clock, so that its "last quorum ack" is the `q` of rule L3.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct RaftInstant(pub(crate) Time);

impl Add<Duration> for RaftInstant {
    type Output = Self;
    fn add(self, span: Duration) -> Self {
        Self(self.0 + span)
    }
}

impl AddAssign<Duration> for RaftInstant {
    fn add_assign(&mut self, span: Duration) {
        *self = *self + span;
    }
}

impl Sub<Duration> for RaftInstant {
    type Output = Self;
    fn sub(self, span: Duration) -> Self {
        Self(self.0 - span)
    }
}

impl SubAssign<Duration> for RaftInstant {
    fn sub_assign(&mut self, span: Duration) {
        *self = *self - span;
    }
}

impl Sub for RaftInstant {
    type Output = Duration;
    fn sub(self, earlier: Self) -> Duration {
        self.0.since(earlier.0)
    }
}

impl openraft_rt::Instant for RaftInstant {
    fn now() -> Self {
        Self(Environment::with_current(Environment::now))
    }
}

/// Implements openraft's runtime by the environment of the running task.
#[derive(Debug)]
pub(crate) struct Seam;

#[allow(clippy::disallowed_methods, reason = "the seam itself")]
impl AsyncRuntime for Seam {
    type JoinError = tokio::task::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = tokio::task::JoinHandle<T>;
    type Sleep = tokio::time::Sleep;
    type Instant = RaftInstant;
    type TimeoutError = tokio::time::error::Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = tokio::time::Timeout<T>;
    type ThreadLocalRng = <TokioRuntime as AsyncRuntime>::ThreadLocalRng;
    type Mpsc = TokioMpsc;
    type Watch = TokioWatch;
    type Oneshot = TokioOneshot;
    type Mutex<T: OptionalSend + 'static> = TokioMutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        let environment = Environment::current();
        let gated = environment.gated(future);
        tokio::spawn(super::CURRENT.scope(environment, gated))
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        Environment::with_current(|current| current.sleep(duration))
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        Environment::with_current(|current| current.sleep_until(deadline.0))
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        let span = Environment::with_current(|current| current.true_span(duration));
        tokio::time::timeout(span, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        let left = deadline
            .0
            .since(<Self::Instant as openraft_rt::Instant>::now().0);
        Self::timeout(left, future)
    }

    fn is_panic(error: &Self::JoinError) -> bool {
        error.is_panic()
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        TokioRuntime::thread_rng()
    }

    fn new(_threads: usize) -> Self {
        Self
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        // Only openraft's own test suites call this; they need a runtime of their own.
        TokioRuntime::new(2).block_on(Environment::current().scope(future))
    }

    fn spawn_blocking<F, T>(job: F) -> impl Future<Output = Result<T, io::Error>> + Send
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let environment = Environment::current();
        async move {
            let result = environment.blocking(job).await;
            result.ok_or_else(|| io::Error::other("a blocking job panicked"))
        }
    }
}
