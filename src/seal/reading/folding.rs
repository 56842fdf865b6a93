//! The folded reading: case, compatibility, marks, invisibles, look-alikes, white space.

use super::map::Map;
use super::scout::Counts;
use crate::rule::fold;

/// What folding saw on the way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Control characters (without tab and line ends).
    pub control: u32,
    /// Invisible characters, tag characters among them.
    pub invisible: u32,
    /// Tag characters, which spell hidden ASCII.
    pub tags: u32,
    /// Words of more than one script.
    pub mixed_words: u32,
}

/// What to do with a byte of ASCII.
const COPY: u8 = 0;
const BLANK: u8 = 1;
const DROP: u8 = 2;
const WIDE: u8 = 3;

const CLASS: [u8; 256] = {
    let mut class = [COPY; 256];
    let mut b = 0;
    while b < 256 {
        class[b] = match b {
            0x09..=0x0d | 0x1c..=0x1f | 0x20 => BLANK,
            0x00..=0x08 | 0x0e..=0x1b | 0x7f | 0x2a | 0x60 => DROP,
            0x80..=0xff => WIDE,
            _ => COPY,
        };
        b += 1;
    }
    class
};

/// Bytes looked at together: compilers turn the look into a few vector instructions.
const STRETCH: usize = 32;

/// Whether a stretch is copied as it is: letters and signs with single blanks between. `blank`:
/// a blank stands before it.
#[expect(
    clippy::needless_bitwise_bool,
    reason = "branches would keep it from vector instructions"
)]
fn plain(stretch: &[u8; STRETCH], blank: bool) -> bool {
    let mut odd = blank && stretch[0] == b' ';
    for b in stretch {
        odd |= (*b < b' ') | (*b >= 0x7f) | (*b == b'*') | (*b == b'`');
    }
    for at in 1..STRETCH {
        odd |= (stretch[at] == b' ') & (stretch[at - 1] == b' ');
    }
    !odd
}

/// Whether folding changes nothing of a text but its case and blanks, so that it has the same words
/// then. Many bytes at a time.
#[expect(
    clippy::needless_bitwise_bool,
    reason = "branches would keep it from vector instructions"
)]
pub fn keeps_words(text: &str) -> bool {
    !text.bytes().fold(false, |odd, b| {
        let control = (b < b'\t') | ((b > b'\r') & (b < 0x1c));
        odd | control | (b >= 0x7f) | (b == b'*') | (b == b'`')
    })
}

/// Folds `text` onto the end of `out`; `map` leads back to `text`.
pub fn fold_text(text: &str, counts: &Counts, out: &mut String, map: &mut Map) -> Seen {
    out.reserve(text.len() + 8);
    let mut seen = Seen {
        control: counts.control(),
        ..Seen::default()
    };
    let looks = if may_pose(counts) {
        LookAlikes::survey(text)
    } else {
        LookAlikes::default()
    };
    seen.mixed_words = looks.mixed;
    let bytes = text.as_bytes();
    let mut at = 0;
    let mut word_end = 0;
    let mut map_word = false;
    while at < bytes.len() {
        // The longest run that is copied as it is: letters with single blanks between them.
        let start = at;
        let mut blank = out.is_empty() || out.ends_with(' ');
        // Whole stretches at once where nothing in them needs a look.
        while let Some(stretch) = bytes.get(at..at + STRETCH).and_then(|s| s.first_chunk()) {
            if !plain(stretch, blank) {
                break;
            }
            blank = stretch[STRETCH - 1] == b' ';
            at += STRETCH;
        }
        while at < bytes.len() {
            let b = bytes[at];
            if CLASS[usize::from(b)] == COPY {
                blank = false;
            } else if b == b' ' && !blank {
                blank = true;
            } else {
                break;
            }
            at += 1;
        }
        if at > start {
            let from = out.len();
            out.push_str(&text[start..at]);
            out[from..].make_ascii_lowercase();
            map.same(start, at - start);
            continue;
        }
        match CLASS[usize::from(bytes[at])] {
            BLANK => {
                if !out.is_empty() && !out.ends_with(' ') {
                    out.push(' ');
                    map.other(1, at, at + 1);
                }
                at += 1;
            }
            DROP => at += 1,
            _ => {
                let Some(c) = text[at..].chars().next() else {
                    break;
                };
                let len = c.len_utf8();
                if looks.any() && at >= word_end {
                    (word_end, map_word) = looks.word(text, at);
                }
                if fold::is_invisible(c) {
                    seen.invisible += 1;
                    if u32::from(c) >= 0xe0020 {
                        seen.tags += 1;
                    }
                }
                if map_word && let Some(plain) = look_alike(c) {
                    out.push(plain);
                    map.other(1, at, at + len);
                    at += len;
                    continue;
                }
                let folded = fold::fold(c);
                let before = out.len();
                for part in folded.as_slice() {
                    if *part != ' ' || !(out.is_empty() || out.ends_with(' ')) {
                        out.push(*part);
                    }
                }
                map.other(out.len() - before, at, at + len);
                at += len;
            }
        }
    }
    seen
}

/// Whether a text with these bytes can have letters of [`is_look_alike_script`].
fn may_pose(counts: &Counts) -> bool {
    // First bytes of U+0340–U+05BF, and of U+1000–U+1FFF.
    (0xcd..=0xd6).any(|b| counts.n(b) > 0) || counts.n(0xe1) > 0
}

/// Whether words of the text mix scripts, and which of them are mapped.
#[derive(Debug, Default)]
struct LookAlikes {
    mixed: u32,
    /// No Cyrillic or Greek letter of the text lacks a Latin look-alike: it is no Russian.
    all_map: bool,
}

impl LookAlikes {
    fn any(&self) -> bool {
        self.mixed > 0
    }

    fn survey(text: &str) -> Self {
        let mut mixed = 0;
        let mut all_map = true;
        let (mut latin, mut other) = (false, false);
        for c in text.chars() {
            if c.is_ascii_alphabetic() || is_latin(c) {
                latin = true;
            } else if is_look_alike_script(c) {
                other = true;
                all_map &= look_alike(c).is_some();
            } else if !(fold::is_invisible(c) || fold::is_mark(c)) {
                mixed += u32::from(latin && other);
                (latin, other) = (false, false);
            }
        }
        mixed += u32::from(latin && other);
        Self { mixed, all_map }
    }

    /// End of the word around `at`, and whether its look-alikes are mapped.
    fn word(&self, text: &str, at: usize) -> (usize, bool) {
        let inside = |c: char| c.is_alphabetic() || fold::is_invisible(c) || fold::is_mark(c);
        // A word longer than this is no word; the bound keeps the walk linear.
        const LONGEST: usize = 128;
        let before = text[..at]
            .chars()
            .rev()
            .take(LONGEST)
            .take_while(|c| inside(*c));
        let mut latin = before.clone().any(is_latin);
        let mut end = at;
        let mut other = false;
        for c in text[at..].chars().take(LONGEST).take_while(|c| inside(*c)) {
            latin |= is_latin(c);
            other |= is_look_alike_script(c);
            end += c.len_utf8();
        }
        (end.max(at + 1), other && (latin || self.all_map))
    }
}

fn is_latin(c: char) -> bool {
    c.is_ascii_alphabetic() || matches!(c, '\u{c0}'..='\u{24f}' if c.is_alphabetic())
}

/// Scripts whose letters pose as Latin ones: Greek, Cyrillic, Armenian, Cherokee.
fn is_look_alike_script(c: char) -> bool {
    matches!(c, '\u{370}'..='\u{3ff}' | '\u{400}'..='\u{52f}' | '\u{531}'..='\u{587}' | '\u{13a0}'..='\u{13f5}')
        && c.is_alphabetic()
}

/// The Latin letter that a Greek, Cyrillic, Armenian or Cherokee one poses as.
fn look_alike(c: char) -> Option<char> {
    Some(match c {
        'а' | 'А' | 'α' | 'Α' | 'ӑ' | 'ӓ' | 'Ꭺ' => 'a',
        'в' | 'В' | 'β' | 'Β' | 'ь' | 'Ь' | 'ъ' | 'Ᏼ' => 'b',
        'с' | 'С' | 'ϲ' | 'ҫ' | 'Ϲ' | 'Ꮯ' => 'c',
        'ԁ' | 'Ԁ' | 'δ' | 'Ꭰ' => 'd',
        'е' | 'Е' | 'ё' | 'Ё' | 'ε' | 'Ε' | 'э' | 'є' | 'Є' | 'ҽ' | 'Ꭼ' => 'e',
        'ғ' | 'ƒ' | 'ϝ' => 'f',
        'ց' | 'ɡ' | 'Ԍ' => 'g',
        'һ' | 'Һ' | 'н' | 'Н' | 'Η' | 'հ' | 'Ꮋ' => 'h',
        'і' | 'І' | 'ї' | 'Ї' | 'ι' | 'Ι' | 'ί' | 'ӏ' | 'Ӏ' | 'Ꭵ' => 'i',
        'ј' | 'Ј' | 'ϳ' | 'յ' | 'Ꭻ' => 'j',
        'к' | 'К' | 'κ' | 'Κ' | 'қ' | 'Ꮶ' => 'k',
        'Ꮮ' => 'l',
        'м' | 'М' | 'Μ' | 'Ꮇ' => 'm',
        'п' | 'η' | 'Ν' | 'ո' | 'и' | 'И' => 'n',
        'о' | 'О' | 'ο' | 'Ο' | 'ό' | 'օ' | 'ө' | 'σ' => 'o',
        'р' | 'Р' | 'ρ' | 'Ρ' | 'Ꮲ' => 'p',
        'ԛ' | 'Ԛ' | 'զ' => 'q',
        'г' | 'я' | 'Я' | 'Ꭱ' => 'r',
        'ѕ' | 'Ѕ' | 'ς' | 'Ꮪ' => 's',
        'т' | 'Т' | 'τ' | 'Τ' | 'Ꭲ' => 't',
        'υ' | 'μ' | 'ս' | 'ц' => 'u',
        'ν' | 'ѵ' | 'Ѵ' | 'Ꮩ' => 'v',
        'ш' | 'Ш' | 'щ' | 'ω' | 'ԝ' | 'Ԝ' | 'ѡ' | 'ա' | 'Ꮃ' => 'w',
        'х' | 'Х' | 'χ' | 'Χ' | 'ҳ' => 'x',
        'у' | 'У' | 'γ' | 'Υ' | 'ү' | 'Ү' | 'ў' | 'ӯ' => 'y',
        'ζ' | 'Ζ' | 'Ꮓ' => 'z',
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folded(text: &str) -> (String, Seen) {
        let (mut out, mut map) = (String::new(), Map::default());
        let seen = fold_text(text, &Counts::of(text), &mut out, &mut map);
        assert_eq!(map.len(), out.len());
        (out, seen)
    }

    #[test]
    fn white_space_markdown_and_case_fold() {
        assert_eq!(
            folded("  **Ignore**\n\tprevious\r\n\r\n`Instructions` \u{7}now ").0,
            "ignore previous instructions now "
        );
    }

    #[test]
    fn words_are_kept_where_nothing_is_dropped() {
        for b in 0..0x80_u8 {
            let text = String::from(char::from(b));
            let class = CLASS[usize::from(b)];
            assert_eq!(keeps_words(&text), class == COPY || class == BLANK, "{b}");
        }
        assert!(!keeps_words("caf\u{e9}") && keeps_words("so it is"));
    }

    #[test]
    fn look_alikes_map_only_in_words_that_mix() {
        assert_eq!(
            folded("іgnоrе рrеvіоus аnd саріtаl").0,
            "ignore previous and capital"
        );
        let russian = "Как приготовить борщ по рецепту Windows";
        assert_eq!(folded(russian).0, fold::phrase(russian));
        assert_eq!(folded("сосо іgnоre").0, "coco ignore");
        assert_eq!(folded("οργή means anger").0, "οργη means anger");
    }

    #[test]
    fn scripts_that_pose_are_told_by_their_bytes() {
        for c in (0x80..0x3000).filter_map(char::from_u32) {
            let text = String::from(c);
            assert!(
                !is_look_alike_script(c) || may_pose(&Counts::of(&text)),
                "{c}"
            );
        }
        assert!(!may_pose(&Counts::of("it\u{2019}s caf\u{e9}\u{2026}")));
    }

    #[test]
    fn hidden_letters_are_counted_and_read() {
        let (text, seen) = folded("Hi \u{e0069}\u{e0067}\u{200b}n\u{ad}ore");
        assert_eq!(text, "hi ignore");
        assert_eq!((seen.invisible, seen.tags), (4, 2));
    }
}
