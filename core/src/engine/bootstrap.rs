//! How candidates that start at the same moment form one cluster. (Stand-in: replaced on merge.)
#![allow(missing_docs, unused_variables, dead_code)]
use crate::ids::*;
use crate::time::Time;
use crate::timing::Timing;
use crate::transport::Peer;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
/// What candidates say to each other.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum BootstrapMessage {}
#[derive(Clone, Debug)]
pub struct BootstrapConfig {
    pub instance: Instance,
    pub addr: SocketAddr,
    pub store: StoreId,
    pub expect: u16,
    pub has_seeds: bool,
    pub timing: Timing,
}
#[derive(Clone, Debug)]
pub struct CandidateView {
    pub instance: Instance,
    pub addr: SocketAddr,
    pub store: StoreId,
    pub expect: u16,
    pub is_present: bool,
    pub is_voter: bool,
}
#[derive(Clone, Debug)]
pub enum BootstrapOutput {
    Send {
        to: PeerAddr,
        message: BootstrapMessage,
    },
    Initialise {
        cluster: ClusterId,
        members: BTreeMap<RaftId, SocketAddr>,
    },
}
#[derive(Debug)]
pub struct Bootstrap;
impl Bootstrap {
    pub fn new(config: BootstrapConfig, rng: ChaCha8Rng, now: Time) -> Self {
        Self
    }
    pub fn update(
        &mut self,
        now: Time,
        candidates: &BTreeMap<NodeId, CandidateView>,
        heard: Option<ClusterId>,
    ) {
    }
    pub fn handle_message(&mut self, now: Time, from: &Peer, message: BootstrapMessage) {}
    pub fn handle_timeout(&mut self, now: Time) {}
    pub fn poll_timeout(&self) -> Option<Time> {
        None
    }
    pub fn poll_output(&mut self) -> Option<BootstrapOutput> {
        None
    }
    pub fn promised_to(&self) -> Option<ClusterId> {
        None
    }
    pub fn handle_initialised(&mut self, cluster: ClusterId) {}
    pub fn handle_store_replaced(&mut self, now: Time, store: StoreId) {}
}
pub fn may_abandon(own: ClusterId, heard: ClusterId) -> bool {
    own > heard
}
