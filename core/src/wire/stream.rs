//! The head of a stream: what it is for, and in which version.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::runtime::Environment;
use crate::transport::Stream;
use crate::versions::VersionRange;

/// What a stream is for: its first byte. Values never change their meaning; 0 is never used.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum StreamKind {
    /// Raft: votes, entries, snapshots.
    Raft = 1,
    /// A request to the owner of a shard.
    Call = 2,
    /// A node's tags, pulled when their gossiped version differs.
    Tags = 3,
    /// A proposal of the application, handed to the leader.
    Propose = 4,
    /// A non-member that follows the shard map.
    Observe = 5,
    /// A client's request, which the node that gets it delivers to the owner.
    ClientCall = 6,
    /// What a node is at the moment; clients may ask, too.
    Status = 7,
    /// Weights of all shards, handed to the leader.
    Weights = 8,
    /// What keeps shards from a node: handed to the leader by nodes, asked for by clients.
    Cordon = 9,
}

impl StreamKind {
    /// Whether clients may open such a stream; all others are for nodes.
    pub fn is_for_clients(self) -> bool {
        matches!(self, Self::ClientCall | Self::Status | Self::Cordon)
    }

    fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Raft),
            2 => Some(Self::Call),
            3 => Some(Self::Tags),
            4 => Some(Self::Propose),
            5 => Some(Self::Observe),
            6 => Some(Self::ClientCall),
            7 => Some(Self::Status),
            8 => Some(Self::Weights),
            9 => Some(Self::Cordon),
            _ => None,
        }
    }
}

/// Why a stream that a peer opened is not taken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AcceptError {
    /// A kind that this release does not have.
    #[error("stream kind {0} is unknown")]
    UnknownKind(u8),
    /// A version of the protocol that this node does not speak.
    #[error("stream of protocol version {0}, which this node does not speak")]
    UnknownVersion(u8),
    /// The peer opened it and then sent too little.
    #[error("the stream ended within its header")]
    CutOff,
    /// The peer opened it and then sent nothing in time.
    #[error("the stream's header did not arrive in time")]
    TimedOut,
    /// The stream broke.
    #[error("the stream broke within its header: {0}")]
    Broken(io::ErrorKind),
}

/// Writes the head of a stream that was just opened, in the version that is spoken with the peer.
pub async fn begin(stream: &mut Stream, kind: StreamKind, version: u8) -> io::Result<()> {
    stream.send.write_all(&header(kind, version)).await
}

/// The head of a stream: kind, version.
pub(super) fn header(kind: StreamKind, version: u8) -> [u8; 2] {
    [kind as u8, version]
}

/// Reads the head of a stream that a peer opened in one of the versions that this node speaks, waiting at most `deadline` for it by the node's clock.
///
/// On an error the stream is dropped, which the opener sees as a reset.
pub async fn accept(
    environment: &Environment,
    mut stream: Stream,
    versions: VersionRange,
    deadline: Duration,
) -> Result<(StreamKind, Stream), AcceptError> {
    let mut head = [0; 2];
    match environment
        .timeout(deadline, stream.recv.read_exact(&mut head))
        .await
    {
        None => return Err(AcceptError::TimedOut),
        Some(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(AcceptError::CutOff);
        }
        Some(Err(error)) => return Err(AcceptError::Broken(error.kind())),
        Some(Ok(_)) => {}
    }
    let [kind, version] = head;
    if !versions.contains(version) {
        return Err(AcceptError::UnknownVersion(version));
    }
    let kind = StreamKind::from_byte(kind).ok_or(AcceptError::UnknownKind(kind))?;
    Ok((kind, stream))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The two ends of a stream that hold at most `capacity` bytes in each direction.
    pub(in crate::wire) fn pair(capacity: usize) -> (Stream, Stream) {
        let (ours, theirs) = tokio::io::duplex(capacity);
        let split = |end| {
            let (recv, send) = tokio::io::split(end);
            Stream {
                send: Box::new(send),
                recv: Box::new(recv),
            }
        };
        (split(ours), split(theirs))
    }

    const PATIENCE: Duration = Duration::from_secs(1);

    async fn accept_bytes(bytes: &[u8]) -> Result<StreamKind, AcceptError> {
        let (mut opener, acceptor) = pair(1);
        let environment = Environment::system();
        let (_, accepted) = tokio::join!(
            async {
                opener.send.write_all(bytes).await.unwrap();
                opener.send.shutdown().await.unwrap();
            },
            accept(&environment, acceptor, VersionRange::SPOKEN, PATIENCE),
        );
        accepted.map(|(kind, _)| kind)
    }

    #[tokio::test]
    async fn each_kind_is_recognised_a_byte_at_a_time() {
        let kinds = [
            StreamKind::Raft,
            StreamKind::Call,
            StreamKind::Tags,
            StreamKind::Propose,
            StreamKind::Observe,
            StreamKind::ClientCall,
            StreamKind::Status,
            StreamKind::Weights,
            StreamKind::Cordon,
        ];
        for (byte, kind) in (1..).zip(kinds) {
            assert_eq!(accept_bytes(&[byte, 1]).await, Ok(kind));
            assert_eq!(header(kind, 1), [byte, 1]);
        }
    }

    #[tokio::test]
    async fn each_wrong_head_has_its_error() {
        assert_eq!(
            accept_bytes(&[0, 1]).await,
            Err(AcceptError::UnknownKind(0))
        );
        assert_eq!(
            accept_bytes(&[10, 1]).await,
            Err(AcceptError::UnknownKind(10))
        );
        assert_eq!(
            accept_bytes(&[1, 9]).await,
            Err(AcceptError::UnknownVersion(9))
        );
        assert_eq!(accept_bytes(&[1]).await, Err(AcceptError::CutOff));
        assert_eq!(accept_bytes(&[]).await, Err(AcceptError::CutOff));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_opener_is_given_up_at_the_deadline_of_the_nodes_clock() {
        let (_opener, acceptor) = pair(8);
        let fast = Environment::simulated(1, 2.0, Duration::ZERO);
        let before = fast.monotonic();
        let accepted = accept(&fast, acceptor, VersionRange::SPOKEN, PATIENCE).await;
        assert_eq!(accepted.unwrap_err(), AcceptError::TimedOut);
        assert_eq!(fast.monotonic() - before, PATIENCE);
    }
}
