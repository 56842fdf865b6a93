//! From the texts of files to a [`RuleSet`], or to what is wrong with them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_saphyr::{Error as YamlError, Location};

use super::check::{Checker, List, change, list};
use super::file::{OverridesFile, RuleFile};
use super::{Area, Diagnostic, Grade, Rule, RuleSet, SmolStr, lint, slip, suggest};

/// A file's path (for messages) and text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Path as messages show it.
    pub path: String,
    /// Content.
    pub text: String,
}

/// Largest rule file, in bytes: a rule is a page, not a data set.
pub const MAX_FILE_BYTES: usize = 256 * 1024;
/// Most files of one set.
pub const MAX_FILES: usize = 10_000;

/// What the rest of the program knows and rules may name.
#[derive(Debug, Clone, Default)]
pub struct Known<'a> {
    /// Names of validators; `None`: not checked here.
    pub validators: Option<&'a [&'a str]>,
    /// Exceptions that ended before this day are warned of and dropped; `None`: all hold.
    pub today: Option<jiff::civil::Date>,
    /// The files were checked when the program was built: regexes are not compiled to see whether
    /// they fit, which is most of the time that loading takes.
    pub compiled_in: bool,
    /// Nobody will run the tests in the files: they are half of the text, and are not read.
    pub untested: bool,
}

/// Which kind of file a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Rule(Option<Area>),
    List,
    Overrides,
}

fn kind(path: &str) -> Kind {
    let folder = path.rsplit(['/', '\\']).nth(1).unwrap_or("");
    match folder {
        "lists" => Kind::List,
        "overrides" => Kind::Overrides,
        _ => Kind::Rule(Area::ALL.into_iter().find(|a| a.as_str() == folder)),
    }
}

/// Parses and checks all files; `overrides` are override files given beside the set.
///
/// # Errors
/// Every problem found, errors first; the set is taken only if none is an error.
pub fn load(
    sources: &[Arc<Source>],
    overrides: &[Arc<Source>],
    known: &Known<'_>,
) -> Result<(RuleSet, Vec<Diagnostic>), Vec<Diagnostic>> {
    let mut problems = Vec::new();
    let mut rules: Vec<(Option<Area>, RuleFile, Arc<Source>)> = Vec::new();
    let mut lists = BTreeMap::new();
    let mut changes = Vec::new();
    let mut shifts = Vec::new();
    let mut digest = blake3::Hasher::new();
    for (source, given) in sources
        .iter()
        .map(|s| (s, false))
        .chain(overrides.iter().map(|s| (s, true)))
        .take(MAX_FILES)
    {
        // Only the file's name counts: the same rules under another folder are the same set.
        let name = source.path.rsplit(['/', '\\']).next().unwrap_or("");
        digest.update(&(name.len() as u64).to_le_bytes());
        digest.update(name.as_bytes());
        digest.update(&(source.text.len() as u64).to_le_bytes());
        digest.update(source.text.as_bytes());
        if source.text.len() > MAX_FILE_BYTES {
            problems.push(whole(
                source,
                "too-large",
                format!("file is larger than {MAX_FILE_BYTES} bytes: split it"),
            ));
            continue;
        }
        match if given {
            Kind::Overrides
        } else {
            kind(&source.path)
        } {
            Kind::Rule(area) => {
                let file = Reading::new(source, &mut problems, &mut shifts).parse(known.untested);
                rules.extend(file.map(|f: RuleFile| (area, f, Arc::clone(source))));
            }
            Kind::List => {
                let file = Reading::new(source, &mut problems, &mut shifts).parse(false);
                if let Some(file) = file {
                    list(&file, source, &mut lists, &mut problems);
                }
            }
            Kind::Overrides => {
                let file = Reading::new(source, &mut problems, &mut shifts).parse(false);
                changes.extend(file.map(|f: OverridesFile| (f, Arc::clone(source))));
            }
        }
    }
    if sources.len() + overrides.len() > MAX_FILES
        && let Some(first) = sources.first()
    {
        problems.push(whole(
            first,
            "too-many",
            format!("more than {MAX_FILES} files in one set"),
        ));
    }

    let mut ready: BTreeMap<SmolStr, Rule> = BTreeMap::new();
    for (area, file, source) in rules {
        let place = file.id.referenced;
        let before = problems.len();
        let rule = Checker::new(&source, &lists, known, &mut problems).rule(area, file);
        let Some(rule) = rule else {
            debug_assert!(problems.len() > before, "a refused rule has a reason");
            continue;
        };
        if let Some(other) = ready.get(&rule.id) {
            problems.push(at(
                &source,
                place,
                "duplicate-id",
                format!(
                    "id `{}` is taken by {}:{}",
                    rule.id, other.file.path, other.line
                ),
                Some("ids are unique and never reused: choose another".to_owned()),
            ));
            continue;
        }
        ready.insert(rule.id.clone(), rule);
    }
    for (file, source) in changes {
        for one in file.overrides {
            change(one, &source, &mut ready, known, &mut problems);
        }
    }
    let rules: Vec<Arc<Rule>> = ready.into_values().map(Arc::new).collect();
    lint::across(&rules, &mut problems);
    for p in &mut problems {
        let of_file = shifts.iter().rev().filter(|(file, _)| *file == p.file);
        p.column = of_file.fold(p.column, |column, (_, s)| s.back(p.line, column));
    }
    problems.sort_by(|a, b| {
        (a.grade, &a.file, a.line, a.column, a.code)
            .cmp(&(b.grade, &b.file, b.line, b.column, b.code))
    });
    if problems.iter().any(|p| p.grade == Grade::Error) {
        return Err(problems);
    }
    let words = |name: &str| lists.get(name).map_or_else(Vec::new, List::words);
    let (lexicon, keep) = (words(super::LEXICON_LIST), words(super::KEEP_LIST));
    Ok((
        RuleSet::new(rules, digest.finalize(), lexicon, keep),
        problems,
    ))
}

/// A rule file without its block of tests: up to the next key of the file, or its end.
fn without_tests(text: &str) -> Cow<'_, str> {
    let Some((before, tests)) = text.split_once("\ntests:") else {
        return Cow::Borrowed(text);
    };
    let mut lines = tests.split_inclusive('\n');
    let own = |line: &&str| !line.starts_with(|c: char| c.is_ascii_lowercase());
    let first = lines.next().map_or(0, str::len);
    let len = first + lines.take_while(own).map(str::len).sum::<usize>();
    Cow::Owned([before, "\n", &tests[len..]].concat())
}

/// One file on its way from text to keys, and where its mistakes go.
struct Reading<'a> {
    source: &'a Source,
    problems: &'a mut Vec<Diagnostic>,
    /// File by file: what its columns have to be put back by.
    shifts: &'a mut Vec<(String, slip::Shift)>,
}

impl<'a> Reading<'a> {
    fn new(
        source: &'a Source,
        problems: &'a mut Vec<Diagnostic>,
        shifts: &'a mut Vec<(String, slip::Shift)>,
    ) -> Self {
        Self {
            source,
            problems,
            shifts,
        }
    }

    /// The file's keys, if there is enough to check further; unknown ones are read past.
    fn parse<T: DeserializeOwned>(self, untested: bool) -> Option<T> {
        let source = self.source;
        if source.text.trim().is_empty() {
            let mut d = whole(source, "empty-file", "file is empty".to_owned());
            d.help = Some("write a rule (`veilwatch rules new`), or remove the file".to_owned());
            self.problems.push(d);
            return None;
        }
        let options = serde_saphyr::options! {
            with_snippet: false,
            strict_booleans: true,
            reject_unsupported_tags: true,
        };
        let mut text = if untested {
            without_tests(&source.text)
        } else {
            Cow::Borrowed(source.text.as_str())
        };
        // The text before the last slip was taken for another key, and where, what and for which.
        let mut before: Option<(String, Location, String, &'static str)> = None;
        let mut unknown = 0;
        loop {
            let error = match serde_saphyr::from_str_with_options::<T>(&text, options.clone()) {
                Ok(file) => return Some(file),
                Err(e) => e,
            };
            let place = error.location().unwrap_or(Location::UNKNOWN);
            let next = match error.without_snippet() {
                YamlError::SerdeUnknownField {
                    field, expected, ..
                } => {
                    self.problems.push(yaml(source, &error));
                    unknown += 1;
                    let meant = suggest::nearest(field, expected.iter().copied());
                    let meant = meant.and_then(|m| expected.iter().find(|e| **e == m));
                    before = None;
                    match meant.and_then(|to| Some((slip::renamed(&text, place, field, to)?, *to)))
                    {
                        Some(((next, shift), to)) => {
                            before = Some((text.into_owned(), place, field.clone(), to));
                            self.shifts.push((source.path.clone(), shift));
                            Some(next)
                        }
                        None => slip::without(&text, place, field),
                    }
                }
                // What was meant stands there as well.
                YamlError::DuplicateMappingKey { key, .. }
                    if before
                        .as_ref()
                        .is_some_and(|(.., to)| key.as_deref() == Some(*to)) =>
                {
                    self.shifts.pop();
                    before
                        .take()
                        .and_then(|(text, place, key, _)| slip::without(&text, place, &key))
                }
                _ => {
                    let d = yaml(source, &error);
                    // What YAML itself does not take after a key was left out may be of our making.
                    if unknown == 0 || d.code != "yaml" {
                        self.problems.push(d);
                    }
                    None
                }
            };
            text = Cow::Owned(next.filter(|_| unknown < slip::MAX_UNKNOWN)?);
        }
    }
}

/// A YAML or serde error as a diagnostic.
fn yaml(source: &Source, error: &YamlError) -> Diagnostic {
    let place = error.location().unwrap_or(Location::UNKNOWN);
    match error.without_snippet() {
        YamlError::SerdeUnknownField {
            field, expected, ..
        } => {
            let mut d = at(
                source,
                place,
                "unknown-key",
                format!(
                    "unknown key `{field}`{}",
                    suggest::hint(field, expected.iter().copied())
                ),
                Some(format!("keys here: {}", expected.join(", "))),
            );
            d.width = width_of(field);
            d
        }
        YamlError::SerdeMissingField { field, .. } => at(
            source,
            place,
            "missing-key",
            format!("key `{field}` is missing"),
            Some("`veilwatch rules new` writes a file with every key that is needed".to_owned()),
        ),
        YamlError::DuplicateMappingKey { key, .. } => at(
            source,
            place,
            "duplicate-key",
            match key {
                Some(key) => format!("key `{key}` stands twice"),
                None => "a key stands twice".to_owned(),
            },
            Some("keep one of the two".to_owned()),
        ),
        YamlError::SerdeInvalidType {
            unexpected,
            expected,
            ..
        } => at(
            source,
            place,
            "wrong-type",
            format!("expected {expected}, found {unexpected}"),
            Some("`veilwatch rules schema` says what each key takes".to_owned()),
        ),
        other => at(
            source,
            place,
            "yaml",
            first_line(&other.to_string()),
            Some(
                "check the indentation, and quote values with `:`, `#` or `\\` in single quotes"
                    .to_owned(),
            ),
        ),
    }
}

/// The parser's words, without the place (it stands in front) and in the words of rule files.
fn first_line(message: &str) -> String {
    let line = message.lines().next().unwrap_or("not YAML");
    let line = line.split(" at line ").next().unwrap_or(line);
    line.replace("sequence start", "a list, `[…]`")
        .replace("mapping start", "a mapping, `{key: …}`")
}

fn width_of(text: &str) -> u32 {
    u32::try_from(text.chars().count()).unwrap_or(1).max(1)
}

/// A problem of a whole file.
fn whole(source: &Source, code: &'static str, message: String) -> Diagnostic {
    at(source, Location::UNKNOWN, code, message, None)
}

/// An error at a place.
pub(super) fn at(
    source: &Source,
    place: Location,
    code: &'static str,
    message: String,
    help: Option<String>,
) -> Diagnostic {
    let line = u32::try_from(place.line()).unwrap_or(1).max(1);
    let column = u32::try_from(place.column()).unwrap_or(1).max(1);
    let width = u32::try_from(place.span().len()).unwrap_or(1).max(1);
    let excerpt = source
        .text
        .lines()
        .nth(line as usize - 1)
        .unwrap_or("")
        .to_owned();
    Diagnostic {
        grade: Grade::Error,
        code,
        file: source.path.clone(),
        line,
        column,
        width,
        message,
        help,
        excerpt,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"id: sec-github-pat
title: GitHub personal access token
type: github-pat
level: high
tags: [owasp.llm02-2025, atlas.t0057, cwe.200]
scope: {roles: [user, tool, document], sides: [request, response]}
match:
  keywords: [ghp_]
  regex: '\bghp_[A-Za-z0-9]{36}\b'
context: {words: [github, token*], within: 60}
validators: [luhn]
min_entropy: 3.0
window: {count: 3, within: 10m, by: user}
exceptions: [{reason: "test key", until: 2027-01-31, regex: 'ghp_0+'}]
tests:
  - {text: "ghp_0123456789abcdefghijABCDEFGHIJ012345", match: true}
  - {events: [{offset: 0s, text: "a"}, {offset: 1m, text: "b"}], match: false, role: system, side: request}
"#;

    fn source(path: &str, text: &str) -> Arc<Source> {
        Arc::new(Source {
            path: path.to_owned(),
            text: text.to_owned(),
        })
    }

    #[test]
    fn a_full_rule_loads() {
        let file = source("rules/secret/sec-github-pat.yml", GOOD);
        let (set, warnings) = load(&[file], &[], &Known::default()).expect("loads");
        assert_eq!(warnings, []);
        let rule = &set.rules()[0];
        assert_eq!(rule.condition.keywords[0].text, "ghp_");
        assert_eq!(rule.tests.len(), 2);
        assert!(set.id().starts_with("b3:") && set.id().len() == 15);
    }

    #[test]
    fn tests_are_left_out_wherever_they_stand() {
        for (text, rest) in [
            (GOOD, GOOD.split_once("tests:").expect("tests").0),
            (
                "id: a\ntests:\n- {a: b}\n\n  # c\n- d\nlevel: low\n",
                "id: a\nlevel: low\n",
            ),
            ("id: a\ntests: [{text: b}]\n", "id: a\n"),
            ("id: a\n", "id: a\n"),
        ] {
            assert_eq!(without_tests(text), rest);
        }
        let file = source("rules/secret/sec-github-pat.yml", GOOD);
        let known = Known {
            untested: true,
            ..Known::default()
        };
        let (slim, _) = load(std::slice::from_ref(&file), &[], &known).expect("loads");
        let (full, _) = load(&[file], &[], &Known::default()).expect("loads");
        assert_eq!(slim.id(), full.id());
        assert!(slim.rules()[0].tests.is_empty() && !full.rules()[0].tests.is_empty());
    }

    #[test]
    fn an_unknown_key_names_its_place_and_neighbour() {
        let file = source(
            "rules/secret/x.yml",
            &GOOD.replace("min_entropy", "min_entropie"),
        );
        let problems = load(&[file], &[], &Known::default()).expect_err("refused");
        assert_eq!(
            problems[0].line(),
            "rules/secret/x.yml:12:1: error[unknown-key]: unknown key `min_entropie`, did you mean `min_entropy`?"
        );
    }

    #[test]
    fn an_unknown_key_hides_no_other_mistake() {
        let text = GOOD
            .replace("title: GitHub", "titel: GitHub")
            .replace(
                "level: high",
                "levl: hgh\nowner:\n  - somebody\n  # not a key here\n- nobody",
            )
            .replace("{count: 3,", "{count: 0, colour: [red, '}'],")
            .replace("ghp_[A-Za-z0-9]{36}", "ghp_[A-Za-z0-9")
            .replace(
                "min_entropy: 3.0",
                "min_entropy: 3.0\nmin_entropie: 3.0\nversion: 0",
            );
        let file = source("rules/secret/sec-github-pat.yml", &text);
        let problems = load(&[file], &[], &Known::default()).expect_err("refused");
        let said: Vec<String> = problems.iter().map(Diagnostic::line).collect();
        let places: Vec<(u32, u32, &str)> = problems
            .iter()
            .map(|p| (p.line, p.column, p.code))
            .collect();
        let expected = [
            (2, 1, "unknown-key"),
            (4, 1, "unknown-key"),
            // In the file's columns, though the key has a letter more by now.
            (4, 7, "unknown-value"),
            (5, 1, "unknown-key"),
            (13, 17, "regex"),
            (17, 1, "unknown-key"),
            (18, 10, "version"),
            (19, 20, "unknown-key"),
        ];
        for e in expected {
            assert!(places.contains(&e), "{e:?} in {said:#?}");
        }
        assert!(
            places
                .iter()
                .all(|p| !["yaml", "missing-key", "duplicate-key"].contains(&p.2)),
            "{said:#?}"
        );
    }

    #[test]
    fn overrides_change_rules_and_unknown_ids_are_refused() {
        let file = source("rules/secret/sec-github-pat.yml", GOOD);
        let change = source(
            "local.yml",
            "overrides:\n  - {id: sec-github-pat, reason: noisy, stage: ticket}\n",
        );
        let (set, _) =
            load(std::slice::from_ref(&file), &[change], &Known::default()).expect("loads");
        assert_eq!(set.rules()[0].stage, crate::event::Stage::Ticket);
        let wrong = source(
            "local.yml",
            "overrides:\n  - {id: sec-github-pta, reason: noisy, stage: ticket}\n",
        );
        let problems = load(&[file], &[wrong], &Known::default()).expect_err("refused");
        assert!(
            problems[0]
                .message
                .contains("did you mean `sec-github-pat`?")
        );
    }
}
