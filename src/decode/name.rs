//! Names on the wire: alphabets and lengths, the shape of an e-mail, and the mapping of trusted names.

use crate::event::SmolStr;
use crate::seal::value::validator;

/// Longest name, in characters.
pub const MAX_NAME: usize = 64;
/// Longest model name, in characters (providers put paths and versions into them).
pub const MAX_MODEL: usize = 256;

/// Bit of the alphabet of names.
pub(super) const NAME: u8 = 1;
const MODEL: u8 = 2;
const ID: u8 = 4;
const ERROR: u8 = 8;
/// Bit of base64 with `+` and `/`, padding included.
pub(super) const BASE64: u8 = 16;
/// Bit of the ids that neither JSON escapes nor may be an e-mail.
pub(super) const PLAIN: u8 = 32;

/// The alphabets that each byte belongs to: one look-up a byte, on the path of every event.
pub(super) static ALPHABETS: [u8; 256] = {
    let mut t = [0; 256];
    let mut b = 0u8;
    loop {
        let name = b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'/' | b'-');
        let error = b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'.' | b'-');
        let mut bits = 0;
        if name {
            bits |= NAME | MODEL;
        }
        if b == b'@' {
            bits |= MODEL;
        }
        if b.is_ascii_graphic() {
            bits |= ID;
        }
        if error {
            bits |= ERROR;
        }
        if b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=') {
            bits |= BASE64;
        }
        if b.is_ascii_graphic() && !matches!(b, b'"' | b'\\' | b'@') {
            bits |= PLAIN;
        }
        t[b as usize] = bits;
        if b == u8::MAX {
            break t;
        }
        b += 1;
    }
};

fn all(s: &str, max: usize, alphabet: u8) -> bool {
    (1..=max).contains(&s.len())
        && s.bytes()
            .fold(alphabet, |have, b| have & ALPHABETS[usize::from(b)])
            != 0
}

/// 1–64 characters of `[A-Za-z0-9._:/-]`.
pub fn is_name(s: &str) -> bool {
    all(s, MAX_NAME, NAME)
}

/// 1–256 characters of the name alphabet and `@`.
pub fn is_model(s: &str) -> bool {
    all(s, MAX_MODEL, MODEL)
}

/// 1–64 visible ASCII characters: any id a gateway makes, but no sentence.
pub fn is_id(s: &str) -> bool {
    all(s, MAX_NAME, ID)
}

/// 1–64 characters of `[a-z0-9_.-]`.
pub fn is_error(s: &str) -> bool {
    all(s, MAX_NAME, ERROR)
}

/// 2–8 letters, digits or hyphens, as BCP 47 writes languages.
pub fn is_lang(s: &str) -> bool {
    (2..=8).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// Whether `s` holds the shape of an e-mail address. As a regex:
/// `[A-Za-z0-9._%+-]@[A-Za-z0-9.-]*[A-Za-z0-9-]\.[A-Za-z]{2}`.
pub fn has_email(s: &str) -> bool {
    let b = s.as_bytes();
    memchr::memchr_iter(b'@', b).any(|at| {
        let local = at.checked_sub(1).is_some_and(|i| {
            b[i].is_ascii_alphanumeric() || matches!(b[i], b'.' | b'_' | b'%' | b'+' | b'-')
        });
        local && {
            let rest = &b[at + 1..];
            let run = rest
                .iter()
                .position(|c| !(c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-')))
                .unwrap_or(rest.len());
            let domain = &rest[..run];
            domain.windows(4).any(|w| {
                w[0] != b'.'
                    && w[1] == b'.'
                    && w[2].is_ascii_alphabetic()
                    && w[3].is_ascii_alphabetic()
            })
        }
    })
}

/// Most words of a trusted source's name; more read like a text.
pub const MAX_WORDS: usize = 3;

/// Words of a name.
pub fn words(s: &str) -> usize {
    s.split_whitespace().count()
}

/// Whether a trusted source's name can be one that somebody set up, with blanks and the letters of any
/// language: "Acme Corp", "Kunden Träger". What has other signs may be an address or a message.
pub fn is_set_up(s: &str) -> bool {
    s.len() <= MAX_NAME
        && words(s) <= MAX_WORDS
        && s.chars()
            .all(|c| name_char(c) || c.is_whitespace() || c.is_alphabetic())
}

/// Whether `@` stands in `s`, also as an URL or a wide keyboard writes it.
pub fn holds_at(s: &str) -> bool {
    s.contains(['@', '\u{ff20}']) || s.contains("%40")
}

/// Whether a name holds a number that belongs to a person: a social security number, a card, a phone.
pub fn holds_number(s: &str) -> bool {
    let says = |name: &str, s: &str| validator(name).is_some_and(|v| v(s));
    let near = |c: char| c.is_ascii_digit() || matches!(c, ' ' | '-' | '.' | '(' | ')' | '+');
    s.split(|c| !near(c)).any(|run| {
        let run = run.trim_matches([' ', '-', '.']);
        let digits = run.bytes().filter(u8::is_ascii_digit).count();
        match digits {
            13..=19 if says("luhn", run) && says("card-iin", run) => true,
            9 => says("us-ssn", run) || is_ssn_shaped(run),
            10..=15 => run.contains(['+', '(', ' ']) && says("phone", run),
            _ => false,
        }
    })
}

/// `ddd-dd-dddd`: whoever writes nine digits so means a social security number, issued or not.
fn is_ssn_shaped(run: &str) -> bool {
    let b = run.as_bytes();
    b.len() == 11 && b[3] == b[6] && [3, 6].map(|i| b[i]).iter().all(|c| !c.is_ascii_digit())
}

/// Maps a trusted source's name into an alphabet: other characters become `_`, the rest is cut.
/// The empty name becomes `_`, so that the field stays present.
pub fn mapped(s: &str, max: usize, allowed: impl Fn(char) -> bool) -> SmolStr {
    let out: SmolStr = s
        .chars()
        .take(max)
        .map(|c| if allowed(c) { c } else { '_' })
        .collect();
    if out.is_empty() {
        SmolStr::new_static("_")
    } else {
        out
    }
}

/// Whether `c` may stand in a name, for [`mapped`].
pub fn name_char(c: char) -> bool {
    u8::try_from(c).is_ok_and(|b| ALPHABETS[usize::from(b)] & NAME != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn email_shapes() {
        let re = regex::Regex::new(EMAIL_PATTERN_FOR_TEST).expect("pattern");
        for s in [
            "alice@example.com",
            "a.b+c@x-y.co.uk",
            "x/alice@example.com/y",
            "claude-3-5-sonnet@20240620",
            "model@v1.0",
            "a@b",
            "@example.com",
            "a@.com",
            "a@b..com",
            "a@@b.com",
            "a@b@c.de",
            "a@b.c",
            "",
            "ü@example.com",
            "a@exämple.com",
        ] {
            assert_eq!(has_email(s), re.is_match(s), "{s}");
        }
        assert!(has_email("alice@example.com"));
        assert!(!has_email("claude@20240620"));
    }

    const EMAIL_PATTERN_FOR_TEST: &str = super::super::schema::EMAIL;

    #[test]
    fn numbers_of_persons_are_seen_in_names() {
        for s in [
            "lookup-536-90-4399",
            "card 4111 1111 1111 1111",
            "call +49 30 901820",
        ] {
            assert!(holds_number(s), "{s}");
        }
        for s in [
            "claude-3-5-sonnet@20241022",
            "v1.2.3",
            "build 1732212345",
            "gpt-4o-2024-08-06",
        ] {
            assert!(!holds_number(s), "{s}");
        }
    }

    #[test]
    fn trusted_names_are_mapped() {
        assert_eq!(
            mapped("Kunden Träger", MAX_NAME, name_char),
            "Kunden_Tr_ger"
        );
        assert_eq!(mapped("", MAX_NAME, name_char), "_");
        assert_eq!(mapped(&"x".repeat(100), MAX_NAME, name_char).len(), 64);
    }
}
