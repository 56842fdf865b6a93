//! The ceilings: a consumer that only touches the payload (a), and the same with a typed JSON decode
//! (b). They run as processes of their own with the pipeline's consumer settings.
//!
//! They consume a backlog that is complete before they begin, as much at a time as the embedded broker
//! keeps: a ceiling that is faster than the producer would measure the producer.

pub(super) mod process;

use std::borrow::Cow;
use std::io::Write as _;
use std::time::Instant;

use serde::Deserialize;

use super::figures::Usage;
use crate::ingest::IngestConfig;
use crate::ingest::read::Passes;

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

/// Consumes in passes. Prints `ready`; each line of standard input is a number of records that are
/// there by now, and is answered with the seconds from the first to the last of them and the CPU seconds
/// of the whole pass. Ends with its input.
///
/// # Errors
/// Kafka's.
pub fn run(brokers: &str, topic: &str, parse: bool) -> anyhow::Result<()> {
    let config = IngestConfig::new(brokers, "ceiling", Vec::new());
    let mut passes = Passes::new(&config, topic)?;
    let mut out = std::io::stdout();
    writeln!(out, "ready")?;
    out.flush()?;
    for line in std::io::stdin().lines() {
        let count: u64 = line?.trim().parse()?;
        let before = Usage::mine();
        let (mut first, mut touched) = (None, 0u64);
        passes.pass(count, |r| {
            first.get_or_insert_with(Instant::now);
            touched += touch(r.value.unwrap_or_default(), parse);
        })?;
        let seconds = first.map_or(0.0, |at| at.elapsed().as_secs_f64());
        let cpu = Usage::mine().cpu.saturating_sub(before.cpu);
        writeln!(out, "{seconds} {} {touched}", cpu.as_secs_f64())?;
        out.flush()?;
    }
    Ok(())
}

/// Reads every cache line of the payload, and its fields.
fn touch(value: &[u8], parse: bool) -> u64 {
    let bytes = value.iter().step_by(64).map(|b| u64::from(*b)).sum::<u64>();
    let fields = std::str::from_utf8(value)
        .ok()
        .filter(|_| parse)
        .and_then(|text| serde_json::from_str::<Event<'_>>(text).ok());
    bytes + fields.map_or(0, |e| e.usage.input)
}
