//! `veilwatch series`: Score a time series for anomalies.
//!
//! Without `--keyed` a CSV `timestamp,value` goes through [`crate::detect::series`]. With it, a CSV
//! `timestamp,key,value` in time order goes through the spend detector, and one `*` line a bin
//! carries co-elevation across keys. A row's score uses no later row.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use serde::Serialize;

use super::format::{Format, is_json};
use crate::detect::part::Elevation;
use crate::detect::series::Series;
use crate::detect::spend::{Baseline, CoElevation, Pace};
use crate::event::{SmolStr, Time};

/// Rows from which the bin is taken.
const BUFFERED: usize = 1_000;
/// Shortest bin of the spend detector, milliseconds; finer rows are judged inside it.
const LEAST_BIN_MS: i64 = 600_000;
/// Bins between two alarms of one key: six hours of ten minutes.
const AGAIN: i64 = 36;
/// Keys kept; beyond it a new key is scored zero and counted on stderr.
const MAX_KEYS: usize = 1_000_000;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// CSV with the header `timestamp,value`; `-` for standard input.
    file: PathBuf,
    /// The header is `timestamp,key,value`: spending per key and bin, in time order.
    #[arg(long)]
    keyed: bool,
    /// Output format; the default is text on a terminal and JSON lines elsewhere.
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// What ends with status 1.
    #[arg(long, value_enum)]
    fail_on: Option<FailOn>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum FailOn {
    /// Any alarm.
    Finding,
}

#[derive(Serialize)]
struct Row<'a> {
    timestamp: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    score: f64,
    alarm: bool,
}

#[derive(Serialize)]
struct Bad {
    line: u64,
    error: &'static str,
}

struct Out<W: Write> {
    to: W,
    json: bool,
    bad: bool,
    alarms: u64,
}

impl<W: Write> Out<W> {
    fn row(&mut self, row: &Row<'_>) -> anyhow::Result<()> {
        self.alarms += u64::from(row.alarm);
        if self.json {
            serde_json::to_writer(&mut self.to, row)?;
            self.to.write_all(b"\n")?;
        } else {
            let key = row.key.unwrap_or("");
            let mark = if row.alarm { "ALARM" } else { "" };
            writeln!(
                self.to,
                "{:<24} {key:<32} {:.3} {mark}",
                row.timestamp, row.score
            )?;
        }
        Ok(())
    }
    fn bad(&mut self, line: u64, error: &'static str) -> anyhow::Result<()> {
        self.bad = true;
        if self.json {
            serde_json::to_writer(&mut self.to, &Bad { line, error })?;
            self.to.write_all(b"\n")?;
        } else {
            writeln!(self.to, "line {line}: {error}")?;
        }
        Ok(())
    }
}

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let from: Box<dyn Read> = if args.file == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        let file = std::fs::File::open(&args.file).with_context(|| {
            format!(
                "cannot read {}; name a readable file or `-`",
                args.file.display()
            )
        })?;
        Box::new(file)
    };
    let mut out = Out {
        to: std::io::BufWriter::new(std::io::stdout().lock()),
        json: is_json(args.format),
        bad: false,
        alarms: 0,
    };
    score(from, args.keyed, &mut out)?;
    out.to.flush()?;
    if out.bad || (args.fail_on.is_some() && out.alarms > 0) {
        return Ok(ExitCode::from(super::EXIT_FINDINGS));
    }
    Ok(ExitCode::SUCCESS)
}

/// Scores a CSV of any reader as JSON lines; true if a line of it was bad.
///
/// # Errors
/// The header is not the expected one, or `to` cannot be written.
pub fn score_csv(from: impl Read, keyed: bool, to: impl Write) -> anyhow::Result<bool> {
    let mut out = Out {
        to,
        json: true,
        bad: false,
        alarms: 0,
    };
    score(from, keyed, &mut out)?;
    Ok(out.bad)
}

fn score(from: impl Read, keyed: bool, out: &mut Out<impl Write>) -> anyhow::Result<()> {
    let mut csv = csv::ReaderBuilder::new()
        .flexible(true)
        .trim(csv::Trim::All)
        .from_reader(from);
    let header = csv.headers().context("cannot read the header")?;
    let expected: &[&str] = if keyed {
        &["timestamp", "key", "value"]
    } else {
        &["timestamp", "value"]
    };
    if !header.iter().eq(expected.iter().copied()) {
        anyhow::bail!(
            "the header is not `{}`; write it as the first line",
            expected.join(",")
        );
    }
    if keyed {
        return score_keyed(csv, out);
    }
    let mut series = Series::default();
    for record in csv.records() {
        let row = match record
            .map_err(|e| bad_line(&e))
            .and_then(|r| parse(&r, false))
        {
            Ok(row) => row,
            Err((line, error)) => {
                out.bad(line, error)?;
                continue;
            }
        };
        let hour = row.time.0.div_euclid(3_600_000).rem_euclid(24);
        let scored = series.push(usize::try_from(hour).unwrap_or(0), row.value);
        out.row(&Row {
            timestamp: &row.timestamp,
            key: None,
            score: scored.score,
            alarm: scored.alarm,
        })?;
    }
    Ok(())
}

#[derive(Debug, Clone)]
struct Parsed {
    line: u64,
    timestamp: String,
    time: Time,
    key: SmolStr,
    value: f64,
}

fn bad_line(e: &csv::Error) -> (u64, &'static str) {
    (
        e.position().map_or(0, csv::Position::line),
        "not a CSV line in UTF-8",
    )
}

fn parse(record: &csv::StringRecord, keyed: bool) -> Result<Parsed, (u64, &'static str)> {
    let line = record.position().map_or(0, csv::Position::line);
    let fields = if keyed { 3 } else { 2 };
    if record.len() != fields {
        let error = if keyed {
            "three fields are expected: timestamp,key,value"
        } else {
            "two fields are expected: timestamp,value"
        };
        return Err((line, error));
    }
    let timestamp = record[0].to_owned();
    let time = time_of(&timestamp).ok_or((
        line,
        "timestamp is not RFC 3339, `YYYY-MM-DD HH:MM:SS` or integer seconds",
    ))?;
    let value: f64 = record[fields - 1]
        .parse()
        .ok()
        .filter(|v: &f64| v.is_finite())
        .ok_or((line, "value is not a finite number"))?;
    Ok(Parsed {
        line,
        timestamp,
        time,
        key: SmolStr::new(if keyed { &record[1] } else { "" }),
        value,
    })
}

fn time_of(s: &str) -> Option<Time> {
    if let Ok(seconds) = s.parse::<i64>() {
        return seconds.checked_mul(1_000).map(Time);
    }
    Time::parse_rfc3339(s).or_else(|| {
        let (day, clock) = s.split_once(' ')?;
        Time::parse_rfc3339(&format!("{day}T{clock}Z"))
    })
}

/// Everything about the keyed series.
struct Keyed {
    pace: Pace,
    keys: BTreeMap<SmolStr, Baseline>,
    fleet: CoElevation,
    now: Option<(Time, String)>,
    /// Score of the latest whole bin, for rows finer than a bin.
    fleet_score: f64,
    overflow: u64,
}

fn score_keyed(mut csv: csv::Reader<impl Read>, out: &mut Out<impl Write>) -> anyhow::Result<()> {
    let mut rows = csv
        .records()
        .map(|r| r.map_err(|e| bad_line(&e)).and_then(|r| parse(&r, true)));
    let first: Vec<_> = rows.by_ref().take(BUFFERED).collect();
    let mut times: Vec<i64> = first.iter().flatten().map(|r| r.time.0).collect();
    times.sort_unstable();
    times.dedup();
    let bin_ms = times
        .windows(2)
        .map(|w| w[1] - w[0])
        .min()
        .unwrap_or(LEAST_BIN_MS)
        .max(LEAST_BIN_MS);
    let mut keyed = Keyed {
        pace: Pace {
            bin_ms,
            floor: 0.0,
            threshold: 1.0,
            again: AGAIN,
        },
        keys: BTreeMap::new(),
        fleet: CoElevation::default(),
        now: None,
        fleet_score: 0.0,
        overflow: 0,
    };
    for row in first.into_iter().chain(rows) {
        match row {
            Ok(row) => keyed.row(&row, out)?,
            Err((line, error)) => out.bad(line, error)?,
        }
    }
    keyed.close_bin(None, out)?;
    if keyed.overflow > 0 {
        eprintln!(
            "veilwatch: warning: {} rows of keys beyond the first {MAX_KEYS} were not scored",
            keyed.overflow
        );
    }
    Ok(())
}

impl Keyed {
    fn row(&mut self, row: &Parsed, out: &mut Out<impl Write>) -> anyhow::Result<()> {
        match &self.now {
            Some((now, _)) if row.time < *now => {
                return out.bad(row.line, "out of time order; sort the file by timestamp");
            }
            Some((now, _)) if row.time > *now => self.close_bin(Some(row.time), out)?,
            _ => {}
        }
        self.now = Some((row.time, row.timestamp.clone()));
        let (mut score, mut alarm) = (0.0, false);
        if self.keys.len() < MAX_KEYS || self.keys.contains_key(&row.key) {
            let baseline = self.keys.entry(row.key.clone()).or_default();
            #[expect(
                clippy::cast_possible_truncation,
                reason = "a baseline needs seven digits"
            )]
            let step = baseline.add_at(row.time, row.value.max(0.0) as f32, &self.pace);
            alarm = step.alarm.is_some();
            score = squash(f64::from(baseline.score(&self.pace)));
        } else {
            self.overflow += 1;
        }
        out.row(&Row {
            timestamp: &row.timestamp,
            key: Some(&row.key),
            score,
            alarm,
        })
    }

    /// After the last row of a timestamp. Where that ends a bin, every key's bin closes (absent ones
    /// spent nothing) and the crowd is judged; rows finer than a bin repeat the latest score.
    fn close_bin(&mut self, next: Option<Time>, out: &mut Out<impl Write>) -> anyhow::Result<()> {
        let Some((now, timestamp)) = self.now.take() else {
            return Ok(());
        };
        let bin = now.0.div_euclid(self.pace.bin_ms);
        let mut alarm = false;
        if next.is_none_or(|n| n.0.div_euclid(self.pace.bin_ms) > bin) {
            let mut sums = Elevation::default();
            for k in self.keys.values_mut() {
                if let Some(raise) = k.advance(bin + 1, &self.pace) {
                    raise.add_to(&mut sums);
                }
            }
            let crowd = self.fleet.bin(bin, sums, AGAIN);
            (self.fleet_score, alarm) = (crowd.score, crowd.alarm);
        }
        out.row(&Row {
            timestamp: &timestamp,
            key: Some("*"),
            score: squash(self.fleet_score),
            alarm,
        })
    }
}

/// From 0 to 1, with the threshold at one half.
fn squash(score: f64) -> f64 {
    let s = score.max(0.0);
    if s.is_finite() { s / (s + 1.0) } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str, keyed: bool) -> (Vec<serde_json::Value>, bool) {
        let mut out = Out {
            to: Vec::new(),
            json: true,
            bad: false,
            alarms: 0,
        };
        score(text.as_bytes(), keyed, &mut out).expect("score");
        let lines = String::from_utf8(out.to).expect("utf-8");
        let rows = lines
            .lines()
            .map(|l| serde_json::from_str(l).expect("json"))
            .collect();
        (rows, out.bad)
    }

    #[test]
    fn echoes_timestamps_and_reports_bad_lines() {
        let (rows, bad) = run(
            "timestamp,value\n2014-04-01 00:00:00,1\n1700000000,2\nyesterday,3\n2026-11-21T07:00:00Z,x\n",
            false,
        );
        assert!(bad);
        assert_eq!(rows[0]["timestamp"], "2014-04-01 00:00:00");
        assert_eq!(rows[1]["timestamp"], "1700000000");
        assert_eq!(rows[2]["line"], 4);
        assert_eq!(rows[3]["line"], 5);
    }

    #[test]
    fn a_burst_of_one_key_and_a_rise_of_all_are_seen() {
        use std::fmt::Write as _;
        let mut csv = String::from("timestamp,key,value\n");
        for bin in 0..1_600i64 {
            for key in 0..40u8 {
                let h = blake3::hash(&[key, bin.to_le_bytes()[0], bin.to_le_bytes()[1]]);
                let noise = 0.7 + 0.6 * f64::from(h.as_bytes()[0]) / 255.0;
                let burst = if key == 3 && (1_400..1_406).contains(&bin) {
                    20.0
                } else {
                    0.0
                };
                let all = if (1_500..1_540).contains(&bin) {
                    1.5
                } else {
                    1.0
                };
                let _ = writeln!(
                    csv,
                    "{},k{key},{:.3}",
                    bin * 600,
                    100.0 * (noise * all + burst)
                );
            }
        }
        let (rows, bad) = run(&csv, true);
        assert!(!bad);
        assert_eq!(rows.len(), 1_600 * 41);
        let alarms: Vec<(i64, &str)> = rows
            .iter()
            .filter(|r| r["alarm"] == true)
            .map(|r| {
                let bin: i64 = r["timestamp"].as_str().expect("t").parse().expect("n");
                (bin / 600, r["key"].as_str().expect("key"))
            })
            .collect();
        let (crowd, before): (Vec<_>, Vec<_>) = alarms
            .iter()
            .filter(|(b, _)| *b < 1_500)
            .partition(|(_, k)| *k == "*");
        assert!(crowd.len() <= 4, "by chance, in ten days: {crowd:?}");
        assert!(
            matches!(before.as_slice(), [(1_400..1_402, "k3")]),
            "{before:?}"
        );
        assert!(
            alarms
                .iter()
                .any(|(b, k)| *k == "*" && (1_500..1_505).contains(b)),
            "{alarms:?}"
        );
    }
}
