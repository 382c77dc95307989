//! The power is cut at every write; and at random in random histories.

use proptest::prelude::*;

use super::*;

/// A short life: elections, entries of several leaders, a conflict, two snapshots, a log that begins anew after one.
pub(super) const HISTORY: &[Op] = &[
    Op::Vote(1),
    Op::Origin,
    Op::Append(1, 1),
    Op::Append(3, 1),
    Op::Append(1, 1),
    Op::Committed(2),
    Op::Vote(2),
    Op::Append(4, 2),
    Op::Truncate(5),
    Op::Append(2, 3),
    Op::Append(1, 3),
    Op::Vote(3),
    Op::Snapshot(4),
    Op::Purge(4),
    Op::Append(5, 3),
    Op::Committed(9),
    Op::Append(1, 3),
    Op::Snapshot(10),
    Op::Purge(8),
    Op::Append(2, 4),
    Op::Truncate(12),
    Op::Append(1, 5),
    Op::Vote(6),
];

const CUTS: [Unsynced; 10] = [
    Unsynced::Lost,
    Unsynced::Kept,
    Unsynced::Torn(1),
    Unsynced::Torn(2),
    Unsynced::Torn(3),
    Unsynced::Torn(4),
    Unsynced::Torn(5),
    Unsynced::Torn(6),
    Unsynced::Torn(7),
    Unsynced::Torn(8),
];

/// Plays the changes until the power goes at an operation of the disk; what is left is opened and compared. Whether the
/// power went before the end.
async fn cut_at(ops: &[Op], operation: u64, cut: Unsynced, again: Option<u64>) -> bool {
    let disk = SimDisk::new();
    disk.end_power_at(operation);
    let mut history = match open(&disk, 1) {
        Ok((_, stores)) => Some(History::new(stores)),
        Err(_) => None,
    };
    let played = match &mut history {
        Some(history) => history.play(ops).await,
        None => Err(std::io::Error::other("not opened")),
    };
    disk.cut_power(cut);
    if let Some(again) = again {
        // Once more while it is being repaired.
        disk.end_power_at(disk.operations() + again);
        let _ = open(&disk, 2);
        disk.cut_power(cut);
    }
    let what = format!("operation {operation}, {cut:?}, again {again:?}");
    let (_, stores) = open(&disk, 3).unwrap_or_else(|error| panic!("{what}: {error}"));
    let Some(history) = history else { return true };
    history.check(stores.clone()).await;
    go_on(&disk, stores).await;
    played.is_err()
}

/// A store that was repaired takes more, and keeps it.
async fn go_on(disk: &SimDisk, mut stores: Stores) {
    let mut more = History::new(stores.clone());
    more.model = held(&mut stores).await;
    let snapshot = stores.snapshot().await.unwrap();
    more.snapshot = snapshot.and_then(|kept| kept.meta.last_log_id);
    more.states = vec![more.model.clone()];
    more.play(&[Op::Origin, Op::Append(3, 9), Op::Vote(9)])
        .await
        .unwrap();
    disk.cut_power(Unsynced::Lost);
    let (_, stores) = open(disk, 4).unwrap();
    more.check(stores).await;
}

/// I9: the exhaustive test. Whatever was acknowledged is there after a crash at any write; nothing else appears, and
/// there is no hole.
#[test]
fn i9_a_crash_at_every_write_loses_nothing_that_was_acknowledged() {
    let mut operations = 0;
    for operation in 0.. {
        let cut = |cut, again| on_a_node(cut_at(HISTORY, operation, cut, again));
        let mut was_cut = false;
        for unsynced in CUTS {
            was_cut |= cut(unsynced, None);
        }
        for again in 0..4 {
            cut(Unsynced::Torn(operation), Some(again));
        }
        if !was_cut {
            operations = operation;
            break;
        }
    }
    assert!(
        operations > 60,
        "only {operations} operations: the history is too short"
    );
}

/// What the disk holds when nothing was cut is the whole history.
#[test]
fn the_whole_history_is_there_after_an_orderly_end() {
    on_a_node(async {
        let disk = SimDisk::new();
        let (store, stores) = open(&disk, 1).unwrap();
        let mut history = History::new(stores);
        history.play(HISTORY).await.unwrap();
        let expected = history.model.clone();
        history.stores.close();
        assert!(history.issue(Op::Vote(9)).await.is_err(), "it is closed");
        let (again, mut stores) = open(&disk, 2).unwrap();
        assert_eq!(again, store);
        assert_eq!(held(&mut stores).await, expected);
        let committed = stores.read_committed().await.unwrap();
        assert_eq!(committed.map(|id| id.index), Some(9));
        let files = disk.list().unwrap();
        let segments = files.iter().filter(|name| name.ends_with(".log")).count();
        let snapshots = files
            .iter()
            .filter(|name| name.ends_with(".snapshot"))
            .count();
        assert!(segments > 1, "{files:?}");
        assert_eq!(snapshots, 1, "{files:?}");
        let first = files.iter().find(|name| name.ends_with(".log")).unwrap();
        assert!(
            !first.ends_with("-0000000000.log"),
            "old segments go: {files:?}"
        );
    });
}

/// Changes that a log can have, whatever the numbers are.
fn ops() -> impl Strategy<Value = Vec<Op>> {
    let change = prop_oneof![
        4 => (1..6u64).prop_map(|n| (0u8, n)),
        2 => any::<u64>().prop_map(|n| (1, n)),
        1 => any::<u64>().prop_map(|n| (2, n)),
        1 => any::<u64>().prop_map(|n| (3, n)),
        1 => any::<u64>().prop_map(|n| (4, n)),
    ];
    prop::collection::vec(change, 1..40).prop_map(|changes| {
        let mut model = Model::default();
        let (mut ops, mut term, mut covered) = (vec![Op::Origin], 1, None);
        for (kind, n) in changes {
            let first = model.purged.map_or(0, |purged| purged.index + 1);
            let next = model.next();
            let within = (next > first).then(|| first + n % (next - first).max(1));
            let op = match (kind, within) {
                (1, _) => {
                    term += 1;
                    Op::Vote(term)
                }
                (2, Some(index)) if covered.is_none_or(|covered| index >= covered) => {
                    term += 1;
                    Op::Truncate(index)
                }
                (3, Some(index)) if covered.is_none_or(|covered| index > covered) => {
                    covered = Some(index);
                    Op::Snapshot(index)
                }
                (4, _) => match covered {
                    Some(covered) if covered >= first => {
                        Op::Purge(first + n % (covered - first + 1))
                    }
                    _ => Op::Vote(term),
                },
                _ => Op::Append(1 + n % 5, term),
            };
            match op {
                Op::Append(count, term) => {
                    for index in next..next + count {
                        model.entries.insert(index, term);
                    }
                }
                Op::Truncate(index) => drop(model.entries.split_off(&(index + 1))),
                Op::Purge(index) => model.purge(model.id_at(index).unwrap()),
                _ => {}
            }
            ops.push(op);
        }
        ops
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn i9_random_histories_cut_anywhere_lose_nothing(ops in ops(), at in 0u64..200, seed: u64, again in prop::option::of(0u64..4)) {
        on_a_node(async {
            cut_at(&ops, at, Unsynced::Torn(seed), again).await;
        });
    }
}
