//! I7: state transitions are those of section 5 of the protocol, and events come in order.

use std::collections::BTreeMap;

use funk::engine::{Event, NodeState, Role};
use funk::ids::{Epoch, LogIndex, NodeId, ShardId};

use super::{Verdict, Violation};

/// One run's events so far.
#[derive(Debug, Default)]
pub struct States {
    state: NodeState,
    role: Role,
    leader: Option<NodeId>,
    proposed: LogIndex,
    committed: LogIndex,
    served: BTreeMap<ShardId, Epoch>,
    ended: bool,
}

impl States {
    /// The next event.
    pub fn event(&mut self, event: &Event) -> Verdict {
        let wrong = |what: String| Err(Violation::new("I7", what));
        if self.ended {
            return wrong(format!("{event:?} after the end"));
        }
        match event {
            Event::StateChanged { from, to } => {
                if *from != self.state || !from.may_become(*to) {
                    return wrong(format!("{from:?} -> {to:?} while {:?}", self.state));
                }
                self.state = *to;
                self.ended = *to == NodeState::Invalid;
            }
            Event::RoleChanged { from, to } => {
                if *from != self.role || from == to {
                    return wrong(format!("role {from:?} -> {to:?} while {:?}", self.role));
                }
                self.role = *to;
            }
            Event::LeaderChanged { leader } => {
                if self.leader.as_ref() == Some(leader) {
                    return wrong(format!("the leader changed from {leader} to {leader}"));
                }
                self.leader = Some(leader.clone());
            }
            Event::LeaderLost if self.leader.take().is_none() => {
                return wrong("the leader was lost twice".into());
            }
            Event::MapProposed(index) => {
                if *index <= self.proposed.max(self.committed) {
                    return wrong(format!(
                        "map {index} was proposed after {} and {}",
                        self.proposed, self.committed
                    ));
                }
                self.proposed = *index;
            }
            Event::MapCommitted(index) => {
                if *index <= self.committed {
                    return wrong(format!(
                        "map {index} came into force after {}",
                        self.committed
                    ));
                }
                self.committed = *index;
            }
            Event::ShardsGained(shards) => {
                for &(shard, epoch) in shards {
                    if epoch.0 > self.committed.0 || self.served.insert(shard, epoch).is_some() {
                        return wrong(format!(
                            "shard {shard} was gained twice, or before its map ({epoch})"
                        ));
                    }
                }
            }
            Event::ShardsLost(shards) => {
                // What was lost before it was served was never gained.
                shards.iter().for_each(|(shard, _)| {
                    self.served.remove(shard);
                });
            }
            _ => {}
        }
        Ok(())
    }

    /// What the events so far say that it is doing.
    pub fn state(&self) -> NodeState {
        self.state
    }
}
