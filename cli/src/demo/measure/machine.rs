//! The machine's own stalls: a bare thread that wants to wake every millisecond, and how late it came.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use funk::time::Time;

use super::now;

const TICK: Duration = Duration::from_millis(1);
/// Shorter gaps are not kept one by one.
const REMARKABLE: Duration = Duration::from_millis(4);
/// Gaps kept; past it only the longest one of all is.
const MAX_KEPT: usize = 65_536;

/// A running ticker. Dropping it ends the thread.
pub(crate) struct Ticker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stopped: AtomicBool,
    gaps: Mutex<Gaps>,
}

#[derive(Default)]
struct Gaps {
    longest: Duration,
    /// When each long one ended, and its length.
    kept: Vec<(Time, Duration)>,
}

impl Gaps {
    fn note(&mut self, end: Time, gap: Duration) {
        self.longest = self.longest.max(gap);
        if gap >= REMARKABLE && self.kept.len() < MAX_KEPT {
            self.kept.push((end, gap));
        }
    }

    fn within(&self, from: Time, to: Time) -> Duration {
        let touching = |(end, gap): &&(Time, Duration)| *end >= from && *end - *gap <= to;
        let gaps = self.kept.iter().filter(touching).map(|(_, gap)| *gap);
        gaps.max().unwrap_or_default()
    }
}

impl Ticker {
    pub(crate) fn start() -> Self {
        let shared = Arc::new(Shared::default());
        let for_thread = shared.clone();
        let thread = std::thread::spawn(move || tick(&for_thread));
        Self {
            shared,
            thread: Some(thread),
        }
    }

    /// The longest time between two ticks so far; a millisecond and a little on a machine with nothing else to do.
    pub(crate) fn longest(&self) -> Duration {
        self.gaps(|gaps| gaps.longest)
    }

    /// The longest time between two ticks that touched this span; zero if none was longer than 4 ms.
    pub(crate) fn longest_within(&self, from: Time, to: Time) -> Duration {
        self.gaps(|gaps| gaps.within(from, to))
    }

    fn gaps<T>(&self, look: impl FnOnce(&Gaps) -> T) -> T {
        look(
            &self
                .shared
                .gaps
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }
}

fn tick(shared: &Shared) {
    let mut last = now();
    while !shared.stopped.load(Ordering::Relaxed) {
        std::thread::sleep(TICK);
        let at = now();
        let mut gaps = shared.gaps.lock().unwrap_or_else(PoisonError::into_inner);
        gaps.note(at, at.since(last));
        last = at;
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(ms: u64) -> Time {
        Time(ms * 1_000_000)
    }

    #[test]
    fn a_gap_belongs_to_every_span_that_it_touches() {
        let mut gaps = Gaps::default();
        gaps.note(at(101), TICK);
        gaps.note(at(130), Duration::from_millis(29));
        assert_eq!(gaps.longest, Duration::from_millis(29));
        assert_eq!(gaps.within(at(0), at(100)), Duration::ZERO);
        assert_eq!(gaps.within(at(90), at(110)), Duration::from_millis(29));
        assert_eq!(gaps.within(at(129), at(500)), Duration::from_millis(29));
        assert_eq!(gaps.within(at(131), at(500)), Duration::ZERO);
    }

    #[test]
    fn a_ticker_ticks() {
        let ticker = Ticker::start();
        while ticker.longest() < TICK {
            std::hint::spin_loop();
        }
    }
}
