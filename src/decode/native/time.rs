//! Times and days as the contract writes them.

use crate::event::Time;

/// RFC 3339 with seconds and a zone; nothing that merely looks like it.
pub(super) fn instant(s: &str) -> Option<Time> {
    let b = s.as_bytes();
    if b.len() < 20 || b.len() > 35 || b[10] != b'T' || &b[17..19] == b"60" {
        return None;
    }
    let shape = |b: &[u8], pattern: &[u8]| {
        b.len() == pattern.len()
            && b.iter().zip(pattern).all(|(c, p)| match p {
                b'0' => c.is_ascii_digit(),
                p => c == p,
            })
    };
    if !shape(&b[..19], b"0000-00-00T00:00:00") {
        return None;
    }
    let mut rest = &b[19..];
    if let [b'.', frac @ ..] = rest {
        let n = frac.iter().take_while(|c| c.is_ascii_digit()).count();
        if !(1..=9).contains(&n) {
            return None;
        }
        rest = &frac[n..];
    }
    let zone = rest == b"Z"
        || ((shape(rest, b"+00:00") || shape(rest, b"-00:00"))
            && rest[1..3] <= *b"23".as_slice()
            && rest[4..6] <= *b"59".as_slice());
    if zone { Time::parse_rfc3339(s) } else { None }
}

/// `YYYY-MM-DD` as days since 1970-01-01.
pub(super) fn day(s: &str) -> Option<i32> {
    let mut b = *b"0000-00-00T00:00:00Z";
    b.get_mut(..10)?
        .copy_from_slice(s.as_bytes().get(..10).filter(|_| s.len() == 10)?);
    let t = instant(std::str::from_utf8(&b).ok()?)?;
    i32::try_from(t.0.div_euclid(86_400_000)).ok()
}
