//! Routes, matchers, silences and inhibition: what they mean in Alertmanager.
//!
//! The tree is walked depth-first: the first child that matches takes the incident, unless it says
//! `continue`; if no child matches, the node itself does.

use regex::Regex;
use serde::{Deserialize, Serialize};

use super::{Head, Titles};
use crate::event::{Severity, SmolStr, Stage, Time};

/// What a matcher or a group looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Field {
    /// The incident key: a group of its own for each incident.
    Key,
    /// Tenant.
    Tenant,
    /// Detector.
    Detector,
    /// Rule id.
    Rule,
    /// Severity.
    Severity,
    /// Stage.
    Stage,
    /// `user:…`, `model:…`.
    Subject,
    /// User.
    User,
    /// Model.
    Model,
    /// Gateway.
    Gateway,
}

impl Field {
    /// The field's value in a head; empty where absent.
    pub fn of(self, head: &Head) -> SmolStr {
        match self {
            Self::Key => smol_str::format_smolstr!("{}", head.key),
            Self::Tenant => head.tenant.clone(),
            Self::Detector => SmolStr::new_static(head.detector.as_str()),
            Self::Rule => head.rule.clone(),
            Self::Severity => SmolStr::new_static(head.severity.as_str()),
            Self::Stage => SmolStr::new_static(head.stage.as_str()),
            Self::Subject => head.subject.clone(),
            Self::User => head.user.clone().unwrap_or_default(),
            Self::Model => head.model.clone().unwrap_or_default(),
            Self::Gateway => head.gateway.clone().unwrap_or_default(),
        }
    }
    /// The field of that name.
    pub fn parse(s: &str) -> Option<Self> {
        serde_json::from_value(serde_json::Value::String(s.to_owned())).ok()
    }
}

/// One condition: `detector=leak`, `tenant!=acme`, `rule=~inj-.*`, `model!~gpt-.*`.
#[derive(Debug, Clone)]
pub struct Matcher {
    /// What is looked at.
    pub field: Field,
    /// How.
    test: Test,
    text: SmolStr,
}

#[derive(Debug, Clone)]
enum Test {
    Equal(SmolStr),
    NotEqual(SmolStr),
    Match(Regex),
    NotMatch(Regex),
}

impl PartialEq for Matcher {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

/// A matcher that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "matcher `{text}`: {problem}; write field=value, field!=value, field=~regex or field!~regex"
)]
pub struct BadMatcher {
    /// As written.
    pub text: String,
    /// What is wrong.
    pub problem: String,
}

impl Matcher {
    /// Parses a condition. A regex must match the whole value, as in Alertmanager.
    pub fn parse(text: &str) -> Result<Self, BadMatcher> {
        let bad = |problem: String| BadMatcher {
            text: text.to_owned(),
            problem,
        };
        let at = text
            .find(['=', '!'])
            .ok_or_else(|| bad("no operator".to_owned()))?;
        let (name, rest) = text.split_at(at);
        let field = Field::parse(name.trim())
            .ok_or_else(|| bad(format!("unknown field `{}`", name.trim())))?;
        let (op, value) = ["=~", "!~", "!=", "="]
            .into_iter()
            .find_map(|op| rest.strip_prefix(op).map(|v| (op, v)))
            .ok_or_else(|| bad("unknown operator".to_owned()))?;
        let value = value.trim().trim_matches('"');
        let regex =
            || Regex::new(&format!("^(?:{value})$")).map_err(|_| bad("not a regex".to_owned()));
        let test = match op {
            "=" => Test::Equal(SmolStr::new(value)),
            "!=" => Test::NotEqual(SmolStr::new(value)),
            "=~" => Test::Match(regex()?),
            _ => Test::NotMatch(regex()?),
        };
        Ok(Self {
            field,
            test,
            text: SmolStr::new(text.trim()),
        })
    }

    /// Whether the head fulfils it.
    pub fn matches(&self, head: &Head) -> bool {
        let v = self.field.of(head);
        match &self.test {
            Test::Equal(want) => v == *want,
            Test::NotEqual(want) => v != *want,
            Test::Match(re) => re.is_match(&v),
            Test::NotMatch(re) => !re.is_match(&v),
        }
    }

    /// As written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// A node of the routing tree, complete: what it does not say it has inherited.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// Path-like and unique: part of the group key.
    pub name: SmolStr,
    /// All must match.
    pub matchers: Vec<Matcher>,
    /// Where its notifications go.
    pub sinks: Vec<SmolStr>,
    /// Which incidents are told together.
    pub group_by: Vec<Field>,
    /// How long a new group waits for more.
    pub group_wait_ms: i64,
    /// How long a group that was told waits before it tells news.
    pub group_interval_ms: i64,
    /// How often an open group is told again.
    pub repeat_interval_ms: i64,
    /// Less severe incidents have the fate `below_severity`.
    pub min_severity: Severity,
    /// Only incidents of at least this stage.
    pub min_stage: Stage,
    /// Whether later siblings are tried too.
    pub carry_on: bool,
    /// Tells these sinks when a page is not acknowledged in time.
    pub escalate: Option<Escalate>,
    /// Tried first, in order.
    pub children: Vec<Self>,
}

/// Who is told when nobody acknowledges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Escalate {
    /// How long after the first notification.
    pub after_ms: i64,
    /// Who.
    pub sinks: Vec<SmolStr>,
}

/// Most notifications below critical a sink gets in one storm window, where none is given: a person
/// cannot read more.
pub const DEFAULT_STORM_LIMIT: u32 = 20;
/// Length of the storm window, where none is given.
pub const DEFAULT_STORM_WINDOW_MS: i64 = 5 * 60_000;
/// `repeat_interval` where none is given.
pub const DEFAULT_REPEAT_MS: i64 = 4 * 3_600_000;
/// `group_interval` where none is given.
pub const DEFAULT_GROUP_INTERVAL_MS: i64 = 5 * 60_000;
/// `group_wait` of routes that are not critical, where none is given.
pub const DEFAULT_GROUP_WAIT_MS: i64 = 30_000;

impl Route {
    /// A route that takes everything, at once, each incident on its own.
    pub fn catch_all(name: &str, sinks: Vec<SmolStr>) -> Self {
        Self {
            name: SmolStr::new(name),
            matchers: Vec::new(),
            sinks,
            group_by: vec![Field::Key],
            group_wait_ms: 0,
            group_interval_ms: 0,
            repeat_interval_ms: DEFAULT_REPEAT_MS,
            min_severity: Severity::Informational,
            min_stage: Stage::Ticket,
            carry_on: false,
            escalate: None,
            children: Vec::new(),
        }
    }

    fn takes(&self, head: &Head) -> bool {
        head.stage >= self.min_stage && self.matchers.iter().all(|m| m.matches(head))
    }

    fn walk<'a>(&'a self, head: &Head, out: &mut Vec<&'a Self>) -> bool {
        if !self.takes(head) {
            return false;
        }
        let mut taken = false;
        for child in &self.children {
            if child.walk(head, out) {
                taken = true;
                if !child.carry_on {
                    return true;
                }
            }
        }
        if !taken {
            out.push(self);
        }
        true
    }

    fn find(&self, name: &str) -> Option<&Self> {
        if self.name == name {
            return Some(self);
        }
        self.children.iter().find_map(|c| c.find(name))
    }
}

/// Mutes targets while a source fires.
#[derive(Debug, Clone, PartialEq)]
pub struct Inhibit {
    /// The incident that mutes.
    pub source: Vec<Matcher>,
    /// The incidents that are muted.
    pub target: Vec<Matcher>,
    /// Both must agree in these.
    pub equal: Vec<Field>,
}

/// Mutes incidents for a time.
#[derive(Debug, Clone, PartialEq)]
pub struct Silence {
    /// Its row.
    pub id: SmolStr,
    /// All must match; never empty.
    pub matchers: Vec<Matcher>,
    /// From.
    pub starts: Time,
    /// Until (exclusive).
    pub ends: Time,
}

impl Silence {
    /// Whether it mutes the head now.
    pub fn mutes(&self, head: &Head, now: Time) -> bool {
        self.starts <= now
            && now < self.ends
            && !self.matchers.is_empty()
            && self.matchers.iter().all(|m| m.matches(head))
    }
}

/// Everything the notifier is configured with.
#[derive(Debug, Clone, PartialEq)]
pub struct Routes {
    /// The root of the tree.
    pub root: Route,
    /// Inhibition rules.
    pub inhibit: Vec<Inhibit>,
    /// Most notifications below critical per sink and [`Routes::storm_window_ms`]; more become a
    /// digest.
    pub storm_limit: u32,
    /// Length of that window.
    pub storm_window_ms: i64,
    /// Where runbooks stand; the detector's name and `.md` are appended.
    pub runbook_base: SmolStr,
    /// What rules are called in messages.
    pub titles: Titles,
}

impl Routes {
    /// One route for everything (what `replay` uses without a config).
    pub fn single(sinks: Vec<SmolStr>) -> Self {
        Self {
            root: Route::catch_all("root", sinks),
            inhibit: Vec::new(),
            // A replay is read by a program or a person who asked for all of it.
            storm_limit: u32::MAX,
            storm_window_ms: DEFAULT_STORM_WINDOW_MS,
            runbook_base: SmolStr::new_static("deploy/runbooks/"),
            titles: Titles::default(),
        }
    }

    /// The routes an incident goes to.
    pub fn of(&self, head: &Head) -> Vec<&Route> {
        let mut out = Vec::new();
        self.root.walk(head, &mut out);
        out
    }

    /// The route of that name.
    pub fn get(&self, name: &str) -> Option<&Route> {
        self.root.find(name)
    }
}
