//! `veilwatch outbox`: what was not sent and why, and sending it again.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Subcommand;

use super::EXIT_FINDINGS;
use super::database::{Access, Column, author, write_rows};
use super::format::is_json;
use crate::store::outbox::{Queued, STATES, Which};

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
    /// List notifications, the most severe and then the oldest first.
    List {
        /// Only of this sink.
        #[arg(long)]
        sink: Option<String>,
        /// Only about this incident (its id, or how it begins).
        #[arg(long, value_parser = super::incident::incident_id)]
        incident: Option<String>,
        /// Only in this state; may be given again. Those that wait or are parked without it.
        #[arg(long, value_parser = STATES)]
        state: Vec<String>,
        /// At most so many.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(i64).range(1..=100_000))]
        limit: i64,
    },
    /// Queue parked and expired notifications again, and try waiting ones now; exit 1 if there are none.
    /// Of an incident only the last one is queued again: earlier ones say what is no longer so.
    /// A sink that works again gets its parked ones by itself.
    Retry {
        /// All that wait or are parked.
        #[arg(long, required_unless_present_any = ["sink", "incident"])]
        all: bool,
        /// Only of this sink.
        #[arg(long)]
        sink: Option<String>,
        /// Only about this incident (its id, or how it begins).
        #[arg(long, value_parser = super::incident::incident_id)]
        incident: Option<String>,
        /// Those too that a later message about their incident has overtaken. A receiver may take an
        /// old one for news, and open again what is over.
        #[arg(long)]
        overtaken: bool,
        /// Those too that were given up because nobody took them for days.
        #[arg(long)]
        expired: bool,
        /// Who asks for it; it stands in the log.
        #[arg(long)]
        author: Option<String>,
    },
}

const COLUMNS: &[Column<Queued>] = &[
    ("CREATED", |r| r.created_at.clone()),
    ("SINK", |r| r.sink.clone()),
    ("STATE", |r| r.state.clone()),
    ("SEVERITY", |r| r.severity.clone()),
    ("KIND", |r| r.kind.clone()),
    ("TRIES", |r| r.attempts.to_string()),
    ("INCIDENT", |r| r.incident.chars().take(8).collect()),
    ("TITLE", |r| r.title.clone()),
    ("ERROR", |r| r.error.clone()),
];

/// The columns' values of the states' names.
fn states(names: &[String]) -> Vec<i16> {
    let value = |name: &String| STATES.iter().position(|s| s == name);
    names
        .iter()
        .filter_map(|n| i16::try_from(value(n)?).ok())
        .collect()
}

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let format = args.access.format;
    match args.verb {
        Verb::List {
            sink,
            incident,
            state,
            limit,
        } => {
            let rows = args.access.database.with(|store| async move {
                let incident = match incident {
                    Some(id) => Some(store.find_incident(&id).await?),
                    None => None,
                };
                let which = Which {
                    sink,
                    incident,
                    states: states(&state),
                    overtaken: false,
                    limit,
                };
                Ok(store.outbox_list(&which).await?)
            })?;
            write_rows(&rows, format, COLUMNS)?;
            Ok(ExitCode::SUCCESS)
        }
        Verb::Retry {
            all: _,
            sink,
            incident,
            overtaken,
            expired,
            author: who,
        } => {
            let who = author(who)?;
            let queued = args.access.database.with(|store| async move {
                let incident = match incident {
                    Some(id) => Some(store.find_incident(&id).await?),
                    None => None,
                };
                let states = if expired { vec![0, 3, 4] } else { Vec::new() };
                let which = Which {
                    sink,
                    incident,
                    states,
                    overtaken,
                    ..Which::default()
                };
                Ok(store.outbox_retry(&which, &who).await?)
            })?;
            let mut out = std::io::stdout().lock();
            if is_json(format) {
                writeln!(out, "{}", serde_json::json!({ "queued": queued }))?;
            } else {
                writeln!(out, "{queued} notifications are tried now")?;
            }
            Ok(ExitCode::from(if queued == 0 { EXIT_FINDINGS } else { 0 }))
        }
    }
}
