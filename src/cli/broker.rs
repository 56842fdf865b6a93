//! `veilwatch broker`: an embedded Kafka broker as a process of its own.
//!
//! Prints its bootstrap address as the first line on stdout and serves until it is told to stop.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;

use super::service::Signals;
use crate::ingest::broker::EmbeddedBroker;

/// Partitions of a topic that is given without a number.
const DEFAULT_PARTITIONS: i32 = 4;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Topics to create, each `NAME` or `NAME:PARTITIONS`.
    #[arg(value_parser = topic)]
    topics: Vec<(String, i32)>,
    /// Stop when standard input ends, so that a parent's death ends the broker too.
    #[arg(long)]
    until_eof: bool,
}

fn topic(s: &str) -> Result<(String, i32), String> {
    let Some((name, n)) = s.split_once(':') else {
        return Ok((s.to_owned(), DEFAULT_PARTITIONS));
    };
    match n.parse() {
        Ok(n) if (1..=10_000).contains(&n) => Ok((name.to_owned(), n)),
        _ => Err(format!(
            "{s}: write NAME:PARTITIONS with 1 to 10000 partitions"
        )),
    }
}

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let broker = EmbeddedBroker::start(&args.topics)?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", broker.address()).context("cannot print the address")?;
    out.flush().context("cannot print the address")?;
    let rt = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    rt.block_on(async {
        let mut signals = Signals::listen();
        if args.until_eof {
            signals = signals.or_end_of_input();
        }
        signals.stop(|| {}).await;
    });
    Ok(ExitCode::SUCCESS)
}
