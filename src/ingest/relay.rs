//! Kafka to Kafka: reads a topic in a consumer group, hands every record to a [`Maker`], and publishes
//! what it makes in transactions that carry the group's offsets.
//!
//! Exactly once: what was made of a record and the offset behind it become visible together, so however a
//! process ends, and whoever goes on after whatever time, a reader of committed records sees each once.
//! What cannot be made goes to a dead-letter topic in the same transaction, as place and reason, never
//! bytes. Kafka's group holds the offsets, since there is no database here. Whatever goes wrong has one
//! cure: abort, and begin anew where the group stands; it is tried without end, and only an error that
//! trying again does not cure comes back. A transaction holds at most [`RelayConfig::max_in_flight`]
//! records or [`MAX_BYTES`].

mod group;
mod hand;
mod place;
mod shared;
mod watch;
mod writer;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::BorrowedMessage;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use self::group::Group;
use self::hand::{bury, take};
use self::shared::Shared;
use self::writer::{PATIENCE, Trouble, Writer};
use super::ask;
use super::batch::Fetched;
use super::consumer::{Ended, Handle, close_aside};
use super::errors::{Class, classify};
use super::read::{fetched, headers};
use super::settings::IngestConfig;
use crate::event::Time;
use crate::telemetry::{Health, metrics};

/// Bytes of made records in one transaction; the client's queue holds twice as many.
pub const MAX_BYTES: usize = 32 * 1024 * 1024;
/// How long one poll waits when nothing is there.
const POLL: Duration = Duration::from_millis(100);
/// Records between two looks at everything else.
const STRIDE: u32 = 256;
/// Nothing committed for longer, though something should be, is said in the health.
const SLOW: Duration = Duration::from_secs(30);
/// Pause before the group's place is asked for again: time for the client to hear that it lost its
/// partitions, and no storm of questions while the brokers are away.
const PAUSE: Duration = Duration::from_millis(200);
/// How long one such try may take. The thread does not poll meanwhile.
const ANEW: Duration = Duration::from_secs(10);

/// What a relay reads and where it writes.
#[derive(Debug, Clone)]
pub struct RelayConfig {
    /// Brokers, group, protection; one topic, which is read.
    pub from: IngestConfig,
    /// Topic for what was made.
    pub to: String,
    /// Topic for what could not be.
    pub dead: String,
    /// Records in one transaction at most.
    pub max_in_flight: usize,
    /// How long stopping tries to commit.
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
    /// A partition is read anew from the group's place: whatever is remembered of it is void, since
    /// records that were not committed come again.
    fn begin(&mut self, partition: i32);
    /// Makes a record of one read.
    fn make(&mut self, partition: i32, r: &Fetched<'_>, headers: &[(&str, &[u8])]) -> Made;
}

struct Relay<M: Maker> {
    shared: Arc<Shared>,
    consumer: BaseConsumer<Group>,
    maker: M,
}

/// Starts the relay: a polling and a watching thread.
///
/// # Errors
/// librdkafka refuses a setting, or no thread can be had.
pub fn spawn<M: Maker>(config: RelayConfig, maker: M, health: Health) -> Result<Handle, String> {
    let refused = |e: KafkaError| format!("the kafka client refuses its settings: {e}");
    let shared = Arc::new(Shared {
        asker: ask::ends_asker(&config.from).map_err(refused)?,
        config,
        health,
        state: Mutex::default(),
        writer: Mutex::default(),
        fatal: Mutex::default(),
        oversize: AtomicBool::new(false),
        look: AtomicBool::new(false),
    });
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
                maker,
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

impl<M: Maker> Relay<M> {
    fn run(&mut self, stop: &AtomicBool) -> Ended {
        let mut since = 0;
        while !stop.load(Ordering::Relaxed) {
            let left = self.commit_if_due();
            let polled = self.consumer.poll(left.min(POLL));
            let idle = polled.is_none();
            match polled {
                Some(Ok(m)) => {
                    if let Err(trouble) = hand_over(&self.shared, &mut self.maker, &m) {
                        drop(m);
                        self.recover(trouble);
                    }
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

    /// Commits a transaction that is old or large enough. Returns how long the next may wait.
    fn commit_if_due(&self) -> Duration {
        let (trouble, due) = match self.shared.writer().as_ref() {
            Some(w) => (w.trouble(), w.due(self.shared.config.max_in_flight)),
            None => (None, None),
        };
        let done = match (trouble, due) {
            (Some(trouble), _) => Err(trouble),
            (None, Some(Duration::ZERO)) => group::commit(&self.shared, &self.consumer, PATIENCE),
            (None, due) => return due.unwrap_or(POLL),
        };
        if let Err(trouble) = done {
            self.recover(trouble);
        }
        POLL
    }

    /// What is open is dropped, and reading begins anew where the group stands.
    fn recover(&self, trouble: Trouble) {
        let why = match trouble {
            Trouble::Again(why) => why,
            Trouble::End(why) => return self.shared.fail(why),
        };
        if self.shared.state().anew.is_some() {
            return;
        }
        tracing::warn!(
            why,
            "transaction aborted; its records are read and sealed again"
        );
        group::give_up(&self.shared);
        let _ = self.consumer.pause(&self.assigned());
        let mut state = self.shared.state();
        state.anew = Some(Instant::now() + PAUSE);
        state.troubled.get_or_insert_with(Instant::now);
    }

    fn begin_anew(&self) {
        if self.consumer.assignment_lost() {
            return;
        }
        let list = self.assigned();
        if list.count() == 0 {
            self.shared.state().anew = None;
            return;
        }
        match group::begin(&self.shared, &self.consumer, &list, Instant::now() + ANEW) {
            Ok(_) => {}
            Err(Trouble::Again(why)) => {
                tracing::warn!(why, "cannot begin anew yet");
                self.shared.state().anew = Some(Instant::now() + PAUSE);
            }
            Err(Trouble::End(why)) => self.shared.fail(why),
        }
    }

    fn assigned(&self) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for p in &self.shared.state().parts {
            list.add_partition(&p.tp.topic, p.tp.partition);
        }
        list
    }

    /// Everything but records: what the watching thread found, and beginning anew.
    fn look_around(&self) {
        self.shared.health.beat("kafka");
        self.tell_slowness();
        let anew = self.shared.state().anew;
        if let Some(at) = anew {
            if Instant::now() >= at {
                self.begin_anew();
            }
            return;
        }
        let mut dead = Vec::new();
        for p in &mut self.shared.state().parts {
            if let Some(low) = p.lost.take().filter(|low| *low > p.next) {
                dead.push((p.tp.partition, p.next, low, "retention"));
            }
            if let Some(at) = p.oversize.take().filter(|at| *at == p.next) {
                dead.push((p.tp.partition, at, at + 1, "oversize"));
            }
        }
        if dead.is_empty() {
            return;
        }
        for (partition, lo, hi, reason) in dead {
            if let Err(trouble) = self.leave_out(partition, lo, hi, reason) {
                return self.recover(trouble);
            }
        }
        self.restart();
    }

    fn tell_slowness(&self) {
        let records = self.shared.writer().as_ref().map_or(0, Writer::records);
        #[expect(clippy::cast_precision_loss, reason = "a gauge of records")]
        metrics().seal_in_flight.set(&[], records as f64);
        let troubled = self.shared.state().troubled;
        let stuck = troubled.is_some_and(|at| at.elapsed() > SLOW);
        let detail = match troubled {
            Some(at) => format!("no transaction committed for {} s", at.elapsed().as_secs()),
            None => "publishing".to_owned(),
        };
        self.shared.health.set("publishing", !stuck, detail);
    }

    /// Offsets that cannot be read: counted, and a dead letter says so.
    fn leave_out(
        &self,
        partition: i32,
        lo: i64,
        hi: i64,
        reason: &'static str,
    ) -> Result<(), Trouble> {
        let topic = self.shared.topic();
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
        bury(&self.shared, partition, (lo, hi), Time(0), &d)?;
        if let Some(w) = self.shared.writer().as_mut() {
            let n = u64::try_from(hi - lo).unwrap_or(0);
            w.tally()?.gaps.push((reason, n));
        }
        if let Some(p) = self.shared.state().part(partition) {
            p.pass(hi - 1);
        }
        Ok(())
    }

    /// Starts every partition where it stands: a seek does not reach one whose fetcher stopped.
    fn restart(&self) {
        let mut list = TopicPartitionList::new();
        for p in &self.shared.state().parts {
            let _ = list.add_partition_offset(&p.tp.topic, p.tp.partition, Offset::Offset(p.next));
        }
        if let Err(e) = self.consumer.assign(&list) {
            self.shared.fail(format!("cannot restart partitions: {e}"));
        }
        let _ = self.consumer.resume(&list);
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

    /// Commits what was read, within the drain's time.
    fn drain(&self) {
        if self.shared.state().anew.is_some() {
            return;
        }
        let limit = self.shared.config.drain;
        if let Err(Trouble::Again(why) | Trouble::End(why)) =
            group::commit(&self.shared, &self.consumer, limit)
        {
            tracing::warn!(why, "the last transaction is aborted; it is read again");
        }
    }

    /// Aborts what is open, so that it holds nobody back, and leaves the group.
    fn close(self) {
        let Self {
            consumer, shared, ..
        } = self;
        close_aside(move || {
            group::give_up(&shared);
            let writer = shared.writer().take();
            consumer.unsubscribe();
            drop(consumer);
            drop(writer);
        });
    }
}

fn hand_over(
    shared: &Shared,
    maker: &mut impl Maker,
    m: &BorrowedMessage<'_>,
) -> Result<(), Trouble> {
    take(shared, maker, m.partition(), &fetched(m), &headers(m))
}
