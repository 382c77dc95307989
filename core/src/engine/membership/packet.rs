//! Gossip on the wire: a header of ours, then what SWIM says.
//!
//! The header lets packets of another cluster name be dropped before anything else is believed. Whatever SWIM is
//! given was decoded and checked here first, so that hostile bytes end here, as a [`PacketError`].

use bytes::{Buf, BufMut, Bytes};
use foca::{Header, Member, Message, State};
use serde::{Deserialize, Serialize};

use super::identity::Identity;
use crate::ids::ClusterName;
use crate::limits::MAX_GOSSIP_BYTES;

/// First byte of each gossip packet.
const VERSION: u8 = 1;
/// Version, digest of the cluster's name, kind.
const HEADER_BYTES: usize = 1 + 8 + 1;
/// What is left to SWIM.
pub(super) const MAX_SWIM_BYTES: usize = MAX_GOSSIP_BYTES - HEADER_BYTES;

const KIND_SWIM: u8 = 0;
const KIND_JOIN: u8 = 1;
const KIND_REFUSAL: u8 = 2;

/// Why a packet was dropped.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum PacketError {
    #[error("{0} bytes are no gossip packet; the largest has {MAX_GOSSIP_BYTES}")]
    Size(usize),
    #[error("version {0} of the gossip format is not known")]
    Version(u8),
    #[error("the packet belongs to a cluster of another name")]
    ClusterName,
    #[error("malformed gossip: {0}")]
    Malformed(&'static str),
}

/// One gossip packet.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Packet {
    /// SWIM's own messages.
    Swim(Box<SwimMessage>),
    /// To whoever is at an address: here I am, who are you and whom do you know?
    Join(Identity),
    /// The receiver belongs to another cluster of the same name: nothing that it says is believed.
    Refusal(Identity),
}

/// A message of SWIM with what is piggybacked on it.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct SwimMessage {
    pub(super) header: Header<Identity>,
    pub(super) members: Vec<Member<Identity>>,
}

impl Packet {
    pub(super) fn sender(&self) -> &Identity {
        match self {
            Packet::Swim(message) => &message.header.src,
            Packet::Join(sender) | Packet::Refusal(sender) => sender,
        }
    }
}

/// What tells clusters of different names apart in packets. Not a secret: the transport authenticates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct NameDigest(u64);

impl NameDigest {
    pub(super) fn of(cluster: &ClusterName) -> Self {
        Self(xxhash_rust::xxh3::xxh3_64(cluster.as_str().as_bytes()))
    }

    fn frame(self, kind: u8, body: &[u8]) -> Bytes {
        let mut packet = Vec::with_capacity(HEADER_BYTES + body.len());
        packet.put_u8(VERSION);
        packet.put_u64(self.0);
        packet.put_u8(kind);
        packet.put_slice(body);
        debug_assert!(packet.len() <= MAX_GOSSIP_BYTES);
        packet.into()
    }

    /// A packet around what SWIM wants to send.
    pub(super) fn frame_swim(self, body: &[u8]) -> Bytes {
        self.frame(KIND_SWIM, body)
    }

    /// A packet. What does not fit is left out from the end: gossip repeats itself.
    pub(super) fn encode(self, packet: &Packet) -> Bytes {
        match packet {
            Packet::Swim(message) => self.frame(KIND_SWIM, &message.encode()),
            Packet::Join(sender) => self.frame(KIND_JOIN, &plain(sender)),
            Packet::Refusal(sender) => self.frame(KIND_REFUSAL, &plain(sender)),
        }
    }

    /// Reads a packet; nothing of it is used unless all of it is well-formed.
    pub(super) fn decode(self, mut bytes: &[u8]) -> Result<Packet, PacketError> {
        if bytes.len() < HEADER_BYTES || bytes.len() > MAX_GOSSIP_BYTES {
            return Err(PacketError::Size(bytes.len()));
        }
        let version = bytes.get_u8();
        if version != VERSION {
            return Err(PacketError::Version(version));
        }
        if bytes.get_u64() != self.0 {
            return Err(PacketError::ClusterName);
        }
        let kind = bytes.get_u8();
        let packet = match kind {
            KIND_SWIM => Packet::Swim(Box::new(SwimMessage::decode(&mut bytes)?)),
            KIND_JOIN => Packet::Join(read(&mut bytes)?),
            KIND_REFUSAL => Packet::Refusal(read(&mut bytes)?),
            _ => return Err(PacketError::Malformed("unknown kind")),
        };
        if bytes.is_empty() {
            Ok(packet)
        } else {
            Err(PacketError::Malformed("bytes after the end"))
        }
    }
}

impl SwimMessage {
    /// In SWIM's format, at most [`MAX_SWIM_BYTES`].
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut body = plain(&WireHeader::from(&self.header));
        if carries_members(&self.header.message) {
            let count_at = body.len();
            body.put_u16(0);
            let mut count = 0_u16;
            for member in &self.members {
                let encoded = plain(&WireMember::from(member));
                if body.len() + encoded.len() > MAX_SWIM_BYTES {
                    break;
                }
                body.extend_from_slice(&encoded);
                count += 1;
            }
            body[count_at..count_at + 2].copy_from_slice(&count.to_be_bytes());
        }
        body
    }

    fn decode(bytes: &mut &[u8]) -> Result<Self, PacketError> {
        let header: Header<Identity> = read::<WireHeader>(bytes)?.into();
        if header.message == Message::Broadcast {
            return Err(PacketError::Malformed("broadcasts are not used"));
        }
        let mut members = Vec::new();
        if carries_members(&header.message) {
            if bytes.len() < 2 {
                return Err(PacketError::Malformed("cut off"));
            }
            for _ in 0..bytes.get_u16() {
                members.push(read::<WireMember>(bytes)?.into());
            }
        }
        Ok(Self { header, members })
    }
}

fn carries_members(message: &Message<Identity>) -> bool {
    !matches!(
        message,
        Message::Announce | Message::TurnUndead | Message::Broadcast
    )
}

/// How SWIM's types are written; the same for what SWIM sends and what it is given.
#[derive(Clone, Copy, Debug)]
pub(super) struct Codec;

impl foca::Codec<Identity> for Codec {
    type Error = PacketError;

    fn encode_header(
        &mut self,
        header: &Header<Identity>,
        buf: impl BufMut,
    ) -> Result<(), PacketError> {
        write(&WireHeader::from(header), buf)
    }

    fn decode_header(&mut self, buf: impl Buf) -> Result<Header<Identity>, PacketError> {
        take::<WireHeader>(buf).map(Into::into)
    }

    fn encode_member(
        &mut self,
        member: &Member<Identity>,
        buf: impl BufMut,
    ) -> Result<(), PacketError> {
        write(&WireMember::from(member), buf)
    }

    fn decode_member(&mut self, buf: impl Buf) -> Result<Member<Identity>, PacketError> {
        take::<WireMember>(buf).map(Into::into)
    }
}

fn plain<T: Serialize>(value: &T) -> Vec<u8> {
    // Only types whose encoding cannot fail are written: no maps, no sequences of unknown length.
    postcard::to_stdvec(value).unwrap_or_default()
}

fn write<T: Serialize>(value: &T, mut buf: impl BufMut) -> Result<(), PacketError> {
    let encoded = plain(value);
    if encoded.len() > buf.remaining_mut() {
        return Err(PacketError::Malformed("does not fit"));
    }
    buf.put_slice(&encoded);
    Ok(())
}

fn read<'a, T: Deserialize<'a>>(bytes: &mut &'a [u8]) -> Result<T, PacketError> {
    let (value, rest) = postcard::take_from_bytes(bytes)
        .map_err(|_| PacketError::Malformed("not what was expected here"))?;
    *bytes = rest;
    Ok(value)
}

fn take<T: for<'a> Deserialize<'a>>(mut buf: impl Buf) -> Result<T, PacketError> {
    let mut bytes = buf.chunk();
    let before = bytes.len();
    let value = read(&mut bytes)?;
    let used = before - bytes.len();
    buf.advance(used);
    Ok(value)
}

#[derive(Serialize, Deserialize)]
struct WireHeader {
    src: Identity,
    src_incarnation: u16,
    dst: Identity,
    message: WireMessage,
}

#[derive(Serialize, Deserialize)]
enum WireMessage {
    Ping(u8),
    Ack(u8),
    PingReq(Identity, u8),
    IndirectPing(Identity, u8),
    IndirectAck(Identity, u8),
    ForwardedAck(Identity, u8),
    Announce,
    Feed,
    Gossip,
    Broadcast,
    TurnUndead,
}

#[derive(Serialize, Deserialize)]
struct WireMember {
    identity: Identity,
    incarnation: u16,
    state: WireState,
}

#[derive(Serialize, Deserialize)]
enum WireState {
    Alive,
    Suspect,
    Down,
}

impl From<&Header<Identity>> for WireHeader {
    fn from(header: &Header<Identity>) -> Self {
        let message = match header.message.clone() {
            Message::Ping(number) => WireMessage::Ping(number),
            Message::Ack(number) => WireMessage::Ack(number),
            Message::PingReq {
                target,
                probe_number,
            } => WireMessage::PingReq(target, probe_number),
            Message::IndirectPing {
                origin,
                probe_number,
            } => WireMessage::IndirectPing(origin, probe_number),
            Message::IndirectAck {
                target,
                probe_number,
            } => WireMessage::IndirectAck(target, probe_number),
            Message::ForwardedAck {
                origin,
                probe_number,
            } => WireMessage::ForwardedAck(origin, probe_number),
            Message::Announce => WireMessage::Announce,
            Message::Feed => WireMessage::Feed,
            Message::Gossip => WireMessage::Gossip,
            Message::Broadcast => WireMessage::Broadcast,
            Message::TurnUndead => WireMessage::TurnUndead,
        };
        Self {
            src: header.src.clone(),
            src_incarnation: header.src_incarnation,
            dst: header.dst.clone(),
            message,
        }
    }
}

impl From<WireHeader> for Header<Identity> {
    fn from(wire: WireHeader) -> Self {
        let message = match wire.message {
            WireMessage::Ping(number) => Message::Ping(number),
            WireMessage::Ack(number) => Message::Ack(number),
            WireMessage::PingReq(target, probe_number) => Message::PingReq {
                target,
                probe_number,
            },
            WireMessage::IndirectPing(origin, probe_number) => Message::IndirectPing {
                origin,
                probe_number,
            },
            WireMessage::IndirectAck(target, probe_number) => Message::IndirectAck {
                target,
                probe_number,
            },
            WireMessage::ForwardedAck(origin, probe_number) => Message::ForwardedAck {
                origin,
                probe_number,
            },
            WireMessage::Announce => Message::Announce,
            WireMessage::Feed => Message::Feed,
            WireMessage::Gossip => Message::Gossip,
            WireMessage::Broadcast => Message::Broadcast,
            WireMessage::TurnUndead => Message::TurnUndead,
        };
        Self {
            src: wire.src,
            src_incarnation: wire.src_incarnation,
            dst: wire.dst,
            message,
        }
    }
}

impl From<&Member<Identity>> for WireMember {
    fn from(member: &Member<Identity>) -> Self {
        Self {
            identity: member.id().clone(),
            incarnation: member.incarnation(),
            state: match member.state() {
                State::Alive => WireState::Alive,
                State::Suspect => WireState::Suspect,
                State::Down => WireState::Down,
            },
        }
    }
}

impl From<WireMember> for Member<Identity> {
    fn from(wire: WireMember) -> Self {
        let state = match wire.state {
            WireState::Alive => State::Alive,
            WireState::Suspect => State::Suspect,
            WireState::Down => State::Down,
        };
        Self::new(wire.identity, wire.incarnation, state)
    }
}

#[cfg(test)]
mod tests {
    use super::super::identity::identity;
    use super::*;
    use crate::ids::{ClusterId, StoreId};

    fn digest() -> NameDigest {
        NameDigest::of(&ClusterName::new("test").unwrap())
    }

    fn widest(first: char) -> Identity {
        let mut id = identity(&first.to_string().repeat(63), u64::MAX, u64::MAX);
        id.profile.addr = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"
            .parse()
            .unwrap();
        id.profile.store = StoreId(u64::MAX);
        id.profile.expect = u16::MAX;
        id.profile.capacity = u32::MAX;
        id.profile.tag_version = u64::MAX;
        id.profile.cluster = Some(ClusterId(u128::MAX));
        id
    }

    fn message(message: Message<Identity>, members: usize) -> SwimMessage {
        SwimMessage {
            header: Header {
                src: widest('a'),
                src_incarnation: u16::MAX,
                dst: widest('b'),
                message,
            },
            members: vec![Member::new(widest('c'), u16::MAX, State::Suspect); members],
        }
    }

    #[test]
    fn the_widest_header_leaves_room_for_members() {
        let target = widest('d');
        let full = message(
            Message::PingReq {
                target,
                probe_number: 255,
            },
            50,
        );
        let bytes = digest().encode(&Packet::Swim(Box::new(full)));
        assert!(bytes.len() <= MAX_GOSSIP_BYTES);
        let Ok(Packet::Swim(decoded)) = digest().decode(&bytes) else {
            panic!("does not decode")
        };
        assert!(decoded.members.len() >= 3, "{}", decoded.members.len());
    }

    #[test]
    fn every_packet_survives_the_wire_and_no_prefix_of_it_is_one() {
        let packets = [
            Packet::Join(widest('a')),
            Packet::Refusal(widest('a')),
            Packet::Swim(Box::new(message(Message::Ping(3), 2))),
            Packet::Swim(Box::new(message(Message::Announce, 0))),
            Packet::Swim(Box::new(message(Message::TurnUndead, 0))),
            Packet::Swim(Box::new(message(Message::Feed, 0))),
        ];
        for packet in packets {
            let bytes = digest().encode(&packet);
            assert_eq!(digest().decode(&bytes), Ok(packet.clone()));
            for cut in 0..bytes.len() {
                assert!(
                    digest().decode(&bytes[..cut]).is_err(),
                    "{packet:?} cut to {cut}"
                );
            }
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let good = digest().encode(&Packet::Join(widest('a'))).to_vec();
        let mut newer = good.clone();
        newer[0] = 9;
        assert_eq!(digest().decode(&newer), Err(PacketError::Version(9)));
        let other = NameDigest::of(&ClusterName::new("other").unwrap());
        assert_eq!(other.decode(&good), Err(PacketError::ClusterName));
        let mut longer = good.clone();
        longer.push(0);
        assert!(matches!(
            digest().decode(&longer),
            Err(PacketError::Malformed(_))
        ));
        assert_eq!(digest().decode(&[0; 1101]), Err(PacketError::Size(1101)));
        let broadcast = digest().encode(&Packet::Swim(Box::new(message(Message::Broadcast, 0))));
        assert!(matches!(
            digest().decode(&broadcast),
            Err(PacketError::Malformed(_))
        ));
    }

    #[test]
    fn a_name_that_is_no_name_does_not_decode() {
        let good = digest()
            .encode(&Packet::Join(identity("abc", 1, 0)))
            .to_vec();
        let at = good.windows(3).position(|w| w == b"abc").unwrap();
        let mut bad = good;
        bad[at] = b'A';
        assert!(matches!(
            digest().decode(&bad),
            Err(PacketError::Malformed(_))
        ));
    }
}
