//! What callers and the counter service say to each other.
//!
//! The key of a request is the counter's name; its body says what to do with it: [`GET`], [`INCREMENT`], or
//! [`increment`] with an id, which is applied once however often it is sent. Sent to a shard, [`replica`] asks for what
//! the node that owns it has of any counter.

use bytes::Bytes;
use funk::{ProposeError, ServiceError};

/// Body of a request that adds one to the counter of its key.
pub(crate) const INCREMENT: &[u8] = b"increment";
/// Body of a request that asks for the counter of its key, or, sent to a shard, whether it is answered.
pub(crate) const GET: &[u8] = b"get";

/// What the service says when it did not do what was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// Certainly not executed: ask again.
    NotExecuted,
    /// It may be executed or not.
    Ambiguous,
    /// A body that means nothing, or a key that is no text.
    BadRequest,
}

impl Refusal {
    const ALL: [(Self, &'static str); 3] = [
        (Self::NotExecuted, "not executed"),
        (Self::Ambiguous, "ambiguous"),
        (Self::BadRequest, "bad request"),
    ];

    /// Reads what [`Counter`] answered; `None`: it said something else.
    pub(crate) fn decode(error: &[u8]) -> Option<Self> {
        let found = Self::ALL.iter().find(|(_, text)| text.as_bytes() == error);
        found.map(|(refusal, _)| *refusal)
    }
}

impl From<Refusal> for ServiceError {
    fn from(refusal: Refusal) -> Self {
        let text = Refusal::ALL.iter().find(|(known, _)| *known == refusal);
        ServiceError::from(text.map_or("", |(_, text)| *text))
    }
}

/// A counter's value on the wire.
pub(crate) fn encode(value: u64) -> Bytes {
    Bytes::copy_from_slice(&value.to_be_bytes())
}

/// The value in an answer; `None`: it holds no value.
pub(crate) fn decode(body: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(body.try_into().ok()?))
}

/// Longest id of an increment.
pub(crate) const MAX_ID_BYTES: usize = 128;

/// Body of a request that adds one to the counter of its key, unless an increment of this id was applied before.
pub(crate) fn increment(id: &str) -> Bytes {
    let mut body = INCREMENT.to_vec();
    body.push(b' ');
    body.extend_from_slice(id.as_bytes());
    body.into()
}

const REPLICA: &[u8] = b"replica ";

/// Body of a request for a node's own copy of a counter, which may lag behind what was acknowledged.
pub(crate) fn replica(key: &str) -> Bytes {
    [REPLICA, key.as_bytes()].concat().into()
}

/// What a request asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Operation<'a> {
    Get,
    Replica { key: &'a str },
    Increment { id: Option<&'a str> },
}

impl<'a> Operation<'a> {
    /// Reads the body of a request.
    pub(crate) fn decode(body: &'a [u8]) -> Option<Self> {
        match body {
            GET => Some(Self::Get),
            INCREMENT => Some(Self::Increment { id: None }),
            _ => {
                if let Some(key) = body.strip_prefix(REPLICA) {
                    let key = str::from_utf8(key).ok()?;
                    return Some(Self::Replica { key });
                }
                let id = body.strip_prefix(INCREMENT)?.strip_prefix(b" ")?;
                let id = str::from_utf8(id).ok()?;
                let fits = (1..=MAX_ID_BYTES).contains(&id.len());
                fits.then_some(Self::Increment { id: Some(id) })
            }
        }
    }
}

impl From<&ProposeError> for Refusal {
    fn from(error: &ProposeError) -> Self {
        match error {
            ProposeError::Stale(_)
            | ProposeError::Lapsed
            | ProposeError::NoLeader(_)
            | ProposeError::Overloaded
            | ProposeError::TooLarge { .. } => Self::NotExecuted,
            // A node that was stopped while it waited for the entry may have had it committed.
            ProposeError::Ambiguous(_) | ProposeError::Stopped => Self::Ambiguous,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_read_back() {
        assert_eq!(Operation::decode(GET), Some(Operation::Get));
        let plain = Operation::Increment { id: None };
        assert_eq!(Operation::decode(INCREMENT), Some(plain));
        let body = increment("a-1");
        let once = Operation::Increment { id: Some("a-1") };
        assert_eq!(Operation::decode(&body), Some(once));
        let copy = Operation::Replica { key: "a b" };
        assert_eq!(Operation::decode(&replica("a b")), Some(copy));
        let long = increment(&"x".repeat(MAX_ID_BYTES + 1));
        for wrong in [
            &b""[..],
            b"increment ",
            b"incrementx",
            b"increment \xff",
            b"replica \xff",
            &long,
        ] {
            assert_eq!(Operation::decode(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn refusals_are_read_back() {
        for (refusal, _) in Refusal::ALL {
            let ServiceError(bytes) = refusal.into();
            assert_eq!(Refusal::decode(&bytes), Some(refusal));
        }
        assert_eq!(Refusal::decode(b"else"), None);
    }

    #[test]
    fn values_are_eight_bytes() {
        assert_eq!(decode(&encode(7)), Some(7));
        assert_eq!(decode(b"123"), None);
    }
}
