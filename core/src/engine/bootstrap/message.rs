//! What candidates say to each other while they form a cluster.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::ids::{BootId, ClusterId, Instance, RaftId};

/// Most members of one bootstrap set, so that an invitation with names of full length fits into a datagram. Where
/// more are expected, the first so many of them promise, and the initiator only waits to see the others.
pub const MAX_SET_MEMBERS: usize = 12;

/// What candidates say to each other. All of it may be lost, repeated or late.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum BootstrapMessage {
    /// Initiator to member: promise yourself to this set.
    Invite(Invite),
    /// Member to initiator: promised.
    Promise {
        /// The set.
        cluster: ClusterId,
    },
    /// Member to initiator: not now.
    Refuse {
        /// The set.
        cluster: ClusterId,
        /// Why.
        reason: Refusal,
    },
    /// Promised member to initiator or, when that one is gone, to the other members: what became of the set?
    Ask {
        /// The set.
        cluster: ClusterId,
        /// The run that made it.
        initiator: Instance,
    },
    /// Answer to `Ask`; unasked from an initiator that gives a set up.
    Status {
        /// The set.
        cluster: ClusterId,
        /// What the sender knows of it.
        status: Status,
    },
    /// To all candidates: do not wait for the sender, it is held by a set of which nothing has come yet.
    Busy,
}

/// A bootstrap set, as one member sees it. Its name is the random id of the cluster that it would found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Invite {
    /// Id of the cluster.
    pub cluster: ClusterId,
    /// The initiator's `bootstrap_expect`.
    pub expect: u16,
    /// All members, sorted by name; the first is the initiator.
    pub members: Vec<RaftId>,
    /// How many of them, from the first, become the voters.
    pub voters: u16,
    /// Run of the receiver that is meant.
    pub boot: BootId,
    /// Address of the receiver that will stand in the log.
    pub addr: SocketAddr,
}

/// Why a candidate does not promise itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Refusal {
    /// It is promised to another set, or has initialised its own.
    Bound,
    /// Its log belongs to this cluster already.
    Initialised(ClusterId),
    /// It knows of a cluster to join.
    Heard(ClusterId),
    /// It sees a candidate of a smaller name, who should be the initiator.
    Smaller,
    /// It does not see the initiator as a candidate yet, or another member as it is in the set.
    Unknown,
    /// It expects another number of candidates.
    OtherExpect(u16),
    /// It is leaving, or only joins.
    NoCandidate,
}

/// What a node knows of a bootstrap set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Status {
    /// The sender is its initiator, or still waits for it.
    Pending,
    /// The sender's log belongs to this cluster.
    Initialised(ClusterId),
    /// The sender's log is empty, and it sees the initiator no more, to which it may be promised.
    Uninitialised,
    /// The sender is its initiator and never initialises it.
    Void,
    /// The sender's log is empty, it holds no promise to the set, and gives none any more: it knows of a later run of
    /// the initiator. If its store is in the set, then the set was never started or has lost its quorum.
    Unpromised,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{NodeId, StoreId};
    use crate::limits::MAX_DATAGRAM_BYTES;

    #[test]
    fn the_largest_invitation_fits_a_datagram() {
        let member = |n: usize| RaftId {
            node: NodeId::new(&format!("{n:063}")).unwrap(),
            store: StoreId(u64::MAX),
        };
        let invite = Invite {
            cluster: ClusterId(u128::MAX),
            expect: u16::MAX,
            members: (0..MAX_SET_MEMBERS).map(member).collect(),
            voters: u16::MAX,
            boot: BootId(u64::MAX),
            addr: "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"
                .parse()
                .unwrap(),
        };
        let bytes = postcard::to_allocvec(&BootstrapMessage::Invite(invite)).unwrap();
        assert!(bytes.len() + 32 <= MAX_DATAGRAM_BYTES, "{}", bytes.len());
    }
}
