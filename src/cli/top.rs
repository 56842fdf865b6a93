//! `veilwatch top`: the busiest users, models and tenants, by what they spend and what was found.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use super::database::{Access, Column, Database, write_rows};
use crate::account::Scope;
use crate::config::duration::{parse_duration, show_duration};
use crate::event::Time;
use crate::store::top::{TopBy, TopRow};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    access: Access,
    /// Whose lines: several are separated by commas.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "user,model,tenant"
    )]
    of: Vec<Of>,
    /// How far back, such as `1h`, `24h` or `7d`; at most 31 days. Users are summed by whole UTC days, the
    /// others by whole hours.
    #[arg(long = "for", value_name = "TIME", default_value = "24h", value_parser = window)]
    window: Duration,
    /// What comes first.
    #[arg(long, value_enum, default_value = "spend")]
    by: By,
    /// Lines of each.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(i64).range(1..=10_000))]
    limit: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Of {
    User,
    Model,
    Tenant,
    Key,
    Team,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum By {
    /// Dollars.
    Spend,
    /// Findings that are not shadow.
    Findings,
}

fn window(s: &str) -> Result<Duration, String> {
    const LONGEST: Duration = Duration::from_secs(31 * 86_400);
    parse_duration(s)
        .filter(|d| (Duration::from_secs(60)..=LONGEST).contains(d))
        .ok_or_else(|| "write a time from 1m to 31d, such as 24h".to_owned())
}

const COLUMNS: &[Column<TopRow>] = &[
    ("SUBJECT", |r| r.subject.clone()),
    ("USD", |r| format!("{:.4}", r.cost_usd)),
    ("TOKENS", |r| r.tokens.to_string()),
    ("EVENTS", |r| r.events.to_string()),
    ("NO COST", |r| r.uncosted_events.to_string()),
    ("FINDINGS", |r| r.findings.to_string()),
    ("PAGES", |r| r.pages.to_string()),
    ("WORST", |r| r.worst.clone().unwrap_or_default()),
];

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let now = jiff::Timestamp::now();
    let to = Time(now.as_millisecond());
    let back = i64::try_from(args.window.as_millis()).unwrap_or(i64::MAX);
    let from = Time(to.0.saturating_sub(back));
    let by = match args.by {
        By::Spend => TopBy::Spend,
        By::Findings => TopBy::Findings,
    };
    let (of, limit) = (args.of.clone(), args.limit);
    let database: &Database = &args.access.database;
    let tables = database.with(|store| async move {
        let mut tables = Vec::new();
        for of in of {
            let scope = match of {
                Of::User => Scope::User,
                Of::Model => Scope::Model,
                Of::Tenant => Scope::Tenant,
                Of::Key => Scope::Key,
                Of::Team => Scope::Team,
            };
            tables.push((scope, store.top(scope, (from, to), by, limit).await?));
        }
        Ok(tables)
    })?;
    for (i, (scope, rows)) in tables.iter().enumerate() {
        if !args.access.json() {
            let mut out = std::io::stdout().lock();
            let gap = if i > 0 { "\n" } else { "" };
            let of = scope.as_str();
            writeln!(out, "{gap}{of}s of the last {}", show_duration(args.window))?;
            if rows.is_empty() {
                writeln!(out, "  none")?;
                continue;
            }
        }
        write_rows(rows, args.access.format, COLUMNS)?;
    }
    Ok(ExitCode::SUCCESS)
}
