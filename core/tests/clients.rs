//! Clients, which are no members: who serves them, what they may not do, and what becomes of their calls.
#![allow(
    clippy::disallowed_methods,
    reason = "a test outside the nodes, under a stepped clock"
)]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::{World, add, get, simulate};
use funk::ids::{BootId, ClusterName, Instance, PeerAddr};
use funk::runtime::Environment;
use funk::transport::memory::MemoryTransport;
use funk::transport::{LocalNode, PeerKind, Transport};
use funk::wire::{Rpc, RpcError, StreamKind};
use funk::{
    CallError, Client, NodeId, NodeState, Request, Role, Service, ServiceError, ServiceRequest,
    Storage,
};
use tokio::sync::Notify;

fn addr(n: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7_000 + n))
}

async fn three(seed: u64) -> World {
    let mut world = World::new(seed);
    for n in 1..=3 {
        world.start(n).await;
    }
    world.settled().await;
    world
}

fn client(world: &World, addresses: &[u16]) -> Client {
    let transport = world.network.transport();
    let addresses = addresses.iter().map(|n| addr(*n));
    Client::start("test", "n1", transport, addresses).expect("the client starts")
}

#[test]
fn a_client_reaches_every_shard_through_any_node() {
    simulate(async {
        let world = three(1).await;
        for n in 1..=3 {
            let client = client(&world, &[n]);
            for key in 0..20 {
                let key = format!("key-{key}");
                let answer = client.call(add(&key)).await.unwrap();
                assert_eq!(answer.body, n.to_string());
                let node = &world.node(1).cluster;
                let route = node.route(answer.shard);
                assert_eq!(Some(answer.owner), route.owner.map(|owner| owner.node));
                assert_eq!(answer.epoch, route.epoch);
            }
        }
    });
}

#[test]
fn a_node_that_dies_or_falls_silent_is_passed_over() {
    simulate(async {
        let mut world = three(2).await;
        let client = client(&world, &[1, 2, 3]);
        client.call(add("a")).await.unwrap();
        world.kill("n1").await;
        let answer = client
            .call(add("a").deadline(Duration::from_secs(10)))
            .await;
        assert_eq!(answer.unwrap().body, "2");
        // Silence is not an end of the connection: an attempt takes a part of the deadline only.
        world.node(2).environment.pause();
        let (answer, attempts) = client
            .call_counting(get("a").deadline(Duration::from_secs(10)).idempotent())
            .await;
        // With two of three gone nothing is served, but the third was asked.
        let error = answer.unwrap_err();
        assert!(attempts > 2, "{attempts} attempts: {error}");
        world.node(2).environment.resume();
        let answer = client.call(get("a").idempotent()).await.unwrap();
        assert_eq!(answer.body, "2");
    });
}

/// Says that it was reached, and then answers nobody.
struct Hangs(Arc<Notify>);

impl Service for Hangs {
    async fn call(&self, _: ServiceRequest) -> Result<Bytes, ServiceError> {
        self.0.notify_one();
        std::future::pending().await
    }
}

/// One node that is reached by a request and dies on it, and what its client makes of that.
async fn die_on(request: Request, seed: u64) -> CallError {
    let mut world = World::new(seed);
    world.seeds.clear();
    let reached = Arc::new(Notify::new());
    let service = Hangs(reached.clone());
    world
        .start_with(1, Storage::memory(), |builder| {
            builder.bootstrap_expect(1).service(service)
        })
        .await;
    world.settled().await;
    let client = client(&world, &[1]);
    let call = tokio::spawn(async move { client.call(request).await });
    reached.notified().await;
    world.node(1).transport.abort();
    call.await.unwrap().unwrap_err()
}

#[test]
fn what_may_have_been_executed_is_ambiguous_and_not_sent_again() {
    simulate(async {
        for request in [Request::key("a", ""), Request::key("a", "").idempotent()] {
            let error = die_on(request, 3).await;
            assert!(matches!(error, CallError::Ambiguous(_)), "{error}");
        }
    });
}

#[test]
fn where_nobody_can_be_asked_the_error_says_who_was_and_why() {
    simulate(async {
        let world = three(4).await;
        let before = Environment::current().now();
        let patient = Request::key("a", "get").deadline(Duration::from_secs(3));
        let error = client(&world, &[8, 9]).call(patient.clone()).await;
        let error = error.unwrap_err();
        assert!(matches!(error, CallError::Unreachable(_)), "{error}");
        for addr in ["127.0.0.1:7008", "127.0.0.1:7009"] {
            assert!(error.to_string().contains(addr), "{error}");
        }
        let waited = Environment::current().now().since(before);
        assert!(waited >= Duration::from_secs(3), "a node may yet start");

        // A refusal does not go away by waiting.
        let transport = world.network.transport();
        let stranger = Client::start("other", "c", transport, [addr(1), addr(2)]).unwrap();
        let (error, attempts) = stranger.call_counting(patient).await;
        let error = error.unwrap_err().to_string();
        assert!(error.contains("its cluster is test"), "{error}");
        assert_eq!(attempts, 2);
    });
}

#[test]
fn a_status_shows_the_node_and_the_cluster_as_it_sees_it() {
    simulate(async {
        let mut world = three(5).await;
        world
            .start_with(4, Storage::memory(), |builder| builder.non_member())
            .await;
        world.settled().await;
        let client = client(&world, &[2]);
        let status = client.status(addr(2)).await.unwrap();
        assert_eq!(status, {
            let mut own = world.node(2).cluster.status();
            // Time passes on the way.
            own.lease_left_ms = status.lease_left_ms;
            own.counters = status.counters.clone();
            own
        });
        assert_eq!(
            (status.node.as_str(), status.state),
            ("n2", NodeState::Operational)
        );
        assert!(status.lease_left_ms > 0);
        assert_eq!(status.shards, 64);
        let leaders = status.members.iter().filter(|m| m.role == Role::Leader);
        assert_eq!(leaders.count(), 1);
        assert_eq!(status.members[3].role, Role::NonMember);
        let owned: usize = status.members.iter().map(|member| member.shards).sum();
        assert_eq!(owned, 64);
        let gone = client.status(addr(9)).await.unwrap_err();
        assert!(gone.to_string().contains("127.0.0.1:7009"), "{gone}");
    });
}

fn start_raw(world: &World) -> Arc<MemoryTransport> {
    let transport = world.network.transport();
    let client = LocalNode {
        versions: funk::versions::VersionRange::SPOKEN,
        cluster: ClusterName::new("test").unwrap(),
        instance: Instance {
            node: NodeId::new("n2").unwrap(),
            boot: BootId(99),
        },
        kind: PeerKind::Client,
    };
    let mut incoming = transport.start(client).unwrap();
    tokio::spawn(async move { while incoming.recv().await.is_some() {} });
    transport
}

#[test]
fn a_client_takes_no_part_in_the_cluster() {
    simulate(async {
        let world = three(6).await;
        // Of the name of a node, and of a newer run.
        let transport = start_raw(&world);
        let to = PeerAddr {
            node: None,
            addr: addr(1),
        };
        transport.send_datagram(&to, Bytes::from_static(b"\x01\x01gossip"));
        let rpc = Rpc::new(transport.clone(), Environment::current());
        for kind in [
            StreamKind::Raft,
            StreamKind::Call,
            StreamKind::Tags,
            StreamKind::Propose,
            StreamKind::Observe,
        ] {
            let asked = rpc.call(&to, kind, Bytes::new(), 1_000, Duration::from_secs(5));
            let error = asked.await.unwrap_err();
            assert!(matches!(error, RpcError::Lost(_)), "{kind:?}: {error}");
        }
        let counters = world.node(1).cluster.counters();
        assert_eq!(counters["streams of clients refused"], 5);
        assert_eq!(counters["datagrams of clients refused"], 1);
        assert_eq!(counters.get("malformed datagrams"), None);
        // The node of that name is none the worse for it.
        assert_eq!(world.node(2).cluster.state(), NodeState::Operational);
        world.node(2).cluster.call(add("a")).await.unwrap();
    });
}
