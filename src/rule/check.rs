//! One rule file, checked: every mistake becomes a diagnostic at its place.

mod parts;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_saphyr::{Location, Spanned};

use super::file::{ListFile, NodeFile, OverrideFile, RuleFile, Text};
use super::load::at;
use super::{
    Area, Diagnostic, Grade, Keyword, Known, Node, Pattern, ReadingKind, Rule, SmolStr, Source,
    Status, fold, lint, pattern, suggest,
};
use crate::event::{Severity, Stage};

/// Longest title, in characters: it is the headline of a page.
const MAX_TITLE: usize = 120;
/// Most keywords in one rule.
const MAX_KEYWORDS: usize = 2_000;
/// Longest keyword, in bytes after folding.
const MAX_KEYWORD: usize = 200;
/// Largest `within`, in characters: beyond it "near" means nothing.
const MAX_WITHIN: u32 = 2_000;
/// Deepest nesting of nodes.
const MAX_DEPTH: usize = 8;
/// Longest regex after macros, in bytes.
const MAX_REGEX: usize = 32 * 1024;

/// The content of a list file.
#[derive(Debug)]
pub(super) struct List {
    phrases: Vec<Text>,
    fragment: String,
    place: (String, u32),
}

impl List {
    /// Its phrases, folded.
    pub(super) fn words(&self) -> Vec<String> {
        self.phrases
            .iter()
            .map(|p| fold::phrase(&p.value))
            .collect()
    }
}

/// Checks one file at a time.
pub(super) struct Checker<'a> {
    source: &'a Arc<Source>,
    lists: &'a BTreeMap<String, List>,
    known: &'a Known<'a>,
    problems: &'a mut Vec<Diagnostic>,
    failed: bool,
}

impl<'a> Checker<'a> {
    pub(super) fn new(
        source: &'a Arc<Source>,
        lists: &'a BTreeMap<String, List>,
        known: &'a Known<'a>,
        problems: &'a mut Vec<Diagnostic>,
    ) -> Self {
        Self {
            source,
            lists,
            known,
            problems,
            failed: false,
        }
    }

    fn error(&mut self, place: Location, code: &'static str, message: String, help: Option<&str>) {
        self.failed = true;
        let help = help.map(str::to_owned);
        self.problems
            .push(at(self.source, place, code, message, help));
    }

    fn warn(&mut self, place: Location, code: &'static str, message: String, help: Option<&str>) {
        let mut d = at(self.source, place, code, message, help.map(str::to_owned));
        d.grade = Grade::Warning;
        self.problems.push(d);
    }

    /// One of a fixed list of words.
    fn choice<T: Copy>(&mut self, given: &Text, what: &str, words: &[(&str, T)]) -> Option<T> {
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == given.value) {
            return Some(*value);
        }
        let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let message = format!(
            "unknown {what} `{}`{}",
            given.value,
            suggest::hint(&given.value, names.iter().copied())
        );
        let help = format!("one of: {}", names.join(", "));
        self.error(given.referenced, "unknown-value", message, Some(&help));
        None
    }

    /// The whole rule, or nothing if a problem was found.
    pub(super) fn rule(mut self, folder: Option<Area>, file: RuleFile) -> Option<Rule> {
        let place = file.id.referenced;
        let area = self.id(&file.id, folder);
        if file.title.value.trim().is_empty() {
            self.error(
                file.title.referenced,
                "empty-title",
                "title is empty".to_owned(),
                None,
            );
        } else if file.title.value.chars().count() > MAX_TITLE {
            self.error(
                file.title.referenced,
                "long-title",
                format!("title is longer than {MAX_TITLE} characters"),
                Some("say the rest in `description`"),
            );
        }
        let status = file.status.as_ref().map_or(Some(Status::Stable), |t| {
            self.choice(
                t,
                "status",
                &[
                    ("experimental", Status::Experimental),
                    ("test", Status::Test),
                    ("stable", Status::Stable),
                    ("deprecated", Status::Deprecated),
                ],
            )
        });
        let level = self.level(&file.level);
        let stage = file
            .stage
            .as_ref()
            .map_or(Some(Stage::Page), |t| self.stage(t));
        if let Some(version) = &file.version
            && version.value == 0
        {
            self.error(
                version.referenced,
                "version",
                "version counts from 1".to_owned(),
                None,
            );
        }
        let kind = &file.kind;
        if kind.value.is_empty()
            || kind.value.len() > 64
            || !kind
                .value
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        {
            self.error(
                kind.referenced,
                "type",
                "type must be 1 to 64 of A-Z, a-z, 0-9, `-` and `_`".to_owned(),
                None,
            );
        }
        let tags = self.tags(file.tags.as_deref(), area);
        let runbook = self.runbook(file.runbook.as_ref(), area);
        let scope = self.scope(file.scope.as_ref());
        let weight = self.weight(file.weight.as_ref(), area);
        let priority = file.priority.as_ref().map_or(50, |p| {
            if p.value > 100 {
                self.error(
                    p.referenced,
                    "priority",
                    "priority goes from 0 to 100".to_owned(),
                    None,
                );
            }
            p.value
        });
        let readings = self.readings(file.matches.value.readings.as_ref(), area);
        let condition = self.node(&file.matches, readings, 0);
        if condition.as_ref().is_some_and(|c| !positive(c)) {
            self.error(
                file.matches.referenced,
                "never-positive",
                "match has only `not`: nothing says what to find".to_owned(),
                Some("add keywords, a regex, `any` or `all`"),
            );
        }
        let context = self.context(file.context.as_ref());
        let validators = self.validators(&file.validators);
        let min_entropy = file.min_entropy.as_ref().map_or(0.0, |e| {
            if !(0.0..=8.0).contains(&e.value) {
                self.error(
                    e.referenced,
                    "entropy",
                    "min_entropy is in bits per character, 0 to 8".to_owned(),
                    None,
                );
            }
            e.value
        });
        let window = file.window.as_ref().and_then(|w| self.window(w));
        let exceptions = self.exceptions(file.exceptions.as_ref());
        let tests = self.tests(&file, status);
        if self.failed {
            return None;
        }
        Some(Rule {
            id: SmolStr::from(file.id.value),
            area: area?,
            title: file.title.value,
            description: file.description,
            status: status?,
            level: level?,
            stage: stage?,
            version: file.version.map_or(1, |v| v.value),
            kind: SmolStr::from(file.kind.value),
            typed: file.typed.unwrap_or(true),
            tags,
            references: file.references,
            falsepositives: file.falsepositives,
            runbook,
            scope,
            weight,
            priority,
            readings,
            condition: condition?,
            context,
            validators,
            min_entropy,
            window,
            exceptions,
            tests,
            file: Arc::clone(self.source),
            line: u32::try_from(place.line()).unwrap_or(1),
        })
    }

    fn id(&mut self, id: &Text, folder: Option<Area>) -> Option<Area> {
        let text = &id.value;
        let shape = (3..=64).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !text.starts_with('-');
        if !shape {
            self.error(
                id.referenced,
                "id-shape",
                format!("id `{text}` is not 3 to 64 of a-z, 0-9 and `-`"),
                Some("write words in lower case, joined by `-`"),
            );
            return None;
        }
        let Some(area) = Area::ALL.into_iter().find(|a| text.starts_with(a.prefix())) else {
            self.error(
                id.referenced,
                "id-prefix",
                format!("id `{text}` must begin with `inj-`, `pii-` or `sec-`"),
                None,
            );
            return None;
        };
        if let Some(folder) = folder
            && folder != area
        {
            self.error(
                id.referenced,
                "wrong-folder",
                format!(
                    "id `{text}` is a rule of `{}/`, the file lies in `{}/`",
                    area.as_str(),
                    folder.as_str()
                ),
                Some("move the file or change the prefix"),
            );
        }
        let name = self.source.path.rsplit(['/', '\\']).next().unwrap_or("");
        let stem = name
            .strip_suffix(".yml")
            .or_else(|| name.strip_suffix(".yaml"));
        if folder.is_some() && stem != Some(text) {
            self.warn(
                id.referenced,
                "file-name",
                format!("the file of `{text}` should be called `{text}.yml`"),
                None,
            );
        }
        Some(area)
    }

    fn level(&mut self, text: &Text) -> Option<Severity> {
        let words = Severity::ALL.map(|s| (s.as_str(), s));
        self.choice(text, "level", &words)
    }

    fn stage(&mut self, text: &Text) -> Option<Stage> {
        let words = [Stage::Shadow, Stage::Ticket, Stage::Page].map(|s| (s.as_str(), s));
        self.choice(text, "stage", &words)
    }

    fn weight(&mut self, weight: Option<&Spanned<f32>>, area: Option<Area>) -> f32 {
        let Some(weight) = weight else { return 0.5 };
        if !(0.0..=1.0).contains(&weight.value) {
            self.error(
                weight.referenced,
                "weight",
                "weight goes from 0 to 1".to_owned(),
                None,
            );
        }
        if area.is_some_and(|a| a != Area::Injection) {
            self.error(
                weight.referenced,
                "weight",
                "weight is for injection rules: a value is found or not".to_owned(),
                Some("use `priority` to say which rule names a value"),
            );
        }
        weight.value
    }

    fn node(&mut self, file: &Spanned<NodeFile>, readings: u8, depth: usize) -> Option<Node> {
        let place = file.referenced;
        let file = &file.value;
        if depth > MAX_DEPTH {
            self.error(
                place,
                "too-deep",
                format!("nodes nest deeper than {MAX_DEPTH}"),
                None,
            );
            return None;
        }
        if depth > 0
            && let Some(readings) = &file.readings
        {
            self.error(
                readings.referenced,
                "nested-readings",
                "`readings` belongs to the top node of `match`".to_owned(),
                None,
            );
        }
        let before = self.failed;
        self.failed = false;
        let mut node = Node {
            within: file.within.as_ref().map(|w| self.within(w)),
            ..Node::default()
        };
        if let Some(keywords) = &file.keywords {
            self.keywords(keywords, &mut node.keywords);
        }
        if let Some(name) = &file.list {
            self.list(name, &mut node.keywords);
        }
        if node.keywords.len() > MAX_KEYWORDS {
            self.error(
                place,
                "many-keywords",
                format!("more than {MAX_KEYWORDS} keywords in one node"),
                None,
            );
        }
        if let Some(regex) = &file.regex {
            node.regex = self.pattern(regex, readings, !node.keywords.is_empty());
        }
        for (name, files, nodes) in [
            ("any", &file.any, &mut node.any),
            ("all", &file.all, &mut node.all),
            ("not", &file.not, &mut node.not),
        ] {
            let Some(files) = files else { continue };
            if files.value.is_empty() {
                self.error(
                    files.referenced,
                    "empty-list",
                    format!("`{name}` is empty"),
                    None,
                );
            }
            for child in &files.value {
                if let Some(child) = self.node(child, readings, depth + 1) {
                    nodes.push(child);
                }
            }
        }
        let empty = file.keywords.is_none()
            && file.list.is_none()
            && file.regex.is_none()
            && file.any.is_none()
            && file.all.is_none()
            && file.not.is_none();
        if empty {
            self.error(
                place,
                "empty-match",
                "match node holds no condition".to_owned(),
                Some("give it keywords, regex, list, any, all or not"),
            );
        }
        if let Some(within) = &file.within
            && node.all.is_empty()
            && node.not.is_empty()
            && !(node.regex.is_some() && !node.keywords.is_empty())
            && !self.failed
        {
            self.error(
                within.referenced,
                "useless-within",
                "`within` needs `all`, `not`, or keywords beside a regex".to_owned(),
                None,
            );
        }
        let ok = !self.failed;
        self.failed |= before;
        ok.then_some(node)
    }

    fn keywords(&mut self, given: &Spanned<Vec<Text>>, out: &mut Vec<Keyword>) {
        if given.value.is_empty() {
            self.error(
                given.referenced,
                "empty-list",
                "`keywords` is empty".to_owned(),
                None,
            );
        }
        for text in &given.value {
            match keyword(&text.value) {
                Ok(keyword) if out.contains(&keyword) => self.warn(
                    text.referenced,
                    "twice",
                    format!("keyword `{}` stands twice (after folding)", text.value),
                    None,
                ),
                Ok(keyword) => out.push(keyword),
                Err(why) => self.error(text.referenced, "keyword", why, None),
            }
        }
    }

    fn list(&mut self, name: &Text, out: &mut Vec<Keyword>) {
        let Some(list) = self.lists.get(&name.value) else {
            self.unknown_list(name, &name.value, 0);
            return;
        };
        if list.phrases.is_empty() {
            self.error(
                name.referenced,
                "list-kind",
                format!(
                    "list `{}` is a regex fragment: use it as `${{{}}}`",
                    name.value, name.value
                ),
                None,
            );
        }
        out.extend(list.phrases.iter().filter_map(|p| keyword(&p.value).ok()));
    }

    fn unknown_list(&mut self, text: &Text, name: &str, column: usize) {
        let lists = self.lists;
        let hint = suggest::hint(name, lists.keys().map(String::as_str));
        self.error(
            text.referenced,
            "unknown-list",
            format!("no list is called `{name}`{hint}"),
            Some("lists live in rules/lists/<name>.yml"),
        );
        self.shift(column, name.chars().count());
    }

    /// Moves the caret of the last problem into its text.
    fn shift(&mut self, by: usize, width: usize) {
        if let Some(last) = self.problems.last_mut() {
            let quoted = last
                .excerpt
                .chars()
                .nth(last.column.saturating_sub(1) as usize)
                .is_some_and(|c| matches!(c, '\'' | '"'));
            let by = by + usize::from(quoted);
            last.column = last.column.saturating_add(u32::try_from(by).unwrap_or(0));
            last.width = u32::try_from(width).unwrap_or(1).max(1);
        }
    }

    /// Expands `${name}`.
    fn expand(&mut self, text: &Text) -> Option<String> {
        let mut out = String::with_capacity(text.value.len());
        let mut rest = text.value.as_str();
        while let Some(start) = rest.find("${") {
            out.push_str(&rest[..start]);
            let after = &rest[start + 2..];
            let Some(end) = after.find('}') else {
                self.error(
                    text.referenced,
                    "macro",
                    "`${` without `}`".to_owned(),
                    None,
                );
                return None;
            };
            let name = &after[..end];
            let Some(list) = self.lists.get(name) else {
                let column = text.value.len() - rest.len() + start + 2;
                self.unknown_list(text, name, column);
                return None;
            };
            out.push_str("(?:");
            out.push_str(&list.fragment);
            out.push(')');
            rest = &after[end + 1..];
        }
        out.push_str(rest);
        Some(out)
    }

    fn pattern(&mut self, text: &Text, readings: u8, keywords: bool) -> Option<Pattern> {
        let expanded = self.expand(text)?;
        if expanded.len() > MAX_REGEX {
            self.error(
                text.referenced,
                "long-regex",
                format!("regex is longer than {MAX_REGEX} bytes"),
                None,
            );
            return None;
        }
        let folded_only = readings & ReadingKind::Raw.bit() == 0;
        let source = if folded_only {
            fold::regex_source(&expanded)
        } else {
            expanded
        };
        let (found, hir) = match pattern::study(&source) {
            Ok(found) => found,
            Err(mistake) => {
                let help = if mistake.message.contains("look-around")
                    || mistake.message.contains("backreference")
                {
                    "regexes run in linear time: no look-around and no back-references; use `not` or `context`"
                } else {
                    "the syntax is that of the regex crate"
                };
                self.error(
                    text.referenced,
                    "regex",
                    format!("regex: {}", mistake.message),
                    Some(help),
                );
                if source == text.value {
                    self.shift(mistake.start, mistake.width);
                }
                return None;
            }
        };
        if !self.known.compiled_in
            && let Err(why) = pattern::compiles(&source)
        {
            self.error(text.referenced, "regex-size", why, None);
            return None;
        }
        if found.min_len == 0 {
            self.error(
                text.referenced,
                "matches-empty",
                "regex matches the empty text, so it matches everywhere".to_owned(),
                Some("make at least one part required"),
            );
            return None;
        }
        if folded_only && lint::needs_upper_case(&hir) {
            self.error(
                text.referenced,
                "upper-case",
                "regex needs an upper-case letter, but folded text has none".to_owned(),
                Some("write it in lower case, or set `readings: [raw]`"),
            );
            return None;
        }
        if lint::unbounded_gap(&hir) {
            self.warn(
                text.referenced,
                "unbounded-gap",
                format!(
                    "a gap of any character has no bound (or more than {})",
                    lint::LONG_GAP
                ),
                Some("bound it: `.{0,40}` instead of `.*`"),
            );
        }
        if lint::literal_free(&found, keywords) {
            self.warn(
                text.referenced,
                "literal-free",
                "no literal or keyword tells where to look: every text pays for this regex"
                    .to_owned(),
                Some("add `keywords`, or a literal of at least 3 characters"),
            );
        }
        Some(found)
    }
}

/// Whether anything but `not` must hold.
fn positive(node: &Node) -> bool {
    !node.keywords.is_empty()
        || node.regex.is_some()
        || node.any.iter().any(positive)
        || node.all.iter().any(positive)
}

/// A keyword as the automaton sees it.
pub(super) fn keyword(text: &str) -> Result<Keyword, String> {
    let starts_free = text.starts_with('*');
    let ends_free = text.ends_with('*');
    let folded = fold::phrase(text);
    if folded.is_empty() {
        return Err("keyword is empty after folding".to_owned());
    }
    if folded.len() > MAX_KEYWORD {
        return Err(format!("keyword is longer than {MAX_KEYWORD} bytes"));
    }
    let chars = folded.chars().count();
    if chars == 1 && folded.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Err(format!(
            "keyword `{folded}` is one letter or digit and stands in every text"
        ));
    }
    let spaced = |c: char| c.is_alphanumeric() && !unspaced(c);
    Ok(Keyword {
        starts_word: !starts_free && folded.chars().next().is_some_and(spaced),
        ends_word: !ends_free && folded.chars().next_back().is_some_and(spaced),
        text: folded,
    })
}

/// Whether a character's script writes without blanks between words (Han, kana, Thai, …) or glues
/// endings to words (hangul), so that word boundaries mean nothing.
pub fn unspaced(c: char) -> bool {
    matches!(u32::from(c), 0x0e00..=0x0eff | 0x0f00..=0x109f | 0x1100..=0x11ff | 0x1780..=0x17ff | 0x2e80..=0x9fff | 0xa960..=0xa97f | 0xac00..=0xd7ff | 0xf900..=0xfaff | 0x20000..=0x3ffff)
}

/// Reads a list file.
pub(super) fn list(
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
pub(super) fn change(
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
