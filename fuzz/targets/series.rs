//! CSV of any bytes, plain and keyed: one line out for each line in, scores within 0 and 1.
#![no_main]

use libfuzzer_sys::fuzz_target;
use veilwatch::cli::series::score_json;
use veilwatch_fuzz::Bound;

const BOUND: Bound = Bound {
    loads: 60_000,
    loads_floor: 4_000_000,
    memory: 2_000,
    memory_floor: 4 << 20,
};

fuzz_target!(|data: &[u8]| {
    let Some((first, rest)) = data.split_first() else {
        return;
    };
    let keyed = first & 1 == 1;
    let head: &[u8] = if keyed { b"timestamp,key,value\n" } else { b"timestamp,value\n" };
    let csv: Vec<u8> = head.iter().chain(rest).copied().collect();
    let mut out = Vec::new();
    let result = BOUND.hold(csv.len(), || score_json(csv.as_slice(), keyed, &mut out));
    assert!(result.is_ok());
    for line in out.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
        let v: serde_json::Value = serde_json::from_slice(line).expect("JSON out");
        if let Some(score) = v.get("score") {
            let score = score.as_f64().expect("a score is a number");
            assert!((0.0..=1.0).contains(&score), "{score}");
        }
    }
});
