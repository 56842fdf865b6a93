//! `[deliver]`: the sinks.

use std::sync::Arc;

use super::reader::Section;
use super::routing::{self, Routing};
use crate::deliver::email::{self, Email};
use crate::deliver::http::{Http, PAGERDUTY_URL, Service, SigningKey};
use crate::deliver::stdout::Lines;
use crate::deliver::{Limits, Named, Sink};
use crate::telemetry::Secret;

/// What a sink speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SinkKind {
    /// Signed JSON over HTTPS (Standard Webhooks).
    Webhook,
    /// SMTP.
    Email,
    /// PagerDuty Events v2.
    PagerDuty,
    /// Slack incoming webhook.
    Slack,
    /// Alertmanager v2.
    Alertmanager,
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
    /// Where to. A secret: Slack's address is all that a stranger needs to post.
    pub url: Option<Secret>,
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
    /// Email: certificate authority (PEM) of a private mail server.
    pub ca: Option<String>,
    /// How hard the sink may be driven.
    pub limits: Limits,
}

/// The environment variable that has the secret of the sink of a name; its URL's ends in `_URL`.
fn variable(name: &str) -> String {
    format!(
        "VEILWATCH_SINK_{}_SECRET",
        name.to_ascii_uppercase().replace('-', "_")
    )
}

impl SinkSetting {
    /// The environment variable that has the sink's secret.
    pub(super) fn variable(&self) -> String {
        variable(&self.name)
    }

    /// Makes the sink; touches no network.
    ///
    /// # Errors
    /// The key that is wrong and what is wrong with it, for a message to the operator.
    pub fn build(&self) -> Result<Named, (&'static str, String)> {
        let http = |service, url: Option<&str>| {
            Http::new(service, url.unwrap_or_default(), self.allow_private)
                .map(Sink::Http)
                .map_err(|e| ("url", e.to_string()))
        };
        let secret = || self.secret.clone().unwrap_or_else(|| Secret::new(""));
        let url = self.url.as_ref().map(Secret::reveal);
        let sink = match self.kind {
            SinkKind::Stdout => Sink::Stdout(Lines::stdout()),
            SinkKind::Slack => http(Service::Slack, url)?,
            SinkKind::Alertmanager => http(Service::Alertmanager, url)?,
            SinkKind::PagerDuty => {
                let routing_key = secret();
                http(
                    Service::PagerDuty { routing_key },
                    url.or(Some(PAGERDUTY_URL)),
                )?
            }
            SinkKind::Webhook => {
                // Two lines in the file: old and new secret during a rotation, both sign.
                let secrets = secret()
                    .reveal()
                    .lines()
                    .filter(|l| !l.trim().is_empty())
                    .map(SigningKey::parse)
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(|e| ("secret_file", e.to_owned()))?;
                if secrets.iter().any(SigningKey::is_weak) {
                    tracing::warn!(sink = %self.name, "the webhook secret is shorter than 24 bytes; make a longer one with: openssl rand -base64 32");
                }
                http(Service::Webhook { secrets }, url)?
            }
            SinkKind::Email => {
                let settings = email::Settings {
                    smtp: self.smtp.clone().unwrap_or_default(),
                    from: self.from.clone(),
                    to: self.to.clone(),
                    username: self.username.clone(),
                    password: self.secret.clone(),
                    ca_pem: self.ca.clone(),
                };
                Sink::Email(Email::new(&settings).map_err(|e| (e.key(), e.to_string()))?)
            }
        };
        Ok(Named {
            name: self.name.as_str().into(),
            sink: Arc::new(sink),
            limits: self.limits,
        })
    }
}

pub(super) fn read(s: Section<'_, '_>) -> (Vec<SinkSetting>, Routing) {
    let mut sinks: Vec<SinkSetting> = Vec::new();
    for t in s.sections("sink") {
        if let Some(sink) = sink(&t) {
            if sinks.iter().any(|o| o.name == sink.name) {
                t.problem("name", "is used twice", "give each sink its own name");
            } else {
                sinks.push(sink);
            }
        }
        t.finish();
    }
    let routing = routing::read(&s, &sinks);
    s.finish();
    (sinks, routing)
}

fn sink(s: &Section<'_, '_>) -> Option<SinkSetting> {
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
            ("pagerduty", SinkKind::PagerDuty),
            ("slack", SinkKind::Slack),
            ("alertmanager", SinkKind::Alertmanager),
            ("stdout", SinkKind::Stdout),
        ],
    );
    if !s.has("kind") {
        s.missing("kind", "write \"webhook\", \"email\", \"pagerduty\", \"slack\", \"alertmanager\" or \"stdout\"");
    }
    let variable = name.as_deref().map_or_else(String::new, variable);
    let sink = SinkSetting {
        url: s.secret("url", &variable.replace("_SECRET", "_URL")),
        smtp: s.str("smtp"),
        to: s.strings("to").unwrap_or_default(),
        from: s.str("from"),
        username: s.str("username"),
        secret: s.secret("secret", &variable),
        allow_private: s.bool("allow_private").unwrap_or(false),
        ca: s.file("ca_file"),
        limits: limits(s, kind),
        name: name.unwrap_or_default(),
        kind: kind?,
    };
    match sink.kind {
        SinkKind::Webhook => {
            // A file that was named and cannot be read was told of already.
            if sink.url.is_none() && !s.has("url_file") {
                s.missing("url", "write https://HOST/PATH");
            }
            if sink.secret.is_none() && !s.has("secret_file") {
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
        }
        SinkKind::PagerDuty if sink.secret.is_none() => {
            s.missing(
                "secret_file",
                "name a file with the integration's routing key",
            );
        }
        SinkKind::Slack | SinkKind::Alertmanager if sink.url.is_none() => {
            s.missing(
                "url",
                "write https://HOST/PATH, or name a file that holds it in url_file",
            );
        }
        SinkKind::PagerDuty | SinkKind::Slack | SinkKind::Alertmanager | SinkKind::Stdout => {}
    }
    let complete = match sink.kind {
        SinkKind::Webhook => sink.url.is_some() && sink.secret.is_some(),
        SinkKind::Email => sink.smtp.is_some() && !sink.to.is_empty(),
        SinkKind::PagerDuty => sink.secret.is_some(),
        SinkKind::Slack | SinkKind::Alertmanager => sink.url.is_some(),
        SinkKind::Stdout => true,
    };
    if complete && let Err((key, what)) = sink.build() {
        s.problem(
            key,
            what,
            "correct it and run `veilwatch config check` again",
        );
    }
    Some(sink)
}

fn limits(s: &Section<'_, '_>, kind: Option<SinkKind>) -> Limits {
    let usual = Limits {
        // Slack takes about one message a second and channel.
        concurrency: if kind == Some(SinkKind::Slack) { 1 } else { 4 },
        ..Limits::default()
    };
    Limits {
        concurrency: s
            .integer("concurrency", 1, 64)
            .and_then(|n| usize::try_from(n).ok())
            .unwrap_or(usual.concurrency),
        per_minute: s
            .integer("per_minute", 1, 100_000)
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or(usual.per_minute),
    }
}
