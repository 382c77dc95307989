//! Invariant I3, in the log: an entry that was proposed under a token which is not the shard's any more has no effect, however
//! late it comes.

use bytes::Bytes;
use funk::engine::map_encoding::encode_assignment;
use funk::engine::replicated::{Change, Replicated};
use funk::engine::shard_map::{Assignment, MapMember};
use funk::ids::{Epoch, ShardId, WorkerId};
use funk::log_message::LogMessage;

use super::*;

pub(super) fn play() -> Verdict {
    let mut replicated = Replicated::default();
    let first = give_all_to(&mut replicated, 1, 1);
    if !passes(&mut replicated, 3, first) {
        return violation("I3", "an entry under the shard's token is refused");
    }
    let second = give_all_to(&mut replicated, 2, 4);
    if passes(&mut replicated, 6, first) {
        return violation("I3", "an entry under an older token is applied");
    }
    if !passes(&mut replicated, 7, second) {
        return violation("I3", "an entry under the new owner's token is refused");
    }
    Ok(())
}

/// Puts a map in force that gives every shard to this node. Returns the token of the first.
fn give_all_to(replicated: &mut Replicated, number: u8, index: u64) -> Epoch {
    let assignment = Assignment {
        members: vec![MapMember {
            worker: WorkerId(1),
            instance: instance(number, 1),
            capacity: 1,
        }],
        owners: vec![WorkerId(1); 4],
        weights: None,
    };
    let proposed = LogMessage::ProposedShardMap {
        base: replicated.committed.index(),
        assignment: encode_assignment(&assignment, Some(&replicated.committed)),
        reason: String::new(),
    };
    replicated.apply(LogIndex(index), Term(1), &proposed);
    let committed = LogMessage::ShardMapCommitted {
        map: LogIndex(index),
        term: Term(1),
    };
    replicated.apply(LogIndex(index + 1), Term(1), &committed);
    replicated.committed.epoch(ShardId(0))
}

fn passes(replicated: &mut Replicated, index: u64, epoch: Epoch) -> bool {
    let entry = LogMessage::App {
        shard: Some(ShardId(0)),
        epoch,
        bytes: Bytes::new(),
    };
    let change = replicated.apply(LogIndex(index), Term(1), &entry);
    matches!(change, Change::App(Ok(())))
}
