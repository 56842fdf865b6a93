//! The transactional producer: what a member publishes and how far it has read become visible together,
//! or not at all.
//!
//! Kafka refuses the offsets of a member that lost its partitions (it knows the group's generation), and a
//! producer that another of the same name has replaced. So whoever was stopped and goes on changes
//! nothing, and no reader of committed records ever sees what was not finished.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::topic_partition_list::TopicPartitionList;

use super::{MAX_BYTES, RelayConfig};
use crate::event::Time;
use crate::telemetry::metrics;

/// The client's queue holds twice what one transaction may.
const QUEUE_KBYTES: &str = "65536";
/// Age of a transaction at which it is committed: what sealing adds to the way of an event at most. Each
/// costs a few round trips and a marker on every partition it touched.
const COMMIT: Duration = Duration::from_millis(100);
/// Where committing is slow, transactions are longer: four times what the last commit took.
const SHARE: u32 = 4;
/// And never longer than this.
const LONGEST: Duration = Duration::from_secs(1);
/// `transaction.timeout.ms`. A member that dies leaves a transaction open, which holds back whoever reads
/// behind it until its name comes back or the broker ends it, at this age and up to 10 s more. Shorter
/// would end those that wait for the election of a partition's leader.
pub(super) const TIMEOUT: Duration = Duration::from_secs(20);
/// How long committing is tried before the transaction is given up.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);
/// How long aborting may take before the producer is replaced, which aborts, too.
const ABORT: Duration = Duration::from_secs(2);
/// One question to the transaction coordinator.
const SLICE: Duration = Duration::from_secs(2);

/// What to do about an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Abort, and begin anew where the group stands.
    Again(String),
    /// Trying again does not cure it.
    End(String),
}

impl Trouble {
    fn of(doing: &str, e: &KafkaError) -> Self {
        let code = match e {
            KafkaError::Transaction(t) => Some(t.code()),
            e => e.rdkafka_error_code(),
        };
        let said = format!("{doing}: {e}");
        match code {
            Some(
                Code::TopicAuthorizationFailed
                | Code::GroupAuthorizationFailed
                | Code::ClusterAuthorizationFailed
                | Code::TransactionalIdAuthorizationFailed,
            ) => Self::End(format!(
                "kafka refuses us {said}; check the rights to write to both topics, to read the group and to write to transactional ids that begin with its name"
            )),
            Some(
                Code::UnsupportedVersion
                | Code::UnsupportedForMessageFormat
                | Code::UnsupportedFeature
                | Code::InvalidTransactionTimeout,
            ) => Self::End(format!(
                "{said}; transactions need kafka 2.8 or newer, and transaction.max.timeout.ms of at least 20 s"
            )),
            _ => Self::Again(said),
        }
    }
}

/// What a delivery report is about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) bytes: usize,
    pub(super) dead: bool,
}

/// What the delivery reports of one producer said.
#[derive(Debug, Default)]
struct Reported {
    failed: AtomicBool,
    said: Mutex<Said>,
}

#[derive(Debug, Default)]
struct Said {
    why: Option<Trouble>,
    /// Made records that the topic does not take.
    too_large: Vec<Place>,
}

impl Reported {
    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, why: Trouble) {
        self.said().why.get_or_insert(why);
        self.failed.store(true, Ordering::Release);
    }
}

/// The producer's callbacks.
struct Reports(Arc<Reported>);

impl ClientContext for Reports {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, reason, "kafka producer");
        if error.rdkafka_error_code() == Some(Code::Fatal) {
            self.0.fail(Trouble::Again(format!("publishing: {reason}")));
        }
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<Place>;
    fn delivery(&self, result: &DeliveryResult<'_>, place: Box<Place>) {
        let Err((e, _)) = result else { return };
        match e.rdkafka_error_code() {
            // Said by an abort: they are made again.
            Some(Code::PurgeQueue | Code::PurgeInflight) => {}
            Some(Code::MessageSizeTooLarge) if !place.dead => {
                self.0.said().too_large.push(*place);
                self.0
                    .fail(Trouble::Again("a record is too large for its topic".into()));
            }
            _ => self.0.fail(Trouble::of("publishing", e)),
        }
    }
}

/// What becomes true with a transaction.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) published: u64,
    pub(super) duplicates: u64,
    pub(super) dead: Vec<&'static str>,
    /// Offsets left out, and why.
    pub(super) gaps: Vec<(&'static str, u64)>,
}

#[derive(Debug)]
struct Open {
    since: Instant,
    records: usize,
    bytes: usize,
    tally: Tally,
}

/// What is published.
pub(super) struct Out<'a> {
    pub(super) topic: &'a str,
    pub(super) key: &'a str,
    pub(super) value: &'a str,
    pub(super) signature: Option<&'a str>,
    pub(super) at: Time,
}

/// Whether the client took a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    Yes,
    /// It is larger than the client sends.
    TooLarge,
}

/// One named producer, and its open transaction.
pub(super) struct Writer {
    name: String,
    producer: ThreadedProducer<Reports>,
    reports: Arc<Reported>,
    open: Option<Open>,
    /// How long the last commit took.
    took: Duration,
}

impl Writer {
    /// Makes the producer of this name. Whoever had the name before is shut out, and what he left open is
    /// aborted.
    pub(super) fn new(
        config: &RelayConfig,
        name: String,
        deadline: Instant,
    ) -> Result<Self, Trouble> {
        let reports = Arc::new(Reported::default());
        let producer: ThreadedProducer<Reports> = settings(config, &name)
            .create_with_context(Reports(reports.clone()))
            .map_err(|e| Trouble::End(format!("the kafka client refuses its settings: {e}")))?;
        let writer = Self {
            name,
            producer,
            reports,
            open: None,
            took: Duration::ZERO,
        };
        let ready = retried(deadline, "beginning transactions", |t| {
            writer.producer.init_transactions(t)
        });
        match ready {
            Ok(()) => Ok(writer),
            Err(e) => {
                writer.discard();
                Err(match e {
                    Trouble::Again(why) => Trouble::Again(format!(
                        "{why}; if it lasts, transaction.state.log.replication.factor and .min.isr may be more than there are brokers"
                    )),
                    end @ Trouble::End(_) => end,
                })
            }
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// What went wrong since the last transaction began.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        if self.reports.failed.load(Ordering::Acquire) {
            self.reports.said().why.clone()
        } else {
            None
        }
    }

    /// Records that their topic did not take.
    pub(super) fn too_large(&self) -> Vec<Place> {
        std::mem::take(&mut self.reports.said().too_large)
    }

    /// Records of the open transaction.
    pub(super) fn records(&self) -> usize {
        self.open.as_ref().map_or(0, |o| o.records)
    }

    /// How long the open transaction may wait for more; none: nothing is open.
    pub(super) fn due(&self, max_records: usize) -> Option<Duration> {
        let open = self.open.as_ref()?;
        if open.records >= max_records || open.bytes >= MAX_BYTES {
            return Some(Duration::ZERO);
        }
        let age = (self.took * SHARE).clamp(COMMIT, LONGEST);
        Some(age.saturating_sub(open.since.elapsed()))
    }

    /// The open transaction's account; begins one where none is open.
    pub(super) fn tally(&mut self) -> Result<&mut Tally, Trouble> {
        Ok(&mut self.begun()?.tally)
    }

    fn begun(&mut self) -> Result<&mut Open, Trouble> {
        if self.open.is_none() {
            self.producer
                .begin_transaction()
                .map_err(|e| Trouble::of("beginning a transaction", &e))?;
        }
        Ok(self.open.get_or_insert_with(|| Open {
            since: Instant::now(),
            records: 0,
            bytes: 0,
            tally: Tally::default(),
        }))
    }

    /// Hands a record to the client, within the transaction.
    pub(super) fn send(&mut self, out: &Out<'_>, place: Place) -> Result<Sent, Trouble> {
        let open = self.begun()?;
        open.records += 1;
        open.bytes += place.bytes;
        let mut record = BaseRecord::with_opaque_to(out.topic, Box::new(place))
            .key(out.key)
            .payload(out.value);
        if out.at.0 > 0 {
            record = record.timestamp(out.at.0);
        }
        if let Some(signature) = out.signature {
            let header = Header {
                key: "vw-sig",
                value: Some(signature),
            };
            record = record.headers(OwnedHeaders::new_with_capacity(1).insert(header));
        }
        // The client's queue is larger than a transaction, so a full one cannot happen for long.
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(Sent::Yes),
                Err((KafkaError::MessageProduction(Code::QueueFull), back)) => {
                    if let Some(trouble) = self.trouble() {
                        return Err(trouble);
                    }
                    record = back;
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err((KafkaError::MessageProduction(Code::MessageSizeTooLarge), _))
                    if !place.dead =>
                {
                    return Ok(Sent::TooLarge);
                }
                Err((e, _)) => return Err(self.trouble().unwrap_or(Trouble::of("publishing", &e))),
            }
        }
    }

    /// Commits what was sent together with these offsets of the group, once everything is acknowledged.
    pub(super) fn commit(
        &mut self,
        offsets: &TopicPartitionList,
        group: &ConsumerGroupMetadata,
        limit: Duration,
    ) -> Result<(), Trouble> {
        if self.open.is_none() {
            return Ok(());
        }
        let began = Instant::now();
        let deadline = began + limit;
        let producer = &self.producer;
        retried(deadline, "waiting for delivery reports", |t| {
            producer.flush(t)
        })?;
        if let Some(trouble) = self.trouble() {
            return Err(trouble);
        }
        retried(deadline, "adding offsets to the transaction", |t| {
            producer.send_offsets_to_transaction(offsets, group, t)
        })?;
        retried(deadline, "committing the transaction", |t| {
            producer.commit_transaction(t)
        })?;
        self.took = began.elapsed();
        metrics().seal_transactions.inc(&["committed"]);
        if let Some(open) = self.open.take() {
            open.tally.count(&offsets.elements());
        }
        Ok(())
    }

    /// Drops what is open. False: this producer is of no use any more; the next of its name aborts.
    pub(super) fn abort(&mut self) -> bool {
        let used = self.open.take().is_some();
        if used {
            metrics().seal_transactions.inc(&["aborted"]);
        }
        let mut good = true;
        if used || self.trouble().is_some() {
            let aborted = retried(Instant::now() + ABORT, "aborting", |t| {
                self.producer.abort_transaction(t)
            });
            if let Err(Trouble::Again(why) | Trouble::End(why)) = &aborted {
                tracing::debug!(why, "the producer is replaced");
            }
            good = aborted.is_ok();
        }
        self.reports.said().why = None;
        self.reports.failed.store(false, Ordering::Release);
        good
    }

    /// Closing a client can take a while, and nothing depends on it.
    pub(super) fn discard(self) {
        let closing = std::thread::Builder::new().name("close".into());
        drop(closing.spawn(move || drop(self)));
    }
}

impl Tally {
    fn count(self, offsets: &[rdkafka::topic_partition_list::TopicPartitionListElem<'_>]) {
        // One topic is read.
        let topic = offsets.first().map_or("", |e| e.topic());
        let m = metrics();
        m.seal_records.add(&["published"], self.published);
        m.seal_records.add(&["duplicate"], self.duplicates);
        for reason in self.dead {
            m.seal_records.inc(&["dead_letter"]);
            m.dead_letters.inc(&[topic, reason]);
        }
        for (reason, n) in self.gaps {
            m.gaps.add(&[topic, reason], n);
        }
    }
}

/// Asks until it is answered: an answer that is late can be asked for again.
fn retried(
    deadline: Instant,
    doing: &str,
    ask: impl Fn(Duration) -> Result<(), KafkaError>,
) -> Result<(), Trouble> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let Err(e) = ask(left.clamp(Duration::from_millis(10), SLICE)) else {
            return Ok(());
        };
        let again = match &e {
            KafkaError::Transaction(t) => t.is_retriable(),
            KafkaError::Flush(code) => *code == Code::OperationTimedOut,
            _ => false,
        };
        if !again || Instant::now() >= deadline {
            return Err(Trouble::of(doing, &e));
        }
    }
}

fn settings(config: &RelayConfig, name: &str) -> ClientConfig {
    let mut c = config.from.client();
    c.set("transactional.id", name)
        .set("transaction.timeout.ms", TIMEOUT.as_millis().to_string())
        .set("acks", "all")
        .set("linger.ms", "5")
        .set("batch.size", "262144")
        // The partitioner of Kafka's own clients: a gateway that publishes sealed events by itself
        // puts the same user on the same partition.
        .set("partitioner", "murmur2_random")
        .set("reconnect.backoff.max.ms", "2000")
        .set("queue.buffering.max.messages", "0")
        .set("queue.buffering.max.kbytes", QUEUE_KBYTES);
    c
}
