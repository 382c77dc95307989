//! Nodes that are started at the same moment, each with its own QUIC endpoint, form one cluster: ten times each of
//! three, five and nine.
#![allow(
    clippy::disallowed_methods,
    reason = "a test beside the nodes, not inside one"
)]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use funk::{Cluster, NodeId, Request, Service, ServiceError, ServiceRequest};
use funk_quic::{Authority, QuicConfig, QuicTransport};

const ROUNDS: usize = 10;
/// Only a hang takes so long.
const PATIENCE: Duration = Duration::from_secs(60);

struct Echo;

impl Service for Echo {
    async fn call(&self, request: ServiceRequest) -> Result<Bytes, ServiceError> {
        Ok(request.body)
    }
}

async fn start(count: usize) {
    let authority = Authority::new().unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let transports: Vec<_> = (1..=count)
        .map(|n| {
            let name = format!("n{n}");
            let credentials = authority
                .node_credentials(&NodeId::new(&name).unwrap())
                .unwrap();
            let transport = QuicTransport::bind(any, credentials, QuicConfig::default()).unwrap();
            (name, transport)
        })
        .collect();
    let seeds: Vec<SocketAddr> = transports
        .iter()
        .map(|(_, transport)| funk::transport::Transport::local_addr(&**transport))
        .collect();
    let starting: Vec<_> = transports
        .into_iter()
        .map(|(name, transport)| {
            let seeds = seeds.clone();
            tokio::spawn(async move {
                Cluster::builder("start", &name)
                    .transport(transport)
                    .seeds(seeds)
                    .bootstrap_expect(count as u16)
                    .service(Echo)
                    .start()
                    .await
                    .unwrap()
            })
        })
        .collect();
    let mut clusters = Vec::new();
    for cluster in starting {
        clusters.push(cluster.await.unwrap());
    }
    for cluster in &clusters {
        assert!(
            cluster.operational(PATIENCE).await,
            "{cluster:?} is {:?}",
            cluster.state()
        );
        let answer = cluster.call(Request::key("k", "hello")).await.unwrap();
        assert_eq!(answer.body, "hello");
    }
    let ids: BTreeSet<_> = clusters.iter().map(Cluster::cluster_id).collect();
    assert_eq!(
        ids.len(),
        1,
        "{count} nodes formed {} clusters: {ids:?}",
        ids.len()
    );
    for cluster in clusters {
        cluster.stop().await;
    }
}

fn rounds(count: usize) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    for _ in 0..ROUNDS {
        runtime.block_on(start(count));
    }
}

#[test]
fn three() {
    rounds(3);
}

#[test]
fn five() {
    rounds(5);
}

#[test]
fn nine() {
    rounds(9);
}
