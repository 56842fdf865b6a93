//! `veilwatch dead-letters`: list and show what could not be decoded: where and why, never what; and
//! replay what can be decoded now.

use std::process::ExitCode;

use clap::Subcommand;

use super::EXIT_FINDINGS;
use super::database::{Access, Column, block_on, write_rows};
use super::format::is_json;
use crate::event::{SmolStr, Time, TopicPartition};
use crate::pipeline::revive::{Replayed, revive};
use crate::store::dead_letter::{DeadLetterFilter, ReasonCount, StoredDeadLetter};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    access: Access,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List dead letters, newest first.
    List {
        /// Only of this topic.
        #[arg(long)]
        topic: Option<String>,
        /// Only with this reason.
        #[arg(long)]
        reason: Option<String>,
        /// Only appended since (RFC 3339).
        #[arg(long, value_parser = super::format::time)]
        since: Option<Time>,
        /// Only those not replayed.
        #[arg(long)]
        open: bool,
        /// Count by reason instead.
        #[arg(long)]
        by_reason: bool,
        /// At most so many.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(i64).range(1..=100_000))]
        limit: i64,
    },
    /// Show one dead letter; exit 1 if there is none.
    Show {
        /// Topic.
        topic: String,
        /// Partition.
        partition: i32,
        /// Offset.
        offset: i64,
    },
    /// Read records again from Kafka while it retains them, decode them with the present rules and
    /// keys, and apply what they say to ledgers and findings, each once. Exit 1 if any stays a dead
    /// letter.
    Replay {
        /// All that are not replayed.
        #[arg(long, required_unless_present_any = ["topic", "reason", "since"])]
        all: bool,
        /// Only of this topic.
        #[arg(long)]
        topic: Option<String>,
        /// Only of this partition.
        #[arg(long, requires = "topic")]
        partition: Option<i32>,
        /// Only the one at this offset.
        #[arg(long, requires = "partition")]
        offset: Option<i64>,
        /// Only with this reason.
        #[arg(long)]
        reason: Option<String>,
        /// Only appended since (RFC 3339).
        #[arg(long, value_parser = super::format::time)]
        since: Option<Time>,
        /// At most so many, newest first.
        #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(i64).range(1..=100_000))]
        limit: i64,
        /// Who asks for it; it stands in the log.
        #[arg(long)]
        author: Option<String>,
    },
}

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let format = args.access.format;
    match args.verb {
        Verb::List {
            topic,
            reason,
            since,
            open,
            by_reason,
            limit,
        } => {
            if by_reason {
                let since = since.unwrap_or_default();
                let rows = args
                    .access
                    .database
                    .with(|s| async move { Ok(s.dead_letter_reasons(since).await?) })?;
                let columns: &[Column<ReasonCount>] = &[
                    ("REASON", |r| r.reason.clone()),
                    ("COUNT", |r| r.count.to_string()),
                    ("LATEST", |r| r.latest.clone()),
                ];
                write_rows(&rows, format, columns)?;
                return Ok(ExitCode::SUCCESS);
            }
            let filter = DeadLetterFilter {
                topic,
                reason,
                since,
                open_only: open,
                limit,
                ..DeadLetterFilter::default()
            };
            let rows = args
                .access
                .database
                .with(|s| async move { Ok(s.dead_letters(&filter).await?) })?;
            write_rows(&rows, format, COLUMNS)?;
            Ok(ExitCode::SUCCESS)
        }
        Verb::Replay {
            all: _,
            topic,
            partition,
            offset,
            reason,
            since,
            limit,
            author,
        } => {
            let config = args
                .access
                .database
                .whole("it names the brokers, rules and keys to decode with")?;
            let author = super::database::author(author)?;
            let wanted = DeadLetterFilter {
                topic,
                partition,
                offset,
                reason,
                since,
                open_only: true,
                limit,
            };
            let rows = block_on(async { Ok(revive(&config, &wanted, &author).await?) })?;
            write_rows(&rows, format, REPLAYED)?;
            if rows.is_empty() {
                eprintln!("no dead letter waits for a replay");
            }
            let open = rows.iter().any(|r| !r.outcome.is_over());
            Ok(if open {
                ExitCode::from(EXIT_FINDINGS)
            } else {
                ExitCode::SUCCESS
            })
        }
        Verb::Show {
            topic,
            partition,
            offset,
        } => {
            let tp = TopicPartition {
                topic: SmolStr::new(&topic),
                partition,
            };
            let found = args
                .access
                .database
                .with(|s| async move { Ok(s.dead_letter(&tp, offset).await?) })?;
            let Some(d) = found else {
                eprintln!("there is no dead letter at {topic}/{partition} offset {offset}");
                return Ok(ExitCode::from(EXIT_FINDINGS));
            };
            if is_json(format) {
                write_rows(&[d], format, COLUMNS)?;
            } else {
                show(&d)?;
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

const REPLAYED: &[Column<Replayed>] = &[
    ("TOPIC", |r| r.topic.clone()),
    ("PART", |r| r.partition.to_string()),
    ("OFFSET", |r| r.offset.to_string()),
    ("OUTCOME", |r| r.outcome.as_str().to_owned()),
    ("FINDINGS", |r| r.findings.to_string()),
    ("TOKENS", |r| r.tokens.to_string()),
    ("WHY", |r| r.why.clone()),
];

const COLUMNS: &[Column<StoredDeadLetter>] = &[
    ("AT", |d| d.at.clone()),
    ("TOPIC", |d| d.topic.clone()),
    ("PART", |d| d.partition.to_string()),
    ("OFFSET", |d| d.offset.to_string()),
    ("REASON", |d| d.reason.clone()),
    ("FIELD", |d| d.field_path.clone().unwrap_or_default()),
    ("BYTE", |d| {
        d.byte_position.map_or_else(String::new, |b| b.to_string())
    }),
    ("SIZE", |d| d.size_bytes.to_string()),
    ("REPLAYED", |d| d.replayed_at.clone().unwrap_or_default()),
];

fn show(d: &StoredDeadLetter) -> std::io::Result<()> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    for (name, value) in COLUMNS {
        writeln!(out, "{:<10}{}", name.to_lowercase(), value(d))?;
    }
    writeln!(
        out,
        "gateway   {}\n\nThe record itself is not kept: it may hold a prompt. While Kafka retains it, `dead-letters replay` reads it there.",
        d.gateway.as_deref().unwrap_or("unknown")
    )
}
