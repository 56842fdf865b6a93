//! Leetspeak: digits and signs that stand for letters.

use super::super::lexicon::Lexicon;
use super::{Edit, MAX_EDITS};

/// Words in leetspeak.
#[derive(Debug)]
pub(super) struct Leet {
    pub edits: Vec<Edit>,
    pub known: usize,
    pub clean: bool,
}

impl Default for Leet {
    fn default() -> Self {
        Self {
            edits: Vec::new(),
            known: 0,
            clean: true,
        }
    }
}

/// Most ambiguous signs (`1` is `i` or `l`) whose readings are all tried.
const MAX_AMBIGUOUS: usize = 4;

impl Leet {
    /// Reads one word with digits or signs among its letters.
    pub(super) fn word(&mut self, token: &str, start: usize, lexicon: &Lexicon) {
        if token.len() > 48 || self.edits.len() >= MAX_EDITS {
            return;
        }
        let sign = |b: u8| {
            b.is_ascii_digit() || b >= 0x80 || matches!(b, b'@' | b'$' | b'!' | b'|' | b'+')
        };
        if !token.bytes().any(sign) {
            return;
        }
        let core_from = token.len()
            - token
                .trim_start_matches(['"', '\'', '(', '[', '{', '<', ':', ';', ',', '.', '?'])
                .len();
        let core_to = token
            .trim_end_matches(['"', '\'', ')', ']', '}', '>', ':', ';', ',', '.', '?', '!'])
            .len();
        if core_from >= core_to || !token[core_from..core_to].bytes().any(sign) {
            return;
        }
        let mut edited = String::with_capacity(token.len());
        let mut any = false;
        let mut known = 0;
        // Words joined by other signs are read one by one.
        for piece in token[core_from..core_to].split_inclusive(|c: char| !leet_sign(c)) {
            let word = piece.trim_end_matches(|c: char| !leet_sign(c));
            let rest = &piece[word.len()..];
            let has_digit = word.chars().any(|c| !c.is_alphabetic());
            let has_letter = word.chars().any(char::is_alphabetic);
            if word.chars().count() >= 2 && has_digit && has_letter {
                let (read, is_known) = read(word, lexicon);
                any |= read != word;
                known += usize::from(is_known);
                edited.push_str(&read);
            } else {
                edited.push_str(word);
            }
            edited.push_str(rest);
        }
        if !any {
            return;
        }
        self.known += known;
        self.clean &= edited.chars().all(|c| !c.is_ascii_digit());
        self.edits.push(Edit {
            from: start + core_from,
            to: start + core_to,
            text: edited,
        });
    }
}

fn leet_sign(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '@' | '$' | '!' | '|' | '+' | '€' | '£')
}

fn letter_of(c: char) -> Option<char> {
    Some(match c {
        '0' => 'o',
        '1' | '!' | '|' => 'i',
        '2' => 'z',
        '3' | '€' => 'e',
        '4' | '@' => 'a',
        '5' | '$' => 's',
        '6' | '9' => 'g',
        '7' | '+' => 't',
        '8' => 'b',
        '£' => 'l',
        _ => return None,
    })
}

/// One word read, and whether it is a lexicon word.
fn read(word: &str, lexicon: &Lexicon) -> (String, bool) {
    let plain: Vec<char> = word.chars().map(|c| letter_of(c).unwrap_or(c)).collect();
    let unsure: Vec<usize> = word
        .chars()
        .enumerate()
        .filter(|(_, c)| matches!(c, '1' | '!' | '|'))
        .map(|(i, _)| i)
        .take(MAX_AMBIGUOUS)
        .collect();
    for choice in 0..1_u32 << unsure.len() {
        let mut chars = plain.clone();
        for (bit, at) in unsure.iter().enumerate() {
            if choice & (1 << bit) != 0 {
                chars[*at] = 'l';
            }
        }
        let text: String = chars.iter().collect();
        if text.len() >= 4 && lexicon.has(&text) {
            return (text, true);
        }
    }
    (plain.into_iter().collect(), false)
}
