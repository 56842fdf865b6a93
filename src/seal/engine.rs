//! The matching engine: one walk of one automaton over each reading finds the keywords of all
//! rules; a rule is looked at only where its keywords, digits or literals stand.
//!
//! ```text
//!  readings ─► automaton (keywords of all rules) ─► rules called ─► regex near the hits
//!                        └ sweeps for patterns without literals      └ context, validators
//!           ─► model ───────────────────────────────────────────────► one score
//! ```
//!
//! Pure: the same text gives the same [`Scan`], whatever came before.

mod compile;
pub mod evaluate;
pub mod explain;
pub mod handle;
mod language;
mod overlap;
pub mod trial;

use std::collections::BTreeMap;
use std::sync::Arc;

use aho_corasick::Anchored;
use aho_corasick::automaton::Automaton;
use compile::{Compiled, GroupId, Plan, Sweep};
use evaluate::Page;
pub use handle::Handle;
use regex_automata::{Input, PatternSet};

use crate::event::{Features, Role, Side, SmolStr, Stage};
use crate::rule::{Area, Known, ReadingKind, Rule, RuleSet};
use crate::seal::model::{Context, Evidence, Model, combine};
use crate::seal::reading::lexicon::Lexicon;
use crate::seal::reading::map::Map;
use crate::seal::reading::{self, Readings, Skipped, View};

/// Most hits of one keyword group in one reading whose places are kept; beyond it the group counts
/// as standing everywhere.
const MAX_GROUP_HITS: usize = 4_096;
/// Most values of one text; more are counted as skipped.
pub const MAX_FOUND: usize = 10_000;
/// Injection rules weaker than this do not look at decoded, reversed and rotated readings.
const STRONG: f32 = 0.3;
/// A model logit of another reading this far above the folded one's says that it was hidden.
const HIDDEN_MARGIN: f32 = 1.0;
/// Tag characters beyond those of a flag: they spell text that nobody sees.
const MIN_TAGS: u32 = 8;

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

/// Memory that is used again from text to text.
#[derive(Debug, Default)]
pub struct Scratch {
    hits: Hits,
    called: Vec<u16>,
    stamps: Vec<u32>,
    stamp: u32,
}

/// Keyword hits of one reading.
#[derive(Debug, Default)]
pub(crate) struct Hits {
    places: Vec<Vec<(u32, u32)>>,
    seen: Vec<bool>,
    touched: Vec<GroupId>,
}

impl Hits {
    fn reset(&mut self, groups: usize) {
        for group in self.touched.drain(..) {
            self.places[group as usize].clear();
            self.seen[group as usize] = false;
        }
        self.places.resize(groups, Vec::new());
        self.seen.resize(groups, false);
    }

    fn of(&self, group: GroupId) -> &[(u32, u32)] {
        &self.places[group as usize]
    }

    fn seen(&self, group: GroupId) -> bool {
        self.seen[group as usize]
    }

    fn dense(&self, group: GroupId) -> bool {
        self.places[group as usize].len() >= MAX_GROUP_HITS
    }
}

/// Compiled rules and model.
#[derive(Debug)]
pub struct Engine {
    plan: Plan,
    lexicon: Lexicon,
    model: Option<Model>,
    id: SmolStr,
}

/// What rules may name: the validators of `seal::value`. `today` decides which exceptions hold.
pub fn known_validators() -> Vec<&'static str> {
    crate::seal::value::VALIDATORS
        .iter()
        .map(|(name, _)| *name)
        .collect()
}

impl Engine {
    /// Compiles a rule set. The model is optional: without it rules alone judge.
    pub fn new(set: &RuleSet, model: Option<Model>) -> Self {
        let words = set.lexicon_words();
        let lexicon = Lexicon::new(
            words.iter().map(String::as_str),
            set.keep_words().iter().map(String::as_str),
        );
        let mut digest = blake3::Hasher::new();
        digest.update(set.id().as_bytes());
        if let Some(model) = &model {
            digest.update(&model.to_bytes());
        }
        let hex = digest.finalize().to_hex();
        Self {
            plan: compile::plan(set.rules()),
            lexicon,
            model,
            id: SmolStr::from(format!("b3:{}", &hex[..12])),
        }
    }

    /// The compiled-in rules and model.
    ///
    /// # Panics
    /// If what is compiled in is broken, which tests exclude.
    pub fn built_in() -> Self {
        let names = known_validators();
        let known = Known {
            validators: Some(&names),
            compiled_in: true,
            ..Known::default()
        };
        let model = Model::shipped().ok();
        Self::new(&RuleSet::built_in(&known), model)
    }

    /// Which rules and model looked: `b3:` and 12 hex digits.
    pub fn ruleset_id(&self) -> &SmolStr {
        &self.id
    }

    /// The rules that run, in the order of their ids.
    pub fn rules(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.plan.rules.iter().map(|c| &c.rule)
    }

    /// Scans one text.
    pub fn scan(&self, text: &str, role: Role, side: Side, scratch: &mut Scratch) -> Scan {
        let readings = reading::read(text, &self.lexicon);
        let mut found = overlap::Pool::default();
        let mut tally = Tally::default();
        for (at, view) in readings.views.iter().enumerate() {
            self.look(
                text,
                &readings,
                at,
                view,
                (role, side),
                scratch,
                &mut found,
                &mut tally,
            );
        }
        self.conclude(text, role, side, readings, found, tally)
    }

    /// All rules against one reading.
    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of one scan, taken apart for borrowing"
    )]
    fn look(
        &self,
        input: &str,
        readings: &Readings,
        at: usize,
        view: &View,
        (role, side): (Role, Side),
        scratch: &mut Scratch,
        found: &mut overlap::Pool,
        tally: &mut Tally,
    ) {
        let kind = view.kind.unwrap_or(ReadingKind::Folded);
        let plan = &self.plan;
        scratch.start(plan);
        let ascii = (at == 0 && readings.ascii) || view.text.is_ascii();
        walk(plan, &view.text, ascii, scratch);
        let mut called = std::mem::take(&mut scratch.called);
        {
            let pages = Pages::new(self, input, readings, at, view, &scratch.hits);
            if let Some(raw) = pages.raw {
                let (stamps, stamp) = (&mut scratch.stamps, scratch.stamp);
                sweep(&plan.digits, raw, &pages.zones, &mut called, stamps, stamp);
                sweep(
                    &plan.always,
                    raw,
                    &[(0, raw.len())],
                    &mut called,
                    stamps,
                    stamp,
                );
            }
            called.sort_unstable();
            self.judge(&called, kind, (role, side), at, view, &pages, found, tally);
        }
        scratch.called = called;
        if let Some(model) = &self.model {
            tally.model(kind, model.score(&view.text));
        }
    }

    /// The rules called, against what they see of one reading.
    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of one scan, taken apart for borrowing"
    )]
    fn judge(
        &self,
        called: &[u16],
        kind: ReadingKind,
        (role, side): (Role, Side),
        at: usize,
        view: &View,
        pages: &Pages<'_>,
        found: &mut overlap::Pool,
        tally: &mut Tally,
    ) {
        for index in called {
            let rule = &self.plan.rules[usize::from(*index)];
            if !wanted(rule, kind, at, role, side) {
                continue;
            }
            let page = pages.of(rule, kind, at);
            let Ok(spans) = evaluate::judge(rule, &page) else {
                continue;
            };
            if spans.len() >= evaluate::MAX_MATCHES {
                tally.matches_skipped += 1;
            }
            if rule.rule.area == Area::Injection {
                tally.injection(*index, kind, spans.len());
            } else {
                found.add(*index, at, view, &page, &spans);
            }
        }
    }

    fn zone_reach(&self) -> usize {
        self.plan.digits.reach.clamp(64, compile::REACH)
    }

    fn conclude(
        &self,
        text: &str,
        role: Role,
        side: Side,
        readings: Readings,
        found: overlap::Pool,
        tally: Tally,
    ) -> Scan {
        let mut skipped = readings.skipped;
        skipped.matches += tally.matches_skipped;
        let rules = &self.plan.rules;
        let mut counts: BTreeMap<u16, u32> = BTreeMap::new();
        for (index, hit) in &tally.injection {
            counts.insert(*index, hit.n);
        }
        let (values, dropped) = found.resolve(rules, text, readings.ascii, &mut counts);
        skipped.matches += dropped;

        let counting = |index: u16| {
            let rule = &rules[usize::from(index)].rule;
            rule.stage != Stage::Shadow && rule.window.is_none()
        };
        let mut heavy: Vec<&Compiled> = tally
            .injection
            .keys()
            .filter(|i| counting(**i))
            .map(|i| &rules[usize::from(*i)])
            .collect();
        heavy.sort_by(|a, b| {
            b.rule
                .weight
                .total_cmp(&a.rule.weight)
                .then_with(|| a.rule.id.cmp(&b.rule.id))
        });
        let evidence: Vec<Evidence<'_>> = heavy
            .iter()
            .map(|c| Evidence {
                rule: &c.rule.id,
                weight: c.rule.weight,
                technique: &c.rule.kind,
            })
            .collect();
        let open = tally
            .injection
            .iter()
            .any(|(i, hit)| counting(*i) && hit.open);
        // Letters that nobody sees are hidden, whatever reads them.
        let hidden = if readings.seen.tags >= MIN_TAGS {
            true
        } else if evidence.is_empty() {
            tally.logit > 0.0 && tally.logit > tally.folded_logit + HIDDEN_MARGIN
        } else {
            !open
        };
        let logit = if self.model.is_some() {
            tally.logit
        } else {
            f32::NAN
        };
        let combined = combine(&evidence, logit, Context { role, side, hidden });
        let injection = Injection {
            verdict: combined.verdict(),
            score: combined.score,
            rules: heavy.iter().map(|c| c.rule.id.clone()).collect(),
        };
        let mut order: Vec<(u16, u32)> = counts.into_iter().collect();
        order.sort_by(|(a, _), (b, _)| {
            let (a, b) = (&rules[usize::from(*a)].rule, &rules[usize::from(*b)].rule);
            b.level.cmp(&a.level).then_with(|| a.id.cmp(&b.id))
        });
        let hits = order
            .into_iter()
            .map(|(index, n)| RuleHits {
                rule: rules[usize::from(index)].rule.id.clone(),
                n,
            })
            .collect();
        let features = Features {
            control: readings.seen.control,
            invisible: readings.seen.invisible,
            mixed_script: readings.seen.mixed_words > 0,
            encoded: readings.encoded,
            entropy: readings.entropy,
            lang: language::guess(&readings.views[0].text),
        };
        Scan {
            injection,
            values,
            hits,
            features,
            readings: readings
                .views
                .into_iter()
                .map(|v| Reading {
                    kind: v.kind.unwrap_or(ReadingKind::Folded),
                    text: v.text,
                })
                .collect(),
            skipped,
        }
    }
}

impl Scratch {
    /// Ready for the next reading.
    fn start(&mut self, plan: &Plan) {
        self.hits.reset(plan.calls.len());
        self.called.clear();
        self.stamps.resize(plan.rules.len(), 0);
        self.stamp = self.stamp.wrapping_add(1);
        if self.stamp == 0 {
            self.stamps.fill(0);
            self.stamp = 1;
        }
    }
}

/// What rules see of one reading: the text before folding, or the folded one.
struct Pages<'a> {
    /// The input itself, or what was decoded; repaired readings have only their folded text.
    raw: Option<&'a str>,
    raw_map: Option<&'a Map>,
    raw_ascii: bool,
    zones: Vec<(usize, usize)>,
    folded: &'a str,
    folded_ascii: bool,
    hits: &'a Hits,
}

impl<'a> Pages<'a> {
    fn new(
        engine: &Engine,
        input: &'a str,
        readings: &Readings,
        at: usize,
        view: &'a View,
        hits: &'a Hits,
    ) -> Self {
        let (raw, raw_map) = match (&view.plain, at) {
            (Some((plain, _)), _) => (Some(plain.as_str()), Some(&view.inner)),
            (None, 0) => (Some(input), Some(&view.map)),
            (None, _) => (None, None),
        };
        let digits = match (&readings.counts, at) {
            (Some(counts), 0) => counts.digits() >= compile::DIGITS,
            _ => true,
        };
        let zones = raw
            .filter(|_| digits)
            .map_or_else(Vec::new, |r| evaluate::digit_zones(r, engine.zone_reach()));
        let ascii = |text: &str| {
            if at == 0 {
                readings.ascii
            } else {
                text.is_ascii()
            }
        };
        Self {
            raw,
            raw_map,
            raw_ascii: raw.is_some_and(ascii),
            zones,
            folded: &view.text,
            folded_ascii: (at == 0 && readings.ascii) || view.text.is_ascii(),
            hits,
        }
    }

    fn of(&self, rule: &Compiled, kind: ReadingKind, at: usize) -> Page<'_> {
        match (rule.raw && rule_reads_raw(rule, kind, at), self.raw) {
            (true, Some(raw)) => Page {
                text: raw,
                hits: self.hits,
                map: self.raw_map,
                ascii: self.raw_ascii,
                digit_zones: &self.zones,
            },
            _ => Page {
                text: self.folded,
                hits: self.hits,
                map: None,
                ascii: self.folded_ascii,
                digit_zones: &[],
            },
        }
    }
}

/// Injection hits and model scores of one text.
#[derive(Debug)]
struct Tally {
    injection: BTreeMap<u16, InjectionHit>,
    logit: f32,
    folded_logit: f32,
    matches_skipped: u32,
}

#[derive(Debug, Default, Clone, Copy)]
struct InjectionHit {
    n: u32,
    /// It hit the folded reading, not only a repaired or decoded one.
    open: bool,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            injection: BTreeMap::new(),
            logit: f32::NEG_INFINITY,
            folded_logit: f32::NEG_INFINITY,
            matches_skipped: 0,
        }
    }
}

impl Tally {
    fn injection(&mut self, index: u16, kind: ReadingKind, n: usize) {
        let hit = self.injection.entry(index).or_default();
        hit.n = hit.n.max(u32::try_from(n).unwrap_or(u32::MAX));
        hit.open |= kind == ReadingKind::Folded;
    }

    fn model(&mut self, kind: ReadingKind, logit: f32) {
        if kind == ReadingKind::Folded {
            self.folded_logit = self.folded_logit.max(logit);
        }
        self.logit = self.logit.max(logit);
    }
}

/// Whether a rule looks at this reading of a text of this role and side.
fn wanted(rule: &Compiled, kind: ReadingKind, at: usize, role: Role, side: Side) -> bool {
    let hidden = matches!(
        kind,
        ReadingKind::Decoded | ReadingKind::Reversed | ReadingKind::Rot13
    );
    let reads = rule.rule.reads(kind) || (at == 0 && rule.rule.reads(ReadingKind::Raw));
    reads
        && rule.rule.scope.holds(role, side)
        && !(hidden && rule.rule.area == Area::Injection && rule.rule.weight < STRONG)
}

/// Whether the rule sees this reading before folding.
fn rule_reads_raw(rule: &Compiled, kind: ReadingKind, at: usize) -> bool {
    if rule.rule.area == Area::Injection {
        at == 0 && rule.rule.reads(ReadingKind::Raw)
    } else {
        !(at == 0 && !rule.rule.reads(ReadingKind::Raw) && rule.rule.reads(kind))
    }
}

/// The automata over one folded text: hits by group, rules called. Text without letters beyond
/// ASCII never meets the keywords of other scripts.
fn walk(plan: &Plan, text: &str, ascii: bool, scratch: &mut Scratch) {
    if let Some(dfa) = &plan.ascii {
        walk_one(plan, dfa, text, scratch);
    }
    if !ascii && let Some(dfa) = &plan.wide {
        walk_one(plan, dfa, text, scratch);
    }
}

fn walk_one(plan: &Plan, automaton: &compile::Automaton, text: &str, scratch: &mut Scratch) {
    let dfa = &automaton.dfa;
    let Ok(mut state) = dfa.start_state(Anchored::No) else {
        return;
    };
    for (at, byte) in text.as_bytes().iter().enumerate() {
        state = dfa.next_state(Anchored::No, state, *byte);
        if !dfa.is_special(state) || !dfa.is_match(state) {
            continue;
        }
        for n in 0..dfa.match_len(state) {
            let local = dfa.match_pattern(state, n).as_usize();
            let pattern = automaton.patterns[local] as usize;
            let end = at + 1;
            hit(plan, pattern, text, end, scratch);
        }
    }
}

/// A keyword was found: its groups are told, and the rules that wait for them.
fn hit(plan: &Plan, pattern: usize, text: &str, end: usize, scratch: &mut Scratch) {
    let start = end - plan.lengths[pattern] as usize;
    let (from, to) = (
        plan.starts[pattern] as usize,
        plan.starts[pattern + 1] as usize,
    );
    for posting in &plan.postings[from..to] {
        if (posting.starts_word && !starts_word(text, start))
            || (posting.ends_word && !ends_word(text, end))
        {
            continue;
        }
        let group = posting.group as usize;
        let hits = &mut scratch.hits;
        if !hits.seen[group] {
            hits.seen[group] = true;
            hits.touched.push(posting.group);
            for rule in &plan.calls[group] {
                call(
                    &mut scratch.called,
                    &mut scratch.stamps,
                    scratch.stamp,
                    *rule,
                );
            }
        }
        if plan.placed[group] && hits.places[group].len() < MAX_GROUP_HITS {
            let place = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            hits.places[group].push((place(start), place(end)));
        }
    }
}

fn call(called: &mut Vec<u16>, stamps: &mut [u32], stamp: u32, rule: u16) {
    let mark = &mut stamps[usize::from(rule)];
    if *mark != stamp {
        *mark = stamp;
        called.push(rule);
    }
}

fn starts_word(text: &str, at: usize) -> bool {
    match text.as_bytes()[..at].last() {
        None => true,
        Some(b) if b.is_ascii() => !b.is_ascii_alphanumeric(),
        Some(_) => !text[..at].chars().next_back().is_some_and(joins_words),
    }
}

fn ends_word(text: &str, at: usize) -> bool {
    match text.as_bytes().get(at) {
        None => true,
        Some(b) if b.is_ascii() => !b.is_ascii_alphanumeric(),
        Some(_) => !text[at..].chars().next().is_some_and(joins_words),
    }
}

/// Letters next to which a word goes on; scripts without blanks end a word of another script.
fn joins_words(c: char) -> bool {
    c.is_alphanumeric() && !crate::rule::unspaced(c)
}

/// Patterns without literals over the places that can hold them.
fn sweep(
    sweep: &Sweep,
    text: &str,
    zones: &[(usize, usize)],
    called: &mut Vec<u16>,
    stamps: &mut [u32],
    stamp: u32,
) {
    let Some(set) = &sweep.set else { return };
    let mut patterns = PatternSet::new(set.pattern_len());
    for (from, to) in zones {
        let (from, to) = (evaluate::floor(text, *from), evaluate::ceil(text, *to));
        set.which_overlapping_matches(&Input::new(text).range(from..to), &mut patterns);
        if patterns.is_full() {
            break;
        }
    }
    for pattern in patterns.iter() {
        let rule = sweep.rules[pattern.as_usize()];
        call(called, stamps, stamp, rule);
    }
}
