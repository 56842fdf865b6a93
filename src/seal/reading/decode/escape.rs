//! Escaped characters: `%69`, `=69`, `&#105;`, `\u0069`, `\x69`, `\151`.

use super::super::scout::Counts;
use super::group::octal;
use super::{Run, hex};

/// Fewest percent escapes that do not spell a letter: one `%20` in a link is no disguise.
const MIN_PERCENT: usize = 2;

const NAMED: [(&str, char); 10] = [
    ("amp", '&'),
    ("lt", '<'),
    ("gt", '>'),
    ("quot", '"'),
    ("apos", '\''),
    ("nbsp", ' '),
    ("colon", ':'),
    ("period", '.'),
    ("newline", '\n'),
    ("tab", '\t'),
];

pub(super) fn find(text: &str, counts: &Counts, runs: &mut Vec<Run>) {
    if counts.n(b'%') >= 1 {
        percent(text, b'%', runs);
    }
    if counts.n(b'=') >= 6 {
        percent(text, b'=', runs);
    }
    if counts.n(b'&') >= 1 && counts.n(b';') >= 1 {
        entities(text, runs);
    }
    if counts.n(b'\\') >= 1 {
        backslash(text, runs);
    }
}

/// `%69%67…`: bytes in hex, joined where they touch (a character may take several).
fn percent(text: &str, sign: u8, runs: &mut Vec<Run>) {
    let bytes = text.as_bytes();
    let first = runs.len();
    let (mut n, mut letters) = (0, 0);
    let mut at = 0;
    while let Some(next) = memchr::memchr(sign, &bytes[at..]) {
        let from = at + next;
        let mut to = from;
        let mut plain = Vec::new();
        while bytes.get(to) == Some(&sign)
            && let (Some(high), Some(low)) = (
                bytes.get(to + 1).copied().and_then(hex),
                bytes.get(to + 2).copied().and_then(hex),
            )
        {
            plain.push(high << 4 | low);
            to += 3;
        }
        if plain.is_empty() {
            at = from + 1;
            continue;
        }
        at = to;
        n += plain.len();
        letters += plain.iter().filter(|b| b.is_ascii_alphabetic()).count();
        if let Ok(text) = String::from_utf8(plain) {
            runs.push(Run {
                from,
                to,
                text,
                block: false,
            });
        }
    }
    let enough = match sign {
        b'%' => letters > 0 || n >= MIN_PERCENT,
        _ => letters >= 6,
    };
    if !enough {
        runs.truncate(first);
    }
}

fn entities(text: &str, runs: &mut Vec<Run>) {
    let bytes = text.as_bytes();
    for from in memchr::memchr_iter(b'&', bytes) {
        // The longest: `&#x10FFFF;`.
        let Some(len) = bytes[from..].iter().take(11).position(|b| *b == b';') else {
            continue;
        };
        let name = &text[from + 1..from + len];
        let code = name
            .strip_prefix("#x")
            .or_else(|| name.strip_prefix("#X"))
            .map(|h| u32::from_str_radix(h, 16).ok())
            .or_else(|| name.strip_prefix('#').map(|d| d.parse().ok()));
        let c = match code {
            Some(code) => code.and_then(char::from_u32),
            None => NAMED
                .iter()
                .find(|(n, _)| n.eq_ignore_ascii_case(name))
                .map(|(_, c)| *c),
        };
        if let Some(c) = c {
            runs.push(Run {
                from,
                to: from + len + 1,
                text: c.to_string(),
                block: false,
            });
        }
    }
}

fn backslash(text: &str, runs: &mut Vec<Run>) {
    let bytes = text.as_bytes();
    let mut high: Option<(usize, u32)> = None;
    let mut skip = 0;
    for from in memchr::memchr_iter(b'\\', bytes) {
        if from < skip {
            continue;
        }
        let digits = |at: usize, n: usize| {
            let piece = text.get(at..at + n)?;
            piece
                .bytes()
                .all(|b| b.is_ascii_hexdigit())
                .then(|| u32::from_str_radix(piece, 16).ok())
                .flatten()
        };
        let (code, len) = match bytes.get(from + 1) {
            Some(b'u') if bytes.get(from + 2) == Some(&b'{') => {
                let Some(end) = bytes[from + 3..].iter().take(7).position(|b| *b == b'}') else {
                    continue;
                };
                (digits(from + 3, end), end + 4)
            }
            Some(b'u') => (digits(from + 2, 4), 6),
            Some(b'U') => (digits(from + 2, 8), 10),
            Some(b'x') => (digits(from + 2, 2), 4),
            // Octal, as C and shells write it.
            Some(b'0'..=b'1') => (
                bytes.get(from + 1..from + 4).and_then(octal).map(u32::from),
                4,
            ),
            // A line end that was escaped: it parts words.
            Some(b'n' | b'r' | b't') => (Some(u32::from('\n')), 2),
            _ => continue,
        };
        let Some(code) = code else { continue };
        let to = from + len;
        skip = to;
        // UTF-16 pairs, as JSON writes them.
        if (0xd800..0xdc00).contains(&code) {
            high = Some((from, code));
            continue;
        }
        let (from, code) = match (high.take(), code) {
            (Some((start, lead)), 0xdc00..0xe000) if start + 6 == from => {
                (start, 0x10000 + ((lead - 0xd800) << 10) + (code - 0xdc00))
            }
            _ => (from, code),
        };
        if let Some(c) = char::from_u32(code) {
            runs.push(Run {
                from,
                to,
                text: c.to_string(),
                block: false,
            });
        }
    }
}
