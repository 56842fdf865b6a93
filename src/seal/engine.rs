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

mod check;
mod compile;
mod digits;
pub mod evaluate;
pub mod explain;
mod gate;
mod language;
mod letters;
mod matcher;
mod overlap;
mod pages;
mod regex;
mod scan;
mod search;
pub mod trial;
mod walk;

use std::collections::BTreeMap;
use std::sync::Arc;

use compile::{Compiled, Plan};
use pages::{Pages, Sight};
pub use scan::{Found, Injection, Reading, RuleHits, Scan, ValueKind};
pub use walk::Scratch;
use walk::walk;

use crate::event::{Features, Role, Side, SmolStr, Stage};
use crate::rule::{Area, Known, ReadingKind, Rule, RuleSet};
use crate::seal::model::{Context, Evidence, Frame, Memo, Model, combine, frame};
use crate::seal::reading::lexicon::Lexicon;
use crate::seal::reading::{self, Readings, View};

/// Most values of one text; more are counted as skipped.
pub const MAX_FOUND: usize = 10_000;
/// Injection rules weaker than this do not look at decoded, reversed and rotated readings.
pub(super) const STRONG: f32 = 0.3;
/// A model logit of another reading this far above the folded one's says that it was hidden.
const HIDDEN_MARGIN: f32 = 1.0;
/// What a rule counts that saw only quotations.
const QUOTED: f32 = 0.2;
/// What the model's word on the whole counts beside that on the text without its quotations: both
/// bear on it, since a quotation behind kind words may be the order itself.
const WHOLE: f32 = 0.7;
/// Places of a rule around which a frame is looked for. A text that repeats itself more is not
/// excused by any.
const MAX_PLACES: usize = 8;
/// Tag characters beyond those of a flag: they spell text that nobody sees.
const MIN_TAGS: u32 = 8;

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

    /// The model, if there is one.
    pub fn model(&self) -> Option<&Model> {
        self.model.as_ref()
    }

    /// All readings of a text, as a scan makes them.
    pub fn read(&self, text: &str, scratch: &mut Scratch) -> Readings {
        reading::read_with(text, &self.lexicon, &mut scratch.words)
    }

    /// Looks for the keywords of all rules in a folded text, and does nothing with them: the part
    /// of a scan that no scan can do without. Returns how many rules they would call.
    pub fn keywords(&self, folded: &str, scratch: &mut Scratch) -> usize {
        scratch.start(&self.plan);
        walk(&self.plan, folded, folded.is_ascii(), None, false, scratch);
        scratch.called.len()
    }

    /// Scans one text.
    pub fn scan(&self, text: &str, role: Role, side: Side, scratch: &mut Scratch) -> Scan {
        let readings = reading::read_with(text, &self.lexicon, &mut scratch.words);
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
        self.conclude(text, role, readings, found, tally)
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
        // Folding ASCII makes no sign that the text has not.
        let counts = readings
            .counts
            .as_ref()
            .filter(|_| at == 0 && readings.ascii);
        let digits = readings.counts.as_ref().is_none_or(|c| c.digits() > 0);
        let wordy = at == 0 && !digits && view.spelt.is_none();
        walk(plan, &view.text, ascii, counts, wordy, scratch);
        let mut called = std::mem::take(&mut scratch.called);
        let choose = |called: &mut Vec<u16>, pages: &Pages<'_>| {
            if pages.raw.is_some() {
                called.extend_from_slice(&plan.bare);
            }
            if pages.digits.some() {
                called.extend_from_slice(&plan.numbers);
            }
            called.sort_unstable();
            called.retain(|index| {
                let rule = usize::from(*index);
                let (sight, feed) = (plan.sights[rule], &plan.feeds[rule]);
                wanted(sight, kind, at, role, side)
                    && pages.serves(sight, kind, at)
                    && pages.has_number(sight, feed, kind, at)
                    && plan.gates.lets(*index, &scratch.seen, ascii)
                    && pages.feeds(sight, feed, kind, at)
            });
        };
        {
            let memory = (&scratch.hits, &scratch.caches);
            // The plain spelling first: of the same value found in both it is the one that counts.
            if let Some(spelt) = &view.spelt {
                let mut called = called.clone();
                let pages = Pages::spelt(view, spelt, memory);
                choose(&mut called, &pages);
                self.judge(&called, kind, at, view, &pages, found, tally);
            }
            let pages = Pages::new(input, readings, at, view, memory);
            choose(&mut called, &pages);
            self.judge(&called, kind, at, view, &pages, found, tally);
        }
        scratch.called = called;
        if let Some(model) = &self.model {
            tally.model(kind, at, model.score(&view.text, &mut scratch.memo));
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
        at: usize,
        view: &View,
        pages: &Pages<'_>,
        found: &mut overlap::Pool,
        tally: &mut Tally,
    ) {
        for index in called {
            let rule = &self.plan.rules[usize::from(*index)];
            let page = pages.of(rule, kind, at);
            let Ok(spans) = evaluate::judge(rule, &page) else {
                continue;
            };
            if spans.len() >= evaluate::MAX_MATCHES {
                tally.matches_skipped += 1;
            }
            if rule.rule.area == Area::Injection {
                tally.injection(*index, kind, at, &spans);
            } else {
                found.add(*index, at, view, &page, &spans);
            }
        }
    }

    /// Where a rule hit the first reading, if all of its places are known.
    fn places<'a>(&self, tally: &'a Tally, rule: Option<&str>) -> &'a [(usize, usize)] {
        let rules = &self.plan.rules;
        tally
            .injection
            .iter()
            .find(|(i, _)| rule == Some(rules[usize::from(**i)].rule.id.as_str()))
            .filter(|(_, hit)| !hit.unplaced)
            .map_or(&[], |(_, hit)| &hit.places)
    }

    fn conclude(
        &self,
        text: &str,
        role: Role,
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
        let mut context = Context {
            role,
            hidden,
            frame: Frame::default(),
        };
        let mut combined = combine(&evidence, logit, context);
        // What was hidden on purpose is no mention, and no story.
        if combined.verdict() && !hidden {
            let folded = &readings.views[0].text;
            // The heaviest rule decides; the evidence stands in its order.
            let heaviest = heavy.first().map(|c| c.rule.id.as_str());
            context.frame = frame::frame(folded, self.places(&tally, heaviest));
            combined = combine(&evidence, logit, context);
            // What a person quotes is hardly what they ask for: the rest is heard as well. Documents
            // and tools quote as they please.
            if combined.verdict()
                && !matches!(role, Role::Tool | Role::Document)
                && let Some(rest) = frame::unquoted(folded)
            {
                let quoted = |e: &Evidence<'_>| {
                    let places = self.places(&tally, Some(e.rule));
                    !places.is_empty() && places.iter().all(|p| rest.covers(*p))
                };
                let mut lighter = evidence.clone();
                let mut any = false;
                for e in lighter.iter_mut().filter(|e| quoted(e)) {
                    any = true;
                    if !context.frame.mention {
                        e.weight *= QUOTED;
                    }
                }
                if any {
                    let logit = match &self.model {
                        Some(model) => {
                            let rest = model.score(&rest.text, &mut Memo::default());
                            WHOLE * logit + (1.0 - WHOLE) * rest
                        }
                        None => logit,
                    };
                    combined = combine(&lighter, logit, context);
                }
            }
        }
        let families = match &self.model {
            Some(model) if combined.verdict() && heavy.is_empty() => {
                let families = model.families(&readings.views[tally.loudest].text);
                families.iter().map(|f| f.to_string().into()).collect()
            }
            _ => Vec::new(),
        };
        let injection = Injection {
            verdict: combined.verdict(),
            score: combined.score,
            rules: heavy.iter().map(|c| c.rule.id.clone()).collect(),
            families,
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
            skipped: skipped.units(),
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

/// Injection hits and model scores of one text.
#[derive(Debug)]
struct Tally {
    injection: BTreeMap<u16, InjectionHit>,
    logit: f32,
    /// The reading that gave it.
    loudest: usize,
    folded_logit: f32,
    matches_skipped: u32,
}

#[derive(Debug, Default, Clone)]
struct InjectionHit {
    n: u32,
    /// It hit the folded reading, not only a repaired or decoded one.
    open: bool,
    /// Where it hit the first reading, at most [`MAX_PLACES`].
    places: Vec<(usize, usize)>,
    /// It hit more than those.
    unplaced: bool,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            injection: BTreeMap::new(),
            logit: f32::NEG_INFINITY,
            loudest: 0,
            folded_logit: f32::NEG_INFINITY,
            matches_skipped: 0,
        }
    }
}

impl Tally {
    fn injection(&mut self, index: u16, kind: ReadingKind, at: usize, spans: &[evaluate::Span]) {
        let hit = self.injection.entry(index).or_default();
        hit.n = hit.n.max(u32::try_from(spans.len()).unwrap_or(u32::MAX));
        if kind == ReadingKind::Folded {
            hit.open = true;
            // One use among many mentions must not go unseen: too many places are as good as none.
            hit.unplaced |= at != 0 || spans.len() > MAX_PLACES;
            let places = spans.iter().map(|s| (s.start, s.end));
            hit.places.extend(places.take(MAX_PLACES));
        }
    }

    fn model(&mut self, kind: ReadingKind, at: usize, logit: f32) {
        if kind == ReadingKind::Folded {
            self.folded_logit = self.folded_logit.max(logit);
        }
        if logit > self.logit {
            (self.logit, self.loudest) = (logit, at);
        }
    }
}

/// Whether a rule looks at this reading of a text of this role and side.
fn wanted(sight: Sight, kind: ReadingKind, at: usize, role: Role, side: Side) -> bool {
    let hidden = matches!(
        kind,
        ReadingKind::Decoded | ReadingKind::Reversed | ReadingKind::Rot13
    );
    let raw = at == 0 && sight.readings & ReadingKind::Raw.bit() != 0;
    (raw || sight.readings & kind.bit() != 0)
        && sight.scope.holds(role, side)
        && !(hidden && sight.open_only)
}
