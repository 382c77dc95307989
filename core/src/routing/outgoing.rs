//! The caller's side: find the owner, ask it, follow the shard where it goes, until the deadline.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::incoming::{ServiceCall, run};
use super::messages::{CallRequest, CallResponse, decode, encode};
use crate::call::{Answer, CallError, Request, Target};
use crate::guard::ShardGuard;
use crate::ids::{Epoch, Instance, LogIndex, PeerAddr, ShardId};
use crate::key::shard_of;
use crate::limits::{MAX_FRAME_BYTES, MAX_REQUEST_BYTES};
use crate::node::Node;
use crate::time::Time;
use crate::wire::{RpcError, StreamKind};

/// First pause before the same owner is asked again; doubles up to [`PAUSE_MAX`]. Any change of routes ends it.
const PAUSE: Duration = Duration::from_millis(2);
/// Longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// What one attempt led to.
enum Attempt {
    Done(Result<Answer, CallError>),
    /// Certainly not executed: wait for a change, then look again.
    Wait(&'static str),
    /// Certainly not executed: this run owns the shard by a newer map than ours.
    Redirect(Owner),
    /// It may have been executed.
    Unknown(String),
}

/// Whom to ask.
#[derive(Clone)]
struct Owner {
    instance: Instance,
    epoch: Epoch,
    map: LogIndex,
}

/// Delivers the request to the owner of its shard and brings back the answer.
pub(crate) async fn call(node: &Arc<Node>, request: Request) -> Result<Answer, CallError> {
    if request.body.len() > MAX_REQUEST_BYTES {
        return Err(CallError::TooLarge {
            found: request.body.len(),
            max: MAX_REQUEST_BYTES,
        });
    }
    let deadline = node.environment.now() + request.deadline;
    let mut progress = Progress {
        waited_for: "a shard map",
        perhaps_executed: None,
    };
    let conversation = converse(node, &request, deadline, &mut progress);
    let result = node
        .environment
        .timeout(request.deadline, conversation)
        .await;
    let error = match result {
        Some(Ok(answer)) => return Ok(answer),
        Some(Err(error)) => error,
        None if progress.waited_for == EXECUTING => {
            CallError::Ambiguous("the deadline passed while the owner worked on it".to_owned())
        }
        None => CallError::Deadline {
            waited_for: progress.waited_for.to_owned(),
        },
    };
    Err(match progress.perhaps_executed {
        Some(reason) if error.is_not_executed() => {
            CallError::Ambiguous(format!("{reason}; then: {error}"))
        }
        _ => error,
    })
}

/// How far a call has come.
struct Progress {
    waited_for: &'static str,
    /// Why an earlier attempt of an idempotent request may have been executed.
    perhaps_executed: Option<String>,
}

/// What a call waits for while it may be executing.
const EXECUTING: &str = "the service";

async fn converse(
    node: &Arc<Node>,
    request: &Request,
    deadline: Time,
    progress: &mut Progress,
) -> Result<Answer, CallError> {
    let mut changes = node.changes.subscribe();
    let mut place = None;
    let mut pause = PAUSE;
    let mut redirect = None;
    loop {
        if node.is_stopped() {
            return Err(CallError::Stopped);
        }
        changes.mark_unchanged();
        progress.waited_for = EXECUTING;
        let attempt = attempt(node, request, deadline, redirect.take()).await?;
        let reason = match attempt {
            Attempt::Done(result) => return result,
            Attempt::Redirect(owner) => {
                redirect = Some(owner);
                "the owner"
            }
            Attempt::Unknown(reason) if !request.idempotent => {
                return Err(CallError::Ambiguous(reason));
            }
            Attempt::Unknown(reason) => {
                progress.perhaps_executed = Some(reason);
                "an owner that answers"
            }
            Attempt::Wait(reason) => reason,
        };
        progress.waited_for = reason;
        if redirect.is_some() {
            // One hop more; a second redirect in a row waits like everything else.
            if std::mem::replace(&mut pause, PAUSE_MAX) != PAUSE_MAX {
                continue;
            }
        }
        if place.is_none() {
            place = node.waiting.enter();
            if place.is_none() {
                return Err(CallError::Overloaded(format!(
                    "{} calls of this node wait already",
                    crate::limits::MAX_WAITING_CALLS
                )));
            }
        }
        let changed = node.environment.timeout(pause, changes.changed()).await;
        pause = if changed.is_some() {
            PAUSE
        } else {
            (pause * 2).min(PAUSE_MAX)
        };
    }
}

/// Looks up the owner and asks it, once.
async fn attempt(
    node: &Arc<Node>,
    request: &Request,
    deadline: Time,
    redirect: Option<Owner>,
) -> Result<Attempt, CallError> {
    let routes = node.routes.load_full();
    let shards = routes.map.shards();
    if shards == 0 {
        return Ok(Attempt::Wait("a shard map"));
    }
    let (shard, key) = match &request.target {
        Target::Key(key) => (shard_of(key, shards), key.clone()),
        Target::Shard(shard) if shard.0 >= shards => {
            return Err(CallError::NoSuchShard {
                shard: *shard,
                shards,
            });
        }
        Target::Shard(shard) => (*shard, Bytes::new()),
    };
    let time_left = deadline.since(node.environment.now());
    if let Some(guard) = ShardGuard::take(node, shard) {
        let call = ServiceCall {
            service: &request.service,
            key,
            body: request.body.clone(),
            from: node.instance.node.clone(),
            time_left,
        };
        return Ok(locally(node, guard, call).await);
    }
    let known = routes.map.owner(shard).map(|instance| Owner {
        instance: instance.clone(),
        epoch: routes.map.epoch(shard),
        map: routes.map.index(),
    });
    let newer = redirect.filter(|owner| owner.map > routes.map.index());
    let Some(owner) = newer.or(known) else {
        return Ok(Attempt::Wait("an owner of the shard"));
    };
    if owner.instance.node == node.instance.node {
        return Ok(Attempt::Wait("the shard to be served here"));
    }
    let Some(peer) = routes.addrs.get(&owner.instance.node).cloned() else {
        return Ok(Attempt::Wait("the address of the owner"));
    };
    if routes.unreachable.contains(&owner.instance.node) {
        return Ok(Attempt::Wait("an owner that is reachable"));
    }
    let message = CallRequest {
        service: request.service.clone(),
        shard,
        key,
        body: request.body.clone(),
        map: owner.map,
        time_left_us: time_left.as_micros() as u64,
    };
    Ok(remotely(node, &peer, &owner, message, time_left).await)
}

async fn locally(node: &Arc<Node>, guard: ShardGuard, call: ServiceCall<'_>) -> Attempt {
    let (shard, epoch) = (guard.shard(), guard.epoch());
    match run(node, guard, call).await {
        Ok(body) => Attempt::Done(Ok(Answer {
            body,
            owner: node.instance.node.clone(),
            epoch,
            shard,
        })),
        Err(CallError::Ambiguous(reason)) => Attempt::Unknown(reason),
        Err(error) => Attempt::Done(Err(error)),
    }
}

async fn remotely(
    node: &Arc<Node>,
    peer: &PeerAddr,
    owner: &Owner,
    message: CallRequest,
    time_left: Duration,
) -> Attempt {
    let shard = message.shard;
    let service = message.service.clone();
    let exchange = node.rpc.call(
        peer,
        StreamKind::Call,
        encode(&message),
        MAX_FRAME_BYTES,
        time_left,
    );
    let result = tokio::select! {
        biased;
        result = exchange => result,
        reason = given_up(node, shard, owner) => return Attempt::Unknown(reason),
    };
    let response = match result {
        Ok((_, response)) => response,
        Err(RpcError::NotSent(_)) => return Attempt::Wait("an owner that is reachable"),
        Err(RpcError::Lost(reason)) => return Attempt::Unknown(reason.to_string()),
    };
    match decode(&response) {
        Some(CallResponse::Answer { epoch, body }) => Attempt::Done(Ok(Answer {
            body,
            owner: owner.instance.node.clone(),
            epoch,
            shard,
        })),
        Some(CallResponse::ServiceError(error)) => Attempt::Done(Err(CallError::Service(error))),
        Some(CallResponse::NotOwner {
            owner: Some(instance),
            epoch,
            map,
        }) if map > owner.map => Attempt::Redirect(Owner {
            instance,
            epoch,
            map,
        }),
        Some(CallResponse::NotOwner { .. }) => Attempt::Wait("a newer shard map"),
        Some(CallResponse::NotServing) => Attempt::Wait("the shard to be served"),
        Some(CallResponse::Overloaded) => Attempt::Done(Err(CallError::Overloaded(format!(
            "too many calls wait on {}",
            owner.instance.node
        )))),
        Some(CallResponse::NoSuchService) => Attempt::Done(Err(CallError::NoSuchService {
            node: owner.instance.node.clone(),
            service,
        })),
        Some(CallResponse::Ambiguous(reason)) => Attempt::Unknown(reason),
        None => {
            node.counters.add("malformed call responses");
            Attempt::Unknown(format!("{} answered with garbage", owner.instance.node))
        }
    }
}

/// Resolves when waiting for this owner is no use any more: it is suspect, or the shard has got a newer epoch.
async fn given_up(node: &Arc<Node>, shard: ShardId, owner: &Owner) -> String {
    let mut changes = node.changes.subscribe();
    loop {
        let routes = node.routes.load_full();
        if routes.map.epoch(shard) > owner.epoch {
            return format!("shard {shard} went to another owner meanwhile");
        }
        if routes.unreachable.contains(&owner.instance.node) {
            return format!("{} fell silent", owner.instance.node);
        }
        if changes.changed().await.is_err() {
            return "the node was stopped".to_owned();
        }
    }
}
