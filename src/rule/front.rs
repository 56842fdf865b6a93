//! What stands right before the first digit of a match: most numbers in a text are years and
//! counts with a blank before them, most identifiers are not.

use regex_syntax::hir::{Class, Hir, HirKind};

/// Rounds after which the last bytes of a repeated expression no longer change.
const ROUNDS: usize = 3;

/// Bytes that may stand right before the first ASCII digit of a match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Front {
    bytes: [u64; 4],
    /// The digit may be the first byte of the match: anything may stand before it.
    any: bool,
}

impl Front {
    const NONE: Self = Self {
        bytes: [0; 4],
        any: false,
    };

    /// Studies a parsed regex.
    pub fn of(hir: &Hir) -> Self {
        let mut found = Self::NONE;
        let start = Self {
            any: true,
            ..Self::NONE
        };
        walk(hir, start, &mut found);
        found
    }

    /// Whether a digit behind this byte may be the first of a match; `None` is the text's start.
    pub fn fits(&self, before: Option<u8>) -> bool {
        self.any || before.is_some_and(|b| self.has(b))
    }

    /// Whether it tells nothing.
    pub fn is_any(&self) -> bool {
        self.any
    }

    fn has(&self, b: u8) -> bool {
        self.bytes[usize::from(b / 64)] >> (b % 64) & 1 != 0
    }

    fn add(&mut self, b: u8) {
        self.bytes[usize::from(b / 64)] |= 1 << (b % 64);
    }

    fn range(&mut self, from: u8, to: u8) {
        for b in from..=to {
            if !b.is_ascii_digit() {
                self.add(b);
            }
        }
    }

    fn or(mut self, other: Self) -> Self {
        for (a, b) in self.bytes.iter_mut().zip(other.bytes) {
            *a |= b;
        }
        self.any |= other.any;
        self
    }

    fn is_none(&self) -> bool {
        *self == Self::NONE
    }
}

/// Follows an expression from what may stand before it, as long as no digit was seen; what stands
/// before a first digit goes to `found`.
fn walk(hir: &Hir, before: Front, found: &mut Front) -> Front {
    if before.is_none() {
        return before;
    }
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => before,
        HirKind::Literal(l) => {
            let mut last = before;
            for b in &*l.0 {
                if b.is_ascii_digit() {
                    *found = found.or(last);
                    return Front::NONE;
                }
                last = Front::NONE;
                last.add(*b);
            }
            last
        }
        HirKind::Class(class) => {
            let mut last = Front::NONE;
            let mut digits = false;
            let mut see = |from: u32, to: u32| {
                digits |= from <= u32::from(b'9') && to >= u32::from(b'0');
                let ascii = |n: u32| u8::try_from(n.min(0x7f)).unwrap_or(0x7f);
                if from < 0x80 {
                    last.range(ascii(from), ascii(to));
                }
                if to >= 0x80 {
                    // The last byte of a letter beyond ASCII, or of one that is no text.
                    last.range(0x80, 0xff);
                }
            };
            match class {
                Class::Unicode(c) => c
                    .ranges()
                    .iter()
                    .for_each(|r| see(u32::from(r.start()), u32::from(r.end()))),
                Class::Bytes(c) => c
                    .ranges()
                    .iter()
                    .for_each(|r| see(u32::from(r.start()), u32::from(r.end()))),
            }
            if digits {
                *found = found.or(before);
            }
            last
        }
        HirKind::Capture(c) => walk(&c.sub, before, found),
        HirKind::Concat(parts) => parts.iter().fold(before, |b, part| walk(part, b, found)),
        HirKind::Alternation(parts) => parts
            .iter()
            .fold(Front::NONE, |all, part| all.or(walk(part, before, found))),
        HirKind::Repetition(r) => {
            let mut all = if r.min == 0 { before } else { Front::NONE };
            let mut round = before;
            for _ in 0..ROUNDS.min(r.max.map_or(ROUNDS, |n| n as usize)) {
                round = walk(&r.sub, round, found);
                all = all.or(round);
            }
            all
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(source: &str) -> Front {
        Front::of(&regex_syntax::parse(source).expect("parses"))
    }

    #[test]
    fn identifiers_have_letters_before_their_digits() {
        let front = of(r"(?:^|[^0-9A-Za-z])[A-Z]{5}[0-9]{4}[A-Z]");
        assert!(front.fits(Some(b'K')) && !front.fits(Some(b' ')) && !front.fits(None));
        let front = of(r"\+?[0-9]{3}");
        assert!(front.is_any() && front.fits(None));
        let front = of(r"(?:no|nr)\.? ?[0-9]{3}");
        assert!(front.fits(Some(b'o')) && front.fits(Some(b'.')) && front.fits(Some(b' ')));
        assert!(!front.fits(Some(b'n')));
        let front = of(r"[A-Z][A-Z9]{4}[0-9]{6}");
        assert!(front.fits(Some(b'Q')) && !front.fits(Some(b'9')) && !front.fits(Some(b'-')));
    }

    #[test]
    fn letters_beyond_ascii_may_stand_before() {
        let front = of(r"(?:^|[^a])[0-9]{3}");
        assert!(front.is_any());
        let front = of(r"x[^a][0-9]{3}");
        assert!(front.fits(Some(0x80)) && front.fits(Some(b' ')) && !front.fits(Some(b'a')));
    }
}
