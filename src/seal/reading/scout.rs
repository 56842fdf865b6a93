//! One look at a text's bytes: counts from which everything else decides whether it is worth
//! looking. Ordinary text pays for this pass and for folding, and for nothing else.

use crate::seal::swar::{HIGH, ONES, eight, first};

/// How often each byte occurs.
#[derive(Debug, Clone)]
pub struct Counts {
    bytes: [u32; 256],
    total: usize,
}

impl Counts {
    /// Counts all bytes of a text.
    pub fn of(text: &str) -> Self {
        // Four tables: neighbouring equal bytes would otherwise wait for each other.
        let mut tables = [[0_u32; 256]; 4];
        let mut chunks = text.as_bytes().chunks_exact(4);
        for chunk in &mut chunks {
            tables[0][usize::from(chunk[0])] += 1;
            tables[1][usize::from(chunk[1])] += 1;
            tables[2][usize::from(chunk[2])] += 1;
            tables[3][usize::from(chunk[3])] += 1;
        }
        for byte in chunks.remainder() {
            tables[0][usize::from(*byte)] += 1;
        }
        let [mut bytes, b, c, d] = tables;
        for at in 0..256 {
            bytes[at] += b[at] + c[at] + d[at];
        }
        Self {
            bytes,
            total: text.len(),
        }
    }

    /// How often one byte occurs.
    pub fn n(&self, byte: u8) -> u32 {
        self.bytes[usize::from(byte)]
    }

    fn sum(&self, range: std::ops::RangeInclusive<u8>) -> u32 {
        self.bytes[usize::from(*range.start())..=usize::from(*range.end())]
            .iter()
            .sum()
    }

    /// ASCII digits.
    pub fn digits(&self) -> u32 {
        self.sum(b'0'..=b'9')
    }

    /// Whether all bytes are ASCII.
    pub fn is_ascii(&self) -> bool {
        self.sum(0x80..=0xff) == 0
    }

    /// ASCII control characters other than tab, line feed and a carriage return before one
    /// (taken as: at most as many as line feeds).
    pub fn control(&self) -> u32 {
        let all = self.sum(0..=0x1f) + self.n(0x7f);
        let (tab, lf, cr) = (self.n(b'\t'), self.n(b'\n'), self.n(b'\r'));
        all - tab - lf - cr.min(lf)
    }

    /// Shannon entropy of the bytes in bits, one decimal.
    pub fn entropy(&self) -> f32 {
        if self.total == 0 {
            return 0.0;
        }
        let total = self.total as f32;
        let bits: f32 = self
            .bytes
            .iter()
            .filter(|n| **n > 0)
            .map(|n| {
                let share = *n as f32 / total;
                -share * share.log2()
            })
            .sum();
        (bits * 10.0).round() / 10.0
    }
}

/// Runs of at least `min` bytes of a class, found by looking at every `min`-th byte: words of
/// ordinary text are passed over without reading them whole.
pub fn stretches(text: &[u8], min: usize, class: &[bool; 256]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    if !class[usize::from(b' ')] && !unbroken(text, min) {
        return found;
    }
    let mut at = min.saturating_sub(1);
    while at < text.len() {
        if !class[usize::from(text[at])] {
            at += min;
            continue;
        }
        let mut start = at;
        while start > 0 && class[usize::from(text[start - 1])] {
            start -= 1;
        }
        let mut end = at + 1;
        while end < text.len() && class[usize::from(text[end])] {
            end += 1;
        }
        if end - start >= min {
            found.push((start, end));
        }
        // `end` is outside; the next run of `min` bytes must cover this place.
        at = end + min;
    }
    found
}

/// Whether so many bytes may stand without a blank among them. Eight bytes at a time: of a run of
/// 15 bytes and more some eight that are looked at together lie inside.
fn unbroken(text: &[u8], min: usize) -> bool {
    if min < 15 {
        return true;
    }
    let blanks = |at: usize| {
        let w = eight(text, at) ^ (ONES * u64::from(b' '));
        // Exact for each byte: no borrow reaches the next one.
        !(((w & !HIGH) + !HIGH) | w) & HIGH
    };
    // Bytes behind the last blank so far.
    let mut run = 0;
    for at in (0..text.len()).step_by(8) {
        let marks = blanks(at);
        if marks == 0 {
            run += 8;
            continue;
        }
        if run + first(marks) >= min {
            return true;
        }
        run = usize::try_from(marks.leading_zeros() / 8).unwrap_or(0);
    }
    run >= min
}

/// Visible ASCII.
const VISIBLE: [bool; 256] = {
    let mut class = [false; 256];
    let mut b = b'!';
    while b <= b'~' {
        class[b as usize] = true;
        b += 1;
    }
    class
};

/// Longest run of visible ASCII, if it has at least `min` bytes; else 0.
pub fn longest(text: &[u8], min: usize) -> usize {
    stretches(text, min, &VISIBLE)
        .into_iter()
        .map(|(from, to)| to - from)
        .max()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_exact() {
        let counts = Counts::of("aab1\u{8}\r\né");
        assert_eq!(counts.n(b'a'), 2);
        assert_eq!(counts.digits(), 1);
        assert_eq!(counts.control(), 1);
        assert!(!counts.is_ascii());
        assert!((Counts::of("abcd").entropy() - 2.0).abs() < 1e-6);
    }

    #[test]
    fn every_long_run_is_found() {
        let mut class = [false; 256];
        for b in b'a'..=b'z' {
            class[usize::from(b)] = true;
        }
        for lead in 0..12 {
            for len in 0..14 {
                let text = format!(
                    "{}{} {}",
                    "ab ".repeat(lead),
                    "x".repeat(len),
                    "y".repeat(5)
                );
                let want: Vec<(usize, usize)> = [
                    (lead * 3, lead * 3 + len),
                    (lead * 3 + len + 1, lead * 3 + len + 6),
                ]
                .into_iter()
                .filter(|(a, b)| b - a >= 5)
                .collect();
                assert_eq!(stretches(text.as_bytes(), 5, &class), want, "{lead} {len}");
            }
        }
    }

    #[test]
    fn runs_are_unbroken_wherever_they_stand() {
        for lead in 0..20 {
            for len in 10..40 {
                for tail in ["", " ", " ab", "  and a few short words behind it"] {
                    let text = format!(
                        "{}{}{tail}",
                        "a ".repeat(lead),
                        "xyz\u{e9}-".repeat(7).get(..len).unwrap_or("")
                    );
                    let longest = text.split(' ').map(str::len).max().unwrap_or(0);
                    for min in [15, 16, 20, 25] {
                        let found = unbroken(text.as_bytes(), min);
                        assert_eq!(found, longest >= min, "{text:?} {min}");
                    }
                }
            }
        }
    }
}
