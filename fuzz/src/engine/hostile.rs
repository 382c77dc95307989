//! What a peer may send: arbitrary, but often near the truth, where the interesting mistakes are.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use arbitrary::Arbitrary;
use bytes::Bytes;
use funk::engine::Tags;
use funk::engine::bootstrap::{BootstrapMessage, Invite, Refusal, Status};
use funk::engine::message::{Grant, Message, Ping, Pong};
use funk::engine::shard_map::ShardMap;
use funk::ids::{
    BootId, ClusterId, Instance, LogIndex, MemberKind, NodeId, RaftId, ShardId, StoreId, Term,
};
use funk::time::Time;
use funk::wire::encode_datagram;

/// Elements of a list in a made-up message: more would not fit a datagram.
pub(super) const MAX_LIST: usize = 16;
/// Bytes of gossip in a made-up message.
const MAX_GOSSIP: usize = 1_000;

/// What is true at the moment, for numbers that are near it.
#[derive(Clone, Copy, Debug)]
pub struct Truth<'a> {
    /// The clock.
    pub now: Time,
    /// The newest term.
    pub term: u64,
    /// Index of the last entry.
    pub index: u64,
    /// The cluster.
    pub cluster: ClusterId,
    /// The newest map.
    pub committed: &'a ShardMap,
    /// Run of the receiver.
    pub boot: BootId,
    /// Who sends.
    pub sender: &'a Instance,
    /// The receiver's name.
    pub receiver: &'a Instance,
    /// First bytes of each gossip packet of this cluster: version, digest of the name.
    pub gossip_head: &'a [u8],
}

/// A number, often near the one that would be right.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Number {
    /// So far from it.
    Near(i8),
    /// Any.
    Any(u64),
    /// The largest.
    Last,
}

impl Number {
    /// The number, where `right` would be right.
    pub fn at(self, right: u64) -> u64 {
        match self {
            Self::Near(by) => right.saturating_add_signed(i64::from(by)),
            Self::Any(number) => number,
            Self::Last => u64::MAX,
        }
    }
}

/// The name of a node: of one that is there, or a stranger.
pub fn name(of: u8) -> NodeId {
    NodeId::new(&format!("n{}", of % 12)).expect("a short lower-case name")
}

/// Where the node of that name is.
pub fn addr(of: u8) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::new(10, 0, 0, of % 12 + 1).into(), 7_000)
}

/// Who sends.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct From {
    /// Its name, modulo.
    pub node: u8,
    /// Its run: the right one is the one that is there.
    pub boot: Number,
    /// Another address than that of its name.
    pub elsewhere: Option<u8>,
}

/// The right cluster, or another.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Cluster {
    /// The right one.
    Right,
    /// Another.
    Other(u8),
}

impl Cluster {
    fn id(self, truth: &Truth<'_>) -> ClusterId {
        match self {
            Self::Right => truth.cluster,
            Self::Other(id) => ClusterId(u128::from(id)),
        }
    }
}

/// A message of a peer.
#[derive(Arbitrary, Clone, Debug)]
pub enum HostileMessage {
    /// Any datagram.
    Datagram(Vec<u8>),
    /// Any gossip after a right head.
    Gossip(u8, Vec<u8>),
    /// Gossip that is well-formed.
    Swim(Swim),
    /// A ping.
    Ping {
        /// Of which cluster.
        cluster: Cluster,
        /// In which term.
        term: Number,
        /// For which run.
        boot: Number,
        /// Stamp and map of a grant.
        grant: Option<(Number, Number)>,
        /// The receiver may go.
        dismissed: bool,
    },
    /// A pong.
    Pong {
        /// Of which cluster.
        cluster: Cluster,
        /// The run that it claims.
        boot: Number,
        /// Its clock.
        stamp: Number,
        /// The term.
        term: Number,
        /// What it has applied.
        applied: Number,
        /// What it acknowledges.
        acked: Option<Number>,
        /// What it cannot acquire.
        unacquirable: Vec<u8>,
    },
    /// Between candidates.
    Bootstrap(HostileBootstrap),
    /// A real message of somebody, with some bytes changed.
    Damaged {
        /// Which.
        mail: u8,
        /// Where, and by what.
        changes: Vec<(u16, u8)>,
        /// How much is left of it.
        cut: Option<u16>,
    },
}

/// What candidates may say.
#[derive(Arbitrary, Clone, Debug)]
pub enum HostileBootstrap {
    /// An invitation.
    Invite {
        /// To what.
        cluster: Cluster,
        /// How many are expected.
        expect: u16,
        /// Who.
        members: Vec<(u8, Number)>,
        /// How many vote.
        voters: u16,
        /// Which run is meant.
        boot: Number,
    },
    /// A promise.
    Promise(Cluster),
    /// A refusal.
    Refuse(Cluster, u8),
    /// A question.
    Ask(Cluster, u8, Number),
    /// An answer.
    Status(Cluster, u8),
    /// Do not wait.
    Busy,
}

impl HostileBootstrap {
    fn message(&self, truth: &Truth<'_>) -> BootstrapMessage {
        match self {
            Self::Invite {
                cluster,
                expect,
                members,
                voters,
                boot,
            } => {
                let member = |&(node, store): &(u8, Number)| RaftId {
                    node: name(node),
                    store: StoreId(store.at(100 + u64::from(node % 12))),
                };
                BootstrapMessage::Invite(Invite {
                    cluster: cluster.id(truth),
                    expect: *expect,
                    members: members.iter().take(MAX_LIST).map(member).collect(),
                    voters: *voters,
                    boot: BootId(boot.at(truth.boot.0)),
                    addr: addr(*expect as u8),
                })
            }
            Self::Promise(cluster) => BootstrapMessage::Promise {
                cluster: cluster.id(truth),
            },
            Self::Refuse(cluster, reason) => BootstrapMessage::Refuse {
                cluster: cluster.id(truth),
                reason: match reason % 7 {
                    0 => Refusal::Bound,
                    1 => Refusal::Initialised(truth.cluster),
                    2 => Refusal::Heard(ClusterId(u128::from(*reason))),
                    3 => Refusal::Smaller,
                    4 => Refusal::Unknown,
                    5 => Refusal::OtherExpect(u16::from(*reason)),
                    _ => Refusal::NoCandidate,
                },
            },
            Self::Ask(cluster, node, boot) => BootstrapMessage::Ask {
                cluster: cluster.id(truth),
                initiator: Instance {
                    node: name(*node),
                    boot: BootId(boot.at(1)),
                },
            },
            Self::Status(cluster, status) => BootstrapMessage::Status {
                cluster: cluster.id(truth),
                status: match status % 5 {
                    0 => Status::Pending,
                    1 => Status::Initialised(truth.cluster),
                    2 => Status::Initialised(ClusterId(u128::from(*status))),
                    3 => Status::Uninitialised,
                    4 => Status::Unpromised,
                    _ => Status::Void,
                },
            },
            Self::Busy => BootstrapMessage::Busy,
        }
    }
}

/// A version of what a node says about itself, as it stands in gossip.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Identity {
    node: u8,
    boot: Number,
    generation: Number,
    addr: u8,
    store: Number,
    kind: u8,
    expect: u8,
    tag_version: Number,
    leaving: bool,
    cluster: Option<Cluster>,
}

/// The encoded form: node, boot, generation, then the profile. A test compares it with the real one.
type WireIdentity = (
    NodeId,
    BootId,
    u64,
    (
        SocketAddr,
        StoreId,
        MemberKind,
        u16,
        u64,
        bool,
        Option<ClusterId>,
    ),
);

impl Identity {
    fn wire(&self, truth: &Truth<'_>, of: Option<&Instance>) -> WireIdentity {
        let node = of.map_or_else(|| name(self.node), |instance| instance.node.clone());
        let boot = of.map_or_else(|| BootId(self.boot.at(1)), |instance| instance.boot);
        let kinds = [
            MemberKind::Voter,
            MemberKind::NonVoter,
            MemberKind::NonMember,
        ];
        let profile = (
            addr(self.addr),
            StoreId(self.store.at(100 + u64::from(self.node % 12))),
            kinds[usize::from(self.kind) % kinds.len()],
            u16::from(self.expect),
            self.tag_version.at(1),
            self.leaving,
            self.cluster.map(|cluster| cluster.id(truth)),
        );
        (node, boot, self.generation.at(0), profile)
    }
}

/// A well-formed gossip packet.
#[derive(Arbitrary, Clone, Debug)]
pub struct Swim {
    /// 0: SWIM, 1: join, 2: refusal, modulo.
    kind: u8,
    src: Identity,
    src_incarnation: u16,
    dst: Identity,
    /// For the receiver, whatever `dst` says.
    dst_right: bool,
    /// Which of SWIM's messages, modulo, with a probe number and a third node.
    message: u8,
    probe: u8,
    third: Identity,
    members: Vec<(Identity, u16, u8)>,
}

/// How many messages SWIM has.
const SWIM_MESSAGES: u8 = 11;

impl Swim {
    fn packet(&self, truth: &Truth<'_>) -> Bytes {
        let mut packet = truth.gossip_head.to_vec();
        let kind = self.kind % 3;
        packet.push(kind);
        let src = self.src.wire(truth, Some(truth.sender));
        let mut put = |part: &[u8]| packet.extend_from_slice(part);
        if kind != 0 {
            put(&plain(&src));
            return packet.into();
        }
        let receiver = self.dst_right.then_some(truth.receiver);
        put(&plain(&(
            src,
            self.src_incarnation,
            self.dst.wire(truth, receiver),
        )));
        let message = self.message % SWIM_MESSAGES;
        put(&[message]);
        match message {
            0 | 1 => put(&[self.probe]),
            2..=5 => {
                put(&plain(&self.third.wire(truth, None)));
                put(&[self.probe]);
            }
            _ => {}
        }
        let carries_members = !matches!(message, 6 | 9 | 10);
        if carries_members {
            let members = self.members.iter().take(8);
            put(&(members.len() as u16).to_be_bytes());
            for (identity, incarnation, state) in members {
                let identity = identity.wire(truth, None);
                put(&plain(&(identity, *incarnation, state % 3)));
            }
        }
        packet.into()
    }
}

fn plain(value: &impl serde::Serialize) -> Vec<u8> {
    postcard::to_stdvec(value).expect("plain data always encodes")
}

impl HostileMessage {
    /// The datagram.
    pub fn datagram(&self, truth: &Truth<'_>, mail: &[Message]) -> Bytes {
        let message = match self {
            Self::Datagram(bytes) => return bytes.clone().into(),
            Self::Gossip(kind, body) => {
                let mut packet = truth.gossip_head.to_vec();
                packet.push(*kind);
                packet.extend_from_slice(&body[..body.len().min(MAX_GOSSIP)]);
                Message::Gossip(packet.into())
            }
            Self::Swim(swim) => Message::Gossip(swim.packet(truth)),
            Self::Ping {
                cluster,
                term,
                boot,
                grant,
                dismissed,
            } => Message::Ping(Ping {
                cluster: cluster.id(truth),
                term: Term(term.at(truth.term)),
                boot: BootId(boot.at(truth.boot.0)),
                grant: grant.map(|(stamp, map)| Grant {
                    stamp: Time(stamp.at(truth.now.0)),
                    map: LogIndex(map.at(truth.index)),
                }),
                dismissed: *dismissed,
            }),
            Self::Pong {
                cluster,
                boot,
                stamp,
                term,
                applied,
                acked,
                unacquirable,
            } => Message::Pong(Pong {
                cluster: cluster.id(truth),
                boot: BootId(boot.at(truth.sender.boot.0)),
                stamp: Time(stamp.at(truth.now.0)),
                term: Term(term.at(truth.term)),
                applied: LogIndex(applied.at(truth.index)),
                acked: acked.map(|acked| LogIndex(acked.at(truth.index))),
                served: LogIndex(applied.at(truth.index)),
                unacquirable: unacquirable
                    .iter()
                    .take(MAX_LIST)
                    .map(|&shard| ShardId(u32::from(shard)))
                    .collect(),
            }),
            Self::Bootstrap(message) => Message::Bootstrap(message.message(truth)),
            Self::Damaged {
                mail: which,
                changes,
                cut,
            } => {
                let Some(message) = mail.get(usize::from(*which) % mail.len().max(1)) else {
                    return Bytes::new();
                };
                let mut bytes = encode_datagram(message, funk::versions::NEWEST).to_vec();
                let len = bytes.len();
                for &(at, by) in changes {
                    bytes[usize::from(at) % len] ^= by;
                }
                bytes.truncate(cut.map_or(len, |cut| usize::from(cut) % len));
                return bytes.into();
            }
        };
        encode_datagram(&message, funk::versions::NEWEST)
    }
}

/// Tags within their bounds, as they are after they were decoded.
#[derive(Arbitrary, Clone, Debug)]
pub struct HostileTags(Vec<(u8, String)>);

impl HostileTags {
    /// The tags.
    pub fn tags(&self) -> Tags {
        let pairs = self
            .0
            .iter()
            .map(|(name, value)| (format!("t{name}"), value.clone()));
        Tags::try_from(pairs.collect::<BTreeMap<_, _>>()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::gossip_cluster;

    /// The made-up gossip is gossip: whenever the format changes, this file must follow.
    #[test]
    fn made_up_gossip_is_read_as_it_was_meant() {
        let instance = Instance {
            node: name(1),
            boot: BootId(1),
        };
        let truth = Truth {
            now: Time(1),
            term: 1,
            index: 1,
            cluster: ClusterId(7),
            committed: &ShardMap::empty(),
            boot: BootId(1),
            sender: &instance,
            receiver: &instance,
            gossip_head: &crate::engine::world::gossip_head(),
        };
        let identity = Identity {
            node: 2,
            boot: Number::Near(0),
            generation: Number::Near(3),
            addr: 2,
            store: Number::Last,
            kind: 1,
            expect: 3,
            tag_version: Number::Near(1),
            leaving: true,
            cluster: Some(Cluster::Right),
        };
        let mut swim = Swim {
            kind: 0,
            src: identity,
            src_incarnation: 2,
            dst: identity,
            dst_right: true,
            message: 0,
            probe: 9,
            third: identity,
            members: vec![(identity, 1, 0), (identity, 2, 1), (identity, 3, 2)],
        };
        for kind in 0..3 {
            for message in (0..SWIM_MESSAGES).filter(|&message| message != 9) {
                (swim.kind, swim.message) = (kind, message);
                let packet = swim.packet(&truth);
                let again = funk::fuzzing::reencode_gossip(&gossip_cluster(), &packet);
                assert_eq!(again, Some(packet), "kind {kind}, message {message}");
            }
        }
    }
}
