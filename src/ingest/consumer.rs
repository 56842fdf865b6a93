//! The poll loop: one OS thread, which never waits long for anything but Kafka.

mod again;
mod handle;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

pub(super) use handle::close_aside;
pub use handle::{Ended, Handle};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::{Message as _, Timestamp};

use super::batch::Fetched;
use super::context::{Context, Shared};
use super::errors::{Class, classify};
use super::slot::{Taken, is_full};
use super::{Claims, Feedback, Inbox, IngestConfig};
use crate::event::TopicPartition;
use crate::telemetry::{Health, metrics};

/// How long one poll waits when nothing is there.
const POLL: Duration = Duration::from_millis(100);
/// How long it waits while a batch is open.
const POLL_OPEN: Duration = Duration::from_millis(5);
/// A batch at least so old goes early to a worker that waits. Shorter costs more than it gains: every
/// transaction has a price of its own, a third of all work at 5 ms.
const EARLY: Duration = Duration::from_millis(25);
/// How long the thread waits for a busy worker before it pauses the partition. Short against the
/// session timeout; pausing at once would throw fetched records away for a commit's few ms.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long a halt takes at most until it stands in Postgres, where it is not away: before that, that nothing
/// stands there does not say that an operator let the partition go on.
const TOLD: Duration = Duration::from_secs(15);
/// Records between two looks at everything else.
const STRIDE: u32 = 256;
/// Pause between hints to Kafka's own offsets.
const HINT: Duration = Duration::from_secs(5);

/// Starts the poll thread and the watching thread. `drain` bounds how long stopping waits for the
/// workers.
///
/// # Errors
/// librdkafka refuses a setting, or no thread can be had.
pub fn spawn<K: Claims>(
    config: IngestConfig,
    claims: Arc<K>,
    inboxes: Vec<Inbox<K::State>>,
    feedback: mpsc::Receiver<Feedback>,
    health: Health,
    drain: Duration,
) -> Result<Handle, String> {
    let stop = Arc::new(AtomicBool::new(false));
    let shared = Shared::new(config, claims, inboxes, health)
        .map_err(|e| format!("the kafka client refuses its settings: {e}"))?;
    let shared = Arc::new(shared);
    let consumer: BaseConsumer<Context<K>> = shared
        .config
        .member()
        .create_with_context(Context(shared.clone()))
        .map_err(|e| format!("the kafka client refuses its settings: {e}"))?;
    let topics: Vec<&str> = shared
        .config
        .topics
        .iter()
        .map(|t| t.name.as_str())
        .collect();
    consumer
        .subscribe(&topics)
        .map_err(|e| format!("cannot subscribe to {}: {e}", topics.join(", ")))?;
    let flag = stop.clone();
    let thread = std::thread::Builder::new()
        .name("ingest".into())
        .spawn(move || {
            let quiet = Arc::new(AtomicBool::new(false));
            let (seen, end) = (shared.clone(), quiet.clone());
            let watcher = std::thread::Builder::new()
                .name("watch".into())
                .spawn(move || super::watch::watch(&seen, &end));
            let mut poller = Poller {
                shared,
                consumer,
                feedback,
                hinted: Instant::now(),
                later: Vec::new(),
            };
            let ended = poller.run(&flag);
            if ended == Ended::Stopped {
                poller.drain(drain);
            }
            quiet.store(true, Ordering::Relaxed);
            poller.close();
            drop(watcher);
            ended
        })
        .map_err(|e| format!("cannot start the poll thread: {e}"))?;
    Ok(Handle::new(stop, thread))
}

struct Poller<K: Claims> {
    shared: Arc<Shared<K>>,
    consumer: BaseConsumer<Context<K>>,
    feedback: mpsc::Receiver<Feedback>,
    hinted: Instant,
    /// Claims to be made anew, and when.
    later: Vec<(Instant, TopicPartition, uuid::Uuid)>,
}

impl<K: Claims> Poller<K> {
    fn run(&mut self, stop: &AtomicBool) -> Ended {
        let mut since = 0;
        let mut open = false;
        while !stop.load(Ordering::Relaxed) {
            // What is there is taken without waiting, which costs reading clocks for every record.
            let there = self.consumer.poll(Duration::ZERO);
            let wait = if open { POLL_OPEN } else { POLL };
            let polled = there.or_else(|| self.consumer.poll(wait));
            let idle = polled.is_none();
            match polled {
                Some(Ok(m)) => {
                    self.take(&m);
                    open = true;
                }
                Some(Err(e)) => {
                    self.error(&e);
                    // Trouble must not keep the thread from pausing what causes it.
                    since = STRIDE;
                }
                None => {}
            }
            since += 1;
            if idle || since >= STRIDE {
                since = 0;
                self.look_around();
                open = self.shared.slots().iter().any(|s| !s.open.is_empty());
                if let Some(why) = self.shared.failure() {
                    return Ended::Failed(why);
                }
            }
        }
        Ended::Stopped
    }

    fn take(&self, m: &BorrowedMessage<'_>) {
        let mut slots = self.shared.slots();
        let (topic, partition) = (m.topic(), m.partition());
        let found = slots
            .iter_mut()
            .find(|s| s.tp.partition == partition && s.tp.topic == topic);
        let Some(slot) = found.filter(|s| s.halted.is_none()) else {
            return;
        };
        let record = Fetched {
            offset: m.offset(),
            ts_ms: m.timestamp().to_millis().unwrap_or(0),
            key: m.key(),
            value: m.payload(),
        };
        let headers = m.headers().into_iter().flat_map(|h| {
            (0..h.count())
                .filter_map(move |i| h.try_get(i))
                .map(|h| (h.key, h.value))
        });
        slot.create_time = matches!(m.timestamp(), Timestamp::CreateTime(_));
        match slot.take(&record, headers) {
            Taken::Yes | Taken::Stale => {}
            Taken::Truncated => {
                let (tp, next) = (slot.tp.clone(), slot.next);
                drop(slots);
                self.shared.cut(&tp, next);
                return;
            }
        }
        let (records, bytes) = (slot.open.len(), slot.open.bytes());
        if records >= self.shared.config.batch_records
            || is_full(&slots, bytes, self.shared.config.buffer_bytes)
        {
            drop(slots);
            self.make_room(topic, partition);
        }
    }

    /// A batch is full: hands it over, waits for the worker a little, or pauses the partition.
    fn make_room(&self, topic: &str, partition: i32) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let inbox = {
                let mut slots = self.shared.slots();
                let Some(s) = slots
                    .iter_mut()
                    .find(|s| s.tp.partition == partition && s.tp.topic == topic)
                else {
                    return;
                };
                if !s.inbox.holds(&s.tp) {
                    s.flush();
                    return;
                }
                if Instant::now() >= deadline {
                    let mut list = TopicPartitionList::new();
                    list.add_partition(topic, partition);
                    if self.consumer.pause(&list).is_ok() {
                        s.paused = true;
                    }
                    return;
                }
                s.inbox.clone()
            };
            inbox.wait_drained(deadline.saturating_duration_since(Instant::now()));
        }
    }

    /// Everything but records: hand over what is old enough, read what the workers say, resume,
    /// watch the progress, tell Kafka's lag tools.
    fn look_around(&mut self) {
        self.shared.health.beat("kafka");
        while let Ok(f) = self.feedback.try_recv() {
            self.hear(f);
        }
        let due = |l: &(Instant, _, _)| l.0 <= Instant::now();
        while let Some(i) = self.later.iter().position(due) {
            let (_, tp, claim) = self.later.swap_remove(i);
            self.reclaim(&tp, Some(claim));
        }
        let mut resume = TopicPartitionList::new();
        let mut pause = TopicPartitionList::new();
        let mut starts = Vec::new();
        let (mut paused, mut buffered) = (0u32, 0);
        {
            let mut slots = self.shared.slots();
            let hungry: Vec<bool> = self.shared.inboxes.iter().map(Inbox::is_hungry).collect();
            let any_hungry = hungry.into_iter().any(|h| h);
            for s in slots.iter_mut() {
                if std::mem::take(&mut s.moved) {
                    s.progress = Instant::now();
                }
                let due = s.open.age() >= self.shared.config.batch_age
                    || (any_hungry && s.open.age() >= EARLY);
                if due && !s.open.is_empty() && !s.inbox.holds(&s.tp) {
                    s.flush();
                }
                if std::mem::take(&mut s.pause_wanted) {
                    pause.add_partition(&s.tp.topic, s.tp.partition);
                }
                if std::mem::take(&mut s.restart_wanted) {
                    starts.push((s.tp.clone(), s.next));
                }
                if s.paused && s.halted.is_none() && s.open.is_empty() {
                    resume.add_partition(&s.tp.topic, s.tp.partition);
                    s.paused = false;
                    s.progress = Instant::now();
                }
                paused += u32::from(s.paused);
                buffered += s.open.bytes();
            }
        }
        metrics().paused.set(&[], f64::from(paused));
        #[expect(clippy::cast_precision_loss, reason = "a gauge of bytes")]
        metrics().buffered_bytes.set(&[], buffered as f64);
        if pause.count() > 0 {
            let _ = self.consumer.pause(&pause);
        }
        if resume.count() > 0 {
            let _ = self.consumer.resume(&resume);
        }
        if !starts.is_empty() {
            self.restart(&starts);
        }
        self.watch_progress();
        self.hint(CommitMode::Async);
    }

    fn hear(&mut self, f: Feedback) {
        match f {
            Feedback::Committed { tp, claim, next } => {
                let mut slots = self.shared.slots();
                if let Some(s) = slots.iter_mut().find(|s| s.tp == tp && s.claim == claim) {
                    s.applied = next;
                    s.progress = Instant::now();
                }
            }
            Feedback::Reclaim { tp, claim, after } if after.is_zero() => {
                self.reclaim(&tp, Some(claim));
            }
            Feedback::Reclaim { tp, claim, after } => self.reclaim_later(tp, claim, after),
            Feedback::Resume { tp } => {
                let slots = self.shared.slots();
                let halted = slots.iter().any(|s| {
                    let told = s.halted_at.is_none_or(|at| at.elapsed() >= TOLD);
                    s.tp == tp && s.halted.is_some() && told
                });
                drop(slots);
                if halted {
                    self.reclaim(&tp, None);
                }
            }
            Feedback::Halt {
                tp, claim, reason, ..
            } => {
                let mut slots = self.shared.slots();
                if let Some(s) = slots.iter_mut().find(|s| s.tp == tp && s.claim == claim) {
                    s.halted = Some(reason);
                    s.halted_at = Some(Instant::now());
                    s.pause_wanted = true;
                }
            }
        }
    }

    fn error(&self, e: &KafkaError) {
        let class = classify(e);
        metrics().kafka_errors.inc(&[class.as_str()]);
        match class {
            Class::Exit => self.shared.fail(format!("kafka: {e}")),
            Class::Ignore => {}
            Class::Retry => tracing::warn!(error = %e, "kafka"),
            Class::Halt => {
                tracing::warn!(error = %e, "kafka: looking at every partition");
                self.shared.look.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Tells Kafka what Postgres has, for lag tools. Errors are counted and ignored.
    fn hint(&mut self, mode: CommitMode) {
        if matches!(mode, CommitMode::Async) && self.hinted.elapsed() < HINT {
            return;
        }
        self.hinted = Instant::now();
        let mut list = TopicPartitionList::new();
        for s in self.shared.slots().iter_mut() {
            if s.applied > s.hinted {
                s.hinted = s.applied;
                let _ = list.add_partition_offset(
                    &s.tp.topic,
                    s.tp.partition,
                    Offset::Offset(s.applied),
                );
            }
        }
        if list.count() > 0 && self.consumer.commit(&list, mode).is_err() {
            metrics().hint_commit_errors.inc(&[]);
        }
    }

    /// Hands over what is open and waits until it is committed, or `limit` is over.
    fn drain(&mut self, limit: Duration) {
        let deadline = Instant::now() + limit;
        for s in self
            .shared
            .slots()
            .iter_mut()
            .filter(|s| s.halted.is_none())
        {
            s.flush();
        }
        while Instant::now() < deadline {
            while let Ok(f) = self.feedback.try_recv() {
                if let Feedback::Committed { .. } = f {
                    self.hear(f);
                }
            }
            let busy = {
                let slots = self.shared.slots();
                let mut live = slots.iter().filter(|s| s.halted.is_none());
                live.any(|s| s.next > s.floor && s.applied < s.next)
            };
            if !busy {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.hint(CommitMode::Async);
    }

    /// Leaves the group.
    fn close(self) {
        let Self {
            consumer, shared, ..
        } = self;
        close_aside(move || {
            consumer.unsubscribe();
            drop(consumer);
        });
        for inbox in &shared.inboxes {
            inbox.close();
        }
    }
}
