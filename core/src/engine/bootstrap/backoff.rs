//! When to repeat a message whose effect has not been seen.

use std::time::Duration;

use crate::time::Time;
use crate::timing::Timing;

/// Due at once, then at doubling intervals from a ping interval up to a gossip probe interval.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    next: Time,
    span: Duration,
    first: Duration,
    last: Duration,
}

impl Backoff {
    pub(super) fn new(timing: &Timing, now: Time) -> Self {
        Self {
            next: now,
            span: timing.ping,
            first: timing.ping,
            last: timing.gossip_probe.max(timing.ping),
        }
    }

    /// Whether it is time; if so, the next time is later.
    pub(super) fn is_due(&mut self, now: Time) -> bool {
        if now < self.next {
            return false;
        }
        self.next = now + self.span;
        self.span = (self.span * 2).min(self.last);
        true
    }

    /// Due at once again.
    pub(super) fn reset(&mut self, now: Time) {
        self.next = now;
        self.span = self.first;
    }

    pub(super) fn next(&self) -> Time {
        self.next
    }
}
