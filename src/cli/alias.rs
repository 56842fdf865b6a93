//! `veilwatch alias`: which pseudonyms count as others since a key rotation, and undoing a wrong one.

use std::process::ExitCode;

use anyhow::{Context as _, bail};

use super::EXIT_FINDINGS;
use super::database::{Access, author, write_rows};
use crate::event::Pseudonym;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    access: Access,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Names that count as others, those used last first; undone ones count as themselves.
    List {
        /// Only those that this pseudonym has a part in.
        #[arg(long, value_name = "PSEUDONYM")]
        of: Option<String>,
        /// At most so many.
        #[arg(long, default_value_t = 100)]
        limit: u32,
    },
    /// Let a name count as itself again, in every process within seconds; what was booked stays where it is.
    Remove {
        /// The newer pseudonym.
        name: String,
        /// Why.
        #[arg(long)]
        reason: String,
        /// Who acts; the login name without it.
        #[arg(long)]
        author: Option<String>,
    },
}

/// Runs the verb. `remove` ends with 1 if the name counts as no other.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let format = args.access.format;
    match args.verb {
        Verb::List { of, limit } => args.access.database.with(|store| async move {
            let rows = store.renamed(of.as_deref(), limit).await?;
            write_rows(
                &rows,
                format,
                &[
                    ("NAME", |r| r.name.clone()),
                    ("COUNTS AS", |r| r.counts_as.clone()),
                    ("AT", |r| r.at.clone()),
                ],
            )?;
            Ok(ExitCode::SUCCESS)
        }),
        Verb::Remove {
            name,
            reason,
            author: who,
        } => {
            // The value itself may be a plain identity: it is not repeated.
            name.parse::<Pseudonym>().ok().context(
                "this is no pseudonym: `veilwatch alias list` shows those that count as others",
            )?;
            if reason.trim().is_empty() {
                bail!("say why with --reason: it stands in the action log");
            }
            let who = author(who)?;
            args.access.database.with(|store| async move {
                if store.unname(&name, &who, &reason).await? {
                    return Ok(ExitCode::SUCCESS);
                }
                eprintln!("veilwatch: {name} counts as no other; `veilwatch alias list` shows those that do");
                Ok(ExitCode::from(EXIT_FINDINGS))
            })
        }
    }
}
