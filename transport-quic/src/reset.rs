//! Keys that outlive a run: a restarted node tells its peers that it knows nothing of their connections.
//!
//! A node that lost power leaves its peers with connections that nobody answers. When their next packet reaches
//! the restarted node, it must be able to say so credibly (a stateless reset, RFC 9000, 10.3) and to
//! recognise the connection id as one of its own. Both keys are derived from the private key.

use std::sync::Arc;

use quinn::crypto::{CryptoError, HmacKey};
use rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::crypto::tls13::{Hkdf, OkmBlock};

use crate::credentials::Credentials;
use crate::strays::Strays;

/// Bytes in an HMAC-SHA-256.
const SIGNATURE_BYTES: usize = 32;
/// Pause between two resets: shorter than quinn's, because all peers of a restarted node come at once.
const MIN_RESET_INTERVAL: std::time::Duration = std::time::Duration::from_millis(2);

struct Hmac {
    hkdf: &'static dyn Hkdf,
    key: OkmBlock,
}

impl Hmac {
    fn derived(credentials: &Credentials, purpose: &[u8]) -> Self {
        let suite = TLS13_AES_128_GCM_SHA256.tls13();
        let hkdf = suite
            .map(|suite| suite.hkdf_provider)
            .expect("a suite of TLS 1.3");
        let secret = hkdf.hmac_sign(&OkmBlock::new(purpose), credentials.key.secret_der());
        Self {
            hkdf,
            key: OkmBlock::new(secret.as_ref()),
        }
    }

    fn of(&self, data: &[u8]) -> [u8; SIGNATURE_BYTES] {
        let mut signature = [0; SIGNATURE_BYTES];
        signature.copy_from_slice(self.hkdf.hmac_sign(&self.key, data).as_ref());
        signature
    }
}

impl HmacKey for Hmac {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        signature_out.copy_from_slice(&self.of(data));
    }

    fn signature_len(&self) -> usize {
        SIGNATURE_BYTES
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let expected = self.of(data);
        let differing = expected
            .iter()
            .zip(signature)
            .fold(expected.len() ^ signature.len(), |sum, (a, b)| {
                sum | usize::from(a ^ b)
            });
        if differing == 0 {
            Ok(())
        } else {
            Err(CryptoError)
        }
    }
}

/// A configuration whose resets are believed by the peers of earlier runs with the same credentials.
pub(crate) fn endpoint_config(
    credentials: &Credentials,
    strays: &Arc<Strays>,
) -> quinn::EndpointConfig {
    let strays = strays.clone();
    let name = credentials.name().to_string();
    let ids = Hmac::derived(credentials, b"funk connection ids 1").of(name.as_bytes());
    let ids = u64::from_le_bytes(ids[..8].try_into().unwrap_or_default());
    let mut config = quinn::EndpointConfig::new(Arc::new(Hmac::derived(
        credentials,
        b"funk stateless reset 1",
    )));
    config
        .cid_generator(move || strays.ids(ids))
        .min_reset_interval(MIN_RESET_INTERVAL);
    config
}

#[cfg(test)]
mod tests {
    use funk::ids::NodeId;

    use super::*;
    use crate::Authority;

    #[test]
    fn keys_follow_from_the_credentials_and_the_purpose() {
        let authority = Authority::new().unwrap();
        let n1 = NodeId::new("n1").unwrap();
        let credentials = authority.node_credentials(&n1).unwrap();
        let other = authority.node_credentials(&n1).unwrap();
        let key = Hmac::derived(&credentials, b"a");
        assert_eq!(key.of(b"x"), Hmac::derived(&credentials, b"a").of(b"x"));
        assert_ne!(key.of(b"x"), Hmac::derived(&credentials, b"b").of(b"x"));
        assert_ne!(key.of(b"x"), Hmac::derived(&other, b"a").of(b"x"));
        let mut signature = key.of(b"x");
        assert!(key.verify(b"x", &signature).is_ok());
        assert!(key.verify(b"x", &signature[..31]).is_err());
        signature[31] ^= 1;
        assert!(key.verify(b"x", &signature).is_err());
    }
}
