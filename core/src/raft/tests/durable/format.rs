//! The bytes of all files: what one release writes, later ones must read.

use std::fmt::Write as _;

use super::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// One record of each kind, but for checkpoints, of which the first is in every log.
#[test]
fn golden_bytes_of_every_file() {
    on_a_node(async {
        let disk = SimDisk::new();
        let (_, stores) = open(&disk, 1).unwrap();
        stores.roll_at(1 << 20);
        let mut history = History::new(stores);
        let ops = [
            Op::Vote(1),
            Op::Origin,
            Op::Append(2, 1),
            Op::Truncate(0),
            Op::Committed(0),
            Op::Snapshot(0),
            Op::Purge(0),
        ];
        history.play(&ops).await.unwrap();
        let blank = LogEntry {
            log_id: id(1, 2),
            payload: openraft::EntryPayload::Blank,
        };
        let members = BTreeMap::from([(RaftId::from(1), types::MemberAddr(addr(1)))]);
        let voters = vec![std::collections::BTreeSet::from([RaftId::from(1)])];
        let membership = LogEntry {
            log_id: id(2, 2),
            payload: openraft::EntryPayload::Membership(
                openraft::Membership::new(voters, members).unwrap(),
            ),
        };
        let flushed = IOFlushed::noop();
        let entries = [blank.clone(), membership.clone()];
        history
            .stores
            .append(entries.clone(), flushed)
            .await
            .unwrap();
        history.stores.close();
        let found = |suffix: &str| {
            let names = disk.list().unwrap();
            let name = names
                .into_iter()
                .find(|name| name.ends_with(suffix))
                .unwrap();
            hex(&disk.look(&name).unwrap())
        };
        assert_eq!(found("identity"), IDENTITY);
        assert_eq!(found(".log"), SEGMENT);
        let snapshot = found(".snapshot");
        assert_eq!(snapshot[..SNAPSHOT_HEAD.len()], *SNAPSHOT_HEAD);
        // And they are read.
        let (_, mut stores) = open(&disk, 2).unwrap();
        let kept = stores.try_get_log_entries(0..9).await.unwrap();
        assert_eq!(kept, entries);
    });
}

const IDENTITY: &str = "66756e6b2d64697201000000968e13a90474657374026e3101";

const SEGMENT: &str = "66756e6b2d6c6f67010000004dcf16ce010000000000000000000000000000000000000000000000ed2ba782060000000000\
    0000000000000000000000000000000000000000800c47310800000001000000000000000100000000000000010101026e31\
    0100a24226cc02000000020000000000000002000000000000000600dbb527f0030000000300000000000000020000000000\
    0000054d00c0c5bb1a2b00000004000000000000000200000000000000020100012600000000000000000000000000000000\
    000000000000000000000000000001000000000000000191509f2b0000000500000000000000020000000000000002010101\
    260101010101010101010101010101010101010101010101010101010101010100000000000000e6dc993102000000060000\
    000000000006000000000000000600a952fc8e04000000070000000000000006000000000000000301010065ebefff040000\
    000800000000000000060000000000000006010100a2fd5f8b04000000090000000000000009000000000000000601010071\
    453fbb030000000a000000000000000900000000000000040100381a0694040000000b000000000000000900000000000000\
    02020100d77bbf5e160000000c000000000000000900000000000000020202020101026e310101026e3101000a000001e807\
    d9ca429d040000000d000000000000000d0000000000000006010100";

/// The header and the description.
const SNAPSHOT_HEAD: &str = "66756e6b2d736e7001000000267da40a01000000000000000100000000000000ec0400000000000007000000000000000101\
    0000000000";
