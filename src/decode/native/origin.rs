//! Who sent a record that was refused, and under which number: so that a dead letter names its gateway, and
//! its number is not taken for evidence that somebody removed.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::super::MAX_LONG;
use super::super::reason::Origin;
use super::super::wire::{Obj, Str};
use super::Reader;
use crate::seal::Keys;

/// How much is read of a record that is above the size bound, and is not read otherwise: publishers write
/// these few members first.
const HEAD_BYTES: usize = 16 * 1024;

/// What is read, whatever else the record holds and whatever is wrong with it.
#[derive(Default, Deserialize)]
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
/// would not stand in one. The record is read once more, which its size bounds.
pub(in super::super) fn origin(value: &[u8], keys: Option<&Keys>) -> Option<Origin> {
    let Obj(mut s) = serde_json::from_slice::<Obj<Scalars<'_>>>(value).ok()?;
    if let (None, Some(data)) = (s.gateway, s.data) {
        Obj(s) = serde_json::from_str::<Obj<Scalars<'_>>>(data.get()).ok()?;
    }
    told(&s, keys, Some(0))
}

/// The same of a record above the size bound, from its head alone.
pub(in super::super) fn origin_of_head(value: &[u8], keys: Option<&Keys>) -> Option<Origin> {
    let head = value.get(..HEAD_BYTES).unwrap_or(value);
    let mut s = Scalars::default();
    // It ends in the middle of something: what stood before that is known.
    let _ = serde_json::Deserializer::from_slice(head).deserialize_map(Head(&mut s));
    // A lane that was not met may come yet.
    told(&s, keys, None)
}

/// Takes the members out of an object that may be cut off.
struct Head<'s, 'a>(&'s mut Scalars<'a>);

impl<'a> Visitor<'a> for Head<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            let member = match key.as_str() {
                "gateway" => &mut self.0.gateway,
                "boot" => &mut self.0.boot,
                "lane" => &mut self.0.lane,
                "seq" => &mut self.0.seq,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            *member = Some(map.next_value()?);
        }
        Ok(())
    }
}

/// `lane`: the one of a record that names none.
fn told(s: &Scalars<'_>, keys: Option<&Keys>, lane: Option<u32>) -> Option<Origin> {
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
        None => lane,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn named(value: &str) -> Option<(String, Option<(String, u32, u64)>)> {
        let o = origin_of_head(value.as_bytes(), None)?;
        let place = o
            .place
            .map(|(boot, lane, seq)| (boot.to_string(), lane, seq));
        Some((o.gateway.to_string(), place))
    }

    #[test]
    fn of_a_record_that_is_too_large_only_the_head_is_read() {
        let text = "x".repeat(2 * HEAD_BYTES);
        let place = Some(("b".to_owned(), 2, 7));
        let cut =
            format!(r#"{{"gateway":"g","boot":"b","lane":2,"seq":7,"request":{{"text":"{text}"#);
        assert_eq!(named(&cut), Some(("g".to_owned(), place)));
        // A lane may stand behind what was read.
        let cut = format!(
            r#"{{"gateway":"g","boot":"b","seq":7,"request":{{"text":"{text}"}},"lane":2}}"#
        );
        assert_eq!(named(&cut), Some(("g".to_owned(), None)));
        let behind = format!(r#"{{"request":{{"text":"{text}"}},"gateway":"g"}}"#);
        assert_eq!(named(&behind), None);
        assert_eq!(named(&format!(r#"{{"gateway":"{text}"}}"#)), None);
        assert_eq!(named("[1,2"), None);
    }
}
