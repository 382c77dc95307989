//! A stream within the process: two pipes that can be frozen by a cut, killed by a crash and severed by a close.
//!
//! The in-memory network is made of them. A transport whose carrier knows no resets (the simulated TCP) puts a pair
//! between the node and the carrier.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Stream;

/// Bytes on their way in one direction; past it the writer waits.
const WINDOW: usize = 64 << 10;

/// Both directions of a stream.
#[derive(Debug)]
pub struct Pipes(Mutex<State>);

#[derive(Default, Debug)]
struct State {
    pipes: [Pipe; 2],
    /// A cut lies between the ends: nothing that happens at one is seen at the other.
    is_frozen: bool,
    /// One end lost its power: frozen for good.
    is_dead: bool,
    /// The connection is gone, and both ends know it once they are not frozen.
    is_severed: bool,
}

#[derive(Default, Debug)]
struct Pipe {
    buffer: VecDeque<u8>,
    is_finished: bool,
    is_reset: bool,
    is_unread: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

struct SendHalf {
    pipes: Arc<Pipes>,
    pipe: usize,
}

struct RecvHalf {
    pipes: Arc<Pipes>,
    pipe: usize,
}

/// The pipes of a new stream, and its two ends. The pipes live on in the ends.
pub fn new() -> (Arc<Pipes>, Stream, Stream) {
    let pipes = Arc::new(Pipes(Mutex::default()));
    let end = |to_peer: usize| Stream {
        send: Box::new(SendHalf {
            pipes: pipes.clone(),
            pipe: to_peer,
        }),
        recv: Box::new(RecvHalf {
            pipes: pipes.clone(),
            pipe: 1 - to_peer,
        }),
    };
    let (ours, theirs) = (end(0), end(1));
    (pipes, ours, theirs)
}

impl Pipes {
    /// Stands still while `is_cut`, then goes on.
    pub fn freeze(&self, is_cut: bool) {
        let mut state = self.lock();
        state.is_frozen = is_cut;
        state.wake_all();
    }

    /// Stands still for good: the peer hears nothing more, not even an end. What broke before stays broken.
    pub fn kill(&self) {
        let mut state = self.lock();
        state.is_dead = !state.is_severed;
    }

    /// Breaks as [`sever`](Self::sever) does, also if the stream stood still: it became known that the peer is gone.
    pub fn replace(&self) {
        let mut state = self.lock();
        (state.is_frozen, state.is_dead) = (false, false);
        state.is_severed = true;
        state.wake_all();
    }

    /// Breaks, visibly to both ends once it does not stand still.
    pub fn sever(&self) {
        let mut state = self.lock();
        state.is_severed = true;
        state.wake_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_still(&self) -> bool {
        self.is_frozen || self.is_dead
    }

    fn wake_all(&mut self) {
        for pipe in &mut self.pipes {
            pipe.wake_reader();
            pipe.wake_writer();
        }
    }

    fn check(&self) -> io::Result<()> {
        if self.is_severed && !self.is_still() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }
}

impl Pipe {
    fn wake_reader(&mut self) {
        if let Some(waker) = self.reader.take() {
            waker.wake();
        }
    }

    fn wake_writer(&mut self) {
        if let Some(waker) = self.writer.take() {
            waker.wake();
        }
    }
}

impl AsyncWrite for SendHalf {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.pipes.lock();
        state.check()?;
        let is_still = state.is_still();
        let pipe = &mut state.pipes[self.pipe];
        if pipe.is_finished || (pipe.is_unread && !is_still) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let count = bytes.len().min(WINDOW - pipe.buffer.len());
        if count == 0 && !bytes.is_empty() {
            pipe.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        pipe.buffer.extend(&bytes[..count]);
        pipe.wake_reader();
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.pipes.lock().check())
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.pipes.lock();
        state.check()?;
        let pipe = &mut state.pipes[self.pipe];
        pipe.is_finished = true;
        pipe.wake_reader();
        Poll::Ready(Ok(()))
    }
}

impl Drop for SendHalf {
    fn drop(&mut self) {
        let mut state = self.pipes.lock();
        let pipe = &mut state.pipes[self.pipe];
        if !pipe.is_finished {
            pipe.is_reset = true;
            pipe.buffer = VecDeque::new();
            pipe.wake_reader();
        }
    }
}

impl AsyncRead for RecvHalf {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.pipes.lock();
        state.check()?;
        let is_still = state.is_still();
        let pipe = &mut state.pipes[self.pipe];
        if is_still || (pipe.buffer.is_empty() && !pipe.is_finished && !pipe.is_reset) {
            pipe.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if pipe.is_reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        while buf.remaining() > 0 && !pipe.buffer.is_empty() {
            let (first, _) = pipe.buffer.as_slices();
            let count = first.len().min(buf.remaining());
            buf.put_slice(&first[..count]);
            pipe.buffer.drain(..count);
        }
        pipe.wake_writer();
        Poll::Ready(Ok(()))
    }
}

impl Drop for RecvHalf {
    fn drop(&mut self) {
        let mut state = self.pipes.lock();
        let pipe = &mut state.pipes[self.pipe];
        pipe.is_unread = true;
        pipe.wake_writer();
    }
}
