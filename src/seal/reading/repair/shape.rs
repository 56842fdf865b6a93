//! Words of an odd shape: letters with signs between, words joined or run together, letters repeated.

use super::super::lexicon::{Kinship, Lexicon, MAX_WORD, MIN_REPAIR, signatures};

/// Longest word whose repeated letters are undone; beyond it they are noise.
const MAX_DOUBLED: usize = 64;
/// Longest word that is cut at lexicon words.
const MAX_GLUED: usize = 4_096;

/// `i.g.n.o.r.e`: single letters or digits with one sign between.
pub(super) fn dotted(token: &str) -> Option<String> {
    let joined = |pair: &[u8]| pair.iter().all(u8::is_ascii_alphanumeric);
    if token.as_bytes().windows(2).any(joined) {
        return None;
    }
    let mut text = String::new();
    let mut singles = 0;
    let mut run = 0;
    let mut between = 0;
    for c in token.chars() {
        if c.is_alphanumeric() {
            run += 1;
            if run > 1 {
                return None;
            }
            singles += 1;
            between = 0;
            text.push(c);
        } else {
            run = 0;
            between += 1;
            if between > 1 && !text.is_empty() && !text.ends_with(' ') {
                // Two signs: punctuation that belongs to the text, such as `.,`.
                text.push(' ');
            }
        }
    }
    (singles >= 3 && text.chars().any(char::is_alphabetic)).then_some(text)
}

/// `ignore_previous_instructions`: words joined by one sign, a lexicon word among them.
pub(super) fn unjoin(token: &str, lexicon: &Lexicon) -> Option<String> {
    let is_join = |c: char| {
        matches!(
            c,
            '_' | '-' | '+' | '.' | '|' | '/' | '~' | '=' | ',' | '\u{b7}'
        )
    };
    // Most words of a text end here: bytes are looked at before letters.
    let joins = |b: &&u8| {
        matches!(
            b,
            b'_' | b'-' | b'+' | b'.' | b'|' | b'/' | b'~' | b'=' | b',' | 0xb7
        )
    };
    if token.as_bytes().iter().filter(joins).count() < 2 {
        return None;
    }
    let joins = token.chars().filter(|c| is_join(*c)).count();
    // An address is joined by nature.
    if joins < 2 || token.contains("://") || token.contains('@') || token.starts_with("www.") {
        return None;
    }
    let parts = token
        .split(|c: char| is_join(c) || !c.is_alphanumeric())
        .filter(|w| !w.is_empty());
    let known = parts
        .clone()
        .filter(|w| w.len() >= MIN_REPAIR && (lexicon.has(w) || slip(w, lexicon).is_some()))
        .count();
    if known == 0 || (joins < 3 && known < 2) {
        return None;
    }
    let mut text = String::with_capacity(token.len());
    for piece in token.split_inclusive(is_join) {
        let word = piece.trim_end_matches(is_join);
        match slip(word, lexicon) {
            Some(fixed) => text.push_str(fixed),
            None => text.push_str(word),
        }
        if word.len() < piece.len() {
            text.push(' ');
        }
    }
    Some(text)
}

fn slip<'l>(word: &str, lexicon: &'l Lexicon) -> Option<&'l str> {
    if !(MIN_REPAIR..=MAX_WORD).contains(&word.len()) {
        return None;
    }
    let (plain, turned) = signatures(word.as_bytes());
    match lexicon.kinship(word, plain, turned) {
        Some(Kinship::Slip(index)) => Some(lexicon.word(index)),
        _ => None,
    }
}

/// Cuts a word without blanks at lexicon words, if they make up most of it.
pub(super) fn unglue(token: &str, lexicon: &Lexicon) -> Option<String> {
    if token.len() > MAX_GLUED {
        return None;
    }
    let mut text = String::with_capacity(token.len() + 8);
    let mut known = 0;
    let mut words = 0;
    let mut at = 0;
    let mut gap_from = 0;
    while at < token.len() {
        if !token.is_char_boundary(at) {
            at += 1;
            continue;
        }
        if !lexicon.may_start(&token[at..]) {
            at += 1;
            continue;
        }
        let longest = (4..=MAX_WORD.min(token.len() - at))
            .rev()
            .find(|len| token.is_char_boundary(at + len) && lexicon.has(&token[at..at + len]));
        let Some(len) = longest else {
            at += 1;
            continue;
        };
        if gap_from < at {
            text.push_str(&token[gap_from..at]);
            text.push(' ');
        }
        text.push_str(&token[at..at + len]);
        text.push(' ');
        known += len;
        words += 1;
        at += len;
        gap_from = at;
    }
    text.push_str(&token[gap_from..]);
    (words >= 2 && known * 2 >= token.len()).then(|| text.trim_end().to_owned())
}

/// `ignooore`, `yourrr`: three and more equal letters become one, if that makes a known word,
/// else two.
pub(super) fn undouble(token: &str, lexicon: &Lexicon) -> Option<String> {
    if token.len() > MAX_DOUBLED {
        return None;
    }
    let bytes = token.as_bytes();
    let long = bytes.windows(3).any(|w| w[0] == w[1] && w[1] == w[2]);
    if !long || !token.is_ascii() {
        return None;
    }
    let mut one = token.to_owned().into_bytes();
    one.dedup();
    let one = String::from_utf8(one).ok()?;
    if lexicon.has(&one) {
        return Some(one);
    }
    let mut two = String::with_capacity(token.len());
    for c in token.chars() {
        if !two.ends_with(&format!("{c}{c}")) {
            two.push(c);
        }
    }
    Some(slip(&two, lexicon).map_or(two.clone(), str::to_owned))
        .filter(|t| t != token && lexicon.has(t))
}
