//! `veilwatch scan`: Scan texts for injection, PII and secrets.

use std::io::{BufWriter, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use serde::Serialize;

use super::format::{FailOn, Format};
use super::lines::{self, Refused};
use super::rules::RuleArgs;
use crate::cli::EXIT_FINDINGS;
use crate::decode::bare::{self, Bare};
use crate::decode::{Decoder, RawRecord, to_json};
use crate::event::{SmolStr, Stage, Time};
use crate::seal::engine::{Engine, Found, Scratch, ValueKind};
use crate::seal::verdict::Judge;
use crate::seal::{self, Keys, Sealer};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// JSON lines with `text` and optionally `role` and `side`; `-` for standard input.
    file: PathBuf,
    /// Judge from the sealed event alone: the text is sealed and dropped first.
    #[arg(long)]
    sealed: bool,
    /// Output format; the default is text on a terminal and JSON lines elsewhere.
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// When to end with status 1.
    #[arg(long, value_enum, value_name = "WHAT")]
    fail_on: Option<FailOn>,
    #[command(flatten)]
    rules: RuleArgs,
}

#[derive(Debug, Serialize)]
struct Output {
    line: u64,
    injection: Injection,
    pii: Vec<Value>,
    secrets: Vec<Value>,
    /// Work left out because the text would have passed a bound: bytes not read, repairs and matches beyond
    /// the first.
    #[serde(skip_serializing_if = "is_zero")]
    skipped: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

#[derive(Debug, Serialize)]
struct Injection {
    verdict: bool,
    score: f32,
    rules: Vec<SmolStr>,
    /// Where no rule hit: the model's strongest n-gram families.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    families: Vec<SmolStr>,
}

#[derive(Debug, Serialize)]
struct Value {
    #[serde(rename = "type")]
    kind: SmolStr,
    #[serde(skip_serializing_if = "Option::is_none")]
    typed: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<usize>,
}

impl Output {
    fn found(&self) -> bool {
        self.injection.verdict || !self.pii.is_empty() || !self.secrets.is_empty()
    }
}

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let engine = args.rules.engine()?;
    let out = std::io::stdout();
    let format = Format::or_default(args.format);
    let mut out = BufWriter::with_capacity(1 << 16, out.lock());
    let mut input = lines::open(&args.file)?;
    let mut scanner = Scanner::new(engine, args.sealed)?;
    let (mut bad, mut found) = (false, false);
    while let Some((number, line)) = input
        .next_line()
        .with_context(|| format!("cannot read {}", args.file.display()))?
    {
        let result = match line {
            Ok(line) => bare::text(line)
                .map_err(|e| e.to_string())
                .and_then(|line| scanner.scan(number, line)),
            Err(e) => Err(e.to_string()),
        };
        match result {
            Ok(output) => {
                found |= output.found();
                match format {
                    Format::Json => serde_json::to_writer(&mut out, &output)?,
                    Format::Text => print(&mut out, &output)?,
                }
                out.write_all(b"\n")?;
            }
            Err(error) => {
                bad = true;
                Refused {
                    line: number,
                    error: &error,
                }
                .write(&mut out, format == Format::Json)?;
            }
        }
    }
    out.flush()?;
    let fail = bad || (found && args.fail_on == Some(FailOn::Finding));
    Ok(if fail {
        ExitCode::from(EXIT_FINDINGS)
    } else {
        ExitCode::SUCCESS
    })
}

/// Scans lines, in the open or through the seal.
struct Scanner {
    engine: Arc<Engine>,
    scratch: Scratch,
    sealed: Option<Sealed>,
}

/// The way through the seal: a random key that nobody keeps, the wire form, and the rules' names.
struct Sealed {
    sealer: Sealer,
    scratch: seal::Scratch,
    decoder: Decoder,
    judge: Judge,
}

impl Scanner {
    fn new(engine: Engine, sealed: bool) -> anyhow::Result<Self> {
        let engine = Arc::new(engine);
        let sealed = if sealed {
            Some(Sealed {
                sealer: Sealer::new(
                    Keys::single(super::key::random_secret()?),
                    Arc::clone(&engine),
                ),
                scratch: seal::Scratch::default(),
                decoder: Decoder::sealed(),
                judge: Judge::new(&engine),
            })
        } else {
            None
        };
        Ok(Self {
            engine,
            scratch: Scratch::default(),
            sealed,
        })
    }

    /// Scans one line. Sealed, the text is dropped before anything is judged.
    fn scan(&mut self, number: u64, line: Bare) -> Result<Output, String> {
        match &mut self.sealed {
            None => Ok(self.open(number, &line)),
            Some(sealed) => sealed.scan(number, line),
        }
    }

    fn open(&mut self, number: u64, line: &Bare) -> Output {
        let scan = self
            .engine
            .scan(line.text.expose(), line.role, line.side, &mut self.scratch);
        let part = |kind: ValueKind| {
            scan.values
                .iter()
                .filter(|v| v.kind == kind && v.stage != Stage::Shadow)
                .map(value)
                .collect()
        };
        Output {
            line: number,
            injection: Injection {
                verdict: scan.injection.verdict,
                score: scan.injection.score,
                rules: scan.injection.rules.clone(),
                families: scan.injection.families.clone(),
            },
            pii: part(ValueKind::Pii),
            secrets: part(ValueKind::Secret),
            skipped: scan.features.skipped,
        }
    }
}

impl Sealed {
    fn scan(&mut self, number: u64, line: Bare) -> Result<Output, String> {
        let sketch =
            self.sealer
                .sketch(line.text.expose(), line.role, line.side, &mut self.scratch);
        let event = to_json(&bare::event(number, line.role, line.side, sketch));
        drop(line);
        let event = self
            .decoder
            .decode(&RawRecord {
                topic: "file",
                partition: 0,
                offset: 0,
                append: Time(0),
                key: None,
                value: Some(event.as_bytes()),
                headers: &[],
            })
            .map_err(|d| d.to_string())?;
        let sketch = event.sketches().next();
        let skipped = sketch.map_or(0, |(_, _, s)| s.features.skipped);
        let verdict = sketch
            .map(|(_, _, s)| self.judge.judge(s))
            .unwrap_or_default();
        let part = |kind: ValueKind| {
            verdict
                .values
                .iter()
                .filter(|v| v.kind == kind)
                .flat_map(|v| {
                    let one = || Value {
                        kind: v.entity.clone(),
                        typed: (kind == ValueKind::Secret).then_some(v.typed),
                        start: None,
                        end: None,
                    };
                    std::iter::repeat_with(one).take(v.n as usize)
                })
                .collect()
        };
        Ok(Output {
            line: number,
            pii: part(ValueKind::Pii),
            secrets: part(ValueKind::Secret),
            skipped,
            injection: Injection {
                verdict: verdict.injection.verdict,
                score: verdict.injection.score,
                rules: verdict.injection.rules,
                families: verdict.injection.families,
            },
        })
    }
}

fn value(found: &Found) -> Value {
    Value {
        kind: found.entity.clone(),
        typed: (found.kind == ValueKind::Secret).then_some(found.typed),
        start: Some(found.start),
        end: Some(found.end),
    }
}

fn print(out: &mut impl std::io::Write, output: &Output) -> std::io::Result<()> {
    write!(
        out,
        "{:>6}  {} {:.2}",
        output.line,
        if output.injection.verdict {
            "INJECTION"
        } else if output.found() {
            "FOUND    "
        } else {
            "ok       "
        },
        output.injection.score
    )?;
    for rule in &output.injection.rules {
        write!(out, " {rule}")?;
    }
    if !output.injection.families.is_empty() {
        write!(out, " model {}", output.injection.families.join(","))?;
    }
    for v in output.pii.iter().chain(&output.secrets) {
        write!(out, " {}", v.kind)?;
        if let (Some(start), Some(end)) = (v.start, v.end) {
            write!(out, "@{start}-{end}")?;
        }
    }
    if output.skipped > 0 {
        write!(out, " skipped {}", output.skipped)?;
    }
    Ok(())
}
