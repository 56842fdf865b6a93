//! What a publisher did that cannot be right. One event is enough, and each is a finding of its own: however
//! batches are cut and whoever restarts, they are the same. The incident of the gateway folds them.

use super::{DetectConfig, DetectorId, Finding, finding_id};
use crate::event::{Event, Severity, SmolStr, Stage, Time};

/// It is over when nothing was seen for this long, milliseconds.
const RESOLVE_AFTER_MS: i64 = 24 * 3_600_000;

/// What was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wrong {
    /// An older pseudonym was not believed.
    Alias,
    /// Two events stand at one place of a sequence.
    Sequence,
}

impl Wrong {
    fn rule(self) -> &'static str {
        match self {
            Self::Alias => "audit-alias-refused",
            Self::Sequence => "audit-conflicting-sequence",
        }
    }

    fn stage(self) -> Stage {
        match self {
            Self::Alias => Stage::Ticket,
            Self::Sequence => Stage::Page,
        }
    }

    fn reason(self, gateway: &str) -> String {
        match self {
            Self::Alias => format!(
                "gateway {gateway} named an older pseudonym of a user who has a history already, or one under the same key: it was not believed, and usage stays with the newer one"
            ),
            Self::Sequence => format!(
                "two different events of gateway {gateway} bear one sequence number: both count; its numbering is broken, or somebody publishes in its name"
            ),
        }
    }
}

impl Wrong {
    /// The finding about an event.
    pub(super) fn finding(self, config: &DetectConfig, event: &Event, end: Time) -> Finding {
        let gateway = &event.gateway;
        let (rule, subject) = (self.rule(), smol_str::format_smolstr!("gateway:{gateway}"));
        Finding {
            id: finding_id(DetectorId::Audit, rule, 1, &subject, event.id.as_bytes()),
            detector: DetectorId::Audit,
            rule: SmolStr::new_static(rule),
            version: 1,
            severity: Severity::High,
            stage: config.stage(DetectorId::Audit, self.stage()),
            tenant: SmolStr::default(),
            subject,
            at: end,
            start: end,
            end,
            user: None,
            model: None,
            gateway: Some(gateway.clone()),
            event: Some(event.id.clone()),
            reason: self.reason(gateway),
            resolve_after_ms: RESOLVE_AFTER_MS,
        }
    }
}
