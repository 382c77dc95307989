//! A transport that runs: it accepts and dials, keeps the tables, and passes on what arrives.

mod meeting;
mod receiving;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use funk::ids::{Instance, PeerAddr};
use funk::limits::MAX_DATAGRAM_BYTES;
use funk::runtime::Environment;
use funk::transport::{Incoming, LocalNode, Peer, PeerKind, Stream, TransportError};
use quinn::{Connection, ConnectionError, VarInt};
use rustls::pki_types::CertificateDer;
use tokio::sync::{Semaphore, mpsc};
use tracing::{debug, warn};

use crate::config::QuicConfig;
use crate::connections::{Connections, Origin};
use crate::counters::Counters;
use crate::credentials::Credentials;
use crate::dials::{Backoff, Dials, Queued};
use crate::hello::Hello;
use crate::link::{Link, Sent};
use crate::names::{NameMapping, PeerName, name_in_certificate};
use crate::refusal::{self, Failure, Refusal};
use crate::reset;
use crate::runtime::Tasks;
use crate::socket::Switch;
use crate::strays::Strays;
use crate::tls::{self, Tls};

/// What arrived and was not yet taken by the node: streams wait beyond it, datagrams are dropped.
const INCOMING_QUEUE: usize = 4_096;
/// Handshakes under way that peers began; past it they are turned away.
const MAX_HANDSHAKES: usize = 1_024;
/// Clients connected at once; past it they are refused, and counted.
const MAX_CLIENTS: usize = 4_096;
/// Time for the closing frames to reach the peers.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);
/// How often a stream is opened anew when its connection turns out to be dead.
const OPEN_ATTEMPTS: usize = 2;

/// A started transport.
#[derive(Debug)]
pub(crate) struct Endpoint {
    local: LocalNode,
    local_addr: SocketAddr,
    config: QuicConfig,
    mapping: Arc<dyn NameMapping>,
    tls: Tls,
    quic: quinn::Endpoint,
    switch: Arc<Switch>,
    tasks: Tasks,
    counters: Arc<Counters>,
    state: Mutex<State>,
    dial_numbers: AtomicU64,
    closed: AtomicBool,
    handshakes: Arc<Semaphore>,
}

#[derive(Debug)]
struct State {
    /// Given to the tasks of each connection; the node sees its end when all are gone.
    incoming: Option<mpsc::Sender<Incoming>>,
    connections: Connections<Link>,
    /// Those of clients: each stands for itself, whatever its name.
    clients: Vec<Arc<Link>>,
    dials: Dials<Link>,
}

/// What an endpoint is made of.
pub(crate) struct Parts {
    pub(crate) local: LocalNode,
    pub(crate) local_addr: SocketAddr,
    pub(crate) credentials: Credentials,
    pub(crate) config: QuicConfig,
    pub(crate) socket: Arc<dyn quinn::AsyncUdpSocket>,
    pub(crate) tasks: Tasks,
    pub(crate) counters: Arc<Counters>,
}

impl Endpoint {
    pub(crate) fn start(
        parts: Parts,
    ) -> Result<(Arc<Self>, mpsc::Receiver<Incoming>), TransportError> {
        let Parts {
            local,
            local_addr,
            credentials,
            config,
            socket,
            tasks,
            counters,
        } = parts;
        let tls = Tls::new(&credentials, &config)?;
        let (strays, stray_senders) = Strays::new();
        let mut endpoint_config = reset::endpoint_config(&credentials, &strays);
        if tasks.environment().is_simulated() {
            endpoint_config.rng_seed(Some(seed(&tasks)));
        }
        let switch = Arc::new(Switch::new(socket, local_addr, strays));
        let quic = quinn::Endpoint::new_with_abstract_socket(
            endpoint_config,
            (local.kind == PeerKind::Node).then(|| tls.server()),
            switch.clone(),
            Arc::new(tasks.clone()),
        )
        .map_err(|error| TransportError::Bind {
            addr: local_addr,
            reason: error.to_string(),
        })?;
        let (incoming, receiver) = mpsc::channel(INCOMING_QUEUE);
        let backoff = Backoff {
            min: config.backoff_min,
            max: config.backoff_max,
        };
        let endpoint = Arc::new(Self {
            state: Mutex::new(State {
                incoming: Some(incoming),
                connections: Connections::new(local.instance.node.clone()),
                clients: Vec::new(),
                dials: Dials::new(backoff),
            }),
            local,
            local_addr,
            config,
            mapping: credentials.mapping.clone(),
            tls,
            quic,
            switch,
            tasks,
            counters,
            dial_numbers: AtomicU64::new(1),
            closed: AtomicBool::new(false),
            handshakes: Arc::new(Semaphore::new(MAX_HANDSHAKES)),
        });
        endpoint.tasks.spawn(endpoint.clone().accept());
        let weak = Arc::downgrade(&endpoint);
        let (environment, idle) = (endpoint.tasks.environment().clone(), endpoint.config.idle());
        endpoint
            .tasks
            .spawn(keep_used_alive(weak, environment, idle / 3));
        let strays = dial_strays(Arc::downgrade(&endpoint), stray_senders);
        endpoint.tasks.spawn(strays);
        Ok((endpoint, receiver))
    }

    pub(crate) fn send_datagram(self: &Arc<Self>, to: &PeerAddr, payload: Bytes) {
        if self.is_closed() || payload.len() > MAX_DATAGRAM_BYTES || self.is_self(to) {
            return self.counters.add_dropped(1);
        }
        let found = self.state().connections.find(to).cloned();
        if let Some(link) = found {
            if self.send_on(&link, &payload) {
                return;
            }
            self.state().connections.remove(&link);
        }
        let now = self.monotonic();
        let queued = self.state().dials.enqueue(to, payload, now);
        match queued {
            Queued::Start => self.start_dial(to.clone()),
            Queued::Waits => {}
            Queued::Dropped => self.counters.add_dropped(1),
        }
    }

    pub(crate) async fn open_stream(
        self: &Arc<Self>,
        to: &PeerAddr,
    ) -> Result<(Peer, Stream), TransportError> {
        let mut lost = None;
        for _ in 0..OPEN_ATTEMPTS {
            let link = self.connect(to).await?;
            match link.open_stream().await {
                Ok(stream) => return Ok((link.peer.clone(), stream)),
                // Nothing was sent on it: another connection will do.
                Err(error) => {
                    self.state().connections.remove(&link);
                    lost = Some(Failure::from(&error));
                }
            }
        }
        let failure = lost.unwrap_or(Failure::Myself);
        Err(to_error(to, &failure))
    }

    /// Closes all connections, waits until peers were told, and ends.
    pub(crate) async fn close(&self) {
        if self.closed.swap(true, Ordering::SeqCst) {
            return;
        }
        let reason = b"the node is stopping";
        self.quic.close(VarInt::from_u32(refusal::GOODBYE), reason);
        let environment = self.tasks.environment().clone();
        environment
            .timeout(CLOSE_TIMEOUT, self.quic.wait_idle())
            .await;
        self.end();
    }

    /// Switches the socket off, then ends.
    pub(crate) fn abort(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.end();
    }

    /// Tells peers without waiting, when nobody is left who could wait.
    pub(crate) fn abandon(&self) {
        if !self.closed.swap(true, Ordering::SeqCst) {
            let reason = b"the node is stopping";
            self.quic.close(VarInt::from_u32(refusal::GOODBYE), reason);
        }
    }

    fn end(&self) {
        self.switch.off();
        self.tasks.stop();
        let links = {
            let mut state = self.state();
            state.incoming = None;
            state.dials.clear();
            let clients = std::mem::take(&mut state.clients);
            (state.connections.clear(), clients)
        };
        drop(links);
    }

    /// Where the connection comes from that is kept with a peer.
    #[cfg(test)]
    pub(crate) fn kept(&self, to: &PeerAddr) -> Option<Origin> {
        let state = self.state();
        let kept = state.connections.find(to);
        kept.map(|link| link.origin)
    }

    #[cfg(test)]
    pub(crate) fn open_connections(&self) -> usize {
        self.quic.open_connections()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    fn is_self(&self, to: &PeerAddr) -> bool {
        to.addr == self.local_addr
            || self.local.kind == PeerKind::Node
                && to
                    .node
                    .as_ref()
                    .is_some_and(|node| *node == self.local.instance.node)
    }

    fn monotonic(&self) -> Duration {
        self.tasks.environment().monotonic()
    }

    /// Whether the datagram has been taken care of: sent, or dropped and counted. Otherwise the connection is dead.
    fn send_on(&self, link: &Arc<Link>, payload: &Bytes) -> bool {
        match link.send_datagram(payload) {
            Sent::Yes => true,
            Sent::Full => {
                self.counters.add_dropped(1);
                true
            }
            Sent::TooLarge if !link.may_send_as_stream() => {
                self.counters.add_dropped(1);
                true
            }
            Sent::TooLarge => {
                let (link, counters) = (link.clone(), self.counters.clone());
                let payload = payload.clone();
                self.tasks.spawn(async move {
                    if link.send_as_stream(payload).await.is_err() {
                        counters.add_dropped(1);
                    }
                });
                true
            }
            Sent::Lost => false,
        }
    }

    fn flush(&self, link: &Arc<Link>, queued: Vec<Bytes>) {
        for payload in queued {
            if !self.send_on(link, &payload) {
                self.counters.add_dropped(1);
            }
        }
    }

    /// Makes the peers answer on all connections on which streams are open: an answer may take longer than the idle
    /// timeout. A client probes all: its next request should not have to find out that its connection is gone.
    fn probe_used(&self) {
        let used: Vec<_> = {
            let state = self.state();
            let links = state.connections.iter().chain(&state.clients);
            let is_client = self.local.kind == PeerKind::Client;
            let wanted = links.filter(|link| is_client || link.in_use());
            wanted.cloned().collect()
        };
        used.iter().for_each(|link| link.probe());
    }

    /// Counts and logs why a connection did not come about.
    fn note(&self, addr: SocketAddr, failure: &Failure) {
        let reason = match failure {
            Failure::Refused(reason) => reason,
            Failure::Superseded { reason, by } => {
                if let Some(incoming) = self.state().incoming.clone() {
                    // With a full queue it is told again at the next attempt.
                    let _ = incoming.try_send(Incoming::Superseded { by: *by });
                }
                reason
            }
            Failure::Malformed(reason) => {
                self.counters.add_malformed();
                reason
            }
            Failure::Unreachable(reason) => return debug!(%addr, reason, "no connection"),
            Failure::Myself => return debug!(%addr, "this address is the node itself"),
        };
        self.counters.add_refused();
        if let Some(suppressed) = self.counters.may_log(self.monotonic()) {
            let local = &self.local.instance;
            warn!(%local, %addr, reason, suppressed, "connection refused");
        }
    }

    fn note_end(&self, link: &Link, end: &ConnectionError) {
        let (peer, addr) = (&link.peer.instance, link.peer.addr);
        if link.peer.kind == PeerKind::Node && refusal::is_peers_close(end) {
            self.counters.add_closed_by_peer();
        }
        match Failure::from(end) {
            failure
            @ (Failure::Refused(_) | Failure::Malformed(_) | Failure::Superseded { .. }) => {
                self.note(addr, &failure)
            }
            Failure::Unreachable(reason) => debug!(%peer, %addr, reason, "connection ended"),
            Failure::Myself => {}
        }
    }
}

/// Holds no endpoint while it waits: what it waits for ends only with the endpoint.
async fn dial_strays(endpoint: Weak<Endpoint>, mut senders: mpsc::Receiver<SocketAddr>) {
    while let Some(addr) = senders.recv().await {
        let Some(endpoint) = endpoint.upgrade() else {
            return;
        };
        endpoint.dial_stray(addr);
    }
}

/// Keeps connections alive on which streams are open but silent: an answer may take longer than the idle timeout.
/// Holds no endpoint while it waits, so that one that was dropped can go.
async fn keep_used_alive(endpoint: Weak<Endpoint>, environment: Environment, period: Duration) {
    loop {
        environment.sleep(period).await;
        let Some(endpoint) = endpoint.upgrade() else {
            return;
        };
        endpoint.probe_used();
    }
}

fn to_error(to: &PeerAddr, failure: &Failure) -> TransportError {
    let addr = to.addr;
    match failure.clone() {
        Failure::Refused(reason)
        | Failure::Malformed(reason)
        | Failure::Superseded { reason, .. } => TransportError::Refused { addr, reason },
        Failure::Unreachable(reason) => TransportError::Unreachable { addr, reason },
        Failure::Myself => TransportError::Refused {
            addr,
            reason: "it is the address of this node itself".to_owned(),
        },
    }
}

/// IPv4 addresses as such, though a socket for both kinds sees them mapped.
fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

fn seed(tasks: &Tasks) -> [u8; 32] {
    let mut seed = [0; 32];
    for part in seed.chunks_exact_mut(8) {
        part.copy_from_slice(&tasks.environment().next_seed().to_le_bytes());
    }
    seed
}
