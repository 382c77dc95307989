//! How the two ends of a new connection introduce themselves.
//!
//! On the first bidirectional stream the dialling side sends a hello; the other side answers with its own, or closes
//! the connection with the reason for which it refuses. On the wire, integers big-endian:
//!
//! ```text
//! length of what follows: u16, at most 512
//! cluster name:  length u8, bytes
//! node name:     length u8, bytes
//! boot id:       u64
//! dial number:   u64     counts the dials of this run; of two connections one way, the later one is kept
//! oldest, newest version of the protocol that it speaks: u8 each
//! anything else: ignored, for later versions
//! ```
//!
//! These fields stand in this order in every version of the protocol, or nodes could not tell each other that they
//! have none in common.
//!
//! The address that peers listen on is not in it: there is one socket, and packets come from that address.

use funk::ids::{BootId, ClusterName, Instance, NodeId};
use funk::versions::VersionRange;

/// Longest hello, without its length: two names, two numbers and room for later fields.
pub(crate) const MAX_HELLO_BYTES: usize = 512;

/// What one side says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Hello {
    pub(crate) cluster: ClusterName,
    pub(crate) instance: Instance,
    /// Number of this dial in the run of the dialling side; the answering side repeats it.
    pub(crate) dial: u64,
    /// The versions of the protocol that it speaks.
    pub(crate) versions: VersionRange,
}

/// Why a hello could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HelloError {
    #[error("the introduction has {0} bytes; at most {MAX_HELLO_BYTES} are allowed")]
    TooLong(usize),
    #[error("the introduction ends too early")]
    Truncated,
    #[error("the introduction holds an impossible name")]
    Name,
    #[error("the connection was lost during the introduction: {0}")]
    Lost(quinn::ConnectionError),
}

impl Hello {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(MAX_HELLO_BYTES);
        for name in [self.cluster.as_str(), self.instance.node.as_str()] {
            // Names have at most 63 bytes by their type.
            body.push(name.len() as u8);
            body.extend_from_slice(name.as_bytes());
        }
        body.extend_from_slice(&self.instance.boot.0.to_be_bytes());
        body.extend_from_slice(&self.dial.to_be_bytes());
        body.extend([self.versions.oldest, self.versions.newest]);
        let mut frame = (body.len() as u16).to_be_bytes().to_vec();
        frame.append(&mut body);
        frame
    }

    /// Reads what follows the length.
    pub(crate) fn decode(mut body: &[u8]) -> Result<Self, HelloError> {
        let cluster = name(&mut body)?;
        let node = name(&mut body)?;
        let cluster = ClusterName::new(cluster).map_err(|_| HelloError::Name)?;
        let node = NodeId::new(node).map_err(|_| HelloError::Name)?;
        let boot = BootId(number(&mut body)?);
        let dial = number(&mut body)?;
        let [oldest, newest] = [take(&mut body, 1)?[0], take(&mut body, 1)?[0]];
        Ok(Self {
            cluster,
            instance: Instance { node, boot },
            dial,
            versions: VersionRange { oldest, newest },
        })
    }

    pub(crate) async fn read(stream: &mut quinn::RecvStream) -> Result<Self, HelloError> {
        let mut length = [0; 2];
        exactly(stream, &mut length).await?;
        let length = usize::from(u16::from_be_bytes(length));
        if length > MAX_HELLO_BYTES {
            return Err(HelloError::TooLong(length));
        }
        let mut body = [0; MAX_HELLO_BYTES];
        let body = &mut body[..length];
        exactly(stream, body).await?;
        Self::decode(body)
    }
}

async fn exactly(stream: &mut quinn::RecvStream, into: &mut [u8]) -> Result<(), HelloError> {
    use quinn::{ReadError, ReadExactError};
    stream.read_exact(into).await.map_err(|error| match error {
        ReadExactError::ReadError(ReadError::ConnectionLost(error)) => HelloError::Lost(error),
        _ => HelloError::Truncated,
    })
}

fn take<'a>(body: &mut &'a [u8], length: usize) -> Result<&'a [u8], HelloError> {
    let (head, tail) = body.split_at_checked(length).ok_or(HelloError::Truncated)?;
    *body = tail;
    Ok(head)
}

fn name<'a>(body: &mut &'a [u8]) -> Result<&'a str, HelloError> {
    let length = take(body, 1)?[0];
    let bytes = take(body, usize::from(length))?;
    std::str::from_utf8(bytes).map_err(|_| HelloError::Name)
}

fn number(body: &mut &[u8]) -> Result<u64, HelloError> {
    let bytes = take(body, 8)?;
    Ok(bytes
        .iter()
        .fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello {
            cluster: ClusterName::new("test").unwrap(),
            instance: Instance {
                node: NodeId::new("n1").unwrap(),
                boot: BootId(0x0102_0304_0506_0708),
            },
            dial: 9,
            versions: VersionRange {
                oldest: 1,
                newest: 3,
            },
        }
    }

    #[test]
    fn the_bytes_are_fixed() {
        let expected =
            b"\x00\x1a\x04test\x02n1\x01\x02\x03\x04\x05\x06\x07\x08\0\0\0\0\0\0\0\x09\x01\x03";
        assert_eq!(hello().encode(), expected);
        assert_eq!(Hello::decode(&expected[2..]).unwrap(), hello());
    }

    #[test]
    fn later_fields_are_ignored_and_everything_else_is_an_error() {
        let mut bytes = hello().encode().split_off(2);
        for length in 0..bytes.len() {
            assert!(Hello::decode(&bytes[..length]).is_err(), "{length} bytes");
        }
        bytes.extend_from_slice(b"later");
        assert_eq!(Hello::decode(&bytes).unwrap(), hello());
        bytes[1] = b'T';
        assert!(matches!(Hello::decode(&bytes), Err(HelloError::Name)));
        bytes[1] = 0xff;
        assert!(matches!(Hello::decode(&bytes), Err(HelloError::Name)));
        bytes[0] = 0;
        assert!(Hello::decode(&bytes).is_err());
    }

    #[test]
    fn the_longest_names_fit() {
        let longest = "a".repeat(funk::limits::MAX_NAME_BYTES);
        let hello = Hello {
            cluster: ClusterName::new(&longest).unwrap(),
            instance: Instance {
                node: NodeId::new(&longest).unwrap(),
                boot: BootId(u64::MAX),
            },
            dial: u64::MAX,
            versions: VersionRange {
                oldest: 0,
                newest: u8::MAX,
            },
        };
        let bytes = hello.encode();
        assert!(bytes.len() <= MAX_HELLO_BYTES + 2);
        assert_eq!(Hello::decode(&bytes[2..]).unwrap(), hello);
    }
}
