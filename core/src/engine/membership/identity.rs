//! What gossip says about a node: the identity that SWIM spreads.
//!
//! Everything that must reach every node, late joiners too, is part of the identity, because SWIM's anti-entropy
//! (feeds of members, and the sender in each packet) spreads identities for ever and broadcasts only for a while.
//! A change is a new identity of the same name: a larger `generation`. A node that was declared down comes
//! back the same way.

use std::net::{SocketAddr, SocketAddrV6};

use serde::{Deserialize, Serialize};

use crate::ids::{BootId, ClusterId, Instance, MemberKind, NodeId, PeerAddr, StoreId};
use crate::mutants::{Mutant, mutated};
use crate::versions::VersionRange;

/// One version of what a node says about itself.
///
/// The order decides which of two versions stands, so the fields that count come first; the others only break
/// ties, so that all nodes decide alike even about a node that contradicts itself.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(super) struct Identity {
    /// Stable name; at most one identity of each name stands.
    pub(super) node: NodeId,
    /// The run: a restarted node replaces its former run at once.
    pub(super) boot: BootId,
    /// Grows with every change of the fields below, and when the node was wrongly declared down.
    pub(super) generation: u64,
    /// What the node says.
    pub(super) profile: Profile,
}

/// The part of an identity that its node changes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(super) struct Profile {
    /// Where the node is reached.
    pub(super) addr: SocketAddr,
    /// Its raft store.
    pub(super) store: StoreId,
    /// What part it takes.
    pub(super) kind: MemberKind,
    /// How many candidates it waits for to form a cluster.
    pub(super) expect: u16,
    /// What share of the load it takes, compared to others.
    pub(super) capacity: u32,
    /// Version of its tags; 0: it has none and never had.
    pub(super) tag_version: u64,
    /// It said that it leaves.
    pub(super) leaving: bool,
    /// Its services have not been ready for a while (rule M10).
    pub(super) unready: bool,
    /// The initialised cluster that it belongs to.
    pub(super) cluster: Option<ClusterId>,
    /// The versions of the protocol that it speaks.
    pub(super) versions: VersionRange,
}

impl Identity {
    pub(super) fn instance(&self) -> Instance {
        Instance {
            node: self.node.clone(),
            boot: self.boot,
        }
    }

    pub(super) fn peer_addr(&self) -> PeerAddr {
        PeerAddr {
            node: Some(self.node.clone()),
            addr: self.profile.addr,
        }
    }

    /// The same run with something else to say; `None` when the generations are used up.
    pub(super) fn successor(&self, profile: Profile) -> Option<Self> {
        Some(Self {
            generation: self.generation.checked_add(1)?,
            profile,
            ..self.clone()
        })
    }
}

/// The address as it survives the wire: flow information and scope mean nothing to other hosts.
pub(super) fn portable(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V4(_) => addr,
        SocketAddr::V6(v6) => SocketAddrV6::new(*v6.ip(), v6.port(), 0, 0).into(),
    }
}

impl foca::Identity for Identity {
    type Addr = NodeId;

    fn renew(&self) -> Option<Self> {
        if mutated(Mutant::IdentityNotRenewed) {
            return None;
        }
        self.successor(self.profile.clone())
    }

    fn addr(&self) -> NodeId {
        self.node.clone()
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self > adversary
    }
}

#[cfg(test)]
pub(super) fn identity(node: &str, boot: u64, generation: u64) -> Identity {
    Identity {
        node: NodeId::new(node).unwrap(),
        boot: BootId(boot),
        generation,
        profile: Profile {
            addr: SocketAddr::from(([10, 0, 0, 1], 7000)),
            store: StoreId(7),
            kind: MemberKind::Voter,
            expect: 3,
            capacity: 1,
            tag_version: 0,
            leaving: false,
            unready: false,
            cluster: None,
            versions: VersionRange::SPOKEN,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use foca::Identity as _;

    #[test]
    fn a_newer_boot_wins_whatever_the_generations() {
        let old = identity("a", 1, 9);
        let new = identity("a", 2, 0);
        assert!(new.win_addr_conflict(&old));
        assert!(!old.win_addr_conflict(&new));
    }

    #[test]
    fn a_renewed_identity_wins_against_the_one_that_was_declared_down() {
        let old = identity("a", 1, 9);
        let new = old.renew().unwrap();
        assert!(new.win_addr_conflict(&old) && new.addr() == old.addr());
        assert_eq!(identity("a", 1, u64::MAX).renew(), None);
    }

    #[test]
    fn of_two_identities_with_one_number_exactly_one_wins() {
        let one = identity("a", 1, 1);
        let mut other = one.clone();
        other.profile.tag_version = 4;
        assert!(one.win_addr_conflict(&other) != other.win_addr_conflict(&one));
    }

    #[test]
    fn an_address_is_equal_to_itself_after_the_wire() {
        let scoped: SocketAddr =
            SocketAddrV6::new([0xfe80, 0, 0, 0, 0, 0, 0, 1].into(), 9, 3, 2).into();
        let addr = portable(scoped);
        let bytes = postcard::to_stdvec(&addr).unwrap();
        assert_eq!(postcard::from_bytes::<SocketAddr>(&bytes).unwrap(), addr);
    }
}
