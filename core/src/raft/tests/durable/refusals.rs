//! Directories that are not used: damaged, of another version, somebody else's, in use.

use super::crash::HISTORY;
use super::*;
use crate::store::identity::IDENTITY_FILE;
use crate::store::record::checksum;

/// A disk with the whole history, and what it holds.
async fn written() -> (SimDisk, Model) {
    let disk = SimDisk::new();
    let (_, stores) = open(&disk, 1).unwrap();
    let mut history = History::new(stores);
    history.play(HISTORY).await.unwrap();
    history.stores.close();
    (disk, history.model)
}

fn files_of(disk: &SimDisk) -> Vec<String> {
    disk.list().unwrap()
}

#[test]
fn a_flipped_bit_anywhere_is_refused_with_file_and_offset() {
    on_a_node(async {
        let (disk, model) = written().await;
        let (mut refused, mut harmless) = (0, 0);
        for name in files_of(&disk) {
            let whole = disk.look(&name).unwrap();
            for at in 0..whole.len() {
                disk.flip(&name, at);
                match open(&disk, 2) {
                    Err(StorageError::Damaged { file, offset, .. }) => {
                        assert!(file.ends_with(&name), "{file:?}, not {name}");
                        assert!(offset <= at as u64, "{name}: {offset}, not {at}");
                        refused += 1;
                    }
                    // The last record of all only says that those before it were durable.
                    Ok((_, mut stores)) => {
                        assert_eq!(held(&mut stores).await, model, "{name} at {at}");
                        harmless += 1;
                    }
                    Err(other) => panic!("{name} at {at}: {other}"),
                }
                disk.put(&name, &whole);
            }
        }
        assert!(refused > 2_000, "{refused}");
        assert!(harmless < 100, "{harmless}");
    });
}

#[test]
fn a_torn_end_is_cut_at_the_last_whole_record() {
    on_a_node(async {
        let (disk, model) = written().await;
        let last = files_of(&disk)
            .into_iter()
            .rfind(|name| name.ends_with(".log"));
        let last = last.unwrap();
        let whole = disk.look(&last).unwrap();
        for (at, end) in [
            (10, &[0; 600][..]),
            (20, b"garbage that is no record"),
            (30, &[]),
        ] {
            let mut torn = whole.clone();
            torn.extend_from_slice(end);
            disk.put(&last, &torn);
            let (_, mut stores) = open(&disk, at).unwrap();
            assert_eq!(held(&mut stores).await, model);
            assert_eq!(disk.look(&last).unwrap(), whole, "the torn end is gone");
        }
    });
}

#[test]
fn a_missing_file_is_refused() {
    on_a_node(async {
        let (disk, _) = written().await;
        let names = files_of(&disk);
        let segments = names.iter().filter(|name| name.ends_with(".log")).count();
        let mut seen = 0;
        for name in &names {
            let whole = disk.look(name).unwrap();
            disk.remove(name).unwrap();
            seen += usize::from(name.ends_with(".log"));
            // That the end of the log is missing cannot be told from a log that ends there.
            if seen < segments || !name.ends_with(".log") {
                let error = open(&disk, 2).unwrap_err().to_string();
                assert!(error.contains("missing"), "{name}: {error}");
                assert!(error.contains("To rejoin"), "{name}: {error}");
            }
            disk.put(name, &whole);
        }
        assert!(open(&disk, 2).is_ok());
    });
}

/// A later release may write other files; the first 16 bytes tell it.
#[test]
fn another_version_is_refused_as_such() {
    on_a_node(async {
        let (disk, _) = written().await;
        for name in files_of(&disk) {
            let whole = disk.look(&name).unwrap();
            let mut newer = whole.clone();
            newer[8] += 1;
            let crc = match &newer[..8] {
                b"funk-log" => checksum(&[&newer[..12], &newer[16..40]]),
                b"funk-snp" => {
                    let described = u64::from_le_bytes(newer[40..48].try_into().unwrap()) as usize;
                    checksum(&[&newer[..12], &newer[16..48 + described]])
                }
                _ => checksum(&[&newer[..12], &newer[16..]]),
            };
            newer[12..16].copy_from_slice(&crc.to_le_bytes());
            disk.put(&name, &newer);
            let error = open(&disk, 2).unwrap_err();
            assert!(
                matches!(&error, StorageError::OtherVersion { file, found: 2, supported: 1 } if file.ends_with(&name)),
                "{name}: {error}"
            );
            disk.put(&name, &whole);
        }
    });
}

#[test]
fn another_nodes_directory_is_refused_and_stays_as_it_is() {
    on_a_node(async {
        let (disk, _) = written().await;
        let files: Arc<dyn Files> = Arc::new(disk.clone());
        let before = disk.operations();
        let other = |cluster: &str, node: &str| {
            let owner = Owner {
                cluster: ClusterName::new(cluster).unwrap(),
                node: NodeId::new(node).unwrap(),
            };
            durable::open(&files, &owner, StoreId(2)).unwrap_err()
        };
        let error = other("test", "n2");
        assert!(matches!(error, StorageError::OtherNode { .. }), "{error}");
        assert!(
            error.to_string().contains("node `n1`, not to `n2`"),
            "{error}"
        );
        let error = other("production", "n1");
        assert!(
            matches!(error, StorageError::OtherCluster { .. }),
            "{error}"
        );
        assert!(
            error
                .to_string()
                .contains("cluster `test`, not to `production`"),
            "{error}"
        );
        assert_eq!(disk.operations(), before);
    });
}

#[test]
fn a_store_without_a_log_is_begun_anew_under_another_id() {
    on_a_node(async {
        let disk = SimDisk::new();
        let (first, stores) = open(&disk, 1).unwrap();
        let mut history = History::new(stores);
        history.play(&[Op::Vote(5), Op::Origin]).await.unwrap();
        history.stores.close();
        let (second, mut stores) = open(&disk, 2).unwrap();
        assert_ne!(
            first, second,
            "what was promised under the old id binds nobody"
        );
        assert_eq!(held(&mut stores).await, Model::default());
        assert_eq!(files_of(&disk).len(), 2, "{:?}", files_of(&disk));
        let files: Arc<dyn Files> = Arc::new(disk.clone());
        History::new(stores).play(HISTORY).await.unwrap();
        let (third, mut stores) = durable::begin_anew(&files, &owner(), StoreId(3)).unwrap();
        assert_eq!(
            (third, held(&mut stores).await),
            (StoreId(3), Model::default())
        );
        assert_eq!(files_of(&disk).len(), 2, "{:?}", files_of(&disk));
    });
}

#[test]
fn a_directory_is_used_by_one_at_a_time() {
    on_a_node(async {
        let environment = Environment::current();
        let Owner { cluster, node } = owner();
        let temporary = Temporary::new("lock");
        let disk = SimDisk::new();
        for other in [Storage::dir(&temporary.0), Storage::simulated(disk.clone())] {
            let again = match other.clone() {
                storage if format!("{storage:?}").contains("dir") => Storage::dir(&temporary.0),
                _ => Storage::simulated(disk.clone()),
            };
            let (_, stores) = other.open(&environment, &cluster, &node).await.unwrap();
            let refused = again.open(&environment, &cluster, &node).await.unwrap_err();
            assert!(matches!(refused, StorageError::Locked { .. }), "{refused}");
            assert!(refused.to_string().contains("in use by another process"));
            // The same storage may be opened again: the run before must not write any more.
            let (_, next) = other.open(&environment, &cluster, &node).await.unwrap();
            assert!(History::new(stores).issue(Op::Vote(1)).await.is_err());
            assert!(History::new(next).issue(Op::Vote(1)).await.is_ok());
            other.close(&environment).await;
            assert!(again.open(&environment, &cluster, &node).await.is_ok());
        }
    });
}

/// The same history on the operating system's files.
#[test]
fn a_real_directory_holds_the_history() {
    on_a_node(async {
        let temporary = Temporary::new("real");
        let disk = Disk::create(&temporary.0).unwrap();
        let files: Arc<dyn Files> = Arc::new(disk);
        let open = |fresh| durable::open(&files, &owner(), StoreId(fresh)).unwrap();
        let (store, stores) = open(1);
        stores.roll_at(ROLL_AT);
        let mut history = History::new(stores);
        history.play(HISTORY).await.unwrap();
        // Not closed, as after a kill.
        let (again, stores) = open(2);
        assert_eq!(again, store);
        assert_eq!(held(&mut stores.clone()).await, history.model);
        history.check(stores).await;
        assert!(files.list().unwrap().contains(&IDENTITY_FILE.to_owned()));
        let names = files.list().unwrap();
        let segment = names.iter().find(|name| name.ends_with(".log")).unwrap();
        let mut bytes = std::fs::read(temporary.0.join(segment)).unwrap();
        bytes[60] ^= 1;
        std::fs::write(temporary.0.join(segment), bytes).unwrap();
        let error = durable::open(&files, &owner(), StoreId(3)).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(temporary.0.join(segment).to_str().unwrap()),
            "{text}"
        );
        assert!(text.contains("offset 40"), "{text}");
    });
}
