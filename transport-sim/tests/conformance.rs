//! The suite that every transport runs, on simulated time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use funk::ids::NodeId;
use funk::runtime::Environment;
use funk::transport::conformance::{CASES, Case, Fixture};
use funk::transport::{BoxFuture, PeerKind, Transport, TransportError};
use funk_sim::{Clock, Names, Network, SimNode, Simulation, SimulationConfig};

/// Between two attempts at a port that an ended transport still holds.
const PORT_COMES_FREE: Duration = Duration::from_millis(10);

struct OnOneHost(SimNode);

impl Fixture for OnOneHost {
    fn bind<'a>(
        &'a self,
        node: &'a NodeId,
        addr: Option<SocketAddr>,
    ) -> BoxFuture<'a, Arc<dyn Transport>> {
        Box::pin(async move {
            let port = addr.map_or(0, |addr| addr.port());
            loop {
                match self.0.transport_as(PeerKind::Node, node, port).await {
                    Ok(transport) => return transport,
                    Err(TransportError::Bind { .. }) => {}
                    Err(error) => panic!("{node}: {error}"),
                }
                Environment::current().sleep(PORT_COMES_FREE).await;
            }
        })
    }

    fn vacant_addr(&self) -> SocketAddr {
        SocketAddr::new(self.0.addr_of(&self.0.name).ip(), 1)
    }
}

/// Runs one case in a simulation of its own; says what the fingerprint was.
fn run(case: &'static Case, network: Network, seed: u64) {
    let mut simulation = Simulation::new(&SimulationConfig {
        names: Names::Claimed,
        network,
        ..SimulationConfig::new(seed)
    });
    let is_done = Arc::new(AtomicBool::new(false));
    let done = is_done.clone();
    let host = NodeId::new("conformance").unwrap();
    simulation.add(&host, Clock::default(), move |node| {
        let done = done.clone();
        async move {
            case.run(&OnOneHost(node)).await;
            done.store(true, Ordering::SeqCst);
            Ok(())
        }
    });
    let finished =
        simulation.run_until(Duration::from_secs(600), || is_done.load(Ordering::SeqCst));
    assert!(finished.unwrap(), "{} did not finish", case.name);
}

#[test]
fn conforms_over_tcp() {
    for case in CASES {
        run(case, Network::Tcp, 1);
    }
}

#[test]
fn conforms_over_quic() {
    for case in CASES {
        run(case, Network::Quic, 1);
    }
}
