//! What was dropped and refused, and a log of refusals that a flood cannot fill.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use funk::transport::TransportCounters;

/// Refusals logged in one [`LOG_WINDOW`]; the others are only counted.
const LOGGED_A_WINDOW: u32 = 20;
const LOG_WINDOW: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(crate) struct Counters {
    refused: AtomicU64,
    datagrams_dropped: AtomicU64,
    malformed: AtomicU64,
    closed_by_peer: AtomicU64,
    log: Mutex<LogWindow>,
}

#[derive(Debug, Default)]
struct LogWindow {
    began: Duration,
    logged: u32,
    suppressed: u64,
}

impl Counters {
    pub(crate) fn add_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn add_dropped(&self, datagrams: usize) {
        self.datagrams_dropped
            .fetch_add(datagrams as u64, Ordering::Relaxed);
    }

    pub(crate) fn add_malformed(&self) {
        self.malformed.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn add_closed_by_peer(&self) {
        self.closed_by_peer.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self) -> TransportCounters {
        TransportCounters {
            refused: self.refused.load(Ordering::Relaxed),
            datagrams_dropped: self.datagrams_dropped.load(Ordering::Relaxed),
            malformed: self.malformed.load(Ordering::Relaxed),
            closed_by_peer: self.closed_by_peer.load(Ordering::Relaxed),
        }
    }

    /// Whether a refusal at `now` (monotonic) may be logged, and how many were not since the last one.
    pub(crate) fn may_log(&self, now: Duration) -> Option<u64> {
        let mut window = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_sub(window.began) >= LOG_WINDOW {
            window.began = now;
            window.logged = 0;
        }
        if window.logged >= LOGGED_A_WINDOW {
            window.suppressed += 1;
            return None;
        }
        window.logged += 1;
        Some(std::mem::take(&mut window.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_refusals_is_logged_in_part_and_the_rest_is_told_later() {
        let counters = Counters::default();
        let start = Duration::from_secs(100);
        let logged = (0..50)
            .filter(|_| counters.may_log(start).is_some())
            .count();
        assert_eq!(logged, LOGGED_A_WINDOW as usize);
        assert_eq!(counters.may_log(start + LOG_WINDOW), Some(30));
        assert_eq!(counters.may_log(start + LOG_WINDOW), Some(0));
    }
}
