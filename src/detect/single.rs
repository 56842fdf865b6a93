//! A finding of one event: what every one of them takes from the event itself.

use super::partition::Subject;
use super::{DetectConfig, DetectorId, Finding, finding_id};
use crate::event::{Event, Severity, SmolStr, Stage, Time};

/// What the finding is about.
#[derive(Clone, Copy)]
pub(super) struct Single<'a> {
    pub(super) config: &'a DetectConfig,
    pub(super) event: &'a Event,
    pub(super) end: Time,
    pub(super) subject: &'a Subject<'a>,
}

/// What a detector says of it.
pub(super) struct Said {
    pub(super) detector: DetectorId,
    pub(super) rule: SmolStr,
    pub(super) version: u32,
    pub(super) severity: Severity,
    pub(super) stage: Stage,
    pub(super) reason: String,
    pub(super) resolve_after_ms: i64,
}

/// What an event is called: two gateways may use one id.
pub(super) fn named(gateway: &str, id: &str) -> Vec<u8> {
    [gateway.as_bytes(), &[0], id.as_bytes()].concat()
}

/// What an event is known by: two gateways may use one id, and so may two calls where it is the caller's.
pub(super) fn identity(event: &Event) -> Vec<u8> {
    let mut all = named(&event.gateway, &event.id);
    if let Some((boot, seq)) = event.place() {
        all.push(0);
        all.extend_from_slice(boot.as_bytes());
        all.extend_from_slice(&event.lane.to_le_bytes());
        all.extend_from_slice(&seq.to_le_bytes());
    }
    all
}

impl Single<'_> {
    /// The finding, known by rule, subject and event.
    pub(super) fn finding(&self, said: Said) -> Finding {
        let subject = self.subject.name();
        let event = self.event;
        Finding {
            id: finding_id(
                said.detector,
                &said.rule,
                said.version,
                &subject,
                &identity(event),
            ),
            detector: said.detector,
            rule: said.rule,
            version: said.version,
            severity: said.severity,
            stage: self.config.stage(said.detector, said.stage),
            tenant: event.tenant_or_empty(),
            subject,
            at: self.end,
            start: self.end,
            end: self.end,
            user: self.subject.user(),
            model: Some(event.model().clone()),
            gateway: Some(event.gateway.clone()),
            event: Some(event.id.clone()),
            reason: said.reason,
            resolve_after_ms: said.resolve_after_ms,
        }
    }
}
