//! Keyed BLAKE3 of whole texts, and the derivation of the audit leaf key.

use super::key::Key;
use crate::event::Pseudonym;

const AUDIT_CONTEXT: &str = "veilwatch audit leaf 1";

/// Digest of a normalised text: 16 bytes of keyed BLAKE3 under the key's digest key.
pub fn digest(key: &Key, normalised: &str) -> Pseudonym {
    let full = blake3::keyed_hash(key.digest_key(), normalised.as_bytes());
    let mut mac = [0; 16];
    mac.copy_from_slice(&full.as_bytes()[..16]);
    Pseudonym {
        kid: key.kid(),
        mac,
    }
}

/// Key of the audit leaves of trusted sources, derived from a seal key.
pub(super) fn derive_audit(secret: &[u8; 32]) -> [u8; 32] {
    blake3::derive_key(AUDIT_CONTEXT, secret)
}

#[cfg(test)]
mod tests {
    use super::super::key::{Keys, Purpose};
    use super::*;

    #[test]
    fn keyed_and_separated() {
        let a = Key::derived([1; 32], Purpose::All);
        let b = Key::derived([2; 32], Purpose::All);
        assert_eq!(digest(&a, "x"), digest(&a, "x"));
        assert_ne!(digest(&a, "x").mac, digest(&b, "x").mac);
        assert_ne!(digest(&a, "x"), digest(&a, "y"));
        let dev = Keys::development();
        assert_ne!(
            digest(dev.active_content(), "x").mac[..],
            blake3::hash(b"x").as_bytes()[..16]
        );
    }
}
