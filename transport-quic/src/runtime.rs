//! Quinn's tasks and timers in the node's environment, and a way to end all of them at once.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use funk::runtime::Environment;
use quinn::{AsyncTimer, AsyncUdpSocket, Runtime};
use tokio::task::AbortHandle;
use tokio::time::Sleep;

/// The tasks of one transport. Cheap to clone; clones are the same set.
#[derive(Clone)]
pub(crate) struct Tasks {
    environment: Environment,
    live: Arc<Mutex<Live>>,
}

#[derive(Default)]
struct Live {
    next: u64,
    stopped: bool,
    /// In the order of their birth, so that they end in an order that repeats. `None`: being started.
    handles: BTreeMap<u64, Option<AbortHandle>>,
}

/// Strikes a task off the list when it ends, however it ends.
struct Entry {
    live: Arc<Mutex<Live>>,
    number: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        lock(&self.live).handles.remove(&self.number);
    }
}

fn lock(live: &Mutex<Live>) -> std::sync::MutexGuard<'_, Live> {
    live.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tasks {
    pub(crate) fn new(environment: Environment) -> Self {
        Self {
            environment,
            live: Arc::default(),
        }
    }

    pub(crate) fn environment(&self) -> &Environment {
        &self.environment
    }

    /// Starts a task, or drops it if the transport has been stopped.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let number = {
            let mut live = lock(&self.live);
            if live.stopped {
                return;
            }
            let number = live.next;
            live.next += 1;
            live.handles.insert(number, None);
            number
        };
        let entry = Entry {
            live: self.live.clone(),
            number,
        };
        // Not under the lock: a runtime that is shutting down drops the task, and with it the entry, here and now.
        let handle = self.environment.spawn(async move {
            let _entry = entry;
            task.await;
        });
        let mut live = lock(&self.live);
        if live.stopped {
            drop(live);
            handle.abort();
        } else if let Some(slot) = live.handles.get_mut(&number) {
            *slot = Some(handle.abort_handle());
        }
    }

    /// Ends all tasks and lets no further ones start.
    pub(crate) fn stop(&self) {
        let handles = {
            let mut live = lock(&self.live);
            live.stopped = true;
            std::mem::take(&mut live.handles)
        };
        handles
            .into_values()
            .flatten()
            .for_each(|handle| handle.abort());
    }
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasks").finish_non_exhaustive()
    }
}

impl Runtime for Tasks {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        let span = at.saturating_duration_since(self.environment.instant());
        Box::pin(Timer {
            environment: self.environment.clone(),
            sleep: Box::pin(self.environment.sleep(span)),
        })
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        Tasks::spawn(self, future);
    }

    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        quinn::TokioRuntime.wrap_udp_socket(socket)
    }

    fn now(&self) -> Instant {
        self.environment.instant()
    }
}

struct Timer {
    environment: Environment,
    sleep: Pin<Box<Sleep>>,
}

impl fmt::Debug for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Timer")
    }
}

impl AsyncTimer for Timer {
    fn reset(mut self: Pin<&mut Self>, at: Instant) {
        let span = at.saturating_duration_since(self.environment.instant());
        // The environment knows how the node's clock relates to tokio's; a fresh sleep tells its deadline.
        let deadline = self.environment.sleep(span).deadline();
        self.sleep.as_mut().reset(deadline);
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Future::poll(self.sleep.as_mut(), cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn timers_follow_the_clock_of_the_node() {
        let environment = Environment::simulated(1, 2.0, Duration::ZERO);
        let tasks = Tasks::new(environment.clone());
        let start = environment.monotonic();
        let mut timer = tasks.new_timer(tasks.now() + Duration::from_millis(100));
        timer
            .as_mut()
            .reset(tasks.now() + Duration::from_millis(400));
        std::future::poll_fn(|cx| timer.as_mut().poll(cx)).await;
        let waited = environment.monotonic() - start;
        assert!(waited >= Duration::from_millis(400), "{waited:?}");
        assert!(waited < Duration::from_millis(410), "{waited:?}");
    }

    #[test]
    fn tasks_can_be_started_while_the_runtime_shuts_down() {
        struct Last(Tasks);
        impl Drop for Last {
            fn drop(&mut self) {
                self.0.spawn(async {});
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let tasks = Tasks::new(Environment::system());
        let last = Last(tasks.clone());
        runtime.block_on(async {
            tasks.spawn(async move {
                let _last = last;
                std::future::pending::<()>().await;
            });
        });
        drop(runtime);
        assert!(lock(&tasks.live).handles.is_empty());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn stopping_ends_all_tasks_and_ended_tasks_are_forgotten() {
        let tasks = Tasks::new(Environment::current());
        let (ended, mut all_ended) = tokio::sync::mpsc::channel::<()>(1);
        tasks.spawn(async {});
        tokio::task::yield_now().await;
        assert_eq!(lock(&tasks.live).handles.len(), 0);
        for _ in 0..3 {
            let ended = ended.clone();
            tasks.spawn(async move {
                let _ended = ended;
                std::future::pending::<()>().await;
            });
        }
        assert_eq!(lock(&tasks.live).handles.len(), 3);
        tasks.stop();
        let late = ended.clone();
        tasks.spawn(async move {
            let _late = late;
            std::future::pending::<()>().await;
        });
        drop(ended);
        assert_eq!(all_ended.recv().await, None, "every task was dropped");
    }
}
