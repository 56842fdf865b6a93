//! `veilwatch prices`: Look up and import prices.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use serde::Serialize;

use super::input;
use crate::account::price::{Entry, Rates, Tier};
use crate::account::{Prices, dollars_per_million};
use crate::event::{Pico, SmolStr, Time};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// What a model costs, and which entry says so.
    Show {
        /// The model, as gateways name it.
        model: String,
        /// On which day (`YYYY-MM-DD`); default: the newest price.
        #[arg(long)]
        on: Option<String>,
        /// Who bills.
        #[arg(long)]
        provider: Option<String>,
        /// Another price table than the one compiled in.
        #[arg(long)]
        file: Option<PathBuf>,
    },
    /// All entries, as JSON lines in a pipe.
    List {
        /// Another price table than the one compiled in.
        #[arg(long)]
        file: Option<PathBuf>,
    },
    /// Checks a price table.
    Check {
        /// The table.
        file: PathBuf,
    },
    /// Turns LiteLLM's `model_prices_and_context_window.json` into a price table on stdout.
    Import {
        /// The downloaded file.
        file: PathBuf,
        /// First day of the prices (`YYYY-MM-DD`).
        #[arg(long)]
        from: String,
    },
}

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.verb {
        Verb::Show {
            model,
            on,
            provider,
            file,
        } => show(&model, on.as_deref(), provider.as_deref(), file.as_deref()),
        Verb::List { file } => list(file.as_deref()),
        Verb::Check { file } => {
            let table = load(Some(&file))?;
            eprintln!(
                "{}: {} entries, no mistakes",
                file.display(),
                table.entries().count()
            );
            Ok(ExitCode::SUCCESS)
        }
        Verb::Import { file, from } => import(&file, &from),
    }
}

/// Published lists of all models take one.
const MAX_TABLE: u64 = 64 << 20;

fn load(file: Option<&Path>) -> anyhow::Result<Prices> {
    let Some(path) = file else {
        return Ok(Prices::shipped());
    };
    let text = input::text(path, "a price table, such as rules/prices.json", MAX_TABLE)?;
    Prices::from_json(&text).with_context(|| path.display().to_string())
}

fn show(
    model: &str,
    on: Option<&str>,
    provider: Option<&str>,
    file: Option<&Path>,
) -> anyhow::Result<ExitCode> {
    let at = match on {
        None => Time(i64::MAX - 1),
        Some(day) => Time::parse_rfc3339(&format!("{day}T00:00:00Z"))
            .with_context(|| format!("`{day}` is not a day YYYY-MM-DD"))?,
    };
    let table = load(file)?;
    let Some(entry) = table.find(model, provider, at) else {
        eprintln!(
            "veilwatch: no price for `{model}`: its usage counts as unpriced; add it to the table and name that as `[rules] prices`"
        );
        return Ok(ExitCode::from(super::EXIT_FINDINGS));
    };
    print(std::iter::once(entry))
}

fn list(file: Option<&Path>) -> anyhow::Result<ExitCode> {
    print(load(file)?.entries())
}

fn print<'a>(entries: impl Iterator<Item = &'a Entry>) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    let pretty = std::io::IsTerminal::is_terminal(&out);
    for e in entries {
        let result = if pretty {
            let tiers: String = e
                .tiers
                .iter()
                .map(|t| {
                    format!(
                        "; above {} prompt tokens {}",
                        t.above_input,
                        rates(&t.rates)
                    )
                })
                .collect();
            writeln!(
                out,
                "{:<32} {:<10} from {} {}{tiers}",
                e.model,
                e.provider,
                e.from,
                rates(&e.rates)
            )
        } else {
            serde_json::to_writer(&mut out, e)
                .map_err(std::io::Error::from)
                .and_then(|()| out.write_all(b"\n"))
        };
        result?;
    }
    Ok(ExitCode::SUCCESS)
}

fn rates(r: &Rates) -> String {
    format!(
        "{} in, {} out, {} cache read (USD per million tokens)",
        dollars_per_million(r.input),
        dollars_per_million(r.output),
        dollars_per_million(r.cache_read.unwrap_or(r.input))
    )
}

#[derive(Serialize)]
struct Table {
    version: u32,
    source: String,
    models: Vec<Entry>,
}

/// Prices above a prompt length, as LiteLLM names the fields.
const TIERS: [(&str, u64); 4] = [
    ("128k", 128_000),
    ("200k", 200_000),
    ("256k", 256_000),
    ("272k", 272_000),
];

fn import(file: &Path, from: &str) -> anyhow::Result<ExitCode> {
    let text = input::text(file, "a price list as LiteLLM publishes it", MAX_TABLE)?;
    let table = convert(&text, from).with_context(|| file.display().to_string())?;
    let json = serde_json::to_string_pretty(&table)?;
    // What is printed must be readable again.
    Prices::from_json(&json)?;
    println_out(&json)?;
    eprintln!("{} models", table.models.len());
    Ok(ExitCode::SUCCESS)
}

fn println_out(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(())
}

fn convert(text: &str, from: &str) -> anyhow::Result<Table> {
    let all: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(text).context("not a JSON object of models")?;
    let mut models = Vec::new();
    for (name, m) in &all {
        if name == "sample_spec" {
            continue;
        }
        let rate = |field: &str| -> anyhow::Result<Option<Pico>> {
            match m.get(field) {
                None | Some(serde_json::Value::Null) => Ok(None),
                Some(v) => pico(v)
                    .map(Some)
                    .with_context(|| format!("model `{name}`: `{field}` is not a price")),
            }
        };
        // Images and audio are billed by other units.
        let Some(input) = rate("input_cost_per_token")? else {
            continue;
        };
        let base = Rates {
            input,
            output: rate("output_cost_per_token")?.unwrap_or(0),
            cache_read: rate("cache_read_input_token_cost")?,
            cache_write: rate("cache_creation_input_token_cost")?,
            reasoning: rate("output_cost_per_reasoning_token")?,
        };
        let mut tiers = Vec::new();
        for (suffix, above_input) in TIERS {
            let field = |f: &str| format!("{f}_above_{suffix}_tokens");
            if let Some(input) = rate(&field("input_cost_per_token"))? {
                tiers.push(Tier {
                    above_input,
                    rates: Rates {
                        input,
                        output: rate(&field("output_cost_per_token"))?.unwrap_or(base.output),
                        cache_read: rate(&field("cache_read_input_token_cost"))?,
                        cache_write: rate(&field("cache_creation_input_token_cost"))?,
                        reasoning: None,
                    },
                });
            }
        }
        models.push(Entry {
            model: SmolStr::new(name),
            provider: SmolStr::new(
                m.get("litellm_provider")
                    .and_then(serde_json::Value::as_str)
                    .unwrap_or("unknown"),
            ),
            aliases: Vec::new(),
            from: SmolStr::new(from),
            to: None,
            rates: base,
            tiers,
        });
    }
    Ok(Table {
        version: 1,
        source: "LiteLLM model_prices_and_context_window.json (MIT)".to_owned(),
        models,
    })
}

/// A decimal number of dollars per token as exact pico-dollars. Floats would lose the last digit, so
/// the number is read as it is written.
fn pico(v: &serde_json::Value) -> Option<Pico> {
    let text = v.to_string();
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((m, e)) => (m, e.parse::<i32>().ok()?),
        None => (text.as_str(), 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let shift = exponent + 12 - i32::try_from(fraction.len()).ok()?;
    let ten = |n: i32| u32::try_from(n).ok().and_then(|n| 10i128.checked_pow(n));
    let value = if shift >= 0 {
        digits.checked_mul(ten(shift)?)?
    } else {
        // Finer than a pico-dollar: rounded half up; tables repeat thirds.
        let by = ten(-shift)?;
        (digits + by / 2).div_euclid(by)
    };
    Pico::try_from(value).ok().filter(|p| *p >= 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn litellm_prices_become_exact_integers() {
        let t = convert(
            r#"{"sample_spec": {"input_cost_per_token": 0},
                "gpt-x": {"litellm_provider": "openai", "input_cost_per_token": 6.25e-08, "output_cost_per_token": 5.46875e-7, "input_cost_per_token_above_200k_tokens": 0.000006},
                "image": {"litellm_provider": "openai", "input_cost_per_pixel": 1e-8}}"#,
            "2026-11-01",
        )
        .expect("table");
        assert_eq!(t.models.len(), 1);
        assert_eq!(t.models[0].rates.input, 62_500);
        assert_eq!(t.models[0].rates.output, 546_875);
        assert_eq!(t.models[0].tiers[0].rates.input, 6_000_000);
        assert!(convert(r#"{"m": {"input_cost_per_token": "free"}}"#, "2026-11-01").is_err());
        assert!(convert("[]", "2026-11-01").is_err());
    }
}
