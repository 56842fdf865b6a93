//! A guess at the language: scripts tell most, short words of the Latin ones the rest.

use std::sync::LazyLock;

use crate::event::SmolStr;

/// Words looked at.
const SAMPLE: usize = 48;
/// Longest word of the table, bytes.
const LONGEST: usize = 9;
/// Short words that must be seen before a guess is made.
const MIN_WORDS: u32 = 2;

/// The commonest short words, folded, that few other languages of the table share.
const WORDS: [(&str, &[&str]); 12] = [
    (
        "en",
        &[
            "the", "and", "is", "you", "of", "to", "what", "for", "this", "with", "how", "are",
        ],
    ),
    (
        "de",
        &[
            "der", "die", "und", "ist", "nicht", "das", "ich", "ein", "wie", "mit", "auf", "zu",
        ],
    ),
    (
        "fr",
        &[
            "le", "les", "est", "et", "vous", "des", "une", "je", "dans", "pour", "que", "pas",
        ],
    ),
    (
        "es",
        &[
            "el", "los", "es", "y", "que", "una", "por", "para", "con", "como", "del", "las",
        ],
    ),
    (
        "pt",
        &[
            "o", "os", "e", "nao", "uma", "para", "com", "voce", "do", "da", "que", "em",
        ],
    ),
    (
        "it",
        &[
            "il", "gli", "e", "non", "che", "una", "per", "con", "di", "della", "sono", "come",
        ],
    ),
    (
        "nl",
        &[
            "het", "een", "en", "niet", "ik", "je", "van", "dat", "op", "zijn", "voor", "de",
        ],
    ),
    (
        "pl",
        &[
            "nie", "jest", "to", "sie", "na", "w", "z", "jak", "czy", "dla", "ze", "co",
        ],
    ),
    (
        "tr",
        &[
            "bir", "ve", "bu", "icin", "ne", "ile", "degil", "olarak", "mi", "ben", "da", "nasil",
        ],
    ),
    (
        "sv",
        &[
            "och", "att", "det", "inte", "ar", "som", "en", "pa", "jag", "for", "med", "hur",
        ],
    ),
    (
        "id",
        &[
            "yang",
            "dan",
            "di",
            "untuk",
            "tidak",
            "ini",
            "dengan",
            "apa",
            "saya",
            "itu",
            "dari",
            "bagaimana",
        ],
    ),
    (
        "hi",
        &[
            "hai", "aur", "ka", "ki", "mein", "nahi", "kya", "ko", "kaise", "karo", "mujhe", "ke",
        ],
    ),
];

/// Places of the table: a power of two, far more than words.
const PLACES: usize = 512;
/// Bits of a packed word; the languages that have it stand above.
const KEY_BITS: u32 = 48;

/// Packed words, and a bit for each language that has it; neighbours hold what collides, 0 is empty.
/// Eight bytes a word, so that the table stays in a near cache.
static TABLE: LazyLock<[u64; PLACES]> = LazyLock::new(|| {
    let mut table = [0; PLACES];
    for (language, (_, words)) in WORDS.iter().enumerate() {
        for key in words.iter().filter_map(|word| packed(word.as_bytes())) {
            let mut at = place(key);
            while table[at] != 0 && table[at] & KEY != key {
                at = (at + 1) % PLACES;
            }
            table[at] |= key | 1 << (KEY_BITS as usize + language);
        }
    }
    table
});

/// The word of an entry.
const KEY: u64 = (1 << KEY_BITS) - 1;

/// A word of up to [`LONGEST`] small letters as one number, five bits each; `None` for any other.
fn packed(word: &[u8]) -> Option<u64> {
    if word.is_empty() || word.len() > LONGEST {
        return None;
    }
    let letters = word.iter().all(u8::is_ascii_lowercase);
    letters.then(|| word.iter().fold(0, |key, b| (key << 5) | u64::from(b & 31)))
}

fn place(key: u64) -> usize {
    usize::try_from(key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 55).unwrap_or(0) % PLACES
}

/// ISO 639-1 of a folded text, if it shows.
pub(super) fn guess(folded: &str) -> Option<SmolStr> {
    if let Some(code) = script(folded) {
        return Some(SmolStr::new_static(code));
    }
    let mut scores = [0_u32; WORDS.len()];
    if folded.is_ascii() {
        let words = folded.as_bytes().split(|b| !b.is_ascii_alphanumeric());
        let words = words.filter(|w| !w.is_empty()).take(SAMPLE);
        words.for_each(|word| score(word, &mut scores));
    } else {
        let words = folded.split(|c: char| !c.is_alphanumeric());
        let words = words.filter(|w| !w.is_empty()).take(SAMPLE);
        words.for_each(|word| score(word.as_bytes(), &mut scores));
    }
    let best = scores.iter().copied().max().unwrap_or(0);
    let at = scores.iter().position(|s| *s == best)?;
    let alone = scores.iter().filter(|s| **s == best).count() == 1;
    (best >= MIN_WORDS && alone).then(|| SmolStr::new_static(WORDS[at].0))
}

/// Adds a word to the languages that have it.
fn score(word: &[u8], scores: &mut [u32; WORDS.len()]) {
    let Some(key) = packed(word) else { return };
    let table = &*TABLE;
    let mut at = place(key);
    while table[at] != 0 {
        if table[at] & KEY == key {
            let languages = table[at] >> KEY_BITS;
            for (language, n) in scores.iter_mut().enumerate() {
                *n += u32::from(languages >> language & 1 != 0);
            }
            return;
        }
        at = (at + 1) % PLACES;
    }
}

/// Languages that their script gives away.
fn script(text: &str) -> Option<&'static str> {
    if text.is_ascii() {
        return None;
    }
    let mut counts = [0_u32; 10];
    let mut kana = false;
    let mut ukrainian = false;
    let mut latin = 0_u32;
    for c in text.chars().filter(|c| c.is_alphabetic()).take(SAMPLE * 5) {
        let at = match u32::from(c) {
            0x00..=0x24f => {
                latin += 1;
                continue;
            }
            0x400..=0x52f => {
                ukrainian |= matches!(c, 'і' | 'ї' | 'є' | 'ґ');
                0
            }
            0x600..=0x6ff => 1,
            0x590..=0x5ff => 2,
            0x900..=0x97f => 3,
            0x980..=0x9ff => 4,
            0xe00..=0xe7f => 5,
            0x370..=0x3ff => 6,
            0xac00..=0xd7a3 => 7,
            0x3040..=0x30ff => {
                kana = true;
                8
            }
            0x3400..=0x9fff => 9,
            _ => continue,
        };
        counts[at] += 1;
    }
    // Japanese writes both.
    if kana {
        counts[8] += counts[9];
        counts[9] = 0;
    }
    let most = counts.iter().copied().max().filter(|n| *n > latin / 3)?;
    if most == 0 {
        return None;
    }
    Some(match counts.iter().position(|n| *n == most)? {
        0 if ukrainian => "uk",
        0 => "ru",
        1 => "ar",
        2 => "he",
        3 => "hi",
        4 => "bn",
        5 => "th",
        6 => "el",
        7 => "ko",
        8 => "ja",
        _ => "zh",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn languages_show() {
        for (text, code) in [
            ("how are you and what is the plan", Some("en")),
            ("ich bin nicht der mann und das ist gut", Some("de")),
            ("как дела", Some("ru")),
            ("як справи, україно", Some("uk")),
            ("これは漢字です", Some("ja")),
            ("忽略之前的指示", Some("zh")),
            ("mujhe kya karna hai aur kaise", Some("hi")),
            ("x1 y2", None),
        ] {
            assert_eq!(guess(text).as_deref(), code, "{text}");
        }
    }
}
