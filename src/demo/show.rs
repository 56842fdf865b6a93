//! Runs the demo from curtain to curtain, with a commentary.
//!
//! Ctrl-C ends the traffic, or the wait for the last minute to close, and the account is made of what
//! was judged by then. A second one ends at once. Either way everything that was started is stopped
//! and removed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until};

use super::board::{Phase, Shared};
use super::closing::{Account, Arrived, Published, account, judged_at, outcomes};
use super::console::Console;
use super::live::{Live, Stop, Voice, look, now};
use super::scene::{Scene, scenes};
use super::script::{Step, labels};
use super::stage::Stage;
use super::traffic::{CROWD, HISTORY_DAYS, MODELS, Traffic};
use super::{DemoError, gateway_of, gateways, history};
use crate::account::Prices;
use crate::config::{self, Config};
use crate::decide::Titles;
use crate::detect::{DetectConfig, Facts};
use crate::event::{Pseudonym, Time};
use crate::rule::{Known, RuleSet};
use crate::seal::Sealer;

/// Pause between two looks at what was found.
const LOOK: Duration = Duration::from_millis(500);
/// Longest wait for the monitor to apply what was published.
const DRAIN: Duration = Duration::from_secs(30);
/// After the last minute was to be judged: the pause in which the last messages arrive.
const LAST_MESSAGES: Duration = Duration::from_secs(2);
/// And the longest wait for what is still not found or not sent.
const LATE: Duration = Duration::from_secs(20);
/// A minute in which something is judged as a whole must have this much left when it begins.
const ENOUGH_OF_A_MINUTE_MS: i64 = 16_000;

/// How to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long the traffic lasts.
    pub time: Duration,
    /// Open the console in a browser.
    pub open: bool,
    /// JSON lines instead of text.
    pub json: bool,
    /// Decides the ordinary traffic: who calls whom, when, with what.
    pub seed: u64,
}

/// What stands after the set-up.
struct Set {
    stage: Stage,
    titles: Titles,
    detect: Arc<DetectConfig>,
    known_users: usize,
}

/// Statements to paste, and what they answer.
const QUERIES: [(&str, &str); 4] = [
    (
        "What is open, worst first?",
        "SELECT severity, detector, rule, subject, opened_at, findings, reason FROM incidents WHERE state <> 'resolved'\n ORDER BY array_position(ARRAY['critical','high','medium','low'], severity), opened_at;",
    ),
    (
        "Did everything arrive?",
        "SELECT topic, partition, records, events, duplicates, dead_letters, lost_records, applied_through FROM completeness ORDER BY 1, 2;",
    ),
    (
        "How much of each budget is used?",
        "SELECT scope, subject, used, limit_in_force, used_percent, highest_threshold FROM budgets WHERE current;",
    ),
    (
        "Who was told what, and when?",
        "SELECT created_at, sink, kind, severity, state, attempts, title FROM notifications ORDER BY created_at;",
    ),
];

/// Runs everything. True if the account at the end is clean.
pub async fn run(options: &Options) -> Result<bool, DemoError> {
    let stop = Stop::listen().map_err(|e| DemoError::new("cannot listen for signals", e))?;
    let voice = Voice {
        json: options.json,
        board: Shared::default(),
    };
    let console = Console::start(voice.board.clone())
        .await
        .map_err(|e| DemoError::new("cannot start the console", e))?;
    let page = format!("http://{}/", console.address);
    voice.say("console", &format!("console on {page}"));
    if options.open {
        open_browser(&page);
    }
    let mut set = tokio::select! {
        set = set(&voice) => set?,
        () = stop.asked(1) => {
            voice.say("interrupt", "Ctrl-C: taking down what was started");
            return Err(DemoError::said("interrupted before the traffic began"));
        }
    };
    let result = tokio::select! {
        r = perform(&mut set, &voice, options, &stop) => r,
        // The first one is heard by `perform`, which ends in order.
        () = stop.asked(2) => Err(DemoError::said("interrupted; no account was made")),
    };
    let Set { mut stage, .. } = set;
    stage.stop_monitor().await;
    if result.is_err() {
        voice.raw(&stage.log_tail());
    }
    drop(stage);
    voice.say("end", "everything that was started is stopped and removed");
    result
}

async fn set(voice: &Voice) -> Result<Set, DemoError> {
    voice.say(
        "setup",
        "starting a private Postgres, an embedded broker, a mailbox and a webhook receiver",
    );
    let mut stage = Stage::set().await?;
    let config =
        Config::load(&stage.config()).map_err(|e| DemoError::new("the configuration", e))?;
    let rules = RuleSet::built_in(&Known::default());
    let titles = Titles::of_rules(&rules);
    let detect = Arc::new(config::core::detect(
        &config.detect,
        Facts::from_rules(&rules),
    ));
    voice.say(
        "setup",
        &format!("learning {HISTORY_DAYS} thinned days through the pure core"),
    );
    let (keys, learner) = (Arc::clone(&stage.keys), Arc::clone(&detect));
    let learnt = tokio::task::spawn_blocking(move || {
        history::learn(&keys, &learner, &Prices::shipped(), now())
    })
    .await
    .map_err(|e| DemoError::new("cannot learn the history", e))?;
    let seeded = stage
        .store
        .seed(
            &learnt.partitions,
            &learnt.leader,
            learnt.merged_through,
            now(),
        )
        .await
        .map_err(|e| DemoError::new("cannot store what was learnt", e))?;
    if !seeded {
        return Err(DemoError::said("the private database was not empty"));
    }
    let found: Vec<String> = learnt
        .found
        .iter()
        .map(|(d, n)| format!("{n} by {d}"))
        .collect();
    voice.say(
        "history",
        &format!(
            "learnt {} events of the past; findings in them (nobody is told): {}",
            learnt.events,
            if found.is_empty() {
                "none".to_owned()
            } else {
                found.join(", ")
            }
        ),
    );
    stage.start_monitor().await?;
    voice.say(
        "setup",
        &format!(
            "the monitor is ready; metrics on http://{}/metrics",
            stage.http
        ),
    );
    let mut paste = format!("\n  database   psql '{}'\n", stage.database());
    for (_, sql) in QUERIES {
        paste.push_str(&format!("             {}\n", sql.replace('\n', "")));
    }
    voice.raw(&paste);
    voice.board.update(|b| {
        stage.database().clone_into(&mut b.database);
        b.queries = QUERIES.to_vec();
    });
    let users: BTreeSet<Pseudonym> = learnt
        .partitions
        .iter()
        .flat_map(|p| p.users.iter().map(|u| u.user))
        .collect();
    Ok(Set {
        stage,
        titles,
        detect,
        known_users: users.len(),
    })
}

async fn perform(
    set: &mut Set,
    voice: &Voice,
    options: &Options,
    stop: &Stop,
) -> Result<bool, DemoError> {
    let stage = &mut set.stage;
    let sealer = Arc::new(Sealer::built_in((*stage.keys).clone()));
    let mut live = Live {
        traffic: Traffic::new(options.seed),
        gateways: gateways(&stage.keys, &sealer, "live"),
        publisher: stage.publisher()?,
        labels: Vec::new(),
        slow: BTreeMap::new(),
        counted: Published::default(),
        told: BTreeSet::new(),
        mails: 0,
        calls: 0,
        titles: set.titles.clone(),
        detect: Arc::clone(&set.detect),
        known_users: set.known_users,
    };
    live.labels = labels(&live.gateways[0]);
    voice.say(
        "traffic",
        &format!(
            "{} users, {} models, 3 gateways: two seal next to the traffic, one still sends texts to a trusted topic",
            CROWD.len(),
            MODELS.len()
        ),
    );
    let length = i64::try_from(options.time.as_millis()).unwrap_or(i64::MAX);
    voice.board.update(|b| {
        b.phase = Phase::Live;
        b.began_ms = now().0;
        b.ends_ms = now().plus_ms(length).0;
    });
    play(&mut live, stage, voice, options, stop).await?;
    voice.board.update(|b| b.phase = Phase::Settling);
    settle(&mut live, stage, voice, stop).await?;
    let account = close(&live, stage).await?;
    voice.board.update(|b| b.phase = Phase::Ended);
    if options.json {
        let line = json!({"kind": "summary", "account": account});
        let _ = writeln!(std::io::stdout().lock(), "{line}");
    } else {
        voice.raw(&account.text());
    }
    Ok(account.is_clean())
}

/// The window for what is judged by the minute, relative to the start: within one clock minute.
fn minute_window(start: Time, time_ms: i64) -> (i64, i64) {
    let into = start.0.rem_euclid(60_000);
    let left = 60_000 - into;
    let begin = if left >= ENOUGH_OF_A_MINUTE_MS + 4_000 {
        4_000
    } else {
        left + 500
    };
    let end = Time(start.0 + begin).0.div_euclid(60_000) * 60_000 + 60_000 - start.0 - 2_000;
    (begin, end.min(begin.max(time_ms - 1_000)))
}

/// Traffic and scenes, until the time is over or somebody asks to stop.
async fn play(
    live: &mut Live,
    stage: &mut Stage,
    voice: &Voice,
    options: &Options,
    stop: &Stop,
) -> Result<(), DemoError> {
    let start = Instant::now();
    let time_ms = i64::try_from(options.time.as_millis()).unwrap_or(i64::MAX);
    let mut due: BTreeMap<(i64, usize), Due> = BTreeMap::new();
    for (n, scene) in scenes(minute_window(now(), time_ms))
        .into_iter()
        .enumerate()
    {
        due.insert((scene.at, n), Due::Scene(scene));
    }
    let mut serial = due.len();
    let (mut next_call, mut next_look) = (0i64, 0i64);
    loop {
        let next = due.keys().next().map_or(i64::MAX, |k| k.0);
        let wake = next.min(next_call).min(next_look).min(time_ms);
        let at = start + Duration::from_millis(u64::try_from(wake).unwrap_or(0));
        tokio::select! {
            () = sleep_until(at) => {}
            () = stop.asked(1) => {
                voice.say("interrupt", "Ctrl-C: the traffic ends; the account follows (again: end at once)");
                return Ok(());
            }
        }
        let ms = i64::try_from(start.elapsed().as_millis()).unwrap_or(i64::MAX);
        if ms >= time_ms {
            return Ok(());
        }
        while let Some(entry) = due.first_entry().filter(|e| e.key().0 <= ms) {
            match entry.remove() {
                Due::Scene(scene) => {
                    introduce(live, voice, &scene);
                    for (after, step) in scene.steps(&mut live.traffic) {
                        due.insert(
                            (scene.at + after, serial),
                            Due::Step(scene.label, Box::new(step)),
                        );
                        serial += 1;
                    }
                }
                Due::Step(label, step) => live.step(label, *step),
            }
        }
        // What was due while the last look took its time is made up for: a busy machine has as much traffic.
        while next_call <= ms {
            let (gap, call) = live.traffic.next_call();
            let user = CROWD.iter().position(|u| *u == call.user).unwrap_or(0);
            live.publish(gateway_of(user), call);
            next_call += i64::try_from(gap).unwrap_or(200).max(1);
        }
        if next_look <= ms {
            look(live, stage, voice).await;
            if stage.monitor_ended() {
                return Err(DemoError::said("the monitor ended by itself"));
            }
            next_look = ms + i64::try_from(LOOK.as_millis()).unwrap_or(500);
        }
    }
}

enum Due {
    Scene(Scene),
    Step(usize, Box<Step>),
}

fn introduce(live: &Live, voice: &Voice, scene: &Scene) {
    if let Some(label) = live.labels.get(scene.label) {
        let mark = if label.must { "put in" } else { "control" };
        voice.say(
            "injected",
            &format!(">> {mark}: {}: {}", label.name, label.caption),
        );
    } else {
        voice.say(
            "injected",
            ">> put in: two records that are no events (they must become dead letters)",
        );
    }
}

/// Waits until everything published is applied, what was put in is judged, and messages are sent.
async fn settle(
    live: &mut Live,
    stage: &mut Stage,
    voice: &Voice,
    stop: &Stop,
) -> Result<(), DemoError> {
    live.publisher
        .flush(Duration::from_secs(10))
        .map_err(|e| DemoError::new("the broker does not take the last events", e))?;
    let wanted = i64::try_from(live.counted.events).unwrap_or(i64::MAX);
    let limit = Instant::now() + DRAIN;
    while Instant::now() < limit {
        look(live, stage, voice).await;
        let totals = stage.store.report_totals().await.unwrap_or_default();
        if totals.events >= wanted
            && i64::try_from(live.counted.garbage).is_ok_and(|g| totals.dead_letters >= g)
        {
            break;
        }
        sleep(LOOK).await;
    }
    let judged = live
        .labels
        .iter()
        .filter(|l| l.by_minute)
        .filter_map(|l| l.began)
        .map(judged_at)
        .max();
    let wait = judged.map_or(0, |at| at.since_ms(now()).max(0));
    let until = Instant::now() + Duration::from_millis(u64::try_from(wait).unwrap_or(0));
    let mut said = false;
    while Instant::now() < until {
        tokio::select! {
            biased;
            () = stop.asked(1) => {
                voice.say("settle", "not waiting for the last minute to close");
                break;
            }
            () = sleep(LOOK) => {}
        }
        if !said {
            said = true;
            let seconds = wait / 1000;
            voice.say(
                "settle",
                &format!("the traffic has ended; {seconds} s until its last minute closes and is judged (Ctrl-C: do not wait)"),
            );
        }
        look(live, stage, voice).await;
    }
    // A busy machine judges and sends later; what comes at once needs no more than the shorter pause.
    let limit = Instant::now() + LATE;
    loop {
        sleep(LAST_MESSAGES).await;
        look(live, stage, voice).await;
        if Instant::now() >= limit || stop.heard() || all_told(live, stage).await {
            return Ok(());
        }
    }
}

/// Whether all that must be found is, and everybody was told.
async fn all_told(live: &Live, stage: &Stage) -> bool {
    let (Ok(incidents), Ok(unsent)) = (
        stage.store.report_incidents().await,
        stage.store.report_unsent().await,
    ) else {
        return false;
    };
    let all = outcomes(&live.labels, &incidents);
    unsent == 0
        && all
            .iter()
            .all(|o| !o.must || !o.injected || o.incident.is_some())
}

async fn close(live: &Live, stage: &Stage) -> Result<Account, DemoError> {
    let read = |e| DemoError::new("cannot read the result", e);
    let incidents = stage.store.report_incidents().await.map_err(read)?;
    let totals = stage.store.report_totals().await.map_err(read)?;
    let calls = stage.receiver.calls();
    let accepted: BTreeSet<&str> = calls
        .iter()
        .filter(|c| c.status < 300)
        .map(|c| c.id.as_str())
        .collect();
    let arrived = Arrived {
        mails: stage.mailbox.mails().len(),
        calls: accepted.len(),
        forged: calls.iter().filter(|c| !c.genuine).count(),
        retried: calls
            .iter()
            .filter(|c| c.status >= 300 && accepted.contains(c.id.as_str()))
            .count(),
    };
    Ok(account(
        &live.labels,
        &incidents,
        totals,
        live.counted,
        arrived,
        now(),
    ))
}

/// Opens the page if there is a desktop; says nothing if there is none.
fn open_browser(url: &str) {
    let program = if cfg!(target_os = "macos") {
        "open"
    } else {
        "xdg-open"
    };
    let desktop = cfg!(target_os = "macos")
        || std::env::var_os("DISPLAY").is_some()
        || std::env::var_os("WAYLAND_DISPLAY").is_some();
    if desktop {
        let _ = std::process::Command::new(program)
            .arg(url)
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn();
    }
}
