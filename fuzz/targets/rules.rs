//! Rule, list and override files of any text: a set, or diagnostics with a place in the file.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use veilwatch::rule::{Known, Source, load};
use veilwatch_fuzz::Bound;

const BOUND: Bound = Bound {
    // Regexes are compiled: each may use its whole size limit.
    loads: 400_000,
    loads_floor: 400_000_000,
    memory: 100_000,
    memory_floor: 256 << 20,
};

const PATHS: [&str; 5] = [
    "rules/injection/inj-x.yml",
    "rules/pii/pii-x.yml",
    "rules/secret/sec-x.yml",
    "rules/lists/x.yml",
    "rules/overrides/x.yml",
];

fuzz_target!(|data: &[u8]| {
    let Some((first, rest)) = data.split_first() else {
        return;
    };
    let Ok(text) = std::str::from_utf8(rest) else {
        return;
    };
    let source = Arc::new(Source {
        path: PATHS[usize::from(*first) % PATHS.len()].into(),
        text: text.into(),
    });
    let known = Known::default();
    let problems = BOUND.hold(text.len(), || match load(&[source], &[], &known) {
        Ok((_, warnings)) => warnings,
        Err(problems) => problems,
    });
    // YAML breaks lines at carriage returns too.
    let lines = text.matches(['\n', '\r']).count() + 1;
    for p in &problems {
        assert!(p.line as usize <= lines, "line {} of {lines}", p.line);
    }
});
