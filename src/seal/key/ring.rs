//! The key ring: the lines of a key file, and which key serves which purpose.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::{DEVELOPMENT_SECRET, Domain, Key, Purpose};
use crate::event::{Kid, Pseudonym, SmolStr};
use crate::seal::canonical;

/// Most lines of keys in a file: a bound on what each value is hashed under.
pub const MAX_KEYS: usize = 64;

/// Why a key file was refused. Names lines, never their content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyFileError {
    /// A line has not two or three columns.
    #[error("key file line {0}: expected `kid base64(32 bytes) [purpose]`")]
    Columns(usize),
    /// The key id is not one.
    #[error("key file line {0}: a key id has 2 to 16 characters of [a-z0-9]")]
    Kid(usize),
    /// The secret is not 32 bytes of base64.
    #[error(
        "key file line {0}: the key must be 32 bytes in base64; make one with `veilwatch key new`"
    )]
    Secret(usize),
    /// The purpose is unknown.
    #[error(
        "key file line {0}: the purpose is `identity`, `identity:TENANT` or `content`, or absent for identity and content"
    )]
    Purpose(usize),
    /// One id for two keys, or one key twice for one purpose.
    #[error(
        "key file line {0}: this key id already stands above with another key or for the same purpose"
    )]
    Duplicate(usize),
    /// No key for identities, or none for content.
    #[error("key file holds no key for {0}; make one with `veilwatch key new`")]
    Missing(&'static str),
    /// Too many lines.
    #[error(
        "key file holds more than {MAX_KEYS} keys; destroy the old ones with `veilwatch key destroy`"
    )]
    TooMany,
}

/// A key ring: for each purpose the active key first, then those that overlap.
#[derive(Debug, Clone)]
pub struct Keys {
    all: Vec<Key>,
    identity: Vec<usize>,
    tenants: BTreeMap<SmolStr, Vec<usize>>,
    content: Vec<usize>,
}

impl Keys {
    /// Parses a key file: lines `kid base64(32 bytes) [purpose]`, `#` comments and blank lines.
    pub fn parse(text: &str) -> Result<Self, KeyFileError> {
        let mut all = Vec::new();
        for (i, line) in text.lines().enumerate() {
            let n = i + 1;
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut columns = line.split_whitespace();
            let (Some(kid), Some(secret), purpose, None) = (
                columns.next(),
                columns.next(),
                columns.next(),
                columns.next(),
            ) else {
                return Err(KeyFileError::Columns(n));
            };
            let kid = Kid::parse(kid).ok_or(KeyFileError::Kid(n))?;
            let bytes = STANDARD.decode(secret).map(Zeroizing::new);
            let secret = bytes
                .ok()
                .and_then(|b| <[u8; 32]>::try_from(b.as_slice()).ok())
                .ok_or(KeyFileError::Secret(n))?;
            let purpose = match purpose {
                None => Purpose::All,
                Some(p) => Purpose::parse(p).ok_or(KeyFileError::Purpose(n))?,
            };
            let key = Key::new(kid, secret, purpose);
            let clash = all.iter().any(|k: &Key| {
                k.kid == key.kid && (*k.secret != *key.secret || k.purpose == key.purpose)
            });
            if clash {
                return Err(KeyFileError::Duplicate(n));
            }
            if all.len() == MAX_KEYS {
                return Err(KeyFileError::TooMany);
            }
            all.push(key);
        }
        Self::new(all)
    }

    /// A ring from keys, the active one of each purpose first.
    pub fn new(all: Vec<Key>) -> Result<Self, KeyFileError> {
        let pick = |f: &dyn Fn(&Purpose) -> bool| -> Vec<usize> {
            (0..all.len()).filter(|i| f(&all[*i].purpose)).collect()
        };
        let identity = pick(&Purpose::holds_identity);
        let content = pick(&Purpose::holds_content);
        let mut tenants: BTreeMap<SmolStr, Vec<usize>> = BTreeMap::new();
        for (i, k) in all.iter().enumerate() {
            if let Purpose::Tenant(t) = &k.purpose {
                tenants.entry(t.clone()).or_default().push(i);
            }
        }
        if identity.is_empty() {
            return Err(KeyFileError::Missing("identity"));
        }
        if content.is_empty() {
            return Err(KeyFileError::Missing("content"));
        }
        Ok(Self {
            all,
            identity,
            tenants,
            content,
        })
    }

    /// A ring of one key for everything.
    pub fn single(secret: [u8; 32]) -> Self {
        Self {
            all: vec![Key::derived(secret, Purpose::All)],
            identity: vec![0],
            tenants: BTreeMap::new(),
            content: vec![0],
        }
    }

    /// The published development ring. Whoever uses it must say so: everyone has this key.
    pub fn development() -> Self {
        Self::single(DEVELOPMENT_SECRET)
    }

    /// All keys, in the order of the file.
    pub fn all(&self) -> &[Key] {
        &self.all
    }

    /// Keys for identities of a tenant, the active one first.
    pub fn identity(&self, tenant: Option<&str>) -> impl Iterator<Item = &Key> {
        tenant
            .and_then(|t| self.tenants.get(t))
            .unwrap_or(&self.identity)
            .iter()
            .map(|i| &self.all[*i])
    }

    /// Keys for content, the active one first.
    pub fn content(&self) -> impl Iterator<Item = &Key> {
        self.content.iter().map(|i| &self.all[*i])
    }

    /// The active content key.
    pub fn active_content(&self) -> &Key {
        &self.all[self.content[0]]
    }

    /// Pseudonym of an identity under the active key of its tenant, canonicalised by its domain.
    pub fn pseudonym(&self, domain: Domain, tenant: Option<&str>, value: &str) -> Pseudonym {
        self.pseudonym_with(self.identity_index(tenant, 0), domain, value)
    }

    /// The same under the key that was active before, while it overlaps.
    pub fn previous(&self, domain: Domain, tenant: Option<&str>, value: &str) -> Option<Pseudonym> {
        let ring = tenant
            .and_then(|t| self.tenants.get(t))
            .unwrap_or(&self.identity);
        ring.get(1).map(|i| self.pseudonym_with(*i, domain, value))
    }

    fn identity_index(&self, tenant: Option<&str>, nth: usize) -> usize {
        tenant
            .and_then(|t| self.tenants.get(t))
            .unwrap_or(&self.identity)[nth]
    }

    fn pseudonym_with(&self, index: usize, domain: Domain, value: &str) -> Pseudonym {
        let canonical = canonical::identity(domain, value);
        self.all[index].pseudonym(domain, canonical.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{KID_LETTERS, derive_kid};
    use super::*;

    fn line(kid: &str, byte: u8, purpose: &str) -> String {
        format!("{kid} {} {purpose}\n", STANDARD.encode([byte; 32]))
    }

    #[test]
    fn rings_by_purpose() {
        let text = format!(
            "# two\n{}{}{}{}",
            line("new1", 1, ""),
            line("old1", 2, ""),
            line("acme", 3, "identity:acme"),
            line("cont", 4, "content"),
        );
        let keys = Keys::parse(&text).expect("keys");
        let kids =
            |i: &mut dyn Iterator<Item = &Key>| i.map(|k| k.kid().to_string()).collect::<Vec<_>>();
        assert_eq!(kids(&mut keys.identity(None)), ["new1", "old1"]);
        assert_eq!(kids(&mut keys.identity(Some("acme"))), ["acme"]);
        assert_eq!(kids(&mut keys.identity(Some("other"))), ["new1", "old1"]);
        assert_eq!(kids(&mut keys.content()), ["new1", "old1", "cont"]);
        let now = keys.pseudonym(Domain::User, None, "a");
        let old = keys.previous(Domain::User, None, "a").expect("overlap");
        assert_eq!((now.kid.as_str(), old.kid.as_str()), ("new1", "old1"));
    }

    #[test]
    fn errors_name_the_line_and_quote_nothing() {
        let good = line("aa", 1, "");
        let cases = [
            ("onlykid\n".to_owned(), KeyFileError::Columns(2)),
            (
                format!("K! {}\n", STANDARD.encode([1; 32])),
                KeyFileError::Kid(2),
            ),
            ("bb c2hvcnQ=\n".to_owned(), KeyFileError::Secret(2)),
            (line("bb", 1, "everything"), KeyFileError::Purpose(2)),
            (line("aa", 2, ""), KeyFileError::Duplicate(2)),
            (line("aa", 1, ""), KeyFileError::Duplicate(2)),
        ];
        for (bad, expected) in cases {
            let e = Keys::parse(&format!("{good}{bad}")).expect_err("refused");
            assert_eq!(e, expected);
            for word in bad.split_whitespace().filter(|w| w.len() > 8) {
                assert!(!e.to_string().contains(word));
            }
        }
        assert_eq!(
            Keys::parse("").err(),
            Some(KeyFileError::Missing("identity"))
        );
        assert_eq!(
            Keys::parse(&line("aa", 1, "identity")).err(),
            Some(KeyFileError::Missing("content"))
        );
    }

    #[test]
    fn file_line_round_trip_and_derived_kid() {
        let k = Key::derived([7; 32], Purpose::Content);
        assert_eq!(k.kid(), derive_kid(&[7; 32]));
        assert_eq!(k.kid().as_str().len(), KID_LETTERS);
        let text = format!(
            "{}{}",
            *k.line(),
            *Key::derived([8; 32], Purpose::Identity).line()
        );
        let back = Keys::parse(&text).expect("keys");
        assert_eq!(*back.all()[0].secret, [7; 32]);
    }

    #[test]
    fn domains_and_canonical_forms() {
        let keys = Keys::development();
        let p = |d, v| keys.pseudonym(d, None, v);
        assert_ne!(p(Domain::User, "x"), p(Domain::Session, "x"));
        assert_eq!(
            p(Domain::User, " Alice@Example.COM "),
            p(Domain::User, "alice@example.com")
        );
        assert_ne!(p(Domain::User, "Bob"), p(Domain::User, "bob"));
        assert_eq!(
            p(Domain::Net, "2001:DB8::1"),
            p(Domain::Net, "2001:0db8:0:0:ffff::2")
        );
        assert_eq!(
            p(Domain::Args, "{\"b\":1,\"a\":2.0}"),
            p(Domain::Args, "{ \"a\": 2, \"b\": 1 }")
        );
    }
}
