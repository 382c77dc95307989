//! One request, one response, on a stream of its own.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;

use super::frame::{FrameError, read_frame, write_frame, write_frame_after};
use super::stream::{self, StreamKind};
use crate::ids::PeerAddr;
use crate::limits::MAX_FRAME_BYTES;
use crate::runtime::Environment;
use crate::transport::{Peer, Stream, Transport, TransportError};

/// Why a call brought no response. The two sides of it are what callers act on: may it have been executed?
#[derive(Clone, Debug, thiserror::Error)]
pub enum RpcError {
    /// Certainly not executed: the request never left completely. It may be sent again, anywhere.
    #[error("the request was not sent: {0}")]
    NotSent(#[from] NotSent),
    /// May or may not have been executed.
    #[error("the request was sent, but no response came: {0}")]
    Lost(#[from] Lost),
}

/// Why a request certainly was not executed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NotSent {
    /// No stream to the peer could be had.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// Larger than [`MAX_FRAME_BYTES`].
    #[error("a request of {0} bytes; at most {max} are allowed", max = MAX_FRAME_BYTES)]
    TooLarge(usize),
    /// The stream broke before the transport had taken the last byte.
    #[error("while it was being sent, {0}")]
    Broken(FrameError),
    /// The deadline passed before the transport had taken the last byte.
    #[error("the deadline passed")]
    Deadline,
}

/// Why it is not known what became of a request.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Lost {
    /// The stream broke, or ended without a response, or the response was no good.
    #[error("{0}")]
    Broken(FrameError),
    /// The deadline passed.
    #[error("the deadline passed")]
    Deadline,
}

/// Makes calls. Cheap to clone.
#[derive(Clone)]
pub struct Rpc {
    transport: Arc<dyn Transport>,
    environment: Environment,
}

impl fmt::Debug for Rpc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rpc")
    }
}

impl Rpc {
    /// Calls over `transport`, with deadlines by the clock of `environment`.
    pub fn new(transport: Arc<dyn Transport>, environment: Environment) -> Self {
        Self {
            transport,
            environment,
        }
    }

    /// Sends a request of at most [`MAX_FRAME_BYTES`] and waits for the response, at most `max_response` bytes and
    /// at most `deadline` by this node's clock. Also says who answered.
    ///
    /// Dropping the future abandons the call: the stream is reset, the request may have been executed.
    pub async fn call(
        &self,
        to: &PeerAddr,
        kind: StreamKind,
        request: Bytes,
        max_response: usize,
        deadline: Duration,
    ) -> Result<(Peer, Bytes), RpcError> {
        if request.len() > MAX_FRAME_BYTES {
            return Err(NotSent::TooLarge(request.len()).into());
        }
        let mut is_sent = false;
        let exchange = async {
            let (peer, mut stream) = self
                .transport
                .open_stream(to)
                .await
                .map_err(NotSent::Transport)?;
            write_frame_after(
                &mut *stream.send,
                &stream::header(kind, peer.version),
                &request,
            )
            .await
            .map_err(NotSent::Broken)?;
            is_sent = true;
            // A peer that has answered already may refuse our end of the stream; its answer counts all the same.
            let _ = stream.send.shutdown().await;
            let response = read_frame(&mut *stream.recv, max_response)
                .await
                .map_err(Lost::Broken)?;
            Ok((peer, response))
        };
        match self.environment.timeout(deadline, exchange).await {
            Some(result) => result,
            None if is_sent => Err(Lost::Deadline.into()),
            None => Err(NotSent::Deadline.into()),
        }
    }

    /// Opens a stream for more than one exchange and writes its head. The caller frames what follows.
    pub async fn open(
        &self,
        to: &PeerAddr,
        kind: StreamKind,
        deadline: Duration,
    ) -> Result<(Peer, Stream), NotSent> {
        let open = async {
            let (peer, mut stream) = self.transport.open_stream(to).await?;
            stream::begin(&mut stream, kind, peer.version)
                .await
                .map_err(|error| NotSent::Broken(error.into()))?;
            Ok((peer, stream))
        };
        let opened = self.environment.timeout(deadline, open).await;
        opened.unwrap_or(Err(NotSent::Deadline))
    }
}

/// Reads the request of a stream that was [accepted](super::accept), at most `max_request` bytes and `deadline`.
pub async fn read_request(
    environment: &Environment,
    stream: &mut Stream,
    max_request: usize,
    deadline: Duration,
) -> Result<Bytes, FrameError> {
    environment
        .timeout(deadline, read_frame(&mut *stream.recv, max_request))
        .await
        .unwrap_or(Err(FrameError::TimedOut))
}

/// Sends the response and ends the stream, within `deadline`: a caller that does not read holds nobody up for longer.
pub async fn respond(
    environment: &Environment,
    mut stream: Stream,
    response: &[u8],
    deadline: Duration,
) -> Result<(), FrameError> {
    let send = async {
        write_frame(&mut *stream.send, response).await?;
        Ok(stream.send.shutdown().await?)
    };
    environment
        .timeout(deadline, send)
        .await
        .unwrap_or(Err(FrameError::TimedOut))
}

/// Serves one call: [`read_request`], the handler (as long as it likes), [`respond`].
pub async fn serve<H, F>(
    environment: &Environment,
    mut stream: Stream,
    max_request: usize,
    deadline: Duration,
    handler: H,
) -> Result<(), FrameError>
where
    H: FnOnce(Bytes) -> F,
    F: Future<Output = Bytes>,
{
    let request = read_request(environment, &mut stream, max_request, deadline).await?;
    let response = handler(request).await;
    respond(environment, stream, &response, deadline).await
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::Mutex;

    use tokio::io::AsyncReadExt;
    use tokio::sync::mpsc;

    use super::super::stream::accept;
    use super::super::stream::tests::pair;
    use super::*;
    use crate::ids::{BootId, Instance, NodeId};
    use crate::transport::{BoxFuture, Incoming, LocalNode, TransportCounters};

    const PATIENCE: Duration = Duration::from_secs(10);

    /// Hands out one prepared stream; after that nobody is there.
    struct OneStream(Mutex<Option<Stream>>);

    impl OneStream {
        fn peer() -> PeerAddr {
            PeerAddr {
                node: None,
                addr: ([127, 0, 0, 1], 1).into(),
            }
        }
    }

    impl Transport for OneStream {
        fn start(&self, _: LocalNode) -> Result<mpsc::Receiver<Incoming>, TransportError> {
            Err(TransportError::Closed)
        }
        fn local_addr(&self) -> std::net::SocketAddr {
            Self::peer().addr
        }
        fn send_datagram(&self, _: &PeerAddr, _: Bytes) {}
        fn open_stream<'a>(
            &'a self,
            to: &'a PeerAddr,
        ) -> BoxFuture<'a, Result<(Peer, Stream), TransportError>> {
            let stream = self.0.lock().unwrap().take();
            Box::pin(async {
                let stream = stream.ok_or_else(|| TransportError::Unreachable {
                    addr: to.addr,
                    reason: "nobody there".into(),
                })?;
                let instance = Instance {
                    node: NodeId::new("callee").unwrap(),
                    boot: BootId(1),
                };
                let addr = to.addr;
                let kind = crate::transport::PeerKind::Node;
                let peer = Peer {
                    version: crate::versions::NEWEST,
                    instance,
                    kind,
                    addr,
                };
                Ok((peer, stream))
            })
        }
        fn close(&self) -> BoxFuture<'_, ()> {
            Box::pin(async {})
        }
        fn abort(&self) {}
        fn counters(&self) -> TransportCounters {
            TransportCounters::default()
        }
    }

    fn caller(capacity: usize) -> (Rpc, Stream) {
        let (ours, theirs) = pair(capacity);
        let transport = Arc::new(OneStream(Mutex::new(Some(ours))));
        (Rpc::new(transport, Environment::system()), theirs)
    }

    async fn call(rpc: &Rpc, request: &[u8]) -> Result<Bytes, RpcError> {
        let request = Bytes::copy_from_slice(request);
        let peer = OneStream::peer();
        let called = rpc.call(&peer, StreamKind::Call, request, 100, PATIENCE);
        called.await.map(|(_, response)| response)
    }

    #[tokio::test]
    async fn a_call_is_answered_a_byte_at_a_time() {
        let (rpc, theirs) = caller(1);
        let environment = Environment::system();
        let server = async {
            let (kind, stream) = accept(
                &environment,
                theirs,
                crate::versions::VersionRange::SPOKEN,
                PATIENCE,
            )
            .await
            .unwrap();
            assert_eq!(kind, StreamKind::Call);
            let upper = |request: Bytes| async move { Bytes::from(request.to_ascii_uppercase()) };
            serve(&environment, stream, 100, PATIENCE, upper).await
        };
        let (response, served) = tokio::join!(call(&rpc, b"hello"), server);
        assert_eq!(response.unwrap(), "HELLO");
        served.unwrap();
    }

    #[tokio::test]
    async fn the_bytes_stand_still() {
        let (rpc, mut theirs) = caller(100);
        let server = async {
            let mut request = Vec::new();
            theirs.recv.read_to_end(&mut request).await.unwrap();
            assert_eq!(request, b"\x02\x01\x02\0\0\0hi");
            theirs.send.write_all(b"\x01\0\0\0!").await.unwrap();
        };
        let (response, ()) = tokio::join!(call(&rpc, b"hi"), server);
        assert_eq!(response.unwrap(), "!");
    }

    #[tokio::test]
    async fn nobody_there_is_not_sent() {
        let (rpc, _) = caller(1);
        let _stream = rpc.transport.open_stream(&OneStream::peer()).await;
        let error = call(&rpc, b"").await.unwrap_err();
        assert!(matches!(
            error,
            RpcError::NotSent(NotSent::Transport(TransportError::Unreachable { .. }))
        ));
    }

    #[tokio::test]
    async fn too_large_a_request_is_not_sent() {
        let (rpc, _theirs) = caller(1);
        let error = call(&rpc, &vec![0; MAX_FRAME_BYTES + 1]).await.unwrap_err();
        assert!(matches!(error, RpcError::NotSent(NotSent::TooLarge(_))));
    }

    #[tokio::test]
    async fn a_stream_that_breaks_while_the_request_leaves_is_not_sent() {
        let (rpc, mut theirs) = caller(4);
        let server = async move {
            let mut some = [0; 3];
            theirs.recv.read_exact(&mut some).await.unwrap();
            drop(theirs);
        };
        let (result, ()) = tokio::join!(call(&rpc, b"a longer request"), server);
        assert!(matches!(
            result.unwrap_err(),
            RpcError::NotSent(NotSent::Broken(_))
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_tells_whether_the_request_had_left() {
        let (rpc, _theirs) = caller(4);
        let stuck = call(&rpc, b"a longer request").await.unwrap_err();
        assert!(matches!(stuck, RpcError::NotSent(NotSent::Deadline)));
        let (rpc, _theirs) = caller(100);
        let unanswered = call(&rpc, b"a longer request").await.unwrap_err();
        assert!(matches!(unanswered, RpcError::Lost(Lost::Deadline)));
    }

    #[tokio::test]
    async fn whatever_goes_wrong_after_sending_is_lost() {
        let too_large = FrameError::TooLarge { len: 101, max: 100 };
        for (answer, expected) in [
            (&b""[..], FrameError::Ended),
            (b"\x02\0\0\0x", FrameError::CutOff),
            (b"\x65\0\0\0", too_large),
        ] {
            let (rpc, mut theirs) = caller(100);
            let server = async {
                let (_, stream) = accept(
                    &Environment::system(),
                    theirs,
                    crate::versions::VersionRange::SPOKEN,
                    PATIENCE,
                )
                .await
                .unwrap();
                theirs = stream;
                theirs.send.write_all(answer).await.unwrap();
                theirs.send.shutdown().await.unwrap();
                pending::<()>().await;
            };
            let result = tokio::select! {
                biased;
                result = call(&rpc, b"x") => result,
                () = server => unreachable!(),
            };
            let Err(RpcError::Lost(Lost::Broken(error))) = result else {
                panic!("{result:?}");
            };
            assert_eq!(error, expected);
        }
    }

    #[tokio::test]
    async fn a_dropped_call_lets_go_of_its_stream() {
        let (rpc, mut theirs) = caller(100);
        tokio::select! {
            biased;
            _ = call(&rpc, b"x") => panic!("nobody answers"),
            _ = theirs.recv.read_u64() => {}
        }
        theirs.send.write_all(b"late").await.unwrap_err();
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_waits_neither_for_a_request_nor_for_a_reader_for_ever() {
        let environment = Environment::system();
        let (_caller, stream) = pair(4);
        let echo = |request: Bytes| async move { request };
        let silent = serve(&environment, stream, 100, PATIENCE, echo).await;
        assert_eq!(silent, Err(FrameError::TimedOut));
        let (mut caller, stream) = pair(4);
        let served = serve(&environment, stream, 100, PATIENCE, echo);
        let request = write_frame(&mut *caller.send, b"a longer request");
        let (served, _) = tokio::join!(served, request);
        assert_eq!(served, Err(FrameError::TimedOut));
    }
}
