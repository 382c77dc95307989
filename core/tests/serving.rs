//! What happens to requests, guards and hooks when shards move, leases lapse and services misbehave.
#![allow(
    clippy::disallowed_methods,
    reason = "a test outside the nodes, under a stepped clock"
)]

mod common;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use common::{CounterService, Counters, PATIENCE, World, add, get, simulate};
use funk::{
    AcquireError, CallError, Cluster, Event, NodeState, Notice, OwnedShard, ProposeError, Request,
    Service, ServiceError, ServiceRequest, ShardId, Storage, Timing,
};

async fn three(seed: u64) -> World {
    let mut world = World::new(seed);
    for n in 1..=3 {
        world.start(n).await;
    }
    world.settled().await;
    world
}

/// A shard that the node owns.
fn owned(cluster: &Cluster) -> ShardId {
    let map = cluster.shard_map();
    map.owned_by(cluster.instance())
        .next()
        .expect("it owns some")
        .0
}

#[test]
fn s6_a_paused_node_has_lost_its_shards_when_it_wakes() {
    simulate(async {
        let world = three(1).await;
        let victim = &world.nodes[&world.followers()[0]];
        let shard = owned(&victim.cluster);
        let guard = victim.cluster.guard(shard).expect("it owns the shard");
        victim.environment.pause();
        let other = &world.nodes[&world.leader()].cluster;
        while other.shard_map().owner(shard) == Some(victim.cluster.instance()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(other.shard_map().epoch(shard) > guard.epoch());
        assert!(
            !guard.is_valid(),
            "the guard's lease has lapsed before anybody else owns the shard"
        );
        assert!(victim.cluster.guard(shard).is_none());
        victim.environment.resume();
        // While the guard exists the node cannot acknowledge anything (rule S2): it is given nothing, and only it waits.
        let undisturbed = async {
            while other.pending_map().is_some() || other.state() != NodeState::Operational {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), undisturbed)
            .await
            .expect("the others go on");
        assert!(!guard.is_valid(), "a lapse is final");
        assert_eq!(guard.propose("late").await, Err(ProposeError::Lapsed));
        drop(guard);
        world.settled().await;
    });
}

#[test]
fn a_stale_token_is_refused_when_it_is_applied() {
    simulate(async {
        let mut world = three(2).await;
        let victim = world.followers()[0].clone();
        let shard = owned(&world.nodes[&victim].cluster);
        let guard = world.nodes[&victim].cluster.guard(shard).unwrap();
        // In flight on the way to the leader while the shard moves: the answer is the state machine's.
        let (leader, cut) = (world.leader(), world.nodes[&victim].transport.clone());
        world
            .network
            .isolate(funk::transport::Transport::local_addr(&*cut));
        let late = guard.propose("late");
        let moved = async {
            let other = &world.nodes[&leader].cluster;
            while other.shard_map().epoch(shard) == guard.epoch() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            world.network.heal_all();
        };
        let (late, ()) = tokio::join!(late, moved);
        assert!(
            matches!(
                late,
                Err(ProposeError::Stale(_) | ProposeError::Ambiguous(_) | ProposeError::Lapsed)
            ),
            "{late:?}"
        );
        drop(guard);
        world.settled().await;
        assert_eq!(world.node(1).counters.value(b"late"), 0);
        world.kill(&victim).await;
    });
}

/// Counts what its hooks are given, and proposes on release.
struct Hooked {
    counters: Counters,
    held: Arc<Mutex<BTreeSet<OwnedShard>>>,
    releases: Arc<AtomicUsize>,
}

impl Service for Hooked {
    async fn call(&self, request: ServiceRequest) -> Result<Bytes, ServiceError> {
        let shard = OwnedShard {
            shard: request.guard.shard(),
            epoch: request.guard.epoch(),
        };
        assert!(
            self.held.lock().unwrap().contains(&shard),
            "served without being acquired"
        );
        Service::call(&CounterService(self.counters.clone()), request).await
    }

    async fn acquire(&self, _: Cluster, shards: Vec<OwnedShard>) -> Result<(), AcquireError> {
        self.held.lock().unwrap().extend(shards);
        Ok(())
    }

    async fn release(&self, cluster: Cluster, shards: Vec<OwnedShard>) {
        for shard in &shards {
            cluster
                .propose(format!("released-{}", shard.shard))
                .await
                .expect("a release hook may propose");
            self.releases.fetch_add(1, Ordering::Relaxed);
            assert!(
                self.held.lock().unwrap().remove(shard),
                "released without being acquired"
            );
        }
    }
}

#[test]
fn release_runs_before_a_shard_goes_and_may_propose() {
    simulate(async {
        let mut world = World::new(3);
        let releases = Arc::new(AtomicUsize::new(0));
        for n in 1..=4 {
            if n == 4 {
                world.settled().await;
            }
            let releases = releases.clone();
            world
                .start_with(n, Storage::memory(), move |builder| {
                    let counters = Counters::default();
                    builder.state(counters.clone()).service(Hooked {
                        counters,
                        held: Arc::default(),
                        releases,
                    })
                })
                .await;
        }
        world.settled().await;
        let moved = world
            .node(4)
            .cluster
            .shard_map()
            .owned_by(world.node(4).cluster.instance())
            .count();
        assert_eq!(moved, 16);
        assert_eq!(
            releases.load(Ordering::Relaxed),
            moved,
            "exactly what moved was released"
        );
        for key in 0..50 {
            world
                .node(4)
                .cluster
                .call(add(&format!("key-{key}")))
                .await
                .unwrap();
        }
    });
}

/// Fails to acquire on one node.
struct Refusing {
    on: &'static str,
}

impl Service for Refusing {
    async fn call(&self, request: ServiceRequest) -> Result<Bytes, ServiceError> {
        Ok(request.cluster.node_id().to_string().into())
    }

    async fn acquire(&self, cluster: Cluster, shards: Vec<OwnedShard>) -> Result<(), AcquireError> {
        let refused = shards.iter().filter(|owned| owned.shard.0 == 0);
        match refused.map(|owned| owned.shard).collect::<Vec<_>>() {
            shards if cluster.node_id().as_str() == self.on && !shards.is_empty() => {
                Err(AcquireError {
                    shards,
                    reason: "the disk of this node is bad".to_owned(),
                })
            }
            _ => Ok(()),
        }
    }
}

#[test]
fn a_shard_that_cannot_be_acquired_is_placed_elsewhere() {
    simulate(async {
        let mut world = World::new(4);
        for n in 1..=3 {
            world
                .start_with(n, Storage::memory(), |builder| {
                    builder.service(Refusing { on: "n1" })
                })
                .await;
        }
        let cluster = &world.node(1).cluster;
        assert!(cluster.operational(PATIENCE).await);
        let mut events = cluster.events();
        let request = Request::shard(ShardId(0), "").deadline(Duration::from_secs(30));
        let answer = cluster.call(request).await.unwrap();
        assert_ne!(answer.owner.as_str(), "n1");
        let map = cluster.shard_map();
        let counts = map.counts();
        assert!(
            counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1,
            "{counts:?}"
        );
        while let Some(Notice::Event(event)) = events.next().await {
            if matches!(event, Event::MapCommitted(_)) {
                break;
            }
        }
    });
}

/// Does what the request says.
struct Odd;

impl Service for Odd {
    async fn call(&self, request: ServiceRequest) -> Result<Bytes, ServiceError> {
        match &request.body[..] {
            b"panic" => panic!("on request"),
            b"hang" => std::future::pending().await,
            b"fail" => Err("on request".into()),
            body => Ok(Bytes::copy_from_slice(body)),
        }
    }
}

async fn odd(seed: u64, timing: Timing) -> World {
    let mut world = World::new(seed);
    for n in 1..=3 {
        let timing = timing.clone();
        world
            .start_with(n, Storage::memory(), |builder| {
                builder.service(Odd).timing(timing)
            })
            .await;
    }
    world.settled().await;
    world
}

#[test]
fn what_a_service_does_wrong_reaches_the_caller() {
    simulate(async {
        let world = odd(5, Timing::lan()).await;
        let cluster = &world.node(1).cluster;
        for shard in 0..8 {
            let call = |body: &'static str| {
                cluster.call(Request::shard(ShardId(shard), body).deadline(Duration::from_secs(1)))
            };
            assert_eq!(call("echo").await.unwrap().body, "echo");
            assert_eq!(
                call("fail").await,
                Err(CallError::Service("on request".into()))
            );
            assert!(matches!(call("panic").await, Err(CallError::Ambiguous(_))));
            assert!(matches!(call("hang").await, Err(CallError::Ambiguous(_))));
        }
        let shard = Request::shard(ShardId(64), "");
        assert_eq!(
            cluster.call(shard).await,
            Err(CallError::NoSuchShard {
                shard: ShardId(64),
                shards: 64
            })
        );
        for shard in 0..3 {
            let request = Request::shard(ShardId(shard), "").service("nobody");
            assert!(matches!(
                cluster.call(request).await,
                Err(CallError::NoSuchService { .. })
            ));
        }
        let huge = vec![0; funk::limits::MAX_REQUEST_BYTES + 1];
        assert!(matches!(
            cluster.call(Request::shard(ShardId(0), huge)).await,
            Err(CallError::TooLarge { .. })
        ));
        let largest = vec![1; funk::limits::MAX_REQUEST_BYTES];
        for shard in 0..3 {
            let answer = cluster
                .call(Request::shard(ShardId(shard), largest.clone()))
                .await
                .unwrap();
            assert_eq!(answer.body.len(), funk::limits::MAX_REQUEST_BYTES);
        }
        assert!(
            world
                .nodes
                .values()
                .any(|node| node.cluster.counters().contains_key("service panics"))
        );
    });
}

#[test]
fn requests_that_do_not_end_are_dropped_when_the_drain_takes_too_long() {
    simulate(async {
        let timing = Timing {
            drain_timeout: Duration::from_secs(2),
            ..Timing::lan()
        };
        let mut world = odd(6, timing.clone()).await;
        let mut hanging = Vec::new();
        for shard in 0..64 {
            let cluster = world.node(1).cluster.clone();
            hanging.push(tokio::spawn(async move {
                let request =
                    Request::shard(ShardId(shard), "hang").deadline(Duration::from_secs(100));
                (shard, cluster.call(request).await)
            }));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        let before = world.node(1).cluster.shard_map();
        world
            .start_with(4, Storage::memory(), |builder| {
                builder.service(Odd).timing(timing)
            })
            .await;
        world.settled().await;
        let map = world.node(4).cluster.shard_map();
        let dropped = AtomicU32::new(0);
        for call in hanging {
            let moved = |shard: u32| map.epoch(ShardId(shard)) != before.epoch(ShardId(shard));
            if call.is_finished() {
                let (shard, result) = call.await.unwrap();
                assert!(matches!(result, Err(CallError::Ambiguous(_))), "{result:?}");
                assert!(
                    moved(shard),
                    "shard {shard} stayed, and its request was dropped"
                );
                dropped.fetch_add(1, Ordering::Relaxed);
            } else {
                call.abort();
            }
        }
        assert_eq!(dropped.into_inner(), 16);
    });
}

#[test]
fn p4_a_guard_that_is_held_delays_its_own_shard_only() {
    simulate(async {
        let mut world = three(7).await;
        let shard = owned(&world.node(1).cluster);
        // Whichever shards move, some of node 1's do.
        let guards: Vec<_> = (0..64)
            .filter_map(|shard| world.node(1).cluster.guard(ShardId(shard)))
            .collect();
        let before = world.node(1).cluster.shard_map();
        world.start(4).await;
        let newcomer = world.node(4).cluster.clone();
        let owns_some = async {
            while newcomer
                .shard_map()
                .owned_by(newcomer.instance())
                .next()
                .is_none()
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, owns_some)
            .await
            .expect("the other nodes' shards move");
        for guard in &guards {
            assert!(
                guard.is_valid(),
                "shard {} was taken away under a guard",
                guard.shard()
            );
            assert_eq!(
                newcomer.shard_map().epoch(guard.shard()),
                before.epoch(guard.shard())
            );
        }
        assert!(guards.iter().any(|guard| guard.shard() == shard));
        drop(guards);
        let balanced = async {
            while newcomer.shard_map().owned_by(newcomer.instance()).count() < 16 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(120), balanced)
            .await
            .expect("they move in the end");
    });
}

#[test]
fn unmoved_shards_are_served_through_every_change() {
    simulate(async {
        let mut world = three(8).await;
        let before = world.node(1).cluster.shard_map();
        let (sender, mut answers) = tokio::sync::mpsc::unbounded_channel();
        let mut probes = Vec::new();
        for node in world.nodes.values() {
            for (shard, epoch) in before.owned_by(node.cluster.instance()) {
                let (cluster, sender) = (node.cluster.clone(), sender.clone());
                probes.push(tokio::spawn(async move {
                    loop {
                        let open = cluster
                            .guard(shard)
                            .is_some_and(|guard| guard.epoch() == epoch);
                        let _ = sender.send((shard, open));
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                }));
            }
        }
        world.start(4).await;
        world.settled().await;
        probes.iter().for_each(tokio::task::JoinHandle::abort);
        let after = world.node(1).cluster.shard_map();
        let mut asked = 0;
        while let Ok((shard, open)) = answers.try_recv() {
            if after.epoch(shard) == before.epoch(shard) {
                assert!(open, "shard {shard} did not move and was not served");
                asked += 1;
            }
        }
        assert!(asked > 1_000);
    });
}

#[test]
fn a_slow_subscriber_is_told_how_many_events_it_missed() {
    simulate(async {
        let world = three(9).await;
        let mut events = world.node(1).cluster.events();
        let mut watcher = world.node(1).cluster.events();
        let mut total = 0;
        while total <= funk::limits::EVENT_BUFFER {
            let value = total.to_string();
            for n in 1..=3 {
                let cluster = &world.node(n).cluster;
                cluster.set_tag("changes", Some(&value)).await.unwrap();
            }
            let mut next = watcher.next().await;
            while let Some(Notice::Event(_)) = next {
                total += 1;
                let more = tokio::time::timeout(Duration::from_millis(1), watcher.next());
                next = more.await.unwrap_or_default();
            }
        }
        let mut missed = 0;
        let mut seen = 0;
        while let Ok(Some(notice)) =
            tokio::time::timeout(Duration::from_millis(1), events.next()).await
        {
            match notice {
                Notice::Missed(count) => missed += count,
                Notice::Event(_) => seen += 1,
            }
        }
        assert_eq!(seen, funk::limits::EVENT_BUFFER);
        assert!(missed as usize + seen >= total, "{missed} missed");
    });
}

#[test]
fn a_restarted_node_is_restored_from_a_snapshot_in_the_middle_of_a_run() {
    simulate(async {
        let mut world = World::new(10);
        for n in 1..=3 {
            world
                .start_with(n, Storage::memory(), |builder| builder.snapshot_every(20))
                .await;
        }
        world.settled().await;
        let victim = world.followers()[0].clone();
        let caller = world.leader();
        for round in 0..3 {
            for _ in 0..60 {
                world.nodes[&caller].cluster.call(add("a")).await.unwrap();
            }
            let storage = world.kill(&victim).await;
            for _ in 0..60 {
                world.nodes[&caller].cluster.call(add("a")).await.unwrap();
            }
            let storage = if round == 1 {
                Storage::memory()
            } else {
                storage
            };
            world
                .start_with(victim[1..].parse().unwrap(), storage, |builder| {
                    builder.snapshot_every(20)
                })
                .await;
            world.settled().await;
            assert_eq!(world.nodes[&victim].counters.value(b"a"), 120 * (round + 1));
        }
    });
}

#[test]
fn calls_wait_for_a_leader_no_longer_than_their_deadline() {
    simulate(async {
        let mut world = World::new(11);
        world.start(1).await;
        let cluster = &world.node(1).cluster;
        let result = cluster
            .call(get("a").deadline(Duration::from_millis(300)))
            .await;
        assert!(
            matches!(result, Err(CallError::Deadline { .. })),
            "{result:?}"
        );
        let stopped = cluster.clone();
        let call = tokio::spawn(async move {
            stopped
                .call(get("a").deadline(Duration::from_secs(100)))
                .await
        });
        tokio::time::sleep(Duration::from_millis(10)).await;
        cluster.stop().await;
        assert_eq!(call.await.unwrap(), Err(CallError::Stopped));
    });
}
