//! Weights of the shards on their way to the leader, from any node.
//!
//! They are the whole of what is asked, so to ask twice does no harm: the leader is asked again, whoever that is by
//! then, until a map with them is in force here.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::engine::shard_map::ShardMap;
use crate::ids::ShardId;
use crate::limits::{MAX_FRAME_BYTES, MAX_WEIGHT};
use crate::node::{Command, Node};
use crate::wire::StreamKind;

/// How long weights are tried: longer than a hand-off that waits for drains takes.
pub const WEIGHTS_DEADLINE: Duration = Duration::from_secs(30);
/// After how long the leader is asked again: it may have been deposed before it proposed them.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Why weights are not in force.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WeightsError {
    /// One weight for each shard is needed.
    #[error("{found} weights were given; the cluster has {expected} shards, and each needs one")]
    Count {
        /// Weights that were given.
        found: usize,
        /// Shards of the cluster.
        expected: u32,
    },
    /// Not 1 to [`MAX_WEIGHT`].
    #[error("the weight of shard {shard} is {weight}; 1 to {max} are possible", max = MAX_WEIGHT)]
    Range {
        /// The first such shard.
        shard: ShardId,
        /// Its weight.
        weight: u32,
    },
    /// No map with these weights came into force in time, or other weights took their place at once. Ask again, or look
    /// at [`ShardMap::weights`]: they may still come.
    #[error("no map with these weights came into force here within {0:?}")]
    NotInForce(Duration),
    /// The node has stopped.
    #[error("the node has stopped")]
    Stopped,
}

#[derive(Serialize, Deserialize)]
struct WeightsRequest(Option<Vec<u32>>);

/// Weights that are all equal are the same as none.
fn normal(weights: &[u32]) -> Option<&[u32]> {
    let alike = weights.windows(2).all(|pair| pair[0] == pair[1]);
    (!alike).then_some(weights)
}

fn check(weights: &[u32], map: &ShardMap) -> Result<(), WeightsError> {
    let out_of_range = |weight: &u32| !(1..=MAX_WEIGHT).contains(weight);
    if let Some(at) = weights.iter().position(out_of_range) {
        return Err(WeightsError::Range {
            shard: ShardId(at as u32),
            weight: weights[at],
        });
    }
    if map.shards() != 0 && weights.len() != map.shards() as usize {
        return Err(WeightsError::Count {
            found: weights.len(),
            expected: map.shards(),
        });
    }
    Ok(())
}

/// Asks for the weights and waits until a map with them is in force here.
pub(crate) async fn set(node: &Arc<Node>, weights: &[u32]) -> Result<(), WeightsError> {
    let asked = async {
        let mut changes = node.changes.subscribe();
        loop {
            if node.is_stopped() {
                return Err(WeightsError::Stopped);
            }
            changes.mark_unchanged();
            let map = node.routes.load().map.clone();
            check(weights, &map)?;
            if map.shards() != 0 {
                if is_in_force(weights, &map) {
                    return Ok(());
                }
                ask(node, normal(weights)).await;
            }
            let in_force = async {
                while changes.changed().await.is_ok() {
                    let map = node.routes.load().map.clone();
                    if node.is_stopped() || is_in_force(weights, &map) {
                        return;
                    }
                }
            };
            node.environment.timeout(ASK_AGAIN, in_force).await;
        }
    };
    let result = node.environment.timeout(WEIGHTS_DEADLINE, asked).await;
    result.unwrap_or(Err(WeightsError::NotInForce(WEIGHTS_DEADLINE)))
}

fn is_in_force(weights: &[u32], map: &ShardMap) -> bool {
    map.shards() != 0 && map.weights().map(|weights| &weights[..]) == normal(weights)
}

/// Asks the leader, if one is known. Whether it heard is seen from the map.
async fn ask(node: &Arc<Node>, weights: Option<&[u32]>) {
    let routes = node.routes.load_full();
    let Some(leader) = &routes.leader else { return };
    if *leader == node.instance.node {
        return hand_in(node, weights.map(Into::into)).await;
    }
    let Some(peer) = routes.addrs.get(leader) else {
        return;
    };
    let request = postcard::to_stdvec(&WeightsRequest(weights.map(<[u32]>::to_vec)))
        .expect("plain data always encodes")
        .into();
    let kind = StreamKind::Weights;
    let asked = node
        .rpc
        .call(peer, kind, request, MAX_FRAME_BYTES, ASK_AGAIN);
    if let Err(error) = asked.await {
        tracing::debug!(node = %node.instance, %leader, %error, "weights did not reach the leader");
    }
}

async fn hand_in(node: &Node, weights: Option<Arc<[u32]>>) {
    let (done, heard) = oneshot::channel();
    let _ = node.commands.send(Command::SetWeights(weights, done));
    let _ = heard.await;
}

/// The leader's side; `None`: the bytes are no weights. A node that does not lead (any more) answers, too, and does
/// nothing.
pub(crate) async fn serve(node: &Arc<Node>, request: &[u8]) -> Option<Bytes> {
    let WeightsRequest(weights) = postcard::from_bytes(request).ok()?;
    let map = node.routes.load().map.clone();
    if let Some(weights) = &weights {
        check(weights, &map).ok()?;
    }
    let weights = weights.as_deref().and_then(normal).map(Into::into);
    hand_in(node, weights).await;
    Some(Bytes::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_weights_is_said() {
        let none = ShardMap::empty();
        assert_eq!(check(&[1, MAX_WEIGHT], &none), Ok(()));
        let (shard, weight) = (ShardId(1), 0);
        let range = Err(WeightsError::Range { shard, weight });
        assert_eq!(check(&[1, 0, 3], &none), range);
        let weight = MAX_WEIGHT + 1;
        let range = Err(WeightsError::Range { shard, weight });
        assert_eq!(check(&[1, MAX_WEIGHT + 1], &none), range);
    }

    #[test]
    fn equal_weights_are_none() {
        assert_eq!(normal(&[7, 7, 7]), None);
        assert_eq!(normal(&[7, 7, 8]), Some(&[7, 7, 8][..]));
        assert_eq!(normal(&[]), None);
    }
}
