//! Attempts to connect: one at a time for each address, with pauses that grow, and what waits for them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use funk::ids::{NodeId, PeerAddr};
use funk::transport::TransportError;
use tokio::sync::watch;

/// Datagrams that wait for one connection; they are worth little later, so few are kept.
const MAX_QUEUED: usize = 16;
/// Addresses with attempts under way or in a pause.
const MAX_ATTEMPTS: usize = 4_096;

/// What an attempt came to; `None` while it is under way.
pub(crate) type Outcome<C> = Option<Result<Arc<C>, TransportError>>;

/// The pauses between attempts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    pub(crate) min: Duration,
    pub(crate) max: Duration,
}

impl Backoff {
    /// Doubled by each failure up to the cap; between half of that and all of it, by chance.
    fn pause(&self, failures: u32, chance: u64) -> Duration {
        let doublings = failures.saturating_sub(1).min(20);
        let full = self.min.saturating_mul(1 << doublings).min(self.max);
        let share = (chance >> 11) as f64 / (1_u64 << 53) as f64;
        full / 2 + (full / 2).mul_f64(share)
    }
}

/// What became of a datagram without a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Queued {
    /// It waits, and the caller must start the attempt.
    Start,
    Waits,
    Dropped,
}

/// The attempts of a node.
#[derive(Debug)]
pub(crate) struct Dials<C> {
    backoff: Backoff,
    attempts: BTreeMap<PeerAddr, Attempt<C>>,
}

#[derive(Debug)]
struct Attempt<C> {
    failures: u32,
    /// Monotonic time before which no further attempt is made.
    not_before: Duration,
    last_error: Option<TransportError>,
    running: Option<Running<C>>,
}

#[derive(Debug)]
struct Running<C> {
    outcome: watch::Sender<Outcome<C>>,
    queued: Vec<Bytes>,
}

impl<C> Default for Running<C> {
    fn default() -> Self {
        Self {
            outcome: watch::Sender::new(None),
            queued: Vec::new(),
        }
    }
}

impl<C> Dials<C> {
    pub(crate) fn new(backoff: Backoff) -> Self {
        Self {
            backoff,
            attempts: BTreeMap::new(),
        }
    }

    /// Waits for the attempt to connect to an address. `true`: the caller must start it.
    pub(crate) fn join(
        &mut self,
        to: &PeerAddr,
        now: Duration,
    ) -> Result<(watch::Receiver<Outcome<C>>, bool), TransportError> {
        let (running, start) = self.running(to, now)?;
        Ok((running.outcome.subscribe(), start))
    }

    /// Keeps a datagram until the attempt to connect has ended.
    pub(crate) fn enqueue(&mut self, to: &PeerAddr, payload: Bytes, now: Duration) -> Queued {
        let Ok((running, start)) = self.running(to, now) else {
            return Queued::Dropped;
        };
        if running.queued.len() == MAX_QUEUED {
            return Queued::Dropped;
        }
        running.queued.push(payload);
        if start { Queued::Start } else { Queued::Waits }
    }

    /// The attempt under way, or a new one unless it is too early for that.
    fn running(
        &mut self,
        to: &PeerAddr,
        now: Duration,
    ) -> Result<(&mut Running<C>, bool), TransportError> {
        if !self.attempts.contains_key(to) && self.attempts.len() >= MAX_ATTEMPTS {
            self.attempts
                .retain(|_, attempt| attempt.running.is_some() || now < attempt.not_before);
            if self.attempts.len() >= MAX_ATTEMPTS {
                return Err(TransportError::Unreachable {
                    addr: to.addr,
                    reason: format!("{MAX_ATTEMPTS} addresses are being connected to already"),
                });
            }
        }
        let attempt = self.attempts.entry(to.clone()).or_insert_with(|| Attempt {
            failures: 0,
            not_before: now,
            last_error: None,
            running: None,
        });
        let start = attempt.running.is_none();
        if start
            && now < attempt.not_before
            && let Some(error) = &attempt.last_error
        {
            return Err(error.clone());
        }
        Ok((attempt.running.get_or_insert_default(), start))
    }

    /// A connection to a peer exists: whoever waits for it gets it. Returns the datagrams that waited.
    pub(crate) fn connected(&mut self, node: &NodeId, at: &PeerAddr, link: &Arc<C>) -> Vec<Bytes> {
        let mut queued = Vec::new();
        for (to, attempt) in &mut self.attempts {
            let same_node = to.node.as_ref() == Some(node);
            let same_address = to.node.is_none() && to.addr == at.addr;
            if !(same_node || same_address) {
                continue;
            }
            // The peer lives: the next attempt need not wait.
            attempt.not_before = Duration::ZERO;
            attempt.failures = 0;
            if let Some(running) = &mut attempt.running {
                // The attempt goes on; those who join it from now on wait for its own outcome.
                let waited = std::mem::take(running);
                waited.outcome.send_replace(Some(Ok(link.clone())));
                queued.extend(waited.queued);
            }
        }
        queued
    }

    /// The attempt has succeeded. Whoever still waits gets the connection.
    pub(crate) fn succeeded(&mut self, to: &PeerAddr, link: &Arc<C>) -> Vec<Bytes> {
        let attempt = self.attempts.remove(to);
        let Some(running) = attempt.and_then(|attempt| attempt.running) else {
            return Vec::new();
        };
        running.outcome.send_replace(Some(Ok(link.clone())));
        running.queued
    }

    /// The attempt has failed. Returns how many datagrams are lost with it.
    pub(crate) fn failed(
        &mut self,
        to: &PeerAddr,
        error: TransportError,
        now: Duration,
        chance: u64,
    ) -> usize {
        let Some(attempt) = self.attempts.get_mut(to) else {
            return 0;
        };
        attempt.failures = attempt.failures.saturating_add(1);
        attempt.not_before = now + self.backoff.pause(attempt.failures, chance);
        attempt.last_error = Some(error.clone());
        let Some(running) = attempt.running.take() else {
            return 0;
        };
        running.outcome.send_replace(Some(Err(error)));
        running.queued.len()
    }

    /// Gives up all attempts.
    pub(crate) fn clear(&mut self) {
        self.attempts.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: Duration = Duration::from_millis(50);
    const MAX: Duration = Duration::from_secs(1);

    fn dials() -> Dials<()> {
        Dials::new(Backoff { min: MIN, max: MAX })
    }

    fn to(node: Option<&str>, port: u16) -> PeerAddr {
        PeerAddr {
            node: node.map(|node| NodeId::new(node).unwrap()),
            addr: ([10, 0, 0, 1], port).into(),
        }
    }

    fn gone(to: &PeerAddr) -> TransportError {
        TransportError::Unreachable {
            addr: to.addr,
            reason: "gone".to_owned(),
        }
    }

    #[test]
    fn pauses_double_up_to_the_cap_and_vary_by_chance() {
        let backoff = Backoff { min: MIN, max: MAX };
        assert_eq!(backoff.pause(1, 0), MIN / 2);
        assert!(backoff.pause(1, u64::MAX) > MIN * 9 / 10);
        assert!(backoff.pause(1, u64::MAX) <= MIN);
        assert_eq!(backoff.pause(3, 0), MIN * 2);
        for failures in [6, 40, u32::MAX] {
            assert_eq!(backoff.pause(failures, 0), MAX / 2);
        }
    }

    #[test]
    fn one_attempt_at_a_time_and_none_during_a_pause() {
        let (mut dials, b) = (dials(), to(Some("b"), 1));
        let now = Duration::from_secs(5);
        let (first, start) = dials.join(&b, now).unwrap();
        assert!(start);
        let (second, start) = dials.join(&b, now).unwrap();
        assert!(!start);
        assert_eq!(dials.failed(&b, gone(&b), now, 0), 0);
        for waiting in [first, second] {
            assert!(matches!(*waiting.borrow(), Some(Err(_))));
        }
        assert!(dials.join(&b, now).is_err());
        assert_eq!(dials.enqueue(&b, Bytes::new(), now), Queued::Dropped);
        assert!(dials.join(&b, now + MIN / 2).unwrap().1);
    }

    #[test]
    fn few_datagrams_wait_and_are_lost_with_the_attempt() {
        let (mut dials, b) = (dials(), to(Some("b"), 1));
        let now = Duration::from_secs(5);
        let sent: Vec<_> = (0..MAX_QUEUED + 2)
            .map(|_| dials.enqueue(&b, Bytes::new(), now))
            .collect();
        assert_eq!(sent[0], Queued::Start);
        assert_eq!(sent[MAX_QUEUED - 1], Queued::Waits);
        assert_eq!(sent[MAX_QUEUED], Queued::Dropped);
        assert_eq!(dials.failed(&b, gone(&b), now, 0), MAX_QUEUED);
    }

    #[test]
    fn a_connection_from_the_peer_serves_all_who_wait_and_ends_the_pause() {
        let mut dials = dials();
        let (by_name, by_addr, other) = (to(Some("b"), 1), to(None, 2), to(Some("c"), 2));
        let now = Duration::from_secs(5);
        let (waiting, _) = dials.join(&by_name, now).unwrap();
        dials.enqueue(&by_addr, Bytes::from_static(b"x"), now);
        dials.enqueue(&other, Bytes::from_static(b"y"), now);
        let b = NodeId::new("b").unwrap();
        let queued = dials.connected(&b, &to(Some("b"), 2), &Arc::new(()));
        assert_eq!(queued, [Bytes::from_static(b"x")]);
        assert!(matches!(*waiting.borrow(), Some(Ok(_))));
        let (waiting, start) = dials.join(&by_name, now).unwrap();
        assert!(!start, "the attempt goes on");
        assert!(waiting.borrow().is_none(), "with an outcome of its own");
        dials.failed(&by_name, gone(&by_name), now, u64::MAX);
        assert!(dials.join(&by_name, now).is_err());
        dials.connected(&b, &to(Some("b"), 2), &Arc::new(()));
        assert!(dials.join(&by_name, now).unwrap().1);
    }

    #[test]
    fn attempts_are_bounded() {
        let mut dials = dials();
        let now = Duration::from_secs(5);
        for port in 0..MAX_ATTEMPTS as u16 {
            dials.join(&to(None, port), now).unwrap();
        }
        let more = to(None, u16::MAX);
        assert!(dials.join(&more, now).is_err());
        dials.failed(&to(None, 0), gone(&more), now, 0);
        assert!(dials.join(&more, now).is_err(), "still in its pause");
        assert!(dials.join(&more, now + MAX).is_ok());
    }
}
