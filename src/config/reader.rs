//! Reads a TOML table key by key and collects every problem with its line and remedy.
//!
//! Serde stops at the first mistake; an operator wants all of them at once. A [`Section`] notes
//! which keys were asked for, so that the rest can be reported with the nearest known name.

mod secrets;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::duration::{parse_duration, show_duration};
use crate::rule::suggest::nearest;

/// One mistake in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Line in the file, counted from 1; 0 where the mistake has no place (a missing section).
    pub line: usize,
    /// Full key, such as `ingest.topics[0].mode`.
    pub key: String,
    /// What is wrong. Never a secret's value.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.line > 0 {
            write!(f, "line {}: ", self.line)?;
        }
        write!(f, "{}: {}; {}", self.key, self.what, self.remedy)
    }
}

/// Where a configuration comes from: its text, the directory that relative paths start from, and
/// the environment.
#[derive(Debug)]
pub struct Source<'a> {
    /// The TOML text.
    pub text: &'a str,
    /// Directory of the file.
    pub dir: &'a Path,
    /// `VEILWATCH_*` variables.
    pub env: &'a BTreeMap<String, String>,
}

/// Collects problems while sections are read.
#[derive(Debug)]
pub struct Reader<'a> {
    source: &'a Source<'a>,
    problems: RefCell<Vec<Problem>>,
}

impl<'a> Reader<'a> {
    /// A reader over a source.
    pub fn new(source: &'a Source<'a>) -> Self {
        Self {
            source,
            problems: RefCell::default(),
        }
    }

    /// All problems, in the order of the file.
    pub fn into_problems(self) -> Vec<Problem> {
        let mut p = self.problems.into_inner();
        p.sort();
        p.dedup();
        p
    }

    /// Adds a problem that concerns no single key, or several.
    pub fn problem(
        &self,
        line: usize,
        key: &str,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.problems.borrow_mut().push(Problem {
            line,
            key: key.to_owned(),
            what: what.into(),
            remedy: remedy.into(),
        });
    }

    /// Whether something was said about a key.
    pub fn has_problem(&self, key: &str) -> bool {
        self.problems.borrow().iter().any(|p| p.key == key)
    }

    /// The line of a byte position.
    pub fn line(&self, at: usize) -> usize {
        let head = self.source.text.as_bytes().get(..at).unwrap_or_default();
        1 + head.iter().filter(|b| **b == b'\n').count()
    }

    /// The whole file as a section.
    pub fn root<'r>(&'r self, table: &'r DeTable<'a>) -> Section<'r, 'a> {
        Section {
            reader: self,
            path: String::new(),
            line: 0,
            table: Some(table),
            asked: RefCell::default(),
            variables: RefCell::default(),
        }
    }

    fn path(&self, p: &str) -> PathBuf {
        self.source.dir.join(p)
    }
}

/// One table of the file, present or not.
#[derive(Debug)]
pub struct Section<'r, 'a> {
    reader: &'r Reader<'a>,
    path: String,
    line: usize,
    table: Option<&'r DeTable<'a>>,
    asked: RefCell<Vec<String>>,
    /// Keys whose value came from a variable instead of the file, and which.
    variables: RefCell<BTreeMap<String, String>>,
}

impl<'r, 'a> Section<'r, 'a> {
    /// Line of the section, 0 if it is absent.
    pub fn line(&self) -> usize {
        self.line
    }
    /// Full name of a key in this section.
    pub fn key(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }
    /// Reports a problem with one key.
    pub fn problem(&self, key: &str, what: impl Into<String>, remedy: impl Into<String>) {
        if let Some(variable) = self.variables.borrow().get(key) {
            let key = key.strip_suffix("_file").unwrap_or(key);
            let place = format!("{variable} (for {})", self.key(key));
            return self.reader.problem(0, &place, what, remedy);
        }
        let line = self
            .find(key)
            .map_or(self.line, |v| self.reader.line(v.span().start));
        self.reader.problem(line, &self.key(key), what, remedy);
    }
    /// Reports a key that is missing though it is needed.
    pub fn missing(&self, key: &str, remedy: &str) {
        self.problem(key, "is missing", remedy);
    }
    /// Whether a key is written in the file.
    pub fn has(&self, key: &str) -> bool {
        self.find(key).is_some()
    }

    /// The keys that are written in the file, for a table whose keys are names.
    pub fn names(&self) -> Vec<String> {
        let keys = self.table.into_iter().flatten();
        keys.map(|(k, _)| k.get_ref().to_string()).collect()
    }

    fn find(&self, key: &str) -> Option<&'r Spanned<DeValue<'a>>> {
        let t = self.table?;
        t.iter().find(|(k, _)| k.get_ref() == key).map(|(_, v)| v)
    }
    fn ask(&self, key: &str) -> Option<&'r Spanned<DeValue<'a>>> {
        self.asked.borrow_mut().push(key.to_owned());
        self.find(key)
    }
    fn wrong(&self, key: &str, found: &DeValue<'_>, expected: &str) {
        self.problem(
            key,
            format!("is {}, not {expected}", article(found.type_str())),
            format!("write {expected}"),
        );
    }

    /// A string.
    pub fn str(&self, key: &str) -> Option<String> {
        let v = self.ask(key)?.get_ref();
        if let Some(s) = v.as_str() {
            return Some(s.to_owned());
        }
        self.wrong(key, v, "a string in quotes");
        None
    }

    /// A string that must be one of `words`.
    pub fn word<T: Copy>(&self, key: &str, words: &[(&str, T)]) -> Option<T> {
        let s = self.str(key)?;
        if let Some((_, t)) = words.iter().find(|(w, _)| *w == s) {
            return Some(*t);
        }
        let names: Vec<&str> = words.iter().map(|(w, _)| *w).collect();
        self.problem(
            key,
            format!("\"{s}\" is not known"),
            match nearest(&s, names.iter().copied()) {
                Some(n) => format!("did you mean \"{n}\"? one of {}", names.join(", ")),
                None => format!("write one of {}", names.join(", ")),
            },
        );
        None
    }

    /// A boolean.
    pub fn bool(&self, key: &str) -> Option<bool> {
        let v = self.ask(key)?.get_ref();
        let b = v.as_bool();
        if b.is_none() {
            self.wrong(key, v, "true or false");
        }
        b
    }

    /// An integer within bounds.
    pub fn integer(&self, key: &str, min: i64, max: i64) -> Option<i64> {
        let v = self.ask(key)?.get_ref();
        let Some(i) = v.as_integer() else {
            self.wrong(key, v, "a whole number");
            return None;
        };
        let n = i64::from_str_radix(&i.as_str().replace('_', ""), i.radix()).ok();
        match n {
            Some(n) if (min..=max).contains(&n) => Some(n),
            _ => {
                self.problem(
                    key,
                    "is out of range".to_owned(),
                    format!("write a whole number from {min} to {max}"),
                );
                None
            }
        }
    }

    /// A decimal number as written, so that money is never a float.
    pub fn decimal(&self, key: &str) -> Option<String> {
        let v = self.ask(key)?.get_ref();
        let text = v
            .as_integer()
            .map(|i| i.as_str().to_owned())
            .or_else(|| v.as_float().map(|f| f.as_str().to_owned()))
            .or_else(|| v.as_str().map(ToOwned::to_owned));
        match text {
            Some(t)
                if t.parse::<f64>().is_ok_and(|f| f.is_finite() && f >= 0.0)
                    && !t.contains(['e', 'E']) =>
            {
                Some(t.replace('_', ""))
            }
            Some(t) if t.parse::<f64>().is_ok_and(|f| f < 0.0) => {
                self.problem(
                    key,
                    "is below 0",
                    "write an amount from 0 up, such as 12.50",
                );
                None
            }
            _ => {
                self.wrong(key, v, "an amount from 0 up, such as 12.50");
                None
            }
        }
    }

    /// A duration such as `500ms`, `30s`, `5m`, `4h` or `7d`.
    pub fn duration(&self, key: &str, min: Duration, max: Duration) -> Option<Duration> {
        let s = self.str(key)?;
        let d = parse_duration(&s);
        match d {
            Some(d) if (min..=max).contains(&d) => Some(d),
            Some(_) => {
                self.problem(
                    key,
                    format!("\"{s}\" is out of range"),
                    format!(
                        "write a duration from {} to {}",
                        show_duration(min),
                        show_duration(max)
                    ),
                );
                None
            }
            None => {
                self.problem(
                    key,
                    format!("\"{s}\" is not a duration"),
                    "write a number and a unit: 500ms, 30s, 5m, 4h, 7d",
                );
                None
            }
        }
    }

    /// A list of strings; one string counts as a list of one.
    pub fn strings(&self, key: &str) -> Option<Vec<String>> {
        let v = self.ask(key)?.get_ref();
        if let Some(s) = v.as_str() {
            return Some(vec![s.to_owned()]);
        }
        let list = v.as_array().and_then(|a| {
            a.iter()
                .map(|x| x.get_ref().as_str().map(ToOwned::to_owned))
                .collect::<Option<Vec<_>>>()
        });
        if list.is_none() {
            self.wrong(key, v, "a list of strings");
        }
        list
    }

    /// A list of whole numbers within bounds.
    pub fn integers(&self, key: &str, min: i64, max: i64) -> Option<Vec<i64>> {
        let v = self.ask(key)?.get_ref();
        let list = v.as_array().and_then(|a| {
            a.iter()
                .map(|x| {
                    let n = x.get_ref().as_integer()?;
                    n.as_str()
                        .parse::<i64>()
                        .ok()
                        .filter(|n| (min..=max).contains(n))
                })
                .collect::<Option<Vec<_>>>()
        });
        if list.is_none() {
            self.problem(
                key,
                "is not a list of whole numbers in range",
                format!("write numbers from {min} to {max} in brackets"),
            );
        }
        list
    }

    /// A table of strings, such as matchers.
    pub fn string_table(&self, key: &str) -> BTreeMap<String, String> {
        let Some(v) = self.ask(key) else {
            return BTreeMap::new();
        };
        let Some(t) = v.get_ref().as_table() else {
            self.wrong(key, v.get_ref(), "a table of strings");
            return BTreeMap::new();
        };
        let mut out = BTreeMap::new();
        for (k, v) in t {
            match v.get_ref().as_str() {
                Some(s) => {
                    out.insert(k.get_ref().to_string(), s.to_owned());
                }
                None => self.wrong(key, v.get_ref(), "a table of strings"),
            }
        }
        out
    }

    /// A path, relative to the configuration's directory.
    pub fn path(&self, key: &str) -> Option<PathBuf> {
        self.str(key).map(|p| self.reader.path(&p))
    }

    /// Paths, relative to the configuration's directory.
    pub fn paths(&self, key: &str) -> Vec<PathBuf> {
        let list = self.strings(key).unwrap_or_default();
        list.iter().map(|p| self.reader.path(p)).collect()
    }

    /// The content of a file named by `key`, which must be readable.
    pub fn file(&self, key: &str) -> Option<String> {
        let path = self.path(key)?;
        match std::fs::read_to_string(&path) {
            Ok(s) => Some(s),
            Err(e) => {
                self.problem(
                    key,
                    format!("cannot read {}: {e}", path.display()),
                    "check the path and its permissions",
                );
                None
            }
        }
    }

    /// A sub-table, present or not.
    pub fn section(&self, key: &str) -> Section<'r, 'a> {
        let found = self.ask(key);
        let table = found.and_then(|v| {
            let t = v.get_ref().as_table();
            if t.is_none() {
                self.wrong(key, v.get_ref(), "a table");
            }
            t
        });
        Section {
            reader: self.reader,
            path: self.key(key),
            line: found.map_or(self.line, |v| self.reader.line(v.span().start)),
            table,
            asked: RefCell::default(),
            variables: RefCell::default(),
        }
    }

    /// An array of tables (`[[key]]` or `key = [{…}]`), empty if absent.
    pub fn sections(&self, key: &str) -> Vec<Section<'r, 'a>> {
        let Some(v) = self.ask(key) else {
            return Vec::new();
        };
        let Some(list) = v.get_ref().as_array() else {
            self.wrong(key, v.get_ref(), "a list of tables");
            return Vec::new();
        };
        let mut out = Vec::new();
        for (i, item) in list.iter().enumerate() {
            match item.get_ref().as_table() {
                Some(t) => out.push(Section {
                    reader: self.reader,
                    path: format!("{}[{i}]", self.key(key)),
                    line: self.reader.line(item.span().start),
                    table: Some(t),
                    asked: RefCell::default(),
                    variables: RefCell::default(),
                }),
                None => self.wrong(key, item.get_ref(), "a list of tables"),
            }
        }
        out
    }

    /// Reports the keys nobody asked for.
    pub fn finish(self) {
        let Some(table) = self.table else { return };
        let asked = self.asked.borrow();
        for (k, _) in table {
            let name = k.get_ref();
            if asked.iter().any(|a| a == name) {
                continue;
            }
            let remedy = match nearest(name, asked.iter().map(String::as_str)) {
                Some(n) => format!("did you mean {n}?"),
                None => "remove it; `veilwatch config init` prints every key".to_owned(),
            };
            let line = self.reader.line(k.span().start);
            self.reader
                .problem(line, &self.key(name), "is not a known key", remedy);
        }
    }
}

fn article(noun: &str) -> String {
    let an = noun.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {noun}", if an { "an" } else { "a" })
}
