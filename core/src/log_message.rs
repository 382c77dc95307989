//! What the log holds: one version byte, then postcard. Golden tests hold the bytes still.
//!
//! The version byte is that of the first protocol version that knows the entry. See [`versions`](crate::versions).

use bytes::Bytes;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::engine::cordons::Cordon;
use crate::ids::{Epoch, Instance, LogIndex, NodeId, ShardId, Term};
use crate::limits::{MAX_APP_ENTRY_BYTES, MAX_LOG_MESSAGE_BYTES};
use crate::versions::{FIRST, VersionRange};

/// Longest reason of a proposal, in bytes; a longer one is cut.
pub const MAX_REASON_BYTES: usize = 256;

/// An entry of the replicated log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LogMessage {
    /// Opens a term: names the leader, so that the next one knows who may still serve itself (rules P1, L4).
    LeaderOpened {
        /// The leader of the entry's term.
        leader: Instance,
    },
    /// A shard map that the leader proposes. Epochs and acknowledgers follow when it is applied (rule P2).
    ProposedShardMap {
        /// The committed map that it was computed from; it is void on any other.
        base: LogIndex,
        /// See [`encode_assignment`](crate::engine::map_encoding::encode_assignment).
        assignment: Bytes,
        /// Why, for people.
        reason: String,
    },
    /// Everybody who must has drained: the proposal at `map` is in force, if it is the latest.
    ShardMapCommitted {
        /// The proposal.
        map: LogIndex,
        /// Term of the leader that decided it; void if the entry's own term differs (rule P1).
        term: Term,
    },
    /// An entry of the application.
    App {
        /// The shard whose guard proposed it; `None`: not guarded.
        shard: Option<ShardId>,
        /// Token of that guard.
        epoch: Epoch,
        /// The application's bytes.
        bytes: Bytes,
    },
    /// All members speak this version: from here on the log may hold what only that one knows. Itself it is of that
    /// version, so that a node that does not speak it stops here.
    VersionRaised {
        /// At least 2: a cluster begins with 1.
        version: u8,
    },
    /// The operator keeps shards from a node, or does no longer (rule M9).
    NodeCordoned {
        /// The node, whichever run.
        node: NodeId,
        /// `None`: not any more.
        cordon: Option<Cordon>,
    },
}

/// Why bytes are no log message.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LogMessageError {
    /// Nothing there.
    #[error("a log message is empty")]
    Empty,
    /// Written by a newer release, after all members of the cluster had been upgraded to it.
    #[error(
        "it is of protocol version {found}, and this program knows versions up to {newest}; upgrade this node to the \
         release that the others run (its data directory stays usable, and it goes on where it stopped)"
    )]
    UnknownVersion {
        /// The version byte.
        found: u8,
        /// The newest version that this node knows.
        newest: u8,
    },
    /// A type that this version does not have.
    #[error("log message type {found} is unknown in its version")]
    UnknownType {
        /// The type byte.
        found: u8,
    },
    /// Larger than [`MAX_LOG_MESSAGE_BYTES`], or an application's entry larger than [`MAX_APP_ENTRY_BYTES`].
    #[error("log message of {found} bytes; at most {max} are allowed")]
    TooLarge {
        /// Its size.
        found: usize,
        /// The bound.
        max: usize,
    },
    /// Bytes are left over.
    #[error("{0} bytes follow the log message")]
    Trailing(usize),
    /// Anything else.
    #[error("a log message cannot be read: {0}")]
    Malformed(String),
}

/// The encoded form: the order of variants is the type byte and must not change.
#[derive(Serialize, Deserialize)]
enum Body {
    LeaderOpened(Instance),
    ProposedShardMap(LogIndex, Bytes, String),
    ShardMapCommitted(LogIndex, Term),
    App(Option<ShardId>, Epoch, Bytes),
    VersionRaised,
    NodeCordoned(NodeId, Option<Cordon>),
}

/// How many variants [`Body`] has.
const TYPES: u8 = 6;
/// The type byte of [`Body::VersionRaised`], which the first version does not have.
const VERSION_RAISED: u8 = 4;

impl LogMessage {
    /// The first protocol version that knows it: whoever speaks none that high must not be made to apply it.
    pub fn version(&self) -> u8 {
        match self {
            Self::LeaderOpened { .. }
            | Self::ProposedShardMap { .. }
            | Self::ShardMapCommitted { .. }
            | Self::App { .. }
            | Self::NodeCordoned { .. } => FIRST,
            Self::VersionRaised { version } => *version,
        }
    }

    /// Version, type, content.
    pub fn encode(&self) -> Bytes {
        let body = match self.clone() {
            Self::LeaderOpened { leader } => Body::LeaderOpened(leader),
            Self::ProposedShardMap {
                base,
                assignment,
                mut reason,
            } => {
                reason.truncate(reason.floor_char_boundary(MAX_REASON_BYTES));
                Body::ProposedShardMap(base, assignment, reason)
            }
            Self::ShardMapCommitted { map, term } => Body::ShardMapCommitted(map, term),
            Self::App {
                shard,
                epoch,
                bytes,
            } => Body::App(shard, epoch, bytes),
            Self::VersionRaised { .. } => Body::VersionRaised,
            Self::NodeCordoned { node, cordon } => Body::NodeCordoned(node, cordon),
        };
        postcard::to_extend(&body, vec![self.version()])
            .expect("plain data always encodes")
            .into()
    }

    /// Reads what [`encode`](Self::encode) wrote, for a node that speaks these versions: earlier ones can be read, too.
    pub fn decode(bytes: &[u8], versions: VersionRange) -> Result<Self, LogMessageError> {
        if bytes.len() > MAX_LOG_MESSAGE_BYTES {
            return Err(LogMessageError::TooLarge {
                found: bytes.len(),
                max: MAX_LOG_MESSAGE_BYTES,
            });
        }
        let (&version, body) = bytes.split_first().ok_or(LogMessageError::Empty)?;
        if version < FIRST || version > versions.newest {
            return Err(LogMessageError::UnknownVersion {
                found: version,
                newest: versions.newest,
            });
        }
        if let Some(&found) = body.first().filter(|&&found| found >= TYPES) {
            return Err(LogMessageError::UnknownType { found });
        }
        let (body, rest) = postcard::take_from_bytes(body)
            .map_err(|e| LogMessageError::Malformed(e.to_string()))?;
        if !rest.is_empty() {
            return Err(LogMessageError::Trailing(rest.len()));
        }
        Ok(match body {
            Body::LeaderOpened(leader) => Self::LeaderOpened { leader },
            Body::ProposedShardMap(base, assignment, reason) => Self::ProposedShardMap {
                base,
                assignment,
                reason,
            },
            Body::ShardMapCommitted(map, term) => Self::ShardMapCommitted { map, term },
            Body::App(_, _, bytes) if bytes.len() > MAX_APP_ENTRY_BYTES => {
                return Err(LogMessageError::TooLarge {
                    found: bytes.len(),
                    max: MAX_APP_ENTRY_BYTES,
                });
            }
            Body::App(shard, epoch, bytes) => Self::App {
                shard,
                epoch,
                bytes,
            },
            Body::VersionRaised if version == FIRST => {
                return Err(LogMessageError::UnknownType {
                    found: VERSION_RAISED,
                });
            }
            Body::VersionRaised => Self::VersionRaised { version },
            Body::NodeCordoned(node, cordon) => Self::NodeCordoned { node, cordon },
        })
    }
}

/// Raft's own entries embed it in this one format.
impl Serialize for LogMessage {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.encode().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for LogMessage {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::decode(&Bytes::deserialize(deserializer)?, VersionRange::SPOKEN)
            .map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::BootId;
    use proptest::prelude::*;

    /// One that knows more than this program writes.
    const KNOWN: VersionRange = VersionRange {
        oldest: 1,
        newest: 3,
    };

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn golden_bytes() {
        let leader = Instance {
            node: NodeId::new("n1").unwrap(),
            boot: BootId(300),
        };
        let map = Bytes::from_static(&[0xaa, 0xbb]);
        let cases = [
            (LogMessage::LeaderOpened { leader }, "0100026e31ac02"),
            (
                LogMessage::ProposedShardMap {
                    base: LogIndex(7),
                    assignment: map.clone(),
                    reason: "x".into(),
                },
                "01010702aabb0178",
            ),
            (
                LogMessage::ShardMapCommitted {
                    map: LogIndex(300),
                    term: Term(2),
                },
                "0102ac0202",
            ),
            (
                LogMessage::App {
                    shard: Some(ShardId(5)),
                    epoch: Epoch(9),
                    bytes: map.clone(),
                },
                "010301050902aabb",
            ),
            (
                LogMessage::App {
                    shard: None,
                    epoch: Epoch(0),
                    bytes: map,
                },
                "0103000002aabb",
            ),
            (LogMessage::VersionRaised { version: 3 }, "0304"),
            (
                LogMessage::NodeCordoned {
                    node: NodeId::new("n1").unwrap(),
                    cordon: Some(Cordon::Drained),
                },
                "0105026e310101",
            ),
            (
                LogMessage::NodeCordoned {
                    node: NodeId::new("n1").unwrap(),
                    cordon: None,
                },
                "0105026e3100",
            ),
        ];
        for (message, golden) in cases {
            assert_eq!(hex(&message.encode()), golden, "{message:?}");
            assert_eq!(LogMessage::decode(&message.encode(), KNOWN), Ok(message));
        }
    }

    #[test]
    fn what_cannot_be_read_is_told_apart() {
        assert_eq!(LogMessage::decode(&[], KNOWN), Err(LogMessageError::Empty));
        assert_eq!(
            LogMessage::decode(&[4, 0], KNOWN),
            Err(LogMessageError::UnknownVersion {
                found: 4,
                newest: 3,
            })
        );
        assert_eq!(
            LogMessage::decode(&[1, 4], KNOWN),
            Err(LogMessageError::UnknownType { found: 4 })
        );
        assert_eq!(
            LogMessage::decode(&[1, 6], KNOWN),
            Err(LogMessageError::UnknownType { found: 6 })
        );
        assert_eq!(
            LogMessage::decode(&[1, 2, 3, 4, 5, 6], KNOWN),
            Err(LogMessageError::Trailing(2))
        );
        assert!(matches!(
            LogMessage::decode(&[1, 2, 3], KNOWN),
            Err(LogMessageError::Malformed(_))
        ));
        let bytes = Bytes::from(vec![0; MAX_APP_ENTRY_BYTES + 1]);
        let large = LogMessage::App {
            shard: None,
            epoch: Epoch(0),
            bytes,
        }
        .encode();
        assert!(matches!(
            LogMessage::decode(&large, KNOWN),
            Err(LogMessageError::TooLarge { .. })
        ));
    }

    fn any_message() -> impl Strategy<Value = LogMessage> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from);
        prop_oneof![
            ("[a-z0-9]{1,63}", any::<u64>()).prop_map(|(node, boot)| LogMessage::LeaderOpened {
                leader: Instance {
                    node: NodeId::new(&node).unwrap(),
                    boot: BootId(boot),
                },
            }),
            (any::<u64>(), bytes(), "\\PC{0,80}").prop_map(|(base, assignment, reason)| {
                LogMessage::ProposedShardMap {
                    base: LogIndex(base),
                    assignment,
                    reason,
                }
            }),
            (2..=3_u8).prop_map(|version| LogMessage::VersionRaised { version }),
            any::<(u64, u64)>().prop_map(|(map, term)| LogMessage::ShardMapCommitted {
                map: LogIndex(map),
                term: Term(term),
            }),
            ("[a-z0-9]{1,63}", any::<Option<bool>>()).prop_map(|(node, drained)| {
                LogMessage::NodeCordoned {
                    node: NodeId::new(&node).unwrap(),
                    cordon: drained.map(|drained| match drained {
                        true => Cordon::Drained,
                        false => Cordon::Cordoned,
                    }),
                }
            }),
            (any::<Option<u32>>(), any::<u64>(), bytes()).prop_map(|(shard, epoch, bytes)| {
                LogMessage::App {
                    shard: shard.map(ShardId),
                    epoch: Epoch(epoch),
                    bytes,
                }
            }),
        ]
    }

    proptest! {
        #[test]
        fn any_message_comes_back_but_for_the_end_of_a_long_reason(mut message in any_message()) {
            let decoded = LogMessage::decode(&message.encode(), KNOWN);
            if let LogMessage::ProposedShardMap { reason, .. } = &mut message {
                reason.truncate(reason.floor_char_boundary(MAX_REASON_BYTES));
            }
            prop_assert_eq!(decoded, Ok(message));
        }

        #[test]
        fn no_part_of_a_message_is_a_message(message in any_message(), cut in any::<prop::sample::Index>()) {
            let bytes = message.encode();
            prop_assert!(LogMessage::decode(&bytes[..cut.index(bytes.len())], KNOWN).is_err());
        }

        #[test]
        fn hostile_bytes_are_errors_or_come_back(mut bytes in prop::collection::vec(any::<u8>(), 0..64), own in any::<bool>()) {
            if own && !bytes.is_empty() { bytes[0] = FIRST; }
            if let Ok(message) = LogMessage::decode(&bytes, KNOWN) {
                prop_assert_eq!(LogMessage::decode(&message.encode(), KNOWN), Ok(message));
            }
        }
    }
}
