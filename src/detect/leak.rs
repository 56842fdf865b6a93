//! Leaks: PII and credentials in responses, credentials in requests. Home: partition; values go to
//! shared rows for the cross-user leak ([`super::value`]).
//!
//! A hit of an informational rule (a link, an address of a machine) is counted and no finding: nearly
//! every answer has one. What the user sent in the same call, and gets back, is no leak; nor is personal
//! data of the system prompt, which its operator put there to be told. One finding per event and kind (PII, credential), named by its worst rule. A leak that follows an
//! injection attempt of the same user, which the gateway allowed, within ten minutes is a finding of
//! its own and critical: the attack worked.

use super::fact::{Fact, FactKind};
use super::partition::Subject;
use super::single::{Said, Single, identity};
use super::user::UserState;
use super::value::{Candidate, ValueKey};
use super::{DetectConfig, DetectorId, Effects, Finding, finding_id, lower};
use crate::event::{Event, MAX_VALUES, Pseudonym, Role, Severity, Side, SmolStr, Stage, Time};

/// A leak is over when none has been seen for this long, milliseconds.
pub const RESOLVE_AFTER_MS: i64 = 60 * 60_000;

/// Values whose source is not a leak: what the user says in this call, and what its operator tells the
/// model.
struct Known<'a> {
    user: Vec<&'a Pseudonym>,
    system: Vec<&'a Pseudonym>,
}

impl<'a> Known<'a> {
    fn of(event: &'a Event) -> Self {
        let of = |wanted| {
            let request = event
                .sketches()
                .filter(move |(side, role, _)| *side == Side::Request && *role == wanted);
            let hits = request.flat_map(|(_, _, sketch)| &sketch.hits);
            hits.flat_map(|h| &h.values).collect()
        };
        // Most events have no answer with a value in it.
        let answered = event.response.as_ref();
        if answered.is_none_or(|r| r.hits.iter().all(|h| h.values.is_empty())) {
            return Self {
                user: Vec::new(),
                system: Vec::new(),
            };
        }
        Self {
            user: of(Role::User),
            system: of(Role::System),
        }
    }

    /// Whether the operator told the model this value.
    fn told_by_operator(&self, value: &Pseudonym) -> bool {
        self.system.contains(&value)
    }

    /// Whether all values of a hit are known, so that an answer with them is none's leak. A list that is
    /// full may have left some out. A credential of the system prompt is to be told to nobody.
    fn all(&self, kind: FactKind, values: &[Pseudonym]) -> bool {
        let known = |v: &Pseudonym| {
            self.user.contains(&v) || (kind == FactKind::Pii && self.told_by_operator(v))
        };
        !values.is_empty() && values.len() < MAX_VALUES && values.iter().all(known)
    }
}

/// The worst of one kind.
struct Worst {
    rule: SmolStr,
    fact: Fact,
    count: u64,
    types: usize,
}

/// Judges an event's hits and collects its values.
pub(super) fn judge(
    config: &DetectConfig,
    event: &Event,
    end: Time,
    subject: &Subject<'_>,
    user: Option<&UserState>,
    out: &mut Effects,
) {
    let mut worst: [Option<Worst>; 3] = [None, None, None];
    let known = Known::of(event);
    for (side, role, sketch) in event.sketches() {
        for hit in &sketch.hits {
            let fact = config.facts.get(&hit.rule);
            let place = match (fact.kind, side) {
                (FactKind::Pii, Side::Response) => 0,
                (FactKind::Secret, Side::Response) => 1,
                (FactKind::Secret, Side::Request) => 2,
                (FactKind::Pii, Side::Request) => 3,
                _ => continue,
            };
            if fact.linkable
                && let Some(user) = subject.user()
            {
                values(
                    event,
                    end,
                    user,
                    side,
                    role,
                    &hit.rule,
                    &fact,
                    &hit.values,
                    &known,
                    out,
                );
            }
            if side == Side::Response && known.all(fact.kind, &hit.values) {
                out.counters.echoed += u64::from(hit.n);
                continue;
            }
            let Some(slot) = worst.get_mut(place) else {
                continue;
            };
            if fact.severity == Severity::Informational {
                out.counters.informational += u64::from(hit.n);
                continue;
            }
            let better = slot
                .as_ref()
                .is_none_or(|w| (fact.stage, fact.severity) > (w.fact.stage, w.fact.severity));
            let (count, types) = slot.as_ref().map_or((0, 0), |w| (w.count, w.types));
            if better {
                *slot = Some(Worst {
                    rule: hit.rule.clone(),
                    fact,
                    count,
                    types,
                });
            }
            if let Some(w) = slot {
                w.count += u64::from(hit.n);
                w.types += 1;
            }
        }
    }
    let seen = Single {
        config,
        event,
        end,
        subject,
    };
    let mut worked = Stage::Shadow;
    for (place, worst) in worst.into_iter().enumerate() {
        let Some(w) = worst else { continue };
        let in_request = place == 2;
        if !in_request {
            worked = worked.max(config.stage(DetectorId::Leak, w.fact.stage));
        }
        out.findings.push(finding(&seen, &w, in_request));
    }
    let allowed = user.and_then(|u| u.allowed);
    if let Some(allowed) = allowed
        && worked != Stage::Shadow
        && (0..=config.injection.follow_ms).contains(&end.since_ms(allowed))
    {
        out.findings.push(success(&seen, allowed));
    }
}

fn finding(seen: &Single<'_>, w: &Worst, in_request: bool) -> Finding {
    // Towards the model it has left the company's hands, but not reached another person.
    let severity = if in_request {
        lower(w.fact.severity)
    } else {
        w.fact.severity
    };
    let stage = if in_request {
        w.fact.stage.min(Stage::Ticket)
    } else {
        w.fact.stage
    };
    let what = match (w.fact.kind, w.fact.typed) {
        (FactKind::Secret, true) => "credential",
        (FactKind::Secret, false) => "generic credential",
        _ => "personal data",
    };
    let finding = seen.finding(Said {
        detector: DetectorId::Leak,
        rule: w.rule.clone(),
        version: w.fact.version,
        severity,
        stage,
        reason: format!(
            "{what} of type {} in the {}: {} occurrence{} of {} type{}",
            w.fact.entity,
            if in_request { "request" } else { "response" },
            w.count,
            if w.count == 1 { "" } else { "s" },
            w.types,
            if w.types == 1 { "" } else { "s" },
        ),
        resolve_after_ms: RESOLVE_AFTER_MS,
    });
    // A rule may hit on both sides of one event: two findings.
    let mut id = identity(seen.event);
    id.push(u8::from(in_request));
    Finding {
        id: finding_id(
            DetectorId::Leak,
            &w.rule,
            w.fact.version,
            &finding.subject,
            &id,
        ),
        ..finding
    }
}

fn success(seen: &Single<'_>, allowed: Time) -> Finding {
    let finding = seen.finding(Said {
        detector: DetectorId::Injection,
        rule: SmolStr::new_static("injection-then-leak"),
        version: 1,
        severity: Severity::Critical,
        stage: Stage::Page,
        reason: format!(
            "a leak in the response {} s after an injection attempt that the gateway allowed",
            seen.end.since_ms(allowed) / 1_000
        ),
        resolve_after_ms: RESOLVE_AFTER_MS,
    });
    Finding {
        start: allowed,
        ..finding
    }
}

/// What a user says makes them a sender; what a user is told makes them a candidate. Documents and
/// tool results were not said by the user, and earlier answers were told before. A value of the system
/// prompt is nobody's, whoever typed it once.
#[expect(clippy::too_many_arguments, reason = "one call, all of it needed")]
fn values(
    event: &Event,
    end: Time,
    user: Pseudonym,
    side: Side,
    role: Role,
    rule: &SmolStr,
    fact: &Fact,
    values: &[Pseudonym],
    known: &Known<'_>,
    out: &mut Effects,
) {
    for value in values {
        if side == Side::Request && role == Role::User {
            out.values
                .entry(ValueKey::from(*value))
                .or_default()
                .sent(user, end);
        } else if side == Side::Response && !known.told_by_operator(value) {
            let row = out.values.entry(ValueKey::from(*value)).or_default();
            let before = row.more_candidates;
            row.received(Candidate {
                end,
                event: event.id.clone(),
                user,
                tenant: event.tenant_or_empty(),
                rule: rule.clone(),
                version: fact.version,
                entity: fact.entity.clone(),
                model: event.model().clone(),
                gateway: event.gateway.clone(),
                shadow: fact.stage == Stage::Shadow,
            });
            let more = row.more_candidates - before;
            out.counters.value_overflow += more;
        }
    }
}
