//! One rule file, checked: every mistake becomes a diagnostic at its place.

mod list;
mod node;
mod parts;

pub(super) use list::{change, list};

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_saphyr::{Location, Spanned};

use super::file::{RuleFile, Text};
use super::load::at;
use super::{
    Area, Diagnostic, Grade, Keyword, Known, Node, Rule, SmolStr, Source, Status, fold, suggest,
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
        let shape = super::ID_BYTES.contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !text.starts_with('-');
        if !shape {
            self.error(
                id.referenced,
                "id-shape",
                format!("id `{text}` is not 5 to 64 of a-z, 0-9 and `-`"),
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
                Some("rename the file, or change its `id`"),
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
