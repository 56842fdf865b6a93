//! The ceilings: a consumer that only touches the payload (a), and the same with a typed JSON decode
//! (b). They run as processes of their own with the pipeline's consumer settings, and say on standard
//! output how far they are, so that the producer can stay ahead of them.

use std::borrow::Cow;
use std::io::Write as _;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::figures::Usage;
use crate::ingest::IngestConfig;
use crate::ingest::read::{ReadError, follow};

/// How often progress is said.
const SAY: Duration = Duration::from_millis(20);

/// What the typed decode reads: the fields of the workload, borrowed where that is possible. Nothing
/// is checked; that is the pipeline's own work.
#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "decoded to be measured")]
struct Event<'a> {
    v: u32,
    #[serde(borrow)]
    id: Cow<'a, str>,
    gateway: &'a str,
    boot: Option<&'a str>,
    lane: u32,
    seq: Option<u64>,
    at: &'a str,
    tenant: Option<&'a str>,
    team: Option<&'a str>,
    user: Option<&'a str>,
    api_key: Option<Key<'a>>,
    operation: &'a str,
    stream: Option<bool>,
    provider: Option<&'a str>,
    #[serde(borrow)]
    model: Model<'a>,
    status: u16,
    latency: Latency,
    #[serde(borrow)]
    usage: Tokens<'a>,
    #[serde(borrow)]
    request: Option<Sketch<'a>>,
    #[serde(borrow)]
    response: Option<Sketch<'a>>,
}

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "decoded to be measured")]
struct Key<'a> {
    id: &'a str,
}

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "decoded to be measured")]
struct Model<'a> {
    requested: &'a str,
    served: Option<&'a str>,
}

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "decoded to be measured")]
struct Latency {
    total_ms: Option<f64>,
    ttft_ms: Option<f64>,
}

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "decoded to be measured")]
struct Tokens<'a> {
    input: u64,
    output: u64,
    state: &'a str,
}

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "decoded to be measured")]
struct Sketch<'a> {
    kid: Option<&'a str>,
    digest: Option<&'a str>,
    bytes: u64,
    chars: u64,
    words: u64,
    ruleset: Option<&'a str>,
    #[serde(borrow, default)]
    hits: Vec<Hit<'a>>,
    score: Option<Score>,
    prints: Option<&'a str>,
    #[serde(borrow)]
    features: Option<Features<'a>>,
}

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "decoded to be measured")]
struct Hit<'a> {
    rule: &'a str,
    n: u32,
}

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "decoded to be measured")]
struct Score {
    injection: Option<f32>,
}

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "decoded to be measured")]
struct Features<'a> {
    entropy: Option<f32>,
    lang: Option<&'a str>,
}

/// Consumes `count` records from the topic's present end. Prints `go`, then positions, then
/// `done <seconds> <cpu seconds>`.
///
/// # Errors
/// Kafka's.
pub fn run(brokers: &str, topic: &str, count: u64, parse: bool) -> Result<(), ReadError> {
    let config = IngestConfig::new(brokers, "ceiling", Vec::new());
    let mut out = std::io::stdout();
    let mut seen = 0u64;
    let mut touched = 0u64;
    let mut started: Option<(Instant, Usage)> = None;
    let mut said = Instant::now();
    let mut positions: Vec<i64> = Vec::new();
    follow(&config, topic, |event| {
        let Some((partition, r)) = event else {
            // Standing at the end: whoever produces may begin.
            if started.is_none() {
                let _ = writeln!(out, "go");
                let _ = out.flush();
                started = Some((Instant::now(), Usage::mine()));
            } else if seen > 0 {
                // The producer may be waiting for just these.
                say_positions(&mut out, &positions);
            }
            return true;
        };
        if seen == 0 {
            started = Some((Instant::now(), Usage::mine()));
        }
        seen += 1;
        if let Some(v) = r.value {
            // Every cache line of the payload is read.
            touched += v.iter().step_by(64).map(|b| u64::from(*b)).sum::<u64>();
            if parse && let Ok(text) = std::str::from_utf8(v) {
                touched += serde_json::from_str::<Event<'_>>(text).map_or(0, |e| e.usage.input);
            }
        }
        let p = usize::try_from(partition).unwrap_or(0);
        if positions.len() <= p {
            positions.resize(p + 1, 0);
        }
        positions[p] += 1;
        if said.elapsed() >= SAY {
            said = Instant::now();
            say_positions(&mut out, &positions);
        }
        seen < count
    })?;
    let (at, before) = started.unwrap_or((Instant::now(), Usage::mine()));
    let cpu = Usage::mine().cpu.saturating_sub(before.cpu);
    let _ = writeln!(
        out,
        "done {} {} {touched}",
        at.elapsed().as_secs_f64(),
        cpu.as_secs_f64()
    );
    let _ = out.flush();
    Ok(())
}

fn say_positions(out: &mut std::io::Stdout, positions: &[i64]) {
    let line: Vec<String> = positions.iter().map(ToString::to_string).collect();
    let _ = writeln!(out, "at {}", line.join(" "));
    let _ = out.flush();
}
