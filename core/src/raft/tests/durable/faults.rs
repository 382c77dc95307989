//! Disks that fail, are full, lie or are slow.

use std::io::ErrorKind;

use super::crash::HISTORY;
use super::*;

/// Whatever is tried on a store that has failed is refused, and nothing is written any more.
async fn assert_dead(history: &mut History, disk: &SimDisk) {
    let before = disk.operations();
    let refused = history.issue(Op::Vote(90)).await.unwrap_err();
    assert!(
        refused.to_string().contains("cannot be written"),
        "{refused}"
    );
    assert!(history.issue(Op::Append(1, 90)).await.is_err());
    let last = history.model.last().unwrap_or(id(0, 90));
    assert!(history.stores.purge(last).await.is_err());
    assert!(history.stores.truncate_after(Some(last)).await.is_err());
    assert!(history.stores.save_committed(Some(last)).await.is_err());
    assert!(history.stores.save_snapshot(snapshot(last)).await.is_err());
    history.stores.close();
    assert_eq!(disk.operations(), before, "nothing is retried");
}

/// An fsync that failed has dropped what it was to write: a second one would succeed and lie.
#[test]
fn an_fsync_that_fails_ends_the_store_and_loses_nothing_that_was_acknowledged() {
    fail_each_sync(false);
}

/// The next process reads from the cache what the failed fsync has dropped, and takes it for its log.
#[test]
fn what_a_failed_fsync_dropped_is_durable_once_the_next_process_counts_on_it() {
    fail_each_sync(true);
}

fn fail_each_sync(another_process: bool) {
    let mut failures = 0;
    for operation in 0.. {
        let failed = on_a_node(async {
            let disk = SimDisk::new();
            disk.fail_sync_at(operation);
            let Ok((_, stores)) = open(&disk, 1) else {
                return true;
            };
            let mut history = History::new(stores);
            if history.play(HISTORY).await.is_ok() {
                return false;
            }
            let (durable, states) = (history.durable, history.states.len());
            let snapshot = history.begun_snapshot;
            assert_dead(&mut history, &disk).await;
            history.durable = durable;
            history.states.truncate(states);
            history.begun_snapshot = snapshot;
            if another_process {
                disk.end_process();
                let (_, stores) = open(&disk, 2).unwrap();
                let found = held(&mut stores.clone()).await;
                disk.cut_power(Unsynced::Lost);
                let (_, stores) = open(&disk, 3).unwrap();
                assert_eq!(held(&mut stores.clone()).await, found);
                history.check(stores).await;
            } else {
                disk.cut_power(Unsynced::Kept);
                let (_, stores) = open(&disk, 2).unwrap();
                history.check(stores).await;
            }
            true
        });
        if !failed {
            break;
        }
        failures += 1;
    }
    assert!(failures > 20, "only {failures} syncs");
}

#[test]
fn a_full_disk_ends_the_store_and_with_room_again_it_goes_on() {
    let whole = on_a_node(async {
        let disk = SimDisk::new();
        let (_, stores) = open(&disk, 1).unwrap();
        History::new(stores).play(HISTORY).await.unwrap();
        disk.used()
    });
    let mut full = 0;
    for room in (0..2 * whole).step_by(61) {
        on_a_node(async {
            let disk = SimDisk::new();
            disk.limit(Some(room));
            let Ok((_, stores)) = open(&disk, 1) else {
                return;
            };
            let mut history = History::new(stores);
            let Err(error) = history.play(HISTORY).await else {
                return;
            };
            full += 1;
            assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
            assert!(error.to_string().contains("make room"), "{error}");
            let kept = (
                history.durable,
                history.states.len(),
                history.begun_snapshot,
            );
            assert_dead(&mut history, &disk).await;
            history.durable = kept.0;
            history.states.truncate(kept.1);
            history.begun_snapshot = kept.2;
            disk.limit(None);
            let (_, stores) = open(&disk, 2).unwrap();
            history.check(stores).await;
        });
    }
    assert!(full > 20, "full {full} times");
}

/// The documented consequence: what was acknowledged may be gone, with everything after it, or the store refuses to open
/// because a later record says that it should be there. Never a hole, never something that was not written.
#[test]
fn a_disk_that_lies_loses_an_end_of_the_log_and_no_more() {
    let mut lost = 0;
    for begin in 0..HISTORY.len() {
        for seed in 0..8 {
            on_a_node(async {
                let disk = SimDisk::new();
                let (_, stores) = open(&disk, 1).unwrap();
                let mut history = History::new(stores);
                history.play(&HISTORY[..begin]).await.unwrap();
                let (honest, snapshot) = (history.durable, history.snapshot);
                disk.lie(true);
                history.play(&HISTORY[begin..]).await.unwrap();
                disk.cut_power(Unsynced::Torn(seed));
                match open(&disk, 2) {
                    Ok((_, stores)) => {
                        lost += u64::from(held(&mut stores.clone()).await != history.model);
                        history.durable = honest;
                        history.snapshot = snapshot;
                        history.check(stores).await;
                    }
                    Err(StorageError::Damaged { .. }) => {}
                    Err(other) => panic!("{other}"),
                }
            });
        }
    }
    assert!(lost > 0);
}

#[test]
fn nothing_is_acknowledged_before_a_slow_disk_has_it() {
    let slow = 3 * Duration::from_secs(1);
    for waits in [1_000, 2_900, 3_100] {
        on_a_node(async {
            let disk = SimDisk::new();
            let (_, stores) = open(&disk, 1).unwrap();
            let mut history = History::new(stores);
            history.play(&[Op::Origin, Op::Append(2, 1)]).await.unwrap();
            disk.slow_down(slow);
            history.issue(Op::Append(2, 1)).await.unwrap();
            let mut stores = history.stores.clone();
            assert_eq!(held(&mut stores).await, history.model, "readable at once");
            let (here, mut receiver) = history.pending.pop().unwrap();
            Environment::current().sleep(waits * MS).await;
            let is_told = receiver.try_recv().is_ok();
            assert_eq!(is_told, waits > 3_000, "after {waits} ms");
            assert_eq!(stores.has_flushed(&id(3, 1)), is_told);
            if is_told {
                history.durable = here;
            }
            disk.cut_power(Unsynced::Lost);
            let (_, stores) = open(&disk, 2).unwrap();
            history.check(stores).await;
        });
    }
}
