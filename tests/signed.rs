//! F41 on the whole path: records that nobody signed, or that speak for another gateway.

use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use veilwatch::decode::signature::sign;
use veilwatch::event::Kid;

use crate::rig::{Rig, ended, now, runtime, signal};

/// Base64 of 32 times 7.
const SECRET: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";

fn event(id: &str, gateway: &str) -> String {
    format!(
        r#"{{"v":1,"id":"{id}","gateway":"{gateway}","at":"{}","operation":"chat","model":{{"requested":"gpt-4o"}},"status":200}}"#,
        now()
    )
}

#[test]
fn f41_only_signed_records_count_where_signatures_are_required() {
    let rig = Rig::new(1);
    let keys = rig.write_config(
        "gateways.keys",
        &format!("# kid gateway secret\ng1 gw1 {SECRET}\n"),
    );
    let text = rig.config_text("").replace(
        "[ingest]",
        &format!(
            "[ingest]\ngateway_keys_file = \"{}\"\nrequire_signature = true",
            keys.display()
        ),
    );
    let config = rig.write_config("a.toml", &text);
    let p = rig.publisher();
    let send = |value: &str, signature: Option<&str>| {
        let headers: &[(&str, &[u8])] = match &signature {
            Some(s) => &[("vw-sig", s.as_bytes())],
            None => &[],
        };
        p.send(&rig.topic, Some(0), b"k", value.as_bytes(), headers);
    };
    let kid = Kid::parse("g1").expect("kid");
    let signed = |value: &str| sign(kid, &[7; 32], value.as_bytes());
    let good = event("good", "gw1");
    send(&good, Some(&signed(&good)));
    send(&event("unsigned", "gw1"), None);
    let other = event("other", "gw2");
    send(&other, Some(&signed(&other)));
    let changed = event("changed", "gw1");
    send(&changed, Some(&signed(&good)));
    p.flush(Duration::from_secs(20)).expect("flushed");
    runtime().block_on(async {
        let mut a = rig.spawn("a", &config, &[]);
        let pool = rig.pool().await;
        rig.wait_applied(&pool, 4, Duration::from_secs(60)).await;
        let letters: Vec<(i64, String)> =
            sqlx::query_as("SELECT off, reason FROM vw.dead_letter ORDER BY off")
                .fetch_all(&pool)
                .await
                .expect("dead letters");
        let refused = "bad_signature".to_owned();
        assert_eq!(
            letters,
            [(1, refused.clone()), (2, refused.clone()), (3, refused)]
        );
        let events: i64 = sqlx::query_scalar("SELECT sum(events)::bigint FROM vw.stream_hour")
            .fetch_one(&pool)
            .await
            .expect("counted");
        assert_eq!(events, 1);
        // A replay checks them as well.
        let out = Command::new(env!("CARGO_BIN_EXE_veilwatch"))
            .args([
                "dead-letters",
                "replay",
                "--all",
                "--author",
                "test",
                "--format",
                "json",
                "--config",
            ])
            .arg(&config)
            .output()
            .expect("ran");
        let said = String::from_utf8_lossy(&out.stdout);
        assert_eq!(
            said.matches("\"refused\"").count(),
            3,
            "{said}{}",
            String::from_utf8_lossy(&out.stderr)
        );
        signal(&a, Signal::TERM);
        assert!(ended(&mut a, Duration::from_secs(45)).success());
    });
}

#[test]
fn f41_a_gateway_that_signs_cannot_be_impersonated_by_leaving_the_signature_out() {
    use std::sync::Arc;

    use veilwatch::decode::signature::Signatures;
    use veilwatch::decode::{Decoder, RawRecord, Reason};
    use veilwatch::event::Time;

    let keys = Signatures::parse(&format!("g1 gw1 {SECRET}\n"), false).expect("keys");
    let mut decoder = Decoder::sealed().with_signatures(Arc::new(keys));
    let mut decode = |value: &str, signature: Option<&str>| {
        let headers: &[(&str, &[u8])] = match &signature {
            Some(s) => &[("vw-sig", s.as_bytes())],
            None => &[],
        };
        decoder
            .decode(&RawRecord {
                topic: "t",
                partition: 0,
                offset: 0,
                append: Time(0),
                key: None,
                value: Some(value.as_bytes()),
                headers,
            })
            .map(|e| e.gateway.to_string())
            .map_err(|d| (d.reason, d.path.map(|p| p.to_string())))
    };
    let refused = Err((Reason::BadSignature, Some("gateway".to_owned())));
    let (of_gw1, of_gw2) = (event("a", "gw1"), event("b", "gw2"));
    let signed = sign(Kid::parse("g1").expect("kid"), &[7; 32], of_gw1.as_bytes());
    assert_eq!(decode(&of_gw1, Some(&signed)), Ok("gw1".to_owned()));
    assert_eq!(decode(&of_gw1, None), refused);
    assert_eq!(decode(&of_gw1, Some("zz:AAAA")), refused);
    // The rollout goes on: who has no key yet is heard.
    assert_eq!(decode(&of_gw2, None), Ok("gw2".to_owned()));
}
