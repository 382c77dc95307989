//! How nodes introduce themselves to each other: at the head of a connection and of every datagram.

use bytes::{Buf, BufMut};
use funk::ids::{BootId, ClusterName, Instance, NodeId};
use funk::transport::PeerKind;
use funk::versions::VersionRange;

/// Version of the simulated transport's own format.
const VERSION: u8 = 1;
const ACCEPTED: u8 = 1;
const REFUSED: u8 = 2;

/// Largest introduction or answer to one, in bytes.
pub(crate) const MAX_HELLO_BYTES: usize = 1_024;

/// Who speaks, and whom it wants to speak to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Hello {
    pub(crate) cluster: ClusterName,
    pub(crate) instance: Instance,
    pub(crate) kind: PeerKind,
    /// The versions of the protocol that the speaker speaks.
    pub(crate) versions: VersionRange,
    /// Port at which the speaker listens.
    pub(crate) port: u16,
    /// The name that the other must have, if it is known.
    pub(crate) expected: Option<NodeId>,
}

impl Hello {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION, u8::from(self.kind == PeerKind::Client)];
        bytes.put_slice(&[self.versions.oldest, self.versions.newest]);
        bytes.put_u64_le(self.instance.boot.0);
        bytes.put_u16_le(self.port);
        let expected = self.expected.as_ref().map_or("", NodeId::as_str);
        for name in [self.cluster.as_str(), self.instance.node.as_str(), expected] {
            // Names have at most 63 bytes.
            bytes.put_u8(name.len() as u8);
            bytes.put_slice(name.as_bytes());
        }
        bytes
    }

    /// Reads an introduction and leaves what follows it.
    pub(crate) fn decode(bytes: &mut &[u8]) -> Option<Self> {
        if bytes.try_get_u8().ok()? != VERSION {
            return None;
        }
        let kind = match bytes.try_get_u8().ok()? {
            0 => PeerKind::Node,
            1 => PeerKind::Client,
            _ => return None,
        };
        let versions = VersionRange {
            oldest: bytes.try_get_u8().ok()?,
            newest: bytes.try_get_u8().ok()?,
        };
        let boot = BootId(bytes.try_get_u64_le().ok()?);
        let port = bytes.try_get_u16_le().ok()?;
        let cluster = ClusterName::new(name(bytes)?).ok()?;
        let node = NodeId::new(name(bytes)?).ok()?;
        let expected = match name(bytes)? {
            "" => None,
            expected => Some(NodeId::new(expected).ok()?),
        };
        Some(Self {
            cluster,
            instance: Instance { node, boot },
            kind,
            versions,
            port,
            expected,
        })
    }
}

fn name<'a>(bytes: &mut &'a [u8]) -> Option<&'a str> {
    let len = usize::from(bytes.try_get_u8().ok()?);
    let (name, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    std::str::from_utf8(name).ok()
}

/// The acceptor's answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    Accepted(Hello),
    Refused(String),
}

impl Answer {
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Accepted(hello) => [vec![ACCEPTED], hello.encode()].concat(),
            Self::Refused(reason) => [&[REFUSED], reason.as_bytes()].concat(),
        }
    }

    pub(crate) fn decode(mut bytes: &[u8]) -> Option<Self> {
        match bytes.try_get_u8().ok()? {
            ACCEPTED => Hello::decode(&mut bytes).map(Self::Accepted),
            REFUSED => Some(Self::Refused(String::from_utf8_lossy(bytes).into_owned())),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn introductions_are_read_back_and_their_prefixes_are_not() {
        for expected in [None, Some(NodeId::new("bob").unwrap())] {
            let hello = Hello {
                cluster: ClusterName::new("c").unwrap(),
                instance: Instance {
                    node: NodeId::new("alice").unwrap(),
                    boot: BootId(7),
                },
                kind: PeerKind::Client,
                versions: VersionRange {
                    oldest: 1,
                    newest: 3,
                },
                port: 7_000,
                expected,
            };
            let mut encoded = hello.encode();
            for len in 0..encoded.len() {
                assert_eq!(Hello::decode(&mut &encoded[..len]), None, "{len} bytes");
            }
            let answer = Answer::Accepted(hello.clone());
            assert_eq!(Answer::decode(&answer.encode()), Some(answer));
            encoded.extend(b"rest");
            let mut rest = &encoded[..];
            assert_eq!(Hello::decode(&mut rest), Some(hello));
            assert_eq!(rest, b"rest");
        }
        let refused = Answer::Refused("because".into());
        assert_eq!(Answer::decode(&refused.encode()), Some(refused));
        assert_eq!(Answer::decode(b"\x03"), None);
    }
}
