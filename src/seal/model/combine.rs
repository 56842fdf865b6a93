//! One score from rules and model, calibrated so that one threshold serves every source.
//!
//! The logit of the combination is a weighted sum: measured on sources left out, that beats either
//! alone and a union of both (`docs/DETECTION.md`). The model may outvote a weak rule (mention is
//! not use), a strong rule outvotes a doubtful model, and weak signs of different techniques add
//! up. Who said a text matters: an operator's system prompt is judged only by rules written for
//! that role.

use std::collections::BTreeMap;

use super::frame::Frame;
use super::train::sigmoid;
use crate::event::Role;

/// A text whose score is at or above this is judged an attack. The only threshold.
pub const THRESHOLD: f32 = 0.5;

/// What one unit of the model's logit is worth.
const MODEL: f32 = 0.7;
/// The model's logit counts no further up than this.
const MODEL_TOP: f32 = 8.0;
/// Nor further down: it must stay possible for a strong rule to outvote it, since an attacker
/// can pad a text with what the model takes for harmless.
const MODEL_BOTTOM: f32 = -2.5;
/// What the model counts for an operator's text, which it was not trained for.
const MODEL_FOR_OPERATOR: f32 = -1.35;
/// What a rule of weight 1 is worth.
const RULE: f32 = 4.0;
/// Each further technique with a hit counts this much of its weight.
const FURTHER: f32 = 0.5;
/// What must be overcome for a verdict; the price of one more page for nothing.
const PRIOR: f32 = 0.9;
/// The same beyond that where a rule hit: harmless texts with the words of attacks are what rules
/// are wrong about.
const PRIOR_OF_RULES: f32 = 0.3;
/// An attack that shows only after decoding or repairing was hidden on purpose.
const HIDDEN: f32 = 0.5;
/// What content that tools return and documents hold takes from a model that no rule supports: such
/// texts are long, technical and unlike what people ask, and orders in them mostly have a rule.
const CONTENT: f32 = 0.8;
/// A model that repeats an attack was often only asked about it.
const SAID_BY_MODEL: f32 = -1.0;
/// What the rules' share is multiplied with where a text mentions attacks: the model then decides.
const MENTIONED: f32 = 0.2;
/// What a story or a supposition takes from a single sign: there, words lift rules for a purpose.
const FICTION: f32 = 1.5;
/// The technique that a story cannot excuse: the assistant itself is replaced.
const TAKEOVER: &str = "takeover";
/// Logit of a text about which nothing speaks, so that scores stay within (0, 1).
const SILENT: f32 = -6.0;

/// A rule that hit, as the combination sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evidence<'a> {
    /// The rule.
    pub rule: &'a str,
    /// Its weight, 0–1.
    pub weight: f32,
    /// Its technique (`override`, `persona`, …): hits of one technique do not add up.
    pub technique: &'a str,
}

/// What else bears on the judgement.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Context {
    /// Who said it.
    pub role: Role,
    /// The strongest sign came from a decoded or repaired reading.
    pub hidden: bool,
    /// What frames the text; none for what was hidden.
    pub frame: Frame,
}

/// The judgement.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Combined {
    /// 0–1; at or above [`THRESHOLD`] is an attack.
    pub score: f32,
    /// Share of the rules in the logit.
    pub rules: f32,
    /// Share of the model in the logit.
    pub model: f32,
}

impl Combined {
    /// Whether this is an attack.
    pub fn verdict(&self) -> bool {
        self.score >= THRESHOLD
    }
}

/// Joins the rules' evidence with the model's logit (the largest over all readings).
pub fn combine(evidence: &[Evidence<'_>], logit: f32, context: Context) -> Combined {
    let mut best: BTreeMap<&str, f32> = BTreeMap::new();
    for e in evidence {
        let top = best.entry(e.technique).or_default();
        *top = top.max(e.weight.clamp(0.0, 1.0));
    }
    let sum: f32 = best.values().sum();
    let top = best.values().copied().fold(0.0, f32::max);
    let mut rules = RULE * (top + FURTHER * (sum - top));
    // What tools and documents hold is not excused by a frame: whoever poisons them chooses it.
    let frame = match context.role {
        Role::Tool | Role::Document => Frame::default(),
        _ => context.frame,
    };
    if frame.mention {
        rules *= MENTIONED;
    }
    let model = if context.role == Role::System {
        MODEL_FOR_OPERATOR
    } else if logit.is_finite() {
        MODEL * logit.clamp(MODEL_BOTTOM, MODEL_TOP)
    } else {
        0.0
    };
    let mut shift = -PRIOR;
    if rules > 0.0 {
        shift -= PRIOR_OF_RULES;
    }
    if context.hidden && (rules > 0.0 || model > 0.0) {
        shift += HIDDEN;
    }
    if matches!(context.role, Role::Tool | Role::Document) && rules <= 0.0 {
        shift -= CONTENT;
    }
    if context.role == Role::Assistant {
        shift += SAID_BY_MODEL;
    }
    if frame.fiction && best.len() <= 1 && !best.contains_key(TAKEOVER) {
        shift -= FICTION;
    }
    let logit = (rules + model + shift).max(SILENT);
    Combined {
        score: sigmoid(logit),
        rules,
        model,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const USER: Context = Context {
        role: Role::User,
        hidden: false,
        frame: Frame {
            mention: false,
            fiction: false,
        },
    };

    fn hit(weight: f32, technique: &str) -> Evidence<'_> {
        Evidence {
            rule: "inj-x",
            weight,
            technique,
        }
    }

    #[test]
    fn a_strong_rule_outvotes_a_doubtful_model_and_a_sure_model_needs_no_rule() {
        assert!(combine(&[hit(0.9, "override")], -3.0, USER).verdict());
        assert!(combine(&[], 4.0, USER).verdict());
        assert!(!combine(&[], 0.5, USER).verdict());
    }

    #[test]
    fn in_content_the_model_alone_must_be_surer() {
        let content = |role| Context { role, ..USER };
        assert!(combine(&[], 2.0, USER).verdict());
        for role in [Role::Tool, Role::Document] {
            assert!(!combine(&[], 2.0, content(role)).verdict());
            assert!(combine(&[], 3.0, content(role)).verdict());
        }
    }

    #[test]
    fn the_model_outvotes_a_weak_rule() {
        assert!(!combine(&[hit(0.4, "override")], -4.0, USER).verdict());
    }

    #[test]
    fn techniques_add_up_and_hits_of_one_do_not() {
        let one = combine(&[hit(0.4, "override"), hit(0.4, "override")], -1.0, USER);
        let two = combine(&[hit(0.4, "override"), hit(0.4, "persona")], -1.0, USER);
        assert!(two.score > one.score);
        assert_eq!(one, combine(&[hit(0.4, "override")], -1.0, USER));
    }

    #[test]
    fn an_operator_is_not_judged_by_the_model() {
        let system = Context {
            role: Role::System,
            ..USER
        };
        assert!(!combine(&[], 20.0, system).verdict());
        assert!(combine(&[hit(1.0, "forgery")], 0.0, system).verdict());
        assert!(!combine(&[hit(0.5, "forgery")], 9.0, system).verdict());
    }

    #[test]
    fn what_was_hidden_weighs_more_and_what_the_model_said_less() {
        let logit = 2.5;
        let hidden = Context {
            hidden: true,
            ..USER
        };
        let said = Context {
            role: Role::Assistant,
            ..USER
        };
        assert!(combine(&[], logit, hidden).score > combine(&[], logit, USER).score);
        assert!(combine(&[], logit, said).score < combine(&[], logit, USER).score);
    }

    #[test]
    fn a_frame_weakens_rules_and_settles_nothing() {
        let framed = |mention, fiction, role| Context {
            frame: Frame { mention, fiction },
            role,
            ..USER
        };
        let one = [hit(0.8, "override")];
        let mention = framed(true, false, Role::User);
        assert!(combine(&one, -1.0, USER).verdict());
        assert!(!combine(&one, -1.0, mention).verdict());
        assert!(combine(&one, 4.0, mention).verdict());
        assert!(combine(&one, -1.0, framed(true, false, Role::Document)).verdict());
        let fiction = framed(false, true, Role::User);
        assert!(!combine(&one, -1.5, fiction).verdict());
        let two = [hit(0.8, "override"), hit(0.5, "persona")];
        assert!(combine(&two, -1.5, fiction).verdict());
        assert!(combine(&[hit(0.8, "takeover")], -1.5, fiction).verdict());
    }

    proptest! {
        #[test]
        fn scores_stay_between_0_and_1_and_grow_with_evidence(
            a in 0.0_f32..1.0, b in 0.0_f32..1.0, logit in -50.0_f32..50.0,
        ) {
            let (low, high) = if a < b { (a, b) } else { (b, a) };
            let less = combine(&[hit(low, "override")], logit, USER).score;
            let more = combine(&[hit(high, "override")], logit, USER).score;
            prop_assert!((0.0..=1.0).contains(&less) && (0.0..=1.0).contains(&more));
            prop_assert!(less <= more);
        }
    }
}
