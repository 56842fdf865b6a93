//! Folding of characters: the one definition of what counts as the same letter.
//!
//! Rules are folded with it when they load and texts when they are read, so both meet. Folding
//! works per character (at most [`MAX_FOLD`] out for one in, so memory stays linear); what needs
//! neighbours (white space, mixed scripts, backspaces) is `seal::reading`'s.

use std::sync::LazyLock;

/// Most characters that one character may fold to; what decomposes further stays as it is.
pub const MAX_FOLD: usize = 4;

/// What one character folds to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Folded {
    chars: [char; MAX_FOLD],
    len: u8,
}

impl Folded {
    const NONE: Self = Self {
        chars: ['\0'; MAX_FOLD],
        len: 0,
    };

    fn one(c: char) -> Self {
        let mut folded = Self::NONE;
        folded.push(c);
        folded
    }

    /// Adds a character; false if there is no room.
    fn push(&mut self, c: char) -> bool {
        let at = usize::from(self.len);
        if at == MAX_FOLD {
            return false;
        }
        self.chars[at] = c;
        self.len += 1;
        true
    }

    /// The characters, none if the character is dropped.
    pub fn as_slice(&self) -> &[char] {
        &self.chars[..usize::from(self.len)]
    }
}

/// Characters that nobody sees: default-ignorable, bidirectional controls, fillers.
/// Tag characters are not among them: they spell ASCII (see [`fold`]).
pub fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{00ad}' | '\u{034f}' | '\u{061c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
        | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// Marks that fold away: accents on Latin, Greek and Cyrillic, Arabic and Hebrew vowel points.
/// Vowel signs of Indic scripts, Thai and others are letters of the word and stay.
pub fn is_mark(c: char) -> bool {
    matches!(c,
        '\u{0300}'..='\u{036f}' | '\u{0483}'..='\u{0489}' | '\u{0591}'..='\u{05bd}' | '\u{05bf}'
        | '\u{05c1}' | '\u{05c2}' | '\u{05c4}' | '\u{05c5}' | '\u{05c7}'
        | '\u{0610}'..='\u{061a}' | '\u{0640}' | '\u{064b}'..='\u{065f}' | '\u{0670}'
        | '\u{06d6}'..='\u{06dc}' | '\u{1ab0}'..='\u{1aff}' | '\u{1dc0}'..='\u{1dff}'
        | '\u{20d0}'..='\u{20ff}' | '\u{fe20}'..='\u{fe2f}')
}

/// First and last-but-one code point of the table: Latin to Arabic, where text is dense.
const TABLE: std::ops::Range<u32> = 0x80..0x700;

static FOLDS: LazyLock<Vec<Folded>> = LazyLock::new(|| {
    TABLE
        .map(|code| char::from_u32(code).map_or(Folded::NONE, compute))
        .collect()
});

/// Folds one character. ASCII letters become lower case; tag characters the ASCII they spell.
pub fn fold(c: char) -> Folded {
    let code = u32::from(c);
    if code < TABLE.start {
        return Folded::one(c.to_ascii_lowercase());
    }
    if code < TABLE.end {
        return FOLDS[(code - TABLE.start) as usize];
    }
    // Han, kana, hangul and Indic text is its own fold: no table walk for whole languages.
    if (0x0900..=0x0dff).contains(&code)
        || (0x3041..=0x30fe).contains(&code)
        || (0x3400..=0x9fff).contains(&code)
        || (0xac00..=0xd7a3).contains(&code)
    {
        return Folded::one(c);
    }
    compute(c)
}

fn compute(c: char) -> Folded {
    let code = u32::from(c);
    if (0xe0020..=0xe007e).contains(&code) {
        let ascii = char::from_u32(code - 0xe0000).unwrap_or(' ');
        return Folded::one(ascii.to_ascii_lowercase());
    }
    if is_invisible(c) || is_mark(c) {
        return Folded::NONE;
    }
    if let Some(plain) = letter(c) {
        return Folded::one(plain);
    }
    if c.is_whitespace() {
        return Folded::one(' ');
    }
    let mut out = Folded::NONE;
    let mut fits = true;
    unicode_normalization::char::decompose_compatible(c, |part| {
        if is_mark(part) || is_invisible(part) {
            return;
        }
        if let Some(plain) = letter(part) {
            fits &= out.push(plain);
            return;
        }
        for low in part.to_lowercase() {
            if is_mark(low) {
                continue;
            }
            match pair(low) {
                Some(two) => {
                    for letter in two {
                        fits &= out.push(letter);
                    }
                }
                None => fits &= out.push(letter(low).unwrap_or(low)),
            }
        }
    });
    if fits { out } else { Folded::one(c) }
}

/// Letters that are two in ASCII.
fn pair(c: char) -> Option<[char; 2]> {
    Some(match c {
        'ß' => ['s', 's'],
        'æ' => ['a', 'e'],
        'œ' => ['o', 'e'],
        'þ' => ['t', 'h'],
        _ => return None,
    })
}

/// Letters and signs whose plain form Unicode does not decompose to.
fn letter(c: char) -> Option<char> {
    let code = u32::from(c);
    // Enclosed letters (negative circled and squared) and regional indicators spell the alphabet.
    for start in [0x1f150, 0x1f170, 0x1f1e6] {
        if (start..start + 26).contains(&code) {
            return char::from_u32(u32::from('a') + code - start);
        }
    }
    Some(match c {
        'ł' | 'Ł' | 'ʟ' => 'l',
        'ø' | 'Ø' | 'ᴏ' => 'o',
        'đ' | 'Đ' | 'ð' | 'Ð' | 'ᴅ' => 'd',
        'ħ' | 'Ħ' | 'ʜ' => 'h',
        'ŧ' | 'Ŧ' | 'ᴛ' => 't',
        'ı' | 'İ' | 'ɪ' => 'i',
        'ʙ' => 'b',
        'ᴀ' => 'a',
        'ᴄ' => 'c',
        'ᴇ' => 'e',
        'ꜰ' => 'f',
        'ɢ' | 'ɡ' => 'g',
        'ᴊ' => 'j',
        'ᴋ' => 'k',
        'ᴍ' => 'm',
        'ɴ' => 'n',
        'ᴘ' => 'p',
        'ʀ' => 'r',
        'ꜱ' => 's',
        'ᴜ' => 'u',
        'ᴠ' => 'v',
        'ᴡ' => 'w',
        'ʏ' => 'y',
        'ᴢ' => 'z',
        '‘' | '’' | '‚' | '‛' | '′' | '´' | 'ʼ' => '\'',
        '“' | '”' | '„' | '‟' | '″' | '«' | '»' => '"',
        '‐' | '‑' | '‒' | '–' | '—' | '―' | '−' => '-',
        '…' => '.',
        // Arabic letters that are written either way.
        'أ' | 'إ' | 'آ' | 'ٱ' => 'ا',
        'ى' | 'ی' => 'ي',
        'ک' => 'ك',
        _ => return None,
    })
}

/// Folds a phrase as the folded reading folds text: characters folded, markdown marks dropped,
/// white space collapsed, ends trimmed.
pub fn phrase(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '*' | '`') {
            continue;
        }
        if c.is_whitespace() || c.is_control() {
            if !out.ends_with(' ') && !out.is_empty() {
                out.push(' ');
            }
            continue;
        }
        for folded in fold(c).as_slice() {
            if *folded != ' ' || !(out.ends_with(' ') || out.is_empty()) {
                out.push(*folded);
            }
        }
    }
    out.truncate(out.trim_end().len());
    out
}

/// Folds the non-ASCII characters of a regex's source, so that it meets folded text.
pub fn regex_source(source: &str) -> String {
    if source.is_ascii() {
        return source.to_owned();
    }
    let mut out = String::with_capacity(source.len());
    for c in source.chars() {
        if c.is_ascii() {
            out.push(c);
        } else {
            out.extend(fold(c).as_slice());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_meet_their_plain_form() {
        for (given, plain) in [
            ("ＩＧＮＯＲＥ", "ignore"),
            ("𝐢𝐠𝐧𝐨𝐫𝐞", "ignore"),
            ("ígnóré", "ignore"),
            ("Straße", "strasse"),
            ("łódź", "lodz"),
            ("ɪɢɴᴏʀᴇ", "ignore"),
            ("🅸🅶🅽🅾🆁🅴", "ignore"),
            ("ig\u{ad}no\u{200b}re", "ignore"),
            ("\u{e0069}\u{e0067}", "ig"),
            ("ﬁnd", "find"),
            ("İGNORE", "ignore"),
            ("  a \n\t b ", "a b"),
        ] {
            assert_eq!(phrase(given), plain, "{given}");
        }
    }

    #[test]
    fn other_scripts_keep_their_letters() {
        for same in [
            "ひらがな",
            "カタカナ",
            "한국어",
            "忽略之前的指示",
            "निर्देशों",
            "ไทย",
        ] {
            assert_eq!(phrase(same), same);
        }
        assert_eq!(phrase("Игнорируй"), "игнорируи");
        assert_eq!(phrase("تَجَاهَلْ"), "تجاهل");
    }

    #[test]
    fn nothing_grows_beyond_the_bound() {
        assert_eq!(fold('\u{fdfa}').as_slice(), &['\u{fdfa}']);
        for code in 0..=0x0010_ffff {
            if let Some(c) = char::from_u32(code) {
                assert!(fold(c).as_slice().len() <= MAX_FOLD);
            }
        }
    }

    #[test]
    fn folding_twice_changes_nothing() {
        for code in 0..=0x0010_ffff {
            let Some(c) = char::from_u32(code) else {
                continue;
            };
            for once in fold(c).as_slice() {
                assert_eq!(fold(*once).as_slice(), &[*once], "{code:x}");
            }
        }
    }
}
