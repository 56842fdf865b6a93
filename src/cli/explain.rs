//! `veilwatch explain`: why an incident stands there, on what it rests, and who was told and why.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use super::EXIT_FINDINGS;
use super::database::{Access, block_on};
use super::format::Shown;
use crate::config::rules::RuleFiles;
use crate::decide::Titles;
use crate::event::{Severity, Stage};
use crate::pipeline::build;
use crate::rule::{Rule, RuleSet};
use crate::store::Store;
use crate::store::history::Story;
use crate::store::told::{EventFinding, Grounds, StoredEvent, Told};

/// Findings shown in text; JSON has all that were read.
const SHOWN: usize = 5;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    access: Access,
    /// The incident's id: 32 hexadecimal digits, or at least the first 4 of them.
    #[arg(required_unless_present = "event", conflicts_with = "event", value_parser = super::incident::incident_id)]
    incident: Option<String>,
    /// Its number; the present one without it.
    #[arg(long, conflicts_with = "event")]
    number: Option<i32>,
    /// An event's id instead: what was found in it, and the sealed event where it is stored.
    #[arg(long, value_name = "ID")]
    event: Option<String>,
}

/// A rule, as far as its file tells.
#[derive(Debug, serde::Serialize)]
struct About {
    rule: String,
    title: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    level: Option<Severity>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stage: Option<Stage>,
    tags: Vec<String>,
    falsepositives: Vec<String>,
    runbook: String,
}

/// Everything about an incident.
#[derive(Debug, serde::Serialize)]
struct Explained {
    #[serde(flatten)]
    story: Story,
    #[serde(flatten)]
    grounds: Grounds,
    about: Vec<About>,
}

/// Everything about an event.
#[derive(Debug, serde::Serialize)]
struct ExplainedEvent {
    event: String,
    stored: Vec<StoredEvent>,
    findings: Vec<EventFinding>,
    about: Vec<About>,
}

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    // The rules of the configuration, where one is given; a wrong set explains nothing.
    let rules = match args.access.database.configured()? {
        Some(config) => build::rules(&config.rules)?,
        None => build::rules(&RuleFiles::default())?,
    };
    let settings = args.access.database.settings()?;
    let json = args.access.json();
    block_on(async {
        let store = Store::connect(settings).await?;
        let result = match (&args.event, &args.incident) {
            (Some(event), _) => explain_event(&store, &rules, event, json).await,
            (None, Some(id)) => explain(&store, &rules, id, args.number, json).await,
            (None, None) => anyhow::bail!("name an incident, or an event with --event"),
        };
        store.close().await;
        result
    })
}

async fn explain(
    store: &Store,
    rules: &RuleSet,
    id: &str,
    number: Option<i32>,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let key = store.find_incident(id).await?;
    let Some(story) = store.incident_story(key, number).await? else {
        eprintln!(
            "veilwatch: incident {id} has no such number; `veilwatch incident show {id}` shows the present one"
        );
        return Ok(ExitCode::from(EXIT_FINDINGS));
    };
    let grounds = store.incident_grounds(key, story.incident.number).await?;
    let names = grounds.rules.iter().map(|r| (&*r.detector, &*r.rule));
    let mut names: Vec<(&str, &str)> = names.collect();
    if names.is_empty() {
        // Its findings have expired; the head still names the rule.
        names.push((&story.incident.detector, &story.incident.rule));
    }
    let about = about(rules, &names);
    let all = Explained {
        story,
        grounds,
        about,
    };
    let mut out = std::io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, &all)?;
        writeln!(out)?;
    } else {
        print(&mut Shown(out), &all)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn explain_event(
    store: &Store,
    rules: &RuleSet,
    event: &str,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let stored = store.stored_events(event).await?;
    let findings = store.findings_of_event(event).await?;
    let mut names: Vec<(&str, &str)> = findings.iter().map(|f| (&*f.detector, &*f.rule)).collect();
    names.sort_unstable();
    names.dedup();
    let about = about(rules, &names);
    let nothing = stored.is_empty() && findings.is_empty();
    let all = ExplainedEvent {
        event: event.to_owned(),
        stored,
        findings,
        about,
    };
    let mut out = std::io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, &all)?;
        writeln!(out)?;
    } else if !nothing {
        print_event(&mut Shown(out), &all)?;
    }
    if nothing {
        eprintln!(
            "veilwatch: nothing was found in this event and it is not stored: store.events keeps flagged ones unless told otherwise"
        );
        return Ok(ExitCode::from(EXIT_FINDINGS));
    }
    Ok(ExitCode::SUCCESS)
}

fn about(rules: &RuleSet, names: &[(&str, &str)]) -> Vec<About> {
    let titles = Titles::of_rules(rules);
    names
        .iter()
        .map(|(detector, name)| {
            let rule: Option<&Arc<Rule>> = rules.rules().iter().find(|r| r.id == *name);
            About {
                rule: (*name).to_owned(),
                title: titles.get(name).unwrap_or(name).to_owned(),
                description: rule
                    .map(|r| r.description.clone())
                    .filter(|d| !d.is_empty()),
                level: rule.map(|r| r.level),
                stage: rule.map(|r| r.stage),
                tags: rule.map_or_else(Vec::new, |r| {
                    r.tags.iter().map(ToString::to_string).collect()
                }),
                falsepositives: rule.map_or_else(Vec::new, |r| r.falsepositives.clone()),
                runbook: match rule.map(|r| r.runbook.as_str()) {
                    Some(name) if !name.is_empty() => format!("{name}.md"),
                    _ => format!("{detector}.md"),
                },
            }
        })
        .collect()
}

fn print(out: &mut impl Write, e: &Explained) -> std::io::Result<()> {
    let i = &e.story.incident;
    writeln!(out, "incident {} number {}", i.incident, i.number)?;
    writeln!(
        out,
        "  {} · {} · {} · since {}",
        i.state, i.severity, i.stage, i.opened_at
    )?;
    writeln!(out, "  {}", i.reason)?;
    let of = |name: &str, value: Option<&str>| match value {
        Some(v) if !v.is_empty() => format!("  {name} {v}"),
        _ => String::new(),
    };
    writeln!(
        out,
        "  subject {}{}{}{}",
        i.subject,
        of("tenant", Some(&i.tenant)),
        of("model", i.model.as_deref()),
        of("gateway", i.gateway.as_deref())
    )?;
    writeln!(out, "\nwhat saw it")?;
    for (a, r) in e.about.iter().zip(
        e.grounds
            .rules
            .iter()
            .map(Some)
            .chain(std::iter::repeat(None)),
    ) {
        print_about(out, a)?;
        if let Some(r) = r {
            writeln!(
                out,
                "    {} in {} of {}, {} to {}, at worst {}",
                count(r.findings, "finding"),
                count(r.events, "event"),
                count(r.users, "user"),
                r.first_at,
                r.last_at,
                r.severity
            )?;
        }
    }
    writeln!(out, "\nevidence, latest first")?;
    for f in e.story.findings.iter().take(SHOWN) {
        let event = f
            .event
            .as_deref()
            .map_or_else(String::new, |id| format!("  (event {id})"));
        writeln!(out, "  {}  {}{event}", f.end_at, f.reason)?;
    }
    if e.story.findings.len() > SHOWN {
        writeln!(out, "  … of {} findings", e.story.incident.findings)?;
    }
    if e.grounds.stored_events.is_empty() {
        writeln!(out, "  no event of it is stored (store.events, or expired)")?;
    }
    for s in &e.grounds.stored_events {
        print_stored(out, s)?;
    }
    writeln!(out, "\nwho was told, and why")?;
    if e.grounds.told.is_empty() {
        writeln!(out, "  nobody: no route has taken it yet")?;
    }
    for t in &e.grounds.told {
        writeln!(
            out,
            "  {}  {:<12} {:<14} {}",
            t.at,
            t.change,
            t.sink,
            words(t)
        )?;
    }
    for m in e.grounds.messages.iter().filter(|m| m.state != "grouped") {
        let when = m.sent_at.as_deref().unwrap_or("not yet");
        let why = m
            .last_error
            .as_deref()
            .map_or_else(String::new, |w| format!(": {w}"));
        writeln!(
            out,
            "  {}  {:<12} {:<14} {} ({when}), {} attempts{why}",
            m.at, m.kind, m.sink, m.state, m.attempts
        )?;
    }
    Ok(())
}

fn print_event(out: &mut impl Write, e: &ExplainedEvent) -> std::io::Result<()> {
    writeln!(out, "event {}", e.event)?;
    for s in &e.stored {
        print_stored(out, s)?;
    }
    if e.stored.is_empty() {
        writeln!(out, "  not stored (store.events, or expired)")?;
    }
    writeln!(out, "\nwhat was found")?;
    for f in &e.findings {
        let incident = match (&f.incident, f.number) {
            (Some(key), Some(n)) => format!("incident {} number {n}", key.get(..12).unwrap_or(key)),
            _ => "no incident".to_owned(),
        };
        writeln!(
            out,
            "  {}  {} · {} · {}  {}\n    {} ({incident})",
            f.end_at, f.rule, f.severity, f.stage, f.fate, f.reason
        )?;
    }
    if e.findings.is_empty() {
        writeln!(out, "  nothing")?;
    }
    for a in &e.about {
        print_about(out, a)?;
    }
    Ok(())
}

fn print_about(out: &mut impl Write, a: &About) -> std::io::Result<()> {
    writeln!(out, "  {}: {}", a.rule, a.title)?;
    if let Some(d) = &a.description {
        writeln!(
            out,
            "    {}",
            d.split_whitespace().collect::<Vec<_>>().join(" ")
        )?;
    }
    if !a.tags.is_empty() {
        writeln!(out, "    tags {}", a.tags.join(", "))?;
    }
    for f in &a.falsepositives {
        writeln!(out, "    may be wrong: {f}")?;
    }
    writeln!(out, "    runbook {}", a.runbook)
}

/// A stored event in a few lines: who, what was measured, what hit. It holds no text.
fn print_stored(out: &mut impl Write, s: &StoredEvent) -> std::io::Result<()> {
    writeln!(
        out,
        "  event {} at {} ({}) of {} by {}",
        s.event,
        s.end_at,
        s.record,
        s.user.as_deref().unwrap_or("no user"),
        s.model
    )?;
    let parts = ["request", "response"]
        .into_iter()
        .map(|p| (p, &s.sealed[p]));
    let context = s.sealed["context"].as_array().into_iter().flatten();
    for (name, part) in parts.chain(context.map(|p| ("context", p))) {
        if part.is_null() {
            continue;
        }
        let hits: Vec<String> = part["hits"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|h| {
                let n = h["n"].as_u64().unwrap_or(1);
                let rule = h["rule"].as_str()?;
                Some(if n > 1 {
                    format!("{rule} ×{n}")
                } else {
                    rule.to_owned()
                })
            })
            .collect();
        let score = part["injection"]["score"].as_f64();
        let score = score.map_or_else(String::new, |s| format!(", injection {s:.2}"));
        let hits = match hits.as_slice() {
            [] => "no rule hit".to_owned(),
            hits => hits.join(", "),
        };
        writeln!(
            out,
            "    {name}: {} characters{score}; {hits}",
            part["chars"]
        )?;
    }
    Ok(())
}

fn count(n: i64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// A fate as a sentence.
fn words(t: &Told) -> String {
    let because = |what: &str| match t.detail.as_str() {
        "" => what.to_owned(),
        detail => format!("{what} {detail}"),
    };
    match t.fate.as_str() {
        "queued" => "a message of its own".to_owned(),
        "grouped" => because("told in the message of its group's lead"),
        "deduplicated" => "nothing new for this sink".to_owned(),
        "silenced" => because("muted by silence"),
        "inhibited" => because("muted by an open incident of"),
        "time_muted" => "outside the route's hours".to_owned(),
        "below_severity" => because("milder than the route asks for"),
        "digested" => "counted in a digest: too many at once".to_owned(),
        other => because(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fate_has_words() {
        let told = |fate: &str, detail: &str| Told {
            at: String::new(),
            change: "firing".into(),
            sink: "mail".into(),
            fate: fate.into(),
            detail: detail.into(),
        };
        assert_eq!(words(&told("silenced", "7")), "muted by silence 7");
        use crate::decide::notify::Fate;
        for fate in [
            Fate::Queued,
            Fate::Grouped,
            Fate::Deduplicated,
            Fate::Silenced,
            Fate::Inhibited,
            Fate::TimeMuted,
            Fate::BelowSeverity,
            Fate::Digested,
        ] {
            let said = words(&told(fate.as_str(), ""));
            assert!(said.contains(' '), "{said}");
        }
    }

    #[test]
    fn rules_without_a_file_have_a_title_and_a_runbook() {
        let rules = build::rules(&RuleFiles::default()).expect("rules");
        let told = about(
            &rules,
            &[
                ("spend", "spend-baseline"),
                ("injection", "inj-override-ignore"),
            ],
        );
        assert_eq!(told[0].title, "Spend far above the usual");
        assert_eq!(told[0].runbook, "spend.md");
        assert!(!told[1].title.is_empty());
    }
}
