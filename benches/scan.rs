//! What scanning and sealing cost, stage by stage, beside the bare automata in the same run.
//!
//! ```text
//! cargo bench --bench scan                  # the chats that the demo carries
//! cargo bench --bench scan -- FILE.jsonl    # lines {"text": "..."}
//! ```
//!
//! Time is the thread's CPU time: the best of several rounds, in which the stages take turns, so
//! that what else the machine does meets all of them alike. One JSON object a line.

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use veilwatch::event::{Role, Side};
use veilwatch::rule::{self, Known, RuleSet};
use veilwatch::seal::engine::{Engine, Scratch, known_validators};
use veilwatch::seal::model::{Memo, Model};
use veilwatch::seal::{self, Keys, Sealer};

/// Rounds of which the best counts.
const ROUNDS: usize = 7;
const KB: f64 = 1024.0;

#[derive(Deserialize)]
struct Line {
    text: String,
    #[serde(default)]
    kind: String,
}

fn main() {
    let file = std::env::args().skip(1).find(|a| !a.starts_with('-'));
    let texts = file.map_or_else(
        || {
            let chats = read(Path::new("src/demo/data/texts.jsonl"));
            let chats = chats.into_iter().filter(|l| l.kind == "prompt");
            chats.map(|l| l.text).collect::<Vec<_>>()
        },
        |file| read(Path::new(&file)).into_iter().map(|l| l.text).collect(),
    );
    let bytes: usize = texts.iter().map(String::len).sum();
    figure("texts", texts.len() as f64, "texts");
    figure("bytes", bytes as f64, "bytes");

    let started = cpu();
    let engine = Engine::built_in();
    figure("engine_start_ms", (cpu() - started) * 1e3, "ms");
    let rules = engine.rules().count();
    let sealer = Sealer::new(Keys::development(), Arc::new(Engine::built_in()));
    let few = ten_rules();

    let (mut scratch, mut memo) = (Scratch::default(), Memo::default());
    let mut sealing = seal::Scratch::default();
    let folded: Vec<String> = texts
        .iter()
        .map(|t| engine.read(t, &mut scratch).views.swap_remove(0).text)
        .collect();
    let mut best = [f64::MAX; 6];
    for _ in 0..ROUNDS {
        let mut take = |at: usize, spent: f64| best[at] = best[at].min(spent);
        take(
            0,
            time(|| {
                for t in &texts {
                    black_box(engine.read(t, &mut scratch));
                }
            }),
        );
        take(
            1,
            time(|| {
                for t in &folded {
                    black_box(engine.keywords(t, &mut scratch));
                }
            }),
        );
        take(
            2,
            time(|| {
                for t in &folded {
                    black_box(engine.model().map(|m| m.score(t, &mut memo)));
                }
            }),
        );
        take(3, time(|| scan_all(&engine, &texts, &mut scratch)));
        take(
            4,
            time(|| {
                for t in &texts {
                    black_box(sealer.sketch(t, Role::User, Side::Request, &mut sealing));
                }
            }),
        );
        take(5, time(|| scan_all(&few, &texts, &mut Scratch::default())));
    }
    let [read, keywords, model, scan, seal, ten] = best;
    let per_kb = |seconds: f64| seconds * 1e6 / (bytes as f64 / KB);
    let bare = keywords + model;
    figure("read_us_per_kb", per_kb(read), "us");
    figure("keywords_us_per_kb", per_kb(keywords), "us");
    figure("model_us_per_kb", per_kb(model), "us");
    figure(
        "judge_us_per_kb",
        per_kb((scan - read - bare).max(0.0)),
        "us",
    );
    figure("scan_us_per_kb", per_kb(scan), "us");
    figure("seal_us_per_kb", per_kb(seal), "us");
    figure("scan_mb_per_s", bytes as f64 / 1e6 / scan, "MB/s");
    figure("bare_automata_mb_per_s", bytes as f64 / 1e6 / bare, "MB/s");
    figure("scan_over_bare", scan / bare, "x");
    figure("seal_over_bare", seal / bare, "x");
    figure("rules", rules as f64, "rules");
    figure("rules_cost_ratio", scan / ten, "x");
    figure(
        "work_per_byte",
        scratch.work() as f64 / (bytes * 2 * ROUNDS) as f64,
        "steps",
    );
}

fn scan_all(engine: &Engine, texts: &[String], scratch: &mut Scratch) {
    for t in texts {
        black_box(engine.scan(t, Role::User, Side::Request, scratch));
    }
}

/// The first ten rules of the three areas, with the model: what the rest of the rules cost beside it.
fn ten_rules() -> Engine {
    let names = known_validators();
    let known = Known {
        validators: Some(&names),
        ..Known::default()
    };
    let sources = rule::pack::sources();
    let of = |folder: &str, n: usize| {
        let folder = folder.to_owned();
        sources
            .iter()
            .filter(move |s| s.path.contains(&folder))
            .take(n)
            .cloned()
    };
    let ten: Vec<_> = of("/injection/", 4)
        .chain(of("/pii/", 3))
        .chain(of("/secret/", 3))
        .chain(of("/lists/", usize::MAX))
        .collect();
    let set: RuleSet = rule::load(&ten, &[], &known).expect("ten rules load").0;
    Engine::new(&set, Model::shipped().ok())
}

fn read(path: &Path) -> Vec<Line> {
    let text = std::fs::read_to_string(path).expect("a readable file");
    text.split('\n')
        .filter(|l| !l.trim().is_empty())
        .map(|l| serde_json::from_str(l).expect("a line with `text`"))
        .collect()
}

fn time(run: impl FnOnce()) -> f64 {
    let started = cpu();
    run();
    cpu() - started
}

/// CPU time of this thread, in seconds.
fn cpu() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

fn figure(name: &str, value: f64, unit: &str) {
    println!(
        "{}",
        serde_json::json!({"figure": name, "value": (value * 100.0).round() / 100.0, "unit": unit})
    );
}
