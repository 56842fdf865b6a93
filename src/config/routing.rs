//! `[deliver]`: which incident goes where, what mutes what, how much is too much.

use std::collections::BTreeMap;
use std::time::Duration;

use super::delivery::SinkSetting;
use super::reader::Section;
use crate::detect::DetectorId;
use crate::event::{Severity, Stage};

/// A day: the longest that a notification may be held back.
const DAY: Duration = Duration::from_secs(86_400);

/// All of the routing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Routing {
    /// Which go where. Empty: everything to every sink.
    pub routes: Vec<RouteSetting>,
    /// What mutes what.
    pub inhibit: Vec<InhibitSetting>,
    /// Most notifications below critical per sink, severity and window; more become a digest.
    pub storm_limit: Option<u32>,
    /// Length of that window.
    pub storm_window: Option<Duration>,
    /// Where the runbooks stand: a folder or an address that ends in `/`.
    pub runbooks: Option<String>,
}

/// One `[[deliver.route]]`, tried in order; the first that matches takes it unless `continue`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteSetting {
    /// What the route is called; without one, its matchers name it.
    pub name: Option<String>,
    /// Matchers over [`FIELDS`]; a trailing `*` matches any ending.
    pub matchers: BTreeMap<String, String>,
    /// Sinks by name.
    pub sinks: Vec<String>,
    /// Fields that form a group; empty: each incident alone.
    pub group_by: Vec<String>,
    /// Wait for more of the group before the first notification.
    pub group_wait: Option<Duration>,
    /// Least time between notifications of a group.
    pub group_interval: Duration,
    /// Told again while it fires.
    pub repeat_interval: Duration,
    /// Lower is recorded, not told.
    pub min_severity: Severity,
    /// Only incidents of at least this stage.
    pub min_stage: Stage,
    /// Go on to the next route.
    pub proceed: bool,
    /// Tell these too when a page was not acknowledged for so long.
    pub escalate: Option<(Duration, Vec<String>)>,
}

/// One `[[deliver.inhibit]]`: while an incident that matches `source` is open, those that match
/// `target` and agree with it in `equal` are not told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InhibitSetting {
    /// The incident that mutes.
    pub source: BTreeMap<String, String>,
    /// The incidents that are muted.
    pub target: BTreeMap<String, String>,
    /// Fields in which both must agree.
    pub equal: Vec<String>,
}

/// Fields that a matcher or a group may name.
pub const FIELDS: [&str; 9] = [
    "detector", "rule", "tenant", "user", "model", "subject", "severity", "stage", "gateway",
];

/// The severities, as they are written.
const SEVERITIES: [(&str, Severity); 5] = [
    ("informational", Severity::Informational),
    ("low", Severity::Low),
    ("medium", Severity::Medium),
    ("high", Severity::High),
    ("critical", Severity::Critical),
];

/// Reads the routing from `[deliver]`.
pub(super) fn read(s: &Section<'_, '_>, sinks: &[SinkSetting]) -> Routing {
    let mut routing = Routing {
        storm_limit: s
            .integer("storm_limit", 1, 100_000)
            .and_then(|n| u32::try_from(n).ok()),
        storm_window: s.duration("storm_window", Duration::from_secs(10), DAY),
        runbooks: s.str("runbooks"),
        ..Routing::default()
    };
    if routing
        .runbooks
        .as_ref()
        .is_some_and(|r| !r.ends_with('/') || r.chars().any(char::is_whitespace))
    {
        s.problem(
            "runbooks",
            "is not a place to append a file name to",
            "write a folder or an address that ends in /, such as \"https://wiki.example.com/veilwatch/\"",
        );
    }
    for t in s.sections("route") {
        let r = route(&t, sinks);
        if r.name.is_some() && routing.routes.iter().any(|o| o.name == r.name) {
            t.problem(
                "name",
                "is another route's name too",
                "give each route a name of its own, or none",
            );
        }
        routing.routes.push(r);
        t.finish();
    }
    for t in s.sections("inhibit") {
        routing.inhibit.push(inhibit(&t));
        t.finish();
    }
    routing
}

fn known<'n>(s: &Section<'_, '_>, key: &str, names: impl Iterator<Item = &'n String>) {
    for n in names {
        if !FIELDS.contains(&n.as_str()) {
            s.problem(
                key,
                format!("\"{n}\" is not a field"),
                format!("use {}", FIELDS.join(", ")),
            );
        }
    }
}

/// A table of matchers. What can never match is an error, not a route that stays silent.
fn matchers(s: &Section<'_, '_>, key: &str) -> BTreeMap<String, String> {
    let table = s.string_table(key);
    known(s, key, table.keys());
    for (field, value) in &table {
        let words: Vec<&str> = match field.as_str() {
            "detector" => DetectorId::ALL.iter().map(|d| d.as_str()).collect(),
            "severity" => SEVERITIES.iter().map(|(n, _)| *n).collect(),
            "stage" => vec!["ticket", "page"],
            _ => continue,
        };
        let fits = match value.strip_suffix('*') {
            Some(start) => words.iter().any(|w| w.starts_with(start)),
            None => words.contains(&value.as_str()),
        };
        if !fits {
            s.problem(
                key,
                format!("\"{value}\" is no {field}: it would never match"),
                format!("use {}", words.join(", ")),
            );
        }
    }
    table
}

fn sink_names(s: &Section<'_, '_>, key: &str, sinks: &[SinkSetting]) -> Vec<String> {
    let names = s.strings(key).unwrap_or_default();
    for n in &names {
        if !sinks.iter().any(|k| k.name == *n) {
            s.problem(
                key,
                format!("\"{n}\" is not a sink"),
                "name one of the [[deliver.sink]] tables",
            );
        }
    }
    names
}

fn route(s: &Section<'_, '_>, sinks: &[SinkSetting]) -> RouteSetting {
    let matchers = matchers(s, "match");
    let group_by = s.strings("group_by").unwrap_or_default();
    known(s, "group_by", group_by.iter());
    let names = sink_names(s, "sinks", sinks);
    if names.is_empty() && !s.has("sinks") {
        s.missing(
            "sinks",
            "list the sinks by name; an empty list records without telling",
        );
    }
    let after = s.duration("escalate_after", Duration::from_secs(10), DAY);
    let above = sink_names(s, "escalate_to", sinks);
    let escalate = match after {
        Some(after) if !above.is_empty() => Some((after, above)),
        Some(_) => {
            s.missing("escalate_to", "list who is told when nobody acknowledges");
            None
        }
        None if !above.is_empty() && !s.has("escalate_after") => {
            s.missing(
                "escalate_after",
                "say how long a page may stay unacknowledged, such as \"15m\"",
            );
            None
        }
        None => None,
    };
    let name = s.str("name");
    if let Some(name) = &name
        && !(1..=64).contains(&name.len())
    {
        s.problem(
            "name",
            "is empty or longer than 64 bytes",
            "write a short word",
        );
    }
    RouteSetting {
        name,
        matchers,
        sinks: names,
        group_by,
        group_wait: s.duration("group_wait", Duration::ZERO, DAY),
        group_interval: s
            .duration("group_interval", Duration::ZERO, DAY)
            .unwrap_or(Duration::from_secs(300)),
        repeat_interval: s
            .duration("repeat_interval", Duration::from_secs(10), 30 * DAY)
            .unwrap_or(Duration::from_secs(4 * 3600)),
        min_severity: s.word("min_severity", &SEVERITIES).unwrap_or(Severity::Low),
        min_stage: s
            .word(
                "min_stage",
                &[("ticket", Stage::Ticket), ("page", Stage::Page)],
            )
            .unwrap_or(Stage::Ticket),
        proceed: s.bool("continue").unwrap_or(false),
        escalate,
    }
}

fn inhibit(s: &Section<'_, '_>) -> InhibitSetting {
    let source = matchers(s, "source");
    let target = matchers(s, "target");
    for (key, table) in [("source", &source), ("target", &target)] {
        // An empty table would match everything: one incident would mute all others.
        if table.is_empty() {
            s.missing(
                key,
                "say which incidents, such as { detector = \"errors\" }",
            );
        }
    }
    let equal = s.strings("equal").unwrap_or_default();
    known(s, "equal", equal.iter());
    InhibitSetting {
        source,
        target,
        equal,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::{Config, Source, no_env};

    fn problems(deliver: &str) -> Vec<String> {
        let text = format!(
            "[ingest]\nbrokers = \"127.0.0.1:9092\"\ntopics = [{{ name = \"e\", mode = \"sealed\" }}]\n\
             [store]\nurl = \"postgres://u@127.0.0.1/v\"\n[[deliver.sink]]\nname = \"a\"\nkind = \"stdout\"\n{deliver}"
        );
        let source = Source {
            text: &text,
            dir: Path::new("."),
            env: &no_env(),
        };
        match Config::parse(&source) {
            Ok(_) => Vec::new(),
            Err(p) => p.iter().map(|p| format!("{p}")).collect(),
        }
    }

    #[test]
    fn escalation_and_inhibition_are_read() {
        let said = problems(
            "[[deliver.route]]\nmatch = { stage = \"page\", rule = \"inj-*\" }\nsinks = [\"a\"]\n\
             escalate_after = \"15m\"\nescalate_to = [\"a\"]\n\
             [[deliver.inhibit]]\nsource = { detector = \"errors\" }\ntarget = { detector = \"latency\" }\nequal = [\"model\"]\n\
             [deliver]\nstorm_limit = 5\nstorm_window = \"1m\"\nrunbooks = \"https://wiki.example.com/v/\"\n",
        );
        assert_eq!(said, Vec::<String>::new());
    }

    #[test]
    fn what_can_never_work_is_said() {
        for (text, word) in [
            (
                "[[deliver.route]]\nsinks = [\"a\"]\nescalate_after = \"15m\"\n",
                "escalate_to",
            ),
            (
                "[[deliver.route]]\nsinks = [\"a\"]\nescalate_to = [\"a\"]\n",
                "escalate_after",
            ),
            (
                "[[deliver.route]]\nsinks = [\"a\"]\nescalate_after = \"15m\"\nescalate_to = [\"b\"]\n",
                "\"b\" is not a sink",
            ),
            (
                "[[deliver.route]]\nsinks = [\"a\"]\nmatch = { severity = \"hihg\" }\n",
                "is no severity",
            ),
            (
                "[[deliver.route]]\nsinks = [\"a\"]\nmatch = { detector = \"leeks*\" }\n",
                "is no detector",
            ),
            (
                "[[deliver.inhibit]]\nsource = { detector = \"errors\" }\n",
                "target",
            ),
            (
                "[[deliver.inhibit]]\nsource = { what = \"x\" }\ntarget = { rule = \"x\" }\n",
                "is not a field",
            ),
            (
                "[[deliver.inhibit]]\nsource = { rule = \"y\" }\ntarget = { rule = \"x\" }\nequal = [\"colour\"]\n",
                "is not a field",
            ),
            (
                "[[deliver.route]]\nname = \"x\"\nsinks = [\"a\"]\n[[deliver.route]]\nname = \"x\"\nsinks = []\n",
                "another route's name",
            ),
            ("[deliver]\nrunbooks = \"nowhere\"\n", "runbooks"),
            ("[deliver]\nstorm_limit = 0\n", "storm_limit"),
        ] {
            let said = problems(text).join("\n");
            assert!(said.contains(word), "{text}: {said}");
        }
    }
}
