//! Publishes the workload: a bounded way ahead of whoever consumes, or a whole backlog at once.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::bail;

use super::stage::{Stage, Stop};
use super::template::Templates;
use crate::event::Time;
use crate::ingest::publish::Publisher;

/// Records a partition may be ahead: the embedded broker keeps 5 MiB of each, so 4 MiB of 1 KB.
pub(super) const AHEAD: i64 = 4_000;
/// Events with a critical finding of a new user, a second, where latencies are measured: milder ones
/// end in the storm guard's digest.
const PROBES: f64 = 20.0;
/// Nothing moves for so long: the measurement has failed.
const STALLED: Duration = Duration::from_secs(60);

/// Records consumed so far, by partition.
pub(super) type Progress = Arc<Vec<AtomicI64>>;

/// Publishes to one topic and knows the offsets it gave.
pub(super) struct Producer {
    publisher: Publisher,
    templates: Templates,
    topic: String,
    stop: Stop,
    /// Records sent, by partition.
    pub(super) sent: Vec<i64>,
    /// When events with a finding were published, by number.
    pub(super) published: std::collections::HashMap<u64, Instant>,
}

impl Producer {
    pub(super) fn new(stage: &Stage, topic: &str, templates: Templates) -> anyhow::Result<Self> {
        Ok(Self {
            publisher: stage.publisher()?,
            templates,
            topic: topic.to_owned(),
            stop: stage.stop.clone(),
            sent: vec![0; 64],
            published: std::collections::HashMap::new(),
        })
    }

    /// Publishes `count` events, at most [`AHEAD`] a partition before `progress` (counted from
    /// `base`), at most `rate` a second where given.
    pub(super) fn send(
        &mut self,
        count: u64,
        progress: &Progress,
        base: &[i64],
        rate: Option<f64>,
        findings: Option<&Mutex<Vec<(usize, i64, Instant)>>>,
    ) -> anyhow::Result<()> {
        let started = Instant::now();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a count of events"
        )]
        let probe_every = rate.map_or(u64::MAX, |r| (r / PROBES).max(1.0) as u64);
        for n in 0..count {
            self.stop.check()?;
            if let Some(rate) = rate {
                #[expect(clippy::cast_precision_loss, reason = "a count of events")]
                let due = Duration::from_secs_f64(n as f64 / rate);
                while let Some(left) = due.checked_sub(started.elapsed()).filter(|d| !d.is_zero()) {
                    std::thread::sleep(left.min(Duration::from_millis(1)));
                }
            }
            let e = if findings.is_some() && n % probe_every == 0 {
                self.templates.probe(now())
            } else {
                self.templates.stamp(now())
            };
            let p = e.partition;
            let offset = self.sent[p];
            let mut at = progress[p].load(Ordering::Relaxed);
            let mut waiting = None;
            while offset - base[p] - (at - base[p]).max(0) > AHEAD {
                std::thread::sleep(Duration::from_millis(1));
                self.stop.check()?;
                let moved = progress[p].load(Ordering::Relaxed);
                if moved != at {
                    (at, waiting) = (moved, None);
                }
                if waiting.get_or_insert_with(Instant::now).elapsed() > STALLED {
                    bail!(
                        "{} partition {p} does not move: {offset} sent, {at} consumed",
                        self.topic
                    );
                }
            }
            if e.finding
                && let Some(list) = findings
            {
                let at = Instant::now();
                self.published.insert(e.number, at);
                list.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push((p, offset, at));
            }
            let to = i32::try_from(p).unwrap_or(0);
            self.publisher
                .send_waiting(&self.topic, Some(to), e.key, e.value)?;
            self.sent[p] += 1;
        }
        self.publisher.flush(Duration::from_secs(30))?;
        Ok(())
    }
}

/// Nobody waits for a backlog: as if all of it were consumed already.
pub(super) fn unthrottled() -> Progress {
    Arc::new((0..64).map(|_| AtomicI64::new(i64::MAX / 2)).collect())
}

/// Wall-clock time of the producer.
pub(super) fn now() -> Time {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Time(since.map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX)))
}
