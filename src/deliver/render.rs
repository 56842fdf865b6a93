//! What a notification says in each channel, and how strangers' strings are made harmless.
//!
//! One function per channel; nothing else in the program builds a message. Every string goes through
//! [`inert`] first: names of models, tenants and gateways come from records, and whoever writes
//! records must not write mail headers, mentions, links, terminal codes or right-to-left tricks.
//! Answers what the reader of a page asks: what, who, since when, how bad, what changed, what to do.

use std::fmt::Write as _;

use serde_json::{Value, json};
use unicode_normalization::UnicodeNormalization as _;
use unicode_segmentation::UnicodeSegmentation as _;

use super::Message;
use crate::decide::notify::MEMBERS;
use crate::decide::{Notification, NotificationKind};
use crate::event::{Severity, Time};

/// Longest name in a message, in graphemes.
const NAME: usize = 256;
/// Longest sentence in a message. Ten of them keep a webhook far below its 20 kB.
const SENTENCE: usize = 1000;
/// Longest mail subject. Longer ones are cut by most readers anyway.
const SUBJECT: usize = 160;
/// PagerDuty's bound on a summary, in characters.
const PAGERDUTY_SUMMARY: usize = 1024;
/// Slack's bound on a header, in characters.
const SLACK_HEADER: usize = 150;

/// Makes a string harmless for every channel: composed (NFC), one line, no control characters, no
/// invisible or direction-changing characters (shown as `\u{…}` so that the trick is seen), nothing that
/// readers of mail and chat turn into a link, at most `most` graphemes.
pub fn inert(s: &str, most: usize) -> String {
    let shown = shown(s, most);
    if shown.contains("://") || shown.to_ascii_lowercase().contains("www.") {
        return unlinked(&shown);
    }
    shown
}

/// Breaks what would be a link, visibly: `https[:]//evil.example`, `www[.]evil.example`.
fn unlinked(s: &str) -> String {
    let broken = s.replace("://", "[:]//");
    let lower = broken.to_ascii_lowercase();
    let mut out = String::with_capacity(broken.len() + 8);
    let mut from = 0;
    for (at, www) in lower.match_indices("www.") {
        let dot = at + www.len() - 1;
        out.push_str(&broken[from..dot]);
        out.push_str("[.]");
        from = dot + 1;
    }
    out.push_str(&broken[from..]);
    out
}

/// The same for a string of the operator's own: the runbook's address stays one.
fn shown(s: &str, most: usize) -> String {
    let mut out = String::with_capacity(s.len().min(most * 4));
    // Cut first: a megabyte of text must not be normalised for the sake of 256 characters.
    let head: String = s.chars().take(most.saturating_mul(4)).collect();
    let safe: String = head.nfc().map(visible).collect();
    for (written, g) in safe.graphemes(true).enumerate() {
        // A grapheme of hundreds of combining marks is no name either.
        if written == most || out.len() + g.len() > most * 8 {
            out.push('…');
            return out;
        }
        out.push_str(g);
    }
    if head.len() < s.len() {
        out.push('…');
    }
    out
}

/// A character as it may be shown: itself, a space, or its code.
fn visible(c: char) -> Shown {
    match c {
        '\t' | '\n' | '\r' | '\u{2028}' | '\u{2029}' => Shown::Plain(' '),
        c if c.is_control() => Shown::Nothing,
        // Bidirectional controls and marks, zero width, invisible operators, fillers, tags,
        // variation selectors, interlinear marks.
        '\u{061C}'
        | '\u{180E}'
        | '\u{200B}'..='\u{200F}'
        | '\u{202A}'..='\u{202E}'
        | '\u{2060}'..='\u{206F}'
        | '\u{115F}'
        | '\u{1160}'
        | '\u{3164}'
        | '\u{FFA0}'
        | '\u{FEFF}'
        | '\u{FFF9}'..='\u{FFFB}'
        | '\u{E0000}'..='\u{E0FFF}' => Shown::Code(c),
        c => Shown::Plain(c),
    }
}

enum Shown {
    Plain(char),
    Code(char),
    Nothing,
}

impl Extend<Shown> for String {
    fn extend<I: IntoIterator<Item = Shown>>(&mut self, iter: I) {
        for shown in iter {
            match shown {
                Shown::Plain(c) => self.push(c),
                Shown::Code(c) => self.extend(c.escape_unicode()),
                Shown::Nothing => {}
            }
        }
    }
}

impl FromIterator<Shown> for String {
    fn from_iter<I: IntoIterator<Item = Shown>>(iter: I) -> Self {
        let mut s = Self::new();
        s.extend(iter);
        s
    }
}

/// The word for what changed, as a reader would say it.
fn happened(kind: NotificationKind) -> &'static str {
    match kind {
        NotificationKind::Firing => "opened",
        NotificationKind::Repeat => "still open",
        NotificationKind::Escalated => "became worse",
        NotificationKind::Acknowledged => "acknowledged",
        NotificationKind::Resolved => "resolved",
        NotificationKind::Digest => "digest of several",
    }
}

/// `2 h 5 min`, `40 s`; never negative.
fn span(from: Time, to: Time) -> String {
    let s = to.since_ms(from).max(0) / 1000;
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min", s / 60),
        3600..86_400 => format!("{} h {} min", s / 3600, s % 3600 / 60),
        _ => format!("{} d {} h", s / 86_400, s % 86_400 / 3600),
    }
}

/// One line for subjects and summaries: `[critical] opened: title (acme) #3`.
pub fn subject(n: &Notification) -> String {
    let tenant = inert(&n.tenant, 40);
    let title = inert(&n.title, 100);
    // The title may name severity and tenant already; once is enough.
    let prefix = format!("[{}] ", n.severity.as_str());
    let title = title.strip_prefix(&prefix).unwrap_or(&title);
    let of = if tenant.is_empty() || title.contains(&tenant) {
        String::new()
    } else {
        format!(" ({tenant})")
    };
    inert(
        &format!(
            "[{}] {}: {}{of} #{}",
            n.severity.as_str(),
            happened(n.kind),
            title,
            n.number
        ),
        SUBJECT,
    )
}

/// The page as name and value, in the order in which a reader asks. Empty values are left out.
fn facts(n: &Notification) -> Vec<(&'static str, String)> {
    let or = |v: Option<String>| v.unwrap_or_default();
    let (since, at) = (Time(n.since_ms), Time(n.at_ms));
    let all = [
        ("What", inert(&n.title, SENTENCE)),
        ("Why", inert(&n.reason, SENTENCE)),
        (
            "How bad",
            format!(
                "{}, {}; {} finding{}",
                n.severity.as_str(),
                n.stage.as_str(),
                n.findings,
                if n.findings == 1 { "" } else { "s" }
            ),
        ),
        ("Who", or(n.user.as_ref().map(|u| inert(u, NAME)))),
        ("Tenant", inert(&n.tenant, NAME)),
        ("Model", or(n.model.as_ref().map(|m| inert(m, NAME)))),
        ("Gateway", or(n.gateway.as_ref().map(|g| inert(g, NAME)))),
        ("Event", or(n.event.as_ref().map(|e| inert(e, NAME)))),
        ("Subject", inert(&n.subject, NAME)),
        ("Since", format!("{since} ({})", span(since, at))),
        ("Changed", format!("{} at {at}", happened(n.kind))),
        ("Also", also(n)),
        (
            "Rule",
            format!("{} / {}", inert(&n.detector, NAME), inert(&n.rule, NAME)),
        ),
        ("Runbook", shown(&n.runbook, SENTENCE)),
        ("Silence", inert(&n.silence_command, SENTENCE)),
        (
            "Incident",
            // What cannot be silenced is no incident in Postgres: a notice of ours, a digest.
            if n.silence_command.is_empty() {
                String::new()
            } else {
                format!(
                    "veilwatch incident show {} (number {})",
                    inert(&n.key, NAME),
                    n.number
                )
            },
        ),
    ];
    all.into_iter().filter(|(_, v)| !v.is_empty()).collect()
}

/// The other incidents told with this one, shortened to a line.
fn also(n: &Notification) -> String {
    let mut shown: Vec<String> = n
        .members
        .iter()
        .take(MEMBERS)
        .map(|m| inert(m, 60))
        .collect();
    let beyond = u32::try_from(n.members.len().saturating_sub(MEMBERS)).unwrap_or(u32::MAX);
    match n.more.saturating_add(beyond) {
        0 => {}
        more => shown.push(format!("and {more} more")),
    }
    if n.over > 0 {
        shown.push(format!("{} are over", n.over));
    }
    shown.join("; ")
}

/// The body of a mail: plain text, one fact a line, no markup.
pub fn mail(n: &Notification) -> String {
    let mut body = String::new();
    for (name, value) in facts(n) {
        let _ = writeln!(body, "{name:<9} {value}");
    }
    body.push_str(
        "\nVeilwatch sees hashes and counts, never texts. Who reads this cannot see what was said.\n",
    );
    body
}

/// What happened, in the dotted words of Standard Webhooks.
fn webhook_type(kind: NotificationKind) -> &'static str {
    match kind {
        NotificationKind::Firing => "incident.opened",
        NotificationKind::Repeat => "incident.repeated",
        NotificationKind::Escalated => "incident.escalated",
        NotificationKind::Acknowledged => "incident.acknowledged",
        NotificationKind::Resolved => "incident.resolved",
        NotificationKind::Digest => "incident.digest",
    }
}

fn name(value: Option<&crate::event::SmolStr>) -> Option<String> {
    value.map(|v| inert(v, NAME))
}

/// The payload of the signed webhook and of standard output.
pub fn webhook(message: &Message) -> Value {
    let n = &message.notification;
    json!({
        "type": webhook_type(n.kind),
        "timestamp": Time(n.at_ms).to_string(),
        "data": {
            "id": message.id,
            "dedup_key": inert(&n.dedup_key, NAME),
            "incident": inert(&n.key, NAME),
            "number": n.number,
            "severity": n.severity.as_str(),
            "stage": n.stage.as_str(),
            "detector": inert(&n.detector, NAME),
            "rule": inert(&n.rule, NAME),
            "title": inert(&n.title, SENTENCE),
            "reason": inert(&n.reason, SENTENCE),
            "tenant": inert(&n.tenant, NAME),
            "subject": inert(&n.subject, NAME),
            "user": name(n.user.as_ref()),
            "model": name(n.model.as_ref()),
            "gateway": name(n.gateway.as_ref()),
            "event": name(n.event.as_ref()),
            "members": n.members.iter().take(MEMBERS).map(|m| inert(m, 60)).collect::<Vec<_>>(),
            "members_more": n.more,
            "members_over": n.over,
            "since": Time(n.since_ms).to_string(),
            "findings": n.findings,
            "runbook": shown(&n.runbook, SENTENCE),
            "silence": inert(&n.silence_command, SENTENCE),
        }
    })
}

/// PagerDuty Events v2.
pub fn pagerduty(n: &Notification, routing_key: &str) -> Value {
    let action = match n.kind {
        NotificationKind::Acknowledged => "acknowledge",
        NotificationKind::Resolved => "resolve",
        _ => "trigger",
    };
    let severity = match n.severity {
        Severity::Critical => "critical",
        Severity::High => "error",
        Severity::Medium => "warning",
        Severity::Low | Severity::Informational => "info",
    };
    let details: serde_json::Map<String, Value> = facts(n)
        .into_iter()
        .map(|(k, v)| (k.to_owned(), Value::String(v)))
        .collect();
    json!({
        "routing_key": routing_key,
        "event_action": action,
        "dedup_key": inert(&n.dedup_key, NAME),
        "client": "veilwatch",
        "payload": {
            "summary": inert(&subject(n), PAGERDUTY_SUMMARY),
            "source": inert(&n.subject, NAME),
            "severity": severity,
            "timestamp": Time(n.at_ms).to_string(),
            "component": inert(&n.detector, NAME),
            "group": inert(&n.tenant, NAME),
            "class": inert(&n.rule, NAME),
            "custom_details": details,
        }
    })
}

/// Slack incoming webhook. Values stand in `plain_text` blocks; the fallback is escaped, so that
/// `<!channel>` or `<@U…>` in a name mentions nobody.
pub fn slack(n: &Notification) -> Value {
    let plain =
        // Facts are inert already; one of them is the runbook's address.
        |s: String, most| json!({"type": "plain_text", "text": shown(&s, most), "emoji": false});
    let fields: Vec<Value> = facts(n)
        .into_iter()
        .filter(|(name, _)| *name != "What")
        .map(|(name, value)| json!({"type": "section", "text": plain(format!("{name}: {value}"), SENTENCE)}))
        .collect();
    let mut blocks = vec![json!({"type": "header", "text": plain(subject(n), SLACK_HEADER - 1)})];
    blocks.extend(fields);
    json!({
        "text": escape_slack(&subject(n)),
        "blocks": blocks,
        "unfurl_links": false,
        "unfurl_media": false,
        "link_names": false,
    })
}

fn escape_slack(s: &str) -> String {
    s.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// Alertmanager v2: labels are the identity, so only what does not change with the numbers. Severity
/// does change, and Alertmanager's routes need it: when it has, the alert under the old one ends in the
/// same message. An alert ends by itself after `endsAt`, else after five minutes: we repeat after hours.
pub fn alertmanager(n: &Notification) -> Value {
    let over = n.kind == NotificationKind::Resolved;
    let alert = |severity: Severity, ends_ms: Option<i64>| {
        let mut alert = json!({
            "labels": {
                "alertname": inert(&n.rule, NAME),
                "severity": severity.as_str(),
                "detector": inert(&n.detector, NAME),
                "tenant": inert(&n.tenant, NAME),
                "incident": inert(&n.dedup_key, NAME),
            },
            "annotations": {
                "summary": subject(n),
                "description": inert(&n.reason, SENTENCE),
                "subject": inert(&n.subject, NAME),
                "runbook_url": shown(&n.runbook, SENTENCE),
                "silence": inert(&n.silence_command, SENTENCE),
            },
            "startsAt": Time(n.since_ms).to_string(),
        });
        if let Some(ms) = ends_ms {
            alert["endsAt"] = Value::String(Time(ms.max(n.since_ms)).to_string());
        }
        alert
    };
    let mut alerts = vec![alert(
        n.severity,
        if over { Some(n.at_ms) } else { n.until_ms },
    )];
    if let Some(was) = n.was.filter(|was| *was != n.severity) {
        alerts.push(alert(was, Some(n.at_ms)));
    }
    Value::Array(alerts)
}

#[cfg(test)]
#[path = "render/tests.rs"]
mod tests;
