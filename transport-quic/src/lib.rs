//! QUIC for funk: the [`Transport`](funk::transport::Transport) of nodes on real networks.
//!
//! One UDP port for each node, mutual TLS always. The name of a node stands in its certificate and is checked on
//! both sides of every connection; the protocol version is the ALPN name, so that versions which cannot talk to
//! each other refuse each other in the handshake. [`Authority`] issues certificates, [`Credentials`] reads
//! them, [`QuicTransport`] is the transport itself.
//!
//! ```no_run
//! use funk::ids::NodeId;
//! use funk_quic::{Authority, QuicConfig, QuicTransport};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let authority = Authority::new()?;
//! let credentials = authority.node_credentials(&NodeId::new("n1")?)?;
//! let transport = QuicTransport::bind("127.0.0.1:0".parse()?, credentials, QuicConfig::default())?;
//! # let _ = transport;
//! # Ok(())
//! # }
//! ```

mod authority;
mod config;
mod connections;
mod counters;
mod credentials;
mod dials;
mod endpoint;
#[doc(hidden)]
pub mod fuzzing;
mod hello;
mod link;
mod names;
#[cfg(test)]
mod pair_tests;
mod refusal;
mod reset;
mod runtime;
mod socket;
mod strays;
mod tls;
mod transport;

pub use authority::{Authority, Issued, Validity};
pub use config::QuicConfig;
pub use credentials::Credentials;
pub use names::{DnsSuffixes, NameMapping, PeerName};
pub use transport::QuicTransport;
