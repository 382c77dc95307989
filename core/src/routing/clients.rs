//! Calls of clients: the node that gets one delivers it as if it were its own, and says what became of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::messages::{decode, encode};
use crate::call::{Answer, CallError, Request, Target};
use crate::ids::{Epoch, NodeId, ShardId};
use crate::node::Node;

/// Longest time that a client's call is tried, whatever the client says: it holds a task and a place for so long.
const MAX_DEADLINE: Duration = Duration::from_secs(3_600);

/// A call of a client.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct ClientRequest {
    target: Target,
    service: String,
    body: Bytes,
    idempotent: bool,
    /// How long the client waits, in microseconds: clocks are not compared.
    time_left_us: u64,
}

/// What became of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum ClientResponse {
    /// The service's answer.
    Answer {
        owner: NodeId,
        shard: ShardId,
        epoch: Epoch,
        body: Bytes,
    },
    /// The service's own error.
    ServiceError(Bytes),
    /// Certainly not executed, for a reason that may be another one elsewhere or later.
    NotExecuted(String),
    /// Certainly not executed: no such service on the owner.
    NoSuchService { node: NodeId, service: String },
    /// Certainly not executed: no such shard.
    NoSuchShard { shard: ShardId, shards: u32 },
    /// It may have been executed.
    Ambiguous(String),
}

impl ClientRequest {
    pub(crate) fn new(request: &Request, time_left: Duration) -> Self {
        Self {
            target: request.target.clone(),
            service: request.service.clone(),
            body: request.body.clone(),
            idempotent: request.idempotent,
            time_left_us: u64::try_from(time_left.as_micros()).unwrap_or(u64::MAX),
        }
    }

    pub(crate) fn encode(&self) -> Bytes {
        encode(self)
    }

    fn into_request(self) -> Request {
        Request {
            target: self.target,
            service: self.service,
            body: self.body,
            deadline: Duration::from_micros(self.time_left_us).min(MAX_DEADLINE),
            idempotent: self.idempotent,
        }
    }
}

impl ClientResponse {
    /// `None`: the bytes are no such response.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        decode(bytes)
    }
}

impl From<Result<Answer, CallError>> for ClientResponse {
    fn from(result: Result<Answer, CallError>) -> Self {
        match result {
            Ok(answer) => Self::Answer {
                owner: answer.owner,
                shard: answer.shard,
                epoch: answer.epoch,
                body: answer.body,
            },
            Err(CallError::Service(error)) => Self::ServiceError(error),
            Err(CallError::Ambiguous(reason)) => Self::Ambiguous(reason),
            Err(CallError::NoSuchService { node, service }) => {
                Self::NoSuchService { node, service }
            }
            Err(CallError::NoSuchShard { shard, shards }) => Self::NoSuchShard { shard, shards },
            Err(
                error @ (CallError::Deadline { .. }
                | CallError::Overloaded(_)
                | CallError::TooLarge { .. }
                | CallError::Unreachable(_)
                | CallError::Stopped),
            ) => Self::NotExecuted(error.to_string()),
        }
    }
}

/// Delivers one call of a client; `None`: the bytes are no call.
pub(crate) async fn serve(node: &Arc<Node>, request: &[u8]) -> Option<Bytes> {
    let request: ClientRequest = decode(request)?;
    let result = super::call(node, request.into_request()).await;
    Some(encode(&ClientResponse::from(result)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_executed_never_looks_as_if_it_may_have_been() {
        let deadline = CallError::Deadline {
            waited_for: "an owner".into(),
        };
        for error in [
            deadline,
            CallError::Stopped,
            CallError::Overloaded("x".into()),
        ] {
            assert!(error.is_not_executed());
            let response = ClientResponse::from(Err(error.clone()));
            assert_eq!(response, ClientResponse::NotExecuted(error.to_string()));
        }
        let ambiguous = CallError::Ambiguous("perhaps".into());
        assert!(!ambiguous.is_not_executed());
        assert_eq!(
            ClientResponse::from(Err(ambiguous)),
            ClientResponse::Ambiguous("perhaps".into())
        );
    }

    #[test]
    fn a_request_survives_the_wire_and_prefixes_do_not() {
        let request = Request::key("k", "body")
            .service("other")
            .deadline(Duration::from_millis(1_500))
            .idempotent();
        let bytes = ClientRequest::new(&request, request.deadline).encode();
        let read: ClientRequest = decode(&bytes).unwrap();
        assert_eq!(read.into_request(), request);
        for length in 0..bytes.len() {
            assert_eq!(decode::<ClientRequest>(&bytes[..length]), None);
        }
    }

    #[test]
    fn no_client_waits_for_ever() {
        let request = Request::key("k", "");
        let forever = ClientRequest::new(&request, Duration::MAX);
        assert_eq!(forever.into_request().deadline, MAX_DEADLINE);
    }
}
