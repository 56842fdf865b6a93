//! The JSON Schema of the sealed event: bounds that serde's types do not carry, and the printed file.
//!
//! `deploy/schema/event.v1.json` is [`event_v1`], checked by a test that runs decoder and schema over
//! the same records.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use super::{MAX_COUNTS, MAX_LONG, MAX_STATUS, MAX_TOKENS, VERSION};
use crate::event::{MAX_HITS, MAX_PARTS, MAX_PRINTS, MAX_RESPONSE_PRINTS, MAX_VALUES};

/// The shape of an e-mail address, as [`super::name::has_email`] sees it.
pub const EMAIL: &str = r"[A-Za-z0-9._%+-]@[A-Za-z0-9.-]*[A-Za-z0-9-]\.[A-Za-z]{2}";

macro_rules! kind {
    ($($(#[$doc:meta])* $name:ident = $title:literal: $schema:expr;)*) => {$(
        $(#[$doc])*
        pub enum $name {}
        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                Cow::Borrowed($title)
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    )*};
}

kind! {
    /// Contract version.
    Version = "version": json_schema!({"const": VERSION});
    /// Event id.
    Id = "id": json_schema!({"type": "string", "pattern": "^[!-~]{1,64}$", "not": {"type": "string", "pattern": EMAIL}});
    /// Name.
    Name = "name": json_schema!({"type": "string", "pattern": "^[A-Za-z0-9._:/-]{1,64}$"});
    /// Model name.
    ModelName = "model_name": json_schema!({"type": "string", "pattern": "^[A-Za-z0-9._:/@-]{1,256}$", "not": {"type": "string", "pattern": EMAIL}});
    /// Error class.
    ErrorClass = "error_class": json_schema!({"type": "string", "pattern": "^[a-z0-9_.-]{1,64}$"});
    /// Keyed hash with its key id.
    Pseudonym = "pseudonym": json_schema!({"type": "string", "pattern": "^[a-z0-9]{2,16}:[A-Za-z0-9_-]{21}[AQgw]$"});
    /// Key id.
    KeyId = "kid": json_schema!({"type": "string", "pattern": "^[a-z0-9]{2,16}$"});
    /// RFC 3339.
    Instant = "instant": json_schema!({"type": "string", "format": "date-time", "pattern": INSTANT});
    /// A calendar day.
    Day = "day": json_schema!({"type": "string", "format": "date", "pattern": "^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$"});
    /// A non-negative decimal.
    Decimal = "decimal": json_schema!({"type": "string", "pattern": "^[0-9]{1,7}(\\.[0-9]{1,24})?$", "maxLength": super::money::MAX_CHARS});
    /// Rotation class.
    KeyClass = "class": json_schema!({"enum": ["standard", "privileged"]});
    /// Usage state.
    UsageState = "state": json_schema!({"enum": ["final", "estimated", "missing"]});
    /// Guardrail decision.
    Decision = "decision": json_schema!({"enum": ["allow", "block", "redact", "error", "none"]});
    /// Role.
    Role = "role": json_schema!({"enum": ["system", "user", "assistant", "tool", "document"]});
    /// HTTP status.
    Status = "status": json_schema!({"type": "integer", "minimum": 0, "maximum": MAX_STATUS});
    /// u32.
    U32 = "u32": json_schema!({"type": "integer", "minimum": 0, "maximum": u32::MAX});
    /// 63 bits, as Postgres holds them.
    Long = "long": json_schema!({"type": "integer", "minimum": 0, "maximum": MAX_LONG});
    /// Tokens of one call.
    Tokens = "tokens": json_schema!({"type": "integer", "minimum": 0, "maximum": MAX_TOKENS});
    /// A finite number from 0.
    NonNegative = "non_negative": json_schema!({"type": "number", "minimum": 0});
    /// 0 to 1.
    Unit = "unit": json_schema!({"type": "number", "minimum": 0, "maximum": 1});
    /// Bits per byte.
    Entropy = "entropy": json_schema!({"type": "number", "minimum": 0, "maximum": 8});
    /// BCP 47, short.
    Lang = "lang": json_schema!({"type": "string", "pattern": "^[A-Za-z0-9-]{2,8}$"});
    /// Base64 of little-endian u64s.
    Prints = "prints": json_schema!({"type": "string", "pattern": PRINTS, "maxLength": base64_chars(MAX_RESPONSE_PRINTS)});
    /// Nothing but null: text is refused.
    Refused = "refused": json_schema!({"type": "null"});
    /// Counts by name.
    Counts = "counts": json_schema!({
        "type": "object",
        "maxProperties": MAX_COUNTS,
        "propertyNames": {"pattern": "^[A-Za-z0-9._:/-]{1,64}$"},
        "additionalProperties": {"type": "integer", "minimum": 0, "maximum": MAX_LONG}
    });
}

const INSTANT: &str = "^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$";
/// Whole u64s only: the last group of one or two of them is padded and its spare bits are zero.
const PRINTS: &str =
    "^([A-Za-z0-9+/]{32})*([A-Za-z0-9+/]{10}[AEIMQUYcgkosw048]=|[A-Za-z0-9+/]{21}[AQgw]==)?$";

/// Characters of padded base64 that `n` prints take.
const fn base64_chars(n: usize) -> usize {
    (n * 8).div_ceil(3) * 4
}

macro_rules! compound {
    ($($(#[$doc:meta])* $name:ident = $title:literal: |$g:ident| $schema:expr;)*) => {$(
        $(#[$doc])*
        pub enum $name {}
        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                Cow::Borrowed($title)
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema($g: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    )*};
}

fn short() -> Value {
    json!({"properties": {"prints": {"maxLength": base64_chars(MAX_PRINTS)}}})
}

compound! {
    /// A sketch of the request or of context: fewer prints than a response.
    ShortSketch = "short_sketch": |g| json_schema!({"allOf": [g.subschema_for::<super::wire::Sketch>(), short()]});
    /// Context parts: sketches with a role.
    Parts = "parts": |g| json_schema!({
        "type": "array",
        "maxItems": MAX_PARTS,
        "items": {"allOf": [g.subschema_for::<super::wire::Sketch>(), short(), {"required": ["role"], "properties": {"role": {"type": "string"}}}]}
    });
    /// Hits.
    Hits = "hits": |g| json_schema!({"type": "array", "maxItems": MAX_HITS, "items": g.subschema_for::<super::wire::Hit>()});
    /// Value hashes.
    Values = "values": |g| json_schema!({"type": "array", "maxItems": MAX_VALUES, "items": g.subschema_for::<Pseudonym>()});
}

/// A sketch with prints: they say nothing without their key.
pub fn with_prints() -> Value {
    json!({"properties": {"prints": {"type": "string"}}, "required": ["prints"]})
}

/// What such a sketch needs.
pub fn needs_kid() -> Value {
    json!({"properties": {"kid": {"type": "string"}}, "required": ["kid"]})
}

/// The JSON Schema of the sealed event, pretty, with a final newline.
pub fn event_v1() -> String {
    let mut schema = schemars::generate::SchemaSettings::draft2020_12()
        .into_generator()
        .into_root_schema_for::<super::wire::Event>();
    schema.insert("$id".to_owned(), json!("urn:veilwatch:event:v1"));
    schema.insert(
        "$comment".to_owned(),
        json!("Generated from the wire types of the native decoder; at most 64 KiB in UTF-8. Unknown fields are ignored."),
    );
    let mut out = serde_json::to_string_pretty(&schema).unwrap_or_default();
    out.push('\n');
    out
}
