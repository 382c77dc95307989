//! Openraft's view of the network: a client for each member, over [`RaftPeers`].
//!
//! AppendEntries go one at a time to each member (openraft's sequential stream) on purpose: with several in
//! flight `replication/inflight_append_queue.rs::drain_acked` takes an answer to an early request for one to a
//! later request that ends at the same log id, and reports the later one's sending time. The `q` of rule L3 would
//! then be later than any heartbeat that was answered. See [`facts`](super::facts).

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use openraft::errors::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::{RPCOption, RPCTypes};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RaftNetworkFactory, RaftNetworkV2};

use super::gate::Gate;
use super::rpc::{Call, MAX_SNAPSHOT_BYTES, Reply, Request, SNAPSHOT_CHUNK_BYTES, SnapshotChunk};
use super::types::{MemberAddr, RpcError, Snapshot, TypeConfig, Vote};
use crate::ids::{PeerAddr, RaftId};
use crate::runtime::Environment;
use crate::timing::Timing;
use crate::transport::BoxFuture;

/// Slowest link that entries and snapshots are sent over without a timeout, in bytes a second.
const SLOWEST_LINK: u64 = 1 << 20;

/// Why a request to a raft member got no answer. It may have been executed all the same.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum RpcFailure {
    /// Nobody answers there, or somebody else.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// No answer in time.
    #[error("no answer in time")]
    TimedOut,
}

/// What the device needs of the network: one request to a raft member, and its answer.
pub(crate) trait RaftPeers: Send + Sync + 'static {
    /// Sends the request as a frame of the raft stream and waits for the answer, for at most `ttl`.
    fn call(
        &self,
        to: PeerAddr,
        request: Bytes,
        ttl: Duration,
    ) -> BoxFuture<'_, Result<Bytes, RpcFailure>>;
}

/// Where members are according to the newest configuration: openraft does not renew a client for a new address.
#[derive(Clone, Default)]
pub(super) struct Addresses(Arc<Mutex<BTreeMap<RaftId, SocketAddr>>>);

impl Addresses {
    pub(super) fn replace(&self, members: &BTreeMap<RaftId, SocketAddr>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = members.clone();
    }

    fn of(&self, id: &RaftId) -> Option<SocketAddr> {
        let addresses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        addresses.get(id).copied()
    }
}

/// Makes the clients.
#[derive(Clone)]
pub(super) struct Network {
    pub(super) me: RaftId,
    pub(super) peers: Arc<dyn RaftPeers>,
    pub(super) gate: Gate,
    pub(super) addresses: Addresses,
    pub(super) timing: Arc<Timing>,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: RaftId, node: &MemberAddr) -> Client {
        Client {
            network: self.clone(),
            target,
            addr: node.0,
        }
    }
}

/// To one member.
pub(super) struct Client {
    network: Network,
    target: RaftId,
    addr: SocketAddr,
}

impl Client {
    /// Waits for at most `ttl`, and longer the longer the request is: a slow link is no dead one.
    async fn call(&self, call: Call, action: RPCTypes, ttl: Duration) -> Result<Reply, RpcError> {
        let Some(cluster) = self.network.gate.cluster() else {
            return Err(unreachable("this node belongs to no cluster"));
        };
        let request = Request {
            cluster,
            from: self.network.me.clone(),
            to: self.target.clone(),
            call,
        };
        let to = PeerAddr {
            node: Some(self.target.node.clone()),
            addr: self.network.addresses.of(&self.target).unwrap_or(self.addr),
        };
        let request = request.encode();
        let ttl = ttl + Duration::from_micros(request.len() as u64 * 1_000_000 / SLOWEST_LINK);
        let answer = self.network.peers.call(to, request, ttl);
        let answer = Environment::current().timeout(ttl, answer).await;
        let reply = match answer.unwrap_or(Err(RpcFailure::TimedOut)) {
            Ok(bytes) => Reply::decode(&bytes),
            Err(RpcFailure::Unreachable(reason)) => return Err(unreachable(reason)),
            Err(RpcFailure::TimedOut) => {
                return Err(RPCError::Timeout(Timeout {
                    action,
                    id: self.network.me.clone(),
                    target: self.target.clone(),
                    timeout: ttl,
                }));
            }
        };
        match reply {
            // Refused: it will not be better the next moment, so let openraft back off.
            Ok(Reply::Refused(refusal)) => Err(unreachable(format!("refused: {refusal}"))),
            Ok(reply) => Ok(reply),
            Err(error) => Err(unreachable(format!("the answer is no reply: {error:?}"))),
        }
    }
}

fn unreachable(reason: impl ToString) -> RpcError {
    RPCError::Unreachable(Unreachable::from_string(reason))
}

fn other_reply() -> RpcError {
    RPCError::Network(NetworkError::from_string(
        "the answer is one to another request",
    ))
}

impl RaftNetworkV2<TypeConfig> for Client {
    type SnapshotData = Bytes;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RpcError> {
        let heartbeat = request.entries.is_empty();
        let from_start = request.prev_log_id.is_none();
        let ttl = if heartbeat {
            option.soft_ttl()
        } else {
            // No timer of openraft's hangs on these; heartbeats have a client of their own.
            self.network.timing.election_max
        };
        match self
            .call(Call::Append(request), RPCTypes::AppendEntries, ttl)
            .await?
        {
            // Nothing can conflict with the start of the log; openraft relies on that.
            Reply::Append(AppendEntriesResponse::Conflict) if from_start => Err(other_reply()),
            Reply::Append(response) => Ok(response),
            _ => Err(other_reply()),
        }
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        match self
            .call(Call::Vote(request), RPCTypes::Vote, option.soft_ttl())
            .await?
        {
            Reply::Vote(response) => Ok(response),
            _ => Err(other_reply()),
        }
    }

    /// Openraft's default grants every pre-vote.
    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        match self
            .call(Call::PreVote(request), RPCTypes::Vote, option.soft_ttl())
            .await?
        {
            Reply::Vote(response) => Ok(response),
            _ => Err(other_reply()),
        }
    }

    /// Sends it in chunks. Must not call into this node's own raft: that would wait for itself.
    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        tokio::select! {
            biased;
            closed = cancel => Err(closed.into()),
            sent = self.send_snapshot(vote, snapshot, option) => sent,
        }
    }

    /// Openraft's default fails.
    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        let call = Call::TransferLeader(request);
        match self
            .call(call, RPCTypes::TransferLeader, option.soft_ttl())
            .await?
        {
            Reply::TransferLeader(response) => Ok(response),
            _ => Err(other_reply()),
        }
    }
}

impl Client {
    async fn send_snapshot(
        &self,
        vote: Vote,
        snapshot: Snapshot,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let bytes = snapshot.snapshot;
        let total = bytes.len() as u64;
        if total > MAX_SNAPSHOT_BYTES {
            let reason =
                format!("a snapshot of {total} bytes; at most {MAX_SNAPSHOT_BYTES} are sent");
            return Err(StreamingError::Unreachable(Unreachable::from_string(
                reason,
            )));
        }
        let chunk = |start: usize, end: usize| SnapshotChunk {
            vote: vote.clone(),
            meta: snapshot.meta.clone(),
            offset: start as u64,
            total,
            bytes: bytes.slice(start..end),
        };
        // Asks first: an earlier attempt may have been cut off.
        let (mut start, mut end) = (0, 0);
        loop {
            let call = Call::Snapshot(chunk(start, end));
            let ttl = option.soft_ttl();
            let reply = self.call(call, RPCTypes::InstallSnapshot, ttl).await?;
            let Reply::Snapshot { vote: newest, held } = reply else {
                return Err(other_reply().into());
            };
            if newest != vote || held == total {
                return Ok(SnapshotResponse::new(newest));
            }
            // Each chunk that was sent must have brought it on, or this would never end.
            start = usize::try_from(held).unwrap_or(usize::MAX);
            if start < end || start >= bytes.len() {
                return Err(other_reply().into());
            }
            end = bytes.len().min(start + SNAPSHOT_CHUNK_BYTES);
        }
    }
}
