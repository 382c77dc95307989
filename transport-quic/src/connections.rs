//! Which connections there are, by peer: one for each pair in the end.
//!
//! The rules hold on both sides without talking about it, so that both keep the same connection:
//! - a newer run of the peer replaces everything of an older one at once; an older run is refused;
//! - of two connections that the two sides opened, the one opened by the smaller name is kept;
//! - of two that the same side opened, the later one is kept (that side has lost the earlier one, or reached
//!   the peer by another address).
//!
//! The other connection becomes a spare: nothing new is opened on it here, what is open on it finishes, and the idle
//! timeout removes it without a word. Should the kept one turn out to be dead, the spare takes its place.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use funk::ids::{BootId, Instance, NodeId, PeerAddr};
use funk::transport::Peer;

/// Spares kept for one peer; a further one displaces the oldest.
const MAX_SPARES: usize = 4;
/// Addresses remembered for one peer, the most recent ones.
const MAX_ADDRESSES: usize = 8;
/// Peers remembered, connected or not; past it those not connected are forgotten.
const MAX_PEERS: usize = 4_096;

/// Who opened a connection, and which of that side's dials it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Origin {
    pub(crate) dialed_here: bool,
    pub(crate) dial: u64,
}

/// What the table knows of a connection.
pub(crate) trait Connection {
    fn peer(&self) -> &Peer;
    fn origin(&self) -> Origin;
    fn is_open(&self) -> bool;
}

/// What follows from a new connection.
#[derive(Debug)]
pub(crate) struct Admitted<C> {
    /// Connections of an older run of the peer: to be closed now.
    pub(crate) replaced: Vec<Arc<C>>,
    /// A spare too many: to be closed now.
    pub(crate) displaced: Option<Arc<C>>,
    /// The connection that was kept before the new one: to be probed, since the peer may have forgotten it.
    pub(crate) doubtful: Option<Arc<C>>,
}

/// All connections of a node.
#[derive(Debug)]
pub(crate) struct Connections<C> {
    local: NodeId,
    peers: BTreeMap<NodeId, Known<C>>,
    by_address: BTreeMap<SocketAddr, NodeId>,
}

/// What is known of a peer.
///
/// Invariant: all connections are of the run `boot`.
#[derive(Debug)]
struct Known<C> {
    boot: BootId,
    /// New streams and datagrams go here.
    kept: Option<Arc<C>>,
    spares: VecDeque<Arc<C>>,
    /// Where this run of the peer was reached or came from.
    addresses: VecDeque<SocketAddr>,
}

impl<C: Connection> Connections<C> {
    pub(crate) fn new(local: NodeId) -> Self {
        Self {
            local,
            peers: BTreeMap::new(),
            by_address: BTreeMap::new(),
        }
    }

    /// The open connection to a peer, if there is one.
    pub(crate) fn find(&self, to: &PeerAddr) -> Option<&Arc<C>> {
        let node = match &to.node {
            Some(node) => node,
            None => self.by_address.get(&to.addr)?,
        };
        let known = self.peers.get(node)?;
        // Elsewhere there may be another run of it.
        if !known.addresses.contains(&to.addr) {
            return None;
        }
        known.open()
    }

    /// Takes up a connection whose two sides have introduced themselves, or tells the newer run that is known.
    pub(crate) fn admit(&mut self, new: Arc<C>) -> Result<Admitted<C>, BootId> {
        let Instance { node, boot } = new.peer().instance.clone();
        let addr = new.peer().addr;
        if !self.peers.contains_key(&node) {
            self.forget_some();
        }
        let known = self.peers.entry(node.clone()).or_insert_with(|| Known {
            boot,
            kept: None,
            spares: VecDeque::new(),
            addresses: VecDeque::new(),
        });
        if boot < known.boot {
            return Err(known.boot);
        }
        let mut admitted = Admitted {
            replaced: Vec::new(),
            displaced: None,
            doubtful: None,
        };
        if boot > known.boot {
            admitted.replaced.extend(known.kept.take());
            admitted.replaced.extend(known.spares.drain(..));
            for old in known.addresses.drain(..) {
                self.by_address.remove(&old);
            }
            known.boot = boot;
        }
        if !known.addresses.contains(&addr) {
            if known.addresses.len() == MAX_ADDRESSES
                && let Some(oldest) = known.addresses.pop_front()
            {
                self.by_address.remove(&oldest);
            }
            known.addresses.push_back(addr);
        }
        if let Some(other) = self.by_address.insert(addr, node.clone())
            && other != node
            && let Some(other) = self.peers.get_mut(&other)
        {
            other.addresses.retain(|old| *old != addr);
        }
        let Some(known) = self.peers.get_mut(&node) else {
            return Ok(admitted);
        };
        let spare = match known.kept.take().filter(|old| old.is_open()) {
            None => {
                known.kept = Some(new);
                None
            }
            Some(old) if prefers(&self.local, &new, &old) => {
                known.kept = Some(new);
                Some(old)
            }
            Some(old) => {
                admitted.doubtful = Some(old.clone());
                known.kept = Some(old);
                Some(new)
            }
        };
        known.spares.retain(|spare| spare.is_open());
        known.spares.extend(spare);
        if known.spares.len() > MAX_SPARES {
            admitted.displaced = known.spares.pop_front();
        }
        Ok(admitted)
    }

    /// Strikes off a connection that has ended; a spare takes its place.
    pub(crate) fn remove(&mut self, ended: &Arc<C>) {
        let Some(known) = self.peers.get_mut(&ended.peer().instance.node) else {
            return;
        };
        known.spares.retain(|spare| !Arc::ptr_eq(spare, ended));
        if known
            .kept
            .as_ref()
            .is_some_and(|kept| Arc::ptr_eq(kept, ended))
        {
            known.kept = None;
            known.spares.retain(|spare| spare.is_open());
            let best = (0..known.spares.len()).reduce(|best, next| {
                if prefers(&self.local, &known.spares[next], &known.spares[best]) {
                    next
                } else {
                    best
                }
            });
            known.kept = best.and_then(|best| known.spares.remove(best));
        }
    }

    /// All connections, kept ones and spares.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<C>> {
        self.peers
            .values()
            .flat_map(|known| known.kept.iter().chain(&known.spares))
    }

    /// Lets go of all connections.
    pub(crate) fn clear(&mut self) -> Vec<Arc<C>> {
        let all = self.iter().cloned().collect();
        self.peers.clear();
        self.by_address.clear();
        all
    }

    fn forget_some(&mut self) {
        if self.peers.len() < MAX_PEERS {
            return;
        }
        self.peers
            .retain(|_, known| known.kept.is_some() || !known.spares.is_empty());
        let peers = &self.peers;
        self.by_address.retain(|_, node| peers.contains_key(node));
    }
}

impl<C: Connection> Known<C> {
    fn open(&self) -> Option<&Arc<C>> {
        self.kept.as_ref().filter(|kept| kept.is_open())
    }
}

/// Whether both sides keep the first of two connections between the same two runs.
fn prefers<C: Connection>(local: &NodeId, first: &Arc<C>, second: &Arc<C>) -> bool {
    let (a, b) = (first.origin(), second.origin());
    if a.dialed_here == b.dialed_here {
        return a.dial > b.dial;
    }
    let smaller_is_here = *local < first.peer().instance.node;
    a.dialed_here == smaller_is_here
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[derive(Debug)]
    struct Fake {
        peer: Peer,
        origin: Origin,
        open: AtomicBool,
    }

    impl Connection for Fake {
        fn peer(&self) -> &Peer {
            &self.peer
        }
        fn origin(&self) -> Origin {
            self.origin
        }
        fn is_open(&self) -> bool {
            self.open.load(Ordering::Relaxed)
        }
    }

    fn id(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], port))
    }

    fn fake(node: &str, boot: u64, dialed_here: bool, dial: u64, port: u16) -> Arc<Fake> {
        Arc::new(Fake {
            peer: Peer {
                version: funk::versions::NEWEST,
                instance: Instance {
                    node: id(node),
                    boot: BootId(boot),
                },
                kind: funk::transport::PeerKind::Node,
                addr: addr(port),
            },
            origin: Origin { dialed_here, dial },
            open: AtomicBool::new(true),
        })
    }

    fn to(node: &str, port: u16) -> PeerAddr {
        PeerAddr {
            node: Some(id(node)),
            addr: addr(port),
        }
    }

    fn is(found: Option<&Arc<Fake>>, expected: &Arc<Fake>) -> bool {
        found.is_some_and(|found| Arc::ptr_eq(found, expected))
    }

    #[test]
    fn of_two_dials_both_sides_keep_the_one_of_the_smaller_name_in_any_order() {
        for (local, peer, keeps_own) in [("a", "b", true), ("b", "a", false)] {
            for own_first in [true, false] {
                let mut table = Connections::new(id(local));
                let own = fake(peer, 1, true, 1, 1);
                let theirs = fake(peer, 1, false, 1, 1);
                let (first, second) = if own_first {
                    (&own, &theirs)
                } else {
                    (&theirs, &own)
                };
                table.admit(first.clone()).unwrap();
                assert!(is(table.find(&to(peer, 1)), first));
                table.admit(second.clone()).unwrap();
                let kept = if keeps_own { &own } else { &theirs };
                assert!(is(table.find(&to(peer, 1)), kept), "{local} {own_first}");
                assert_eq!(table.iter().count(), 2);
            }
        }
    }

    #[test]
    fn of_two_dials_of_one_side_the_later_is_kept_in_any_order() {
        for later_first in [true, false] {
            let mut table = Connections::new(id("a"));
            let (earlier, later) = (fake("b", 1, false, 3, 1), fake("b", 1, false, 4, 1));
            let (first, second) = if later_first {
                (&later, &earlier)
            } else {
                (&earlier, &later)
            };
            table.admit(first.clone()).unwrap();
            table.admit(second.clone()).unwrap();
            assert!(is(table.find(&to("b", 1)), &later));
        }
    }

    #[test]
    fn a_newer_run_replaces_everything_and_an_older_one_is_refused() {
        let mut table = Connections::new(id("a"));
        table.admit(fake("b", 5, true, 1, 1)).unwrap();
        table.admit(fake("b", 5, false, 1, 1)).unwrap();
        let newer = fake("b", 6, false, 1, 2);
        let admitted = table.admit(newer.clone()).unwrap();
        assert_eq!(admitted.replaced.len(), 2);
        assert!(is(table.find(&to("b", 2)), &newer));
        assert!(
            table.find(&to("b", 1)).is_none(),
            "the old address is stale"
        );
        table.remove(&newer);
        let refused = table.admit(fake("b", 5, true, 2, 1));
        assert_eq!(refused.unwrap_err(), BootId(6), "known even when gone");
    }

    #[test]
    fn a_spare_takes_the_place_of_a_dead_connection() {
        let mut table = Connections::new(id("a"));
        let own = fake("b", 1, true, 1, 1);
        let theirs = fake("b", 1, false, 1, 1);
        table.admit(own.clone()).unwrap();
        let admitted = table.admit(theirs.clone()).unwrap();
        let doubtful = admitted.doubtful.unwrap();
        assert!(Arc::ptr_eq(&doubtful, &own), "the peer may have lost it");
        own.open.store(false, Ordering::Relaxed);
        assert!(table.find(&to("b", 1)).is_none());
        table.remove(&own);
        assert!(is(table.find(&to("b", 1)), &theirs));
        table.remove(&theirs);
        assert_eq!(table.iter().count(), 0);
    }

    #[test]
    fn addresses_lead_to_whoever_answered_there_last() {
        let mut table = Connections::new(id("a"));
        let seed = |port| PeerAddr {
            node: None,
            addr: addr(port),
        };
        let b = fake("b", 1, true, 1, 1);
        table.admit(b.clone()).unwrap();
        assert!(is(table.find(&seed(1)), &b));
        assert!(table.find(&seed(2)).is_none());
        assert!(
            table.find(&to("b", 2)).is_none(),
            "another run may be there"
        );
        let alias = fake("b", 1, true, 2, 2);
        table.admit(alias.clone()).unwrap();
        assert!(
            is(table.find(&to("b", 1)), &alias),
            "one connection, two addresses"
        );
        let c = fake("c", 1, true, 3, 1);
        table.admit(c.clone()).unwrap();
        assert!(is(table.find(&seed(1)), &c));
        assert!(table.find(&to("b", 1)).is_none());
        assert!(is(table.find(&to("b", 2)), &alias));
    }

    #[test]
    fn spares_and_peers_are_bounded() {
        let mut table = Connections::new(id("a"));
        let mut displaced = 0;
        for dial in 0..10 {
            let admitted = table.admit(fake("b", 1, false, dial, 1)).unwrap();
            displaced += usize::from(admitted.displaced.is_some());
        }
        assert_eq!(displaced, 10 - 1 - MAX_SPARES);
        assert_eq!(table.iter().count(), 1 + MAX_SPARES);
        for n in 0..MAX_PEERS + 10 {
            let gone = fake(&format!("p{n}"), 1, false, 1, 2);
            table.admit(gone.clone()).unwrap();
            table.remove(&gone);
        }
        assert!(table.peers.len() <= MAX_PEERS);
        assert!(table.by_address.len() <= 2);
        assert!(table.find(&to("b", 1)).is_some());
    }
}
