//! Letters as the matcher sees them: 32 classes of ASCII, groups of three and four, how often they
//! stand in ordinary text, and which of them a text has.

/// Bits of a class.
pub(super) const CLASS_BITS: u32 = 5;
/// Groups of three classes.
pub(super) const THREES: usize = 1 << (3 * CLASS_BITS);
/// Keeps the last four classes of a row.
pub(super) const FOUR: u32 = (1 << (4 * CLASS_BITS)) - 1;
/// Keeps the last three.
pub(super) const THREE: u32 = (1 << (3 * CLASS_BITS)) - 1;

/// Class of each byte: letters 1–26, digits 27–31 by their remainder, everything else 0.
pub(super) const CLASS: [u8; 256] = {
    let mut class = [0; 256];
    let mut at = 0_u8;
    while at < 26 {
        class[(b'a' + at) as usize] = at + 1;
        class[(b'A' + at) as usize] = at + 1;
        at += 1;
    }
    let mut digit = 0_u8;
    while digit < 10 {
        class[(b'0' + digit) as usize] = 27 + digit % 5;
        digit += 1;
    }
    class
};

/// Class of a byte.
#[inline]
pub(super) fn class(byte: u8) -> u32 {
    u32::from(CLASS[usize::from(byte)])
}

/// Classes of a literal, with a 0 where a word ends at its ends.
pub(super) fn classes(text: &str, starts: bool, ends: bool) -> Vec<u8> {
    let mut row = Vec::with_capacity(text.len() + 2);
    row.extend(starts.then_some(0));
    row.extend(text.bytes().map(|b| CLASS[usize::from(b)]));
    row.extend(ends.then_some(0));
    row
}

/// Number of a group of classes.
pub(super) fn group(row: &[u8]) -> u32 {
    row.iter().fold(0, |n, c| (n << CLASS_BITS) | u32::from(*c))
}

/// Which groups of three a text has.
#[derive(Debug, Clone)]
pub(super) struct Threes(Box<[u64; THREES / 64]>);

impl Default for Threes {
    fn default() -> Self {
        Self(Box::new([0; THREES / 64]))
    }
}

impl Threes {
    pub(super) fn clear(&mut self) {
        self.0.fill(0);
    }

    #[inline]
    pub(super) fn set(&mut self, three: u32) {
        let at = (three & THREE) as usize;
        self.0[at / 64] |= 1 << (at % 64);
    }

    #[inline]
    pub(super) fn has(&self, three: u16) -> bool {
        let at = usize::from(three) % THREES;
        self.0[at / 64] & (1 << (at % 64)) != 0
    }
}

/// How often groups of four stand in ordinary English chat, counted once.
const COUNTED: &str = include_str!("grams.txt");
/// Bytes of text to which the counts refer.
const PER: f32 = 1_048_576.0;
/// What a group that was not counted is taken to have.
const UNSEEN: f32 = 4.0;
/// What a sign or a lone letter is taken to have: little can be said of it.
const COMMON: f32 = 16_384.0;

/// Occurrences in a byte of ordinary text, estimated from groups of four.
pub(super) struct Rates {
    fours: Vec<u8>,
    threes: Vec<f32>,
}

impl Rates {
    /// Reads the counts.
    pub(super) fn new() -> Self {
        let mut fours = vec![0; 1 << (4 * CLASS_BITS)];
        let mut threes = vec![0.0; THREES];
        for line in COUNTED.lines().filter(|l| !l.starts_with('#')) {
            let Some((power, groups)) = line.split_once(' ') else {
                continue;
            };
            let power: u8 = power.parse().unwrap_or(0);
            for four in groups.as_bytes().chunks_exact(4) {
                let row = [four[0], four[1], four[2], four[3]].map(|b| CLASS[usize::from(b)]);
                fours[group(&row) as usize] = power;
                threes[group(&row[..3]) as usize] += f32::from(1_u16 << power.min(15));
            }
        }
        Self { fours, threes }
    }

    /// How often a group of four stands in a megabyte.
    pub(super) fn four(&self, four: u32) -> f32 {
        match self.fours[(four & FOUR) as usize] {
            0 => UNSEEN,
            power => f32::from(1_u16 << power.min(15)),
        }
    }

    /// How often a group of three stands in a megabyte.
    pub(super) fn three(&self, three: u32) -> f32 {
        self.threes[(three & THREE) as usize].max(UNSEEN)
    }

    /// How often a literal stands in a byte of ordinary English text, at most.
    pub(super) fn of(&self, text: &str, starts: bool, ends: bool) -> f32 {
        if !text.is_ascii() {
            return UNSEEN / PER;
        }
        let row = classes(text, starts, ends);
        let rate = match row.len() {
            0..=2 => COMMON,
            3 => self.three(group(&row)),
            _ => row
                .windows(4)
                .map(|w| self.four(group(w)))
                .fold(COMMON, f32::min),
        };
        // Of equally rare ones the longer is rarer.
        let long = f32::from(u16::try_from(row.len()).unwrap_or(u16::MAX));
        rate / PER * (1.0 + 1.0 / long)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_words_are_common() {
        let rates = Rates::new();
        let of = |text: &str| rates.of(text, true, true);
        assert!(of("the") > of("what") && of("what") > of("instructions"));
        assert!(of("instructions") > of("disregard"));
        assert!(of("忽略") < of("your"));
    }

    #[test]
    fn groups_are_those_of_the_text() {
        let mut threes = Threes::default();
        let row = classes("an id", true, true);
        for w in row.windows(3) {
            threes.set(group(w));
        }
        let three = |text: &[u8]| {
            let row: Vec<u8> = text.iter().map(|b| CLASS[usize::from(*b)]).collect();
            u16::try_from(group(&row)).expect("15 bits")
        };
        assert!(threes.has(three(b" id")) && threes.has(three(b"_ID")));
        assert!(!threes.has(three(b"did")));
        threes.clear();
        assert!(!threes.has(three(b" id")));
    }
}
