//! Rules and model over a text of any role and side: what is found lies within the text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use veilwatch::event::{Role, Side};
use veilwatch::seal::engine::Scratch;
use veilwatch_fuzz::{Bound, engine};

const BOUND: Bound = Bound {
    loads: 120_000,
    loads_floor: 20_000_000,
    memory: 2_000,
    memory_floor: 8 << 20,
};

fuzz_target!(|data: &[u8]| {
    let Some((first, rest)) = data.split_first() else {
        return;
    };
    let role = [Role::User, Role::System, Role::Tool, Role::Document, Role::Assistant][usize::from(first % 5)];
    let side = if first & 0x80 == 0 { Side::Request } else { Side::Response };
    let text = String::from_utf8_lossy(rest);
    let engine = engine();
    let mut scratch = Scratch::default();
    // Regexes and tables of numbers are built when a text first needs them: that is nobody's cost.
    engine.scan(&text, role, side, &mut scratch);
    let scan = BOUND.hold(text.len(), || engine.scan(&text, role, side, &mut scratch));
    let chars = text.chars().count();
    for v in &scan.values {
        assert!(v.start < v.end && v.end <= chars, "{v:?} of {chars} characters");
    }
    assert!((0.0..=1.0).contains(&scan.injection.score));
    // A scratch that was used says the same as a new one.
    let again = engine.scan(&text, role, side, &mut Scratch::default());
    assert_eq!(scan, again);
});
