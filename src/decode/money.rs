//! Decimal dollars as gateways write them, to integer pico-dollars and back, without floats.

use crate::event::Pico;

/// Longest accepted decimal: seven digits before the point, 24 after it.
pub const MAX_CHARS: usize = 32;
/// Digits of a pico-dollar after the point.
const SCALE: usize = 12;

/// Parses `digits[.digits]` dollars. Digits beyond the twelfth are rounded half up (a gateway that
/// multiplies floats sends them). `None` if it is not that, or above nine million dollars (i64).
pub fn parse(s: &str) -> Option<Pico> {
    if s.len() > MAX_CHARS {
        return None;
    }
    let (whole, frac) = s.split_once('.').map_or((s, None), |(w, f)| (w, Some(f)));
    let digits =
        |d: &str, max: usize| (1..=max).contains(&d.len()) && d.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole, 7) || frac.is_some_and(|f| !digits(f, 24)) {
        return None;
    }
    let mut n: i64 = whole.parse().ok()?;
    let frac = frac.unwrap_or_default().as_bytes();
    for i in 0..SCALE {
        let d = frac.get(i).map_or(0, |b| i64::from(b - b'0'));
        n = n.checked_mul(10)?.checked_add(d)?;
    }
    if frac.get(SCALE).is_some_and(|b| *b >= b'5') {
        n = n.checked_add(1)?;
    }
    Some(n)
}

/// Prints pico-dollars as decimal dollars, without trailing zeros.
pub fn print(p: Pico) -> String {
    let whole = p / 1_000_000_000_000;
    let frac = (p % 1_000_000_000_000).unsigned_abs();
    if frac == 0 {
        return whole.to_string();
    }
    let f = format!("{frac:012}");
    format!("{whole}.{}", f.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact() {
        assert_eq!(parse("0.0123"), Some(12_300_000_000));
        assert_eq!(parse("0"), Some(0));
        assert_eq!(parse("0.0000000000014"), Some(1));
        assert_eq!(parse("0.0000000000015"), Some(2));
        for p in [0, 1, 12_300_000_000, 1_000_000_000_000, 7_000_000_000_001] {
            assert_eq!(parse(&print(p)), Some(p));
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for s in [
            "",
            ".",
            "1.",
            ".5",
            "-1",
            "+1",
            "1e3",
            "1,5",
            " 1",
            "99999999",
            "9999999.9",
            "NaN",
            "٣",
        ] {
            assert_eq!(parse(s), None, "{s}");
        }
    }
}
