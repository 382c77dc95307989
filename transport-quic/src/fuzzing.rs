//! What fuzz targets reach into: decoders of what peers send that nothing outside this crate has a use for.
//!
//! Not covered by semantic versioning.

use rustls::pki_types::CertificateDer;

use crate::hello::{Hello, MAX_HELLO_BYTES};
use crate::names::{NameMapping, PeerName, name_in_certificate};

/// The one peer that a certificate (DER) stands for, or what is wrong with it in words.
pub fn peer_name(certificate: &[u8], mapping: &dyn NameMapping) -> Result<PeerName, String> {
    name_in_certificate(&CertificateDer::from(certificate), mapping)
}

/// Reads an introduction, its length excluded, and writes it again; `None` if it is none.
pub fn reencode_hello(body: &[u8]) -> Option<Vec<u8>> {
    // A longer one is refused by its length.
    let body = body.get(..MAX_HELLO_BYTES).unwrap_or(body);
    let hello = Hello::decode(body).ok()?;
    Some(hello.encode().split_off(2))
}
