//! Why connections are refused or end, in words that say what to do, and as codes on the wire.

use funk::ids::{BootId, ClusterName, Instance};
use funk::versions::NoCommonVersion;
use quinn::{ConnectionError, VarInt};

use crate::hello::HelloError;

/// The node is stopping.
pub(crate) const GOODBYE: u32 = 1;
/// Another connection of the pair is kept.
pub(crate) const SPARE: u32 = 2;
/// A newer run of the peer has connected.
pub(crate) const REPLACED: u32 = 3;
/// The node has reached itself.
pub(crate) const MYSELF: u32 = 4;
/// The names do not fit: of the cluster, or of the node and its certificate.
pub(crate) const WRONG_NAME: u32 = 5;
/// A newer run of the node is known.
pub(crate) const STALE_RUN: u32 = 6;
/// The introduction was unreadable or late.
pub(crate) const BAD_HELLO: u32 = 7;
/// The node has too many clients.
pub(crate) const BUSY: u32 = 9;
/// The introduction took too long for the side that closes.
pub(crate) const GIVEN_UP: u32 = 10;

/// The two have no version of the protocol in common.
pub(crate) const OTHER_VERSION: u32 = 11;

/// Application error code of a stream half that was dropped before its end.
pub(crate) const ABANDONED: VarInt = VarInt::from_u32(8);

/// TLS alerts become these transport error codes (RFC 9001, 4.8).
const CRYPTO_ERRORS: std::ops::Range<u64> = 0x100..0x200;
/// Transport error code by which a busy endpoint turns a peer away (RFC 9000, 20.1).
const CONNECTION_REFUSED: u64 = 2;
/// Transport error codes for packets against the rules: of flow control, streams, frames and parameters.
const PROTOCOL_ERRORS: std::ops::RangeInclusive<u64> = 0x3..=0xa;

/// What is wrong with a peer that proved to be of our authority.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error(
        "wrong cluster: {theirs} is configured with `{their_cluster}`, {ours} with `{our_cluster}`; \
         give both the same cluster name, or remove the address from the seeds"
    )]
    Cluster {
        theirs: Instance,
        their_cluster: ClusterName,
        ours: Instance,
        our_cluster: ClusterName,
    },
    #[error("{claimed} introduced itself with the certificate of {certificate}")]
    Name {
        claimed: Instance,
        certificate: String,
    },
    #[error(
        "two nodes run under the name `{}` (runs {ours} and {theirs}); give each node a name of its own",
        ours.node
    )]
    SameName { ours: Instance, theirs: Instance },
    #[error("{theirs} is an old run: run {known} of that node is known; stop the old process")]
    StaleRun { theirs: Instance, known: BootId },
    #[error("{theirs} and {ours} (this node) do not understand each other: {none}")]
    Version {
        theirs: Instance,
        ours: Instance,
        none: NoCommonVersion,
    },
    #[error("{0}")]
    BadHello(HelloError),
    #[error("this is the node itself")]
    Myself,
    #[error("too many clients are connected to this node; use another one")]
    TooManyClients,
}

impl Refusal {
    pub(crate) fn code(&self) -> VarInt {
        VarInt::from_u32(match self {
            Self::SameName { ours, theirs } if theirs.boot < ours.boot => STALE_RUN,
            Self::Cluster { .. } | Self::Name { .. } | Self::SameName { .. } => WRONG_NAME,
            Self::StaleRun { .. } => STALE_RUN,
            Self::Version { .. } => OTHER_VERSION,
            Self::BadHello(_) => BAD_HELLO,
            Self::Myself => MYSELF,
            Self::TooManyClients => BUSY,
        })
    }
}

/// How an attempt to connect failed.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    /// The peer is not the one, or refused us: counted and logged.
    Refused(String),
    /// As `Refused`, because a newer run of this node was seen.
    Superseded { reason: String, by: Option<BootId> },
    /// As `Refused`, and the peer sent nonsense.
    Malformed(String),
    /// Nobody answers, or the connection broke.
    Unreachable(String),
    /// The node has reached itself: of no interest.
    Myself,
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::BadHello(HelloError::Lost(error)) => Self::from(&error),
            Refusal::BadHello(_) => Self::Malformed(refusal.to_string()),
            Refusal::Myself => Self::Myself,
            Refusal::SameName {
                ref ours,
                ref theirs,
            } if theirs.boot > ours.boot => Self::Superseded {
                by: Some(theirs.boot),
                reason: refusal.to_string(),
            },
            other => Self::Refused(other.to_string()),
        }
    }
}

impl From<&ConnectionError> for Failure {
    fn from(error: &ConnectionError) -> Self {
        match error {
            ConnectionError::VersionMismatch => {
                Self::Refused("the peer speaks another version of QUIC".to_owned())
            }
            ConnectionError::TransportError(error) => {
                let code = u64::from(error.code);
                if CRYPTO_ERRORS.contains(&code) {
                    Self::Refused(tls_reason(code, &error.reason))
                } else if PROTOCOL_ERRORS.contains(&code) {
                    Self::Malformed(format!("the peer does not speak QUIC properly: {error}"))
                } else {
                    Self::Unreachable(error.to_string())
                }
            }
            ConnectionError::ConnectionClosed(close) => {
                let code = u64::from(close.error_code);
                let reason = String::from_utf8_lossy(&close.reason);
                if CRYPTO_ERRORS.contains(&code) {
                    Self::Refused(format!(
                        "the peer refused us: {}",
                        tls_reason(code, &reason)
                    ))
                } else if code == CONNECTION_REFUSED {
                    Self::Unreachable("the peer has too many connections".to_owned())
                } else {
                    Self::Unreachable(format!("the peer gave up: {close}"))
                }
            }
            ConnectionError::ApplicationClosed(close) => {
                let reason = String::from_utf8_lossy(&close.reason);
                match u32::try_from(close.error_code.into_inner()) {
                    Ok(WRONG_NAME | BAD_HELLO | OTHER_VERSION) => {
                        Self::Refused(format!("the peer refused us: {reason}"))
                    }
                    Ok(STALE_RUN | REPLACED) => Self::Superseded {
                        reason: format!("the peer refused us: {reason}"),
                        by: None,
                    },
                    Ok(MYSELF) => Self::Myself,
                    Ok(GOODBYE) => Self::Unreachable("the peer is stopping".to_owned()),
                    _ => Self::Unreachable(format!("the peer closed the connection: {reason}")),
                }
            }
            ConnectionError::Reset => {
                Self::Unreachable("the peer was restarted meanwhile".to_owned())
            }
            ConnectionError::TimedOut => Self::Unreachable("the peer does not answer".to_owned()),
            ConnectionError::LocallyClosed => {
                Self::Unreachable("the connection was closed".to_owned())
            }
            ConnectionError::CidsExhausted => {
                Self::Unreachable("there are too many connections".to_owned())
            }
        }
    }
}

/// The close frames that say that the peer went away of its own will; others belong to the making of connections.
pub(crate) fn is_peers_close(error: &ConnectionError) -> bool {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            ![SPARE, BUSY, GIVEN_UP].contains(&(close.error_code.into_inner() as u32))
                && matches!(Failure::from(error), Failure::Unreachable(_))
        }
        ConnectionError::ConnectionClosed(_) => {
            matches!(Failure::from(error), Failure::Unreachable(_))
        }
        _ => false,
    }
}

/// Transport error code of a TLS alert, for people.
fn tls_reason(code: u64, reason: &str) -> String {
    // rustls wraps the reasons of our own verifiers.
    let reason = reason
        .strip_prefix("invalid peer certificate: ")
        .unwrap_or(reason);
    let reason = reason
        .strip_prefix("Other(OtherError(")
        .and_then(|inner| inner.strip_suffix("))"))
        .unwrap_or(reason);
    match code - CRYPTO_ERRORS.start {
        45 => "the certificate has expired or is not valid yet; renew it, and compare the clocks"
            .to_owned(),
        48 | 51 => format!(
            "the certificate was issued by another authority ({reason}); \
             issue certificates for all nodes with the authority of the cluster"
        ),
        116 => "no certificate was shown; issue one with the authority of the cluster".to_owned(),
        120 => format!(
            "no version of the protocol in common (this node speaks `{}`); \
             run releases that overlap on all nodes",
            String::from_utf8_lossy(crate::tls::PROTOCOL)
        ),
        _ => reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use quinn::ApplicationClose;

    use super::*;

    fn closed(code: u32) -> ConnectionError {
        ConnectionError::ApplicationClosed(ApplicationClose {
            error_code: VarInt::from_u32(code),
            reason: Vec::new().into(),
        })
    }

    #[test]
    fn every_code_means_one_thing() {
        let codes = [
            GOODBYE,
            SPARE,
            REPLACED,
            MYSELF,
            WRONG_NAME,
            STALE_RUN,
            BAD_HELLO,
            BUSY,
            GIVEN_UP,
            OTHER_VERSION,
        ];
        let numbers: BTreeSet<u64> = codes.into_iter().map(u64::from).collect();
        assert_eq!(numbers.len(), codes.len());
        // Quinn closes with 0 when a connection is dropped.
        assert!(!numbers.contains(&0) && !numbers.contains(&ABANDONED.into_inner()));
    }

    #[test]
    fn only_a_farewell_counts_as_one() {
        assert!(is_peers_close(&closed(GOODBYE)));
        assert!(is_peers_close(&closed(0)), "the process dropped it");
        for code in [
            SPARE,
            BUSY,
            GIVEN_UP,
            WRONG_NAME,
            STALE_RUN,
            REPLACED,
            MYSELF,
            OTHER_VERSION,
        ] {
            assert!(!is_peers_close(&closed(code)), "{code}");
        }
        assert!(!is_peers_close(&ConnectionError::TimedOut));
    }
}
