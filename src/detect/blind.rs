//! The finding about minutes that stay partial: a partition is left out of minute after minute, and
//! what needs all of the traffic is blind meanwhile. The leader's half in `store` notices it.

use super::{DetectorId, Finding, Stages, finding_id};
use crate::event::{Severity, SmolStr, Stage, Time, TopicPartition};

/// The rule's name.
pub const RULE: &str = "audit-partial";
/// An incident about evidence resolves so long after its last finding.
const RESOLVE_AFTER_MS: i64 = 24 * 3_600_000;

/// Minutes from `first` through `minute` were merged without the partition. `nth` tells the reminders
/// of one stretch apart.
pub fn finding(stages: &Stages, tp: &TopicPartition, first: i64, minute: i64, nth: u32) -> Finding {
    let subject = smol_str::format_smolstr!("partition:{}/{}", tp.topic, tp.partition);
    let mut window = first.to_le_bytes().to_vec();
    window.extend_from_slice(&nth.to_le_bytes());
    let end = Time::from_minute(minute + 1);
    Finding {
        id: finding_id(DetectorId::Audit, RULE, 1, &subject, &window),
        detector: DetectorId::Audit,
        rule: SmolStr::new_static(RULE),
        version: 1,
        severity: Severity::High,
        stage: stages.cap(DetectorId::Audit, Stage::Page),
        tenant: SmolStr::default(),
        subject,
        at: end,
        start: Time::from_minute(first),
        end,
        user: None,
        model: None,
        gateway: None,
        event: None,
        reason: format!(
            "{} minutes were judged without {} partition {}: it is halted or far behind, and missing \
             events, silent gateways, latency, errors, spending of all and leaks between users are not \
             seen meanwhile; see `veilwatch offsets show`",
            minute - first + 1,
            tp.topic,
            tp.partition
        ),
        resolve_after_ms: RESOLVE_AFTER_MS,
    }
}
