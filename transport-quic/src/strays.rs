//! Packets of connections that this node knows nothing of, and whom to tell.
//!
//! After a power cut, peers go on sending on connections of the earlier run. Quinn answers with stateless resets, but
//! only a peer that dialled can believe those: the dialling side has no way to give its peer a reset token in
//! the handshake (RFC 9000, 10.3 and 18.2). So whoever sends a stray packet is also dialled: the introduction that
//! follows tells the peer of the new run.
//!
//! Quinn does not say where a stray came from; it only asks the generator of connection ids whether the id can
//! be one of ours. Ids asked for are noted here, and the socket looks for them in what arrives: the peer
//! repeats itself.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quinn::ConnectionIdGenerator;
use quinn_proto::{ConnectionId, HashedConnectionIdGenerator, InvalidCid};
use tokio::sync::mpsc;

/// Bytes in a connection id of the hashed generator.
const ID_BYTES: usize = 8;
/// Ids looked for at the same time; past it the oldest are forgotten.
const MAX_WANTED: usize = 32;
/// Packets looked at before ids that did not come again are forgotten.
const MAX_LOOKS: u32 = 4_096;
/// Senders not yet told; further ones are found again by their next packet.
const MAX_SENDERS: usize = 64;
/// Set in the first byte of packets with a long header, which belong to handshakes.
const LONG_HEADER: u8 = 0x80;

/// What is noted of strays. Shared by the generator, the socket and the endpoint.
#[derive(Debug)]
pub(crate) struct Strays {
    /// Whether there is anything to look for: all that most packets cost.
    any: AtomicBool,
    wanted: Mutex<Wanted>,
    senders: mpsc::Sender<SocketAddr>,
}

#[derive(Debug, Default)]
struct Wanted {
    ids: VecDeque<[u8; ID_BYTES]>,
    looks: u32,
}

impl Strays {
    /// Also returns where the senders of strays come out.
    pub(crate) fn new() -> (Arc<Self>, mpsc::Receiver<SocketAddr>) {
        let (senders, receiver) = mpsc::channel(MAX_SENDERS);
        let strays = Self {
            any: AtomicBool::new(false),
            wanted: Mutex::default(),
            senders,
        };
        (Arc::new(strays), receiver)
    }

    /// A generator whose ids are recognised by all runs with the same key.
    pub(crate) fn ids(self: &Arc<Self>, key: u64) -> Box<dyn ConnectionIdGenerator> {
        Box::new(Ids {
            hashed: HashedConnectionIdGenerator::from_key(key),
            strays: self.clone(),
        })
    }

    /// Looks at packets that one receive call returned for one sender, each `stride` bytes long or shorter.
    pub(crate) fn look(&self, sender: SocketAddr, packets: &[u8], stride: usize) {
        if !self.any.load(Ordering::Relaxed) {
            return;
        }
        for packet in packets.chunks(stride.max(1)) {
            let Some((first, rest)) = packet.split_first() else {
                continue;
            };
            if first & LONG_HEADER == 0
                && let Some(id) = rest.first_chunk::<ID_BYTES>()
                && self.found(id)
            {
                // Full: the peer will send again.
                let _ = self.senders.try_send(sender);
            }
        }
    }

    fn found(&self, id: &[u8; ID_BYTES]) -> bool {
        let mut wanted = self.wanted();
        wanted.looks += 1;
        let before = wanted.ids.len();
        wanted.ids.retain(|other| other != id);
        let found = wanted.ids.len() < before;
        if wanted.looks >= MAX_LOOKS {
            wanted.ids.clear();
        }
        self.any.store(!wanted.ids.is_empty(), Ordering::Relaxed);
        found
    }

    fn want(&self, id: &ConnectionId) {
        let Ok(id) = <[u8; ID_BYTES]>::try_from(&id[..]) else {
            return;
        };
        let mut wanted = self.wanted();
        wanted.looks = 0;
        if !wanted.ids.contains(&id) {
            if wanted.ids.len() == MAX_WANTED {
                wanted.ids.pop_front();
            }
            wanted.ids.push_back(id);
        }
        self.any.store(true, Ordering::Relaxed);
    }

    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Ids {
    hashed: HashedConnectionIdGenerator,
    strays: Arc<Strays>,
}

impl ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> ConnectionId {
        self.hashed.generate_cid()
    }

    /// Quinn asks this of packets that belong to no connection, and of no others.
    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        self.hashed.validate(id)?;
        self.strays.want(id);
        Ok(())
    }

    fn cid_len(&self) -> usize {
        self.hashed.cid_len()
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        self.hashed.cid_lifetime()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(id: &ConnectionId) -> Vec<u8> {
        let mut packet = vec![0x40];
        packet.extend_from_slice(id);
        packet.extend_from_slice(&[0; 30]);
        packet
    }

    #[test]
    fn the_sender_of_a_stray_is_found_by_its_next_packet() {
        let (strays, mut senders) = Strays::new();
        let sender: SocketAddr = ([10, 0, 0, 1], 1).into();
        let earlier = strays.ids(7).generate_cid();
        strays.look(sender, &packet(&earlier), 39);
        assert!(senders.try_recv().is_err(), "not known to be a stray yet");

        let ids = strays.ids(7);
        assert_eq!(ids.cid_len(), ID_BYTES);
        assert!(ids.validate(&earlier).is_ok());
        let other = packet(&strays.ids(7).generate_cid());
        let mut long = packet(&earlier);
        long[0] |= LONG_HEADER;
        let both = [other.clone(), long].concat();
        strays.look(sender, &both, other.len());
        strays.look(sender, &[], 0);
        strays.look(sender, &packet(&earlier)[..8], 8);
        assert!(senders.try_recv().is_err());
        let both = [other.clone(), packet(&earlier)].concat();
        strays.look(sender, &both, other.len());
        assert_eq!(senders.try_recv().unwrap(), sender);
        strays.look(sender, &both, other.len());
        assert!(senders.try_recv().is_err(), "once for each look-up");
        assert!(!strays.any.load(Ordering::Relaxed));
    }

    #[test]
    fn foreign_ids_are_not_looked_for_and_ours_not_forever() {
        let (strays, _senders) = Strays::new();
        let sender: SocketAddr = ([10, 0, 0, 1], 1).into();
        let foreign = strays.ids(8).generate_cid();
        assert!(strays.ids(7).validate(&foreign).is_err());
        assert!(!strays.any.load(Ordering::Relaxed));
        for _ in 0..100 {
            let id = strays.ids(7).generate_cid();
            strays.ids(7).validate(&id).unwrap();
        }
        assert_eq!(strays.wanted().ids.len(), MAX_WANTED);
        for _ in 0..MAX_LOOKS {
            strays.look(sender, &packet(&foreign), 39);
        }
        assert!(!strays.any.load(Ordering::Relaxed));
    }
}
