//! Check-digit arithmetic shared by the national packs: fixed buffers, no allocation.

/// Separators people put between groups of an id.
pub(super) fn is_separator(c: char) -> bool {
    matches!(
        c,
        ' ' | '-' | '.' | '/' | '_' | ':' | '\u{a0}' | '\u{2011}' | '\u{2013}'
    )
}

/// Exactly `N` ASCII digits, separators skipped; `None` on another length or any other character.
pub(super) fn exactly<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut out = [0u8; N];
    (fill(text, &mut out, false)? == N).then_some(out)
}

/// Exactly `N` ASCII letters (upper-cased) and digits, separators skipped.
pub(super) fn alphanumeric<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut out = [0u8; N];
    (fill(text, &mut out, true)? == N).then_some(out)
}

/// Up to `N` digits and how many there are; `None` if there are more, or anything else stands between.
pub(super) fn at_most<const N: usize>(text: &str) -> Option<([u8; N], usize)> {
    let mut out = [0u8; N];
    let len = fill(text, &mut out, false)?;
    Some((out, len))
}

/// Digits are stored as 0–9; with `letters`, everything is stored as upper-case ASCII.
fn fill(text: &str, out: &mut [u8], letters: bool) -> Option<usize> {
    let mut len = 0;
    for c in text.chars() {
        if is_separator(c) {
            continue;
        }
        let byte = u8::try_from(c).ok()?;
        let value = match (byte, letters) {
            (b'0'..=b'9', false) => byte - b'0',
            (b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z', true) => byte.to_ascii_uppercase(),
            _ => return None,
        };
        *out.get_mut(len)? = value;
        len += 1;
    }
    Some(len)
}

/// Sum of products of digits and weights; both are cut to the shorter.
pub(super) fn weighted(digits: &[u8], weights: &[u8]) -> u32 {
    digits
        .iter()
        .zip(weights)
        .map(|(&d, &w)| u32::from(d) * u32::from(w))
        .sum()
}

/// The Luhn sum modulo 10 of all digits, the last one being the check digit.
pub(super) fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(at, &d)| {
            let d = u32::from(d);
            if at % 2 == 0 {
                d
            } else {
                d * 2 / 10 + d * 2 % 10
            }
        })
        .sum();
    !digits.is_empty() && sum.is_multiple_of(10)
}

/// The Verhoeff check (dihedral group D5) over all digits, the last one being the check digit.
pub(super) fn verhoeff(digits: &[u8]) -> bool {
    const D: [[u8; 10]; 10] = [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
        [1, 2, 3, 4, 0, 6, 7, 8, 9, 5],
        [2, 3, 4, 0, 1, 7, 8, 9, 5, 6],
        [3, 4, 0, 1, 2, 8, 9, 5, 6, 7],
        [4, 0, 1, 2, 3, 9, 5, 6, 7, 8],
        [5, 9, 8, 7, 6, 0, 4, 3, 2, 1],
        [6, 5, 9, 8, 7, 1, 0, 4, 3, 2],
        [7, 6, 5, 9, 8, 2, 1, 0, 4, 3],
        [8, 7, 6, 5, 9, 3, 2, 1, 0, 4],
        [9, 8, 7, 6, 5, 4, 3, 2, 1, 0],
    ];
    const P: [[u8; 10]; 8] = [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
        [1, 5, 7, 6, 2, 8, 3, 0, 9, 4],
        [5, 8, 0, 3, 7, 9, 6, 1, 4, 2],
        [8, 9, 1, 6, 0, 4, 3, 5, 2, 7],
        [9, 4, 5, 3, 1, 2, 6, 8, 7, 0],
        [4, 2, 8, 6, 5, 7, 3, 9, 0, 1],
        [2, 7, 9, 3, 8, 0, 6, 4, 1, 5],
        [7, 0, 4, 6, 9, 1, 3, 2, 5, 8],
    ];
    let state = digits.iter().rev().enumerate().fold(0u8, |c, (at, &d)| {
        D[usize::from(c)][usize::from(P[at % 8][usize::from(d)])]
    });
    !digits.is_empty() && state == 0
}

/// ISO 7064 MOD 11,10, as German and Croatian tax ids use it; the last digit is the check digit.
pub(super) fn iso7064_mod_11_10(digits: &[u8]) -> bool {
    let Some((&check, body)) = digits.split_last() else {
        return false;
    };
    let product = body.iter().fold(10u32, |product, &d| {
        let sum = (u32::from(d) + product) % 10;
        (if sum == 0 { 10 } else { sum }) * 2 % 11
    });
    (11 - product) % 10 == u32::from(check)
}

/// All digits are the same: no authority issues such a number.
pub(super) fn uniform(digits: &[u8]) -> bool {
    digits.windows(2).all(|pair| pair[0] == pair[1])
}

/// A number of the decimal digits; at most 18 digits are meaningful.
pub(super) fn number(digits: &[u8]) -> u64 {
    digits
        .iter()
        .fold(0u64, |n, &d| n.wrapping_mul(10).wrapping_add(u64::from(d)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_vectors() {
        assert!(luhn(&[7, 9, 9, 2, 7, 3, 9, 8, 7, 1, 3]));
        assert!(!luhn(&[7, 9, 9, 2, 7, 3, 9, 8, 7, 1, 4]));
        assert!(verhoeff(&[2, 3, 6, 3]));
        assert!(!verhoeff(&[2, 3, 6, 4]));
        assert!(iso7064_mod_11_10(&[0, 7, 9, 4, 5]));
        assert!(!iso7064_mod_11_10(&[0, 7, 9, 4, 6]));
    }

    #[test]
    fn buffers_take_exactly_their_size() {
        assert_eq!(exactly::<3>("1-2 3"), Some([1, 2, 3]));
        assert_eq!(exactly::<3>("12"), None);
        assert_eq!(exactly::<3>("1234"), None);
        assert_eq!(exactly::<3>("12a"), None);
        assert_eq!(alphanumeric::<3>("a-1b"), Some(*b"A1B"));
        assert_eq!(at_most::<4>("12"), Some(([1, 2, 0, 0], 2)));
    }
}
