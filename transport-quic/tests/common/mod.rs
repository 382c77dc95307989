//! Nodes for tests, a peer of bare quinn that can misbehave, and what was logged.
#![allow(dead_code, unreachable_pub, reason = "each test uses a part of it")]

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use funk::ids::{BootId, ClusterName, Instance, NodeId, PeerAddr};
use funk::runtime::Environment;
use funk::transport::{
    Incoming, LocalNode, Peer, Stream, Transport, TransportCounters, TransportError,
};
use funk::versions::VersionRange;
use funk_quic::{Authority, Credentials, Issued, PeerName, QuicConfig, QuicTransport, Validity};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

/// Ends what would hang; no test measures time.
const HANG: Duration = Duration::from_secs(60);
const CLUSTER: &str = "test";

pub fn id(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

pub fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// Fails the test when the future takes forever.
#[track_caller]
pub fn soon<F: Future>(future: F) -> impl Future<Output = F::Output> {
    let caller = std::panic::Location::caller();
    async move {
        let done = Environment::current().timeout(HANG, future).await;
        done.unwrap_or_else(|| panic!("hung at {caller}"))
    }
}

/// Waits until the condition holds: for counters, which tell nobody that they change.
#[track_caller]
pub fn eventually(mut holds: impl FnMut() -> bool) -> impl Future<Output = ()> {
    soon(async move {
        while !holds() {
            Environment::current().sleep(Duration::from_millis(2)).await;
        }
    })
}

/// A started node.
pub struct Node {
    pub transport: Arc<QuicTransport>,
    pub incoming: mpsc::Receiver<Incoming>,
    pub name: NodeId,
}

impl Node {
    pub fn start(authority: &Authority, name: &str, boot: u64) -> Self {
        let credentials = authority.node_credentials(&id(name)).unwrap();
        Self::with(credentials, name, boot, CLUSTER, QuicConfig::default())
    }

    pub fn client(authority: &Authority, name: &str, boot: u64) -> Self {
        capture_logs();
        let credentials = authority.client_credentials(&id(name)).unwrap();
        let transport =
            QuicTransport::bind(loopback(), credentials, QuicConfig::default()).unwrap();
        let client = LocalNode {
            versions: funk::versions::VersionRange::SPOKEN,
            kind: funk::transport::PeerKind::Client,
            ..local(CLUSTER, name, boot)
        };
        let incoming = transport.start(client).unwrap();
        Self {
            transport,
            incoming,
            name: id(name),
        }
    }

    pub fn with(
        credentials: Credentials,
        name: &str,
        boot: u64,
        cluster: &str,
        config: QuicConfig,
    ) -> Self {
        Self::at(loopback(), credentials, name, boot, cluster, config)
    }

    pub fn at(
        addr: SocketAddr,
        credentials: Credentials,
        name: &str,
        boot: u64,
        cluster: &str,
        config: QuicConfig,
    ) -> Self {
        capture_logs();
        let transport = QuicTransport::bind(addr, credentials, config).unwrap();
        let incoming = transport.start(local(cluster, name, boot)).unwrap();
        Self {
            transport,
            incoming,
            name: id(name),
        }
    }

    pub fn addr(&self) -> SocketAddr {
        self.transport.local_addr()
    }

    pub fn to(&self) -> PeerAddr {
        PeerAddr {
            node: Some(self.name.clone()),
            addr: self.addr(),
        }
    }

    pub fn counters(&self) -> TransportCounters {
        self.transport.counters()
    }

    pub async fn open(&self, to: &PeerAddr) -> Result<(Peer, Stream), TransportError> {
        soon(self.transport.open_stream(to)).await
    }

    /// Opens a stream and has one byte pass each way.
    pub async fn exchange(&self, acceptor: &mut Node) -> (Stream, Stream) {
        let (_, mut ours) = self.open(&acceptor.to()).await.unwrap();
        let (_, mut theirs) = soon(async {
            ours.send.write_all(b"x").await.unwrap();
            acceptor.stream().await
        })
        .await;
        soon(async {
            theirs.recv.read_exact(&mut [0]).await.unwrap();
            theirs.send.write_all(b"y").await.unwrap();
            ours.recv.read_exact(&mut [0]).await.unwrap();
        })
        .await;
        (ours, theirs)
    }

    pub async fn stream(&mut self) -> (Peer, Stream) {
        loop {
            match soon(self.incoming.recv()).await.unwrap() {
                Incoming::Stream { from, stream } => return (from, stream),
                Incoming::Datagram { .. } | Incoming::Superseded { .. } => {}
            }
        }
    }

    pub async fn datagram(&mut self) -> (Peer, Bytes) {
        loop {
            match soon(self.incoming.recv()).await.unwrap() {
                Incoming::Datagram { from, payload } => return (from, payload),
                Incoming::Stream { .. } | Incoming::Superseded { .. } => {}
            }
        }
    }
}

pub fn local(cluster: &str, name: &str, boot: u64) -> LocalNode {
    LocalNode {
        versions: funk::versions::VersionRange::SPOKEN,
        kind: funk::transport::PeerKind::Node,
        cluster: ClusterName::new(cluster).unwrap(),
        instance: Instance {
            node: id(name),
            boot: BootId(boot),
        },
    }
}

pub fn refusal(result: Result<(Peer, Stream), TransportError>) -> String {
    match result {
        Err(TransportError::Refused { reason, .. }) => reason,
        Err(other) => panic!("not refused but: {other}"),
        Ok((peer, _)) => panic!("connected to {peer:?}"),
    }
}

/// A hello as specified, written without the crate's own code.
pub fn hello(cluster: &str, name: &str, boot: u64, dial: u64) -> Vec<u8> {
    let mut body = vec![cluster.len() as u8];
    body.extend_from_slice(cluster.as_bytes());
    body.push(name.len() as u8);
    body.extend_from_slice(name.as_bytes());
    body.extend_from_slice(&boot.to_be_bytes());
    body.extend_from_slice(&dial.to_be_bytes());
    body.extend([VersionRange::SPOKEN.oldest, VersionRange::SPOKEN.newest]);
    let mut frame = (body.len() as u16).to_be_bytes().to_vec();
    frame.append(&mut body);
    frame
}

/// A peer of bare quinn that believes everybody.
pub struct Raw {
    pub endpoint: quinn::Endpoint,
    client: quinn::ClientConfig,
}

/// How a [`Raw`] peer behaves.
pub struct Behaviour {
    pub alpn: &'static [u8],
    pub datagrams: bool,
    pub mtu: u16,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            alpn: b"funk/1",
            datagrams: true,
            mtu: 1_200,
        }
    }
}

impl Raw {
    pub fn new(certificate: Option<&Issued>, behaviour: Behaviour) -> Self {
        capture_logs();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut transport = quinn::TransportConfig::default();
        transport.initial_mtu(behaviour.mtu);
        if !behaviour.datagrams {
            transport.datagram_receive_buffer_size(None);
        }
        let transport = Arc::new(transport);
        let identity = certificate.map(|issued| {
            let chain = CertificateDer::from_pem_slice(issued.certificate_pem.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
            (vec![chain], key)
        });
        let tls = rustls::ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Gullible));
        let mut tls = match &identity {
            Some((chain, key)) => tls
                .with_client_auth_cert(chain.clone(), key.clone_key())
                .unwrap(),
            None => tls.with_no_client_auth(),
        };
        tls.alpn_protocols = vec![behaviour.alpn.to_vec()];
        let tls = QuicClientConfig::try_from(tls).unwrap();
        let mut client = quinn::ClientConfig::new(Arc::new(tls));
        client.transport_config(transport.clone());
        let server = identity.map(|(chain, key)| {
            let mut tls = rustls::ServerConfig::builder_with_provider(provider)
                .with_protocol_versions(&[&rustls::version::TLS13])
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(chain, key)
                .unwrap();
            tls.alpn_protocols = vec![behaviour.alpn.to_vec()];
            let tls = QuicServerConfig::try_from(tls).unwrap();
            let mut server = quinn::ServerConfig::with_crypto(Arc::new(tls));
            server.transport_config(transport);
            server
        });
        let endpoint = quinn::Endpoint::new(
            quinn::EndpointConfig::default(),
            server,
            std::net::UdpSocket::bind(loopback()).unwrap(),
            Arc::new(quinn::TokioRuntime),
        )
        .unwrap();
        Self { endpoint, client }
    }

    pub fn to(&self, name: &str) -> PeerAddr {
        PeerAddr {
            node: Some(id(name)),
            addr: self.endpoint.local_addr().unwrap(),
        }
    }

    pub async fn dial(&self, to: SocketAddr) -> Result<quinn::Connection, quinn::ConnectionError> {
        let dial = self
            .endpoint
            .connect_with(self.client.clone(), to, "x.node");
        soon(dial.unwrap()).await
    }

    /// Dials, sends the bytes on the first stream, and tells how the peer closed the connection.
    pub async fn rejected(&self, to: SocketAddr, first_bytes: &[u8]) -> String {
        match self.dial(to).await {
            Err(error) => error.to_string(),
            Ok(connection) => {
                let (mut send, _recv) = connection.open_bi().await.unwrap();
                let _ = send.write_all(first_bytes).await;
                soon(connection.closed()).await.to_string()
            }
        }
    }

    /// Dials and introduces itself properly.
    pub async fn join(&self, to: SocketAddr, name: &str) -> quinn::Connection {
        let connection = self.dial(to).await.unwrap();
        let (mut send, mut recv) = connection.open_bi().await.unwrap();
        send.write_all(&hello(CLUSTER, name, 1, 1)).await.unwrap();
        let answer = soon(recv.read_chunk(usize::MAX, true)).await.unwrap();
        assert!(answer.is_some(), "no answer to the introduction");
        connection
    }

    /// Has the node dial this peer, and tells why it did not like it.
    pub async fn refused_by(&self, node: &Node, name: &str) -> String {
        let accept = async { soon(self.endpoint.accept()).await.unwrap().await };
        let to = self.to(name);
        let (opened, _accepted) = tokio::join!(node.open(&to), accept);
        refusal(opened)
    }

    /// Accepts one connection and answers its introduction with the bytes given.
    pub async fn accept(&self, answer: &[u8]) -> quinn::Connection {
        let connection = soon(self.endpoint.accept()).await.unwrap().await.unwrap();
        let (mut send, mut recv) = soon(connection.accept_bi()).await.unwrap();
        soon(recv.read_chunk(usize::MAX, true)).await.unwrap();
        let _ = send.write_all(answer).await;
        let _ = send.finish();
        connection
    }
}

/// A certificate of the authority that was good once.
pub fn expired(authority: &Authority, name: &str) -> Issued {
    authority
        .issue(
            &PeerName::Node(id(name)),
            Validity::days((2001, 1, 1), (2002, 1, 1)),
        )
        .unwrap()
}

#[derive(Debug)]
struct Gullible;

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

static LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn log() -> std::sync::MutexGuard<'static, Vec<String>> {
    LOG.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for a warning that holds all the texts. Tests of one file share the log: one text should be an address or name
/// of the test's own.
#[track_caller]
pub fn warned(texts: &[&str]) -> impl Future<Output = ()> {
    let found = move || {
        let log = log();
        log.iter()
            .any(|line| texts.iter().all(|text| line.contains(text)))
    };
    let caller = std::panic::Location::caller();
    async move {
        let waiting = async {
            while !found() {
                Environment::current().sleep(Duration::from_millis(2)).await;
            }
        };
        if Environment::current()
            .timeout(HANG, waiting)
            .await
            .is_none()
        {
            panic!("{caller}: no warning with {texts:?} in {:#?}", *log());
        }
    }
}

fn capture_logs() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let _ = tracing::subscriber::set_global_default(Capture);
    });
}

struct Capture;

impl tracing::Subscriber for Capture {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN && metadata.target().starts_with("funk_quic")
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        struct Fields(String);
        impl tracing::field::Visit for Fields {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                let _ = write!(self.0, "{}={value:?} ", field.name());
            }
        }
        let mut fields = Fields(String::new());
        event.record(&mut fields);
        log().push(fields.0);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

/// Where a peer is reached that has sent something.
pub fn back_to(peer: &Peer) -> PeerAddr {
    PeerAddr {
        node: Some(peer.instance.node.clone()),
        addr: peer.addr,
    }
}
