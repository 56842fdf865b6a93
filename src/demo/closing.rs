//! The closing account: what was put in against what was found, how fast, what was found besides,
//! and whether the ledger agrees with the published events to the token.

use std::fmt::Write as _;

use serde::Serialize;

use super::script::{Label, Who};
use crate::event::Time;
use crate::store::report::{SeenIncident, Totals};

/// What became of one label.
#[derive(Debug, Clone, Serialize, PartialEq)]
pub struct Outcome {
    /// Its name.
    pub name: &'static str,
    /// Whether it had to be found (false: a control).
    pub must: bool,
    /// Whether it was put in at all (a short run may end before).
    pub injected: bool,
    /// The incident that answers for it.
    pub incident: Option<String>,
    /// Milliseconds from the end of its first event to the stored finding.
    pub delay_ms: Option<i64>,
    /// Whether it was judged when its minute closed, not by its event.
    pub by_minute: bool,
    /// When it is judged at the latest; none before it was put in.
    #[serde(skip)]
    pub judged_at: Option<Time>,
    /// Whether the account was closed before that.
    pub unjudged: bool,
}

/// The account.
#[derive(Debug, Clone, Serialize, PartialEq)]
pub struct Account {
    /// Label by label.
    pub outcomes: Vec<Outcome>,
    /// Incidents that answer for no label: `detector/rule subject`.
    pub besides: Vec<String>,
    /// Events that the broker acknowledged.
    pub published: u64,
    /// Events that the monitor counted.
    pub applied: i64,
    /// Tokens published.
    pub tokens: u64,
    /// Tokens in the ledger.
    pub ledger: i64,
    /// Micro-dollars in the ledger.
    pub micro_usd: i64,
    /// Records put in that are no events.
    pub garbage: u64,
    /// Dead letters.
    pub dead_letters: i64,
    /// Mails in the mailbox.
    pub mails: usize,
    /// Webhook calls accepted; each id once.
    pub calls: usize,
    /// Webhook calls whose signature was wrong.
    pub forged: usize,
    /// Webhook calls that were tried again.
    pub retried: usize,
}

/// Whether an incident answers for a label.
pub fn answers(label: &Label, i: &SeenIncident) -> bool {
    if !label.detectors.contains(&i.detector.as_str()) || label.rule.is_some_and(|r| r != i.rule) {
        return false;
    }
    match &label.who {
        Who::Spender(user, key) => {
            i.subject.contains(user.as_str()) || i.subject.contains(key.as_str())
        }
        Who::User(p) => i.user.as_deref() == Some(p.as_str()) || i.subject.contains(p.as_str()),
        Who::Gateway(g) => i.gateway.as_deref() == Some(*g) || i.subject.contains(g),
        Who::Model(m) => i.model.as_deref() == Some(*m) || i.subject.contains(m),
        Who::Subject(s) => i.subject.contains(s),
        Who::Many(users) => {
            i.subject.starts_with("attack:") || i.user.as_ref().is_some_and(|u| users.contains(u))
        }
    }
}

/// Whether an incident is about what a label put in, if not the very thing asked for: the card that
/// leaks across users is also personal data in an answer.
fn belongs(label: &Label, i: &SeenIncident) -> bool {
    answers(
        &Label {
            rule: None,
            ..label.clone()
        },
        i,
    )
}

/// What an incident is about, for the commentary.
pub fn about(labels: &[Label], i: &SeenIncident) -> String {
    let begun = || labels.iter().filter(|l| l.began.is_some());
    let after = |l: &Label| {
        let ms = l.began.map_or(0, |b| i.stored.since_ms(b).max(0));
        format!("{}.{} s", ms / 1000, ms % 1000 / 100)
    };
    if let Some(l) = begun().find(|l| l.must && answers(l, i)) {
        format!("answers \"{}\" after {}", l.name, after(l))
    } else if let Some(l) = begun().find(|l| l.must && belongs(l, i)) {
        format!("comes with \"{}\", after {}", l.name, after(l))
    } else if let Some(l) = begun().find(|l| !l.must && answers(l, i)) {
        format!("FALSE ALARM on the control \"{}\"", l.name)
    } else {
        "answers nothing that was put in: a false alarm".to_owned()
    }
}

/// What was counted on the demo's side.
#[derive(Debug, Clone, Copy, Default)]
pub struct Published {
    /// Events acknowledged by the broker.
    pub events: u64,
    /// Their tokens.
    pub tokens: u64,
    /// Records that are no events.
    pub garbage: u64,
}

/// What arrived at the receivers.
#[derive(Debug, Clone, Copy, Default)]
pub struct Arrived {
    /// Mails.
    pub mails: usize,
    /// Webhook calls accepted, each id once.
    pub calls: usize,
    /// With a wrong signature.
    pub forged: usize,
    /// Tried again.
    pub retried: usize,
}

/// Holds the labels against the incidents.
pub fn account(
    labels: &[Label],
    incidents: &[SeenIncident],
    totals: Totals,
    published: Published,
    arrived: Arrived,
    now: Time,
) -> Account {
    let mut outcomes = outcomes(labels, incidents);
    for o in &mut outcomes {
        o.unjudged = o.incident.is_none() && o.judged_at.is_some_and(|at| at > now);
    }
    let besides = incidents
        .iter()
        .filter(|i| {
            !labels
                .iter()
                .any(|l| l.must && l.began.is_some() && belongs(l, i))
        })
        .map(|i| format!("{}/{} {} ({})", i.detector, i.rule, i.subject, i.reason))
        .collect();
    Account {
        outcomes,
        besides,
        published: published.events,
        applied: totals.events,
        tokens: published.tokens,
        ledger: totals.tokens,
        micro_usd: totals.micro_usd,
        garbage: published.garbage,
        dead_letters: totals.dead_letters,
        mails: arrived.mails,
        calls: arrived.calls,
        forged: arrived.forged,
        retried: arrived.retried,
    }
}

/// What became of each label so far.
pub fn outcomes(labels: &[Label], incidents: &[SeenIncident]) -> Vec<Outcome> {
    labels
        .iter()
        .map(|label| {
            let found = label.began.and_then(|began| {
                incidents
                    .iter()
                    .filter(|i| answers(label, i) && i.stored >= began)
                    .min_by_key(|i| i.stored)
                    .map(|i| (began, i))
            });
            Outcome {
                name: label.name,
                must: label.must,
                injected: label.began.is_some(),
                incident: found.map(|(_, i)| format!("{}/{} {}", i.detector, i.rule, i.severity)),
                delay_ms: found.map(|(began, i)| i.stored.since_ms(began).max(0)),
                by_minute: found.map_or(label.by_minute, |(began, i)| {
                    label.by_minute && i.stored >= Time::from_minute(began.minute() + 1)
                }),
                judged_at: label
                    .began
                    .map(|b| if label.by_minute { judged_at(b) } else { b }),
                unjudged: false,
            }
        })
        .collect()
}

impl Account {
    /// Whether every label that was put in was found, no control was, and the books agree.
    pub fn is_clean(&self) -> bool {
        let all = self.outcomes.iter().filter(|o| o.injected && !o.unjudged);
        all.clone().all(|o| o.incident.is_some() == o.must) && self.reconciles()
    }

    /// Whether ledger, events and dead letters agree with what was published.
    pub fn reconciles(&self) -> bool {
        i64::try_from(self.published).is_ok_and(|n| n == self.applied)
            && i64::try_from(self.tokens).is_ok_and(|n| n == self.ledger)
            && i64::try_from(self.garbage).is_ok_and(|n| n == self.dead_letters)
    }

    /// The account as a table for people.
    pub fn text(&self) -> String {
        let mut out = String::from("\nInjected versus detected\n");
        for o in &self.outcomes {
            let verdict = match (o.injected, o.must, &o.incident) {
                (false, ..) => "not reached in this run".to_owned(),
                (true, true, Some(i)) => format!("found as {i} after {}", delay(o)),
                (true, true, None) if o.unjudged => {
                    "not judged: it ended before its minute closed".to_owned()
                }
                (true, true, None) => "MISSED".to_owned(),
                (true, false, None) => "rightly quiet (a control)".to_owned(),
                (true, false, Some(i)) => format!("FALSE ALARM: {i}"),
            };
            let _ = writeln!(out, "  {:<28} {verdict}", o.name);
        }
        let found = self
            .outcomes
            .iter()
            .filter(|o| o.must && o.incident.is_some())
            .count();
        let all = self
            .outcomes
            .iter()
            .filter(|o| o.must && o.injected && !o.unjudged)
            .count();
        let _ = writeln!(
            out,
            "  {found} of {all} found; {} found besides (false alarms)",
            self.besides.len()
        );
        for b in &self.besides {
            let _ = writeln!(out, "    {b}");
        }
        let _ = writeln!(
            out,
            "\nBooks\n  events   {:>12} published  {:>12} counted\n  tokens   {:>12} published  {:>12} in the ledger\n  garbage  {:>12} put in     {:>12} dead letters\n  {}",
            self.published,
            self.applied,
            self.tokens,
            self.ledger,
            self.garbage,
            self.dead_letters,
            if self.reconciles() {
                "they agree to the token"
            } else {
                "THEY DO NOT AGREE"
            },
        );
        let _ = writeln!(
            out,
            "  cost     ${}.{:06}",
            self.micro_usd / 1_000_000,
            self.micro_usd % 1_000_000
        );
        let _ = writeln!(
            out,
            "\nNotifications received\n  mailbox  {} mails\n  webhook  {} messages, {} with a wrong signature, {} tried again after a refusal",
            self.mails, self.calls, self.forged, self.retried
        );
        out
    }
}

fn delay(o: &Outcome) -> String {
    let ms = o.delay_ms.unwrap_or(0);
    let whole = format!("{}.{} s", ms / 1000, ms % 1000 / 100);
    if o.by_minute {
        format!("{whole} (judged when its minute closes)")
    } else {
        whole
    }
}

/// The moment at which everything of a minute is judged: its end, the ten seconds for late events,
/// and a little for the leader.
pub fn judged_at(began: Time) -> Time {
    Time::from_minute(began.minute() + 1).plus_ms(crate::detect::CLOSE_AFTER_MS + 5_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(name: &'static str, must: bool, user: &str) -> Label {
        Label {
            name,
            caption: "",
            detectors: &["injection"],
            rule: None,
            who: Who::User(user.to_owned()),
            must,
            by_minute: false,
            began: Some(Time(1_000)),
        }
    }
    fn incident(user: &str, stored: i64) -> SeenIncident {
        SeenIncident {
            id: "0".repeat(32),
            number: 1,
            state: "open".into(),
            severity: "high".into(),
            stage: "page".into(),
            detector: "injection".into(),
            rule: "inj-x".into(),
            tenant: "acme".into(),
            subject: format!("user:{user}"),
            user: Some(user.into()),
            model: None,
            gateway: None,
            reason: "score 0.99".into(),
            opened: Time(1_000),
            last: Time(1_000),
            stored: Time(stored),
            findings: 1,
        }
    }

    #[test]
    fn a_miss_a_false_alarm_and_a_wrong_ledger_are_said() {
        let labels = [
            label("a", true, "u1"),
            label("b", true, "u2"),
            label("c", false, "u3"),
        ];
        let incidents = [
            incident("u1", 1_400),
            incident("u3", 2_000),
            incident("u9", 2_000),
        ];
        let totals = Totals {
            events: 10,
            tokens: 99,
            ..Totals::default()
        };
        let published = Published {
            events: 10,
            tokens: 100,
            garbage: 0,
        };
        let a = account(
            &labels,
            &incidents,
            totals,
            published,
            Arrived::default(),
            Time(90_000),
        );
        assert_eq!(a.outcomes[0].delay_ms, Some(400));
        assert_eq!(a.outcomes[1].incident, None);
        assert_eq!(a.besides.len(), 2);
        assert!(!a.is_clean() && !a.reconciles());
        let text = a.text();
        for word in [
            "MISSED",
            "FALSE ALARM",
            "THEY DO NOT AGREE",
            "after 0.4 s",
            "1 of 2 found",
        ] {
            assert!(text.contains(word), "{word}: {text}");
        }
    }

    #[test]
    fn a_clean_run_is_clean() {
        let labels = [label("a", true, "u1"), label("c", false, "u3")];
        let totals = Totals {
            events: 10,
            tokens: 100,
            ..Totals::default()
        };
        let published = Published {
            events: 10,
            tokens: 100,
            garbage: 0,
        };
        let a = account(
            &labels,
            &[incident("u1", 1_400)],
            totals,
            published,
            Arrived::default(),
            Time(90_000),
        );
        assert!(a.is_clean() && a.besides.is_empty());
        assert!(a.text().contains("they agree to the token"));
    }

    #[test]
    fn what_was_not_judged_yet_is_no_miss() {
        let mut late = label("late", true, "u1");
        late.by_minute = true;
        let close = |now| {
            let nothing = (Totals::default(), Published::default());
            let labels = std::slice::from_ref(&late);
            account(labels, &[], nothing.0, nothing.1, Arrived::default(), now)
        };
        let early = close(Time(61_000));
        assert!(early.is_clean() && early.text().contains("not judged"));
        let after = close(judged_at(Time(1_000)));
        assert!(!after.is_clean() && after.text().contains("MISSED"));
    }

    #[test]
    fn the_commentary_says_what_an_incident_is_about() {
        let mut labels = [label("a", true, "u1"), label("c", false, "u3")];
        labels[0].rule = Some("inj-other");
        assert!(about(&labels, &incident("u1", 1_400)).starts_with("comes with \"a\""));
        assert!(about(&labels, &incident("u3", 1_400)).contains("control \"c\""));
        assert!(about(&labels, &incident("u9", 1_400)).contains("false alarm"));
        labels[0].rule = None;
        assert_eq!(
            about(&labels, &incident("u1", 1_400)),
            "answers \"a\" after 0.4 s"
        );
    }
}
