//! What detect must know about the rules whose ids stand in sealed hits.
//!
//! Detectors see no text: a hit is a rule id. The facts of that rule (what it looks for, how bad,
//! which stage) come from the rule files through [`Facts`]; a hit of a rule that this process does
//! not know (sealed elsewhere with newer rules) is judged by its prefix, one stage below page.

use std::collections::BTreeMap;

use super::DetectorId;
use crate::event::{Severity, SmolStr, Stage};
use crate::rule::{Area, RuleSet};

/// What kind of thing a rule finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FactKind {
    /// An attack on the model.
    Injection,
    /// Personal data.
    Pii,
    /// A credential.
    Secret,
    /// Anything else; no detector of the first day reads it.
    Other,
}

/// What is known about one rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// What it finds.
    pub kind: FactKind,
    /// How bad a hit is.
    pub severity: Severity,
    /// What a hit may do.
    pub stage: Stage,
    /// Entity or provider type, such as `US_SSN` or `github-pat`.
    pub entity: SmolStr,
    /// For credentials: the provider is known.
    pub typed: bool,
    /// A value of it identifies one owner (checksummed PII, typed credential): it may take part in
    /// the cross-user leak.
    pub linkable: bool,
    /// Version of the rule.
    pub version: u32,
}

impl Fact {
    /// The detector that judges hits of this rule.
    pub fn detector(&self) -> Option<DetectorId> {
        match self.kind {
            FactKind::Injection => Some(DetectorId::Injection),
            FactKind::Pii | FactKind::Secret => Some(DetectorId::Leak),
            FactKind::Other => None,
        }
    }
}

/// Facts by rule id.
#[derive(Debug, Clone, Default)]
pub struct Facts(BTreeMap<SmolStr, Fact>);

impl Facts {
    /// From (id, fact) pairs; a later pair of one id replaces the earlier.
    pub fn new(facts: impl IntoIterator<Item = (SmolStr, Fact)>) -> Self {
        Self(facts.into_iter().collect())
    }

    /// From the rules of this process.
    pub fn from_rules(rules: &RuleSet) -> Self {
        Self::new(rules.rules().iter().map(|r| {
            let kind = match r.area {
                Area::Injection => FactKind::Injection,
                Area::Pii => FactKind::Pii,
                Area::Secret => FactKind::Secret,
            };
            let linkable = match kind {
                // A link or a machine's address belongs to nobody.
                FactKind::Pii => !r.validators.is_empty() && r.level > Severity::Informational,
                FactKind::Secret => r.typed,
                _ => false,
            };
            let fact = Fact {
                kind,
                severity: r.level,
                stage: r.stage,
                entity: r.kind.clone(),
                typed: r.typed,
                linkable,
                version: r.version,
            };
            (r.id.clone(), fact)
        }))
    }

    /// The facts of a rule. An unknown id is judged by its prefix: `inj`, `pii`, `sec`.
    pub fn get(&self, rule: &str) -> Fact {
        self.0.get(rule).cloned().unwrap_or_else(|| guess(rule))
    }

    /// How many rules are known.
    pub fn len(&self) -> usize {
        self.0.len()
    }
    /// Whether no rule is known.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Sealed elsewhere by rules this process does not have: never paged on, never lost.
fn guess(rule: &str) -> Fact {
    let kind = if rule.starts_with("inj") {
        FactKind::Injection
    } else if rule.starts_with("pii") {
        FactKind::Pii
    } else if rule.starts_with("sec") {
        FactKind::Secret
    } else {
        FactKind::Other
    };
    Fact {
        kind,
        severity: Severity::Medium,
        stage: Stage::Ticket,
        entity: SmolStr::new(rule),
        typed: false,
        linkable: false,
        version: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_rules_are_judged_by_prefix_and_never_page() {
        let facts = Facts::default();
        assert_eq!(facts.get("inj-new").kind, FactKind::Injection);
        assert_eq!(facts.get("pii-new").detector(), Some(DetectorId::Leak));
        assert_eq!(facts.get("sec-new").kind, FactKind::Secret);
        assert_eq!(facts.get("zzz").detector(), None);
        assert_eq!(facts.get("inj-new").stage, Stage::Ticket);
    }
}
