//! Clocks ahead of ours, and records that make a detector panic.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::account::Prices;
use crate::decode::encode;
use crate::detect::DetectConfig;
use crate::event::{Pseudonym, Stage};
use crate::ingest::{Fetched, TopicMode};
use crate::store::users::Loaded;

fn tp() -> TopicPartition {
    TopicPartition {
        topic: "t".into(),
        partition: 0,
    }
}

fn partition(schedule: &mut Schedule) -> Partition {
    let claim = Claimed {
        id: Uuid::nil(),
        next_offset: 0,
        start: 0,
        last: None,
        halted: None,
        state: ClaimedState {
            state: PartitionState::new(Arc::new(DetectConfig::default())),
            append: Time(0),
            chain: [0; 32],
            last: Fingerprint { ts_ms: 0, crc: 0 },
            poisoned: Vec::new(),
            watermark: Time(0),
            epoch: 1,
            clock: Clock {
                said: now(),
                at: std::time::Instant::now(),
            },
        },
    };
    let settings = Settings {
        detect: Arc::new(DetectConfig::default()),
        sealer: None,
        signatures: Arc::default(),
        books: Arc::new(Books::new(Prices::shipped(), &[])),
        titles: crate::decide::Titles::default(),
    };
    Partition::new(tp(), TopicMode::Sealed, &settings, claim, schedule)
}

fn event(id: &str) -> String {
    event_of(id, None)
}

fn event_of(id: &str, user: Option<Pseudonym>) -> String {
    let user = user.map_or_else(String::new, |u| format!(r#""user":"{u}","#));
    let text = format!(
        r#"{{"v":1,"id":"{id}",{user}"gateway":"g","at":"2026-11-21T07:00:00Z","operation":"chat","model":{{"requested":"gpt-4o"}},"status":200}}"#
    );
    let raw = RawRecord {
        topic: "t",
        partition: 0,
        offset: 0,
        append: now(),
        key: None,
        value: Some(text.as_bytes()),
        headers: &[],
    };
    encode::to_json(&Decoder::sealed().decode(&raw).expect("an event"))
}

/// Three events; the second makes a detector panic.
fn batch() -> Batch {
    let mut batch = Batch::new(tp(), Uuid::nil(), TopicMode::Sealed, 0, false);
    for (offset, id) in ["a", "veilwatch-panic", "b"].into_iter().enumerate() {
        let value = event(id);
        let record = Fetched {
            offset: i64::try_from(offset).expect("small"),
            ts_ms: now().0,
            key: None,
            value: Some(value.as_bytes()),
        };
        batch.push(&record, std::iter::empty());
    }
    batch
}

#[test]
fn a_producer_with_a_fast_clock_does_not_make_the_others_late() {
    let mut schedule = Schedule::new(1_000_000, Duration::from_secs(3_600));
    let books = Books::new(Prices::shipped(), &[]);
    let mut tools = Tools::default();
    let mut p = partition(&mut schedule);
    let start = now();
    let mut b = Batch::new(tp(), Uuid::nil(), TopicMode::Sealed, 0, false);
    b.create_time = true;
    // Two minutes ahead, then the present again.
    for (n, ahead) in [120_000, 0, 0].into_iter().enumerate() {
        let value = event(&format!("e{n}"));
        let record = Fetched {
            offset: i64::try_from(n).expect("small"),
            ts_ms: start.plus_ms(ahead).0,
            key: None,
            value: Some(value.as_bytes()),
        };
        b.push(&record, std::iter::empty());
    }
    let d = p
        .decode(Work::Batch(b), &BTreeSet::new(), &mut tools)
        .expect("decodes");
    let b = p
        .observe(d, &books, &mut schedule.begin(), &mut tools)
        .expect("passes")
        .expect("a batch");
    assert!(
        b.watermark <= now(),
        "{} ms ahead",
        b.watermark.since_ms(now())
    );
    // Both clocks are cut to milliseconds.
    assert!(
        b.watermark >= start.minus_ms(2),
        "it moves with the records"
    );
}

/// A batch of records from an offset on: `true` is an event, `false` is not JSON.
fn mixed(lo: i64, records: &[bool]) -> Batch {
    let mut batch = Batch::new(tp(), Uuid::nil(), TopicMode::Sealed, lo, false);
    for (offset, good) in (lo..).zip(records) {
        let value = if *good {
            event(&format!("e{offset}"))
        } else {
            "{".to_owned()
        };
        let record = Fetched {
            offset,
            ts_ms: now().0,
            key: None,
            value: Some(value.as_bytes()),
        };
        batch.push(&record, std::iter::empty());
    }
    batch
}

#[test]
fn f39_a_thousand_dead_letters_in_a_row_are_told_of_and_the_partition_goes_on() {
    let mut records = vec![false; 999];
    records.push(true);
    records.extend([false; 2_100]);
    records.push(true);
    // However the batches are cut.
    for cut in [1, 7, 1_000, 5_000] {
        let mut schedule = Schedule::new(1_000_000, Duration::from_secs(3_600));
        let books = Books::new(Prices::shipped(), &[]);
        let (none, mut tools) = (BTreeSet::new(), Tools::default());
        let mut p = partition(&mut schedule);
        let (mut lo, mut told, mut dead) = (0, Vec::new(), 0);
        for part in records.chunks(cut) {
            let d = p
                .decode(Work::Batch(mixed(lo, part)), &none, &mut tools)
                .expect("decodes");
            let b = p
                .observe(d, &books, &mut schedule.begin(), &mut tools)
                .expect("goes on")
                .expect("a batch");
            lo = b.hi;
            p.applied = lo;
            dead += b.dead_letters.len();
            let found = b.effects.findings.into_iter();
            told.extend(found.filter(|f| f.rule == "audit-undecodable"));
        }
        assert_eq!((lo, dead), (3_101, 3_099), "cut by {cut}");
        let said: Vec<bool> = told
            .iter()
            .zip(["up to offset 1999:", "up to offset 2999:"])
            .map(|(f, at)| f.stage == Stage::Page && f.reason.contains(at))
            .collect();
        assert_eq!((told.len(), said), (2, vec![true, true]), "cut by {cut}");
    }
}

#[test]
fn f42_a_halt_keeps_nothing_of_the_batch_that_panicked() {
    let mut schedule = Schedule::new(1_000_000, Duration::from_secs(3_600));
    let books = Books::new(Prices::shipped(), &[]);
    let mut tools = Tools::default();
    let mut p = partition(&mut schedule);
    // More users than stay in memory, and at the end a record that panics: some were pushed out.
    let crowd = crate::detect::resident::MAX_USERS + 500;
    let mut full = Batch::new(tp(), Uuid::nil(), TopicMode::Sealed, 0, false);
    for n in 0..=crowd {
        let id = if n == crowd {
            "veilwatch-panic".to_owned()
        } else {
            format!("e{n}")
        };
        let mac = u128::try_from(n).expect("small").to_be_bytes();
        let user = Pseudonym {
            kid: crate::event::Kid::parse("k1").expect("kid"),
            mac,
        };
        let value = event_of(&id, Some(user));
        let record = Fetched {
            offset: i64::try_from(n).expect("small"),
            ts_ms: now().0,
            key: None,
            value: Some(value.as_bytes()),
        };
        full.push(&record, std::iter::empty());
    }
    let none = BTreeSet::new();
    let d = p
        .decode(Work::Batch(full), &none, &mut tools)
        .expect("decodes");
    let unknown = p.unknown(&d);
    p.load(&d, &unknown, &Loaded::default());
    p.observe(d, &books, &mut schedule.begin(), &mut tools)
        .expect_err("panics");
    let halt = Work::Halt {
        tp: tp(),
        claim: Uuid::nil(),
        offset: 0,
        reason: "panics",
    };
    let d = p.decode(halt, &none, &mut tools).expect("a halt");
    let b = p
        .observe(d, &books, &mut schedule.begin(), &mut tools)
        .expect("stops")
        .expect("a batch");
    assert_eq!((b.lo, b.hi, b.effects.findings.len()), (0, 0, 1));
    assert!(
        b.effects.user_rows.is_empty(),
        "{} rows",
        b.effects.user_rows.len()
    );
    assert!(b.ledger.is_empty() && b.effects.minute_parts.is_empty());
}

#[test]
fn f42_a_record_that_panics_is_named_and_then_passed_as_a_dead_letter() {
    let mut schedule = Schedule::new(1_000_000, Duration::from_secs(3_600));
    let books = Books::new(Prices::shipped(), &[]);
    let mut poisoned = BTreeSet::new();
    let mut tools = Tools::default();
    let mut p = partition(&mut schedule);
    let d = p
        .decode(Work::Batch(batch()), &poisoned, &mut tools)
        .expect("decodes");
    let offset = p
        .observe(d, &books, &mut schedule.begin(), &mut tools)
        .expect_err("panics");
    assert_eq!(offset, 1);
    // The state is thrown away; the next way past the record leaves it out.
    poisoned.insert((tp(), offset));
    let mut p = partition(&mut schedule);
    let d = p
        .decode(Work::Batch(batch()), &poisoned, &mut tools)
        .expect("decodes");
    let b = p
        .observe(d, &books, &mut schedule.begin(), &mut tools)
        .expect("passes")
        .expect("a batch");
    assert_eq!((b.lo, b.hi, b.records), (0, 3, 3));
    assert_eq!(b.effects.counters.events, 2);
    assert_eq!(b.dead_letters[0].reason, PANICKED);
    assert_eq!(b.dead_letters[0].offset, 1);
}
