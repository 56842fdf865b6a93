//! Rule files: fifty kinds of mistakes each give one clear diagnostic; every shipped rule's tests
//! pass; a bad set never replaces a good one.

use std::sync::Arc;

use veilwatch::event::{Role, Side};
use veilwatch::rule::{Diagnostic, Grade, Known, Source, load, pack};
use veilwatch::seal::engine::{Engine, Scratch, known_validators, trial};

const GOOD: &str = r#"id: sec-example
title: Example token
type: example
level: high
match:
  keywords: [extok_]
  regex: '\bextok_[A-Za-z0-9]{24}\b'
tests:
  - {text: "extok_aB3dE5gH7jK9mN1pQ3sT5vX7", match: true}
  - {text: "extok_short", match: false}
"#;

const INJECTION: &str = r#"id: inj-example
title: Example phrase
type: override
level: medium
weight: 0.6
match:
  regex: 'ignore (?:all|the) rules'
tests:
  - {text: "ignore all rules", match: true}
  - {text: "rules to ignore", match: false}
"#;

fn source(path: &str, text: &str) -> Arc<Source> {
    Arc::new(Source {
        path: path.to_owned(),
        text: text.to_owned(),
    })
}

fn known(names: &[&'static str]) -> Known<'static> {
    // Lives for the whole test run.
    let names: &'static [&'static str] = Box::leak(names.to_vec().into_boxed_slice());
    Known {
        validators: Some(names),
        today: Some("2026-11-21".parse().expect("a day")),
        compiled_in: false,
        untested: false,
    }
}

fn diagnose(files: &[(&str, &str)], overrides: &[(&str, &str)]) -> Vec<Diagnostic> {
    let sources: Vec<_> = files.iter().map(|(p, t)| source(p, t)).collect();
    let overrides: Vec<_> = overrides.iter().map(|(p, t)| source(p, t)).collect();
    match load(&sources, &overrides, &known(&known_validators())) {
        Ok((_, warnings)) => warnings,
        Err(problems) => problems,
    }
}

/// A change of the good secret rule, and the mistake that it makes.
const MISTAKES: &[(&str, &str, &str)] = &[
    ("unknown key", "min_entropy: 3", "min_entropie: 3"),
    (
        "unknown key in match",
        "  keywords: [extok_]",
        "  keyword: [extok_]",
    ),
    ("unknown key in a test", "match: false}", "matches: false}"),
    ("key twice", "level: high", "level: high\nlevel: low"),
    ("missing title", "title: Example token\n", ""),
    (
        "missing match",
        "match:\n  keywords: [extok_]\n  regex: '\\bextok_[A-Za-z0-9]{24}\\b'\n",
        "",
    ),
    ("wrong type", "keywords: [extok_]", "keywords: extok_"),
    ("number for a flag", "level: high", "level: high\ntyped: 1"),
    ("broken YAML", "keywords: [extok_]", "keywords: [extok_"),
    (
        "tab as indent",
        "  keywords: [extok_]",
        "\tkeywords: [extok_]",
    ),
    ("empty title", "title: Example token", "title: ''"),
    (
        "long title",
        "Example token",
        "An example of a title that goes on and on until nobody who is woken at night by it could say what it wants to tell them about",
    ),
    ("id in capitals", "sec-example", "SEC-Example"),
    ("id without prefix", "sec-example", "example-token"),
    ("id in the wrong folder", "sec-example", "pii-example"),
    ("unknown level", "level: high", "level: hihg"),
    ("unknown stage", "level: high", "level: high\nstage: pager"),
    (
        "unknown status",
        "level: high",
        "level: high\nstatus: stabel",
    ),
    ("version zero", "level: high", "level: high\nversion: 0"),
    ("bad type name", "type: example", "type: 'example token'"),
    (
        "unknown tag",
        "level: high",
        "level: high\ntags: [owasp.llm11-2025]",
    ),
    (
        "tag without year",
        "level: high",
        "level: high\ntags: [owasp.llm02]",
    ),
    (
        "unknown role",
        "level: high",
        "level: high\nscope: {roles: [usr]}",
    ),
    ("no roles", "level: high", "level: high\nscope: {roles: []}"),
    (
        "unknown side",
        "level: high",
        "level: high\nscope: {sides: [reply]}",
    ),
    (
        "unknown reading",
        "  keywords: [extok_]",
        "  keywords: [extok_]\n  readings: [rwa]",
    ),
    (
        "weight of a secret",
        "level: high",
        "level: high\nweight: 0.5",
    ),
    (
        "priority too high",
        "level: high",
        "level: high\npriority: 101",
    ),
    (
        "unknown validator",
        "level: high",
        "level: high\nvalidators: [lunh]",
    ),
    (
        "entropy beyond bits",
        "level: high",
        "level: high\nmin_entropy: 9",
    ),
    ("empty keywords", "keywords: [extok_]", "keywords: []"),
    ("one-letter keyword", "keywords: [extok_]", "keywords: [e]"),
    (
        "keyword that folds to nothing",
        "keywords: [extok_]",
        "keywords: ['**']",
    ),
    (
        "unclosed group",
        "extok_[A-Za-z0-9]{24}",
        "extok_([A-Za-z0-9]{24}",
    ),
    ("look-around", "\\bextok_", "(?<!x)extok_"),
    ("back-reference", "[A-Za-z0-9]{24}", "([a-z])\\1"),
    (
        "matches the empty text",
        "\\bextok_[A-Za-z0-9]{24}\\b",
        "[a-z]*",
    ),
    (
        "too large when compiled",
        "[A-Za-z0-9]{24}",
        "(?:\\w{1,200}){1,200}",
    ),
    ("unknown macro", "[A-Za-z0-9]{24}", "${base-62}"),
    ("unclosed macro", "[A-Za-z0-9]{24}", "${base"),
    ("unknown list", "keywords: [extok_]", "list: prefixes"),
    ("empty any", "keywords: [extok_]", "any: []"),
    ("empty node", "keywords: [extok_]", "any: [{}]"),
    (
        "only not",
        "  keywords: [extok_]\n  regex: '\\bextok_[A-Za-z0-9]{24}\\b'",
        "  not: [{keywords: [extok_]}]",
    ),
    (
        "readings below the top",
        "keywords: [extok_]",
        "any: [{keywords: [extok_], readings: [raw]}]",
    ),
    ("useless within", "  keywords: [extok_]", "  within: 40"),
    (
        "within too far",
        "  keywords: [extok_]",
        "  keywords: [extok_]\n  within: 5000",
    ),
    ("unbounded gap", "extok_[A-Za-z0-9]{24}", "extok_.*end"),
    (
        "literal-free",
        "  keywords: [extok_]\n  regex: '\\bextok_[A-Za-z0-9]{24}\\b'",
        "  regex: '\\b[a-z]{24}\\b'",
    ),
    ("slow regex", "extok_[A-Za-z0-9]{24}", "extok_\\w{30}"),
    (
        "keyword twice",
        "keywords: [extok_]",
        "keywords: [extok_, EXTOK_]",
    ),
    (
        "empty context",
        "level: high",
        "level: high\ncontext: {words: []}",
    ),
    (
        "window of one",
        "level: high",
        "level: high\nwindow: {count: 1, within: 10m}",
    ),
    (
        "window without unit",
        "level: high",
        "level: high\nwindow: {count: 3, within: '10'}",
    ),
    (
        "empty exceptions",
        "level: high",
        "level: high\nexceptions: []",
    ),
    (
        "exception without reason",
        "level: high",
        "level: high\nexceptions: [{reason: '', until: 2027-01-31, regex: x}]",
    ),
    (
        "exception without end",
        "level: high",
        "level: high\nexceptions: [{reason: test, regex: x}]",
    ),
    (
        "exception of nothing",
        "level: high",
        "level: high\nexceptions: [{reason: test, until: 2027-01-31, regex: ''}]",
    ),
    (
        "exception until no day",
        "level: high",
        "level: high\nexceptions: [{reason: test, until: 2027-13-31, regex: x}]",
    ),
    (
        "expired exception",
        "level: high",
        "level: high\nexceptions: [{reason: test, until: 2026-01-31, regex: x}]",
    ),
    (
        "bad runbook",
        "level: high",
        "level: high\nrunbook: docs/Leak.md",
    ),
    (
        "no non-match test",
        "  - {text: \"extok_short\", match: false}\n",
        "",
    ),
    ("test without text", "text: \"extok_short\", ", ""),
    (
        "events out of order",
        "text: \"extok_short\"",
        "events: [{offset: 2s, text: a}, {offset: 1s, text: b}]",
    ),
];

#[test]
fn each_mistake_gives_one_clear_diagnostic() {
    let base = GOOD.replace("level: high", "min_entropy: 3\nlevel: high");
    let mut shown = String::new();
    for (name, from, to) in MISTAKES {
        // Changes that add a key of their own start from the plain file.
        let text = if base.contains(from) && *from == "min_entropy: 3" {
            base.replacen(from, to, 1)
        } else {
            assert!(GOOD.contains(from), "{name}: nothing to change");
            GOOD.replacen(from, to, 1)
        };
        let problems = diagnose(&[("rules/secret/sec-example.yml", &text)], &[]);
        let relevant: Vec<&Diagnostic> =
            problems.iter().filter(|p| p.code != "file-name").collect();
        assert_eq!(relevant.len(), 1, "{name}: {relevant:#?}");
        shown += &format!("# {name}\n{}\n\n", relevant[0]);
    }
    assert!(MISTAKES.len() >= 50);
    insta::assert_snapshot!("mistakes", shown);
}

#[test]
fn mistakes_between_files_are_found() {
    let mut shown = String::new();
    let good = ("rules/secret/sec-example.yml", GOOD);
    let list = "name: prefixes\nphrases: [extok_]\n";
    let twin = GOOD.replace("sec-example", "sec-twin");
    let upper = INJECTION.replace("ignore (?", "Ignore (?");
    let cases: &[(&str, &[(&str, &str)], &[(&str, &str)])] = &[
        ("empty file", &[("rules/secret/sec-empty.yml", " \n")], &[]),
        (
            "id twice",
            &[good, ("other/secret/sec-example.yml", GOOD)],
            &[],
        ),
        (
            "same pattern",
            &[good, ("rules/secret/sec-twin.yml", &twin)],
            &[],
        ),
        (
            "upper case in folded text",
            &[("rules/injection/inj-example.yml", &upper)],
            &[],
        ),
        (
            "list twice",
            &[("rules/lists/a.yml", list), ("rules/lists/b.yml", list)],
            &[],
        ),
        (
            "list of both",
            &[("rules/lists/a.yml", "name: a\nphrases: [b]\nregex: c\n")],
            &[],
        ),
        (
            "override of nobody",
            &[good],
            &[(
                "local.yml",
                "overrides: [{id: sec-exmaple, reason: noisy, stage: ticket}]\n",
            )],
        ),
        (
            "override without reason",
            &[good],
            &[(
                "local.yml",
                "overrides: [{id: sec-example, reason: '', stage: ticket}]\n",
            )],
        ),
        (
            "override of nothing",
            &[good],
            &[(
                "local.yml",
                "overrides: [{id: sec-example, reason: noisy}]\n",
            )],
        ),
        (
            "override of an unknown key",
            &[good],
            &[(
                "local.yml",
                "overrides: [{id: sec-example, reason: noisy, regex: x, stage: ticket}]\n",
            )],
        ),
    ];
    for (name, files, overrides) in cases {
        let problems = diagnose(files, overrides);
        assert_eq!(problems.len(), 1, "{name}: {problems:#?}");
        shown += &format!("# {name}\n{}\n\n", problems[0]);
    }
    insta::assert_snapshot!("mistakes_between_files", shown);
}

#[test]
fn shipped_rules_check_and_every_test_in_them_passes() {
    let (set, warnings) = load(&pack::sources(), &[], &known(&known_validators()))
        .unwrap_or_else(|p| panic!("{}", p[0]));
    assert!(set.rules().len() > 600, "{} rules", set.rules().len());
    let errors: Vec<_> = warnings
        .iter()
        .filter(|w| w.grade == Grade::Error || w.code == "slow-regex")
        .collect();
    assert!(errors.is_empty(), "{errors:?}");
    let report = trial::run(&Engine::new(&set, None), &|_| true);
    let failed: Vec<_> = report
        .outcomes
        .iter()
        .filter(|o| o.failure.is_some())
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(report.uncovered.is_empty(), "{:?}", report.uncovered);
}

/// Rules in the words of the format's documentation, each with what it must and must not find.
#[test]
fn the_whole_format_does_what_it_says() {
    let rule = |body: &str, tests: &str| {
        format!("id: sec-x\ntitle: X\ntype: x\nlevel: low\nstatus: stable\n{body}\ntests:\n{tests}")
    };
    let cases = [
        (
            "keywords are whole words",
            "match: {keywords: [alpha beta]}",
            "  - {text: 'An ALPHA  beta.', match: true}\n  - {text: alphabet beta, match: false}\n  - {text: alpha betas, match: false}\n",
        ),
        (
            "a star lifts a boundary",
            "match: {keywords: ['alpha*']}",
            "  - {text: alphabet, match: true, value: alpha}\n  - {text: betalpha, match: false}\n",
        ),
        (
            "any",
            "match: {any: [{keywords: [alpha]}, {regex: 'be+ta'}]}",
            "  - {text: beeeta, match: true}\n  - {text: alpha, match: true}\n  - {text: gamma, match: false}\n",
        ),
        (
            "all within",
            "match: {all: [{keywords: [alpha]}, {keywords: [beta]}], within: 10}",
            "  - {text: 'beta and alpha', match: true}\n  - {text: 'alpha and then much later beta', match: false}\n",
        ),
        (
            "not",
            "match: {keywords: [alpha], not: [{keywords: [beta]}]}",
            "  - {text: alpha, match: true}\n  - {text: alpha and far away from it beta, match: false}\n",
        ),
        (
            "not within",
            "match: {keywords: [alpha], not: [{keywords: [beta]}], within: 5}",
            "  - {text: 'alpha, and far away beta', match: true}\n  - {text: alpha beta, match: false}\n",
        ),
        (
            "keyword near a regex",
            "match: {keywords: [acme], regex: '\\b[0-9a-f]{8}\\b', within: 12}",
            "  - {text: 'ACME_KEY=deadbeef', match: true, value: deadbeef}\n  - {text: 'acme says that the value is deadbeef', match: false}\n",
        ),
        (
            "value group",
            "match: {regex: 'token=(?P<value>[a-z]{4})'}",
            "  - {text: 'token=abcd', match: true, value: abcd}\n  - {text: 'token=', match: false}\n",
        ),
        (
            "required context",
            "match: {regex: '\\b[0-9]{6}\\b'}\ncontext: {words: ['badge*'], within: 20, required: true}",
            "  - {text: 'badges: 123456', match: true}\n  - {text: 'number 123456', match: false}\n  - {text: '123456 is far, far away from the badge', match: false}\n",
        ),
        (
            "validators",
            "match: {regex: '\\b[0-9]{16}\\b'}\nvalidators: [luhn]",
            "  - {text: '4111111111111111', match: true}\n  - {text: '4111111111111112', match: false}\n",
        ),
        (
            "entropy",
            "match: {keywords: [key], regex: 'key=(?P<value>[a-z0-9]{8})'}\nmin_entropy: 2.5",
            "  - {text: 'key=a8f3k2m9', match: true}\n  - {text: 'key=aaaaaaab', match: false}\n",
        ),
        (
            "exception",
            "match: {regex: '\\bkey-[0-9]{4}\\b'}\nexceptions: [{reason: documentation, until: 2099-01-01, regex: 'key-0000'}]",
            "  - {text: 'key-1234', match: true}\n  - {text: 'key-0000', match: false}\n",
        ),
        (
            "scope",
            "match: {keywords: [alpha]}\nscope: {roles: [tool], sides: [request]}",
            "  - {text: alpha, role: tool, match: true}\n  - {text: alpha, match: false}\n  - {text: alpha, role: tool, side: response, match: false}\n",
        ),
        (
            "window",
            "match: {keywords: [alpha]}\nwindow: {count: 3, within: 10m, by: user}",
            "  - {events: [{offset: 0s, text: alpha}, {offset: 1m, text: alpha}, {offset: 2m, text: alpha}], match: true}\n  - {events: [{offset: 0s, text: alpha}, {offset: 1m, text: alpha}, {offset: 20m, text: alpha}], match: false}\n",
        ),
        (
            "decoded values",
            "match: {regex: '\\bkey-[0-9]{12}\\b'}",
            "  - {text: 'a2V5LTEyMzQ1Njc4OTAxMg==', match: true}\n  - {text: 'a2V5', match: false}\n",
        ),
    ];
    for (name, body, tests) in cases {
        let file = source("sec-x.yml", &rule(body, tests));
        let (set, _) = load(&[file], &[], &known(&known_validators()))
            .unwrap_or_else(|p| panic!("{name}: {}", p[0]));
        let report = trial::run(&Engine::new(&set, None), &|_| true);
        for outcome in &report.outcomes {
            assert_eq!(outcome.failure, None, "{name}: {}", outcome.name);
        }
    }
}

#[test]
fn lists_and_macros_reach_the_regex() {
    let list = source(
        "rules/lists/verbs.yml",
        "name: verbs\nphrases: [ignore, set aside]\n",
    );
    let rule = INJECTION.replace("ignore (?:all|the) rules", "${verbs} (?:all|the) rules");
    let rule = source("rules/injection/inj-example.yml", &rule);
    let (set, _) =
        load(&[list, rule], &[], &Known::default()).unwrap_or_else(|p| panic!("{}", p[0]));
    let engine = Engine::new(&set, None);
    let mut scratch = Scratch::default();
    for (text, hits) in [("Set  ASIDE the rules", 1), ("set a side", 0)] {
        let scan = engine.scan(text, Role::User, Side::Request, &mut scratch);
        assert_eq!(scan.hits.len(), hits, "{text}");
    }
}

/// The lines of a verb of `rules` with `--format json`, and its status.
fn told(args: &[&str]) -> (Vec<serde_json::Value>, Option<i32>) {
    let out = std::process::Command::new(env!("CARGO_BIN_EXE_veilwatch"))
        .arg("rules")
        .args(args)
        .args(["--format", "json"])
        .output()
        .expect("runs");
    let text = String::from_utf8(out.stdout).expect("text");
    let lines = text.lines().map(|l| serde_json::from_str(l).expect("JSON"));
    (lines.collect(), out.status.code())
}

#[test]
fn check_and_test_speak_json() {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("a.yml");
    let good = r#"
id: inj-a
title: A word of an attack
version: 1
level: high
match:
  keywords: ["zebra crossing"]
tests:
  - text: "mind the zebra crossing"
    hit: true
  - text: "mind the gap"
    hit: true
"#;
    std::fs::write(&path, good.replace("level: high", "levle: high")).expect("written");
    let name = path.display().to_string();
    let (lines, status) = told(&["check", &name]);
    assert_eq!(status, Some(2));
    let first = &lines[0];
    assert_eq!(first["kind"], "diagnostic");
    assert_eq!(first["grade"], "error");
    assert_eq!(first["file"].as_str(), Some(&*name));
    assert_eq!(first["line"], 5);
    let last = lines.last().expect("a summary");
    assert_eq!(last["kind"], "summary");
    assert!(last["rules"].is_null());
    assert_eq!(told(&["test", &name]).1, Some(2));
}

#[test]
fn each_test_of_the_shipped_rules_is_a_line() {
    let (lines, status) = told(&["test", "--run", "pii-credit-card"]);
    assert_eq!(status, Some(0));
    let (last, tests) = lines.split_last().expect("lines");
    assert!(!tests.is_empty() && tests.iter().all(|t| t["passed"] == true));
    assert_eq!(last["kind"], "summary");
    assert_eq!(last["tests"], tests.len());
    assert_eq!(last["failed"], 0);
}
