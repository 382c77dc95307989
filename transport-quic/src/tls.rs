//! TLS configurations: both sides show a certificate, and both look for a name in the other's.

use std::fmt;
use std::sync::Arc;

use funk::ids::NodeId;
use funk::transport::TransportError;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};

use crate::config::QuicConfig;
use crate::credentials::Credentials;
use crate::names::{NameMapping, PeerName, name_in_certificate};

/// Application protocol with its version: peers that have none in common refuse each other in the handshake.
pub(crate) const PROTOCOL: &[u8] = b"funk/1";

/// Names the server whom we expect: `NAME.node`. A name of digits alone is no DNS name for rustls, so a label follows.
const EXPECTED_SUFFIX: &str = ".node";
/// Stands for the server's name when nobody in particular is expected.
const ANYBODY: &str = "any";

/// The provider of cryptography, passed to everything that needs one; the process's default is not touched.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// What the two ends of a connection are configured with.
pub(crate) struct Tls {
    server: quinn::ServerConfig,
    client: quinn::ClientConfig,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    pub(crate) fn new(
        credentials: &Credentials,
        config: &QuicConfig,
    ) -> Result<Self, TransportError> {
        let unusable = |error: &dyn fmt::Display| {
            TransportError::Credentials(format!("they cannot be used for TLS: {error}"))
        };
        let provider = provider();
        let transport = config.transport();
        let verifier = Arc::new(Verifier::new(credentials).map_err(|error| unusable(&error))?);

        let mut server = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| unusable(&error))?
            .with_client_cert_verifier(verifier.clone())
            .with_single_cert(credentials.chain.clone(), credentials.key.clone_key())
            .map_err(|error| unusable(&error))?;
        server.alpn_protocols = vec![PROTOCOL.to_vec()];
        // Every connection proves its names anew.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;

        let mut client = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| unusable(&error))?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_auth_cert(credentials.chain.clone(), credentials.key.clone_key())
            .map_err(|error| unusable(&error))?;
        client.alpn_protocols = vec![PROTOCOL.to_vec()];
        client.resumption = Resumption::disabled();
        // Who is expected concerns nobody on the way.
        client.enable_sni = false;

        let server = QuicServerConfig::try_from(server).map_err(|error| unusable(&error))?;
        let client = QuicClientConfig::try_from(client).map_err(|error| unusable(&error))?;
        let mut server = quinn::ServerConfig::with_crypto(Arc::new(server));
        server.transport_config(transport.clone());
        // A node's address is part of what its peers agree on; it does not change under a connection.
        server.migration(false);
        let mut client = quinn::ClientConfig::new(Arc::new(client));
        client.transport_config(transport);
        Ok(Self { server, client })
    }

    pub(crate) fn server(&self) -> quinn::ServerConfig {
        self.server.clone()
    }

    pub(crate) fn client(&self) -> quinn::ClientConfig {
        self.client.clone()
    }
}

/// The name to dial by, from which the verifier learns whom to expect.
pub(crate) fn server_name(expected: Option<&NodeId>) -> String {
    expected.map_or(ANYBODY.to_owned(), |node| {
        format!("{node}{EXPECTED_SUFFIX}")
    })
}

/// Checks one's own chain as the peers will.
pub(crate) fn verify_own_chain(
    chain: &[CertificateDer<'static>],
    roots: &RootCertStore,
) -> Result<(), String> {
    let (leaf, intermediates) = chain.split_first().ok_or("there is no certificate")?;
    let leaf = ParsedCertificate::try_from(leaf).map_err(|error| in_words(&error))?;
    let algorithms = provider().signature_verification_algorithms;
    verify_server_cert_signed_by_trust_anchor(
        &leaf,
        roots,
        intermediates,
        UnixTime::now(),
        algorithms.all,
    )
    .map_err(|error| in_words(&error))
}

/// What is wrong with a certificate, for people.
pub(crate) fn in_words(error: &Error) -> String {
    let Error::InvalidCertificate(error) = error else {
        return error.to_string();
    };
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the certificate has expired".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the certificate is not valid yet".to_owned()
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "the certificate was issued by another authority".to_owned()
        }
        CertificateError::Other(OtherError(reason)) => reason.to_string(),
        other => Error::InvalidCertificate(other.clone()).to_string(),
    }
}

/// A reason of ours, carried through rustls. Shown plainly even by `Debug`, which rustls prints.
struct Reason(String);

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Reason {}

fn refuse(reason: String) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(Reason(
        reason,
    )))))
}

/// Believes certificates of the cluster's authorities that name somebody: who answers must be a node, who dials may be
/// a client.
#[derive(Debug)]
struct Verifier {
    roots: Arc<RootCertStore>,
    mapping: Arc<dyn NameMapping>,
    clients: Arc<dyn ClientCertVerifier>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn new(credentials: &Credentials) -> Result<Self, String> {
        let clients =
            WebPkiClientVerifier::builder_with_provider(credentials.roots.clone(), provider())
                .build()
                .map_err(|error| error.to_string())?;
        Ok(Self {
            roots: credentials.roots.clone(),
            mapping: credentials.mapping.clone(),
            clients,
            provider: provider(),
        })
    }

    fn node_in(&self, certificate: &CertificateDer<'_>) -> Result<NodeId, Error> {
        match name_in_certificate(certificate, &*self.mapping).map_err(refuse)? {
            PeerName::Node(node) => Ok(node),
            client @ PeerName::Client(_) => Err(refuse(format!(
                "the certificate is that of {client}, and only nodes answer: use one for a node name"
            ))),
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            &self.roots,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )?;
        let found = self.node_in(end_entity)?;
        let name = server_name.to_str();
        if let Some(expected) = name.strip_suffix(EXPECTED_SUFFIX)
            && expected != found.as_str()
        {
            return Err(refuse(format!(
                "node `{expected}` was expected at this address, but node `{found}` answered"
            )));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Every node has one certificate: hints would only make the handshake longer.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self
            .clients
            .verify_client_cert(end_entity, intermediates, now)?;
        name_in_certificate(end_entity, &*self.mapping).map_err(refuse)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.clients.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.clients.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.clients.supported_verify_schemes()
    }
}
