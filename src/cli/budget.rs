//! `veilwatch budget`: set, list, show and raise budgets.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Subcommand;

use super::EXIT_FINDINGS;
use super::database::{Access, Column, author, write_rows};
use super::format::{Format, is_json};
use crate::account::budget::DEFAULT_THRESHOLDS;
use crate::account::{Budget, Grain, Limit, PeriodKind, Scope, Unit, Zone};
use crate::config::budgets::{SUBJECT_REMEDY, check_subject};
use crate::event::{SmolStr, Time};
use crate::store::budget::{BudgetUse, LimitRow, Raise, budget_name};

/// Pico-dollars in a dollar.
const PICO: i128 = 1_000_000_000_000;

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
    /// List the limits and the raises that hold.
    List,
    /// Show how much of the present periods is used, most used first.
    Show {
        /// Only this budget.
        budget: Option<String>,
        /// Only this subject.
        #[arg(long)]
        subject: Option<String>,
        /// At most so many.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=100_000))]
        limit: i64,
    },
    /// Set a limit. It holds at once, on every replica; stored usage is tested within a minute. Users
    /// are counted by UTC day, everything wider by UTC hour and day; other periods begin to count within
    /// seconds, and what was used before is in no total of theirs.
    Set(SetArgs),
    /// Remove a limit. Usage and crossings stay.
    Remove {
        /// Which budget.
        budget: String,
        /// Who removes it.
        #[arg(long)]
        author: Option<String>,
    },
    /// Raise a limit for a time.
    Raise(RaiseArgs),
}

#[derive(Debug, clap::Args)]
struct SetArgs {
    /// `user`, `key`, `team`, `tenant`, `model` or `everyone`.
    #[arg(long, value_parser = parse_scope)]
    scope: Scope,
    /// One subject (`k7:…`, `acme`, `acme/support`, a model); without it, each of the scope.
    #[arg(long)]
    subject: Option<String>,
    /// `hour`, `day`, `week`, `month` or `total`.
    #[arg(long, value_parser = parse_period)]
    period: PeriodKind,
    /// Where the period's days begin (IANA name); UTC without it.
    #[arg(long)]
    zone: Option<String>,
    /// Limit in tokens.
    #[arg(long, conflicts_with = "usd", required_unless_present = "usd", value_parser = clap::value_parser!(i64).range(1..))]
    tokens: Option<i64>,
    /// Limit in dollars, such as 12.50.
    #[arg(long, value_parser = parse_usd)]
    usd: Option<i128>,
    /// Percentages that tell.
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=1000))]
    thresholds: Vec<u32>,
    /// A name; the same name again changes the limit.
    #[arg(long)]
    id: Option<String>,
    /// Who sets it.
    #[arg(long)]
    author: Option<String>,
}

#[derive(Debug, clap::Args)]
struct RaiseArgs {
    /// Which budget.
    budget: String,
    /// Only for this subject; without it, for all of the budget.
    #[arg(long)]
    subject: Option<String>,
    /// How many tokens more.
    #[arg(long, conflicts_with = "usd", required_unless_present = "usd", value_parser = clap::value_parser!(i64).range(1..))]
    tokens: Option<i64>,
    /// How many dollars more.
    #[arg(long, value_parser = parse_usd)]
    usd: Option<i128>,
    /// Until when (RFC 3339), or for how long (`90m`, `12h`, `7d`).
    #[arg(long, value_parser = parse_until)]
    until: Until,
    /// Who grants it.
    #[arg(long)]
    author: Option<String>,
    /// Why.
    #[arg(long)]
    reason: String,
}

fn parse_scope(s: &str) -> Result<Scope, String> {
    Scope::parse(s).ok_or_else(|| "one of user, key, team, tenant, model, everyone".to_owned())
}

fn parse_period(s: &str) -> Result<PeriodKind, String> {
    PeriodKind::parse(s).ok_or_else(|| "one of hour, day, week, month, total".to_owned())
}

/// Dollars with at most 12 decimals, exactly.
fn parse_usd(s: &str) -> Result<i128, String> {
    let bad = || "write an amount above zero with at most 12 decimals, such as 12.50".to_owned();
    let (whole, part) = s.split_once('.').unwrap_or((s, ""));
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || whole.len() > 20 || part.len() > 12 || !digits(whole) || !digits(part) {
        return Err(bad());
    }
    let pico = whole.parse::<i128>().map_err(|_| bad())? * PICO
        + format!("{part:0<12}").parse::<i128>().map_err(|_| bad())?;
    if pico > 0 { Ok(pico) } else { Err(bad()) }
}

/// A moment, or a span from the database's now, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    At(Time),
    In(i64),
}

impl Until {
    fn from(self, now: Time) -> Time {
        match self {
            Self::At(time) => time,
            Self::In(span) => now.plus_ms(span),
        }
    }
}

fn parse_until(s: &str) -> Result<Until, String> {
    if let Some(t) = Time::parse_rfc3339(s) {
        return Ok(Until::At(t));
    }
    let unit = |c| match c {
        'm' => Some(60_000i64),
        'h' => Some(3_600_000),
        'd' => Some(86_400_000),
        _ => None,
    };
    let span = s
        .char_indices()
        .next_back()
        .and_then(|(i, c)| s[..i].parse::<i64>().ok()?.checked_mul(unit(c)?));
    span.filter(|s| *s > 0)
        .map(Until::In)
        .ok_or_else(|| "write a time such as 2026-11-28T18:00:00Z, or 90m, 12h, 7d".to_owned())
}

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (db, format) = (args.access.database, args.access.format);
    match args.verb {
        Verb::List => {
            let rows = db.with(|s| async move { Ok(s.limits().await?) })?;
            let columns: &[Column<LimitRow>] = &[
                ("BUDGET", |l| l.budget.clone()),
                ("SCOPE", |l| l.scope.clone()),
                ("SUBJECT", |l| l.subject.clone()),
                ("PERIOD", |l| l.period.clone()),
                ("LIMIT", |l| format!("{} {}", l.limit, l.unit)),
                ("TELLS AT", |l| {
                    let t: Vec<String> = l.thresholds.iter().map(|t| format!("{t}%")).collect();
                    t.join(" ")
                }),
                ("FROM", |l| l.source.clone()),
                ("COUNTS FROM", |l| l.counts_from.clone().unwrap_or_default()),
                ("RAISED", |l| match &l.raised_until {
                    Some(until) => format!("+{} until {until}", l.raised_by),
                    None => String::new(),
                }),
            ];
            write_rows(&rows, format, columns)?;
        }
        Verb::Show {
            budget,
            subject,
            limit,
        } => {
            let rows = db.with(|s| async move {
                Ok(s.budget_use(budget.as_deref(), subject.as_deref(), limit)
                    .await?)
            })?;
            let columns: &[Column<BudgetUse>] = &[
                ("BUDGET", |b| b.budget.clone()),
                ("SUBJECT", |b| b.subject.clone()),
                ("PERIOD", |b| b.period.clone()),
                ("USED", |b| format!("{} {}", b.used, b.unit)),
                ("OF", |b| b.in_force.clone()),
                ("PERCENT", |b| format!("{:.1}", b.percent)),
                ("UNKNOWN", |b| b.missing_events.to_string()),
                ("UNPRICED", |b| b.unpriced_events.to_string()),
            ];
            write_rows(&rows, format, columns)?;
        }
        Verb::Set(set) => {
            let author = author(set.author.clone())?;
            let budget = budget_of(set)?;
            let id = budget.id.clone();
            let from = db.with(|s| async move { Ok(s.set_budget(&budget, &author).await?) })?;
            let from = from.map(|t| t.to_string());
            let since = match &from {
                None => "all usage of its period counts".to_owned(),
                Some(t) => format!("usage counts from {t} on, what was used before does not"),
            };
            said(
                format,
                &serde_json::json!({ "budget": id, "counts_from": from }),
                &format!("budget {id} is set: {since}"),
            )?;
        }
        Verb::Remove { budget, author: by } => {
            let by = author(by)?;
            let id = budget.clone();
            if !db.with(|s| async move { Ok(s.remove_budget(&id, &by).await?) })? {
                eprintln!("there is no budget `{budget}`: `veilwatch budget list` shows them");
                return Ok(ExitCode::from(EXIT_FINDINGS));
            }
            said(
                format,
                &serde_json::json!({ "removed": budget }),
                &format!("budget {budget} is removed"),
            )?;
        }
        Verb::Raise(r) => {
            let by = author(r.author)?;
            let extra = match (r.tokens, r.usd) {
                (Some(t), _) => i128::from(t),
                (None, Some(p)) => p,
                (None, None) => anyhow::bail!("give --tokens or --usd"),
            };
            let unit = if r.tokens.is_some() { "tokens" } else { "usd" };
            let (budget, until) = db.with(|s| async move {
                let limits = s.limits().await?;
                if let Some(l) = limits.iter().find(|l| l.budget == r.budget)
                    && l.unit != unit
                {
                    anyhow::bail!("budget {} counts {}: give --{}", l.budget, l.unit, l.unit);
                }
                let expires = r.until.from(s.now().await?);
                let raise = Raise {
                    budget: r.budget,
                    subject: r.subject.unwrap_or_else(|| "*".to_owned()),
                    extra,
                    expires,
                    author: by,
                    reason: r.reason,
                };
                s.raise_budget(&raise).await?;
                Ok((raise.budget, raise.expires))
            })?;
            let line = serde_json::json!({ "budget": budget, "until": until.to_string() });
            said(
                format,
                &line,
                &format!("budget {budget} is raised until {until}"),
            )?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn said(format: Option<Format>, json: &serde_json::Value, words: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    if is_json(format) {
        writeln!(out, "{json}")
    } else {
        writeln!(out, "{words}")
    }
}

fn budget_of(set: SetArgs) -> anyhow::Result<Budget> {
    let zone = set.zone.as_deref().map(Zone::named).transpose()?;
    let limit = match (set.tokens, set.usd) {
        (Some(t), _) => Limit {
            unit: Unit::Tokens,
            amount: i128::from(t),
        },
        (None, Some(amount)) => Limit {
            unit: Unit::Usd,
            amount,
        },
        (None, None) => anyhow::bail!("give --tokens or --usd"),
    };
    let mut thresholds = set.thresholds;
    thresholds.sort_unstable();
    thresholds.dedup();
    if thresholds.is_empty() {
        thresholds = DEFAULT_THRESHOLDS.to_vec();
    }
    let subject = set.subject.filter(|s| s != "*").map(SmolStr::new);
    if let Some(Err(what)) = subject
        .as_deref()
        .map(|s| check_subject(set.scope.as_str(), s))
    {
        anyhow::bail!("--subject {what}; {SUBJECT_REMEDY}");
    }
    let id = set.id.map_or_else(
        || {
            budget_name(
                set.scope,
                subject.as_deref(),
                set.period.as_str(),
                limit.unit,
            )
        },
        SmolStr::new,
    );
    Ok(Budget {
        id,
        scope: set.scope,
        subject,
        grain: Grain {
            kind: set.period,
            zone,
        },
        limit,
        thresholds,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_exact() {
        assert_eq!(parse_usd("12.50"), Ok(12_500_000_000_000));
        assert_eq!(parse_usd("0.000000000001"), Ok(1));
        for bad in ["", "0", "-1", "1.0000000000001", "1e3", "one"] {
            assert!(parse_usd(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn spans_and_moments() {
        let until = |s| parse_until(s).map(|u| u.from(Time(9))).ok();
        assert_eq!(until("90m"), Some(Time(5_400_009)));
        assert_eq!(until("7d"), Some(Time(604_800_009)));
        assert_eq!(until("1970-01-01T00:00:01Z"), Some(Time(1_000)));
        for bad in ["soon", "tomorrow", "-1h", "0d", ""] {
            assert_eq!(until(bad), None, "{bad}");
        }
    }
}
