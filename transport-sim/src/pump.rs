//! Carries one stream over one simulated TCP connection.
//!
//! Turmoil's TCP tells a reader that the writer is gone, but not whether it had finished; it resets both directions
//! when one reader goes; and when a process dies it says goodbye in its name. So each piece is framed, ends are
//! said in so many words, and a connection that ends without such words is taken for what a power cut is: silence,
//! until the peer has been silent for too long.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use funk::runtime::Environment;
use funk::transport::Stream;
use funk::transport::pipes::Pipes;
use funk::wire::{FrameError, read_frame};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};
use turmoil::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::network::SimNetwork;

/// Bytes of a stream that travel in one piece.
const PIECE_BYTES: usize = 16 << 10;
/// After this long without a word, a node says that it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// After this long without a word the connection is given up: turmoil's TCP does not send lost pieces again.
const IDLE_TIMEOUT: Duration = Duration::from_secs(8);

const DATA: u8 = 1;
/// The sender has said everything.
const FINISHED: u8 = 2;
/// The sender was dropped in the middle.
const RESET: u8 = 3;
/// The receiver was dropped; nothing more is wanted.
const STOP: u8 = 4;
const KEEP: u8 = 5;

/// One end of a connection after its introduction.
pub(crate) struct Connection {
    pub(crate) send: OwnedWriteHalf,
    pub(crate) recv: OwnedReadHalf,
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) network: SimNetwork,
    pub(crate) environment: Environment,
}

impl Connection {
    /// Sends one frame in one piece.
    pub(crate) async fn send_frame(&mut self, content: &[u8]) -> io::Result<()> {
        let mut frame = Vec::with_capacity(4 + content.len());
        frame.extend_from_slice(&(content.len() as u32).to_le_bytes());
        frame.extend_from_slice(content);
        self.network.note(self.from, self.to, &frame);
        self.send.write_all(&frame).await
    }

    /// Waits for the first frame of a stream. `None`: it never comes.
    pub(crate) async fn first(&mut self) -> Option<Bytes> {
        let frame = read_frame(&mut self.recv, 1 + PIECE_BYTES);
        self.environment.timeout(IDLE_TIMEOUT, frame).await?.ok()
    }
}

/// Carries the stream whose inner end is `inner` until both directions have ended.
///
/// `first` was received already. `farewell` is let go when our direction has ended, and said so.
pub(crate) async fn pump(
    connection: Connection,
    inner: Stream,
    pipes: Arc<Pipes>,
    first: Option<Bytes>,
    farewell: mpsc::Sender<()>,
) {
    let Connection {
        send,
        recv,
        from,
        to,
        network,
        environment,
    } = connection;
    let (stop, stops) = mpsc::channel(1);
    let stopped = Arc::new(Notify::new());
    let mut outgoing = Outgoing {
        connection: send,
        from,
        to,
        network,
        environment: environment.clone(),
        node: Some(inner.recv),
        stops,
        farewell: Some(farewell),
    };
    let mut incoming = Incoming {
        connection: recv,
        environment: environment.clone(),
        node: Some(inner.send),
        stop: Some(stop),
        stopped: stopped.clone(),
    };
    match tokio::try_join!(biased; outgoing.run(&stopped), incoming.run(first)) {
        Ok(_) => {}
        Err(Broken::Silently) => {
            drop((outgoing, incoming));
            pipes.kill();
            environment.sleep(IDLE_TIMEOUT).await;
            pipes.replace();
        }
        Err(Broken::Noticeably) => pipes.sever(),
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
    /// Requests to tell the peer to stop; closed when there is nothing left to stop.
    stops: mpsc::Receiver<()>,
    farewell: Option<mpsc::Sender<()>>,
}

impl Outgoing {
    async fn run(&mut self, stopped: &Notify) -> Result<(), Broken> {
        let mut buffer = vec![0; PIECE_BYTES];
        let mut may_stop = true;
        while self.node.is_some() || may_stop {
            let is_open = self.node.is_some();
            let keep_alive = self.environment.sleep(KEEP_ALIVE);
            let read = async {
                match &mut self.node {
                    Some(node) => node.read(&mut buffer).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                stop = self.stops.recv(), if may_stop => match stop {
                    Some(()) => self.say(STOP, &[]).await?,
                    None => may_stop = false,
                },
                () = stopped.notified(), if is_open => self.end_node(),
                read = read => match read {
                    Ok(0) => {
                        self.say(FINISHED, &[]).await?;
                        self.end_node();
                    }
                    Ok(len) => self.say(DATA, &buffer[..len]).await?,
                    Err(_) => {
                        self.say(RESET, &[]).await?;
                        self.end_node();
                    }
                },
                () = keep_alive => self.say(KEEP, &[]).await?,
            }
        }
        Ok(self.connection.shutdown().await?)
    }

    fn end_node(&mut self) {
        self.node = None;
        self.farewell = None;
    }

    async fn say(&mut self, kind: u8, bytes: &[u8]) -> io::Result<()> {
        let mut frame = Vec::with_capacity(5 + bytes.len());
        frame.extend_from_slice(&(1 + bytes.len() as u32).to_le_bytes());
        frame.push(kind);
        frame.extend_from_slice(bytes);
        self.network.note(self.from, self.to, &frame);
        self.connection.write_all(&frame).await
    }
}

struct Incoming {
    connection: OwnedReadHalf,
    environment: Environment,
    /// What our node reads; `None` once that has ended or it wants no more.
    node: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// Held as long as the peer might have to be stopped.
    stop: Option<mpsc::Sender<()>>,
    stopped: Arc<Notify>,
}

impl Incoming {
    async fn run(&mut self, first: Option<Bytes>) -> Result<(), Broken> {
        if let Some(first) = first {
            self.take(&first).await?;
        }
        // Read to the very end, whatever is still wanted: turmoil resets a connection that is dropped unread.
        loop {
            let frame = read_frame(&mut self.connection, 1 + PIECE_BYTES);
            match self.environment.timeout(IDLE_TIMEOUT, frame).await {
                None => return Err(Broken::Noticeably),
                Some(Ok(frame)) => self.take(&frame).await?,
                Some(Err(FrameError::Ended)) if self.stop.is_none() => return Ok(()),
                Some(Err(_)) => return Err(Broken::Silently),
            }
        }
    }

    async fn take(&mut self, frame: &[u8]) -> Result<(), Broken> {
        match frame.split_first() {
            Some((&DATA, bytes)) => {
                if let Some(node) = &mut self.node
                    && node.write_all(bytes).await.is_err()
                {
                    self.node = None;
                    if let Some(stop) = self.stop.take() {
                        let _ = stop.send(()).await;
                    }
                }
            }
            Some((&FINISHED, _)) => {
                if let Some(mut node) = self.node.take() {
                    let _ = node.shutdown().await;
                }
                self.stop = None;
            }
            Some((&RESET, _)) => {
                self.node = None;
                self.stop = None;
            }
            Some((&STOP, _)) => self.stopped.notify_one(),
            Some((&KEEP, _)) => {}
            _ => return Err(Broken::Noticeably),
        }
        Ok(())
    }
}
