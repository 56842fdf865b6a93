//! Text in, sealed event out: it can be read again as it was, and holds no text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use veilwatch::decode::{Decoder, RawRecord, bare, encode};
use veilwatch::event::{Role, Side, Time};
use veilwatch::seal::Scratch;
use veilwatch_fuzz::{Bound, sealer};

/// Stands in every text and must stand in no event. Not a word, not an encoding of one.
const PLANTED: &str = "qzxPLANTEDvkj";

const BOUND: Bound = Bound {
    loads: 150_000,
    loads_floor: 30_000_000,
    memory: 2_500,
    memory_floor: 16 << 20,
};

fuzz_target!(|data: &[u8]| {
    let text = format!("{} {PLANTED} {}", String::from_utf8_lossy(data), PLANTED);
    let sealer = sealer();
    let mut scratch = Scratch::default();
    // Regexes and tables of numbers are built when a text first needs them: that is nobody's cost.
    sealer.sketch(&text, Role::User, Side::Request, &mut scratch);
    let sketch = BOUND.hold(text.len(), || {
        sealer.sketch(&text, Role::User, Side::Request, &mut scratch)
    });
    let event = bare::event(1, Role::User, Side::Request, sketch);
    let json = encode::to_json(&event);
    assert!(!json.contains(PLANTED) && !format!("{event:?}").contains(PLANTED));
    let record = RawRecord {
        topic: "t",
        partition: 0,
        offset: 0,
        append: Time(0),
        key: None,
        value: Some(json.as_bytes()),
        headers: &[],
    };
    let mut decoder = Decoder::sealed();
    match decoder.decode(&record) {
        Ok(back) => assert_eq!(encode::to_json(&back), json),
        Err(letter) => panic!("what was sealed is refused: {letter:?}"),
    }
});
