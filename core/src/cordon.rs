//! Cordons on their way into the log, from any node or client (rule M9).
//!
//! Each says what is to hold for a node, so to ask twice does no harm: the leader is asked again, whoever that is by
//! then, until it is seen here that it holds.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::engine::Cordon;
use crate::ids::{MemberKind, NodeId, PeerAddr};
use crate::limits::MAX_FRAME_BYTES;
use crate::node::{Command, Node};
use crate::transport::PeerKind;
use crate::wire::{Rpc, RpcError, StreamKind};

/// How long a cordon is tried to be put up or taken away: longer than a leader is missing for.
pub const CORDON_DEADLINE: Duration = Duration::from_secs(30);
/// How long a drain is waited for, once it is in force: longer than one whose guards are given up takes.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(60);
/// After how long the leader is asked again: it may have been deposed before it put it into the log.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How long a client waits for a node: both deadlines, and a generous round trip.
const ANSWER_WITHIN: Duration = Duration::from_secs(95);

/// Why a node is not cordoned, drained or uncordoned.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
pub enum CordonError {
    /// No node of this name is known that could have shards.
    #[error("there is no node {0} that could have shards")]
    Unknown(NodeId),
    /// It did not get into the log in time, or somebody else asked for something else at once. It may still come.
    #[error("it is not in force within {0:?}: is there a leader?")]
    NotInForce(Duration),
    /// The node is drained from now on, but still has shards: nobody else may have them, or guards are held on them. It
    /// goes on.
    #[error("{node} still has {shards} shards after {after:?}; the drain goes on")]
    StillOwns {
        /// The node.
        node: NodeId,
        /// How many.
        shards: usize,
        /// For how long it was waited.
        after: Duration,
    },
    /// The node that was asked has stopped.
    #[error("the node has stopped")]
    Stopped,
    /// The node that a client asked did not answer. It may have been done.
    #[error("{0}")]
    Unreachable(String),
}

#[derive(Serialize, Deserialize)]
struct CordonRequest {
    node: NodeId,
    cordon: Option<Cordon>,
}

impl CordonRequest {
    fn encode(node: &NodeId, cordon: Option<Cordon>) -> Bytes {
        let node = node.clone();
        postcard::to_stdvec(&Self { node, cordon })
            .expect("plain data always encodes")
            .into()
    }
}

/// Asks for it, and waits until it holds; a drain, until the node has no shards by the map in force here.
pub(crate) async fn set(
    node: &Arc<Node>,
    target: &NodeId,
    cordon: Option<Cordon>,
) -> Result<(), CordonError> {
    let asked = put_up(node, target, cordon);
    let result = node.environment.timeout(CORDON_DEADLINE, asked).await;
    result.unwrap_or(Err(CordonError::NotInForce(CORDON_DEADLINE)))?;
    if cordon != Some(Cordon::Drained) {
        return Ok(());
    }
    let empty = until_empty(node, target);
    let result = node.environment.timeout(DRAIN_DEADLINE, empty).await;
    result.unwrap_or_else(|| {
        Err(CordonError::StillOwns {
            node: target.clone(),
            shards: owned(node, target),
            after: DRAIN_DEADLINE,
        })
    })
}

async fn put_up(
    node: &Arc<Node>,
    target: &NodeId,
    cordon: Option<Cordon>,
) -> Result<(), CordonError> {
    let mut changes = node.changes.subscribe();
    let holds = || node.routes.load().cordons.get(target).copied() == cordon;
    loop {
        if node.is_stopped() {
            return Err(CordonError::Stopped);
        }
        changes.mark_unchanged();
        if !is_known(node, target) {
            return Err(CordonError::Unknown(target.clone()));
        }
        if holds() {
            return Ok(());
        }
        ask(node, target, cordon).await;
        let changed =
            async { while !node.is_stopped() && !holds() && changes.changed().await.is_ok() {} };
        node.environment.timeout(ASK_AGAIN, changed).await;
    }
}

async fn until_empty(node: &Node, target: &NodeId) -> Result<(), CordonError> {
    let mut changes = node.changes.subscribe();
    loop {
        if node.is_stopped() {
            return Err(CordonError::Stopped);
        }
        changes.mark_unchanged();
        if owned(node, target) == 0 {
            return Ok(());
        }
        if changes.changed().await.is_err() {
            return Err(CordonError::Stopped);
        }
    }
}

/// How many shards a node has by the map in force here, whichever run of it.
fn owned(node: &Node, target: &NodeId) -> usize {
    let routes = node.routes.load();
    let members = routes.map.members().iter().zip(routes.map.counts());
    let mut counts = members.filter(|(member, _)| member.instance.node == *target);
    counts.next().map_or(0, |(_, count)| count)
}

fn is_known(node: &Node, target: &NodeId) -> bool {
    let status = node.status.load();
    let member = status.members.get(target);
    member.is_some_and(|member| member.kind != MemberKind::NonMember)
        || node.routes.load().cordons.contains_key(target)
}

/// Asks the leader, if one is known. Whether it heard is seen from what holds.
async fn ask(node: &Arc<Node>, target: &NodeId, cordon: Option<Cordon>) {
    let routes = node.routes.load_full();
    let Some(leader) = &routes.leader else { return };
    if *leader == node.instance.node {
        return hand_in(node, target.clone(), cordon).await;
    }
    let Some(peer) = routes.addrs.get(leader) else {
        return;
    };
    let request = CordonRequest::encode(target, cordon);
    let kind = StreamKind::Cordon;
    let asked = node
        .rpc
        .call(peer, kind, request, MAX_FRAME_BYTES, ASK_AGAIN);
    if let Err(error) = asked.await {
        tracing::debug!(node = %node.instance, %leader, %error, "a cordon did not reach the leader");
    }
}

async fn hand_in(node: &Node, target: NodeId, cordon: Option<Cordon>) {
    let (done, heard) = oneshot::channel();
    let _ = node.commands.send(Command::SetCordon(target, cordon, done));
    let _ = heard.await;
}

/// The side that is asked; `None`: the bytes are no request. A node is taken for one that asks the leader: it sees
/// itself what comes of it. A client is told what came of it.
pub(crate) async fn serve(node: &Arc<Node>, from: PeerKind, request: &[u8]) -> Option<Bytes> {
    let CordonRequest {
        node: target,
        cordon,
    } = postcard::from_bytes(request).ok()?;
    let result = match from {
        PeerKind::Node => {
            hand_in(node, target, cordon).await;
            Ok(())
        }
        PeerKind::Client => set(node, &target, cordon).await,
    };
    let answer = postcard::to_stdvec(&result).expect("plain data always encodes");
    Some(answer.into())
}

/// The client's side.
pub(crate) async fn request(
    rpc: &Rpc,
    to: &PeerAddr,
    target: &NodeId,
    cordon: Option<Cordon>,
) -> Result<(), CordonError> {
    let request = CordonRequest::encode(target, cordon);
    let kind = StreamKind::Cordon;
    let asked = rpc.call(to, kind, request, MAX_FRAME_BYTES, ANSWER_WITHIN);
    let addr = to.addr;
    let unreachable = |reason: String| Err(CordonError::Unreachable(reason));
    match asked.await {
        Ok((_, answer)) => postcard::from_bytes(&answer).unwrap_or_else(|_| {
            unreachable(format!(
                "{addr}: it answered with garbage; is it another release?"
            ))
        }),
        Err(RpcError::NotSent(reason)) => {
            unreachable(crate::client::in_words(addr, &reason, ANSWER_WITHIN))
        }
        Err(RpcError::Lost(reason)) => {
            unreachable(format!("{addr}: {reason}; it may have been done"))
        }
    }
}
