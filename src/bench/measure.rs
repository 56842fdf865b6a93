//! The plan of the bench: what is measured, in which order, against what.
//!
//! The product and the ceilings are measured in turns on the same machine in the same run, so that
//! the ratios hold whatever the machine; absolute figures are reported beside them.

use std::time::{Duration, Instant};

use super::applied::Applied;
use super::feed::{AHEAD, Producer, unthrottled};
use super::figures::{Figure, Usage, median, p99};
use super::product::{Product, wait};
use super::stage::{Stage, Stop};
use super::template::Templates;
use super::workload::Shape;
use super::{restart, sealing};

/// What to measure.
#[derive(Debug, Clone)]
pub struct Plan {
    /// A broker beside the embedded one; its topics `bench-*` must exist.
    pub brokers: Option<String>,
    /// A database beside the private one.
    pub database: Option<String>,
    /// Events of all rounds together.
    pub events: u64,
    /// Interleaved rounds.
    pub rounds: u32,
    /// Measure distinct users as well, 16,700 new ones a second, for so long.
    pub users_for: Option<Duration>,
    /// Measure nothing but this.
    pub only: Option<Part>,
}

/// A part of the bench.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Speed, latency, memory and restarts with sixteen partitions.
    Rounds,
    /// Speed with one partition.
    One,
    /// Memory with distinct users.
    Users,
    /// Sealing.
    Seal,
    /// Restarts with sixteen partitions.
    Restarts,
}

/// New users a second: five million in five minutes.
const USERS_A_SECOND: f64 = 16_700.0;
/// How long distinct users are sent for the figure that counts.
pub const USERS_FOR: Duration = Duration::from_secs(300);

/// Records of one pass of a ceiling: what may wait on sixteen partitions, less what chance puts on one
/// of them beyond its share.
const BACKLOG: u64 = 15 * AHEAD.unsigned_abs();
const CEILING: &str = "bench-ceiling";
pub(super) const REFERENCE: &str = "bench-reference";
const ONE: &str = "bench-one";
const USERS: &str = "bench-users";
/// How long the latency is measured.
const LATENCY_SECONDS: f64 = 8.0;

struct Round {
    rate: f64,
    cpu_us: f64,
}

/// Runs the plan; each figure is handed over as soon as it is known.
///
/// # Errors
/// A part does not start, or what was produced is not what was applied.
pub fn run(plan: &Plan, stop: &Stop, mut tell: impl FnMut(&Figure)) -> anyhow::Result<Vec<Figure>> {
    let topics = [(CEILING, 16), (REFERENCE, 16), (ONE, 1), (USERS, 16)];
    let (brokers, database) = (plan.brokers.as_deref(), plan.database.as_deref());
    let stage = Stage::new(brokers, database, &topics, stop)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let mut all = Vec::new();
    let mut out = |f: Figure| {
        tell(&f);
        all.push(f);
    };
    let wanted = |part| plan.only.is_none_or(|only| only == part);
    let mut sixteen = None;
    if plan.only == Some(Part::Restarts) {
        restart::alone(&stage, runtime.handle(), &mut out)?;
    }
    if wanted(Part::Rounds) {
        sixteen = Some(rounds(plan, &stage, runtime.handle(), &mut out)?);
    }
    if wanted(Part::One) {
        one_partition(plan, &stage, runtime.handle(), sixteen, &mut out)?;
    }
    if wanted(Part::Users) {
        if let Some(time) = plan.users_for {
            users(time, &stage, runtime.handle(), &mut out)?;
        } else {
            out(Figure::new("rss_5m_mb", None, "MB")
                .against(256.0)
                .note("only with --full: five minutes of 16,700 new users a second"));
        }
    }
    if wanted(Part::Seal) {
        sealing::sealing(&mut out)?;
    }
    Ok(all)
}

fn rounds(
    plan: &Plan,
    stage: &Stage,
    runtime: &tokio::runtime::Handle,
    out: &mut impl FnMut(Figure),
) -> anyhow::Result<f64> {
    let shape = Shape::default();
    let each = (plan.events / u64::from(plan.rounds.max(1))).max(1);
    let mut product = stage.product(REFERENCE)?;
    let mut producer = Producer::new(stage, REFERENCE, Templates::new(shape, "bench", false))?;
    // The backlog of the ceilings is even, so that the broker keeps as much as it can.
    let even = Shape { zipf: 0.0, ..shape };
    let mut feeder = Producer::new(stage, CEILING, Templates::new(even, "ceiling", false))?;
    let applied = watch(stage, REFERENCE, runtime, &mut product)?;
    warm(&mut producer, &applied, &mut product)?;

    let (mut ours, mut consume, mut parse) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..plan.rounds.max(1) {
        parse.push(ceiling(stage, &mut feeder, each, true)?);
        ours.push(reference(&mut producer, &applied, &mut product, each)?);
        if round == 0 {
            consume.push(ceiling(stage, &mut feeder, each, false)?);
        }
    }
    let middle = |r: &[Round], f: fn(&Round) -> f64| median(r.iter().map(f).collect());
    let cpu = middle(&ours, |r| r.cpu_us);
    let rate = middle(&ours, |r| r.rate);
    let (parse_cpu, parse_rate) = (middle(&parse, |r| r.cpu_us), middle(&parse, |r| r.rate));
    let of = |a: Option<f64>, b: Option<f64>| a.zip(b).map(|(a, b)| a / b);
    let per_event = format!(
        "{:.2} us an event against {:.2} (consume + typed JSON) and {:.2} (consume)",
        cpu.unwrap_or(0.0),
        parse_cpu.unwrap_or(0.0),
        middle(&consume, |r| r.cpu_us).unwrap_or(0.0)
    );
    out(Figure::new("cpu_ratio", of(cpu, parse_cpu), "x")
        .against(2.5)
        .note(per_event));
    out(
        Figure::new("rate_ratio", of(rate, parse_rate), "x")
            .against(0.25)
            .note("the ceiling reads a backlog; the program shares the machine with its producer and its database"),
    );
    out(Figure::new("events_per_second", rate, "1/s").against(parse_rate.unwrap_or(0.0)));

    latency(
        &mut producer,
        &applied,
        &mut product,
        rate.unwrap_or(10_000.0) / 2.0,
        out,
    )?;
    let peak = Usage::of(product.pid()).map(|u| megabytes(u.peak_bytes));
    out(Figure::new("rss_100k_mb", peak, "MB")
        .against(200.0)
        .note("peak of all rounds"));
    restart::restarts(stage, &mut producer, &applied, product, out)?;
    Ok(rate.unwrap_or(0.0))
}

/// Watches a topic. The first process also makes the tables (not a cold start): they are waited for.
pub(super) fn watch(
    stage: &Stage,
    topic: &str,
    runtime: &tokio::runtime::Handle,
    product: &mut Product,
) -> anyhow::Result<Applied> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match Applied::watch(stage, topic, runtime) {
            Ok(a) => return Ok(a),
            Err(e) if Instant::now() > deadline => return Err(e),
            Err(_) => std::thread::sleep(Duration::from_millis(200)),
        }
        product.alive()?;
    }
}

#[expect(clippy::cast_precision_loss, reason = "megabytes for people")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1_048_576.0
}

pub(super) fn warm(
    producer: &mut Producer,
    applied: &Applied,
    product: &mut Product,
) -> anyhow::Result<()> {
    let base = producer.sent.clone();
    producer.send(2_000, &applied.progress, &base, None, None)?;
    let sent: i64 = producer.sent.iter().sum();
    wait(
        "the first records",
        product,
        Duration::from_secs(60),
        || applied.sum() >= sent,
    )
}

fn reference(
    producer: &mut Producer,
    applied: &Applied,
    product: &mut Product,
    count: u64,
) -> anyhow::Result<Round> {
    let base = producer.sent.clone();
    let before = Usage::of(product.pid()).unwrap_or_default();
    let started = Instant::now();
    producer.send(count, &applied.progress, &base, None, None)?;
    let sent: i64 = producer.sent.iter().sum();
    wait(
        "everything produced",
        product,
        Duration::from_secs(60),
        || applied.sum() >= sent,
    )?;
    let seconds = started.elapsed().as_secs_f64();
    let after = Usage::of(product.pid()).unwrap_or_default();
    anyhow::ensure!(
        applied.sum() == sent,
        "{} applied of {sent} produced",
        applied.sum()
    );
    Ok(round(
        count,
        seconds,
        after.cpu.saturating_sub(before.cpu).as_secs_f64(),
    ))
}

fn ceiling(stage: &Stage, feeder: &mut Producer, count: u64, parse: bool) -> anyhow::Result<Round> {
    let mut c = stage.ceiling(CEILING, parse)?;
    let base = feeder.sent.clone();
    let (mut left, mut seconds, mut cpu) = (count, 0.0, 0.0);
    while left > 0 {
        let pass = left.min(BACKLOG);
        feeder.send(pass, &unthrottled(), &base, None, None)?;
        let (s, c) = c.pass(pass)?;
        (left, seconds, cpu) = (left - pass, seconds + s, cpu + c);
    }
    Ok(round(count, seconds, cpu))
}

#[expect(clippy::cast_precision_loss, reason = "a count of events")]
fn round(count: u64, seconds: f64, cpu: f64) -> Round {
    Round {
        rate: count as f64 / seconds,
        cpu_us: cpu * 1e6 / count as f64,
    }
}

fn latency(
    producer: &mut Producer,
    applied: &Applied,
    product: &mut Product,
    rate: f64,
    out: &mut impl FnMut(Figure),
) -> anyhow::Result<()> {
    let base = producer.sent.clone();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a few hundred thousand"
    )]
    let count = (rate * LATENCY_SECONDS) as u64;
    producer.published.clear();
    producer.send(
        count,
        &applied.progress,
        &base,
        Some(rate),
        Some(&applied.pending),
    )?;
    let sent: i64 = producer.sent.iter().sum();
    wait(
        "the paced records",
        product,
        Duration::from_secs(60),
        || applied.sum() >= sent,
    )?;
    std::thread::sleep(Duration::from_secs(1));
    let took = applied.took.lock().map(|t| t.clone()).unwrap_or_default();
    let n = took.len();
    out(Figure::new("finding_p99_ms", p99(&took), "ms")
        .against(500.0)
        .note(format!("{n} findings at {rate:.0} events/s")));
    let told = product.told.lock().map(|t| t.clone()).unwrap_or_default();
    let took: Vec<f64> = told
        .iter()
        .filter_map(|(n, at)| {
            producer
                .published
                .get(n)
                .map(|p| at.duration_since(*p).as_secs_f64() * 1_000.0)
        })
        .collect();
    let n = took.len();
    out(Figure::new("notification_p99_ms", p99(&took), "ms")
        .against(1_000.0)
        .note(format!(
            "{n} notifications of critical findings at {rate:.0} events/s"
        )));
    Ok(())
}

fn one_partition(
    plan: &Plan,
    stage: &Stage,
    runtime: &tokio::runtime::Handle,
    sixteen: Option<f64>,
    out: &mut impl FnMut(Figure),
) -> anyhow::Result<()> {
    let shape = Shape {
        partitions: 1,
        ..Shape::default()
    };
    let count = (plan.events / u64::from(plan.rounds.max(1))).max(1);
    let mut product = stage.product(ONE)?;
    let applied = watch(stage, ONE, runtime, &mut product)?;
    let mut producer = Producer::new(stage, ONE, Templates::new(shape, "one", false))?;
    warm(&mut producer, &applied, &mut product)?;
    let one = reference(&mut producer, &applied, &mut product, count)?;
    product.stop()?;
    let of = sixteen.map_or_else(String::new, |s| {
        format!("{s:.0} events/s on 16 partitions, ")
    });
    out(
        Figure::new("partitions_scale", sixteen.map(|s| s / one.rate), "x")
            .against(1.0)
            .note(format!(
                "{of}{:.0} events/s on 1; all on the same cores",
                one.rate
            )),
    );
    Ok(())
}

fn users(
    time: Duration,
    stage: &Stage,
    runtime: &tokio::runtime::Handle,
    out: &mut impl FnMut(Figure),
) -> anyhow::Result<()> {
    let mut product = stage.product(USERS)?;
    let applied = watch(stage, USERS, runtime, &mut product)?;
    let mut producer = Producer::new(
        stage,
        USERS,
        Templates::new(Shape::default(), "users", true),
    )?;
    let base = producer.sent.clone();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count of users"
    )]
    let count = (USERS_A_SECOND * time.as_secs_f64()) as u64;
    let started = Instant::now();
    producer.send(count, &applied.progress, &base, Some(USERS_A_SECOND), None)?;
    let sent: i64 = producer.sent.iter().sum();
    wait("all users", &mut product, Duration::from_secs(120), || {
        applied.sum() >= sent
    })?;
    let peak = Usage::of(product.pid()).map(|u| megabytes(u.peak_bytes));
    let seconds = started.elapsed().as_secs();
    product.stop()?;
    out(Figure::new("rss_5m_mb", peak, "MB")
        .against(256.0)
        .note(format!("{count} users in {seconds} s")));
    Ok(())
}
