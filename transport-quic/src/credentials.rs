//! What a node proves its name with, and whom it believes.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use funk::ids::NodeId;
use funk::transport::{PeerKind, TransportError};
use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::names::{DnsSuffixes, NameMapping, PeerName, name_in_certificate};
use crate::tls;

/// A certificate chain with its key, and the authorities whose certificates are believed.
#[derive(Clone)]
pub struct Credentials {
    pub(crate) roots: Arc<RootCertStore>,
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: Arc<PrivateKeyDer<'static>>,
    pub(crate) mapping: Arc<dyn NameMapping>,
    name: PeerName,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A PEM text and what to call it in error messages.
struct Source {
    called: String,
    pem: Vec<u8>,
}

impl Credentials {
    /// From PEM texts: the certificates of the trusted authorities, the node's certificate (intermediates after it) and
    /// its private key. Names are mapped by [`DnsSuffixes::default`].
    pub fn from_pem(
        authorities: &str,
        certificate: &str,
        key: &str,
    ) -> Result<Self, TransportError> {
        Self::from_pem_with_names(
            authorities,
            certificate,
            key,
            Arc::new(DnsSuffixes::default()),
        )
    }

    /// From PEM texts of certificates whose names are mapped in another way.
    pub fn from_pem_with_names(
        authorities: &str,
        certificate: &str,
        key: &str,
        mapping: Arc<dyn NameMapping>,
    ) -> Result<Self, TransportError> {
        let source = |called: &str, pem: &str| Source {
            called: called.to_owned(),
            pem: pem.as_bytes().to_vec(),
        };
        Self::from_sources(
            source("the authority's certificate", authorities),
            source("the certificate", certificate),
            source("the private key", key),
            mapping,
        )
    }

    /// From PEM files; see [`Credentials::from_pem`].
    pub fn from_pem_files(
        authorities: impl AsRef<Path>,
        certificate: impl AsRef<Path>,
        key: impl AsRef<Path>,
    ) -> Result<Self, TransportError> {
        Self::from_pem_files_with_names(
            authorities,
            certificate,
            key,
            Arc::new(DnsSuffixes::default()),
        )
    }

    /// From PEM files of certificates whose names are mapped in another way.
    pub fn from_pem_files_with_names(
        authorities: impl AsRef<Path>,
        certificate: impl AsRef<Path>,
        key: impl AsRef<Path>,
        mapping: Arc<dyn NameMapping>,
    ) -> Result<Self, TransportError> {
        Self::from_sources(
            Source::read(authorities.as_ref())?,
            Source::read(certificate.as_ref())?,
            Source::read(key.as_ref())?,
            mapping,
        )
    }

    /// Whom the certificate stands for.
    pub fn name(&self) -> &PeerName {
        &self.name
    }

    /// Checks that a node or client of this name can use them.
    pub(crate) fn check(&self, kind: PeerKind, name: &NodeId) -> Result<(), TransportError> {
        if self.name.kind() == kind && self.name.name() == name {
            return Ok(());
        }
        Err(TransportError::Credentials(format!(
            "the certificate is that of {} but this is {kind} `{name}`; \
             use the certificate of this {kind}, or start it under the certificate's name",
            self.name
        )))
    }

    fn from_sources(
        authorities: Source,
        certificate: Source,
        key: Source,
        mapping: Arc<dyn NameMapping>,
    ) -> Result<Self, TransportError> {
        let mut roots = RootCertStore::empty();
        for root in certificates(&authorities)? {
            roots.add(root).map_err(|error| {
                authorities.wrong(&format!("is no usable authority: {error}"), "")
            })?;
        }
        let chain = certificates(&certificate)?;
        let private = PrivateKeyDer::from_pem_slice(&key.pem)
            .map_err(|error| key.unreadable(error, "PRIVATE KEY"))?;
        CertifiedKey::from_der(chain.clone(), private.clone_key(), &tls::provider()).map_err(
            |error| {
                key.wrong(
                    &format!("does not fit {}: {error}", certificate.called),
                    "pass the key that was issued with it",
                )
            },
        )?;
        tls::verify_own_chain(&chain, &roots).map_err(|reason| {
            certificate.wrong(
                &format!("would not be believed by other nodes: {reason}"),
                &format!("issue one with the authority in {}", authorities.called),
            )
        })?;
        let name = name_in_certificate(&chain[0], &*mapping)
            .map_err(|reason| certificate.wrong(&format!("cannot be used: {reason}"), ""))?;
        Ok(Self {
            roots: Arc::new(roots),
            chain,
            key: Arc::new(private),
            mapping,
            name,
        })
    }
}

fn certificates(source: &Source) -> Result<Vec<CertificateDer<'static>>, TransportError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&source.pem).collect();
    match found {
        Ok(found) if found.is_empty() => {
            Err(source.unreadable(pem::Error::NoItemsFound, "CERTIFICATE"))
        }
        Ok(found) => Ok(found),
        Err(error) => Err(source.unreadable(error, "CERTIFICATE")),
    }
}

impl Source {
    fn read(path: &Path) -> Result<Self, TransportError> {
        let called = path.display().to_string();
        match std::fs::read(path) {
            Ok(pem) => Ok(Self { called, pem }),
            Err(error) => Err(TransportError::Credentials(format!(
                "{called} cannot be read: {error}; check the path and its permissions"
            ))),
        }
    }

    fn wrong(&self, what: &str, next: &str) -> TransportError {
        let called = &self.called;
        TransportError::Credentials(if next.is_empty() {
            format!("{called} {what}")
        } else {
            format!("{called} {what}; {next}")
        })
    }

    fn unreadable(&self, error: pem::Error, section: &str) -> TransportError {
        let next = format!("a PEM text with a `-----BEGIN {section}-----` section is expected");
        match error {
            pem::Error::NoItemsFound => self.wrong(&format!("holds no {section}"), &next),
            error => self.wrong(&format!("is not valid PEM: {error}"), &next),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Authority, Validity};

    fn message(result: Result<Credentials, TransportError>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn what_is_wrong_with_credentials_is_said_with_the_next_step() {
        let (ours, other) = (Authority::new().unwrap(), Authority::new().unwrap());
        let n1 = ours.issue_node(&NodeId::new("n1").unwrap()).unwrap();
        let n2 = ours.issue_node(&NodeId::new("n2").unwrap()).unwrap();
        let ca = ours.certificate_pem();

        let good = Credentials::from_pem(ca, &n1.certificate_pem, &n1.key_pem).unwrap();
        assert_eq!(*good.name(), PeerName::Node(NodeId::new("n1").unwrap()));
        let text = format!("{good:?}");
        assert!(!text.contains("PRIVATE") && text.contains("n1"), "{text}");
        assert!(
            good.check(PeerKind::Node, &NodeId::new("n2").unwrap())
                .is_err()
        );

        let text = message(Credentials::from_pem(ca, &n1.certificate_pem, &n2.key_pem));
        assert!(text.contains("does not fit"), "{text}");
        let text = message(Credentials::from_pem(
            other.certificate_pem(),
            &n1.certificate_pem,
            &n1.key_pem,
        ));
        assert!(text.contains("issue one with the authority"), "{text}");
        let text = message(Credentials::from_pem(ca, "garbage", &n1.key_pem));
        assert!(
            text.contains("the certificate holds no CERTIFICATE"),
            "{text}"
        );
        let text = message(Credentials::from_pem(ca, &n1.certificate_pem, ""));
        assert!(
            text.contains("the private key holds no PRIVATE KEY"),
            "{text}"
        );
        let expired = ours
            .issue(
                &PeerName::Node(NodeId::new("n1").unwrap()),
                Validity::days((2001, 1, 1), (2002, 1, 1)),
            )
            .unwrap();
        let text = message(Credentials::from_pem(
            ca,
            &expired.certificate_pem,
            &expired.key_pem,
        ));
        assert!(text.contains("expired"), "{text}");
    }

    #[test]
    fn files_are_named_when_they_cannot_be_read() {
        let text = message(Credentials::from_pem_files(
            "/nonexistent/ca.pem",
            "n1.pem",
            "n1.key",
        ));
        assert!(
            text.contains("/nonexistent/ca.pem cannot be read"),
            "{text}"
        );
    }

    #[test]
    fn a_client_is_no_node() {
        let authority = Authority::new().unwrap();
        let n1 = NodeId::new("n1").unwrap();
        let issued = authority.issue_client(&n1).unwrap();
        let credentials = Credentials::from_pem(
            authority.certificate_pem(),
            &issued.certificate_pem,
            &issued.key_pem,
        )
        .unwrap();
        assert_eq!(*credentials.name(), PeerName::Client(n1.clone()));
        let text = credentials
            .check(PeerKind::Node, &n1)
            .unwrap_err()
            .to_string();
        assert!(text.contains("client `n1`"), "{text}");
    }
}
