//! Who held which shard, when, and who answered for it: the judge of safe ownership.
//!
//! Every request enters here with its guard and leaves when the guard is released. Times are taken under the
//! shard's lock, so that what the ledger says happened in an order did. An interval begins when the service gets
//! the guard, which is a little after it was given: what is counted as an overlap certainly was one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use funk::ids::{Epoch, Instance, ShardId};
use funk::time::Time;

use super::now;

/// Findings that are described in words; the others are only counted.
const MAX_FINDINGS: usize = 8;

/// What the ledger asks of a guard.
pub(crate) trait Lease: Send + Sync + 'static {
    /// Until when it holds, following renewals; `None`: it has lapsed, for good.
    fn valid_until(&self) -> Option<Time>;
}

impl Lease for funk::ShardGuard {
    fn valid_until(&self) -> Option<Time> {
        funk::ShardGuard::valid_until(self)
    }
}

/// The record of all shards.
pub(crate) struct Ledger {
    shards: Box<[Mutex<Record>]>,
    guards: AtomicU64,
    double_owner_ns: AtomicU64,
    wrong_owner: AtomicU64,
    findings: Mutex<Vec<String>>,
}

#[derive(Default)]
struct Record {
    /// The highest token under which a guard was seen, and whose it was.
    highest: Option<(Epoch, Instance)>,
    in_flight: Vec<InFlight>,
    overlaps: Vec<Overlap>,
}

struct InFlight {
    id: u64,
    owner: Instance,
    lease: Weak<dyn Lease>,
}

/// Two guards of different owners that are valid at once.
struct Overlap {
    guards: (u64, u64),
    since: Time,
}

/// One request's guard, entered in the ledger until it is dropped.
pub(crate) struct Held<L: Lease> {
    ledger: Arc<Ledger>,
    id: u64,
    shard: ShardId,
    epoch: Epoch,
    owner: Instance,
    // Dropped after `drop` below has run: the interval ends before the guard is released, never after.
    lease: Arc<L>,
}

impl Ledger {
    pub(crate) fn new(shards: u32) -> Self {
        Self {
            shards: (0..shards).map(|_| Mutex::default()).collect(),
            guards: AtomicU64::new(0),
            double_owner_ns: AtomicU64::new(0),
            wrong_owner: AtomicU64::new(0),
            findings: Mutex::default(),
        }
    }

    /// A guard is in use from now on.
    pub(crate) fn enter<L: Lease>(
        self: &Arc<Self>,
        owner: &Instance,
        shard: ShardId,
        epoch: Epoch,
        lease: L,
    ) -> Held<L> {
        let id = self.guards.fetch_add(1, Ordering::Relaxed);
        let lease = Arc::new(lease);
        let weak = Arc::downgrade(&lease);
        {
            let mut record = self.record(shard);
            let at = now();
            // A guard that has lapsed by now proves nothing about anybody.
            if lease.valid_until().is_some() {
                self.compare(&mut record, (id, owner), shard, at);
                if record
                    .highest
                    .as_ref()
                    .is_none_or(|(highest, _)| *highest < epoch)
                {
                    record.highest = Some((epoch, owner.clone()));
                }
            }
            record.in_flight.push(InFlight {
                id,
                owner: owner.clone(),
                lease: weak,
            });
        }
        Held {
            ledger: self.clone(),
            id,
            shard,
            epoch,
            owner: owner.clone(),
            lease,
        }
    }

    /// Opens an overlap with every other owner's guard that is valid at this moment.
    fn compare(&self, record: &mut Record, new: (u64, &Instance), shard: ShardId, at: Time) {
        let (id, owner) = new;
        for other in record
            .in_flight
            .iter()
            .filter(|other| other.owner != *owner)
        {
            if other
                .lease
                .upgrade()
                .is_some_and(|lease| lease.valid_until().is_some())
            {
                record.overlaps.push(Overlap {
                    guards: (other.id, id),
                    since: at,
                });
                self.find(format!(
                    "shard {shard} was held by {} and {owner} at once",
                    other.owner
                ));
            }
        }
    }

    fn leave(&self, shard: ShardId, id: u64) {
        let mut record = self.record(shard);
        let at = now();
        record.in_flight.retain(|guard| guard.id != id);
        let mut ended = Duration::ZERO;
        record.overlaps.retain(|overlap| {
            let (a, b) = overlap.guards;
            if a != id && b != id {
                return true;
            }
            // If a guard lapsed first this is a little too long, and an overlap of no length is still one.
            ended += at.since(overlap.since).max(Duration::from_nanos(1));
            false
        });
        self.double_owner_ns
            .fetch_add(ended.as_nanos() as u64, Ordering::Relaxed);
    }

    /// Counts an application of a replicated entry whose token is lower than one that was applied before (I3).
    pub(crate) fn applied_out_of_order(&self, shard: ShardId, epoch: Epoch, highest: Epoch) {
        self.wrong_owner.fetch_add(1, Ordering::Relaxed);
        self.find(format!(
            "shard {shard}: an entry of epoch {epoch} was applied after one of {highest}"
        ));
    }

    /// Time during which two owners held one shard, summed over shards and pairs.
    pub(crate) fn double_owner(&self) -> Duration {
        Duration::from_nanos(self.double_owner_ns.load(Ordering::Relaxed))
    }

    /// Answers computed by a node that was not the owner.
    pub(crate) fn wrong_owner(&self) -> u64 {
        self.wrong_owner.load(Ordering::Relaxed)
    }

    /// Guards that were seen.
    pub(crate) fn guards(&self) -> u64 {
        self.guards.load(Ordering::Relaxed)
    }

    /// The first few violations in words.
    pub(crate) fn findings(&self) -> Vec<String> {
        self.findings
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn find(&self, finding: String) {
        let mut findings = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
        if findings.len() < MAX_FINDINGS {
            findings.push(finding);
        }
    }

    fn record(&self, shard: ShardId) -> MutexGuard<'_, Record> {
        self.shards[shard.0 as usize]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl<L: Lease> Held<L> {
    /// The guard itself.
    pub(crate) fn guard(&self) -> &L {
        &self.lease
    }

    /// To be called at the moment at which an answer has been computed from local state. `false`: the guard has lapsed
    /// meanwhile, and the answer must not be given.
    ///
    /// An answer is wrong if its guard still claims to hold although another owner was seen with a higher token (or
    /// with the same one).
    pub(crate) fn may_answer(&self) -> bool {
        let record = self.ledger.record(self.shard);
        if self.lease.valid_until().is_none() {
            return false;
        }
        if let Some((epoch, owner)) = &record.highest
            && *owner != self.owner
            && *epoch >= self.epoch
        {
            self.ledger.wrong_owner.fetch_add(1, Ordering::Relaxed);
            self.ledger.find(format!(
                "shard {}: {} answered at epoch {} after {owner} was seen at {epoch}",
                self.shard, self.owner, self.epoch
            ));
        }
        true
    }
}

impl<L: Lease> Drop for Held<L> {
    fn drop(&mut self) {
        self.ledger.leave(self.shard, self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use funk::ids::{BootId, NodeId};
    use std::sync::atomic::AtomicBool;

    #[derive(Clone, Default)]
    struct FakeLease(Arc<AtomicBool>);

    impl FakeLease {
        fn lapse(&self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    impl Lease for FakeLease {
        fn valid_until(&self) -> Option<Time> {
            (!self.0.load(Ordering::SeqCst)).then_some(Time(u64::MAX))
        }
    }

    fn run_of(node: &str, boot: u64) -> Instance {
        Instance {
            node: NodeId::new(node).unwrap(),
            boot: BootId(boot),
        }
    }

    const SHARD: ShardId = ShardId(3);

    fn enter(ledger: &Arc<Ledger>, owner: &Instance, epoch: u64) -> (Held<FakeLease>, FakeLease) {
        let lease = FakeLease::default();
        (
            ledger.enter(owner, SHARD, Epoch(epoch), lease.clone()),
            lease,
        )
    }

    #[test]
    fn two_owners_at_once_are_counted_for_as_long_as_it_lasts() {
        let ledger = Arc::new(Ledger::new(8));
        let (first, _) = enter(&ledger, &run_of("a", 1), 5);
        let begin = now();
        let (second, _) = enter(&ledger, &run_of("b", 1), 6);
        assert_eq!(
            ledger.double_owner(),
            Duration::ZERO,
            "counted when it is over"
        );
        while now().since(begin) < Duration::from_millis(2) {
            std::hint::spin_loop();
        }
        drop(first);
        let counted = ledger.double_owner();
        assert!(counted >= Duration::from_millis(1), "{counted:?}");
        assert!(counted <= now().since(begin));
        drop(second);
        assert_eq!(
            ledger.double_owner(),
            counted,
            "over when the first of them ended"
        );
        assert_eq!(ledger.findings().len(), 1);
    }

    #[test]
    fn a_run_after_a_restart_is_another_owner() {
        let ledger = Arc::new(Ledger::new(8));
        let _first = enter(&ledger, &run_of("a", 1), 5);
        drop(enter(&ledger, &run_of("a", 2), 6));
        assert!(ledger.double_owner() > Duration::ZERO);
    }

    #[test]
    fn one_after_the_other_is_fine_and_so_is_one_owner_twice() {
        let ledger = Arc::new(Ledger::new(8));
        let (a, b) = (run_of("a", 1), run_of("b", 1));
        let first = enter(&ledger, &a, 5);
        drop(enter(&ledger, &a, 5));
        assert!(first.0.may_answer());
        drop(first);
        assert!(enter(&ledger, &b, 6).0.may_answer());
        assert_eq!(
            (ledger.double_owner(), ledger.wrong_owner()),
            (Duration::ZERO, 0)
        );
    }

    #[test]
    fn a_guard_that_has_lapsed_ends_its_interval() {
        let ledger = Arc::new(Ledger::new(8));
        let (stuck, lease) = enter(&ledger, &run_of("a", 1), 5);
        lease.lapse();
        drop(enter(&ledger, &run_of("b", 1), 6));
        assert!(!stuck.may_answer(), "its answer is not given");
        drop(stuck);
        assert_eq!(
            (ledger.double_owner(), ledger.wrong_owner()),
            (Duration::ZERO, 0)
        );
    }

    #[test]
    fn an_answer_after_a_higher_token_was_seen_is_wrong() {
        let ledger = Arc::new(Ledger::new(8));
        let (late, _) = enter(&ledger, &run_of("a", 1), 5);
        drop(enter(&ledger, &run_of("b", 1), 6));
        assert!(late.may_answer());
        assert_eq!(ledger.wrong_owner(), 1);
    }

    #[test]
    fn one_token_for_two_owners_is_wrong() {
        let ledger = Arc::new(Ledger::new(8));
        drop(enter(&ledger, &run_of("a", 1), 5));
        assert!(enter(&ledger, &run_of("b", 1), 5).0.may_answer());
        assert_eq!(ledger.wrong_owner(), 1);
    }
}
