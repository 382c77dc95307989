//! The shortest embedding: a cluster of one node, which can grow.
use bytes::Bytes;
use funk::{Cluster, NodeId, Request, Service, ServiceError, ServiceRequest};
use funk_quic::{Authority, QuicConfig, QuicTransport};

struct Greeter;

impl Service for Greeter {
    async fn call(&self, request: ServiceRequest) -> Result<Bytes, ServiceError> {
        let key = String::from_utf8_lossy(&request.key);
        let (shard, token) = (request.guard.shard(), request.guard.epoch());
        Ok(format!("hello {key}, from the owner of shard {shard} (token {token})").into())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A certificate authority of our own: fine for one process, otherwise keep its PEM texts.
    let credentials = Authority::new()?.node_credentials(&NodeId::new("n1")?)?;
    let address = "127.0.0.1:0".parse()?;
    let transport = QuicTransport::bind(address, credentials, QuicConfig::default())?;

    let cluster = Cluster::builder("greetings", "n1")
        .transport(transport)
        .service(Greeter)
        .bootstrap_expect(1) // With more nodes: how many found the cluster, and `.seeds(addresses)`.
        .start()
        .await?;

    let answer = cluster.call(Request::key("world", "")).await?;
    println!("{}", str::from_utf8(&answer.body)?);
    cluster.stop().await;
    Ok(())
}
