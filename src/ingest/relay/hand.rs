//! One record through the maker and into the open transaction: to its topic, or as a dead letter.

use super::writer::{Out, Place, Sent, Trouble};
use super::{Dead, Made, Maker, Shared};
use crate::event::Time;
use crate::ingest::batch::Fetched;

/// One record through the maker.
pub(super) fn take(
    shared: &Shared,
    maker: &mut impl Maker,
    partition: i32,
    r: &Fetched<'_>,
    headers: &[(&str, &[u8])],
) -> Result<(), Trouble> {
    let (begun, expected, too_large) = {
        let mut state = shared.state();
        if state.anew.is_some() {
            return Ok(());
        }
        let begun = std::mem::take(&mut state.begun);
        let too_large = state.too_large.get(&(partition, r.offset)).copied();
        // One that lost its place starts anew behind the gap first.
        let part = state.part(partition).filter(|p| p.lost.is_none());
        (begun, part.map(|p| p.next), too_large)
    };
    for p in begun {
        maker.begin(p);
    }
    // Fetched before a new start: not ours any more, or read already, or to be read again.
    if expected.is_none_or(|next| r.offset < next) {
        return Ok(());
    }
    let at = Time(r.ts_ms);
    let made = match too_large {
        Some(bytes) => Made::Dead(oversized(bytes)),
        None => maker.make(partition, r, headers),
    };
    let here = (r.offset, r.offset + 1);
    match made {
        Made::Record {
            key,
            value,
            signature,
        } => {
            let place = Place {
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
            match into_transaction(shared, &out, place)? {
                Sent::Yes => {
                    if let Some(w) = shared.writer().as_mut() {
                        w.tally()?.published += 1;
                    }
                }
                Sent::TooLarge => bury(shared, partition, here, at, &oversized(place.bytes))?,
            }
        }
        Made::Duplicate => {
            if let Some(w) = shared.writer().as_mut() {
                w.tally()?.duplicates += 1;
            }
        }
        Made::Dead(d) => bury(shared, partition, here, at, &d)?,
    }
    if let Some(p) = shared.state().part(partition) {
        p.pass(r.offset);
    }
    Ok(())
}

fn oversized(bytes: usize) -> Dead {
    Dead {
        reason: "sealed_too_large",
        path: None,
        byte: None,
        bytes: bytes as u64,
    }
}

/// A dead letter to its topic: place and reason. `lo..hi` are the offsets concerned.
pub(super) fn bury(
    shared: &Shared,
    partition: i32,
    (lo, hi): (i64, i64),
    at: Time,
    d: &Dead,
) -> Result<(), Trouble> {
    let topic = shared.topic();
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
    into_transaction(shared, &out, place)?;
    if let Some(w) = shared.writer().as_mut() {
        w.tally()?.dead.push(d.reason);
    }
    Ok(())
}

fn into_transaction(shared: &Shared, out: &Out<'_>, place: Place) -> Result<Sent, Trouble> {
    match shared.writer().as_mut() {
        Some(w) => w.send(out, place),
        None => Err(Trouble::Again("no producer".into())),
    }
}
