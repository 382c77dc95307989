//! SWIM without IO: foca, its timers, and what it wants sent.

use std::collections::BTreeMap;
use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

use foca::{Config, Foca, Member, NoCustomBroadcast, Notification, PeriodicParams, Runtime, Timer};
use rand_chacha::ChaCha8Rng;

use super::MembershipTiming;
use super::identity::Identity;
use super::packet::{Codec, MAX_SWIM_BYTES, SwimMessage};
use crate::time::Time;

/// Members asked to probe on our behalf, and told of news at once.
const FAN_OUT: NonZeroUsize = NonZeroUsize::new(3).unwrap();
/// An answer to a probe is late after this part of the interval; then others are asked to try.
const LATE_PART: u32 = 3;
/// News is repeated several times within one probe interval, so that it outruns suspicion.
const GOSSIPS_A_PROBE: u32 = 4;
/// Anti-entropy: a member is asked for the members that it knows every so many probe intervals.
const PROBES_A_FEED: u32 = 25;

/// foca with everything that it needs from outside.
pub(super) struct Swim {
    foca: Foca<Identity, Codec, ChaCha8Rng, NoCustomBroadcast>,
    config: Config,
    timers: Timers,
    /// What is to be sent, to whom, in SWIM's format.
    sends: Vec<(Identity, Vec<u8>)>,
    /// Calls that foca refused; each is a packet that was well-formed but made no sense.
    refused: u64,
}

#[derive(Default)]
struct Timers {
    /// By the time they are due; the number keeps those of one moment in their order.
    due: BTreeMap<(Time, u64), Timer<Identity>>,
    count: u64,
}

struct Effects<'a> {
    now: Time,
    timers: &'a mut Timers,
    sends: &'a mut Vec<(Identity, Vec<u8>)>,
}

impl Runtime<Identity> for Effects<'_> {
    /// Nothing is learnt from notifications: the state afterwards says more (suspicion, too).
    fn notify(&mut self, _notification: Notification<'_, Identity>) {}

    fn send_to(&mut self, to: Identity, data: &[u8]) {
        self.sends.push((to, data.to_vec()));
    }

    fn submit_after(&mut self, event: Timer<Identity>, after: Duration) {
        self.timers.count += 1;
        let key = (self.now + after, self.timers.count);
        self.timers.due.insert(key, event);
    }
}

fn config(timing: &MembershipTiming) -> Config {
    let periodic = |frequency, num_members| {
        Some(PeriodicParams {
            frequency,
            num_members,
        })
    };
    Config {
        probe_period: timing.probe,
        probe_rtt: timing.probe / LATE_PART,
        num_indirect_probes: FAN_OUT,
        max_transmissions: transmissions(1),
        suspect_to_down_after: timing.suspect,
        // The owner decides when to forget: see `forget`.
        remove_down_after: None,
        max_packet_size: NonZeroUsize::new(MAX_SWIM_BYTES).unwrap_or(NonZeroUsize::MIN),
        notify_down_members: true,
        periodic_announce: periodic(timing.probe * PROBES_A_FEED, NonZeroUsize::MIN),
        // The owner does that, also while no member is known to be up, when foca's timers rest.
        periodic_announce_to_down_members: None,
        periodic_gossip: periodic(timing.probe / GOSSIPS_A_PROBE, FAN_OUT),
    }
}

/// How often one piece of news is sent on: a little more than an epidemic needs, for losses.
fn transmissions(members: usize) -> NonZeroU8 {
    let rounds = 4 + (members + 1).ilog2();
    u8::try_from(rounds)
        .ok()
        .and_then(NonZeroU8::new)
        .unwrap_or(NonZeroU8::MAX)
}

impl Swim {
    pub(super) fn new(identity: Identity, timing: &MembershipTiming, rng: ChaCha8Rng) -> Self {
        let config = config(timing);
        Self {
            foca: Foca::new(identity, config.clone(), rng, Codec),
            config,
            timers: Timers::default(),
            sends: Vec::new(),
            refused: 0,
        }
    }

    /// What this node says about itself at present.
    pub(super) fn identity(&self) -> &Identity {
        self.foca.identity()
    }

    /// Everything that is known of the others, those that are down too, in no particular order.
    pub(super) fn states(&self) -> impl ExactSizeIterator<Item = &Member<Identity>> {
        self.foca.iter_membership_state()
    }

    pub(super) fn take_sends(&mut self) -> Vec<(Identity, Vec<u8>)> {
        std::mem::take(&mut self.sends)
    }

    /// Calls refused since this was last asked.
    pub(super) fn take_refused(&mut self) -> u64 {
        std::mem::take(&mut self.refused)
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub(super) fn poll_timeout(&self) -> Option<Time> {
        self.timers.due.first_key_value().map(|((at, _), _)| *at)
    }

    /// This node itself stood still: what was to happen meanwhile happens as much later. Otherwise it would call
    /// those dead whose answers it has not read yet.
    pub(super) fn postpone(&mut self, stalled: Duration) {
        let due = std::mem::take(&mut self.timers.due);
        let later = |((at, number), timer)| ((at + stalled, number), timer);
        self.timers.due = due.into_iter().map(later).collect();
    }

    /// Fires what is due, in order; whether anything was.
    pub(super) fn handle_timeout(&mut self, now: Time) -> bool {
        if self.poll_timeout().is_none_or(|at| at > now) {
            return false;
        }
        // What the timers set is not due before a later call: a long gap must not become a burst of probes.
        let due = self
            .timers
            .due
            .split_off(&(now + Duration::from_nanos(1), 0));
        let due = std::mem::replace(&mut self.timers.due, due);
        for timer in due.into_values() {
            self.call(now, |foca, effects| foca.handle_timer(timer, effects));
        }
        true
    }

    pub(super) fn handle_message(&mut self, now: Time, message: &SwimMessage) {
        let bytes = message.encode();
        self.call(now, |foca, effects| foca.handle_data(&bytes, effects));
    }

    /// Says something new about this node and tells some members at once.
    pub(super) fn change_identity(&mut self, now: Time, identity: Identity) {
        self.call(now, |foca, effects| foca.change_identity(identity, effects));
    }

    /// Counts a member as down without telling others.
    pub(super) fn declare_down(&mut self, now: Time, identity: Identity) {
        let down = std::iter::once(Member::down(identity));
        self.call(now, |foca, effects| foca.apply_many(down, false, effects));
    }

    /// Forgets a member that is down.
    pub(super) fn forget(&mut self, now: Time, identity: Identity) {
        let timer = Timer::RemoveDown(identity);
        self.call(now, |foca, effects| foca.handle_timer(timer, effects));
    }

    /// Adapts how often news is repeated to the number of members.
    pub(super) fn resize(&mut self, members: usize) {
        let max_transmissions = transmissions(members);
        if max_transmissions != self.config.max_transmissions {
            self.config.max_transmissions = max_transmissions;
            // Refused only if intervals change, which they do not.
            let _ = self.foca.set_config(self.config.clone());
        }
    }

    /// Never again: all timers are dropped.
    pub(super) fn stop(&mut self) {
        self.timers.due.clear();
    }

    fn call(
        &mut self,
        now: Time,
        act: impl FnOnce(
            &mut Foca<Identity, Codec, ChaCha8Rng, NoCustomBroadcast>,
            &mut Effects<'_>,
        ) -> Result<(), foca::Error>,
    ) {
        let mut effects = Effects {
            now,
            timers: &mut self.timers,
            sends: &mut self.sends,
        };
        if act(&mut self.foca, &mut effects).is_err() {
            self.refused += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_is_repeated_more_often_among_many() {
        let repeats: Vec<u8> = [0, 2, 9, 200, 5_000].map(|n| transmissions(n).get()).into();
        assert!(
            repeats.is_sorted() && repeats[0] >= 4 && repeats[3] <= 12,
            "{repeats:?}"
        );
    }
}
