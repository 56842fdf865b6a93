//! Digits of a text: where they stand, found once for all rules that look for numbers.

use crate::rule::front::Front;

/// Most digits whose places are kept; a text with more counts as full of them.
const MAX_DIGITS: usize = 1 << 16;

/// Bytes looked at together.
const STRETCH: usize = 32;

/// What a number has wherever a regex matches one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Number<'r> {
    /// Digits, at least one.
    pub n: usize,
    /// Bytes within which they stand.
    pub len: usize,
    /// What stands before the first of them.
    pub front: &'r Front,
}

/// Places of the ASCII digits of a text.
#[derive(Debug, Default)]
pub(super) struct Digits {
    places: Vec<u32>,
    /// The byte before each; `None` at the start of the text.
    before: Vec<Option<u8>>,
    /// There were more.
    full: bool,
}

impl Digits {
    /// Finds the digits of a text.
    pub(super) fn of(text: &str) -> Self {
        let mut digits = Self::default();
        let bytes = text.as_bytes();
        for (from, stretch) in (0_usize..).step_by(STRETCH).zip(bytes.chunks(STRETCH)) {
            // A look without branches, which compilers turn into vector instructions.
            let any = stretch
                .iter()
                .fold(false, |any, b| any | b.is_ascii_digit());
            if !any {
                continue;
            }
            for (at, _) in (from..).zip(stretch).filter(|(_, b)| b.is_ascii_digit()) {
                if digits.places.len() == MAX_DIGITS {
                    digits.full = true;
                    return digits;
                }
                digits.places.push(u32::try_from(at).unwrap_or(u32::MAX));
                digits.before.push(at.checked_sub(1).map(|at| bytes[at]));
            }
        }
        digits
    }

    /// Whether there are any.
    pub(super) fn some(&self) -> bool {
        !self.places.is_empty()
    }

    /// Whether the digits of a number stand there.
    pub(super) fn have(&self, number: &Number<'_>) -> bool {
        self.full || self.rows(number).next().is_some()
    }

    /// First and last place of each `n` digits in a row that stand within `len` bytes, with what a
    /// match needs before its first digit.
    fn rows<'a>(&'a self, number: &Number<'a>) -> impl Iterator<Item = (usize, usize)> + 'a {
        let Number { n, len, front } = *number;
        self.places
            .windows(n.max(1))
            .zip(&self.before)
            .filter_map(move |(row, before)| {
                let (first, last) = (*row.first()? as usize, *row.last()? as usize);
                (last - first < len && front.fits(*before)).then_some((first, last))
            })
    }

    /// Stretches that hold every match of such a number; `None` is the whole
    /// text.
    pub(super) fn stretches(
        &self,
        number: &Number<'_>,
        text_len: usize,
    ) -> Option<Vec<(usize, usize)>> {
        if self.full {
            return None;
        }
        let mut merged: Vec<(usize, usize)> = Vec::new();
        let len = number.len;
        for (first, last) in self.rows(number) {
            let from = (last + 1).saturating_sub(len);
            let to = (first + len).min(text_len);
            match merged.last_mut() {
                Some(old) if from <= old.1 => old.1 = to.max(old.1),
                _ => merged.push((from, to)),
            }
        }
        Some(merged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn front(source: &str) -> Front {
        Front::of(&regex_syntax::parse(source).expect("parses"))
    }

    #[test]
    fn numbers_are_found_where_digits_crowd() {
        let text = "in 1999 and 2001 she paid with 4111 1111 1111 1111 at once";
        let digits = Digits::of(text);
        let any = front("[0-9]");
        let number = |n, len| Number {
            n,
            len,
            front: &any,
        };
        assert!(digits.have(&number(16, 19)));
        assert!(!digits.have(&number(16, 18)) && !digits.have(&number(17, 21)));
        let found = digits.stretches(&number(16, 21), text.len());
        let found = found.expect("few digits");
        assert_eq!(found.len(), 1);
        let card = text.find("4111").expect("there");
        assert!(found[0].0 <= card && found[0].1 >= card + 19);
        assert!(Digits::of("none").stretches(&number(1, 9), 4) == Some(Vec::new()));
    }

    #[test]
    fn what_stands_before_counts() {
        let letters = front("[A-Z]{2}[0-9]{4}");
        let number = Number {
            n: 4,
            len: 6,
            front: &letters,
        };
        assert!(!Digits::of("in 1999 and 2001").have(&number));
        assert!(Digits::of("in 1999, AB2001").have(&number));
    }

    #[test]
    fn more_digits_than_are_kept_count_as_everywhere() {
        let digits = Digits::of(&"7".repeat(MAX_DIGITS + 1));
        let any = front("[0-9]");
        let number = Number {
            n: 1 << 20,
            len: 4,
            front: &any,
        };
        assert!(digits.have(&number) && digits.stretches(&number, 1).is_none());
    }
}
