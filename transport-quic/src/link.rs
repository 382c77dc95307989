//! One connection to a peer that has introduced itself, and its streams.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use funk::transport::{Peer, Stream};
use quinn::{ConnectionError, RecvStream, SendDatagramError, SendStream, VarInt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::connections::{Connection, Origin};
use crate::refusal::ABANDONED;

/// A connection to a peer.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) peer: Peer,
    pub(crate) origin: Origin,
    pub(crate) quic: quinn::Connection,
    /// Halves of streams that are in use here.
    halves: AtomicUsize,
    /// Datagrams that are being sent as streams.
    messages: AtomicUsize,
}

/// Datagrams of one connection that may be on their way as streams: the peer accepts so many at a time.
const MAX_MESSAGES: usize = crate::config::MAX_MESSAGE_STREAMS as usize;

/// What became of a datagram.
pub(crate) enum Sent {
    Yes,
    /// There is no room for it: dropped.
    Full,
    /// It does not fit into a packet on this path.
    TooLarge,
    /// The connection is gone.
    Lost,
}

impl Link {
    pub(crate) fn new(peer: Peer, origin: Origin, quic: quinn::Connection) -> Self {
        Self {
            peer,
            origin,
            quic,
            halves: AtomicUsize::new(0),
            messages: AtomicUsize::new(0),
        }
    }

    /// Opens a stream; waits while the peer allows no further ones.
    pub(crate) async fn open_stream(self: &Arc<Self>) -> Result<Stream, ConnectionError> {
        let (send, recv) = self.quic.open_bi().await?;
        Ok(self.stream(send, recv))
    }

    pub(crate) fn stream(self: &Arc<Self>, send: SendStream, recv: RecvStream) -> Stream {
        Stream {
            send: Box::new(SendHalf {
                stream: send,
                ended: false,
                _use: Use::of(self),
            }),
            recv: Box::new(RecvHalf {
                stream: recv,
                _use: Use::of(self),
            }),
        }
    }

    /// Sends a datagram in a packet of its own, unless it is lost.
    pub(crate) fn send_datagram(&self, payload: &Bytes) -> Sent {
        if payload.is_empty() {
            // An empty one is a probe; see `probe`.
            return Sent::TooLarge;
        }
        // Quinn would make room by dropping older ones without telling.
        if self.quic.datagram_send_buffer_space() < payload.len() {
            return match self.quic.max_datagram_size() {
                None => Sent::TooLarge,
                Some(_) => Sent::Full,
            };
        }
        match self.quic.send_datagram(payload.clone()) {
            Ok(()) => Sent::Yes,
            Err(SendDatagramError::ConnectionLost(_)) => Sent::Lost,
            Err(
                SendDatagramError::TooLarge
                | SendDatagramError::UnsupportedByPeer
                | SendDatagramError::Disabled,
            ) => Sent::TooLarge,
        }
    }

    /// Whether there is room for one more datagram among those that travel as streams. If so, it is taken:
    /// [`send_as_stream`](Link::send_as_stream) must follow.
    pub(crate) fn may_send_as_stream(&self) -> bool {
        let more = |sending| (sending < MAX_MESSAGES).then_some(sending + 1);
        self.messages
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .is_ok()
    }

    /// Sends a datagram as a stream of its own.
    pub(crate) async fn send_as_stream(&self, payload: Bytes) -> io::Result<()> {
        let sent = self.try_send_as_stream(payload).await;
        self.messages.fetch_sub(1, Ordering::Relaxed);
        sent
    }

    async fn try_send_as_stream(&self, payload: Bytes) -> io::Result<()> {
        let mut stream = self.quic.open_uni().await?;
        stream.write_chunk(payload).await?;
        stream.finish().map_err(io::Error::from)
    }

    /// Makes the peer answer: keeps the connection alive if it is, and shows it dead if the peer has forgotten it.
    pub(crate) fn probe(&self) {
        // Whether it can be sent is of no interest: then there is other traffic, or the connection is gone.
        let _ = self.quic.send_datagram(Bytes::new());
    }

    /// Whether streams are in use here.
    pub(crate) fn in_use(&self) -> bool {
        self.halves.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn close(&self, code: u32, reason: &str) {
        self.quic.close(VarInt::from_u32(code), reason.as_bytes());
    }
}

impl Connection for Link {
    fn peer(&self) -> &Peer {
        &self.peer
    }

    fn origin(&self) -> Origin {
        self.origin
    }

    fn is_open(&self) -> bool {
        self.quic.close_reason().is_none()
    }
}

/// Counts a half for as long as it exists.
struct Use(Arc<Link>);

impl Use {
    fn of(link: &Arc<Link>) -> Self {
        link.halves.fetch_add(1, Ordering::Relaxed);
        Self(link.clone())
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        self.0.halves.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Bytes to the peer. Quinn ends a dropped stream as if all had been said; ours is reset instead.
struct SendHalf {
    stream: SendStream,
    ended: bool,
    _use: Use,
}

impl AsyncWrite for SendHalf {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream)
            .poll_write(cx, buf)
            .map_err(io::Error::from)
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        self.ended = true;
        Poll::Ready(self.stream.finish().map_err(io::Error::from))
    }
}

impl Drop for SendHalf {
    fn drop(&mut self) {
        if !self.ended {
            // Fails when the peer has stopped the stream: then there is nothing to reset.
            let _ = self.stream.reset(ABANDONED);
        }
    }
}

/// Bytes from the peer. Dropping quinn's half before its end asks the peer to stop.
struct RecvHalf {
    stream: RecvStream,
    _use: Use,
}

impl AsyncRead for RecvHalf {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        AsyncRead::poll_read(Pin::new(&mut self.stream), cx, buf)
    }
}
