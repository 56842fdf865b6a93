//! The audit chain: one hash a record, so that a changed, missing or added record shows.
//!
//! `h = BLAKE3(h ‖ leaf)` record by record, so the head after an offset does not depend on how
//! batches were cut. BLAKE3 rather than SHA-256, which would cost more than parsing.

mod lanes;

pub use lanes::Lanes;

use super::reason::Reason;

/// A leaf or a head of the chain.
pub type Link = [u8; 32];

/// Length written for a null key or value, so that null and empty differ.
const NULL_LEN: u32 = u32::MAX;

/// Head of an empty chain.
pub const GENESIS: Link = [0; 32];

fn len(part: Option<&[u8]>) -> u32 {
    // A record above 4 GiB cannot exist in Kafka; saturating keeps the function total.
    part.map_or(NULL_LEN, |p| u32::try_from(p.len()).unwrap_or(NULL_LEN - 1))
}

fn feed(h: &mut blake3::Hasher, offset: i64, key: Option<&[u8]>, value: Option<&[u8]>) {
    h.update(&offset.to_le_bytes());
    for part in [key, value] {
        h.update(&len(part).to_le_bytes());
        h.update(part.unwrap_or_default());
    }
}

/// Leaf of a record of a sealed source:
/// `BLAKE3(offset u64 LE ‖ klen u32 LE ‖ key ‖ vlen u32 LE ‖ value)`.
pub fn leaf(offset: i64, key: Option<&[u8]>, value: Option<&[u8]>) -> Link {
    let mut h = blake3::Hasher::new();
    feed(&mut h, offset, key, value);
    *h.finalize().as_bytes()
}

/// Leaf of a record of a trusted source, keyed (with [`crate::seal::key::Key::audit_leaf_key`]):
/// without the key nobody can test a guess at it.
pub fn keyed_leaf(leaf_key: &Link, offset: i64, key: Option<&[u8]>, value: Option<&[u8]>) -> Link {
    let mut h = blake3::Hasher::new_keyed(leaf_key);
    feed(&mut h, offset, key, value);
    *h.finalize().as_bytes()
}

/// Leaf of a record of a sealed source that was refused and may hold text or a plain identity:
/// `BLAKE3("refused" ‖ offset ‖ klen ‖ vlen)`. No hash of text is kept.
pub fn refused_leaf(offset: i64, key: Option<&[u8]>, value: Option<&[u8]>) -> Link {
    let mut h = blake3::Hasher::new();
    h.update(b"refused");
    h.update(&offset.to_le_bytes());
    h.update(&len(key).to_le_bytes());
    h.update(&len(value).to_le_bytes());
    *h.finalize().as_bytes()
}

/// The next head: `BLAKE3(head ‖ leaf)`.
pub fn step(head: &Link, leaf: &Link) -> Link {
    let mut both = [0; 64];
    both[..32].copy_from_slice(head);
    both[32..].copy_from_slice(leaf);
    *blake3::hash(&both).as_bytes()
}

/// The leaf that belongs to a record: keyed where `key` is given (trusted source), else plain or,
/// if the record was refused for what it held, by its lengths.
pub fn leaf_for(
    leaf_key: Option<&Link>,
    refused: Option<Reason>,
    offset: i64,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
) -> Link {
    match leaf_key {
        Some(k) => keyed_leaf(k, offset, key, value),
        None if refused.is_some_and(Reason::hides_bytes) => refused_leaf(offset, key, value),
        None => leaf(offset, key, value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(l: &Link) -> String {
        blake3::Hash::from_bytes(*l).to_hex().to_string()
    }

    #[test]
    fn leaf_is_the_documented_bytes() {
        let mut bytes = 7u64.to_le_bytes().to_vec();
        bytes.extend(1u32.to_le_bytes());
        bytes.extend(b"k");
        bytes.extend(2u32.to_le_bytes());
        bytes.extend(b"vv");
        assert_eq!(
            hex(&leaf(7, Some(b"k"), Some(b"vv"))),
            blake3::hash(&bytes).to_hex().as_str()
        );
    }

    #[test]
    fn null_and_empty_differ_and_parts_do_not_run_together() {
        assert_ne!(leaf(0, None, Some(b"a")), leaf(0, Some(b""), Some(b"a")));
        assert_ne!(
            leaf(0, Some(b"a"), Some(b"")),
            leaf(0, Some(b""), Some(b"a"))
        );
        assert_ne!(leaf(0, None, Some(b"a")), leaf(1, None, Some(b"a")));
        let k = [9; 32];
        assert_ne!(leaf(0, None, None), keyed_leaf(&k, 0, None, None));
    }

    #[test]
    fn a_refused_record_leaves_lengths_only() {
        let a = leaf_for(
            None,
            Some(Reason::TextInSealed),
            3,
            None,
            Some(b"secret one"),
        );
        let b = leaf_for(
            None,
            Some(Reason::TextInSealed),
            3,
            None,
            Some(b"secret two"),
        );
        assert_eq!(a, b);
        // What is refused for another reason was not read to its end: it may hold text as well.
        for reason in [Reason::NotJson, Reason::MissingField, Reason::BadName] {
            let c = leaf_for(None, Some(reason), 3, None, Some(b"secret one"));
            assert_eq!(c, a, "{reason}");
        }
        let large = leaf_for(None, Some(Reason::TooLarge), 3, None, Some(b"x"));
        assert_eq!(large, leaf(3, None, Some(b"x")));
    }

    #[test]
    fn head_depends_on_order() {
        let (a, b) = (leaf(0, None, Some(b"a")), leaf(1, None, Some(b"b")));
        assert_ne!(step(&step(&GENESIS, &a), &b), step(&step(&GENESIS, &b), &a));
    }
}
