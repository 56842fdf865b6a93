//! `veilwatch doctor`: is everything there that `run` needs? One line a check, each with a remedy.
//!
//! It changes nothing, joins no consumer group and tells nobody: sinks are asked whether they answer, and
//! get no message.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use super::EXIT_FINDINGS;
use super::database::block_on;
use super::format::{Format, is_json};
use crate::config::{Config, ConfigError, SecretPlace, secret_places};
use crate::deliver::Named;
use crate::ingest::checkup::{TopicReport, topic};
use crate::ingest::{TopicError, TopicMode};
use crate::pipeline::build::{Parts, store_config};
use crate::store::StoreConfig;
use crate::store::checkup::{Checkup, checkup};
use crate::store::schema::{self, SchemaState};

/// A clock that differs by more mixes up which minute and which budget period an event belongs to.
const CLOCK_OFF_MS: i64 = 2_000;
/// Connections of the server that others need: superusers, analysts, a second replica while one is replaced.
const CONNECTIONS_FOR_OTHERS: i64 = 10;
/// Records must outlive what stops us: a weekend.
const RETENTION_MS: i64 = 72 * 3_600_000;

/// What a role of `run` needs.
const GRANT: &str = "run `veilwatch db migrate --roles` as an administrator, then GRANT veilwatch_writer, veilwatch_notify, veilwatch_retention to it";

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration of `run`.
    #[arg(short, long, value_name = "F", default_value = super::database::USUAL_CONFIG)]
    config: PathBuf,
    /// Output format; the default is text on a terminal and JSON lines elsewhere.
    #[arg(long, value_enum)]
    format: Option<Format>,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// As it should be.
    Ok,
    /// It works, and will not always.
    Warn,
    /// `run` does not start, or does not do its work.
    Wrong,
}

/// One line.
#[derive(Debug, serde::Serialize)]
struct Check {
    check: String,
    state: State,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

/// Writes the checks as they are made, and remembers the worst.
struct Page {
    json: bool,
    wrong: bool,
}

impl Page {
    fn line(
        &mut self,
        state: State,
        check: impl Into<String>,
        detail: impl Into<String>,
        remedy: Option<String>,
    ) -> anyhow::Result<()> {
        let c = Check {
            check: check.into(),
            state,
            detail: detail.into(),
            remedy,
        };
        self.wrong |= state == State::Wrong;
        let mut out = std::io::stdout().lock();
        if self.json {
            serde_json::to_writer(&mut out, &c)?;
            writeln!(out)?;
        } else {
            let mark = match state {
                State::Ok => "ok   ",
                State::Warn => "warn ",
                State::Wrong => "WRONG",
            };
            writeln!(out, "{mark}  {:<22} {}", c.check, c.detail)?;
            if let Some(remedy) = &c.remedy {
                writeln!(out, "{:<30} -> {remedy}", "")?;
            }
        }
        out.flush()?;
        Ok(())
    }
    fn ok(&mut self, check: impl Into<String>, detail: impl Into<String>) -> anyhow::Result<()> {
        self.line(State::Ok, check, detail, None)
    }
    fn warn(&mut self, check: &str, detail: impl Into<String>, remedy: &str) -> anyhow::Result<()> {
        self.line(State::Warn, check, detail, Some(remedy.to_owned()))
    }
    fn wrong(
        &mut self,
        check: &str,
        detail: impl Into<String>,
        remedy: &str,
    ) -> anyhow::Result<()> {
        self.line(State::Wrong, check, detail, Some(remedy.to_owned()))
    }
    /// An error whose words end in what to do.
    fn failed(&mut self, check: &str, error: &dyn std::fmt::Display) -> anyhow::Result<()> {
        self.line(State::Wrong, check, error.to_string(), None)
    }
}

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut page = Page {
        json: is_json(args.format),
        wrong: false,
    };
    let loaded = Config::load_with(&args.config, |c, from| (c, secret_places(from)));
    match loaded {
        Ok((config, secrets)) => {
            page.ok("config", format!("{} is right", args.config.display()))?;
            files(&mut page, &args.config, &secrets)?;
            let sinks = parts(&mut page, &config)?;
            // The clients' TLS; a second install (tests) keeps the first.
            let _ = rustls::crypto::ring::default_provider().install_default();
            block_on(async {
                store(&mut page, &config).await?;
                kafka(&mut page, &config).await?;
                reach(&mut page, sinks).await?;
                listen(&mut page, &config).await
            })?;
        }
        Err(ConfigError::Wrong { problems, .. }) => {
            for p in problems {
                let place = match p.line {
                    0 => String::new(),
                    n => format!("line {n}: "),
                };
                let detail = format!("{place}{}: {}", p.key, p.what);
                page.wrong("config", detail, &p.remedy)?;
            }
        }
        Err(e) => return Err(e.into()),
    }
    Ok(if page.wrong {
        ExitCode::from(EXIT_FINDINGS)
    } else {
        ExitCode::SUCCESS
    })
}

/// Who may read the secrets.
fn files(page: &mut Page, config: &Path, secrets: &[SecretPlace]) -> anyhow::Result<()> {
    let inline: Vec<&str> = secrets
        .iter()
        .filter(|s| s.file.is_none())
        .map(|s| s.key.as_str())
        .collect();
    let mode = |path: &Path| {
        let meta = path.metadata().ok()?;
        Some(meta.permissions().mode() & 0o777)
    };
    if let Some(mode) = mode(config).filter(|m| m & 0o007 != 0 && !inline.is_empty()) {
        page.wrong(
            "file config",
            format!(
                "everybody may read it (mode {mode:04o}), and it holds {}",
                inline.join(", ")
            ),
            &format!(
                "run `chmod o= {}`, or name files: url_file, secret_file",
                config.display()
            ),
        )?;
    }
    // One that others may read was refused with the configuration.
    let files: BTreeSet<&Path> = secrets.iter().filter_map(|s| s.file.as_deref()).collect();
    if !files.is_empty() {
        page.ok(
            "files",
            format!("{} with secrets, closed to others", files.len()),
        )?;
    }
    Ok(())
}

/// Rules, keys, prices, receivers: what `run` builds before it connects.
fn parts(page: &mut Page, config: &Config) -> anyhow::Result<Vec<Named>> {
    let sinks = match Parts::build(config) {
        Ok(parts) => {
            page.ok("rules", format!("{:?}", config.rules))?;
            parts.sinks
        }
        Err(e) => {
            page.failed("rules", &e)?;
            Vec::new()
        }
    };
    if config.sinks.is_empty() {
        page.warn(
            "sinks",
            "no [[deliver.sink]]: incidents are kept and nobody is told",
            "add one; `veilwatch config init` shows how",
        )?;
    }
    Ok(sinks)
}

async fn store(page: &mut Page, config: &Config) -> anyhow::Result<()> {
    let settings: StoreConfig = store_config(config);
    let schema = match schema::status(&settings).await {
        Ok(schema) => schema,
        Err(e) if e.is_denied() => {
            return page.wrong("postgres rights", e.to_string(), GRANT);
        }
        Err(e) => return page.failed("postgres", &e),
    };
    let migrated = schema.found >= schema.needed;
    let found = match checkup(&settings, migrated).await {
        Ok(found) => found,
        Err(e) => return page.failed("postgres", &e),
    };
    page.ok(
        "postgres",
        format!("{} answers, we are {}", schema.postgres, found.role),
    )?;
    migrations(page, config, &schema, &found)?;
    rights(page, &found)?;
    let needed = i64::from(config.store.max_connections);
    if needed + CONNECTIONS_FOR_OTHERS > found.max_connections {
        page.warn(
            "postgres connections",
            format!("one process takes {needed} of {}", found.max_connections),
            "raise max_connections of the server, or lower store.max_connections",
        )?;
    }
    if !found.undurable.is_empty() {
        page.wrong(
            "postgres durability",
            format!(
                "off: {}; a crash of its machine damages what is stored",
                found.undurable.join(", ")
            ),
            "switch them on: the budgets and the audit chain rest on it",
        )?;
    }
    let (ahead, within) = (found.clock_ahead_ms, found.clock_within_ms);
    if ahead.abs() - within > CLOCK_OFF_MS {
        let how = if ahead > 0 { "ahead of" } else { "behind" };
        page.wrong(
            "clock",
            format!(
                "this machine is {:.1} s {how} the database",
                seconds(ahead.abs())
            ),
            "let both follow NTP (chronyd, systemd-timesyncd)",
        )?;
    } else {
        page.ok("clock", format!("within {within} ms of the database's"))?;
    }
    for (topic, part, why) in &found.halted {
        page.wrong(
            &format!("partition {topic}/{part}"),
            format!("stands still: {why}"),
            "`veilwatch offsets show` says where; runbook audit.md",
        )?;
    }
    for (sink, n) in &found.parked {
        page.wrong(
            &format!("sink {sink}"),
            format!("{n} notifications are parked: it refused them"),
            "repair it; `veilwatch outbox list` names them; runbook deliver.md",
        )?;
    }
    Ok(())
}

fn seconds(ms: i64) -> f64 {
    std::time::Duration::from_millis(ms.unsigned_abs()).as_secs_f64()
}

fn migrations(
    page: &mut Page,
    config: &Config,
    schema: &SchemaState,
    found: &Checkup,
) -> anyhow::Result<()> {
    let check = "postgres schema";
    let changed: Vec<String> = schema
        .migrations
        .iter()
        .filter(|m| m.changed)
        .map(|m| format!("{:04}", m.version))
        .collect();
    if !changed.is_empty() {
        return page.wrong(
            check,
            format!("migrations {} are not what was applied", changed.join(", ")),
            "use the release that made this database, or the next one",
        );
    }
    if schema.found < schema.needed {
        let detail = format!("at version {} of {}", schema.found, schema.needed);
        return match (config.store.migrate, found.may_create) {
            (true, true) => page.ok(check, format!("{detail}; `run` upgrades it")),
            (true, false) => page.wrong(
                check,
                format!("{detail}, and {} may create nothing", found.role),
                "run `veilwatch db migrate` as the owner and set store.migrate = false",
            ),
            (false, _) => page.wrong(check, detail, "run `veilwatch db migrate`"),
        };
    }
    if schema.partition_days_ahead < 1 || schema.default_rows > 0 {
        return page.wrong(
            check,
            format!(
                "partitions reach {} days ahead, {} rows have none",
                schema.partition_days_ahead, schema.default_rows
            ),
            "a running `veilwatch run` makes them each minute; see its log for `housekeeping`",
        );
    }
    page.ok(check, format!("at version {}", schema.found))
}

fn rights(page: &mut Page, found: &Checkup) -> anyhow::Result<()> {
    let check = "postgres rights";
    if found.missing_rights.is_empty() {
        return page.ok(check, format!("{} may do what `run` does", found.role));
    }
    page.wrong(
        check,
        format!("{} lacks {}", found.role, found.missing_rights.join(", ")),
        GRANT,
    )
}

async fn kafka(page: &mut Page, config: &Config) -> anyhow::Result<()> {
    for t in &config.ingest.topics {
        let check = format!("topic {}", t.name);
        match topic(&config.ingest, t).await {
            Ok(report) => topic_lines(page, &check, &report, t.mode)?,
            Err(e @ TopicError::Missing { .. }) => page.failed(&check, &e)?,
            // The same answer for each: once is enough.
            Err(e) => return page.failed("kafka", &e),
        }
    }
    Ok(())
}

fn topic_lines(
    page: &mut Page,
    check: &str,
    t: &TopicReport,
    mode: TopicMode,
) -> anyhow::Result<()> {
    let mode = match mode {
        TopicMode::Sealed => "sealed",
        TopicMode::Trusted => "trusted",
    };
    let mut detail = format!(
        "{} partition{}, {mode}",
        t.partitions,
        if t.partitions == 1 { "" } else { "s" }
    );
    if t.log_append.is_none() {
        detail += "; the broker does not say how it is set up";
    }
    page.ok(check, detail)?;
    if t.log_append == Some(false) {
        page.warn(
            check,
            "records carry their producers' time: whoever sends may forge it",
            "set message.timestamp.type=LogAppendTime on the topic",
        )?;
    }
    if t.compacted == Some(true) {
        page.wrong(
            check,
            "it is compacted: of each user only the newest event stays",
            "set cleanup.policy=delete on the topic",
        )?;
    }
    if let Some(ms) = t.retention_ms.filter(|ms| (0..RETENTION_MS).contains(ms)) {
        page.warn(
            check,
            format!(
                "records are kept for {} h: a longer stop loses events",
                ms / 3_600_000
            ),
            "set retention.ms to three days or more",
        )?;
    }
    Ok(())
}

/// Asks all sinks at once whether they answer.
async fn reach(page: &mut Page, sinks: Vec<Named>) -> anyhow::Result<()> {
    let mut asked = tokio::task::JoinSet::new();
    for named in sinks {
        asked.spawn(async move { (named.name.clone(), named.sink.reach().await) });
    }
    let mut answers = Vec::new();
    while let Some(done) = asked.join_next().await {
        answers.push(done?);
    }
    answers.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, answer) in answers {
        let check = format!("sink {name}");
        match answer {
            Ok(()) => page.ok(check, "answers; no message was sent")?,
            Err(e) => page.wrong(
                &check,
                e.to_string(),
                "check its address, the network and its certificate; runbook deliver.md",
            )?,
        }
    }
    Ok(())
}

async fn listen(page: &mut Page, config: &Config) -> anyhow::Result<()> {
    const WAIT: Duration = Duration::from_secs(2);
    let at = config.http;
    match std::net::TcpListener::bind(at) {
        Ok(_) => page.ok("http", format!("{at} is free")),
        Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => {
            let connected = tokio::net::TcpStream::connect(at);
            match tokio::time::timeout(WAIT, connected).await {
                Ok(Ok(_)) => page.ok("http", format!("{at} is in use, by `run` if it is up")),
                _ => page.wrong(
                    "http",
                    format!("{at} is in use and does not answer"),
                    "choose another http.listen",
                ),
            }
        }
        Err(e) => page.wrong(
            "http",
            format!("cannot listen on {at}: {e}"),
            "choose another http.listen",
        ),
    }
}
