//! A shard that does not move is served without a pause through a map change: it is closed only if a map takes it.

use funk::engine::shard_map::ShardMap;
use funk::ids::{Epoch, Instance, ShardId};

use super::{Verdict, Violation};

/// The node stops serving `(shard, epoch)` under these maps.
pub fn closed(
    me: &Instance,
    committed: &ShardMap,
    pending: Option<&ShardMap>,
    shard: ShardId,
    epoch: Epoch,
) -> Verdict {
    let keeps = |map: &ShardMap| map.owner(shard) == Some(me) && map.epoch(shard) == epoch;
    if keeps(committed) && pending.is_none_or(keeps) {
        let what = format!(
            "{me} stops serving shard {shard} (epoch {epoch}) although no map takes it away"
        );
        return Err(Violation::new("unmoved shards never pause", what));
    }
    Ok(())
}
