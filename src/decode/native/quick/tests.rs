//! The short way against the long way.

use proptest::prelude::*;

use super::*;

const FULL: &str = r#"{"v":1,"id":"e-1!#","gateway":"gw-0","boot":"b0","lane":3,"seq": 12 ,"dropped":0,"at":"2026-11-21T07:00:00.123Z","tenant":"acme","team":"a/b","user":"k7:AAAAAAAAAAAAAAAAAAAAAA","session":"k7:AAAAAAAAAAAAAAAAAAAAAQ","api_key":{"id":"k7:AAAAAAAAAAAAAAAAAAAAAA","created":"2026-01-02","class":"privileged"},"client":{"net":"k7:AAAAAAAAAAAAAAAAAAAAAA","app":"x"},"operation":"chat","route":"r","stream":true,"provider":"openai","model":{"requested":"gpt-4o","served":"gpt-4o-2024-08-06"},"status":200,"error":"timeout","latency":{"total_ms":1234.5,"ttft_ms":0.125},"usage":{"input":10,"output":20,"cache_read":1,"cache_write":2,"reasoning":3,"state":"estimated"},"cost_usd":"0.0123","policy":{"decision":"redact","rules":["a","b"]},"tools":[{"name":"t","args":"k7:AAAAAAAAAAAAAAAAAAAAAA"},{"name":"u"}],"sources":[{"id":"k7:AAAAAAAAAAAAAAAAAAAAAA","label":"web"},{}],"request":{"kid":"k7","digest":"k7:AAAAAAAAAAAAAAAAAAAAAA","bytes":6,"chars":5,"words":4,"ruleset":"b3:000000000000","hits":[{"rule":"inj-x","n":2,"values":["k7:AAAAAAAAAAAAAAAAAAAAAA"]},{"rule":"pii-y"}],"score":{"injection":0.97},"prints":"AQAAAAAAAAACAAAAAAAAAA==","features":{"control":1,"invisible":0,"mixed_script":false,"encoded":2,"entropy":4.1,"lang":"en"}},"context":[{"role":"document","source":1,"digest":"k7:AAAAAAAAAAAAAAAAAAAAAA"},{"role":"system","bytes":1}],"response":{"digest":"k7:AAAAAAAAAAAAAAAAAAAAAA","words":1}}"#;

/// What the short way takes, the long way reads alike.
fn agree(text: &str) -> bool {
    let Some(quick) = decode(text, &mut Spare::default()) else {
        return false;
    };
    match super::super::long(text, None) {
        Ok(long) => assert_eq!(quick, long, "{text}"),
        Err(b) => panic!("refused for {:?}: {text}", b.reason),
    }
    true
}

#[test]
fn the_whole_contract_goes_the_short_way() {
    assert!(agree(FULL));
    assert!(!agree(&FULL.replace("\"team\"", "\"t\\u0065am\"")));
    for other in [
        r#""v":1,"v":1"#,
        r#""v":2"#,
        r#""v":1.0"#,
        r#""v":null"#,
        r#""v":1,"text":"x""#,
        r#""v":1,"unknown":[1,{"a":"]"}]"#,
    ] {
        assert!(!agree(&FULL.replace(r#""v":1"#, other)), "{other}");
    }
    assert!(!agree(&format!("{FULL}x")));
    assert!(agree(&format!(" {FULL}\n")));
    assert!(!agree(&FULL.replace("\"source\":1", "\"source\":2")));
    assert!(!agree(&FULL.replace("gpt-4o-2024", "a@b.example")));
}

#[test]
fn numbers_are_read_alike() {
    for n in [
        "0",
        "1",
        "00",
        "01",
        "0.5",
        "0.10",
        "1.25e2",
        "1.",
        ".5",
        "-1",
        "-0",
        "4.1",
        "0.97",
        "123456789012345",
        "1234567890123456",
        "12345678901.2345",
        "0.000000000000001",
        "999999999999.999",
        "1e400",
    ] {
        let taken = agree(&FULL.replace("1234.5", n));
        let long = super::super::long(&FULL.replace("1234.5", n), None).is_ok();
        assert!(long || !taken, "{n}");
        agree(&FULL.replace("\"input\":10", &format!("\"input\":{n}")));
        agree(&FULL.replace("\"entropy\":4.1", &format!("\"entropy\":{n}")));
    }
    assert!(agree(&FULL.replace("1234.5", "0.10")));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn altered_records_are_read_alike(
        edits in prop::collection::vec((0usize..2_000, 0usize..16, prop::bool::ANY), 1..3),
    ) {
        /// Bytes that matter to JSON or to an alphabet.
        const BYTES: &[u8; 16] = b"\"\\{}[]:,0.e -@A\x7f";
        let mut text = FULL.as_bytes().to_vec();
        for (at, byte, insert) in edits {
            let at = at % text.len();
            if insert {
                text.insert(at, BYTES[byte]);
            } else if byte == 0 {
                text.remove(at);
            } else {
                text[at] = BYTES[byte];
            }
        }
        agree(std::str::from_utf8(&text).expect("ascii"));
    }

    #[test]
    fn floats_are_read_alike(whole in 0u64..100_000_000, frac in "[0-9]{1,9}") {
        let x = format!("{whole}.{frac}");
        prop_assert!(agree(&FULL.replace("1234.5", &x)) || x.len() > 16, "{}", x);
    }
}
