//! The client that `funk call` and `funk status` are.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use funk::ids::ClusterName;
use funk::{CallError, Client, NodeId};
use funk_quic::{QuicConfig, QuicTransport};

use crate::arguments::{CLIENT, CLUSTER, cluster_name, node_name};
use crate::credentials;
use crate::failure::Failure;

/// Arguments of every client.
#[derive(Args, Clone, Debug)]
pub(crate) struct ClientArgs {
    /// Name of the cluster that the nodes were started with
    #[arg(long, value_name = "NAME", default_value = CLUSTER, value_parser = cluster_name)]
    cluster: ClusterName,
    /// Directory with ca.pem, CLIENT.pem and CLIENT.key; without it, certificates for this machine only are made
    #[arg(long, value_name = "DIR")]
    tls: Option<PathBuf>,
    /// Name of the client, as its certificate has it
    #[arg(long, value_name = "CLIENT", default_value = CLIENT, value_parser = node_name)]
    client: NodeId,
}

/// Connections of a client end when the node has been silent for so long. Calls that wait for it are told at once.
const IDLE: Duration = Duration::from_secs(2);

impl ClientArgs {
    /// Starts the client; it connects when it is used.
    pub(crate) fn start(&self, addresses: &[SocketAddr]) -> Result<Client, Failure> {
        let named: Vec<_> = addresses.iter().map(|addr| ("--connect", *addr)).collect();
        let name = credentials::client(&self.client);
        let credentials = credentials::load(&name, self.tls.as_ref(), &named)?;
        let any: SocketAddr = if addresses.iter().all(SocketAddr::is_ipv4) {
            ([0, 0, 0, 0], 0).into()
        } else {
            // Reaches IPv4 addresses, too.
            ([0_u16; 8], 0).into()
        };
        let loopback = addresses.iter().all(|addr| addr.ip().is_loopback());
        let local = match (loopback, any) {
            (true, SocketAddr::V4(_)) => ([127, 0, 0, 1], 0).into(),
            (_, any) => any,
        };
        let config = QuicConfig {
            idle_timeout: IDLE,
            connect_timeout: Duration::from_secs(1),
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_millis(250),
            ..QuicConfig::default()
        };
        let transport = QuicTransport::bind(local, credentials, config).map_err(Failure::error)?;
        Client::start(
            self.cluster.as_str(),
            self.client.as_str(),
            transport,
            addresses.iter().copied(),
        )
        .map_err(Failure::error)
    }

    /// What went wrong, with what to do about it.
    pub(crate) fn explain(&self, error: &CallError) -> String {
        match error {
            // Who refused has said why, and what to do.
            CallError::Unreachable(reason) if !reason.contains("refused") => format!(
                "{error}; is a node running there (`funk node --listen ADDR`), in cluster `{}`, and reachable from \
                 here?",
                self.cluster
            ),
            error => error.to_string(),
        }
    }
}
