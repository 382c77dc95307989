//! What nodes see of crashes, restarts, pauses, cuts and wrong clocks when they talk QUIC.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use funk::ids::{BootId, ClusterName, Instance, NodeId};
use funk::transport::{Incoming, LocalNode, PeerKind, Stream, Transport, TransportError};
use funk_sim::{Clock, Network, SimNode, Simulation, SimulationConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

mod common;

use common::{Log, has, name, peer, say, start, wait_for};

/// Of the connections, as configured by default.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// How soon after the restart of a node its peers must have noticed, if they talk to it.
const NOTICED: Duration = Duration::from_secs(1);

/// What one end of a conversation does.
#[derive(Clone, Copy)]
struct Role {
    /// Whom the first run calls.
    calls: Option<&'static str>,
    /// Pause after each byte that is said; `None`: nothing after the first one.
    talks_every: Option<Duration>,
    /// Pause after each datagram to whom is called.
    datagrams_every: Option<Duration>,
}

const TALKS: Role = Role {
    calls: None,
    talks_every: Some(Duration::from_millis(100)),
    datagrams_every: None,
};
const CALLS_BOB: Role = Role {
    calls: Some("bob"),
    ..TALKS
};

/// What a node came to, for the test to look at.
#[derive(Clone, Default)]
struct Seen {
    log: Log,
    bytes: Rc<RefCell<u64>>,
    datagrams: Rc<RefCell<u64>>,
    transport: Rc<RefCell<Option<Arc<dyn Transport>>>>,
}

impl Seen {
    fn take_datagrams(&self) -> u64 {
        std::mem::take(&mut *self.datagrams.borrow_mut())
    }
}

fn quic(seed: u64) -> Simulation {
    Simulation::new(&SimulationConfig {
        network: Network::Quic,
        ..SimulationConfig::new(seed)
    })
}

fn add(simulation: &mut Simulation, node: &str, rate: f64, role: Role) -> Seen {
    let seen = Seen::default();
    let clock = Clock {
        rate,
        ..Clock::default()
    };
    let shared = seen.clone();
    simulation.add(&name(node), clock, move |node| {
        converse(node, role, shared.clone())
    });
    seen
}

async fn converse(node: SimNode, role: Role, seen: Seen) -> turmoil::Result {
    let (transport, mut incoming) = start(&node, &node.name).await;
    *seen.transport.borrow_mut() = Some(transport.clone());
    let called = role.calls.filter(|_| node.run == 1);
    let call = async {
        let Some(called) = called else { return };
        let opened = transport.open_stream(&peer(&node, called)).await;
        talk(&node, opened.unwrap().1, role, &seen).await;
    };
    let shout = async {
        let (Some(called), Some(pause)) = (called, role.datagrams_every) else {
            return;
        };
        loop {
            transport.send_datagram(&peer(&node, called), Bytes::from_static(&[7; 100]));
            node.environment.sleep(pause).await;
        }
    };
    let answer = async {
        while let Some(incoming) = incoming.recv().await {
            match incoming {
                Incoming::Stream { stream, .. } => {
                    let (node, seen) = (node.clone(), seen.clone());
                    tokio::task::spawn_local(node.environment.clone().scope(async move {
                        talk(&node, stream, role, &seen).await;
                    }));
                }
                Incoming::Datagram { .. } => *seen.datagrams.borrow_mut() += 1,
                Incoming::Superseded { .. } => {}
            }
        }
    };
    tokio::join!(call, shout, answer);
    Ok(())
}

/// Talks and listens at once, until the stream breaks.
async fn talk(node: &SimNode, stream: Stream, role: Role, seen: &Seen) {
    let Stream { mut send, mut recv } = stream;
    let speak = async {
        while send.write_all(b"!").await.is_ok() {
            match role.talks_every {
                Some(pause) => node.environment.sleep(pause).await,
                None => std::future::pending().await,
            }
        }
    };
    let listen = async {
        let mut buffer = [0; 64];
        while let Ok(len) = recv.read(&mut buffer).await
            && len > 0
        {
            if *seen.bytes.borrow() == 0 {
                say(&seen.log, "heard");
            }
            *seen.bytes.borrow_mut() += len as u64;
        }
    };
    tokio::select! {
        biased;
        () = speak => {}
        () = listen => {}
    }
    say(&seen.log, format!("ended {}", node.run));
}

/// How long it takes until the node says so.
fn time_until(simulation: &mut Simulation, seen: &Seen, what: &str) -> Duration {
    let before = simulation.elapsed();
    wait_for(simulation, &seen.log, what);
    simulation.elapsed() - before
}

#[test]
fn a_crash_is_silent_and_whoever_talks_notices_the_restart_at_once() {
    let alice_calls = [
        (CALLS_BOB, TALKS),
        (
            TALKS,
            Role {
                calls: Some("alice"),
                ..TALKS
            },
        ),
    ];
    for ((alice, bob), down) in alice_calls
        .into_iter()
        .flat_map(|roles| [0, 500, 3_000].map(|down| (roles, Duration::from_millis(down))))
    {
        let mut simulation = quic(1);
        let alice = add(&mut simulation, "alice", 1.0, alice);
        let bob_saw = add(&mut simulation, "bob", 1.0, bob);
        wait_for(&mut simulation, &alice.log, "heard");
        wait_for(&mut simulation, &bob_saw.log, "heard");
        simulation.run_for(Duration::from_secs(1)).unwrap();
        if !down.is_zero() {
            simulation.crash(&name("bob"));
            simulation.run_for(down).unwrap();
        }
        assert_eq!(*alice.log.borrow(), ["heard"], "down for {down:?}");
        simulation.restart(&name("bob"));
        let noticed = time_until(&mut simulation, &alice, "ended 1");
        assert!(noticed < NOTICED, "{noticed:?} after {down:?}");
        let counters = alice.transport.borrow().as_ref().unwrap().counters();
        assert_eq!(counters.closed_by_peer, 0, "bob said farewell");
    }
}

#[test]
fn whoever_is_quiet_notices_a_restart_by_its_next_probe() {
    let mut simulation = quic(2);
    let quiet = Role {
        talks_every: None,
        ..TALKS
    };
    let calls = Role {
        calls: Some("bob"),
        ..quiet
    };
    let alice = add(&mut simulation, "alice", 1.0, calls);
    add(&mut simulation, "bob", 1.0, quiet);
    wait_for(&mut simulation, &alice.log, "heard");
    simulation.run_for(Duration::from_secs(30)).unwrap();
    assert_eq!(*alice.log.borrow(), ["heard"], "idle is not dead");
    simulation.restart(&name("bob"));
    let noticed = time_until(&mut simulation, &alice, "ended 1");
    assert!(noticed < IDLE_TIMEOUT / 3 + NOTICED, "{noticed:?}");
}

#[test]
fn the_idle_timeout_goes_by_the_clock_of_the_node() {
    let given_up_after = |rate: f64| {
        let mut simulation = quic(3);
        let calls = Role {
            talks_every: None,
            ..CALLS_BOB
        };
        let alice = add(&mut simulation, "alice", rate, calls);
        add(&mut simulation, "bob", 1.0, TALKS);
        wait_for(&mut simulation, &alice.log, "heard");
        simulation.run_for(Duration::from_millis(50)).unwrap();
        simulation.crash(&name("bob"));
        wait_for(&mut simulation, &alice.log, "ended 1");
        simulation.elapsed()
    };
    let right = given_up_after(1.0);
    assert!(right > IDLE_TIMEOUT, "{right:?}");
    for rate in [0.99, 1.01] {
        let shown = given_up_after(rate).mul_f64(rate);
        assert!(
            shown.abs_diff(right) < Duration::from_millis(20),
            "{shown:?} is not {right:?}"
        );
    }
}

#[test]
fn clocks_that_err_by_one_per_cent_break_nothing() {
    let mut simulation = quic(4);
    let alice = add(&mut simulation, "alice", 0.99, CALLS_BOB);
    let bob = add(&mut simulation, "bob", 1.01, TALKS);
    simulation.run_for(Duration::from_secs(60)).unwrap();
    for (seen, of) in [(alice, "alice"), (bob, "bob")] {
        assert_eq!(*seen.log.borrow(), ["heard"], "{of}");
        assert!(*seen.bytes.borrow() > 580, "{of}");
    }
}

#[test]
fn a_pause_shorter_than_the_idle_timeout_breaks_nothing() {
    let mut simulation = quic(5);
    let shouts = Role {
        datagrams_every: Some(Duration::from_millis(1)),
        ..CALLS_BOB
    };
    let alice = add(&mut simulation, "alice", 1.0, shouts);
    let bob = add(&mut simulation, "bob", 1.0, TALKS);
    wait_for(&mut simulation, &bob.log, "heard");
    simulation.run_for(Duration::from_secs(1)).unwrap();
    assert!(bob.take_datagrams() > 900);
    simulation.pause(&name("bob"));
    simulation.run_for(Duration::from_millis(5)).unwrap();
    bob.take_datagrams();
    let bytes = *bob.bytes.borrow();
    simulation.run_for(Duration::from_secs(5)).unwrap();
    assert_eq!(bob.take_datagrams(), 0, "a paused node reads nothing");
    let counters = alice.transport.borrow().as_ref().unwrap().counters();
    assert!(counters.datagrams_dropped > 3_000, "{counters:?}");
    simulation.resume(&name("bob"));
    simulation.run_for(Duration::from_millis(1)).unwrap();
    let kept = bob.take_datagrams();
    assert!((1..2_000).contains(&kept), "{kept} were kept for it");
    simulation.run_for(Duration::from_secs(5)).unwrap();
    assert!(bob.take_datagrams() > 1_000);
    assert!(*bob.bytes.borrow() >= bytes + 90, "the stream goes on");
    assert_eq!(*alice.log.borrow(), ["heard"]);
    assert_eq!(*bob.log.borrow(), ["heard"]);
}

#[test]
fn after_a_longer_pause_both_sides_know_and_connect_anew() {
    let mut simulation = quic(6);
    let shouts = Role {
        datagrams_every: Some(Duration::from_millis(20)),
        ..CALLS_BOB
    };
    let alice = add(&mut simulation, "alice", 1.0, shouts);
    let bob = add(&mut simulation, "bob", 1.0, TALKS);
    wait_for(&mut simulation, &bob.log, "heard");
    simulation.pause(&name("bob"));
    let noticed = time_until(&mut simulation, &alice, "ended 1");
    assert!(
        noticed > IDLE_TIMEOUT / 2 && noticed < IDLE_TIMEOUT * 2,
        "{noticed:?}"
    );
    simulation.run_for(Duration::from_secs(5)).unwrap();
    assert!(!has(&bob.log, "ended 1"), "a paused node notices nothing");
    simulation.resume(&name("bob"));
    let noticed = time_until(&mut simulation, &bob, "ended 1");
    assert!(noticed < NOTICED, "{noticed:?}");
    bob.take_datagrams();
    simulation.run_for(Duration::from_secs(4)).unwrap();
    assert!(bob.take_datagrams() > 50, "connected anew");
}

#[test]
fn loss_and_a_cut_of_two_seconds_break_nothing_and_total_loss_is_silence() {
    let mut simulation = quic(7);
    let shouts = Role {
        datagrams_every: Some(Duration::from_millis(20)),
        ..CALLS_BOB
    };
    let alice = add(&mut simulation, "alice", 1.0, shouts);
    let bob = add(&mut simulation, "bob", 1.0, TALKS);
    wait_for(&mut simulation, &bob.log, "heard");
    simulation.network().lose_datagrams(0.2);
    simulation.run_for(Duration::from_secs(10)).unwrap();
    assert!(bob.take_datagrams() < 450, "nothing is lost");
    simulation.cut(&name("alice"), &name("bob"));
    simulation.run_for(Duration::from_millis(10)).unwrap();
    bob.take_datagrams();
    simulation.run_for(Duration::from_secs(2)).unwrap();
    assert_eq!(bob.take_datagrams(), 0);
    simulation.heal_all();
    simulation.run_for(Duration::from_secs(10)).unwrap();
    for seen in [&alice, &bob] {
        assert_eq!(*seen.log.borrow(), ["heard"]);
        assert!(*seen.bytes.borrow() > 200, "what was lost was sent again");
    }
    simulation.network().lose_datagrams(1.0);
    simulation.run_for(Duration::from_millis(10)).unwrap();
    bob.take_datagrams();
    simulation.run_for(Duration::from_secs(5)).unwrap();
    assert_eq!(bob.take_datagrams(), 0);
}

#[test]
fn a_host_has_certificates_for_its_own_name_and_its_clients_are_known_as_such() {
    let mut simulation = quic(8);
    let log = Log::default();
    let (for_bob, for_alice) = (log.clone(), log.clone());
    simulation.add(&name("bob"), Clock::default(), move |node| {
        let log = for_bob.clone();
        async move {
            let (_transport, mut incoming) = start(&node, &node.name).await;
            while let Some(incoming) = incoming.recv().await {
                let Incoming::Stream { from, mut stream } = incoming else {
                    continue;
                };
                let mut word = [0; 2];
                stream.recv.read_exact(&mut word).await?;
                say(&log, format!("{} {}", from.kind, from.instance));
            }
            Ok(())
        }
    });
    simulation.add(&name("alice"), Clock::default(), move |node| {
        let log = for_alice.clone();
        async move {
            let thief = node.transport_as(PeerKind::Node, &name("bob"), 1).await;
            assert!(matches!(thief.err(), Some(TransportError::Credentials(_))));
            let first = node.client_transport().await?;
            let second = node.client_transport().await?;
            let own = |transport: &dyn Transport| -> SocketAddr { transport.local_addr() };
            assert_ne!(own(&*first), own(&*second));
            for transport in [first, second] {
                let _incoming = transport.start(local(PeerKind::Client, &node.name))?;
                let (_, mut stream) = transport.open_stream(&peer(&node, "bob")).await?;
                stream.send.write_all(b"hi").await?;
                stream.send.shutdown().await?;
                // Until bob has let go of it.
                let _ = stream.recv.read(&mut [0]).await;
            }
            say(&log, "served");
            Ok(())
        }
    });
    wait_for(&mut simulation, &log, "served");
    assert_eq!(
        *log.borrow(),
        ["client alice/1", "client alice/1", "served"]
    );
}

fn local(kind: PeerKind, node: &NodeId) -> LocalNode {
    LocalNode {
        versions: funk::versions::VersionRange::SPOKEN,
        kind,
        cluster: ClusterName::new("faults").unwrap(),
        instance: Instance {
            node: node.clone(),
            boot: BootId(1),
        },
    }
}
