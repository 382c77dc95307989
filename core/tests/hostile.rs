//! Garbage from an authenticated peer: counted, dropped, and the cluster does not notice.
#![allow(
    clippy::disallowed_methods,
    reason = "a test outside the nodes, under a stepped clock"
)]

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::{World, add, simulate};
use funk::engine::Message;
use funk::engine::message::{Grant, Ping, Pong};
use funk::ids::{BootId, ClusterId, Instance, LogIndex, NodeId, PeerAddr, Term};
use funk::time::Time;
use funk::transport::{LocalNode, PeerKind, Transport, TransportError};
use funk::wire::{StreamKind, encode_datagram, write_frame};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A peer with good credentials and bad manners.
struct Attacker {
    transport: std::sync::Arc<funk::transport::memory::MemoryTransport>,
    random: ChaCha8Rng,
}

impl Attacker {
    fn new(world: &World) -> Self {
        let transport = world.network.transport();
        let instance = Instance {
            node: NodeId::new("mallory").unwrap(),
            boot: BootId(1),
        };
        let cluster = "test".parse().unwrap();
        let incoming = transport
            .start(LocalNode {
                versions: funk::versions::VersionRange::SPOKEN,
                cluster,
                instance,
                kind: PeerKind::Node,
            })
            .unwrap();
        // Nobody reads what comes: a full queue on this side must not hold anybody up either.
        std::mem::forget(incoming);
        Self {
            transport,
            random: ChaCha8Rng::seed_from_u64(7),
        }
    }

    fn noise(&mut self, longest: usize) -> Bytes {
        let mut bytes = vec![0; self.random.next_u32() as usize % longest];
        self.random.fill_bytes(&mut bytes);
        bytes.into()
    }
}

fn peer(world: &World, n: u16) -> PeerAddr {
    PeerAddr {
        node: Some(world.node(n).cluster.node_id().clone()),
        addr: world.node(n).cluster.local_addr(),
    }
}

async fn three() -> World {
    let mut world = World::new(1);
    for n in 1..=3 {
        world.start(n).await;
    }
    world.settled().await;
    world
}

/// It serves, nobody was lost, nobody was elected.
async fn undisturbed(world: &World, term: Term) {
    world.settled().await;
    for n in 1..=3 {
        let cluster = &world.node(n).cluster;
        assert_eq!(cluster.term(), term, "no election");
        for key in 0..10 {
            cluster
                .call(add(&format!("key-{key}")))
                .await
                .expect("it serves");
        }
    }
}

#[test]
fn garbage_datagrams() {
    simulate(async {
        let world = three().await;
        let term = world.node(1).cluster.term();
        let mut attacker = Attacker::new(&world);
        for round in 0..2_000u16 {
            let mut bytes = attacker.noise(1_150).to_vec();
            if round % 2 == 0 && bytes.len() > 2 {
                // The right kind and version, so that the content is looked at.
                bytes[0] = 1 + (round % 4) as u8;
                bytes[1] = funk::wire::PROTOCOL_VERSION;
            }
            attacker
                .transport
                .send_datagram(&peer(&world, 1 + round % 3), bytes.into());
            if round % 100 == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        undisturbed(&world, term).await;
        assert!(world.node(1).cluster.counters()["malformed datagrams"] > 100);
    });
}

#[test]
fn protocol_messages_of_somebody_who_is_nobody() {
    simulate(async {
        let world = three().await;
        let term = world.node(1).cluster.term();
        let attacker = Attacker::new(&world);
        let cluster = ClusterId(1);
        for n in 1..=3 {
            let boot = world.node(n).cluster.instance().boot;
            let ping = Message::Ping(Ping {
                cluster,
                term: Term(1_000),
                boot,
                grant: Some(Grant {
                    stamp: Time(u64::MAX),
                    map: LogIndex(0),
                }),
                dismissed: true,
            });
            let pong = Message::Pong(Pong {
                cluster,
                boot,
                stamp: Time(u64::MAX),
                term: Term(1_000),
                applied: LogIndex(u64::MAX),
                acked: Some(LogIndex(u64::MAX)),
                served: LogIndex(u64::MAX),
                unacquirable: Vec::new(),
            });
            for message in [ping, pong] {
                attacker.transport.send_datagram(
                    &peer(&world, n),
                    encode_datagram(&message, funk::versions::NEWEST),
                );
            }
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        undisturbed(&world, term).await;
        let counters = world.node(1).cluster.counters();
        assert!(
            counters.contains_key("pings of another cluster"),
            "{counters:?}"
        );
    });
}

#[test]
fn garbage_truncated_and_oversized_streams() {
    simulate(async {
        let world = three().await;
        let term = world.node(1).cluster.term();
        let mut attacker = Attacker::new(&world);
        let kinds = [
            StreamKind::Raft,
            StreamKind::Call,
            StreamKind::Tags,
            StreamKind::Propose,
            StreamKind::Observe,
        ];
        for round in 0..300u16 {
            let to = peer(&world, 1 + round % 3);
            let (_, mut stream) = attacker.transport.open_stream(&to).await.unwrap();
            let noise = attacker.noise(2_000);
            let kind = kinds[usize::from(round) % kinds.len()];
            let head = [kind as u8, funk::wire::PROTOCOL_VERSION];
            // Whoever is served garbage may hang up on us.
            let _ = match round % 4 {
                0 => stream.send.write_all(&noise).await,
                1 => {
                    let _ = stream.send.write_all(&head).await;
                    let _ = write_frame(&mut *stream.send, &noise).await;
                    stream.send.shutdown().await
                }
                2 => {
                    // A frame that is longer than allowed, and never comes.
                    let _ = stream.send.write_all(&head).await;
                    stream.send.write_all(&u32::MAX.to_le_bytes()).await
                }
                _ => {
                    // A frame that is cut off.
                    let _ = stream.send.write_all(&head).await;
                    let _ = stream.send.write_all(&1_000u32.to_le_bytes()).await;
                    let _ = stream.send.write_all(&noise[..noise.len().min(500)]).await;
                    stream.send.shutdown().await
                }
            };
            let mut answer = Vec::new();
            let read = stream.recv.read_to_end(&mut answer);
            let _ = tokio::time::timeout(Duration::from_millis(50), read).await;
        }
        undisturbed(&world, term).await;
        assert!(world.node(1).cluster.counters()["streams that broke"] > 10);
    });
}

#[test]
fn a_node_of_another_cluster_name_is_refused() {
    simulate(async {
        let world = three().await;
        let transport = world.network.transport();
        let instance = Instance {
            node: NodeId::new("stranger").unwrap(),
            boot: BootId(1),
        };
        let cluster = "other".parse().unwrap();
        let _incoming = transport
            .start(LocalNode {
                versions: funk::versions::VersionRange::SPOKEN,
                cluster,
                instance,
                kind: PeerKind::Node,
            })
            .unwrap();
        let refused = transport.open_stream(&peer(&world, 1)).await;
        assert!(
            matches!(refused, Err(TransportError::Refused { .. })),
            "{refused:?}"
        );
        assert!(world.node(1).cluster.counters()["connections refused"] > 0);
        undisturbed(&world, world.node(1).cluster.term()).await;
    });
}

#[test]
fn an_address_that_is_taken_is_named() {
    simulate(async {
        let world = three().await;
        let addr = world.node(1).cluster.local_addr();
        let taken = world.network.transport_at(addr);
        let Err(error) = taken else {
            panic!("{addr} was given out twice");
        };
        let error = error.to_string();
        assert!(error.contains(&addr.to_string()), "{error}");
    });
}
