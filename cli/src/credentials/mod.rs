//! What a node or client proves its name with: files of `--tls DIR`, or a certificate for this machine only.

mod dev_authority;
pub(crate) mod files;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use funk::NodeId;
use funk_quic::{Credentials, PeerName};

use crate::failure::Failure;
use files::Layout;

/// An address that somebody gave, and with which argument.
pub(crate) type Named<'a> = (&'a str, SocketAddr);

/// The credentials of a node or client that uses these addresses.
pub(crate) fn load(
    name: &PeerName,
    tls: Option<&PathBuf>,
    addresses: &[Named<'_>],
) -> Result<Credentials, Failure> {
    match tls {
        Some(dir) => from_files(name, dir),
        None => for_this_machine(name, addresses),
    }
}

fn from_files(name: &PeerName, dir: &Path) -> Result<Credentials, Failure> {
    let layout = Layout::new(dir);
    let (certificate, key) = layout.issued(name.name());
    let next = match name {
        PeerName::Node(name) => format!("funk ca issue DIR {name}"),
        PeerName::Client(name) => format!("funk ca issue DIR {name} --client"),
    };
    let authority = layout.authority();
    let missing = [&authority, &certificate, &key]
        .into_iter()
        .find(|path| !path.exists());
    if let Some(missing) = missing {
        return Err(Failure::error(format!(
            "--tls {}: {} is not there; issue it with `{next}` where the authority is (DIR), and copy ca.pem, \
             {name}.pem and {name}.key here",
            dir.display(),
            missing.display(),
            name = name.name(),
        )));
    }
    files::check_secret(&key)?;
    let credentials = Credentials::from_pem_files(&authority, &certificate, &key)
        .map_err(|error| Failure::error(format!("--tls {}: {error}", dir.display())))?;
    if credentials.name() != name {
        return Err(Failure::error(format!(
            "--tls {}: {} is the certificate of {}, but {name} is needed; issue one with `{next}`",
            dir.display(),
            certificate.display(),
            credentials.name(),
        )));
    }
    Ok(credentials)
}

fn for_this_machine(name: &PeerName, addresses: &[Named<'_>]) -> Result<Credentials, Failure> {
    let elsewhere = |(_, addr): &&Named<'_>| !addr.ip().to_canonical().is_loopback();
    if let Some((argument, addr)) = addresses.iter().find(elsewhere) {
        let client = matches!(name, PeerName::Client(_));
        return Err(Failure::bad_arguments(format!(
            "{argument} {addr} is not a loopback address, and without --tls there are only certificates for this \
             machine: make an authority with `funk ca init DIR`, a certificate with `funk ca issue DIR {}{}`, and \
             pass `--tls DIR`",
            name.name(),
            if client { " --client" } else { "" },
        )));
    }
    let authority = dev_authority::open()?;
    let credentials = match name {
        PeerName::Node(name) => authority.node_credentials(name),
        PeerName::Client(name) => authority.client_credentials(name),
    };
    credentials.map_err(Failure::error)
}

/// How a node is called in a certificate.
pub(crate) fn node(name: &NodeId) -> PeerName {
    PeerName::Node(name.clone())
}

/// How a client is called in a certificate.
pub(crate) fn client(name: &NodeId) -> PeerName {
    PeerName::Client(name.clone())
}
