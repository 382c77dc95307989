//! Links between nodes: cut, slow, lossy.

use std::time::Duration;

use super::clock::TrueTime;
use super::profile::Net;
use crate::random::Random;

/// For how long the last fault of a kind goes on, and how bad it is.
#[derive(Clone, Copy, Debug, Default)]
struct Burst {
    until: TrueTime,
    loss: f64,
    delay: Duration,
}

/// All links.
#[derive(Debug)]
pub(super) struct Network {
    profile: Net,
    /// `[from][to]`: how many cuts lie on the link.
    cuts: Vec<Vec<u8>>,
    burst: Burst,
    random: Random,
    sent: u64,
}

/// Links that are cut together and healed together.
pub(super) type Cut = Vec<(usize, usize)>;

impl Network {
    /// All links whole.
    pub(super) fn new(nodes: usize, profile: Net, random: Random) -> Self {
        Self {
            profile,
            cuts: vec![vec![0; nodes]; nodes],
            burst: Burst::default(),
            random,
            sent: 0,
        }
    }

    /// The arrivals of a message that is sent now: none, one or two.
    pub(super) fn send(&mut self, now: TrueTime, from: usize, to: usize) -> [Option<TrueTime>; 2] {
        self.sent += 1;
        let burst = if now < self.burst.until {
            self.burst
        } else {
            Burst::default()
        };
        if self.cuts[from][to] > 0 || self.random.chance(self.profile.loss + burst.loss) {
            return [None; 2];
        }
        let first = now + self.delay(burst);
        let second = self
            .random
            .chance(self.profile.duplicate)
            .then(|| now + self.delay(burst));
        [Some(first), second]
    }

    fn delay(&mut self, burst: Burst) -> u64 {
        let jitter = self
            .random
            .exponential(self.profile.jitter.as_nanos() as f64);
        let straggles = self.random.chance(self.profile.straggle);
        let straggle = if straggles {
            self.random
                .below(self.profile.straggle_by.as_nanos() as u64)
        } else {
            0
        };
        let slow = self.random.below(burst.delay.as_nanos() as u64 + 1);
        self.profile.base.as_nanos() as u64 + jitter + straggle + slow
    }

    /// How many messages were sent, those that were lost among them.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// Whether messages pass.
    pub(super) fn is_open(&self, from: usize, to: usize) -> bool {
        self.cuts[from][to] == 0
    }

    /// Cuts these links.
    pub(super) fn cut(&mut self, links: &Cut) {
        links
            .iter()
            .for_each(|&(from, to)| self.cuts[from][to] += 1);
    }

    /// Heals them.
    pub(super) fn heal(&mut self, links: &Cut) {
        links
            .iter()
            .for_each(|&(from, to)| self.cuts[from][to] = self.cuts[from][to].saturating_sub(1));
    }

    /// Loses and delays much until then.
    pub(super) fn burst(&mut self, until: TrueTime, loss: f64, delay: Duration) {
        self.burst = Burst { until, loss, delay };
    }

    /// Whole again; little is lost any more, nothing for long.
    pub(super) fn calm(&mut self) {
        self.cuts.iter_mut().flatten().for_each(|cut| *cut = 0);
        self.burst = Burst::default();
        self.profile.loss = 0.0;
        self.profile.straggle = 0.0;
    }
}
