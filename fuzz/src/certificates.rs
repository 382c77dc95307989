//! Who a peer says it is: names in its certificate, and its introduction on a new connection.

use funk_quic::{DnsSuffixes, fuzzing};

use crate::allocation::Bound;

/// The parser copies little of a certificate: lists of extensions, names and their parts. An error says in words what
/// is wrong.
const CERTIFICATE: Bound = Bound::linear(8 << 10, 256);
/// Two names, and on the way back two vectors.
const HELLO: Bound = Bound::linear(2 << 10, 4);

/// The names in a certificate (DER). Whoever can reach the port can send one: it is read before it is believed.
pub fn names(bytes: &[u8]) {
    let mapping = DnsSuffixes::default();
    let peer_name = || fuzzing::peer_name(bytes, &mapping);
    if let Ok(name) = CERTIFICATE.hold(bytes.len(), peer_name) {
        let dns_name = mapping.dns_name(&name);
        assert_eq!(
            funk_quic::NameMapping::peer_name(&mapping, &dns_name),
            Some(name)
        );
    }
}

/// The introduction on a new connection.
pub fn hello(bytes: &[u8]) {
    let reencode = || fuzzing::reencode_hello(bytes);
    if let Some(again) = HELLO.hold(bytes.len(), reencode) {
        assert_eq!(fuzzing::reencode_hello(&again).as_ref(), Some(&again));
        assert!(bytes.starts_with(&again), "a hello has one spelling");
    }
}
