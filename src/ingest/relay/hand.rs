//! One record through the maker and out: to its topic, or as a dead letter.

use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::BaseRecord;

use super::{Dead, Made, Maker, Place, Producer, Shared};
use crate::event::Time;
use crate::ingest::batch::Fetched;
use crate::telemetry::metrics;

/// One record through the maker.
pub(super) fn take(
    shared: &Shared,
    producer: &Producer,
    maker: &mut impl Maker,
    partition: i32,
    r: &Fetched<'_>,
    headers: &[(&str, &[u8])],
) {
    let (begun, epoch, expected) = {
        let mut state = shared.state();
        let begun = std::mem::take(&mut state.begun);
        let epoch = state.epoch;
        // One that lost its place starts anew behind the gap first.
        let part = state.part(partition).filter(|p| p.lost.is_none());
        let next = part.map(|p| p.next);
        (begun, epoch, next)
    };
    for p in begun {
        maker.begin(p);
    }
    // Fetched before a new start: not ours any more, or read already, or to be read again.
    if expected.is_none_or(|next| r.offset < next) {
        return;
    }
    let at = Time(r.ts_ms);
    match maker.make(partition, r, headers) {
        Made::Record {
            key,
            value,
            signature,
        } => {
            if let Some(p) = shared.state().part(partition) {
                p.open(r.offset);
            }
            let place = Place {
                epoch,
                partition,
                offset: r.offset,
                bytes: key.len() + value.len(),
                dead: false,
            };
            let out = Out {
                topic: &shared.config.to,
                key: &key,
                value: &value,
                signature: signature.as_deref(),
                at,
            };
            send(shared, producer, &out, place);
        }
        Made::Duplicate => {
            metrics().seal_records.inc(&["duplicate"]);
            if let Some(p) = shared.state().part(partition) {
                p.pass(r.offset);
            }
        }
        Made::Dead(d) => {
            if let Some(p) = shared.state().part(partition) {
                p.open(r.offset);
            }
            send_dead(
                shared,
                producer,
                epoch,
                partition,
                (r.offset, r.offset + 1),
                at,
                &d,
            );
        }
    }
}

/// A dead letter to its topic: place and reason. `lo..hi` are the offsets concerned.
pub(super) fn send_dead(
    shared: &Shared,
    producer: &Producer,
    epoch: u64,
    partition: i32,
    (lo, hi): (i64, i64),
    at: Time,
    d: &Dead,
) {
    let topic = shared.topic();
    metrics().dead_letters.inc(&[topic, d.reason]);
    metrics().seal_records.inc(&["dead_letter"]);
    let mut value = serde_json::json!({
        "v": 1, "topic": topic, "partition": partition, "offset": lo, "reason": d.reason, "bytes": d.bytes,
    });
    if hi > lo + 1 {
        value["through"] = (hi - 1).into();
    }
    if at.0 > 0 {
        value["at"] = at.to_string().into();
    }
    if let Some(path) = &d.path {
        value["path"] = path.as_str().into();
    }
    if let Some(byte) = d.byte {
        value["byte"] = byte.into();
    }
    let (key, value) = (format!("{topic}/{partition}/{lo}"), value.to_string());
    let place = Place {
        epoch,
        partition,
        offset: hi - 1,
        bytes: key.len() + value.len(),
        dead: true,
    };
    let out = Out {
        topic: &shared.config.dead,
        key: &key,
        value: &value,
        signature: None,
        at,
    };
    send(shared, producer, &out, place);
}

/// What is published.
struct Out<'a> {
    topic: &'a str,
    key: &'a str,
    value: &'a str,
    signature: Option<&'a str>,
    at: Time,
}

fn send(shared: &Shared, producer: &Producer, out: &Out<'_>, place: Place) {
    {
        let mut state = shared.state();
        if state.in_flight == 0 {
            state.reported = Some(Instant::now());
        }
        state.in_flight += 1;
        state.bytes += place.bytes;
    }
    let mut record = BaseRecord::with_opaque_to(out.topic, Box::new(place))
        .key(out.key)
        .payload(out.value);
    if out.at.0 > 0 {
        record = record.timestamp(out.at.0);
    }
    if let Some(signature) = out.signature {
        let header = Header {
            key: "vw-sig",
            value: Some(signature),
        };
        record = record.headers(OwnedHeaders::new_with_capacity(1).insert(header));
    }
    // The client's queue is larger than what may be in flight, so a full one cannot happen for long.
    loop {
        match producer.send(record) {
            Ok(()) => return,
            Err((KafkaError::MessageProduction(Code::QueueFull), back)) => {
                record = back;
                std::thread::sleep(Duration::from_millis(2));
            }
            Err((e, back)) => {
                let place = *back.delivery_opaque;
                shared.report(place, Err(&e));
                return;
            }
        }
    }
}
