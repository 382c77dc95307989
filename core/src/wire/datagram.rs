//! Datagrams: kind byte, version byte, postcard. Golden tests hold the bytes still.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::engine::message::Message;
use crate::limits::MAX_DATAGRAM_BYTES;
use crate::versions::VersionRange;

/// Kind bytes. They never change their meaning; a kind that goes leaves a gap. 0 is never used.
const GOSSIP: u8 = 1;
const PING: u8 = 2;
const PONG: u8 = 3;
const BOOTSTRAP: u8 = 4;

/// Bytes before the body: kind and version.
pub const DATAGRAM_HEADER_BYTES: usize = 2;

/// Why bytes are no datagram of the protocol. The receiver counts and drops them.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WireError {
    /// Shorter than the two bytes of the header.
    #[error("a datagram of {0} bytes has no header")]
    Truncated(usize),
    /// A kind that this release does not have.
    #[error("datagram kind {0} is unknown")]
    UnknownKind(u8),
    /// A version of the protocol that this node does not speak.
    #[error("datagram of protocol version {0}, which this node does not speak")]
    UnknownVersion(u8),
    /// Larger than [`MAX_DATAGRAM_BYTES`].
    #[error("datagram of {0} bytes; at most {max} are allowed", max = MAX_DATAGRAM_BYTES)]
    TooLarge(usize),
    /// Bytes are left over.
    #[error("{0} bytes follow the message")]
    Trailing(usize),
    /// Anything else.
    #[error("the body cannot be read: {0}")]
    Malformed(String),
}

/// The message as bytes in a version of the protocol that sender and receiver speak, at most [`MAX_DATAGRAM_BYTES`] because every message is bounded by its maker.
pub fn encode_datagram(message: &Message, version: u8) -> Bytes {
    let encoded = match message {
        // Already bytes, and the datagram says how many.
        Message::Gossip(packet) => {
            let mut bytes = header(GOSSIP, version);
            bytes.extend_from_slice(packet);
            bytes
        }
        Message::Ping(ping) => body(PING, version, ping),
        Message::Pong(pong) => body(PONG, version, pong),
        Message::Bootstrap(message) => body(BOOTSTRAP, version, message),
    };
    debug_assert!(
        encoded.len() <= MAX_DATAGRAM_BYTES,
        "a message of {} bytes does not fit a datagram",
        encoded.len()
    );
    encoded.into()
}

fn header(kind: u8, version: u8) -> Vec<u8> {
    vec![kind, version]
}

fn body(kind: u8, version: u8, body: &impl Serialize) -> Vec<u8> {
    postcard::to_extend(body, header(kind, version)).expect("plain data always encodes")
}

/// Reads what a peer sent in one of the versions that this node speaks. Never panics; every byte must belong to the message.
pub fn decode_datagram(bytes: &[u8], versions: VersionRange) -> Result<Message, WireError> {
    if bytes.len() > MAX_DATAGRAM_BYTES {
        return Err(WireError::TooLarge(bytes.len()));
    }
    let &[kind, version, ref content @ ..] = bytes else {
        return Err(WireError::Truncated(bytes.len()));
    };
    if !versions.contains(version) {
        return Err(WireError::UnknownVersion(version));
    }
    match kind {
        GOSSIP => Ok(Message::Gossip(Bytes::copy_from_slice(content))),
        PING => parse(content).map(Message::Ping),
        PONG => parse(content).map(Message::Pong),
        BOOTSTRAP => parse(content).map(Message::Bootstrap),
        _ => Err(WireError::UnknownKind(kind)),
    }
}

fn parse<'a, T: Deserialize<'a>>(content: &'a [u8]) -> Result<T, WireError> {
    match postcard::take_from_bytes(content) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(WireError::Trailing(rest.len())),
        Err(error) => Err(WireError::Malformed(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{decode_datagram as decode, encode_datagram as encode, *};
    use crate::engine::message::{Grant, Ping, Pong};
    use crate::ids::{BootId, ClusterId, LogIndex, ShardId, Term};
    use crate::limits::MAX_GOSSIP_BYTES;
    use crate::time::Time;
    use crate::versions::NEWEST;

    fn encode_datagram(message: &Message) -> Bytes {
        encode(message, NEWEST)
    }

    fn decode_datagram(bytes: &[u8]) -> Result<Message, WireError> {
        decode(bytes, VersionRange::SPOKEN)
    }

    fn ping() -> Message {
        Message::Ping(Ping {
            cluster: ClusterId(5),
            term: Term(3),
            boot: BootId(300),
            grant: Some(Grant {
                stamp: Time(5),
                map: LogIndex(129),
            }),
            dismissed: true,
        })
    }

    fn pong() -> Message {
        Message::Pong(Pong {
            cluster: ClusterId(300),
            boot: BootId(1),
            stamp: Time(2),
            term: Term(3),
            applied: LogIndex(4),
            acked: Some(LogIndex(5)),
            served: LogIndex(7),
            unacquirable: vec![ShardId(6), ShardId(200)],
        })
    }

    #[test]
    fn the_bytes_stand_still() {
        let gossip = Message::Gossip(Bytes::from_static(b"swim"));
        assert_eq!(encode_datagram(&gossip)[..], *b"\x01\x01swim");
        let expected = [2, 1, 5, 3, 0xac, 0x02, 1, 5, 0x81, 0x01, 1];
        assert_eq!(encode_datagram(&ping())[..], expected);
        let expected = [3, 1, 0xac, 0x02, 1, 2, 3, 4, 1, 5, 7, 2, 6, 0xc8, 0x01];
        assert_eq!(encode_datagram(&pong())[..], expected);
    }

    #[test]
    fn what_is_encoded_is_read_back() {
        for message in [Message::Gossip(Bytes::new()), ping(), pong()] {
            assert_eq!(decode_datagram(&encode_datagram(&message)), Ok(message));
        }
    }

    #[test]
    fn the_largest_gossip_fits() {
        let gossip = Message::Gossip(Bytes::from(vec![7; MAX_GOSSIP_BYTES]));
        let encoded = encode_datagram(&gossip);
        assert_eq!(encoded.len(), MAX_GOSSIP_BYTES + DATAGRAM_HEADER_BYTES);
        assert_eq!(decode_datagram(&encoded), Ok(gossip));
    }

    #[test]
    fn every_wrong_datagram_has_its_error() {
        assert_eq!(decode_datagram(&[]), Err(WireError::Truncated(0)));
        assert_eq!(decode_datagram(&[PING]), Err(WireError::Truncated(1)));
        assert_eq!(decode_datagram(&[0, 1]), Err(WireError::UnknownKind(0)));
        assert_eq!(decode_datagram(&[5, 1]), Err(WireError::UnknownKind(5)));
        assert_eq!(
            decode_datagram(&[PING, 2]),
            Err(WireError::UnknownVersion(2))
        );
        let large = vec![GOSSIP; MAX_DATAGRAM_BYTES + 1];
        assert_eq!(
            decode_datagram(&large),
            Err(WireError::TooLarge(MAX_DATAGRAM_BYTES + 1))
        );
        let mut longer = encode_datagram(&ping()).to_vec();
        longer.push(0);
        assert_eq!(decode_datagram(&longer), Err(WireError::Trailing(1)));
        // A list that claims four billion elements.
        let hostile = [PONG, 1, 1, 2, 3, 4, 0, 7, 0xff, 0xff, 0xff, 0xff, 0x0f];
        assert!(matches!(
            decode_datagram(&hostile),
            Err(WireError::Malformed(_))
        ));
    }

    #[test]
    fn each_version_of_the_range_is_read_and_no_other() {
        let versions = VersionRange {
            oldest: 2,
            newest: 3,
        };
        for version in 0..=u8::MAX {
            let read = decode(&encode(&ping(), version), versions);
            let expected = match version {
                2 | 3 => Ok(ping()),
                other => Err(WireError::UnknownVersion(other)),
            };
            assert_eq!(read, expected);
        }
    }

    #[test]
    fn no_prefix_of_a_message_is_a_message() {
        for message in [ping(), pong()] {
            let whole = encode_datagram(&message);
            for len in 0..whole.len() {
                assert!(decode_datagram(&whole[..len]).is_err(), "{len} bytes");
            }
        }
    }

    proptest! {
        #[test]
        fn any_ping_and_pong_comes_back(
            cluster in any::<u128>(),
            numbers in any::<(u64, u64, u64, u64)>(),
            stamp in any::<Option<u64>>(),
            dismissed in any::<bool>(),
            shards in prop::collection::vec(any::<u32>(), 0..=crate::engine::MAX_UNACQUIRABLE),
        ) {
            let (term, boot, map, applied) = numbers;
            let grant = stamp.map(|stamp| Grant { stamp: Time(stamp), map: LogIndex(map) });
            let (cluster, term, boot) = (ClusterId(cluster), Term(term), BootId(boot));
            let ping = Message::Ping(Ping { cluster, term, boot, grant, dismissed });
            let pong = Message::Pong(Pong {
                cluster,
                boot,
                stamp: Time(map),
                term,
                applied: LogIndex(applied),
                acked: stamp.map(LogIndex),
                served: LogIndex(map),
                unacquirable: shards.into_iter().map(ShardId).collect(),
            });
            for message in [ping, pong] {
                let encoded = encode_datagram(&message);
                prop_assert_eq!(decode_datagram(&encoded), Ok(message));
            }
        }

        #[test]
        fn hostile_bytes_are_refused_or_stand_for_themselves(
            kind in 0_u8..6,
            content in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let mut bytes = vec![kind, NEWEST];
            bytes.extend(content);
            if let Ok(message) = decode_datagram(&bytes) {
                // Integers have longer spellings too, so compare the meaning and not the bytes.
                let again = encode_datagram(&message);
                prop_assert_eq!(decode_datagram(&again), Ok(message));
            }
        }

        #[test]
        fn a_flipped_bit_never_panics(at in 0_usize..64, bit in 0_u8..8) {
            for message in [ping(), pong()] {
                let mut bytes = encode_datagram(&message).to_vec();
                let at = at % bytes.len();
                bytes[at] ^= 1 << bit;
                let _ = decode_datagram(&bytes);
            }
        }
    }
}
