//! What the log holds: one version byte, then postcard. Golden tests hold the bytes still.

use bytes::Bytes;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::ids::{Epoch, Instance, LogIndex, ShardId, Term};
use crate::limits::{MAX_APP_ENTRY_BYTES, MAX_LOG_MESSAGE_BYTES};

/// Version of the format. A node that meets a higher one stops before it applies the entry.
pub const LOG_VERSION: u8 = 1;
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
}

/// Why bytes are no log message.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LogMessageError {
    /// Nothing there.
    #[error("a log message is empty")]
    Empty,
    /// Written by a newer release.
    #[error(
        "log message version {found}; this release reads up to {LOG_VERSION}: upgrade this node before it goes on"
    )]
    UnknownVersion {
        /// The version byte.
        found: u8,
    },
    /// A type that this version does not have.
    #[error("log message type {found} is unknown in version {LOG_VERSION}")]
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
}

/// How many variants [`Body`] has.
const TYPES: u8 = 4;

impl LogMessage {
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
        };
        postcard::to_extend(&body, vec![LOG_VERSION])
            .expect("plain data always encodes")
            .into()
    }

    /// Reads what [`encode`](Self::encode) wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, LogMessageError> {
        if bytes.len() > MAX_LOG_MESSAGE_BYTES {
            return Err(LogMessageError::TooLarge {
                found: bytes.len(),
                max: MAX_LOG_MESSAGE_BYTES,
            });
        }
        let (&version, body) = bytes.split_first().ok_or(LogMessageError::Empty)?;
        if version != LOG_VERSION {
            return Err(LogMessageError::UnknownVersion { found: version });
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
        Self::decode(&Bytes::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{BootId, NodeId};
    use proptest::prelude::*;

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
        ];
        for (message, golden) in cases {
            assert_eq!(hex(&message.encode()), golden, "{message:?}");
            assert_eq!(LogMessage::decode(&message.encode()), Ok(message));
        }
    }

    #[test]
    fn what_cannot_be_read_is_told_apart() {
        assert_eq!(LogMessage::decode(&[]), Err(LogMessageError::Empty));
        assert_eq!(
            LogMessage::decode(&[2, 0]),
            Err(LogMessageError::UnknownVersion { found: 2 })
        );
        assert_eq!(
            LogMessage::decode(&[1, 4]),
            Err(LogMessageError::UnknownType { found: 4 })
        );
        assert_eq!(
            LogMessage::decode(&[1, 2, 3, 4, 5, 6]),
            Err(LogMessageError::Trailing(2))
        );
        assert!(matches!(
            LogMessage::decode(&[1, 2, 3]),
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
            LogMessage::decode(&large),
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
            any::<(u64, u64)>().prop_map(|(map, term)| LogMessage::ShardMapCommitted {
                map: LogIndex(map),
                term: Term(term),
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
            let decoded = LogMessage::decode(&message.encode());
            if let LogMessage::ProposedShardMap { reason, .. } = &mut message {
                reason.truncate(reason.floor_char_boundary(MAX_REASON_BYTES));
            }
            prop_assert_eq!(decoded, Ok(message));
        }

        #[test]
        fn no_part_of_a_message_is_a_message(message in any_message(), cut in any::<prop::sample::Index>()) {
            let bytes = message.encode();
            prop_assert!(LogMessage::decode(&bytes[..cut.index(bytes.len())]).is_err());
        }

        #[test]
        fn hostile_bytes_are_errors_or_come_back(mut bytes in prop::collection::vec(any::<u8>(), 0..64), own in any::<bool>()) {
            if own && !bytes.is_empty() { bytes[0] = LOG_VERSION; }
            if let Ok(message) = LogMessage::decode(&bytes) {
                prop_assert_eq!(LogMessage::decode(&message.encode()), Ok(message));
            }
        }
    }
}
