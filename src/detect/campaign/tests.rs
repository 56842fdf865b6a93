//! Campaigns: what counts as one attack, who counts as a sender, what is forgotten.

use super::*;
use crate::decode::bare;
use crate::event::{Event, Role, Side, Sketch};

fn pseudonym(n: u16) -> Pseudonym {
    let mut mac = [0; 16];
    mac[..2].copy_from_slice(&n.to_be_bytes());
    Pseudonym {
        kid: Kid::parse("k1").expect("kid"),
        mac,
    }
}

fn attack(digest: u16, prints: &[u64]) -> Sketch {
    let digest = pseudonym(digest);
    Sketch {
        kid: digest.kid,
        digest: Some(digest),
        prints: prints.to_vec(),
        ..Sketch::default()
    }
}

fn event(n: u16, tenant: &str) -> Event {
    let mut e = bare::event(n.into(), Role::User, Side::Request, Sketch::default());
    e.tenant = Some(tenant.into());
    e
}

fn user(n: u16) -> Sender {
    Sender {
        user: Some(pseudonym(n)),
        api_key: Some(pseudonym(n % 2)),
    }
}

fn at(minute: i64) -> Time {
    Time::from_minute(minute).plus_ms(1_000)
}

/// Notes attacks (sender, sketch) in one minute and merges it.
fn minute(all: &mut Campaigns, minute: i64, sent: &[(u16, Sketch)]) -> Vec<Finding> {
    let mut seen = Sightings::new();
    for (n, sketch) in sent {
        assert!(note(
            &mut seen,
            &event(*n, "acme"),
            sketch,
            at(minute),
            user(*n)
        ));
    }
    let mut out = Vec::new();
    all.minute(
        &DetectConfig::default(),
        minute,
        &seen,
        at(minute + 1),
        &mut out,
    );
    out
}

#[test]
fn three_users_with_one_text_are_a_campaign_and_ten_page() {
    let mut all = Campaigns::default();
    let text = attack(700, &[1, 2, 3, 4]);
    assert_eq!(
        minute(&mut all, 0, &[(1, text.clone()), (2, text.clone())]),
        []
    );
    // The same two again are still two.
    assert_eq!(
        minute(&mut all, 1, &[(1, text.clone()), (2, text.clone())]),
        []
    );
    let found = minute(&mut all, 2, &[(3, text.clone())]);
    assert_eq!(found.len(), 1);
    let f = &found[0];
    assert_eq!((f.severity, f.stage), (Severity::Medium, Stage::Ticket));
    // No tenant's own: a second one must not make it another incident.
    assert_eq!(f.tenant, "");
    assert_eq!(f.start, at(0));
    assert_eq!(
        f.reason,
        "3 users of acme sent one attack, or near copies of it, within 60 min; 1 in this minute"
    );
    let more: Vec<_> = (4..=10).map(|n| (n, text.clone())).collect();
    let later = minute(&mut all, 3, &more);
    assert_eq!(
        (later[0].severity, later[0].stage),
        (Severity::High, Stage::Page)
    );
    assert_eq!(later[0].key(), f.key(), "one incident");
    assert_ne!(later[0].id, f.id);
}

#[test]
fn near_copies_are_one_attack_and_a_shared_phrase_is_not() {
    let mut all = Campaigns::default();
    let sent = [
        (1, attack(1, &[10, 20, 30, 40, 50, 60, 70, 80])),
        (2, attack(2, &[10, 20, 30, 40, 51, 61, 71, 81])),
        (3, attack(3, &[9, 20, 30, 40, 50, 62, 72, 82])),
    ];
    assert_eq!(minute(&mut all, 0, &sent).len(), 1);

    let mut all = Campaigns::default();
    let sent = [
        (1, attack(1, &[10, 20, 30, 40, 50, 60, 70, 80])),
        (2, attack(2, &[10, 20, 31, 41, 51, 61, 71, 81])),
        (3, attack(3, &[10, 22, 32, 42, 52, 62, 72, 82])),
    ];
    assert_eq!(minute(&mut all, 0, &sent), []);

    // One print is too little to compare: only equal digests count.
    let mut all = Campaigns::default();
    let sent = [
        (1, attack(1, &[5])),
        (2, attack(2, &[5])),
        (3, attack(3, &[5])),
    ];
    assert_eq!(minute(&mut all, 0, &sent), []);
}

#[test]
fn senders_are_forgotten_after_the_window() {
    let mut all = Campaigns::default();
    let text = attack(7, &[]);
    minute(&mut all, 0, &[(1, text.clone()), (2, text.clone())]);
    assert_eq!(
        minute(&mut all, 61, &[(3, text.clone())]),
        [],
        "the first two are gone"
    );
    minute(&mut all, 62, &[(4, text.clone())]);
    assert_eq!(
        minute(&mut all, 121, &[(5, text)]).len(),
        1,
        "61 is 60 min ago"
    );
    minute(&mut all, 300, &[]);
    assert_eq!(all, Campaigns::default(), "nothing is kept of what is over");
}

#[test]
fn keys_count_where_there_are_no_users_and_gateways_where_there_are_no_keys() {
    let config = DetectConfig::default();
    let text = attack(7, &[1, 2]);
    let judge = |senders: &[Sender]| {
        let mut seen = Sightings::new();
        for (n, sender) in (0u16..).zip(senders) {
            let mut e = event(n, "acme");
            e.gateway = smol_str::format_smolstr!("gw-{n}");
            note(&mut seen, &e, &text, at(0), *sender);
        }
        let mut out = Vec::new();
        Campaigns::default().minute(&config, 0, &seen, at(1), &mut out);
        out.first().map(|f| f.reason.clone()).unwrap_or_default()
    };
    let key = |n| Sender {
        user: None,
        api_key: Some(pseudonym(n)),
    };
    let nobody = Sender {
        user: None,
        api_key: None,
    };
    let one_user = Sender {
        user: Some(pseudonym(1)),
        api_key: None,
    };
    assert!(judge(&[key(1), key(2), key(3)]).starts_with("3 keys"));
    assert!(judge(&[nobody; 3]).starts_with("3 gateways"));
    assert_eq!(judge(&[one_user; 3]), "", "one user behind three gateways");
    assert_eq!(judge(&[key(1); 5]), "", "one key");
}

#[test]
fn a_campaign_over_several_tenants_belongs_to_none() {
    let mut seen = Sightings::new();
    for (n, tenant) in (0..).zip(["acme", "globex", "initech"]) {
        note(
            &mut seen,
            &event(n, tenant),
            &attack(7, &[]),
            at(0),
            user(n),
        );
    }
    let mut out = Vec::new();
    Campaigns::default().minute(&DetectConfig::default(), 0, &seen, at(1), &mut out);
    assert_eq!(out[0].tenant, "");
    assert!(
        out[0].reason.starts_with("3 users of 3 tenants"),
        "{}",
        out[0].reason
    );
}

#[test]
fn a_text_without_a_content_key_is_no_mark() {
    let mut seen = Sightings::new();
    assert!(note(
        &mut seen,
        &event(1, "acme"),
        &Sketch::default(),
        at(0),
        user(1)
    ));
    assert!(seen.is_empty());
}

#[test]
fn a_flood_of_differing_attacks_is_bounded_counted_and_hides_no_campaign() {
    let mut all = Campaigns::default();
    let text = attack(u16::MAX, &[u64::MAX - 1, u64::MAX]);
    minute(&mut all, 0, &[(1, text.clone()), (2, text.clone())]);
    for m in 0..12u16 {
        let mut seen = Sightings::new();
        let mut refused = 0;
        for n in 0..1_100u16 {
            let sketch = attack(m * 1_100 + n, &[u64::from(m) << 32 | u64::from(n)]);
            let sender = user(40_000 + n);
            refused += u64::from(!note(&mut seen, &event(n, "acme"), &sketch, at(0), sender));
        }
        assert_eq!(refused, 1_100 - MAX_MARKS as u64);
        let mut out = Vec::new();
        all.minute(
            &DetectConfig::default(),
            i64::from(m),
            &seen,
            at(1),
            &mut out,
        );
        assert!(out.is_empty());
        assert!(all.all.len() <= MAX_CAMPAIGNS);
    }
    assert!(all.forgotten() > 0);
    assert_eq!(minute(&mut all, 13, &[(3, text)]).len(), 1);
}

#[test]
fn a_phrase_that_all_attacks_share_costs_nothing_and_joins_nothing() {
    let mut all = Campaigns::default();
    let many = u16::try_from(MAX_ALIKE).expect("small") + 20;
    let sent: Vec<_> = (0..many)
        .map(|n| {
            (
                n,
                attack(n, &[1, 1_000 + u64::from(n), 5_000 + u64::from(n)]),
            )
        })
        .collect();
    assert_eq!(minute(&mut all, 0, &sent), []);
    assert_eq!(all.all.len(), sent.len());
    // A near copy is still placed by what it has in common beside the phrase.
    let copies = [
        (900, attack(900, &[1, 1_003, 5_003])),
        (901, attack(901, &[1, 1_003, 5_003])),
    ];
    assert_eq!(minute(&mut all, 1, &copies).len(), 1);
}

#[test]
fn a_minute_holds_no_more_attacks_than_its_bound() {
    let part = |from: u16| {
        let mut seen = Sightings::new();
        for n in from..from + 50 {
            let noted = note(
                &mut seen,
                &event(n, "acme"),
                &attack(n, &[n.into()]),
                at(0),
                user(n),
            );
            assert!(noted);
        }
        seen
    };
    let parts = [part(0), part(50), part(100)];
    let united = |order: [usize; 3]| {
        let (mut all, mut left_out) = (Sightings::new(), 0);
        for i in order {
            merge(&mut all, &parts[i], 60, &mut left_out);
            assert!(all.len() <= 60);
        }
        (all, left_out)
    };
    assert_eq!(united([0, 1, 2]).0.len(), 60);
    assert_eq!(united([0, 1, 2]), united([2, 0, 1]));
    assert_eq!(united([0, 1, 2]).1, 90);
}

#[test]
fn parts_merge_in_any_order_and_state_survives_encoding() {
    let mut parts = Vec::new();
    for m in 0..3u16 {
        let mut seen = Sightings::new();
        for n in 0..90u16 {
            let sketch = attack(n % 4, &[1, 2, u64::from(n % 4) + 3]);
            note(
                &mut seen,
                &event(n + m, "acme"),
                &sketch,
                at(n.into()),
                user(n * 3 + m),
            );
        }
        parts.push(seen);
    }
    let united = |order: [usize; 3]| {
        let mut all = Sightings::new();
        for i in order {
            merge(&mut all, &parts[i], 1_000, &mut 0);
        }
        all
    };
    let all = united([0, 1, 2]);
    assert_eq!(all, united([2, 0, 1]));
    assert!(all.values().all(|s| s.users.len() <= MAX_SENDERS));

    let mut w = Writer::default();
    encode_sightings(&all, &mut w);
    assert_eq!(decode_sightings(&mut Reader::new(&w.0)), Ok(all.clone()));

    let mut campaigns = Campaigns::default();
    campaigns.minute(&DetectConfig::default(), 5, &all, at(6), &mut Vec::new());
    let mut w = Writer::default();
    campaigns.encode(&mut w);
    assert_eq!(Campaigns::decode(&mut Reader::new(&w.0)), Ok(campaigns));
}
