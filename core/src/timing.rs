//! Timing: three presets, or explicit values checked against each other.
//!
//! The relations are those of the protocol document, section 4; each is there because something was seen to
//! fail below it.

use std::fmt;
use std::time::Duration;

/// All times of the protocol. Units: [`Duration`]; `clock_error` is a fraction (0.01 = 1 %).
#[derive(Clone, PartialEq, Debug)]
pub struct Timing {
    /// Interval of raft heartbeats.
    pub heartbeat: Duration,
    /// Shortest election timeout.
    pub election_min: Duration,
    /// Longest election timeout; also raft's leader lease.
    pub election_max: Duration,
    /// How often a leader without a quorum checks whether it should step down (rule L6).
    pub quorum_loss_probe: Duration,
    /// `B`: how long a leader may act after the sending of a heartbeat that a quorum answered (rule L3).
    pub leader_bound: Duration,
    /// Interval of the leader's pings, which carry the leases.
    pub ping: Duration,
    /// `L`: length of a lease (rule L1).
    pub lease: Duration,
    /// A node that answered no ping for this long is dead to the leader.
    pub dead_after: Duration,
    /// `e`: bound on the error of any clock's rate, as a fraction, 0 to 0.1.
    pub clock_error: f64,
    /// How long deaths are collected into one map change (rule M4).
    pub settle_deaths: Duration,
    /// How long joins are collected into one map change (rule M4).
    pub settle_joins: Duration,
    /// A live node that has not *applied* a proposal after this long counts as silent (rule L5).
    pub ack_timeout: Duration,
    /// How long a drain may take before the leader proposes a map without it (rule P4).
    pub drain_timeout: Duration,
    /// How long one run of the `acquire` hook may take.
    pub acquire_timeout: Duration,
    /// A dead voter is replaced after this long (rule M2).
    pub replace_after: Duration,
    /// A dead member is forgotten after this long (rule M2); longer than `replace_after`.
    pub stale_after: Duration,
    /// A node whose services have not been ready for this long loses its shards (rule M10).
    pub unready_after: Duration,
    /// Interval of gossip probes.
    pub gossip_probe: Duration,
    /// How long gossip suspects a node before it calls it failed.
    pub gossip_suspect: Duration,
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Largest `clock_error` that is accepted.
pub const MAX_CLOCK_ERROR: f64 = 0.1;
/// Allowance for one round trip within a data centre, in the relations that need one.
const ROUND_TRIP: Duration = ms(4);

impl Timing {
    /// One data centre; the default. A dead node's shards are served again after about 0.4 s.
    pub const fn lan() -> Self {
        Self {
            heartbeat: ms(20),
            election_min: ms(60),
            election_max: ms(120),
            quorum_loss_probe: ms(240),
            leader_bound: ms(80),
            ping: ms(20),
            lease: ms(340),
            dead_after: ms(120),
            clock_error: 0.01,
            settle_deaths: ms(20),
            settle_joins: ms(200),
            ack_timeout: ms(300),
            drain_timeout: ms(5_000),
            acquire_timeout: ms(5_000),
            replace_after: ms(10_000),
            stale_after: ms(300_000),
            unready_after: ms(5_000),
            gossip_probe: ms(200),
            gossip_suspect: ms(1_000),
        }
    }

    /// A quiet network and machines that do not stall: half of [`lan`](Self::lan).
    pub const fn fast() -> Self {
        Self {
            heartbeat: ms(10),
            election_min: ms(30),
            election_max: ms(60),
            quorum_loss_probe: ms(120),
            leader_bound: ms(42),
            ping: ms(10),
            lease: ms(170),
            dead_after: ms(70),
            settle_deaths: ms(10),
            settle_joins: ms(100),
            ack_timeout: ms(150),
            gossip_probe: ms(100),
            gossip_suspect: ms(500),
            ..Self::lan()
        }
    }

    /// Between regions: ten times [`lan`](Self::lan).
    pub const fn wan() -> Self {
        Self {
            heartbeat: ms(200),
            election_min: ms(600),
            election_max: ms(1_200),
            quorum_loss_probe: ms(2_400),
            leader_bound: ms(800),
            ping: ms(200),
            lease: ms(3_400),
            dead_after: ms(1_200),
            settle_deaths: ms(200),
            settle_joins: ms(2_000),
            ack_timeout: ms(3_000),
            drain_timeout: ms(20_000),
            acquire_timeout: ms(20_000),
            replace_after: ms(30_000),
            gossip_probe: ms(1_000),
            gossip_suspect: ms(5_000),
            ..Self::lan()
        }
    }

    /// `span*`: a bound that holds on anybody's clock, `span * (1 + e) / (1 - e)`.
    pub fn starred(&self, span: Duration) -> Duration {
        span.mul_f64((1.0 + self.clock_error) / (1.0 - self.clock_error))
    }

    /// Checks every relation and reports all that do not hold.
    pub fn check(&self) -> Result<(), Vec<TimingError>> {
        let mut errors = Vec::new();
        let mut need =
            |key: &'static str, value: Duration, at_least: Duration, why: &'static str| {
                if value < at_least {
                    errors.push(TimingError {
                        key,
                        value: Bound::Span(value),
                        allowed: Bound::Span(at_least),
                        why,
                    });
                }
            };
        let tick = ms(1);
        need(
            "heartbeat",
            self.heartbeat,
            tick,
            "raft counts in milliseconds",
        );
        need("ping", self.ping, tick, "the engine's timers are no finer");
        need(
            "election_min",
            self.election_min,
            self.heartbeat * 2,
            "two heartbeats: one may be lost",
        );
        need(
            "election_max",
            self.election_max,
            self.election_min + tick,
            "elections need a range to be drawn from",
        );
        need(
            "quorum_loss_probe",
            self.quorum_loss_probe,
            self.election_max * 2,
            "2 x election_max (rule L6)",
        );
        need(
            "leader_bound",
            self.leader_bound,
            self.heartbeat * 3 + ms(12),
            "3 x heartbeat + 12 ms, or recovery fails after a heal",
        );
        need(
            "lease",
            self.lease,
            self.ping * 5 + ms(20),
            "5 x ping + 20 ms, or leases lapse when a few pings are lost",
        );
        let election = self.election_max * 2;
        let rounds = ROUND_TRIP * 4;
        need(
            "lease",
            self.lease,
            self.ping * 2 + election + rounds,
            "2 x ping + 2 x election_max + 16 ms, or survivors pause when a leader dies",
        );
        need(
            "dead_after",
            self.dead_after,
            self.ping * 3,
            "3 x ping: two may be lost",
        );
        need(
            "ack_timeout",
            self.ack_timeout,
            self.heartbeat * 2,
            "2 x heartbeat: a follower learns of a commit with the next one",
        );
        need(
            "stale_after",
            self.stale_after,
            self.replace_after + tick,
            "longer than replace_after: a member is replaced before it is forgotten",
        );
        if !(0.0..=MAX_CLOCK_ERROR).contains(&self.clock_error) {
            errors.push(TimingError {
                key: "clock_error",
                value: Bound::Fraction(self.clock_error),
                allowed: Bound::Fraction(MAX_CLOCK_ERROR),
                why: "a fraction from 0 to 0.1",
            });
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }
}

impl Default for Timing {
    fn default() -> Self {
        Self::lan()
    }
}

/// A value or bound in a [`TimingError`].
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Bound {
    /// A time.
    Span(Duration),
    /// A fraction.
    Fraction(f64),
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bound::Span(span) => write!(f, "{span:?}"),
            Bound::Fraction(fraction) => write!(f, "{fraction}"),
        }
    }
}

/// A relation between times that does not hold.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[error("timing: {key} is {value}, but {allowed} is the limit: {why}")]
pub struct TimingError {
    /// Which value.
    pub key: &'static str,
    /// What it is.
    pub value: Bound,
    /// The nearest value that is allowed (a minimum for times, a maximum for fractions).
    pub allowed: Bound,
    /// The relation, and why.
    pub why: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_hold_every_relation() {
        for timing in [Timing::fast(), Timing::lan(), Timing::wan()] {
            assert_eq!(timing.check(), Ok(()));
        }
    }

    #[test]
    fn every_broken_relation_is_reported_at_once() {
        let broken = Timing {
            lease: ms(100),
            leader_bound: ms(50),
            clock_error: 0.5,
            ..Timing::lan()
        };
        let errors = broken.check().unwrap_err();
        let keys: Vec<_> = errors.iter().map(|e| e.key).collect();
        assert_eq!(keys, ["leader_bound", "lease", "lease", "clock_error"]);
        assert!(errors[0].to_string().contains("72ms"), "{}", errors[0]);
    }
}
