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
    finding("audit-gap", tp, gap.lo, reason, now)
}

/// A partition cannot go on without an operator.
pub(super) fn halt(tp: &TopicPartition, offset: i64, why: &str, now: Time) -> Finding {
    let reason = format!(
        "{} partition {} stopped at offset {offset} ({why}): see the runbook, then `veilwatch offsets skip`",
        tp.topic, tp.partition
    );
    finding("audit-halted", tp, offset, reason, now)
}

/// A partition has given nothing but dead letters for a long time.
pub(super) fn undecodable(tp: &TopicPartition, offset: i64, append: Time) -> Finding {
    let reason = format!(
        "{} partition {} gives nothing but dead letters up to offset {offset}: what was deployed there? `veilwatch dead-letters list --by-reason` says what is wrong with them",
        tp.topic, tp.partition
    );
    finding("audit-undecodable", tp, offset, reason, append)
}

fn finding(
    rule: &'static str,
    tp: &TopicPartition,
    offset: i64,
    reason: String,
    now: Time,
) -> Finding {
    let subject = smol_str::format_smolstr!("partition:{}/{}", tp.topic, tp.partition);
    Finding {
        id: finding_id(DetectorId::Audit, rule, 1, &subject, &offset.to_le_bytes()),
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
