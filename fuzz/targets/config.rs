//! A configuration of any text: settings, or problems that name a line; the same twice.
#![no_main]

use std::collections::BTreeMap;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use veilwatch::config::{Config, Source};
use veilwatch_fuzz::Bound;

const BOUND: Bound = Bound {
    loads: 20_000,
    loads_floor: 20_000_000,
    memory: 20_000,
    memory_floor: 16 << 20,
};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    // Files are named by configurations; none is to be read here.
    if text.contains("file") || text.contains("dir") || text.contains("overrides") {
        return;
    }
    let env = BTreeMap::new();
    let source = Source {
        text,
        dir: Path::new("/nonexistent"),
        env: &env,
    };
    let lines = text.lines().count() + 1;
    match BOUND.hold(text.len(), || Config::parse(&source)) {
        Ok(config) => {
            let budgets = veilwatch::config::core::budgets(&config.budgets);
            assert_eq!(budgets.len(), config.budgets.len(), "a checked budget was not understood");
        }
        Err(problems) => {
            assert!(!problems.is_empty());
            for p in &problems {
                assert!(p.line <= lines, "line {} of {lines}", p.line);
            }
        }
    }
});
