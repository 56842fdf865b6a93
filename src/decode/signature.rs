//! Header `vw-sig`: `kid:base64url(HMAC-SHA256(gateway key, value))`, so that nobody can publish in
//! a gateway's name.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::reason::Reason;
use crate::event::{Kid, SmolStr};

/// The header's name.
pub const HEADER: &str = "vw-sig";

/// A key with which one gateway signs.
pub struct GatewayKey {
    /// The gateway it speaks for; any, where absent.
    pub gateway: Option<SmolStr>,
    /// The secret.
    pub secret: Zeroizing<Vec<u8>>,
}

/// The keys that may sign, and whether each record must be signed.
#[derive(Default)]
pub struct Signatures {
    /// Keys by id.
    pub keys: BTreeMap<Kid, GatewayKey>,
    /// Whether an unsigned record is refused.
    pub required: bool,
}

impl Signatures {
    /// Checks a record's header. Returns the gateway that the key speaks for, if it is bound to one.
    pub fn check(
        &self,
        headers: &[(&str, &[u8])],
        value: &[u8],
    ) -> Result<Option<&SmolStr>, Reason> {
        if self.keys.is_empty() && !self.required {
            return Ok(None);
        }
        let mut found = headers
            .iter()
            .take(super::MAX_HEADERS)
            .filter(|(n, _)| n.eq_ignore_ascii_case(HEADER));
        let Some((_, header)) = found.next() else {
            return if self.required {
                Err(Reason::BadSignature)
            } else {
                Ok(None)
            };
        };
        if found.next().is_some() {
            return Err(Reason::BadSignature);
        }
        let parsed = std::str::from_utf8(header)
            .ok()
            .and_then(|s| s.split_once(':'))
            .and_then(|(kid, sig)| Some((Kid::parse(kid)?, sig)));
        let Some((kid, sig)) = parsed else {
            return Err(Reason::BadSignature);
        };
        let Some(key) = self.keys.get(&kid) else {
            return if self.required {
                Err(Reason::UnknownKey)
            } else {
                Ok(None)
            };
        };
        let mut tag = [0u8; 48];
        let n = URL_SAFE_NO_PAD
            .decode_slice(sig.trim_end_matches('='), &mut tag)
            .map_err(|_| Reason::BadSignature)?;
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&key.secret).map_err(|_| Reason::BadSignature)?;
        mac.update(value);
        mac.verify_slice(&tag[..n])
            .map_err(|_| Reason::BadSignature)?;
        Ok(key.gateway.as_ref())
    }
}

/// The header's value for a record, as a gateway makes it.
pub fn sign(kid: Kid, secret: &[u8], value: &[u8]) -> String {
    let tag = Hmac::<Sha256>::new_from_slice(secret)
        .map(|m| m.chain_update(value).finalize().into_bytes())
        .unwrap_or_default();
    format!("{kid}:{}", URL_SAFE_NO_PAD.encode(tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(required: bool) -> Signatures {
        let key = GatewayKey {
            gateway: Some("gw".into()),
            secret: Zeroizing::new(b"s3cret".to_vec()),
        };
        Signatures {
            keys: [(Kid::parse("g1").expect("kid"), key)].into(),
            required,
        }
    }

    #[test]
    fn signed_records_pass_and_changed_ones_do_not() {
        let sig = sign(Kid::parse("g1").expect("kid"), b"s3cret", b"value");
        let h: &[(&str, &[u8])] = &[("vw-sig", sig.as_bytes())];
        assert_eq!(ring(true).check(h, b"value"), Ok(Some(&"gw".into())));
        assert_eq!(ring(false).check(h, b"valuf"), Err(Reason::BadSignature));
        let twice = [h[0], h[0]];
        assert_eq!(
            ring(false).check(&twice, b"value"),
            Err(Reason::BadSignature)
        );
    }

    #[test]
    fn absent_and_unknown() {
        let other = sign(Kid::parse("g2").expect("kid"), b"s3cret", b"value");
        let h: &[(&str, &[u8])] = &[("vw-sig", other.as_bytes())];
        assert_eq!(ring(true).check(&[], b"v"), Err(Reason::BadSignature));
        assert_eq!(ring(false).check(&[], b"v"), Ok(None));
        assert_eq!(ring(true).check(h, b"value"), Err(Reason::UnknownKey));
        assert_eq!(ring(false).check(h, b"value"), Ok(None));
        for bad in [&b"g1:"[..], b"g1", b"\xff", b"g1:!!!!", b"g1:AAAA"] {
            assert_eq!(
                ring(false).check(&[("vw-sig", bad)], b"v"),
                Err(Reason::BadSignature)
            );
        }
        let long = format!("g1:{}", "A".repeat(4000));
        assert_eq!(
            ring(false).check(&[("vw-sig", long.as_bytes())], b"v"),
            Err(Reason::BadSignature)
        );
    }
}
