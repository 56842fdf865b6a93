//! Delivery over real sockets: SMTP with and without STARTTLS, signed webhooks, receivers that fail
//! in every way of F43–F45, a worker that dies between sending and marking (F48).

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use uuid::Uuid;
use veilwatch::decide::{Notification, NotificationKind};
use veilwatch::deliver::email::{Email, Settings};
use veilwatch::deliver::http::{Http, Service, SigningKey};
use veilwatch::deliver::{
    Backoff, Claimed, Disposition, Fleet, Limits, MAX_RETRY_AFTER, Mark, Message, Named, Outbox,
    Reason, SendError, Sink, render,
};
use veilwatch::demo::mailbox::Mailbox;
use veilwatch::demo::receiver::Receiver;
use veilwatch::event::{Severity, Stage, hash16};

const LONG: Duration = Duration::from_secs(20);

fn notification(name: &str, severity: Severity) -> Notification {
    Notification {
        key: hash16("test", &[name.as_bytes()]).to_string(),
        number: 1,
        dedup_key: hash16("test dedup", &[name.as_bytes()]).to_string(),
        kind: NotificationKind::Firing,
        severity,
        stage: Stage::Page,
        detector: "injection".into(),
        rule: name.into(),
        title: "instructions were overridden".into(),
        tenant: "acme".into(),
        subject: "user:k7:AAAAAAAAAAAAAAAAAAAAAA".into(),
        user: Some("k7:AAAAAAAAAAAAAAAAAAAAAA".into()),
        gateway: Some("gw-eu-1".into()),
        event: None,
        members: Vec::new(),
        more: 0,
        over: 0,
        was: None,
        until_ms: None,
        model: Some("gpt-4o".into()),
        since_ms: 1_800_000_000_000,
        at_ms: 1_800_000_005_000,
        findings: 1,
        reason: "score 0.98".into(),
        runbook: "deploy/runbooks/injection.md".into(),
        silence_command: veilwatch::decide::silence_command("injection", "x", "user:u"),
    }
}

fn message(name: &str) -> Message {
    let notification = notification(name, Severity::High);
    Message {
        id: format!("{}-0", notification.dedup_key),
        notification,
    }
}

fn secret() -> SigningKey {
    SigningKey::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("secret")
}

fn webhook(url: &str) -> Sink {
    let service = Service::Webhook {
        secrets: vec![secret()],
    };
    Sink::Http(Http::new(service, url, false).expect("url"))
}

// --- mail ---------------------------------------------------------------------------------------

/// A certificate for 127.0.0.1 and the PEM of its authority.
fn certificate() -> (Arc<rustls::ServerConfig>, String) {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("rcgen");
    let pem = made.cert.pem();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der());
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.expect("key"))
        .expect("certificate");
    (Arc::new(config), pem)
}

fn email(mailbox: &Mailbox, ca_pem: Option<String>) -> Sink {
    let settings = Settings {
        smtp: format!("smtp://{}", mailbox.address()),
        from: Some("Veilwatch <veilwatch@example.com>".into()),
        to: vec!["on-call@example.com".into()],
        ca_pem,
        ..Settings::default()
    };
    Sink::Email(Email::new(&settings).expect("settings"))
}

#[tokio::test]
async fn mail_arrives_encrypted_threaded_and_readable() {
    let (tls, pem) = certificate();
    let mailbox = Mailbox::start(Some(tls)).await.expect("mailbox");
    let sink = email(&mailbox, Some(pem));
    let m = message("inj-override");
    sink.send(&m).await.expect("sent");
    let mails = mailbox.mails();
    assert_eq!(mails.len(), 1);
    let mail = &mails[0];
    assert!(mail.encrypted, "STARTTLS was used");
    assert_eq!(mail.to, ["on-call@example.com"]);
    assert_eq!(
        mail.body().replace("\r\n", "\n"),
        render::mail(&m.notification)
    );
    assert_eq!(
        mail.header("Subject"),
        Some(render::subject(&m.notification))
    );
    assert_eq!(
        mail.header("Content-Transfer-Encoding").as_deref(),
        Some("base64")
    );
    assert_eq!(
        mail.header("Auto-Submitted").as_deref(),
        Some("auto-generated")
    );
    let id = format!("<{}@veilwatch.invalid>", m.id);
    assert_eq!(
        mail.header("Message-ID"),
        Some(id),
        "the same in every attempt"
    );
    let thread = format!("<{}@veilwatch.invalid>", m.notification.dedup_key);
    assert_eq!(mail.header("References"), Some(thread));
}

#[tokio::test]
async fn mail_is_never_downgraded() {
    // TLS is required (an authority is given), the server offers none: refused, nothing is sent.
    let (_, pem) = certificate();
    let mailbox = Mailbox::start(None).await.expect("mailbox");
    let refused = email(&mailbox, Some(pem))
        .send(&message("x"))
        .await
        .expect_err("no STARTTLS");
    assert_eq!(
        (refused.disposition, refused.reason),
        (Disposition::GiveUp, Reason::Tls)
    );
    assert!(mailbox.mails().is_empty());
    // A certificate of somebody else: nothing is sent either.
    let (tls, _) = certificate();
    let (_, other) = certificate();
    let mailbox = Mailbox::start(Some(tls)).await.expect("mailbox");
    let refused = email(&mailbox, Some(other))
        .send(&message("x"))
        .await
        .expect_err("untrusted");
    assert!(
        matches!(refused.disposition, Disposition::Retry { .. }),
        "{refused}"
    );
    assert!(mailbox.mails().is_empty());
}

#[tokio::test]
async fn f52_a_hostile_name_writes_no_second_mail_and_no_header() {
    let mailbox = Mailbox::start(None).await.expect("mailbox");
    let sink = email(&mailbox, None);
    let mut m = message("x");
    let evil = "x\r\n.\r\nMAIL FROM:<e@example.com>\r\nRCPT TO:<f@example.com>\r\nDATA\r\nBcc: g@example.com\n.\nQUIT\r";
    m.notification.tenant = evil.into();
    m.notification.reason = evil.into();
    m.notification.title = evil.into();
    sink.send(&m).await.expect("sent");
    let mails = mailbox.mails();
    assert_eq!(mails.len(), 1);
    assert_eq!(mails[0].to, ["on-call@example.com"]);
    assert_eq!(mails[0].header("Bcc"), None);
    let (head, body) = mails[0].raw.split_once("\r\n\r\n").expect("two parts");
    assert!(
        !head.replace("\r\n", "").contains(['\r', '\n']),
        "no bare line breaks"
    );
    assert!(
        body.chars()
            .all(|c| c.is_ascii_alphanumeric() || "+/=\r\n".contains(c)),
        "Base64 only"
    );
    assert!(
        mails[0].body().contains("MAIL FROM"),
        "shown, as harmless text"
    );
}

#[tokio::test]
async fn smtp_answers_decide_about_trying_again() {
    let mailbox = Mailbox::start(None).await.expect("mailbox");
    let sink = email(&mailbox, None);
    for (code, again) in [
        (451, true),
        (421, true),
        (452, true),
        (550, false),
        (535, false),
        (554, false),
    ] {
        mailbox.refuse(&[code]);
        let e = sink.send(&message("x")).await.expect_err("refused");
        assert_eq!(
            matches!(e.disposition, Disposition::Retry { .. }),
            again,
            "{code}: {e}"
        );
    }
    sink.send(&message("x")).await.expect("works again");
    assert_eq!(mailbox.mails().len(), 1);
}

#[tokio::test]
async fn a_receiver_that_is_refused_keeps_the_mail_from_no_other() {
    let mailbox = Mailbox::start(None).await.expect("mailbox");
    let all = ["a@example.com", "left@example.com", "c@example.com"];
    let settings = Settings {
        smtp: format!("smtp://{}", mailbox.address()),
        to: all.map(str::to_owned).to_vec(),
        ..Settings::default()
    };
    let sink = Sink::Email(Email::new(&settings).expect("settings"));
    let got = |mailbox: &Mailbox| {
        let mails = mailbox.mails().into_iter();
        let mut to: Vec<String> = mails.flat_map(|m| m.to).collect();
        to.sort();
        to
    };
    // A colleague's mailbox was deleted.
    mailbox.refuse_receiver("left@example.com", 550);
    let accepted = sink.send(&message("x")).await.expect("sent");
    assert_eq!((accepted.missed, accepted.again), (1, false));
    assert_eq!(
        accepted.why, "receiver 2 of 3: auth: SMTP status 550",
        "by place: addresses stay out of logs"
    );
    assert_eq!(got(&mailbox), ["a@example.com", "c@example.com"]);
    // One is full for now: it alone is tried again, and gets the same mail.
    mailbox.refuse_receiver("left@example.com", 452);
    let accepted = sink.send(&message("y")).await.expect("sent");
    assert_eq!((accepted.missed, accepted.again), (1, true));
    mailbox.refuse_receiver("left@example.com", 0);
    let accepted = sink.send(&message("y")).await.expect("sent");
    assert_eq!((accepted.missed, accepted.again), (0, false));
    assert_eq!(got(&mailbox).len(), 5, "two, and three: none twice");
    // Full for days: it does not hold the incident's next mails back for ever.
    mailbox.refuse_receiver("left@example.com", 452);
    let mut attempts = 1;
    while sink.send(&message("z")).await.expect("sent").again {
        attempts += 1;
    }
    assert_eq!(attempts, 4);
    // All refuse: nobody has it, and that is an error.
    for to in all {
        mailbox.refuse_receiver(to, 550);
    }
    let e = sink.send(&message("w")).await.expect_err("refused");
    assert_eq!(e.disposition, Disposition::GiveUp);
    // One of them only for now: worth another attempt.
    mailbox.refuse_receiver("c@example.com", 451);
    let e = sink.send(&message("w")).await.expect_err("refused");
    assert!(matches!(e.disposition, Disposition::Retry { .. }), "{e}");
}

// --- a receiver that fails in chosen ways ---------------------------------------------------------

#[derive(Clone)]
enum Behaviour {
    Say(&'static str),
    CloseAfterReading,
    CloseMidBody,
    Hang,
}

struct Raw {
    address: SocketAddr,
    ids: Arc<Mutex<Vec<String>>>,
}

impl Raw {
    /// Shows one behaviour per connection, then answers 200.
    async fn start(behaviours: Vec<Behaviour>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let ids = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&ids);
        tokio::spawn(async move {
            let mut behaviours = behaviours.into_iter();
            let mut open = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = Vec::new();
                let mut buf = [0; 4096];
                while !complete(&request) {
                    match stream.read(&mut buf).await {
                        Ok(n) if n > 0 => request.extend_from_slice(&buf[..n]),
                        _ => break,
                    }
                }
                let text = String::from_utf8_lossy(&request).into_owned();
                if let Some(id) = text.lines().find_map(|l| l.strip_prefix("webhook-id: ")) {
                    seen.lock().expect("lock").push(id.trim().to_owned());
                }
                let ok = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                match behaviours.next().unwrap_or(Behaviour::Say(ok)) {
                    Behaviour::Say(s) => drop(stream.write_all(s.as_bytes()).await),
                    Behaviour::CloseAfterReading => {}
                    Behaviour::CloseMidBody => {
                        let s = "HTTP/1.1 500 X\r\ncontent-length: 1000\r\n\r\nhalf";
                        drop(stream.write_all(s.as_bytes()).await);
                    }
                    Behaviour::Hang => open.push(stream),
                }
            }
        });
        Self { address, ids }
    }
    fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }
    fn ids(&self) -> Vec<String> {
        self.ids.lock().expect("lock").clone()
    }
}

/// Whether a request with `content-length` is there in full.
fn complete(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head
        .lines()
        .find_map(|l| l.strip_prefix("content-length: ")?.parse().ok());
    body.len() >= length.unwrap_or(0)
}

#[tokio::test]
async fn f43_every_failure_of_a_receiver_is_told_apart() {
    let retry = Disposition::Retry { after: None };
    let cases: Vec<(Behaviour, Disposition, Reason)> = vec![
        (
            Behaviour::Say("HTTP/1.1 429 X\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n"),
            Disposition::Retry {
                after: Some(Duration::from_secs(7)),
            },
            Reason::RateLimited,
        ),
        (
            Behaviour::Say("HTTP/1.1 503 X\r\nretry-after: 99999999\r\ncontent-length: 0\r\n\r\n"),
            Disposition::Retry {
                after: Some(MAX_RETRY_AFTER),
            },
            Reason::Server,
        ),
        (
            Behaviour::Say("HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n"),
            retry,
            Reason::Server,
        ),
        (
            Behaviour::Say("HTTP/1.1 502 X\r\ncontent-length: 0\r\n\r\n"),
            retry,
            Reason::Server,
        ),
        (Behaviour::CloseMidBody, retry, Reason::Server),
        (Behaviour::CloseAfterReading, retry, Reason::Connection),
        (
            Behaviour::Say(
                "HTTP/1.1 301 X\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n",
            ),
            Disposition::GiveUp,
            Reason::Redirect,
        ),
        (
            Behaviour::Say("HTTP/1.1 401 X\r\ncontent-length: 0\r\n\r\n"),
            Disposition::GiveUp,
            Reason::Auth,
        ),
        (
            Behaviour::Say("not http at all\r\n\r\n"),
            retry,
            Reason::Connection,
        ),
    ];
    for (behaviour, disposition, reason) in cases {
        let server = Raw::start(vec![behaviour]).await;
        let e = webhook(&server.url())
            .send(&message("x"))
            .await
            .expect_err("fails");
        assert_eq!((e.disposition, e.reason), (disposition, reason), "{e}");
        assert_eq!(
            server.ids(),
            [message("x").id],
            "asked once, followed nowhere"
        );
    }
    // Nobody listens; a name that does not exist; TLS towards something else.
    let closed = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("bind")
        .local_addr()
        .expect("address");
    let e = webhook(&format!("http://{closed}/"))
        .send(&message("x"))
        .await
        .expect_err("closed");
    assert_eq!((e.disposition, e.reason), (retry, Reason::Connection));
    let e = webhook("https://no-such-name.invalid/")
        .send(&message("x"))
        .await
        .expect_err("no name");
    assert_eq!((e.disposition, e.reason), (retry, Reason::Connection));
    let plain = Raw::start(vec![Behaviour::Say("hello, this is not TLS\r\n")]).await;
    let e = webhook(&format!("https://{}/", plain.address))
        .send(&message("x"))
        .await
        .expect_err("not TLS");
    assert!(matches!(e.disposition, Disposition::Retry { .. }), "{e}");
    // A name that leads home is not followed, however it was spelt.
    let e = webhook("https://localtest.localhost/")
        .send(&message("x"))
        .await
        .expect_err("private");
    assert!(
        matches!(e.reason, Reason::Address | Reason::Connection),
        "{e}"
    );
}

#[tokio::test]
async fn f43_a_receiver_that_never_answers_is_given_up_in_time() {
    let server = Raw::start(vec![Behaviour::Hang]).await;
    let e = webhook(&server.url())
        .send(&message("x"))
        .await
        .expect_err("hangs");
    assert_eq!(e.reason, Reason::Timeout);
    assert!(matches!(e.disposition, Disposition::Retry { .. }));
}

#[test]
fn errors_never_show_the_url_or_a_secret() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("runtime");
    let e: SendError = runtime
        .block_on(webhook("http://127.0.0.1:1/T00/B00/squirrel").send(&message("x")))
        .expect_err("closed");
    assert!(!format!("{e} {e:?}").contains("squirrel"), "{e:?}");
}

// --- workers over an outbox in memory ------------------------------------------------------------

#[derive(Debug, Clone)]
struct Row {
    sink: String,
    message: Message,
    attempts: u32,
    due: Instant,
    claim: Option<(Uuid, Instant)>,
    done: Option<Mark>,
}

/// Keeps the rules of the real one: severity first, a claim lapses, a lapsed claim marks nothing.
#[derive(Debug)]
struct Memory {
    rows: Mutex<BTreeMap<i64, Row>>,
    lease: Duration,
    /// How many marks to lose, as if the process died after sending.
    lose_marks: Mutex<u32>,
}

impl Memory {
    fn new(lease: Duration) -> Arc<Self> {
        Arc::new(Self {
            rows: Mutex::default(),
            lease,
            lose_marks: Mutex::new(0),
        })
    }
    fn put(&self, sink: &str, message: Message) {
        let mut rows = self.rows.lock().expect("lock");
        let id = i64::try_from(rows.len()).expect("few");
        let row = Row {
            sink: sink.into(),
            message,
            attempts: 0,
            due: Instant::now(),
            claim: None,
            done: None,
        };
        rows.insert(id, row);
    }
    fn done(&self) -> Vec<Option<Mark>> {
        let rows = self.rows.lock().expect("lock");
        rows.values().map(|r| r.done.clone()).collect()
    }
    async fn until_done(&self) {
        let all = async {
            while self.done().iter().any(Option::is_none) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(LONG, all)
            .await
            .expect("all rows are finished in time");
    }
}

impl Outbox for Memory {
    type Error = Infallible;
    type Ticket = (i64, Uuid);
    async fn claim(
        &self,
        sink: &str,
        limit: usize,
        floor: Severity,
    ) -> Result<Vec<Claimed<Self::Ticket>>, Infallible> {
        let now = Instant::now();
        let mut rows = self.rows.lock().expect("lock");
        let mut due: Vec<_> = rows
            .iter_mut()
            .filter(|(_, r)| {
                r.sink == sink
                    && r.done.is_none()
                    && r.due <= now
                    && r.claim.is_none_or(|(_, until)| until <= now)
                    && r.message.notification.severity >= floor
            })
            .collect();
        due.sort_by_key(|(id, r)| (std::cmp::Reverse(r.message.notification.severity), **id));
        Ok(due
            .into_iter()
            .take(limit)
            .map(|(id, r)| {
                let claim = Uuid::new_v4();
                r.claim = Some((claim, now + self.lease));
                Claimed {
                    ticket: (*id, claim),
                    attempts: r.attempts,
                    message: r.message.clone(),
                }
            })
            .collect())
    }
    async fn holds(&self, c: &Claimed<Self::Ticket>) -> Result<bool, Infallible> {
        let rows = self.rows.lock().expect("lock");
        Ok(rows[&c.ticket.0]
            .claim
            .is_some_and(|(id, until)| id == c.ticket.1 && until > Instant::now()))
    }
    async fn mark(&self, c: &Claimed<Self::Ticket>, mark: &Mark) -> Result<bool, Infallible> {
        {
            let mut lose = self.lose_marks.lock().expect("lock");
            if *lose > 0 {
                *lose -= 1;
                return Ok(true);
            }
        }
        if !self.holds(c).await? {
            return Ok(false);
        }
        let mut rows = self.rows.lock().expect("lock");
        let row = rows.get_mut(&c.ticket.0).expect("row");
        match mark {
            Mark::Failed { pause, .. } => {
                row.attempts += 1;
                row.due = Instant::now() + *pause;
                row.claim = None;
            }
            finished => row.done = Some(finished.clone()),
        }
        Ok(true)
    }
    async fn healed(&self, sink: &str) -> Result<u64, Infallible> {
        let now = Instant::now();
        let mut rows = self.rows.lock().expect("lock");
        let mut parked = 0;
        for r in rows.values_mut().filter(|r| r.sink == sink) {
            r.due = r.due.min(now);
            if matches!(r.done, Some(Mark::Parked { .. })) {
                (r.done, r.claim) = (None, None);
                parked += 1;
            }
        }
        Ok(parked)
    }
    async fn probe(&self, sink: &str) -> Result<bool, Infallible> {
        let mut rows = self.rows.lock().expect("lock");
        let parked = |r: &&mut Row| r.sink == sink && matches!(r.done, Some(Mark::Parked { .. }));
        let one = rows.values_mut().find(parked);
        Ok(one.map(|r| (r.done, r.claim) = (None, None)).is_some())
    }
}

fn fleet(outbox: &Arc<Memory>, sinks: Vec<(&str, Sink)>, limits: Limits) -> Fleet {
    // A sink that refuses is given up at once: tests have no minutes.
    let backoff = Backoff {
        first: Duration::from_millis(10),
        longest: Duration::from_millis(40),
        patience: Duration::ZERO,
        ..Backoff::default()
    };
    fleet_of(outbox, sinks, limits, backoff)
}

fn fleet_of(
    outbox: &Arc<Memory>,
    sinks: Vec<(&str, Sink)>,
    limits: Limits,
    backoff: Backoff,
) -> Fleet {
    let named: Vec<Named> = sinks
        .into_iter()
        .map(|(name, sink)| Named {
            name: name.into(),
            sink: Arc::new(sink),
            limits,
        })
        .collect();
    Fleet::start(outbox, &named, backoff)
}

#[tokio::test]
async fn f45_an_answer_that_was_lost_is_repeated_under_the_same_key() {
    let server = Raw::start(vec![Behaviour::CloseAfterReading; 3]).await;
    let outbox = Memory::new(LONG);
    outbox.put("hook", message("a"));
    let fleet = fleet(
        &outbox,
        vec![("hook", webhook(&server.url()))],
        Limits::default(),
    );
    outbox.until_done().await;
    fleet.stop().await;
    assert_eq!(server.ids(), vec![message("a").id; 4]);
    assert_eq!(outbox.done(), [Some(Mark::Sent)]);
}

#[tokio::test]
async fn f48_a_worker_that_dies_after_sending_sends_once_more_under_the_same_key() {
    let receiver = Receiver::start(Some(secret())).await.expect("receiver");
    let outbox = Memory::new(Duration::from_millis(100));
    *outbox.lose_marks.lock().expect("lock") = 1;
    outbox.put("hook", message("a"));
    let fleet = fleet(
        &outbox,
        vec![("hook", webhook(&receiver.url()))],
        Limits::default(),
    );
    outbox.until_done().await;
    fleet.stop().await;
    let calls = receiver.calls();
    assert_eq!(calls.len(), 2, "one duplicate at most");
    assert_eq!(calls[0].id, calls[1].id);
    assert!(calls.iter().all(|c| c.genuine), "signatures hold");
    assert!(
        !calls[0].again && calls[1].again,
        "the receiver can fold it"
    );
}

#[tokio::test]
async fn f44_a_sink_that_refuses_is_parked_told_about_and_delays_no_other() {
    let broken = Receiver::start(None).await.expect("receiver");
    broken.answer([401; 100]);
    let good = Receiver::start(Some(secret())).await.expect("receiver");
    let outbox = Memory::new(LONG);
    for n in 0..5 {
        outbox.put("good", message(&n.to_string()));
    }
    outbox.put("broken", message("a"));
    let sinks = vec![
        ("broken", webhook(&broken.url())),
        ("good", webhook(&good.url())),
    ];
    let fleet = fleet(&outbox, sinks, Limits::default());
    outbox.until_done().await;
    assert!(good.wait_for(6, LONG).await, "five messages and the notice");
    let health = Arc::clone(&fleet.health);
    fleet.stop().await;
    assert_eq!(broken.calls().len(), 1, "not asked again and again");
    let subjects: Vec<_> = good
        .calls()
        .iter()
        .map(|c| c.body["data"]["subject"].clone())
        .collect();
    assert_eq!(
        subjects.iter().filter(|s| **s == "sink:broken").count(),
        1,
        "{subjects:?}"
    );
    assert!(matches!(
        outbox.done().last(),
        Some(Some(Mark::Parked { .. }))
    ));
    let counts = health.summaries();
    assert_eq!(
        (counts["broken"].parked, counts["broken"].broken),
        (1, true)
    );
    assert_eq!((counts["good"].sent, counts["good"].broken), (5, false));
}

#[tokio::test]
async fn a_receiver_that_is_redeployed_loses_no_page_and_alarms_nobody() {
    let redeployed = Receiver::start(Some(secret())).await.expect("receiver");
    redeployed.answer([404, 404, 404, 403]);
    let good = Receiver::start(Some(secret())).await.expect("receiver");
    let outbox = Memory::new(LONG);
    for name in ["a", "b"] {
        let notification = notification(name, Severity::Critical);
        let id = format!("{}-0", notification.dedup_key);
        outbox.put("hook", Message { id, notification });
    }
    let sinks = vec![
        ("hook", webhook(&redeployed.url())),
        ("good", webhook(&good.url())),
    ];
    let backoff = Backoff {
        first: Duration::from_millis(10),
        longest: Duration::from_millis(40),
        ..Backoff::default()
    };
    let fleet = fleet_of(&outbox, sinks, Limits::default(), backoff);
    outbox.until_done().await;
    fleet.stop().await;
    assert_eq!(outbox.done(), [Some(Mark::Sent), Some(Mark::Sent)]);
    assert_eq!(redeployed.calls().len(), 6);
    assert!(good.calls().is_empty(), "a few seconds are no news");
}

#[tokio::test]
async fn what_was_parked_is_sent_when_the_sink_takes_messages_again() {
    let server = Receiver::start(Some(secret())).await.expect("receiver");
    server.answer([401; 3]);
    let outbox = Memory::new(LONG);
    for n in 0..3 {
        let notification = notification(&n.to_string(), Severity::Critical);
        let id = format!("{}-0", notification.dedup_key);
        outbox.put("hook", Message { id, notification });
    }
    let limits = Limits {
        concurrency: 1,
        ..Limits::default()
    };
    let first = fleet(&outbox, vec![("hook", webhook(&server.url()))], limits);
    outbox.until_done().await;
    let parked = outbox.done();
    assert!(
        parked
            .iter()
            .all(|m| matches!(m, Some(Mark::Parked { .. }))),
        "{parked:?}"
    );
    // The credentials are right now, and one new message finds that out. A milder one would wait for
    // the next probe.
    let notification = notification("new", Severity::Critical);
    let id = format!("{}-0", notification.dedup_key);
    outbox.put("hook", Message { id, notification });
    assert!(server.wait_for(7, LONG).await, "three refused, four sent");
    outbox.until_done().await;
    first.stop().await;
    assert_eq!(outbox.done(), vec![Some(Mark::Sent); 4]);
}

#[tokio::test]
async fn a_new_process_tries_what_was_parked_before_it() {
    let server = Receiver::start(Some(secret())).await.expect("receiver");
    let outbox = Memory::new(LONG);
    for n in 0..3 {
        outbox.put("hook", message(&n.to_string()));
    }
    for row in outbox.rows.lock().expect("lock").values_mut() {
        row.done = Some(Mark::Parked { why: "401".into() });
    }
    let fleet = fleet(
        &outbox,
        vec![("hook", webhook(&server.url()))],
        Limits::default(),
    );
    assert!(server.wait_for(3, LONG).await);
    outbox.until_done().await;
    fleet.stop().await;
    assert_eq!(outbox.done(), vec![Some(Mark::Sent); 3]);
}

#[tokio::test]
async fn when_a_sink_heals_nothing_waits_for_its_pause_to_end() {
    let server = Receiver::start(Some(secret())).await.expect("receiver");
    server.answer([503; 6]);
    let outbox = Memory::new(LONG);
    for n in 0..6 {
        outbox.put("hook", message(&n.to_string()));
    }
    let limits = Limits {
        concurrency: 6,
        ..Limits::default()
    };
    // After one failure each the rows wait for an hour.
    let backoff = Backoff {
        first: Duration::from_hours(1),
        longest: Duration::from_hours(1),
        ..Backoff::default()
    };
    let fleet = fleet_of(
        &outbox,
        vec![("hook", webhook(&server.url()))],
        limits,
        backoff,
    );
    assert!(server.wait_for(6, LONG).await);
    outbox.put("hook", message("new"));
    assert!(server.wait_for(13, LONG).await, "six refused, seven sent");
    outbox.until_done().await;
    fleet.stop().await;
}

#[tokio::test]
async fn a_critical_message_waits_for_no_rate_and_no_receiver() {
    let server = Receiver::start(Some(secret())).await.expect("receiver");
    let outbox = Memory::new(LONG);
    for n in 0..50 {
        outbox.put("hook", message(&n.to_string()));
    }
    // Ten a minute: one at once, then six seconds of silence for all below critical.
    let limits = Limits {
        concurrency: 1,
        per_minute: 10,
    };
    let fleet = fleet(&outbox, vec![("hook", webhook(&server.url()))], limits);
    assert!(server.wait_for(1, LONG).await);
    let critical = notification("urgent", Severity::Critical);
    outbox.put(
        "hook",
        Message {
            id: format!("{}-0", critical.dedup_key),
            notification: critical,
        },
    );
    assert!(server.wait_for(2, LONG).await);
    let second = &server.calls()[1].body["data"]["rule"];
    assert_eq!(second, "urgent", "it is the next message");
    fleet.stop().await;
}
