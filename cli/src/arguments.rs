//! Arguments that several commands have.

use std::net::SocketAddr;
use std::time::Duration;

use funk::NodeId;
use funk::ids::ClusterName;

/// The cluster's name, if none is given.
pub(crate) const CLUSTER: &str = "funk";
/// The client's name, if none is given.
pub(crate) const CLIENT: &str = "cli";

pub(crate) fn address(text: &str) -> Result<SocketAddr, String> {
    text.trim().parse().map_err(|_| {
        "an IP address and a port are needed, for example 127.0.0.1:7401 or [::1]:7401".to_owned()
    })
}

pub(crate) fn node_name(text: &str) -> Result<NodeId, String> {
    NodeId::new(text).map_err(|error| error.to_string())
}

pub(crate) fn cluster_name(text: &str) -> Result<ClusterName, String> {
    ClusterName::new(text).map_err(|error| error.to_string())
}

/// Seconds, with a fraction if need be; at most a day.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    const MAX: f64 = 86_400.0;
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=MAX).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err(format!(
            "seconds from 0 to {MAX} are possible, for example 2.5"
        )),
    }
}
