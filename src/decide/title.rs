//! What a rule is called in a sentence: the first thing a person reads on a page.
//!
//! Rules from files bring their titles; what the detectors themselves see is named here. An id that
//! nobody knows (sealed elsewhere by newer rules) is shown as it is, if it is a word: whoever writes records
//! chooses it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Head;
use crate::event::SmolStr;
use crate::rule::RuleSet;

/// Titles by rule id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Titles(Arc<BTreeMap<SmolStr, String>>);

/// What has no rule file. A prefix ending in `-` names all that begin with it.
const OWN: [(&str, &str); 32] = [
    ("access-", "Access outside the rules"),
    (
        "audit-alias-refused",
        "A gateway claims that a known user is another one",
    ),
    (
        "audit-conflicting-sequence",
        "Two events bear one sequence number",
    ),
    (
        "audit-cost-mismatch",
        "Reported cost unlike the computed cost",
    ),
    (
        "audit-declared-loss",
        "A gateway discards much of what it sees",
    ),
    ("audit-forged-time", "Times that cannot be true"),
    ("audit-gap", "Records of Kafka are lost to the monitor"),
    ("audit-halted", "A partition stands still"),
    (
        "audit-late-clock",
        "Most events of a gateway come too late to be judged by the minute",
    ),
    ("audit-many-boots", "A gateway starts anew far too often"),
    (
        "audit-missing-events",
        "Events are missing from the audit trail",
    ),
    ("audit-no-boot", "Sequence numbers that prove nothing"),
    ("audit-partial", "Minutes are judged without a partition"),
    (
        "audit-refused",
        "Records of a gateway are refused, nobody watches them",
    ),
    ("audit-silent-gateway", "A gateway has gone silent"),
    ("audit-undecodable", "Nothing of a partition can be read"),
    ("audit-unpriced-model", "A model without a price"),
    ("budget-", "Budget threshold crossed"),
    ("campaign-", "One attack from many users"),
    ("crowded", "More findings than can be told one by one"),
    (
        "drift-new-version",
        "A model version seen for the first time",
    ),
    (
        "errors-blocked",
        "The gateway's policy blocks far more than usual",
    ),
    ("errors-rate", "Error rate far above the usual"),
    (
        "errors-rejected",
        "Requests are rejected: by key, right or name",
    ),
    ("errors-throttled", "The provider throttles"),
    (
        "injection-then-leak",
        "An injection attempt, then a leak in the answer",
    ),
    ("inj-model", "Text that reads like an attack"),
    ("latency-slow", "A model answers slower than usual"),
    ("leak-cross-user", "A value of one user was sent to another"),
    ("prompt-leak-", "A protected text reappears in an answer"),
    ("spend-baseline", "Spend far above the usual"),
    ("spend-co-elevation", "Many users spend more at once"),
];

impl Titles {
    /// The titles of a set of rules.
    pub fn of_rules(rules: &RuleSet) -> Self {
        let titles = rules
            .rules()
            .iter()
            .map(|r| (r.id.clone(), r.title.clone()));
        Self(Arc::new(titles.collect()))
    }

    /// The title of a rule.
    pub fn get(&self, rule: &str) -> Option<&str> {
        self.0.get(rule).map(String::as_str).or_else(|| {
            OWN.iter()
                .find(|(id, _)| *id == rule || (id.ends_with('-') && rule.starts_with(id)))
                .map(|(_, title)| *title)
        })
    }

    /// One line: what, on whom, of which tenant.
    pub(super) fn line(&self, h: &Head) -> String {
        let of = if h.tenant.is_empty() {
            String::new()
        } else {
            format!(" of {}", h.tenant)
        };
        let word = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'_';
        let what = self.get(&h.rule).unwrap_or_else(|| {
            if h.rule.bytes().all(word) {
                &h.rule
            } else {
                "A rule that this program does not know"
            }
        });
        format!("{what}: {}{of}", h.subject)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::Known;

    #[test]
    fn rules_of_files_and_of_detectors_have_titles_and_strangers_keep_their_id() {
        let t = Titles::of_rules(&RuleSet::built_in(&Known::default()));
        assert_eq!(
            t.get("leak-cross-user"),
            Some("A value of one user was sent to another")
        );
        assert_eq!(t.get("budget-team:x"), Some("Budget threshold crossed"));
        assert!(t.get("inj-extract-prompt").is_some());
        assert_eq!(t.get("spend-baseline-of-another"), None);
        assert_eq!(Titles::default().get("zzz"), None);
    }
}
