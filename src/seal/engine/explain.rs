//! Why a rule did or did not hit: each reading, each rule, and the step at which it stopped.

use super::compile::Compiled;
use super::evaluate::{Page, Span, Stop};
use super::{Engine, Pages, Scan, Scratch, evaluate, walk, wanted};
use crate::event::{Role, Side, SmolStr};
use crate::rule::ReadingKind;
use crate::seal::model::Memo;
use crate::seal::reading::{self, Readings};

/// One rule against one reading.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// The rule.
    pub rule: SmolStr,
    /// Number of the reading in [`Explanation::readings`].
    pub reading: usize,
    /// How often it holds there (before overlaps are resolved), or where it stopped.
    pub outcome: Result<usize, Stop>,
}

/// Everything about one text.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// The readings made: kind, folded text, model's logit.
    pub readings: Vec<(ReadingKind, String, Option<f32>)>,
    /// Each rule against each reading, in the order of readings and ids.
    pub steps: Vec<Step>,
    /// The verdict.
    pub scan: Scan,
}

/// The plain spelling of a reading, if there is one, and the reading as it is.
type Both<'p> = (Option<Pages<'p>>, Pages<'p>);

/// A rule against the plain spelling, if it holds there, else against the reading as it is.
fn either<'p>(
    rule: &Compiled,
    kind: ReadingKind,
    at: usize,
    (spelt, pages): &'p Both<'_>,
) -> (Page<'p>, Result<Vec<Span>, Stop>) {
    if let Some(spelt) = spelt
        && spelt.serves(rule.sight(), kind, at)
    {
        let page = spelt.of(rule, kind, at);
        if let Ok(spans) = evaluate::judge(rule, &page) {
            return (page, Ok(spans));
        }
    }
    let page = pages.of(rule, kind, at);
    (page, evaluate::judge(rule, &page))
}

impl Engine {
    /// One rule alone against all readings of a text, whatever other rules say: how often it holds
    /// in the reading where it holds most, and the values it cuts out.
    pub(super) fn judge_alone(
        &self,
        id: &str,
        text: &str,
        role: Role,
        side: Side,
        scratch: &mut Scratch,
    ) -> (u32, Vec<String>) {
        let all = reading::read(text, &self.lexicon);
        let mut most = 0;
        let mut values = Vec::new();
        let Some(rule) = self.plan.rules.iter().find(|r| r.rule.id == id) else {
            return (0, values);
        };
        self.each_reading(text, &all, scratch, |kind, at, pages| {
            if !wanted(rule.sight(), kind, at, role, side) {
                return;
            }
            if let (page, Ok(spans)) = either(rule, kind, at, pages) {
                most = most.max(u32::try_from(spans.len()).unwrap_or(u32::MAX));
                for span in spans {
                    values.extend(page.text.get(span.from..span.to).map(str::to_owned));
                }
            }
        });
        (most, values)
    }

    /// Walks each reading and hands out what rules see of it.
    fn each_reading(
        &self,
        text: &str,
        all: &Readings,
        scratch: &mut Scratch,
        mut see: impl FnMut(ReadingKind, usize, &Both<'_>),
    ) {
        for (at, view) in all.views.iter().enumerate() {
            let kind = view.kind.unwrap_or(ReadingKind::Folded);
            scratch.start(&self.plan);
            walk(
                &self.plan,
                &view.text,
                view.text.is_ascii(),
                None,
                false,
                scratch,
            );
            let memory = (&scratch.hits, &scratch.caches);
            let spelt = view.spelt.as_ref();
            let spelt = spelt.map(|spelt| Pages::spelt(view, spelt, memory));
            let pages = (spelt, Pages::new(text, all, at, view, memory));
            see(kind, at, &pages);
        }
    }

    /// Explains a text. Unlike a scan it judges every rule.
    pub fn explain(&self, text: &str, role: Role, side: Side) -> Explanation {
        let mut scratch = Scratch::default();
        let scan = self.scan(text, role, side, &mut scratch);
        let all = reading::read(text, &self.lexicon);
        let mut steps = Vec::new();
        self.each_reading(text, &all, &mut scratch, |kind, at, pages| {
            for rule in &self.plan.rules {
                let outcome = if !rule.rule.scope.holds(role, side) {
                    Err(Stop::Scope)
                } else if !wanted(rule.sight(), kind, at, role, side) {
                    Err(Stop::Reading)
                } else {
                    either(rule, kind, at, pages).1.map(|spans| spans.len())
                };
                let counted = scan.hits.iter().any(|h| h.rule == rule.rule.id);
                let outcome = match outcome {
                    Ok(_) if !counted => Err(Stop::Overlapped),
                    other => other,
                };
                steps.push(Step {
                    rule: rule.rule.id.clone(),
                    reading: at,
                    outcome,
                });
            }
        });
        let readings = all
            .views
            .into_iter()
            .map(|v| {
                let logit = self
                    .model
                    .as_ref()
                    .map(|m| m.score(&v.text, &mut Memo::default()));
                (v.kind.unwrap_or(ReadingKind::Folded), v.text, logit)
            })
            .collect();
        Explanation {
            readings,
            steps,
            scan,
        }
    }
}
