//! Values in typographic dress: a text before folding, with the spaces, dashes, full-width and
//! invisible characters that browsers, word processors and input methods write brought back to
//! ASCII. Unlike folding it keeps case, signs and white space: it is what rules for values read.
//!
//! It is made only of a text that has such a character where a value could hold it.

use super::map::Map;
use crate::rule::fold;
use crate::seal::swar::{HIGH, eight, first};

/// A text in its plain spelling.
#[derive(Debug, Clone, Default)]
pub struct Spelt {
    /// The plain text.
    pub text: String,
    /// Offsets of `text` → bytes of the text before folding.
    pub map: Map,
    /// Offsets of the folded text → bytes of `text`.
    pub inner: Map,
}

/// What becomes of a character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Keep,
    Drop,
    As(char),
}

/// The plain spelling of `text`, if it is another one where values could stand; `folded` leads from
/// its folded reading to `text`.
pub fn spelt(text: &str, folded: &Map) -> Option<Spelt> {
    if !matters(text) {
        return None;
    }
    let mut plain = String::with_capacity(text.len());
    let mut map = Map::default();
    // The other way round: the folded text is led to the plain one over it.
    let mut forth = Map::default();
    for (at, c, fate) in walk(text) {
        let (len, from) = (c.len_utf8(), plain.len());
        match fate {
            Fate::Keep => plain.push(c),
            Fate::As(c) => plain.push(c),
            Fate::Drop => {}
        }
        map.other(plain.len() - from, at, at + len);
        forth.other(len, from, plain.len());
    }
    Some(Spelt {
        text: plain,
        map,
        inner: folded.then(&forth),
    })
}

/// Whether a character that has another spelling stands where it could matter to a value. Looks
/// only at what is not ASCII and beside it: ordinary texts have a few such characters at most.
fn matters(text: &str) -> bool {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let plain = first(eight(bytes, at) & HIGH);
        at += plain;
        if plain == 8 {
            continue;
        }
        let Some(c) = text.get(at..).and_then(|rest| rest.chars().next()) else {
            break;
        };
        if let Some(low) = spelt_elsewhere(c) {
            let beside = |c: Option<char>| c.map_or(' ', |c| wide(c).unwrap_or(c));
            let before = beside(text[..at].chars().next_back());
            let after = beside(text[at + c.len_utf8()..].chars().next());
            let counts = match fate(c, before, after) {
                Fate::Keep => false,
                Fate::As(plain) if plain.is_ascii_alphanumeric() || plain == '@' => true,
                // Full-width punctuation is ordinary in Chinese and Japanese.
                Fate::As(_) if low => before.is_ascii_digit() || after.is_ascii_digit(),
                Fate::As(_) | Fate::Drop => before.is_ascii_graphic() || after.is_ascii_graphic(),
            };
            if counts {
                return true;
            }
        }
        at += c.len_utf8();
    }
    false
}

/// Whether [`fate`] may change a character, and whether it is a full-width one: most are neither.
fn spelt_elsewhere(c: char) -> Option<bool> {
    match c {
        '\u{ff01}'..='\u{ff5e}' => Some(true),
        // Latin, Greek, Cyrillic; Han.
        '\u{ae}'..='\u{34e}' | '\u{350}'..='\u{5ff}' | '\u{3400}'..='\u{d7ff}' => None,
        _ => Some(false),
    }
}

/// Each character with its place and its fate.
fn walk(text: &str) -> impl Iterator<Item = (usize, char, Fate)> + '_ {
    let mut before = ' ';
    let mut chars = text.char_indices().peekable();
    std::iter::from_fn(move || {
        let (at, c) = chars.next()?;
        if c.is_ascii() {
            before = c;
            return Some((at, c, Fate::Keep));
        }
        let after = chars.peek().map_or(' ', |(_, c)| wide(*c).unwrap_or(*c));
        let fate = fate(c, before, after);
        match fate {
            Fate::Keep => before = c,
            Fate::As(plain) => before = plain,
            Fate::Drop => {}
        }
        Some((at, c, fate))
    })
}

/// What becomes of a character between two others.
fn fate(c: char, before: char, after: char) -> Fate {
    let number = |c: char| c.is_ascii_digit() || matches!(c, '(' | ')');
    match c {
        // Spaces that are no line ends.
        '\u{a0}' | '\u{1680}' | '\u{2000}'..='\u{200a}' | '\u{202f}' | '\u{205f}' | '\u{3000}' => {
            Fate::As(' ')
        }
        '\u{2010}' | '\u{2011}' | '\u{fe63}' => Fate::As('-'),
        // Figure and en dash, minus: within a number or code, not between words or sentences.
        '\u{2012}' | '\u{2013}' | '\u{2212}'
            if (number(before) && (number(after) || after.is_ascii_alphanumeric()))
                || (before.is_ascii_alphanumeric() && number(after)) =>
        {
            Fate::As('-')
        }
        // Em dash and bar, and the sound mark that Japanese input methods write for a dash.
        '\u{2014}' | '\u{2015}' | '\u{30fc}' if number(before) && number(after) => Fate::As('-'),
        '\u{fe6b}' => Fate::As('@'),
        // Tag characters spell text of their own.
        '\u{e0020}'..='\u{e007e}' => Fate::Keep,
        _ if fold::is_invisible(c) => Fate::Drop,
        _ => wide(c).map_or(Fate::Keep, Fate::As),
    }
}

/// The ASCII of a full-width letter, digit, or sign that values hold.
fn wide(c: char) -> Option<char> {
    let code = u32::from(c);
    if !(0xff01..=0xff5e).contains(&code) {
        return None;
    }
    char::from_u32(code - 0xfee0).filter(|c| c.is_ascii_alphanumeric() || "@.-+_/()".contains(*c))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::reading::folding::fold_text;
    use crate::seal::reading::scout::Counts;

    fn of(text: &str) -> Option<Spelt> {
        let (mut folded, mut map) = (String::new(), Map::default());
        fold_text(text, &Counts::of(text), &mut folded, &mut map);
        let spelt = spelt(text, &map)?;
        assert_eq!(spelt.map.len(), spelt.text.len());
        assert_eq!(spelt.inner.len(), folded.len());
        Some(spelt)
    }

    fn plain(text: &str) -> String {
        of(text).map_or_else(|| text.to_owned(), |s| s.text)
    }

    #[test]
    fn typography_becomes_ascii() {
        for space in
            "\u{a0}\u{1680}\u{2000}\u{2007}\u{2009}\u{200a}\u{202f}\u{205f}\u{3000}".chars()
        {
            assert_eq!(plain(&format!("4111{space}1111")), "4111 1111", "{space:?}");
        }
        for dash in
            "\u{2010}\u{2011}\u{2012}\u{2013}\u{2014}\u{2015}\u{2212}\u{fe63}\u{ff0d}\u{30fc}"
                .chars()
        {
            assert_eq!(plain(&format!("536{dash}22")), "536-22", "{dash:?}");
        }
        for nothing in "\u{200b}\u{200c}\u{200d}\u{2060}\u{feff}\u{ad}\u{200e}\u{202a}".chars() {
            assert_eq!(plain(&format!("Bo{nothing}b@x")), "Bob@x", "{nothing:?}");
        }
        assert_eq!(plain("Ｂｏｂ＠Ｅxample．ｏｒｇ"), "Bob@Example.org");
        assert_eq!(plain("（０３）１２３４ー５６７８"), "(03)1234-5678");
    }

    #[test]
    fn ordinary_text_has_no_second_spelling() {
        for text in [
            "plain \u{201c}quoted\u{201d} caf\u{e9}\u{2019}s \u{2026}",
            "she came \u{2014} and went\u{2014}at last",
            "pages of text \u{2013} and more",
            "你好，世界：「再见」。",
            "スーパーのカード",
            "می\u{200c}خواهم",
        ] {
            assert!(of(text).is_none(), "{text}");
        }
    }

    #[test]
    fn offsets_lead_both_ways() {
        let text = "é \u{200b}b\u{200b}ob@ｅxample.org\u{a0}4111";
        let spelt = of(text).expect("another spelling");
        let at = spelt.text.find("bob@example.org").expect("there");
        let (from, to) = (spelt.map.start(at), spelt.map.end(at + 15));
        assert_eq!(&text[from..to], "b\u{200b}ob@ｅxample.org");
        // The folded text is `e bob@example.org 4111`.
        assert_eq!((spelt.inner.start(2), spelt.inner.end(17)), (at, at + 15));
    }
}
