//! Verdicts from a sketch alone: what `scan --sealed` and the detectors can still say when the text is
//! gone. Rules are looked up by id; a rule that this set does not know counts for nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::engine::{Engine, Injection, ValueKind};
use super::model::combine::THRESHOLD;
use crate::event::{Sketch, SmolStr, Stage};
use crate::rule::{Area, Rule};

/// Values of one kind that a sealed text held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    /// Personal data or credential.
    pub kind: ValueKind,
    /// Presidio's entity name, or the secret's kind.
    pub entity: SmolStr,
    /// Secrets: the provider is known.
    pub typed: bool,
    /// How many.
    pub n: u32,
}

/// What a sketch says.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Verdict {
    /// Injection.
    pub injection: Injection,
    /// Values, in the order of the hits.
    pub values: Vec<Counted>,
}

impl Verdict {
    /// Whether it says anything.
    pub fn found(&self) -> bool {
        self.injection.verdict || !self.values.is_empty()
    }
}

/// Rules by id, for many sketches.
pub struct Judge {
    rules: BTreeMap<SmolStr, Arc<Rule>>,
}

impl Judge {
    /// With the rules of an engine.
    pub fn new(engine: &Engine) -> Self {
        Self {
            rules: engine
                .rules()
                .map(|r| (r.id.clone(), Arc::clone(r)))
                .collect(),
        }
    }

    /// Judges one sketch. Rules in shadow do not count, nor those that need a window.
    pub fn judge(&self, sketch: &Sketch) -> Verdict {
        let mut injection: Vec<&Arc<Rule>> = Vec::new();
        let mut values = Vec::new();
        for hit in &sketch.hits {
            let Some(rule) = self.rules.get(&hit.rule) else {
                continue;
            };
            if rule.stage == Stage::Shadow || rule.window.is_some() {
                continue;
            }
            let kind = match rule.area {
                Area::Injection => {
                    injection.push(rule);
                    continue;
                }
                Area::Pii => ValueKind::Pii,
                Area::Secret => ValueKind::Secret,
            };
            values.push(Counted {
                kind,
                entity: rule.kind.clone(),
                typed: rule.typed,
                n: hit.n,
            });
        }
        injection.sort_by(|a, b| b.weight.total_cmp(&a.weight).then_with(|| a.id.cmp(&b.id)));
        let score = sketch.injection.unwrap_or_default();
        Verdict {
            injection: Injection {
                verdict: score >= THRESHOLD,
                score,
                rules: injection.into_iter().map(|r| r.id.clone()).collect(),
                families: Vec::new(),
            },
            values,
        }
    }
}
