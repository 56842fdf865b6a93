//! `veilwatch quality --anomaly DIR`: the spend and latency recipes over real traces.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use crate::bench::anomaly::{self, Row};

/// Prints a row as it is measured; status 1 if `strict` and a row misses what is expected.
///
/// # Errors
/// The traces cannot be read, or the output cannot be written.
pub fn run(dir: &Path, seeds: u64, json: bool, strict: bool) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    let mut missed = false;
    let mut written = Ok(());
    let result = anomaly::run(dir, anomaly::SEED, seeds, |row| {
        missed |= row.ok == Some(false);
        if written.is_ok() {
            written = if json {
                serde_json::to_string(&row)
                    .map_err(std::io::Error::from)
                    .and_then(|line| writeln!(out, "{line}"))
            } else {
                writeln!(out, "{}", line(&row))
            };
        }
    });
    result.map_err(anyhow::Error::msg)?;
    written?;
    Ok(if strict && missed {
        ExitCode::from(super::EXIT_FINDINGS)
    } else {
        ExitCode::SUCCESS
    })
}

fn line(r: &Row) -> String {
    let mark = match r.ok {
        Some(true) => "ok",
        Some(false) => "MISSED",
        None => "",
    };
    let measured = match (r.false_alarms, r.recall) {
        (Some(rate), _) => format!("{rate:6.2} false alarms"),
        (_, Some(recall)) => format!("{recall:6.2} found"),
        _ => String::new(),
    };
    let delay = r
        .delay_min
        .map_or(String::new(), |d| format!("in {d:.0} min"));
    let expected = r.expected.map_or(String::new(), |e| format!("{e:.2}"));
    let worst = r.worst.map_or(String::new(), |w| format!("worst {w:.2}"));
    format!(
        "{:<8} {:<40} {:>7.1} {measured:<20} {delay:<12} {worst:<11} {expected:>6} {mark}",
        r.section, r.what, r.n
    )
}
