//! Tools and models outside the allow-lists. Home: none; one event is enough.
//!
//! The lists come from `[detect] allowed_tools` and `allowed_models`; an empty list allows everything.
//! An entry allows its own name, the dated versions of a model (`gpt-4o` allows `gpt-4o-2024-08-06` and
//! `gpt-4o-latest`, not `gpt-4o-mini`), and with a `*` at its end whatever begins with it. A model is
//! judged as requested and as served: a gateway that serves another one than was asked for is seen.

use super::partition::Subject;
use super::{DetectConfig, DetectorId, Finding, finding_id};
use crate::event::{Event, Severity, SmolStr, Stage, Time};

/// A tool that is not on the list was called.
pub const TOOL_RULE: &str = "access-tool";
/// A model that is not on the list was asked for, or answered.
pub const MODEL_RULE: &str = "access-model";
const VERSION: u32 = 1;
/// It is over when nothing was seen for this long, milliseconds.
pub const RESOLVE_AFTER_MS: i64 = 60 * 60_000;

/// Judges an event: at most one finding for its tools and one for its models.
pub(super) fn judge(
    config: &DetectConfig,
    event: &Event,
    end: Time,
    subject: &Subject<'_>,
) -> Vec<Finding> {
    let lists = &config.access;
    if lists.tools.is_empty() && lists.models.is_empty() {
        return Vec::new();
    }
    let tool = (!lists.tools.is_empty())
        .then(|| {
            let mut others = event.tools.iter().filter(|t| !lists.allows_tool(&t.name));
            let first = others.next()?;
            let more = others.count();
            let reason = format!("tool {} is not on the allow-list{}", first.name, and(more));
            Some((TOOL_RULE, Severity::High, reason))
        })
        .flatten();
    let model = (!lists.models.is_empty())
        .then(|| {
            let served = event.model_served.as_ref().map(|m| (m, "served"));
            let mut both = [(&event.model_requested, "requested")]
                .into_iter()
                .chain(served);
            let (name, how) = both.find(|(m, _)| !lists.allows_model(m))?;
            let reason = format!("model {name} was {how} and is not on the allow-list");
            Some((MODEL_RULE, Severity::Medium, reason))
        })
        .flatten();
    let seen = [tool, model].into_iter().flatten();
    seen.map(|(rule, severity, reason)| {
        finding(config, event, end, subject, rule, severity, reason)
    })
    .collect()
}

fn and(more: usize) -> String {
    match more {
        0 => String::new(),
        n => format!(
            ", nor {} {n} more of this call",
            if n == 1 { "is" } else { "are" }
        ),
    }
}

fn finding(
    config: &DetectConfig,
    event: &Event,
    end: Time,
    subject: &Subject<'_>,
    rule: &'static str,
    severity: Severity,
    reason: String,
) -> Finding {
    let subject_name = subject.name();
    Finding {
        id: finding_id(
            DetectorId::Access,
            rule,
            VERSION,
            &subject_name,
            event.id.as_bytes(),
        ),
        detector: DetectorId::Access,
        rule: SmolStr::new_static(rule),
        version: VERSION,
        severity,
        stage: config.stage(DetectorId::Access, Stage::Ticket),
        tenant: event.tenant_or_empty(),
        subject: subject_name,
        at: end,
        start: end,
        end,
        user: subject.user(),
        model: Some(event.model().clone()),
        gateway: Some(event.gateway.clone()),
        event: Some(event.id.clone()),
        reason,
        resolve_after_ms: RESOLVE_AFTER_MS,
    }
}

/// The allow-lists. Empty: everything is allowed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allowed {
    /// Names of tools, each perhaps with a `*` at its end.
    pub tools: Vec<SmolStr>,
    /// Names of models, each perhaps with a `*` at its end.
    pub models: Vec<SmolStr>,
}

impl Allowed {
    fn allows_tool(&self, name: &str) -> bool {
        self.tools.iter().any(|entry| covers(entry, name))
    }

    fn allows_model(&self, name: &str) -> bool {
        self.models
            .iter()
            .any(|entry| covers(entry, name) || is_version(entry, name))
    }
}

fn covers(entry: &str, name: &str) -> bool {
    match entry.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => entry == name,
    }
}

/// Whether a name is a dated version of a model: `-latest`, or a dash and at least four digits.
fn is_version(entry: &str, name: &str) -> bool {
    let rest = name.strip_prefix(entry).and_then(|r| r.strip_prefix('-'));
    rest.is_some_and(|r| r == "latest" || r.bytes().take_while(u8::is_ascii_digit).count() >= 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::bare;
    use crate::event::{Role, Side, Sketch, Tool};

    fn seen(tools: &[&str], requested: &str, served: Option<&str>) -> Vec<(SmolStr, String)> {
        let config = DetectConfig {
            access: Allowed {
                tools: vec!["search".into(), "db.*".into()],
                models: vec!["gpt-4o".into(), "claude-3*".into()],
            },
            ..DetectConfig::default()
        };
        let mut e = bare::event(1, Role::User, Side::Request, Sketch::default());
        e.tools = tools
            .iter()
            .map(|t| Tool {
                name: (*t).into(),
                args: None,
            })
            .collect();
        e.model_requested = requested.into();
        e.model_served = served.map(SmolStr::new);
        let found = judge(&config, &e, Time(0), &Subject::Gateway(&e.gateway));
        found.into_iter().map(|f| (f.rule, f.reason)).collect()
    }

    #[test]
    fn what_is_not_on_a_list_is_seen_and_named() {
        assert_eq!(seen(&["search", "db.read"], "gpt-4o", None), []);
        assert_eq!(seen(&[], "gpt-4o", Some("gpt-4o-2024-08-06")), []);
        assert_eq!(seen(&[], "gpt-4o-latest", Some("claude-3-5-haiku")), []);
        let found = seen(&["search", "shell", "mail"], "gpt-4o-mini", Some("gpt-4o"));
        assert_eq!(found.len(), 2);
        assert_eq!(
            found[0],
            (
                TOOL_RULE.into(),
                "tool shell is not on the allow-list, nor is 1 more of this call".into()
            )
        );
        assert!(
            found[1].1.starts_with("model gpt-4o-mini was requested"),
            "{found:?}"
        );
        let found = seen(&[], "gpt-4o", Some("gpt-4o-1"));
        assert!(
            found[0].1.starts_with("model gpt-4o-1 was served"),
            "{found:?}"
        );
    }

    #[test]
    fn without_lists_everything_is_allowed() {
        let e = bare::event(1, Role::User, Side::Request, Sketch::default());
        let none = DetectConfig::default();
        let found = judge(&none, &e, Time(0), &Subject::Gateway(&e.gateway));
        assert!(found.is_empty());
    }
}
