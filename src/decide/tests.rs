//! Folding, reopening, resolving.

use super::*;

const HOUR: i64 = 3_600_000;

fn f(end: i64, severity: Severity, stage: Stage) -> Finding {
    Finding {
        id: finding_id(DetectorId::Leak, "r", 1, "user:x", &end.to_le_bytes()),
        detector: DetectorId::Leak,
        rule: SmolStr::new("r"),
        version: 1,
        severity,
        stage,
        tenant: SmolStr::new("acme"),
        subject: SmolStr::new("user:x"),
        at: Time(end),
        start: Time(end),
        end: Time(end),
        user: None,
        model: None,
        gateway: None,
        event: None,
        reason: format!("at {end}"),
        resolve_after_ms: HOUR,
    }
}

/// Folds one by one and says what happened: kind of change and number.
fn run(findings: &[Finding]) -> (Vec<(ChangeKind, i32)>, Head, FindingFates) {
    let mut heads = BTreeMap::new();
    let mut changes = Vec::new();
    let mut fates = FindingFates::default();
    for f in findings {
        let r = fold(std::slice::from_ref(f), &mut heads);
        changes.extend(r.changes.iter().map(|c| (c.kind, c.number)));
        fates.new += r.fates.new;
        fates.folded += r.fates.folded;
        fates.shadow += r.fates.shadow;
    }
    let head = heads.into_values().next().expect("head");
    (changes, head, fates)
}

#[test]
fn table() {
    use ChangeKind::{Escalated, Opened, Reopened};
    use Severity::{High, Low, Medium};
    use Stage::{Page, Ticket};
    type Row = (
        &'static str,
        Vec<(i64, Severity, Stage)>,
        Vec<(ChangeKind, i32)>,
    );
    let rows: Vec<Row> = vec![
        (
            "folds while open",
            vec![(0, Low, Ticket), (HOUR, Low, Ticket)],
            vec![(Opened, 1)],
        ),
        (
            "each finding moves the end",
            vec![
                (0, Low, Ticket),
                (HOUR, Low, Ticket),
                (2 * HOUR, Low, Ticket),
            ],
            vec![(Opened, 1)],
        ),
        (
            "reopens within 30 min",
            vec![(0, Low, Ticket), (HOUR + REOPEN_WITHIN_MS, Low, Ticket)],
            vec![(Opened, 1), (Reopened, 1)],
        ),
        (
            "next number beyond",
            vec![(0, Low, Ticket), (HOUR + REOPEN_WITHIN_MS + 1, Low, Ticket)],
            vec![(Opened, 1), (Opened, 2)],
        ),
        (
            "escalates by severity",
            vec![(0, Low, Ticket), (1, High, Ticket), (2, Medium, Ticket)],
            vec![(Opened, 1), (Escalated, 1)],
        ),
        (
            "escalates by stage",
            vec![(0, Low, Ticket), (1, Low, Page)],
            vec![(Opened, 1), (Escalated, 1)],
        ),
        (
            "late news folds in",
            vec![(2 * HOUR, Low, Ticket), (0, Low, Ticket)],
            vec![(Opened, 1)],
        ),
    ];
    for (name, findings, want) in rows {
        let findings: Vec<_> = findings.into_iter().map(|(e, s, g)| f(e, s, g)).collect();
        let (changes, _, fates) = run(&findings);
        assert_eq!(changes, want, "{name}");
        let n = u64::try_from(findings.len()).expect("len");
        assert_eq!(fates.new + fates.folded, n, "{name}");
    }
}

#[test]
fn a_reopened_incident_is_as_bad_as_the_finding_that_reopened_it() {
    // An hourly budget: the first hour ended past 100 %, the second is past 50 %.
    let (changes, head, _) = run(&[
        f(0, Severity::High, Stage::Page),
        f(HOUR + 600_000, Severity::Low, Stage::Ticket),
    ]);
    assert_eq!(changes[1], (ChangeKind::Reopened, 1));
    assert_eq!((head.severity, head.stage), (Severity::Low, Stage::Ticket));
    // Within one hour it only rises.
    let (_, head, _) = run(&[
        f(0, Severity::High, Stage::Page),
        f(600_000, Severity::Low, Stage::Ticket),
    ]);
    assert_eq!((head.severity, head.stage), (Severity::High, Stage::Page));
}

#[test]
fn shadow_makes_no_incident() {
    let mut heads = BTreeMap::new();
    let r = fold(&[f(0, Severity::High, Stage::Shadow)], &mut heads);
    assert!(heads.is_empty() && r.changes.is_empty());
    assert_eq!((r.fates.shadow, r.incidents), (1, vec![None]));
}

#[test]
fn resolution_by_hand_counts_from_its_own_time() {
    let mut heads = BTreeMap::new();
    fold(&[f(0, Severity::Low, Stage::Page)], &mut heads);
    let key = *heads.keys().next().expect("key");
    let head = heads.get_mut(&key).expect("head");
    head.state = State::Resolved;
    head.resolved_at = Some(Time(10_000));
    // Not later than the resolution: counted only.
    let r = fold(&[f(9_000, Severity::High, Stage::Page)], &mut heads);
    assert!(r.changes.is_empty());
    assert_eq!(heads[&key].state, State::Resolved);
    let r = fold(&[f(11_000, Severity::Low, Stage::Page)], &mut heads);
    assert_eq!(r.changes[0].kind, ChangeKind::Reopened);
    assert_eq!(heads[&key].resolved_at, None);
}

#[test]
fn folding_does_not_depend_on_how_batches_are_cut() {
    let all: Vec<_> = (0..40)
        .map(|i| {
            let s = Severity::ALL[usize::try_from(i * 7 % 5).expect("index")];
            f(i * i * 60_000, s, Stage::Page)
        })
        .collect();
    let mut whole = BTreeMap::new();
    let changes = fold(&all, &mut whole).changes;
    for size in [1, 3, 7] {
        let mut cut = BTreeMap::new();
        let parts: Vec<_> = all
            .chunks(size)
            .flat_map(|c| fold(c, &mut cut).changes)
            .collect();
        assert_eq!((&whole, &changes), (&cut, &parts));
    }
}

#[test]
fn heads_survive_json() {
    let mut heads = BTreeMap::new();
    fold(&[f(5, Severity::Low, Stage::Page)], &mut heads);
    let head = heads.into_values().next().expect("head");
    let json = serde_json::to_string(&head).expect("json");
    assert_eq!(serde_json::from_str::<Head>(&json).expect("head"), head);
}
