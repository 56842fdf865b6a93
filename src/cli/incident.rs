//! `veilwatch incident`: list, show, acknowledge, resolve, assign, note and judge incidents.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Subcommand;

use super::EXIT_FINDINGS;
use super::database::{Access, Column, Database, author, write_rows};
use super::format::{Format, Shown, is_json};
use crate::event::{Hash16, Time};
use crate::store::deed::Deed;
use crate::store::history::{IncidentFilter, IncidentRow};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    access: Access,
    /// Who acts; the login name without it.
    #[arg(long, global = true)]
    author: Option<String>,
    #[command(subcommand)]
    verb: Verb,
}

/// Which incident.
#[derive(Debug, Clone, clap::Args)]
struct Which {
    /// The incident's id: 32 hexadecimal digits, or at least the first 4 of them.
    #[arg(value_parser = incident_id)]
    id: String,
    /// Its number; the present one without it.
    #[arg(long)]
    number: Option<i32>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List incidents: open first, worst first, newest first.
    List {
        /// `open`, `acknowledged` or `resolved`; without it, all that are not resolved.
        #[arg(long, value_parser = ["open", "acknowledged", "resolved"])]
        state: Option<String>,
        /// Resolved ones too.
        #[arg(long)]
        all: bool,
        /// Only of this detector.
        #[arg(long)]
        detector: Option<String>,
        /// Only of this tenant.
        #[arg(long)]
        tenant: Option<String>,
        /// Only of this user (pseudonym).
        #[arg(long)]
        user: Option<String>,
        /// Only opened since (RFC 3339).
        #[arg(long, value_parser = super::format::time)]
        since: Option<Time>,
        /// At most so many.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=100_000))]
        limit: i64,
    },
    /// Show one incident with its timeline and its latest findings.
    Show(Which),
    /// Say that you are on it.
    Ack(Which),
    /// Say that it is over.
    Resolve(Which),
    /// Make it somebody's.
    Assign {
        #[command(flatten)]
        which: Which,
        /// Whose.
        #[arg(long)]
        to: String,
    },
    /// Add a remark.
    Note {
        #[command(flatten)]
        which: Which,
        /// The remark. No prompts, no identities.
        text: String,
    },
    /// Judge it; verdicts feed the precision of each rule.
    Verdict {
        #[command(flatten)]
        which: Which,
        /// A true positive, a false positive, or true and harmless.
        #[arg(value_parser = ["true", "false", "benign"])]
        verdict: String,
        /// Why.
        #[arg(long, default_value = "")]
        why: String,
    },
}

/// An incident's id, or how it begins.
pub(super) fn incident_id(s: &str) -> Result<String, String> {
    if (4..=32).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(s.to_owned());
    }
    Err("write 32 hexadecimal digits, or at least the first 4 of them".to_owned())
}

const COLUMNS: &[Column<IncidentRow>] = &[
    ("ID", |i| {
        i.incident.get(..12).unwrap_or(&i.incident).to_owned()
    }),
    ("NO", |i| i.number.to_string()),
    ("STATE", |i| i.state.clone()),
    ("SEVERITY", |i| i.severity.clone()),
    ("STAGE", |i| i.stage.clone()),
    ("DETECTOR", |i| i.detector.clone()),
    ("RULE", |i| i.rule.clone()),
    ("SUBJECT", |i| i.subject.clone()),
    ("LAST SEEN", |i| i.last_seen_at.clone()),
    ("FINDINGS", |i| i.findings.to_string()),
    ("VERDICT", |i| i.verdict.clone().unwrap_or_default()),
];

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (db, format) = (args.access.database, args.access.format);
    let (which, deed) = match args.verb {
        Verb::List {
            state,
            all,
            detector,
            tenant,
            user,
            since,
            limit,
        } => {
            let filter = IncidentFilter {
                state,
                resolved_too: all,
                detector,
                tenant,
                user,
                since,
                limit,
            };
            let rows = db.with(|s| async move { Ok(s.incidents(&filter).await?) })?;
            write_rows(&rows, format, COLUMNS)?;
            return Ok(ExitCode::SUCCESS);
        }
        Verb::Show(which) => return show(&db, format, which),
        Verb::Ack(which) => (which, Deed::Acknowledge),
        Verb::Resolve(which) => (which, Deed::Resolve),
        Verb::Assign { which, to } => (which, Deed::Assign(to)),
        Verb::Note { which, text } => (which, Deed::Note(text)),
        Verb::Verdict {
            which,
            verdict,
            why,
        } => (which, Deed::Verdict(verdict, why)),
    };
    let author = author(args.author)?;
    let head = db.with(|s| async move {
        let key = s.find_incident(&which.id).await?;
        Ok(s.incident_deed(key, which.number, deed, &author).await?)
    })?;
    let mut out = std::io::stdout().lock();
    if is_json(format) {
        serde_json::to_writer(&mut out, &head)?;
        writeln!(out)?;
    } else {
        writeln!(
            out,
            "incident {} number {} is {}",
            head.key,
            head.number,
            head.state.as_str()
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

fn show(db: &Database, format: Option<Format>, which: Which) -> anyhow::Result<ExitCode> {
    let id = which.id.clone();
    let found = db.with(|s| async move {
        let key: Hash16 = s.find_incident(&which.id).await?;
        Ok(s.incident_story(key, which.number).await?)
    })?;
    let Some(story) = found else {
        eprintln!("there is no such number of incident {id}");
        return Ok(ExitCode::from(EXIT_FINDINGS));
    };
    let mut out = std::io::stdout().lock();
    if is_json(format) {
        serde_json::to_writer(&mut out, &story)?;
        writeln!(out)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut out = Shown(out);
    let i = &story.incident;
    let name = |v: &Option<String>| v.clone().unwrap_or_else(|| "-".to_owned());
    writeln!(out, "incident {} number {}", i.incident, i.number)?;
    writeln!(
        out,
        "{} · {} · {} · {} {}\n{}",
        i.state, i.severity, i.stage, i.detector, i.rule, i.reason
    )?;
    writeln!(
        out,
        "subject {}  tenant {}  user {}  model {}  gateway {}",
        i.subject,
        i.tenant,
        name(&i.user),
        name(&i.model),
        name(&i.gateway)
    )?;
    writeln!(
        out,
        "opened {}  last seen {}  resolved {}  assignee {}  verdict {}\n\ntimeline",
        i.opened_at,
        i.last_seen_at,
        name(&i.resolved_at),
        name(&i.assignee),
        name(&i.verdict)
    )?;
    for e in &story.timeline {
        writeln!(out, "  {}  {:<13} {:<12} {}", e.at, e.what, e.by, e.text)?;
    }
    writeln!(out, "\nfindings, latest first")?;
    for f in &story.findings {
        writeln!(out, "  {}  {:<8} {}", f.end_at, f.fate, f.reason)?;
    }
    Ok(ExitCode::SUCCESS)
}
