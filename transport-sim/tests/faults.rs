//! What nodes on different hosts see of crashes, restarts, pauses and cuts, over TCP.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use funk::ids::PeerAddr;
use funk::runtime::Environment;
use funk::transport::{Incoming, Stream, TransportError};
use funk_sim::{Clock, Network, SimNode, Simulation, SimulationConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

mod common;

use common::{Log, has, name, peer, say, start, wait_for};

/// Opens a stream to bob, says hello, and logs how the stream ends. With every further run it does so again.
async fn caller(node: SimNode, log: Log) -> turmoil::Result {
    let (transport, _incoming) = start(&node, &node.name).await;
    let (_, mut stream) = transport.open_stream(&peer(&node, "bob")).await?;
    stream.send.write_all(b"hello").await?;
    say(&log, format!("said {}", node.run));
    let mut rest = Vec::new();
    let end = stream.recv.read_to_end(&mut rest).await;
    say(
        &log,
        format!("caller's stream: {:?}", end.map_err(|error| error.kind())),
    );
    std::future::pending().await
}

/// Holds every stream that it is offered, and logs what comes and how it ends.
async fn holder(node: SimNode, log: Log) -> turmoil::Result {
    let (_transport, mut incoming) = start(&node, &node.name).await;
    say(&log, format!("up {}", node.run));
    while let Some(incoming) = incoming.recv().await {
        let (from, stream) = match incoming {
            Incoming::Stream { from, stream } => (from, stream),
            Incoming::Superseded { .. } => continue,
            Incoming::Datagram { from, .. } => {
                say(&log, format!("datagram from {}", from.instance));
                continue;
            }
        };
        say(&log, format!("stream from {}", from.instance));
        let log = log.clone();
        tokio::task::spawn_local(node.environment.scope(async move {
            let Stream { send, mut recv } = stream;
            let mut hello = [0; 5];
            // A caller without patience may have gone.
            let _ = recv.read_exact(&mut hello).await;
            let end = recv.read(&mut hello).await;
            drop(send);
            say(
                &log,
                format!(
                    "stream of {}: {:?}",
                    from.instance,
                    end.map_err(|error| error.kind())
                ),
            );
        }));
    }
    Ok(())
}

fn caller_and_holder(seed: u64) -> (Simulation, Log) {
    let mut simulation = Simulation::new(&SimulationConfig::new(seed));
    let log = Log::default();
    let for_holder = log.clone();
    simulation.add(&name("bob"), Clock::default(), move |node| {
        holder(node, for_holder.clone())
    });
    let for_caller = log.clone();
    simulation.add(&name("alice"), Clock::default(), move |node| {
        caller(node, for_caller.clone())
    });
    (simulation, log)
}

#[test]
fn a_crash_is_silent_and_the_next_run_breaks_what_is_left_of_it() {
    let (mut simulation, log) = caller_and_holder(1);
    wait_for(&mut simulation, &log, "stream from alice/1");
    simulation.run_for(Duration::from_millis(100)).unwrap();
    simulation.crash(&name("alice"));
    let before = log.borrow().len();
    simulation.run_for(Duration::from_secs(3)).unwrap();
    assert_eq!(
        log.borrow().len(),
        before,
        "bob noticed: {:?}",
        log.borrow()
    );
    simulation.restart(&name("alice"));
    wait_for(&mut simulation, &log, "stream from alice/2");
    simulation.run_for(Duration::from_millis(10)).unwrap();
    assert!(
        has(&log, "stream of alice/1: Err(ConnectionReset)"),
        "{:?}",
        log.borrow()
    );
}

#[test]
fn a_crashed_peer_that_stays_away_is_given_up_in_the_end() {
    let (mut simulation, log) = caller_and_holder(2);
    wait_for(&mut simulation, &log, "stream from alice/1");
    simulation.crash(&name("bob"));
    simulation.run_for(Duration::from_secs(3)).unwrap();
    assert!(
        !has(&log, "caller's stream: Err(ConnectionReset)"),
        "too early"
    );
    wait_for(
        &mut simulation,
        &log,
        "caller's stream: Err(ConnectionReset)",
    );
}

#[test]
fn a_peer_that_restarted_without_a_word_is_given_up_as_late() {
    let (mut simulation, log) = caller_and_holder(9);
    wait_for(&mut simulation, &log, "stream from alice/1");
    // The host of the new run resets the old connection, which no packet of a real network would have done.
    simulation.restart(&name("bob"));
    simulation.run_for(Duration::from_secs(3)).unwrap();
    assert!(
        !has(&log, "caller's stream: Err(ConnectionReset)"),
        "too early"
    );
    wait_for(
        &mut simulation,
        &log,
        "caller's stream: Err(ConnectionReset)",
    );
}

#[test]
fn a_quiet_stream_lives_as_long_as_both_ends_do() {
    let (mut simulation, log) = caller_and_holder(3);
    wait_for(&mut simulation, &log, "stream from alice/1");
    simulation.run_for(Duration::from_secs(60)).unwrap();
    assert_eq!(*log.borrow(), ["up 1", "said 1", "stream from alice/1"]);
}

/// Opens a stream, gives it up while nothing of what it says arrives, and opens another once that is over.
async fn caller_in_a_cut(node: SimNode, log: Log) -> turmoil::Result {
    let (transport, _incoming) = start(&node, &node.name).await;
    let bob = peer(&node, "bob");
    let (_, mut stream) = transport.open_stream(&bob).await?;
    stream.send.write_all(b"hello").await?;
    say(&log, "said hello");
    node.environment.sleep(Duration::from_secs(1)).await;
    drop(stream.send);
    // The holder gives up its end at the same time, unasked, and we hear that.
    let end = stream.recv.read_to_end(&mut Vec::new()).await;
    say(
        &log,
        format!("first: {:?}", end.map_err(|error| error.kind())),
    );
    node.environment.sleep(Duration::from_millis(400)).await;
    let (_, mut stream) = transport.open_stream(&bob).await?;
    stream.send.write_all(b"hello").await?;
    let echo = stream.recv.read_exact(&mut [0; 5]).await;
    say(
        &log,
        format!("second: {:?}", echo.map_err(|error| error.kind())),
    );
    std::future::pending().await
}

/// Answers every stream with what it got, and gives it up after a second.
async fn answerer(node: SimNode) -> turmoil::Result {
    let (_transport, mut incoming) = start(&node, &node.name).await;
    while let Some(incoming) = incoming.recv().await {
        let Incoming::Stream { mut stream, .. } = incoming else {
            continue;
        };
        let environment = node.environment.clone();
        tokio::task::spawn_local(node.environment.scope(async move {
            let mut hello = [0; 5];
            if stream.recv.read_exact(&mut hello).await.is_ok() {
                let _ = stream.send.write_all(&hello).await;
            }
            environment.sleep(Duration::from_secs(1)).await;
        }));
    }
    Ok(())
}

#[test]
fn a_connection_that_lost_a_word_in_a_cut_carries_no_further_stream() {
    let mut simulation = Simulation::new(&SimulationConfig::new(12));
    let log = Log::default();
    simulation.add(&name("bob"), Clock::default(), answerer);
    let for_caller = log.clone();
    simulation.add(&name("alice"), Clock::default(), move |node| {
        caller_in_a_cut(node, for_caller.clone())
    });
    wait_for(&mut simulation, &log, "said hello");
    simulation.run_for(Duration::from_millis(500)).unwrap();
    simulation.cut_one_way(&name("alice"), &name("bob"));
    wait_for(&mut simulation, &log, "first: Err(ConnectionReset)");
    simulation.heal_all();
    simulation.run_for(Duration::from_secs(2)).unwrap();
    assert!(has(&log, "second: Ok(5)"), "{:?}", log.borrow());
}

#[test]
fn a_paused_node_answers_nothing_and_goes_on_where_it_stood() {
    let (mut simulation, log) = caller_and_holder(4);
    wait_for(&mut simulation, &log, "up 1");
    simulation.crash(&name("alice"));
    simulation.pause(&name("bob"));
    simulation.restart(&name("alice"));
    let before = log.borrow().len();
    simulation.run_for(Duration::from_secs(2)).unwrap();
    assert_eq!(log.borrow().len(), before, "{:?}", log.borrow());
    simulation.resume(&name("bob"));
    wait_for(&mut simulation, &log, "stream from alice/2");
    assert!(has(&log, "said 2"));
}

/// Sends datagrams to bob for ever.
async fn sender(node: SimNode) -> turmoil::Result {
    let (transport, _incoming) = start(&node, &node.name).await;
    loop {
        transport.send_datagram(&peer(&node, "bob"), Bytes::from_static(b"here"));
        node.environment.sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn cuts_go_one_way_or_both_and_survive_a_crash() {
    let mut simulation = Simulation::new(&SimulationConfig::new(5));
    let log = Log::default();
    let for_holder = log.clone();
    let (alice, bob) = (name("alice"), name("bob"));
    simulation.add(&bob, Clock::default(), move |node| {
        holder(node, for_holder.clone())
    });
    simulation.add(&alice, Clock::default(), sender);
    let heard_in_100_ms = |simulation: &mut Simulation| {
        simulation.run_for(Duration::from_millis(10)).unwrap();
        log.borrow_mut().clear();
        simulation.run_for(Duration::from_millis(100)).unwrap();
        log.borrow().len()
    };
    assert!(heard_in_100_ms(&mut simulation) > 5);
    simulation.cut_one_way(&bob, &alice);
    assert!(heard_in_100_ms(&mut simulation) > 5, "the other direction");
    simulation.cut(&alice, &bob);
    assert_eq!(heard_in_100_ms(&mut simulation), 0);
    simulation.restart(&alice);
    assert_eq!(
        heard_in_100_ms(&mut simulation),
        0,
        "the crash healed the cut"
    );
    simulation.heal(&alice, &bob);
    assert!(heard_in_100_ms(&mut simulation) > 5);
    simulation.network().lose_datagrams(1.0);
    assert_eq!(heard_in_100_ms(&mut simulation), 0);
}

#[test]
fn a_host_that_claims_the_name_of_another_is_refused() {
    let mut simulation = Simulation::new(&SimulationConfig::new(6));
    let log = Log::default();
    let for_holder = log.clone();
    let for_thief = log.clone();
    simulation.add(&name("bob"), Clock::default(), move |node| {
        holder(node, for_holder.clone())
    });
    simulation.add(&name("mallory"), Clock::default(), move |node| {
        let log = for_thief.clone();
        async move {
            let (transport, _incoming) = start(&node, &name("alice")).await;
            let bob = peer(&node, "bob");
            transport.send_datagram(&bob, Bytes::from_static(b"I am alice"));
            let opened = transport.open_stream(&bob).await;
            assert!(matches!(
                opened.unwrap_err(),
                TransportError::Refused { .. }
            ));
            say(&log, "refused");
            std::future::pending().await
        }
    });
    wait_for(&mut simulation, &log, "refused");
    assert_eq!(*log.borrow(), ["up 1", "refused"]);
}

#[test]
fn a_peer_that_comes_late_is_reached_without_a_storm_of_dials() {
    let mut simulation = Simulation::new(&SimulationConfig::new(7));
    let log = Log::default();
    let (alice, bob) = (name("alice"), name("bob"));
    let for_holder = log.clone();
    let for_caller = log.clone();
    simulation.add(&bob, Clock::default(), move |node| {
        holder(node, for_holder.clone())
    });
    simulation.crash(&bob);
    simulation.add(&alice, Clock::default(), move |node| {
        let log = for_caller.clone();
        async move {
            let (transport, _incoming) = start(&node, &node.name).await;
            let bob = peer(&node, "bob");
            // An impatient caller, as raft is: it gives up and tries again all the time.
            let call = async || {
                let (_, mut stream) = transport.open_stream(&bob).await?;
                stream.send.write_all(b"hello").await?;
                turmoil::Result::Ok(())
            };
            loop {
                let patience = Duration::from_millis(20);
                if let Some(Ok(())) = Environment::current().timeout(patience, call()).await {
                    say(
                        &log,
                        format!("ports: {}", turmoil::established_tcp_stream_count()),
                    );
                    return std::future::pending().await;
                }
            }
        }
    });
    simulation.cut(&alice, &bob);
    simulation.run_for(Duration::from_secs(30)).unwrap();
    simulation.restart(&bob);
    simulation.heal_all();
    wait_for(&mut simulation, &log, "stream from alice/1");
    let said = log.borrow().join(", ");
    let ports: usize = said
        .split("ports: ")
        .nth(1)
        .unwrap()
        .split(',')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    // 1,500 attempts were made.
    assert!(ports < 100, "{ports} ports are in use");
}

#[test]
fn an_address_without_a_host_is_unreachable() {
    let mut simulation = Simulation::new(&SimulationConfig::new(8));
    let log = Log::default();
    let for_caller = log.clone();
    simulation.add(&name("alice"), Clock::default(), move |node| {
        let log = for_caller.clone();
        async move {
            let (transport, _incoming) = start(&node, &node.name).await;
            let addr = SocketAddr::from(([192, 168, 7, 7], 7_000));
            let to = PeerAddr { node: None, addr };
            transport.send_datagram(&to, Bytes::from_static(b"anybody?"));
            let opened = transport.open_stream(&to).await;
            assert!(matches!(
                opened.unwrap_err(),
                TransportError::Unreachable { .. }
            ));
            say(&log, "unreachable");
            std::future::pending().await
        }
    });
    wait_for(&mut simulation, &log, "unreachable");
}

#[test]
fn a_transport_that_the_test_holds_does_not_keep_its_port() {
    for network in [Network::Tcp, Network::Quic] {
        let mut simulation = Simulation::new(&SimulationConfig {
            network,
            ..SimulationConfig::new(10)
        });
        let (log, held) = (Log::default(), Rc::new(RefCell::new(Vec::new())));
        let (said, holds) = (log.clone(), held.clone());
        simulation.add(&name("bob"), Clock::default(), move |node| {
            let (log, held) = (said.clone(), holds.clone());
            async move {
                let (transport, _incoming) = start(&node, &node.name).await;
                held.borrow_mut().push(transport);
                say(&log, format!("up {}", node.run));
                std::future::pending().await
            }
        });
        wait_for(&mut simulation, &log, "up 1");
        simulation.restart(&name("bob"));
        wait_for(&mut simulation, &log, "up 2");
        simulation.crash(&name("bob"));
        held.borrow_mut().clear();
        simulation.restart(&name("bob"));
        wait_for(&mut simulation, &log, "up 3");
        held.borrow_mut().clear();
        simulation.restart(&name("bob"));
        wait_for(&mut simulation, &log, "up 4");
    }
}
