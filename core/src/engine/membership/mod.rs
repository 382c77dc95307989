//! Who is in the cluster. (Stand-in: replaced on merge.)
#![allow(missing_docs, unused_variables, dead_code)]
use crate::ids::*;
use crate::time::Time;
use crate::transport::Peer;
use bytes::Bytes;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tags;
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemberState {
    Alive,
    Suspect,
    Leaving,
    Left,
    Failed,
}
#[derive(Clone, Debug)]
pub struct Member {
    pub instance: Instance,
    pub addr: SocketAddr,
    pub store: StoreId,
    pub kind: MemberKind,
    pub expect: u16,
    pub state: MemberState,
    pub tag_version: u64,
    pub tags: Arc<Tags>,
    pub since: Time,
}
impl Member {
    pub fn is_present(&self) -> bool {
        matches!(self.state, MemberState::Alive | MemberState::Suspect)
    }
}
#[derive(Clone, Debug)]
pub struct MembershipTiming {
    pub probe: Duration,
    pub suspect: Duration,
    pub stale_after: Duration,
}
#[derive(Clone, Debug)]
pub struct MembershipConfig {
    pub cluster: ClusterName,
    pub instance: Instance,
    pub addr: SocketAddr,
    pub store: StoreId,
    pub kind: MemberKind,
    pub expect: u16,
    pub tags: Tags,
    pub timing: MembershipTiming,
}
#[derive(Clone, Debug)]
pub enum MemberEvent {
    Joined(Instance),
    Left(Instance),
    Failed(Instance),
    Updated(Instance),
}
#[derive(Clone, Debug)]
pub enum MembershipOutput {
    Send {
        to: PeerAddr,
        payload: Bytes,
    },
    PullTags {
        from: PeerAddr,
        instance: Instance,
        version: u64,
    },
    Event(MemberEvent),
    ForeignCluster {
        node: NodeId,
        cluster: ClusterId,
    },
}
#[derive(Debug)]
pub struct Membership {
    members: BTreeMap<NodeId, Member>,
}
impl Membership {
    pub fn new(config: MembershipConfig, rng: ChaCha8Rng, now: Time) -> Self {
        unreachable!()
    }
    pub fn join(&mut self, now: Time, seeds: &[SocketAddr]) {}
    pub fn handle_gossip(&mut self, now: Time, from: &Peer, bytes: &[u8]) {}
    pub fn handle_timeout(&mut self, now: Time) {}
    pub fn poll_timeout(&self) -> Option<Time> {
        None
    }
    pub fn poll_output(&mut self) -> Option<MembershipOutput> {
        None
    }
    pub fn members(&self) -> &BTreeMap<NodeId, Member> {
        &self.members
    }
    pub fn heard_cluster(&self) -> Option<ClusterId> {
        None
    }
    pub fn set_cluster(&mut self, cluster: ClusterId) {}
    pub fn set_store(&mut self, now: Time, store: StoreId) {}
    pub fn set_tags(&mut self, now: Time, tags: Tags) {}
    pub fn tags_pulled(&mut self, now: Time, from: Instance, version: u64, tags: Option<Tags>) {}
    pub fn announce_leaving(&mut self, now: Time) {}
    pub fn leave(&mut self, now: Time) {}
}
