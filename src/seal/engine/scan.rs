//! What the engine says about a text.

use crate::event::{Features, SmolStr, Stage};
use crate::rule::ReadingKind;
use crate::seal::reading::Skipped;

/// The kind of a found value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ValueKind {
    /// Personal data.
    Pii,
    /// A credential.
    Secret,
}

/// A value found in a text. It holds the value: it lives as long as the text does.
#[derive(Clone, PartialEq, Eq)]
pub struct Found {
    /// The rule.
    pub rule: SmolStr,
    /// Personal data or credential.
    pub kind: ValueKind,
    /// Presidio's entity name, or the secret's kind.
    pub entity: SmolStr,
    /// Secrets: the provider is known.
    pub typed: bool,
    /// What the rule may do; `Shadow` values only count.
    pub stage: Stage,
    /// First character in the input text.
    pub start: usize,
    /// Behind its last character.
    pub end: usize,
    /// The value in its one spelling, to be hashed.
    pub canonical: String,
}

// The value is never printed.
impl std::fmt::Debug for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Found({} {}..{})", self.rule, self.start, self.end)
    }
}

/// The judgement on injection.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Injection {
    /// Score at or above the threshold.
    pub verdict: bool,
    /// 0–1.
    pub score: f32,
    /// Rules that hit (without shadow and counting ones), heaviest first.
    pub rules: Vec<SmolStr>,
    /// Where the model alone gave the verdict: its strongest n-gram families, as kind and bucket
    /// number. Never sealed; empty otherwise.
    pub families: Vec<SmolStr>,
}

/// A rule and how often it hit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleHits {
    /// The rule.
    pub rule: SmolStr,
    /// How often, in the reading where it hit most.
    pub n: u32,
}

/// A reading, for digests and fingerprints.
#[derive(Clone, PartialEq, Eq)]
pub struct Reading {
    /// How it was read; the folded one comes first.
    pub kind: ReadingKind,
    /// The folded text.
    pub text: String,
}

impl std::fmt::Debug for Reading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Reading({}, {} bytes)",
            self.kind.as_str(),
            self.text.len()
        )
    }
}

/// What the engine says about one text.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Scan {
    /// Injection.
    pub injection: Injection,
    /// Values, in the order of the text. Shadow ones among them.
    pub values: Vec<Found>,
    /// All rules that hit, most severe first. Shadow and counting ones among them.
    pub hits: Vec<RuleHits>,
    /// Small counts.
    pub features: Features,
    /// The readings made, the folded one first.
    pub readings: Vec<Reading>,
    /// Work that was left out.
    pub skipped: Skipped,
}
