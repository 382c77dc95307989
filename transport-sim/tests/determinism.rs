//! One seed, one run: message by message, whatever happens to the nodes, and whatever else the process does.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use funk::ids::{BootId, ClusterName, Instance, NodeId, PeerAddr};
use funk::transport::{Incoming, LocalNode, PeerKind};
use funk::wire::{Rpc, StreamKind, accept, serve};
use funk_sim::{Clock, Network, SimNode, Simulation, SimulationConfig};

const NODES: [&str; 4] = ["ant", "bee", "cat", "dog"];
const CALL_DEADLINE: Duration = Duration::from_millis(200);
const LARGEST_REQUEST: usize = 40_000;

#[derive(Default)]
struct Tally {
    datagrams: u64,
    calls: u64,
    failed: u64,
}

fn name(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn payload(node: &SimNode, most: usize) -> Bytes {
    let len = node.environment.next_seed() as usize % most;
    let seed = node.environment.next_seed();
    (0..len as u64)
        .map(|at| (seed.rotate_left(at as u32 % 64)) as u8)
        .collect()
}

/// Talks to all others at random moments, and answers them.
async fn chat(node: SimNode, tally: Rc<RefCell<Tally>>) -> turmoil::Result {
    let transport = node.transport().await?;
    let mut incoming = transport.start(LocalNode {
        versions: funk::versions::VersionRange::SPOKEN,
        kind: PeerKind::Node,
        cluster: ClusterName::new("chat")?,
        instance: Instance {
            node: node.name.clone(),
            boot: BootId(node.run),
        },
    })?;
    let environment = &node.environment;
    let rpc = Rpc::new(transport.clone(), environment.clone());
    let answer = async {
        while let Some(incoming) = incoming.recv().await {
            match incoming {
                Incoming::Datagram { .. } => tally.borrow_mut().datagrams += 1,
                Incoming::Superseded { .. } => {}
                Incoming::Stream { stream, .. } => {
                    let environment = environment.clone();
                    node.environment.spawn(async move {
                        let accepted = accept(
                            &environment,
                            stream,
                            funk::versions::VersionRange::SPOKEN,
                            CALL_DEADLINE,
                        )
                        .await;
                        let Ok((_, stream)) = accepted else { return };
                        let echo = |request| async move { request };
                        let _ =
                            serve(&environment, stream, LARGEST_REQUEST, CALL_DEADLINE, echo).await;
                    });
                }
            }
        }
    };
    let talk = async {
        loop {
            let pause = 1 + environment.next_seed() % 20;
            environment.sleep(Duration::from_millis(pause)).await;
            let peer = name(NODES[environment.next_seed() as usize % NODES.len()]);
            if peer == node.name {
                continue;
            }
            let to = PeerAddr {
                addr: node.addr_of(&peer),
                node: Some(peer),
            };
            if environment.next_seed().is_multiple_of(2) {
                transport.send_datagram(&to, payload(&node, 1_000));
                continue;
            }
            let request = payload(&node, LARGEST_REQUEST);
            let kind = StreamKind::Call;
            let response = rpc.call(&to, kind, request.clone(), LARGEST_REQUEST, CALL_DEADLINE);
            let mut tally = match response.await {
                Ok((_, response)) => {
                    assert_eq!(response, request);
                    tally.borrow_mut()
                }
                Err(_) => {
                    tally.borrow_mut().failed += 1;
                    continue;
                }
            };
            tally.calls += 1;
        }
    };
    tokio::join!(answer, talk);
    Ok(())
}

/// Four nodes for eight seconds with crashes, a pause, cuts of up to two seconds, and loss. Returns the fingerprint after each second.
fn run(network: Network, seed: u64) -> (Vec<u64>, Tally) {
    let mut simulation = Simulation::new(&SimulationConfig {
        network,
        ..SimulationConfig::new(seed)
    });
    simulation.network().lose_datagrams(0.05);
    let tally = Rc::new(RefCell::new(Tally::default()));
    for (at, node) in NODES.into_iter().enumerate() {
        let tally = tally.clone();
        let clock = Clock {
            rate: 0.99 + 0.005 * at as f64,
            offset: Duration::from_secs(at as u64),
        };
        simulation.add(&name(node), clock, move |node| chat(node, tally.clone()));
    }
    let [ant, bee, cat, dog] = NODES.map(name);
    let mut prints = Vec::new();
    for second in 0..8 {
        match second {
            1 => simulation.crash(&ant),
            2 => {
                simulation.restart(&ant);
                simulation.pause(&bee);
                simulation.cut_one_way(&cat, &dog);
            }
            3 => {
                simulation.resume(&bee);
                simulation.restart(&cat);
            }
            4 => {
                simulation.heal_all();
                simulation.isolate(&dog);
                simulation.restart(&bee);
            }
            6 => simulation.heal_all(),
            _ => {}
        }
        simulation.run_for(Duration::from_secs(1)).unwrap();
        prints.push(simulation.fingerprint());
    }
    drop(simulation);
    (prints, Rc::into_inner(tally).unwrap().into_inner())
}

fn repeats(network: Network) {
    let mut seen = Vec::new();
    for seed in 0..5 {
        let (first, tally) = run(network, seed);
        assert!(tally.datagrams > 200, "{} datagrams", tally.datagrams);
        assert!(tally.calls > 200, "{} calls", tally.calls);
        assert!(tally.failed > 10, "{} failed calls", tally.failed);
        assert_eq!(first, run(network, seed).0, "seed {seed}");
        assert!(!seen.contains(&first), "seed {seed} is like an earlier one");
        seen.push(first);
    }
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_seed_another_over_tcp() {
    repeats(Network::Tcp);
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_seed_another_over_quic() {
    repeats(Network::Quic);
}

#[allow(clippy::disallowed_methods, reason = "outside of any node")]
fn repeats_beside_others(network: Network) {
    let alone = run(network, 7).0;
    let beside: Vec<_> = [7, 8, 7]
        .map(|seed| std::thread::spawn(move || run(network, seed).0))
        .into_iter()
        .map(|run| run.join().unwrap())
        .collect();
    assert_eq!(beside[0], alone);
    assert_ne!(beside[1], alone);
    assert_eq!(beside[2], alone);
}

#[test]
fn other_threads_do_not_change_a_run_over_tcp() {
    repeats_beside_others(Network::Tcp);
}

#[test]
fn other_threads_do_not_change_a_run_over_quic() {
    repeats_beside_others(Network::Quic);
}
