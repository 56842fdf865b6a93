//! Which sinks work, and what to tell when one does not.
//!
//! A sink is *broken* after an answer that time does not heal (credentials refused, a redirect, an
//! address that is not allowed), or after [`FAILURES`] failures in a row. The worker then only
//! probes it; the others are told once that it is broken and once that it works again. Shared by the
//! workers of a process; each replica keeps its own, under one dedup key, so receivers fold them.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::{Disposition, Reason, SendError};
use crate::decide::{Notification, NotificationKind};
use crate::event::{Severity, Stage, Time, hash16};

/// Failures in a row after which a sink counts as broken. Fewer would tell of every restart of a
/// receiver; more would hide an outage for many minutes (backoff doubles).
const FAILURES: u32 = 5;
/// Pause between probes of a sink that refuses for good.
const PROBE: Duration = Duration::from_mins(1);

/// Counts of one sink, for metrics and tests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Delivered.
    pub sent: u64,
    /// Failed and to be tried again, by reason.
    pub failed: BTreeMap<&'static str, u64>,
    /// Refused for good.
    pub parked: u64,
    /// Sent, but the claim had lapsed meanwhile.
    pub overtaken: u64,
    /// Whether it is broken now.
    pub broken: bool,
}

/// A notice that one sink is broken, or works again; for the others.
#[derive(Debug, Clone)]
pub struct Notice {
    /// The sink it is about.
    pub sink: String,
    /// What to say.
    pub notification: Notification,
}

#[derive(Debug, Default)]
struct State {
    summary: Summary,
    in_a_row: u32,
    since: Option<Time>,
    probe_after: Option<Instant>,
}

/// The state of all sinks of this process.
#[derive(Debug, Default)]
pub struct Health {
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    sinks: BTreeMap<String, State>,
    notices: Vec<Notice>,
}

impl Health {
    fn with<T>(&self, sink: &str, f: impl FnOnce(&mut State, &mut Vec<Notice>) -> T) -> T {
        let mut inner = self
            .inner
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let Inner { sinks, notices } = &mut *inner;
        f(sinks.entry(sink.to_owned()).or_default(), notices)
    }

    /// Records a delivery. True if the sink was broken until now.
    pub fn succeeded(&self, sink: &str) -> bool {
        let healed = self.with(sink, |s, notices| {
            s.summary.sent += 1;
            s.in_a_row = 0;
            s.probe_after = None;
            let healed = std::mem::take(&mut s.summary.broken);
            if healed {
                let since = s.since.take().unwrap_or_else(now);
                notices.push(notice(
                    sink,
                    since,
                    NotificationKind::Resolved,
                    "it takes messages again",
                ));
            }
            healed
        });
        if healed {
            self.changed.notify_one();
        }
        healed
    }

    /// Records a failure.
    pub fn failed(&self, sink: &str, error: &SendError, at: Instant) {
        let broke = self.with(sink, |s, notices| {
            s.in_a_row = s.in_a_row.saturating_add(1);
            let for_good = error.disposition == Disposition::GiveUp;
            if for_good {
                s.summary.parked += 1;
            } else {
                *s.summary.failed.entry(error.reason.as_str()).or_default() += 1;
            }
            if for_good && error.reason.breaks_sink() {
                s.probe_after = Some(at + PROBE);
            }
            let broken = (for_good && error.reason.breaks_sink()) || s.in_a_row >= FAILURES;
            let broke = broken && !s.summary.broken && error.reason != Reason::RateLimited;
            if broke {
                s.summary.broken = true;
                let since = now();
                s.since = Some(since);
                notices.push(notice(
                    sink,
                    since,
                    NotificationKind::Firing,
                    &error.to_string(),
                ));
            }
            broke
        });
        if broke {
            self.changed.notify_one();
        }
    }

    /// Records that a claim had lapsed while its message was under way.
    pub fn overtaken(&self, sink: &str) {
        self.with(sink, |s, _| s.summary.overtaken += 1);
    }

    /// Whether the sink refused for good and its next probe is not due.
    pub fn probing(&self, sink: &str, at: Instant) -> bool {
        self.with(sink, |s, _| s.probe_after.is_some_and(|t| t > at))
    }

    /// The counts of every sink that was used.
    pub fn summaries(&self) -> BTreeMap<String, Summary> {
        let inner = self
            .inner
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let sinks = inner.sinks.iter();
        sinks.map(|(k, v)| (k.clone(), v.summary.clone())).collect()
    }

    /// Takes what is to be told.
    pub fn take_notices(&self) -> Vec<Notice> {
        let mut inner = self
            .inner
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        std::mem::take(&mut inner.notices)
    }

    /// Waits until something is to be told.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// The wall clock: this is about the sinks of this process, not about the stream.
fn now() -> Time {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    Time(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

fn notice(sink: &str, since: Time, kind: NotificationKind, why: &str) -> Notice {
    let key = hash16("sink broken", &[sink.as_bytes()]);
    Notice {
        sink: sink.to_owned(),
        notification: Notification {
            key: key.to_string(),
            number: 1,
            dedup_key: hash16(
                "sink broken since",
                &[sink.as_bytes(), &since.0.to_le_bytes()],
            )
            .to_string(),
            kind,
            severity: Severity::High,
            stage: Stage::Page,
            detector: "deliver".into(),
            rule: "sink-broken".into(),
            title: format!("sink {sink} does not take messages"),
            tenant: "".into(),
            subject: format!("sink:{sink}").into(),
            user: None,
            model: None,
            gateway: None,
            event: None,
            members: Vec::new(),
            more: 0,
            over: 0,
            was: None,
            until_ms: None,
            since_ms: since.0,
            at_ms: now().0,
            findings: 1,
            reason: why.to_owned(),
            runbook: "deploy/runbooks/deliver.md".to_owned(),
            silence_command: format!(
                "veilwatch silence add --for 2h --comment 'why' 'subject=sink:{sink}'"
            ),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f44_refused_credentials_break_the_sink_once_and_heal_once() {
        let h = Health::default();
        let t = Instant::now();
        let refused = SendError::give_up(Reason::Auth, "status 401");
        h.failed("ops", &refused, t);
        h.failed("ops", &refused, t);
        let told = h.take_notices();
        assert_eq!(told.len(), 1, "told once, however often it is refused");
        assert_eq!(told[0].notification.kind, NotificationKind::Firing);
        assert!(h.probing("ops", t + Duration::from_secs(59)));
        assert!(!h.probing("ops", t + Duration::from_secs(61)));
        assert!(!h.probing("other", t));
        assert!(h.succeeded("ops"));
        assert!(!h.succeeded("ops"));
        let healed = h.take_notices();
        assert_eq!(healed.len(), 1);
        assert_eq!(healed[0].notification.kind, NotificationKind::Resolved);
        assert_eq!(
            healed[0].notification.dedup_key,
            told[0].notification.dedup_key
        );
    }

    #[test]
    fn an_outage_breaks_it_after_a_few_failures_a_rate_limit_never() {
        let h = Health::default();
        let t = Instant::now();
        let busy = SendError::retry(Reason::RateLimited, "status 429");
        for _ in 0..50 {
            h.failed("chat", &busy, t);
        }
        assert!(h.take_notices().is_empty());
        let down = SendError::retry(Reason::Connection, "refused");
        for _ in 0..FAILURES {
            h.failed("mail", &down, t);
        }
        assert_eq!(h.take_notices().len(), 1);
        assert!(
            !h.probing("mail", t),
            "an outage is retried by backoff, not by probes"
        );
    }
}
