//! What goes wrong in the demo, when, and what must be found: the labels that the closing account is
//! held against.
//!
//! Every scene has a user, a gateway or a model of its own, so that whatever is found can be told
//! apart, and everything found elsewhere is a false alarm. Two scenes are controls: they look bad,
//! are declared or harmless, and must not page.

use super::gateway::Gateway;
use super::traffic::{Call, User};
use crate::event::Time;

/// Whom a label is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// A user, by pseudonym.
    User(String),
    /// Whoever spends: a user or the key, by pseudonym.
    Spender(String, String),
    /// A gateway.
    Gateway(&'static str),
    /// A served model.
    Model(&'static str),
    /// A budget's subject.
    Subject(&'static str),
    /// Those who send one attack: users, by pseudonym.
    Many(Vec<String>),
}

/// One thing that is put into the traffic.
#[derive(Debug, Clone)]
pub struct Label {
    /// Short name.
    pub name: &'static str,
    /// What the reader is told as it happens.
    pub caption: &'static str,
    /// Detectors that may answer for it.
    pub detectors: &'static [&'static str],
    /// The one rule that may, where others of the detector do not count.
    pub rule: Option<&'static str>,
    /// About whom.
    pub who: Who,
    /// False for controls: finding it is a false alarm.
    pub must: bool,
    /// Judged when its minute closes, not by its event alone.
    pub by_minute: bool,
    /// When the first record of it ended; none until it happened.
    pub began: Option<Time>,
}

/// One step of a scene.
#[derive(Debug, Clone)]
pub enum Step {
    /// A call through a gateway (by index).
    Call(usize, Box<Call>),
    /// A gateway loses numbers of a user's lane without a word.
    Lose(usize, User, u64),
    /// A gateway discards numbers of a user's lane and declares it.
    Discard(usize, User, u64),
    /// Bytes that are no event, through a gateway's connection.
    Garbage(&'static str),
    /// A model version becomes slow by this factor.
    Slow(&'static str, f64),
}

/// The model version that becomes slow.
pub const SLOW_MODEL: &str = "gpt-4o-2024-08-06";

const fn actor(name: &'static str, tenant: &'static str, team: &'static str, model: usize) -> User {
    User {
        name,
        tenant,
        team,
        app: "assistant",
        model,
        weight: 1,
    }
}

/// Those to whom, or through whom, something happens.
pub const ACTORS: [User; 14] = [
    actor("mallory@globex.example", "globex", "sales", 1),
    actor("zane@globex.example", "globex", "sales", 1),
    actor("quentin@acme.example", "acme", "engineering", 2),
    actor("rita@initech.example", "initech", "research", 3),
    actor("sven@initech.example", "initech", "ops", 3),
    actor("tara@acme.example", "acme", "support", 2),
    actor("uwe@globex.example", "globex", "legal", 2),
    actor("victor@globex.example", "globex", "batch", 1),
    actor("wanda@acme.example", "acme", "engineering", 2),
    actor("yuri@initech.example", "initech", "research", 3),
    actor("anna@initech.example", "initech", "sales", 3),
    actor("bert@initech.example", "initech", "sales", 3),
    actor("cleo@initech.example", "initech", "ops", 3),
    actor("dirk@initech.example", "initech", "ops", 3),
];

/// Those of [`ACTORS`] who send one attack.
pub(super) const CAMPAIGNERS: std::ops::Range<usize> = 10..14;

/// Number of a label in [`labels`]; the order in which they are told.
pub(super) const DIRECT: usize = 0;
pub(super) const EVASION: usize = 1;
pub(super) const INDIRECT: usize = 2;
pub(super) const PII: usize = 3;
pub(super) const SECRET: usize = 4;
pub(super) const CROSS: usize = 5;
pub(super) const SPEND: usize = 6;
pub(super) const BUDGET: usize = 7;
pub(super) const LATENCY: usize = 8;
pub(super) const MISSING: usize = 9;
pub(super) const DECLARED: usize = 10;
pub(super) const TALK: usize = 11;
pub(super) const CAMPAIGN: usize = 12;
/// A scene without a label: records that are no events are accounted for as dead letters.
pub(super) const NONE: usize = usize::MAX;

/// The labels, with the pseudonyms of this run's key.
pub fn labels(gateway: &Gateway) -> Vec<Label> {
    let pseudonym = |i: usize| {
        let user = &ACTORS[i];
        gateway.pseudonym(user.tenant, user.name).to_string()
    };
    let user = |i: usize| Who::User(pseudonym(i));
    let label = |name, caption, detectors, who, must, by_minute| Label {
        name,
        caption,
        detectors,
        rule: None,
        who,
        must,
        by_minute,
        began: None,
    };
    let spender = Who::Spender(pseudonym(7), gateway.key_pseudonym(&ACTORS[7]).to_string());
    let mut all = vec![
        label(
            "injection, direct",
            "a user overrides the assistant's instructions",
            &["injection"],
            user(0),
            true,
            false,
        ),
        label(
            "injection, hidden",
            "the same, in Base64 and with invisible characters",
            &["injection"],
            user(1),
            true,
            false,
        ),
        label(
            "injection, indirect",
            "a fetched document carries orders for the model",
            &["injection"],
            user(2),
            true,
            false,
        ),
        label(
            "personal data",
            "an answer holds a social security number and a card",
            &["leak"],
            user(3),
            true,
            false,
        ),
        label(
            "credential",
            "an answer holds a cloud access key",
            &["leak"],
            user(4),
            true,
            false,
        ),
        label(
            "cross-user leak",
            "a card number that one customer typed appears in another's answer",
            &["leak"],
            user(6),
            true,
            true,
        ),
        label(
            "spend spike",
            "a batch job burns tokens at fifty times its usual rate",
            &["spend"],
            spender,
            true,
            true,
        ),
        label(
            "budget",
            "the batch team crosses its budget of the day",
            &["budget"],
            Who::Subject("globex/batch"),
            true,
            false,
        ),
        label(
            "latency step",
            "one model version answers four times slower; the others do not",
            &["latency"],
            Who::Model(SLOW_MODEL),
            true,
            true,
        ),
        label(
            "missing evidence",
            "a gateway loses seven events without a word",
            &["audit"],
            Who::Gateway("gw-eu-1"),
            true,
            true,
        ),
        label(
            "declared drop",
            "another gateway discards five and says so",
            &["audit"],
            Who::Gateway("gw-us-1"),
            false,
            true,
        ),
        label(
            "talk about attacks",
            "an engineer asks how such attacks work",
            &["injection"],
            user(8),
            false,
            false,
        ),
        label(
            "campaign",
            "four users send one attack, the last with words of his own",
            &["campaign", "injection"],
            Who::Many(CAMPAIGNERS.map(pseudonym).collect()),
            true,
            true,
        ),
    ];
    all[CROSS].rule = Some("leak-cross-user");
    all[CAMPAIGN].rule = Some("campaign-injection");
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::scene::scenes;
    use crate::demo::traffic::CROWD;

    #[test]
    fn nobody_of_the_crowd_acts_and_every_label_has_a_scene() {
        for a in &ACTORS {
            assert!(CROWD.iter().all(|u| u.name != a.name));
        }
        let keys = std::sync::Arc::new(crate::seal::key::Keys::development());
        let labels = labels(&Gateway::new("gw", "b", keys, None));
        let scenes = scenes((20_000, 40_000));
        for (i, label) in labels.iter().enumerate() {
            assert!(scenes.iter().any(|s| s.label == i), "{}", label.name);
        }
    }
}
