//! A socket that can be switched off for good: the power cut of a node, as its peers see it.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::task::{Context, Poll};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

use crate::strays::Strays;

/// Passes everything on until it is switched off; from then on it swallows what is sent and receives nothing.
#[derive(Debug)]
pub(crate) struct Switch {
    /// Dropped by switching off, which also frees the port.
    socket: RwLock<Option<Arc<dyn AsyncUdpSocket>>>,
    addr: SocketAddr,
    strays: Arc<Strays>,
}

impl Switch {
    pub(crate) fn new(
        socket: Arc<dyn AsyncUdpSocket>,
        addr: SocketAddr,
        strays: Arc<Strays>,
    ) -> Self {
        Self {
            socket: RwLock::new(Some(socket)),
            addr,
            strays,
        }
    }

    /// When this returns, the last packet has been sent. Idempotent.
    pub(crate) fn off(&self) {
        let socket = self
            .socket
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(socket);
    }

    fn socket(&self) -> RwLockReadGuard<'_, Option<Arc<dyn AsyncUdpSocket>>> {
        self.socket.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsyncUdpSocket for Switch {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Poller {
            switch: self,
            waiting: None,
        })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        match &*self.socket() {
            Some(socket) => socket.try_send(transmit),
            None => Ok(()),
        }
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let received = match &*self.socket() {
            Some(socket) => socket.poll_recv(cx, bufs, meta),
            None => Poll::Pending,
        };
        if let Poll::Ready(Ok(count)) = received {
            for (meta, buf) in meta.iter().zip(bufs.iter()).take(count) {
                let packets = buf.get(..meta.len).unwrap_or_default();
                self.strays.look(meta.addr, packets, meta.stride);
            }
        }
        received
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.addr)
    }

    fn max_transmit_segments(&self) -> usize {
        let socket = self.socket();
        socket
            .as_ref()
            .map_or(1, |socket| socket.max_transmit_segments())
    }

    fn max_receive_segments(&self) -> usize {
        let socket = self.socket();
        socket
            .as_ref()
            .map_or(1, |socket| socket.max_receive_segments())
    }

    fn may_fragment(&self) -> bool {
        self.socket()
            .as_ref()
            .is_none_or(|socket| socket.may_fragment())
    }
}

/// Waits until the socket is writable. Holds the socket's own poller, and so the port, only while it waits.
#[derive(Debug)]
struct Poller {
    switch: Arc<Switch>,
    waiting: Option<Pin<Box<dyn UdpPoller>>>,
}

impl UdpPoller for Poller {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let Some(socket) = this.switch.socket().clone() else {
            this.waiting = None;
            return Poll::Ready(Ok(()));
        };
        let waiting = this
            .waiting
            .get_or_insert_with(|| socket.create_io_poller());
        let ready = waiting.as_mut().poll_writable(cx);
        if ready.is_ready() {
            this.waiting = None;
        }
        ready
    }
}
