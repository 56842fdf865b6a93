//! Evidence on the whole path: sequence numbers out of order and missing (F17, F18), a process that
//! dies between sending a notification and marking it (F48), and what `[detect]` and `[store]` keep.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rustix::process::Signal;
use sqlx::postgres::PgPool;
use veilwatch::event::Time;

use crate::rig::{Rig, ended, now, runtime, signal, small, tail};

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Waits until a query gives true.
async fn wait(rig: &Rig, pool: &PgPool, what: &str, sql: &'static str, limit: Duration) {
    let deadline = Instant::now() + limit;
    loop {
        let is: bool = sqlx::query_scalar(sql)
            .fetch_one(pool)
            .await
            .unwrap_or(false);
        if is {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{what}\n{}",
            tail(&rig.logs(), 20)
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Publishes six minutes of a gateway's events an hour ago, in virtual time: `seq(i)` is the sequence
/// number of the i-th record, none: left out.
fn publish_past(
    rig: &Rig,
    partition: i32,
    gateway: &str,
    from: Time,
    seq: impl Fn(u64) -> Option<u64>,
) -> i64 {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", rig.broker.address())
        .create()
        .expect("producer");
    let mut sent = 0;
    for i in 0..300u64 {
        let Some(seq) = seq(i) else { continue };
        let at = Time(from.0 + i64::try_from(i).expect("small") * 1_200);
        let value = format!(
            r#"{{"v":1,"id":"{gateway}-{seq}","gateway":"{gateway}","boot":"b1","seq":{seq},"at":"{at}","operation":"chat","model":{{"requested":"gpt-4o"}},"status":200,"latency":{{"total_ms":0}}}}"#
        );
        let record = BaseRecord::to(&rig.topic)
            .partition(partition)
            .key("k")
            .payload(&value)
            .timestamp(at.0);
        producer.send(record).expect("queued");
        sent += 1;
        producer.poll(Duration::ZERO);
    }
    producer.flush(seconds(20)).expect("flushed");
    sent
}

#[test]
fn f17_f18_disorder_within_the_grace_is_silent_and_a_hole_is_told_with_its_range() {
    let rig = Rig::new(2);
    let config = rig.write_config("a.toml", &rig.config_text(""));
    let from = Time(now().0 / 60_000 * 60_000 - 3_600_000);
    // F17: shuffled within 50 records, a minute. F18: seven are missing.
    let mut order: Vec<u64> = (0..300).collect();
    let mut rng = fastrand::Rng::with_seed(17);
    order.chunks_mut(50).for_each(|c| rng.shuffle(c));
    let at = |i: u64| order[usize::try_from(i).expect("small")];
    let mut sent = publish_past(&rig, 0, "gw-shuffled", from, |i| Some(at(i)));
    sent += publish_past(&rig, 1, "gw-holed", from, |i| {
        (!(100..107).contains(&i)).then_some(i)
    });
    runtime().block_on(async {
        let mut run = rig.spawn("run", &config, &[]);
        let pool = rig.pool().await;
        rig.wait_applied(&pool, sent, seconds(60)).await;
        // Every minute of theirs, and the grace behind it, is merged.
        let through = (from.0 / 60_000 + 12).to_string();
        let deadline = Instant::now() + seconds(60);
        loop {
            let merged: Option<i64> =
                sqlx::query_scalar("SELECT merged_through FROM vw.lease WHERE name = 'leader'")
                    .fetch_optional(&pool)
                    .await
                    .expect("asked")
                    .flatten();
            if merged.is_some_and(|m| m.to_string() >= through) {
                break;
            }
            assert!(
                Instant::now() < deadline,
                "{merged:?} of {through}\n{}",
                tail(&rig.logs(), 20)
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let found: Vec<(String, String)> = sqlx::query_as(
            "SELECT subject, reason FROM vw.finding WHERE rule = 'audit-missing-events'",
        )
        .fetch_all(&pool)
        .await
        .expect("findings");
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].0, "gateway:gw-holed");
        for said in ["7 events", "lane 0", "sequence 100 to 106"] {
            assert!(found[0].1.contains(said), "{found:?}");
        }
        signal(&run, Signal::TERM);
        assert!(ended(&mut run, Duration::from_secs(45)).success());
    });
}

/// A webhook receiver that leaves its first call unanswered until it is let go.
struct Hook {
    address: String,
    /// Calls by their id.
    calls: Arc<Mutex<BTreeMap<String, u32>>>,
    /// The id of the first call.
    first: mpsc::Receiver<String>,
    go_on: mpsc::Sender<()>,
}

impl Hook {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("port");
        let address = format!("http://{}/", listener.local_addr().expect("address"));
        let calls: Arc<Mutex<BTreeMap<String, u32>>> = Arc::default();
        let (tell, first) = mpsc::channel();
        let (go_on, wait) = mpsc::channel();
        let seen = calls.clone();
        std::thread::spawn(move || {
            let mut is_first = true;
            for stream in listener.incoming().flatten() {
                let Some(id) = call(&stream) else { continue };
                *seen.lock().expect("calls").entry(id.clone()).or_default() += 1;
                if std::mem::take(&mut is_first) {
                    let _ = tell.send(id);
                    let _ = wait.recv();
                    continue;
                }
                let mut stream = stream;
                let _ = stream.write_all(
                    b"HTTP/1.1 204 No Content\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
                );
            }
        });
        Self {
            address,
            calls,
            first,
            go_on,
        }
    }
}

/// Reads one whole call; its `webhook-id`.
fn call(mut stream: &TcpStream) -> Option<String> {
    stream.set_read_timeout(Some(seconds(5))).ok()?;
    let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let head = String::from_utf8_lossy(&text).to_lowercase();
        if let Some((head, body)) = head.split_once("\r\n\r\n") {
            let value = |name: &str| {
                let line = head.lines().find(|l| l.starts_with(name))?;
                Some(line.split_once(':')?.1.trim().to_owned())
            };
            if body.len() >= value("content-length")?.parse().ok()? {
                return value("webhook-id");
            }
        }
        match stream.read(&mut buffer) {
            Ok(n) if n > 0 => text.extend_from_slice(&buffer[..n]),
            _ => return None,
        }
    }
}

#[test]
fn f48_a_process_killed_between_send_and_mark_sends_once_more_under_the_same_id() {
    let rig = Rig::new(1);
    let hook = Hook::start();
    let secret = rig.dir.path().join("hook.secret");
    std::fs::write(&secret, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("written");
    crate::rig::keep_private(&secret);
    let more = format!(
        "[[deliver.sink]]\nname = \"hook\"\nkind = \"webhook\"\nurl = \"{}\"\nsecret_file = \"{}\"\n",
        hook.address,
        secret.display()
    );
    let config = rig.write_config("a.toml", &rig.config_text(&more));
    runtime().block_on(async {
        rig.publish(&mut small(48, 1), 100);
        let mut run = rig.spawn("run", &config, &[]);
        let pool = rig.pool().await;
        let id = hook.first.recv_timeout(seconds(60)).expect("a notification");
        // The receiver has it; its sender dies before it can say so in Postgres.
        signal(&run, Signal::KILL);
        ended(&mut run, Duration::from_secs(45));
        hook.go_on.send(()).expect("listening");
        let mut run = rig.spawn("run", &config, &[]);
        wait(
            &rig,
            &pool,
            "not everything was sent",
            "SELECT count(*) > 0 AND count(*) FILTER (WHERE state IN (0, 1)) = 0
                    AND NOT EXISTS (SELECT 1 FROM vw.incident_change WHERE NOT taken) FROM vw.outbox",
            seconds(90),
        )
        .await;
        signal(&run, Signal::TERM);
        assert!(ended(&mut run, Duration::from_secs(45)).success());
        let sent: i64 = sqlx::query_scalar("SELECT count(*) FROM vw.outbox WHERE state = 2")
            .fetch_one(&pool)
            .await
            .expect("outbox");
        let calls = hook.calls.lock().expect("calls").clone();
        assert_eq!(calls.get(&id), Some(&2), "once more, under the same id: {calls:?}");
        // Other incidents' messages may have been on their way at that moment: none goes out more than
        // once more.
        assert!(calls.values().all(|n| *n <= 2), "{calls:?}");
        assert_eq!(i64::try_from(calls.len()).expect("few"), sent, "{calls:?}");
    });
}

#[test]
fn allow_lists_and_store_events_hold_on_the_whole_path() {
    let rig = Rig::new(2);
    let text = rig
        .config_text("")
        .replace("[store]\n", "[store]\nevents = \"all\"\n")
        .replace(
            "[detect]\n",
            "[detect]\nallowed_models = [\"gpt-4o\", \"gpt-4o-mini\", \"claude*\"]\n",
        );
    let config = rig.write_config("a.toml", &text);
    runtime().block_on(async {
        rig.publish(&mut small(49, 2), 200);
        let mut run = rig.spawn("run", &config, &[]);
        let pool = rig.pool().await;
        rig.wait_applied(&pool, 200, seconds(60)).await;
        signal(&run, Signal::TERM);
        assert!(ended(&mut run, Duration::from_secs(45)).success());
        let (kept, others): (i64, i64) = sqlx::query_as(
            "SELECT count(*), count(*) FILTER (WHERE model NOT LIKE 'gpt-4o%' AND model NOT LIKE 'claude%') FROM vw.event",
        )
        .fetch_one(&pool)
        .await
        .expect("events");
        assert_eq!(kept, 200, "all are kept");
        let found: i64 =
            sqlx::query_scalar("SELECT count(*) FROM vw.finding WHERE rule = 'access-model'")
                .fetch_one(&pool)
                .await
                .expect("findings");
        assert!(others > 20 && found == others, "{found} findings of {others} events");
    });
}
