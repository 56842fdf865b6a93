//! The pure core under a seeded simulator: crashes, redelivery, overlapping owners, any cutting of
//! batches, commits whose answer is lost, users that do not fit memory; compared with one
//! uninterrupted run. No I/O: the "database" is a struct that commits or does not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use veilwatch::account::{
    Batch, Books, Budget, Budgets, Grain, LedgerDelta, LedgerKey, Limit, PeriodKind, Prices, Scope,
    Unit,
};
use veilwatch::decide::{FindingFates, Head, fold};
use veilwatch::detect::{
    CLOSE_AFTER_MS, Checkpoint, DetectConfig, Finding, Leader, Part, PartitionState, ValueKey,
    ValueRow,
};
use veilwatch::event::{
    ApiKey, Event, Hash16, Hit, KeyClass, Kid, Position, Previous, Pseudonym, Sketch, SmolStr,
    Time, TopicPartition, Usage, UsageState,
};

const START: i64 = 1_795_000_000_000;

fn pseudonym(domain: &str, n: usize) -> Pseudonym {
    let h = blake3::hash(format!("{domain} {n}").as_bytes());
    let mut mac = [0; 16];
    mac.copy_from_slice(&h.as_bytes()[..16]);
    Pseudonym {
        // A rotation changes the key.
        kid: Kid::parse(if domain == "rotated" { "k8" } else { "k7" }).expect("kid"),
        mac,
    }
}

fn bare(id: String, at: Time) -> Event {
    Event {
        id: id.into(),
        gateway: "gw-0".into(),
        boot: None,
        lane: 0,
        seq: None,
        dropped: 0,
        at,
        tenant: Some("acme".into()),
        team: Some("support".into()),
        user: None,
        session: None,
        api_key: None,
        prev: None,
        net: None,
        app: None,
        operation: "chat".into(),
        route: None,
        stream: true,
        provider: Some("openai".into()),
        model_requested: "gpt-4o".into(),
        model_served: Some("gpt-4o-2024-08-06".into()),
        status: 200,
        error: None,
        total_ms: Some(700.0),
        ttft_ms: Some(180.0),
        usage: Usage {
            input: 500,
            output: 100,
            state: UsageState::Final,
            ..Usage::default()
        },
        reported_cost: None,
        policy: None,
        tools: Vec::new(),
        sources: Vec::new(),
        request: None,
        context: Vec::new(),
        response: None,
        unscanned: Vec::new(),
    }
}

fn sketch(rule: &str, value: Option<Pseudonym>, score: Option<f32>) -> Sketch {
    Sketch {
        kid: Kid::parse("k7").expect("kid"),
        hits: vec![Hit {
            rule: rule.into(),
            n: 1,
            values: value.into_iter().collect(),
        }],
        injection: score,
        ..Sketch::default()
    }
}

/// One partition's log: (append, event), append never falls.
type Log = Vec<(Time, Event)>;

/// Traffic with attacks, leaks, duplicates, holes, late and forged events; partitioned by user.
fn traffic(seed: u64, partitions: usize, events: usize, users: usize) -> Vec<Log> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut logs = vec![Log::new(); partitions];
    let mut now = START;
    let mut seqs = vec![0u64; partitions];
    // Few enough sights of each that no row reaches its bound of unjudged candidates.
    let values = events / 60;
    for i in 0..events {
        now += rng.i64(0..400);
        let user = rng.usize(0..users);
        let p = user % partitions;
        let mut e = bare(format!("e{i}"), Time(now - 700));
        if !rng.bool() || !user.is_multiple_of(5) {
            e.user = Some(pseudonym("user", user));
        }
        e.api_key = Some(ApiKey {
            id: pseudonym("key", p),
            created_day: None,
            class: KeyClass::Standard,
        });
        if user.is_multiple_of(7) && e.user.is_some() && i > events / 2 {
            e.prev = Some(Previous {
                user: e.user,
                api_key: None,
            });
            e.user = Some(pseudonym("rotated", user));
        }
        e.tenant = Some(SmolStr::new(["acme", "globex", "initech"][user % 3]));
        if rng.u8(0..4) > 0 {
            e.gateway = SmolStr::new(format!("gw-{}", p % 2));
            e.boot = Some("boot".into());
            e.lane = u32::try_from(p).expect("lane");
            e.seq = Some(seqs[p]);
            // Some events never arrive.
            seqs[p] += if rng.u16(0..300) == 0 { 3 } else { 1 };
        }
        e.usage.input = rng.u64(1..3_000);
        e.usage.output = rng.u64(1..800);
        match rng.u8(0..60) {
            0 => e.usage.state = UsageState::Missing,
            1 => e.usage.state = UsageState::Estimated,
            2 => e.model_served = Some("nobody-knows".into()),
            3 => e.status = 500,
            _ => {}
        }
        match rng.u8(0..40) {
            0 => e.request = Some(sketch("inj-test", None, Some(0.9))),
            1 => {
                let v = pseudonym("value", rng.usize(0..values));
                e.request = Some(sketch("pii-link", Some(v), None));
            }
            2 => {
                let v = pseudonym("value", rng.usize(0..values));
                e.response = Some(sketch("pii-link", Some(v), None));
            }
            _ => {}
        }
        // A sender that comes after its minute was judged counts or not by who was faster; that is
        // the design, so values come in time here.
        let plain = e.request.is_none() && e.response.is_none();
        match rng.u8(0..50) {
            _ if !plain => {}
            0 => e.at = Time(now - 90_000),
            1 => e.at = Time(now - 40 * 3_600_000),
            _ => {}
        }
        logs[p].push((Time(now), e.clone()));
        if rng.u8(0..30) == 0 {
            logs[p].push((Time(now + 1), e));
        }
    }
    logs
}

fn config() -> Arc<DetectConfig> {
    use veilwatch::detect::fact::FactKind;
    use veilwatch::detect::{Fact, Facts};
    use veilwatch::event::{Severity, Stage};
    let fact = |kind, linkable| Fact {
        kind,
        severity: Severity::High,
        stage: Stage::Page,
        entity: "TEST".into(),
        typed: false,
        linkable,
        version: 1,
    };
    let mut c = DetectConfig {
        facts: Facts::new([
            ("inj-test".into(), fact(FactKind::Injection, false)),
            ("pii-link".into(), fact(FactKind::Pii, true)),
        ]),
        ..DetectConfig::default()
    };
    // Short enough that baselines speak within the simulated hours.
    c.spend.learn_ms = 0;
    c.spend.floor = 0;
    Arc::new(c)
}

fn budgets() -> Vec<Budget> {
    vec![
        Budget {
            id: "t".into(),
            scope: Scope::Tenant,
            subject: None,
            grain: Grain::utc(PeriodKind::Day),
            limit: Limit {
                unit: Unit::Tokens,
                amount: 900_000,
            },
            thresholds: vec![50, 80, 100],
        },
        Budget {
            id: "u".into(),
            scope: Scope::User,
            subject: None,
            grain: Grain::utc(PeriodKind::Hour),
            limit: Limit {
                unit: Unit::Usd,
                amount: 60_000_000_000,
            },
            thresholds: vec![100],
        },
    ]
}

#[derive(Default)]
struct Row {
    next: usize,
    claim: u64,
    checkpoint: Option<Checkpoint>,
    users: BTreeMap<Pseudonym, (i64, Arc<[u8]>)>,
    /// Oldest names of rotated pseudonyms.
    names: BTreeMap<Pseudonym, (Pseudonym, Time)>,
    watermark: Time,
}

/// What would stand in Postgres.
#[derive(Default)]
struct Db {
    rows: Vec<Row>,
    budgets: Budgets,
    crossings: BTreeSet<(SmolStr, SmolStr, String, u32)>,
    values: BTreeMap<ValueKey, ValueRow>,
    parts: BTreeMap<i64, Vec<Part>>,
    late: Vec<Part>,
    findings: BTreeMap<Hash16, Finding>,
    heads: BTreeMap<Hash16, Head>,
    fates: FindingFates,
    events: u64,
    duplicates: u64,
    aliases: BTreeSet<(Pseudonym, Pseudonym)>,
    merged: Option<i64>,
    leader: Option<Checkpoint>,
}

impl Db {
    fn new(partitions: usize) -> Self {
        Self {
            rows: (0..partitions).map(|_| Row::default()).collect(),
            budgets: Budgets::new(budgets()),
            ..Self::default()
        }
    }
    fn find(&mut self, findings: Vec<Finding>) {
        let folded = fold(&findings, &mut self.heads);
        self.fates.new += folded.fates.new;
        self.fates.folded += folded.fates.folded;
        self.fates.shadow += folded.fates.shadow;
        for f in findings {
            assert!(
                self.findings.insert(f.id, f.clone()).is_none(),
                "the same finding twice: {f:?}"
            );
        }
    }
}

/// One owner of one partition.
struct Worker {
    partition: usize,
    claim: u64,
    next: usize,
    state: PartitionState,
    /// Evicted rows that are not committed yet.
    buffer: BTreeMap<Pseudonym, (i64, Arc<[u8]>)>,
}

struct World {
    logs: Vec<Log>,
    config: Arc<DetectConfig>,
    books: Books,
    db: Db,
    claims: u64,
}

impl World {
    fn new(logs: Vec<Log>) -> Self {
        Self {
            db: Db::new(logs.len()),
            logs,
            config: config(),
            books: Books::new(Prices::shipped(), &budgets()),
            claims: 0,
        }
    }

    /// A new owner: fences the old one, loads the checkpoint, replays with effects thrown away.
    fn claim(&mut self, partition: usize) -> Worker {
        self.claims += 1;
        let row = &mut self.db.rows[partition];
        row.claim = self.claims;
        let (state, from) = match &row.checkpoint {
            Some(c) => (
                PartitionState::restore(Arc::clone(&self.config), c.fmt, &c.bytes)
                    .expect("restore"),
                usize::try_from(c.as_of).expect("offset"),
            ),
            None => (PartitionState::new(Arc::clone(&self.config)), 0),
        };
        let next = row.next;
        let mut w = Worker {
            partition,
            claim: self.claims,
            next: from,
            state,
            buffer: BTreeMap::new(),
        };
        while w.next < next {
            let to = (w.next + 37).min(next);
            let applied = self.apply(&mut w, to);
            w.next = to;
            for r in applied.effects.user_rows {
                w.buffer.insert(r.user, (r.as_of, r.state));
            }
        }
        w
    }

    fn apply(&self, w: &mut Worker, to: usize) -> veilwatch::account::Applied {
        let log = &self.logs[w.partition][w.next..to];
        for (name, _) in w.state.unknown(log.iter().map(|(_, e)| e)) {
            if let Some(known) = self.db.rows[w.partition].names.get(&name) {
                w.state.load_alias(name, Some(*known));
            }
        }
        for user in w.state.missing_users(log.iter().map(|(_, e)| e)) {
            let stored = self.db.rows[w.partition].users.get(&user);
            let row = w.buffer.get(&user).or(stored);
            let readable = w.state.load_user(user, row.map(|(o, b)| (*o, &**b)), false);
            assert!(readable);
        }
        let mut batch = Batch::default();
        for (i, (append, event)) in log.iter().enumerate() {
            let position = Position {
                offset: i64::try_from(w.next + i).expect("offset"),
                append: *append,
            };
            batch.apply(&mut w.state, &self.books, position, event);
        }
        let applied = batch.finish(&mut w.state);
        assert_eq!(applied.effects.counters.unloaded_users, 0);
        for r in &applied.effects.user_rows {
            assert!(r.state.len() <= veilwatch::detect::user::MAX_BYTES);
        }
        applied
    }

    /// One batch and its transaction. `false`: fenced, nothing happened.
    fn step(&mut self, w: &mut Worker, size: usize, checkpoint: bool) -> bool {
        let log = &self.logs[w.partition];
        let to = (w.next + size).min(log.len());
        if to == w.next {
            return self.db.rows[w.partition].claim == w.claim;
        }
        let lo = w.next;
        let applied = self.apply(w, to);
        let watermark = self.logs[w.partition][to - 1].0;
        w.next = to;
        let cp = checkpoint.then(|| w.state.checkpoint(i64::try_from(to).expect("offset")));
        let row = &mut self.db.rows[w.partition];
        if row.claim != w.claim || row.next != lo {
            return false;
        }
        row.next = to;
        row.watermark = watermark;
        for (new, oldest) in &applied.effects.aliases {
            row.names.insert(*new, (*oldest, watermark));
        }
        for (user, r) in std::mem::take(&mut w.buffer) {
            row.users.insert(user, r);
        }
        for r in &applied.effects.user_rows {
            row.users.insert(r.user, (r.as_of, r.state.clone()));
        }
        if let Some((c, rows)) = cp {
            row.checkpoint = Some(c);
            for r in rows {
                assert!(r.state.len() <= veilwatch::detect::user::MAX_BYTES);
                row.users.insert(r.user, (r.as_of, r.state));
            }
        }
        let from = TopicPartition {
            topic: "t".into(),
            partition: i32::try_from(w.partition).expect("partition"),
        };
        for ((minute, late), bytes) in applied.effects.minute_parts {
            let part = Part {
                from: from.clone(),
                bytes,
            };
            if late {
                self.db.late.push(part);
            } else {
                assert!(
                    self.db.merged.is_none_or(|m| m < minute),
                    "a part in time came after its minute was merged"
                );
                self.db.parts.entry(minute).or_default().push(part);
            }
        }
        for (key, delta) in &applied.effects.values {
            self.db.values.entry(*key).or_default().merge(delta);
        }
        for c in self.db.budgets.add(&applied.ledger, watermark) {
            let once = (
                c.budget_id,
                c.subject,
                c.period.to_string(),
                c.threshold_pct,
            );
            assert!(self.db.crossings.insert(once), "a threshold crossed twice");
        }
        self.db.aliases.extend(applied.effects.aliases);
        self.db.events += applied.effects.counters.events;
        self.db.duplicates += applied.effects.counters.duplicates;
        self.db.find(applied.effects.findings);
        true
    }

    /// The leader merges what has closed. It restores from its row each time, as after a crash.
    fn lead(&mut self, end: bool) {
        let low = if end {
            Time(i64::MAX)
        } else {
            let marks = self.db.rows.iter().map(|r| r.watermark);
            marks.min().unwrap_or_default()
        };
        let first = START / 60_000 - 2;
        let last = self.logs.iter().flatten().map(|(t, _)| t.minute()).max();
        let last = last.unwrap_or(first) + 10;
        let mut minute = self.db.merged.map_or(first, |m| m + 1);
        while minute <= last && (minute + 1) * 60_000 + CLOSE_AFTER_MS <= low.0 {
            let mut leader = match &self.db.leader {
                Some(c) => {
                    Leader::restore(Arc::clone(&self.config), c.fmt, &c.bytes).expect("leader")
                }
                None => Leader::new(Arc::clone(&self.config)),
            };
            let parts = self.db.parts.remove(&minute).unwrap_or_default();
            let mut findings = leader.merge_minute(minute, &parts, false);
            assert_eq!(leader.damaged_parts, 0);
            let mut rows: Vec<_> = self.db.values.clone().into_iter().collect();
            findings.extend(leader.judge_values(minute, &mut rows));
            self.db.values = rows.into_iter().collect();
            self.db.find(findings);
            self.db.leader = Some(leader.checkpoint());
            self.db.merged = Some(minute);
            minute += 1;
        }
    }
}

/// What must be equal whatever happened.
#[derive(Debug, PartialEq)]
struct Outcome {
    ledger: BTreeMap<LedgerKey, LedgerDelta>,
    crossings: BTreeSet<(SmolStr, SmolStr, String, u32)>,
    findings: BTreeMap<Hash16, Finding>,
    heads: Vec<(Hash16, i32, i64)>,
    aliases: BTreeSet<(Pseudonym, Pseudonym)>,
    events: u64,
    duplicates: u64,
}

fn outcome(mut world: World) -> Outcome {
    world.lead(true);
    let db = world.db;
    // Conservation: findings = new + folded + shadow + excepted.
    let f = db.fates;
    assert_eq!(
        u64::try_from(db.findings.len()).expect("len"),
        f.new + f.folded + f.shadow + f.excepted
    );
    // Conservation: each scope holds every event once.
    let sum = |scope, period: &str| -> u64 {
        let rows = db.budgets.ledger.iter();
        rows.filter(|(k, _)| k.scope == scope && k.period.as_str().starts_with(period))
            .map(|(_, d)| d.events)
            .sum()
    };
    for scope in [Scope::Tenant, Scope::Model, Scope::Everyone, Scope::Key] {
        assert_eq!(sum(scope, "d:"), db.events, "{scope:?}");
        assert_eq!(sum(scope, "h:"), db.events, "{scope:?}");
    }
    let tokens = |scope| -> u64 {
        let rows = db.budgets.ledger.iter();
        rows.filter(|(k, _)| k.scope == scope && k.period.as_str().starts_with("d:"))
            .map(|(_, d)| d.tokens())
            .sum()
    };
    assert_eq!(tokens(Scope::Tenant), tokens(Scope::Everyone));
    Outcome {
        ledger: db.budgets.ledger,
        crossings: db.crossings,
        findings: db.findings,
        heads: db
            .heads
            .values()
            .map(|h| (h.key, h.number, h.findings))
            .collect(),
        aliases: db.aliases,
        events: db.events,
        duplicates: db.duplicates,
    }
}

/// One owner per partition, whole logs, nothing goes wrong. Partitions take turns by time, as the
/// minutes must close in between.
fn reference(logs: &[Log]) -> Outcome {
    let mut world = World::new(logs.to_vec());
    let mut workers: Vec<_> = (0..logs.len()).map(|p| world.claim(p)).collect();
    loop {
        let next = workers
            .iter_mut()
            .filter(|w| w.next < logs[w.partition].len())
            .min_by_key(|w| logs[w.partition][w.next].0);
        let Some(w) = next else { break };
        assert!(world.step(w, 1, false));
    }
    outcome(world)
}

fn chaos(seed: u64, logs: &[Log], faults: &mut [u64; 5]) -> Outcome {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut world = World::new(logs.to_vec());
    let mut workers: Vec<Worker> = (0..logs.len()).map(|p| world.claim(p)).collect();
    while (0..logs.len()).any(|p| world.db.rows[p].next < logs[p].len()) {
        let i = rng.usize(0..workers.len());
        let size = 1 + rng.usize(0..60);
        match rng.u8(0..24) {
            // Killed between two batches, or in one: memory is gone, nothing was committed.
            0 => {
                faults[0] += 1;
                let p = workers[i].partition;
                workers[i] = world.claim(p);
            }
            // A second owner while the first still works: the first is fenced.
            1 => {
                faults[1] += 1;
                let p = rng.usize(0..logs.len());
                let w = world.claim(p);
                workers.push(w);
            }
            // Committed, but the answer was lost: the owner starts over.
            2 => {
                faults[2] += 1;
                let mut w = workers.swap_remove(i);
                world.step(&mut w, size, rng.bool());
                let p = w.partition;
                workers.push(world.claim(p));
            }
            3 => {
                faults[3] += 1;
                world.lead(false);
            }
            _ => {
                let checkpoint = rng.u8(0..6) == 0;
                if !world.step(&mut workers[i], size, checkpoint) {
                    faults[4] += 1;
                    workers.swap_remove(i);
                }
            }
        }
        // Somebody always comes back.
        for p in 0..logs.len() {
            if !workers.iter().any(|w| w.partition == p) {
                let w = world.claim(p);
                workers.push(w);
            }
        }
    }
    outcome(world)
}

/// Equal, or the first differences by name (all of it would be megabytes).
fn same(got: &Outcome, want: &Outcome, what: &str) {
    let differ: Vec<_> = want
        .findings
        .iter()
        .filter(|(id, f)| got.findings.get(*id) != Some(*f))
        .map(|(_, f)| (&f.rule, &f.subject, &f.reason))
        .take(5)
        .collect();
    assert!(
        differ.is_empty(),
        "{what}: findings that differ: {differ:?}"
    );
    let rows = want.ledger.iter();
    let differ: Vec<_> = rows
        .filter(|(k, d)| got.ledger.get(*k) != Some(*d))
        .take(5)
        .collect();
    assert!(
        differ.is_empty(),
        "{what}: ledger rows that differ: {differ:?}"
    );
    assert!(
        got == want,
        "{what}: {} findings for {}, {} events for {}",
        got.findings.len(),
        want.findings.len(),
        got.events,
        want.events
    );
}

#[test]
fn chaos_changes_nothing() {
    for seed in 1..=3 {
        let logs = traffic(seed, 4, 2_400, 60);
        let want = reference(&logs);
        assert!(want.findings.len() > 40, "{}", want.findings.len());
        assert!(want.duplicates > 10 && !want.crossings.is_empty());
        let rules: BTreeSet<_> = want.findings.values().map(|f| f.rule.clone()).collect();
        for rule in [
            "inj-test",
            "pii-link",
            "leak-cross-user",
            "injection-then-leak",
            "audit-missing-events",
        ] {
            assert!(
                rules.contains(rule),
                "{rule} is not in the traffic: {rules:?}"
            );
        }
        let mut faults = [0; 5];
        for round in 0..2 {
            let got = chaos(seed * 100 + round, &logs, &mut faults);
            same(&got, &want, &format!("seed {seed} round {round}"));
        }
        assert!(faults.iter().all(|f| *f > 0), "{faults:?}");
    }
}

#[test]
fn users_beyond_memory_leave_and_come_back_unchanged() {
    let users = 5_200;
    let logs = traffic(9, 1, 9_000, users);
    let want = reference(&logs);
    let got = chaos(901, &logs, &mut [0; 5]);
    same(&got, &want, "many users");
}
