//! What the tests of faults share.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use funk::ids::{BootId, ClusterName, Instance, NodeId, PeerAddr};
use funk::transport::{Incoming, LocalNode, PeerKind, Transport};
use funk_sim::{SimNode, Simulation};
use tokio::sync::mpsc;

/// What happened, in order.
pub(crate) type Log = Rc<RefCell<Vec<String>>>;

pub(crate) fn name(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

pub(crate) fn say(log: &Log, what: impl Into<String>) {
    log.borrow_mut().push(what.into());
}

pub(crate) fn has(log: &Log, what: &str) -> bool {
    log.borrow().iter().any(|said| said == what)
}

pub(crate) fn wait_for(simulation: &mut Simulation, log: &Log, what: &str) {
    let came = simulation.run_until(Duration::from_secs(60), || has(log, what));
    assert!(came.unwrap(), "no {what:?} in {:?}", log.borrow());
}

pub(crate) async fn start(
    node: &SimNode,
    claim: &NodeId,
) -> (Arc<dyn Transport>, mpsc::Receiver<Incoming>) {
    let transport = node.transport().await.unwrap();
    let incoming = transport.start(LocalNode {
        versions: funk::versions::VersionRange::SPOKEN,
        kind: PeerKind::Node,
        cluster: ClusterName::new("faults").unwrap(),
        instance: Instance {
            node: claim.clone(),
            boot: BootId(node.run),
        },
    });
    (transport, incoming.unwrap())
}

pub(crate) fn peer(node: &SimNode, peer: &str) -> PeerAddr {
    PeerAddr {
        node: Some(name(peer)),
        addr: node.addr_of(&name(peer)),
    }
}
