//! A registered text reappears in a response: a system prompt, a canary, a confidential document, by
//! fingerprints. Home: none; what is registered comes with the configuration.
//!
//! Prints that the user sent in the same call do not count: who quotes a text has it already. An earlier
//! turn that comes by its digest alone may have held the text, so such a call makes a ticket and not a
//! page; a canary pages all the same, since nobody should have it. Ordinary language was taken out when
//! the text was registered.

use std::collections::BTreeMap;

use super::partition::Subject;
use super::single::{Said, Single};
use super::{DetectConfig, DetectorId, Finding};
use crate::event::{Event, Kid, Part, Role, Severity, SmolStr, Stage, Time};

/// Rule of a canary: one print is proof.
pub const CANARY_RULE: &str = "prompt-leak-canary";
/// Rule of a text of which runs of words reappear.
pub const TEXT_RULE: &str = "prompt-leak-text";
const VERSION: u32 = 1;
/// Shared prints that make a finding: about thirty words in common, in a row or in runs.
pub const MIN_SHARED: usize = 4;
/// Shared prints that may page: about seventy words.
const PAGE_SHARED: usize = 8;
/// A leak of a text is over when it has not been seen for this long, milliseconds.
const RESOLVE_AFTER_MS: i64 = 60 * 60_000;

/// One registered text under one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchedText {
    /// The name its owner gave it.
    pub name: SmolStr,
    /// Whether one print is proof.
    pub canary: bool,
    /// The key of its prints.
    pub kid: Kid,
    /// Its prints.
    pub prints: Vec<u64>,
}

/// All registered texts, by print.
#[derive(Debug, Clone, Default)]
pub struct Watched {
    texts: Vec<WatchedText>,
    by_print: BTreeMap<(Kid, u64), Vec<usize>>,
}

impl Watched {
    /// Indexes texts.
    pub fn new(texts: Vec<WatchedText>) -> Self {
        let mut by_print: BTreeMap<(Kid, u64), Vec<usize>> = BTreeMap::new();
        for (i, t) in texts.iter().enumerate() {
            for p in &t.prints {
                by_print.entry((t.kid, *p)).or_default().push(i);
            }
        }
        Self { texts, by_print }
    }

    /// How many texts are registered.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Whether nothing is registered.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// Shared prints by text, of a response and what its user did not send.
    fn shared(&self, event: &Event) -> BTreeMap<usize, usize> {
        let mut found = BTreeMap::new();
        let Some(response) = &event.response else {
            return found;
        };
        let parts = event
            .context
            .iter()
            .filter(|p| p.role == Role::User)
            .filter_map(|p| p.sketch.as_ref());
        let sent: Vec<&[u64]> = event
            .request
            .iter()
            .chain(parts)
            .map(|s| s.prints.as_slice())
            .collect();
        for p in &response.prints {
            let Some(texts) = self.by_print.get(&(response.kid, *p)) else {
                continue;
            };
            if sent.iter().any(|s| s.contains(p)) {
                continue;
            }
            for t in texts {
                *found.entry(*t).or_default() += 1;
            }
        }
        found
    }
}

/// A turn of the user of which only the digest came: it was sent before.
fn of_unseen_user(part: &Part) -> bool {
    part.role == Role::User && part.sketch.is_none()
}

/// Judges an event against all registered texts: at most one finding, of the worst.
pub(super) fn judge(
    config: &DetectConfig,
    event: &Event,
    end: Time,
    subject: &Subject<'_>,
) -> Option<Finding> {
    let watched = &config.watched;
    if watched.is_empty() {
        return None;
    }
    let (text, shared) = watched
        .shared(event)
        .into_iter()
        .map(|(i, n)| (&watched.texts[i], n))
        .filter(|(t, n)| t.canary || *n >= MIN_SHARED.min(t.prints.len()))
        .max_by(|a, b| (a.0.canary, a.1, &b.0.name).cmp(&(b.0.canary, b.1, &a.0.name)))?;
    let unseen = event.context.iter().any(of_unseen_user);
    let (rule, severity, stage) = if text.canary {
        (CANARY_RULE, Severity::Critical, Stage::Page)
    } else if shared >= PAGE_SHARED && !unseen {
        (TEXT_RULE, Severity::High, Stage::Page)
    } else {
        (TEXT_RULE, Severity::Medium, Stage::Ticket)
    };
    let seen = Single {
        config,
        event,
        end,
        subject,
    };
    Some(seen.finding(Said {
        detector: DetectorId::PromptLeak,
        rule: SmolStr::new_static(rule),
        version: VERSION,
        severity,
        stage,
        reason: format!(
            "registered text {} reappears in a response: {shared} of its {} fingerprints{}",
            text.name,
            text.prints.len(),
            if unseen {
                "; an earlier turn of the user came by digest alone and may have held it"
            } else {
                ""
            }
        ),
        resolve_after_ms: RESOLVE_AFTER_MS,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::bare;
    use crate::event::{Side, Sketch};

    fn kid() -> Kid {
        Kid::parse("k1").expect("kid")
    }

    fn sketch(prints: &[u64]) -> Sketch {
        Sketch {
            kid: kid(),
            prints: prints.to_vec(),
            ..Sketch::default()
        }
    }

    fn watched() -> Watched {
        let text = |name: &str, canary, prints: std::ops::Range<u64>| WatchedText {
            name: name.into(),
            canary,
            kid: kid(),
            prints: prints.collect(),
        };
        Watched::new(vec![
            text("prompt", false, 0..50),
            text("canary", true, 100..101),
        ])
    }

    fn shared(response: &[u64], request: &[u64], kid_of: Kid) -> BTreeMap<usize, usize> {
        let mut e = bare::event(1, Role::Assistant, Side::Response, sketch(response));
        e.response.as_mut().expect("response").kid = kid_of;
        e.request = Some(sketch(request));
        watched().shared(&e)
    }

    #[test]
    fn what_the_user_sent_or_another_key_made_does_not_count() {
        assert_eq!(
            shared(&[1, 2, 3, 99, 100], &[], kid()),
            [(0, 3), (1, 1)].into()
        );
        assert_eq!(shared(&[1, 2, 3], &[1, 2], kid()), [(0, 1)].into());
        let other = Kid::parse("k2").expect("kid");
        assert!(shared(&[1, 2, 3, 100], &[], other).is_empty());
    }

    /// The stage for a response with `n` prints of the prompt after a turn of the user, whose sketch came or not.
    fn stage(n: u64, turn: Option<Sketch>) -> Option<(Stage, bool)> {
        let prints: Vec<u64> = (0..n).collect();
        let mut e = bare::event(1, Role::Assistant, Side::Response, sketch(&prints));
        e.context.push(Part {
            role: Role::User,
            source: None,
            digest: None,
            sketch: turn,
        });
        let config = DetectConfig {
            watched: watched(),
            ..DetectConfig::default()
        };
        let finding = judge(&config, &e, e.at, &Subject::Gateway(&e.gateway))?;
        Some((finding.stage, finding.reason.contains("digest alone")))
    }

    #[test]
    fn a_text_that_the_user_may_have_pasted_a_turn_ago_makes_no_page() {
        assert_eq!(stage(20, Some(sketch(&[]))), Some((Stage::Page, false)));
        assert_eq!(stage(20, None), Some((Stage::Ticket, true)));
        let pasted: Vec<u64> = (0..20).collect();
        assert_eq!(stage(20, Some(sketch(&pasted))), None);
    }
}
