//! Findings become incidents, incidents become notifications. Pure: rows and time come in as
//! arguments.
//!
//! [`findings`] turns crossed thresholds into findings; [`fold`] turns findings into changes of
//! incident heads; [`notify::notify`] turns changes into outbox rows. Each is called by `store`'s
//! transactions on rows it has locked, and by `replay` on rows in memory.
//!
//! Conservation: every finding is new, folded, shadow or excepted; every (change, sink) has one fate.

pub mod notify;
pub mod route;
pub mod title;

use std::collections::BTreeMap;

pub use notify::{
    Fate, Group, Notification, NotificationKind, Notified, OutboxRow, notify, notify_and_tell,
};
pub use route::{Escalate, Field, Inhibit, Matcher, Route, Routes, Silence};
use serde::{Deserialize, Serialize};
pub use title::Titles;

use crate::account::{Crossing, Scope, Unit, tenant_of};
use crate::detect::{DetectorId, Finding, Stages, finding_id};
use crate::event::{Hash16, Severity, SmolStr, Stage, Time, hash16};

/// A finding this long after an incident resolved reopens it; later, it is the next number. Larger
/// would join unrelated problems, smaller would page twice for one that flaps.
pub const REOPEN_WITHIN_MS: i64 = 30 * 60_000;
/// Version of the budget findings' rule.
const BUDGET_VERSION: u32 = 1;
/// A budget without an end (`total`) resolves after this time.
const TOTAL_RESOLVE_MS: i64 = 30 * 86_400_000;

/// Where an incident stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nobody has said anything yet.
    Open,
    /// Somebody is on it.
    Acknowledged,
    /// Over.
    Resolved,
}

impl State {
    /// The wire name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Acknowledged => "acknowledged",
            Self::Resolved => "resolved",
        }
    }
}

/// The head row of an incident key: its latest number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// hash(tenant, detector, rule, subject).
    #[serde(with = "hex")]
    pub key: Hash16,
    /// Tenant, empty where none is given.
    pub tenant: SmolStr,
    /// Who saw it.
    pub detector: DetectorId,
    /// By which rule.
    pub rule: SmolStr,
    /// About what.
    pub subject: SmolStr,
    /// Counts the incidents of this key, from 1.
    pub number: i32,
    /// Where it stands.
    pub state: State,
    /// The worst of its findings since it opened or reopened.
    pub severity: Severity,
    /// The furthest of their stages.
    pub stage: Stage,
    /// `end` of the finding that opened it.
    #[serde(with = "millis")]
    pub opened_at: Time,
    /// Latest `end` of its findings.
    #[serde(with = "millis")]
    pub last_end: Time,
    /// When it resolves by itself.
    #[serde(with = "millis")]
    pub resolve_at: Time,
    /// When it did resolve: `resolve_at`, or the database's time where a person resolved it.
    #[serde(with = "millis_option")]
    pub resolved_at: Option<Time>,
    /// How many findings this number has.
    pub findings: i64,
    /// Counts the head's updates: compare-and-set.
    pub version: i64,
    /// Of a wide budget: locked after the wide ledgers.
    pub wide: bool,
    /// User, of the latest finding that opened, reopened or escalated it.
    pub user: Option<SmolStr>,
    /// Model, of the same finding.
    pub model: Option<SmolStr>,
    /// Gateway, of the same finding.
    pub gateway: Option<SmolStr>,
    /// Event, of the same finding.
    pub event: Option<SmolStr>,
    /// Reason, of the same finding.
    pub reason: String,
}

impl Head {
    /// What outside systems deduplicate by: hash(key, number).
    pub fn dedup_key(&self) -> Hash16 {
        dedup_key(self.key, self.number)
    }
    /// The moment after which it counts as resolved, announced or not.
    pub fn ends_at(&self) -> Time {
        self.resolved_at.unwrap_or(self.resolve_at)
    }
    /// Resolves it at its own moment. `None` if it is not due or already resolved.
    pub fn resolve(&mut self, watermark: Time) -> Option<Change> {
        if self.state == State::Resolved || self.resolve_at >= watermark {
            return None;
        }
        self.state = State::Resolved;
        self.resolved_at = Some(self.resolve_at);
        self.version += 1;
        Some(self.change(ChangeKind::Resolved, self.resolve_at))
    }
    /// A change of this head as it stands.
    pub fn change(&self, kind: ChangeKind, at: Time) -> Change {
        Change {
            key: self.key,
            number: self.number,
            version: self.version,
            kind,
            at,
            severity: self.severity,
            stage: self.stage,
            reason: self.reason.clone(),
        }
    }
}

/// hash(key, number).
pub fn dedup_key(key: Hash16, number: i32) -> Hash16 {
    hash16("dedup", &[&key.0, &number.to_le_bytes()])
}

/// What happened to an incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// A new number.
    Opened,
    /// The same number again, within 30 min of its end.
    Reopened,
    /// Worse than before.
    Escalated,
    /// Somebody is on it.
    Acknowledged,
    /// Over, by itself or by hand.
    Resolved,
    /// Still open: the notifier says so again.
    Repeat,
}

impl ChangeKind {
    /// The wire name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Reopened => "reopened",
            Self::Escalated => "escalated",
            Self::Acknowledged => "acknowledged",
            Self::Resolved => "resolved",
            Self::Repeat => "repeat",
        }
    }
    /// All kinds.
    pub const ALL: [Self; 6] = [
        Self::Opened,
        Self::Reopened,
        Self::Escalated,
        Self::Acknowledged,
        Self::Resolved,
        Self::Repeat,
    ];
    /// The kind of that name.
    pub fn parse(s: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.as_str() == s)
    }
}

/// A change of an incident; a row, and a candidate for every sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Incident key.
    pub key: Hash16,
    /// Its number.
    pub number: i32,
    /// The head's version after the change: (key, version) is unique.
    pub version: i64,
    /// What happened.
    pub kind: ChangeKind,
    /// When it happens in virtual time.
    pub at: Time,
    /// Severity after the change.
    pub severity: Severity,
    /// Stage after the change.
    pub stage: Stage,
    /// Why.
    pub reason: String,
}

/// What became of the findings of a call of [`fold`]: findings = new + folded + shadow + excepted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FindingFates {
    /// Opened a number.
    pub new: u64,
    /// Joined a number that was there.
    pub folded: u64,
    /// Only counted.
    pub shadow: u64,
    /// Covered by an exception.
    pub excepted: u64,
}

/// What [`fold`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Folded {
    /// In the order of the findings.
    pub changes: Vec<Change>,
    /// One fate each.
    pub fates: FindingFates,
    /// (incident key, number) of each finding, in order; `None` for shadow and excepted ones.
    pub incidents: Vec<Option<(Hash16, i32)>>,
}

/// Folds findings, in the given order, into the heads of their keys. `heads` holds the locked rows
/// of those keys that exist; new ones are added. Only heads that were touched have a new version.
pub fn fold(findings: &[Finding], heads: &mut BTreeMap<Hash16, Head>) -> Folded {
    let mut out = Folded::default();
    for f in findings {
        if f.stage == Stage::Shadow {
            out.fates.shadow += 1;
            out.incidents.push(None);
            continue;
        }
        let key = f.key();
        let number = match heads.get_mut(&key) {
            None => {
                let head = opened(key, f, 1, 1);
                out.changes.push(head.change(ChangeKind::Opened, f.at));
                out.fates.new += 1;
                heads.insert(key, head);
                1
            }
            Some(head) if f.end.0 > head.ends_at().0.saturating_add(REOPEN_WITHIN_MS) => {
                *head = opened(key, f, head.number + 1, head.version + 1);
                out.changes.push(head.change(ChangeKind::Opened, f.at));
                out.fates.new += 1;
                head.number
            }
            Some(head) => {
                out.fates.folded += 1;
                out.changes.extend(join(head, f));
                head.number
            }
        };
        out.incidents.push(Some((key, number)));
    }
    out
}

fn opened(key: Hash16, f: &Finding, number: i32, version: i64) -> Head {
    Head {
        key,
        tenant: f.tenant.clone(),
        detector: f.detector,
        rule: f.rule.clone(),
        subject: f.subject.clone(),
        number,
        state: State::Open,
        severity: f.severity,
        stage: f.stage,
        opened_at: f.end,
        last_end: f.end,
        resolve_at: f.end.plus_ms(f.resolve_after_ms),
        resolved_at: None,
        findings: 1,
        version,
        wide: is_wide(f),
        user: concerned(f),
        model: f.model.clone(),
        gateway: f.gateway.clone(),
        event: f.event.clone(),
        reason: f.reason.clone(),
    }
}

/// Adds a finding to a number that is there: folded in, reopening or escalating it.
fn join(head: &mut Head, f: &Finding) -> Option<Change> {
    let after_the_end = f.end > head.ends_at();
    let worse = f.severity > head.severity || f.stage > head.stage;
    head.findings += 1;
    head.version += 1;
    if head.state == State::Resolved && !after_the_end {
        // Late news about a closed incident: counted, not reopened.
        return None;
    }
    head.last_end = head.last_end.max(f.end);
    head.resolve_at = head.resolve_at.max(f.end.plus_ms(f.resolve_after_ms));
    let kind = if after_the_end {
        // It begins anew: how bad it was the last time is no news about this time.
        head.severity = f.severity;
        head.stage = f.stage;
        ChangeKind::Reopened
    } else if worse {
        head.severity = head.severity.max(f.severity);
        head.stage = head.stage.max(f.stage);
        ChangeKind::Escalated
    } else {
        return None;
    };
    head.state = State::Open;
    head.resolved_at = None;
    head.user = concerned(f);
    head.model.clone_from(&f.model);
    head.gateway.clone_from(&f.gateway);
    head.event.clone_from(&f.event);
    head.reason.clone_from(&f.reason);
    Some(head.change(kind, f.at))
}

/// The user that an incident is about: nobody where it is about a gateway and many users are in it.
fn concerned(f: &Finding) -> Option<SmolStr> {
    let user = f.user.filter(|_| !f.subject.starts_with("gateway:"));
    user.map(|u| smol_str::format_smolstr!("{u}"))
}

/// Whether a finding's head is locked after the wide ledgers: a budget of anything wider than a
/// user.
pub fn is_wide(f: &Finding) -> bool {
    f.detector == DetectorId::Budget && !f.subject.starts_with("user:")
}

/// Judges crossed thresholds. 50 % is for the record, 80 % a ticket, 100 % a page.
pub fn findings(crossings: &[Crossing], stages: &Stages) -> Vec<Finding> {
    crossings.iter().map(|c| finding(c, stages)).collect()
}

/// Makes a finding about a crossing one about all subjects of the budget that are not told by name.
pub fn crowd(f: &mut Finding, c: &Crossing) {
    f.tenant = SmolStr::default();
    f.subject = subject_of(c, "(many)");
    f.reason = format!(
        "one of more subjects than are told of in an hour: {}",
        f.reason
    );
}

fn subject_of(c: &Crossing, whose: &str) -> SmolStr {
    let scope = c.scope.as_str();
    if c.period.end().is_some() {
        smol_str::format_smolstr!("{scope}:{whose} {}", c.period)
    } else {
        smol_str::format_smolstr!("{scope}:{whose}")
    }
}

/// The period is part of the subject: what late usage says of an hour that is over must not hide what
/// is to be said of the present one.
fn finding(c: &Crossing, stages: &Stages) -> Finding {
    let (severity, stage) = match c.threshold_pct {
        100.. => (Severity::High, Stage::Page),
        80.. => (Severity::Medium, Stage::Ticket),
        _ => (Severity::Low, Stage::Ticket),
    };
    let rule = smol_str::format_smolstr!("budget-{}", c.budget_id);
    let subject = subject_of(c, &c.subject);
    let tenant = tenant_of(c.scope, &c.subject);
    let amount = |v: i128| match c.unit {
        Unit::Tokens => format!("{v} tokens"),
        Unit::Usd => dollars(v),
    };
    let window = format!("{} {}", c.period, c.threshold_pct);
    // The incident lasts as long as the period: the next one starts from nothing.
    let resolve_after_ms = match c.period.end() {
        Some(end) => end.since_ms(c.at).max(0),
        None => TOTAL_RESOLVE_MS,
    };
    Finding {
        id: finding_id(
            DetectorId::Budget,
            &rule,
            BUDGET_VERSION,
            &subject,
            window.as_bytes(),
        ),
        detector: DetectorId::Budget,
        version: BUDGET_VERSION,
        severity,
        stage: stages.cap(DetectorId::Budget, stage),
        tenant,
        at: c.at,
        start: c.at,
        end: c.at,
        user: match c.scope {
            Scope::User => c.subject.parse().ok(),
            _ => None,
        },
        model: (c.scope == Scope::Model).then(|| c.subject.clone()),
        gateway: None,
        event: None,
        reason: format!(
            "{} {} has used {} of {}, past {} %, {}",
            c.scope.as_str(),
            c.subject,
            amount(c.new_value),
            amount(c.limit),
            c.threshold_pct,
            match (c.period.kind(), c.period.as_str().split_once(':')) {
                (Some(kind), Some((_, name))) => format!("in the {} {name}", kind.as_str()),
                _ => "in total".to_owned(),
            },
        ),
        rule,
        subject,
        resolve_after_ms,
    }
}

/// The command that silences an incident and its like. A budget's next period is another subject, which
/// the silence is meant for as well.
pub fn silence_command(detector: &str, rule: &str, subject: &str) -> String {
    let subject = match subject.split_once(' ') {
        Some((whose, _)) if detector == DetectorId::Budget.as_str() => {
            format!("subject=~{}( .*)?", regex::escape(whose))
        }
        _ => format!("subject={subject}"),
    };
    // Names come out of records, and this line is made to be pasted into a shell.
    let quoted = |word: &str| word.replace('\'', "'\\''");
    format!(
        "veilwatch silence add --for 2h --comment 'why' 'rule={}' '{}'",
        quoted(rule),
        quoted(&subject)
    )
}

/// Pico-dollars as dollars, exact to the cent below, for people.
pub fn dollars(pico: i128) -> String {
    let cents = pico.div_euclid(10_000_000_000);
    let sign = if cents < 0 { "-" } else { "" };
    let cents = cents.unsigned_abs();
    format!("{sign}${}.{:02}", cents / 100, cents % 100)
}

/// Serde of [`Hash16`] as hex.
pub(crate) mod hex {
    use crate::event::Hash16;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(v: &Hash16, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(v)
    }
    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Hash16, D::Error> {
        let s = String::deserialize(d)?;
        s.parse()
            .map_err(|()| serde::de::Error::custom("32 hexadecimal digits are expected"))
    }
}

/// Serde of [`Time`] as milliseconds.
pub(crate) mod millis {
    use crate::event::Time;
    use serde::{Deserialize as _, Deserializer, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
    pub(crate) fn serialize<S: Serializer>(v: &Time, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_i64(v.0)
    }
    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Time, D::Error> {
        i64::deserialize(d).map(Time)
    }
}

/// Serde of an optional [`Time`] as milliseconds.
pub(crate) mod millis_option {
    use crate::event::Time;
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    #[expect(clippy::ref_option, reason = "serde calls it with a reference")]
    pub(crate) fn serialize<S: Serializer>(v: &Option<Time>, s: S) -> Result<S::Ok, S::Error> {
        v.map(|t| t.0).serialize(s)
    }
    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Time>, D::Error> {
        Option::<i64>::deserialize(d).map(|t| t.map(Time))
    }
}

#[cfg(test)]
mod tests;
