//! Header `vw-sig`: `kid:base64url(HMAC-SHA256(gateway key, value))`, so that nobody can publish in
//! a gateway's name.
//!
//! A gateway that has a key of its own is heard only with a signature, whatever is required of others:
//! else leaving the header out would be the way to speak for it.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
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

/// Who signed a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signer<'a> {
    /// Nobody whose key is known.
    Nobody,
    /// A key that speaks for any gateway.
    Any,
    /// The key of this gateway.
    Gateway(&'a SmolStr),
}

/// The keys that may sign, and whether each record must be signed.
#[derive(Default)]
pub struct Signatures {
    keys: BTreeMap<Kid, GatewayKey>,
    /// Gateways that have a key of their own.
    bound: BTreeSet<SmolStr>,
    required: bool,
}

/// Shortest secret that is taken, bytes: below it a signature can be guessed from one record.
const MIN_SECRET: usize = 16;

impl Signatures {
    /// With these keys; `required`: an unsigned record is refused, whoever it speaks for.
    pub fn new(keys: BTreeMap<Kid, GatewayKey>, required: bool) -> Self {
        let bound = keys.values().filter_map(|k| k.gateway.clone()).collect();
        Self {
            keys,
            bound,
            required,
        }
    }

    /// Reads a key file: a line `KID GATEWAY BASE64` for each key, `*` for any gateway; `#` begins a
    /// comment.
    ///
    /// # Errors
    /// The line and what is wrong with it; never what stands there.
    pub fn parse(text: &str, required: bool) -> Result<Self, String> {
        let mut keys = BTreeMap::new();
        for (n, line) in text.lines().enumerate() {
            let n = n + 1;
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let mut words = line.split_whitespace();
            let (Some(kid), Some(gateway), Some(secret), None) =
                (words.next(), words.next(), words.next(), words.next())
            else {
                return Err(format!("line {n} is not KID GATEWAY BASE64"));
            };
            let Some(kid) = Kid::parse(kid) else {
                return Err(format!("line {n}: the key's id is not one"));
            };
            if gateway != "*" && !super::name::is_name(gateway) {
                return Err(format!("line {n}: the gateway is not a name"));
            }
            let secret = STANDARD
                .decode(secret)
                .map(Zeroizing::new)
                .map_err(|_| format!("line {n}: the secret is not base64"))?;
            if secret.len() < MIN_SECRET {
                return Err(format!(
                    "line {n}: the secret has less than {MIN_SECRET} bytes"
                ));
            }
            let key = GatewayKey {
                gateway: (gateway != "*").then(|| SmolStr::new(gateway)),
                secret,
            };
            if keys.insert(kid, key).is_some() {
                return Err(format!("line {n}: the key's id stands twice"));
            }
        }
        Ok(Self::new(keys, required))
    }

    /// The key that speaks for all gateways, if there is exactly one key and it is that: what the seal job
    /// signs with.
    pub fn into_signing_key(self) -> Option<(Kid, Zeroizing<Vec<u8>>)> {
        let mut keys = self.keys.into_iter();
        match (keys.next(), keys.next()) {
            (Some((kid, key)), None) if key.gateway.is_none() => Some((kid, key.secret)),
            _ => None,
        }
    }

    /// Whether a record signed so may speak for a gateway: one with a key of its own is heard only
    /// with that key, or with one that speaks for all.
    pub fn speaks_for(&self, signer: Signer<'_>, gateway: &str) -> bool {
        match signer {
            Signer::Nobody => !self.bound.contains(gateway),
            Signer::Any => true,
            Signer::Gateway(own) => own == gateway,
        }
    }

    /// Whether a record that nobody signed may speak for a gateway.
    pub fn hears_unsigned(&self, gateway: &str) -> bool {
        !self.required && self.speaks_for(Signer::Nobody, gateway)
    }

    /// Checks a record's header.
    ///
    /// # Errors
    /// A signature that does not fit, or none where each record must have one.
    pub fn check(&self, headers: &[(&str, &[u8])], value: &[u8]) -> Result<Signer<'_>, Reason> {
        if self.keys.is_empty() && !self.required {
            return Ok(Signer::Nobody);
        }
        let mut found = headers
            .iter()
            .take(super::MAX_HEADERS)
            .filter(|(n, _)| n.eq_ignore_ascii_case(HEADER));
        let Some((_, header)) = found.next() else {
            return if self.required {
                Err(Reason::BadSignature)
            } else {
                Ok(Signer::Nobody)
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
                Ok(Signer::Nobody)
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
        Ok(key.gateway.as_ref().map_or(Signer::Any, Signer::Gateway))
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
        let any = GatewayKey {
            gateway: None,
            secret: Zeroizing::new(b"f0r all".to_vec()),
        };
        let kid = |s| Kid::parse(s).expect("kid");
        Signatures::new([(kid("g1"), key), (kid("any"), any)].into(), required)
    }

    /// Whether a record of a gateway is taken with this header.
    fn taken(gateway: &str, signature: Option<&str>) -> bool {
        let value = b"value";
        let header = signature.map(|s| (HEADER, s.as_bytes()));
        let ring = ring(false);
        ring.check(header.as_slice(), value)
            .is_ok_and(|signer| ring.speaks_for(signer, gateway))
    }

    #[test]
    fn a_gateway_with_a_key_is_not_heard_without_it() {
        let kid = |s| Kid::parse(s).expect("kid");
        let own = sign(kid("g1"), b"s3cret", b"value");
        let any = sign(kid("any"), b"f0r all", b"value");
        let unknown = sign(kid("zz"), b"s3cret", b"value");
        assert!(taken("gw", Some(&own)) && taken("gw", Some(&any)));
        assert!(!taken("gw", None), "the header was left out");
        assert!(!taken("gw", Some(&unknown)), "a key that nobody knows");
        assert!(!taken("gw", Some("zz:AAAA")));
        // Who cannot sign yet is heard as before, and speaks for nobody else.
        assert!(taken("other", None) && taken("other", Some(&unknown)));
        assert!(!taken("other", Some(&own)));
        assert!(taken("other", Some(&any)));
    }

    #[test]
    fn signed_records_pass_and_changed_ones_do_not() {
        let sig = sign(Kid::parse("g1").expect("kid"), b"s3cret", b"value");
        let h: &[(&str, &[u8])] = &[("vw-sig", sig.as_bytes())];
        assert_eq!(
            ring(true).check(h, b"value"),
            Ok(Signer::Gateway(&"gw".into()))
        );
        assert_eq!(ring(false).check(h, b"valuf"), Err(Reason::BadSignature));
        let twice = [h[0], h[0]];
        assert_eq!(
            ring(false).check(&twice, b"value"),
            Err(Reason::BadSignature)
        );
    }

    #[test]
    fn key_files_are_read_and_mistakes_are_told_by_line_only() {
        let secret = STANDARD.encode([7; 32]);
        let text = format!("# gateways\ng1 gw {secret}\n\ng2 * {secret}  # any\n");
        let s = Signatures::parse(&text, true).expect("keys");
        let gateways: Vec<_> = s.keys.values().map(|k| k.gateway.as_deref()).collect();
        assert_eq!(gateways, [Some("gw"), None]);
        for (bad, says) in [
            (format!("g1 {secret}"), "line 1 is not KID GATEWAY BASE64"),
            (
                format!("\nG! gw {secret}"),
                "line 2: the key's id is not one",
            ),
            ("g1 gw c2hvcnQ=".to_owned(), "less than 16 bytes"),
            (
                format!("g1 gw {secret}\ng1 gw {secret}"),
                "line 2: the key's id stands twice",
            ),
        ] {
            let error = Signatures::parse(&bad, false).err().expect("refused");
            assert!(error.contains(says) && !error.contains(&secret), "{error}");
        }
    }

    #[test]
    fn absent_and_unknown() {
        let other = sign(Kid::parse("g2").expect("kid"), b"s3cret", b"value");
        let h: &[(&str, &[u8])] = &[("vw-sig", other.as_bytes())];
        assert_eq!(ring(true).check(&[], b"v"), Err(Reason::BadSignature));
        assert_eq!(ring(false).check(&[], b"v"), Ok(Signer::Nobody));
        assert_eq!(ring(true).check(h, b"value"), Err(Reason::UnknownKey));
        assert_eq!(ring(false).check(h, b"value"), Ok(Signer::Nobody));
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
