//! The judge: the same records in one thread and in memory, compared with what Postgres has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sqlx::Row as _;
use sqlx::postgres::PgPool;
use veilwatch::account::{Batch, Books, Budget, Budgets, LedgerDelta, LedgerKey};
use veilwatch::decide;
use veilwatch::decode::{Decoder, Origin, RawRecord, audit};
use veilwatch::detect::{
    DetectConfig, Finding, Leader, Part, PartitionState, UserRow, ValueKey, ValueRow,
};
use veilwatch::event::{Position, Pseudonym, Stage, Time, TopicPartition};
use veilwatch::ingest::IngestConfig;
use veilwatch::ingest::read::read_topic;
use veilwatch::store::claim::genesis;

/// Records that the reference takes in one piece. Any cut gives the same result.
const CUT: usize = 997;

/// Everything that must be equal.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub ledger: BTreeMap<(i16, String, String), [String; 7]>,
    pub dead: BTreeSet<(i32, i64, String)>,
    pub audit: BTreeMap<i32, (i64, String)>,
    /// Lost offsets: the reference reads everything, so it has none.
    pub gaps: BTreeSet<(i32, i64, i64, String)>,
    pub findings: BTreeMap<String, String>,
    pub incidents: BTreeMap<String, (i16, i64)>,
    pub crossings: BTreeSet<(String, String, String, i32)>,
    pub events: u64,
    pub duplicates: u64,
}

struct One {
    state: PartitionState,
    append: Time,
    chain: audit::Link,
    next: i64,
    rows: BTreeMap<Pseudonym, UserRow>,
    pending: Vec<(Position, Box<veilwatch::event::Event>)>,
    refused: Vec<(Time, Origin)>,
}

/// A finding in words. A budget's says how much was used when its batch ended, and batches are cut anew after
/// each fault: of those only the threshold is the same, which the id and the crossings have.
fn told(what: [&str; 3], severity: i16, stage: i16, end_ms: i64, reason: &str) -> String {
    let [detector, rule, subject] = what;
    let head = format!("{detector}/{rule}/{subject} severity {severity} stage {stage}");
    if detector == "budget" {
        head
    } else {
        format!("{head} at {end_ms}: {reason}")
    }
}

/// Works the whole topic out in one thread. `merged_through` is the leader's mark in Postgres:
/// minutes behind it are not merged there yet.
pub fn work_out(
    ingest: &IngestConfig,
    topic: &str,
    detect: &Arc<DetectConfig>,
    books: &Books,
    budgets: &[Budget],
    merged_through: Option<i64>,
    panicking: &BTreeSet<(i32, i64)>,
) -> Outcome {
    let mut out = Outcome::default();
    let mut decoder = Decoder::sealed();
    let mut parts: BTreeMap<(i64, bool), Vec<Part>> = BTreeMap::new();
    let mut values: BTreeMap<ValueKey, ValueRow> = BTreeMap::new();
    let mut findings: Vec<Finding> = Vec::new();
    let mut totals = Budgets::new(budgets.to_vec());
    let mut all: BTreeMap<i32, One> = BTreeMap::new();

    let mut apply = |p: i32, one: &mut One, out: &mut Outcome| {
        let events = std::mem::take(&mut one.pending);
        let missing = one.state.missing_users(events.iter().map(|(_, e)| &**e));
        for user in missing {
            let row = one.rows.get(&user);
            one.state
                .load_user(user, row.map(|r| (r.as_of, &*r.state)), false);
        }
        let mut batch = Batch::default();
        for (position, event) in &events {
            batch.apply(&mut one.state, books, *position, event);
        }
        for (append, origin) in one.refused.drain(..) {
            batch.refused(append, &origin);
        }
        let applied = batch.finish(&mut one.state);
        for row in &applied.effects.user_rows {
            one.rows.insert(row.user, row.clone());
        }
        for (key, bytes) in applied.effects.minute_parts {
            let from = TopicPartition {
                topic: topic.into(),
                partition: p,
            };
            parts.entry(key).or_default().push(Part { from, bytes });
        }
        for (key, delta) in &applied.effects.values {
            values.entry(*key).or_default().merge(delta);
        }
        out.events += applied.effects.counters.events;
        out.duplicates += applied.effects.counters.duplicates;
        findings.extend(applied.effects.findings);
        let crossed = totals.add(&applied.ledger, one.append);
        for c in &crossed {
            let threshold = i32::try_from(c.threshold_pct).expect("small");
            out.crossings.insert((
                c.budget_id.to_string(),
                c.subject.to_string(),
                c.period.to_string(),
                threshold,
            ));
        }
        findings.extend(decide::findings(
            &crossed,
            &veilwatch::detect::Stages::default(),
        ));
    };

    let ends = read_topic(ingest, topic, |p, r, headers| {
        let tp = TopicPartition {
            topic: topic.into(),
            partition: p,
        };
        let one = all.entry(p).or_insert_with(|| One {
            state: PartitionState::new(detect.clone()),
            append: Time(0),
            chain: genesis(&tp),
            next: 0,
            rows: BTreeMap::new(),
            pending: Vec::new(),
            refused: Vec::new(),
        });
        one.append = one.append.max(Time(r.ts_ms));
        one.next = r.offset + 1;
        let raw = RawRecord {
            topic,
            partition: p,
            offset: r.offset,
            append: one.append,
            key: r.key,
            value: r.value,
            headers,
        };
        let mut refused = None;
        if panicking.contains(&(p, r.offset)) {
            out.dead.insert((p, r.offset, "detector_panic".into()));
        } else {
            match decoder.decode(&raw) {
                Ok(event) => {
                    let position = Position {
                        offset: r.offset,
                        append: one.append,
                    };
                    one.pending.push((position, event));
                }
                Err(d) => {
                    out.dead.insert((p, r.offset, d.reason.as_str().to_owned()));
                    refused = Some(d.reason);
                    one.refused.extend(d.origin.map(|o| (one.append, o)));
                }
            }
        }
        one.chain = audit::step(&one.chain, &decoder.audit_leaf(&raw, refused));
        if one.pending.len() >= CUT {
            apply(p, one, &mut out);
        }
    })
    .expect("the topic is readable");
    for (p, one) in &mut all {
        apply(*p, one, &mut out);
    }
    for (p, end) in ends {
        let chain = all.get(&p).map(|o| o.chain);
        let genesis = genesis(&TopicPartition {
            topic: topic.into(),
            partition: p,
        });
        out.audit.insert(p, (end, hex(&chain.unwrap_or(genesis))));
    }
    findings.extend(merge(detect, parts, &mut values, merged_through));
    for (key, delta) in &totals.ledger {
        out.ledger.insert(ledger_key(key), ledger_row(delta));
    }
    for f in &findings {
        let stage = match f.stage {
            Stage::Shadow => 0,
            Stage::Ticket => 1,
            Stage::Page => 2,
        };
        let severity = i16::try_from(f.severity as usize).expect("small");
        let what = [f.detector.as_str(), &f.rule, &f.subject];
        out.findings.insert(
            f.id.to_string(),
            told(what, severity, stage, f.end.0, &f.reason),
        );
        if f.stage != Stage::Shadow {
            let severity = i16::try_from(f.severity as usize).expect("small");
            let head = out
                .incidents
                .entry(f.key().to_string())
                .or_insert((severity, 0));
            head.0 = head.0.max(severity);
        }
    }
    // Findings are counted once by id.
    let mut counted = BTreeSet::new();
    for f in &findings {
        if f.stage != Stage::Shadow && counted.insert(f.id) {
            out.incidents
                .get_mut(&f.key().to_string())
                .expect("a head")
                .1 += 1;
        }
    }
    out
}

fn merge(
    detect: &Arc<DetectConfig>,
    mut parts: BTreeMap<(i64, bool), Vec<Part>>,
    values: &mut BTreeMap<ValueKey, ValueRow>,
    through: Option<i64>,
) -> Vec<Finding> {
    let Some(through) = through else {
        return Vec::new();
    };
    let mut leader = Leader::new(detect.clone());
    let mut out = Vec::new();
    let first = parts.keys().next().map_or(through, |k| k.0);
    for minute in first..=through {
        let later = parts.split_off(&(minute + 1, false));
        let now: Vec<Part> = std::mem::replace(&mut parts, later)
            .into_values()
            .flatten()
            .collect();
        out.extend(leader.merge_minute(minute, &now, false));
        let mut rows: Vec<(ValueKey, ValueRow)> =
            values.iter().map(|(k, v)| (*k, v.clone())).collect();
        out.extend(leader.judge_values(minute, &mut rows));
        values.extend(rows);
    }
    out
}

fn ledger_key(key: &LedgerKey) -> (i16, String, String) {
    (
        i16::from(key.scope.width()),
        key.subject.to_string(),
        key.period.to_string(),
    )
}

fn ledger_row(d: &LedgerDelta) -> [String; 7] {
    [
        d.events.to_string(),
        d.tokens_input.to_string(),
        d.tokens_output.to_string(),
        d.cost_pico.to_string(),
        d.estimated_tokens.to_string(),
        d.missing_events.to_string(),
        d.unpriced_events.to_string(),
    ]
}

fn hex(b: &[u8]) -> String {
    b.iter().map(|b| format!("{b:02x}")).collect()
}

/// What Postgres has.
pub async fn stored(pool: &PgPool) -> Outcome {
    let mut out = Outcome::default();
    let rows = sqlx::query(
        "SELECT width, subject, period, events::text, tokens_input::text, tokens_output::text, cost_pico::text,
                estimated_tokens::text, missing_events::text, unpriced_events::text FROM vw.ledger",
    )
    .fetch_all(pool)
    .await
    .expect("ledger");
    for r in rows {
        let row = std::array::from_fn(|i| r.get::<String, _>(i + 3));
        out.ledger.insert((r.get(0), r.get(1), r.get(2)), row);
    }
    for r in sqlx::query("SELECT part, off, reason FROM vw.dead_letter")
        .fetch_all(pool)
        .await
        .expect("dead letters")
    {
        out.dead.insert((r.get(0), r.get(1), r.get(2)));
    }
    let gaps = sqlx::query_as("SELECT part, lo, hi, reason FROM vw.stream_gap");
    out.gaps = gaps
        .fetch_all(pool)
        .await
        .expect("gaps")
        .into_iter()
        .collect();
    for r in sqlx::query("SELECT part, next_offset, chain FROM vw.stream_partition")
        .fetch_all(pool)
        .await
        .expect("partitions")
    {
        out.audit
            .insert(r.get(0), (r.get(1), hex(&r.get::<Vec<u8>, _>(2))));
    }
    for r in sqlx::query(
        "SELECT replace(id::text, '-', ''), detector, rule, subject, severity, stage,
                (extract(epoch FROM end_at) * 1000)::bigint, reason FROM vw.finding",
    )
    .fetch_all(pool)
    .await
    .expect("findings")
    {
        let word = |n: usize| r.get::<&str, _>(n);
        let what = told(
            [word(1), word(2), word(3)],
            r.get(4),
            r.get(5),
            r.get(6),
            word(7),
        );
        let twice = out.findings.insert(r.get(0), what);
        assert_eq!(twice, None, "a finding stands twice");
    }
    for r in sqlx::query(
        "SELECT replace(key::text, '-', ''), max(severity), sum(findings)::bigint FROM
           (SELECT key, severity, findings FROM vw.incident_head WHERE number > 0
             UNION ALL SELECT key, severity, findings FROM vw.incident_past WHERE number > 0) a GROUP BY key",
    )
    .fetch_all(pool)
    .await
    .expect("incidents")
    {
        out.incidents.insert(r.get(0), (r.get(1), r.get(2)));
    }
    for r in sqlx::query("SELECT budget_id, subject, period, threshold FROM vw.budget_crossing")
        .fetch_all(pool)
        .await
        .expect("crossings")
    {
        out.crossings
            .insert((r.get(0), r.get(1), r.get(2), r.get(3)));
    }
    let hour = sqlx::query("SELECT coalesce(sum(events), 0)::bigint, coalesce(sum(duplicates), 0)::bigint FROM vw.stream_hour")
        .fetch_one(pool)
        .await
        .expect("hours");
    out.events = u64::try_from(hour.get::<i64, _>(0)).expect("positive");
    out.duplicates = u64::try_from(hour.get::<i64, _>(1)).expect("positive");
    out
}

/// Every difference, in words; empty where the two are equal.
pub fn differences(reference: &Outcome, stored: &Outcome) -> Vec<String> {
    let mut out = Vec::new();
    maps("ledger", &reference.ledger, &stored.ledger, &mut out);
    maps("audit head", &reference.audit, &stored.audit, &mut out);
    maps("finding", &reference.findings, &stored.findings, &mut out);
    maps(
        "incident",
        &reference.incidents,
        &stored.incidents,
        &mut out,
    );
    for d in reference.dead.symmetric_difference(&stored.dead) {
        out.push(format!("dead letter {d:?} is only in one"));
    }
    for g in reference.gaps.symmetric_difference(&stored.gaps) {
        out.push(format!("gap {g:?} is only in one"));
    }
    for c in reference.crossings.symmetric_difference(&stored.crossings) {
        out.push(format!("crossing {c:?} is only in one"));
    }
    if (reference.events, reference.duplicates) != (stored.events, stored.duplicates) {
        out.push(format!(
            "events and duplicates: {:?} expected, {:?} stored",
            (reference.events, reference.duplicates),
            (stored.events, stored.duplicates)
        ));
    }
    out
}

fn maps<K: Ord + std::fmt::Debug, V: PartialEq + std::fmt::Debug>(
    what: &str,
    reference: &BTreeMap<K, V>,
    stored: &BTreeMap<K, V>,
    out: &mut Vec<String>,
) {
    for (k, v) in reference {
        match stored.get(k) {
            Some(s) if s == v => {}
            other => out.push(format!("{what} {k:?}: {v:?} expected, {other:?} stored")),
        }
    }
    for (k, v) in stored {
        if !reference.contains_key(k) {
            out.push(format!("{what} {k:?}: {v:?} stored, not expected"));
        }
    }
}

/// The leader's mark.
pub async fn merged_through(pool: &PgPool) -> Option<i64> {
    sqlx::query_scalar("SELECT merged_through FROM vw.lease WHERE name = 'leader'")
        .fetch_optional(pool)
        .await
        .expect("lease")
        .flatten()
}
