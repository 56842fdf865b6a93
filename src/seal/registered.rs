//! Registered and hunted texts: all their prints under every content key, without those of ordinary
//! language, and canaries, which are one long random word.

use super::engine;
use super::print::{Printer, Prints, Words};
use super::sketch::Sealer;
use crate::event::{Kid, Role, Side};

/// Common runs of words whose prints never count.
const BACKGROUND: &str = include_str!("../../rules/background.txt");
/// Random characters of a canary: 100 bits in base 32.
const CANARY_CHARS: usize = 20;
/// How every canary begins; with digits in it, it is a word of its own in any sentence.
const CANARY_PREFIX: &str = "vw0c1";

/// The prints of one text under one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// The key.
    pub kid: Kid,
    /// Prints of word runs, ascending, without the background.
    pub prints: Vec<u64>,
    /// Prints of long words of letters and digits, ascending: canaries.
    pub tokens: Vec<u64>,
}

/// The prints of a text under each content key. No sketch-sized bound: none may be missing.
pub fn register(sealer: &Sealer, text: &str) -> Vec<Registered> {
    let mut scratch = engine::Scratch::default();
    let scan = sealer
        .engine()
        .scan(text, Role::System, Side::Request, &mut scratch);
    sealer
        .keys()
        .content()
        .map(|key| {
            let printer = Printer::new(key);
            let (mut words, mut prints) = (Words::default(), Prints::default());
            for reading in &scan.readings {
                printer.add(&reading.text, &mut words, &mut prints);
            }
            let (mut shingles, tokens) = prints.split();
            let common = background(&printer);
            shingles.retain(|p| common.binary_search(p).is_err());
            Registered {
                kid: key.kid(),
                prints: shingles,
                tokens,
            }
        })
        .collect()
}

/// Prints of every shingle of the background, ascending: not winnowed, since in another text any of
/// them may be the one that is picked.
fn background(printer: &Printer) -> Vec<u64> {
    let mut words = Words::default();
    let mut prints = Prints::default();
    for line in BACKGROUND.lines().filter(|l| !l.starts_with('#')) {
        let folded: String = line
            .chars()
            .flat_map(|c| crate::rule::fold::fold(c).as_slice().to_vec())
            .collect();
        printer.add_every(&folded, &mut words, &mut prints);
    }
    prints.split().0
}

/// A canary: one word that no text holds by chance. `random` is 32 bytes of the system's randomness.
pub fn canary(random: &[u8; 32]) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let tail = random
        .iter()
        .take(CANARY_CHARS)
        .map(|b| char::from(ALPHABET[usize::from(b % 32)]));
    CANARY_PREFIX.chars().chain(tail).collect()
}

#[cfg(test)]
mod tests {
    use super::super::key::Keys;
    use super::*;

    #[test]
    fn ordinary_phrases_are_no_prints_and_canaries_are() {
        let sealer = Sealer::built_in(Keys::development());
        let r = register(
            &sealer,
            "You are a helpful assistant that answers questions. If you have any questions please let me know.",
        );
        // What joins the two phrases is not in the background.
        assert!(r[0].prints.len() <= 2, "{}", r[0].prints.len());
        let secret = register(
            &sealer,
            "Project Heron ships in week nineteen and the discount for Northwind stays at eleven percent until then",
        );
        assert!(!secret[0].prints.is_empty() && secret[0].tokens.is_empty());
        let word = canary(&[7; 32]);
        let with = register(&sealer, &format!("never say {word} to anyone"));
        assert_eq!(with[0].tokens.len(), 1);
        let said = sealer.sketch(
            &format!("Sure! The secret word is {word}."),
            Role::Assistant,
            Side::Response,
            &mut crate::seal::Scratch::default(),
        );
        assert!(said.prints.contains(&with[0].tokens[0]));
    }
}
