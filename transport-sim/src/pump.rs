//! Carries streams over a simulated TCP connection, one after another.
//!
//! Turmoil's TCP tells a reader that the writer is gone, but not whether it had finished; it resets both directions
//! when one reader goes; and when a process dies it says goodbye in its name. So each piece is framed, ends are
//! said in so many words, and a connection that ends without such words is taken for what a power cut is: silence,
//! until the peer has been silent for too long.
//!
//! A connection whose stream ended in so many words, both ways, carries the next one: a stream costs no round trips
//! and no port of its own. (A host of turmoil has some 16,000 ports to call from, and they come round again.) Whoever
//! accepted it says when that is so: what the other has said last may have been swallowed by a cut, and with it, as
//! turmoil's TCP sends nothing again, all that would follow.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{BufMut, Bytes};
use funk::runtime::Environment;
use funk::transport::Stream;
use funk::transport::pipes::Pipes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, mpsc, oneshot};
use turmoil::net::TcpStream;
use turmoil::net::tcp::OwnedWriteHalf;

use crate::frames::{Frames, HEADER_BYTES};
use crate::network::SimNetwork;

/// Bytes of a stream that travel in one piece.
const PIECE_BYTES: usize = 16 << 10;
/// After two of this without a word at the latest, a node says that it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// After this long without a word the connection is given up: turmoil's TCP does not send lost pieces again.
const IDLE_TIMEOUT: Duration = Duration::from_secs(8);

const DATA: u8 = 1;
/// The sender has said everything with these bytes.
const LAST: u8 = 2;
/// The sender was dropped in the middle.
const RESET: u8 = 3;
/// The receiver was dropped; nothing more is wanted.
const STOP: u8 = 4;
const KEEP: u8 = 5;
/// Added to another kind by the end that accepted the connection: it can carry the next stream.
const READY: u8 = 0x80;

/// Which end of a connection this is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// It opens the streams.
    Dialler,
    /// It is told of them.
    Acceptor,
}

/// One end of a connection after its introduction.
pub(crate) struct Connection {
    pub(crate) frames: Frames,
    send: OwnedWriteHalf,
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    network: SimNetwork,
    environment: Environment,
    end: End,
    /// The piece that is made up.
    piece: Vec<u8>,
}

impl Connection {
    pub(crate) fn new(
        connection: TcpStream,
        end: End,
        from: SocketAddr,
        to: SocketAddr,
        network: &SimNetwork,
        environment: &Environment,
    ) -> Self {
        let (recv, send) = connection.into_split();
        Self {
            frames: Frames::new(recv),
            send,
            from,
            to,
            network: network.clone(),
            environment: environment.clone(),
            end,
            piece: Vec::new(),
        }
    }

    /// Sends one frame in one piece.
    pub(crate) async fn send_frame(&mut self, content: &[u8]) -> io::Result<()> {
        let mut frame = Vec::with_capacity(HEADER_BYTES + content.len());
        frame.extend_from_slice(&(content.len() as u32).to_le_bytes());
        frame.extend_from_slice(content);
        self.network.note(self.from, self.to, &frame);
        self.send.write_all(&frame).await
    }

    /// Between two streams: whether the peer has not hung up.
    pub(crate) async fn is_open(&mut self) -> bool {
        at_once(self.frames.next(1 + PIECE_BYTES)).await.is_none()
    }

    /// Waits for the first frame of the next stream. `None`: it never comes.
    pub(crate) async fn first(&mut self) -> Option<Bytes> {
        loop {
            let frame = self.frames.next(1 + PIECE_BYTES);
            let frame = self.environment.timeout(IDLE_TIMEOUT, frame).await?.ok()?;
            // What was under way when the stream before ended.
            if !matches!(frame.first(), Some(&(STOP | KEEP))) {
                return Some(frame);
            }
        }
    }

    /// Carries the stream whose inner end is `inner` until both directions have ended. Gives itself back if both
    /// ends know that.
    ///
    /// `first` was received already. `farewell` is let go when our direction has ended, and said so.
    pub(crate) async fn carry(
        self,
        inner: Stream,
        pipes: Arc<Pipes>,
        first: Option<Bytes>,
        farewell: mpsc::Sender<()>,
    ) -> Option<Self> {
        let Self {
            frames,
            send,
            from,
            to,
            network,
            environment,
            end,
            piece,
        } = self;
        let (stop, stops) = mpsc::channel(1);
        let (sending, sent) = oneshot::channel();
        let stopped = Notify::new();
        let mut outgoing = Outgoing {
            connection: send,
            from,
            to,
            network,
            environment: environment.clone(),
            node: Some(inner.recv),
            piece,
            end,
            is_ready: false,
            stops,
            farewell: Some(farewell),
            sending: Some(sending),
        };
        let mut incoming = Incoming {
            frames,
            environment: environment.clone(),
            node: Some(inner.send),
            may_go_on: end == End::Acceptor,
            stop: Some(stop),
            stopped: &stopped,
            sent,
        };
        match tokio::try_join!(biased; outgoing.run(&stopped), incoming.run(first)) {
            Ok(_) => Some(Self {
                frames: incoming.frames,
                send: outgoing.connection,
                from,
                to,
                network: outgoing.network,
                environment,
                end,
                piece: outgoing.piece,
            }),
            Err(Broken::Silently) => {
                drop((outgoing, incoming));
                pipes.kill();
                environment.sleep(IDLE_TIMEOUT).await;
                pipes.replace();
                None
            }
            Err(Broken::Noticeably) => {
                pipes.sever();
                None
            }
        }
    }
}

/// How a connection can fail.
enum Broken {
    /// As if the peer had lost its power: the node is told after the idle timeout only.
    Silently,
    /// The node is told.
    Noticeably,
}

impl From<io::Error> for Broken {
    fn from(_: io::Error) -> Self {
        Self::Silently
    }
}

struct Outgoing {
    connection: OwnedWriteHalf,
    from: SocketAddr,
    to: SocketAddr,
    network: SimNetwork,
    environment: Environment,
    /// What our node writes; `None` once that has ended.
    node: Option<Box<dyn AsyncRead + Send + Unpin>>,
    piece: Vec<u8>,
    end: End,
    /// Whether we said so.
    is_ready: bool,
    /// Requests to tell the peer to stop; closed when there is nothing left to stop.
    stops: mpsc::Receiver<()>,
    farewell: Option<mpsc::Sender<()>>,
    /// Held until our direction has ended.
    sending: Option<oneshot::Sender<Infallible>>,
}

impl Outgoing {
    async fn run(&mut self, stopped: &Notify) -> Result<(), Broken> {
        let mut may_stop = true;
        // One timer for the whole stream: to set one for each piece costs more than to send it.
        let mut keep_alive = pin!(self.environment.sleep(KEEP_ALIVE));
        let mut is_silent = true;
        while self.node.is_some() || may_stop {
            let is_open = self.node.is_some();
            let gather = async {
                match &mut self.node {
                    Some(node) => gather(&mut **node, &mut self.piece).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                stop = self.stops.recv(), if may_stop => match stop {
                    Some(()) => self.say(STOP).await?,
                    None => may_stop = false,
                },
                () = stopped.notified(), if is_open => {
                    self.say(RESET).await?;
                    self.end_node();
                }
                kind = gather => {
                    is_silent = false;
                    self.send_piece(kind).await?;
                    if kind != DATA {
                        self.end_node();
                    }
                }
                () = &mut keep_alive => {
                    if std::mem::replace(&mut is_silent, true) {
                        self.say(KEEP).await?;
                    }
                    keep_alive.set(self.environment.sleep(KEEP_ALIVE));
                }
            }
        }
        if self.end == End::Acceptor && !self.is_ready {
            self.say(KEEP).await?;
        }
        Ok(())
    }

    fn end_node(&mut self) {
        self.node = None;
        self.farewell = None;
        self.sending = None;
    }

    async fn say(&mut self, kind: u8) -> io::Result<()> {
        self.piece.clear();
        self.piece.extend_from_slice(&[0; PIECE_HEADER_BYTES]);
        self.send_piece(kind).await
    }

    /// Sends the piece that was made up.
    async fn send_piece(&mut self, kind: u8) -> io::Result<()> {
        let ends = self.node.is_none() || kind == LAST || kind == RESET;
        // Nothing to stop any more: the peer's direction has ended.
        self.is_ready = self.end == End::Acceptor && ends && self.stops.is_closed();
        let len = self.piece.len() - HEADER_BYTES;
        self.piece[..HEADER_BYTES].copy_from_slice(&(len as u32).to_le_bytes());
        self.piece[HEADER_BYTES] = kind | if self.is_ready { READY } else { 0 };
        self.network.note(self.from, self.to, &self.piece);
        self.connection.write_all(&self.piece).await
    }
}

/// Before the bytes of a piece: its length and its kind.
const PIECE_HEADER_BYTES: usize = HEADER_BYTES + 1;

/// Waits until the node has written something, and makes up a piece of all that is there. Returns its kind.
///
/// If it is given up, nothing was read: nothing is awaited once something was.
async fn gather(node: &mut (dyn AsyncRead + Send + Unpin), piece: &mut Vec<u8>) -> u8 {
    piece.clear();
    piece.extend_from_slice(&[0; PIECE_HEADER_BYTES]);
    piece.reserve(PIECE_BYTES);
    let mut room = PIECE_BYTES;
    let mut read = Some(node.read_buf(&mut piece.limit(room)).await);
    loop {
        match read {
            Some(Ok(0)) => return LAST,
            Some(Ok(count)) => room -= count,
            Some(Err(_)) => return RESET,
            None => return DATA,
        }
        if room == 0 {
            return DATA;
        }
        read = at_once(node.read_buf(&mut piece.limit(room))).await;
    }
}

/// What a future comes to without waiting, if anything.
async fn at_once<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|context| {
        Poll::Ready(match future.as_mut().poll(context) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        })
    })
    .await
}

struct Incoming<'a> {
    frames: Frames,
    environment: Environment,
    /// What our node reads; `None` once that has ended or it wants no more.
    node: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// The peer has said that the connection can carry the next stream, or it is us who say that.
    may_go_on: bool,
    /// Held as long as the peer might have to be stopped.
    stop: Option<mpsc::Sender<()>>,
    stopped: &'a Notify,
    /// Breaks when our direction has ended.
    sent: oneshot::Receiver<Infallible>,
}

impl Incoming<'_> {
    /// Reads until both directions have ended: as long as ours has not, the peer may want it stopped.
    async fn run(&mut self, first: Option<Bytes>) -> Result<(), Broken> {
        if let Some(first) = first {
            self.take(&first).await?;
        }
        let mut is_sending = true;
        let mut heard_at = self.environment.now();
        let mut idle = pin!(self.environment.sleep(IDLE_TIMEOUT));
        while self.stop.is_some() || is_sending || !self.may_go_on {
            tokio::select! {
                biased;
                _ = &mut self.sent, if is_sending => is_sending = false,
                frame = self.frames.next(1 + PIECE_BYTES) => {
                    let frame = frame.map_err(|_| Broken::Silently)?;
                    self.take(&frame).await?;
                    heard_at = self.environment.now();
                }
                () = &mut idle => {
                    let gives_up_at = heard_at + IDLE_TIMEOUT;
                    if gives_up_at <= self.environment.now() {
                        return Err(Broken::Noticeably);
                    }
                    idle.set(self.environment.sleep_until(gives_up_at));
                }
            }
        }
        Ok(())
    }

    async fn take(&mut self, frame: &[u8]) -> Result<(), Broken> {
        let Some((kind, bytes)) = frame.split_first() else {
            return Err(Broken::Noticeably);
        };
        self.may_go_on |= kind & READY != 0;
        match kind & !READY {
            DATA => self.deliver(bytes).await,
            LAST => {
                self.deliver(bytes).await;
                if let Some(mut node) = self.node.take() {
                    let _ = node.shutdown().await;
                }
                self.stop = None;
            }
            RESET => {
                self.node = None;
                self.stop = None;
            }
            STOP => self.stopped.notify_one(),
            KEEP => {}
            _ => return Err(Broken::Noticeably),
        }
        Ok(())
    }

    async fn deliver(&mut self, bytes: &[u8]) {
        if let Some(node) = &mut self.node
            && node.write_all(bytes).await.is_err()
        {
            self.node = None;
            if let Some(stop) = self.stop.take() {
                let _ = stop.send(()).await;
                // Until the peer's direction has ended, it is not this stream's time.
                self.stop = Some(stop);
            }
        }
    }
}
