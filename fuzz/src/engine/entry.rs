//! What a leader with bad intentions may put into the log.

use arbitrary::Arbitrary;
use bytes::Bytes;
use funk::engine::Cordon;
use funk::engine::map_encoding::encode_assignment;
use funk::engine::shard_map::{Assignment, MapMember};
use funk::ids::{BootId, Epoch, Instance, LogIndex, ShardId, Term, WorkerId};
use funk::log_message::LogMessage;

use super::hostile::{MAX_LIST, Number, Truth, name};

/// An entry.
#[derive(Arbitrary, Clone, Debug)]
pub enum HostileEntry {
    /// Any entry.
    Bytes(Vec<u8>),
    /// A leader.
    Opened(u8, Number),
    /// A proposal of any bytes.
    ProposedBytes(Number, Vec<u8>),
    /// A proposal of any owners.
    Proposed {
        /// The map it is based on.
        base: Number,
        /// Name, run, worker id and capacity.
        members: Vec<(u8, Number, u8, u8)>,
        /// Worker ids.
        owners: Vec<u8>,
        /// How many shards, if not as many as the cluster has.
        shards: Option<u8>,
        /// Weights.
        weights: Option<Vec<u8>>,
        /// As a delta, where that is shorter.
        delta: bool,
    },
    /// A commit.
    Committed(Number, Number),
    /// An entry of the application.
    App(Option<u8>, Number),
    /// A cordon on a node, put up or taken away.
    Cordoned(u8, Option<bool>),
}

impl HostileEntry {
    /// The entry; `None`: it cannot be read.
    pub fn message(&self, truth: &Truth<'_>) -> Option<LogMessage> {
        Some(match self {
            Self::Bytes(bytes) => {
                return LogMessage::decode(bytes, funk::versions::VersionRange::SPOKEN).ok();
            }
            Self::Opened(node, boot) => LogMessage::LeaderOpened {
                leader: Instance {
                    node: name(*node),
                    boot: BootId(boot.at(1)),
                },
            },
            Self::ProposedBytes(base, bytes) => LogMessage::ProposedShardMap {
                base: LogIndex(base.at(truth.committed.index().0)),
                assignment: bytes.clone().into(),
                reason: String::new(),
            },
            Self::Proposed {
                base,
                members,
                owners,
                shards,
                weights,
                delta,
            } => {
                let shards = shards.map_or(truth.committed.shards().max(1) as usize, usize::from);
                let assignment = assignment(members, owners, shards, weights.as_deref());
                LogMessage::ProposedShardMap {
                    base: LogIndex(base.at(truth.committed.index().0)),
                    assignment: encode_assignment(&assignment, delta.then_some(truth.committed)),
                    reason: String::new(),
                }
            }
            Self::Committed(map, term) => LogMessage::ShardMapCommitted {
                map: LogIndex(map.at(truth.index)),
                term: Term(term.at(truth.term)),
            },
            Self::App(shard, epoch) => LogMessage::App {
                shard: shard.map(|shard| ShardId(u32::from(shard))),
                epoch: Epoch(epoch.at(truth.index)),
                bytes: Bytes::new(),
            },
            Self::Cordoned(node, drained) => LogMessage::NodeCordoned {
                node: name(*node),
                cordon: drained.map(|drained| match drained {
                    true => Cordon::Drained,
                    false => Cordon::Cordoned,
                }),
            },
        })
    }
}

fn assignment(
    members: &[(u8, Number, u8, u8)],
    owners: &[u8],
    shards: usize,
    weights: Option<&[u8]>,
) -> Assignment {
    let member = |&(node, boot, worker, capacity): &(u8, Number, u8, u8)| MapMember {
        instance: Instance {
            node: name(node),
            boot: BootId(boot.at(1)),
        },
        worker: WorkerId(u16::from(worker)),
        capacity: u32::from(capacity),
    };
    let cycled = |list: &[u8]| -> Vec<u8> { list.iter().copied().cycle().take(shards).collect() };
    let mut members: Vec<MapMember> = members.iter().take(MAX_LIST).map(member).collect();
    members.sort_by(|a, b| a.instance.node.cmp(&b.instance.node));
    Assignment {
        members,
        owners: cycled(owners)
            .into_iter()
            .map(|worker| WorkerId(u16::from(worker)))
            .collect(),
        weights: weights.map(|weights| cycled(weights).into_iter().map(u32::from).collect()),
    }
}
