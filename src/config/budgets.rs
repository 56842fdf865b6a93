//! `[[budget]]`: limits as the operator writes them.

use super::reader::Section;
use crate::event::Pseudonym;

/// Whose usage a budget limits.
pub const SCOPES: [&str; 6] = ["user", "key", "team", "tenant", "model", "everyone"];
/// How long a budget lasts.
pub const PERIODS: [&str; 5] = ["hour", "day", "week", "month", "total"];

/// One budget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BudgetSetting {
    /// One of [`SCOPES`].
    pub scope: String,
    /// `acme`, `acme/support`, a pseudonym, a model, or `*` for each of its scope.
    pub subject: String,
    /// One of [`PERIODS`].
    pub period: String,
    /// Time zone of the period, IANA; UTC if none.
    pub zone: Option<String>,
    /// The limit.
    pub limit: Limit,
    /// Percentages that tell, rising.
    pub thresholds: Vec<i32>,
}

/// What is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Input and output tokens.
    Tokens(i64),
    /// Pico-dollars.
    Pico(i128),
}

pub(super) fn read(list: Vec<Section<'_, '_>>) -> Vec<BudgetSetting> {
    let mut out: Vec<BudgetSetting> = Vec::new();
    for s in list {
        if let Some(b) = one(&s) {
            let same = |o: &&BudgetSetting| {
                (&o.scope, &o.subject, &o.period) == (&b.scope, &b.subject, &b.period)
                    && matches!(o.limit, Limit::Tokens(_)) == matches!(b.limit, Limit::Tokens(_))
            };
            if out.iter().find(same).is_some() {
                s.problem(
                    "subject",
                    "has this budget already",
                    "keep one for each scope, subject, period and unit",
                );
            } else {
                out.push(b);
            }
        }
        s.finish();
    }
    out
}

fn one(s: &Section<'_, '_>) -> Option<BudgetSetting> {
    let words = |list: &'static [&'static str]| -> Vec<(&'static str, &'static str)> {
        list.iter().map(|w| (*w, *w)).collect()
    };
    let scope = s.word("scope", &words(&SCOPES));
    if !s.has("scope") {
        s.missing(
            "scope",
            "write one of user, key, team, tenant, model, everyone",
        );
    }
    let subject = s.str("subject").unwrap_or_else(|| "*".into());
    if let Some(Err(what)) = scope.map(|scope| check_subject(scope, &subject)) {
        s.problem("subject", what, SUBJECT_REMEDY);
    }
    let period = s.word("period", &words(&PERIODS));
    if !s.has("period") {
        s.missing("period", "write one of hour, day, week, month, total");
    }
    let zone = s.str("zone");
    if let Some(z) = &zone
        && jiff::tz::TimeZone::get(z).is_err()
    {
        s.problem(
            "zone",
            format!("\"{z}\" is not a time zone"),
            "write an IANA name such as \"Europe/Berlin\"",
        );
    }
    let tokens = s.integer("tokens", 1, i64::MAX);
    let usd = s.decimal("usd").and_then(|d| {
        let p = pico(&d);
        if p.is_none() {
            s.problem(
                "usd",
                "has more than 12 decimals or is too large",
                "write an amount such as 12.50",
            );
        }
        p
    });
    let limit = match (tokens, usd) {
        (Some(t), None) => Some(Limit::Tokens(t)),
        (None, Some(p)) if p > 0 => Some(Limit::Pico(p)),
        (None, Some(_)) => {
            s.problem("usd", "is zero", "write an amount above zero");
            None
        }
        (Some(_), Some(_)) => {
            s.problem(
                "usd",
                "stands beside tokens",
                "write two budgets, one for each",
            );
            None
        }
        (None, None) => {
            if !s.has("tokens") && !s.has("usd") {
                s.missing("tokens", "set tokens or usd");
            }
            None
        }
    };
    let mut thresholds: Vec<i32> = s
        .integers("thresholds", 1, 1000)
        .unwrap_or_else(|| vec![50, 80, 100])
        .into_iter()
        .filter_map(|n| i32::try_from(n).ok())
        .collect();
    thresholds.sort_unstable();
    thresholds.dedup();
    Some(BudgetSetting {
        scope: scope?.to_owned(),
        subject,
        period: period?.to_owned(),
        zone,
        limit: limit?,
        thresholds,
    })
}

/// What to write instead of a plain identity.
pub const SUBJECT_REMEDY: &str = "write the pseudonym that its events carry, such as k7:K9gGyX8OAK8aH8Myj6djqQ (`veilwatch budget show` lists them), or leave it out for each";

/// Whether a budget may be about this: of users and keys only pseudonyms are known, and a plain identity
/// has no place in the database.
///
/// # Errors
/// What is wrong; the subject is not quoted.
pub fn check_subject(scope: &str, subject: &str) -> Result<(), String> {
    if matches!(scope, "user" | "key") && subject != "*" && subject.parse::<Pseudonym>().is_err() {
        return Err(format!("is not a {scope}'s pseudonym"));
    }
    Ok(())
}

/// `12.50` dollars as pico-dollars.
fn pico(d: &str) -> Option<i128> {
    let (whole, frac) = d.split_once('.').unwrap_or((d, ""));
    if frac.len() > 12 {
        return None;
    }
    let whole: i128 = whole.parse().ok()?;
    let digits: i128 = if frac.is_empty() {
        0
    } else {
        frac.parse().ok()?
    };
    let scale = 10i128.checked_pow(12 - u32::try_from(frac.len()).ok()?)?;
    whole
        .checked_mul(1_000_000_000_000)?
        .checked_add(digits.checked_mul(scale)?)
        // NUMERIC(38, 0) holds it with room for sums.
        .filter(|p| *p < 10i128.pow(30))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dollars_are_exact() {
        assert_eq!(pico("12.50"), Some(12_500_000_000_000));
        assert_eq!(pico("0.000000000001"), Some(1));
        assert_eq!(pico("5"), Some(5_000_000_000_000));
        assert_eq!(pico("0.0000000000001"), None);
    }
}
