//! From checked settings to what the pure core takes: budgets, routes, detectors.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{
    BudgetSetting, DetectSetting, InhibitSetting, KeepEvents, RouteSetting, Routing, SinkSetting,
    budgets,
};
use crate::account::{Budget, Grain, Limit, PeriodKind, Scope, Unit, Zone};
use crate::decide::Titles;
use crate::decide::route::{
    DEFAULT_GROUP_WAIT_MS, DEFAULT_STORM_LIMIT, DEFAULT_STORM_WINDOW_MS, Escalate, Field, Inhibit,
    Matcher, Route, Routes,
};
use crate::detect::access::Allowed;
use crate::detect::config::Keep;
use crate::detect::{DetectConfig, Facts, Stages};
use crate::event::{SmolStr, hash16};

/// The budgets. The settings were checked when they were read; one that is not understood here
/// would be a mistake of this program and is left out.
pub fn budgets(settings: &[BudgetSetting]) -> Vec<Budget> {
    settings.iter().filter_map(budget).collect()
}

fn budget(b: &BudgetSetting) -> Option<Budget> {
    let (unit, amount) = match b.limit {
        budgets::Limit::Tokens(t) => (Unit::Tokens, i128::from(t)),
        budgets::Limit::Pico(p) => (Unit::Usd, p),
    };
    let zone = match &b.zone {
        Some(name) => Some(Zone::named(name).ok()?),
        None => None,
    };
    Some(Budget {
        id: budget_id(b),
        scope: Scope::parse(&b.scope)?,
        subject: (b.subject != "*").then(|| SmolStr::new(&b.subject)),
        grain: Grain {
            kind: PeriodKind::parse(&b.period)?,
            zone,
        },
        limit: Limit { unit, amount },
        thresholds: b
            .thresholds
            .iter()
            .filter_map(|t| u32::try_from(*t).ok())
            .collect(),
    })
}

/// A budget's stable name: scope, subject, period and unit. It outlives a change of the limit.
pub fn budget_id(b: &BudgetSetting) -> SmolStr {
    let unit = match b.limit {
        budgets::Limit::Tokens(_) => "tokens",
        budgets::Limit::Pico(_) => "usd",
    };
    smol_str::format_smolstr!("{}:{}:{}:{unit}", b.scope, b.subject, b.period)
}

/// The routing tree. Without routes, everything goes to every sink, each incident alone.
pub fn routes(routing: &Routing, sinks: &[SinkSetting], titles: Titles) -> Routes {
    let all: Vec<SmolStr> = sinks.iter().map(|s| SmolStr::new(&s.name)).collect();
    let mut routes = Routes::single(all);
    routes.storm_limit = routing.storm_limit.unwrap_or(DEFAULT_STORM_LIMIT);
    routes.storm_window_ms = routing.storm_window.map_or(DEFAULT_STORM_WINDOW_MS, ms);
    routes.titles = titles;
    if let Some(place) = &routing.runbooks {
        routes.runbook_base = SmolStr::new(place);
    }
    routes.inhibit = routing.inhibit.iter().map(inhibit).collect();
    if !routing.routes.is_empty() {
        routes.root.sinks.clear();
        let mut names = Vec::new();
        for r in &routing.routes {
            names.push(route_name(r, &names));
        }
        let all = routing.routes.iter().zip(names);
        routes.root.children = all.map(|(r, name)| route(name, r)).collect();
    }
    routes
}

fn inhibit(setting: &InhibitSetting) -> Inhibit {
    Inhibit {
        source: matchers(&setting.source),
        target: matchers(&setting.target),
        equal: fields(&setting.equal),
    }
}

fn fields(names: &[String]) -> Vec<Field> {
    names.iter().filter_map(|f| Field::parse(f)).collect()
}

/// Checked settings as matchers; a trailing `*` matches any ending.
fn matchers(table: &BTreeMap<String, String>) -> Vec<Matcher> {
    table
        .iter()
        .filter_map(|(field, value)| {
            let text = match value.strip_suffix('*') {
                Some(start) => format!("{field}=~{}.*", regex::escape(start)),
                None => format!("{field}={value}"),
            };
            Matcher::parse(&text).ok()
        })
        .collect()
}

/// A route's stable name: its own, or what it matches. Groups are stored under it, so that a route keeps
/// its open groups when others are put before it or its sinks and times change.
fn route_name(r: &RouteSetting, taken: &[SmolStr]) -> SmolStr {
    if let Some(name) = &r.name {
        return SmolStr::new(name);
    }
    let mut parts: Vec<&[u8]> = vec![r.min_stage.as_str().as_bytes()];
    for (field, value) in &r.matchers {
        parts.extend([field.as_bytes(), value.as_bytes()]);
    }
    let hash = hash16("route", &parts).to_string();
    let name = smol_str::format_smolstr!("route-{}", &hash[..8]);
    // Several that match the same are told apart by their order.
    (1..=taken.len() + 1)
        .map(|n| match n {
            1 => name.clone(),
            n => smol_str::format_smolstr!("{name}-{n}"),
        })
        .find(|name| !taken.contains(name))
        .unwrap_or(name.clone())
}

fn route(name: SmolStr, r: &RouteSetting) -> Route {
    let mut group_by = fields(&r.group_by);
    let alone = group_by.is_empty();
    if alone {
        group_by.push(Field::Key);
    }
    Route {
        name,
        matchers: matchers(&r.matchers),
        sinks: r.sinks.iter().map(SmolStr::new).collect(),
        group_by,
        // An incident alone gains nothing by waiting for company.
        group_wait_ms: r
            .group_wait
            .map_or(if alone { 0 } else { DEFAULT_GROUP_WAIT_MS }, ms),
        group_interval_ms: ms(r.group_interval),
        repeat_interval_ms: ms(r.repeat_interval),
        min_severity: r.min_severity,
        min_stage: r.min_stage,
        carry_on: r.proceed,
        escalate: r.escalate.as_ref().map(|(after, sinks)| Escalate {
            after_ms: ms(*after),
            sinks: sinks.iter().map(SmolStr::new).collect(),
        }),
        children: Vec::new(),
    }
}

/// Which events are kept.
pub fn keep(setting: KeepEvents) -> Keep {
    match setting {
        KeepEvents::Flagged => Keep::Flagged,
        KeepEvents::Sample(n) => Keep::Sample(n),
        KeepEvents::All => Keep::All,
    }
}

/// The detectors' settings.
pub fn detect(setting: &DetectSetting, facts: Facts) -> DetectConfig {
    let mut config = DetectConfig {
        facts,
        stages: Stages(setting.stages.clone()),
        access: Allowed {
            tools: setting.allowed_tools.iter().map(SmolStr::new).collect(),
            models: setting.allowed_models.iter().map(SmolStr::new).collect(),
        },
        ..DetectConfig::default()
    };
    if let Some(minutes) = setting.audit_grace_minutes {
        config.audit.grace_minutes = minutes;
    }
    if let Some(n) = setting
        .campaign_senders
        .and_then(|n| usize::try_from(n).ok())
    {
        config.campaign.senders = n;
        config.campaign.page_senders = config.campaign.page_senders.max(n);
    }
    config
}

fn ms(d: Duration) -> i64 {
    i64::try_from(d.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Source, no_env};
    use std::path::Path;

    fn named(deliver: &str) -> Vec<SmolStr> {
        let text = format!(
            "[ingest]\nbrokers = \"127.0.0.1:9092\"\ntopics = [{{ name = \"e\", mode = \"sealed\" }}]\n\
             [store]\nurl = \"postgres://u@127.0.0.1/v\"\n[[deliver.sink]]\nname = \"a\"\nkind = \"stdout\"\n{deliver}"
        );
        let c = Config::parse(&Source {
            text: &text,
            dir: Path::new("."),
            env: &no_env(),
        })
        .expect("config");
        let r = routes(&c.routing, &c.sinks, Titles::default());
        r.root.children.into_iter().map(|r| r.name).collect()
    }

    #[test]
    fn a_route_keeps_its_name_when_others_come_and_sinks_change() {
        let leak = "[[deliver.route]]\nmatch = { detector = \"leak\" }\nsinks = [\"a\"]\n";
        let rest = "[[deliver.route]]\nsinks = [\"a\"]\n";
        let before = named(&format!("{leak}{rest}"));
        let top = "[[deliver.route]]\nmatch = { severity = \"critical\" }\nsinks = [\"a\"]\n";
        let quiet = leak.replace("[\"a\"]", "[]") + "repeat_interval = \"1h\"\n";
        assert_eq!(before, named(&format!("{top}{quiet}{rest}"))[1..]);
        let own = "[[deliver.route]]\nname = \"on-call\"\nsinks = [\"a\"]\n";
        let names = named(&format!("{own}{leak}{leak}"));
        assert_eq!(names[0], "on-call");
        assert_eq!(names[1], before[0]);
        assert_eq!(names[2], format!("{}-2", before[0]), "told apart");
    }

    #[test]
    fn a_written_configuration_reaches_the_core() {
        let c = Config::parse(&Source {
            text: r#"
[ingest]
brokers = "127.0.0.1:9092"
topics = [{ name = "e", mode = "sealed" }]
[store]
url = "postgres://u@127.0.0.1/v"
events = "sample:1/4"
[detect]
allowed_tools = ["search"]
allowed_models = ["gpt-4o*"]
[[deliver.sink]]
name = "a"
kind = "stdout"
[[deliver.route]]
match = { rule = "inj-*" }
sinks = ["a"]
escalate_after = "15m"
escalate_to = ["a"]
[[deliver.inhibit]]
source = { detector = "errors" }
target = { detector = "latency" }
equal = ["model"]
[[budget]]
scope = "tenant"
subject = "acme"
period = "month"
zone = "Europe/Berlin"
usd = "12.50"
"#,
            dir: Path::new("."),
            env: &no_env(),
        })
        .expect("config");
        let b = budgets(&c.budgets);
        assert_eq!(b[0].id, "tenant:acme:month:usd");
        assert_eq!(b[0].limit.amount, 12_500_000_000_000);
        assert_eq!(keep(c.store.events), Keep::Sample(4));
        let d = detect(&c.detect, Facts::default());
        assert_eq!(
            (&d.access.tools[0][..], &d.access.models[0][..]),
            ("search", "gpt-4o*")
        );
        let r = routes(&c.routing, &c.sinks, Titles::default());
        assert_eq!(r.root.children[0].matchers[0].as_str(), "rule=~inj\\-.*");
        let e = r.root.children[0].escalate.as_ref().expect("escalation");
        assert_eq!((e.after_ms, e.sinks[0].as_str()), (900_000, "a"));
        assert_eq!(r.inhibit[0].source[0].as_str(), "detector=errors");
        assert_eq!(r.inhibit[0].equal, vec![Field::Model]);
        let none = routes(&Routing::default(), &c.sinks, Titles::default());
        assert_eq!(none.root.sinks, vec![SmolStr::new("a")]);
    }
}
