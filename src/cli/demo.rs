//! `veilwatch demo`: Run everything on this machine, with attacks in it.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::ValueEnum;

use crate::config::duration::parse_duration;
use crate::demo::show;

/// Shortest run: below it hardly anything has happened.
const SHORTEST: Duration = Duration::from_secs(10);

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How long the traffic lasts, such as 60s or 5m. What was put in is then still judged.
    #[arg(long = "for", value_name = "TIME", default_value = "3m", value_parser = time)]
    time: Duration,
    /// Do not open a browser.
    #[arg(long)]
    no_open: bool,
    /// What decides the ordinary traffic, to see the same again. Otherwise each demo has its own.
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// Text for people, or JSON lines.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

fn time(s: &str) -> Result<Duration, String> {
    match parse_duration(s) {
        Some(d) if d >= SHORTEST => Ok(d),
        Some(_) => Err("at least 10s".to_owned()),
        None => Err("write a time such as 60s or 5m".to_owned()),
    }
}

/// Runs the verb. Status 1 if something that was put in was missed, or the books do not agree.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    let options = show::Options {
        time: args.time,
        open: !args.no_open,
        json: args.format == Format::Json,
        seed: args.seed.unwrap_or_else(|| u64::from(std::process::id())),
    };
    let clean = runtime.block_on(show::run(&options))?;
    Ok(if clean {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(super::EXIT_FINDINGS)
    })
}
