//! The cluster's transport over a simulated network, and the simulation around it.
//!
//! There are two networks to choose from, see [`Network`]: [`SimTransport`], which implements
//! [`Transport`] over turmoil's TCP (streams) and UDP (datagrams), and the
//! [`QuicTransport`](funk_quic::QuicTransport) that ships, over turmoil's UDP. Everything above them is the code that
//! ships. [`Simulation`] starts nodes on simulated hosts, each with a clock of its own, and does to them what happens
//! to nodes: crashes as power cuts, restarts, pauses, cuts in the network. One seed gives one run: the same seed gives
//! the same [`Simulation::fingerprint`], message by message.
//!
//! [`Transport`]: funk::transport::Transport
//!
//! This crate needs tokio's unstable configuration, because only that lets turmoil seed tokio. Within this workspace
//! `.cargo/config.toml` sets it; elsewhere put this into yours:
//!
//! ```toml
//! [build]
//! rustflags = ["--cfg", "tokio_unstable"]
//! rustdocflags = ["--cfg", "tokio_unstable"]
//! ```

#[cfg(not(tokio_unstable))]
compile_error!(
    "funk-sim needs `--cfg tokio_unstable`: without it turmoil cannot seed tokio, and a seed would not repeat. \
     Set `rustflags` and `rustdocflags` to [\"--cfg\", \"tokio_unstable\"] in .cargo/config.toml, and mind that a \
     RUSTFLAGS variable replaces what the file says."
);

mod cluster;
mod frames;
mod hello;
mod network;
mod ports;
mod pump;
mod quic;
mod reach;
mod simulation;
mod transport;
mod udp;

pub use cluster::{Disk, Failure, NodeOptions, Result, SimCluster};
pub use network::{Names, Network, SimNetwork};
pub use simulation::{Clock, SimNode, Simulation, SimulationConfig};
pub use transport::SimTransport;
