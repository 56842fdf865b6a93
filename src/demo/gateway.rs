//! Simulated gateways: they number, seal and publish what passes through them.
//!
//! Two of them seal next to the traffic with the library, as one should; the third is of the old
//! kind and publishes texts to a topic that the monitor trusts and seals itself. The lane of a
//! sequence is the partition, as recommended.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::traffic::{Call, MODELS, User};
use crate::decode::{Decoder, RawRecord, encode};
use crate::event::{Pseudonym, Time, hash16};
use crate::seal::Sealer;
use crate::seal::key::{Domain, Keys};

/// Partitions of each topic of the demo.
pub const PARTITIONS: i32 = 4;
/// The topic of sealed events.
pub const SEALED_TOPIC: &str = "llm.events.v1";
/// The topic of events that still carry text.
pub const TRUSTED_TOPIC: &str = "llm.raw.v1";

/// A record ready for Kafka.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Topic.
    pub topic: &'static str,
    /// Partition.
    pub partition: i32,
    /// Key: the user's pseudonym.
    pub key: String,
    /// The event.
    pub value: Vec<u8>,
    /// Tokens it carries, for the account at the end.
    pub tokens: u64,
}

/// A gateway.
pub struct Gateway {
    name: &'static str,
    boot: String,
    keys: Arc<Keys>,
    /// Seals what it publishes; none: publishes texts.
    sealer: Option<Decoder>,
    next: BTreeMap<i32, u64>,
    /// Discarded and not yet declared, by lane: a hole and its declaration are of one lane.
    dropped: BTreeMap<i32, u64>,
    made: u64,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gateway({})", self.name)
    }
}

impl Gateway {
    /// A gateway that seals with `sealer`, or publishes texts. `boot` names this start of it.
    pub fn new(
        name: &'static str,
        boot: &str,
        keys: Arc<Keys>,
        sealer: Option<&Arc<Sealer>>,
    ) -> Self {
        let sealer = sealer.map(|s| Decoder::trusted(Arc::clone(s)));
        Self {
            name,
            boot: boot.to_owned(),
            keys,
            sealer,
            next: BTreeMap::new(),
            dropped: BTreeMap::new(),
            made: 0,
        }
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The pseudonym under which the monitor knows a user.
    pub fn pseudonym(&self, tenant: &str, user: &str) -> Pseudonym {
        self.keys.pseudonym(Domain::User, Some(tenant), user)
    }

    /// The pseudonym of the API key that a user's calls are paid with.
    pub fn key_pseudonym(&self, user: &User) -> Pseudonym {
        self.keys
            .pseudonym(Domain::Key, Some(user.tenant), &api_key(user))
    }

    /// Loses `n` numbers of the lane that this user's events take, without a word: what a crash
    /// between numbering and publishing does.
    pub fn lose(&mut self, tenant: &str, user: &str, n: u64) {
        let lane = partition(&self.pseudonym(tenant, user));
        *self.next.entry(lane).or_default() += n;
    }

    /// Discards `n` numbers of the lane that this user's events take and says so in its next event,
    /// as a full queue does.
    pub fn discard(&mut self, tenant: &str, user: &str, n: u64) {
        self.lose(tenant, user, n);
        let lane = partition(&self.pseudonym(tenant, user));
        *self.dropped.entry(lane).or_default() += n;
    }

    /// Makes the record of a call that ends at `end`. None only if sealing refuses it, which would
    /// be a bug that the caller counts.
    pub fn publish(&mut self, call: &Call, end: Time) -> Option<Outgoing> {
        let user = self.pseudonym(call.user.tenant, call.user.name);
        let lane = partition(&user);
        let seq = self.next.entry(lane).or_default();
        let this = *seq;
        *seq += 1;
        self.made += 1;
        let raw = self.event(call, end, lane, this);
        let text = raw.to_string();
        let (topic, value) = match &mut self.sealer {
            None => (TRUSTED_TOPIC, text.into_bytes()),
            Some(sealer) => {
                let record = RawRecord {
                    topic: SEALED_TOPIC,
                    partition: lane,
                    offset: 0,
                    append: end,
                    key: None,
                    value: Some(text.as_bytes()),
                    headers: &[],
                };
                let sealed = sealer.decode(&record).ok()?;
                (SEALED_TOPIC, encode::to_json(&sealed).into_bytes())
            }
        };
        Some(Outgoing {
            topic,
            partition: lane,
            key: user.to_string(),
            value,
            tokens: call.input + call.output,
        })
    }

    fn event(&mut self, call: &Call, end: Time, lane: i32, seq: u64) -> Value {
        let model = MODELS[call.user.model];
        let total = call.total_ms();
        let total_ms = (total * 10.0).round() / 10.0;
        // Rounded up: the end must not lie before the last token.
        let at = Time(end.0).minus_ms(ms(total));
        let failed = call.status >= 500;
        let id = hash16(
            "demo event",
            &[
                self.name.as_bytes(),
                self.boot.as_bytes(),
                &lane.to_le_bytes(),
                &seq.to_le_bytes(),
            ],
        );
        let sources: Vec<&str> = call.context.iter().filter_map(|c| c.1).collect();
        let mut source = 0u32;
        let context: Vec<Value> = call
            .context
            .iter()
            .map(|(role, label, text)| {
                let mut part = json!({"role": role.as_str(), "text": text});
                if label.is_some() {
                    part["source"] = source.into();
                    source += 1;
                }
                part
            })
            .collect();
        let dropped = self.dropped.remove(&lane).unwrap_or(0);
        let mut event = json!({
            "v": 1,
            "id": id.to_string(),
            "gateway": self.name,
            "boot": self.boot,
            "lane": lane,
            "seq": seq,
            "dropped": dropped,
            "at": at.to_string(),
            "tenant": call.user.tenant,
            "team": call.user.team,
            "user": call.user.name,
            "session": format!("{}-{}", call.user.name, self.made / 40),
            "api_key": {"id": api_key(&call.user), "created": "2026-10-01", "class": "standard"},
            "client": {"app": call.user.app},
            "operation": "chat",
            "route": format!("{}-{}", call.user.team, model.requested),
            "stream": true,
            "provider": model.provider,
            "model": {"requested": model.requested, "served": call.served.unwrap_or(model.served)},
            "status": call.status,
            "latency": {"total_ms": total_ms, "ttft_ms": (call.ttft_ms * 10.0).round() / 10.0},
            "usage": {"input": call.input, "output": call.output, "cache_read": 0, "cache_write": 0, "reasoning": 0, "state": "final"},
            "policy": {"decision": "allow", "rules": []},
            "sources": sources.iter().map(|l| json!({"label": l})).collect::<Vec<_>>(),
            "tools": call.tools.iter().map(|t| json!({"name": t})).collect::<Vec<_>>(),
            "context": context,
        });
        if call.rollup {
            event["at"] = end.to_string().into();
            event["latency"] = Value::Null;
        }
        if failed {
            event["error"] = "upstream_error".into();
        }
        if let Some(text) = &call.request {
            event["request"] = json!({"text": text});
        }
        if let Some(text) = call.response.as_ref().filter(|_| !failed) {
            event["response"] = json!({"text": text});
        }
        event
    }
}

/// The API key of a team.
fn api_key(user: &User) -> String {
    format!("key-{}-{}", user.tenant, user.team)
}

/// The partition of a user: the same for every gateway, so that a user's events are in order.
pub fn partition(user: &Pseudonym) -> i32 {
    i32::from(user.mac[0]) % PARTITIONS
}

/// Whole milliseconds, rounded up; latencies here are far below a day.
pub fn ms(x: f64) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "bounded")]
    let whole = x.clamp(0.0, 86_400_000.0).ceil() as i64;
    whole
}
