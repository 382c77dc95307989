//! A network within the process, for unit tests: no sockets, no certificates, faults on demand.
//!
//! ```
//! use funk::transport::memory::MemoryNetwork;
//! use funk::transport::Transport;
//!
//! let network = MemoryNetwork::new();
//! let (alice, bob) = (network.transport(), network.transport());
//! network.cut(alice.local_addr(), bob.local_addr());
//! network.heal_all();
//! ```
//!
//! The network believes the names that nodes start with: within a process there is nobody to doubt.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use tokio::sync::mpsc;

use super::pipes::{self, Pipes};
use super::{
    BoxFuture, Incoming, LocalNode, Peer, PeerKind, Stream, Transport, TransportCounters,
    TransportError,
};
use crate::ids::{BootId, Instance, NodeId, PeerAddr};
use crate::limits::MAX_DATAGRAM_BYTES;
use crate::runtime::Environment;

/// Datagrams and streams that wait for a node; further datagrams are dropped and counted, further streams wait.
const INCOMING_QUEUE: usize = 1_024;
/// How long a node waits for one that a cut hides before it calls it unreachable.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Streams on the books before the ended ones are first struck off.
const FIRST_SWEEP: usize = 64;

/// A network of nodes in one process. Clones are the same network.
#[derive(Clone)]
pub struct MemoryNetwork(Arc<Mutex<State>>);

/// One node's access to a [`MemoryNetwork`]. Dropping it closes it.
pub struct MemoryTransport {
    network: MemoryNetwork,
    id: u64,
    addr: SocketAddr,
}

struct State {
    /// Every transport that was not dropped, also after its end.
    nodes: BTreeMap<u64, Node>,
    /// Those that hold an address.
    listening: BTreeMap<SocketAddr, u64>,
    /// Pairs that cannot reach each other, smaller address first.
    cuts: BTreeSet<(SocketAddr, SocketAddr)>,
    streams: Vec<Open>,
    sweep_at: usize,
    next: u64,
    loss: f64,
    chance: ChaCha8Rng,
}

struct Node {
    addr: SocketAddr,
    running: Option<Running>,
    counters: TransportCounters,
}

struct Running {
    local: LocalNode,
    incoming: mpsc::Sender<Incoming>,
    /// Newest run heard of, for each name.
    newest: BTreeMap<NodeId, BootId>,
}

/// A stream on the books, so that faults find it.
struct Open {
    ends: [End; 2],
    pipes: Weak<Pipes>,
}

struct End {
    id: u64,
    addr: SocketAddr,
    instance: Instance,
    kind: PeerKind,
}

/// Why a message does not reach its addressee.
enum Obstacle {
    /// It would hear and see nothing.
    Silence,
    Error(TransportError),
}

impl Default for MemoryNetwork {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemoryNetwork")
    }
}

impl fmt::Debug for MemoryTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MemoryTransport").field(&self.addr).finish()
    }
}

impl MemoryNetwork {
    /// An empty network without faults.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            nodes: BTreeMap::new(),
            listening: BTreeMap::new(),
            cuts: BTreeSet::new(),
            streams: Vec::new(),
            sweep_at: FIRST_SWEEP,
            next: 0,
            loss: 0.0,
            chance: ChaCha8Rng::seed_from_u64(0),
        })))
    }

    /// A transport at an address of its own.
    pub fn transport(&self) -> Arc<MemoryTransport> {
        let mut state = self.lock();
        loop {
            state.next += 1;
            let [.., a, b, c] = state.next.to_be_bytes();
            let addr = (Ipv4Addr::new(10, a, b, c), 7_000).into();
            if !state.listening.contains_key(&addr) {
                return self.bind(&mut state, addr);
            }
        }
    }

    /// A transport at the given address, which must be free: never used, or its transport closed, aborted or dropped.
    pub fn transport_at(&self, addr: SocketAddr) -> Result<Arc<MemoryTransport>, TransportError> {
        let mut state = self.lock();
        if state.listening.contains_key(&addr) {
            let reason = "the address is in use".to_owned();
            return Err(TransportError::Bind { addr, reason });
        }
        state.next += 1;
        Ok(self.bind(&mut state, addr))
    }

    fn bind(&self, state: &mut State, addr: SocketAddr) -> Arc<MemoryTransport> {
        let id = state.next;
        state.listening.insert(addr, id);
        let node = Node {
            addr,
            running: None,
            counters: TransportCounters::default(),
        };
        state.nodes.insert(id, node);
        Arc::new(MemoryTransport {
            network: self.clone(),
            id,
            addr,
        })
    }

    /// Cuts two addresses off from each other, in both directions: datagrams are lost, streams stand still.
    pub fn cut(&self, a: SocketAddr, b: SocketAddr) {
        let mut state = self.lock();
        state.cuts.insert(pair(a, b));
        state.update_streams();
    }

    /// Cuts an address off from all that are on the network now.
    pub fn isolate(&self, addr: SocketAddr) {
        let mut state = self.lock();
        let others: Vec<SocketAddr> = state.listening.keys().copied().collect();
        let others = others.into_iter().filter(|other| *other != addr);
        state.cuts.extend(others.map(|other| pair(addr, other)));
        state.update_streams();
    }

    /// Ends a cut: streams between the two go on where they stood.
    pub fn heal(&self, a: SocketAddr, b: SocketAddr) {
        let mut state = self.lock();
        state.cuts.remove(&pair(a, b));
        state.update_streams();
    }

    /// Ends all cuts.
    pub fn heal_all(&self) {
        let mut state = self.lock();
        state.cuts.clear();
        state.update_streams();
    }

    /// Loses each datagram with this probability (0: none, 1: all). The same datagrams in every run.
    pub fn lose_datagrams(&self, probability: f64) {
        self.lock().loss = probability.clamp(0.0, 1.0);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pair(a: SocketAddr, b: SocketAddr) -> (SocketAddr, SocketAddr) {
    (a.min(b), a.max(b))
}

impl State {
    fn running(&self, id: u64) -> Option<&Running> {
        self.nodes.get(&id)?.running.as_ref()
    }

    fn count(&mut self, id: u64, count: impl FnOnce(&mut TransportCounters)) {
        if let Some(node) = self.nodes.get_mut(&id) {
            count(&mut node.counters);
        }
    }

    /// The node that `from` reaches at `to`, after both have seen who the other is.
    fn meet(&mut self, from: u64, to: &PeerAddr) -> Result<u64, Obstacle> {
        let addr = to.addr;
        let caller = self
            .running(from)
            .ok_or(Obstacle::Error(TransportError::Closed))?;
        let caller_local = caller.local.clone();
        let caller_addr = self.nodes[&from].addr;
        if self.cuts.contains(&pair(caller_addr, addr)) {
            return Err(Obstacle::Silence);
        }
        let found = self.listening.get(&addr).copied();
        let Some((id, callee)) = found.and_then(|id| Some((id, self.running(id)?))) else {
            let reason = "nobody listens there".to_owned();
            return Err(Obstacle::Error(TransportError::Unreachable {
                addr,
                reason,
            }));
        };
        let callee_local = callee.local.clone();
        if callee_local.kind == PeerKind::Client {
            let reason = "a client listens to nobody".to_owned();
            return Err(Obstacle::Error(TransportError::Unreachable {
                addr,
                reason,
            }));
        }
        let is_node = caller_local.kind == PeerKind::Node;
        let superseded = is_node && self.is_stale(id, &caller_local.instance);
        if superseded {
            let by = self.running(id).and_then(|running| {
                let newest = running.newest.get(&caller_local.instance.node);
                newest.copied()
            });
            self.tell_superseded(from, by);
        }
        let stale = superseded || self.is_stale(from, &callee_local.instance);
        let spoken = caller_local.versions.common(callee_local.versions);
        let (reason, both) = if let Err(none) = spoken {
            (none.to_string(), true)
        } else if callee_local.cluster != caller_local.cluster {
            (format!("its cluster is {}", callee_local.cluster), true)
        } else if to
            .node
            .as_ref()
            .is_some_and(|name| *name != callee_local.instance.node)
        {
            (format!("it is {}", callee_local.instance.node), false)
        } else if stale {
            ("a newer run of the same name was seen".to_owned(), true)
        } else {
            self.introduce(from, &callee_local.instance);
            if is_node {
                self.introduce(id, &caller_local.instance);
            }
            return Ok(id);
        };
        self.count(from, |counters| counters.refused += 1);
        if both {
            self.count(id, |counters| counters.refused += 1);
        }
        Err(Obstacle::Error(TransportError::Refused { addr, reason }))
    }

    fn is_stale(&self, at: u64, peer: &Instance) -> bool {
        let newest = self
            .running(at)
            .and_then(|running| running.newest.get(&peer.node));
        newest.is_some_and(|newest| peer.boot < *newest)
    }

    fn tell_superseded(&self, at: u64, by: Option<BootId>) {
        if let Some(running) = self.running(at) {
            // With a full queue it is told again at its next attempt.
            let _ = running.incoming.try_send(Incoming::Superseded { by });
        }
    }

    /// Notes the run of a peer; streams with its earlier runs break.
    fn introduce(&mut self, at: u64, peer: &Instance) {
        let node = self.nodes.get_mut(&at);
        let Some(running) = node.and_then(|node| node.running.as_mut()) else {
            return;
        };
        let before = running.newest.insert(peer.node.clone(), peer.boot);
        if before.is_none_or(|before| before == peer.boot) {
            return;
        }
        for stream in &self.streams {
            let [a, b] = &stream.ends;
            let is_older = |end: &End| {
                end.kind == PeerKind::Node
                    && end.instance.node == peer.node
                    && end.instance.boot < peer.boot
            };
            let replaced = (a.id == at && is_older(b)) || (b.id == at && is_older(a));
            if let (true, Some(pipes)) = (replaced, stream.pipes.upgrade()) {
                pipes.replace();
            }
        }
    }

    /// Applies the cuts to the streams that there are.
    fn update_streams(&self) {
        for stream in &self.streams {
            let [a, b] = &stream.ends;
            let is_cut = self.cuts.contains(&pair(a.addr, b.addr));
            if let Some(pipes) = stream.pipes.upgrade() {
                pipes.freeze(is_cut);
            }
        }
    }

    fn streams_of(&self, id: u64) -> impl Iterator<Item = Arc<Pipes>> {
        let of_node = move |stream: &&Open| stream.ends.iter().any(|end| end.id == id);
        let streams = self.streams.iter().filter(of_node);
        streams.filter_map(|stream| stream.pipes.upgrade())
    }

    /// The node as the other one sees it.
    fn peer(&self, id: u64, other: u64) -> Option<Peer> {
        let node = self.nodes.get(&id)?;
        let local = &node.running.as_ref()?.local;
        let others = self.running(other)?.local.versions;
        Some(Peer {
            version: local.versions.common(others).ok()?,
            instance: local.instance.clone(),
            kind: local.kind,
            addr: node.addr,
        })
    }

    fn send(&mut self, from: u64, to: &PeerAddr, payload: Bytes) {
        let is_lost = self.loss > 0.0 && self.chance.random_bool(self.loss);
        let fits = payload.len() <= MAX_DATAGRAM_BYTES;
        let reached = if fits && !is_lost {
            self.meet(from, to).ok()
        } else {
            None
        };
        let delivered = reached.map(|id| {
            let incoming = self
                .peer(from, id)
                .map(|from| Incoming::Datagram { from, payload });
            let sent = incoming
                .zip(self.running(id))
                .map(|(incoming, to)| to.incoming.try_send(incoming));
            (id, matches!(sent, Some(Ok(()))))
        });
        match delivered {
            Some((_, true)) => {}
            Some((id, false)) => self.count(id, |counters| counters.datagrams_dropped += 1),
            None => self.count(from, |counters| counters.datagrams_dropped += 1),
        }
    }

    /// Our end of a new stream, and where its other end has to go.
    fn connect(&mut self, from: u64, to: &PeerAddr) -> Result<Connected, Obstacle> {
        let id = self.meet(from, to)?;
        let gone = || Obstacle::Error(TransportError::Closed);
        let (opener, peer) = self
            .peer(from, id)
            .zip(self.peer(id, from))
            .ok_or_else(gone)?;
        let (pipes, ours, theirs) = pipes::new();
        let end = |id, peer: &Peer| End {
            id,
            addr: peer.addr,
            instance: peer.instance.clone(),
            kind: peer.kind,
        };
        self.streams.push(Open {
            ends: [end(from, &opener), end(id, &peer)],
            pipes: Arc::downgrade(&pipes),
        });
        if self.streams.len() >= self.sweep_at {
            self.streams.retain(|open| open.pipes.strong_count() > 0);
            self.sweep_at = FIRST_SWEEP.max(2 * self.streams.len());
        }
        let incoming = self.running(id).ok_or_else(gone)?.incoming.clone();
        let offer = Incoming::Stream {
            from: opener,
            stream: theirs,
        };
        Ok(Connected {
            peer,
            ours,
            offer,
            incoming,
        })
    }
}

struct Connected {
    peer: Peer,
    ours: Stream,
    offer: Incoming,
    incoming: mpsc::Sender<Incoming>,
}

impl MemoryTransport {
    /// Takes the node off the network.
    fn end(&self, end_stream: impl Fn(&Pipes)) {
        let mut state = self.network.lock();
        state
            .streams_of(self.id)
            .for_each(|pipes| end_stream(&pipes));
        if let Some(node) = state.nodes.get_mut(&self.id) {
            node.running = None;
        }
        if state.listening.get(&self.addr) == Some(&self.id) {
            state.listening.remove(&self.addr);
        }
    }

    fn is_ended(&self, state: &State) -> bool {
        state.listening.get(&self.addr) != Some(&self.id)
    }
}

impl Transport for MemoryTransport {
    fn start(&self, local: LocalNode) -> Result<mpsc::Receiver<Incoming>, TransportError> {
        let mut state = self.network.lock();
        if self.is_ended(&state) {
            return Err(TransportError::Closed);
        }
        let (incoming, receiver) = mpsc::channel(INCOMING_QUEUE);
        if let Some(node) = state.nodes.get_mut(&self.id) {
            node.running = Some(Running {
                local,
                incoming,
                newest: BTreeMap::new(),
            });
        }
        Ok(receiver)
    }

    fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    fn send_datagram(&self, to: &PeerAddr, payload: Bytes) {
        self.network.lock().send(self.id, to, payload);
    }

    fn open_stream<'a>(
        &'a self,
        to: &'a PeerAddr,
    ) -> BoxFuture<'a, Result<(Peer, Stream), TransportError>> {
        Box::pin(async move {
            let addr = to.addr;
            let unreachable = |reason: &str| TransportError::Unreachable {
                addr,
                reason: reason.to_owned(),
            };
            let mut connected = self.network.lock().connect(self.id, to);
            if let Err(Obstacle::Silence) = connected {
                Environment::current().sleep(CONNECT_TIMEOUT).await;
                connected = self.network.lock().connect(self.id, to);
            }
            let connected = connected.map_err(|obstacle| match obstacle {
                Obstacle::Silence => unreachable("no answer in time"),
                Obstacle::Error(error) => error,
            })?;
            let offered = connected.incoming.send(connected.offer).await;
            offered.map_err(|_| unreachable("it went away"))?;
            Ok((connected.peer, connected.ours))
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async { self.end(Pipes::sever) })
    }

    fn abort(&self) {
        self.end(Pipes::kill);
    }

    fn counters(&self) -> TransportCounters {
        let state = self.network.lock();
        let node = state.nodes.get(&self.id);
        node.map(|node| node.counters).unwrap_or_default()
    }
}

impl Drop for MemoryTransport {
    fn drop(&mut self) {
        self.end(Pipes::sever);
        self.network.lock().nodes.remove(&self.id);
    }
}

#[cfg(test)]
mod tests;
