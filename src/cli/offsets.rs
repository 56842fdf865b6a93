//! `veilwatch offsets show|skip|resume`: where the partitions stand, past records that cannot be read, and
//! on after a halt whose cause is mended.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Subcommand;

use super::format::{Format, is_json};
use crate::config::Config;
use crate::event::TopicPartition;
use crate::pipeline::build::store_config;
use crate::store::Store;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show where every partition stands, who owns it, and what is halted.
    Show {
        #[command(flatten)]
        with: With,
    },
    /// Let a halted partition go on where it stands, once the cause is mended: no record is lost. Its owner
    /// goes on by itself; if the cause is still there, it halts again and pages again.
    Resume(Resume),
    /// Go on behind records that cannot be read. Writes a gap and an audit mark; the owner of the
    /// partition goes on by itself.
    Skip {
        #[command(flatten)]
        with: With,
        /// The topic.
        #[arg(long)]
        topic: String,
        /// The partition.
        #[arg(long)]
        partition: i32,
        /// The offset it stands at (see `offsets show`): a check that nothing moved meanwhile.
        #[arg(long)]
        from: i64,
        /// The first offset to read again.
        #[arg(long)]
        to: i64,
        /// Why; it is kept.
        #[arg(long)]
        reason: String,
        /// Who; default: the login name.
        #[arg(long)]
        author: Option<String>,
    },
}

#[derive(Debug, clap::Args)]
struct Resume {
    #[command(flatten)]
    with: With,
    /// The topic.
    #[arg(long)]
    topic: String,
    /// The partition.
    #[arg(long)]
    partition: i32,
    /// Why; it is kept.
    #[arg(long)]
    reason: String,
    /// Who; default: the login name.
    #[arg(long)]
    author: Option<String>,
}

#[derive(Debug, clap::Args)]
struct With {
    /// The configuration of `run`.
    #[arg(short, long, value_name = "F", default_value = super::database::USUAL_CONFIG)]
    config: PathBuf,
    /// Output format; the default is text on a terminal and JSON lines elsewhere.
    #[arg(long, value_enum)]
    format: Option<Format>,
}

impl With {
    fn json(&self) -> bool {
        is_json(self.format)
    }
}

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        match args.verb {
            Verb::Show { with } => show(&with).await,
            Verb::Resume(args) => resume(args).await,
            Verb::Skip { with, topic, partition, from, to, reason, author } => {
                if to <= from {
                    bail!("--to {to} is not behind --from {from}; give the first offset to read again");
                }
                if reason.trim().is_empty() {
                    bail!("--reason is empty; say why, it is kept with the gap");
                }
                let author = super::database::author(author)?;
                let tp = TopicPartition { topic: topic.as_str().into(), partition };
                let config = Config::load(&with.config)?;
                let (ingest, asked) = (config.ingest.clone(), tp.clone());
                let (_, end) = tokio::task::spawn_blocking(move || crate::ingest::ends(&ingest, &asked))
                    .await?
                    .map_err(|e| anyhow::anyhow!("cannot check --to against Kafka: {e}"))?;
                if to > end {
                    bail!("--to {to} is behind the end of {topic} partition {partition}, which is {end}; records that come there later would be lost without a trace: give at most {end}");
                }
                let store = connect(&with).await?;
                if !store.skip_offsets(&tp, from, to, &reason, &author).await? {
                    bail!("{topic} partition {partition} does not stand at {from}; see `veilwatch offsets show`");
                }
                let mut out = std::io::stdout().lock();
                if with.json() {
                    let line = serde_json::json!({"topic": topic, "partition": partition, "from": from, "to": to, "skipped": to - from});
                    writeln!(out, "{line}")?;
                } else {
                    writeln!(out, "skipped offsets {from} to {} of {topic} partition {partition}", to - 1)?;
                }
                Ok(ExitCode::SUCCESS)
            }
        }
    })
}

async fn resume(args: Resume) -> anyhow::Result<ExitCode> {
    let Resume {
        with,
        topic,
        partition,
        ..
    } = args;
    if args.reason.trim().is_empty() {
        bail!("--reason is empty; say why it may go on, it is kept");
    }
    let author = super::database::author(args.author)?;
    let tp = TopicPartition {
        topic: topic.as_str().into(),
        partition,
    };
    let store = connect(&with).await?;
    let Some((next, why)) = store.resume_partition(&tp, &args.reason, &author).await? else {
        bail!("{topic} partition {partition} is not halted; see `veilwatch offsets show`");
    };
    let mut out = std::io::stdout().lock();
    if with.json() {
        let line = serde_json::json!({"topic": topic, "partition": partition, "next_offset": next, "halted": why});
        writeln!(out, "{line}")?;
    } else {
        writeln!(
            out,
            "{topic} partition {partition} goes on at offset {next}; it was halted: {why}"
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn connect(with: &With) -> anyhow::Result<Store> {
    let config = Config::load(&with.config)?;
    let mut c = store_config(&config);
    c.max_connections = 2;
    Store::connect(c).await.context("cannot use the database")
}

async fn show(with: &With) -> anyhow::Result<ExitCode> {
    let store = connect(with).await?;
    let mut out = std::io::stdout().lock();
    for r in store.partitions().await? {
        if with.json() {
            let line = serde_json::json!({
                "topic": r.tp.topic, "partition": r.tp.partition, "next_offset": r.next_offset,
                "epoch": r.epoch, "owner": r.owner, "watermark": r.watermark.to_string(),
                "halted": r.halted,
            });
            writeln!(out, "{line}")?;
        } else {
            let halted = r
                .halted
                .map_or_else(String::new, |h| format!("  HALTED: {h}"));
            writeln!(
                out,
                "{} {}  next {}  watermark {}  owner {}{halted}",
                r.tp.topic, r.tp.partition, r.next_offset, r.watermark, r.owner
            )?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
