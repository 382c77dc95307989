//! How fast connected, idle nodes are simulated: each of five has a silent stream open to each of the others.
//!
//! ```text
//! cargo run --release -p funk-sim --example speed
//! ```

use std::cell::Cell;
use std::future::pending;
use std::rc::Rc;
use std::time::Duration;

use funk::ids::{BootId, ClusterName, Instance, NodeId, PeerAddr};
use funk::transport::{Incoming, LocalNode, PeerKind};
use funk_sim::{Clock, Network, SimNode, Simulation, SimulationConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const NODES: [&str; 5] = ["ant", "bee", "cat", "dog", "eel"];
const CONNECTED: Duration = Duration::from_secs(10);
const MEASURED: Duration = Duration::from_secs(500);

/// Opens a stream to everybody, and holds what others open.
async fn idle(node: SimNode, opened: Rc<Cell<usize>>) -> turmoil::Result {
    let transport = node.transport().await?;
    let mut incoming = transport.start(LocalNode {
        versions: funk::versions::VersionRange::SPOKEN,
        kind: PeerKind::Node,
        cluster: ClusterName::new("speed")?,
        instance: Instance {
            node: node.name.clone(),
            boot: BootId(node.run),
        },
    })?;
    let hold = async {
        let mut held = Vec::new();
        while let Some(incoming) = incoming.recv().await {
            let Incoming::Stream { mut stream, .. } = incoming else {
                continue;
            };
            if stream.send.write_all(b"hello").await.is_ok() {
                held.push(stream);
            }
        }
    };
    let open = async {
        let mut held = Vec::new();
        for other in NODES.map(|name| NodeId::new(name).expect("a name")) {
            if other == node.name {
                continue;
            }
            let to = PeerAddr {
                addr: node.addr_of(&other),
                node: Some(other),
            };
            let (_, mut stream) = transport.open_stream(&to).await?;
            stream.send.write_all(b"hello").await?;
            stream.recv.read_exact(&mut [0; 5]).await?;
            opened.set(opened.get() + 1);
            held.push(stream);
        }
        pending::<turmoil::Result>().await
    };
    tokio::join!(hold, open).1
}

/// Simulated seconds for each real one, and messages for each simulated one; `None`: hosts without software.
#[allow(clippy::disallowed_methods, reason = "outside of any node")]
fn measure(network: Option<Network>, tick: Duration) -> (f64, f64) {
    let mut simulation = Simulation::new(&SimulationConfig {
        network: network.unwrap_or_default(),
        tick,
        latency: tick..=3 * tick,
        ..SimulationConfig::new(1)
    });
    let opened = Rc::new(Cell::new(0));
    for node in NODES {
        let node = NodeId::new(node).expect("a name");
        let opened = opened.clone();
        simulation.add(&node, Clock::default(), move |node| {
            let opened = opened.clone();
            async move {
                match network {
                    Some(_) => idle(node, opened).await,
                    None => pending().await,
                }
            }
        });
    }
    simulation.run_for(CONNECTED).expect("no node fails");
    let streams = network.map_or(0, |_| NODES.len() * (NODES.len() - 1));
    assert_eq!(opened.get(), streams, "streams were opened");
    let before = simulation.network().messages();
    let start = std::time::Instant::now();
    simulation.run_for(MEASURED).expect("no node fails");
    let rate = MEASURED.as_secs_f64() / start.elapsed().as_secs_f64();
    let messages = simulation.network().messages() - before;
    (rate, messages as f64 / MEASURED.as_secs_f64())
}

fn main() {
    println!(
        "5 nodes, 20 idle streams (over QUIC on 10 connections); simulated seconds for each real second:"
    );
    println!("tick      bare     TCP (messages/s)      QUIC (messages/s)   QUIC/TCP");
    for tick in [1, 5] {
        let tick = Duration::from_millis(tick);
        let (bare, _) = measure(None, tick);
        let (tcp, by_tcp) = measure(Some(Network::Tcp), tick);
        let (quic, by_quic) = measure(Some(Network::Quic), tick);
        let ratio = quic / tcp;
        println!(
            "{tick:<6.0?} {bare:>7.0} {tcp:>7.0} ({by_tcp:>9.1}/s) {quic:>9.0} ({by_quic:>9.1}/s) {ratio:>10.2}"
        );
    }
}
