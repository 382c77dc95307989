//! I3: a resource that rejects lower tokens never accepts one after a higher; and what makes that useful: a token
//! belongs to one owner only, and the owner with a live guard is never rejected.

use std::collections::BTreeMap;

use funk::ids::{Epoch, Instance, ShardId};

use super::{Verdict, Violation};

/// One resource for each shard, outside the cluster.
#[derive(Debug, Default)]
pub struct Fencing {
    highest: BTreeMap<ShardId, Epoch>,
    holders: BTreeMap<(ShardId, Epoch), Instance>,
    /// Writes rejected because a higher token had been seen.
    pub rejected: u64,
    /// Writes accepted.
    pub accepted: u64,
}

impl Fencing {
    /// A write with the token `epoch` arrives; `live`: the guard under which it was sent is live at this moment.
    pub fn write(&mut self, shard: ShardId, epoch: Epoch, from: &Instance, live: bool) -> Verdict {
        let holder = self
            .holders
            .entry((shard, epoch))
            .or_insert_with(|| from.clone());
        if holder != from {
            return Err(Violation::new(
                "I3",
                format!("shard {shard}: token {epoch} is held by {holder} and by {from}"),
            ));
        }
        let highest = self.highest.entry(shard).or_default();
        if epoch < *highest {
            self.rejected += 1;
            if live {
                return Err(Violation::new(
                    "I3",
                    format!(
                        "shard {shard}: {from} holds a live guard with token {epoch}, but {highest} was seen"
                    ),
                ));
            }
            return Ok(());
        }
        *highest = epoch;
        self.accepted += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use funk::ids::{BootId, NodeId};

    #[test]
    fn a_shared_token_and_a_live_guard_that_is_rejected_are_seen() {
        let instance = |boot| Instance {
            node: NodeId::new("a").unwrap(),
            boot: BootId(boot),
        };
        let mut fencing = Fencing::default();
        let shard = ShardId(0);
        assert!(fencing.write(shard, Epoch(5), &instance(1), true).is_ok());
        assert!(fencing.write(shard, Epoch(5), &instance(2), true).is_err());
        assert!(fencing.write(shard, Epoch(7), &instance(2), true).is_ok());
        assert!(fencing.write(shard, Epoch(5), &instance(1), false).is_ok());
        assert_eq!(fencing.rejected, 1);
        assert!(fencing.write(shard, Epoch(5), &instance(1), true).is_err());
    }
}
