//! Kafka to Kafka: reads a topic in a consumer group, hands every record to a [`Maker`], publishes
//! what it makes, and commits an offset only when everything below it is acknowledged.
//!
//! At least once: after a crash the records behind the last committed offset are read and published
//! again, and the same record makes the same one. What cannot be made goes to a dead-letter topic as
//! place and reason, never bytes. Kafka's group holds the offsets, since there is no database here.
//! Bounded: [`RelayConfig::max_in_flight`] records or [`MAX_BYTES`] wait for their reports; then
//! nothing is read, while the thread keeps polling. Delivery is retried without end, so order holds
//! and only an error that trying again does not cure comes back.

mod group;
mod hand;
mod place;
mod shared;
mod watch;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::Headers as _;
use rdkafka::producer::ThreadedProducer;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use self::group::{Group, Reports};
use self::hand::{send_dead, take};
use self::shared::{Place, Shared};
use super::ask;
use super::batch::Fetched;
use super::consumer::{Ended, Handle};
use super::errors::{Class, classify};
use super::settings::IngestConfig;
use crate::event::Time;
use crate::telemetry::{Health, metrics};

/// Bytes of made records that may wait for their reports; the client's queue holds twice as many.
pub const MAX_BYTES: usize = 32 * 1024 * 1024;
const QUEUE_KBYTES: &str = "65536";
/// How long one poll waits when nothing is there.
const POLL: Duration = Duration::from_millis(100);
/// How long the thread waits for reports before it pauses what it reads and polls on.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pause between two commits of offsets: what is read again after a crash.
const COMMIT: Duration = Duration::from_secs(1);
/// Records between two looks at everything else.
const STRIDE: u32 = 256;
/// A delivery that waits longer is said in the health and the log.
const SLOW: Duration = Duration::from_secs(30);

/// What a relay reads and where it writes.
#[derive(Debug, Clone)]
pub struct RelayConfig {
    /// Brokers, group, protection; one topic, which is read.
    pub from: IngestConfig,
    /// Topic for what was made.
    pub to: String,
    /// Topic for what could not be.
    pub dead: String,
    /// Records that may wait for their reports.
    pub max_in_flight: usize,
    /// How long stopping waits for reports.
    pub drain: Duration,
}

/// What becomes of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Made {
    /// This, to be published.
    Record {
        /// Key.
        key: String,
        /// Value.
        value: String,
        /// Header `vw-sig`, where the job signs.
        signature: Option<String>,
    },
    /// Nothing: it was made a moment ago.
    Duplicate,
    /// Nothing: it cannot be made.
    Dead(Dead),
}

/// Why a record could not be made, and where; never a byte of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dead {
    /// From a fixed list.
    pub reason: &'static str,
    /// Field path, names only.
    pub path: Option<String>,
    /// Byte position.
    pub byte: Option<u64>,
    /// Size of the record.
    pub bytes: u64,
}

/// Makes one record out of another.
pub trait Maker: Send + 'static {
    /// A partition was assigned: whatever is remembered of it is void, since records that were not
    /// acknowledged come again.
    fn begin(&mut self, partition: i32);
    /// Makes a record of one read.
    fn make(&mut self, partition: i32, r: &Fetched<'_>, headers: &[(&str, &[u8])]) -> Made;
}

type Producer = ThreadedProducer<Reports>;

struct Relay<M: Maker> {
    shared: Arc<Shared>,
    consumer: BaseConsumer<Group>,
    producer: Producer,
    maker: M,
    committed: Instant,
    paused: bool,
}

/// Starts the relay: a polling and a watching thread.
///
/// # Errors
/// librdkafka refuses a setting, or no thread can be had.
pub fn spawn<M: Maker>(config: RelayConfig, maker: M, health: Health) -> Result<Handle, String> {
    let refused = |e: KafkaError| format!("the kafka client refuses its settings: {e}");
    let shared = Arc::new(Shared {
        asker: ask::asker(&config.from.reader()).map_err(refused)?,
        config,
        health,
        state: Mutex::default(),
        fatal: Mutex::default(),
        oversize: AtomicBool::new(false),
        look: AtomicBool::new(false),
    });
    let producer: Producer = producing(&shared.config.from)
        .create_with_context(Reports(shared.clone()))
        .map_err(refused)?;
    let consumer: BaseConsumer<Group> = shared
        .config
        .from
        .member()
        .create_with_context(Group(shared.clone()))
        .map_err(refused)?;
    consumer
        .subscribe(&[shared.topic()])
        .map_err(|e| format!("cannot subscribe to {}: {e}", shared.topic()))?;
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    let thread = std::thread::Builder::new()
        .name("relay".into())
        .spawn(move || {
            let quiet = Arc::new(AtomicBool::new(false));
            let (seen, end) = (shared.clone(), quiet.clone());
            let watcher = std::thread::Builder::new()
                .name("watch".into())
                .spawn(move || watch::watch(&seen, &end));
            let mut relay = Relay {
                shared,
                consumer,
                producer,
                maker,
                committed: Instant::now(),
                paused: false,
            };
            let ended = relay.run(&flag);
            if ended == Ended::Stopped {
                relay.drain();
            }
            quiet.store(true, Ordering::Relaxed);
            relay.close();
            drop(watcher);
            ended
        })
        .map_err(|e| format!("cannot start the relay's thread: {e}"))?;
    Ok(Handle::new(stop, thread))
}

fn producing(from: &IngestConfig) -> ClientConfig {
    let mut c = from.client();
    c.set("enable.idempotence", "true")
        .set("acks", "all")
        .set("linger.ms", "5")
        .set("batch.size", "262144")
        // The partitioner of Kafka's own clients: a gateway that publishes sealed events by itself
        // puts the same user on the same partition.
        .set("partitioner", "murmur2_random")
        // Retried until it works: order holds, and nothing is given up while the process lives.
        .set("message.timeout.ms", "0")
        .set("reconnect.backoff.max.ms", "2000")
        .set("queue.buffering.max.messages", "0")
        .set("queue.buffering.max.kbytes", QUEUE_KBYTES);
    c
}

impl<M: Maker> Relay<M> {
    fn run(&mut self, stop: &AtomicBool) -> Ended {
        let mut since = 0;
        while !stop.load(Ordering::Relaxed) {
            if self.is_full() {
                self.wait(stop);
                self.look_around();
            }
            let consumer = &self.consumer;
            let polled = consumer.poll(POLL);
            let idle = polled.is_none();
            match polled {
                Some(Ok(m)) => {
                    let headers: Vec<(&str, &[u8])> = m.headers().map_or_else(Vec::new, |h| {
                        (0..h.count())
                            .filter_map(|i| h.try_get(i))
                            .map(|h| (h.key, h.value.unwrap_or_default()))
                            .collect()
                    });
                    let record = Fetched {
                        offset: m.offset(),
                        ts_ms: m.timestamp().to_millis().unwrap_or(0),
                        key: m.key(),
                        value: m.payload(),
                    };
                    take(
                        &self.shared,
                        &self.producer,
                        &mut self.maker,
                        m.partition(),
                        &record,
                        &headers,
                    );
                }
                Some(Err(e)) => {
                    self.error(&e);
                    since = STRIDE;
                }
                None => {}
            }
            since += 1;
            if idle || since >= STRIDE {
                since = 0;
                self.look_around();
            }
            if let Some(why) = self.shared.failure() {
                return Ended::Failed(why);
            }
        }
        Ended::Stopped
    }

    fn is_full(&self) -> bool {
        let state = self.shared.state();
        state.in_flight >= self.shared.config.max_in_flight || state.bytes >= MAX_BYTES
    }

    /// Waits for reports, and pauses what is read when they do not come soon.
    fn wait(&mut self, stop: &AtomicBool) {
        let deadline = Instant::now() + PATIENCE;
        while self.is_full() && !stop.load(Ordering::Relaxed) && self.shared.failure().is_none() {
            if Instant::now() >= deadline {
                let list = self.assigned();
                self.paused = list.count() > 0 && self.consumer.pause(&list).is_ok();
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn assigned(&self) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for p in &self.shared.state().parts {
            list.add_partition(&p.tp.topic, p.tp.partition);
        }
        list
    }

    /// Everything but records: commit, resume, what the watching thread found.
    fn look_around(&mut self) {
        self.shared.health.beat("kafka");
        self.tell_slowness();
        let mut restart = false;
        let mut dead = Vec::new();
        {
            let mut state = self.shared.state();
            let epoch = state.epoch;
            for p in &mut state.parts {
                if let Some(low) = p.lost.take().filter(|low| *low > p.next) {
                    let (lo, hi) = (p.next, low);
                    p.open(hi - 1);
                    dead.push((epoch, p.tp.partition, lo, hi, "retention"));
                    restart = true;
                }
                if let Some(at) = p.oversize.take().filter(|at| *at == p.next) {
                    p.open(at);
                    dead.push((epoch, p.tp.partition, at, at + 1, "oversize"));
                    restart = true;
                }
            }
        }
        for (epoch, partition, lo, hi, reason) in dead {
            self.bury(epoch, partition, lo, hi, reason);
        }
        let refused = std::mem::take(&mut self.shared.state().refused);
        for r in refused {
            let d = Dead {
                reason: "sealed_too_large",
                path: None,
                byte: None,
                bytes: r.bytes as u64,
            };
            let at = Time(0);
            send_dead(
                &self.shared,
                &self.producer,
                r.epoch,
                r.partition,
                (r.offset, r.offset + 1),
                at,
                &d,
            );
        }
        if restart {
            self.restart();
        }
        if self.paused && !self.is_full() {
            let _ = self.consumer.resume(&self.assigned());
            self.paused = false;
        }
        if self.committed.elapsed() >= COMMIT {
            self.commit(CommitMode::Async);
        }
    }

    fn tell_slowness(&self) {
        let state = self.shared.state();
        #[expect(clippy::cast_precision_loss, reason = "a gauge of records")]
        metrics().seal_in_flight.set(&[], state.in_flight as f64);
        let stuck = state.in_flight > 0 && state.reported.is_some_and(|at| at.elapsed() > SLOW);
        let detail = if stuck {
            format!("{} records wait for delivery reports", state.in_flight)
        } else {
            "publishing".to_owned()
        };
        drop(state);
        self.shared.health.set("publishing", !stuck, detail);
    }

    /// Offsets that cannot be read: counted, and a dead letter says so.
    fn bury(&self, epoch: u64, partition: i32, lo: i64, hi: i64, reason: &'static str) {
        let topic = self.shared.topic();
        let n = u64::try_from(hi - lo).unwrap_or(0);
        metrics().gaps.add(&[topic, reason], n);
        tracing::error!(
            topic,
            partition,
            lo,
            hi,
            reason,
            "records cannot be read: left out"
        );
        let d = Dead {
            reason,
            path: None,
            byte: None,
            bytes: 0,
        };
        send_dead(
            &self.shared,
            &self.producer,
            epoch,
            partition,
            (lo, hi),
            Time(0),
            &d,
        );
    }

    /// Starts every partition where it stands: a seek does not reach one whose fetcher stopped.
    fn restart(&mut self) {
        let mut list = TopicPartitionList::new();
        for p in &self.shared.state().parts {
            let _ = list.add_partition_offset(&p.tp.topic, p.tp.partition, Offset::Offset(p.next));
        }
        if let Err(e) = self.consumer.assign(&list) {
            self.shared.fail(format!("cannot restart partitions: {e}"));
        }
        let _ = self.consumer.resume(&list);
        self.paused = false;
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

    fn commit(&mut self, mode: CommitMode) {
        self.committed = Instant::now();
        group::commit(&self.shared, &self.consumer, mode);
    }

    /// Waits for the reports about what was read, at most the drain's time, and commits.
    fn drain(&mut self) {
        let deadline = Instant::now() + self.shared.config.drain;
        while self.shared.state().in_flight > 0 && Instant::now() < deadline {
            self.look_around();
            std::thread::sleep(Duration::from_millis(5));
        }
        let left = self.shared.state().in_flight;
        if left > 0 {
            tracing::warn!(
                left,
                "not everything was acknowledged in time; it is read again"
            );
        }
        self.commit(CommitMode::Sync);
    }

    /// Leaves the group. Dropping a client can hang, so a thread of its own does it and the process
    /// may end before that.
    fn close(self) {
        let Self {
            consumer, producer, ..
        } = self;
        let (done, waiting) = std::sync::mpsc::channel();
        let spawned = std::thread::Builder::new()
            .name("close".into())
            .spawn(move || {
                consumer.unsubscribe();
                drop(consumer);
                drop(producer);
                let _ = done.send(());
            });
        if spawned.is_ok() && waiting.recv_timeout(Duration::from_secs(3)).is_err() {
            tracing::warn!("the kafka clients did not close in time");
        }
    }
}
