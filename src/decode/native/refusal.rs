//! From serde's errors to reasons and places, without their messages.

use super::super::reason::Reason;
use super::super::wire::{self, Int, Obj};
use super::super::{VERSION, place};
use super::Bad;
use crate::event::SmolStr;

/// Turns serde's error into a reason and a place. Its message quotes values, so only its fixed
/// beginning is read, and nothing of it is passed on.
pub(in super::super) fn parse_error(text: &str, e: &serde_json::Error) -> Bad {
    /// Versions may differ in any field, so an unknown one is recognised before the field that failed.
    #[derive(serde::Deserialize)]
    struct Probe {
        v: Option<Int>,
    }
    if e.is_data()
        && let Ok(Obj(Probe { v: Some(v) })) = serde_json::from_str(text)
        && v.0 != VERSION
    {
        return Bad {
            reason: Reason::UnknownVersion,
            path: Some(SmolStr::new_static("v")),
            byte: None,
        };
    }
    let byte = place::byte_of(text, e.line(), e.column());
    let message = e.to_string();
    let named = || message.split('`').nth(1).and_then(place::known);
    let (reason, field) = if message.starts_with("missing field") {
        (Reason::MissingField, named())
    } else if message.starts_with(wire::DUPLICATE) {
        (Reason::DuplicateField, named())
    } else if message.starts_with("recursion limit") {
        (Reason::TooDeep, None)
    } else if message.starts_with("number out of range")
        || message.starts_with(wire::OUT_OF_RANGE)
        || message.starts_with("invalid value")
    {
        (Reason::OutOfRange, None)
    } else if e.is_data() {
        (Reason::WrongType, None)
    } else if let Some(at) = memchr::memchr(0, text.as_bytes()) {
        return Bad {
            reason: Reason::Nul,
            path: None,
            byte: Some(at),
        };
    } else {
        (Reason::NotJson, None)
    };
    let at = place::path_at(text, byte);
    let path = match (field, at) {
        // The parent of a missing field is known by where its object ended; the last key seen in
        // that object is not part of the path.
        (Some(f), at) => {
            let parent = at.and_then(|p| p.rfind('.').map(|i| SmolStr::from(&p[..i])));
            Some(parent.map_or_else(|| f.into(), |p| format!("{p}.{f}").into()))
        }
        (None, at) => at,
    };
    Bad {
        reason,
        path,
        byte: Some(byte),
    }
}
