//! What is allowed and still probably wrong: gaps without a bound, patterns without a literal,
//! two rules with the same pattern.

use std::collections::BTreeMap;
use std::sync::Arc;

use regex_syntax::hir::{Class, Hir, HirKind};

use super::{Area, Diagnostic, Grade, Node, Pattern, Rule};

/// A repeat beyond this is as good as unbounded: it joins words of different sentences.
pub const LONG_GAP: u32 = 400;
/// A class with more characters than this is "anything but a few".
const WIDE_CLASS: u32 = 500_000;
/// Fewest digits that make a pattern without literals selective enough.
const ENOUGH_DIGITS: u32 = 4;

/// Whether the pattern has `.*`, `[^x]+`, … without a useful bound.
pub(super) fn unbounded_gap(hir: &Hir) -> bool {
    match hir.kind() {
        HirKind::Repetition(r) => {
            (wide(&r.sub) && r.max.is_none_or(|max| max > LONG_GAP)) || unbounded_gap(&r.sub)
        }
        HirKind::Capture(c) => unbounded_gap(&c.sub),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => parts.iter().any(unbounded_gap),
        _ => false,
    }
}

fn wide(hir: &Hir) -> bool {
    match hir.kind() {
        HirKind::Class(Class::Unicode(class)) => {
            let size: u32 = class
                .ranges()
                .iter()
                .map(|r| u32::from(r.end()) - u32::from(r.start()) + 1)
                .sum();
            size > WIDE_CLASS
        }
        HirKind::Capture(c) => wide(&c.sub),
        HirKind::Alternation(parts) => parts.iter().any(wide),
        _ => false,
    }
}

/// Whether nothing tells the automaton where to look for this pattern.
pub(super) fn literal_free(pattern: &Pattern, keywords: bool) -> bool {
    let study = pattern.study();
    !keywords && !study.need.is_located() && study.min_digits < ENOUGH_DIGITS
}

/// Whether an ASCII upper-case letter must occur: folded text has none.
pub(super) fn needs_upper_case(hir: &Hir) -> bool {
    match hir.kind() {
        HirKind::Literal(l) => l.0.iter().any(u8::is_ascii_uppercase),
        HirKind::Class(Class::Unicode(class)) => {
            !class.ranges().is_empty()
                && class
                    .ranges()
                    .iter()
                    .all(|r| r.start().is_ascii_uppercase() && r.end().is_ascii_uppercase())
        }
        HirKind::Repetition(r) => r.min > 0 && needs_upper_case(&r.sub),
        HirKind::Capture(c) => needs_upper_case(&c.sub),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => parts.iter().any(needs_upper_case),
        _ => false,
    }
}

/// Problems that only show when rules are seen together.
pub(super) fn across(rules: &[Arc<Rule>], problems: &mut Vec<Diagnostic>) {
    let mut seen: BTreeMap<(Area, String), &Arc<Rule>> = BTreeMap::new();
    for rule in rules.iter().filter(|r| r.runs()) {
        let Some(regex) = lone_regex(&rule.condition) else {
            continue;
        };
        // Keywords and context make the same shape another rule.
        let key = format!(
            "{regex}\n{:?}\n{:?}",
            rule.condition.keywords,
            rule.context.as_ref().map(|c| &c.words)
        );
        if let Some(other) = seen.get(&(rule.area, key.clone())) {
            let mut d = super::load::at(
                &rule.file,
                serde_saphyr::Location::UNKNOWN,
                "same-pattern",
                format!("`{}` has the same pattern as `{}`", rule.id, other.id),
                Some("join them, or tell them apart by keywords or context".to_owned()),
            );
            d.grade = Grade::Warning;
            d.line = rule.line;
            problems.push(d);
        } else {
            seen.insert((rule.area, key), rule);
        }
    }
}

fn lone_regex(node: &Node) -> Option<&str> {
    let alone = node.any.is_empty() && node.all.is_empty() && node.not.is_empty();
    node.regex
        .as_ref()
        .filter(|_| alone)
        .map(|p| p.source.as_str())
}
