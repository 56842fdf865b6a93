//! `veilwatch db`: migrate and inspect the database.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Subcommand;

use super::EXIT_FINDINGS;
use super::database::{Access, block_on};
use crate::store::schema;

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
    /// Apply the migrations that are missing. Several may run at once; one works, the others wait.
    Migrate {
        /// Also create or update the least-privilege roles and their grants (needs CREATEROLE).
        #[arg(long)]
        roles: bool,
    },
    /// Show the schema's version and the partitions; exit 1 if something is missing.
    Status,
    /// Print the roles' SQL, to review and run by hand.
    Roles,
}

/// Runs the verb.
#[expect(
    clippy::needless_pass_by_value,
    reason = "every verb is called the same way"
)]
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    if let Verb::Roles = args.verb {
        write!(out, "{}", schema::ROLES_SQL)?;
        return Ok(ExitCode::SUCCESS);
    }
    let config = args.access.database.settings()?;
    let json = args.access.json();
    let kept = args.access.database.kept()?;
    match args.verb {
        Verb::Migrate { roles } => {
            let applied = block_on(async {
                let applied = schema::migrate(&config).await?;
                if let Some(kept) = &kept {
                    schema::keep(kept).await?;
                }
                if roles {
                    schema::apply_roles(&config).await?;
                }
                Ok(applied)
            })?;
            let version = schema::needed_version();
            if json {
                let line =
                    serde_json::json!({ "applied": applied, "version": version, "roles": roles });
                writeln!(out, "{line}")?;
            } else {
                writeln!(
                    out,
                    "{applied} migrations applied, the schema is at version {version}"
                )?;
                if roles {
                    writeln!(out, "roles are in place")?;
                }
            }
            Ok(ExitCode::SUCCESS)
        }
        Verb::Status | Verb::Roles => {
            let s = block_on(async { Ok(schema::status(&config).await?) })?;
            let good = s.found >= s.needed && s.default_rows == 0 && s.partition_days_ahead >= 1;
            if json {
                serde_json::to_writer(&mut out, &s)?;
                writeln!(out)?;
            } else {
                writeln!(out, "postgres {}", s.postgres)?;
                writeln!(out, "schema version {} of {}", s.found, s.needed)?;
                for m in &s.migrations {
                    let when = m.applied_at.as_deref().unwrap_or("missing");
                    let changed = if m.changed { "  CHANGED since" } else { "" };
                    writeln!(
                        out,
                        "  {:04} {:<24} {when}{changed}",
                        m.version, m.description
                    )?;
                }
                writeln!(
                    out,
                    "partitions exist {} days ahead",
                    s.partition_days_ahead
                )?;
                writeln!(out, "{} rows in DEFAULT partitions", s.default_rows)?;
                if s.found < s.needed {
                    writeln!(out, "run `veilwatch db migrate`")?;
                }
            }
            Ok(if good {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(EXIT_FINDINGS)
            })
        }
    }
}
