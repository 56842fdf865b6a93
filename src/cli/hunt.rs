//! `veilwatch hunt`: Look a text up in the stored fingerprints.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use super::database::{Database, author};
use crate::config::keyfile;
use crate::decode::{Decoder, RawRecord};
use crate::event::{Event, Kid, Role, Side, Sketch, Time};
use crate::seal::registered::{self, Registered};
use crate::seal::{Scratch, Sealer};
use crate::store::watched::{HuntFrom, StoredEvent};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    database: Database,
    /// The text or document to look for; `-` for standard input. It is not kept.
    file: PathBuf,
    /// The key file that the gateways seal with.
    #[arg(long, value_name = "FILE")]
    key_file: PathBuf,
    /// How many days back; at most what `store.retention.events` keeps.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=400))]
    days: u16,
    /// Fewest fingerprints in common (a canary or an exact copy needs none).
    #[arg(long, default_value_t = 3)]
    min_shared: usize,
    /// Who looks: it stands in the action log.
    #[arg(long)]
    author: Option<String>,
}

/// Runs the verb. One JSON object for each sketch that matches, then a summary.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let who = author(args.author)?;
    let keys = keyfile::read(&args.key_file).map_err(anyhow::Error::msg)?;
    let sealer = Sealer::built_in(keys);
    let quarry = {
        let text = super::watch::read(&args.file)?;
        Quarry::new(&sealer, &text, args.min_shared)
    };
    if quarry.is_empty() {
        eprintln!("the text has no run of five words of its own: only exact copies will be found");
    }
    let day = chrono::Utc::now().date_naive() - chrono::Days::new(u64::from(args.days));
    args.database.with(|store| async move {
        let kids: Vec<String> = quarry.prints.iter().map(|r| r.kid.to_string()).collect();
        let prints = quarry.prints.iter().map(|r| r.prints.len()).max().unwrap_or_default();
        store.hunted(&who, &kids, prints).await?;
        let mut out = std::io::stdout().lock();
        let (mut from, mut looked, mut found) = (HuntFrom::day(day), 0u64, 0u64);
        loop {
            let (events, next) = store.hunt_page(&from).await?;
            for e in &events {
                looked += 1;
                for hit in quarry.look(e) {
                    found += 1;
                    writeln!(out, "{hit}")?;
                }
            }
            match next {
                Some(n) => from = n,
                None => break,
            }
        }
        let applied = store.events_since(day).await?;
        let summary = serde_json::json!({
            "kind": "summary", "matches": found, "looked_at": looked, "applied": applied,
            "since": day.to_string(),
            "note": "only events kept by store.events were looked at; the rest left no fingerprints",
        });
        writeln!(out, "{summary}")?;
        Ok(ExitCode::SUCCESS)
    })
}

/// What is looked for: prints under every content key, and digests for exact copies.
struct Quarry {
    prints: Vec<Registered>,
    digest: Option<crate::event::Pseudonym>,
    min_shared: usize,
}

impl Quarry {
    fn new(sealer: &Sealer, text: &str, min_shared: usize) -> Self {
        Self {
            prints: registered::register(sealer, text),
            digest: sealer
                .sketch(text, Role::User, Side::Request, &mut Scratch::default())
                .digest,
            min_shared,
        }
    }

    fn is_empty(&self) -> bool {
        self.prints
            .iter()
            .all(|r| r.prints.is_empty() && r.tokens.is_empty())
    }

    /// The sketches of a stored event that match, worst first as they stand in it.
    fn look(&self, stored: &StoredEvent) -> Vec<serde_json::Value> {
        let record = RawRecord {
            topic: "stored",
            partition: 0,
            offset: 0,
            append: Time(0),
            key: None,
            value: Some(stored.sealed.as_bytes()),
            headers: &[],
        };
        // A row of another version is not this program's to judge.
        let Ok(event) = Decoder::sealed().with_max_bytes(usize::MAX).decode(&record) else {
            return Vec::new();
        };
        self.hits(&event, &stored.end_at.to_rfc3339())
    }

    fn hits(&self, event: &Event, at: &str) -> Vec<serde_json::Value> {
        let mut out = Vec::new();
        for (side, role, sketch) in event.sketches() {
            let exact = sketch.digest.is_some() && sketch.digest == self.digest;
            let (shared, token) = self.shared(sketch.kid, sketch);
            if exact || token || (shared > 0 && shared >= self.min_shared) {
                out.push(serde_json::json!({
                    "kind": "match", "at": at, "event": event.id.as_str(),
                    "gateway": event.gateway.as_str(), "user": event.user.map(|u| u.to_string()),
                    "model": event.model().as_str(), "role": role.as_str(),
                    "side": side, "exact": exact, "canary": token, "shared": shared,
                    "of": sketch.prints.len(),
                }));
            }
        }
        out
    }

    /// Prints in common, and whether a canary is among them.
    fn shared(&self, kid: Kid, sketch: &Sketch) -> (usize, bool) {
        let Some(r) = self.prints.iter().find(|r| r.kid == kid) else {
            return (0, false);
        };
        let seen: BTreeSet<u64> = sketch.prints.iter().copied().collect();
        let shared = r.prints.iter().filter(|p| seen.contains(p)).count();
        (shared, r.tokens.iter().any(|p| seen.contains(p)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::bare;
    use crate::seal::Keys;

    #[test]
    fn copies_and_passages_are_found_and_ordinary_text_is_not() {
        let sealer = Sealer::built_in(Keys::development());
        let secret = "Project Heron ships in week nineteen and the discount for Northwind stays at eleven percent until \
                      the new contract has been signed by both sides and the lawyers in Rotterdam have seen every page of it";
        let quarry = Quarry::new(&sealer, secret, 3);
        let look = |text: &str| {
            let s = sealer.sketch(
                text,
                Role::Assistant,
                Side::Response,
                &mut Scratch::default(),
            );
            let event = bare::event(1, Role::Assistant, Side::Response, s);
            quarry.look(&StoredEvent {
                end_at: chrono::DateTime::UNIX_EPOCH,
                sealed: crate::decode::to_json(&event),
            })
        };
        let copy = look(&secret.to_uppercase());
        assert_eq!(
            (copy.len(), &copy[0]["exact"]),
            (1, &serde_json::json!(true))
        );
        let quoted = look(&format!(
            "Sure, here is what I know about it: {secret}. Anything else?"
        ));
        assert_eq!(
            (quoted.len(), &quoted[0]["exact"]),
            (1, &serde_json::json!(false))
        );
        assert!(!quoted[0].to_string().contains("Heron"));
        assert!(look("The discount for students is ten percent and the contract can be signed online at any time.").is_empty());
    }
}
