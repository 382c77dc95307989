//! How often a peer is dialled that does not answer.
//!
//! Turmoil keeps the port of every connection that failed for the rest of the run, and answers a dial into a
//! partition with an immediate refusal, where a real network answers nothing. So a peer that did not answer is
//! dialled by one caller at a time, less and less often, while the others wait as they would for a silent peer.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use funk::time::Time;
use tokio::sync::Notify;

/// Dials to one address that may be under way at once.
const MAX_PENDING: usize = 16;
/// Pause after the first dial that failed; doubled after each further one.
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
/// Longest pause.
const LAST_BACKOFF: Duration = Duration::from_millis(800);

/// What a caller may do now.
pub(crate) enum Permission {
    /// Dial, and report the outcome.
    Dial,
    /// Ask again at this time, or when notified.
    Wait(Time, Arc<Notify>),
}

#[derive(Default)]
pub(crate) struct Reach(BTreeMap<SocketAddr, Target>);

#[derive(Default)]
struct Target {
    pending: usize,
    silent: Option<Silent>,
    changed: Arc<Notify>,
}

struct Silent {
    backoff: Duration,
    until: Time,
}

impl Reach {
    /// Asks for leave to dial.
    pub(crate) fn ask(&mut self, addr: SocketAddr, now: Time) -> Permission {
        let target = self.0.entry(addr).or_default();
        let may_dial = match &target.silent {
            None => target.pending < MAX_PENDING,
            Some(silent) => target.pending == 0 && silent.until <= now,
        };
        if may_dial {
            target.pending += 1;
            return Permission::Dial;
        }
        let until = target.silent.as_ref().map_or(now, |silent| silent.until);
        Permission::Wait(until.max(now + FIRST_BACKOFF), target.changed.clone())
    }

    /// A dial ended.
    pub(crate) fn report(&mut self, addr: SocketAddr, has_answered: bool, now: Time) {
        let target = self.0.entry(addr).or_default();
        target.pending = target.pending.saturating_sub(1);
        target.changed.notify_waiters();
        if !has_answered {
            let backoff = match &target.silent {
                // Others that were under way at the same time fail too; that is not a further silence.
                Some(silent) if now < silent.until => return,
                Some(silent) => LAST_BACKOFF.min(silent.backoff * 2),
                None => FIRST_BACKOFF,
            };
            let until = now + backoff;
            target.silent = Some(Silent { backoff, until });
            return;
        }
        target.silent = None;
        if target.pending == 0 {
            self.0.remove(&addr);
        }
    }
}
