//! Why a rule did or did not hit: each reading, each rule, and the step at which it stopped.

use super::evaluate::{Page, Stop};
use super::{Engine, Scan, Scratch, evaluate, rule_reads_raw, walk, wanted};
use crate::event::{Role, Side, SmolStr};
use crate::rule::ReadingKind;
use crate::seal::reading;

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

impl Engine {
    /// Explains a text. Unlike a scan it judges every rule.
    pub fn explain(&self, text: &str, role: Role, side: Side) -> Explanation {
        let mut scratch = Scratch::default();
        let scan = self.scan(text, role, side, &mut scratch);
        let all = reading::read(text, &self.lexicon);
        let mut steps = Vec::new();
        for (at, view) in all.views.iter().enumerate() {
            let kind = view.kind.unwrap_or(ReadingKind::Folded);
            scratch.hits.reset(self.plan.calls.len());
            scratch.called.clear();
            scratch.stamps.resize(self.plan.rules.len(), 0);
            walk(&self.plan, &view.text, &mut scratch);
            let (raw, raw_map) = match (&view.plain, at) {
                (Some((plain, _)), _) => (Some(plain.as_str()), Some(&view.inner)),
                (None, 0) => (Some(text), Some(&view.map)),
                (None, _) => (None, None),
            };
            let zones = raw.map_or_else(Vec::new, |r| evaluate::digit_zones(r, self.zone_reach()));
            for rule in &self.plan.rules {
                let outcome = if !rule.rule.scope.holds(role, side) {
                    Err(Stop::Scope)
                } else if !wanted(rule, kind, at, role, side) {
                    Err(Stop::Reading)
                } else {
                    let page = match (rule.raw && rule_reads_raw(rule, kind, at), raw) {
                        (true, Some(raw)) => Page {
                            text: raw,
                            hits: &scratch.hits,
                            map: raw_map,
                            ascii: raw.is_ascii(),
                            digit_zones: &zones,
                        },
                        _ => Page {
                            text: &view.text,
                            hits: &scratch.hits,
                            map: None,
                            ascii: view.text.is_ascii(),
                            digit_zones: &[],
                        },
                    };
                    evaluate::judge(rule, &page).map(|spans| spans.len())
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
        }
        let readings = all
            .views
            .into_iter()
            .map(|v| {
                let logit = self.model.as_ref().map(|m| m.score(&v.text));
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
