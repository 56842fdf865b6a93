//! The demo's console: what it answers to whom, and what a real browser makes of hostile names.

use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use veilwatch::decide::Titles;
use veilwatch::demo::board::{Call, Incident, Learning, Mail, Phase, Shared};
use veilwatch::demo::closing::outcomes;
use veilwatch::demo::console::Console;
use veilwatch::demo::script::{Label, Who};
use veilwatch::event::Time;
use veilwatch::store::report::{SeenBudget, SeenDeadLetter, SeenIncident, SeenPartition};

/// Markup that would announce itself if any of it were taken as such.
const EVIL: &str =
    "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>";
/// Longest that the browser may take.
const PATIENCE: Duration = Duration::from_secs(60);

fn incident(severity: &str, subject: &str) -> SeenIncident {
    SeenIncident {
        id: "ab".repeat(16),
        number: 2,
        state: "open".into(),
        severity: severity.into(),
        stage: "page".into(),
        detector: "leak".into(),
        rule: "leak-cross-user".into(),
        tenant: EVIL.into(),
        subject: subject.into(),
        user: Some(subject.into()),
        model: Some(EVIL.into()),
        gateway: None,
        reason: EVIL.into(),
        opened: Time(1_700_000_000_000),
        last: Time(1_700_000_000_000),
        stored: Time(1_700_000_001_000),
        findings: 1,
    }
}

/// A board on which every name is hostile.
fn board() -> Shared {
    let labels = [Label {
        name: "personal data",
        caption: "an answer holds a card",
        detectors: &["leak"],
        rule: None,
        who: Who::User("never".into()),
        must: true,
        by_minute: false,
        began: Some(Time(1_700_000_000_000)),
    }];
    let shared = Shared::default();
    shared.line(EVIL);
    shared.update(|b| {
        b.phase = Phase::Ended;
        b.incidents = [
            ("medium", EVIL),
            ("critical", "user:k7:AAAAAAAAAAAAAAAAAAAAAA"),
        ]
        .map(|(s, subject)| Incident::new(&incident(s, subject), &Titles::default(), &labels))
        .to_vec();
        b.tell(&labels, outcomes(&labels, &[]));
        b.budgets = vec![SeenBudget {
            scope: "team".into(),
            subject: EVIL.into(),
            period: "d:2026-11-21".into(),
            unit: "tokens".into(),
            limit: 1000.0,
            used: 1500.0,
            percent: 150.0,
            threshold: Some(100),
            missing: 1,
            unpriced: 0,
        }];
        b.partitions = vec![SeenPartition {
            topic: EVIL.into(),
            partition: 3,
            records: 12_345,
            events: 12_343,
            duplicates: 1,
            late: 0,
            dead_letters: 1,
            lost: 0,
            applied_ms: 1_700_000_000_000,
            halted: None,
        }];
        b.dead_letters = vec![SeenDeadLetter {
            topic: EVIL.into(),
            partition: 3,
            offset: 7,
            reason: "not_json".into(),
            path: None,
            byte: Some(2),
            bytes: 15,
        }];
        b.learning = vec![Learning {
            name: "Latency",
            state: "2, 1 still learning".into(),
            note: "",
            learning: true,
        }];
        b.mails = vec![Mail {
            to: EVIL.into(),
            subject: EVIL.into(),
            body: EVIL.into(),
        }];
        b.calls = vec![Call {
            kind: "incident.opened".into(),
            title: EVIL.into(),
            genuine: false,
            status: 503,
            body: EVIL.into(),
        }];
        b.database = EVIL.into();
    });
    shared
}

async fn ask(address: std::net::SocketAddr, path: &str, host: &str) -> String {
    let (path, host) = (path.to_owned(), host.to_owned());
    tokio::task::spawn_blocking(move || {
        let mut stream = std::net::TcpStream::connect(address).expect("connect");
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"
        )
        .expect("ask");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answer");
        answer
    })
    .await
    .expect("asked")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_loopback_is_answered_and_nothing_foreign_may_load() {
    let console = Console::start(board()).await.expect("console");
    assert!(console.address.ip().is_loopback());
    for (path, kind) in [
        ("/", "text/html"),
        ("/page.css", "text/css"),
        ("/page.js", "text/javascript"),
        ("/board", "application/json"),
    ] {
        let answer = ask(console.address, path, &console.address.to_string()).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
        assert!(answer.contains(&format!("content-type: {kind}")), "{path}");
        assert!(answer.contains("content-security-policy: default-src 'none'; script-src 'self'"));
        // Nothing is fetched from elsewhere, nothing is written as markup.
        let body = answer.split_once("\r\n\r\n").expect("a body").1;
        assert!(
            !body.contains("://") && !body.contains("innerHTML"),
            "{path}"
        );
    }
    for host in ["evil.example", "127.0.0.1.evil.example", ""] {
        let answer = ask(console.address, "/board", host).await;
        assert!(!answer.starts_with("HTTP/1.1 200"), "{host}: {answer}");
    }
}

fn browser() -> Option<PathBuf> {
    let names = [
        "chromium-headless-shell",
        "chromium",
        "chromium-browser",
        "google-chrome",
    ];
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .flat_map(|dir| names.map(|n| dir.join(n)))
        .find(|p| p.is_file())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_shows_hostile_names_as_text() {
    let Some(browser) = browser() else {
        assert!(
            std::env::var_os("VEILWATCH_NEED_BROWSER").is_none(),
            "a browser is needed here, and no Chromium is in PATH"
        );
        // Past the capture of test output: a test that did not run must not look like one that did.
        let _ = std::io::stderr()
            .write_all(b"SKIPPED: no Chromium in PATH, the console is not tried in a browser\n");
        return;
    };
    let console = Console::start(board()).await.expect("console");
    let url = format!("http://{}/", console.address);
    let profile = tempfile::tempdir().expect("a folder");
    let dom = tokio::task::spawn_blocking(move || {
        let mut child = Command::new(browser)
            // As root Chromium has no sandbox; the page is ours.
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--virtual-time-budget=4000",
                "--dump-dom",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(url)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the browser starts");
        let mut out = child.stdout.take().expect("its output");
        let reader = std::thread::spawn(move || {
            let mut dom = String::new();
            out.read_to_string(&mut dom).map(|_| dom)
        });
        let start = Instant::now();
        while child.try_wait().expect("wait").is_none() {
            if start.elapsed() > PATIENCE {
                child.kill().expect("kill");
                panic!("the browser hangs");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        reader.join().expect("reader").expect("the page")
    })
    .await
    .expect("browsed");

    assert!(dom.contains("<title>Veilwatch demo</title>"), "{dom}");
    assert_eq!(dom.matches("<script").count(), 1, "markup came from a name");
    assert!(!dom.contains("<img"), "markup came from a name");
    assert!(dom.contains("&lt;img src=x"), "names are shown");
    // What a reader needs is there: worst first, since when, budgets, learning, completeness, messages.
    let worst = dom.find("pill critical").expect("the critical one");
    assert!(worst < dom.find("pill medium").expect("the milder one"));
    for word in [
        "A value of one user was sent to another",
        "AAAAAAAA…",
        "1,500 tokens of 1,000 tokens in the day 2026-11-21",
        "crossed 100 %",
        "1 still learning",
        "12,345",
        "byte 2 of 15",
        "SIGNATURE WRONG, refused with 503",
        "MISSED",
    ] {
        assert!(dom.contains(word), "{word} is missing");
    }
}
