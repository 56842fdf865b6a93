//! The command line: one binary, nouns, then a verb. Data on stdout, the rest on stderr.
//!
//! Exit codes: 0 ok, 1 findings or failure where asked for, 2 rule error, 3 usage or configuration
//! error. Each verb is one file in `cli/` with its `Args` and a `run`.

pub mod alias;
pub mod anomaly;
mod arenas;
pub mod audit;
pub mod bench;
pub mod broker;
pub mod budget;
pub mod completions;
pub mod config;
pub mod database;
pub mod db;
pub mod dead_letters;
pub mod demo;
pub mod doctor;
mod ending;
pub mod explain;
pub mod format;
mod guard;
pub mod hunt;
pub mod incident;
pub mod input;
pub mod key;
pub mod lines;
pub mod offsets;
pub mod outbox;
pub mod prices;
pub mod quality;
pub mod replay;
pub mod rules;
pub mod run;
pub mod scan;
pub mod seal;
pub mod series;
mod service;
pub mod silence;
pub mod top;
pub mod train;
pub mod watch;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Findings, or a failure that the caller asked to be told of.
pub const EXIT_FINDINGS: u8 = 1;
/// A rule file is wrong.
pub const EXIT_RULES: u8 = 2;
/// Wrong usage, configuration or unreadable input.
pub const EXIT_USAGE: u8 = 3;

/// Out-of-band security monitoring of LLM traffic.
#[derive(Debug, Parser)]
#[command(name = "veilwatch", version, about, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
#[expect(clippy::large_enum_variant, reason = "one is made in a process's life")]
enum Verb {
    /// Consume Kafka, detect, account, decide, notify.
    Run(run::Args),
    /// Run everything on this machine, with attacks in it.
    Demo(demo::Args),
    /// Scan texts for injection, PII and secrets.
    Scan(scan::Args),
    /// Turn texts into sealed events.
    Seal(seal::Args),
    /// Run events from a file through the whole pipeline in virtual time.
    Replay(replay::Args),
    /// Score a time series for anomalies.
    Series(series::Args),
    /// Check, test, explain, list and create rules.
    Rules(rules::Args),
    /// Create and destroy keys.
    Key(key::Args),
    /// Train the injection model.
    Train(train::Args),
    /// Measure detection over labelled texts, per source.
    Quality(quality::Args),
    /// Migrate and inspect the database.
    Db(db::Args),
    /// List, show and replay dead letters.
    DeadLetters(dead_letters::Args),
    /// Skip records that cannot be read.
    Offsets(offsets::Args),
    /// Set, list and raise budgets.
    Budget(budget::Args),
    /// List, show, acknowledge, resolve and judge incidents.
    Incident(incident::Args),
    /// List notifications that were not sent, and send them again.
    Outbox(outbox::Args),
    /// Mute incidents for a time.
    Silence(silence::Args),
    /// List and undo pseudonyms that count as others.
    Alias(alias::Args),
    /// Say why an incident stands there, on what it rests, and who was told.
    Explain(explain::Args),
    /// Show the busiest users, models and tenants.
    Top(top::Args),
    /// Verify the audit chain.
    Audit(audit::Args),
    /// Look a text up in the stored fingerprints.
    Hunt(hunt::Args),
    /// Register canaries, system prompts and documents.
    Watch(watch::Args),
    /// Check everything that `run` needs, each with a remedy.
    Doctor(doctor::Args),
    /// Check and show the configuration.
    Config(config::Args),
    /// Look up and import prices.
    Prices(prices::Args),
    /// Measure speed, memory and scale.
    Bench(bench::Args),
    /// Print completions for a shell.
    Completions(completions::Args),
    /// Print the manual page.
    Man,
    /// An embedded Kafka broker for demos and tests.
    #[command(hide = true)]
    Broker(broker::Args),
}

/// Parses the command line and runs the verb.
pub fn main() -> ExitCode {
    guard::leave_nothing_behind();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // clap exits with 2 on bad usage; 2 means a rule error here.
            let code = if e.use_stderr() { EXIT_USAGE } else { 0 };
            let _ = e.print();
            return ExitCode::from(code);
        }
    };
    let result = match cli.verb {
        Verb::Run(args) => run::run(args),
        Verb::Demo(args) => demo::run(args),
        Verb::Scan(args) => scan::run(args),
        Verb::Seal(args) => seal::run(args),
        Verb::Replay(args) => replay::run(args),
        Verb::Series(args) => series::run(args),
        Verb::Rules(args) => rules::run(args),
        Verb::Key(args) => key::run(args),
        Verb::Train(args) => train::run(args),
        Verb::Quality(args) => quality::run(args),
        Verb::Db(args) => db::run(args),
        Verb::DeadLetters(args) => dead_letters::run(args),
        Verb::Offsets(args) => offsets::run(args),
        Verb::Budget(args) => budget::run(args),
        Verb::Incident(args) => incident::run(args),
        Verb::Outbox(args) => outbox::run(args),
        Verb::Silence(args) => silence::run(args),
        Verb::Alias(args) => alias::run(args),
        Verb::Explain(args) => explain::run(args),
        Verb::Top(args) => top::run(args),
        Verb::Audit(args) => audit::run(args),
        Verb::Hunt(args) => hunt::run(args),
        Verb::Watch(args) => watch::run(args),
        Verb::Doctor(args) => doctor::run(args),
        Verb::Config(args) => config::run(args),
        Verb::Prices(args) => prices::run(args),
        Verb::Bench(args) => bench::run(args),
        Verb::Completions(args) => completions::run(&args),
        Verb::Man => completions::man(),
        Verb::Broker(args) => broker::run(args),
    };
    result.unwrap_or_else(|e| ending::tell(&e))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::Cli;

    #[test]
    fn the_command_on_a_page_is_one_that_the_program_takes() {
        for (detector, subject) in [
            ("injection", "user:k7:q83vEjRWeJq83vEjRWeJqw"),
            ("budget", "team:search d:2026-11-21"),
            ("latency", "model:a'; exit 7; 'b"),
        ] {
            let line = crate::decide::silence_command(detector, "some-rule", subject);
            let out = std::process::Command::new("sh")
                .args([
                    "-c",
                    &format!("for w in {line}; do printf '%s\\n' \"$w\"; done"),
                ])
                .output()
                .expect("sh");
            let words = String::from_utf8(out.stdout).expect("text");
            let words: Vec<&str> = words.lines().collect();
            assert!(
                words
                    .iter()
                    .any(|w| w.contains(subject.split(' ').next().unwrap_or(subject))),
                "{words:?}"
            );
            let parsed = Cli::try_parse_from(&words);
            assert!(
                parsed.is_ok(),
                "{line}: {:?}",
                parsed.err().map(|e| e.to_string())
            );
        }
    }
}
