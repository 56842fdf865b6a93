//! Which sinks work, and what to tell when one does not.
//!
//! A sink is *broken* once it has refused for [`REFUSED`] with answers that say something about the sink
//! (credentials refused, nothing there, a redirect), after [`FAILURES`] failures in a row, or when it
//! has asked for fewer messages for [`LIMITED`]. The worker then only probes one that refuses; the others
//! are told once that it is broken and once that it works again. A redeployed receiver that answers 404
//! for a few seconds is none of that. Shared by the workers of a process; each replica keeps its own,
//! under one dedup key, so receivers fold them.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::{Accepted, Disposition, Reason, SendError};
use crate::decide::{Notification, NotificationKind};
use crate::event::{Severity, Stage, Time, hash16};

/// Failures in a row after which a sink counts as broken. Fewer would tell of every restart of a
/// receiver; more would hide an outage for many minutes (backoff doubles).
const FAILURES: u32 = 5;
/// Pause between probes of a sink that refuses for good.
pub(super) const PROBE: Duration = Duration::from_mins(1);
/// How long a sink may refuse before it counts as broken: longer than a redeploy takes.
const REFUSED: Duration = Duration::from_secs(15);
/// How long a sink may ask for fewer messages before it counts as broken. An honest limit is a minute's;
/// a mail server that is full for a day tells nobody.
const LIMITED: Duration = Duration::from_mins(15);

/// Replicas see one outage within seconds of each other: begun in one such span, it has one key for all.
const TOGETHER_MS: i64 = 600_000;
/// How long a receiver may take a notice as going on: it is told once.
const DAY_MS: i64 = 86_400_000;

/// Counts of one sink, for metrics and tests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Delivered.
    pub sent: u64,
    /// Failed and to be tried again, by reason.
    pub failed: BTreeMap<&'static str, u64>,
    /// Refused for good.
    pub parked: u64,
    /// Receivers that did not get a message which others of the sink got.
    pub missed: u64,
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
    /// The sink itself can carry it: only some of its receivers are cut off.
    pub by_itself: bool,
    /// What to say.
    pub notification: Notification,
}

#[derive(Debug, Default)]
struct State {
    summary: Summary,
    in_a_row: u32,
    since: Option<Time>,
    probe_after: Option<Instant>,
    /// Since when it refuses for good, without a success.
    refused: Option<Instant>,
    /// Since when it asks for fewer messages, without a success.
    limited: Option<Instant>,
    /// Since when some of its receivers get nothing.
    short: Option<Time>,
    /// It took a message since the process started.
    used: bool,
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
            (s.probe_after, s.refused, s.limited) = (None, None, None);
            let healed = std::mem::take(&mut s.summary.broken);
            if healed {
                let since = s.since.take().unwrap_or_else(now);
                notices.push(Notice::broken(
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

    /// Whether this is the sink's first delivery in this process: what was parked before may go now.
    pub fn first_use(&self, sink: &str) -> bool {
        self.with(sink, |s, _| !std::mem::replace(&mut s.used, true))
    }

    /// Records who of a sink's receivers missed a message that others got.
    pub fn reached(&self, sink: &str, accepted: &Accepted) {
        // Those who may get it at another attempt have not missed it yet.
        if accepted.again {
            return;
        }
        let told = self.with(sink, |s, notices| {
            s.summary.missed += accepted.missed as u64;
            let (since, kind, why) = match (s.short, accepted.missed) {
                (None, 1..) => {
                    let since = now();
                    s.short = Some(since);
                    (since, NotificationKind::Firing, accepted.why.as_str())
                }
                (Some(since), 0) => {
                    s.short = None;
                    (
                        since,
                        NotificationKind::Resolved,
                        "all receivers get them again",
                    )
                }
                _ => return false,
            };
            notices.push(Notice::short(sink, since, kind, why));
            true
        });
        if told {
            self.changed.notify_one();
        }
    }

    /// Records a failure. True: the message is to be parked, since the sink refuses it, or has refused
    /// everything for longer than `patience`.
    pub fn failed(&self, sink: &str, error: &SendError, at: Instant, patience: Duration) -> bool {
        let (park, broke) = self.with(sink, |s, notices| {
            s.in_a_row = s.in_a_row.saturating_add(1);
            let for_good = error.disposition == Disposition::GiveUp;
            let refuses = for_good && error.reason.breaks_sink();
            let limits = error.reason == Reason::RateLimited;
            let lasts = |since: &mut Option<Instant>, yes: bool| {
                yes.then(|| at.saturating_duration_since(*since.get_or_insert(at)))
            };
            let refused = lasts(&mut s.refused, refuses);
            let limited = lasts(&mut s.limited, limits);
            let park = for_good && refused.is_none_or(|t| t >= patience);
            if park {
                s.summary.parked += 1;
            } else {
                *s.summary.failed.entry(error.reason.as_str()).or_default() += 1;
            }
            let dead = refused.is_some_and(|t| t >= REFUSED.min(patience));
            if dead {
                s.probe_after = Some(at + PROBE);
            }
            let broken = match limited {
                Some(t) => t >= LIMITED,
                None => dead || s.in_a_row >= FAILURES,
            };
            let broke = broken && !s.summary.broken;
            if broke {
                s.summary.broken = true;
                let since = now();
                s.since = Some(since);
                let why = error.to_string();
                notices.push(Notice::broken(sink, since, NotificationKind::Firing, &why));
            }
            (park, broke)
        });
        if broke {
            self.changed.notify_one();
        }
        park
    }

    /// Tells every sink that this process does not work, or works again: past the outbox, which is in Postgres
    /// and may be what is away. `parts`: what of it does not.
    pub fn tell_of_outage(&self, parts: &str, since: Time, kind: NotificationKind, why: &str) {
        let began = Time(since.0.div_euclid(TOGETHER_MS) * TOGETHER_MS);
        let title = format!("veilwatch does not work: {parts}");
        // One key for one outage: without Postgres an idle replica says less than a busy one.
        let cause = ["postgres", "kafka"]
            .into_iter()
            .find(|c| parts.contains(c));
        let cause = cause.unwrap_or(parts);
        let mut notification = about(("process", cause), "not working", title, began, kind, why);
        notification.since_ms = since.0;
        notification.severity = Severity::Critical;
        "deploy/runbooks/process.md".clone_into(&mut notification.runbook);
        let mut inner = self
            .inner
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        inner.notices.push(Notice {
            sink: String::new(),
            by_itself: true,
            notification,
        });
        drop(inner);
        self.changed.notify_one();
    }

    /// Records that a claim had lapsed while its message was under way.
    pub fn overtaken(&self, sink: &str) {
        self.with(sink, |s, _| s.summary.overtaken += 1);
    }

    /// Whether the sink refused for good and its next probe is not due.
    pub fn probing(&self, sink: &str, at: Instant) -> bool {
        self.with(sink, |s, _| s.probe_after.is_some_and(|t| t > at))
    }

    /// Whether the sink counts as broken.
    pub fn broken(&self, sink: &str) -> bool {
        self.with(sink, |s, _| s.summary.broken)
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

impl Notice {
    /// The sink takes nothing, or works again.
    fn broken(sink: &str, since: Time, kind: NotificationKind, why: &str) -> Self {
        let title = format!("sink {sink} does not take messages");
        let notification = about(("sink", sink), "sink broken", title, since, kind, why);
        Self {
            sink: sink.to_owned(),
            by_itself: false,
            notification,
        }
    }

    /// Some of its receivers get nothing, or all do again. The others of that sink can be told.
    fn short(sink: &str, since: Time, kind: NotificationKind, why: &str) -> Self {
        let title = format!("a receiver of sink {sink} does not get messages");
        let notification = about(("sink", sink), "sink short", title, since, kind, why);
        Self {
            sink: sink.to_owned(),
            by_itself: true,
            notification,
        }
    }
}

fn about(
    (place, name): (&str, &str),
    what: &str,
    title: String,
    since: Time,
    kind: NotificationKind,
    why: &str,
) -> Notification {
    let dedup = hash16(
        &format!("{what} since"),
        &[name.as_bytes(), &since.0.to_le_bytes()],
    );
    Notification {
        key: hash16(what, &[name.as_bytes()]).to_string(),
        number: 1,
        dedup_key: dedup.to_string(),
        kind,
        severity: Severity::High,
        stage: Stage::Page,
        detector: "deliver".into(),
        rule: what.replace(' ', "-").into(),
        title,
        tenant: "".into(),
        subject: format!("{place}:{name}").into(),
        user: None,
        model: None,
        gateway: None,
        event: None,
        members: Vec::new(),
        more: 0,
        over: 0,
        was: None,
        until_ms: (kind != NotificationKind::Resolved).then(|| now().plus_ms(DAY_MS).0),
        since_ms: since.0,
        at_ms: now().0,
        findings: 1,
        reason: why.to_owned(),
        runbook: "deploy/runbooks/deliver.md".to_owned(),
        // Silences are in Postgres and about incidents; this is neither.
        silence_command: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_mins(5);

    #[test]
    fn f44_refused_credentials_break_the_sink_once_and_heal_once() {
        let h = Health::default();
        let t = Instant::now();
        let refused = SendError::give_up(Reason::Auth, "status 401");
        assert!(!h.failed("ops", &refused, t, PATIENCE), "tried again");
        assert!(h.take_notices().is_empty(), "it may be redeployed just now");
        let t = t + REFUSED;
        assert!(!h.failed("ops", &refused, t, PATIENCE));
        assert!(!h.failed("ops", &refused, t, PATIENCE));
        let told = h.take_notices();
        assert_eq!(told.len(), 1, "told once, however often it is refused");
        assert_eq!(told[0].notification.kind, NotificationKind::Firing);
        assert!(h.probing("ops", t + Duration::from_secs(59)));
        assert!(!h.probing("ops", t + Duration::from_secs(61)));
        assert!(!h.probing("other", t));
        assert!(h.failed("ops", &refused, t + PATIENCE, PATIENCE), "parked");
        assert!(h.succeeded("ops"));
        assert!(!h.succeeded("ops"));
        let healed = h.take_notices();
        assert_eq!(healed.len(), 1);
        assert_eq!(healed[0].notification.kind, NotificationKind::Resolved);
        assert_eq!(
            healed[0].notification.dedup_key,
            told[0].notification.dedup_key
        );
        assert!(
            !h.failed("ops", &refused, t + PATIENCE, PATIENCE),
            "patience begins anew"
        );
    }

    #[test]
    fn an_outage_of_all_replicas_is_one_alert_that_ends() {
        let (one, other) = (Health::default(), Health::default());
        let told = |h: &Health, ms, kind| {
            let parts = if ms == 1_200_001 {
                "commits, leader, notifier, postgres"
            } else {
                "leader, notifier, postgres"
            };
            h.tell_of_outage(parts, Time(ms), kind, "connection refused");
            let told = h.take_notices();
            assert!(told.len() == 1 && told[0].by_itself);
            told[0].notification.clone()
        };
        let began = told(&one, 1_200_001, NotificationKind::Firing);
        assert_eq!(
            (began.severity, began.since_ms),
            (Severity::Critical, 1_200_001)
        );
        assert_eq!(began.rule, "not-working");
        let also = told(&other, 1_203_000, NotificationKind::Firing);
        assert_eq!(began.dedup_key, also.dedup_key);
        let over = told(&one, 1_200_001, NotificationKind::Resolved);
        assert_eq!((began.dedup_key, over.until_ms), (over.dedup_key, None));
    }

    #[test]
    fn a_message_that_is_wrong_is_parked_at_once_and_breaks_nothing() {
        let h = Health::default();
        let wrong = SendError::give_up(Reason::Refused, "status 400");
        assert!(h.failed("ops", &wrong, Instant::now(), PATIENCE));
        assert!(h.take_notices().is_empty() && !h.probing("ops", Instant::now()));
    }

    #[test]
    fn an_outage_breaks_it_after_a_few_failures_a_rate_limit_after_a_while() {
        let h = Health::default();
        let t = Instant::now();
        let busy = SendError::retry(Reason::RateLimited, "status 429");
        for second in 0..LIMITED.as_secs() {
            h.failed("chat", &busy, t + Duration::from_secs(second), PATIENCE);
        }
        assert!(h.take_notices().is_empty());
        h.failed("chat", &busy, t + LIMITED, PATIENCE);
        assert_eq!(h.take_notices().len(), 1, "nobody is told there");
        let down = SendError::retry(Reason::Connection, "refused");
        for _ in 0..FAILURES {
            h.failed("mail", &down, t, PATIENCE);
        }
        assert_eq!(h.take_notices().len(), 1);
        assert!(
            !h.probing("mail", t),
            "an outage is retried by backoff, not by probes"
        );
    }

    #[test]
    fn a_receiver_that_is_cut_off_is_told_of_once() {
        let h = Health::default();
        let missed = |missed, again| Accepted {
            missed,
            why: "receiver 2 of 3: auth: SMTP status 550".into(),
            again,
        };
        h.reached("mail", &missed(1, true));
        assert!(h.take_notices().is_empty(), "it may get it yet");
        h.reached("mail", &missed(1, false));
        h.reached("mail", &missed(1, false));
        h.reached("mail", &missed(0, false));
        let told = h.take_notices();
        let kinds: Vec<_> = told.iter().map(|n| n.notification.kind).collect();
        assert_eq!(
            kinds,
            [NotificationKind::Firing, NotificationKind::Resolved]
        );
        assert!(told.iter().all(|n| n.by_itself));
        assert_eq!(h.summaries()["mail"].missed, 2);
    }
}
