//! What requests felt around each fault.
//!
//! The stall of a `get` is its latency: the time from when it was sent (or from the fault, if it was under way
//! by then) until it was answered. The stall of a set of shards around a fault is the longest among all gets on them
//! that were in flight at some moment of the fault's window. The log's stall is the longest time between two
//! increments that were acknowledged one after the other.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use funk::ids::ShardId;
use funk::time::Time;

/// Windows of all faults, open and closed.
#[derive(Default)]
pub(crate) struct Windows(Mutex<State>);

#[derive(Default)]
struct State {
    windows: Vec<Window>,
    last_ack: Option<Time>,
}

struct Window {
    from: Time,
    /// `None`: still open.
    to: Option<Time>,
    /// Shard and stall of each get.
    gets: Vec<(ShardId, Duration)>,
    /// Shards that requests of the load were for.
    hits: Vec<ShardId>,
    /// From the last one before the window to the first one after it.
    acks: Vec<Time>,
}

impl Window {
    fn was_open_within(&self, start: Time, end: Time) -> bool {
        self.from <= end && self.to.is_none_or(|to| start <= to)
    }
}

/// Names a window.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WindowId(usize);

/// What was felt in a window.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Stalls {
    /// Longest get on a shard that moved; `None`: there was none.
    pub(crate) moved: Option<Duration>,
    /// Longest get on a shard that did not.
    pub(crate) unmoved: Option<Duration>,
    /// Longest time between acknowledged increments.
    pub(crate) log: Duration,
    /// Requests of the load on shards that moved.
    pub(crate) hits: u64,
}

impl Windows {
    /// A fault happens at `at`.
    pub(crate) fn open(&self, at: Time) -> WindowId {
        let mut state = self.state();
        let acks = state.last_ack.into_iter().collect();
        state.windows.push(Window {
            from: at,
            to: None,
            gets: Vec::new(),
            hits: Vec::new(),
            acks,
        });
        WindowId(state.windows.len() - 1)
    }

    /// Everything is as it should be since `at`. Gets that are in flight now are still counted when they end.
    pub(crate) fn close(&self, window: WindowId, at: Time) {
        self.state().windows[window.0].to = Some(at);
    }

    /// A get that was sent at `start` has just ended, well or not.
    pub(crate) fn note_get(&self, shard: ShardId, start: Time, end: Time) {
        for window in &mut self.state().windows {
            if window.was_open_within(start, end) {
                window.gets.push((shard, end.since(start.max(window.from))));
            }
        }
    }

    /// A request of the load, of either kind, has just ended.
    pub(crate) fn note_load(&self, shard: ShardId, start: Time, end: Time) {
        for window in &mut self.state().windows {
            if window.was_open_within(start, end) {
                window.hits.push(shard);
            }
        }
    }

    /// An increment was acknowledged at `at`.
    pub(crate) fn note_ack(&self, at: Time) {
        let mut state = self.state();
        let at = state.last_ack.map_or(at, |last| last.max(at));
        state.last_ack = Some(at);
        for window in &mut state.windows {
            let is_over = |to: Time| window.acks.last().is_some_and(|last| *last > to);
            if at >= window.from && !window.to.is_some_and(is_over) {
                window.acks.push(at);
            }
        }
    }

    /// The result, once nothing that was in flight in the window still is. `moved` has a flag for each shard.
    pub(crate) fn stalls(&self, window: WindowId, moved: &[bool]) -> Stalls {
        let state = self.state();
        let window = &state.windows[window.0];
        let has_moved = |shard: ShardId| moved.get(shard.0 as usize).copied().unwrap_or(false);
        let longest = |which: bool| {
            let gets = window
                .gets
                .iter()
                .filter(|(shard, _)| has_moved(*shard) == which);
            gets.map(|(_, stall)| *stall).max()
        };
        let first = window.acks.first().copied().unwrap_or(window.from);
        let last = window.acks.last().copied().unwrap_or(window.from);
        let end = window.to.map_or(last, |to| to.max(last));
        let times = window.acks.iter().copied();
        let gaps = times
            .clone()
            .zip(times.skip(1).chain([end]))
            .map(|(a, b)| b.since(a));
        Stalls {
            moved: longest(true),
            unmoved: longest(false),
            log: gaps
                .chain([first.since(window.from), end.since(last)])
                .max()
                .unwrap_or_default(),
            hits: window
                .hits
                .iter()
                .filter(|shard| has_moved(**shard))
                .count() as u64,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(ms: u64) -> Time {
        Time(ms * 1_000_000)
    }

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn gets_in_flight_at_any_moment_of_the_window_count() {
        let windows = Windows::default();
        windows.note_get(ShardId(0), at(0), at(90));
        let window = windows.open(at(100));
        windows.note_get(ShardId(1), at(95), at(107));
        windows.note_get(ShardId(0), at(120), at(150));
        windows.close(window, at(200));
        windows.note_get(ShardId(1), at(199), at(240));
        windows.note_get(ShardId(1), at(201), at(900));
        let stalls = windows.stalls(window, &[true, false]);
        assert_eq!(stalls.moved, Some(ms(30)));
        assert_eq!(
            stalls.unmoved,
            Some(ms(41)),
            "sent before the end, answered after it"
        );
    }

    #[test]
    fn a_get_that_the_fault_finds_under_way_counts_from_the_fault() {
        let windows = Windows::default();
        let window = windows.open(at(100));
        windows.note_get(ShardId(0), at(20), at(107));
        assert_eq!(windows.stalls(window, &[true]).moved, Some(ms(7)));
    }

    #[test]
    fn nothing_is_said_where_nothing_was_sent() {
        let windows = Windows::default();
        let window = windows.open(at(100));
        windows.note_get(ShardId(0), at(101), at(102));
        let stalls = windows.stalls(window, &[false]);
        assert_eq!(
            (stalls.moved, stalls.unmoved, stalls.hits),
            (None, Some(ms(1)), 0)
        );
    }

    #[test]
    fn requests_of_the_load_hit_shards_that_moved() {
        let windows = Windows::default();
        let window = windows.open(at(100));
        windows.note_load(ShardId(0), at(101), at(102));
        windows.note_load(ShardId(1), at(101), at(102));
        windows.close(window, at(110));
        windows.note_load(ShardId(0), at(111), at(112));
        assert_eq!(windows.stalls(window, &[true, false]).hits, 1);
    }

    #[test]
    fn the_logs_stall_reaches_over_both_ends_of_the_window() {
        let windows = Windows::default();
        windows.note_ack(at(60));
        let window = windows.open(at(100));
        windows.note_ack(at(130));
        windows.close(window, at(140));
        assert_eq!(
            windows.stalls(window, &[]).log,
            ms(70),
            "from the last one before"
        );
        windows.note_ack(at(230));
        assert_eq!(
            windows.stalls(window, &[]).log,
            ms(100),
            "to the first one after"
        );
        windows.note_ack(at(990));
        assert_eq!(windows.stalls(window, &[]).log, ms(100), "and not beyond");
    }

    #[test]
    fn a_log_that_never_answers_is_seen() {
        let windows = Windows::default();
        let window = windows.open(at(100));
        windows.close(window, at(400));
        assert_eq!(windows.stalls(window, &[]).log, ms(300));
    }
}
