//! Prices: integer pico-dollars per token, from `rules/prices.json`.
//!
//! A price has effective dates, so that a re-run costs the same; tiers that apply to the whole prompt
//! (as providers bill long contexts); and rates for cache reads, cache writes and reasoning. A model
//! is looked up by exact name, then without `provider/`, without a region prefix, without a date
//! suffix. An unknown model is [`Priced::Unpriced`], which is its own state and never zero.

use foldhash::HashMap;
use serde::Deserialize;

use crate::event::{Event, Pico, SmolStr, Time, UsageState};

/// The shipped table.
pub const SHIPPED: &str = include_str!("../../rules/prices.json");

/// What an event costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priced {
    /// Pico-dollars. Missing usage costs nothing here and is counted as missing.
    Pico(Pico),
    /// The table has no price for the model at that time.
    Unpriced,
}

impl Priced {
    /// The cost, where there is a price.
    pub fn pico(self) -> Option<Pico> {
        match self {
            Self::Pico(p) => Some(p),
            Self::Unpriced => None,
        }
    }
}

/// Pico-dollars per token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct Rates {
    /// Prompt tokens neither read from nor written to a cache.
    pub input: Pico,
    /// Completion tokens.
    pub output: Pico,
    /// Prompt tokens read from a cache; absent: the input rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_read: Option<Pico>,
    /// Prompt tokens written to a cache; absent: the input rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write: Option<Pico>,
    /// Reasoning tokens; absent: the output rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<Pico>,
}

/// Rates for the whole prompt once it is longer than a bound.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct Tier {
    /// Applies when the prompt has more tokens than this.
    pub above_input: u64,
    /// Rates of every token of the call.
    pub rates: Rates,
}

/// One model's price in one stretch of time.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The model's name.
    pub model: SmolStr,
    /// Who bills.
    pub provider: SmolStr,
    /// Other names of the same model.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<SmolStr>,
    /// First day, UTC (`YYYY-MM-DD`).
    pub from: SmolStr,
    /// First day after, UTC; absent while it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<SmolStr>,
    /// Base rates.
    pub rates: Rates,
    /// Ascending by bound.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tiers: Vec<Tier>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    #[serde(default)]
    source: String,
    models: Vec<Entry>,
}

/// A price file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PriceError {
    /// Not the expected JSON.
    #[error("price table: {0}")]
    Json(String),
    /// A later version of the format.
    #[error("price table has version {0}, this program reads 1: use a table made for it")]
    Version(u32),
    /// An entry contradicts itself.
    #[error("price table, model `{model}`: {problem}")]
    Entry {
        /// Which.
        model: SmolStr,
        /// What is wrong and what to do.
        problem: &'static str,
    },
}

/// The price table.
#[derive(Debug, Clone, Default)]
pub struct Prices {
    /// (from, to) in milliseconds, and the entry.
    entries: Vec<(Time, Time, Entry)>,
    /// Name or alias → entries, in file order.
    names: HashMap<SmolStr, Vec<usize>>,
    source: String,
}

/// Regions that gateways put before a model's name.
const REGIONS: [&str; 7] = ["us.", "eu.", "apac.", "au.", "jp.", "us-gov.", "global."];

impl Prices {
    /// The table compiled into the program.
    pub fn shipped() -> Self {
        // A test reads the shipped table, so the default stands only in a build that failed it.
        Self::from_json(SHIPPED).unwrap_or_default()
    }

    /// Reads and checks a table. All rates are pico-dollars per token.
    pub fn from_json(json: &str) -> Result<Self, PriceError> {
        let file: File = serde_json::from_str(json).map_err(|e| PriceError::Json(e.to_string()))?;
        if file.version != 1 {
            return Err(PriceError::Version(file.version));
        }
        let mut table = Self {
            source: file.source,
            ..Self::default()
        };
        for e in file.models {
            let problem = |problem| PriceError::Entry {
                model: e.model.clone(),
                problem,
            };
            let from = day(&e.from).ok_or_else(|| problem("`from` is not a day YYYY-MM-DD"))?;
            let to = match &e.to {
                Some(to) => day(to).ok_or_else(|| problem("`to` is not a day YYYY-MM-DD"))?,
                None => Time(i64::MAX),
            };
            if from >= to {
                return Err(problem("`to` is not after `from`"));
            }
            let rates = || std::iter::once(&e.rates).chain(e.tiers.iter().map(|t| &t.rates));
            if rates().any(|r| r.all().any(|p| p < 0)) {
                return Err(problem("a rate is negative"));
            }
            if !e.tiers.is_sorted_by(|a, b| a.above_input < b.above_input) {
                return Err(problem("tiers must ascend by `above_input`"));
            }
            let i = table.entries.len();
            for name in std::iter::once(&e.model).chain(&e.aliases) {
                let same = table.names.entry(name.clone()).or_default();
                let overlaps = same.iter().any(|j| {
                    let (f, t, o) = &table.entries[*j];
                    o.provider == e.provider && from < *t && *f < to
                });
                if overlaps {
                    return Err(problem(
                        "two entries of one name and provider overlap in time",
                    ));
                }
                same.push(i);
            }
            table.entries.push((from, to, e));
        }
        Ok(table)
    }

    /// All entries, in file order.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().map(|(_, _, e)| e)
    }
    /// Where the numbers come from.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the table has the very name, at whatever time: these are finitely many.
    pub fn names(&self, model: &str) -> bool {
        self.names.contains_key(model)
    }

    /// What the event costs at the prices of `end`, its end as [`Event::end`] clamps it: at its own time, a
    /// wrong or forged clock would be free.
    pub fn price(&self, event: &Event, end: Time) -> Priced {
        if event.usage.state == UsageState::Missing {
            return Priced::Pico(0);
        }
        let provider = event.provider.as_deref();
        let entry = self
            .find(event.model(), provider, end)
            .or_else(|| self.find(&event.model_requested, provider, end));
        entry.map_or(Priced::Unpriced, |e| Priced::Pico(e.cost(event)))
    }

    /// The entry of a model at a time: exact name or alias, then without `provider/`, without a
    /// region, without a date suffix, each tried on what the last left over.
    pub fn find(&self, model: &str, provider: Option<&str>, at: Time) -> Option<&Entry> {
        let mut name = model;
        loop {
            if let Some(e) = self.exact(name, provider, at) {
                return Some(e);
            }
            if let Some(e) = without_date(name).and_then(|n| self.exact(n, provider, at)) {
                return Some(e);
            }
            if let Some((_, rest)) = name.split_once('/') {
                name = rest;
            } else if let Some(rest) = REGIONS.iter().find_map(|r| name.strip_prefix(r)) {
                name = rest;
            } else {
                return None;
            }
        }
    }

    fn exact(&self, name: &str, provider: Option<&str>, at: Time) -> Option<&Entry> {
        let mut best = None;
        for i in self.names.get(name)? {
            let (from, to, e) = &self.entries[*i];
            if *from <= at && at < *to {
                if provider == Some(e.provider.as_str()) {
                    return Some(e);
                }
                best = best.or(Some(e));
            }
        }
        best
    }
}

impl Rates {
    fn all(&self) -> impl Iterator<Item = Pico> {
        [
            Some(self.input),
            Some(self.output),
            self.cache_read,
            self.cache_write,
            self.reasoning,
        ]
        .into_iter()
        .flatten()
    }
}

impl Entry {
    /// The rates for a prompt of `input` tokens.
    pub fn rates(&self, input: u64) -> &Rates {
        self.tiers
            .iter()
            .rev()
            .find(|t| input > t.above_input)
            .map_or(&self.rates, |t| &t.rates)
    }

    fn cost(&self, event: &Event) -> Pico {
        let u = &event.usage;
        let r = self.rates(u.input);
        let uncached = u
            .input
            .saturating_sub(u.cache_read)
            .saturating_sub(u.cache_write);
        let answer = u.output.saturating_sub(u.reasoning);
        let part = |tokens: u64, rate: Pico| i128::from(tokens) * i128::from(rate);
        let sum = part(uncached, r.input)
            + part(u.cache_read, r.cache_read.unwrap_or(r.input))
            + part(u.cache_write, r.cache_write.unwrap_or(r.input))
            + part(answer, r.output)
            + part(u.reasoning.min(u.output), r.reasoning.unwrap_or(r.output));
        // Decode bounds tokens; the clamp only keeps a forged table from wrapping.
        Pico::try_from(sum).unwrap_or(Pico::MAX)
    }
}

fn day(s: &str) -> Option<Time> {
    if s.len() != 10 {
        return None;
    }
    Time::parse_rfc3339(&format!("{s}T00:00:00Z"))
}

/// `gpt-4o-2024-08-06`, `claude-sonnet-4-5-20250929`, `gemini-2.5-flash-09-2025`, `…-v1:0`,
/// `…@20250929`, `…-latest`: the name before the date.
fn without_date(name: &str) -> Option<&str> {
    let name = name.strip_suffix("-v1:0").unwrap_or(name);
    if let Some((base, _)) = name.split_once('@') {
        return Some(base);
    }
    if let Some(base) = name.strip_suffix("-latest") {
        return Some(base);
    }
    let bytes = name.as_bytes();
    // 9 stands for any digit.
    for want in [
        &b"-9999-99-99"[..],
        &b"-99999999"[..],
        &b"-99-9999"[..],
        &b"-9999"[..],
    ] {
        let Some(cut) = bytes.len().checked_sub(want.len()) else {
            continue;
        };
        let fits = bytes[cut..].iter().zip(want).all(|(c, w)| {
            if *w == b'9' {
                c.is_ascii_digit()
            } else {
                c == w
            }
        });
        if cut > 0 && fits {
            return name.get(..cut);
        }
    }
    None
}

/// A rate as dollars per million tokens, exact. A pico-dollar a token is a micro-dollar a million.
pub fn dollars_per_million(rate: Pico) -> String {
    let text = format!("{}.{:06}", rate / 1_000_000, rate % 1_000_000);
    let text = text.trim_end_matches('0').trim_end_matches('.');
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: &str) -> Time {
        Time::parse_rfc3339(s).expect(s)
    }

    #[test]
    fn the_shipped_table_is_valid_and_has_no_hole() {
        let p = Prices::from_json(SHIPPED).expect("shipped prices");
        assert!(p.entries().count() >= 100, "{}", p.entries().count());
        let now = at("2026-11-21T00:00:00Z");
        for (model, input, output) in [
            ("gpt-4o", 2_500_000, 10_000_000),
            ("gpt-4o-2024-08-06", 2_500_000, 10_000_000),
            ("openai/gpt-4o-mini-2024-07-18", 150_000, 600_000),
            (
                "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
                3_000_000,
                15_000_000,
            ),
            (
                "bedrock/eu.anthropic.claude-haiku-4-5",
                1_000_000,
                5_000_000,
            ),
            ("gpt-5", 1_250_000, 10_000_000),
        ] {
            let e = p
                .find(model, None, now)
                .unwrap_or_else(|| panic!("{model}"));
            assert_eq!((e.rates.input, e.rates.output), (input, output), "{model}");
        }
        assert_eq!(p.find("nobody-knows-me", None, now), None);
    }

    #[test]
    fn tiers_price_the_whole_prompt_and_dates_bound_a_price() {
        let p = Prices::from_json(
            r#"{"version": 1, "models": [
              {"model": "m", "provider": "x", "from": "2025-01-01", "to": "2026-01-01", "rates": {"input": 10, "output": 20}},
              {"model": "m", "provider": "x", "from": "2026-01-01", "rates": {"input": 1, "output": 2},
               "tiers": [{"above_input": 100, "rates": {"input": 3, "output": 4}}]}]}"#,
        )
        .expect("table");
        let e = |t| p.find("m", None, at(t)).expect("entry");
        assert_eq!(e("2025-06-01T00:00:00Z").rates.input, 10);
        let now = e("2026-06-01T00:00:00Z");
        assert_eq!(now.rates(100).input, 1);
        assert_eq!(now.rates(101).input, 3);
        assert!(p.find("m", None, at("2024-12-31T23:59:59Z")).is_none());
    }

    #[test]
    fn bad_tables_are_refused() {
        let bad =
            |models: &str| Prices::from_json(&format!(r#"{{"version": 1, "models": [{models}]}}"#));
        let rates = r#""rates": {"input": 1, "output": 2}"#;
        assert!(bad(r#"{"model": "m"}"#).is_err());
        assert!(
            bad(&format!(
                r#"{{"model":"m","provider":"x","from":"May",{rates}}}"#
            ))
            .is_err()
        );
        let one = format!(r#"{{"model":"m","provider":"x","from":"2025-01-01",{rates}}}"#);
        assert!(bad(&one).is_ok());
        assert!(bad(&format!("{one},{one}")).is_err());
        assert!(bad(r#"{"model":"m","provider":"x","from":"2025-01-01","rates":{"input":-1,"output":2}}"#).is_err());
        assert!(Prices::from_json(r#"{"version": 2, "models": []}"#).is_err());
    }

    #[test]
    fn rates_print_exactly() {
        assert_eq!(dollars_per_million(2_500_000), "2.5");
        assert_eq!(dollars_per_million(37_500), "0.0375");
        assert_eq!(dollars_per_million(15_000_000), "15");
    }

    #[test]
    fn date_suffixes() {
        for (name, base) in [
            ("gpt-4o-2024-08-06", Some("gpt-4o")),
            ("claude-sonnet-4-5-20250929", Some("claude-sonnet-4-5")),
            ("gpt-4-0613", Some("gpt-4")),
            ("claude-sonnet-4@20250514", Some("claude-sonnet-4")),
            ("gpt-4o", None),
        ] {
            assert_eq!(without_date(name), base, "{name}");
        }
    }
}
