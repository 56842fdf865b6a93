//! What a row about a group says.

use super::{Group, MEMBERS, Notification, NotificationKind, Notifier};
use crate::decide::{Route, State};
use crate::event::{Severity, SmolStr};

/// How long what is not repeated (acknowledged, a digest) counts as going on. Its end is told; this is
/// for a receiver that loses it.
pub(super) const UNREPEATED_MS: i64 = 7 * 86_400_000;

impl Notifier<'_> {
    pub(super) fn render(
        &self,
        route: &Route,
        group: &Group,
        kind: NotificationKind,
        severity: Severity,
        was: Option<Severity>,
    ) -> Notification {
        let h = &group.lead().head;
        let others = || {
            let others = group.members.iter();
            others.filter(|m| m.id() != (h.key, h.number))
        };
        // What is going on stands before what is over.
        let (open, over): (Vec<_>, Vec<_>) =
            others().partition(|m| m.head.state != State::Resolved);
        let members: Vec<String> = open
            .iter()
            .chain(&over)
            .take(MEMBERS)
            .map(|m| {
                let (h, severity) = (&m.head, m.head.severity.as_str());
                format!(
                    "[{severity}] {} ({})",
                    self.titles.line(h),
                    h.state.as_str()
                )
            })
            .collect();
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let lasts = match kind {
            NotificationKind::Resolved => None,
            NotificationKind::Acknowledged | NotificationKind::Digest => Some(UNREPEATED_MS),
            // Twice: a repeat may come late.
            _ => Some(route.repeat_interval_ms.saturating_mul(2)),
        };
        Notification {
            dedup_key: h.dedup_key().to_string(),
            key: h.key.to_string(),
            number: h.number,
            kind,
            severity,
            stage: h.stage,
            detector: SmolStr::new_static(h.detector.as_str()),
            rule: h.rule.clone(),
            title: self.titles.line(h),
            tenant: h.tenant.clone(),
            subject: h.subject.clone(),
            user: h.user.clone(),
            model: h.model.clone(),
            gateway: h.gateway.clone(),
            event: h.event.clone(),
            since_ms: h.opened_at.0,
            at_ms: self.now.0,
            findings: group.members.iter().map(|m| m.head.findings).sum(),
            reason: h.reason.clone(),
            runbook: format!("{}{}.md", self.routes.runbook_base, h.detector.as_str()),
            silence_command: crate::decide::silence_command(
                h.detector.as_str(),
                &h.rule,
                &h.subject,
            ),
            more: count(open.len().saturating_sub(MEMBERS)),
            over: group.past.saturating_add(count(
                over.len()
                    .saturating_sub(MEMBERS.saturating_sub(open.len())),
            )),
            members,
            was,
            until_ms: lasts.map(|ms| self.now.0.saturating_add(ms)),
        }
    }
}
