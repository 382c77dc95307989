//! The transport that users make: a bound socket first, a running endpoint once the node has started.

use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use funk::ids::PeerAddr;
use funk::runtime::Environment;
use funk::transport::{
    BoxFuture, Incoming, LocalNode, Peer, Stream, Transport, TransportCounters, TransportError,
};
use quinn::udp::{UdpSockRef, UdpSocketState};
use quinn::{AsyncUdpSocket, Runtime};
use tokio::sync::mpsc;

use crate::config::QuicConfig;
use crate::counters::Counters;
use crate::credentials::Credentials;
use crate::endpoint::{Endpoint, Parts};
use crate::runtime::Tasks;

/// Bytes the system is asked to hold in each direction; it may grant less.
const SOCKET_BUFFER_BYTES: usize = 2 << 20;

/// Nodes talk QUIC with mutual TLS over one UDP port.
///
/// Dropping it closes its connections; so that peers are certain to notice, use [`close`](Transport::close).
#[derive(Debug)]
pub struct QuicTransport {
    local_addr: SocketAddr,
    credentials: Credentials,
    config: QuicConfig,
    counters: Arc<Counters>,
    /// Taken by `start`, or dropped by `close` and `abort`.
    socket: Mutex<Option<Socket>>,
    endpoint: OnceLock<Arc<Endpoint>>,
}

#[derive(Debug)]
enum Socket {
    System(UdpSocket),
    Abstract(Arc<dyn AsyncUdpSocket>),
}

impl QuicTransport {
    /// Binds a UDP port. Port 0 is any free one; see [`local_addr`](Transport::local_addr).
    pub fn bind(
        addr: SocketAddr,
        credentials: Credentials,
        config: QuicConfig,
    ) -> Result<Arc<Self>, TransportError> {
        let wrong = |error: std::io::Error| TransportError::Bind {
            addr,
            reason: error.to_string(),
        };
        let socket = UdpSocket::bind(addr).map_err(wrong)?;
        let bound = socket.local_addr().map_err(wrong)?;
        if bound.ip().is_unspecified() && config.advertised.is_none() {
            return Err(TransportError::Bind {
                addr,
                reason: "peers cannot be told this address; set `QuicConfig::advertised` to one that they reach"
                    .to_owned(),
            });
        }
        enlarge_buffers(&socket);
        let local_addr = match config.advertised {
            None => bound,
            Some(advertised) if advertised.port() == 0 => {
                SocketAddr::new(advertised.ip(), bound.port())
            }
            Some(advertised) => advertised,
        };
        let socket = Socket::System(socket);
        Ok(Self::with(socket, local_addr, credentials, config))
    }

    /// Over a socket that is not the system's, for simulators. `local_addr` is where peers reach it.
    pub fn with_abstract_socket(
        socket: Arc<dyn AsyncUdpSocket>,
        local_addr: SocketAddr,
        credentials: Credentials,
        config: QuicConfig,
    ) -> Arc<Self> {
        Self::with(Socket::Abstract(socket), local_addr, credentials, config)
    }

    fn with(
        socket: Socket,
        local_addr: SocketAddr,
        credentials: Credentials,
        config: QuicConfig,
    ) -> Arc<Self> {
        Arc::new(Self {
            local_addr,
            credentials,
            config,
            counters: Arc::default(),
            socket: Mutex::new(Some(socket)),
            endpoint: OnceLock::new(),
        })
    }

    #[cfg(test)]
    pub(crate) fn endpoint(&self) -> &Endpoint {
        self.endpoint.get().expect("started")
    }

    fn take_socket(&self) -> Option<Socket> {
        self.socket
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

/// Bursts of many peers at once should not be lost between the system and us. As much as is granted is good enough.
fn enlarge_buffers(socket: &UdpSocket) {
    if let Ok(state) = UdpSocketState::new(UdpSockRef::from(socket)) {
        let _ = state.set_recv_buffer_size(UdpSockRef::from(socket), SOCKET_BUFFER_BYTES);
        let _ = state.set_send_buffer_size(UdpSockRef::from(socket), SOCKET_BUFFER_BYTES);
    }
}

impl Transport for QuicTransport {
    fn start(&self, local: LocalNode) -> Result<mpsc::Receiver<Incoming>, TransportError> {
        self.credentials.check(local.kind, &local.instance.node)?;
        let socket = self.take_socket().ok_or(TransportError::Closed)?;
        let tasks = Tasks::new(Environment::current());
        let socket = match socket {
            Socket::Abstract(socket) => socket,
            Socket::System(socket) => {
                tasks
                    .wrap_udp_socket(socket)
                    .map_err(|error| TransportError::Bind {
                        addr: self.local_addr,
                        reason: error.to_string(),
                    })?
            }
        };
        let (endpoint, incoming) = Endpoint::start(Parts {
            local,
            local_addr: self.local_addr,
            credentials: self.credentials.clone(),
            config: self.config.clone(),
            socket,
            tasks,
            counters: self.counters.clone(),
        })?;
        // The socket can be taken only once.
        let _ = self.endpoint.set(endpoint);
        Ok(incoming)
    }

    fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    fn send_datagram(&self, to: &PeerAddr, payload: Bytes) {
        match self.endpoint.get() {
            Some(endpoint) => endpoint.send_datagram(to, payload),
            None => self.counters.add_dropped(1),
        }
    }

    fn open_stream<'a>(
        &'a self,
        to: &'a PeerAddr,
    ) -> BoxFuture<'a, Result<(Peer, Stream), TransportError>> {
        Box::pin(async move {
            match self.endpoint.get() {
                Some(endpoint) => endpoint.open_stream(to).await,
                None => Err(TransportError::Closed),
            }
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            drop(self.take_socket());
            if let Some(endpoint) = self.endpoint.get() {
                endpoint.close().await;
            }
        })
    }

    fn abort(&self) {
        drop(self.take_socket());
        if let Some(endpoint) = self.endpoint.get() {
            endpoint.abort();
        }
    }

    fn counters(&self) -> TransportCounters {
        self.counters.snapshot()
    }
}

impl Drop for QuicTransport {
    fn drop(&mut self) {
        if let Some(endpoint) = self.endpoint.get() {
            endpoint.abandon();
        }
    }
}
