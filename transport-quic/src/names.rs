//! From the names in a certificate to the name of a node.

use std::fmt;

use funk::ids::NodeId;
use funk::transport::PeerKind;
use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Names looked at in one certificate; more are a sign of a certificate that is not meant for a node.
const MAX_NAMES: usize = 64;

/// Who a certificate stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PeerName {
    /// A node of the cluster.
    Node(NodeId),
    /// A client or tool, which is no node even if it has the name of one.
    Client(NodeId),
}

impl PeerName {
    /// The name without what it is the name of.
    pub fn name(&self) -> &NodeId {
        match self {
            Self::Node(name) | Self::Client(name) => name,
        }
    }

    /// What it is the name of.
    pub fn kind(&self) -> PeerKind {
        match self {
            Self::Node(_) => PeerKind::Node,
            Self::Client(_) => PeerKind::Client,
        }
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(name) => write!(f, "node `{name}`"),
            Self::Client(name) => write!(f, "client `{name}`"),
        }
    }
}

/// How a name in a certificate (a DNS name among its subject alternative names) names a node.
///
/// All nodes of a cluster must be configured with the same mapping.
pub trait NameMapping: Send + Sync + fmt::Debug {
    /// Whom the DNS name stands for; `None` if for nobody (other names of the certificate may).
    fn peer_name(&self, dns_name: &str) -> Option<PeerName>;

    /// What names look like, for error messages.
    fn expectation(&self) -> String;
}

/// The usual mapping: `NAME.SUFFIX`, with a suffix for nodes and one for clients.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DnsSuffixes {
    /// Suffix of nodes, without the dot before it.
    pub node: String,
    /// Suffix of clients, without the dot before it.
    pub client: String,
}

impl Default for DnsSuffixes {
    /// `NAME.node.funk` and `NAME.client.funk`.
    fn default() -> Self {
        Self {
            node: "node.funk".to_owned(),
            client: "client.funk".to_owned(),
        }
    }
}

impl DnsSuffixes {
    /// The DNS name that stands for a peer.
    pub fn dns_name(&self, name: &PeerName) -> String {
        match name {
            PeerName::Node(name) => format!("{name}.{}", self.node),
            PeerName::Client(name) => format!("{name}.{}", self.client),
        }
    }
}

impl NameMapping for DnsSuffixes {
    fn peer_name(&self, dns_name: &str) -> Option<PeerName> {
        let label = |suffix: &str| {
            let name = dns_name.strip_suffix(suffix)?.strip_suffix('.')?;
            NodeId::new(name).ok()
        };
        let node = label(&self.node).map(PeerName::Node);
        node.or_else(|| label(&self.client).map(PeerName::Client))
    }

    fn expectation(&self) -> String {
        format!("NAME.{} or NAME.{}", self.node, self.client)
    }
}

/// The one peer that a certificate stands for, or what is wrong with it in words.
pub(crate) fn name_in_certificate(
    certificate: &CertificateDer<'_>,
    mapping: &dyn NameMapping,
) -> Result<PeerName, String> {
    let (_, parsed) = X509Certificate::from_der(certificate)
        .map_err(|error| format!("the certificate cannot be parsed: {error}"))?;
    let alternatives = parsed.subject_alternative_name().map_err(|error| {
        format!("the certificate's alternative names cannot be parsed: {error}")
    })?;
    let names = alternatives.map_or(&[][..], |extension| &extension.value.general_names);
    let mut found = None;
    for name in names.iter().take(MAX_NAMES) {
        let GeneralName::DNSName(dns_name) = name else {
            continue;
        };
        let Some(peer) = mapping.peer_name(dns_name) else {
            continue;
        };
        match &found {
            Some(other) if *other != peer => {
                return Err(format!(
                    "the certificate stands for {other} and for {peer}; issue one for each"
                ));
            }
            _ => found = Some(peer),
        }
    }
    found.ok_or_else(|| {
        format!(
            "the certificate names no node or client; a DNS name like {} is expected in it",
            mapping.expectation()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_mapped_by_their_suffix_and_only_whole_labels_count() {
        let names = DnsSuffixes::default();
        let node = |name| Some(PeerName::Node(NodeId::new(name).unwrap()));
        assert_eq!(names.peer_name("n1.node.funk"), node("n1"));
        assert_eq!(
            names.peer_name("n1.client.funk"),
            Some(PeerName::Client(NodeId::new("n1").unwrap()))
        );
        for wrong in [
            "n1.node.funk.example.com",
            "n1node.funk",
            ".node.funk",
            "node.funk",
            "a.b.node.funk",
            "*.node.funk",
            "N1.node.funk",
            "",
        ] {
            assert_eq!(names.peer_name(wrong), None, "{wrong}");
        }
        for name in [
            node("n7").unwrap(),
            PeerName::Client(NodeId::new("n7").unwrap()),
        ] {
            assert_eq!(names.peer_name(&names.dns_name(&name)), Some(name));
        }
    }
}
