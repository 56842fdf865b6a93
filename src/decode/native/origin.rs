//! Who sent a record that was refused, and under which number: so that a dead letter names its gateway, and
//! its number is not taken for evidence that somebody removed.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::MAX_LONG;
use super::super::reason::Origin;
use super::super::wire::{Obj, Str};
use super::Reader;
use crate::seal::Keys;

/// What is read, whatever else the record holds and whatever is wrong with it.
#[derive(Deserialize)]
struct Scalars<'a> {
    #[serde(borrow, default)]
    gateway: Option<&'a RawValue>,
    #[serde(borrow, default)]
    boot: Option<&'a RawValue>,
    #[serde(borrow, default)]
    lane: Option<&'a RawValue>,
    #[serde(borrow, default)]
    seq: Option<&'a RawValue>,
    /// Of a CloudEvent.
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

/// Where the record's own words tell it: names by the rules of an event's, so that nothing stands here that
/// would not stand in one. Linear in the record, which its reader has in memory anyway.
pub(in super::super) fn origin(value: &[u8], keys: Option<&Keys>) -> Option<Origin> {
    let Obj(mut s) = serde_json::from_slice::<Obj<Scalars<'_>>>(value).ok()?;
    if let (None, Some(data)) = (s.gateway, s.data) {
        Obj(s) = serde_json::from_str::<Obj<Scalars<'_>>>(data.get()).ok()?;
    }
    let reader = Reader {
        text: "",
        keys,
        sealing: None,
        tenant: None,
        unscanned: Default::default(),
    };
    let name = |raw: Option<&RawValue>, field: &str| {
        let word: Str<'_> = serde_json::from_str(raw?.get()).ok()?;
        reader.name(format_args!("{field}"), &word).ok()
    };
    let number = |raw: Option<&RawValue>| raw.map(|n| serde_json::from_str::<u64>(n.get()));
    let lane = match number(s.lane) {
        None => Some(0),
        Some(n) => n.ok().and_then(|n| u32::try_from(n).ok()),
    };
    let seq = number(s.seq).and_then(Result::ok);
    let boot = name(s.boot, "boot").filter(|b| !b.is_empty());
    Some(Origin {
        gateway: name(s.gateway, "gateway")?,
        place: match (boot, lane, seq) {
            (Some(boot), Some(lane), Some(seq)) if seq <= MAX_LONG => Some((boot, lane, seq)),
            _ => None,
        },
    })
}
