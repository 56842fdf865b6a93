//! A bare line of `scan` and `seal`: one text with its role and side, no event around it.

use serde::Deserialize;

use super::native::{Bad, parse_error};
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
    text: Option<Text>,
    #[serde(borrow, default)]
    role: Option<Str<'a>>,
    #[serde(borrow, default)]
    side: Option<Str<'a>>,
}

/// Parses a line. `Ok(None)` if it is an event (it has a `v`) rather than a bare text.
///
/// # Errors
/// The line is neither.
pub fn parse(line: &str) -> Result<Option<Bare>, DeadLetter> {
    let refused = |b: Bad| DeadLetter {
        reason: b.reason,
        path: b.path,
        byte: b.byte.map(|b| b as u64),
        bytes: line.len() as u64,
    };
    let field = |reason, path| {
        refused(Bad {
            reason,
            path: Some(SmolStr::new_static(path)),
            byte: None,
        })
    };
    if let Some(byte) = super::place::too_deep(line, super::MAX_DEPTH) {
        return Err(refused(Bad {
            reason: Reason::TooDeep,
            path: None,
            byte: Some(byte),
        }));
    }
    let Obj(l) =
        serde_json::from_str::<Obj<Line<'_>>>(line).map_err(|e| refused(parse_error(line, &e)))?;
    if l.v.is_some() {
        return Ok(None);
    }
    let text = l.text.ok_or_else(|| field(Reason::MissingField, "text"))?;
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
    Ok(Some(Bare { text, role, side }))
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
        (d.reason, d.path)
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
        assert!(
            parse(r#"{"v":1,"request":{"text":"zebra"}}"#)
                .expect("parses")
                .is_none()
        );
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
    }
}
