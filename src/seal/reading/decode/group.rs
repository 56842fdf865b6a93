//! Text as groups of signs: hex, binary, decimal or octal codes with separators, and Morse.

use super::super::scout::{Counts, stretches};
use super::{Run, hex, readable};

/// Fewest codes in a row.
const MIN_CODES: usize = 6;
/// Fewest digits in a text before codes are looked for.
const MIN_DIGITS: u32 = 10;
/// Shortest stretch of dots and dashes.
const MIN_MORSE: usize = 16;
/// Fewest letters in Morse.
const MIN_MORSE_LETTERS: usize = 5;

pub(super) fn find(text: &str, counts: &Counts, runs: &mut Vec<Run>) {
    if counts.digits() >= MIN_DIGITS {
        codes(text, runs);
    }
    if counts.n(b'.') + counts.n(b'-') >= 12 && counts.n(b'.') >= 4 && counts.n(b'-') >= 4 {
        morse(text, runs);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Base {
    Hex,
    Binary,
    Decimal,
    Octal,
}

/// What one group could be; two hex digits may be two decimal ones too.
fn code(group: &[u8], base: Base) -> Option<u8> {
    match base {
        Base::Hex => {
            let digits = group
                .strip_prefix(b"0x")
                .or_else(|| group.strip_prefix(b"0X"))
                .or_else(|| group.strip_prefix(b"\\x"))
                .unwrap_or(group);
            match digits {
                [high, low] => Some(hex(*high)? << 4 | hex(*low)?),
                _ => None,
            }
        }
        Base::Binary => (group.len() == 8 && group.iter().all(|b| matches!(b, b'0' | b'1')))
            .then(|| group.iter().fold(0, |n, b| n << 1 | (b - b'0'))),
        Base::Decimal => {
            if !(2..=3).contains(&group.len()) || !group.iter().all(u8::is_ascii_digit) {
                return None;
            }
            let n = group
                .iter()
                .fold(0_u16, |n, b| n * 10 + u16::from(b - b'0'));
            u8::try_from(n).ok().filter(|n| (9..=126).contains(n))
        }
        Base::Octal => {
            let digits = group
                .strip_prefix(b"0o")
                .or_else(|| group.strip_prefix(b"\\"))
                .unwrap_or(group);
            if !(2..=3).contains(&digits.len()) {
                return None;
            }
            octal(digits)
        }
    }
}

/// Octal digits as a character of ASCII.
pub(super) fn octal(digits: &[u8]) -> Option<u8> {
    let mut n = 0_u16;
    for b in digits {
        n = n * 8 + u16::from(b.checked_sub(b'0').filter(|d| *d < 8)?);
    }
    u8::try_from(n).ok().filter(|n| (9..=126).contains(n))
}

const fn is_separator(b: u8) -> bool {
    matches!(
        b,
        b' ' | b','
            | b';'
            | b':'
            | b'-'
            | b'\n'
            | b'\r'
            | b'\t'
            | b'|'
            | b'_'
            | b'['
            | b']'
            | b'('
            | b')'
    )
}

/// Shortest row of codes: one sign each, with separators between.
const MIN_ROW: usize = 2 * MIN_CODES - 1;

/// Bytes of codes and of what stands between them.
const ROW: [bool; 256] = {
    let mut class = [false; 256];
    let mut b = 0_u8;
    while b < 0x80 {
        class[b as usize] = is_separator(b) || is_code(b);
        b += 1;
    }
    class
};

const fn is_code(b: u8) -> bool {
    b.is_ascii_hexdigit() || matches!(b, b'x' | b'X' | b'o' | b'\\')
}

/// Whether so many groups that could be codes stand in a row: of hex digits, `x`, `o` and `\\` only.
fn has_row(bytes: &[u8]) -> bool {
    // A row lies within one stretch. The byte beside it goes along: with it the group there is no code.
    stretches(bytes, MIN_ROW, &ROW)
        .into_iter()
        .any(|(from, to)| row_in(&bytes[from.saturating_sub(1)..(to + 1).min(bytes.len())]))
}

fn row_in(bytes: &[u8]) -> bool {
    let mut row = 0;
    let (mut len, mut fits) = (0, true);
    for b in bytes.iter().chain(std::iter::once(&b' ')) {
        if is_separator(*b) {
            if len > 0 {
                row = if fits && len <= 8 { row + 1 } else { 0 };
                if row >= MIN_CODES {
                    return true;
                }
            }
            (len, fits) = (0, true);
        } else {
            len += 1;
            fits &= is_code(*b);
        }
    }
    false
}

fn codes(text: &str, runs: &mut Vec<Run>) {
    let bytes = text.as_bytes();
    if !has_row(bytes) {
        return;
    }
    for base in [Base::Binary, Base::Hex, Base::Decimal, Base::Octal] {
        let mut plain: Vec<u8> = Vec::new();
        let (mut from, mut to) = (0, 0);
        let mut at = 0;
        // One round beyond the end closes the last row.
        while at <= bytes.len() + 1 {
            if bytes.get(at).is_some_and(|b| is_separator(*b)) {
                at += 1;
                continue;
            }
            let start = at.min(bytes.len());
            while at < bytes.len() && !is_separator(bytes[at]) {
                at += 1;
            }
            let end = at.min(bytes.len());
            let value = if end > start && end - start <= 8 {
                code(&bytes[start..end], base)
            } else {
                None
            };
            if let Some(value) = value {
                if plain.is_empty() {
                    from = start;
                }
                plain.push(value);
                to = at;
            } else {
                if plain.len() >= MIN_CODES
                    && let Some(text) = readable(&plain)
                {
                    runs.push(Run {
                        from,
                        to,
                        text,
                        block: true,
                    });
                }
                plain.clear();
            }
            at += 1;
        }
    }
}

const MORSE: [(&str, char); 39] = [
    (".-", 'a'),
    ("-...", 'b'),
    ("-.-.", 'c'),
    ("-..", 'd'),
    (".", 'e'),
    ("..-.", 'f'),
    ("--.", 'g'),
    ("....", 'h'),
    ("..", 'i'),
    (".---", 'j'),
    ("-.-", 'k'),
    (".-..", 'l'),
    ("--", 'm'),
    ("-.", 'n'),
    ("---", 'o'),
    (".--.", 'p'),
    ("--.-", 'q'),
    (".-.", 'r'),
    ("...", 's'),
    ("-", 't'),
    ("..-", 'u'),
    ("...-", 'v'),
    (".--", 'w'),
    ("-..-", 'x'),
    ("-.--", 'y'),
    ("--..", 'z'),
    ("-----", '0'),
    (".----", '1'),
    ("..---", '2'),
    ("...--", '3'),
    ("....-", '4'),
    (".....", '5'),
    ("-....", '6'),
    ("--...", '7'),
    ("---..", '8'),
    ("----.", '9'),
    (".-.-.-", '.'),
    ("--..--", ','),
    ("..--..", '?'),
];

fn morse(text: &str, runs: &mut Vec<Run>) {
    let mut class = [false; 256];
    for b in b".- /|\n" {
        class[usize::from(*b)] = true;
    }
    for (from, to) in stretches(text.as_bytes(), MIN_MORSE, &class) {
        let mut plain = String::new();
        let mut letters = 0;
        let mut wrong = 0;
        let mut blanks = 0;
        for group in text[from..to].split([' ', '\n']) {
            match group {
                "" => blanks += 1,
                "/" | "|" | "//" => plain.push(' '),
                _ => {
                    if blanks > 0 && !plain.ends_with(' ') && !plain.is_empty() {
                        plain.push(' ');
                    }
                    blanks = 0;
                    let parts = group.split(['/', '|']);
                    for (n, part) in parts.enumerate() {
                        if n > 0 {
                            plain.push(' ');
                        }
                        match MORSE.iter().find(|(code, _)| *code == part) {
                            Some((_, c)) => {
                                letters += usize::from(c.is_alphabetic());
                                plain.push(*c);
                            }
                            None if part.is_empty() => {}
                            None => wrong += 1,
                        }
                    }
                }
            }
        }
        if letters >= MIN_MORSE_LETTERS
            && wrong * 10 <= letters
            && readable(plain.as_bytes()).is_some()
        {
            let trimmed = text[from..to].trim_matches(['\n', ' ', '/', '|']);
            let start = from + text[from..to].find(trimmed).unwrap_or(0);
            runs.push(Run {
                from: start,
                to: start + trimmed.len(),
                text: plain.trim().to_owned(),
                block: true,
            });
        }
    }
}
