//! Rules as data: what a rule file says, checked and ready for the engine.
//!
//! One YAML file a rule, `rules/<area>/<id>.yml`, where the area is `injection`, `pii` or
//! `secret`. Texts of files come in through [`load()`] (this module reads no files), problems go
//! out as [`Diagnostic`]s with file, line and column. `seal::engine` compiles a [`RuleSet`].
//!
//! ```yaml
//! id: sec-github-pat          # ^[a-z0-9][a-z0-9-]{2,63}$ ; prefix inj- / pii- / sec-; the file's name
//! title: GitHub personal access token
//! type: github-pat            # pii: Presidio's entity name; secret: kind; injection: technique
//! level: high                 # informational|low|medium|high|critical
//! match:
//!   keywords: [ghp_]          # one of them must occur: the automaton looks for all at once
//!   regex: '\bghp_[A-Za-z0-9]{36}\b'   # the value is the group `value`, else the whole match
//! tests:                      # at least one match and one non-match
//!   - {text: "token ghp_0123456789abcdefghijABCDEFGHIJ012345", match: true}
//!   - {text: "ghp_short", match: false}
//! ```
//!
//! Everything else has a default. All keys:
//!
//! | key | default | meaning |
//! |---|---|---|
//! | `description` | empty | what it finds and why it matters |
//! | `status` | `stable` | `experimental`, `test`, `stable`, `deprecated` (not run) |
//! | `stage` | `page` | `shadow` counts only, `ticket`, `page` |
//! | `version` | 1 | raised when the meaning changes |
//! | `typed` | `true` | secrets: the provider is known (`false` for generic rules) |
//! | `tags` | per area | `owasp.llm01-2025`, `atlas.t0051.000`, `cwe.1427`, `nistaml.018`: ids of [`tag`]'s tables |
//! | `references`, `falsepositives` | none | for the analyst |
//! | `runbook` | per area | a name in `deploy/runbooks/` |
//! | `scope` | all | `{roles: [...], sides: [...]}` in which the rule looks |
//! | `weight` | 0.5 | injection: evidence of the rule alone, 0–1 |
//! | `priority` | 50 | 0–100: which rule names a value that two rules found |
//! | `context` | none | `{words, within, required}`: words near the value (whole words, `*` at an end = any ending). `required` drops a value without one; else a word makes it win overlaps |
//! | `validators` | none | names from `seal::value::validator`, all must hold for the value |
//! | `min_entropy` | 0 | Shannon bits per character of the value |
//! | `window` | none | `{count, within, by}`: the rule counts only from the n-th hit of one `user`, `session` or `key` within the time |
//! | `exceptions` | none | `{reason, until, regex}`: a value (injection: the matched text) that the regex matches is not a hit until that day |
//!
//! **`match`** is a node. A node has one or more of `keywords`, `regex`, `list`, `any`, `all`,
//! `not`; several in one node must all hold.
//! - `keywords` alone is a whole-word, case-insensitive phrase match; `*` at an end lifts the word
//!   boundary there (`ignor*`). Beside a `regex` they are only the prefilter (any one must occur),
//!   compared as substrings; with `within: n` the value must start or end within n characters of one.
//! - `list: name` matches like keywords, with the phrases of `rules/lists/<name>.yml`.
//! - `any`, `all`, `not` take lists of nodes. `within: 60` beside `all` asks that the parts stand
//!   within 60 characters of each other; beside `not` that nothing of it stands within 60
//!   characters of the match.
//! - `${name}` in a regex is the fragment (or the phrases as alternatives) of that list file.
//! - Regexes are the `regex` crate's: linear time, no look-around, no back-references.
//! - `readings` (top node only): injection rules look at `folded` and all decoded and repaired
//!   readings, PII and secrets at `raw` and `decoded`. `raw` is the text as it came: the only
//!   reading with line breaks, case and markdown.
//!
//! The **folded** reading that injection rules see is lower case, compatibility-folded (`ﬁ` → `fi`, full width →
//! ASCII), without diacritics on Latin, Greek and Cyrillic letters (`é` → `e`, `ł` → `l`, `й` → `и`, `ß` → `ss`), without Arabic vowel
//! marks, invisibles and markdown marks (`*`, `` ` ``, `~~`), look-alike letters mapped back, typographic quotes and
//! dashes made ASCII, and each run of white space (line breaks too) one blank. Keywords are folded
//! by the loader, and so are the non-ASCII letters of regexes; write the ASCII ones in lower case.

pub mod anchor;
mod check;
pub mod demand;
pub mod diagnostic;
pub mod extent;
mod file;
pub mod front;

pub mod fold;
mod lexicon;
pub mod lint;
pub mod load;
pub mod need;
pub mod pack;
pub mod pattern;
mod slip;
pub mod suggest;
pub mod tag;
pub mod window;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

pub use check::unspaced;
pub use diagnostic::{Diagnostic, Grade};
pub use load::{Known, Source, load};
use serde::{Deserialize, Serialize};
pub use window::Window;

use crate::event::{Role, Severity, Side, SmolStr, Stage};

/// What kind of thing a rule finds; the folder it lives in.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Area {
    /// Prompt injection.
    Injection,
    /// Personal data.
    Pii,
    /// Credentials.
    Secret,
}

impl Area {
    /// All areas, in the order of their folders' names.
    pub const ALL: [Self; 3] = [Self::Injection, Self::Pii, Self::Secret];

    /// The folder's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Injection => "injection",
            Self::Pii => "pii",
            Self::Secret => "secret",
        }
    }

    /// What ids of this area begin with.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Injection => "inj-",
            Self::Pii => "pii-",
            Self::Secret => "sec-",
        }
    }
}

/// How far a rule has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Being tried; tests may be missing.
    Experimental,
    /// Being tested.
    Test,
    /// In use.
    Stable,
    /// Kept for history, not run.
    Deprecated,
}

/// A way of reading a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadingKind {
    /// As it came.
    Raw,
    /// Case, compatibility, marks, invisibles, look-alikes and white space folded.
    Folded,
    /// Leetspeak, spaced letters, typos and joined words repaired; backspaces applied.
    Repaired,
    /// Encoded runs decoded.
    Decoded,
    /// Letters in reverse order.
    Reversed,
    /// Letters rotated by 13.
    Rot13,
}

impl ReadingKind {
    /// All kinds.
    pub const ALL: [Self; 6] = [
        Self::Raw,
        Self::Folded,
        Self::Repaired,
        Self::Decoded,
        Self::Reversed,
        Self::Rot13,
    ];

    /// The name in rule files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Folded => "folded",
            Self::Repaired => "repaired",
            Self::Decoded => "decoded",
            Self::Reversed => "reversed",
            Self::Rot13 => "rot13",
        }
    }

    /// Its bit in [`Rule::readings`].
    pub fn bit(self) -> u8 {
        1 << (self as u8)
    }
}

/// Length of a rule's id: its area's prefix and at least one character more. The pattern of the schema in
/// `file.rs` says the same.
pub const ID_BYTES: std::ops::RangeInclusive<usize> = 5..=64;

/// One checked rule.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Unique name, [`ID_BYTES`] long.
    pub id: SmolStr,
    /// What kind of thing it finds.
    pub area: Area,
    /// One line.
    pub title: String,
    /// What it finds and why it matters.
    pub description: String,
    /// How far it has come.
    pub status: Status,
    /// How bad a hit is.
    pub level: Severity,
    /// What a hit may do.
    pub stage: Stage,
    /// Raised when the meaning changes.
    pub version: u32,
    /// Presidio's entity name, the secret's kind, or the technique.
    pub kind: SmolStr,
    /// Secrets: the provider is known.
    pub typed: bool,
    /// Taxonomy ids.
    pub tags: Vec<SmolStr>,
    /// Links.
    pub references: Vec<String>,
    /// Known false positives, for the analyst.
    pub falsepositives: Vec<String>,
    /// Name in `deploy/runbooks/`.
    pub runbook: SmolStr,
    /// Where the rule looks.
    pub scope: Scope,
    /// Injection: evidence of the rule alone, 0–1.
    pub weight: f32,
    /// Which rule names a value that two rules found, 0–100.
    pub priority: u8,
    /// Bits of [`ReadingKind`] it looks at.
    pub readings: u8,
    /// What must hold.
    pub condition: Node,
    /// Words near the value.
    pub context: Option<Context>,
    /// Names of the checks that a value must pass.
    pub validators: Vec<SmolStr>,
    /// Least Shannon entropy of the value, bits per character.
    pub min_entropy: f32,
    /// How many hits in how much time.
    pub window: Option<Window>,
    /// What is not a hit, and until when.
    pub exceptions: Vec<Exception>,
    /// Its tests.
    pub tests: Vec<Test>,
    /// The file it came from.
    pub file: Arc<Source>,
    /// Line of its id in that file.
    pub line: u32,
}

impl Rule {
    /// Whether it looks at this reading.
    pub fn reads(&self, kind: ReadingKind) -> bool {
        self.readings & kind.bit() != 0
    }

    /// Whether the engine runs it.
    pub fn runs(&self) -> bool {
        self.status != Status::Deprecated
    }
}

/// Roles and sides, as bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope {
    roles: u8,
    sides: u8,
}

impl Scope {
    /// Everywhere.
    pub const ALL: Self = Self {
        roles: 0x1f,
        sides: 0x03,
    };

    /// A scope of the given roles and sides.
    pub fn of(roles: &[Role], sides: &[Side]) -> Self {
        Self {
            roles: roles.iter().fold(0, |bits, r| bits | (1 << (*r as u8))),
            sides: sides.iter().fold(0, |bits, s| bits | (1 << (*s as u8))),
        }
    }

    /// Whether a text of this role and side is inside.
    pub fn holds(self, role: Role, side: Side) -> bool {
        self.roles & (1 << (role as u8)) != 0 && self.sides & (1 << (side as u8)) != 0
    }
}

/// What must hold, as a tree. All parts that are present must hold.
#[derive(Debug, Clone, Default)]
pub struct Node {
    /// Folded phrases; alone a match, beside `regex` a prefilter.
    pub keywords: Vec<Keyword>,
    /// The pattern, macros expanded and (if it reads folded text) folded.
    pub regex: Option<Pattern>,
    /// One of these must hold.
    pub any: Vec<Node>,
    /// All of these must hold.
    pub all: Vec<Node>,
    /// None of these may hold.
    pub not: Vec<Node>,
    /// Largest distance in characters between the parts.
    pub within: Option<u32>,
}

/// A phrase that the automaton looks for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Keyword {
    /// Folded text.
    pub text: String,
    /// Whether a word must begin here.
    pub starts_word: bool,
    /// Whether a word must end here.
    pub ends_word: bool,
}

/// A checked regex. Those that are compiled in are studied when the engine first asks.
#[derive(Debug, Clone)]
pub struct Pattern {
    /// Its source after macros.
    pub source: String,
    study: Arc<OnceLock<Study>>,
}

/// What is known of a regex before it runs.
#[derive(Debug)]
pub struct Study {
    /// Shortest match in bytes.
    pub min_len: usize,
    /// Longest match in bytes, if bounded.
    pub max_len: Option<usize>,
    /// Least number of ASCII digits in a match.
    pub min_digits: u32,
    /// Where in a match the value stands.
    pub value: pattern::Value,
    /// What must stand in a text for it to match.
    pub need: need::Need,
    /// What stands before the first digit of a match.
    pub front: front::Front,
    /// What bytes a raw text must have for it to match.
    pub demand: demand::Demand,
    /// The parsed source.
    pub hir: regex_syntax::hir::Hir,
}

/// Words that must, or may, stand near a value.
#[derive(Debug, Clone)]
pub struct Context {
    /// Folded words.
    pub words: Vec<Keyword>,
    /// Distance in characters.
    pub within: u32,
    /// Whether a value without one is dropped.
    pub required: bool,
}

/// What is not a hit, why, and until when.
#[derive(Debug, Clone)]
pub struct Exception {
    /// Why.
    pub reason: String,
    /// Last day it holds.
    pub until: jiff::civil::Date,
    /// What it excepts.
    pub regex: String,
}

/// A test of a rule.
#[derive(Debug, Clone)]
pub struct Test {
    /// Optional name.
    pub name: Option<String>,
    /// Texts with their virtual time in milliseconds, in order.
    pub events: Vec<(i64, String)>,
    /// Whether the rule must hit.
    pub matches: bool,
    /// The value it must find, if stated.
    pub value: Option<String>,
    /// Role of the text.
    pub role: Role,
    /// Side of the text.
    pub side: Side,
    /// Line in the rule's file.
    pub line: u32,
    /// Column in the rule's file.
    pub column: u32,
}

/// All rules of a program, checked.
#[derive(Debug, Clone)]
pub struct RuleSet {
    rules: Vec<Arc<Rule>>,
    by_id: BTreeMap<SmolStr, usize>,
    id: SmolStr,
    lexicon: Vec<String>,
    keep: Vec<String>,
}

/// List whose phrases join the attack lexicon, against which slips of the pen are repaired.
pub const LEXICON_LIST: &str = "attack-lexicon";
/// List of real words that stand one slip away from a lexicon word and are left alone.
pub const KEEP_LIST: &str = "typo-keep";

impl RuleSet {
    /// Builds the set; `digest` covers every file it came from.
    fn new(
        mut rules: Vec<Arc<Rule>>,
        digest: blake3::Hash,
        lexicon: Vec<String>,
        keep: Vec<String>,
    ) -> Self {
        rules.sort_by(|a, b| a.id.cmp(&b.id));
        let by_id = rules
            .iter()
            .enumerate()
            .map(|(at, rule)| (rule.id.clone(), at))
            .collect();
        let hex = digest.to_hex();
        Self {
            rules,
            by_id,
            id: SmolStr::from(format!("b3:{}", &hex[..12])),
            lexicon,
            keep,
        }
    }

    /// The attack lexicon: words of the injection rules' keywords and regexes, and of the list
    /// [`LEXICON_LIST`].
    pub fn lexicon_words(&self) -> Vec<String> {
        let mut words: Vec<String> = self.lexicon.clone();
        for rule in self
            .rules
            .iter()
            .filter(|r| r.area == Area::Injection && r.runs())
        {
            lexicon::collect(&rule.condition, &mut words);
        }
        words.sort_unstable();
        words.dedup();
        words
    }

    /// Real words that are never taken for a slip.
    pub fn keep_words(&self) -> &[String] {
        &self.keep
    }

    /// The rules that are compiled into the program, without the tests that their files carry.
    ///
    /// # Panics
    /// If the compiled-in rules are wrong, which `tests/rules.rs` excludes.
    pub fn built_in(known: &Known<'_>) -> Self {
        let known = Known {
            compiled_in: true,
            untested: true,
            ..known.clone()
        };
        match load(&pack::sources(), &[], &known) {
            Ok((set, _)) => set,
            Err(problems) => panic!("compiled-in rules: {}", problems[0]),
        }
    }

    /// The rules, by id.
    pub fn rules(&self) -> &[Arc<Rule>] {
        &self.rules
    }

    /// The rule of this name.
    pub fn get(&self, id: &str) -> Option<&Arc<Rule>> {
        self.by_id.get(id).map(|at| &self.rules[*at])
    }

    /// `b3:` and 12 hex digits over all rule files.
    pub fn id(&self) -> &SmolStr {
        &self.id
    }
}

/// The JSON Schema of rule files, for editors (`# yaml-language-server: $schema=`).
pub fn schema() -> schemars::Schema {
    file::schema()
}
