//! `veilwatch audit`: verify the audit chain, export its heads.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Subcommand;

use super::EXIT_FINDINGS;
use super::database::{Access, Column, write_rows};
use super::format::Format;
use crate::store::audit::{Head, Verified};

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
    /// Walk every partition's chain; exit 1 if one is broken, naming the first bad batch.
    Verify {
        /// Heads exported earlier (`audit heads`): without them a beginning or a tail cut off cannot be seen.
        #[arg(long, value_name = "F")]
        heads: Option<PathBuf>,
    },
    /// Print the present heads as JSON lines, to keep where this database's administrator cannot write.
    Heads,
}

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.verb {
        Verb::Heads => {
            let heads = args
                .access
                .database
                .with(|s| async move { Ok(s.audit_heads().await?) })?;
            write_rows(&heads, Some(Format::Json), &[])?;
            Ok(ExitCode::SUCCESS)
        }
        Verb::Verify { heads } => {
            let exported = heads.is_some();
            let heads = heads.map_or(Ok(Vec::new()), |path| read_heads(&path))?;
            let verdicts = args
                .access
                .database
                .with(|s| async move { Ok(s.audit_verify(&heads).await?) })?;
            let columns: &[Column<Verified>] = &[
                ("TOPIC", |v| v.topic.clone()),
                ("PART", |v| v.partition.to_string()),
                ("BATCHES", |v| v.batches.to_string()),
                ("RECORDS", |v| v.records.to_string()),
                ("FROM", |v| v.from.to_string()),
                ("TO", |v| v.to.to_string()),
                ("LOST", |v| v.gaps.to_string()),
                ("HEADS", |v| v.heads.to_string()),
                ("VERDICT", |v| {
                    v.broken.as_ref().map_or_else(
                        || "holds".to_owned(),
                        |b| format!("BROKEN at offset {}: {}", b.offset, b.problem),
                    )
                }),
            ];
            write_rows(&verdicts, args.access.format, columns)?;
            if !exported && !args.access.json() {
                let mut err = std::io::stderr().lock();
                writeln!(
                    err,
                    "without --heads neither a beginning that was deleted nor a tail that was cut off together with the partition's row can be seen"
                )?;
            }
            let broken = verdicts.iter().any(|v| v.broken.is_some());
            Ok(if broken {
                ExitCode::from(EXIT_FINDINGS)
            } else {
                ExitCode::SUCCESS
            })
        }
    }
}

/// Heads of ten thousand partitions take less.
const MAX_HEADS: u64 = 16 << 20;

fn read_heads(path: &Path) -> anyhow::Result<Vec<Head>> {
    let text = super::input::text(path, "heads that `audit heads` printed", MAX_HEADS)?;
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(i, line)| {
            serde_json::from_str(line).with_context(|| {
                format!(
                    "{} line {} is not a head as `audit heads` prints it",
                    path.display(),
                    i + 1
                )
            })
        })
        .collect()
}
