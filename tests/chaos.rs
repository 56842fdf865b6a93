//! Chaos: three `run` processes under kill -9, SIGSTOP, overlapping owners, ended sessions and
//! Postgres crashes, then everything compared with the single-threaded reference.
//!
//! Small and on the embedded broker by default. `deploy/dev/chaos` runs it on a real Kafka with the
//! counts of the promise; `VEILWATCH_CHAOS_*` change them: `EVENTS`, `FAULTS`, `SEED`, `FSYNC`, `KAFKA`
//! (address), `TOPIC`, `PARTITIONS`, `BIN` (another build of the program).

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sqlx::postgres::PgPool;
use veilwatch::bench::workload::{Shape, Workload};
use veilwatch::ingest::broker::EmbeddedBroker;
use veilwatch::ingest::publish::Publisher;

use crate::pipeline::judge;
use crate::rig::{Broker, Process, Rig, TOPIC, ended, now, runtime, signal, tail};

/// The users' budget is crossed by fewer than the 1,024 who have an incident of their own in an hour
/// (`store/crowd.rs`): who of more comes first is a matter of commits, not of the stream.
const MORE: &str = r#"
[[deliver.sink]]
name = "out"
kind = "stdout"
[[budget]]
scope = "tenant"
period = "hour"
usd = 1.00
[[budget]]
scope = "user"
period = "day"
tokens = 400000
[[budget]]
scope = "everyone"
period = "day"
tokens = 100000000
"#;

struct Plan {
    events: usize,
    faults: usize,
    seed: u64,
    partitions: i32,
}

fn number(name: &str, default: u64) -> u64 {
    let found = std::env::var(format!("VEILWATCH_CHAOS_{name}"));
    found.ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

fn plan() -> Plan {
    Plan {
        events: usize::try_from(number("EVENTS", 6_000)).expect("fits"),
        faults: usize::try_from(number("FAULTS", 10)).expect("fits"),
        seed: number("SEED", 1),
        partitions: i32::try_from(number("PARTITIONS", 4)).expect("fits"),
    }
}

fn rig(plan: &Plan) -> Rig {
    match std::env::var("VEILWATCH_CHAOS_KAFKA") {
        Ok(address) => {
            let topic = std::env::var("VEILWATCH_CHAOS_TOPIC").unwrap_or_else(|_| TOPIC.into());
            Rig::with(Broker::Real(address), topic)
        }
        Err(_) => {
            let broker = EmbeddedBroker::start(&[(TOPIC.into(), plan.partitions)]).expect("broker");
            Rig::with(Broker::Embedded(broker), TOPIC.into())
        }
    }
}

/// The three processes, and how to start them again.
struct Fleet<'a> {
    rig: &'a Rig,
    config: PathBuf,
    other: PathBuf,
    members: Vec<Process>,
}

impl Fleet<'_> {
    fn restart(&mut self, i: usize) {
        self.members[i] = self.rig.spawn(&format!("m{i}"), &self.config, &[]);
    }

    /// Whoever ended by itself is started again, as a supervisor would.
    fn supervise(&mut self) {
        for i in 0..self.members.len() {
            if self.members[i].try_wait().expect("waited").is_some() {
                self.restart(i);
            }
        }
    }
}

async fn offsets(pool: &PgPool) -> BTreeMap<i32, i64> {
    let rows: Vec<(i32, i64)> = sqlx::query_as("SELECT part, next_offset FROM vw.stream_partition")
        .fetch_all(pool)
        .await
        .unwrap_or_default();
    rows.into_iter().collect()
}

/// The next kill comes when every partition has committed once more, or after a while: else the
/// group would only wait for its dead.
async fn every_partition_moved(pool: &PgPool, before: &BTreeMap<i32, i64>, limit: Duration) {
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        let at = offsets(pool).await;
        if !at.is_empty() && before.iter().all(|(p, o)| at.get(p).is_some_and(|n| n > o)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

#[test]
fn f01_f03_f06_f21_f22_chaos_differs_in_nothing() {
    let plan = plan();
    let rig = rig(&plan);
    let text = rig
        .config_text(MORE)
        .replace("session_timeout = \"6s\"", "session_timeout = \"3s\"");
    let config = rig.write_config("chaos.toml", &text);
    let other = rig.write_config(
        "other.toml",
        &text.replace("group = \"test\"", "group = \"other\""),
    );
    let mut rng = fastrand::Rng::with_seed(plan.seed);
    let sent = Arc::new(AtomicI64::new(0));
    let done = Arc::new(AtomicBool::new(false));
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();

    std::thread::scope(|scope| {
        let publishing = (sent.clone(), done.clone());
        let (publisher, topic, plan_ref) = (rig.publisher(), rig.topic.clone(), &plan);
        scope.spawn(move || publish(&publisher, &topic, plan_ref, &publishing.0, &publishing.1));
        runtime().block_on(async {
            let mut fleet = Fleet {
                rig: &rig,
                config,
                other,
                members: Vec::new(),
            };
            for i in 0..3 {
                let child = rig.spawn(&format!("m{i}"), &fleet.config, &[]);
                fleet.members.push(child);
            }
            let pool = rig.pool().await;
            let deadline = Instant::now() + Duration::from_secs(120);
            while rig.applied(&pool).await == 0 {
                assert!(Instant::now() < deadline, "nothing applied\n{}", tail(&rig.logs(), 30));
                fleet.supervise();
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            for n in 0..plan.faults {
                let before = offsets(&pool).await;
                let what = fault(n, &mut fleet, &pool, &mut rng).await;
                *counts.entry(what).or_default() += 1;
                every_partition_moved(&pool, &before, Duration::from_secs(4)).await;
                fleet.supervise();
            }
            done.store(true, Ordering::Relaxed);
            while sent.load(Ordering::Relaxed) < 0 || !done_publishing(&sent) {
                fleet.supervise();
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            let total = sent.load(Ordering::Relaxed) & !FINISHED;
            let deadline = Instant::now() + Duration::from_secs(180);
            while rig.applied(&pool).await < total {
                fleet.supervise();
                assert!(
                    Instant::now() < deadline,
                    "{} of {total} applied\n{}",
                    rig.applied(&pool).await,
                    tail(&rig.logs(), 30)
                );
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            // Liveness: a fresh event on each partition is applied within 10 s. An unoptimised build on
            // a busy machine gets longer: there it shows that it happens at all.
            let soon = if std::env::var_os("VEILWATCH_CHAOS_BIN").is_some() { 10 } else { 60 };
            let fresh = vec![b"{}".to_vec()];
            for p in 0..plan.partitions {
                rig.publish_raw(p, &fresh);
            }
            rig.wait_applied(&pool, total + i64::from(plan.partitions), Duration::from_secs(soon)).await;
            settle(&rig, &pool).await;
            for m in &fleet.members {
                signal(m, Signal::TERM);
            }
            for m in &mut fleet.members {
                ended(m, Duration::from_secs(60));
            }
            let o = judge(&rig, MORE, &BTreeSet::new()).await;
            every_row_was_told(&rig, &pool).await;
            eprintln!(
                "chaos: {} faults {counts:?}, {} records, {} events, {} duplicates, {} dead letters, {} findings, {} incidents, {} ledger rows, {} crossings: no difference",
                plan.faults,
                total + i64::from(plan.partitions),
                o.events,
                o.duplicates,
                o.dead.len(),
                o.findings.len(),
                o.incidents.len(),
                o.ledger.len(),
                o.crossings.len(),
            );
            assert!(o.duplicates > 0 && !o.dead.is_empty() && !o.findings.is_empty());
        });
    });
}

const FINISHED: i64 = 1 << 62;

fn done_publishing(sent: &AtomicI64) -> bool {
    sent.load(Ordering::Relaxed) & FINISHED != 0
}

/// Publishes until the faults are over and the planned number is out: with repeats, broken records
/// and left-out sequence numbers in it.
fn publish(p: &Publisher, topic: &str, plan: &Plan, sent: &AtomicI64, faults_over: &AtomicBool) {
    let shape = Shape {
        seed: plan.seed,
        partitions: plan.partitions,
        users: 3_000,
        finding_every: 50,
        ..Shape::default()
    };
    let mut workload = Workload::new(shape, &format!("chaos-{}", plan.seed));
    let mut rng = fastrand::Rng::with_seed(plan.seed ^ 0x5eed);
    let mut n = 0i64;
    let per_fault = plan.events / plan.faults.max(1);
    let planned = i64::try_from(plan.events).expect("fits");
    loop {
        let over = faults_over.load(Ordering::Relaxed);
        if n >= planned && over {
            break;
        }
        // While faults go on, the stream must not run dry: what is planned is spread, then a trickle.
        let pace = if n >= planned {
            200
        } else {
            per_fault.clamp(200, 4_000)
        };
        for _ in 0..(pace / 20).max(1) {
            let e = workload.next(now());
            let key = e.key.as_bytes();
            let mut put = |value: &[u8]| {
                p.send_waiting(topic, Some(e.partition), key, value)
                    .expect("sent");
                n += 1;
            };
            match rng.u32(0..1_000) {
                0..10 => {
                    put(e.value.as_bytes());
                    put(e.value.as_bytes());
                }
                10..12 => put(b"{\"v\":1,\"broken\":"),
                12 => {}
                _ => put(e.value.as_bytes()),
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    p.flush(Duration::from_secs(60)).expect("flushed");
    sent.store(n | FINISHED, Ordering::Relaxed);
}

async fn fault(
    n: usize,
    fleet: &mut Fleet<'_>,
    pool: &PgPool,
    rng: &mut fastrand::Rng,
) -> &'static str {
    let i = rng.usize(0..fleet.members.len());
    if n % 40 == 7 {
        fleet
            .rig
            .postgres
            .crash_and_resume()
            .expect("crashed and resumed");
        return "postgres crash";
    }
    match n % 5 {
        0 | 2 => {
            signal(&fleet.members[i], Signal::KILL);
            ended(&mut fleet.members[i], Duration::from_secs(30));
            fleet.restart(i);
            "kill -9"
        }
        1 => {
            signal(&fleet.members[i], Signal::STOP);
            // Longer than the session: its partitions go to others, then it wakes.
            tokio::time::sleep(Duration::from_millis(rng.u64(500..4_500))).await;
            signal(&fleet.members[i], Signal::CONT);
            "sigstop"
        }
        3 => {
            // Another group owns the same partitions at the same time.
            let mut guest = fleet.rig.spawn("guest", &fleet.other, &[]);
            tokio::time::sleep(Duration::from_millis(rng.u64(800..3_000))).await;
            signal(
                &guest,
                if rng.bool() {
                    Signal::KILL
                } else {
                    Signal::TERM
                },
            );
            ended(&mut guest, Duration::from_secs(30));
            "overlap"
        }
        _ => {
            let _ = sqlx::query(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                  WHERE pid <> pg_backend_pid() AND datname = current_database() AND random() < 0.7",
            )
            .execute(pool)
            .await;
            "pg_terminate_backend"
        }
    }
}

/// Waits until the notifier has decided on every change and the sinks have sent every row.
async fn settle(rig: &Rig, pool: &PgPool) {
    let deadline = Instant::now() + Duration::from_secs(90);
    loop {
        let open: i64 = sqlx::query_scalar(
            "SELECT (SELECT count(*) FROM vw.incident_change WHERE NOT taken)
                  + (SELECT count(*) FROM vw.outbox WHERE state IN (0, 1) AND next_at <= now())",
        )
        .fetch_one(pool)
        .await
        .unwrap_or(1);
        if open == 0 {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{open} changes or rows are open\n{}",
            tail(&rig.logs(), 30)
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Every row that is marked as sent was really handed to the sink, and every incident has a fate.
async fn every_row_was_told(rig: &Rig, pool: &PgPool) {
    let logs = rig.logs();
    // Different messages by what they are about and what they say of it; one that was sent again counts once.
    let mut heard: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    for line in logs.lines().filter(|l| l.contains("\"dedup_key\"")) {
        // A process that is killed while it writes leaves half a line, which the next one goes on with.
        let begins = line.rfind(r#"{"data":{"#).unwrap_or_default();
        let Ok(message) = serde_json::from_str::<serde_json::Value>(&line[begins..]) else {
            continue;
        };
        let word = |v: &serde_json::Value| v.as_str().unwrap_or_default().to_owned();
        let data = &message["data"];
        heard
            .entry((word(&data["dedup_key"]), word(&message["type"])))
            .or_default()
            .insert(word(&data["id"]));
    }
    let rows: Vec<(String, String, i64)> = sqlx::query_as(
        "SELECT replace(dedup_key::text, '-', ''), kind, count(*) FROM vw.outbox WHERE state = 2 GROUP BY 1, 2",
    )
    .fetch_all(pool)
    .await
    .expect("outbox");
    assert!(!rows.is_empty(), "something was told");
    for (dedup, kind, sent) in rows {
        let said = match kind.as_str() {
            "firing" => "incident.opened",
            "repeat" => "incident.repeated",
            "escalated" => "incident.escalated",
            "acknowledged" => "incident.acknowledged",
            "resolved" => "incident.resolved",
            _ => "incident.digest",
        };
        let times = heard
            .get(&(dedup.clone(), said.to_owned()))
            .map_or(0, BTreeSet::len);
        assert!(
            usize::try_from(sent).is_ok_and(|sent| sent <= times),
            "{kind} {dedup} is marked as sent {sent} times and was told {times} times"
        );
    }
    let silent: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM vw.incident_head h WHERE number > 0 AND stage > 0
            AND NOT EXISTS (SELECT 1 FROM vw.fate f WHERE f.key = h.key AND f.number = h.number)",
    )
    .fetch_one(pool)
    .await
    .expect("fates");
    assert_eq!(silent, 0, "incidents without a fate");
}
