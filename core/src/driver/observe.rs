//! How a non-member, which has no log, learns leader and map: it asks a member and is answered when they change.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::engine::Input;
use crate::engine::map_encoding::{decode_map, encode_map};
use crate::ids::{LogIndex, MemberKind, NodeId, PeerAddr};
use crate::limits::MAX_FRAME_BYTES;
use crate::node::Node;
use crate::wire::StreamKind;

/// How long a member waits for a change before it answers that there is none.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long the asker waits: the member's patience and a generous round trip.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// Pause before another member is asked when nobody answered.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Serialize, Deserialize)]
struct Observation {
    leader: Option<NodeId>,
    /// Index of the map that the asker has; in the answer, of the map that is in force.
    map_index: LogIndex,
    /// The map in force, where it is newer than the asker's.
    map: Option<Bytes>,
}

impl Observation {
    fn encode(&self) -> Bytes {
        postcard::to_stdvec(self)
            .expect("plain data always encodes")
            .into()
    }
}

/// The member's side; `None`: the bytes are no question.
pub(super) async fn serve(node: &Arc<Node>, request: &[u8]) -> Option<Bytes> {
    let asked: Observation = postcard::from_bytes(request).ok()?;
    let mut changes = node.changes.subscribe();
    let change = async {
        loop {
            let routes = node.routes.load();
            if routes.leader != asked.leader || routes.map.index() > asked.map_index {
                return;
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    };
    // In the end it is answered either way, so that a silent member is noticed.
    let _ = node.environment.timeout(PATIENCE, change).await;
    let routes = node.routes.load();
    let newer = routes.map.index() > asked.map_index;
    let answer = Observation {
        leader: routes.leader.clone(),
        map_index: routes.map.index(),
        map: newer.then(|| encode_map(&routes.map)),
    };
    Some(answer.encode())
}

/// The non-member's side: asks one member after another, for as long as the node runs.
pub(super) async fn follow(node: Arc<Node>, facts: mpsc::UnboundedSender<Input>) {
    let mut at = 0;
    while !node.is_stopped() {
        let members = members(&node);
        let Some(peer) = members.get(at % members.len().max(1)) else {
            node.environment.sleep(PAUSE).await;
            continue;
        };
        match ask(&node, peer).await {
            Some(input) => {
                if facts.send(input).is_err() {
                    return;
                }
            }
            None => {
                at += 1;
                node.environment.sleep(PAUSE).await;
            }
        }
    }
}

/// Those who have a log, and are there.
fn members(node: &Node) -> Vec<PeerAddr> {
    let status = node.status.load();
    let members = status
        .members
        .values()
        .filter(|member| member.is_present() && member.kind != MemberKind::NonMember);
    let peer = |member: &crate::engine::membership::Member| PeerAddr {
        node: Some(member.instance.node.clone()),
        addr: member.addr,
    };
    members.map(peer).collect()
}

async fn ask(node: &Node, peer: &PeerAddr) -> Option<Input> {
    let routes = node.routes.load_full();
    let question = Observation {
        leader: routes.leader.clone(),
        map_index: routes.map.index(),
        map: None,
    };
    let exchange = node.rpc.call(
        peer,
        StreamKind::Observe,
        question.encode(),
        MAX_FRAME_BYTES,
        ANSWER_WITHIN,
    );
    let (_, answer) = exchange.await.ok()?;
    let answer: Observation = postcard::from_bytes(&answer).ok()?;
    let map = match answer.map {
        Some(map) => Arc::new(decode_map(&map).ok()?),
        None => routes.map.clone(),
    };
    Some(Input::Observed {
        leader: answer.leader,
        map,
    })
}
