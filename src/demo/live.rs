//! What changes while the show runs: traffic, gateways, counts; and the voice that tells of it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;

use serde_json::json;

use super::closing::{Published, answers};
use super::console::Shared;
use super::gateway::{Gateway, SEALED_TOPIC};
use super::script::{Label, Step};
use super::stage::Stage;
use super::traffic::{Call, MODELS, Traffic};
use crate::event::Time;
use crate::ingest::publish::Publisher;

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

/// Waits for Ctrl-C or SIGTERM.
pub(super) async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut term) = signal(SignalKind::terminate()) else {
        let _ = tokio::signal::ctrl_c().await;
        return;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = term.recv() => {}
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
        let label = live
            .labels
            .iter()
            .find(|l| l.began.is_some() && answers(l, i));
        let about = match label {
            Some(l) => {
                let ms = l.began.map_or(0, |b| i.stored.since_ms(b).max(0));
                format!(
                    "answers \"{}\" after {}.{} s",
                    l.name,
                    ms / 1000,
                    ms % 1000 / 100
                )
            }
            None => "answers nothing that was put in".to_owned(),
        };
        voice.say(
            "incident",
            &format!(
                "<< incident [{}] {}/{} {}: {} ({about})",
                i.severity, i.detector, i.rule, i.subject, i.reason
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
        let what = c.body["type"].as_str().unwrap_or("?").to_owned();
        let proof = if c.genuine {
            "signature right"
        } else {
            "SIGNATURE WRONG"
        };
        let refused = if c.status >= 300 {
            format!(", refused with {}", c.status)
        } else {
            String::new()
        };
        voice.say(
            "webhook",
            &format!(
                "   webhook {what} {} ({proof}{refused})",
                c.body["data"]["rule"].as_str().unwrap_or("")
            ),
        );
    }
    live.calls = calls.len();
    let totals = stage.store.report_totals().await.unwrap_or_default();
    let budgets = stage.store.report_budgets().await.unwrap_or_default();
    voice.board.update(|b| {
        b.incidents = incidents
            .iter()
            .map(|i| {
                let words = [
                    &i.severity,
                    &i.detector,
                    &i.rule,
                    &i.subject,
                    &i.reason,
                    &i.state,
                ];
                words.map(Clone::clone)
            })
            .collect();
        b.mails = mails.iter().filter_map(|m| m.header("Subject")).collect();
        b.calls = calls
            .iter()
            .map(|c| {
                format!(
                    "{} {}",
                    c.body["type"].as_str().unwrap_or("?"),
                    c.body["data"]["rule"].as_str().unwrap_or("")
                )
            })
            .collect();
        b.budgets = budgets
            .iter()
            .map(|(scope, subject, p)| (format!("{scope} {subject}"), *p))
            .collect();
        b.totals = (totals.events, totals.tokens, totals.dead_letters);
    });
}
