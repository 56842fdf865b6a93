//! The rules of the house, read from the sources: order of imports, purity of the core, one owner
//! per outside thing, headers, sizes, bounded queues, metric names in one table.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The modules in the order of the data. A module uses only what stands before it.
const ORDER: [&str; 18] = [
    "event",
    "rule",
    "seal",
    "telemetry",
    "ingest",
    "decode",
    "detect",
    "account",
    "decide",
    "store",
    "deliver",
    "config",
    "pipeline",
    "replay",
    "demo",
    "bench",
    "cli",
    "main",
];
/// Modules without I/O, clock and randomness.
const PURE: [&str; 7] = [
    "event", "rule", "seal", "decode", "detect", "account", "decide",
];
/// What the pure core may not name. Hash maps are allowed inside; that their order reaches no output
/// is what the replay tests show (two runs, the same bytes).
const IMPURE: [&str; 19] = [
    "tokio::",
    "rdkafka",
    "sqlx",
    "reqwest",
    "lettre",
    "axum",
    "opentelemetry",
    "std::fs",
    "std::net::Tcp",
    "std::net::Udp",
    "std::env",
    "std::process",
    "std::thread",
    "SystemTime",
    "Instant::now",
    "Utc::now",
    "Timestamp::now",
    "fastrand",
    "getrandom",
];
/// Outside things and the modules that own them. The mailbox and the receiver of the demo are
/// servers, not clients.
const OWNERS: [(&str, &[&str]); 7] = [
    ("rdkafka", &["ingest"]),
    ("sqlx", &["store"]),
    ("reqwest", &["deliver"]),
    ("lettre", &["deliver"]),
    ("mailin", &["demo"]),
    ("std::env::var", &["config", "cli", "store"]),
    ("opentelemetry", &["telemetry"]),
];
/// Where files may be read or written: configuration, the command line, and what starts processes
/// of its own or reads a file that the user named.
const FILES: [&str; 8] = [
    "config",
    "cli",
    "store::private",
    "replay",
    "demo",
    "bench",
    "telemetry",
    "seal::model",
];
/// The largest file, in lines without its inline tests: about five hundred, and a little over is no
/// reason to split.
const MAX_LINES: usize = 550;
/// Words that name nothing.
const EMPTY_NAMES: [&str; 7] = [
    "util", "utils", "helpers", "common", "manager", "handler", "misc",
];

struct File {
    path: PathBuf,
    /// `["store", "outbox"]`.
    module: Vec<String>,
    text: String,
    /// Without comments and inline tests.
    code: String,
}

impl File {
    fn top(&self) -> &str {
        self.module.first().map_or("", String::as_str)
    }
    fn name(&self) -> String {
        self.module.join("::")
    }
    fn is_test(&self) -> bool {
        self.module
            .iter()
            .any(|m| m == "tests" || m.ends_with("_tests"))
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn walk(dir: &Path, ending: &str, out: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    paths.sort();
    for p in paths {
        if p.is_dir() {
            walk(&p, ending, out);
        } else if p.to_string_lossy().ends_with(ending) {
            out.push(p);
        }
    }
}

/// Drops `//` comments and everything from the inline test module on.
fn code_of(text: &str) -> String {
    let end = text.find("\n#[cfg(test)]\nmod ").unwrap_or(text.len());
    let mut code = String::new();
    for line in text[..end].lines() {
        let trimmed = line.trim_start();
        if trimmed.starts_with("//") {
            continue;
        }
        code.push_str(line);
        code.push('\n');
    }
    code
}

fn sources() -> Vec<File> {
    let src = root().join("src");
    let mut paths = Vec::new();
    walk(&src, ".rs", &mut paths);
    assert!(paths.len() > 50, "the sources were found");
    paths
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).expect("readable");
            let relative = path
                .strip_prefix(&src)
                .expect("below src")
                .with_extension("");
            let module = relative
                .iter()
                .map(|p| p.to_string_lossy().into_owned())
                .collect();
            let code = code_of(&text);
            File {
                path,
                module,
                text,
                code,
            }
        })
        .collect()
}

fn fail(rule: &str, problems: &BTreeSet<String>) {
    assert!(
        problems.is_empty(),
        "{rule}:\n  {}",
        problems.iter().cloned().collect::<Vec<_>>().join("\n  ")
    );
}

#[test]
fn imports_follow_the_data() {
    let mut problems = BTreeSet::new();
    for f in sources().iter().filter(|f| !f.is_test()) {
        let Some(here) = ORDER.iter().position(|m| *m == f.top()) else {
            if f.top() != "lib" {
                problems.insert(format!("{} is in no list", f.path.display()));
            }
            continue;
        };
        for used in crates_modules(&f.code) {
            let Some(there) = ORDER.iter().position(|m| *m == used) else {
                continue;
            };
            if there > here {
                problems.insert(format!("{} uses {used}, which stands after it", f.name()));
            }
        }
    }
    fail("a module uses only what stands before it", &problems);
}

/// Top modules named by `crate::x` or `crate::{x, y}`.
fn crates_modules(code: &str) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    for (i, _) in code.match_indices("crate::") {
        let rest = &code[i + 7..];
        if let Some(list) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut word = String::new();
            let mut fresh = true;
            for c in list.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => fresh = true,
                    ':' if depth == 0 => {
                        out.insert(std::mem::take(&mut word));
                        fresh = false;
                    }
                    c if depth == 0 && fresh && (c.is_alphanumeric() || c == '_') => word.push(c),
                    _ => {}
                }
            }
        } else {
            out.insert(
                rest.chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect(),
            );
        }
    }
    out
}

#[test]
fn the_core_is_pure() {
    let mut problems = BTreeSet::new();
    for f in sources()
        .iter()
        .filter(|f| PURE.contains(&f.top()) && !f.is_test())
    {
        for word in IMPURE {
            if f.code.contains(word) {
                problems.insert(format!("{} names {word}", f.name()));
            }
        }
    }
    fail(
        "the core has no I/O, no clock, no randomness and no hash order",
        &problems,
    );
}

#[test]
fn outside_things_have_one_owner() {
    let mut problems = BTreeSet::new();
    for f in sources().iter().filter(|f| !f.is_test()) {
        for (thing, owners) in OWNERS {
            let named =
                f.code.contains(&format!("{thing}::")) || f.code.contains(&format!("{thing}("));
            if named && !owners.contains(&f.top()) {
                problems.insert(format!(
                    "{} names {thing}, which {} owns",
                    f.name(),
                    owners.join(" and ")
                ));
            }
        }
        let files = f.code.contains("std::fs") || f.code.contains("tokio::fs");
        if files
            && !FILES
                .iter()
                .any(|m| f.name() == *m || f.name().starts_with(&format!("{m}::")))
        {
            problems.insert(format!("{} reads or writes files", f.name()));
        }
    }
    fail("one owner per outside thing", &problems);
}

#[test]
fn every_file_says_what_it_is_for() {
    let mut problems = BTreeSet::new();
    let mut others = Vec::new();
    walk(&root().join("tests"), ".rs", &mut others);
    let texts = sources().into_iter().map(|f| (f.path, f.text));
    let tests = others.into_iter().map(|p| {
        let text = fs::read_to_string(&p).expect("readable");
        (p, text)
    });
    for (path, text) in texts.chain(tests) {
        if !text.starts_with("//! ") {
            problems.insert(format!("{}: no `//!` header", path.display()));
        }
        if path.ends_with("mod.rs") {
            problems.insert(format!("{}: foo.rs and foo/, never mod.rs", path.display()));
        }
        let stem = path
            .file_stem()
            .map(|s| s.to_string_lossy().into_owned())
            .unwrap_or_default();
        if EMPTY_NAMES.contains(&stem.as_str()) {
            problems.insert(format!("{}: a name that says nothing", path.display()));
        }
    }
    fail("headers and names", &problems);
}

#[test]
fn files_stay_readable() {
    let mut problems = BTreeSet::new();
    for f in sources() {
        let relative = f
            .path
            .strip_prefix(root())
            .expect("below root")
            .display()
            .to_string();
        // Inline tests do not count: they stand beside what they test.
        let lines = f
            .text
            .find("\n#[cfg(test)]\nmod ")
            .map_or(f.text.len(), |i| i);
        let lines = f.text[..lines].lines().count();
        if lines > MAX_LINES {
            problems.insert(format!("{relative}: {lines} lines"));
        }
    }
    fail("no file above 550 lines", &problems);
}

#[test]
fn every_queue_is_bounded() {
    let mut problems = BTreeSet::new();
    for f in sources() {
        for line in f.code.lines() {
            // A signal that is sent once each is no queue.
            let signal = line.contains("let (done, waiting)");
            let unbounded = [
                "unbounded_channel",
                "mpsc::channel()",
                "crossbeam_channel::unbounded",
            ];
            if !signal && unbounded.iter().any(|w| line.contains(w)) {
                problems.insert(format!("{}: {}", f.name(), line.trim()));
            }
        }
    }
    fail("every queue has a bound", &problems);
}

#[test]
fn metric_names_stand_in_one_table() {
    let mut problems = BTreeSet::new();
    for f in sources()
        .iter()
        .filter(|f| f.top() != "telemetry" && !f.is_test())
    {
        for (i, _) in f.code.match_indices("\"veilwatch_") {
            let name: String = f.code[i + 1..].chars().take_while(|c| *c != '"').collect();
            let metric = ["_total", "_seconds", "_bytes", "_ratio"]
                .iter()
                .any(|e| name.ends_with(e));
            if metric {
                problems.insert(format!("{} names the metric {name}", f.name()));
            }
        }
    }
    fail("metric names stand in telemetry", &problems);
}

/// The rules that findings are given by name in a file: what `rule` is set to, a constant's value or the word.
fn rules_of_findings(code: &str) -> BTreeSet<String> {
    const SET: &str = "SmolStr::new_static(";
    let mut out = BTreeSet::new();
    for (i, _) in code.match_indices(SET) {
        let before = code[..i].trim_end();
        if !before.ends_with("rule:") && !before.ends_with(".rule =") {
            continue;
        }
        let given = code[i + SET.len()..].split(')').next().unwrap_or_default();
        let value = match given.strip_prefix('"') {
            Some(word) => word.strip_suffix('"'),
            None => code
                .split_once(&format!("const {given}: &str = \""))
                .and_then(|(_, rest)| rest.split('"').next()),
        };
        out.extend(value.map(str::to_owned));
    }
    out
}

/// Rules that the program makes itself stand in no rule file; whoever is paged by one reads what it is.
#[test]
fn every_rule_of_the_program_stands_in_its_runbook() {
    let ids = veilwatch::detect::DetectorId::ALL.map(veilwatch::detect::DetectorId::as_str);
    let mut runbooks = String::new();
    for id in ids.iter().chain(&["deliver", "digest", "process"]) {
        let path = root().join("deploy/runbooks").join(format!("{id}.md"));
        runbooks += &fs::read_to_string(path).expect("readable");
    }
    let mut wanted =
        BTreeSet::from(["sink-broken", "sink-short", "not-working"].map(str::to_owned));
    for f in sources().iter().filter(|f| !f.is_test()) {
        // Every second piece stands between quotation marks.
        for name in f.code.split('"').skip(1).step_by(2) {
            let word = |c: char| c.is_ascii_lowercase() || c == '-';
            let own = ids.iter().any(|d| {
                name.strip_prefix(d)
                    .is_some_and(|r| r.starts_with('-') && r.len() > 1)
            });
            if own && name.chars().all(word) && !ids.contains(&name) {
                wanted.insert(name.to_owned());
            }
        }
        if !["demo", "bench"].contains(&f.top()) {
            wanted.extend(rules_of_findings(&f.code));
        }
    }
    assert!(wanted.contains("crowded"), "{wanted:?}");
    assert!(
        wanted.contains("audit-halted") && wanted.len() > 20,
        "{wanted:?}"
    );
    let titles = veilwatch::decide::Titles::default();
    // Notices of the program about itself bring their own words.
    let untitled = wanted.iter().filter(|id| {
        let notice = id.starts_with("sink-") || ["not-working", "digest"].contains(&id.as_str());
        !notice && titles.get(id).is_none()
    });
    fail(
        "every rule of the program has a title for people",
        &untitled.cloned().collect(),
    );
    let missing = wanted
        .into_iter()
        .filter(|id| !runbooks.contains(&format!("`{id}`")));
    fail(
        "every rule of the program stands in a runbook",
        &missing.collect(),
    );
}

#[test]
fn every_detector_and_rule_has_its_runbook() {
    let mut wanted: BTreeSet<String> = veilwatch::detect::DetectorId::ALL
        .iter()
        .map(|d| d.as_str().to_owned())
        .collect();
    let mut rules = Vec::new();
    walk(&root().join("rules"), ".yml", &mut rules);
    assert!(rules.len() > 100, "the rules were found");
    for path in rules {
        let text = fs::read_to_string(&path).expect("readable");
        let named = text.lines().filter_map(|l| l.strip_prefix("runbook:"));
        wanted.extend(named.map(|n| n.trim().trim_matches(['"', '\'']).to_owned()));
    }
    let problems = wanted
        .into_iter()
        .filter(|n| {
            !root()
                .join("deploy/runbooks")
                .join(format!("{n}.md"))
                .exists()
        })
        .collect();
    fail("every detector and rule has its runbook", &problems);
}
