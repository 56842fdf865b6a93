//! Short hashes that name things: finding ids, incident keys, deduplication keys.
//!
//! 16 bytes of BLAKE3 over length-prefixed parts, so that `("ab", "c")` and `("a", "bc")` differ.
//! These are names, not secrets: nothing in them is keyed, so no text may ever be hashed with them.

use std::fmt;

/// 128 bits that name a finding, an incident key or a notification.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Hash16(pub [u8; 16]);

impl fmt::Display for Hash16 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for b in self.0 {
            write!(f, "{b:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Hash16 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl std::str::FromStr for Hash16 {
    type Err = ();
    fn from_str(s: &str) -> Result<Self, ()> {
        let s = s.as_bytes();
        if s.len() != 32 {
            return Err(());
        }
        let mut out = [0u8; 16];
        for (o, pair) in out.iter_mut().zip(s.chunks_exact(2)) {
            let hex = std::str::from_utf8(pair).map_err(|_| ())?;
            *o = u8::from_str_radix(hex, 16).map_err(|_| ())?;
        }
        Ok(Self(out))
    }
}

/// Hashes parts into a name. `domain` separates uses.
pub fn hash16(domain: &str, parts: &[&[u8]]) -> Hash16 {
    let mut h = blake3::Hasher::new();
    h.update(domain.as_bytes());
    h.update(&[0]);
    for p in parts {
        h.update(&(p.len() as u64).to_le_bytes());
        h.update(p);
    }
    let mut out = [0u8; 16];
    h.finalize_xof().fill(&mut out);
    Hash16(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_together() {
        assert_ne!(hash16("t", &[b"ab", b"c"]), hash16("t", &[b"a", b"bc"]));
        assert_ne!(hash16("t", &[b"a"]), hash16("u", &[b"a"]));
    }

    #[test]
    fn hex_round_trip() {
        let h = hash16("t", &[b"x"]);
        assert_eq!(h.to_string().parse::<Hash16>(), Ok(h));
        assert!("zz".parse::<Hash16>().is_err());
    }
}
