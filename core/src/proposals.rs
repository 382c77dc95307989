//! Application entries on their way into the log, from any node.
//!
//! They go to the leader, over the network if need be, and are never forwarded further (rule P1). The result is
//! known here only once the entry was applied here, so that a node reads its own writes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::call::{PROPOSE_DEADLINE, ProposeError, Proposed};
use crate::engine::replicated::StaleEpoch;
use crate::ids::{Epoch, LogIndex, NodeId, PeerAddr, ShardId};
use crate::limits::{MAX_APP_ENTRY_BYTES, MAX_FRAME_BYTES};
use crate::node::Node;
use crate::raft::AppendError;
use crate::wire::{RpcError, StreamKind};

/// Pause before a leader is looked for again when nothing changed meanwhile.
const PAUSE: Duration = Duration::from_millis(5);

#[derive(Serialize, Deserialize)]
struct ProposeRequest {
    guard: Option<(ShardId, Epoch)>,
    bytes: Bytes,
}

#[derive(Serialize, Deserialize)]
enum ProposeResponse {
    Applied(LogIndex, Bytes),
    Stale(StaleEpoch),
    /// Certainly not appended.
    NotLeader,
    /// Certainly not appended.
    Overloaded,
    /// Perhaps appended.
    Unknown(String),
}

/// One try.
enum Attempt {
    Done(Result<Proposed, ProposeError>),
    /// Certainly not appended.
    Again,
}

/// Appends an entry and waits until it is applied here.
pub(crate) async fn propose(
    node: &Arc<Node>,
    guard: Option<(ShardId, Epoch)>,
    bytes: Bytes,
) -> Result<Proposed, ProposeError> {
    if bytes.len() > MAX_APP_ENTRY_BYTES {
        return Err(ProposeError::TooLarge {
            found: bytes.len(),
            max: MAX_APP_ENTRY_BYTES,
        });
    }
    let Ok(_permit) = node.proposals.try_acquire() else {
        return Err(ProposeError::Overloaded);
    };
    let mut may_be_appended = false;
    let attempts = keep_trying(node, guard, &bytes, &mut may_be_appended);
    let result = node.environment.timeout(PROPOSE_DEADLINE, attempts).await;
    result.unwrap_or_else(|| {
        Err(if may_be_appended {
            ProposeError::Ambiguous(format!("no word of it within {PROPOSE_DEADLINE:?}"))
        } else {
            ProposeError::NoLeader(PROPOSE_DEADLINE)
        })
    })
}

async fn keep_trying(
    node: &Arc<Node>,
    guard: Option<(ShardId, Epoch)>,
    bytes: &Bytes,
    may_be_appended: &mut bool,
) -> Result<Proposed, ProposeError> {
    let mut changes = node.changes.subscribe();
    loop {
        if node.is_stopped() {
            return Err(ProposeError::Stopped);
        }
        changes.mark_unchanged();
        let routes = node.routes.load_full();
        *may_be_appended = true;
        let attempt = match &routes.leader {
            Some(leader) if *leader == node.instance.node => {
                let result = append(node, guard, bytes.clone()).await;
                conclude(node, result, "this node").await
            }
            Some(leader) => match routes.addrs.get(leader) {
                Some(peer) => remotely(node, leader, peer, guard, bytes).await,
                None => Attempt::Again,
            },
            None => Attempt::Again,
        };
        *may_be_appended = false;
        match attempt {
            Attempt::Done(result) => return result,
            Attempt::Again => pause(node, &mut changes).await,
        }
    }
}

async fn pause(node: &Node, changes: &mut tokio::sync::watch::Receiver<u64>) {
    let _ = node.environment.timeout(PAUSE, changes.changed()).await;
}

async fn remotely(
    node: &Arc<Node>,
    leader: &NodeId,
    peer: &PeerAddr,
    guard: Option<(ShardId, Epoch)>,
    bytes: &Bytes,
) -> Attempt {
    let request = ProposeRequest {
        guard,
        bytes: bytes.clone(),
    };
    let request = postcard::to_stdvec(&request)
        .expect("plain data always encodes")
        .into();
    let exchange = node.rpc.call(
        peer,
        StreamKind::Propose,
        request,
        MAX_FRAME_BYTES,
        PROPOSE_DEADLINE,
    );
    let result = tokio::select! {
        biased;
        result = exchange => result,
        () = fell_silent(node, leader) => {
            let reason = format!("the leader {leader} fell silent");
            return Attempt::Done(Err(ProposeError::Ambiguous(reason)));
        }
    };
    let response = match result {
        Ok((_, response)) => postcard::from_bytes(&response).unwrap_or_else(|_| {
            ProposeResponse::Unknown("the leader answered with garbage".into())
        }),
        Err(RpcError::NotSent(_)) => return Attempt::Again,
        Err(RpcError::Lost(reason)) => ProposeResponse::Unknown(reason.to_string()),
    };
    conclude(node, response, leader.as_str()).await
}

/// Resolves when the leader is suspect: it may have appended the entry, but nobody will say so.
async fn fell_silent(node: &Node, leader: &NodeId) {
    let mut changes = node.changes.subscribe();
    while !node.routes.load().unreachable.contains(leader) {
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// What the leader's word means here.
async fn conclude(node: &Node, response: ProposeResponse, leader: &str) -> Attempt {
    Attempt::Done(match response {
        ProposeResponse::Applied(index, response) => {
            let raft = node.raft.load_full();
            let applied = match raft {
                Some(raft) => raft.wait_applied(index).await,
                // A non-member has no replica to wait for.
                None => Ok(()),
            };
            match applied {
                Ok(()) => Ok(Proposed { index, response }),
                Err(_) => Err(ProposeError::Stopped),
            }
        }
        ProposeResponse::Stale(stale) => Err(ProposeError::Stale(stale)),
        ProposeResponse::NotLeader => return Attempt::Again,
        ProposeResponse::Overloaded => Err(ProposeError::Overloaded),
        ProposeResponse::Unknown(reason) => {
            Err(ProposeError::Ambiguous(format!("{leader}: {reason}")))
        }
    })
}

/// Appends on this node, if it leads.
async fn append(node: &Node, guard: Option<(ShardId, Epoch)>, bytes: Bytes) -> ProposeResponse {
    let Some(raft) = node.raft.load_full() else {
        return ProposeResponse::NotLeader;
    };
    let (shard, epoch) = guard.map_or((None, Epoch(0)), |(shard, epoch)| (Some(shard), epoch));
    match raft.append(shard, epoch, bytes).await {
        Ok((index, response)) => ProposeResponse::Applied(index, response),
        Err(AppendError::Refused(stale)) => ProposeResponse::Stale(stale),
        Err(AppendError::NotLeader(_) | AppendError::Stopped) => ProposeResponse::NotLeader,
        Err(error @ AppendError::Unknown) => ProposeResponse::Unknown(error.to_string()),
        // Checked before it came here, on the proposer's node or in `serve`.
        Err(AppendError::TooLarge(_)) => ProposeResponse::NotLeader,
    }
}

/// The leader's side: one proposal of a peer; `None`: the bytes are no proposal.
pub(crate) async fn serve(node: &Arc<Node>, request: &[u8]) -> Option<Bytes> {
    let request: ProposeRequest = postcard::from_bytes(request).ok()?;
    let response = if request.bytes.len() > MAX_APP_ENTRY_BYTES {
        return None;
    } else if let Ok(_permit) = node.proposals.try_acquire() {
        let append = append(node, request.guard, request.bytes);
        let appended = node.environment.timeout(PROPOSE_DEADLINE, append).await;
        appended.unwrap_or_else(|| ProposeResponse::Unknown("no quorum in time".to_owned()))
    } else {
        ProposeResponse::Overloaded
    };
    let bytes = postcard::to_stdvec(&response).expect("plain data always encodes");
    Some(bytes.into())
}
