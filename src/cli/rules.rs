//! `veilwatch rules`: Check, test, explain, list and create rules.

mod explain;
mod junit;
mod new;

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use serde_json::json;

use super::format::Format;
use super::{EXIT_FINDINGS, EXIT_RULES};
use crate::config::rules::rule_paths;
use crate::rule::{self, Diagnostic, Grade, Known, RuleSet, Source};
use crate::seal::engine::{Engine, known_validators, trial};
use crate::seal::model::Model;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Check rule files: each mistake with file, line, column and remedy. Status 2 on any error.
    Check {
        /// Rule files; the compiled-in ones if absent.
        dir: Option<PathBuf>,
        /// Warnings count as errors.
        #[arg(long)]
        deny_warnings: bool,
        /// Text with a caret under each mistake, or JSON lines.
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
        /// Override files beside the set.
        #[arg(long, value_name = "FILE")]
        overrides: Vec<PathBuf>,
    },
    /// Run the tests in rule files. Status 1 if one fails, 2 if a file is wrong.
    Test {
        /// Rule files; the compiled-in ones if absent.
        dir: Option<PathBuf>,
        /// Only rules whose id contains this.
        #[arg(long, value_name = "TEXT")]
        run: Option<String>,
        /// Write a JUnit report.
        #[arg(long, value_name = "FILE")]
        junit: Option<PathBuf>,
        /// Fail if less than this share of the rules is hit by a test, percent.
        #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
        coverage_threshold: Option<u8>,
        /// Text, or JSON lines.
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
        /// Override files beside the set.
        #[arg(long, value_name = "FILE")]
        overrides: Vec<PathBuf>,
    },
    /// Show for one text each reading, each rule, and the step at which it stopped.
    Explain(explain::Args),
    /// List rules.
    List {
        /// Rule files; the compiled-in ones if absent.
        dir: Option<PathBuf>,
        /// Output format; the default is text on a terminal and JSON lines elsewhere.
        #[arg(long, value_enum)]
        format: Option<Format>,
    },
    /// Write a new rule file with its tests to fill in.
    New(new::Args),
    /// Print the JSON Schema of rule files, for editors.
    Schema,
}

/// Which rules to use: shared by all verbs that look at texts.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct RuleArgs {
    /// Rule files instead of the compiled-in ones.
    #[arg(long, value_name = "DIR")]
    pub rules: Option<PathBuf>,
    /// Override files beside the set.
    #[arg(long, value_name = "FILE")]
    pub overrides: Vec<PathBuf>,
    /// Weights of `veilwatch train` instead of the compiled-in ones.
    #[arg(long, value_name = "FILE")]
    pub model: Option<PathBuf>,
}

/// Rule files that were named instead of the compiled-in ones have errors: the status says so.
#[derive(Debug, thiserror::Error)]
#[error("rules are refused\n{0}")]
pub struct RulesRefused(pub(super) String);

impl RuleArgs {
    /// The engine of these rules and weights.
    ///
    /// # Errors
    /// The rules do not load (the diagnostics are in the message), or the weights do not.
    pub fn engine(&self) -> anyhow::Result<Engine> {
        if self.rules.is_none() && self.overrides.is_empty() && self.model.is_none() {
            return Ok(Engine::built_in());
        }
        let model = match &self.model {
            Some(path) => {
                let bytes = fs::read(path).with_context(|| {
                    format!(
                        "cannot read {}; `veilwatch train --out FILE` writes weights",
                        path.display()
                    )
                })?;
                Some(
                    Model::from_bytes(&bytes)
                        .with_context(|| format!("{} is refused", path.display()))?,
                )
            }
            None => Model::shipped().ok(),
        };
        match load(self.rules.as_deref(), &self.overrides)? {
            Ok((set, _)) => Ok(Engine::new(&set, model)),
            Err(problems) => {
                let errors: Vec<String> = problems
                    .iter()
                    .filter(|p| p.grade == Grade::Error)
                    .map(Diagnostic::to_string)
                    .collect();
                Err(RulesRefused(errors.join("\n")).into())
            }
        }
    }
}

type Loaded = Result<(RuleSet, Vec<Diagnostic>), Vec<Diagnostic>>;

/// Reads and checks a directory (or the compiled-in rules) and override files.
///
/// # Errors
/// A file or directory cannot be read. What is wrong inside the files is in the value.
pub fn load(dir: Option<&Path>, overrides: &[PathBuf]) -> anyhow::Result<Loaded> {
    let mut illegible = Vec::new();
    let sources = match dir {
        Some(dir) => read_dir(dir, &mut illegible)?,
        None => rule::pack::sources(),
    };
    let overrides = read_files(overrides, &mut illegible)?;
    let names = known_validators();
    let known = Known {
        validators: Some(&names),
        today: Some(
            jiff::Timestamp::now()
                .to_zoned(jiff::tz::TimeZone::UTC)
                .date(),
        ),
        compiled_in: dir.is_none() && overrides.is_empty(),
        untested: false,
    };
    let loaded = rule::load(&sources, &overrides, &known);
    if illegible.is_empty() {
        return Ok(loaded);
    }
    // What can be read is checked all the same.
    illegible.extend(match loaded {
        Ok((_, warnings)) => warnings,
        Err(problems) => problems,
    });
    Ok(Err(illegible))
}

/// All `.yml` and `.yaml` files below a directory, or one file, in the order of their paths.
fn read_dir(dir: &Path, illegible: &mut Vec<Diagnostic>) -> anyhow::Result<Vec<Arc<Source>>> {
    let meta = std::fs::metadata(dir)
        .with_context(|| format!("cannot read {}; name a folder of rule files", dir.display()))?;
    let paths = if meta.is_file() {
        vec![dir.to_owned()]
    } else {
        rule_paths(dir)?
    };
    if paths.is_empty() {
        anyhow::bail!(
            "{} holds no .yml files; name a folder of rule files",
            dir.display()
        );
    }
    read_files(&paths, illegible)
}

fn read_files(
    paths: &[PathBuf],
    illegible: &mut Vec<Diagnostic>,
) -> anyhow::Result<Vec<Arc<Source>>> {
    let mut out = Vec::with_capacity(paths.len());
    for path in paths {
        match read_file(path)? {
            Ok(source) => out.push(source),
            Err(problem) => illegible.push(problem),
        }
    }
    Ok(out)
}

fn read_file(path: &Path) -> anyhow::Result<Result<Arc<Source>, Diagnostic>> {
    // One beyond the bound is enough to be refused for its size, with its name and the bound.
    let limit = rule::load::MAX_FILE_BYTES as u64 + 1;
    let mut bytes = Vec::new();
    super::input::open(path, "a rule file")?
        .take(limit)
        .read_to_end(&mut bytes)
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(match String::from_utf8(bytes) {
        Ok(text) => Ok(Arc::new(Source {
            path: path.display().to_string(),
            text,
        })),
        Err(e) => Err(not_utf8(path, e.as_bytes(), e.utf8_error().valid_up_to())),
    })
}

/// Where a file stops being UTF-8.
fn not_utf8(path: &Path, bytes: &[u8], at: usize) -> Diagnostic {
    let good = String::from_utf8_lossy(bytes.get(..at).unwrap_or(bytes));
    let begun = good.rsplit('\n').next().unwrap_or("");
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Diagnostic {
        grade: Grade::Error,
        code: "not-utf-8",
        file: path.display().to_string(),
        line: number(good.matches('\n').count() + 1),
        column: number(begun.chars().count() + 1),
        width: 1,
        message: "is not UTF-8".to_owned(),
        help: Some("convert the file with iconv".to_owned()),
        excerpt: format!("{begun}\u{fffd}"),
    }
}

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.verb {
        Verb::Check {
            dir,
            deny_warnings,
            format,
            overrides,
        } => check(dir.as_deref(), &overrides, deny_warnings, format),
        Verb::Test {
            dir,
            run,
            junit,
            coverage_threshold,
            format,
            overrides,
        } => test(
            dir.as_deref(),
            &overrides,
            run.as_deref(),
            junit.as_deref(),
            coverage_threshold,
            format,
        ),
        Verb::Explain(args) => explain::run(args),
        Verb::List { dir, format } => list(dir.as_deref(), Format::or_default(format)),
        Verb::New(args) => new::run(args),
        Verb::Schema => {
            let mut out = std::io::stdout().lock();
            serde_json::to_writer_pretty(&mut out, &rule::schema())?;
            writeln!(out)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Prints diagnostics, errors first; returns how many are errors.
fn report(problems: &[Diagnostic], format: Format) -> anyhow::Result<usize> {
    let mut out = std::io::stdout().lock();
    for p in problems {
        match format {
            Format::Text => writeln!(out, "{p}\n")?,
            Format::Json => writeln!(
                out,
                "{}",
                json!({
                    "kind": "diagnostic",
                    "grade": if p.grade == Grade::Error { "error" } else { "warning" },
                    "code": p.code,
                    "file": p.file,
                    "line": p.line,
                    "column": p.column,
                    "message": p.message,
                    "help": p.help,
                })
            )?,
        }
    }
    Ok(problems.iter().filter(|p| p.grade == Grade::Error).count())
}

fn check(
    dir: Option<&Path>,
    overrides: &[PathBuf],
    deny: bool,
    format: Format,
) -> anyhow::Result<ExitCode> {
    let (rules, problems) = match load(dir, overrides)? {
        Ok((set, warnings)) => (Some(set.rules().len()), warnings),
        Err(problems) => (None, problems),
    };
    let errors = report(&problems, format)?;
    let warnings = problems.len() - errors;
    if format == Format::Json {
        let line =
            json!({"kind": "summary", "rules": rules, "errors": errors, "warnings": warnings});
        writeln!(std::io::stdout().lock(), "{line}")?;
    }
    match rules {
        Some(n) => eprintln!("{}, {}", of(n, "rule"), of(warnings, "warning")),
        None => eprintln!(
            "refused: {}, {}",
            of(errors, "error"),
            of(warnings, "warning")
        ),
    }
    let failed = rules.is_none() || (deny && warnings > 0);
    Ok(ExitCode::from(if failed { EXIT_RULES } else { 0 }))
}

/// `1 rule`, `2 rules`.
fn of(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn test(
    dir: Option<&Path>,
    overrides: &[PathBuf],
    filter: Option<&str>,
    junit: Option<&Path>,
    threshold: Option<u8>,
    format: Format,
) -> anyhow::Result<ExitCode> {
    let set = match load(dir, overrides)? {
        Ok((set, _)) => set,
        Err(problems) => {
            let errors = report(&problems, format)?;
            eprintln!("refused: {}; nothing was tested", of(errors, "error"));
            return Ok(ExitCode::from(EXIT_RULES));
        }
    };
    let engine = Engine::new(&set, None);
    let wanted = |id: &str| filter.is_none_or(|f| id.contains(f));
    if let Some(f) = filter
        && !engine.rules().any(|r| wanted(&r.id))
    {
        // A slip in a pipeline must not pass as a test.
        bail!("no rule's id contains \"{f}\"; `veilwatch rules list` prints them");
    }
    let report = trial::run(&engine, &wanted);
    let mut out = std::io::stdout().lock();
    for outcome in &report.outcomes {
        if format == Format::Json {
            let line = json!({
                "kind": "test",
                "rule": outcome.rule,
                "name": outcome.name,
                "passed": outcome.failure.is_none(),
                "reason": outcome.failure,
                "file": outcome.file,
                "line": outcome.line,
                "column": outcome.column,
            });
            writeln!(out, "{line}")?;
        } else if let Some(why) = &outcome.failure {
            writeln!(
                out,
                "{}:{}:{}: {} ({}): {why}",
                outcome.file, outcome.line, outcome.column, outcome.rule, outcome.name
            )?;
        }
    }
    for rule in &report.uncovered {
        match format {
            Format::Json => writeln!(out, "{}", json!({"kind": "uncovered", "rule": rule}))?,
            Format::Text => writeln!(out, "no test hits `{rule}`")?,
        }
    }
    if let Some(path) = junit {
        std::fs::write(path, junit::report(&report))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let rules = engine.rules().filter(|r| wanted(&r.id)).count();
    let covered = rules - report.uncovered.len();
    let percent = (covered * 100).checked_div(rules).unwrap_or(100);
    if format == Format::Json {
        let line = json!({
            "kind": "summary",
            "tests": report.outcomes.len(),
            "failed": report.failures(),
            "rules": rules,
            "covered": covered,
        });
        writeln!(out, "{line}")?;
    }
    eprintln!(
        "{} of {}, {} failed; tests hit {} ({percent} %)",
        of(report.outcomes.len(), "test"),
        of(rules, "rule"),
        report.failures(),
        of(covered, "rule"),
    );
    let low = threshold.is_some_and(|t| percent < usize::from(t));
    let failed = report.failures() > 0 || low;
    Ok(ExitCode::from(if failed { EXIT_FINDINGS } else { 0 }))
}

#[derive(serde::Serialize)]
struct Listed<'a> {
    id: &'a str,
    area: rule::Area,
    #[serde(rename = "type")]
    kind: &'a str,
    level: &'static str,
    stage: &'static str,
    status: rule::Status,
    version: u32,
    typed: bool,
    title: &'a str,
    tags: &'a [crate::event::SmolStr],
    tests: usize,
}

fn list(dir: Option<&Path>, format: Format) -> anyhow::Result<ExitCode> {
    let set = match load(dir, &[])? {
        Ok((set, _)) => set,
        Err(problems) => {
            report(&problems, format)?;
            return Ok(ExitCode::from(EXIT_RULES));
        }
    };
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for rule in set.rules() {
        match format {
            Format::Json => {
                serde_json::to_writer(
                    &mut out,
                    &Listed {
                        id: &rule.id,
                        area: rule.area,
                        kind: &rule.kind,
                        level: rule.level.as_str(),
                        stage: rule.stage.as_str(),
                        status: rule.status,
                        version: rule.version,
                        typed: rule.typed,
                        title: &rule.title,
                        tags: &rule.tags,
                        tests: rule.tests.len(),
                    },
                )?;
                writeln!(out)?;
            }
            Format::Text => writeln!(
                out,
                "{:<40} {:<9} {:<8} {:<6}  {}",
                rule.id,
                rule.area.as_str(),
                rule.level.as_str(),
                rule.stage.as_str(),
                rule.title
            )?,
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
