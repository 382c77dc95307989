//! What peers ask over streams: each is served by a task of its own, so that none holds up another.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::observe;
use crate::engine::Input;
use crate::limits::MAX_FRAME_BYTES;
use crate::node::Node;
use crate::transport::{Incoming, Peer, PeerKind, Stream};
use crate::wire::{self, StreamKind};
use crate::{cordon, proposals, routing, status, weights};

/// How long a peer may take to send a request, or to take the response.
const TRANSFER_WITHIN: Duration = Duration::from_secs(30);

/// Tells datagrams from streams, until the transport or the driver ends.
pub(super) async fn receive(
    node: Arc<Node>,
    mut incoming: mpsc::Receiver<Incoming>,
    datagrams: mpsc::Sender<(Peer, Bytes)>,
    facts: mpsc::UnboundedSender<Input>,
) {
    let mut tasks = JoinSet::new();
    loop {
        let next = tokio::select! {
            biased;
            next = incoming.recv() => next,
            Some(_) = tasks.join_next() => continue,
            () = datagrams.closed() => return,
        };
        match next {
            None => return,
            Some(Incoming::Datagram { from, .. }) if from.kind == PeerKind::Client => {
                refuse_client(&node, &from, "a datagram", "datagrams of clients refused");
            }
            Some(Incoming::Datagram { from, payload }) => {
                if datagrams.try_send((from, payload)).is_err() {
                    node.counters.add("datagrams dropped by a busy driver");
                }
            }
            Some(Incoming::Stream { from, stream }) => {
                let served = serve(node.clone(), from, stream);
                #[allow(clippy::disallowed_methods, reason = "within the node's environment")]
                tasks.spawn(node.environment.scope(served));
            }
            Some(Incoming::Superseded { by }) => {
                // Nobody listens once the driver has ended.
                let _ = facts.send(Input::Superseded { by });
            }
        }
    }
}

/// What clients have no business with. Logged ever more rarely, so that a client cannot fill the log.
fn refuse_client(node: &Node, from: &Peer, what: &str, counter: &'static str) {
    let count = node.counters.add(counter);
    if count.is_power_of_two() {
        tracing::warn!(
            node = %node.instance,
            client = %from.instance.node,
            addr = %from.addr,
            count,
            "refused {what} of a client: only nodes, with a certificate for a node name, take part in the cluster"
        );
    }
}

async fn serve(node: Arc<Node>, from: Peer, stream: Stream) {
    if let Err(error) = try_serve(&node, &from, stream).await {
        node.counters.add("streams that broke");
        tracing::debug!(node = %node.instance, from = %from.instance, %error, "a stream broke");
    }
}

type Error = Box<dyn std::error::Error + Send + Sync>;

async fn try_serve(node: &Arc<Node>, from: &Peer, stream: Stream) -> Result<(), Error> {
    let environment = &node.environment;
    let (kind, mut stream) =
        wire::accept(environment, stream, node.versions, TRANSFER_WITHIN).await?;
    if from.kind == PeerKind::Client && !kind.is_for_clients() {
        let what = format!("a {kind:?} stream");
        refuse_client(node, from, &what, "streams of clients refused");
        return Ok(());
    }
    if kind == StreamKind::Raft {
        let answer = |request: Bytes| async move {
            let raft = node.raft.load_full()?;
            Some(raft.handle_rpc(from, request).await)
        };
        let serve = wire::serve_all(
            environment,
            stream,
            MAX_FRAME_BYTES,
            TRANSFER_WITHIN,
            answer,
        );
        return Ok(serve.await?);
    }
    let request =
        wire::read_request(environment, &mut stream, MAX_FRAME_BYTES, TRANSFER_WITHIN).await?;
    let response = match kind {
        // Served above, on a stream that goes on.
        StreamKind::Raft => None,
        StreamKind::Call => routing::serve(node, from, &request).await,
        StreamKind::Propose => proposals::serve(node, &request).await,
        StreamKind::Tags => Some(own_tags(node)),
        StreamKind::Observe => observe::serve(node, &request).await,
        StreamKind::ClientCall => routing::serve_client(node, &request).await,
        StreamKind::Weights => weights::serve(node, &request).await,
        StreamKind::Cordon => cordon::serve(node, from.kind, &request).await,
        StreamKind::Status => Some(status::serve(node)),
    };
    match response {
        Some(response) => Ok(wire::respond(environment, stream, &response, TRANSFER_WITHIN).await?),
        None => Err(format!("{kind:?}: the request cannot be read or is not for this node").into()),
    }
}

fn own_tags(node: &Node) -> Bytes {
    let status = node.status.load();
    let version = status
        .members
        .get(&node.instance.node)
        .map_or(0, |own| own.tag_version);
    let tags = (version, status.tags.as_ref());
    postcard::to_stdvec(&tags)
        .expect("plain data always encodes")
        .into()
}
