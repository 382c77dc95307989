//! When and whom to ask to be let in: seeds at first, then seeds and failed members that may be the other half.

use std::net::SocketAddr;
use std::time::Duration;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::time::Time;

/// Addresses asked in one round while alone.
const SEEDS_A_ROUND_ALONE: usize = 8;
/// Seeds that are no members, asked in one round otherwise.
const SEEDS_A_ROUND: usize = 2;
/// Failed members asked in one round.
const FAILED_A_ROUND: usize = 3;
/// While alone the interval doubles this often, from one probe interval.
const MAX_DOUBLINGS: u32 = 4;
/// The interval otherwise, in probe intervals.
const PROBES_A_ROUND: u32 = 25;
/// A node that is learning asks members for more of them this often in a probe interval.
const CATCH_UPS_A_PROBE: u32 = 4;
/// It stops after so many questions that taught nothing: a feed holds a random part of the members.
const FRUITLESS_CATCH_UPS: u32 = 8;

/// The schedule.
#[derive(Debug)]
pub(super) struct Joining {
    probe: Duration,
    seeds: Vec<SocketAddr>,
    cursor: usize,
    /// Rounds since the node was last not alone.
    rounds_alone: u32,
    next: Option<Time>,
    /// When to ask a member for more of the members that it knows.
    catch_up: Option<Time>,
    /// Questions still to be asked unless one teaches something.
    catch_ups: u32,
}

impl Joining {
    pub(super) fn new(probe: Duration) -> Self {
        Self {
            probe,
            seeds: Vec::new(),
            cursor: 0,
            rounds_alone: 0,
            next: None,
            catch_up: None,
            catch_ups: 0,
        }
    }

    /// Begins at once, with these addresses.
    pub(super) fn start(&mut self, now: Time, seeds: Vec<SocketAddr>) {
        self.seeds = seeds;
        self.rounds_alone = 0;
        self.next = Some(now);
    }

    /// The last other member is gone, or a member failed: the schedule must not rest.
    pub(super) fn wake(&mut self, now: Time, alone: bool) {
        let wait = if alone {
            self.probe
        } else {
            self.probe * PROBES_A_ROUND
        };
        let at = now + wait;
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }

    /// A feed taught new members; there may be more.
    pub(super) fn learnt(&mut self, now: Time) {
        self.catch_ups = FRUITLESS_CATCH_UPS;
        self.catch_up
            .get_or_insert(now + self.probe / CATCH_UPS_A_PROBE);
    }

    pub(super) fn poll_timeout(&self) -> Option<Time> {
        self.next.into_iter().chain(self.catch_up).min()
    }

    /// Whether a round is due; also plans the next.
    pub(super) fn round_is_due(&mut self, now: Time, alone: bool, rng: &mut ChaCha8Rng) -> bool {
        if self.next.is_none_or(|next| next > now) {
            return false;
        }
        let wait = if alone {
            self.rounds_alone += 1;
            self.probe * (1 << (self.rounds_alone - 1).min(MAX_DOUBLINGS))
        } else {
            self.rounds_alone = 0;
            self.probe * PROBES_A_ROUND
        };
        // Nodes that started together must not ask in step for ever.
        let jitter = wait / 1000 * rng.random_range(0..250);
        self.next = Some(now + wait + jitter);
        true
    }

    /// Nothing to ask: the schedule rests until it is woken.
    pub(super) fn rest(&mut self) {
        self.next = None;
    }

    pub(super) fn catch_up_is_due(&mut self, now: Time) -> bool {
        let due = self.catch_up.is_some_and(|at| at <= now);
        if due {
            self.catch_ups = self.catch_ups.saturating_sub(1);
            let again = now + self.probe / CATCH_UPS_A_PROBE;
            self.catch_up = (self.catch_ups > 0).then_some(again);
        }
        due
    }

    /// The seeds of this round, in turn, without those that `is_member`.
    pub(super) fn seeds(
        &mut self,
        alone: bool,
        is_member: impl Fn(&SocketAddr) -> bool,
    ) -> Vec<SocketAddr> {
        let count = if alone {
            SEEDS_A_ROUND_ALONE
        } else {
            SEEDS_A_ROUND
        };
        let turn =
            (0..self.seeds.len()).map(|at| self.seeds[(self.cursor + at) % self.seeds.len()]);
        let chosen: Vec<_> = turn.filter(|seed| !is_member(seed)).take(count).collect();
        self.cursor = self.cursor.wrapping_add(chosen.len()) % self.seeds.len().max(1);
        chosen
    }

    pub(super) fn has_seeds(&self) -> bool {
        !self.seeds.is_empty()
    }

    /// Some of the failed members, at random.
    pub(super) fn some_of<T>(mut failed: Vec<T>, rng: &mut ChaCha8Rng) -> Vec<T> {
        let mut chosen = Vec::new();
        while !failed.is_empty() && chosen.len() < FAILED_A_ROUND {
            chosen.push(failed.swap_remove(rng.random_range(0..failed.len())));
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::rand_core::SeedableRng;

    const PROBE: Duration = Duration::from_millis(200);

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], port))
    }

    #[test]
    fn a_lonely_node_asks_at_once_then_less_and_less_often_but_never_stops() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut joining = Joining::new(PROBE);
        joining.start(Time(0), vec![addr(1)]);
        let mut now = Time(0);
        let mut waits = Vec::new();
        for _ in 0..12 {
            assert!(joining.round_is_due(now, true, &mut rng));
            assert!(!joining.round_is_due(now, true, &mut rng));
            let next = joining.poll_timeout().unwrap();
            waits.push(next.since(now));
            now = next;
        }
        assert!(waits[0] < PROBE * 2 && waits[11] >= PROBE * 16 && waits[11] < PROBE * 21);
    }

    #[test]
    fn all_seeds_have_their_turn_though_some_are_members() {
        let mut joining = Joining::new(PROBE);
        joining.start(Time(0), (0..5).map(addr).collect());
        let mut asked = std::collections::BTreeSet::new();
        for _ in 0..5 {
            asked.extend(joining.seeds(false, |seed| seed.port() == 2));
        }
        assert_eq!(asked, [0, 1, 3, 4].map(addr).into());
    }

    #[test]
    fn who_learns_asks_on_until_some_questions_taught_nothing() {
        let mut joining = Joining::new(PROBE);
        let mut now = Time(0);
        let mut asked = 0;
        joining.learnt(now);
        while let Some(at) = joining.poll_timeout() {
            now = at;
            assert!(joining.catch_up_is_due(now));
            asked += 1;
            if asked == 2 {
                joining.learnt(now);
            }
        }
        assert_eq!(asked, 2 + FRUITLESS_CATCH_UPS);
    }

    #[test]
    fn becoming_lonely_brings_the_next_round_forward() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut joining = Joining::new(PROBE);
        joining.start(Time(0), vec![addr(1)]);
        assert!(joining.round_is_due(Time(0), false, &mut rng));
        assert!(joining.poll_timeout().unwrap() >= Time(0) + PROBE * 25);
        joining.wake(Time(5), true);
        assert_eq!(joining.poll_timeout(), Some(Time(5) + PROBE));
    }
}
