//! What all transports of one simulation share: who is believed, what is lost, and the fingerprint of the run.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use funk::ids::NodeId;

/// Whose names are believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Names {
    /// A node must bear the name of the simulated host that it runs on: the simulation's certificate.
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
        })))
    }

    /// Hash over all messages so far: time, sender, receiver, length and bytes of each, in order.
    pub fn fingerprint(&self) -> u64 {
        self.lock().fingerprint
    }

    /// Messages sent so far: datagrams and pieces of streams.
    pub fn messages(&self) -> u64 {
        self.lock().messages
    }

    /// Loses each datagram with this probability (0: none, 1: all). Streams lose nothing but what cuts swallow.
    pub fn lose_datagrams(&self, probability: f64) {
        self.lock().loss = probability.clamp(0.0, 1.0);
    }

    /// Notes that a message leaves.
    pub(crate) fn note(&self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let now = turmoil::sim_elapsed().unwrap_or_default();
        let mut state = self.lock();
        state.messages += 1;
        let mut hash = state.fingerprint;
        let words = [now.as_nanos() as u64, bytes.len() as u64];
        for addr in [from, to] {
            hash = mix(hash, u64::from(addr.port()));
            hash = match addr.ip() {
                IpAddr::V4(ip) => mix(hash, u64::from(ip.to_bits())),
                IpAddr::V6(ip) => mix(mix(hash, ip.to_bits() as u64), (ip.to_bits() >> 64) as u64),
            };
        }
        hash = words.into_iter().fold(hash, mix);
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            hash = mix(hash, u64::from_le_bytes(word));
        }
        state.fingerprint = hash;
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
