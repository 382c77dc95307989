//! The suite that every transport passes, over loopback.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use funk::ids::NodeId;
use funk::runtime::Environment;
use funk::transport::conformance::{CASES, Fixture};
use funk::transport::{BoxFuture, Transport, TransportError};
use funk_quic::{Authority, QuicConfig, QuicTransport};

struct Loopback {
    authority: Authority,
    /// Kept bound, so that nobody listens at its address and nobody can.
    vacant: UdpSocket,
}

/// Attempts to bind a port that an earlier transport is about to free.
const BIND_ATTEMPTS: usize = 200;

impl Fixture for Loopback {
    fn bind<'a>(
        &'a self,
        node: &'a NodeId,
        addr: Option<SocketAddr>,
    ) -> BoxFuture<'a, Arc<dyn Transport>> {
        Box::pin(async move {
            let addr = addr.unwrap_or_else(|| "127.0.0.1:0".parse().unwrap());
            for _ in 0..BIND_ATTEMPTS {
                let credentials = self.authority.node_credentials(node).unwrap();
                match QuicTransport::bind(addr, credentials, QuicConfig::default()) {
                    Ok(transport) => return transport as Arc<dyn Transport>,
                    Err(TransportError::Bind { .. }) => {
                        Environment::current()
                            .sleep(Duration::from_millis(10))
                            .await;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            panic!("{addr} was not freed");
        })
    }

    fn vacant_addr(&self) -> SocketAddr {
        self.vacant.local_addr().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quic_passes_the_conformance_suite() {
    let fixture = Loopback {
        authority: Authority::new().unwrap(),
        vacant: UdpSocket::bind("127.0.0.1:0").unwrap(),
    };
    for case in CASES {
        println!("{case:?}");
        case.run(&fixture).await;
    }
}
