//! The suite that every transport runs, on simulated time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use funk::ids::NodeId;
use funk::runtime::Environment;
use funk::transport::conformance::{CASES, Case, Fixture};
use funk::transport::{BoxFuture, Transport};
use funk_sim::{Clock, Names, SimNode, Simulation, SimulationConfig};

/// Between two attempts at a port that an ended transport still holds.
const PORT_COMES_FREE: Duration = Duration::from_millis(10);

struct OnOneHost(SimNode);

impl Fixture for OnOneHost {
    fn bind<'a>(
        &'a self,
        _: &'a NodeId,
        addr: Option<SocketAddr>,
    ) -> BoxFuture<'a, Arc<dyn Transport>> {
        Box::pin(async move {
            let port = addr.map_or(0, |addr| addr.port());
            loop {
                if let Ok(transport) = self.0.bind_at(port).await {
                    let transport: Arc<dyn Transport> = transport;
                    return transport;
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
fn run(case: &'static Case, seed: u64) -> u64 {
    let mut simulation = Simulation::new(&SimulationConfig {
        names: Names::Claimed,
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
    simulation.fingerprint()
}

#[test]
fn conforms() {
    for case in CASES {
        run(case, 1);
    }
}
