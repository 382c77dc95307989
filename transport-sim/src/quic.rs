//! The QUIC transport that ships, on simulated hosts, and the certificates that it needs there.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use funk::ids::NodeId;
use funk::transport::{PeerKind, Transport, TransportError};
use funk_quic::{Authority, Credentials, QuicConfig, QuicTransport};

use crate::network::SimNetwork;
use crate::udp::SimUdp;

/// The certificates of one simulation, made as they are needed. Clones are the same.
///
/// All runs of a node have the same one, as on a disk: that is how peers believe a restarted node that it knows nothing
/// of their connections. Keys are drawn from the operating system; certificates for one name have one length, so runs
/// repeat all the same.
#[derive(Clone)]
pub(crate) struct Identities {
    config: QuicConfig,
    issued: Arc<Mutex<Issued>>,
}

#[derive(Default)]
struct Issued {
    authority: Option<Authority>,
    credentials: BTreeMap<(PeerKind, NodeId), Credentials>,
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identities").finish_non_exhaustive()
    }
}

impl Identities {
    pub(crate) fn new(config: QuicConfig) -> Self {
        Self {
            config,
            issued: Arc::default(),
        }
    }

    /// Listens at `addr`, whose IP address must be that of the running turmoil host. Port 0: any free one.
    pub(crate) async fn bind(
        &self,
        addr: SocketAddr,
        network: &SimNetwork,
        kind: PeerKind,
        name: &NodeId,
    ) -> Result<Arc<dyn Transport>, TransportError> {
        if !network.believes(name, addr.ip()) {
            return Err(TransportError::Credentials(format!(
                "{} is not the host of {name}; use `Names::Claimed` to run it here all the same",
                addr.ip()
            )));
        }
        let credentials = self.credentials(kind, name)?;
        let socket = SimUdp::bind(addr, network).await;
        let socket = socket.map_err(|error| TransportError::Bind {
            addr,
            reason: error.to_string(),
        })?;
        let local_addr = socket.addr();
        let socket = Arc::new(socket);
        let config = self.config.clone();
        Ok(QuicTransport::with_abstract_socket(
            socket,
            local_addr,
            credentials,
            config,
        ))
    }

    fn credentials(&self, kind: PeerKind, name: &NodeId) -> Result<Credentials, TransportError> {
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        let Issued {
            authority,
            credentials,
        } = &mut *issued;
        let authority = match authority {
            Some(authority) => authority,
            None => authority.insert(Authority::new()?),
        };
        match credentials.entry((kind, name.clone())) {
            Entry::Occupied(found) => Ok(found.get().clone()),
            Entry::Vacant(vacant) => {
                let fresh = match kind {
                    PeerKind::Node => authority.node_credentials(name)?,
                    PeerKind::Client => authority.client_credentials(name)?,
                };
                Ok(vacant.insert(fresh).clone())
            }
        }
    }
}
