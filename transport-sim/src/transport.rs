//! The transport of one simulated node.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use funk::ids::{BootId, Instance, NodeId, PeerAddr};
use funk::limits::MAX_DATAGRAM_BYTES;
use funk::runtime::Environment;
use funk::time::Time;
use funk::transport::pipes::{self, Pipes};
use funk::transport::{
    BoxFuture, Incoming, LocalNode, Peer, PeerKind, Stream, Transport, TransportCounters,
    TransportError,
};
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;
use turmoil::net::{TcpListener, UdpSocket};

use crate::hello::{Hello, MAX_HELLO_BYTES};
use crate::network::SimNetwork;
use crate::ports::Socket;
use crate::pump::Connection;
use crate::reach::Reach;

mod connect;

/// Datagrams and streams that wait for the node; further datagrams are dropped and counted, further streams wait.
const INCOMING_QUEUE: usize = 1_024;
/// How long a peer may take to answer before it counts as unreachable.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long `close` waits for its farewells to leave.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);
/// A connection that carries no stream is not used any more after this long: its other end may have gone.
const SPARE_LIFE: Duration = Duration::from_secs(1);
/// Streams and tasks on the books before the ended ones are first struck off.
const FIRST_SWEEP: usize = 64;

/// A node's access to the simulated network. Lives inside a turmoil host. Dropping it closes it.
pub struct SimTransport(Arc<Inner>);

struct Inner {
    network: SimNetwork,
    addr: SocketAddr,
    state: Mutex<State>,
}

struct State {
    /// Closed at the end, so that the port comes free.
    udp: Arc<Socket<Arc<UdpSocket>>>,
    /// Taken at the start by the task that accepts.
    listener: Arc<Socket<TcpListener>>,
    running: Option<Running>,
    counters: TransportCounters,
    reach: Reach,
    tasks: Vec<AbortHandle>,
    streams: Vec<Open>,
    sweep_at: usize,
    /// Connections for the next streams to each address, so that a stream costs no round trips of its own, as over
    /// QUIC; the one used last is the last.
    spares: BTreeMap<SocketAddr, Vec<Spare>>,
}

/// A connection that we made and that carries no stream.
struct Spare {
    peer: Peer,
    connection: Connection,
    since: Time,
}

struct Running {
    environment: Environment,
    local: LocalNode,
    incoming: mpsc::Sender<Incoming>,
    /// Newest run heard of, for each name.
    newest: BTreeMap<NodeId, BootId>,
    /// Held by every stream that has not said its farewell.
    farewell: mpsc::Sender<()>,
    farewells: mpsc::Receiver<()>,
    /// Those that end at once when the node closes: they bring in what is new.
    listening: Vec<AbortHandle>,
    /// Tells the connections that peers made and that carry no stream.
    closing: Arc<Notify>,
}

/// A stream on the books.
struct Open {
    instance: Instance,
    kind: PeerKind,
    pipes: Weak<Pipes>,
}

impl fmt::Debug for SimTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SimTransport").field(&self.0.addr).finish()
    }
}

impl SimTransport {
    /// Listens at `addr`, whose IP address must be that of the running turmoil host. Port 0: any free one.
    pub async fn bind(addr: SocketAddr, network: &SimNetwork) -> Result<Arc<Self>, TransportError> {
        let any = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let refused = |error: io::Error| TransportError::Bind {
            addr,
            reason: error.to_string(),
        };
        let udp = UdpSocket::bind(any(addr.port())).await.map_err(refused)?;
        let port = udp.local_addr().map_err(refused)?.port();
        let listener = TcpListener::bind(any(port)).await.map_err(refused)?;
        let (udp, listener) = (Socket::new(Arc::new(udp)), Socket::new(listener));
        network.enlist(addr.ip(), &udp);
        network.enlist(addr.ip(), &listener);
        Ok(Arc::new(Self(Arc::new(Inner {
            network: network.clone(),
            addr: SocketAddr::new(addr.ip(), port),
            state: Mutex::new(State {
                udp,
                listener,
                running: None,
                counters: TransportCounters::default(),
                reach: Reach::default(),
                tasks: Vec::new(),
                streams: Vec::new(),
                sweep_at: FIRST_SWEEP,
                spares: BTreeMap::new(),
            }),
        }))))
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn environment(&self) -> Result<Environment, TransportError> {
        let state = self.lock();
        let running = state.running.as_ref().ok_or(TransportError::Closed)?;
        Ok(running.environment.clone())
    }

    /// How we introduce ourselves.
    fn hello(&self, expected: Option<NodeId>) -> Result<Hello, TransportError> {
        let state = self.lock();
        let running = state.running.as_ref().ok_or(TransportError::Closed)?;
        Ok(Hello {
            cluster: running.local.cluster.clone(),
            instance: running.local.instance.clone(),
            kind: running.local.kind,
            versions: running.local.versions,
            port: self.addr.port(),
            expected,
        })
    }

    /// Starts a task of the node, to be ended with the transport.
    fn spawn(&self, environment: &Environment, task: impl Future<Output = ()> + Send + 'static) {
        let handle = environment.spawn(task).abort_handle();
        self.lock().enlist(handle);
    }

    /// A connection to the peer that carries no stream and is still good.
    async fn take_spare(&self, to: &PeerAddr, now: Time) -> Option<(Peer, Connection)> {
        loop {
            let mut spare = self.lock().take_spare(to, now)?;
            if spare.connection.is_open().await {
                return Some((spare.peer, spare.connection));
            }
        }
    }

    /// Makes a connection ahead for the next stream to the peer, if there is none.
    fn make_spare(self: &Arc<Self>, to: &PeerAddr, environment: &Environment) {
        if self.lock().spares.contains_key(&to.addr) {
            return;
        }
        let (inner, to, by) = (self.clone(), to.clone(), environment.clone());
        self.spawn(environment, async move {
            let connect = inner.connect(&to, &by);
            let connected = by.timeout(CONNECT_TIMEOUT, connect).await;
            if let Some(Ok((peer, connection))) = connected {
                inner.keep_spare(to.addr, peer, connection, by.now());
            }
        });
    }

    fn keep_spare(&self, addr: SocketAddr, peer: Peer, connection: Connection, now: Time) {
        let mut state = self.lock();
        if state.running.is_some() {
            let spares = state.spares.entry(addr).or_default();
            spares.retain(|spare| now < spare.since + SPARE_LIFE);
            spares.push(Spare {
                peer,
                connection,
                since: now,
            });
        }
    }

    /// Who speaks from `ip`, or why it is refused. A newer run than was known breaks the streams with older ones.
    fn admit(&self, hello: &Hello, ip: IpAddr) -> Result<Peer, String> {
        let Instance { node, boot } = &hello.instance;
        let is_believed = self.network.believes(node, ip);
        let mut state = self.lock();
        let running = state.running.as_mut().ok_or("the transport is closed")?;
        let ours = &running.local;
        if (hello.kind, ours.kind) == (PeerKind::Client, PeerKind::Client) {
            return Err("a client asks nodes only".to_owned());
        }
        if hello.cluster != ours.cluster {
            return Err(format!(
                "the cluster is {}, not {}",
                ours.cluster, hello.cluster
            ));
        }
        if !is_believed {
            return Err(format!("{ip} is not the host of {node}"));
        }
        let expected = hello.expected.as_ref();
        if let Some(expected) = expected.filter(|expected| **expected != ours.instance.node) {
            return Err(format!("this is {}, not {expected}", ours.instance.node));
        }
        let common = ours.versions.common(hello.versions);
        let version = common.map_err(|none| none.to_string())?;
        let peer = Peer {
            version,
            instance: hello.instance.clone(),
            kind: hello.kind,
            addr: SocketAddr::new(ip, hello.port),
        };
        if hello.kind == PeerKind::Client {
            // Any number of clients may have one name.
            return Ok(peer);
        }
        let newest = running.newest.entry(node.clone()).or_insert(*boot);
        if boot < newest {
            return Err(format!("a newer run of {node} was seen"));
        }
        if boot > newest {
            *newest = *boot;
            let is_older = |open: &&Open| {
                open.kind == PeerKind::Node
                    && open.instance.node == *node
                    && open.instance.boot < *boot
            };
            let replaced = state.streams.iter().filter(is_older);
            for pipes in replaced.filter_map(|open| open.pipes.upgrade()) {
                pipes.replace();
            }
        }
        Ok(peer)
    }

    fn refuse(&self, peer: SocketAddr, reason: &str) {
        self.lock().counters.refused += 1;
        tracing::warn!(%peer, reason, "refused");
    }

    /// What arrives on the UDP port.
    async fn receive_datagrams(self: Arc<Self>, udp: Arc<UdpSocket>) {
        let mut buffer = vec![0; MAX_HELLO_BYTES + MAX_DATAGRAM_BYTES];
        while let Ok((len, from)) = udp.recv_from(&mut buffer).await {
            let mut content = &buffer[..len];
            let Some(hello) = Hello::decode(&mut content) else {
                self.lock().counters.malformed += 1;
                continue;
            };
            match self.admit(&hello, from.ip()) {
                Ok(from) => self.deliver_datagram(from, Bytes::copy_from_slice(content)),
                Err(reason) => self.refuse(from, &reason),
            }
        }
    }

    fn deliver_datagram(&self, from: Peer, payload: Bytes) {
        let mut state = self.lock();
        let Some(running) = &state.running else {
            return;
        };
        let incoming = Incoming::Datagram { from, payload };
        if running.incoming.try_send(incoming).is_err() {
            state.counters.datagrams_dropped += 1;
        }
    }

    /// A new stream with the peer: the node's end of it, and what carries it over the connection until it has ended.
    fn open(&self, peer: &Peer) -> Result<(Stream, Carrier), TransportError> {
        let (pipes, node, inner) = pipes::new();
        let mut state = self.lock();
        let running = state.running.as_ref().ok_or(TransportError::Closed)?;
        let farewell = running.farewell.clone();
        state.streams.push(Open {
            instance: peer.instance.clone(),
            kind: peer.kind,
            pipes: Arc::downgrade(&pipes),
        });
        let carrier = Carrier {
            inner,
            pipes,
            farewell,
        };
        Ok((node, carrier))
    }
}

/// The far side of a stream's pipes.
struct Carrier {
    inner: Stream,
    pipes: Arc<Pipes>,
    farewell: mpsc::Sender<()>,
}

impl Carrier {
    /// The connection again, once the stream has ended; `None`: it broke.
    async fn carry(self, connection: Connection, first: Option<Bytes>) -> Option<Connection> {
        connection
            .carry(self.inner, self.pipes, first, self.farewell)
            .await
    }
}

impl State {
    fn enlist(&mut self, task: AbortHandle) {
        self.tasks.push(task);
        if self.tasks.len() + self.streams.len() >= self.sweep_at {
            self.tasks.retain(|task| !task.is_finished());
            self.streams.retain(|open| open.pipes.strong_count() > 0);
            self.sweep_at = FIRST_SWEEP.max(2 * (self.tasks.len() + self.streams.len()));
        }
    }

    /// The connection to the peer that was used last, if it is still good by what we know.
    fn take_spare(&mut self, to: &PeerAddr, now: Time) -> Option<Spare> {
        let spares = self.spares.get_mut(&to.addr)?;
        let spare = spares.pop();
        if spares.is_empty() {
            self.spares.remove(&to.addr);
        }
        let spare = spare?;
        let running = self.running.as_ref()?;
        let Instance { node, boot } = &spare.peer.instance;
        let is_meant = to.node.as_ref().is_none_or(|meant| meant == node);
        let is_newest = running.newest.get(node).is_none_or(|newest| newest == boot);
        let is_good = is_meant && is_newest && now < spare.since + SPARE_LIFE;
        if !is_good {
            // So are those that were used before it.
            self.spares.remove(&to.addr);
        }
        is_good.then_some(spare)
    }

    fn open_streams(&self) -> impl Iterator<Item = Arc<Pipes>> {
        self.streams.iter().filter_map(|open| open.pipes.upgrade())
    }

    /// Breaks all streams and hears nothing more; the farewells are still to be said.
    fn leave(&mut self) -> Option<Running> {
        self.open_streams().for_each(|pipes| pipes.sever());
        self.udp.close();
        self.listener.close();
        self.spares.clear();
        let running = self.running.take()?;
        running.listening.iter().for_each(AbortHandle::abort);
        running.closing.notify_waiters();
        Some(running)
    }

    /// Ends every task.
    fn end(&mut self) {
        self.leave();
        self.tasks.drain(..).for_each(|task| task.abort());
    }
}

impl Transport for SimTransport {
    fn start(&self, local: LocalNode) -> Result<mpsc::Receiver<Incoming>, TransportError> {
        let environment = Environment::current();
        let (incoming, receiver) = mpsc::channel(INCOMING_QUEUE);
        let (farewell, farewells) = mpsc::channel(1);
        let mut state = self.0.lock();
        let udp = state.udp.lock().clone().ok_or(TransportError::Closed)?;
        let listener = state.listener.lock().take().ok_or(TransportError::Closed)?;
        let receive = environment.spawn(self.0.clone().receive_datagrams(udp));
        let accept = self.0.clone().accept(listener, environment.clone());
        #[allow(
            clippy::disallowed_methods,
            reason = "the kernel's part: it is not paused with the node"
        )]
        let accept = tokio::spawn(accept);
        state.running = Some(Running {
            environment,
            local,
            incoming,
            newest: BTreeMap::new(),
            farewell,
            farewells,
            listening: vec![receive.abort_handle(), accept.abort_handle()],
            closing: Arc::default(),
        });
        Ok(receiver)
    }

    fn local_addr(&self) -> SocketAddr {
        self.0.addr
    }

    fn send_datagram(&self, to: &PeerAddr, payload: Bytes) {
        let hello = self.0.hello(to.node.clone());
        let udp = self.0.lock().udp.lock().clone();
        let fits = payload.len() <= MAX_DATAGRAM_BYTES;
        let (Ok(hello), Some(udp), true) = (hello, udp, fits) else {
            self.0.lock().counters.datagrams_dropped += 1;
            return;
        };
        let mut datagram = hello.encode();
        datagram.extend_from_slice(&payload);
        self.0.network.note(self.0.addr, to.addr, &datagram);
        if self.0.network.loses() || udp.try_send_to(&datagram, to.addr).is_err() {
            self.0.lock().counters.datagrams_dropped += 1;
        }
    }

    fn open_stream<'a>(
        &'a self,
        to: &'a PeerAddr,
    ) -> BoxFuture<'a, Result<(Peer, Stream), TransportError>> {
        Box::pin(async move {
            let environment = self.0.environment()?;
            let spare = self.0.take_spare(to, environment.now()).await;
            let (peer, connection) = match spare {
                Some(spare) => spare,
                None => {
                    let connect = self.0.connect(to, &environment);
                    let connected = environment.timeout(CONNECT_TIMEOUT, connect).await;
                    connected.unwrap_or_else(|| {
                        Err(TransportError::Unreachable {
                            addr: to.addr,
                            reason: "no answer in time".to_owned(),
                        })
                    })?
                }
            };
            self.0.make_spare(to, &environment);
            let (stream, carrier) = self.0.open(&peer)?;
            let (inner, addr, from) = (self.0.clone(), to.addr, peer.clone());
            let by = environment.clone();
            self.0.spawn(&environment, async move {
                if let Some(connection) = carrier.carry(connection, None).await {
                    inner.keep_spare(addr, from, connection, by.now());
                }
            });
            Ok((peer, stream))
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let left = self.0.lock().leave();
            let Some(mut running) = left else { return };
            drop(running.farewell);
            let all_said = async { while running.farewells.recv().await.is_some() {} };
            running
                .environment
                .timeout(FAREWELL_TIMEOUT, all_said)
                .await;
            self.0.lock().end();
        })
    }

    fn abort(&self) {
        let mut state = self.0.lock();
        state.open_streams().for_each(|pipes| pipes.kill());
        state.end();
    }

    fn counters(&self) -> TransportCounters {
        self.0.lock().counters
    }
}

impl Drop for SimTransport {
    fn drop(&mut self) {
        // What listens ends with this; streams say their farewells on their own.
        self.0.lock().leave();
    }
}
