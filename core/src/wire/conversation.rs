//! Many requests and responses on one stream, one after the other: for peers that are asked again and again.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use super::frame::{FrameError, read_frame, write_frame};
use super::rpc::{Lost, NotSent, Rpc, RpcError};
use super::stream::StreamKind;
use crate::ids::PeerAddr;
use crate::runtime::Environment;
use crate::time::Time;
use crate::transport::Stream;

/// How long a stream is used. Bounded so that streams move to a better connection when there is one, and so that
/// those to peers that are asked no more go away.
pub const STREAM_LIFE: Duration = Duration::from_secs(5);
/// How long the answering side waits for another request: longer than [`STREAM_LIFE`], so that the asking side is the
/// one that ends a stream.
pub const NEXT_REQUEST_WITHIN: Duration = Duration::from_secs(10);
/// Streams to one peer that are kept for the next request.
const MAX_IDLE: usize = 4;

/// Asks peers over streams of one kind, which are used again after each complete exchange. Cheap to clone; clones
/// share the streams.
///
/// Only for requests that may be executed twice: a stream that was idle may turn out to be broken, then the request is
/// sent again over another one.
#[derive(Clone)]
pub struct Conversations {
    rpc: Rpc,
    environment: Environment,
    kind: StreamKind,
    idle: Arc<Mutex<BTreeMap<PeerAddr, Vec<Idle>>>>,
}

/// A stream on which nothing is under way.
struct Idle {
    stream: Stream,
    opened: Time,
}

impl fmt::Debug for Conversations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Conversations({:?})", self.kind)
    }
}

impl Conversations {
    /// No streams yet.
    pub fn new(rpc: Rpc, environment: Environment, kind: StreamKind) -> Self {
        Self {
            rpc,
            environment,
            kind,
            idle: Arc::default(),
        }
    }

    /// Sends a request and waits for the response, at most `max_response` bytes and at most `deadline`.
    ///
    /// Dropping the future abandons the call: the stream is reset, the request may have been executed.
    pub async fn call(
        &self,
        to: &PeerAddr,
        request: &[u8],
        max_response: usize,
        deadline: Duration,
    ) -> Result<Bytes, RpcError> {
        let until = self.environment.now() + deadline;
        loop {
            let now = self.environment.now();
            let reused = self.take(to, now);
            let is_reused = reused.is_some();
            let Idle { mut stream, opened } = match reused {
                Some(idle) => idle,
                None => {
                    let opened = self.rpc.open(to, self.kind, until.since(now)).await?;
                    Idle {
                        stream: opened.1,
                        opened: now,
                    }
                }
            };
            let exchange = async {
                let sent = write_frame(&mut *stream.send, request).await;
                sent.map_err(NotSent::Broken)?;
                let response = read_frame(&mut *stream.recv, max_response).await;
                Ok::<_, RpcError>(response.map_err(Lost::Broken)?)
            };
            let left = until.since(self.environment.now());
            match self.environment.timeout(left, exchange).await {
                None => return Err(Lost::Deadline.into()),
                Some(Ok(response)) => {
                    self.keep(to, Idle { stream, opened });
                    return Ok(response);
                }
                Some(Err(error)) if !is_reused => return Err(error),
                // It broke while nothing was under way.
                Some(Err(_)) => {}
            }
        }
    }

    fn take(&self, to: &PeerAddr, now: Time) -> Option<Idle> {
        let mut idle = self.idle();
        let streams = idle.get_mut(to)?;
        streams.retain(|idle| idle.is_young(now));
        streams.pop()
    }

    fn keep(&self, to: &PeerAddr, stream: Idle) {
        let now = self.environment.now();
        let mut idle = self.idle();
        idle.retain(|_, streams| {
            streams.retain(|idle| idle.is_young(now));
            !streams.is_empty()
        });
        let streams = idle.entry(to.clone()).or_default();
        if stream.is_young(now) && streams.len() < MAX_IDLE {
            streams.push(stream);
        }
    }

    fn idle(&self) -> MutexGuard<'_, BTreeMap<PeerAddr, Vec<Idle>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Idle {
    fn is_young(&self, now: Time) -> bool {
        now < self.opened + STREAM_LIFE
    }
}

/// Serves the requests of one stream until the peer ends it, or is silent for [`NEXT_REQUEST_WITHIN`]; `deadline` is for
/// each transfer. The handler's `None` ends the stream without a response.
pub async fn serve_all<H, F>(
    environment: &Environment,
    mut stream: Stream,
    max_request: usize,
    deadline: Duration,
    mut handler: H,
) -> Result<(), FrameError>
where
    H: FnMut(Bytes) -> F,
    F: Future<Output = Option<Bytes>>,
{
    loop {
        let request = read_frame(&mut *stream.recv, max_request);
        let request = match environment.timeout(NEXT_REQUEST_WITHIN, request).await {
            None | Some(Err(FrameError::Ended)) => return Ok(()),
            Some(request) => request?,
        };
        let Some(response) = handler(request).await else {
            return Ok(());
        };
        let response = write_frame(&mut *stream.send, &response);
        let written = environment.timeout(deadline, response).await;
        written.unwrap_or(Err(FrameError::TimedOut))?;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::mpsc;

    use super::super::stream::accept;
    use super::super::stream::tests::pair;
    use super::*;
    use crate::ids::{BootId, Instance, NodeId};
    use crate::transport::{
        BoxFuture, Incoming, LocalNode, Peer, PeerKind, Transport, TransportCounters,
        TransportError,
    };

    const PATIENCE: Duration = Duration::from_secs(10);

    /// Every stream is answered; each ends after so many answers.
    struct Echo {
        answers: usize,
        opened: Arc<AtomicUsize>,
    }

    impl Transport for Echo {
        fn start(&self, _: LocalNode) -> Result<mpsc::Receiver<Incoming>, TransportError> {
            Err(TransportError::Closed)
        }
        fn local_addr(&self) -> std::net::SocketAddr {
            ([127, 0, 0, 1], 1).into()
        }
        fn send_datagram(&self, _: &PeerAddr, _: Bytes) {}
        fn open_stream<'a>(
            &'a self,
            to: &'a PeerAddr,
        ) -> BoxFuture<'a, Result<(Peer, Stream), TransportError>> {
            self.opened.fetch_add(1, Ordering::SeqCst);
            let (ours, theirs) = pair(1_000);
            let mut left = self.answers;
            let environment = Environment::current();
            environment.clone().spawn(async move {
                let (_, stream) = accept(
                    &environment,
                    theirs,
                    crate::versions::VersionRange::SPOKEN,
                    PATIENCE,
                )
                .await
                .unwrap();
                let echo = |request: Bytes| {
                    let goes_on = left > 0;
                    left = left.saturating_sub(1);
                    async move { goes_on.then_some(request) }
                };
                serve_all(&environment, stream, 100, PATIENCE, echo).await
            });
            let peer = Peer {
                version: crate::versions::NEWEST,
                instance: Instance {
                    node: NodeId::new("echo").unwrap(),
                    boot: BootId(1),
                },
                kind: PeerKind::Node,
                addr: to.addr,
            };
            Box::pin(async { Ok((peer, ours)) })
        }
        fn close(&self) -> BoxFuture<'_, ()> {
            Box::pin(async {})
        }
        fn abort(&self) {}
        fn counters(&self) -> TransportCounters {
            TransportCounters::default()
        }
    }

    fn echo(answers: usize) -> (Conversations, Arc<AtomicUsize>, PeerAddr) {
        let opened = Arc::new(AtomicUsize::new(0));
        let transport = Arc::new(Echo {
            answers,
            opened: opened.clone(),
        });
        let environment = Environment::current();
        let rpc = Rpc::new(transport, environment.clone());
        let to = PeerAddr {
            node: None,
            addr: ([127, 0, 0, 1], 2).into(),
        };
        let conversations = Conversations::new(rpc, environment, StreamKind::Raft);
        (conversations, opened, to)
    }

    #[tokio::test]
    async fn one_stream_carries_one_exchange_after_the_other() {
        let (conversations, opened, to) = echo(usize::MAX);
        for text in ["a", "bb", ""] {
            let answer = conversations.call(&to, text.as_bytes(), 100, PATIENCE);
            assert_eq!(answer.await.unwrap(), text);
        }
        assert_eq!(opened.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn two_at_once_need_two_streams() {
        let (conversations, opened, to) = echo(usize::MAX);
        let calls = tokio::join!(
            conversations.call(&to, b"a", 100, PATIENCE),
            conversations.call(&to, b"b", 100, PATIENCE)
        );
        assert_eq!(
            (calls.0.unwrap(), calls.1.unwrap()),
            ("a".into(), "b".into())
        );
        assert_eq!(opened.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_stream_that_ended_while_it_was_idle_is_replaced() {
        let (conversations, opened, to) = echo(1);
        for text in ["a", "b", "c"] {
            let answer = conversations.call(&to, text.as_bytes(), 100, PATIENCE);
            assert_eq!(answer.await.unwrap(), text);
        }
        assert_eq!(opened.load(Ordering::SeqCst), 3);
        let (conversations, _, to) = echo(0);
        let never = conversations.call(&to, b"a", 100, PATIENCE).await;
        assert!(matches!(never, Err(RpcError::Lost(Lost::Broken(_)))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_grows_old() {
        // A stepped clock for the node's own.
        let environment = Environment::simulated(1, 1.0, Duration::ZERO);
        environment
            .scope(async {
                let (conversations, opened, to) = echo(usize::MAX);
                let environment = Environment::current();
                for _ in 0..4 {
                    conversations.call(&to, b"a", 100, PATIENCE).await.unwrap();
                    environment.sleep(STREAM_LIFE / 2).await;
                }
                assert_eq!(opened.load(Ordering::SeqCst), 2);
            })
            .await;
    }
}
