//! What changes while the show runs: traffic, gateways, counts; and the voice that tells of it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::sync::Arc;

use serde_json::json;
use tokio::sync::watch;

use super::board::{self, Shared};
use super::closing::{Published, about, outcomes};
use super::gateway::{Gateway, SEALED_TOPIC};
use super::script::{Label, Step};
use super::stage::Stage;
use super::traffic::{Call, MODELS, Traffic};
use super::{mailbox, receiver};
use crate::decide::Titles;
use crate::detect::{DetectConfig, Leader};
use crate::event::Time;
use crate::ingest::publish::Publisher;
use crate::store::StoreError;
use crate::store::report::SeenIncident;

/// Says things, once to the terminal and once to the console.
pub(super) struct Voice {
    pub(super) json: bool,
    pub(super) board: Shared,
}

impl Voice {
    pub(super) fn say(&self, kind: &str, text: &str) {
        self.board.line(text);
        let line = if self.json {
            json!({"kind": kind, "at": now().to_string(), "text": text}).to_string()
        } else {
            let clock = now().to_string();
            format!("{}  {text}", clock.get(11..19).unwrap_or_default())
        };
        // A reader that went away is no reason to stop: cleaning up matters more.
        let _ = writeln!(std::io::stdout().lock(), "{line}");
    }
    pub(super) fn raw(&self, text: &str) {
        if !self.json {
            let _ = writeln!(std::io::stdout().lock(), "{text}");
        }
    }
}

/// Counts the orders to stop. A signal is not lost while nobody happens to wait for it.
#[derive(Debug, Clone)]
pub(super) struct Stop(watch::Receiver<u32>);

impl Stop {
    /// Listens for Ctrl-C and SIGTERM; a terminal that was closed counts twice.
    pub(super) fn listen() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let (count, stop) = watch::channel(0);
        tokio::spawn(async move {
            loop {
                let n = tokio::select! {
                    _ = interrupt.recv() => 1,
                    _ = terminate.recv() => 1,
                    _ = hangup.recv() => 2,
                };
                count.send_modify(|c| *c += n);
            }
        });
        Ok(Self(stop))
    }

    /// Whether it was asked to stop.
    pub(super) fn heard(&self) -> bool {
        *self.0.borrow() > 0
    }

    /// Waits until it was asked to stop so many times.
    pub(super) async fn asked(&self, times: u32) {
        let mut stop = self.0.clone();
        if stop.wait_for(|n| *n >= times).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

pub(super) fn now() -> Time {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    Time(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// The part of the show that changes as it goes.
pub(super) struct Live {
    pub(super) traffic: Traffic,
    pub(super) gateways: [Gateway; 3],
    pub(super) publisher: Publisher,
    pub(super) labels: Vec<Label>,
    pub(super) slow: BTreeMap<&'static str, f64>,
    pub(super) counted: Published,
    pub(super) told: BTreeSet<(String, i32)>,
    pub(super) mails: usize,
    pub(super) calls: usize,
    pub(super) titles: Titles,
    pub(super) detect: Arc<DetectConfig>,
    /// Users whose baseline was seeded.
    pub(super) known_users: usize,
}

impl Live {
    pub(super) fn step(&mut self, label: usize, step: Step) {
        if let Some(l) = self.labels.get_mut(label) {
            l.began.get_or_insert_with(now);
        }
        match step {
            Step::Call(gateway, call) => {
                // The budget falls because of the spend, in the same calls.
                if self
                    .labels
                    .get(label)
                    .is_some_and(|l| l.name == "spend spike")
                    && let Some(budget) = self.labels.iter_mut().find(|l| l.name == "budget")
                {
                    budget.began.get_or_insert_with(now);
                }
                self.publish(gateway, *call);
            }
            Step::Lose(gateway, user, n) => self.gateways[gateway].lose(user.tenant, user.name, n),
            Step::Discard(gateway, user, n) => {
                self.gateways[gateway].discard(user.tenant, user.name, n);
            }
            Step::Garbage(text) => {
                self.counted.garbage += 1;
                self.publisher
                    .send(SEALED_TOPIC, Some(0), b"garbage", text.as_bytes(), &[]);
            }
            Step::Slow(model, factor) => {
                self.slow.insert(model, factor);
            }
        }
    }

    pub(super) fn publish(&mut self, gateway: usize, mut call: Call) {
        let served = call.served.unwrap_or(MODELS[call.user.model].served);
        if let Some(factor) = self.slow.get(served) {
            call.ttft_ms *= factor;
            call.per_token_ms *= factor;
        }
        let Some(out) = self.gateways[gateway].publish(&call, now()) else {
            return;
        };
        self.publisher.send(
            out.topic,
            Some(out.partition),
            out.key.as_bytes(),
            &out.value,
            &[],
        );
        self.counted.events += 1;
        self.counted.tokens += out.tokens;
    }
}

/// Tells what is new: incidents, mails, webhook calls.
pub(super) async fn look(live: &mut Live, stage: &Stage, voice: &Voice) {
    let Ok(incidents) = stage.store.report_incidents().await else {
        return;
    };
    for i in incidents.iter().rev() {
        if !live.told.insert((i.id.clone(), i.number)) {
            continue;
        }
        let title = live.titles.get(&i.rule).unwrap_or(&i.rule);
        voice.say(
            "incident",
            &format!(
                "<< incident [{}] {title}: {} ({}/{}); {}; {}",
                i.severity,
                i.subject,
                i.detector,
                i.rule,
                i.reason,
                about(&live.labels, i)
            ),
        );
    }
    let mails = stage.mailbox.mails();
    for m in mails.iter().skip(live.mails) {
        voice.say(
            "mail",
            &format!(
                "   mail to {}: {}",
                m.to.join(", "),
                m.header("Subject").unwrap_or_default()
            ),
        );
    }
    live.mails = mails.len();
    let calls = stage.receiver.calls();
    for c in calls.iter().skip(live.calls) {
        let proof = if c.genuine {
            "signature right"
        } else {
            "SIGNATURE WRONG"
        };
        let refused = if c.status >= 300 {
            format!(", refused with {}: it comes again", c.status)
        } else {
            String::new()
        };
        voice.say(
            "webhook",
            &format!("   webhook {}: {} ({proof}{refused})", kind(c), title(c)),
        );
    }
    live.calls = calls.len();
    show(live, stage, voice, &incidents, &mails, &calls).await;
}

fn kind(c: &receiver::Call) -> &str {
    c.body["type"].as_str().unwrap_or("?")
}

fn title(c: &receiver::Call) -> &str {
    c.body["data"]["title"].as_str().unwrap_or_default()
}

/// Brings the console up to date.
async fn show(
    live: &mut Live,
    stage: &Stage,
    voice: &Voice,
    incidents: &[SeenIncident],
    mails: &[mailbox::Mail],
    calls: &[receiver::Call],
) {
    let store = &stage.store;
    // What cannot be read just now is read at the next look.
    let totals = store.report_totals().await;
    let budgets = store.report_budgets().await;
    let partitions = store.report_partitions().await;
    let dead_letters = store.report_dead_letters().await;
    let learning = match store.report_learning().await {
        Ok((leader, users)) => learning(live, leader, users),
        Err(_) => Vec::new(),
    };
    let outcomes = outcomes(&live.labels, incidents);
    voice.board.update(|b| {
        b.totals.published = live.counted.events;
        b.totals.garbage = live.counted.garbage;
        if let Ok(totals) = totals {
            b.totals.events = totals.events;
            b.totals.tokens = totals.tokens;
            b.totals.micro_usd = totals.micro_usd;
            b.totals.dead_letters = totals.dead_letters;
        }
        b.tell(&live.labels, outcomes);
        b.incidents = incidents
            .iter()
            .map(|i| board::Incident::new(i, &live.titles, &live.labels))
            .collect();
        b.mails = mails
            .iter()
            .map(|m| board::Mail {
                to: m.to.join(", "),
                subject: m.header("Subject").unwrap_or_default(),
                body: m.body(),
            })
            .collect();
        b.calls = calls
            .iter()
            .map(|c| board::Call {
                kind: kind(c).to_owned(),
                title: title(c).to_owned(),
                genuine: c.genuine,
                status: c.status,
                body: serde_json::to_string_pretty(&c.body).unwrap_or_default(),
            })
            .collect();
        renew(&mut b.budgets, budgets);
        renew(&mut b.partitions, partitions);
        renew(&mut b.dead_letters, dead_letters);
        b.learning = learning;
    });
}

/// What was read takes the place of what is shown.
fn renew<T>(shown: &mut T, read: Result<T, StoreError>) {
    if let Ok(read) = read {
        *shown = read;
    }
}

/// Where the baselines stand.
fn learning(live: &Live, leader: Option<(i32, Vec<u8>)>, users: i64) -> Vec<board::Learning> {
    let config = &live.detect;
    let restored =
        leader.and_then(|(fmt, state)| Leader::restore(Arc::clone(config), fmt, &state).ok());
    let (all, fresh) = restored.map_or((0, 0), |l| l.learning());
    let said = |all: usize, fresh: usize| match (all, fresh) {
        (0, _) => "none yet".to_owned(),
        (_, 0) => format!("{all}, all have learnt"),
        _ => format!("{all}, {fresh} still learning"),
    };
    let users = usize::try_from(users).unwrap_or(0);
    let fresh_users = users.saturating_sub(live.known_users);
    vec![
        board::Learning {
            name: "Latency",
            state: said(all, fresh),
            note: "per model version and route; needs 500 requests and 30 minutes",
            learning: fresh > 0 || all == 0,
        },
        board::Learning {
            name: "Spend",
            state: said(users, fresh_users),
            note: "per user; needs 24 hours, here from the fourteen days before",
            learning: fresh_users > 0 || users == 0,
        },
    ]
}
