//! What the pipeline itself has to say: gaps and halts as findings, counts as metrics.

use crate::detect::{Counters, DetectorId, Finding, finding_id};
use crate::event::{Severity, SmolStr, Stage, Time, TopicPartition};
use crate::ingest::Gap;
use crate::store::DeadLetterRow;
use crate::telemetry::metrics;

/// An incident about evidence resolves so long after its last finding.
const RESOLVE_AFTER_MS: i64 = 24 * 3_600_000;

/// Number of offsets in a gap.
pub(super) fn width(gap: &Gap) -> u64 {
    gap.hi.abs_diff(gap.lo)
}

/// Offsets are gone before anyone read them.
pub(super) fn gap(tp: &TopicPartition, gap: &Gap, now: Time) -> Finding {
    let reason = format!(
        "offsets {} to {} of {} partition {} were gone before they were read ({})",
        gap.lo, gap.hi, tp.topic, tp.partition, gap.reason
    );
    finding("audit-gap", tp, &gap.lo.to_le_bytes(), reason, now)
}

/// Why a partition may halt. Labels of a metric.
pub(super) const HALTS: [&str; 6] = [
    "oversize",
    "truncated",
    "corrupt",
    "panics",
    "unwritable",
    UNKNOWN,
];
/// Another version's reason.
const UNKNOWN: &str = "unknown";

/// A partition cannot go on without an operator: it stands at the first offset and stopped at the second.
/// A second halt at one place, under another claim, is told anew.
pub(super) fn halt(
    tp: &TopicPartition,
    (stands, offset): (i64, i64),
    why: &str,
    epoch: i64,
    now: Time,
) -> Finding {
    let (topic, part) = (&tp.topic, tp.partition);
    let skip = format!("veilwatch offsets skip --topic {topic} --partition {part} --from {stands}");
    let resume = format!("veilwatch offsets resume --topic {topic} --partition {part}");
    let todo = match why {
        "oversize" => format!(
            "the record there is larger than any client of ours fetches; find who published it, then `{skip} --to {}` goes on behind it",
            offset + 1
        ),
        "corrupt" => format!(
            "the batch there cannot be unpacked; `{skip} --to` the first offset behind it goes on"
        ),
        "truncated" => "the topic was cut or made anew; if that was meant, start `run` once with `ingest.accept_truncation = true`".to_owned(),
        "panics" => format!(
            "detectors fail on it, which is a fault of this program; with a version that mends it, `{resume}` loses nothing"
        ),
        "unwritable" => format!(
            "postgres refuses what its records give; the log says why (\"postgres refuses a batch\"); once that is mended, `{resume}` loses nothing"
        ),
        _ => format!("see the log; once it is mended, `{resume}` loses nothing"),
    };
    let reason = format!("{topic} partition {part} stopped at offset {offset} ({why}): {todo}");
    let place = [offset.to_le_bytes(), epoch.to_le_bytes()].concat();
    finding("audit-halted", tp, &place, reason, now)
}

/// Shows a partition as halted, or not, in this process's metrics.
pub(super) fn show_halted(tp: &TopicPartition, halted: Option<&str>) {
    let known = |why| HALTS.into_iter().find(|w| *w == why).unwrap_or(UNKNOWN);
    let halted = halted.map(known);
    let part = tp.partition.to_string();
    for why in HALTS {
        let labels = [tp.topic.as_str(), part.as_str(), why];
        if halted == Some(why) {
            metrics().halted.set(&labels, 1.0);
        } else {
            metrics().halted.remove(&labels);
        }
    }
}

/// A partition has given nothing but dead letters for a long time.
pub(super) fn undecodable(tp: &TopicPartition, offset: i64, append: Time) -> Finding {
    let reason = format!(
        "{} partition {} gives nothing but dead letters up to offset {offset}: what was deployed there? `veilwatch dead-letters list --by-reason` says what is wrong with them",
        tp.topic, tp.partition
    );
    finding(
        "audit-undecodable",
        tp,
        &offset.to_le_bytes(),
        reason,
        append,
    )
}

fn finding(
    rule: &'static str,
    tp: &TopicPartition,
    place: &[u8],
    reason: String,
    now: Time,
) -> Finding {
    let subject = smol_str::format_smolstr!("partition:{}/{}", tp.topic, tp.partition);
    Finding {
        id: finding_id(DetectorId::Audit, rule, 1, &subject, place),
        detector: DetectorId::Audit,
        rule: SmolStr::new_static(rule),
        version: 1,
        severity: Severity::Critical,
        stage: Stage::Page,
        tenant: SmolStr::default(),
        subject,
        at: now,
        start: now,
        end: now,
        user: None,
        model: None,
        gateway: None,
        event: None,
        reason,
        resolve_after_ms: RESOLVE_AFTER_MS,
    }
}

/// Adds a batch to the metrics.
pub(super) fn count(
    tp: &TopicPartition,
    c: &Counters,
    dead: &[DeadLetterRow],
    records: u32,
    bytes: u64,
) {
    let m = metrics();
    let topic = tp.topic.as_str();
    m.records.add(&[topic], u64::from(records));
    m.record_bytes.add(&[topic], bytes);
    m.events.add(&[topic], c.events);
    m.duplicates.add(&[topic], c.duplicates);
    m.late.add(&[topic], c.late);
    m.clamped.add(&[topic], c.clamped);
    m.log_drops.add(&["minute part entry"], c.part_overflow);
    m.log_drops.add(&["value"], c.value_overflow);
    m.log_drops.add(&["part of a text"], c.part_scanned);
    m.log_drops.add(&["informational hit"], c.informational);
    m.log_drops.add(&["echoed value"], c.echoed);
    m.log_drops
        .add(&["name of an unknown model"], c.unknown_models);
    m.log_drops.add(&["older pseudonym"], c.alias_refused);
    m.log_drops.add(&["subject of its own"], c.crowded);
    m.conflicts.add(&[topic], c.conflicts);
    for d in dead {
        m.dead_letters.inc(&[topic, &d.reason]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tp() -> TopicPartition {
        TopicPartition {
            topic: "t".into(),
            partition: 3,
        }
    }

    #[test]
    fn a_halt_says_what_to_do_about_its_reason() {
        for why in HALTS {
            let reason = halt(&tp(), (5, 9), why, 1, Time(0)).reason;
            assert!(reason.contains(&format!("({why})")), "{reason}");
            let skips = reason.contains("veilwatch offsets skip --topic t --partition 3 --from 5");
            let resumes = reason.contains("veilwatch offsets resume --topic t --partition 3");
            let accepts = reason.contains("accept_truncation");
            assert_eq!(
                [skips, resumes, accepts].into_iter().filter(|w| *w).count(),
                1,
                "{reason}"
            );
            assert_eq!(
                skips,
                ["oversize", "corrupt"].contains(&why),
                "good records are skipped: {reason}"
            );
        }
    }

    #[test]
    fn a_second_halt_at_one_place_is_told_anew() {
        let id = |offset, epoch| halt(&tp(), (5, offset), "panics", epoch, Time(0)).id;
        assert_ne!(id(9, 1), id(9, 2));
        assert_ne!(id(9, 1), id(8, 1));
        assert_eq!(id(9, 1), id(9, 1));
    }

    #[test]
    fn a_halted_partition_is_shown_with_one_reason_until_it_goes_on() {
        let shown = || {
            let text = metrics().exposition();
            let ours = text
                .lines()
                .filter(|l| l.starts_with("veilwatch_partition_halted{topic=\"shown\""));
            ours.map(str::to_owned).collect::<Vec<_>>()
        };
        let tp = TopicPartition {
            topic: "shown".into(),
            partition: 3,
        };
        show_halted(&tp, Some("corrupt"));
        show_halted(&tp, Some("a newer version's"));
        let line = r#"veilwatch_partition_halted{topic="shown",partition="3",reason="unknown"} 1"#;
        assert_eq!(shown(), [line]);
        show_halted(&tp, None);
        assert_eq!(shown(), Vec::<String>::new());
    }
}
