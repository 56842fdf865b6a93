//! One worker per sink: claim, check the claim, send, record.
//!
//! A worker sends at most [`Limits::concurrency`] messages at a time and [`Limits::per_minute`] a
//! minute; critical messages are exempt from the rate and from a receiver's `Retry-After`, so that
//! nothing of higher severity waits behind lower, and never wait longer than [`Backoff::critical`].
//! Pauses after failures are random within bounds: replicas that failed together must not return
//! together. When a sink takes messages again, nothing waits for its pause to end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tracing::{Instrument as _, info, info_span, warn};

use super::health::PROBE;
use super::{
    Accepted, Claimed, Disposition, Health, Mark, Message, Named, Outbox, Reason, SendError, Sink,
};
use crate::decide::NotificationKind;
use crate::event::Severity;
use crate::telemetry::metrics;

/// Pause between looks at an outbox that had nothing to do. Wake-ups come with each commit of this
/// process; this bounds the delay of what other replicas committed.
const IDLE: Duration = Duration::from_millis(500);
/// Pause after the outbox itself failed (the database is away).
const AWAY: Duration = Duration::from_secs(1);

/// How hard a sink may be driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Messages under way at a time. More: order between incidents is lost, receivers throttle.
    pub concurrency: usize,
    /// Messages a minute below critical. Chat services allow about one a second.
    pub per_minute: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            concurrency: 4,
            per_minute: 60,
        }
    }
}

/// Pauses after failures: doubled from `first` up to `longest`, then varied by half.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// After the first failure. Shorter hammers a receiver that restarts; longer delays a page.
    pub first: Duration,
    /// Never longer.
    pub longest: Duration,
    /// Never longer for critical messages, whatever the receiver asks for.
    pub critical: Duration,
    /// How long a sink that refuses is tried again before its messages are parked. Shorter parks a page
    /// while a receiver is redeployed; longer tries wrong credentials for nothing.
    pub patience: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            longest: Duration::from_mins(15),
            critical: Duration::from_mins(1),
            patience: Duration::from_mins(5),
        }
    }
}

impl Backoff {
    /// The pause after `attempts` failures; `dice` in 0..=1 spreads it over 50–150 %.
    pub fn pause(&self, attempts: u32, dice: f64) -> Duration {
        let doubled = self
            .first
            .saturating_mul(1u32.checked_shl(attempts.min(20)).unwrap_or(u32::MAX));
        doubled
            .min(self.longest)
            .mul_f64(0.5 + dice.clamp(0.0, 1.0))
    }

    /// The pause of a message, with what the receiver asked for.
    fn pause_of(&self, row: Severity, attempts: u32, after: Option<Duration>) -> Duration {
        let pause = self.pause(attempts, fastrand::f64());
        let pause = pause.max(after.unwrap_or_default());
        match row {
            Severity::Critical => pause.min(self.critical),
            _ => pause,
        }
    }
}

/// A bucket that refills evenly and holds at most a tenth of a minute's worth.
#[derive(Debug)]
struct Bucket {
    tokens: f64,
    size: f64,
    per_second: f64,
    filled: Instant,
}

impl Bucket {
    fn new(per_minute: u32, now: Instant) -> Self {
        let size = (f64::from(per_minute) / 10.0).max(1.0);
        Self {
            tokens: size,
            size,
            per_second: f64::from(per_minute) / 60.0,
            filled: now,
        }
    }
    /// How many messages may go now, at most `most`.
    fn available(&mut self, now: Instant, most: usize) -> usize {
        let gained = now.duration_since(self.filled).as_secs_f64() * self.per_second;
        self.tokens = (self.tokens + gained).min(self.size);
        self.filled = now;
        (0..most)
            .zip(1u32..)
            .take_while(|(_, n)| self.tokens >= f64::from(*n))
            .count()
    }
    fn take(&mut self) {
        self.tokens -= 1.0;
    }
}

/// Drains one sink's part of the outbox until told to stop.
#[derive(Debug)]
pub struct Worker<O> {
    /// The sink's configured name.
    pub name: Arc<str>,
    /// Where messages go.
    pub sink: Arc<Sink>,
    /// Where rows come from.
    pub outbox: Arc<O>,
    /// Rung after each commit that wrote to the outbox.
    pub wake: Arc<Notify>,
    /// The state of all sinks.
    pub health: Arc<Health>,
    /// How hard to drive the sink.
    pub limits: Limits,
    /// How long to pause after failures.
    pub backoff: Backoff,
}

impl<O: Outbox> Worker<O> {
    /// Runs until `stop` turns true; lets what is under way finish (bounded by the send timeout).
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut bucket = Bucket::new(self.limits.per_minute, Instant::now());
        let mut held_until: Option<Instant> = None;
        let mut under_way: JoinSet<Option<Duration>> = JoinSet::new();
        let this = Arc::new(self);
        // Of what was parked before the process started, one is tried; later, while the sink is broken.
        let (mut probed, mut probe_at) = (false, Instant::now());
        while !*stop.borrow() {
            while let Some(done) = under_way.try_join_next() {
                if let Ok(Some(pause)) = done {
                    held_until = Some(Instant::now() + pause);
                }
            }
            let free = this.limits.concurrency.saturating_sub(under_way.len());
            let now = Instant::now();
            let held = held_until.is_some_and(|t| t > now) || this.health.probing(&this.name, now);
            let allowed = if held { 0 } else { bucket.available(now, free) };
            // Past the rate, or while the receiver asked for quiet, only critical ones are claimed.
            let (limit, floor) = if allowed == 0 {
                (free, Severity::Critical)
            } else {
                (allowed, Severity::Informational)
            };
            let claimed = if limit == 0 {
                Vec::new()
            } else {
                match this.outbox.claim(&this.name, limit, floor).await {
                    Ok(rows) => rows,
                    Err(e) => {
                        warn!(sink = %this.name, error = %e, "outbox cannot be read, will retry");
                        pause(AWAY, &mut stop).await;
                        continue;
                    }
                }
            };
            let probes = !probed || this.health.broken(&this.name);
            if claimed.is_empty() && probe_at <= now && probes {
                (probed, probe_at) = (true, now + PROBE);
                if this.outbox.probe(&this.name).await.is_ok_and(|one| one) {
                    continue;
                }
            }
            if claimed.is_empty() {
                tokio::select! {
                    () = this.wake.notified() => {}
                    () = tokio::time::sleep(IDLE) => {}
                    Some(done) = under_way.join_next(), if !under_way.is_empty() => {
                        if let Ok(Some(pause)) = done {
                            held_until = Some(Instant::now() + pause);
                        }
                    }
                    _ = stop.changed() => {}
                }
                continue;
            }
            for row in claimed {
                if row.message.notification.severity < Severity::Critical {
                    bucket.take();
                }
                let this = Arc::clone(&this);
                let kind = row.message.notification.kind.as_str();
                let span = info_span!("send", sink = %this.name, kind, attempt = row.attempts + 1);
                under_way.spawn(async move { this.one(row).await }.instrument(span));
            }
        }
        while under_way.join_next().await.is_some() {}
    }

    /// Sends one row. Returns a pause if the receiver asked everyone to wait.
    async fn one(&self, row: Claimed<O::Ticket>) -> Option<Duration> {
        match self.outbox.holds(&row).await {
            Ok(true) => {}
            Ok(false) => return None,
            Err(e) => {
                // The claim lapses by itself; another look comes after it.
                warn!(sink = %self.name, error = %e, "claim cannot be checked, not sent");
                return None;
            }
        }
        let started = Instant::now();
        let result = self.send(&row.message).await;
        metrics()
            .send_seconds
            .observe(&[&self.name], started.elapsed());
        let (mark, hold, well) = self.judge(&row, &result);
        match self.outbox.mark(&row, &mark).await {
            Ok(true) => {}
            Ok(false) => self.health.overtaken(&self.name),
            // Unmarked: it is sent again under the same key when the claim lapses.
            Err(e) => warn!(sink = %self.name, error = %e, "result cannot be recorded"),
        }
        if well {
            match self.outbox.healed(&self.name).await {
                Ok(0) => {}
                Ok(n) => info!(sink = %self.name, messages = n, "parked messages are sent now"),
                Err(e) => warn!(sink = %self.name, error = %e, "parked messages stay parked"),
            }
            self.wake.notify_waiters();
        }
        hold
    }

    /// Sends in a task of its own: a message that makes the program panic is parked, not claimed again
    /// every few seconds for ever.
    async fn send(&self, message: &Message) -> Result<Accepted, SendError> {
        let (sink, message) = (Arc::clone(&self.sink), message.clone());
        let task = tokio::spawn(async move { sink.send(&message).await });
        task.await.unwrap_or_else(|_| {
            Err(SendError::give_up(
                Reason::Message,
                "building the message panicked",
            ))
        })
    }

    /// What to record, how long all are to wait, and whether the sink has just begun to work.
    fn judge(
        &self,
        row: &Claimed<O::Ticket>,
        result: &Result<Accepted, SendError>,
    ) -> (Mark, Option<Duration>, bool) {
        let now = Instant::now();
        let severity = row.message.notification.severity;
        match result {
            Ok(accepted) => {
                let healed = self.health.succeeded(&self.name);
                if healed {
                    info!(sink = %self.name, "sink works again");
                }
                self.health.reached(&self.name, accepted);
                if accepted.missed > 0 {
                    warn!(sink = %self.name, missed = accepted.missed, detail = accepted.why,
                        again = accepted.again, "some receivers did not get the message");
                    let missed = accepted.missed as u64;
                    metrics().sends.add(&[&self.name, "missed"], missed);
                }
                let well = self.health.first_use(&self.name) || healed;
                let mark = if accepted.again {
                    let pause = self.backoff.pause_of(severity, row.attempts, None);
                    let why = accepted.why.clone();
                    Mark::Failed { pause, why }
                } else {
                    Mark::Sent
                };
                (mark, None, well)
            }
            Err(e) => {
                let why = e.to_string();
                let patience = self.backoff.patience;
                if self.health.failed(&self.name, e, now, patience) {
                    warn!(sink = %self.name, reason = e.reason.as_str(), detail = %e.detail, "message parked");
                    return (Mark::Parked { why }, None, false);
                }
                let hold = match e.disposition {
                    Disposition::Retry { after } => after,
                    Disposition::GiveUp => None,
                };
                let pause = self.backoff.pause_of(severity, row.attempts, hold);
                warn!(sink = %self.name, reason = e.reason.as_str(), detail = %e.detail,
                    attempt = row.attempts + 1, pause_ms = pause.as_millis(), "delivery failed, will retry");
                (Mark::Failed { pause, why }, hold, false)
            }
        }
    }
}

/// Sleeps, but not past the order to stop.
async fn pause(time: Duration, stop: &mut watch::Receiver<bool>) {
    tokio::select! {
        () = tokio::time::sleep(time) => {}
        _ = stop.changed() => {}
    }
}

/// Tells the other sinks that one is broken or works again: by another way than the outbox, since
/// the outbox is what is stuck. Tries each at most three times; the log has it in any case.
pub async fn tell_of_broken_sinks(
    health: Arc<Health>,
    sinks: Vec<Named>,
    mut stop: watch::Receiver<bool>,
) {
    let backoff = Backoff::default();
    while !*stop.borrow() {
        for notice in health.take_notices() {
            for Named { name, sink, .. } in &sinks {
                if **name == *notice.sink && !notice.by_itself {
                    continue;
                }
                let message = Message {
                    id: format!(
                        "{}-{}",
                        notice.notification.dedup_key,
                        u8::from(notice.notification.kind == NotificationKind::Resolved)
                    ),
                    notification: notice.notification.clone(),
                };
                for attempt in 0..3 {
                    match sink.send(&message).await {
                        Ok(_) => break,
                        Err(e) => {
                            warn!(sink = %name, error = %e, "cannot tell that another sink is broken");
                            if e.disposition == Disposition::GiveUp {
                                break;
                            }
                            pause(backoff.pause(attempt, fastrand::f64()), &mut stop).await;
                        }
                    }
                }
            }
        }
        tokio::select! {
            () = health.changed() => {}
            _ = stop.changed() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_within_bounds_and_never_overflow() {
        let b = Backoff::default();
        let mean: Vec<u64> = (0..12).map(|n| b.pause(n, 0.5).as_secs()).collect();
        assert_eq!(mean, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900]);
        assert_eq!(b.pause(0, 0.0), Duration::from_millis(500));
        assert_eq!(b.pause(0, 1.0), Duration::from_millis(1500));
        assert_eq!(b.pause(u32::MAX, 1.0), Duration::from_secs(1350));
    }

    #[test]
    fn a_critical_message_waits_a_minute_at_most() {
        let b = Backoff::default();
        let hour = Some(Duration::from_hours(1));
        for attempts in 0..50 {
            for after in [None, hour] {
                let pause = b.pause_of(Severity::Critical, attempts, after);
                assert!(pause <= Duration::from_mins(1), "{pause:?}");
            }
        }
        assert_eq!(b.pause_of(Severity::High, 0, hour), Duration::from_hours(1));
        assert!(b.pause_of(Severity::High, 50, None) > Duration::from_mins(7));
    }

    #[test]
    fn a_bucket_lets_the_rate_through_and_no_more() {
        let start = Instant::now();
        let mut b = Bucket::new(60, start);
        let mut passed = 0;
        for ms in 0..60_000u64 {
            if b.available(start + Duration::from_millis(ms), 4) > 0 {
                b.take();
                passed += 1;
            }
        }
        // One a second, and the six it starts with.
        assert!((64..=66).contains(&passed), "{passed}");
    }
}
