//! Runs the tests that rule files carry.

use std::collections::BTreeSet;

use super::{Engine, Scratch};
use crate::event::SmolStr;
use crate::rule::window::Counter;
use crate::rule::{Area, Rule, Test};

/// The result of one test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The rule.
    pub rule: SmolStr,
    /// Its file.
    pub file: String,
    /// Line of the test.
    pub line: u32,
    /// Column of the test.
    pub column: u32,
    /// Name of the test, or its number.
    pub name: String,
    /// Why it failed; `None` if it passed.
    pub failure: Option<String>,
}

/// What a run of tests shows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// All tests in the order of rules and files.
    pub outcomes: Vec<Outcome>,
    /// Rules that no test hits.
    pub uncovered: Vec<SmolStr>,
}

impl Report {
    /// How many tests failed.
    pub fn failures(&self) -> usize {
        self.outcomes.iter().filter(|o| o.failure.is_some()).count()
    }
}

/// Runs all tests of the engine's rules whose id `wanted` accepts.
pub fn run(engine: &Engine, wanted: &dyn Fn(&str) -> bool) -> Report {
    let mut report = Report::default();
    let mut scratch = Scratch::default();
    let mut covered: BTreeSet<SmolStr> = BTreeSet::new();
    for rule in engine.rules() {
        for (number, test) in rule.tests.iter().enumerate() {
            if !wanted(&rule.id) {
                continue;
            }
            let failure = one(engine, rule, test, &mut scratch, &mut covered);
            report.outcomes.push(Outcome {
                rule: rule.id.clone(),
                file: rule.file.path.clone(),
                line: test.line,
                column: test.column,
                name: test
                    .name
                    .clone()
                    .unwrap_or_else(|| format!("test {}", number + 1)),
                failure,
            });
        }
    }
    report.uncovered = engine
        .rules()
        .filter(|r| wanted(&r.id) && !covered.contains(&r.id))
        .map(|r| r.id.clone())
        .collect();
    report
}

/// Whether the rule hits; values that it found under its own name.
fn one(
    engine: &Engine,
    rule: &Rule,
    test: &Test,
    scratch: &mut Scratch,
    covered: &mut BTreeSet<SmolStr>,
) -> Option<String> {
    let mut counter = Counter::default();
    let mut hit = false;
    let mut values = Vec::new();
    for (at_ms, text) in &test.events {
        // The rule alone: which of two rules names a value is not a matter of its own tests.
        let (n, found) = engine.judge_alone(&rule.id, text, test.role, test.side, scratch);
        if n > 0 {
            covered.insert(rule.id.clone());
        }
        match &rule.window {
            Some(window) => {
                for _ in 0..n {
                    hit |= counter.hit(window, *at_ms);
                }
            }
            None => hit |= n > 0,
        }
        values.extend(found);
    }
    if hit != test.matches {
        return Some(if test.matches {
            "the rule does not hit, but should".to_owned()
        } else {
            "the rule hits, but should not".to_owned()
        });
    }
    match &test.value {
        Some(want) if rule.area != Area::Injection && !values.contains(want) => {
            // A test's text is the rule author's, not a user's.
            Some(format!("the rule finds {values:?}, not `{want}`"))
        }
        _ => None,
    }
}
