//! The owner's side of a call: wait for the shard if it is about to be served, run the service, answer.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;

use super::messages::{CallRequest, CallResponse, decode, encode};
use crate::call::CallError;
use crate::guard::ShardGuard;
use crate::ids::{Epoch, NodeId, ShardId};
use crate::node::Node;
use crate::service::{ServiceError, ServiceRequest};
use crate::transport::Peer;

/// How long a call waits on a node that should serve its shard and does not yet. Short, because a caller whose
/// peer dies meanwhile cannot know that nothing was executed.
const WAIT_FOR_SHARD: Duration = Duration::from_millis(100);

/// Answers one call of a peer; `None`: the bytes are no call.
pub(crate) async fn serve(node: &Arc<Node>, from: &Peer, request: &[u8]) -> Option<Bytes> {
    let request: CallRequest = decode(request)?;
    Some(encode(&answer(node, &from.instance.node, request).await))
}

async fn answer(node: &Arc<Node>, from: &NodeId, request: CallRequest) -> CallResponse {
    let time_left = Duration::from_micros(request.time_left_us);
    let guard = match enter(node, &request, time_left).await {
        Ok(guard) => guard,
        Err(refusal) => return refusal,
    };
    let epoch = guard.epoch();
    let call = ServiceCall {
        service: &request.service,
        key: request.key,
        body: request.body,
        from: from.clone(),
        time_left,
    };
    match run(node, guard, call).await {
        Ok(body) => CallResponse::Answer { epoch, body },
        Err(CallError::Service(error)) => CallResponse::ServiceError(error),
        Err(CallError::NoSuchService { .. }) => CallResponse::NoSuchService,
        Err(error) => CallResponse::Ambiguous(error.to_string()),
    }
}

/// Takes the shard, waiting for it if this node is about to serve it.
async fn enter(
    node: &Arc<Node>,
    request: &CallRequest,
    time_left: Duration,
) -> Result<ShardGuard, CallResponse> {
    if let Some(guard) = ShardGuard::take(node, request.shard) {
        return Ok(guard);
    }
    let Some(_place) = node.waiting.enter() else {
        return Err(CallResponse::Overloaded);
    };
    let wait = async {
        let mut changes = node.changes.subscribe();
        loop {
            if let Some(guard) = ShardGuard::take(node, request.shard) {
                return Ok(guard);
            }
            let routes = node.routes.load_full();
            let is_mine = routes.map.owner(request.shard) == Some(&node.instance);
            if routes.map.index() >= request.map && !is_mine {
                return Err(CallResponse::NotOwner {
                    owner: routes.map.owner(request.shard).cloned(),
                    epoch: routes.map.epoch(request.shard),
                    map: routes.map.index(),
                });
            }
            if is_mine && routes.pending.is_some() && !node.table.load().is_open(request.shard) {
                // On its way out, most likely: the caller waits for the next map on its own node.
                return Err(CallResponse::NotServing);
            }
            if changes.changed().await.is_err() {
                return Err(CallResponse::NotServing);
            }
        }
    };
    let wait = node
        .environment
        .timeout(WAIT_FOR_SHARD.min(time_left), wait);
    wait.await.unwrap_or(Err(CallResponse::NotServing))
}

/// One request for a service, wherever it came from.
pub(super) struct ServiceCall<'a> {
    pub(super) service: &'a str,
    pub(super) key: Bytes,
    pub(super) body: Bytes,
    pub(super) from: NodeId,
    pub(super) time_left: Duration,
}

/// Runs the service under the guard, no longer than the guard allows and the caller waits.
pub(super) async fn run(
    node: &Arc<Node>,
    guard: ShardGuard,
    call: ServiceCall<'_>,
) -> Result<Bytes, CallError> {
    let Some(service) = node.services.get(call.service) else {
        return Err(CallError::NoSuchService {
            node: node.instance.node.clone(),
            service: call.service.to_owned(),
        });
    };
    let (shard, epoch, watch) = (guard.shard(), guard.epoch(), guard.watch());
    let request = ServiceRequest {
        guard,
        key: call.key,
        body: call.body,
        from: call.from,
        time_left: call.time_left,
        cluster: node.service_handle(),
    };
    // A panic before the first await counts like one after it.
    let service = service.clone();
    let answer = AssertUnwindSafe(async move { service.call(request).await }).catch_unwind();
    tokio::select! {
        biased;
        answer = answer => match answer {
            Ok(Ok(body)) => Ok(body),
            Ok(Err(ServiceError(error))) => Err(CallError::Service(error)),
            Err(_) => Err(panicked(node, shard, epoch)),
        },
        () = watch.ended() => Err(CallError::Ambiguous(
            "the owner lost the shard while it worked on the request".to_owned(),
        )),
    }
}

fn panicked(node: &Node, shard: ShardId, epoch: Epoch) -> CallError {
    node.counters.add("service panics");
    tracing::error!(node = %node.instance, %shard, %epoch, "the service panicked");
    CallError::Ambiguous("the service panicked".to_owned())
}
