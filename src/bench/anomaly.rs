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

/// The first seed; further ones follow it.
pub const SEED: u64 = 20_261_121;

/// Between two seeds, so that no draw of one is a draw of the next.
const SEED_STEP: u64 = 1_000_003;

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
    /// Of several seeds the least recall, or the most false alarms.
    pub worst: Option<f64>,
    /// What is expected: recall at least, or false alarms at most.
    pub expected: Option<f64>,
    /// Whether it is reached.
    pub ok: Option<bool>,
    /// Minutes of every episode that was found, and how many alarms there were in clean traffic.
    #[serde(skip)]
    raw: (Vec<f64>, usize),
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
            delay_min: median(&delays),
            false_alarms: None,
            worst: None,
            expected,
            ok: expected.map(|e| recall >= e),
            raw: (delays, 0),
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
            worst: None,
            expected: Some(most),
            ok: Some(rate <= most),
            raw: (Vec::new(), alarms),
        }
    }

    /// What must not fire at all.
    fn never(section: &'static str, what: &'static str, n: usize, delays: Vec<f64>) -> Self {
        let mut row = Self::found(section, what, n, delays, Some(0.0));
        row.ok = Some(row.recall == Some(0.0));
        row
    }

    /// The same row of several seeds as one.
    fn pooled(rows: Vec<Self>) -> Option<Self> {
        let mut rows = rows.into_iter();
        let mut all = rows.next()?;
        let never = all.recall.is_some() && all.expected == Some(0.0);
        let measured = |r: &Self| r.false_alarms.or(r.recall).unwrap_or(0.0);
        // Of false alarms and of what must not fire the most is the worst.
        let most = never || all.false_alarms.is_some();
        let mut worst = measured(&all);
        let several = rows.len() > 0;
        for r in rows {
            let m = measured(&r);
            worst = if most { worst.max(m) } else { worst.min(m) };
            all.n += r.n;
            all.raw.0.extend(r.raw.0);
            all.raw.1 += r.raw.1;
        }
        let (section, what, n, expected) = (all.section, all.what, all.n, all.expected);
        let (delays, alarms) = all.raw;
        let mut row = if all.false_alarms.is_some() {
            Self::clean(section, n, alarms, expected.unwrap_or(0.0))
        } else if never {
            Self::never(section, what, index(n), delays)
        } else {
            Self::found(section, what, index(n), delays, expected)
        };
        row.worst = several.then_some(worst);
        Some(row)
    }
}

/// Runs all recipes over the traces in `dir`, with so many seeds from `seed` on, and pools them.
///
/// # Errors
/// A file that is missing or not as expected, by name.
pub fn run(dir: &Path, seed: u64, seeds: u64, mut each: impl FnMut(Row)) -> Result<(), String> {
    for recipe in [spend::run, latency::run] {
        let mut rows: Vec<Vec<Row>> = Vec::new();
        for n in 0..seeds.max(1) {
            for (i, row) in recipe(dir, seed.wrapping_add(n * SEED_STEP))?
                .into_iter()
                .enumerate()
            {
                if rows.len() <= i {
                    rows.push(Vec::new());
                }
                rows[i].push(row);
            }
        }
        rows.into_iter().filter_map(Row::pooled).for_each(&mut each);
    }
    Ok(())
}

fn median(values: &[f64]) -> Option<f64> {
    let mut values = values.to_vec();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_pooled_and_the_worst_is_kept() {
        let found = |delays: &[f64]| Row::found("spend", "burst", 4, delays.to_vec(), Some(0.5));
        let row = Row::pooled(vec![found(&[10.0]), found(&[20.0, 30.0, 40.0])]).expect("row");
        assert_eq!((row.recall, row.worst), (Some(0.5), Some(0.25)));
        assert_eq!((row.delay_min, row.ok), (Some(30.0), Some(true)));
        let clean = |alarms| Row::clean("spend", 2.0, alarms, 1.0);
        let row = Row::pooled(vec![clean(1), clean(4)]).expect("row");
        assert_eq!((row.false_alarms, row.worst), (Some(1.25), Some(2.0)));
        assert_eq!(row.ok, Some(false));
        let never = |delays: &[f64]| Row::never("latency", "answers", 2, delays.to_vec());
        let row = Row::pooled(vec![never(&[]), never(&[5.0])]).expect("row");
        assert_eq!((row.worst, row.ok), (Some(0.5), Some(false)));
        assert_eq!(Row::pooled(vec![never(&[])]).expect("row").worst, None);
    }
}
