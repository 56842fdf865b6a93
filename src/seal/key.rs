//! Keys: the key file, key ids, pseudonyms. Whoever reads sealed data must not hold these.
//!
//! A pseudonym is `kid:` and the first 16 bytes of HMAC-SHA256(key, domain ‖ 0x00 ‖ canonical value).
//! Parsing is pure; reading the file (and refusing one that others may read) is the command line's.

mod ring;

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::event::{Kid, Pseudonym, SmolStr};

pub use ring::{KeyFileError, Keys, MAX_KEYS};

/// What is hashed to derive a key id from a key.
const KID_MESSAGE: &[u8] = b"veilwatch kid 1";
/// Letters of a derived key id: 40 bits, so that two keys of one deployment hardly share one.
const KID_LETTERS: usize = 8;
const DIGEST_CONTEXT: &str = "veilwatch digest 1";
const PRINTS_CONTEXT: &str = "veilwatch prints 1";

/// The published key for development, demos and `replay` without a key file. Not a secret.
pub const DEVELOPMENT_SECRET: [u8; 32] = *b"veilwatch development key, known";

/// What a value is; equal values of two domains have unrelated pseudonyms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Domain {
    /// Who asked.
    User,
    /// An API key.
    Key,
    /// A conversation.
    Session,
    /// A network.
    Net,
    /// Arguments of a tool call.
    Args,
    /// A source of context.
    Source,
    /// A name or id that does not fit its field as it is.
    Name,
    /// A value found in a text: `type ‖ 0x00 ‖ value without separators`.
    Value,
}

impl Domain {
    /// The name that goes into the hash.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Key => "key",
            Self::Session => "session",
            Self::Net => "net",
            Self::Args => "args",
            Self::Source => "source",
            Self::Name => "name",
            Self::Value => "value",
        }
    }
}

/// What a key is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// Identities of every tenant without a key of its own, and contents.
    All,
    /// Identities of every tenant without a key of its own.
    Identity,
    /// Identities of one tenant.
    Tenant(SmolStr),
    /// Values, digests and prints.
    Content,
}

impl Purpose {
    /// Parses the third column of a key file.
    pub fn parse(s: &str) -> Option<Self> {
        match s {
            "identity" => Some(Self::Identity),
            "content" => Some(Self::Content),
            _ => s
                .strip_prefix("identity:")
                .filter(|t| {
                    (1..=64).contains(&t.len())
                        && t.bytes()
                            .all(|b| b.is_ascii_alphanumeric() || b"._:/-".contains(&b))
                })
                .map(|t| Self::Tenant(t.into())),
        }
    }

    fn holds_identity(&self) -> bool {
        matches!(self, Self::All | Self::Identity)
    }

    fn holds_content(&self) -> bool {
        matches!(self, Self::All | Self::Content)
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("identity and content"),
            Self::Identity => f.write_str("identity"),
            Self::Tenant(t) => write!(f, "identity:{t}"),
            Self::Content => f.write_str("content"),
        }
    }
}

/// One key, with what is derived from it. Prints as its id.
#[derive(Clone)]
pub struct Key {
    kid: Kid,
    purpose: Purpose,
    secret: Zeroizing<[u8; 32]>,
    /// HMAC with the key block already absorbed: half the work of a short message.
    mac: Hmac<Sha256>,
    digest: Zeroizing<[u8; 32]>,
    prints: Zeroizing<[u8; 32]>,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({}, {})", self.kid, self.purpose)
    }
}

fn mac_of(secret: &[u8; 32]) -> Hmac<Sha256> {
    // HMAC takes keys of any length, so this cannot fail; the fallback is never reached.
    Hmac::new_from_slice(secret).unwrap_or_else(|_| Hmac::new(&Default::default()))
}

/// The key id that `veilwatch key new` gives a key: the base32 start of
/// HMAC-SHA256(key, "veilwatch kid 1"), so that equal names mean equal keys.
pub fn derive_kid(secret: &[u8; 32]) -> Kid {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mac = mac_of(secret)
        .chain_update(KID_MESSAGE)
        .finalize()
        .into_bytes();
    let bits = mac.iter().take(5).fold(0u64, |n, b| n << 8 | u64::from(*b));
    let name: String = (0..KID_LETTERS)
        .map(|i| {
            let five = (bits >> (35 - 5 * i)) & 31;
            char::from(ALPHABET[usize::try_from(five).unwrap_or_default()])
        })
        .collect();
    Kid::parse(&name).unwrap_or_default()
}

impl Key {
    /// A key under a given id.
    pub fn new(kid: Kid, secret: [u8; 32], purpose: Purpose) -> Self {
        Self {
            kid,
            purpose,
            mac: mac_of(&secret),
            digest: Zeroizing::new(blake3::derive_key(DIGEST_CONTEXT, &secret)),
            prints: Zeroizing::new(blake3::derive_key(PRINTS_CONTEXT, &secret)),
            secret: Zeroizing::new(secret),
        }
    }

    /// A key under its derived id.
    pub fn derived(secret: [u8; 32], purpose: Purpose) -> Self {
        Self::new(derive_kid(&secret), secret, purpose)
    }

    /// The key id.
    pub fn kid(&self) -> Kid {
        self.kid
    }

    /// What it is for.
    pub fn purpose(&self) -> &Purpose {
        &self.purpose
    }

    /// The line of a key file that holds this key.
    pub fn line(&self) -> Zeroizing<String> {
        let secret = Zeroizing::new(STANDARD.encode(*self.secret));
        Zeroizing::new(match &self.purpose {
            Purpose::All => format!("{} {}\n", self.kid, *secret),
            p => format!("{} {} {p}\n", self.kid, *secret),
        })
    }

    /// The key of the audit leaves of trusted sources.
    pub fn audit_leaf_key(&self) -> [u8; 32] {
        crate::seal::digest::derive_audit(&self.secret)
    }

    /// Keyed hash of a canonical value.
    pub fn pseudonym(&self, domain: Domain, canonical: &[u8]) -> Pseudonym {
        self.pseudonym_of_parts(domain, &[canonical])
    }

    /// Keyed hash of a canonical value given in parts, which are joined as they are.
    pub fn pseudonym_of_parts(&self, domain: Domain, parts: &[&[u8]]) -> Pseudonym {
        let mut m = self.mac.clone();
        m.update(domain.as_str().as_bytes());
        m.update(&[0]);
        for p in parts {
            m.update(p);
        }
        let full = m.finalize().into_bytes();
        let mut mac = [0; 16];
        mac.copy_from_slice(&full[..16]);
        Pseudonym { kid: self.kid, mac }
    }

    /// Key of text digests.
    pub(super) fn digest_key(&self) -> &[u8; 32] {
        &self.digest
    }

    /// Key of prints.
    pub(super) fn prints_key(&self) -> &[u8; 32] {
        &self.prints
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_prints_no_secret() {
        let k = Key::derived([7; 32], Purpose::All);
        let shown = format!("{k:?}");
        assert!(
            !shown.contains(&STANDARD.encode([7; 32]))
                && !shown.contains('7'.to_string().repeat(4).as_str())
        );
    }
}
