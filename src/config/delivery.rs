//! `[deliver]`: sinks and the routing tree.

use std::collections::BTreeMap;
use std::time::Duration;

use super::reader::Section;
use crate::event::{Severity, Stage};
use crate::telemetry::Secret;

/// What a sink speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SinkKind {
    /// Signed JSON over HTTPS (Standard Webhooks).
    Webhook,
    /// SMTP.
    Email,
    /// JSON lines on standard output.
    Stdout,
}

/// One `[[deliver.sink]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkSetting {
    /// Unique name; metrics and routes use it.
    pub name: String,
    /// What it speaks.
    pub kind: SinkKind,
    /// Webhook: where to.
    pub url: Option<String>,
    /// Email: `host:port`.
    pub smtp: Option<String>,
    /// Email: recipients.
    pub to: Vec<String>,
    /// Email: sender.
    pub from: Option<String>,
    /// Email: SMTP user.
    pub username: Option<String>,
    /// Email: SMTP password. Webhook: signing secret.
    pub secret: Option<Secret>,
    /// Webhook: may the address be private (an internal receiver)?
    pub allow_private: bool,
    /// Email: certificate authorities (PEM) for a private mail server.
    pub ca_file: Option<std::path::PathBuf>,
}

/// One `[[deliver.route]]`, tried in order; the first that matches takes it unless `continue`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteSetting {
    /// Matchers over detector, rule, tenant, user, model, severity, stage; a trailing `*` matches
    /// any ending.
    pub matchers: BTreeMap<String, String>,
    /// Sinks by name.
    pub sinks: Vec<String>,
    /// Fields that form a group; empty: each incident alone.
    pub group_by: Vec<String>,
    /// Wait for more of the group before the first notification.
    pub group_wait: Option<Duration>,
    /// Least time between notifications of a group.
    pub group_interval: Duration,
    /// Told again while it fires.
    pub repeat_interval: Duration,
    /// Lower is recorded, not told.
    pub min_severity: Severity,
    /// Only incidents of at least this stage.
    pub min_stage: Stage,
    /// Go on to the next route.
    pub proceed: bool,
}

/// Fields that a matcher or a group may name.
const FIELDS: [&str; 9] = [
    "detector", "rule", "tenant", "user", "model", "subject", "severity", "stage", "gateway",
];

pub(super) fn read(
    s: Section<'_, '_>,
    env: &BTreeMap<String, String>,
) -> (Vec<SinkSetting>, Vec<RouteSetting>) {
    let mut sinks: Vec<SinkSetting> = Vec::new();
    for t in s.sections("sink") {
        if let Some(sink) = sink(&t, env) {
            if sinks.iter().any(|o| o.name == sink.name) {
                t.problem("name", "is used twice", "give each sink its own name");
            } else {
                sinks.push(sink);
            }
        }
        t.finish();
    }
    let mut routes = Vec::new();
    for t in s.sections("route") {
        routes.push(route(&t, &sinks));
        t.finish();
    }
    s.finish();
    (sinks, routes)
}

fn sink(s: &Section<'_, '_>, env: &BTreeMap<String, String>) -> Option<SinkSetting> {
    let name = s.str("name");
    if let Some(n) = &name
        && (n.is_empty()
            || n.len() > 40
            || !n
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'))
    {
        s.problem(
            "name",
            "is not a name",
            "use 1 to 40 letters, digits, - and _",
        );
    }
    if !s.has("name") {
        s.missing("name", "name the sink, such as \"oncall\"");
    }
    let kind = s.word(
        "kind",
        &[
            ("webhook", SinkKind::Webhook),
            ("email", SinkKind::Email),
            ("stdout", SinkKind::Stdout),
        ],
    );
    if !s.has("kind") {
        s.missing("kind", "write \"webhook\", \"email\" or \"stdout\"");
    }
    let variable = name.as_deref().map_or_else(String::new, |n| {
        format!(
            "VEILWATCH_SINK_{}_SECRET",
            n.to_ascii_uppercase().replace('-', "_")
        )
    });
    let _ = env;
    let sink = SinkSetting {
        url: s
            .secret("url", &variable.replace("_SECRET", "_URL"))
            .map(|u| u.reveal().to_owned()),
        smtp: s.str("smtp"),
        to: s.strings("to").unwrap_or_default(),
        from: s.str("from"),
        username: s.str("username"),
        secret: s.secret("secret", &variable),
        allow_private: s.bool("allow_private").unwrap_or(false),
        ca_file: s.path("ca_file"),
        name: name.unwrap_or_default(),
        kind: kind?,
    };
    match sink.kind {
        SinkKind::Webhook => {
            match &sink.url {
                None => s.missing("url", "write https://HOST/PATH"),
                Some(u) if !u.starts_with("https://") && !u.starts_with("http://") => {
                    s.problem("url", "is not a web address", "write https://HOST/PATH");
                }
                Some(_) => {}
            }
            if sink.secret.is_none() {
                s.missing("secret_file", "name a file with the signing secret, so that the receiver can tell our messages");
            }
        }
        SinkKind::Email => {
            if sink.smtp.is_none() {
                s.missing("smtp", "write HOST:PORT of the mail server");
            }
            if sink.to.is_empty() {
                s.missing("to", "list the recipients");
            }
            let addresses = sink.to.iter().chain(&sink.from);
            if addresses
                .clone()
                .any(|a| !a.contains('@') || a.contains(['\r', '\n']))
            {
                s.problem(
                    "to",
                    "holds something that is not a mail address",
                    "write name@host",
                );
            }
        }
        SinkKind::Stdout => {}
    }
    Some(sink)
}

fn route(s: &Section<'_, '_>, sinks: &[SinkSetting]) -> RouteSetting {
    let known = |key: &str, names: &mut dyn Iterator<Item = &String>| {
        for n in names {
            if !FIELDS.contains(&n.as_str()) {
                s.problem(
                    key,
                    format!("\"{n}\" is not a field"),
                    format!("use {}", FIELDS.join(", ")),
                );
            }
        }
    };
    let matchers = s.string_table("match");
    known("match", &mut matchers.keys());
    let group_by = s.strings("group_by").unwrap_or_default();
    known("group_by", &mut group_by.iter());
    let names = s.strings("sinks").unwrap_or_default();
    if names.is_empty() && !s.has("sinks") {
        s.missing(
            "sinks",
            "list the sinks by name; an empty list records without telling",
        );
    }
    for n in &names {
        if !sinks.iter().any(|k| k.name == *n) {
            s.problem(
                "sinks",
                format!("\"{n}\" is not a sink"),
                "name one of the [[deliver.sink]] tables",
            );
        }
    }
    let severities = [
        ("informational", Severity::Informational),
        ("low", Severity::Low),
        ("medium", Severity::Medium),
        ("high", Severity::High),
        ("critical", Severity::Critical),
    ];
    let zero = Duration::ZERO;
    let day = Duration::from_secs(86_400);
    RouteSetting {
        matchers,
        sinks: names,
        group_by,
        group_wait: s.duration("group_wait", zero, day),
        group_interval: s
            .duration("group_interval", zero, day)
            .unwrap_or(Duration::from_secs(300)),
        repeat_interval: s
            .duration("repeat_interval", Duration::from_secs(10), 30 * day)
            .unwrap_or(Duration::from_secs(4 * 3600)),
        min_severity: s.word("min_severity", &severities).unwrap_or(Severity::Low),
        min_stage: s
            .word(
                "min_stage",
                &[("ticket", Stage::Ticket), ("page", Stage::Page)],
            )
            .unwrap_or(Stage::Ticket),
        proceed: s.bool("continue").unwrap_or(false),
    }
}
