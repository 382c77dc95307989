//! A whole cluster in one process: production nodes on the in-memory network, under tokio's stepped clock. A test
//! takes no real time, and every wait in it is simulated.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]
#![allow(clippy::disallowed_methods, reason = "the tests are outside the nodes")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use funk::ids::{BootId, NodeId};
use funk::runtime::Environment;
use funk::transport::Transport;
use funk::transport::memory::{MemoryNetwork, MemoryTransport};
use funk::{
    Applied, Builder, Cluster, ReplicatedState, Request, RestoreError, Service, ServiceError,
    ServiceRequest, StartError, Storage,
};

/// Long enough for anything that ends at all.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a test under a stepped clock; it hangs for no longer than five simulated minutes.
pub fn simulate(test: impl Future<Output = ()>) {
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_test_writer()
        .try_init();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        // What the test makes outside the nodes, a client for example, goes by the stepped clock as well.
        let outside = Environment::simulated(0, 1.0, Duration::ZERO);
        tokio::time::timeout(Duration::from_secs(300), outside.scope(test))
            .await
            .expect("the test hangs");
    });
}

/// Counters by key: `add` goes through the log, `get` is answered from the owner's replica.
#[derive(Clone, Default)]
pub struct Counters(pub Arc<Mutex<BTreeMap<Vec<u8>, u64>>>);

impl Counters {
    pub fn value(&self, key: &[u8]) -> u64 {
        self.0.lock().unwrap().get(key).copied().unwrap_or(0)
    }
}

impl ReplicatedState for Counters {
    fn apply(&mut self, entry: Applied<'_>) -> Bytes {
        let mut counters = self.0.lock().unwrap();
        let value = counters.entry(entry.bytes.to_vec()).or_default();
        *value += 1;
        value.to_string().into()
    }

    fn snapshot(&self) -> Bytes {
        let lines: Vec<String> = self
            .0
            .lock()
            .unwrap()
            .iter()
            .map(|(key, value)| format!("{} {value}", String::from_utf8_lossy(key)))
            .collect();
        lines.join("\n").into()
    }

    fn restore(&mut self, snapshot: Bytes) -> Result<(), RestoreError> {
        let text = String::from_utf8(snapshot.to_vec()).map_err(|e| RestoreError(e.to_string()))?;
        let pair = |line: &str| {
            let (key, value) = line.split_once(' ')?;
            Some((key.as_bytes().to_vec(), value.parse().ok()?))
        };
        *self.0.lock().unwrap() = text.lines().filter_map(pair).collect();
        Ok(())
    }
}

pub struct CounterService(pub Counters);

impl Service for CounterService {
    async fn call(&self, request: ServiceRequest) -> Result<Bytes, ServiceError> {
        match &request.body[..] {
            b"get" => Ok(self.0.value(&request.key).to_string().into()),
            b"add" => match request.guard.propose(request.key.clone()).await {
                Ok(proposed) => Ok(proposed.response),
                Err(error) => Err(error.to_string().into()),
            },
            _ => Err("say get or add".into()),
        }
    }
}

pub fn get(key: &str) -> Request {
    Request::key(key.to_owned(), "get").deadline(Duration::from_secs(20))
}

pub fn add(key: &str) -> Request {
    Request::key(key.to_owned(), "add").deadline(Duration::from_secs(20))
}

/// One node and what it is made of.
pub struct TestNode {
    pub cluster: Cluster,
    pub environment: Environment,
    pub transport: Arc<MemoryTransport>,
    pub counters: Counters,
    pub storage: Storage,
}

/// Nodes on one network.
pub struct World {
    pub network: MemoryNetwork,
    pub seeds: Vec<SocketAddr>,
    pub nodes: BTreeMap<String, TestNode>,
    boots: u64,
    seed: u64,
}

impl World {
    /// No nodes yet; the first `seeds` of them are known to all.
    pub fn new(seed: u64) -> Self {
        let addr = |n: u16| SocketAddr::from(([127, 0, 0, 1], 7_000 + n));
        Self {
            network: MemoryNetwork::new(),
            seeds: (1..=9).map(addr).collect(),
            nodes: BTreeMap::new(),
            boots: 0,
            seed,
        }
    }

    /// Starts node `n`, with what `describe` adds to the usual description.
    pub async fn start_with(
        &mut self,
        n: u16,
        storage: Storage,
        describe: impl FnOnce(Builder) -> Builder,
    ) -> &TestNode {
        let started = self.try_start_with(n, storage, describe).await;
        started.expect("the node starts")
    }

    /// The same for a node that may refuse to start.
    pub async fn try_start_with(
        &mut self,
        n: u16,
        storage: Storage,
        describe: impl FnOnce(Builder) -> Builder,
    ) -> Result<&TestNode, StartError> {
        let name = format!("n{n}");
        let addr = SocketAddr::from(([127, 0, 0, 1], 7_000 + n));
        let transport = self
            .network
            .transport_at(addr)
            .expect("the address is free");
        self.boots += 1;
        let environment = Environment::simulated(
            self.seed * 1_000 + self.boots,
            1.0,
            Duration::from_secs(self.boots * 10_000),
        );
        let counters = Counters::default();
        let builder = Cluster::builder("test", &name)
            .transport(transport.clone())
            .seeds(self.seeds.clone())
            .bootstrap_expect(3)
            .shards(64)
            .storage(storage.clone())
            .boot_id(BootId(self.boots))
            .service(CounterService(counters.clone()))
            .state(counters.clone());
        let start = describe(builder).start();
        let cluster = environment.scope(start).await?;
        let node = TestNode {
            cluster,
            environment,
            transport,
            counters,
            storage,
        };
        self.nodes.insert(name.clone(), node);
        Ok(&self.nodes[&name])
    }

    pub async fn start(&mut self, n: u16) -> &TestNode {
        self.start_with(n, Storage::memory(), |builder| builder)
            .await
    }

    pub fn node(&self, n: u16) -> &TestNode {
        &self.nodes[&format!("n{n}")]
    }

    /// A power cut; the node's store is what is left.
    pub async fn kill(&mut self, name: &str) -> Storage {
        let node = self.nodes.remove(name).expect("a node of this name");
        node.transport.abort();
        node.cluster.stop().await;
        node.storage
    }

    /// Waits until all nodes are operational under one map that names exactly the owners.
    pub async fn settled(&self) {
        let settled = async {
            while !self.is_settled() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, settled).await.is_err() {
            let states: Vec<String> = self.nodes.values().map(describe).collect();
            panic!("not settled:\n{}", states.join("\n"));
        }
    }

    fn is_settled(&self) -> bool {
        let owners: Vec<NodeId> = self
            .nodes
            .values()
            .filter(|node| node.cluster.role() != funk::Role::NonMember)
            .map(|node| node.cluster.node_id().clone())
            .collect();
        let Some(first) = self.nodes.values().next() else {
            return true;
        };
        let map = first.cluster.shard_map();
        let named: Vec<NodeId> = map
            .members()
            .iter()
            .map(|m| m.instance.node.clone())
            .collect();
        named == owners
            && self.nodes.values().all(|node| {
                node.cluster.state() == funk::NodeState::Operational
                    && node.cluster.shard_map().index() == map.index()
                    && node.cluster.leader() == first.cluster.leader()
            })
            && map.members().iter().all(|member| {
                let node = &self.nodes[member.instance.node.as_str()];
                map.owned_by(&member.instance)
                    .all(|(shard, _)| node.cluster.guard(shard).is_some())
            })
    }

    pub fn leader(&self) -> String {
        let node = self.nodes.values().next().expect("a node");
        node.cluster.leader().expect("a leader").to_string()
    }

    pub fn followers(&self) -> Vec<String> {
        let leader = self.leader();
        self.nodes
            .keys()
            .filter(|name| **name != leader)
            .cloned()
            .collect()
    }
}

/// Everything about a node that helps to see why a test fails.
pub fn describe(node: &TestNode) -> String {
    let cluster = &node.cluster;
    format!(
        "{cluster:?} {:?} {:?} leader {:?} term {} id {:?} map {:?} of {:?} pending {:?} members {:?}\n    {:?}",
        cluster.state(),
        cluster.role(),
        cluster.leader(),
        cluster.term(),
        cluster.cluster_id(),
        cluster.shard_map().index(),
        cluster
            .shard_map()
            .members()
            .iter()
            .map(|m| m.instance.to_string())
            .collect::<Vec<_>>(),
        cluster.pending_map(),
        cluster
            .members()
            .iter()
            .map(|m| format!("{} {:?}", m.node, m.state))
            .collect::<Vec<_>>(),
        cluster.counters(),
    )
}
