//! The service on one node: `get` from the owner's replica, `increment` through the log, `replica` as it happens to be.
//!
//! The owner's replica misses nothing that was acknowledged: a shard is served only after the commit of the map that
//! gave it away has been applied here, what the former owner acknowledged stands before that commit in the log, and
//! what it proposed later is refused for its token.

use bytes::Bytes;
use funk::{Service, ServiceError, ServiceRequest};

use super::protocol::{Operation, Refusal, encode};
use super::state::{Entry, Replica};

/// Answers for the counters of the shards that this node owns.
pub(crate) struct Counter {
    pub(crate) replica: Replica,
}

impl Service for Counter {
    async fn call(&self, request: ServiceRequest) -> Result<Bytes, ServiceError> {
        let key = str::from_utf8(&request.key).map_err(|_| Refusal::BadRequest)?;
        match Operation::decode(&request.body) {
            Some(Operation::Get) => {
                let value = self.replica.value(key);
                // Valid after the value was read: nobody else owned the shard meanwhile.
                if request.guard.is_valid() {
                    Ok(encode(value))
                } else {
                    Err(Refusal::NotExecuted.into())
                }
            }
            Some(Operation::Replica { key }) => Ok(encode(self.replica.value(key))),
            Some(Operation::Increment { id }) => {
                let entry = Entry { key, id }.encode();
                match request.guard.propose(entry).await {
                    Ok(proposed) => Ok(proposed.response),
                    Err(error) => Err(Refusal::from(&error).into()),
                }
            }
            None => Err(Refusal::BadRequest.into()),
        }
    }
}
