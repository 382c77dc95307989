//! Faults of disks: how they strike, what becomes of the node, and when it comes back.
//!
//! Whatever a disk does, a node that starts with a store that counts must find in it what it has acknowledged. A store
//! does not count any more when it was lost, when it is damaged (then the node must refuse it), and when the power of a
//! disk goes that has lied; the node comes back with an empty disk then, as another raft member. That happens to few
//! nodes at a time: every configuration keeps a quorum of stores that count.

use std::collections::BTreeSet;
use std::time::Duration;

use funk::ids::{BootId, LogIndex, NodeId, RaftId, StoreId};
use funk::store::sim_disk::SimDisk;
use funk::{Durability, Storage};
use funk_sim::{Disk, End, SimCluster};

use super::faults::{Hand, cut_power};
use super::plan::{Target, Unsynced};
use super::record::{Record, Shared};
use super::trace::Mark;
use super::world::NODE_RUNS;
use crate::invariants::Violation;

/// How soon a node is started with an empty disk after its own was refused.
const AFTER_REFUSAL: Duration = Duration::from_millis(100);

/// What is to fail at a disk that works so far, or is wrong with it. Of each disk one at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum DiskFault {
    /// The power goes at an operation.
    PowerEnds,
    /// An fsync fails.
    SyncFails,
    /// There is little room.
    Full,
    /// A byte is another one.
    Damaged,
}

/// The disk of a node, through all its runs.
#[derive(Debug)]
pub(super) struct DiskView {
    /// Nothing of a log would survive a loss of power.
    pub(super) is_volatile: bool,
    pub(super) fault: Option<DiskFault>,
    /// It says that it has written what it has not.
    pub(super) lies: bool,
    /// The node's latest run was started with an empty one.
    pub(super) is_new: bool,
    /// How often it had failed when the fault was set up.
    failures: u64,
    /// For how long the node is down when the fault has struck.
    down: Duration,
    /// The record was told how the latest run has ended.
    is_told: bool,
}

impl Default for DiskView {
    fn default() -> Self {
        Self {
            is_volatile: true,
            fault: None,
            lies: false,
            is_new: true,
            failures: 0,
            down: Duration::ZERO,
            is_told: false,
        }
    }
}

impl DiskView {
    /// The node is about to be started, with an empty disk or with what its own holds.
    fn starts(&mut self, disk: Disk) {
        self.fault = None;
        self.is_told = false;
        if disk == Disk::Lost {
            self.lies = false;
            self.is_volatile = true;
        }
    }
}

/// Starts a node that is down or has ended, with an empty disk or with what its own holds, which works from now on.
pub(super) fn start(sim: &mut SimCluster, name: &NodeId, at: usize, disk: Disk, shared: &Shared) {
    if let Some(disk) = sim.disk(name) {
        disk.mend();
    }
    {
        let mut record = shared.lock();
        record.ended(at);
        record.nodes[at].store_is_lost |= disk == Disk::Lost;
        record.nodes[at].disk.starts(disk);
    }
    sim.restart(name, disk);
}

/// Starts a node if it is down or has ended: with an empty disk if it has left or its store does not count any more.
pub(super) fn come_back(sim: &mut SimCluster, name: &NodeId, at: usize, shared: &Shared) {
    let end = sim.end(name);
    let is_known = sim.names().any(|known| known == name);
    if !is_known || (sim.is_up(name) && end.is_none()) {
        return;
    }
    let is_lost = end == Some(End::Left) || shared.lock().nodes[at].store_is_lost;
    let disk = if is_lost { Disk::Lost } else { Disk::Kept };
    start(sim, name, at, disk, shared);
}

/// Kills a node's process, and tells the record. `false`: it holds promises that others count on, and no log yet.
pub(super) fn kill(sim: &mut SimCluster, name: &NodeId, at: usize, shared: &Shared) -> bool {
    let is_volatile = shared.lock().nodes[at].disk.is_volatile;
    if is_volatile && !may_lose_store(&shared.lock(), at) {
        return false;
    }
    sim.kill(name);
    let mut record = shared.lock();
    record.mark(Some(at), Mark::Stopped("its process is killed".to_owned()));
    record.ended(at);
    record.nodes[at].store_is_lost |= is_volatile;
    true
}

/// Lets a node come back after a while, unless all faults have ended by then: that starts it too.
pub(super) fn come_back_after(
    sim: &mut SimCluster,
    name: &NodeId,
    at: usize,
    down: Duration,
    shared: &Shared,
) {
    let (name, shared) = (name.clone(), shared.clone());
    sim.at(sim.elapsed() + down, move |sim| {
        if !shared.is_calm() {
            come_back(sim, &name, at, &shared);
        }
    });
}

/// Whether every configuration that may still decide something keeps a quorum of stores without this one.
pub(super) fn may_lose_store(record: &Record, lost: usize) -> bool {
    keeps_quorum(record, Some(lost), None)
}

/// Whether every configuration that may still decide something keeps a quorum of stores if this node is told to leave.
pub(super) fn may_leave(record: &Record, at: usize) -> bool {
    keeps_quorum(record, None, Some(at))
}

/// Each configuration counts as it is, and without stores of nodes that are leaving: the change that takes such a node out
/// needs a quorum of what is left, and may begin before anybody misses another store. It may also never come.
fn keeps_quorum(record: &Record, lost: Option<usize>, leaves: Option<usize>) -> bool {
    let nodes = || record.nodes.iter().enumerate();
    let kept: BTreeSet<&RaftId> = nodes()
        .filter(|(at, node)| Some(*at) != lost && !node.store_is_lost && !node.disk.lies)
        .filter_map(|(_, node)| node.raft.as_ref())
        .collect();
    let leaving: BTreeSet<&RaftId> = nodes()
        .filter_map(|(at, node)| match Some(at) == leaves {
            true => node.raft.as_ref(),
            false => node.leaving.as_ref(),
        })
        .collect();
    let is_majority = |of: &mut dyn Iterator<Item = &RaftId>| {
        let (mut all, mut left) = (0, 0);
        for voter in of {
            all += 1;
            left += usize::from(kept.contains(voter));
        }
        left * 2 > all
    };
    let mut configurations = record.nodes.iter().flat_map(|node| &node.voters);
    configurations.all(|voters| {
        let goes = |voter: &&RaftId| leaving.contains(*voter) && kept.contains(*voter);
        let mut staying = voters.iter().filter(|voter| !goes(voter));
        is_majority(&mut voters.iter()) && is_majority(&mut staying)
    })
}

/// All disks work from now on. How they were torn before, and what a liar has not written, stays.
pub(super) fn end_all(sim: &SimCluster, names: &[NodeId], fsync: &[Duration]) {
    for (name, fsync) in names.iter().zip(fsync) {
        if let Some(disk) = sim.disk(name) {
            disk.mend();
            disk.slow_down(*fsync);
        }
    }
}

/// What has become of the nodes whose disks have failed, seen after each step.
pub(super) fn look(sim: &mut SimCluster, names: &[NodeId], shared: &Shared) {
    for (at, name) in names.iter().enumerate() {
        let fault = shared.lock().nodes[at].disk.fault;
        if fault == Some(DiskFault::PowerEnds) && !sim.is_up(name) {
            let down = {
                let mut record = shared.lock();
                record.tally.add("power ended in the middle of a write");
                record.mark(Some(at), Mark::Stopped("its power ends".to_owned()));
                record.ended(at);
                record.nodes[at].disk.fault = None;
                record.nodes[at].disk.down
            };
            come_back_after(sim, name, at, down, shared);
            continue;
        }
        let Some(end) = sim.end(name) else { continue };
        if std::mem::replace(&mut shared.lock().nodes[at].disk.is_told, true) {
            continue;
        }
        let down = tell(sim, name, at, &end, &mut shared.lock());
        if let Some(down) = down {
            come_back_after(sim, name, at, down, shared);
        }
    }
}

/// Tells the record how a run has ended. After how long the node comes back, if it is to.
fn tell(
    sim: &SimCluster,
    name: &NodeId,
    at: usize,
    end: &End,
    record: &mut Record,
) -> Option<Duration> {
    let reason = match end {
        End::Left => return None,
        End::Failed(reason) | End::Refused(reason) => reason,
    };
    record.mark(Some(at), Mark::Stopped(reason.clone()));
    record.ended(at);
    let disk = &mut record.nodes[at].disk;
    let failures = sim.disk(name).map_or(0, |disk| disk.faults());
    let is_clear = match (end, disk.fault) {
        (End::Refused(_), Some(DiskFault::Damaged)) => reason.contains("is damaged at offset"),
        _ => failures > disk.failures,
    };
    if !is_clear {
        let what = format!("{name} has stopped although its disk works: {reason}");
        record.note(Err(Violation::new(NODE_RUNS, what)));
        return None;
    }
    let (fault, down) = (disk.fault.take(), disk.down);
    record.tally.add(match (fault, end) {
        (Some(DiskFault::Damaged), _) => "damaged stores refused",
        (Some(DiskFault::Full), End::Failed(_)) => "nodes stopped by a full disk",
        (Some(DiskFault::SyncFails), End::Failed(_)) => "nodes stopped by a failed fsync",
        _ => "starts that failed for a full disk or a failed fsync",
    });
    Some(if fault == Some(DiskFault::Damaged) {
        AFTER_REFUSAL
    } else {
        down
    })
}

/// What a node's store held for sure at the latest look: the next run must find it.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    run: Option<BootId>,
    /// Of the latest run, also after a crash: then it shows what the store had at that moment.
    storage: Option<Storage>,
    store: Option<StoreId>,
    survives: Option<LogIndex>,
}

impl Found {
    /// After each step: the store of the node's run, if there is one.
    pub(super) fn look(
        &mut self,
        at: usize,
        run: Option<BootId>,
        storage: &Storage,
        record: &mut Record,
    ) {
        let Some(run) = run else { return };
        if self.run.replace(run) != Some(run) {
            if let Some(before) = self.storage.take() {
                // None if the store was closed: what was to be written then is not known exactly.
                self.survives = before.durability().map(|durability| durability.survives);
            }
            if let Some(durability) = storage.durability() {
                self.compare(at, storage, &durability, record);
            }
        }
        self.storage = Some(storage.clone());
        self.store = storage.store_id();
        record.nodes[at].disk.is_volatile = storage.is_volatile();
    }

    fn compare(&self, at: usize, storage: &Storage, durability: &Durability, record: &mut Record) {
        if durability.torn_bytes > 0 {
            record.tally.add("torn ends cut off at a start");
        }
        let disk = &record.nodes[at].disk;
        if disk.is_new || self.store.is_none() {
            return;
        }
        if storage.store_id() != self.store {
            let (before, now) = (self.store, storage.store_id());
            let what = format!("the store of node {at} was {before:?}, and is {now:?} now");
            record.note(Err(Violation::new("I9", what)));
        } else if self.survives > Some(durability.found) {
            let (before, now) = (self.survives, durability.found);
            let what = format!(
                "the log of node {at} was acknowledged up to and without {before:?}, and ends at {now} after a restart"
            );
            record.note(Err(Violation::new("I9", what)));
        }
    }
}

impl Hand<'_> {
    /// The place and the disk of a node that runs, whose store counts and whose disk works.
    fn sound_disk(&self, target: Target) -> Option<(usize, SimDisk)> {
        let at = self.place(target)?;
        let record = self.shared.lock();
        let view = &record.nodes[at].disk;
        if view.is_volatile || view.lies || view.fault.is_some() {
            return None;
        }
        Some((at, self.sim.disk(&self.names[at])?))
    }

    fn set_up(&self, at: usize, disk: &SimDisk, fault: DiskFault, down: Duration) {
        let view = &mut self.shared.lock().nodes[at].disk;
        view.fault = Some(fault);
        view.failures = disk.faults();
        view.down = down;
    }

    pub(super) fn end_power(&self, target: Target, operation: u64, down: Duration) -> bool {
        let Some((at, disk)) = self.sound_disk(target) else {
            return false;
        };
        disk.end_power_at(disk.operations() + operation);
        self.set_up(at, &disk, DiskFault::PowerEnds, down);
        true
    }

    pub(super) fn fail_sync(&self, target: Target, operation: u64, down: Duration) -> bool {
        let Some((at, disk)) = self.sound_disk(target) else {
            return false;
        };
        disk.fail_sync_at(disk.operations() + operation);
        self.set_up(at, &disk, DiskFault::SyncFails, down);
        true
    }

    pub(super) fn fill(&self, target: Target, room: u32, down: Duration) -> bool {
        let Some((at, disk)) = self.sound_disk(target) else {
            return false;
        };
        disk.limit(Some(disk.used() + room as usize));
        self.set_up(at, &disk, DiskFault::Full, down);
        true
    }

    pub(super) fn slow_disk(&mut self, target: Target, delay: Duration, span: Duration) -> bool {
        let Some(at) = self.place(target) else {
            return false;
        };
        let Some(disk) = self.sim.disk(&self.names[at]) else {
            return false;
        };
        let base = self.fsync[at];
        disk.slow_down(base.max(delay));
        self.sim.at(self.sim.elapsed() + span, move |_| {
            disk.slow_down(base);
        });
        true
    }

    pub(super) fn kill(&mut self, target: Target, down: Duration) -> bool {
        let Some(at) = self.place(target) else {
            return false;
        };
        let name = self.names[at].clone();
        if !kill(self.sim, &name, at, self.shared) {
            return false;
        }
        come_back_after(self.sim, &name, at, down, self.shared);
        true
    }

    pub(super) fn damage(&mut self, target: Target, place: u32, down: Duration) -> bool {
        let Some((at, disk)) = self.sound_disk(target) else {
            return false;
        };
        if !may_lose_store(&self.shared.lock(), at) {
            return false;
        }
        cut_power(self.sim, self.names, self.shared, at, Unsynced::Torn);
        self.shared.lock().nodes[at].store_is_lost = true;
        let name = self.names[at].clone();
        let raft = self.shared.lock().nodes[at].raft.clone();
        let struck = raft.and_then(|raft| byte_to_damage(&disk, &raft, place));
        let Some((file, offset)) = struck else {
            come_back_after(self.sim, &name, at, down, self.shared);
            return true;
        };
        disk.flip(&file, offset);
        self.shared.lock().nodes[at].disk.fault = Some(DiskFault::Damaged);
        let shared = self.shared.clone();
        self.sim.at(self.sim.elapsed() + down, move |sim| {
            let is_damaged = shared.lock().nodes[at].disk.fault == Some(DiskFault::Damaged);
            // Otherwise another fault has had the node started meanwhile, with an empty disk.
            if !is_damaged || sim.is_up(&name) || shared.is_calm() {
                return;
            }
            start(sim, &name, at, Disk::Kept, &shared);
            let mut record = shared.lock();
            record.nodes[at].disk.fault = Some(DiskFault::Damaged);
            record.mark(
                Some(at),
                Mark::Fault(format!("byte {offset} of {file} is damaged")),
            );
        });
        true
    }

    pub(super) fn lie(&mut self, target: Target, span: Duration, down: Duration) -> bool {
        let Some((at, disk)) = self.sound_disk(target) else {
            return false;
        };
        if !may_lose_store(&self.shared.lock(), at) {
            return false;
        }
        disk.lie(true);
        disk.lie_about_directory(true);
        self.shared.lock().nodes[at].disk.lies = true;
        let (names, shared) = (self.names.to_vec(), self.shared.clone());
        self.sim.at(self.sim.elapsed() + span, move |sim| {
            let may_go = {
                let record = shared.lock();
                let lies = record.nodes[at].disk.lies;
                lies && may_lose_store(&record, at) && sim.handle(&names[at]).is_some()
            };
            if !may_go || shared.is_calm() {
                return;
            }
            cut_power(sim, &names, &shared, at, Unsynced::Torn);
            {
                let mut record = shared.lock();
                record.nodes[at].store_is_lost = true;
                record.tally.add("power ended at a disk that lied");
            }
            come_back_after(sim, &names[at], at, down, &shared);
        });
        true
    }
}

/// A byte of this raft member's store that is read at its start, and is no part of an end that may be torn.
fn byte_to_damage(disk: &SimDisk, raft: &RaftId, place: u32) -> Option<(String, usize)> {
    use funk::store::files::Files;
    let store = raft.store.to_string();
    let names = disk.list().ok()?;
    let of_store = names.iter().filter(|name| name.starts_with(&store));
    let newest = of_store.clone().rfind(|name| name.ends_with(".snapshot"));
    let whole = names
        .iter()
        .filter(|name| *name == "identity")
        .chain(newest);
    let whole = whole.map(|name| (name, disk.look(name).map_or(0, |bytes| bytes.len())));
    let logs = of_store.filter(|name| name.ends_with(".log"));
    let logs = logs.map(|name| (name, disk.synced_before(name)));
    let files: Vec<(&String, usize)> = whole.chain(logs).filter(|(_, len)| *len > 0).collect();
    // Each file as likely as any other, whatever its size.
    let at = place as usize * files.len();
    let (name, len) = files.get(at / 1_000)?;
    Some(((*name).clone(), at % 1_000 * len / 1_000))
}
