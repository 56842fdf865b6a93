//! `veilwatch bench`: Measure speed, memory and scale.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::ValueEnum;

use super::format::{Format, is_json};
use crate::bench::figures::Figure;
use crate::bench::stage::Stop;
use crate::bench::{ceiling, measure};
use crate::cli::service::Signals;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Kafka to measure on; its topics `bench-ceiling`, `bench-reference`, `bench-users` (16
    /// partitions) and `bench-one` (1) must exist. Default: the embedded broker.
    #[arg(long)]
    brokers: Option<String>,
    /// Postgres to measure on. Default: a private one with fsync on.
    #[arg(long)]
    database: Option<String>,
    /// Events of all rounds together.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    events: u64,
    /// Rounds, each of the ceiling and the program in turn.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Measure five million distinct users too (five minutes more).
    #[arg(long)]
    full: bool,
    /// Measure distinct users for so many seconds instead of 300.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    users_for: Option<u64>,
    /// Measure nothing but this part.
    #[arg(long, value_enum)]
    only: Option<Only>,
    /// Output format; the default is text on a terminal and JSON lines elsewhere.
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Be a ceiling: used by the bench itself.
    #[arg(long, hide = true, value_enum)]
    ceiling: Option<Kind>,
    /// Topic of the ceiling.
    #[arg(long, hide = true, default_value = "")]
    topic: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Only {
    /// Speed, latency, memory and restarts with sixteen partitions.
    Rounds,
    /// Speed with one partition.
    One,
    /// Memory with distinct users, as with --full.
    Users,
    /// Sealing.
    Seal,
    /// Restarts with sixteen partitions.
    Restarts,
}

impl From<Only> for measure::Part {
    fn from(only: Only) -> Self {
        match only {
            Only::Rounds => Self::Rounds,
            Only::One => Self::One,
            Only::Users => Self::Users,
            Only::Seal => Self::Seal,
            Only::Restarts => Self::Restarts,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    Consume,
    Parse,
}

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    if let (Some(kind), Some(brokers)) = (args.ceiling, &args.brokers) {
        ceiling::run(brokers, &args.topic, matches!(kind, Kind::Parse))?;
        return Ok(ExitCode::SUCCESS);
    }
    let json = is_json(args.format);
    let all_users = args.full || matches!(args.only, Some(Only::Users));
    let plan = measure::Plan {
        brokers: args.brokers,
        database: args.database,
        events: args.events,
        rounds: args.rounds,
        users_for: args
            .users_for
            .map(Duration::from_secs)
            .or(all_users.then_some(measure::USERS_FOR)),
        only: args.only.map(measure::Part::from),
    };
    let stop = Stop::default();
    ask_on_signal(stop.clone())?;
    let all = measure::run(&plan, &stop, |f| {
        let _ = say(f, json);
    })?;
    let mut summary = serde_json::Map::new();
    summary.insert("figure".into(), "summary".into());
    for f in &all {
        summary.insert(f.figure.into(), f.value.into());
    }
    writeln!(std::io::stdout(), "{}", serde_json::Value::Object(summary))?;
    Ok(ExitCode::SUCCESS)
}

/// On SIGTERM and SIGINT the measurement ends as when it fails: the program, the broker and the
/// database that it started end with it.
fn ask_on_signal(stop: Stop) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::spawn(move || {
        runtime.block_on(async { Signals::listen().stop(|| {}).await });
        stop.ask();
    });
    Ok(())
}

fn say(f: &Figure, json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string(f)?)?;
    } else {
        let value = f
            .value
            .map_or("not measured".to_owned(), |v| format!("{v} {}", f.unit));
        let ratio = f
            .ratio
            .map_or_else(String::new, |r| format!("  ({r} of the ceiling)"));
        writeln!(out, "{:<22} {value}{ratio}  {}", f.figure, f.note)?;
    }
    out.flush()?;
    Ok(())
}
