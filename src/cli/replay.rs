//! `veilwatch replay`: Run events from a file through the whole pipeline in virtual time.

use std::io::{BufRead, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;

use super::format::{FailOn, Format, is_json};
use super::lines::{self, Lines};
use crate::account::{Books, Prices};
use crate::config::{self, Config, Source};
use crate::decide::{Routes, Titles};
use crate::detect::{DetectConfig, Facts};
use crate::pipeline::build;
use crate::replay::{Line, Replay, Summary};
use crate::rule::{Known, RuleSet};
use crate::seal::engine::Engine;
use crate::seal::model::Model;
use crate::seal::{Keys, Sealer};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Events, one JSON object a line, ordered by `at`; `-` for standard input. Text is sealed on the way;
    /// an identity that is a pseudonym already (`kid:` and 22 characters) stays as it is, as in `seal`.
    file: PathBuf,
    /// Rules, prices, budgets, routes and detectors from this configuration.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Seals text with these keys; without it with those of the configuration's [seal], else with the
    /// published development key.
    #[arg(long)]
    key_file: Option<PathBuf>,
    /// History that teaches the baselines first and is not reported.
    #[arg(long)]
    warm: Option<PathBuf>,
    /// Output format; the default is text on a terminal and JSON lines elsewhere.
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// What ends with status 1.
    #[arg(long, value_enum)]
    fail_on: Option<FailOn>,
}

/// Warns once that texts are sealed with a key that everybody has: at the first line that has one.
#[derive(Debug, Default)]
struct Published(bool);

impl Published {
    fn look(&mut self, line: &str) {
        if self.0 || !(line.contains("\"text\"") || line.contains("\"messages\"")) {
            return;
        }
        self.0 = true;
        eprintln!(
            "veilwatch: warning: text is sealed with the published development key; give --key-file for anything real"
        );
    }
}

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let config = args.config.as_deref().map(load).transpose()?;
    let configured = config.as_ref().and_then(|c| c.seal_key.as_ref());
    let (keys, mut published) = match (&args.key_file, configured) {
        (Some(path), _) => {
            let keys = config::keyfile::read(path).map_err(anyhow::Error::msg)?;
            (keys, None)
        }
        (None, Some(text)) => {
            let keys =
                Keys::parse(text.reveal()).map_err(|e| anyhow::anyhow!("seal.key_file: {e}"))?;
            (keys, None)
        }
        (None, None) => (Keys::development(), Some(Published::default())),
    };
    // Opened first: whether there is anything to warn of stands in the file.
    let lines = lines::open(&args.file)?;
    let mut replay = start(config.as_ref(), keys)?.with_max_bytes(super::lines::MAX_LINE);
    if let Some(warm) = &args.warm {
        replay.silent(true);
        let bad = feed(&mut replay, warm, lines::open(warm)?, &mut published)?;
        if let Some((n, error)) = bad.first() {
            eprintln!(
                "veilwatch: warning: {} lines of the history are no events; the first is line {n}: {error}",
                bad.len()
            );
        }
        replay.silent(false);
    }
    let bad = feed(&mut replay, &args.file, lines, &mut published)?;
    replay.finish();
    let (lines, summary) = replay.output();
    let json = is_json(args.format);
    write(&lines, &bad, summary, json)?;
    let found = lines
        .iter()
        .any(|l| l.kind == "finding" && l.stage != Some("shadow"));
    if !bad.is_empty() || (args.fail_on.is_some() && found) {
        return Ok(ExitCode::from(super::EXIT_FINDINGS));
    }
    Ok(ExitCode::SUCCESS)
}

/// What `run` would do with this configuration: its rules, prices, budgets, detectors and routes.
fn start(config: Option<&Config>, keys: Keys) -> anyhow::Result<Replay> {
    let Some(config) = config else {
        let facts = Facts::from_rules(&RuleSet::built_in(&Known::default()));
        let detect = DetectConfig {
            facts,
            ..DetectConfig::default()
        };
        return Ok(Replay::new(
            detect,
            Books::new(Prices::shipped(), &[]),
            Vec::new(),
            Routes::single(vec!["stdout".into()]),
            Arc::new(Sealer::built_in(keys)),
        ));
    };
    let rules = build::rules(&config.rules)?;
    let engine = Engine::new(&rules, Model::shipped().ok());
    let budgets = config::core::budgets(&config.budgets);
    let mut routes = config::core::routes(&config.routing, &config.sinks, Titles::of_rules(&rules));
    if config.sinks.is_empty() {
        eprintln!(
            "veilwatch: the configuration has no sink: notifications go to one route to stdout, as without --config"
        );
        routes = Routes::single(vec!["stdout".into()]);
    }
    Ok(Replay::new(
        config::core::detect(&config.detect, Facts::from_rules(&rules)),
        Books::new(build::prices(&config.rules), &budgets),
        budgets,
        routes,
        Arc::new(Sealer::new(keys, Arc::new(engine))),
    ))
}

fn load(path: &Path) -> anyhow::Result<Config> {
    let mut text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the configuration {}", path.display()))?;
    let table: toml::Table = text.parse().unwrap_or_default();
    if !table.contains_key("ingest") {
        text.push_str(
            "\n[ingest]\nbrokers = \"127.0.0.1:9092\"\ntopics = [{ name = \"file\", mode = \"sealed\" }]\n",
        );
    }
    if !table.contains_key("store") {
        text.push_str("\n[store]\nurl = \"postgres://127.0.0.1/none\"\n");
    }
    let env = std::env::vars()
        .filter(|(k, _)| k.starts_with("VEILWATCH_"))
        .collect();
    Config::parse(&Source {
        text: &text,
        dir: path.parent().unwrap_or(Path::new(".")),
        env: &env,
    })
    .map_err(|problems| {
        config::ConfigError::Wrong {
            path: path.to_owned(),
            problems,
        }
        .into()
    })
}

/// Feeds a file; the lines that are no events, in order.
fn feed(
    replay: &mut Replay,
    path: &Path,
    mut lines: Lines<impl BufRead>,
    published: &mut Option<Published>,
) -> anyhow::Result<Vec<(u64, String)>> {
    let mut bad = Vec::new();
    while let Some((n, line)) = lines
        .next_line()
        .with_context(|| format!("cannot read {}", path.display()))?
    {
        let result = match line {
            Ok(text) => {
                if let Some(p) = published {
                    p.look(text);
                }
                replay.line(text)
            }
            Err(e) => {
                replay.refuse();
                Err(e.to_string())
            }
        };
        if let Err(error) = result {
            bad.push((n, error));
        }
    }
    Ok(bad)
}

fn write(
    lines: &[Line],
    bad: &[(u64, String)],
    summary: Summary,
    json: bool,
) -> anyhow::Result<()> {
    #[derive(serde::Serialize)]
    struct Last {
        kind: &'static str,
        #[serde(flatten)]
        summary: Summary,
    }
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let result = (|| -> std::io::Result<()> {
        for l in lines {
            if json {
                serde_json::to_writer(&mut out, l)?;
                out.write_all(b"\n")?;
            } else {
                writeln!(
                    out,
                    "{} {:<12} {:<10} {:<8} {:<6} {} {} {}",
                    l.at,
                    l.kind,
                    l.state.unwrap_or("-"),
                    l.severity.unwrap_or("-"),
                    l.stage.unwrap_or("-"),
                    l.rule.as_deref().unwrap_or("-"),
                    l.user.as_deref().or(l.model.as_deref()).unwrap_or("-"),
                    l.reason.as_deref().unwrap_or("")
                )?;
            }
        }
        for (line, error) in bad {
            lines::Refused { line: *line, error }.write(&mut out, json)?;
        }
        if json {
            let last = Last {
                kind: "summary",
                summary,
            };
            serde_json::to_writer(&mut out, &last)?;
            out.write_all(b"\n")?;
        } else {
            writeln!(
                out,
                "{} events, {} refused, {} duplicates; {} findings, {} incidents, {} notifications; {} tokens, {}",
                summary.events,
                summary.refused,
                summary.duplicates,
                summary.findings,
                summary.incidents,
                summary.notifications,
                summary.tokens,
                crate::decide::dollars(summary.cost_pico),
            )?;
        }
        out.flush()
    })();
    result.context("cannot write the output")
}
