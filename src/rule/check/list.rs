//! List files and override files.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_saphyr::Spanned;

use super::super::file::{ListFile, OverrideFile};
use super::super::load::at;
use super::super::{Diagnostic, Known, Rule, SmolStr, Source, Status, pattern, suggest};
use super::{Checker, List, keyword};

/// Reads a list file.
pub(in super::super) fn list(
    file: &ListFile,
    source: &Arc<Source>,
    lists: &mut BTreeMap<String, List>,
    problems: &mut Vec<Diagnostic>,
) {
    let name = &file.name;
    let mut error = |place, code, message: String| {
        problems.push(at(source, place, code, message, None));
    };
    if name.value.is_empty()
        || !name
            .value
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    {
        error(
            name.referenced,
            "list-name",
            "a list's name is of a-z, 0-9 and `-`".to_owned(),
        );
        return;
    }
    if let Some(other) = lists.get(&name.value) {
        let (path, line) = &other.place;
        error(
            name.referenced,
            "duplicate-list",
            format!("list `{}` is defined in {path}:{line} too", name.value),
        );
        return;
    }
    let (phrases, fragment) = match (&file.phrases, &file.regex) {
        (Some(phrases), None) if phrases.value.is_empty() => {
            error(
                phrases.referenced,
                "empty-list",
                "`phrases` is empty".to_owned(),
            );
            return;
        }
        (Some(phrases), None) => {
            for phrase in &phrases.value {
                if let Err(why) = keyword(&phrase.value) {
                    error(phrase.referenced, "keyword", why);
                    return;
                }
            }
            let mut words: Vec<String> = phrases
                .value
                .iter()
                .map(|p| regex_syntax::escape(p.value.trim_matches('*')))
                .collect();
            // Longest first, so that leftmost-first alternation prefers it.
            words.sort_by_key(|w| std::cmp::Reverse(w.len()));
            (phrases.value.clone(), words.join("|"))
        }
        (None, Some(regex)) => {
            if let Err(mistake) = pattern::study(&regex.value) {
                error(
                    regex.referenced,
                    "regex",
                    format!("regex: {}", mistake.message),
                );
                return;
            }
            (Vec::new(), regex.value.clone())
        }
        _ => {
            error(
                name.referenced,
                "list-kind",
                "a list has either `phrases` or `regex`".to_owned(),
            );
            return;
        }
    };
    let place = (
        source.path.clone(),
        u32::try_from(name.referenced.line()).unwrap_or(1),
    );
    lists.insert(
        name.value.clone(),
        List {
            phrases,
            fragment,
            place,
        },
    );
}

/// Applies one override.
pub(in super::super) fn change(
    change: Spanned<OverrideFile>,
    source: &Arc<Source>,
    rules: &mut BTreeMap<SmolStr, Rule>,
    known: &Known<'_>,
    problems: &mut Vec<Diagnostic>,
) {
    let place = change.referenced;
    let change = change.value;
    let lists = BTreeMap::new();
    let Some(rule) = rules.get_mut(change.id.value.as_str()) else {
        let hint = suggest::hint(&change.id.value, rules.keys().map(SmolStr::as_str));
        problems.push(at(
            source,
            change.id.referenced,
            "unknown-id",
            format!(
                "override of `{}`: no rule has this id{hint}",
                change.id.value
            ),
            Some("`veilwatch rules list` shows all ids".to_owned()),
        ));
        return;
    };
    let mut checker = Checker::new(source, &lists, known, problems);
    if change.reason.value.trim().is_empty() {
        checker.error(
            change.reason.referenced,
            "empty-reason",
            "an override says why".to_owned(),
            None,
        );
    }
    let nothing = change.enabled.is_none()
        && change.level.is_none()
        && change.stage.is_none()
        && change.weight.is_none()
        && change.scope.is_none()
        && change.exceptions.is_none();
    if nothing {
        checker.error(
            place,
            "empty-override",
            format!("override of `{}` changes nothing", change.id.value),
            Some("give enabled, level, stage, weight, scope or exceptions"),
        );
    }
    let level = change.level.as_ref().and_then(|t| checker.level(t));
    let stage = change.stage.as_ref().and_then(|t| checker.stage(t));
    let weight = change
        .weight
        .as_ref()
        .map(|w| checker.weight(Some(w), Some(rule.area)));
    let scope = change.scope.as_ref().map(|s| checker.scope(Some(s)));
    let exceptions = checker.exceptions(change.exceptions.as_ref());
    if checker.failed {
        return;
    }
    rule.level = level.unwrap_or(rule.level);
    rule.stage = stage.unwrap_or(rule.stage);
    rule.weight = weight.unwrap_or(rule.weight);
    rule.scope = scope.unwrap_or(rule.scope);
    rule.exceptions.extend(exceptions);
    if change.enabled == Some(false) {
        rule.status = Status::Deprecated;
    }
}
