//! Pseudonyms: `kid:` + 22 characters of base64url, the only form in which identities, digests and
//! values enter the program.
//!
//! Held decoded (33 bytes, `Copy`) so that maps stay small and comparison is cheap. Two pseudonyms
//! are comparable only under one key id and one domain; the type keeps the first, the caller the
//! second.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Characters of base64url that 16 bytes take.
const MAC_CHARS: usize = 22;

/// A key id: 2–16 characters of `[a-z0-9]`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Kid([u8; 16]);

impl Kid {
    /// Parses a key id.
    pub fn parse(s: &str) -> Option<Self> {
        let b = s.as_bytes();
        if !(2..=16).contains(&b.len())
            || !b
                .iter()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
        {
            return None;
        }
        let mut out = [0; 16];
        out[..b.len()].copy_from_slice(b);
        Some(Self(out))
    }
    /// The id as text; empty for the default value.
    pub fn as_str(&self) -> &str {
        let len = self.0.iter().position(|b| *b == 0).unwrap_or(16);
        std::str::from_utf8(&self.0[..len]).unwrap_or_default()
    }
}

impl fmt::Display for Kid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
impl fmt::Debug for Kid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A keyed hash with the id of its key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pseudonym {
    /// Which key made it.
    pub kid: Kid,
    /// The first 16 bytes of the keyed hash.
    pub mac: [u8; 16],
}

/// All of it: whoever writes records chooses both halves. Written as words, since tables of users are looked
/// up several times for every event.
impl std::hash::Hash for Pseudonym {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        for bytes in [&self.mac, &self.kid.0] {
            let (halves, _) = bytes.as_chunks::<8>();
            for half in halves {
                state.write_u64(u64::from_le_bytes(*half));
            }
        }
    }
}

impl fmt::Display for Pseudonym {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut buf = [0u8; MAC_CHARS];
        let n = URL_SAFE_NO_PAD
            .encode_slice(self.mac, &mut buf)
            .unwrap_or(0);
        write!(
            f,
            "{}:{}",
            self.kid,
            std::str::from_utf8(&buf[..n]).unwrap_or_default()
        )
    }
}
impl fmt::Debug for Pseudonym {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Marks a byte that is not of base64url.
const INVALID: u8 = 0x80;

/// Values of the base64url alphabet.
static SIXTY_FOUR: [u8; 256] = {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut t = [INVALID; 256];
    let mut i = 0u8;
    while i < 64 {
        t[alphabet[i as usize] as usize] = i;
        i += 1;
    }
    t
};

/// A string that is not a pseudonym. Carries nothing of the string: it may be an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a pseudonym: `kid:` and 22 characters of base64url are expected")]
pub struct NotAPseudonym;

impl FromStr for Pseudonym {
    type Err = NotAPseudonym;
    fn from_str(s: &str) -> Result<Self, NotAPseudonym> {
        // On the path of every event, several times: a hand-written base64url of exactly 22
        // characters costs a third of the general one.
        let b = s.as_bytes();
        let at = b.len().checked_sub(MAC_CHARS + 1).ok_or(NotAPseudonym)?;
        if b[at] != b':' {
            return Err(NotAPseudonym);
        }
        let kid = s.get(..at).and_then(Kid::parse).ok_or(NotAPseudonym)?;
        let (mut bits, mut bad) = (0u128, 0u8);
        for c in &b[at + 1..b.len() - 1] {
            let v = SIXTY_FOUR[usize::from(*c)];
            bad |= v;
            bits = bits << 6 | u128::from(v);
        }
        // 22 characters hold 132 bits: the last four must be zero, or two spellings meant one value.
        let last = SIXTY_FOUR[usize::from(b[b.len() - 1])];
        if (bad | last) & INVALID != 0 || last & 0x0f != 0 {
            return Err(NotAPseudonym);
        }
        let mac = (bits << 2 | u128::from(last >> 4)).to_be_bytes();
        Ok(Self { kid, mac })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let p = Pseudonym {
            kid: Kid::parse("k7").expect("kid"),
            mac: [7; 16],
        };
        assert_eq!(p.to_string().parse::<Pseudonym>(), Ok(p));
    }

    #[test]
    fn equals_the_general_decoder() {
        for i in 0..=255u8 {
            let p = Pseudonym {
                kid: Kid::parse("k7").expect("kid"),
                mac: std::array::from_fn(|n| {
                    i.wrapping_mul(31)
                        .wrapping_add(u8::try_from(n).unwrap_or(0).wrapping_mul(i | 1))
                }),
            };
            let text = p.to_string();
            assert_eq!(text.parse(), Ok(p));
            assert_eq!(text, format!("k7:{}", URL_SAFE_NO_PAD.encode(p.mac)));
        }
        for bad in [
            "k7:AAAAAAAAAAAAAAAAAAAAAB",
            "k7:AAAAAAAAAAAAAAAAAAAAA=",
            "k7:AAAAAAAAAAAAAAAAAAAAA+",
            "k7:éAAAAAAAAAAAAAAAAAAAA",
            "é:AAAAAAAAAAAAAAAAAAAAAA",
        ] {
            assert!(bad.parse::<Pseudonym>().is_err(), "{bad}");
        }
    }

    #[test]
    fn plain_identities_are_refused() {
        for s in [
            "alice@example.com",
            "+49 170 1234567",
            "k7:short",
            "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8",
            "K7:AAAAAAAAAAAAAAAAAAAAAA",
            "",
        ] {
            assert!(s.parse::<Pseudonym>().is_err(), "{s}");
        }
    }
}
