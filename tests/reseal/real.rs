//! The seal job on a real Kafka: however often it is killed or stopped, a reader of committed records sees
//! each record once, and the window in which `run` knows a repetition is never needed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rustix::process::Signal;
use veilwatch::event::TopicPartition;
use veilwatch::ingest::ends;
use veilwatch::ingest::publish::Publisher;

use super::{BUDGET, Job, USERS, ids, raw, seconds};
use crate::pipeline::judge;
use crate::rig::{Broker, Rig, ended, now, runtime, signal, tail};

const PARTITIONS: u64 = 4;
/// Events a tenth of a second.
const PACE: u64 = 25;

fn topic(name: &str, partitions: u64) {
    let kafka = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/dev/kafka");
    let made = std::process::Command::new(kafka)
        .args(["topic", name, &partitions.to_string()])
        .status();
    assert!(made.expect("created").success());
}

/// Events and broken records, evenly over the partitions, until it is told to stop. Returns how many.
fn publish(p: &Publisher, topic: &str, stop: &AtomicBool) -> (u64, usize) {
    let (mut sent, mut broken) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..PACE {
            let part = i32::try_from(sent % PARTITIONS).expect("small");
            p.send_waiting(topic, Some(part), b"k", raw(sent, now()).as_bytes())
                .expect("sent");
            if sent % 40 == 7 {
                p.send_waiting(topic, Some(part), b"k", b"{\"v\":1,\"id\":")
                    .expect("sent");
                broken += 1;
            }
            sent += 1;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    p.flush(seconds(60)).expect("flushed");
    (sent, broken)
}

/// Waits until the sealed topic grows: a fault in a group that waits for its dead strikes nothing.
fn moves(job: &Job) {
    let config = job.rig.ingest();
    let end = || -> i64 {
        let parts = (0..PARTITIONS).map(|p| TopicPartition {
            topic: job.rig.topic.as_str().into(),
            partition: i32::try_from(p).expect("small"),
        });
        parts
            .map(|tp| ends(&config, &tp).expect("answered").1)
            .sum()
    };
    let (before, deadline) = (end(), Instant::now() + seconds(60));
    while end() == before {
        assert!(Instant::now() < deadline, "{}", tail(&job.rig.logs(), 30));
    }
}

/// Records of the sealed topic as they are written, aborted ones included.
fn written(job: &Job) -> usize {
    let consumer: BaseConsumer = job
        .rig
        .ingest()
        .reader()
        .set("group.id", "count")
        .set("isolation.level", "read_uncommitted")
        .set("enable.partition.eof", "true")
        .create()
        .expect("consumer");
    let mut list = TopicPartitionList::new();
    for p in 0..PARTITIONS {
        let p = i32::try_from(p).expect("small");
        list.add_partition_offset(&job.rig.topic, p, Offset::Beginning)
            .expect("added");
    }
    consumer.assign(&list).expect("assigned");
    let (mut records, mut open) = (0, PARTITIONS);
    let deadline = Instant::now() + seconds(60);
    while open > 0 {
        assert!(Instant::now() < deadline, "cannot count");
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(m)) => records += usize::from(m.payload().is_some()),
            Some(Err(KafkaError::PartitionEOF(_))) => open -= 1,
            _ => {}
        }
    }
    records
}

#[test]
fn f01_f03_sealed_once_however_often_killed_on_a_real_kafka() {
    let Ok(address) = std::env::var("VEILWATCH_CHAOS_KAFKA") else {
        return;
    };
    let faults: u64 = std::env::var("VEILWATCH_CHAOS_FAULTS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(12);
    let run = std::process::id();
    let names = [
        format!("raw-{run}"),
        format!("sealed-{run}"),
        format!("dead-{run}"),
    ];
    topic(&names[0], PARTITIONS);
    topic(&names[1], PARTITIONS);
    topic(&names[2], 1);
    let job = Job::with(Broker::Real(address), &names[0], &names[1], &names[2], "3");
    let rig = &job.rig;
    let stop = AtomicBool::new(false);
    let mut rng = fastrand::Rng::with_seed(7);
    let (sent, broken) = std::thread::scope(|scope| {
        let (publisher, topic, stop) = (rig.publisher(), &job.raw, &stop);
        let publishing = scope.spawn(move || publish(&publisher, topic, stop));
        let mut members = [job.start_as("a"), job.start_as("b")];
        let mut sealed = job.wait(&rig.topic, 100, seconds(90));
        for n in 0..faults {
            moves(&job);
            let i = rng.usize(0..members.len());
            if n % 3 == 2 {
                // Longer than the session: another member goes on, and then this one does, too.
                signal(&members[i], Signal::STOP);
                std::thread::sleep(Duration::from_millis(4_500));
                signal(&members[i], Signal::CONT);
            } else {
                signal(&members[i], Signal::KILL);
                ended(&mut members[i], seconds(45));
                members[i] = job.start_as("ab".get(i..=i).expect("two"));
            }
            std::thread::sleep(Duration::from_millis(rng.u64(300..1_500)));
            // Every few of them something got through: the group does not only wait for its dead.
            if n % 4 == 3 {
                sealed = job.wait(&rig.topic, sealed + 1, seconds(60));
            }
            for (m, name) in members.iter_mut().zip(["a", "b"]) {
                assert!(
                    m.try_wait().expect("waited").is_none(),
                    "{name} ended by itself\n{}",
                    tail(&rig.logs(), 30)
                );
            }
        }
        stop.store(true, Ordering::Relaxed);
        let (sent, broken) = publishing.join().expect("published");
        let all = usize::try_from(sent).expect("small");
        job.wait(&rig.topic, all, seconds(90));
        job.wait(&job.dead, broken, seconds(60));
        for m in &mut members {
            signal(m, Signal::TERM);
            assert!(ended(m, seconds(45)).success(), "{}", tail(&rig.logs(), 30));
        }
        (sent, broken)
    });

    let records = job.read(&rig.topic);
    let all = usize::try_from(sent).expect("small");
    assert_eq!(ids(&records).len(), all, "some are missing");
    assert_eq!(records.len(), all, "some are there twice");
    let letters = job.read(&job.dead);
    let places: BTreeSet<&str> = letters.iter().map(|l| l.1.as_str()).collect();
    assert_eq!((letters.len(), places.len()), (broken, broken));
    let written = written(&job);
    assert!(written > all, "no fault struck a transaction");

    // Behind it: the window in which repetitions are known has nothing to do, and the ledgers are exact.
    runtime().block_on(async {
        let config = rig.write_config("a.toml", &rig.config_text(BUDGET));
        let silent = now();
        let mut run = rig.spawn("run", &config, &[]);
        let pool = rig.pool().await;
        let expected: i64 = (0..sent)
            .map(|i| i64::try_from(105 + i).expect("small"))
            .sum();
        let deadline = Instant::now() + seconds(90);
        loop {
            // The markers at the end of each partition do not hold its watermark.
            let (tokens, behind): (i64, i64) = sqlx::query_as(
                "SELECT (SELECT coalesce(sum(tokens_input + tokens_output), 0)::bigint FROM vw.ledger WHERE width = 0),
                        (SELECT 4 - count(*) FROM vw.stream_partition WHERE watermark > $1)",
            )
            .bind(silent.0)
            .fetch_one(&pool)
            .await
            .unwrap_or((0, 4));
            if tokens == expected && behind == 0 {
                break;
            }
            assert!(
                Instant::now() < deadline,
                "{tokens} of {expected} tokens, {behind} partitions hold the time back\n{}",
                tail(&rig.logs(), 30)
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        signal(&run, Signal::TERM);
        assert!(ended(&mut run, seconds(45)).success());
        let o = judge(rig, BUDGET, &BTreeSet::new()).await;
        assert_eq!((o.events, o.duplicates), (sent, 0));
        let mut expected: BTreeMap<u64, i64> = BTreeMap::new();
        for i in 0..sent {
            *expected.entry(i % USERS).or_default() += i64::try_from(105 + i).expect("small");
        }
        let mut expected: Vec<i64> = expected.into_values().collect();
        expected.sort_unstable();
        let found: Vec<i64> = sqlx::query_scalar(
            "SELECT sum(tokens_input + tokens_output)::bigint FROM vw.ledger
              WHERE width = 0 GROUP BY subject ORDER BY 1",
        )
        .fetch_all(&pool)
        .await
        .expect("ledger");
        assert_eq!(found, expected);
    });
    eprintln!(
        "seal job: {faults} faults, {all} records sealed once of {written} written, {broken} dead letters"
    );
}

/// What stands in an open transaction was appended before it can be read: its partition's clock waits for it,
/// or minutes would close without it.
#[test]
fn an_open_transaction_holds_its_partitions_clock_on_a_real_kafka() {
    let Ok(address) = std::env::var("VEILWATCH_CHAOS_KAFKA") else {
        return;
    };
    let name = format!("open-{}", std::process::id());
    topic(&name, 1);
    let rig = Rig::with(Broker::Real(address), name);
    let limit = seconds(20);
    let producer: BaseProducer = rig
        .ingest()
        .client()
        .set("transactional.id", &rig.topic)
        .create()
        .expect("producer");
    producer.init_transactions(limit).expect("ready");
    runtime().block_on(async {
        let config = rig.write_config("a.toml", &rig.config_text(BUDGET));
        let mut run = rig.spawn("run", &config, &[]);
        let pool = rig.pool().await;
        let clock = async || -> i64 {
            let found =
                sqlx::query_scalar("SELECT coalesce(max(watermark), 0) FROM vw.stream_partition");
            found.fetch_one(&pool).await.unwrap_or(0)
        };
        let moves = async |from: i64| {
            let deadline = Instant::now() + seconds(60);
            while clock().await <= from {
                assert!(Instant::now() < deadline, "{}", tail(&rig.logs(), 30));
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        // Empty, and at its end.
        moves(now().0).await;
        producer.begin_transaction().expect("begun");
        let record = BaseRecord::to(&rig.topic)
            .key("k")
            .payload("{}")
            .partition(0);
        producer.send(record).map_err(|(e, _)| e).expect("sent");
        producer.flush(limit).expect("written");
        let written = now().0;
        // Long enough for several looks at the end.
        tokio::time::sleep(seconds(5)).await;
        assert!(clock().await < written, "it passed an open transaction");
        producer.commit_transaction(limit).expect("committed");
        rig.wait_applied(&pool, 1, seconds(30)).await;
        moves(written + 5_000).await;
        signal(&run, Signal::TERM);
        assert!(ended(&mut run, seconds(45)).success());
    });
}
