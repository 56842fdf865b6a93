//! `veilwatch silence`: mute incidents for a time, list what is muted, end a silence early.
//!
//! The command that each notification carries is one of these, ready to paste.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;

use super::EXIT_FINDINGS;
use super::database::{Access, author};
use super::format::Shown;
use crate::config::duration::parse_duration;
use crate::decide::Matcher;

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

#[derive(Debug, Subcommand)]
enum Verb {
    /// Mute what all matchers match.
    Add {
        /// For how long, such as 90m or 2h.
        #[arg(long = "for", value_name = "TIME", default_value = "2h", value_parser = time)]
        time: Duration,
        /// Why.
        #[arg(long, value_parser = said)]
        comment: String,
        /// `field=value`, as in the routes: detector, rule, tenant, user, model, subject, severity …
        #[arg(required = true, value_name = "MATCHER", value_parser = matcher)]
        matchers: Vec<Matcher>,
    },
    /// What is muted now and will be.
    List,
    /// End a silence now.
    Expire {
        /// Its id.
        id: i64,
    },
}

fn time(s: &str) -> Result<Duration, String> {
    parse_duration(s).ok_or_else(|| "write a time such as 90m or 2h".to_owned())
}

fn said(s: &str) -> Result<String, String> {
    match s.trim() {
        "" => Err("a silence must say why".to_owned()),
        _ => Ok(s.to_owned()),
    }
}

fn matcher(s: &str) -> Result<Matcher, String> {
    Matcher::parse(s).map_err(|e| e.to_string())
}

/// Runs the verb. `expire` ends with 1 if there is no such silence.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let json = args.access.json();
    let who = match args.verb {
        Verb::List => String::new(),
        _ => author(args.author)?,
    };
    let verb = args.verb;
    args.access.database.with(|store| async move {
        let mut out = std::io::stdout().lock();
        match verb {
            Verb::Add {
                time,
                comment,
                matchers,
            } => {
                let starts = store.now().await?;
                let ends = starts.plus_ms(i64::try_from(time.as_millis())?);
                let id = store
                    .add_silence(&matchers, starts, ends, &who, &comment)
                    .await?;
                if json {
                    writeln!(
                        out,
                        "{}",
                        serde_json::json!({"id": id, "ends": ends.to_string()})
                    )?;
                } else {
                    writeln!(
                        out,
                        "silence {id} until {ends}; `veilwatch silence expire {id}` ends it"
                    )?;
                }
            }
            Verb::List => {
                for s in store.silences().await? {
                    if json {
                        let line = serde_json::json!({
                            "id": s.id, "matchers": s.matchers, "author": s.author,
                            "comment": s.comment, "starts": s.starts, "ends": s.ends,
                        });
                        writeln!(out, "{line}")?;
                    } else {
                        let what = s.matchers.join(" ");
                        writeln!(
                            Shown(&mut out),
                            "{}  until {}  {what}  ({}: {})",
                            s.id,
                            s.ends,
                            s.author,
                            s.comment
                        )?;
                    }
                }
            }
            Verb::Expire { id } => {
                if !store.expire_silence(id, &who).await? {
                    eprintln!(
                        "veilwatch: no silence {id} is running; `veilwatch silence list` shows them"
                    );
                    return Ok(ExitCode::from(EXIT_FINDINGS));
                }
                if !json {
                    writeln!(out, "silence {id} ended")?;
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}
