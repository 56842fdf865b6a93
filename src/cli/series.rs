//! `veilwatch series`: Score a time series for anomalies.
//!
//! Without `--keyed` a CSV `timestamp,value` goes through [`crate::detect::series`]. With it, a CSV
//! `timestamp,key,value` in time order goes through the spend detector ([`keyed`]), and one `*` line a
//! bin carries co-elevation across keys. A row's score uses no later row.

mod keyed;
mod row;

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use super::format::{FailOn, Format, is_json};
use super::lines::{self, Lines, Refused};
use crate::detect::series::Series;

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

/// A line of the output.
#[derive(Serialize)]
struct Line<'a> {
    timestamp: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    score: f64,
    alarm: bool,
}

struct Out<W: Write> {
    to: W,
    json: bool,
    bad: bool,
    alarms: u64,
}

impl<W: Write> Out<W> {
    fn row(&mut self, line: &Line<'_>) -> anyhow::Result<()> {
        self.alarms += u64::from(line.alarm);
        if self.json {
            serde_json::to_writer(&mut self.to, line)?;
            self.to.write_all(b"\n")?;
        } else {
            let key = line.key.unwrap_or("");
            let mark = if line.alarm { "ALARM" } else { "" };
            writeln!(
                self.to,
                "{:<24} {key:<32} {:.3} {mark}",
                line.timestamp, line.score
            )?;
        }
        Ok(())
    }
    fn bad(&mut self, line: u64, error: &str) -> anyhow::Result<()> {
        self.bad = true;
        Refused { line, error }.write(&mut self.to, self.json)?;
        Ok(())
    }
}

/// The data lines of a file.
struct Rows<R> {
    lines: Lines<R>,
    keyed: bool,
}

impl<R: BufRead> Rows<R> {
    /// Reads the header.
    fn new(mut lines: Lines<R>, keyed: bool) -> anyhow::Result<Self> {
        let expected = row::columns(keyed).join(",");
        let Some((_, header)) = lines.next_line()? else {
            anyhow::bail!("the file is empty; its first line must be `{expected}`");
        };
        // In another encoding no line can be read: that is an unreadable file, not a bad line.
        let header = header.map_err(|e| anyhow::anyhow!("the header is {e}"))?;
        if row::is_header(header, keyed) {
            return Ok(Self { lines, keyed });
        }
        if row::is_header(header, !keyed) {
            let how = if keyed { "without" } else { "with" };
            anyhow::bail!("the header is not `{expected}`; run it {how} --keyed");
        }
        anyhow::bail!("the header is not `{expected}`; write it as the first line");
    }

    /// The next data line, or its number and what is wrong with it. None at the end.
    fn next_row(&mut self) -> std::io::Result<Option<Result<row::Row, (u64, String)>>> {
        let keyed = self.keyed;
        let Some((number, line)) = self.lines.next_line()? else {
            return Ok(None);
        };
        Ok(Some(match line {
            Ok(line) => row::parse(number, line, keyed).map_err(|e| (number, e.to_owned())),
            Err(e) => Err((number, e.to_string())),
        }))
    }
}

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let input = lines::open(&args.file)?.bounded(row::MAX_LINE);
    let mut out = Out {
        to: std::io::BufWriter::new(std::io::stdout().lock()),
        json: is_json(args.format),
        bad: false,
        alarms: 0,
    };
    score(input, args.keyed, &mut out)?;
    out.to.flush()?;
    if out.bad || (args.fail_on.is_some() && out.alarms > 0) {
        return Ok(ExitCode::from(super::EXIT_FINDINGS));
    }
    Ok(ExitCode::SUCCESS)
}

/// Scores a CSV of any bytes into JSON lines; whether a line was bad.
///
/// # Errors
/// Cannot be read or written, or the header is not one.
pub fn score_json(input: impl BufRead, keyed: bool, to: impl Write) -> anyhow::Result<bool> {
    let mut out = Out {
        to,
        json: true,
        bad: false,
        alarms: 0,
    };
    score(Lines::new(input).bounded(row::MAX_LINE), keyed, &mut out)?;
    Ok(out.bad)
}

fn score(lines: Lines<impl BufRead>, keyed: bool, out: &mut Out<impl Write>) -> anyhow::Result<()> {
    let mut rows = Rows::new(lines, keyed)?;
    if keyed {
        return keyed::score(rows, out);
    }
    let mut series = Series::default();
    while let Some(row) = rows.next_row()? {
        let row = match row {
            Ok(row) => row,
            Err((line, error)) => {
                out.bad(line, &error)?;
                continue;
            }
        };
        let hour = row.time.0.div_euclid(3_600_000).rem_euclid(24);
        let scored = series.push(usize::try_from(hour).unwrap_or(0), row.value);
        out.row(&Line {
            timestamp: &row.timestamp,
            key: None,
            score: scored.score,
            alarm: scored.alarm,
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str, keyed: bool) -> (Vec<serde_json::Value>, bool) {
        let mut out = Vec::new();
        let bad = score_json(text.as_bytes(), keyed, &mut out).expect("score");
        let lines = String::from_utf8(out).expect("utf-8");
        let rows = lines
            .lines()
            .map(|l| serde_json::from_str(l).expect("json"))
            .collect();
        (rows, bad)
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

    #[test]
    fn a_stray_quote_costs_its_own_line_only() {
        let mut csv = String::from("timestamp,value\n");
        for i in 0..99 {
            csv += &if i == 1 {
                "\"2,1\n".to_owned()
            } else {
                format!("{i},1\n")
            };
        }
        let (rows, bad) = run(&csv, false);
        assert!(bad);
        assert_eq!(rows.len(), 99, "one line a data line");
        assert_eq!(rows[1]["line"], 3);
        assert_eq!(rows[98]["timestamp"], "98");
    }

    #[test]
    fn a_line_without_end_is_passed_over() {
        let csv = format!("timestamp,value\n1,2\n{}\n2,3\n", "9".repeat(1 << 20));
        let (rows, bad) = run(&csv, false);
        assert!(bad);
        assert_eq!(rows.len(), 3);
        assert_eq!(rows[1]["error"], "line is longer than 64 KiB; split it");
    }

    #[test]
    fn the_key_of_all_keys_is_refused() {
        let (rows, bad) = run("timestamp,key,value\n0,*,1\n0,a,1\n600,a,1\n", true);
        assert!(bad);
        assert_eq!(rows[0]["line"], 2);
        let all = rows.iter().filter(|r| r["key"] == "*").count();
        assert_eq!(all, 2, "one a bin");
    }

    /// Keys spend around a hundred in each bin of a minute, key 3 twenty times as much for an hour.
    fn minutes(keys: u32, minutes: i64) -> String {
        use std::fmt::Write as _;
        let mut csv = String::from("timestamp,key,value\n");
        for at in 0..minutes {
            for key in 0..keys {
                let h = blake3::hash(format!("{key} {at}").as_bytes());
                let noise = 0.7 + 0.6 * f64::from(h.as_bytes()[0]) / 255.0;
                let burst = if key == 3 && at >= minutes - 60 {
                    20.0
                } else {
                    0.0
                };
                let _ = writeln!(csv, "{},k{key},{:.3}", at * 60, 100.0 * (noise + burst));
            }
        }
        csv
    }

    #[test]
    fn one_line_of_all_keys_a_bin_whatever_the_bin() {
        // Ten days of minutes are the detector's ten days; each minute has its line.
        let (rows, bad) = run(&minutes(5, 10 * 1_440), true);
        assert!(!bad);
        assert_eq!(rows.len(), 10 * 1_440 * 6);
        let alarms: Vec<_> = rows
            .iter()
            .filter(|r| r["alarm"] == true && r["key"] != "*")
            .map(|r| {
                (
                    r["key"].as_str().expect("key"),
                    r["timestamp"].as_str().expect("t"),
                )
            })
            .collect();
        let from = (10 * 1_440 - 60) * 60;
        assert!(
            matches!(alarms.as_slice(), [("k3", at)] if (from..from + 2_400).contains(&at.parse().expect("n"))),
            "{alarms:?}"
        );
        // Two times within one bin (the bin is the step of the first thousand rows) share a line.
        let mut csv = String::from("timestamp,key,value\n");
        for i in 0..1_000 {
            csv += &format!("{},a,1\n", i * 600);
        }
        csv += "600000,a,1\n600300,a,1\n600600,a,1\n";
        let (rows, _) = run(&csv, true);
        assert_eq!(rows.len(), 1_000 + 3 + 1_000 + 2);
    }

    #[test]
    fn the_bin_is_found_beyond_a_thousand_rows_of_one_time() {
        // A minute has more keys than are buffered: the second time tells the bin.
        let (rows, bad) = run(&minutes(1_200, 3), true);
        assert!(!bad);
        let all: Vec<_> = rows.iter().filter(|r| r["key"] == "*").collect();
        assert_eq!(all.len(), 3);
        assert_eq!(rows.len(), 3 * 1_201);
        let (rows, _) = run("timestamp,key,value\n5,a,1\n5,b,1\n", true);
        assert_eq!(rows.len(), 3, "one time is one bin");
    }

    #[test]
    fn the_header_says_what_to_do() {
        let said = |text: &str, keyed| {
            let mut out = Out {
                to: Vec::new(),
                json: true,
                bad: false,
                alarms: 0,
            };
            let e = score(Lines::new(text.as_bytes()), keyed, &mut out).expect_err("refused");
            e.to_string()
        };
        assert!(said("", false).contains("empty"));
        assert!(said("timestamp,key,value\n", false).contains("with --keyed"));
        assert!(said("timestamp,value\n", true).contains("without --keyed"));
        assert!(said("a,b\n", false).contains("first line"));
        assert!(said("t\0i\0m\0e\0s\0t\0a\0m\0p\0,\0", false).contains("iconv"));
    }
}
