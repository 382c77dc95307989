//! A transport that runs: it accepts and dials, keeps the tables, and passes on what arrives.

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

    // Dialling.

    /// The connection to a peer, made if need be.
    async fn connect(self: &Arc<Self>, to: &PeerAddr) -> Result<Arc<Link>, TransportError> {
        if self.is_closed() {
            return Err(TransportError::Closed);
        }
        if self.is_self(to) {
            return Err(to_error(to, &Failure::Myself));
        }
        let (mut outcome, start) = {
            let mut state = self.state();
            if let Some(link) = state.connections.find(to) {
                return Ok(link.clone());
            }
            state.dials.join(to, self.monotonic())?
        };
        if start {
            self.start_dial(to.clone());
        }
        match outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or(Err(TransportError::Closed)),
            Err(_) => Err(TransportError::Closed),
        }
    }

    fn start_dial(self: &Arc<Self>, to: PeerAddr) {
        self.tasks.spawn(self.clone().dial(to));
    }

    async fn dial(self: Arc<Self>, to: PeerAddr) {
        let environment = self.tasks.environment().clone();
        let attempt = environment.timeout(self.config.connect_timeout, self.try_dial(&to));
        let outcome = attempt.await.unwrap_or_else(|| {
            let span = self.config.connect_timeout;
            Err(Failure::Unreachable(format!("no answer within {span:?}")))
        });
        match outcome {
            Ok(link) => {
                let queued = self.state().dials.succeeded(&to, &link);
                self.flush(&link, queued);
            }
            Err(failure) => {
                self.note(to.addr, &failure);
                let chance = environment.next_seed();
                let error = to_error(&to, &failure);
                let now = self.monotonic();
                let dropped = self.state().dials.failed(&to, error, now, chance);
                self.counters.add_dropped(dropped);
            }
        }
    }

    /// Introduces itself to a peer that sends on a connection of an earlier run.
    fn dial_stray(self: &Arc<Self>, addr: SocketAddr) {
        let to = PeerAddr {
            node: None,
            addr: canonical(addr),
        };
        let start = {
            let now = self.monotonic();
            let mut state = self.state();
            // Connected since: then the peer has learnt of this run.
            let known = state.connections.find(&to).is_some();
            !known && matches!(state.dials.join(&to, now), Ok((_, true)))
        };
        if start {
            debug!(%addr, "a peer sends on a connection that is not known here");
            self.start_dial(to);
        }
    }

    async fn try_dial(self: &Arc<Self>, to: &PeerAddr) -> Result<Arc<Link>, Failure> {
        let name = tls::server_name(to.node.as_ref());
        let connecting = self
            .quic
            .connect_with(self.tls.client(), to.addr, &name)
            .map_err(|error| Failure::Unreachable(error.to_string()))?;
        let quic = connecting.await.map_err(|error| Failure::from(&error))?;
        let unfinished = Unfinished(Some(&quic));
        let dial = self.dial_numbers.fetch_add(1, Ordering::Relaxed);
        let refused = |refusal: Refusal| refuse(&quic, refusal);

        let (mut send, mut recv) = quic
            .open_bi()
            .await
            .map_err(|error| Failure::from(&error))?;
        let hello = self.hello(dial).encode();
        // Should this fail, reading tells the reason.
        let _ = send.write_all(&hello).await;
        let _ = send.finish();
        let theirs = Hello::read(&mut recv)
            .await
            .map_err(|error| refused(Refusal::BadHello(error)))?;
        let (kind, version) = self.check(&quic, &theirs).map_err(refused)?;
        let origin = Origin {
            dialed_here: true,
            dial,
        };
        let link = self
            .admit(&quic, theirs.instance, kind, version, origin)
            .map_err(refused);
        unfinished.finish();
        link
    }

    // Accepting.

    async fn accept(self: Arc<Self>) {
        while let Some(incoming) = self.quic.accept().await {
            let remote = incoming.remote_address();
            let Ok(permit) = self.handshakes.clone().try_acquire_owned() else {
                self.counters.add_refused();
                incoming.refuse();
                continue;
            };
            let endpoint = self.clone();
            self.tasks.spawn(async move {
                let environment = endpoint.tasks.environment().clone();
                let span = endpoint.config.connect_timeout;
                let attempt = environment.timeout(span, endpoint.answer(incoming)).await;
                let late = || {
                    let reason = format!("it did not introduce itself within {span:?}");
                    Err(Failure::Unreachable(reason))
                };
                if let Err(failure) = attempt.unwrap_or_else(late) {
                    endpoint.note(canonical(remote), &failure);
                }
                drop(permit);
            });
        }
    }

    async fn answer(self: &Arc<Self>, incoming: quinn::Incoming) -> Result<(), Failure> {
        let connecting = incoming.accept().map_err(|error| Failure::from(&error))?;
        let quic = connecting.await.map_err(|error| Failure::from(&error))?;
        let unfinished = Unfinished(Some(&quic));
        let refused = |refusal: Refusal| refuse(&quic, refusal);

        let (mut send, mut recv) = quic
            .accept_bi()
            .await
            .map_err(|error| Failure::from(&error))?;
        let theirs = Hello::read(&mut recv)
            .await
            .map_err(|error| refused(Refusal::BadHello(error)))?;
        let (kind, version) = self.check(&quic, &theirs).map_err(refused)?;
        let origin = Origin {
            dialed_here: false,
            dial: theirs.dial,
        };
        let hello = self.hello(theirs.dial).encode();
        self.admit(&quic, theirs.instance, kind, version, origin)
            .map_err(refused)?;
        // Only now: the hello tells the peer that it was admitted. If it is lost, so is the connection.
        let _ = send.write_all(&hello).await;
        let _ = send.finish();
        unfinished.finish();
        Ok(())
    }

    // Both.

    fn hello(&self, dial: u64) -> Hello {
        Hello {
            cluster: self.local.cluster.clone(),
            instance: self.local.instance.clone(),
            dial,
            versions: self.local.versions,
        }
    }

    /// Compares what the peer says of itself with its certificate and with us. Whether it is a node or a client
    /// stands in the certificate alone. Also answers which version the two speak.
    fn check(&self, quic: &Connection, theirs: &Hello) -> Result<(PeerKind, u8), Refusal> {
        let local = &self.local.instance;
        let proven = proven_name(quic, &*self.mapping);
        let kind = match &proven {
            Ok(name) if *name.name() == theirs.instance.node => name.kind(),
            _ => {
                return Err(Refusal::Name {
                    claimed: theirs.instance.clone(),
                    certificate: proven.map_or_else(|reason| reason, |name| name.to_string()),
                });
            }
        };
        let both_nodes = kind == PeerKind::Node && self.local.kind == PeerKind::Node;
        if both_nodes && theirs.instance == *local {
            return Err(Refusal::Myself);
        }
        if both_nodes && theirs.instance.node == local.node {
            return Err(Refusal::SameName {
                ours: local.clone(),
                theirs: theirs.instance.clone(),
            });
        }
        if theirs.cluster != self.local.cluster {
            return Err(Refusal::Cluster {
                theirs: theirs.instance.clone(),
                their_cluster: theirs.cluster.clone(),
                ours: local.clone(),
                our_cluster: self.local.cluster.clone(),
            });
        }
        let common = self.local.versions.common(theirs.versions);
        let version = common.map_err(|none| Refusal::Version {
            theirs: theirs.instance.clone(),
            ours: local.clone(),
            none,
        })?;
        Ok((kind, version))
    }

    /// Takes up a connection, serves it from now on, and hands it to whoever waits for one.
    fn admit(
        self: &Arc<Self>,
        quic: &Connection,
        instance: Instance,
        kind: PeerKind,
        version: u8,
        origin: Origin,
    ) -> Result<Arc<Link>, Refusal> {
        let addr = canonical(quic.remote_address());
        let node = instance.node.clone();
        let peer = Peer {
            instance,
            kind,
            version,
            addr,
        };
        if kind == PeerKind::Client {
            return self.admit_client(Arc::new(Link::new(peer, origin, quic.clone())));
        }
        let link = Arc::new(Link::new(peer, origin, quic.clone()));
        let at = PeerAddr {
            node: Some(node.clone()),
            addr,
        };
        let (incoming, admitted, kept, queued) = {
            let mut state = self.state();
            let incoming = state.incoming.clone();
            let admitted =
                state
                    .connections
                    .admit(link.clone())
                    .map_err(|known| Refusal::StaleRun {
                        theirs: link.peer.instance.clone(),
                        known,
                    })?;
            let kept = state.connections.find(&at).unwrap_or(&link).clone();
            let queued = state.dials.connected(&node, &at, &kept);
            (incoming, admitted, kept, queued)
        };
        debug!(peer = %link.peer.instance, %addr, dialed = origin.dialed_here, "connected");
        for old in admitted.replaced {
            old.close(refusal::REPLACED, "a newer run of this node has connected");
        }
        if let Some(spare) = admitted.displaced {
            spare.close(refusal::SPARE, "another connection of this pair is kept");
        }
        if let Some(doubtful) = admitted.doubtful {
            doubtful.probe();
        }
        self.receive(&link, incoming);
        self.flush(&kept, queued);
        Ok(kept)
    }

    /// Takes up a client: nothing is ever opened towards it, and others of its name are none of its business.
    fn admit_client(self: &Arc<Self>, link: Arc<Link>) -> Result<Arc<Link>, Refusal> {
        let incoming = {
            let mut state = self.state();
            if state.clients.len() >= MAX_CLIENTS {
                return Err(Refusal::TooManyClients);
            }
            state.clients.push(link.clone());
            state.incoming.clone()
        };
        debug!(client = %link.peer.instance, addr = %link.peer.addr, "a client connected");
        self.receive(&link, incoming);
        Ok(link)
    }

    fn receive(self: &Arc<Self>, link: &Arc<Link>, incoming: Option<mpsc::Sender<Incoming>>) {
        if let Some(incoming) = incoming {
            let streams = receive_streams(link.clone(), incoming.clone());
            self.tasks.spawn(streams);
            let datagrams = self.clone().receive_datagrams(link.clone(), incoming);
            self.tasks.spawn(datagrams);
        }
    }

    fn flush(&self, link: &Arc<Link>, queued: Vec<Bytes>) {
        for payload in queued {
            if !self.send_on(link, &payload) {
                self.counters.add_dropped(1);
            }
        }
    }

    /// Also sees to the end of the connection.
    async fn receive_datagrams(self: Arc<Self>, link: Arc<Link>, incoming: mpsc::Sender<Incoming>) {
        let end = loop {
            tokio::select! {
                biased;
                datagram = link.quic.read_datagram() => match datagram {
                    // A probe.
                    Ok(payload) if payload.is_empty() => {}
                    Ok(payload) => self.deliver(&incoming, &link, payload),
                    Err(error) => break error,
                },
                stream = link.quic.accept_uni() => match stream {
                    Ok(stream) => {
                        let message =
                            self.clone().receive_message(link.clone(), incoming.clone(), stream);
                        self.tasks.spawn(message);
                    }
                    Err(error) => break error,
                },
            }
        };
        match link.peer.kind {
            PeerKind::Node => self.state().connections.remove(&link),
            PeerKind::Client => {
                let mut state = self.state();
                state.clients.retain(|other| !Arc::ptr_eq(other, &link));
            }
        }
        self.note_end(&link, &end);
    }

    /// A datagram that did not fit into a packet.
    async fn receive_message(
        self: Arc<Self>,
        link: Arc<Link>,
        incoming: mpsc::Sender<Incoming>,
        mut stream: quinn::RecvStream,
    ) {
        let environment = self.tasks.environment().clone();
        let whole = stream.read_to_end(MAX_DATAGRAM_BYTES);
        match environment.timeout(self.config.idle(), whole).await {
            Some(Ok(payload)) => self.deliver(&incoming, &link, payload.into()),
            Some(Err(quinn::ReadToEndError::TooLong)) => self.counters.add_malformed(),
            // The peer gave up, or the connection ended.
            Some(Err(quinn::ReadToEndError::Read(_))) | None => {}
        }
    }

    fn deliver(&self, incoming: &mpsc::Sender<Incoming>, link: &Link, payload: Bytes) {
        if payload.len() > MAX_DATAGRAM_BYTES {
            return self.counters.add_malformed();
        }
        let arrived = Incoming::Datagram {
            from: link.peer.clone(),
            payload,
        };
        if incoming.try_send(arrived).is_err() {
            self.counters.add_dropped(1);
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

async fn receive_streams(link: Arc<Link>, incoming: mpsc::Sender<Incoming>) {
    while let Ok((send, recv)) = link.quic.accept_bi().await {
        let arrived = Incoming::Stream {
            from: link.peer.clone(),
            stream: link.stream(send, recv),
        };
        if incoming.send(arrived).await.is_err() {
            return;
        }
    }
}

/// A connection whose introduction is under way. Dropped before its end, it tells the peer that it was given up; quinn's
/// own closing frame would look as if the node had gone.
struct Unfinished<'a>(Option<&'a Connection>);

impl Unfinished<'_> {
    fn finish(mut self) {
        self.0 = None;
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(quic) = self.0 {
            // Without effect if it was closed for another reason.
            let code = VarInt::from_u32(refusal::GIVEN_UP);
            quic.close(code, b"the introduction took too long");
        }
    }
}

/// Closes the connection so that the peer learns the reason.
fn refuse(quic: &Connection, refusal: Refusal) -> Failure {
    quic.close(refusal.code(), refusal.to_string().as_bytes());
    refusal.into()
}

/// The name that the peer's certificate proves.
fn proven_name(quic: &Connection, mapping: &dyn NameMapping) -> Result<PeerName, String> {
    let identity = quic
        .peer_identity()
        .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok());
    let chain = identity.ok_or("no certificate was shown")?;
    name_in_certificate(chain.first().ok_or("no certificate was shown")?, mapping)
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
