//! The smaller parts of a rule: tags, scope, readings, context, window, exceptions, tests.

use serde_saphyr::Spanned;

use super::super::file::{
    ContextFile, ExceptionFile, RuleFile, ScopeFile, TestFile, Text, WindowFile,
};
use super::super::window::{MAX_COUNT, MAX_WITHIN_MS, Subject, duration_ms};
use super::super::{
    Area, Context, Exception, ReadingKind, Scope, SmolStr, Status, Test, Window, pattern, suggest,
    tag,
};
use super::{Checker, MAX_WITHIN};
use crate::event::{Role, Side};

const ROLES: [(&str, Role); 5] = [
    ("system", Role::System),
    ("user", Role::User),
    ("assistant", Role::Assistant),
    ("tool", Role::Tool),
    ("document", Role::Document),
];
const SIDES: [(&str, Side); 2] = [("request", Side::Request), ("response", Side::Response)];

impl Checker<'_> {
    pub(super) fn tags(&mut self, given: Option<&[Text]>, area: Option<Area>) -> Vec<SmolStr> {
        let Some(given) = given else {
            let defaults: &[&str] = match area {
                Some(Area::Injection) => &[
                    "owasp.llm01-2025",
                    "owasp.llm01-2026",
                    "atlas.t0051",
                    "cwe.1427",
                ],
                Some(Area::Pii) => &[
                    "owasp.llm02-2025",
                    "owasp.llm02-2026",
                    "atlas.t0057",
                    "cwe.359",
                ],
                Some(Area::Secret) => &[
                    "owasp.llm02-2025",
                    "owasp.llm02-2026",
                    "atlas.t0057",
                    "cwe.798",
                ],
                None => &[],
            };
            return defaults.iter().map(|t| SmolStr::new_static(t)).collect();
        };
        let mut tags: Vec<SmolStr> = Vec::with_capacity(given.len());
        for text in given {
            if let Some(why) = tag::problem(&text.value) {
                self.error(text.referenced, "unknown-tag", why, None);
            } else if tags.iter().any(|t| *t == text.value) {
                self.warn(
                    text.referenced,
                    "twice",
                    format!("tag `{}` stands twice", text.value),
                    None,
                );
            } else {
                tags.push(SmolStr::from(text.value.as_str()));
            }
        }
        tags
    }

    pub(super) fn runbook(&mut self, given: Option<&Text>, area: Option<Area>) -> SmolStr {
        let Some(given) = given else {
            return SmolStr::new_static(match area {
                Some(Area::Injection) | None => "injection",
                Some(Area::Pii | Area::Secret) => "leak",
            });
        };
        let name = &given.value;
        if name.is_empty()
            || !name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        {
            self.error(
                given.referenced,
                "runbook",
                format!("runbook `{name}` is not a name of a-z, 0-9 and `-`"),
                Some("name a file of deploy/runbooks without its ending, such as `leak`"),
            );
        }
        SmolStr::from(name.as_str())
    }

    pub(super) fn scope(&mut self, scope: Option<&ScopeFile>) -> Scope {
        let mut roles: Vec<Role> = ROLES.iter().map(|(_, r)| *r).collect();
        let mut sides: Vec<Side> = SIDES.iter().map(|(_, s)| *s).collect();
        if let Some(given) = scope.and_then(|s| s.roles.as_ref()) {
            if given.value.is_empty() {
                self.error(
                    given.referenced,
                    "empty-list",
                    "`roles` is empty: the rule would never look".to_owned(),
                    None,
                );
            }
            roles = given
                .value
                .iter()
                .filter_map(|t| self.choice(t, "role", &ROLES))
                .collect();
        }
        if let Some(given) = scope.and_then(|s| s.sides.as_ref()) {
            if given.value.is_empty() {
                self.error(
                    given.referenced,
                    "empty-list",
                    "`sides` is empty: the rule would never look".to_owned(),
                    None,
                );
            }
            sides = given
                .value
                .iter()
                .filter_map(|t| self.choice(t, "side", &SIDES))
                .collect();
        }
        Scope::of(&roles, &sides)
    }

    pub(super) fn readings(
        &mut self,
        given: Option<&Spanned<Vec<Text>>>,
        area: Option<Area>,
    ) -> u8 {
        let Some(given) = given else {
            let kinds: &[ReadingKind] = match area {
                Some(Area::Injection) => &ReadingKind::ALL[1..],
                _ => &[ReadingKind::Raw, ReadingKind::Decoded],
            };
            return kinds.iter().fold(0, |bits, k| bits | k.bit());
        };
        if given.value.is_empty() {
            self.error(
                given.referenced,
                "empty-list",
                "`readings` is empty".to_owned(),
                None,
            );
        }
        let words = ReadingKind::ALL.map(|k| (k.as_str(), k));
        given
            .value
            .iter()
            .filter_map(|t| self.choice(t, "reading", &words))
            .fold(0, |bits, k| bits | k.bit())
    }

    pub(super) fn within(&mut self, given: &Spanned<u32>) -> u32 {
        if given.value > MAX_WITHIN {
            self.error(
                given.referenced,
                "within",
                format!("within is at most {MAX_WITHIN} characters"),
                None,
            );
        }
        given.value
    }

    pub(super) fn context(&mut self, file: Option<&ContextFile>) -> Option<Context> {
        let file = file?;
        let mut words = Vec::new();
        self.keywords(&file.words, &mut words);
        Some(Context {
            words,
            within: file.within.as_ref().map_or(60, |w| self.within(w)),
            required: file.required,
        })
    }

    pub(super) fn validators(&mut self, given: &[Text]) -> Vec<SmolStr> {
        for text in given {
            if let Some(known) = self.known.validators
                && !known.contains(&text.value.as_str())
            {
                let hint = suggest::hint(&text.value, known.iter().copied());
                self.error(
                    text.referenced,
                    "unknown-validator",
                    format!("no validator is called `{}`{hint}", text.value),
                    None,
                );
            }
        }
        given
            .iter()
            .map(|t| SmolStr::from(t.value.as_str()))
            .collect()
    }

    pub(super) fn window(&mut self, file: &WindowFile) -> Option<Window> {
        if !(2..=MAX_COUNT).contains(&file.count.value) {
            self.error(
                file.count.referenced,
                "window",
                format!("window counts from 2 to {MAX_COUNT} hits"),
                None,
            );
        }
        let within_ms = match duration_ms(&file.within.value) {
            Some(ms) if ms > 0 && ms <= MAX_WITHIN_MS => ms,
            _ => {
                self.error(
                    file.within.referenced,
                    "duration",
                    format!("`{}` is no duration of at most a day", file.within.value),
                    Some("write a number and a unit: 90s, 10m, 2h"),
                );
                return None;
            }
        };
        let by = file.by.as_ref().map_or(Some(Subject::User), |t| {
            self.choice(
                t,
                "subject",
                &[
                    ("user", Subject::User),
                    ("session", Subject::Session),
                    ("key", Subject::Key),
                ],
            )
        })?;
        Some(Window {
            count: file.count.value,
            within_ms,
            by,
        })
    }

    pub(super) fn exceptions(
        &mut self,
        given: Option<&Spanned<Vec<Spanned<ExceptionFile>>>>,
    ) -> Vec<Exception> {
        let Some(given) = given else {
            return Vec::new();
        };
        if given.value.is_empty() {
            self.error(
                given.referenced,
                "empty-exception",
                "`exceptions` is empty".to_owned(),
                Some("remove the key or say what is excepted"),
            );
        }
        let mut kept = Vec::new();
        for file in &given.value {
            let file = &file.value;
            if file.reason.value.trim().is_empty() {
                self.error(
                    file.reason.referenced,
                    "empty-reason",
                    "an exception says why".to_owned(),
                    None,
                );
            }
            if file.regex.value.is_empty() {
                self.error(
                    file.regex.referenced,
                    "empty-exception",
                    "exception excepts nothing: its regex is empty".to_owned(),
                    None,
                );
                continue;
            }
            if let Err(mistake) = pattern::study(&file.regex.value) {
                self.error(
                    file.regex.referenced,
                    "regex",
                    format!("regex: {}", mistake.message),
                    None,
                );
                self.shift(mistake.start, mistake.width);
                continue;
            }
            let Ok(until) = file.until.value.parse::<jiff::civil::Date>() else {
                self.error(
                    file.until.referenced,
                    "date",
                    format!("`{}` is no day", file.until.value),
                    Some("write YYYY-MM-DD"),
                );
                continue;
            };
            if self.known.today.is_some_and(|today| until < today) {
                self.warn(
                    file.until.referenced,
                    "expired",
                    format!("exception ended on {until} and no longer holds"),
                    Some("remove it, or renew it with a reason"),
                );
                continue;
            }
            kept.push(Exception {
                reason: file.reason.value.clone(),
                until,
                regex: file.regex.value.clone(),
            });
        }
        kept
    }

    pub(super) fn tests(&mut self, file: &RuleFile, status: Option<Status>) -> Vec<Test> {
        if self.known.untested {
            return Vec::new();
        }
        let tests: Vec<Test> = file.tests.iter().filter_map(|t| self.test(t)).collect();
        if tests.len() < file.tests.len() {
            return tests;
        }
        let needed = !matches!(status, Some(Status::Experimental | Status::Deprecated));
        for (wanted, name) in [(true, "match"), (false, "non-match")] {
            if needed && !tests.iter().any(|t| t.matches == wanted) {
                self.error(
                    file.id.referenced,
                    "tests",
                    format!("tests lack a {name}"),
                    Some("a rule is tested with at least one text that it must find and one that it must not"),
                );
            }
        }
        tests
    }

    fn test(&mut self, file: &Spanned<TestFile>) -> Option<Test> {
        let place = file.referenced;
        let file = &file.value;
        let role = file
            .role
            .as_ref()
            .map_or(Some(Role::User), |t| self.choice(t, "role", &ROLES))?;
        let side = file
            .side
            .as_ref()
            .map_or(Some(Side::Request), |t| self.choice(t, "side", &SIDES))?;
        let events = match (&file.text, &file.events) {
            (Some(text), None) => vec![(0, text.value.clone())],
            (None, Some(events)) if events.value.is_empty() => {
                self.error(
                    events.referenced,
                    "empty-list",
                    "`events` is empty".to_owned(),
                    None,
                );
                return None;
            }
            (None, Some(events)) => {
                let mut list = Vec::new();
                for event in &events.value {
                    let Some(ms) = duration_ms(&event.offset.value) else {
                        self.error(
                            event.offset.referenced,
                            "duration",
                            format!("`{}` is no duration", event.offset.value),
                            Some("write a number and a unit: 0s, 90s, 10m"),
                        );
                        return None;
                    };
                    if list.last().is_some_and(|(last, _)| *last > ms) {
                        self.error(
                            event.offset.referenced,
                            "order",
                            "events go forward in time".to_owned(),
                            None,
                        );
                        return None;
                    }
                    list.push((ms, event.text.clone()));
                }
                list
            }
            _ => {
                self.error(
                    place,
                    "test-text",
                    "a test has either `text` or `events`".to_owned(),
                    None,
                );
                return None;
            }
        };
        Some(Test {
            name: file.name.clone(),
            events,
            matches: file.matches,
            value: file.value.clone(),
            role,
            side,
            line: u32::try_from(place.line()).unwrap_or(1),
            column: u32::try_from(place.column()).unwrap_or(1),
        })
    }
}
