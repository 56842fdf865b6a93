//! The consumer on the embedded broker, with claims kept in memory instead of Postgres.

mod group;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use uuid::Uuid;
use veilwatch::event::TopicPartition;
use veilwatch::ingest::broker::EmbeddedBroker;
use veilwatch::ingest::publish::Publisher;
use veilwatch::ingest::{
    Batch, ClaimError, Claimed, Claims, Delivery, Ended, Feedback, Fingerprint, Handle, Inbox,
    IngestConfig, TopicConfig, TopicMode, check_topics, spawn,
};
use veilwatch::telemetry::Health;

use crate::rig::Broker;

/// What Postgres would hold of one partition.
#[derive(Debug, Clone, Default)]
struct Row {
    next: i64,
    claim: Uuid,
    last: Option<Fingerprint>,
}

#[derive(Debug, Default)]
struct Memory(Mutex<BTreeMap<TopicPartition, Row>>, Mutex<Duration>);

impl Claims for Memory {
    type State = ();
    fn claim(
        &self,
        wanted: &[(TopicPartition, i64)],
        _: Duration,
    ) -> Result<Vec<Claimed<()>>, ClaimError> {
        // A claim that takes longer than a poll may starves the thread that polls.
        let starve = std::mem::take(&mut *self.1.lock().expect("time"));
        std::thread::sleep(starve);
        let mut rows = self.0.lock().expect("rows");
        let claims = wanted.iter().map(|(tp, earliest)| {
            let row = rows.entry(tp.clone()).or_insert(Row {
                next: *earliest,
                ..Row::default()
            });
            row.claim = Uuid::new_v4();
            Claimed {
                id: row.claim,
                next_offset: row.next,
                start: row.next,
                last: row.last,
                halted: None,
                state: (),
            }
        });
        Ok(claims.collect())
    }
}

/// A consumer whose worker is the test.
struct Bench {
    broker: Broker,
    memory: Arc<Memory>,
    inbox: Inbox<()>,
    feedback: mpsc::Sender<Feedback>,
    handle: Handle,
}

const TOPIC: &str = "events";

fn embedded(partitions: i32) -> Broker {
    let topics = [(TOPIC.to_owned(), partitions)];
    let topics = if partitions > 0 { &topics[..] } else { &[] };
    Broker::Embedded(EmbeddedBroker::start(topics).expect("broker"))
}

fn config(broker: &Broker) -> IngestConfig {
    let topic = TopicConfig {
        name: TOPIC.into(),
        mode: TopicMode::Sealed,
    };
    let mut c = IngestConfig::new(broker.address(), "test", vec![topic]);
    c.session_timeout = Duration::from_secs(6);
    c.heartbeat_interval = Duration::from_millis(500);
    c.max_poll_interval = Duration::from_secs(10);
    c
}

fn publish(broker: &Broker, partition: i32, values: &[Vec<u8>]) {
    publish_to(broker, TOPIC, partition, values);
}

fn publish_to(broker: &Broker, topic: &str, partition: i32, values: &[Vec<u8>]) {
    let p = Publisher::new(config(broker).client()).expect("publisher");
    for v in values {
        p.send_waiting(topic, Some(partition), b"k", v)
            .expect("send");
    }
    p.flush(Duration::from_secs(20)).expect("flush");
}

/// A new topic of the real broker, where one is named: tests share it, each with a topic and a group of its own.
fn real(topic: &str, partitions: &str, settings: &[&str]) -> Option<Broker> {
    let address = std::env::var("VEILWATCH_CHAOS_KAFKA").ok()?;
    let kafka = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/dev/kafka");
    let made = std::process::Command::new(kafka)
        .args(["topic", topic, partitions])
        .args(settings)
        .status();
    assert!(made.expect("ran").success());
    Some(Broker::Real(address))
}

/// Consumes this topic, in a group named after it.
fn on(topic: &'static str) -> impl FnOnce(&mut IngestConfig) {
    move |c| {
        c.topics[0].name = topic.into();
        c.group = topic.into();
    }
}

fn start(broker: Broker, memory: Arc<Memory>, change: impl FnOnce(&mut IngestConfig)) -> Bench {
    let mut c = config(&broker);
    change(&mut c);
    let inbox = Inbox::default();
    let (feedback, hear) = mpsc::channel();
    let handle = spawn(
        c,
        memory.clone(),
        vec![inbox.clone()],
        hear,
        Health::default(),
        Duration::from_secs(3),
    )
    .expect("consumer");
    Bench {
        broker,
        memory,
        inbox,
        feedback,
        handle,
    }
}

/// What a worker saw, in order.
#[derive(Debug, PartialEq, Eq)]
enum Saw {
    Records(i32, i64, i64, usize),
    Gap(i32, i64, i64, &'static str),
    Halted(i32, i64, &'static str),
}

impl Bench {
    /// Works like the pipeline until `done` says so: compares and sets, then says what is committed.
    fn work(&self, mut done: impl FnMut(&[Saw]) -> bool) -> Vec<Saw> {
        let deadline = Instant::now() + Duration::from_secs(90);
        let mut saw = Vec::new();
        while !done(&saw) {
            assert!(Instant::now() < deadline, "nothing more came after {saw:?}");
            let Some(items) = self.inbox.take(Duration::from_millis(50)) else {
                panic!("the consumer ended after {saw:?}");
            };
            for d in items {
                match d {
                    Delivery::Batch(b) if !b.replay => self.commit(&b, &mut saw),
                    Delivery::Gap { tp, claim, gap } => {
                        saw.push(Saw::Gap(tp.partition, gap.lo, gap.hi, gap.reason));
                        self.memory
                            .0
                            .lock()
                            .expect("rows")
                            .get_mut(&tp)
                            .expect("row")
                            .next = gap.hi;
                        let _ = self.feedback.send(Feedback::Committed {
                            tp,
                            claim,
                            next: gap.hi,
                        });
                    }
                    Delivery::Halted {
                        tp, offset, reason, ..
                    } => saw.push(Saw::Halted(tp.partition, offset, reason)),
                    Delivery::Revoked { done, .. } => done.send(()).expect("waiting"),
                    _ => {}
                }
            }
        }
        saw
    }

    fn commit(&self, b: &Batch, saw: &mut Vec<Saw>) {
        let mut rows = self.memory.0.lock().expect("rows");
        let row = rows.get_mut(&b.tp).expect("row");
        if (row.claim, row.next) != (b.claim, b.lo) {
            return;
        }
        row.next = b.hi;
        row.last = b.last();
        saw.push(Saw::Records(b.tp.partition, b.lo, b.hi, b.len()));
        let _ = self.feedback.send(Feedback::Committed {
            tp: b.tp.clone(),
            claim: b.claim,
            next: b.hi,
        });
    }

    fn stop(self) -> (Broker, Ended) {
        self.handle.stop();
        let (inbox, handle) = (self.inbox, self.handle);
        while let Some(items) = inbox.take(Duration::from_millis(50)) {
            for d in items {
                if let Delivery::Revoked { done, .. } = d {
                    let _ = done.send(());
                }
            }
        }
        (self.broker, handle.join())
    }
}

fn records(saw: &[Saw]) -> usize {
    let n = saw.iter().map(|s| {
        if let Saw::Records(_, _, _, n) = s {
            *n
        } else {
            0
        }
    });
    n.sum()
}

fn small(n: usize) -> Vec<Vec<u8>> {
    (0..n)
        .map(|i| format!("{{\"n\":{i}}}").into_bytes())
        .collect()
}

#[test]
fn reads_from_the_committed_offset_after_a_restart() {
    let broker = embedded(2);
    publish(&broker, 0, &small(100));
    publish(&broker, 1, &small(50));
    let memory = Arc::new(Memory::default());
    let b = start(broker, memory.clone(), |_| {});
    assert_eq!(records(&b.work(|s| records(s) == 150)), 150);
    let (broker, ended) = b.stop();
    assert_eq!(ended, Ended::Stopped);

    publish(&broker, 1, &small(7));
    let b = start(broker, memory, |_| {});
    let saw = b.work(|s| records(s) >= 7);
    assert_eq!(saw, vec![Saw::Records(1, 50, 57, 7)]);
    b.stop();
}

#[test]
fn f11_retention_behind_our_offset_is_a_gap_and_the_partition_goes_on() {
    let broker = embedded(1);
    publish(&broker, 0, &small(10));
    let memory = Arc::new(Memory::default());
    let b = start(broker, memory.clone(), |_| {});
    b.work(|s| records(s) == 10);
    let (broker, _) = b.stop();
    // The embedded broker keeps 5 MiB a partition.
    publish(&broker, 0, &vec![vec![b'x'; 100_000]; 80]);
    let b = start(broker, memory, |_| {});
    let saw = b.work(|s| s.iter().any(|s| matches!(s, Saw::Records(_, _, 90, _))));
    let Saw::Gap(0, 10, hi, "retention") = saw[0] else {
        panic!("no gap first: {saw:?}");
    };
    let rest = i64::try_from(records(&saw)).expect("few");
    assert_eq!(hi + rest, 90, "gap and records make the whole: {saw:?}");
    b.stop();
}

#[test]
fn f12_a_recreated_topic_halts_its_partition() {
    let broker = embedded(1);
    publish(&broker, 0, &small(20));
    let memory = Arc::new(Memory::default());
    let tp = TopicPartition {
        topic: TOPIC.into(),
        partition: 0,
    };
    // Offsets beyond the end: the topic was recreated and is shorter now.
    memory.0.lock().expect("rows").insert(
        tp.clone(),
        Row {
            next: 500,
            ..Row::default()
        },
    );
    let b = start(broker, memory.clone(), |_| {});
    let saw = b.work(|s| !s.is_empty());
    assert_eq!(saw, vec![Saw::Halted(0, 500, "truncated")]);
    let (broker, _) = b.stop();

    // The same length, but another record stands where the last applied one stood.
    let last = Some(Fingerprint { ts_ms: 1, crc: 1 });
    memory.0.lock().expect("rows").insert(
        tp,
        Row {
            next: 10,
            last,
            ..Row::default()
        },
    );
    let b = start(broker, memory.clone(), |_| {});
    let saw = b.work(|s| !s.is_empty());
    assert_eq!(saw, vec![Saw::Halted(0, 10, "truncated")]);
    b.stop();
}

/// What goes on with `accept_truncation`, from a partition that stands at `next` after a record of
/// this time, over 20 records of now and then 3 more.
fn accepted(next: i64, ts_ms: i64) -> Vec<Saw> {
    let broker = embedded(1);
    publish(&broker, 0, &small(20));
    let memory = Arc::new(Memory::default());
    let tp = TopicPartition {
        topic: TOPIC.into(),
        partition: 0,
    };
    let last = Some(Fingerprint { ts_ms, crc: 1 });
    memory.0.lock().expect("rows").insert(
        tp,
        Row {
            next,
            last,
            ..Row::default()
        },
    );
    let b = start(broker, memory, |c| c.accept_truncation = true);
    let mut saw = b.work(|s| s.iter().any(|s| matches!(s, Saw::Gap(..))));
    publish(&b.broker, 0, &small(3));
    while !saw.iter().any(|s| matches!(s, Saw::Records(_, _, 23, _))) {
        saw.extend(b.work(|s| !s.is_empty()));
    }
    b.stop();
    saw
}

#[test]
fn f12_a_topic_made_anew_is_read_from_its_beginning() {
    // Shorter than the old one, and longer: its records are newer than the last one applied.
    for next in [500, 10] {
        let saw = accepted(next, 1);
        assert_eq!(saw[0], Saw::Gap(0, next, 0, "truncated"), "{saw:?}");
        assert_eq!(records(&saw), 23, "{saw:?}");
    }
}

#[test]
fn f12_what_is_left_of_a_cut_topic_does_not_count_twice() {
    // The last one applied was newer than what is there: its end is lost.
    let later = crate::rig::now().0 + 3_600_000;
    let saw = accepted(500, later);
    assert_eq!(saw[0], Saw::Gap(0, 500, 20, "truncated"), "{saw:?}");
    assert_eq!(records(&saw), 3, "{saw:?}");
    // And other records came since: those behind the place are new.
    let saw = accepted(10, later);
    assert_eq!(saw[0], Saw::Gap(0, 10, 10, "truncated"), "{saw:?}");
    assert_eq!(records(&saw), 13, "{saw:?}");
}

#[test]
fn f37_an_oversize_record_halts_its_partition_by_name_and_the_others_go_on() {
    oversize(embedded(3), |_| {});
}

/// The watchdog claims partitions anew while the connection breaks and breaks: a claim that Kafka
/// does not answer is tried again and ends nothing.
#[test]
fn f37_claims_on_a_breaking_connection_do_not_end_the_process() {
    oversize(embedded(3), |c| {
        c.progress_timeout = Duration::from_secs(2);
    });
}

/// The same on the real broker of `deploy/dev/kafka`, where one is named.
#[test]
fn f37_on_a_real_kafka() {
    if let Some(broker) = real(TOPIC, "3", &["max.message.bytes=33554432"]) {
        oversize(broker, |_| {});
    }
}

fn oversize(broker: Broker, change: impl FnOnce(&mut IngestConfig)) {
    publish(&broker, 0, &small(5));
    publish(&broker, 1, &[vec![b'x'; 20 * 1024 * 1024]]);
    publish(&broker, 2, &[vec![b'x'; 15 * 1024 * 1024]]);
    let b = start(broker, Arc::default(), change);
    let saw = b.work(|s| s.iter().any(|s| matches!(s, Saw::Halted(..))) && records(s) >= 6);
    assert!(saw.contains(&Saw::Halted(1, 0, "oversize")), "{saw:?}");
    assert!(saw.contains(&Saw::Records(2, 0, 1, 1)), "{saw:?}");
    publish(&b.broker, 0, &small(3));
    b.work(|s| records(s) == 3);
    assert_eq!(b.stop().1, Ended::Stopped);
}

#[test]
fn f08_a_slow_worker_pauses_and_loses_nothing() {
    let broker = embedded(1);
    publish(&broker, 0, &vec![vec![b'x'; 2_000]; 2_000]);
    let b = start(broker, Arc::default(), |c| {
        c.buffer_bytes = 256 * 1024;
        c.batch_records = 100;
    });
    // Nobody works for a while: the buffer fills, the partition pauses, the member stays.
    let deadline = Instant::now() + Duration::from_secs(60);
    while veilwatch::telemetry::metrics().paused.value(&[]) < 1.0 {
        assert!(Instant::now() < deadline, "never paused");
        std::thread::sleep(Duration::from_millis(20));
    }
    let saw = b.work(|s| records(s) == 2_000);
    assert!(saw.len() >= 20, "batches are bounded: {}", saw.len());
    b.stop();
}

#[test]
fn f09_a_broker_that_goes_and_comes_back() {
    let broker = embedded(1);
    publish(&broker, 0, &small(5));
    let b = start(broker, Arc::default(), |_| {});
    b.work(|s| records(s) == 5);
    let Broker::Embedded(broker) = &b.broker else {
        unreachable!("as made above");
    };
    broker.down().expect("down");
    std::thread::sleep(Duration::from_secs(2));
    broker.up().expect("up");
    publish(&b.broker, 0, &small(5));
    b.work(|s| records(s) == 5);
    b.stop();
}

#[test]
fn f14_a_missing_topic_and_a_missing_broker_are_named() {
    let broker = embedded(0);
    let mut c = config(&broker);
    let error = check_topics(&c).expect_err("missing").to_string();
    assert!(
        error.contains("topic events does not exist") && error.contains("create it"),
        "{error}"
    );
    c.brokers = "127.0.0.1:1".into();
    let error = check_topics(&c).expect_err("unreachable").to_string();
    assert!(
        error.contains("no kafka broker answers at 127.0.0.1:1"),
        "{error}"
    );
}

/// A transaction leaves a marker behind its last record, which no client delivers: the partition is at its
/// end all the same. Only on the real broker, where one is named: the embedded one writes no markers.
#[test]
fn a_transaction_at_the_end_on_a_real_kafka() {
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
    const ENDS: &str = "ends-in-a-marker";
    let Some(broker) = real(ENDS, "1", &[]) else {
        return;
    };
    let producer: BaseProducer = config(&broker)
        .client()
        .set("transactional.id", "test")
        .create()
        .expect("producer");
    let limit = Duration::from_secs(20);
    producer.init_transactions(limit).expect("ready");
    producer.begin_transaction().expect("begun");
    for _ in 0..3 {
        let record = BaseRecord::to(ENDS).key("k").payload("{}").partition(0);
        producer.send(record).map_err(|(e, _)| e).expect("sent");
    }
    producer.commit_transaction(limit).expect("committed");
    let b = start(broker, Arc::default(), on(ENDS));
    b.work(|s| records(s) == 3);
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut at = None;
    while at.is_none() {
        assert!(Instant::now() < deadline, "never at its end");
        for d in b.inbox.take(Duration::from_millis(50)).expect("open") {
            if let Delivery::AtEnd { offset, .. } = d {
                at = Some(offset);
            }
        }
    }
    assert_eq!(at, Some(3));
    b.stop();
}
