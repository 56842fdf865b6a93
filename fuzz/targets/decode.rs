//! A record of any bytes, sealed or trusted, bare or as a CloudEvent: an event that survives being
//! written and read, or a dead letter that quotes nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use veilwatch::decode::{Decoder, RawRecord, encode};
use veilwatch::event::Time;
use veilwatch_fuzz::{Bound, sealer};

const BOUND: Bound = Bound {
    loads: 200_000,
    loads_floor: 60_000_000,
    memory: 4_000,
    memory_floor: 32 << 20,
};

/// Splits `headers` into names and values at line ends and colons.
fn headers(data: &[u8]) -> (Vec<(&str, &[u8])>, &[u8]) {
    let mut out = Vec::new();
    let mut rest = data;
    while let Some(end) = rest.iter().position(|b| *b == b'\n') {
        let (line, more) = (&rest[..end], &rest[end + 1..]);
        let Some(colon) = line.iter().position(|b| *b == b':') else {
            return (out, more);
        };
        if let Ok(name) = std::str::from_utf8(&line[..colon]) {
            out.push((name, &line[colon + 1..]));
        }
        rest = more;
    }
    (out, rest)
}

fuzz_target!(|data: &[u8]| {
    let Some((first, rest)) = data.split_first() else {
        return;
    };
    let (headers, value) = if first & 2 == 0 {
        (Vec::new(), rest)
    } else {
        headers(rest)
    };
    let trusted = first & 1 == 1;
    let mut decoder = if trusted {
        Decoder::trusted(sealer())
    } else {
        Decoder::sealed()
    };
    let record = |value| RawRecord {
        topic: "t",
        partition: 0,
        offset: 7,
        append: Time(1_700_000_000_000),
        key: None,
        value: Some(value),
        headers: &headers,
    };
    let first = BOUND.hold(data.len(), || decoder.decode(&record(value)));
    match first {
        Ok(event) => {
            let json = encode::to_json(&event);
            let plain = RawRecord {
                headers: &[],
                ..record(json.as_bytes())
            };
            let back = Decoder::sealed().with_max_bytes(64 << 20).decode(&plain);
            match back {
                Ok(back) => assert_eq!(encode::to_json(&back), json),
                Err(letter) => panic!("what was decoded is refused when written: {letter:?}"),
            }
        }
        Err(letter) => {
            assert!(letter.byte.is_none_or(|b| b <= letter.bytes), "{letter:?}");
            let path = letter.path.as_deref().unwrap_or_default();
            assert!(path.len() < 512, "a path of {} bytes", path.len());
        }
    }
});
