//! A bare line of `scan` and `seal`: one text with its role and side, no event around it.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::native::{Bad, offset_in, parse_error, string};
use super::reason::{DeadLetter, Reason};
use super::wire::{Content, Obj, Str};
use crate::event::{Event, Part, Role, Side, Sketch, SmolStr, Time, Usage};
use crate::seal::text::Text;

/// One text, as a line of a file holds it.
pub struct Bare {
    /// The text.
    pub text: Text,
    /// Who said it; `user` where the line does not say.
    pub role: Role,
    /// Which way it travels; towards the model where the line does not say.
    pub side: Side,
}

#[derive(Deserialize)]
struct Line<'a> {
    v: Option<Content>,
    /// Of a CloudEvent around an event.
    specversion: Option<Content>,
    /// Of an event whose version was forgotten, as are the next ones.
    gateway: Option<Content>,
    model: Option<Content>,
    request: Option<Content>,
    context: Option<Content>,
    response: Option<Content>,
    #[serde(borrow, default)]
    text: Option<&'a RawValue>,
    #[serde(borrow, default)]
    role: Option<Str<'a>>,
    #[serde(borrow, default)]
    side: Option<Str<'a>>,
}

/// Why a line is no bare text: the refusal, and what to write instead in words of this form (the
/// contract of events has no `role` or `side` at the top).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Why and where.
    pub dead: DeadLetter,
    /// What to write.
    pub remedy: &'static str,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.dead.tell(self.remedy))
    }
}

impl From<DeadLetter> for Refused {
    fn from(dead: DeadLetter) -> Self {
        let remedy = match (dead.reason, dead.path.as_deref()) {
            (Reason::NotJson | Reason::NotUtf8, _) => "write one JSON object a line, in UTF-8",
            (Reason::MissingField, _) => "write the text as `text`",
            (Reason::WrongType, None) => "write a JSON object with `text`",
            (Reason::WrongType, _) => "write a string",
            (Reason::UnknownValue, Some("role")) => {
                "write user, assistant, system, tool or document"
            }
            (Reason::UnknownValue, Some("side")) => "write request or response",
            (Reason::TooDeep, _) => "write a flat object with `text`",
            (reason, _) => reason.remedy(),
        };
        Self { dead, remedy }
    }
}

/// Parses a line as a bare text, whatever else it holds.
///
/// # Errors
/// It has no text, or a role or side that is not one.
pub fn text(line: &str) -> Result<Bare, Refused> {
    let read = read(line)?;
    Ok(bare(line, read)?)
}

/// Parses a line. `Ok(None)` if it is an event rather than a bare text: it has a `v`, is a CloudEvent, or
/// has no `text` but a part of an event, so that the decoder can say what it lacks.
///
/// # Errors
/// The line is neither.
pub fn parse(line: &str) -> Result<Option<Bare>, Refused> {
    let read = read(line)?;
    let parts = [
        &read.gateway,
        &read.model,
        &read.request,
        &read.context,
        &read.response,
    ];
    let event = read.text.is_none() && parts.iter().any(|p| p.is_some());
    if read.v.is_some() || read.specversion.is_some() || event {
        return Ok(None);
    }
    Ok(Some(bare(line, read)?))
}

fn refused(line: &str, b: Bad) -> DeadLetter {
    DeadLetter {
        reason: b.reason,
        path: b.path,
        byte: b.byte.map(|b| b as u64),
        bytes: line.len() as u64,
        origin: None,
    }
}

fn read(line: &str) -> Result<Line<'_>, DeadLetter> {
    if let Some(byte) = super::place::too_deep(line, super::MAX_DEPTH) {
        let bad = Bad {
            reason: Reason::TooDeep,
            path: None,
            byte: Some(byte),
        };
        return Err(refused(line, bad));
    }
    match serde_json::from_str::<Obj<Line<'_>>>(line) {
        Ok(Obj(read)) => Ok(read),
        Err(e) => Err(refused(line, parse_error(line, &e))),
    }
}

fn bare(line: &str, l: Line<'_>) -> Result<Bare, DeadLetter> {
    let field = |reason, path| {
        let path = Some(SmolStr::new_static(path));
        let bad = Bad {
            reason,
            path,
            byte: None,
        };
        refused(line, bad)
    };
    let raw = l.text.ok_or_else(|| field(Reason::MissingField, "text"))?;
    let raw = raw.get();
    let text = string(raw).ok_or_else(|| {
        let bad = Bad {
            reason: Reason::WrongType,
            path: Some(SmolStr::new_static("text")),
            byte: offset_in(line, raw),
        };
        refused(line, bad)
    })?;
    let role = match l.role.as_ref().map_or("user", |r| &r.0) {
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "system" => Role::System,
        "tool" => Role::Tool,
        "document" => Role::Document,
        _ => return Err(field(Reason::UnknownValue, "role")),
    };
    let side = match l.side.as_ref().map_or("request", |s| &s.0) {
        "request" => Side::Request,
        "response" => Side::Response,
        _ => return Err(field(Reason::UnknownValue, "side")),
    };
    Ok(Bare { text, role, side })
}

/// The event that a bare line's sketch stands in: gateway `file`, id `line-<n>`, at the epoch.
pub fn event(line: u64, role: Role, side: Side, sketch: Sketch) -> Event {
    let mut e = Event {
        id: smol_str::format_smolstr!("line-{line}"),
        gateway: SmolStr::new_static("file"),
        boot: None,
        lane: 0,
        seq: None,
        dropped: 0,
        at: Time(0),
        tenant: None,
        team: None,
        user: None,
        session: None,
        api_key: None,
        prev: None,
        net: None,
        app: None,
        operation: SmolStr::new_static("chat"),
        route: None,
        stream: false,
        provider: None,
        model_requested: SmolStr::new_static("unknown"),
        model_served: None,
        status: 200,
        error: None,
        total_ms: None,
        ttft_ms: None,
        usage: Usage::default(),
        reported_cost: None,
        policy: None,
        tools: Vec::new(),
        sources: Vec::new(),
        request: None,
        context: Vec::new(),
        response: None,
        unscanned: Vec::new(),
    };
    match (role, side) {
        (_, Side::Response) => e.response = Some(sketch),
        (Role::User, Side::Request) => e.request = Some(sketch),
        (role, Side::Request) => e.context.push(Part {
            role,
            source: None,
            digest: sketch.digest,
            sketch: Some(sketch),
        }),
    }
    e
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(line: &str) -> (Reason, Option<SmolStr>) {
        let d = parse(line).map(|_| ()).expect_err("refused");
        assert!(!d.to_string().contains("zebra"), "{d}");
        assert!(text(line).is_err_and(|t| t == d), "one parser, one answer");
        (d.dead.reason, d.dead.path)
    }

    #[test]
    fn defaults_and_fields() {
        let b = parse(r#"{"text":"zebra","id":7}"#)
            .expect("parses")
            .expect("bare");
        assert_eq!(
            (b.text.expose(), b.role, b.side),
            ("zebra", Role::User, Side::Request)
        );
        let b = parse(r#"{"text":"","role":"tool","side":"response"}"#)
            .expect("parses")
            .expect("bare");
        assert_eq!((b.role, b.side), (Role::Tool, Side::Response));
        // No role is the usual one; a version is another field to who asks for a text.
        let b = text(r#"{"v":1,"text":"zebra","role":null}"#).expect("a text");
        assert_eq!(b.role, Role::User);
        for event in [
            r#"{"v":1,"request":{"text":"zebra"}}"#,
            r#"{"specversion":"1.0","data":{"v":1,"request":{"text":"zebra"}}}"#,
            r#"{"gateway":"g","request":{"text":"zebra"}}"#,
            r#"{"context":[]}"#,
        ] {
            assert!(parse(event).expect("parses").is_none(), "{event}");
        }
        // Other fields of a bare line mean nothing, whatever they are called.
        let b = parse(r#"{"text":"zebra","id":7,"model":"m","gateway":"g","request":1}"#);
        assert!(b.expect("parses").is_some());
    }

    #[test]
    fn bad_lines_are_named_not_quoted() {
        assert_eq!(refused("zebra").0, Reason::NotJson);
        assert_eq!(refused(r#""zebra""#).0, Reason::WrongType);
        assert_eq!(
            refused(r#"{"txt":"zebra"}"#),
            (Reason::MissingField, Some("text".into()))
        );
        assert_eq!(
            refused(r#"{"text":["zebra"]}"#),
            (Reason::WrongType, Some("text".into()))
        );
        assert_eq!(
            refused(r#"{"text":"zebra","role":"zebra"}"#),
            (Reason::UnknownValue, Some("role".into()))
        );
        assert_eq!(
            refused(r#"{"text":"zebra","side":"zebra"}"#),
            (Reason::UnknownValue, Some("side".into()))
        );
        assert_eq!(refused(&"[".repeat(10_000)).0, Reason::TooDeep);
        let said = |line: &str| text(line).map(|_| ()).expect_err("refused").to_string();
        assert_eq!(
            said(r#"{"text":"x","role":"boss"}"#),
            "unknown_value at role: write user, assistant, system, tool or document"
        );
        assert!(said(r#"{"text":"x","role":5}"#).starts_with("wrong_type at role, byte"));
        assert!(said(r#"{"text":5}"#).ends_with("write a string"));
        assert!(said("zebra").ends_with("write one JSON object a line, in UTF-8"));
    }
}
