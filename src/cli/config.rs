//! `veilwatch config check|show|init`.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;

use crate::config::{self, Config, EXAMPLE};
use crate::pipeline::build::Parts;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Check a configuration without connecting to anything.
    Check {
        /// The configuration.
        #[arg(short, long, value_name = "F")]
        config: PathBuf,
    },
    /// Show the configuration as it is understood: TOML that can be fed back, defaults included, secrets hidden.
    Show {
        /// The configuration.
        #[arg(short, long, value_name = "F")]
        config: PathBuf,
    },
    /// Print a configuration to start from, every key explained.
    Init,
}

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    match args.verb {
        Verb::Check { config } => {
            let c = Config::load(&config)?;
            // What `run` builds from it: rules and receivers too.
            Parts::build(&c)?;
            if c.sinks.is_empty() {
                eprintln!(
                    "veilwatch: warning: no [[deliver.sink]]: incidents are kept and nobody is told"
                );
            }
            writeln!(
                out,
                "ok: {} topics, {} sinks, {} budgets",
                c.ingest.topics.len(),
                c.sinks.len(),
                c.budgets.len()
            )?;
        }
        Verb::Show { config } => {
            let shown = Config::load_with(&config, |c, from| config::show(&c, from))?;
            write!(out, "{shown}")?;
        }
        Verb::Init => write!(out, "{EXAMPLE}")?,
    }
    Ok(ExitCode::SUCCESS)
}
