//! CloudEvents 1.0 over Kafka: unwraps the structured and the binary mode to the bare event.
//!
//! Hand-written: the binding is a header prefix and four required attributes. Kafka has no batch mode.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::reason::Reason;
use super::wire::{Obj, Str};

/// Event type that gateways should send.
pub const TYPE: &str = "dev.veilwatch.request.completed.v1";
/// The same without its major version.
const TYPE_STEM: &str = "dev.veilwatch.request.completed.v";

/// How a record is wrapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrapping {
    /// The value is the event.
    Bare,
    /// The value is the event, the attributes are headers.
    Binary,
    /// The value is an envelope that holds the event.
    Structured,
}

/// Looks at the headers only: `content-type: application/cloudevents…` is structured, `ce_specversion`
/// binary, everything else bare.
pub fn wrapping(headers: &[(&str, &[u8])]) -> Result<Wrapping, Reason> {
    const STRUCTURED: &[u8] = b"application/cloudevents";
    let headers = &headers[..headers.len().min(super::MAX_HEADERS)];
    let mut content_type = None;
    let (mut id, mut source, mut kind, mut version) = (None, None, None, None);
    for (name, value) in headers {
        let slot = if name.eq_ignore_ascii_case("content-type") {
            &mut content_type
        } else if name.eq_ignore_ascii_case("ce_id") {
            &mut id
        } else if name.eq_ignore_ascii_case("ce_source") {
            &mut source
        } else if name.eq_ignore_ascii_case("ce_type") {
            &mut kind
        } else if name.eq_ignore_ascii_case("ce_specversion") {
            &mut version
        } else {
            continue;
        };
        *slot = Some(*value);
    }
    if let Some(ct) = content_type
        && ct.len() >= STRUCTURED.len()
        && ct[..STRUCTURED.len()].eq_ignore_ascii_case(STRUCTURED)
    {
        // The batch format has no place in Kafka, and no decoder for one record could answer for it.
        return match &ct[STRUCTURED.len()..] {
            [b'-', ..] => Err(Reason::ContentType),
            rest if is_json_suffix(rest) => Ok(Wrapping::Structured),
            _ => Err(Reason::ContentType),
        };
    }
    let Some(version) = version else {
        return Ok(Wrapping::Bare);
    };
    let text = |b: Option<&'_ [u8]>| {
        b.and_then(|b| std::str::from_utf8(b).ok())
            .map(str::to_owned)
    };
    check_attributes(
        text(Some(version)).as_deref(),
        text(id).as_deref(),
        text(source).as_deref(),
        text(kind).as_deref(),
    )?;
    match content_type {
        Some(ct) if !std::str::from_utf8(ct).is_ok_and(is_json_type) => Err(Reason::ContentType),
        _ => Ok(Wrapping::Binary),
    }
}

/// `+json` or nothing, then parameters.
fn is_json_suffix(rest: &[u8]) -> bool {
    let end = rest.iter().position(|b| *b == b';').unwrap_or(rest.len());
    let suffix = rest[..end].trim_ascii();
    suffix.is_empty() || suffix.eq_ignore_ascii_case(b"+json")
}

/// `application/json`, `text/json` or any `…+json`, with parameters.
fn is_json_type(ct: &str) -> bool {
    let t = ct.split(';').next().unwrap_or_default().trim();
    t.is_empty()
        || t.eq_ignore_ascii_case("application/json")
        || t.eq_ignore_ascii_case("text/json")
        || t.to_ascii_lowercase().ends_with("+json")
}

fn check_attributes(
    version: Option<&str>,
    id: Option<&str>,
    source: Option<&str>,
    kind: Option<&str>,
) -> Result<(), Reason> {
    match version {
        None => return Err(Reason::Envelope),
        Some(v) if v != "1.0" => return Err(Reason::UnknownVersion),
        Some(_) => {}
    }
    for attribute in [id, source, kind] {
        if attribute.is_none_or(str::is_empty) {
            return Err(Reason::Envelope);
        }
    }
    // A type of another name is the gateway's own choice; ours with another major version is not ours.
    match kind.and_then(|k| k.strip_prefix(TYPE_STEM)) {
        Some(major) if major != "1" => Err(Reason::UnknownVersion),
        _ => Ok(()),
    }
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default)]
    specversion: Option<Str<'a>>,
    #[serde(borrow, default)]
    id: Option<Str<'a>>,
    #[serde(borrow, default)]
    source: Option<Str<'a>>,
    #[serde(borrow, default, rename = "type")]
    kind: Option<Str<'a>>,
    #[serde(borrow, default)]
    datacontenttype: Option<Str<'a>>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    data_base64: Option<Str<'a>>,
}

/// Whether a bare record is in fact a structured CloudEvent (a file, or a producer without headers).
pub fn looks_structured(text: &str) -> bool {
    #[derive(Deserialize)]
    struct Probe<'a> {
        #[serde(borrow)]
        specversion: Option<Str<'a>>,
    }
    serde_json::from_str::<Obj<Probe<'_>>>(text).is_ok_and(|p| p.0.specversion.is_some())
}

/// A refusal of the envelope: why, which field, and a parser's error if there is one.
pub type Refusal = (Reason, Option<&'static str>, Option<serde_json::Error>);

/// Unwraps the structured mode: the event's JSON, borrowed from the record unless it came as base64.
pub fn unwrap(text: &str) -> Result<Cow<'_, str>, Refusal> {
    let plain = |r| (r, None, None);
    let e = serde_json::from_str::<Obj<Envelope<'_>>>(text)
        .map_err(|e| (Reason::NotJson, None, Some(e)))?
        .0;
    let get = |s: &Option<Str<'_>>| s.as_ref().map(|s| s.0.clone().into_owned());
    check_attributes(
        get(&e.specversion).as_deref(),
        get(&e.id).as_deref(),
        get(&e.source).as_deref(),
        get(&e.kind).as_deref(),
    )
    .map_err(plain)?;
    if e.datacontenttype.is_some_and(|t| !is_json_type(&t.0)) {
        return Err((Reason::ContentType, Some("datacontenttype"), None));
    }
    match (e.data, e.data_base64) {
        (Some(data), None) => Ok(Cow::Borrowed(data.get())),
        (None, Some(b64)) => {
            let bytes = STANDARD
                .decode(b64.0.as_bytes())
                .map_err(|_| (Reason::BadBase64, Some("data_base64"), None))?;
            String::from_utf8(bytes)
                .map(Cow::Owned)
                .map_err(|_| (Reason::NotUtf8, Some("data_base64"), None))
        }
        (None, None) => Err((Reason::MissingField, Some("data"), None)),
        (Some(_), Some(_)) => Err((Reason::DuplicateField, Some("data"), None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_decide() {
        let binary: &[(&str, &[u8])] = &[
            ("ce_specversion", b"1.0"),
            ("ce_id", b"1"),
            ("ce_source", b"/gateway/a"),
            ("ce_type", TYPE.as_bytes()),
            ("content-type", b"application/json"),
        ];
        assert_eq!(wrapping(&[]), Ok(Wrapping::Bare));
        assert_eq!(
            wrapping(&[("content-type", b"application/json")]),
            Ok(Wrapping::Bare)
        );
        assert_eq!(wrapping(binary), Ok(Wrapping::Binary));
        assert_eq!(wrapping(&binary[..3]), Err(Reason::Envelope));
        let mut v2 = binary.to_vec();
        v2[3].1 = b"dev.veilwatch.request.completed.v2";
        assert_eq!(wrapping(&v2), Err(Reason::UnknownVersion));
        let mut xml = binary.to_vec();
        xml[4].1 = b"application/xml";
        assert_eq!(wrapping(&xml), Err(Reason::ContentType));
        for ct in [
            "application/cloudevents+json; charset=UTF-8",
            "Application/CloudEvents+JSON",
            "application/cloudevents",
        ] {
            assert_eq!(
                wrapping(&[("Content-Type", ct.as_bytes())]),
                Ok(Wrapping::Structured),
                "{ct}"
            );
        }
        for ct in [
            "application/cloudevents-batch+json",
            "application/cloudevents+avro",
        ] {
            assert_eq!(
                wrapping(&[("content-type", ct.as_bytes())]),
                Err(Reason::ContentType),
                "{ct}"
            );
        }
    }
}
