//! The small readers: lines of files, key rings, price tables, matchers, bare lines, times.
#![no_main]

use libfuzzer_sys::fuzz_target;
use veilwatch::account::Prices;
use veilwatch::cli::lines::Lines;
use veilwatch::decide::Matcher;
use veilwatch::decode::bare;
use veilwatch::event::{Pseudonym, Time};
use veilwatch::seal::Keys;
use veilwatch_fuzz::Bound;

const BOUND: Bound = Bound {
    loads: 20_000,
    loads_floor: 40_000_000,
    memory: 4_000,
    memory_floor: 32 << 20,
};

fuzz_target!(|data: &[u8]| {
    let Some((first, bytes)) = data.split_first() else {
        return;
    };
    BOUND.hold(data.len(), || {
        let text = std::str::from_utf8(bytes);
        match (first % 6, text) {
            (0, _) => {
                let mut lines = Lines::new(bytes);
                let mut last = 0;
                while let Ok(Some((n, _))) = lines.next_line() {
                    assert!(n > last);
                    last = n;
                }
            }
            (1, Ok(text)) => {
                if let Ok(keys) = Keys::parse(text) {
                    let written: String = keys.all().iter().map(|k| format!("{}\n", &*k.line())).collect();
                    let again = Keys::parse(&written).expect("written by us");
                    assert_eq!(again.all().len(), keys.all().len());
                }
            }
            (2, Ok(text)) => drop(Prices::from_json(text)),
            (3, Ok(text)) => drop(Matcher::parse(text)),
            (4, Ok(text)) => drop(bare::parse(text)),
            (5, Ok(text)) => {
                if let Ok(p) = text.parse::<Pseudonym>() {
                    assert_eq!(p.to_string().parse(), Ok(p));
                }
                if let Some(t) = Time::parse_rfc3339(text) {
                    assert_eq!(Time::parse_rfc3339(&t.to_string()), Some(t), "{}", t.0);
                }
            }
            _ => {}
        }
    });
});
