//! Prompt injection: rule hits and model score of a sketch, by role and side. Home: partition.
//!
//! The score was computed where the text was, with role and provenance; here it is judged together
//! with what the sketch cannot know: that this user tried before (raised one level from the third
//! attempt within ten minutes), and that the gateway let it through and a leak followed (that is
//! [`super::leak`]'s finding `injection-then-leak`, the worst of all).

use super::fact::FactKind;
use super::partition::Subject;
use super::single::{Said, Single};
use super::user::UserState;
use super::{DetectConfig, DetectorId, Finding, lower, raise};
use crate::event::{Decision, Event, Role, Severity, Side, Sketch, SmolStr, Stage, Time};

/// Rule of a finding that no rule but the model's score made.
pub const MODEL_RULE: &str = "inj-model";
/// Version of that rule.
const MODEL_VERSION: u32 = 1;
/// An attack is over when the user has been quiet for this long, milliseconds.
pub const RESOLVE_AFTER_MS: i64 = 30 * 60_000;

/// The worst attack in an event.
struct Attack<'e> {
    sketch: &'e Sketch,
    rule: SmolStr,
    version: u32,
    severity: Severity,
    stage: Stage,
    role: Role,
    score: f32,
    rules: usize,
}

/// Judges an event: the finding, and the sketch that it is about. `user` is its user's state, where
/// it has a user.
pub(super) fn judge<'e>(
    config: &DetectConfig,
    event: &'e Event,
    end: Time,
    subject: &Subject<'_>,
    user: Option<&mut UserState>,
) -> Option<(Finding, &'e Sketch)> {
    let attack = event
        .sketches()
        .filter(|(side, _, _)| *side == Side::Request)
        .filter_map(|(_, role, sketch)| attack(config, role, sketch))
        .max_by(|a, b| {
            (a.stage, a.severity, a.score.to_bits(), &b.rule).cmp(&(
                b.stage,
                b.severity,
                b.score.to_bits(),
                &a.rule,
            ))
        })?;
    let blocked = event
        .policy
        .as_ref()
        .is_some_and(|p| p.decision == Decision::Block);
    let mut severity = attack.severity;
    let mut attempts = 1;
    if let Some(user) = user
        && attack.stage != Stage::Shadow
    {
        user.attempt(end, !blocked);
        let since = end.minus_ms(config.injection.repeat_ms);
        attempts = user.attempts_between(since, end);
        if attempts >= config.injection.repeats {
            severity = raise(severity);
        }
    }
    if blocked {
        severity = lower(severity);
    }
    let how = match attack.role {
        Role::Document | Role::Tool => "indirect",
        _ => "direct",
    };
    let blocked = if blocked {
        ", blocked by the gateway"
    } else {
        ""
    };
    let seen = Single {
        config,
        event,
        end,
        subject,
    };
    let finding = seen.finding(Said {
        detector: DetectorId::Injection,
        version: attack.version,
        severity,
        stage: attack.stage,
        reason: format!(
            "{how} injection in a text of role {}: score {:.2}, {} rule{} hit; attempt {attempts} within {} min{blocked}",
            attack.role.as_str(),
            attack.score,
            attack.rules,
            if attack.rules == 1 { "" } else { "s" },
            config.injection.repeat_ms / 60_000,
        ),
        rule: attack.rule,
        resolve_after_ms: RESOLVE_AFTER_MS,
    });
    Some((finding, attack.sketch))
}

/// The attack in one sketch. With a score, the score decides (it combines rules and model); a sketch
/// without one is judged by its rules.
fn attack<'e>(config: &DetectConfig, role: Role, sketch: &'e Sketch) -> Option<Attack<'e>> {
    let over = |score: f32| score >= config.injection.threshold;
    if sketch.hits.is_empty() && !sketch.injection.is_some_and(over) {
        return None;
    }
    let mut best: Option<(SmolStr, u32, Severity, Stage)> = None;
    let mut rules = 0;
    for hit in &sketch.hits {
        let fact = config.facts.get(&hit.rule);
        if fact.kind != FactKind::Injection {
            continue;
        }
        rules += 1;
        let better = best.as_ref().is_none_or(|(_, _, severity, stage)| {
            (fact.stage, fact.severity) > (*stage, *severity)
        });
        if better {
            best = Some((hit.rule.clone(), fact.version, fact.severity, fact.stage));
        }
    }
    let live = best.as_ref().is_some_and(|b| b.3 != Stage::Shadow);
    let fires = sketch.injection.map_or(live, over);
    if !fires {
        // What a shadow rule would have done is a finding too; a live rule below the threshold is
        // not.
        best = best.filter(|b| b.3 == Stage::Shadow);
        best.as_ref()?;
    } else if !live {
        // The score fires and no live rule explains it: the model's own finding.
        best = None;
    }
    let (rule, version, severity, stage) = best.unwrap_or((
        SmolStr::new_static(MODEL_RULE),
        MODEL_VERSION,
        Severity::Medium,
        Stage::Ticket,
    ));
    Some(Attack {
        sketch,
        rule,
        version,
        severity,
        stage,
        role,
        score: sketch.injection.unwrap_or(0.0),
        rules,
    })
}
