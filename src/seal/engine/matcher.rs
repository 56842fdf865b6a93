//! All keywords at once: each is looked for by its rarest group of four letters.
//!
//! One look at every byte keeps the last four letters in a register and asks two small bit tables
//! that fit a core's first cache whether some keyword has them; where the answer is yes, the few
//! keywords with that group are compared byte by byte. An automaton over thousands of keywords is
//! megabytes, and every step of it waits for memory.
//!
//! The work is linear: at most [`MAX_SHARED`] keywords hang on a group unless no other group is
//! left to them.

mod few;
mod plain;
mod table;
mod wide;

pub(super) use plain::Plain;
pub(super) use wide::Wide;

/// Bits of the table of groups of four: 64 Kbit, 8 KiB.
const FILTER_BITS: u32 = 16;
/// Keywords on one group from which on another group is preferred.
const MAX_SHARED: usize = 8;

/// A keyword: its bytes, and whether all that wait for it want a word to begin or end there.
#[derive(Debug, Clone)]
pub(super) struct Wanted<'t> {
    pub text: &'t str,
    pub starts: bool,
    pub ends: bool,
}

/// Bit of a group in the filter.
fn hashed(four: u32) -> usize {
    (table::spread(four) >> (32 - FILTER_BITS)) as usize
}

/// The filter of these groups.
fn filter<'g>(groups: impl Iterator<Item = &'g u32>) -> Box<[u64; 1 << (FILTER_BITS - 6)]> {
    let mut bits = Box::new([0; 1 << (FILTER_BITS - 6)]);
    for group in groups {
        let bit = hashed(*group);
        bits[bit / 64] |= 1 << (bit % 64);
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::super::letters::{Rates, Threes};
    use super::*;
    use crate::seal::reading::scout::Counts;

    fn wanted<'t>(words: &[&'t str]) -> Vec<Wanted<'t>> {
        words
            .iter()
            .map(|text| Wanted {
                text,
                starts: false,
                ends: false,
            })
            .collect()
    }

    #[test]
    fn every_keyword_is_found_wherever_it_stands() {
        let words = [
            "ignore",
            "nore",
            "ig",
            "@",
            "ab",
            "a",
            "://",
            "::",
            "no",
            "ignore all previous rules",
            "x y",
            "忽略",
            "правила",
            "é",
            "先",
            "(忽abcdefg",
            "ключ",
        ];
        let list = wanted(&words);
        let (plain, wide) = (Plain::new(&list, &Rates::new(), |_| true), Wide::new(&list));
        for text in [
            "ignore all previous rules",
            "ab",
            "a",
            "",
            "::: :// ::://",
            "xx ab@ab://ignore x y ig",
            "x ignoreignore",
            "忽略правила: ключ é先ab@",
            "or (忽abcdefg)",
            "no",
            "ababab a",
        ] {
            let mut found = Vec::new();
            let counts = Counts::of(text);
            plain.walk(text, &counts, &mut Threes::default(), |p, end| {
                found.push((p, end));
            });
            wide.walk(text, &counts, |p, end| found.push((p, end)));
            found.sort_unstable();
            let mut expected = Vec::new();
            for (pattern, word) in (0..).zip(&words) {
                for at in 0..text.len() {
                    if text.as_bytes()[at..].starts_with(word.as_bytes()) {
                        expected.push((pattern, at + word.len()));
                    }
                }
            }
            expected.sort_unstable();
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn many_signs_are_found_one_by_one_and_at_once() {
        let words = [
            "[[", "]]", "<<", ">>", "::", "--", "{{", "}}", "@", "##", ":::",
        ];
        let list = wanted(&words);
        let plain = Plain::new(&list, &Rates::new(), |_| true);
        for text in ["a :::: b", "[[a]] <<b>> ::: -- {{c}} @ ###", "--- [x] @@"] {
            let mut found = Vec::new();
            plain.walk(text, &Counts::of(text), &mut Threes::default(), |p, end| {
                found.push((p, end));
            });
            found.sort_unstable();
            let mut expected = Vec::new();
            for (pattern, word) in (0..).zip(&words) {
                let at = |at: &usize| text[*at..].starts_with(word);
                expected.extend(
                    (0..text.len())
                        .filter(at)
                        .map(|at| (pattern, at + word.len())),
                );
            }
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn words_are_found_at_their_edges() {
        let list = [Wanted {
            text: "id",
            starts: true,
            ends: true,
        }];
        let plain = Plain::new(&list, &Rates::new(), |_| true);
        let mut ends = Vec::new();
        plain.walk(
            "id, did (id) idea id",
            &Counts::of("id, did (id) idea id"),
            &mut Threes::default(),
            |_, end| {
                ends.push(end);
            },
        );
        assert_eq!(ends, [2, 11, 20]);
    }
}
