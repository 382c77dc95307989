//! A certificate authority for a cluster: Ed25519 throughout.

use funk::ids::NodeId;
use funk::transport::TransportError;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ED25519, PublicKeyData, SerialNumber, date_time_ymd,
};

use crate::credentials::Credentials;
use crate::names::{DnsSuffixes, PeerName};

/// The days from which and until which a certificate is good, both at midnight UTC: (year, month, day).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Validity {
    from: (i32, u8, u8),
    until: (i32, u8, u8),
}

impl Validity {
    /// Good for longer than anybody will use it: for demonstrations, tests and simulations.
    pub const UNLIMITED: Self = Self::days((1975, 1, 1), (4096, 1, 1));

    /// From one day until another. A day that does not exist makes issuing fail.
    pub const fn days(from: (i32, u8, u8), until: (i32, u8, u8)) -> Self {
        Self { from, until }
    }

    fn apply(self, params: &mut CertificateParams) -> Result<(), TransportError> {
        for (year, month, day) in [self.from, self.until] {
            let days = match month {
                2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
                2 => 28,
                4 | 6 | 9 | 11 => 30,
                1..=12 => 31,
                _ => 0,
            };
            if !(1..=days).contains(&day) || !(1950..=9999).contains(&year) {
                return Err(TransportError::Credentials(format!(
                    "{year:04}-{month:02}-{day:02} is no day that a certificate can begin or end on"
                )));
            }
        }
        params.not_before = date_time_ymd(self.from.0, self.from.1, self.from.2);
        params.not_after = date_time_ymd(self.until.0, self.until.1, self.until.2);
        Ok(())
    }
}

/// A certificate with its private key, both PEM.
#[derive(Clone)]
pub struct Issued {
    /// The certificate.
    pub certificate_pem: String,
    /// Its private key (PKCS #8): a secret.
    pub key_pem: String,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued")
            .field("certificate_pem", &self.certificate_pem)
            .finish_non_exhaustive()
    }
}

/// Issues the certificates of a cluster. Whoever holds its key can be any node.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
    names: DnsSuffixes,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("certificate_pem", &self.certificate_pem)
            .finish_non_exhaustive()
    }
}

/// Bytes in a serial number: the most that there may be (RFC 5280, 4.1.2.2).
const SERIAL_BYTES: usize = 20;

/// A number that follows from the key, and so is new with every certificate. Always of the same length, so that
/// certificates for one name are, too: a leading zero would not be written, a leading one bit would take a byte more.
fn serial_number(key: &KeyPair) -> SerialNumber {
    let mut serial: Vec<u8> = key.der_bytes().iter().copied().take(SERIAL_BYTES).collect();
    serial[0] = serial[0] & 0x7f | 0x40;
    serial.into()
}

fn failed(what: &str) -> impl Fn(rcgen::Error) -> TransportError + '_ {
    move |error| TransportError::Credentials(format!("{what}: {error}"))
}

impl Authority {
    /// A new authority with a fresh key, good without limit.
    pub fn new() -> Result<Self, TransportError> {
        Self::with_validity(Validity::UNLIMITED)
    }

    /// A new authority with a fresh key.
    pub fn with_validity(validity: Validity) -> Result<Self, TransportError> {
        let wrong = failed("the authority cannot be made");
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "funk certificate authority");
        // Path length 0: it issues certificates of nodes, not of other authorities.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        validity.apply(&mut params)?;
        let key = KeyPair::generate_for(&PKCS_ED25519).map_err(&wrong)?;
        params.serial_number = Some(serial_number(&key));
        let key_pem = key.serialize_pem();
        let certificate_pem = CertifiedIssuer::self_signed(params, key)
            .map_err(&wrong)?
            .pem();
        Self::from_pem(&certificate_pem, &key_pem)
    }

    /// An authority that was made earlier.
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Self, TransportError> {
        let key = KeyPair::from_pem(key_pem).map_err(failed(
            "the authority's key cannot be read; a `-----BEGIN PRIVATE KEY-----` section is expected",
        ))?;
        let issuer = Issuer::from_ca_cert_pem(certificate_pem, key).map_err(failed(
            "the authority's certificate cannot be read; a `-----BEGIN CERTIFICATE-----` section is expected",
        ))?;
        Ok(Self {
            issuer,
            certificate_pem: certificate_pem.to_owned(),
            names: DnsSuffixes::default(),
        })
    }

    /// The same authority, naming peers by other suffixes.
    pub fn with_names(mut self, names: DnsSuffixes) -> Self {
        self.names = names;
        self
    }

    /// The authority's certificate: what all nodes must have.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The authority's private key (PKCS #8, PEM): to be kept away from the nodes.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// A certificate for a node, good without limit.
    pub fn issue_node(&self, node: &NodeId) -> Result<Issued, TransportError> {
        self.issue(&PeerName::Node(node.clone()), Validity::UNLIMITED)
    }

    /// A certificate for a client, good without limit.
    pub fn issue_client(&self, client: &NodeId) -> Result<Issued, TransportError> {
        self.issue(&PeerName::Client(client.clone()), Validity::UNLIMITED)
    }

    /// A certificate for a node or client.
    pub fn issue(&self, name: &PeerName, validity: Validity) -> Result<Issued, TransportError> {
        let wrong = failed("the certificate cannot be issued");
        let dns_name = self.names.dns_name(name);
        let mut params = CertificateParams::new([dns_name.clone()]).map_err(&wrong)?;
        params
            .distinguished_name
            .push(DnType::CommonName, dns_name.as_str());
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        validity.apply(&mut params)?;
        let key = KeyPair::generate_for(&PKCS_ED25519).map_err(&wrong)?;
        params.serial_number = Some(serial_number(&key));
        let certificate = params.signed_by(&key, &self.issuer).map_err(&wrong)?;
        Ok(Issued {
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        })
    }

    /// A fresh certificate for a node, ready to use.
    pub fn node_credentials(&self, node: &NodeId) -> Result<Credentials, TransportError> {
        self.credentials(self.issue_node(node)?)
    }

    /// A fresh certificate for a client, ready to use.
    pub fn client_credentials(&self, client: &NodeId) -> Result<Credentials, TransportError> {
        self.credentials(self.issue_client(client)?)
    }

    fn credentials(&self, issued: Issued) -> Result<Credentials, TransportError> {
        Credentials::from_pem_with_names(
            &self.certificate_pem,
            &issued.certificate_pem,
            &issued.key_pem,
            std::sync::Arc::new(self.names.clone()),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_read_back_issues_for_the_same_cluster() {
        let n1 = NodeId::new("n1").unwrap();
        let first = Authority::new().unwrap();
        let again = Authority::from_pem(first.certificate_pem(), &first.key_pem()).unwrap();
        let issued = again.issue_node(&n1).unwrap();
        let credentials = Credentials::from_pem(
            first.certificate_pem(),
            &issued.certificate_pem,
            &issued.key_pem,
        )
        .unwrap();
        assert_eq!(*credentials.name(), PeerName::Node(n1));
    }

    #[test]
    fn serial_numbers_differ_but_not_in_their_length() {
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..100 {
            let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
            let serial = serial_number(&key).to_bytes();
            assert_eq!(serial.len(), SERIAL_BYTES);
            assert!((0x40..0x80).contains(&serial[0]), "{serial:?}");
            assert!(seen.insert(serial));
        }
    }

    #[test]
    fn days_that_do_not_exist_are_refused() {
        let authority = Authority::new().unwrap();
        let n1 = PeerName::Node(NodeId::new("n1").unwrap());
        for day in [(2025, 2, 29), (2025, 13, 1), (2025, 4, 31), (2025, 1, 0)] {
            assert!(
                authority
                    .issue(&n1, Validity::days((2024, 2, 29), day))
                    .is_err()
            );
        }
    }

    #[test]
    fn other_suffixes_are_used_on_both_ways() {
        let names = DnsSuffixes {
            node: "db.example.com".to_owned(),
            client: "app.example.com".to_owned(),
        };
        let n1 = NodeId::new("n1").unwrap();
        let authority = Authority::new().unwrap().with_names(names);
        let credentials = authority.node_credentials(&n1).unwrap();
        assert_eq!(*credentials.name(), PeerName::Node(n1));
    }
}
