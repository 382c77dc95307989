//! What the driver does about serving: guards, hooks, drains; and the resource that checks tokens.

use funk::engine::LeaseView;

use super::process::Slot;
use super::*;

/// How many writes a guard sends at most.
const WRITES: u64 = 2;

impl World {
    /// A request arrives, at every node at once: whoever would hand out a guard does.
    pub(super) fn request(&mut self) {
        let wait = self
            .random
            .exponential(ns(self.profile.request_every) as f64);
        self.queue.push(self.now + wait.max(1), Event::Request);
        let shard = ShardId(self.random.below(u64::from(self.profile.shards)) as u32);
        for at in 0..self.nodes.len() {
            let clock = self.clock(at);
            let held = !self.calm && self.random.chance(self.profile.held_guards * 0.1);
            let id = self.guards_given + 1;
            let Some(process) = self.process(at).filter(|process| !process.paused) else {
                continue;
            };
            let Some(guard) = process.guard(clock, shard, id, held) else {
                continue;
            };
            let instance = process.instance.clone();
            self.guards_given = id;
            let length = self.guard_length(held);
            self.queue
                .push(self.now + length, Event::GuardEnd(at, instance.boot.0, id));
            for _ in 0..self.random.below(WRITES + 1) {
                let sent = self.random.below(length + 1);
                // Most arrive at once; some were sent, or are written by a process that had stopped, long ago.
                let late = if self.random.chance(0.02) {
                    3_000_000_000
                } else {
                    1_000_000
                };
                let arrival = self.now + sent + self.random.below(late);
                let write = Event::Write {
                    shard,
                    epoch: guard.epoch,
                    by: at,
                    instance: instance.clone(),
                    guard: id,
                };
                self.queue.push(arrival, write);
            }
            self.check_shards(std::iter::once(shard));
        }
    }

    fn guard_length(&mut self, held: bool) -> u64 {
        let longest = ns(self.profile.longest_guard).max(1);
        if !self.calm && (held || self.random.chance(self.profile.long_guards)) {
            self.random.below(longest)
        } else {
            self.random.below(2_000_000)
        }
    }

    pub(super) fn end_guard(&mut self, at: usize, guard: u64) {
        let Some(released) = self.process(at).and_then(|process| process.release(guard)) else {
            return;
        };
        self.maybe_release(at, released.shard);
        self.pump(at);
    }

    /// A guarded write arrives at the resource.
    pub(super) fn write(
        &mut self,
        shard: ShardId,
        epoch: Epoch,
        by: usize,
        instance: &Instance,
        guard: u64,
    ) {
        let clock = self.clock(by);
        let process = self.nodes[by]
            .process
            .as_deref()
            .filter(|process| process.instance == *instance);
        let live = process.is_some_and(|process| process.is_live(guard, clock));
        let verdict = self.fencing.write(shard, epoch, instance, live);
        self.note(verdict);
    }

    pub(super) fn set_lease(&mut self, at: usize, lease: LeaseView) {
        let clock = self.clock(at);
        let Some(process) = self.process(at) else {
            return;
        };
        if process.set_lease(clock, lease) {
            trace!(
                self,
                "n{at} is leased until its {:?}, generation {}", lease.until, lease.generation
            );
            self.check_all_shards();
        }
        self.drop_lapsed(at);
        let when = self.nodes[at].clock.when(lease.until);
        let now = self.now;
        let Some(process) = self.process(at) else {
            return;
        };
        if when > now && (process.lapse_at == TrueTime::MAX || when < process.lapse_at) {
            process.lapse_at = when;
            let boot = process.instance.boot.0;
            self.queue.push(when, Event::Lapse(at, boot));
        }
    }

    pub(super) fn lapse(&mut self, at: usize) {
        let (now, clock) = (self.now, self.clock(at));
        let Some(process) = self.process(at).filter(|process| process.lapse_at <= now) else {
            return;
        };
        process.lapse_at = TrueTime::MAX;
        if process.is_leased(clock) {
            // Renewed meanwhile.
            let lease = process.lease;
            return self.set_lease(at, lease);
        }
        trace!(self, "n{at}'s lease lapses");
        self.drop_lapsed(at);
        self.pump(at);
    }

    /// Rule S6: the futures under lapsed guards are dropped.
    fn drop_lapsed(&mut self, at: usize) {
        let clock = self.clock(at);
        let Some(process) = self.process(at) else {
            return;
        };
        for guard in process.lapsed(clock) {
            let Some(released) = self.process(at).and_then(|process| process.release(guard)) else {
                continue;
            };
            self.tally.add("guards lapsed in flight");
            self.maybe_release(at, released.shard);
        }
    }

    fn hook_length(&mut self) -> u64 {
        if !self.calm && self.random.chance(self.profile.slow_hooks) {
            self.random.below(ns(self.profile.longest_hook))
        } else {
            self.random.below(200_000)
        }
    }

    pub(super) fn acquire(&mut self, at: usize, shard: ShardId, epoch: Epoch) {
        let length = self.hook_length();
        let ok = self.calm || !self.random.chance(self.profile.failing_hooks);
        if !ok {
            self.pins = true;
        }
        let Some(process) = self.process(at) else {
            return;
        };
        let slot = process.slots.entry(shard).or_insert(Slot {
            epoch,
            acquiring: false,
            closing: false,
            releasing: false,
            guards: 0,
        });
        let fits = slot.epoch == epoch && !slot.closing && !slot.acquiring;
        slot.acquiring = true;
        let boot = process.instance.boot.0;
        if !fits {
            let what =
                format!("n{at} acquires shard {shard} (epoch {epoch}) that it has not drained");
            return self.note(Err(Violation::new("S3", what)));
        }
        self.queue.push(
            self.now + length,
            Event::HookEnd {
                node: at,
                boot,
                shard,
                epoch,
                acquire: true,
                ok,
            },
        );
    }

    pub(super) fn open(&mut self, at: usize, shards: &[(ShardId, Epoch)]) {
        trace!(self, "n{at} opens {shards:?}");
        let Some(process) = self.process(at) else {
            return;
        };
        for &(shard, epoch) in shards {
            process.open[shard.0 as usize] = epoch;
        }
        self.check_shards(shards.iter().map(|&(shard, _)| shard));
        self.handoff_opened(at);
    }

    pub(super) fn close(&mut self, at: usize, shards: &[(ShardId, Epoch)]) {
        trace!(self, "n{at} closes {shards:?}");
        let drain_timeout = ns(self.profile.timing.drain_timeout);
        for &(shard, epoch) in shards {
            let Some(process) = self.nodes[at].process.as_deref_mut() else {
                return;
            };
            let pending = process.engine.pending().map(|pending| pending.map.as_ref());
            let verdict = crate::invariants::unmoved::closed(
                &process.instance,
                process.engine.committed(),
                pending,
                shard,
                epoch,
            );
            process.open[shard.0 as usize] = Epoch(0);
            let slot = process
                .slots
                .get_mut(&shard)
                .expect("what is closed was acquired");
            slot.closing = true;
            let boot = process.instance.boot.0;
            self.note(verdict);
            self.maybe_release(at, shard);
            self.queue.push(
                self.now + drain_timeout,
                Event::DrainDeadline {
                    node: at,
                    boot,
                    shard,
                    epoch,
                },
            );
        }
    }

    /// Once the last guard is gone and `acquire` has ended, the `release` hook runs.
    fn maybe_release(&mut self, at: usize, shard: ShardId) {
        let length = self.hook_length();
        let Some(process) = self.process(at) else {
            return;
        };
        let boot = process.instance.boot.0;
        let Some(slot) = process.slots.get_mut(&shard) else {
            return;
        };
        if slot.closing && slot.guards == 0 && !slot.acquiring && !slot.releasing {
            slot.releasing = true;
            let epoch = slot.epoch;
            let end = Event::HookEnd {
                node: at,
                boot,
                shard,
                epoch,
                acquire: false,
                ok: true,
            };
            self.queue.push(self.now + length, end);
        }
    }

    pub(super) fn end_hook(
        &mut self,
        at: usize,
        shard: ShardId,
        epoch: Epoch,
        acquire: bool,
        ok: bool,
    ) {
        let tell = self.random.chance(0.5);
        let Some(process) = self.process(at) else {
            return;
        };
        let Some(slot) = process.slots.get_mut(&shard) else {
            return;
        };
        if !acquire {
            process.slots.remove(&shard);
            return self.input(at, Input::Drained { shard, epoch });
        }
        slot.acquiring = false;
        let closing = slot.closing;
        // Of a shard that was taken away meanwhile the engine may or may not still be told.
        if !closing || tell {
            process
                .inputs
                .push_back(Input::Acquired { shard, epoch, ok });
        }
        self.maybe_release(at, shard);
        self.pump(at);
    }

    /// The futures that the library runs are dropped; guards that others hold are not.
    pub(super) fn drain_deadline(&mut self, at: usize, shard: ShardId, epoch: Epoch) {
        let Some(process) = self.process(at) else {
            return;
        };
        if process
            .slots
            .get(&shard)
            .is_none_or(|slot| slot.epoch != epoch || !slot.closing)
        {
            return;
        }
        let of_shard = |(_, guard): &(&u64, &process::Guard)| guard.shard == shard && !guard.held;
        let ids: Vec<u64> = process
            .guards
            .iter()
            .filter(of_shard)
            .map(|(&id, _)| id)
            .collect();
        for id in ids {
            process.release(id);
        }
        self.maybe_release(at, shard);
        self.pump(at);
    }
}
