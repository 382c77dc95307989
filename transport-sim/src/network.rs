//! What all transports of one simulation share: who is believed, what is lost, and the fingerprint of the run.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use funk::ids::NodeId;

use crate::ports::{Hosts, Socket};

/// What the nodes of a simulation talk over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Network {
    /// Streams over simulated TCP and datagrams over simulated UDP, in a format of this crate: the faster one, and
    /// its fingerprint covers every byte.
    #[default]
    Tcp,
    /// The QUIC transport that ships, TLS included, over simulated UDP. Its fingerprint covers the length of every
    /// packet, not the content: keys come from the operating system.
    Quic,
}

/// Whose names are believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Names {
    /// A node must bear the name of the simulated host that it runs on: over QUIC it gets a certificate for that name
    /// only.
    #[default]
    OfHosts,
    /// Every claim is believed: for tests that run several nodes on one host.
    Claimed,
}

/// Shared by the transports of one simulation. Clones are the same network.
#[derive(Clone)]
pub struct SimNetwork(Arc<Mutex<State>>);

struct State {
    names: Names,
    fingerprint: u64,
    messages: u64,
    loss: f64,
    chance: u64,
    hosts: Hosts,
}

impl fmt::Debug for SimNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimNetwork({:016x})", self.fingerprint())
    }
}

impl SimNetwork {
    /// A network without loss. What chance does in it follows from `seed`.
    pub fn new(names: Names, seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            names,
            fingerprint: 0,
            messages: 0,
            loss: 0.0,
            chance: seed,
            hosts: Hosts::default(),
        })))
    }

    /// Hash over all messages so far, in order: time, sender, receiver, length and bytes of each; of QUIC packets,
    /// which are encrypted by keys that do not repeat, all but the bytes.
    pub fn fingerprint(&self) -> u64 {
        self.lock().fingerprint
    }

    /// Messages sent so far: datagrams and pieces of streams, or QUIC packets.
    pub fn messages(&self) -> u64 {
        self.lock().messages
    }

    /// Loses each datagram and each QUIC packet with this probability (0: none, 1: all). Streams over TCP lose nothing
    /// but what cuts swallow.
    pub fn lose_datagrams(&self, probability: f64) {
        self.lock().loss = probability.clamp(0.0, 1.0);
    }

    /// Notes that a message leaves.
    pub(crate) fn note(&self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        self.lock().note(from, to, bytes.len(), bytes);
    }

    /// Notes that a packet leaves whose bytes differ from run to run.
    pub(crate) fn note_length(&self, from: SocketAddr, to: SocketAddr, len: usize) {
        self.lock().note(from, to, len, &[]);
    }

    /// A socket of that host was opened; it closes at the latest with the next run of the host.
    pub(crate) fn enlist<T: Send + 'static>(&self, host: IpAddr, socket: &Arc<Socket<T>>) {
        self.lock().hosts.enlist(host, socket);
    }

    /// Takes a host's power: nothing leaves it any more.
    pub(crate) fn power_off(&self, host: IpAddr) {
        self.lock().hosts.power_off(host);
    }

    /// A run of a host begins. To be called within the host.
    pub(crate) fn power_on(&self, host: IpAddr) {
        let earlier = self.lock().hosts.power_on(host);
        earlier.iter().for_each(|socket| socket.close());
    }

    /// Whether a host can send.
    pub(crate) fn has_power(&self, host: IpAddr) -> bool {
        self.lock().hosts.has_power(host)
    }

    /// Whether the network swallows this datagram.
    pub(crate) fn loses(&self) -> bool {
        let mut state = self.lock();
        if state.loss == 0.0 {
            return false;
        }
        state.chance = state.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        // 53 bits, as many as a float holds.
        let drawn = (scramble(state.chance) >> 11) as f64 / (1_u64 << 53) as f64;
        drawn < state.loss
    }

    /// Whether a node at this address may bear this name.
    pub(crate) fn believes(&self, node: &NodeId, ip: IpAddr) -> bool {
        match self.lock().names {
            Names::Claimed => true,
            Names::OfHosts => turmoil::reverse_lookup(ip).as_deref() == Some(node.as_str()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn note(&mut self, from: SocketAddr, to: SocketAddr, len: usize, bytes: &[u8]) {
        let now = turmoil::sim_elapsed().unwrap_or_default();
        self.messages += 1;
        let mut hash = self.fingerprint;
        for addr in [from, to] {
            hash = mix(hash, u64::from(addr.port()));
            hash = match addr.ip() {
                IpAddr::V4(ip) => mix(hash, u64::from(ip.to_bits())),
                IpAddr::V6(ip) => mix(mix(hash, ip.to_bits() as u64), (ip.to_bits() >> 64) as u64),
            };
        }
        hash = [now.as_nanos() as u64, len as u64]
            .into_iter()
            .fold(hash, mix);
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            hash = mix(hash, u64::from_le_bytes(word));
        }
        self.fingerprint = hash;
    }
}

fn mix(hash: u64, word: u64) -> u64 {
    scramble(hash.rotate_left(5) ^ word)
}

/// The mixer of SplitMix64 (Steele, Lea, Flood 2014).
pub(crate) fn scramble(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
