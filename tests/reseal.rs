//! `veilwatch seal --kafka`: killed in the middle, and what comes out counts once in the ledgers behind it.
//!
//! On the embedded broker here. It knows the requests of transactions and nothing of their effect: it keeps
//! no offsets that come with one, and shows what was aborted. So each start reads the raw topic from its
//! beginning, and these tests prove that nothing is lost and nothing unsealed; that nothing comes twice is
//! proved in `real`.

mod real;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use veilwatch::event::Time;
use veilwatch::ingest::broker::EmbeddedBroker;
use veilwatch::ingest::read::read_topic;

use crate::pipeline::judge;
use crate::rig::{Broker, Process, Rig, TOPIC, ended, now, runtime, signal, tail};

const RAW: &str = "llm.raw.v1";
const DEAD: &str = "llm.dead.v1";
const BUDGET: &str = "[[budget]]\nscope = \"user\"\nperiod = \"day\"\ntokens = 100000\n";
const USERS: u64 = 17;

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

struct Job {
    rig: Rig,
    key: String,
    raw: String,
    dead: String,
    session: &'static str,
}

impl Job {
    fn new() -> Self {
        let topics = [
            (RAW.to_owned(), 3),
            (TOPIC.to_owned(), 4),
            (DEAD.to_owned(), 1),
        ];
        let broker = EmbeddedBroker::start(&topics).expect("broker");
        Self::with(Broker::Embedded(broker), RAW, TOPIC, DEAD, "6")
    }

    fn with(broker: Broker, raw: &str, to: &str, dead: &str, session: &'static str) -> Self {
        let rig = Rig::with(broker, to.into());
        let key = rig.dir.path().join("seal.key");
        let made = std::process::Command::new(env!("CARGO_BIN_EXE_veilwatch"))
            .args(["key", "new", "--key-file"])
            .arg(&key)
            .status();
        assert!(made.expect("key new").success());
        let key = key.to_str().expect("utf-8").to_owned();
        Self {
            rig,
            key,
            raw: raw.to_owned(),
            dead: dead.to_owned(),
            session,
        }
    }

    fn start(&self) -> Process {
        self.start_as("seal")
    }

    fn start_as(&self, name: &str) -> Process {
        let brokers = self.rig.broker.address();
        let args = [
            "seal",
            "--kafka",
            "--brokers",
            &brokers,
            "--from-topic",
            &self.raw,
            "--to-topic",
            &self.rig.topic,
            "--dead-letter-topic",
            &self.dead,
            "--key-file",
            &self.key,
            "--session-timeout",
            self.session,
            "--listen",
            "127.0.0.1:0",
        ];
        self.rig.spawn_verb(name, &args, &[])
    }

    fn publish(&self, partition: i32, values: &[Vec<u8>]) {
        let p = self.rig.publisher();
        for v in values {
            p.send_waiting(&self.raw, Some(partition), b"k", v)
                .expect("sent");
        }
        p.flush(seconds(30)).expect("flushed");
    }

    /// Records of a topic: (partition, key, value).
    fn read(&self, topic: &str) -> Vec<(i32, String, String)> {
        let mut out = Vec::new();
        let text = |b: Option<&[u8]>| String::from_utf8_lossy(b.unwrap_or_default()).into_owned();
        let mut ingest = self.rig.ingest();
        topic.clone_into(&mut ingest.topics[0].name);
        read_topic(&ingest, topic, |p, r, _| {
            out.push((p, text(r.key), text(r.value)));
        })
        .expect("read");
        out
    }

    /// Waits until a topic holds so many records.
    fn wait(&self, topic: &str, n: usize, limit: Duration) -> usize {
        let deadline = Instant::now() + limit;
        loop {
            let have = self.read(topic).len();
            if have >= n {
                return have;
            }
            assert!(
                Instant::now() < deadline,
                "{have} of {n} records in {topic}\n{}",
                tail(&self.rig.logs(), 30)
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn raw(i: u64, at: Time) -> String {
    let user = i % USERS;
    format!(
        r#"{{"v":1,"id":"e{i}","gateway":"gw","boot":"b1","lane":{},"seq":{},"at":"{at}","operation":"chat","user":"person{user}@example.com","model":{{"requested":"gpt-4o"}},"status":200,"usage":{{"input":{},"output":5,"state":"final"}},"request":{{"text":"zqsecret question {i}"}}}}"#,
        i % 3,
        i / 3,
        100 + i,
    )
}

#[test]
fn killed_in_the_middle_every_event_counts_once_behind_it() {
    let job = Job::new();
    let rig = &job.rig;
    let mut sent = 0u64;
    let mut broken = 0usize;
    let mut publish = |n: u64| {
        let mut parts: [Vec<Vec<u8>>; 3] = Default::default();
        for i in sent..sent + n {
            let p = usize::try_from(i % 3).expect("small");
            parts[p].push(raw(i, now()).into_bytes());
            if i % 50 == 7 {
                // A gateway that sends again, and one that is broken.
                parts[p].push(raw(i, now()).into_bytes());
                parts[p].push(format!("{{\"v\":1,\"id\":\"zqbroken{i}\",").into_bytes());
                broken += 1;
            }
        }
        sent += n;
        for (p, values) in (0..).zip(&parts) {
            job.publish(p, values);
        }
        (usize::try_from(sent).expect("small"), broken)
    };
    let (mut unique, mut dead) = (0, 0);
    let mut sealed = 0;
    for _ in 0..2 {
        (unique, dead) = publish(300);
        let mut child = job.start();
        sealed = job.wait(TOPIC, sealed + 60, seconds(60));
        signal(&child, Signal::KILL);
        ended(&mut child, Duration::from_secs(45));
    }
    let mut child = job.start();
    job.wait(DEAD, dead, seconds(60));
    job.wait(TOPIC, unique, seconds(60));
    signal(&child, Signal::TERM);
    assert!(
        ended(&mut child, Duration::from_secs(45)).success(),
        "{}",
        tail(&rig.logs(), 20)
    );
    (unique, _) = publish(20);
    let mut child = job.start();
    let deadline = Instant::now() + seconds(40);
    while ids(&job.read(TOPIC)).len() < unique {
        assert!(Instant::now() < deadline, "{}", tail(&rig.logs(), 20));
        std::thread::sleep(Duration::from_millis(100));
    }
    signal(&child, Signal::TERM);
    assert!(ended(&mut child, Duration::from_secs(45)).success());

    let records = job.read(TOPIC);
    assert!(records.len() > unique, "each start begins anew here");
    let all: String = records.iter().fold(String::new(), |mut all, r| {
        let _ = writeln!(all, "{} {}", r.1, r.2);
        all
    });
    for plain in ["zqsecret", "@example.com", "person1"] {
        assert!(!all.contains(plain), "{plain} was not sealed");
    }
    // Keyed by user, one partition each; id, lane and sequence as they came.
    let mut places: BTreeMap<&str, BTreeSet<i32>> = BTreeMap::new();
    for (p, key, value) in &records {
        places.entry(key).or_default().insert(*p);
        let v: serde_json::Value = serde_json::from_str(value).expect("JSON");
        assert_eq!(v["user"], key.as_str());
        let i: u64 = v["id"].as_str().expect("id")[1..].parse().expect("number");
        // Lane 0 is not written.
        let lane = v["lane"].as_u64().unwrap_or(0);
        assert_eq!((lane, v["seq"].as_u64()), (i % 3, Some(i / 3)));
    }
    assert_eq!(places.len(), usize::try_from(USERS).expect("small"));
    assert!(places.values().all(|p| p.len() == 1), "{places:?}");
    // What cannot be sealed: place and reason.
    let letters = job.read(DEAD);
    let distinct: BTreeSet<&str> = letters.iter().map(|l| l.1.as_str()).collect();
    assert_eq!(distinct.len(), broken);
    for (_, key, value) in &letters {
        let v: serde_json::Value = serde_json::from_str(value).expect("JSON");
        assert_eq!(
            (v["reason"].as_str(), v["topic"].as_str()),
            (Some("not_json"), Some(RAW))
        );
        assert!(!value.contains("zqbroken") && key.starts_with(RAW));
    }

    // Behind it: every event once, exact to the token.
    runtime().block_on(async {
        let config = rig.write_config("a.toml", &rig.config_text(BUDGET));
        let mut run = rig.spawn("run", &config, &[]);
        let pool = rig.pool().await;
        let total = i64::try_from(records.len()).expect("fits");
        rig.wait_applied(&pool, total, seconds(60)).await;
        signal(&run, Signal::TERM);
        assert!(ended(&mut run, Duration::from_secs(45)).success());
        let o = judge(rig, BUDGET, &BTreeSet::new()).await;
        assert_eq!(o.events, sent);
        assert_eq!(o.duplicates, total.cast_unsigned() - sent);
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
}

#[test]
fn f37_what_cannot_be_fetched_becomes_a_dead_letter_and_the_partition_goes_on() {
    let job = Job::new();
    job.publish(0, &[raw(0, now()).into_bytes()]);
    job.publish(1, &[vec![b'x'; 20 * 1024 * 1024]]);
    let mut child = job.start();
    job.wait(DEAD, 1, seconds(60));
    // The embedded broker drops the big record only now, and with it what came right behind it.
    job.publish(1, &[raw(1, now()).into_bytes()]);
    job.publish(1, &[raw(2, now()).into_bytes()]);
    let deadline = Instant::now() + seconds(40);
    while !ids(&job.read(TOPIC)).contains("e2") {
        assert!(Instant::now() < deadline, "{}", tail(&job.rig.logs(), 20));
        std::thread::sleep(Duration::from_millis(100));
    }
    signal(&child, Signal::TERM);
    assert!(ended(&mut child, Duration::from_secs(45)).success());
    let letters = job.read(DEAD);
    let v: serde_json::Value = serde_json::from_str(&letters[0].2).expect("JSON");
    assert_eq!(
        (v["reason"].as_str(), v["offset"].as_i64()),
        (Some("oversize"), Some(0))
    );
}

#[test]
fn f14_a_missing_topic_is_named_at_the_start() {
    let job = Job::new();
    let brokers = job.rig.broker.address();
    let out = std::process::Command::new(env!("CARGO_BIN_EXE_veilwatch"))
        .args([
            "seal",
            "--kafka",
            "--brokers",
            &brokers,
            "--from-topic",
            RAW,
            "--to-topic",
            TOPIC,
        ])
        .args(["--key-file", &job.key, "--listen", "127.0.0.1:0"])
        .output()
        .expect("ran");
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(3), "{said}");
    assert!(said.contains("llm.events.v1.dead does not exist"), "{said}");
}

fn ids(records: &[(i32, String, String)]) -> BTreeSet<String> {
    records
        .iter()
        .filter_map(|r| {
            let v: serde_json::Value = serde_json::from_str(&r.2).ok()?;
            v["id"].as_str().map(ToOwned::to_owned)
        })
        .collect()
}
