//! Faults of `reliability.md` §1.2 by id, on `run` processes: whatever happens, Postgres equals the
//! single-threaded reference.

use std::collections::BTreeSet;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sqlx::postgres::PgPool;

use veilwatch::store::private::Stop;

use crate::pipeline::judge;
use crate::rig::{Process, Rig, ended, runtime, signal, small, tail};

const BUDGET: &str = "[[budget]]\nscope = \"tenant\"\nperiod = \"day\"\ntokens = 100000\n";
const SINK: &str = "[[deliver.sink]]\nname = \"out\"\nkind = \"stdout\"\n";

/// Bound of every wait for the end of a process. Its own deadline is 10 s (`shutdown`), which a busy
/// machine stretches; a test that fails says more than one that is in a hurry.
const STOPPED: Duration = Duration::from_secs(45);

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

async fn pool(rig: &Rig, first: &mut Child) -> PgPool {
    let pool = rig.pool().await;
    let deadline = Instant::now() + seconds(30);
    // The first process creates the tables.
    while rig.applied(&pool).await == 0 {
        assert!(
            first.try_wait().expect("waited").is_none(),
            "ended early:\n{}",
            tail(&rig.logs(), 20)
        );
        assert!(
            Instant::now() < deadline,
            "nothing applied:\n{}",
            tail(&rig.logs(), 40)
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    pool
}

#[test]
fn f01_f19_killed_and_terminated_processes_lose_and_double_nothing() {
    let rig = Rig::new(4);
    let config = rig.write_config("a.toml", &rig.config_text(BUDGET));
    runtime().block_on(async {
        let mut workload = small(11, 4);
        rig.publish(&mut workload, 500);
        let mut child = rig.spawn("a", &config, &[]);
        let pool = pool(&rig, &mut child).await;
        let mut total = 500;
        for round in 0..3u64 {
            rig.publish(&mut workload, 700);
            total += 700;
            // Somewhere in the middle of the work.
            rig.wait_applied(&pool, total - 600, seconds(60)).await;
            if round == 1 {
                // F19: a drain ends within the deadline, with success.
                let asked = Instant::now();
                signal(&child, Signal::TERM);
                let status = ended(&mut child, STOPPED);
                assert!(
                    status.success(),
                    "{status} after {:?}\n{}",
                    asked.elapsed(),
                    tail(&rig.logs(), 30)
                );
            } else {
                signal(&child, Signal::KILL);
                ended(&mut child, STOPPED);
            }
            child = rig.spawn("a", &config, &[]);
        }
        rig.wait_applied(&pool, total, seconds(60)).await;
        // Liveness: a fresh event on each partition.
        rig.publish(&mut workload, 40);
        rig.wait_applied(&pool, total + 40, seconds(20)).await;
        signal(&child, Signal::TERM);
        assert!(ended(&mut child, STOPPED).success());
        let o = judge(&rig, BUDGET, &BTreeSet::new()).await;
        assert_eq!(o.events, u64::try_from(total + 40).expect("positive"));
    });
}

/// What a process logs when its batch meets the claim of another owner.
const REFUSED: &str = "batch refused by its fence";

#[test]
fn f03_f06_a_stopped_owner_and_overlapping_owners_change_nothing() {
    let rig = Rig::new(4);
    let config = rig.write_config("a.toml", &rig.config_text(BUDGET));
    runtime().block_on(async {
        let mut workload = small(12, 4);
        rig.publish(&mut workload, 1_000);
        let mut a = rig.spawn("a", &config, &[]);
        let pool = pool(&rig, &mut a).await;
        // Stopped in the middle; the group gives its partitions to another process.
        signal(&a, Signal::STOP);
        let mut b = rig.spawn("b", &config, &[]);
        rig.publish(&mut workload, 1_000);
        rig.wait_applied(&pool, 2_000, seconds(60)).await;
        // The zombie wakes with batches in its hands: its compare-and-set must fail.
        signal(&a, Signal::CONT);
        rig.publish(&mut workload, 500);
        rig.wait_applied(&pool, 2_500, seconds(60)).await;
        // F06: a process of another group takes the same partitions while they are owned.
        let other = rig
            .config_text(BUDGET)
            .replace("group = \"test\"", "group = \"other\"");
        let other = rig.write_config("c.toml", &other);
        let mut c = rig.spawn("c", &other, &[]);
        // In rounds until both have met on a partition: how long the third takes to join is the
        // broker's affair, and events that are applied before it does prove nothing.
        let mut total = 2_500;
        let deadline = Instant::now() + seconds(60);
        while !rig.logs().contains(REFUSED) && Instant::now() < deadline {
            rig.publish(&mut workload, 300);
            total += 300;
            rig.wait_applied(&pool, total, seconds(60)).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        for p in [&mut a, &mut b, &mut c] {
            signal(p, Signal::TERM);
        }
        for p in [&mut a, &mut b, &mut c] {
            ended(p, STOPPED);
        }
        let o = judge(&rig, BUDGET, &BTreeSet::new()).await;
        assert_eq!(o.events, u64::try_from(total).expect("positive"));
        assert!(rig.logs().contains(REFUSED), "no fence was met");
    });
}

#[test]
fn f21_f22_sessions_ended_and_postgres_crashed() {
    let rig = Rig::new(4);
    let config = rig.write_config("a.toml", &rig.config_text(BUDGET));
    runtime().block_on(async {
        let mut workload = small(13, 4);
        rig.publish(&mut workload, 500);
        let mut a = rig.spawn("a", &config, &[]);
        let pool = pool(&rig, &mut a).await;
        let mut total = 500;
        for round in 0..6 {
            rig.publish(&mut workload, 400);
            total += 400;
            if round == 3 {
                rig.postgres.crash_and_resume().expect("crashed and resumed");
            } else {
                let _ = sqlx::query(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()",
                )
                .execute(&pool)
                .await;
            }
        }
        rig.wait_applied(&pool, total, seconds(60)).await;
        assert!(a.try_wait().expect("waited").is_none(), "it lives:\n{}", tail(&rig.logs(), 20));
        signal(&a, Signal::TERM);
        assert!(ended(&mut a, STOPPED).success());
        judge(&rig, BUDGET, &BTreeSet::new()).await;
    });
}

#[test]
fn f25_a_database_that_goes_back_in_time() {
    let rig = Rig::new(2);
    let config = rig.write_config("a.toml", &rig.config_text(BUDGET));
    runtime().block_on(async {
        let mut workload = small(14, 2);
        rig.publish(&mut workload, 800);
        let mut a = rig.spawn("a", &config, &[]);
        let pool = pool(&rig, &mut a).await;
        rig.wait_applied(&pool, 800, seconds(60)).await;
        pool.close().await;
        rig.postgres.stop(Stop::Fast).expect("stopped");
        rig.postgres.save_copy().expect("copied");
        rig.postgres.resume().expect("resumed");
        let pool = rig.pool().await;
        rig.publish(&mut workload, 600);
        rig.wait_applied(&pool, 1_400, seconds(60)).await;
        pool.close().await;
        // Acknowledged commits vanish: offsets and results go back together.
        rig.postgres.stop(Stop::Immediate).expect("stopped");
        rig.postgres.restore_copy().expect("restored");
        rig.postgres.resume().expect("resumed");
        let pool = rig.pool().await;
        rig.wait_applied(&pool, 1_400, seconds(60)).await;
        rig.publish(&mut workload, 100);
        rig.wait_applied(&pool, 1_500, seconds(60)).await;
        signal(&a, Signal::TERM);
        ended(&mut a, STOPPED);
        judge(&rig, BUDGET, &BTreeSet::new()).await;
    });
}

#[test]
fn f05_members_that_come_and_go() {
    let rig = Rig::new(4);
    let config = rig.write_config("a.toml", &rig.config_text(BUDGET));
    runtime().block_on(async {
        let mut workload = small(15, 4);
        rig.publish(&mut workload, 500);
        let mut a = rig.spawn("a", &config, &[]);
        let pool = pool(&rig, &mut a).await;
        let mut total = 500;
        for _ in 0..4 {
            let mut guest = rig.spawn("guest", &config, &[]);
            rig.publish(&mut workload, 300);
            total += 300;
            tokio::time::sleep(Duration::from_millis(2_500)).await;
            signal(&guest, Signal::TERM);
            ended(&mut guest, STOPPED);
        }
        rig.wait_applied(&pool, total, seconds(60)).await;
        signal(&a, Signal::TERM);
        assert!(ended(&mut a, STOPPED).success());
        judge(&rig, BUDGET, &BTreeSet::new()).await;
    });
}

#[test]
fn f37_skipping_by_command_lets_the_partition_go_on() {
    let rig = Rig::new(2);
    let config = rig.write_config("a.toml", &rig.config_text(""));
    runtime().block_on(async {
        let mut workload = small(16, 1);
        rig.publish(&mut workload, 50);
        rig.publish_raw(1, &[vec![b'x'; 20 * 1024 * 1024]]);
        let mut a = rig.spawn("a", &config, &[]);
        let pool = pool(&rig, &mut a).await;
        let deadline = Instant::now() + seconds(60);
        loop {
            let halted: Option<String> =
                sqlx::query_scalar("SELECT halted FROM vw.stream_partition WHERE part = 1")
                    .fetch_optional(&pool)
                    .await
                    .expect("asked")
                    .flatten();
            if halted.as_deref() == Some("oversize") {
                break;
            }
            assert!(
                Instant::now() < deadline,
                "never halted: {halted:?}\n{}",
                tail(&rig.logs(), 30)
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        rig.wait_applied(&pool, 50, seconds(20)).await;
        let skip = Command::new(env!("CARGO_BIN_EXE_veilwatch"))
            .args([
                "offsets",
                "skip",
                "--topic",
                &rig.topic,
                "--partition",
                "1",
                "--from",
                "0",
                "--to",
                "1",
            ])
            .args([
                "--reason",
                "oversize record",
                "--author",
                "test",
                "--config",
            ])
            .arg(&config)
            .output()
            .expect("skipped");
        assert!(
            skip.status.success(),
            "{}",
            String::from_utf8_lossy(&skip.stderr)
        );
        // The embedded broker drops the big record only now, behind the skip.
        rig.publish_raw(1, &[b"not json".to_vec()]);
        rig.wait_applied(&pool, 52, seconds(30)).await;
        let gap: (i64, i64, String) =
            sqlx::query_as("SELECT lo, hi, reason FROM vw.stream_gap WHERE part = 1")
                .fetch_one(&pool)
                .await
                .expect("a gap row");
        assert_eq!((gap.0, gap.1), (0, 1));
        let alerts: i64 =
            sqlx::query_scalar("SELECT count(*) FROM vw.finding WHERE rule = 'audit-halted'")
                .fetch_one(&pool)
                .await
                .expect("counted");
        assert_eq!(alerts, 1);
        signal(&a, Signal::TERM);
        ended(&mut a, STOPPED);
    });
}

#[test]
fn errors_at_start_name_what_to_do() {
    let rig = Rig::new(1);
    let check = |text: &str, expected: &[&str]| {
        let config = rig.write_config("bad.toml", text);
        let asked = Instant::now();
        let out = Command::new(env!("CARGO_BIN_EXE_veilwatch"))
            .args(["run", "--config"])
            .arg(&config)
            .output()
            .expect("ran");
        let said = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(3), "{said}");
        // Bounded: no endless tries before the message.
        assert!(asked.elapsed() < seconds(90), "took {:?}", asked.elapsed());
        for e in expected {
            assert!(said.contains(e), "{e} is not in: {said}");
        }
        assert!(!said.contains("s3cr3t"), "a password is shown: {said}");
    };
    let good = rig.config_text("");
    check(
        &good.replace(&rig.topic, "absent"),
        &["topic absent does not exist", "create it"],
    );
    check(
        &good.replace(&rig.broker.address(), "127.0.0.1:1"),
        &[
            "no kafka broker answers at 127.0.0.1:1",
            "check ingest.brokers",
        ],
    );
    let url = rig.postgres.url("postgres");
    check(
        &good.replace(&url, "postgres://u:s3cr3t@127.0.0.1:1/x"),
        &["127.0.0.1:1"],
    );
    let password = url
        .split(':')
        .nth(2)
        .and_then(|r| r.split('@').next())
        .expect("a password");
    check(&good.replace(password, "s3cr3t"), &["password"]);
    check(
        &good.replace("batch_records", "batch_record"),
        &["ingest.batch_record: is not a known key; did you mean batch_records?"],
    );
}

#[test]
fn f04_a_claim_waits_for_a_stopped_owners_transaction_no_longer_than_the_server_lets_it() {
    let rig = Rig::new(2);
    let config = rig.write_config("a.toml", &rig.config_text(BUDGET));
    runtime().block_on(async {
        let mut workload = small(17, 2);
        rig.publish(&mut workload, 300);
        let mut a = rig.spawn("a", &config, &[]);
        let pool = pool(&rig, &mut a).await;
        rig.wait_applied(&pool, 300, seconds(60)).await;
        signal(&a, Signal::KILL);
        ended(&mut a, STOPPED);
        // What a process leaves behind that was stopped between its first statement and COMMIT.
        let mut stopped = pool.begin().await.expect("begun");
        sqlx::raw_sql(
            "SET LOCAL idle_in_transaction_session_timeout = '5s';
             UPDATE vw.stream_partition SET next_offset = next_offset + 1",
        )
        .execute(&mut *stopped)
        .await
        .expect("locked");
        rig.publish(&mut workload, 300);
        let asked = Instant::now();
        let mut b = rig.spawn("b", &config, &[]);
        rig.wait_applied(&pool, 600, seconds(40)).await;
        assert!(asked.elapsed() > seconds(4), "the claim did not wait");
        signal(&b, Signal::TERM);
        assert!(ended(&mut b, STOPPED).success());
        drop(stopped);
        judge(&rig, BUDGET, &BTreeSet::new()).await;
    });
}

/// Makes Postgres cancel what advances a partition by more than `records` at once, as its statement
/// time-out would.
async fn too_much(pool: &PgPool, part: i32, records: i64) {
    let sql = format!(
        "CREATE OR REPLACE FUNCTION too_much() RETURNS trigger LANGUAGE plpgsql AS $$
           BEGIN
             IF NEW.part = {part} AND NEW.next_offset - OLD.next_offset > {records} THEN
               RAISE EXCEPTION 'too slow' USING ERRCODE = '57014';
             END IF;
             RETURN NEW;
           END $$;
         CREATE OR REPLACE TRIGGER too_much BEFORE UPDATE ON vw.stream_partition FOR EACH ROW EXECUTE FUNCTION too_much()"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
        .execute(pool)
        .await
        .expect("made");
}

#[test]
fn f27_a_batch_that_always_takes_too_long_is_cut_smaller_and_then_its_partition_halts() {
    let rig = Rig::new(2);
    let config = rig.write_config("a.toml", &rig.config_text(&format!("{BUDGET}{SINK}")));
    runtime().block_on(async {
        let mut workload = small(19, 2);
        rig.publish(&mut workload, 100);
        let mut a = rig.spawn("a", &config, &[]);
        let pool = pool(&rig, &mut a).await;
        rig.wait_applied(&pool, 100, seconds(60)).await;
        too_much(&pool, 0, 40).await;
        rig.publish(&mut workload, 1_200);
        rig.wait_applied(&pool, 1_300, seconds(90)).await;
        assert!(rig.logs().contains("cut smaller"), "nothing was cut");
        judge(&rig, BUDGET, &BTreeSet::new()).await;

        // Nothing is small enough: the partition halts, the other goes on.
        too_much(&pool, 0, 0).await;
        rig.publish(&mut workload, 200);
        let deadline = Instant::now() + seconds(90);
        loop {
            let halted: Vec<(i32, String)> = sqlx::query_as(
                "SELECT part, halted FROM vw.stream_partition WHERE halted IS NOT NULL",
            )
            .fetch_all(&pool)
            .await
            .expect("asked");
            if halted == [(0, "unwritable".to_owned())] {
                break;
            }
            assert!(
                Instant::now() < deadline,
                "{halted:?}\n{}",
                tail(&rig.logs(), 30)
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let other = "SELECT next_offset FROM vw.stream_partition WHERE part = 1";
        let before: i64 = sqlx::query_scalar(other)
            .fetch_one(&pool)
            .await
            .expect("asked");
        rig.publish_raw(1, &vec![b"not json".to_vec(); 5]);
        let deadline = Instant::now() + seconds(30);
        loop {
            let now: i64 = sqlx::query_scalar(other)
                .fetch_one(&pool)
                .await
                .expect("asked");
            if now >= before + 5 {
                break;
            }
            assert!(Instant::now() < deadline, "the other stands still");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // Somebody is told, once, at the place where Postgres stands.
        let told = "SELECT count(*) FROM vw.outbox WHERE payload ->> 'rule' = 'audit-halted' AND kind = 'firing'";
        wait_for(&rig, &pool, told, 1).await;
        let found = "SELECT count(*) FROM vw.finding WHERE rule = 'audit-halted'";
        assert_eq!(sqlx::query_scalar::<_, i64>(found).fetch_one(&pool).await.expect("counted"), 1);
        // Whoever starts after that shows it, too.
        signal(&a, Signal::TERM);
        ended(&mut a, STOPPED);
        let mut b = rig.spawn("b", &config, &[]);
        let halted = "veilwatch_partition_halted{topic=\"";
        let deadline = Instant::now() + seconds(60);
        loop {
            let log = std::fs::read_to_string(rig.dir.path().join("b.log")).unwrap_or_default();
            let port = log.split("\"http\":\"").nth(1).and_then(|l| l.split('"').next());
            if let Some(port) = port {
                let shown = crate::planted::scrape(port).await;
                if shown.lines().any(|l| l.starts_with(halted) && l.contains("unwritable") && l.ends_with(" 1")) {
                    break;
                }
            }
            assert!(Instant::now() < deadline, "not shown\n{}", tail(&rig.logs(), 30));
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        // The cause is mended: it goes on, and nothing is lost.
        sqlx::raw_sql("DROP TRIGGER too_much ON vw.stream_partition")
            .execute(&pool)
            .await
            .expect("dropped");
        let resume = Command::new(env!("CARGO_BIN_EXE_veilwatch"))
            .args(["offsets", "resume", "--topic", &rig.topic, "--partition", "0"])
            .args(["--reason", "mended", "--author", "test", "--config"])
            .arg(&config)
            .output()
            .expect("resumed");
        let said = String::from_utf8_lossy(&resume.stdout).into_owned();
        assert!(resume.status.success() && said.contains("unwritable"), "{resume:?}");
        rig.wait_applied(&pool, 1_505, seconds(60)).await;
        signal(&b, Signal::TERM);
        ended(&mut b, STOPPED);
        // But for the halt, everything is as the reference has it.
        sqlx::raw_sql(
            "DELETE FROM vw.finding WHERE rule = 'audit-halted'; DELETE FROM vw.incident_head WHERE rule = 'audit-halted'",
        )
        .execute(&pool)
        .await
        .expect("deleted");
        judge(&rig, BUDGET, &BTreeSet::new()).await;
    });
}

/// Waits until a count is at least `n`.
async fn wait_for(rig: &Rig, pool: &PgPool, sql: &'static str, n: i64) {
    let deadline = Instant::now() + seconds(60);
    loop {
        let now: i64 = sqlx::query_scalar(sql)
            .fetch_one(pool)
            .await
            .expect("asked");
        if now >= n {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{now} of {n}: {sql}\n{}",
            tail(&rig.logs(), 30)
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Crashes at every named point of a batch. Needs the feature `chaos`, which release builds refuse.
#[cfg(feature = "chaos")]
#[test]
fn f02_crashes_at_named_points() {
    const POINTS: [&str; 6] = [
        "before-cas",
        "after-cas",
        "before-commit",
        "after-commit",
        "mid-checkpoint",
        "mid-dead-letter",
    ];
    let rig = Rig::new(2);
    let config = rig.write_config("a.toml", &rig.config_text(BUDGET));
    runtime().block_on(async {
        let mut workload = small(18, 2);
        rig.publish(&mut workload, 200);
        let mut total = 200;
        let mut first = rig.spawn("first", &config, &[]);
        let pool = pool(&rig, &mut first).await;
        rig.wait_applied(&pool, total, seconds(60)).await;
        signal(&first, Signal::TERM);
        ended(&mut first, STOPPED);
        for point in POINTS {
            rig.publish(&mut workload, 300);
            rig.publish_raw(1, &[b"not json".to_vec()]);
            total += 301;
            let at = format!("{point}:1");
            let mut child = rig.spawn(point, &config, &[("VEILWATCH_FAIL_AT", &at)]);
            // A checkpoint is due by time: records must go on coming until the point is reached.
            let deadline = Instant::now() + seconds(90);
            let status = loop {
                if let Some(status) = child.try_wait().expect("waited") {
                    break status;
                }
                assert!(Instant::now() < deadline, "{point} was not reached");
                rig.publish(&mut workload, 20);
                total += 20;
                tokio::time::sleep(Duration::from_millis(300)).await;
            };
            assert!(!status.success(), "{point} was not reached");
        }
        let mut last = rig.spawn("last", &config, &[]);
        rig.wait_applied(&pool, total, seconds(60)).await;
        signal(&last, Signal::TERM);
        ended(&mut last, STOPPED);
        judge(&rig, BUDGET, &BTreeSet::new()).await;
    });
}

/// Two processes on one partition: the one that owns it, and the one that waits.
async fn owner_and_heir(
    rig: &Rig,
    config: &std::path::Path,
    names: [&str; 2],
    applied: i64,
) -> (Process, Process, PgPool) {
    let mut first = rig.spawn(names[0], config, &[]);
    let pool = pool(rig, &mut first).await;
    let second = rig.spawn(names[1], config, &[]);
    let log = rig.dir.path().join(format!("{}.log", names[1]));
    let deadline = Instant::now() + seconds(60);
    let joined = || {
        std::fs::read_to_string(&log)
            .unwrap_or_default()
            .contains("\"assigned\"")
    };
    while !joined() {
        assert!(Instant::now() < deadline, "{}", tail(&rig.logs(), 40));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    rig.wait_applied(&pool, applied, seconds(60)).await;
    let owner: String = sqlx::query_scalar("SELECT owner FROM vw.stream_partition")
        .fetch_one(&pool)
        .await
        .expect("an owner");
    if owner.ends_with(&format!("/{}", first.id())) {
        (first, second, pool)
    } else {
        (second, first, pool)
    }
}

#[test]
fn f23_a_database_that_is_down_when_a_partition_comes() {
    let rig = Rig::new(1);
    let short = rig.config_text(BUDGET);
    let long = short.replace("max_poll_interval = \"10s\"", "max_poll_interval = \"90s\"");
    assert_ne!(short, long);
    let short = rig.write_config("short.toml", &short);
    let long = rig.write_config("long.toml", &long);
    runtime().block_on(async {
        let mut workload = small(23, 1);
        rig.publish(&mut workload, 200);
        // Beyond its budget, half of max_poll_interval, the heir ends and says why.
        let (mut owner, mut heir, pool) = owner_and_heir(&rig, &short, ["a", "b"], 200).await;
        pool.close().await;
        rig.postgres.stop(Stop::Immediate).expect("stopped");
        owner.kill().expect("killed");
        assert_eq!(ended(&mut heir, seconds(90)).code(), Some(1));
        assert!(
            rig.logs().contains("cannot claim partitions"),
            "{}",
            tail(&rig.logs(), 20)
        );
        owner.wait().expect("ended");

        // Within it, the claim is tried until the database is back.
        rig.postgres.resume().expect("resumed");
        rig.publish(&mut workload, 100);
        let (mut owner, mut heir, pool) = owner_and_heir(&rig, &long, ["c", "d"], 300).await;
        pool.close().await;
        let retries = || rig.logs().matches("claim failed, will retry").count();
        let before = retries();
        rig.postgres.stop(Stop::Immediate).expect("stopped");
        owner.kill().expect("killed");
        let deadline = Instant::now() + seconds(60);
        while retries() == before {
            assert!(Instant::now() < deadline, "{}", tail(&rig.logs(), 40));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        rig.postgres.resume().expect("resumed");
        rig.publish(&mut workload, 100);
        let pool = rig.pool().await;
        rig.wait_applied(&pool, 400, seconds(60)).await;
        signal(&heir, Signal::TERM);
        assert!(ended(&mut heir, STOPPED).success());
        owner.wait().expect("ended");
        judge(&rig, BUDGET, &BTreeSet::new()).await;
    });
}
