//! Fourteen days that the monitor knows before the demo begins.
//!
//! Thinned: of each hour a few calls, each standing for many (its tokens are those of the hour), and
//! beside them a few with the latencies of the models. They go through the same pure core as live
//! events, partition by partition; what it learnt is put into the database. Slow attacks stand in
//! here: what the core found in them is told before the live part begins.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::gateway::{PARTITIONS, SEALED_TOPIC, TRUSTED_TOPIC};
use super::script::ACTORS;
use super::traffic::{CROWD, Call, HISTORY_DAYS, Traffic, User};
use crate::account::Prices;
use crate::decode::{Decoder, RawRecord};
use crate::detect::{Checkpoint, DetectConfig, Effects, Leader, Part, PartitionState, UserRow};
use crate::event::{Event, Position, SmolStr, Time, TopicPartition};
use crate::seal::Sealer;
use crate::seal::key::Keys;
use crate::store::seed::Learnt;

/// Live calls of one user in an hour, per unit of weight, at the demo's pace: what a thinned call of
/// the history stands for.
const LIVE_CALLS_PER_HOUR: u64 = 700;
/// Calls of an hour that are kept, each standing for its share.
const KEPT_PER_HOUR: u64 = 2;

/// What the core learnt.
#[derive(Debug)]
pub struct History {
    /// By partition.
    pub partitions: Vec<Learnt>,
    /// The leader's state.
    pub leader: Checkpoint,
    /// The last minute merged.
    pub merged_through: i64,
    /// Events that went through.
    pub events: u64,
    /// What was found in them, by detector.
    pub found: BTreeMap<&'static str, u64>,
}

/// One call of the past.
struct Past {
    end: Time,
    gateway: usize,
    call: Call,
}

/// Sends the history that ends just before `now` through the core.
pub fn learn(keys: &Arc<Keys>, config: &Arc<DetectConfig>, prices: &Prices, now: Time) -> History {
    let last_minute = now.minute() - 1;
    let mut past = calls(Time::from_minute(last_minute));
    past.sort_by_key(|p| p.end);
    let sealer = Arc::new(Sealer::built_in((**keys).clone()));
    let mut gateways = super::gateways(keys, &sealer, "before");
    // Two of the gateways have sealed already: keyed again, their users would be strangers later on.
    let mut decoder = Decoder::trusted(sealer).taking_pseudonyms();
    let mut events: Vec<(TopicPartition, Time, Event)> = Vec::new();
    for p in &past {
        let Some(out) = gateways[p.gateway].publish(&p.call, p.end) else {
            continue;
        };
        let record = RawRecord {
            topic: out.topic,
            partition: out.partition,
            offset: 0,
            append: p.end,
            key: None,
            value: Some(&out.value),
            headers: &[],
        };
        if let Ok(event) = decoder.decode(&record) {
            let tp = TopicPartition {
                topic: SmolStr::new_static(out.topic),
                partition: out.partition,
            };
            events.push((tp, p.end, *event));
        }
    }
    run(config, prices, events, last_minute)
}

fn run(
    config: &Arc<DetectConfig>,
    prices: &Prices,
    events: Vec<(TopicPartition, Time, Event)>,
    last_minute: i64,
) -> History {
    let mut next: BTreeMap<TopicPartition, i64> = BTreeMap::new();
    for topic in [SEALED_TOPIC, TRUSTED_TOPIC] {
        for partition in 0..PARTITIONS {
            let topic = SmolStr::new_static(topic);
            next.insert(TopicPartition { topic, partition }, 0);
        }
    }
    let mut states: BTreeMap<TopicPartition, PartitionState> = next
        .keys()
        .map(|tp| (tp.clone(), PartitionState::new(Arc::clone(config))))
        .collect();
    let mut leader = Leader::new(Arc::clone(config));
    let mut found: BTreeMap<&'static str, u64> = BTreeMap::new();
    let mut users = BTreeMap::new();
    let mut waiting: Vec<Part> = Vec::new();
    let mut minute = events.first().map_or(last_minute, |e| e.1.minute());
    let count = u64::try_from(events.len()).unwrap_or(0);
    for (tp, end, event) in events {
        while minute < end.minute() {
            // Empty minutes are caught up by the leader itself.
            if !waiting.is_empty() {
                let parts = std::mem::take(&mut waiting);
                for f in leader.merge_minute(minute, &parts, false) {
                    *found.entry(f.detector.as_str()).or_default() += 1;
                }
            }
            minute += 1;
        }
        let Some(state) = states.get_mut(&tp) else {
            continue;
        };
        let offset = next.get_mut(&tp).map_or(0, |n| {
            *n += 1;
            *n - 1
        });
        let mut effects = Effects::default();
        for user in state.missing_users(std::iter::once(&event)) {
            state.load_user(user, None, false);
        }
        let priced = prices.price(&event, event.end(end).0);
        let position = Position {
            offset,
            append: end,
        };
        state.observe(position, &event, priced.pico(), &mut effects);
        state.end_batch(&mut effects);
        effects.close();
        for f in &effects.findings {
            *found.entry(f.detector.as_str()).or_default() += 1;
        }
        for row in std::mem::take(&mut effects.user_rows) {
            users.insert((tp.clone(), row.user), row);
        }
        waiting.extend(effects.minute_parts.into_values().map(|bytes| Part {
            from: tp.clone(),
            bytes,
        }));
    }
    leader.merge_minute(last_minute, &waiting, false);
    let partitions = states
        .into_iter()
        .map(|(tp, mut state)| {
            let (checkpoint, rows) = state.checkpoint(0);
            for row in rows {
                users.insert((tp.clone(), row.user), row);
            }
            let users = users
                .range((tp.clone(), lowest())..)
                .take_while(|((t, _), _)| *t == tp)
                .map(|(_, row)| UserRow {
                    // The live topic begins at 0: none of its records is applied yet.
                    as_of: 0,
                    ..row.clone()
                })
                .collect();
            Learnt {
                tp,
                checkpoint,
                users,
            }
        })
        .collect();
    History {
        partitions,
        leader: leader.checkpoint(),
        merged_through: last_minute,
        events: count,
        found,
    }
}

/// The pseudonym that sorts before all others.
fn lowest() -> crate::event::Pseudonym {
    crate::event::Pseudonym {
        kid: crate::event::Kid::default(),
        mac: [0; 16],
    }
}

fn calls(until: Time) -> Vec<Past> {
    let mut traffic = Traffic::new(14);
    let mut past = Vec::new();
    let hours = usize::try_from(HISTORY_DAYS * 24).unwrap_or(0);
    let start = until.minus_ms(HISTORY_DAYS * 86_400_000);
    for hour in 0..hours {
        let begin = start.plus_ms(i64::try_from(hour).unwrap_or(0) * 3_600_000);
        for (i, user) in CROWD.iter().enumerate() {
            let level = u64::from(traffic.level(i, hour));
            let stands_for =
                LIVE_CALLS_PER_HOUR * u64::from(user.weight) * level / 100 / KEPT_PER_HOUR;
            for _ in 0..KEPT_PER_HOUR {
                past.push(one(&mut traffic, user, i, begin, Some(stands_for.max(1))));
            }
            past.push(one(&mut traffic, user, i, begin, None));
        }
        for (i, user) in ACTORS.iter().enumerate() {
            if traffic.below(2) == 0 {
                past.push(one(&mut traffic, user, i, begin, None));
            }
        }
    }
    past
}

/// A call at a random moment of an hour. `stands_for` many: their tokens, and no latency, since that
/// of a sum means nothing.
fn one(
    traffic: &mut Traffic,
    user: &User,
    index: usize,
    begin: Time,
    stands_for: Option<u64>,
) -> Past {
    let mut call = traffic.call(user);
    // Texts of the past are not kept by anyone.
    call.request = None;
    call.response = None;
    call.context.clear();
    call.status = 200;
    if let Some(n) = stands_for {
        call.input = call.input.saturating_mul(n);
        call.output = call.output.saturating_mul(n);
        call.rollup = true;
    }
    let offset = i64::try_from(traffic.below(3_500_000)).unwrap_or(0);
    Past {
        end: begin.plus_ms(offset),
        gateway: super::gateway_of(index),
        call,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::user::UserState;

    #[test]
    fn every_user_of_the_past_has_learnt() {
        let keys = Arc::new(Keys::development());
        let config = Arc::new(DetectConfig::default());
        let now = Time::parse_rfc3339("2026-03-02T12:00:00Z").expect("a time");
        let learnt = learn(&keys, &config, &Prices::shipped(), now);
        let rows: Vec<&UserRow> = learnt.partitions.iter().flat_map(|p| &p.users).collect();
        assert_eq!(rows.len(), CROWD.len() + ACTORS.len());
        for row in rows {
            let state = UserState::decode(row.as_of, &row.state).expect("readable");
            let days = state.born.map_or(0, |b| now.since_ms(b) / 86_400_000);
            assert!(row.as_of == 0 && days >= 12, "born {days} days ago");
        }
    }
}
