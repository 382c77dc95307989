//! What an application puts behind its shards.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::cluster::Cluster;
use crate::guard::ShardGuard;
use crate::ids::{Epoch, NodeId, ShardId};
use crate::transport::BoxFuture;

/// A shard with the token under which it is (or was) owned.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct OwnedShard {
    /// The shard.
    pub shard: ShardId,
    /// The fencing token.
    pub epoch: Epoch,
}

/// A request that reached the owner of its shard.
#[derive(Debug)]
pub struct ServiceRequest {
    /// Proof of ownership: the shard, its token, and until when both hold. Dropping it lets the shard go.
    pub guard: ShardGuard,
    /// The key that was called for; empty if the call named a shard.
    pub key: Bytes,
    /// What the caller sent.
    pub body: Bytes,
    /// The node that sent it; this one for calls made here.
    pub from: NodeId,
    /// How long the caller still waits for the answer.
    pub time_left: Duration,
    /// The cluster, for calls and proposals of the service's own. This handle does not keep the node running.
    pub cluster: Cluster,
}

/// The service's own error: its bytes reach the caller as [`CallError::Service`](crate::call::CallError::Service).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceError(pub Bytes);

impl<T: Into<String>> From<T> for ServiceError {
    fn from(text: T) -> Self {
        Self(Bytes::from(text.into()))
    }
}

/// An `acquire` hook could not make shards ready.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AcquireError {
    /// Which shards; empty: all that the hook was given.
    pub shards: Vec<ShardId>,
    /// Why, for the log.
    pub reason: String,
}

impl fmt::Display for AcquireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for AcquireError {}

impl<T: Into<String>> From<T> for AcquireError {
    fn from(reason: T) -> Self {
        Self {
            shards: Vec::new(),
            reason: reason.into(),
        }
    }
}

/// What answers requests. Written with `async fn`; a cluster can have several, told apart by name.
///
/// The hooks are optional. They run outside the protocol's loop and may [`call`](Cluster::call) and
/// [`propose`](Cluster::propose).
pub trait Service: Send + Sync + 'static {
    /// Answers one request. Runs on the owner of the shard only, while it is the owner: when the lease lapses
    /// or a drain takes longer than `drain_timeout`, the future is dropped and the caller is told
    /// [`Ambiguous`](crate::call::CallError::Ambiguous). A panic is caught and is `Ambiguous` as well.
    ///
    /// A process that is stopped in the middle of a write can still finish that write late. Storage that other
    /// owners share must therefore check the token ([`ShardGuard::epoch`]) and refuse lower ones.
    fn call(
        &self,
        request: ServiceRequest,
    ) -> impl Future<Output = Result<Bytes, ServiceError>> + Send;

    /// Makes shards ready before they are served. Bounded by `acquire_timeout`; after an error or a timeout they
    /// stay unserved and the hook runs again, later and later; after a few failures the leader places them elsewhere.
    fn acquire(
        &self,
        cluster: Cluster,
        shards: Vec<OwnedShard>,
    ) -> impl Future<Output = Result<(), AcquireError>> + Send {
        let _ = (cluster, shards);
        async { Ok(()) }
    }

    /// Puts shards down. No guard is in flight on them any more, and nobody else serves them before it returns
    /// (unless this node falls silent: then its lease runs out first).
    fn release(
        &self,
        cluster: Cluster,
        shards: Vec<OwnedShard>,
    ) -> impl Future<Output = ()> + Send {
        let _ = (cluster, shards);
        async {}
    }

    /// Whether this node should have shards: a look at what the service needs, a database, a disk, a queue that is not
    /// full. Asked a few times a second; no answer within a second is a no. A node that was not ready for
    /// [`unready_after`](crate::Timing::unready_after) loses its shards although it answers pings, and gets them again
    /// when it is ready; if no other node is ready, shards stay where they are.
    fn ready(&self) -> impl Future<Output = bool> + Send {
        async { true }
    }
}

/// [`Service`] as a trait object.
pub(crate) trait ErasedService: Send + Sync {
    fn call(
        self: Arc<Self>,
        request: ServiceRequest,
    ) -> BoxFuture<'static, Result<Bytes, ServiceError>>;
    fn acquire(
        self: Arc<Self>,
        cluster: Cluster,
        shards: Vec<OwnedShard>,
    ) -> BoxFuture<'static, Result<(), AcquireError>>;
    fn release(
        self: Arc<Self>,
        cluster: Cluster,
        shards: Vec<OwnedShard>,
    ) -> BoxFuture<'static, ()>;
    fn ready(self: Arc<Self>) -> BoxFuture<'static, bool>;
}

impl<S: Service> ErasedService for S {
    fn call(
        self: Arc<Self>,
        request: ServiceRequest,
    ) -> BoxFuture<'static, Result<Bytes, ServiceError>> {
        Box::pin(async move { Service::call(&*self, request).await })
    }

    fn acquire(
        self: Arc<Self>,
        cluster: Cluster,
        shards: Vec<OwnedShard>,
    ) -> BoxFuture<'static, Result<(), AcquireError>> {
        Box::pin(async move { Service::acquire(&*self, cluster, shards).await })
    }

    fn release(
        self: Arc<Self>,
        cluster: Cluster,
        shards: Vec<OwnedShard>,
    ) -> BoxFuture<'static, ()> {
        Box::pin(async move { Service::release(&*self, cluster, shards).await })
    }

    fn ready(self: Arc<Self>) -> BoxFuture<'static, bool> {
        Box::pin(async move { Service::ready(&*self).await })
    }
}
