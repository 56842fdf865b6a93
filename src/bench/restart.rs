//! How long the program takes to come back: after a stop, and after `kill -9`.

use std::time::{Duration, Instant};

use super::applied::Applied;
use super::feed::Producer;
use super::figures::{Figure, median};
use super::measure::{REFERENCE, warm, watch};
use super::product::{Product, wait};
use super::stage::Stage;
use super::template::Templates;
use super::workload::Shape;

/// The embedded broker waits this long before the first assignment of a group.
const EMBEDDED_WAIT: f64 = 3.0;
/// Session timeout of the measured program, seconds.
const SESSION: f64 = 6.0;
/// Starts that the figure is the middle of.
const COLD_STARTS: usize = 3;

/// Measures restarts and nothing else.
pub(super) fn alone(
    stage: &Stage,
    runtime: &tokio::runtime::Handle,
    out: &mut impl FnMut(Figure),
) -> anyhow::Result<()> {
    let mut product = stage.product(REFERENCE)?;
    let templates = Templates::new(Shape::default(), "bench", false);
    let mut producer = Producer::new(stage, REFERENCE, templates)?;
    let applied = watch(stage, REFERENCE, runtime, &mut product)?;
    warm(&mut producer, &applied, &mut product)?;
    restarts(stage, &mut producer, &applied, product, out)
}

/// Stops the program and starts it again, with records waiting. Seconds until the first of them are
/// committed, less the embedded broker's wait.
fn cold_start(
    stage: &Stage,
    producer: &mut Producer,
    applied: &Applied,
    product: Product,
) -> anyhow::Result<(Product, f64)> {
    product.stop()?;
    let base = producer.sent.clone();
    producer.send(1_000, &applied.progress, &base, None, None)?;
    let less = if stage.embedded {
        // A group whose last member has left is not empty there yet: who joins before waits for the
        // rest of that time, which is neither a start nor the fixed wait.
        std::thread::sleep(Duration::from_secs_f64(SESSION));
        EMBEDDED_WAIT
    } else {
        0.0
    };
    let before = applied.sum();
    let spawned = Instant::now();
    let mut product = stage.product(REFERENCE)?;
    wait(
        "the first batch",
        &mut product,
        Duration::from_secs(60),
        || applied.sum() > before,
    )?;
    let cold = spawned.elapsed().as_secs_f64() - less;
    let sent: i64 = producer.sent.iter().sum();
    wait("the backlog", &mut product, Duration::from_secs(60), || {
        applied.sum() >= sent
    })?;
    Ok((product, cold))
}

/// Starts the program several times, then kills it.
pub(super) fn restarts(
    stage: &Stage,
    producer: &mut Producer,
    applied: &Applied,
    product: Product,
    out: &mut impl FnMut(Figure),
) -> anyhow::Result<()> {
    let mut took = Vec::with_capacity(COLD_STARTS);
    let mut product = product;
    for _ in 0..COLD_STARTS {
        let (started, cold) = cold_start(stage, producer, applied, product)?;
        took.push(cold);
        product = started;
    }
    let less = if stage.embedded { EMBEDDED_WAIT } else { 0.0 };
    let each: Vec<String> = took.iter().map(|t| format!("{t:.2}")).collect();
    out(Figure::new("cold_start_s", median(took), "s")
        .against(2.0)
        .note(format!(
            "median of {}, less the broker's {less} s",
            each.join(", ")
        )));

    let sent: i64 = producer.sent.iter().sum();
    wait("the backlog", &mut product, Duration::from_secs(60), || {
        applied.sum() >= sent
    })?;
    product.kill()?;
    let killed = Instant::now();
    let mut product = stage.product(REFERENCE)?;
    let base = producer.sent.clone();
    producer.send(1_000, &applied.progress, &base, None, None)?;
    wait(
        "the recovery",
        &mut product,
        Duration::from_secs(90),
        || applied.sum() > sent,
    )?;
    let recovery = (killed.elapsed().as_secs_f64() - SESSION).max(0.0);
    out(Figure::new("recovery_s", Some(recovery), "s")
        .against(10.0)
        .note(format!("beyond the session timeout of {SESSION} s")));
    product.stop()
}
