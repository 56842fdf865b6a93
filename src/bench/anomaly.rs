//! The anomaly recipes: attacks and faults put into real traffic, through the product's own detectors.
//!
//! [`spend`] takes the ServeGen traces (requests per client and ten minutes over fourteen days),
//! [`latency`] real time-to-first-token noise of live providers over a real daily curve. The first
//! week (or day) is for learning; false alarms are counted on what is left clean. Thresholds are the
//! product's defaults, nothing is fitted here. Random draws are seeded: two runs say the same.

mod latency;
mod spend;

use std::io::Read as _;
use std::path::Path;

use serde::Serialize;

/// Seed of every draw.
const SEED: u64 = 20_261_121;

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// `spend`, `crowd` or `latency`.
    pub section: &'static str,
    /// What was put in, or `clean`.
    pub what: &'static str,
    /// Episodes, or months and weeks of clean traffic.
    pub n: f64,
    /// Share found while it lasted; for confounders the share that fired wrongly.
    pub recall: Option<f64>,
    /// Median minutes from its beginning to the finding, of those found.
    pub delay_min: Option<f64>,
    /// False alarms per user-month (spend) or model-week (latency).
    pub false_alarms: Option<f64>,
    /// What is expected: recall at least, or false alarms at most.
    pub expected: Option<f64>,
    /// Whether it is reached.
    pub ok: Option<bool>,
}

impl Row {
    /// Episodes of which `delays` were found, after so many minutes.
    fn found(
        section: &'static str,
        what: &'static str,
        n: usize,
        delays: Vec<f64>,
        expected: Option<f64>,
    ) -> Self {
        let recall = delays.len() as f64 / n.max(1) as f64;
        Self {
            section,
            what,
            n: n as f64,
            recall: Some(recall),
            delay_min: median(delays),
            false_alarms: None,
            expected,
            ok: expected.map(|e| recall >= e),
        }
    }
    /// Alarms in clean traffic.
    fn clean(section: &'static str, span: f64, alarms: usize, most: f64) -> Self {
        let rate = alarms as f64 / span.max(f64::MIN_POSITIVE);
        Self {
            section,
            what: "clean",
            n: span,
            recall: None,
            delay_min: None,
            false_alarms: Some(rate),
            expected: Some(most),
            ok: Some(rate <= most),
        }
    }
}

/// Runs all recipes over the traces in `dir`.
///
/// # Errors
/// A file that is missing or not as expected, by name.
pub fn run(dir: &Path, mut each: impl FnMut(Row)) -> Result<(), String> {
    spend::run(dir, &mut each)?;
    latency::run(dir, &mut each)
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// The records of a packed CSV of `dir`, without its header.
fn records(dir: &Path, name: &str) -> Result<Vec<csv::StringRecord>, String> {
    let path = dir.join(name);
    let packed = std::fs::File::open(&path).map_err(|e| {
        format!(
            "cannot read {}: {e}; name the folder of the traces",
            path.display()
        )
    })?;
    let mut text = String::new();
    flate2::read::GzDecoder::new(packed)
        .read_to_string(&mut text)
        .map_err(|e| format!("{} is not packed text: {e}", path.display()))?;
    csv::Reader::from_reader(text.as_bytes())
        .records()
        .collect::<Result<_, _>>()
        .map_err(|e| format!("{} is not CSV: {e}", path.display()))
}

fn field(record: &csv::StringRecord, at: usize) -> f64 {
    record.get(at).and_then(|f| f.parse().ok()).unwrap_or(0.0)
}

/// A whole number of at least 0 as an index.
fn index(v: f64) -> usize {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped; a float's cast saturates"
    )]
    let i = v.max(0.0) as usize;
    i
}

/// A draw from the normal distribution.
fn normal(rng: &mut fastrand::Rng) -> f64 {
    let (a, b) = (rng.f64().max(f64::MIN_POSITIVE), rng.f64());
    (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
}

fn between(rng: &mut fastrand::Rng, low: f64, high: f64) -> f64 {
    low + (high - low) * rng.f64()
}
