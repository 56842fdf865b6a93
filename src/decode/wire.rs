//! The native event as it stands on the wire: what `deploy/schema/event.v1.json` is generated from.
//!
//! Strings are borrowed from the record; nothing here is validated beyond JSON types, so that
//! `native` can name the field and the byte. Objects are wrapped in [`Obj`]: serde's derived
//! structs would also take arrays, which the contract does not.

mod scalar;

pub use scalar::{Content, Counts, DUPLICATE, Int, OUT_OF_RANGE, Obj, Str};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::schema as s;

/// The sealed event, version 1.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "event.v1")]
pub struct Event<'a> {
    /// Major version of this contract.
    #[schemars(with = "s::Version")]
    pub v: Int,
    /// Unique per event; 1 to 64 visible ASCII characters.
    #[serde(borrow)]
    #[schemars(with = "s::Id")]
    pub id: Str<'a>,
    /// Name of the publisher.
    #[serde(borrow)]
    #[schemars(with = "s::Name")]
    pub gateway: Str<'a>,
    /// The publisher's start, so that a restart is visible.
    #[serde(borrow, default)]
    #[schemars(with = "Option<s::Name>")]
    pub boot: Option<Str<'a>>,
    /// The publisher's choice of sequence, default 0; its partition if it sets one.
    #[schemars(with = "Option<s::U32>")]
    #[serde(default)]
    pub lane: Option<Int>,
    /// Counts up from 0 per (gateway, boot, lane). Without a boot it proves nothing and is not used.
    #[schemars(with = "Option<s::Long>")]
    #[serde(default)]
    pub seq: Option<Int>,
    /// Events the publisher itself discarded since its last one, whether or not they had a number.
    #[schemars(with = "Option<s::Long>")]
    #[serde(default)]
    pub dropped: Option<Int>,
    /// Start of the request, RFC 3339 UTC.
    #[serde(borrow)]
    #[schemars(with = "s::Instant")]
    pub at: Str<'a>,
    /// Organisation.
    #[serde(borrow, default)]
    #[schemars(with = "Option<s::Name>")]
    pub tenant: Option<Str<'a>>,
    /// Part of the organisation.
    #[serde(borrow, default)]
    #[schemars(with = "Option<s::Name>")]
    pub team: Option<Str<'a>>,
    /// Who asked.
    #[serde(borrow, default)]
    #[schemars(with = "Option<s::Pseudonym>")]
    pub user: Option<Str<'a>>,
    /// The conversation.
    #[serde(borrow, default)]
    #[schemars(with = "Option<s::Pseudonym>")]
    pub session: Option<Str<'a>>,
    /// The key that paid.
    #[serde(borrow, default)]
    #[schemars(with = "Option<ApiKey>")]
    pub api_key: Option<Obj<ApiKey<'a>>>,
    /// The same identities under the old key id, during a rotation's overlap.
    #[serde(borrow, default)]
    #[schemars(with = "Option<Prev>")]
    pub prev: Option<Obj<Prev<'a>>>,
    /// Where the call came from.
    #[serde(borrow, default)]
    #[schemars(with = "Option<Client>")]
    pub client: Option<Obj<Client<'a>>>,
    /// What was asked for: `chat`, `embeddings`, …
    #[serde(borrow)]
    #[schemars(with = "s::Name")]
    pub operation: Str<'a>,
    /// Gateway route.
    #[serde(borrow, default)]
    #[schemars(with = "Option<s::Name>")]
    pub route: Option<Str<'a>>,
    /// Whether the answer was streamed.
    #[serde(default)]
    pub stream: Option<bool>,
    /// `openai`, `anthropic`, …
    #[serde(borrow, default)]
    #[schemars(with = "Option<s::Name>")]
    pub provider: Option<Str<'a>>,
    /// The model asked for, and the one that answered.
    #[serde(borrow)]
    #[schemars(with = "Model")]
    pub model: Obj<Model<'a>>,
    /// HTTP status; 0 where there was no answer.
    #[schemars(with = "s::Status")]
    pub status: Int,
    /// Error class.
    #[serde(borrow, default)]
    #[schemars(with = "Option<s::ErrorClass>")]
    pub error: Option<Str<'a>>,
    /// Durations in milliseconds.
    #[serde(default)]
    #[schemars(with = "Option<Latency>")]
    pub latency: Option<Obj<Latency>>,
    /// Tokens.
    #[serde(borrow, default)]
    #[schemars(with = "Option<Usage>")]
    pub usage: Option<Obj<Usage<'a>>>,
    /// What the gateway believes it cost, in US dollars.
    #[serde(borrow, default)]
    #[schemars(with = "Option<s::Decimal>")]
    pub cost_usd: Option<Str<'a>>,
    /// What the gateway's own guardrail decided.
    #[serde(borrow, default)]
    #[schemars(with = "Option<Policy>")]
    pub policy: Option<Obj<Policy<'a>>>,
    /// Tools called.
    #[serde(borrow, default)]
    #[schemars(with = "Option<Vec<Tool>>")]
    pub tools: Option<Vec<Obj<Tool<'a>>>>,
    /// Sources of the context.
    #[serde(borrow, default)]
    #[schemars(with = "Option<Vec<Source>>")]
    pub sources: Option<Vec<Obj<Source<'a>>>>,
    /// Sketch of the newest user turn.
    #[serde(borrow, default)]
    #[schemars(with = "Option<s::ShortSketch>")]
    pub request: Option<Obj<Sketch<'a>>>,
    /// Sketches of the earlier turns, documents and tool results, in prompt order.
    #[serde(borrow, default)]
    #[schemars(with = "Option<s::Parts>")]
    pub context: Option<Vec<Obj<Sketch<'a>>>>,
    /// Sketch of the answer.
    #[serde(borrow, default)]
    #[schemars(with = "Option<Sketch>")]
    pub response: Option<Obj<Sketch<'a>>>,
    /// Counts of content that nothing looked at, by kind.
    #[serde(borrow, default)]
    #[schemars(with = "Option<s::Counts>")]
    pub unscanned: Option<Counts<'a>>,
    /// Never in a sealed event.
    #[serde(default)]
    #[schemars(with = "Option<s::Refused>")]
    pub messages: Option<Content>,
    /// Never in a sealed event.
    #[serde(default)]
    #[schemars(with = "Option<s::Refused>")]
    pub prompt: Option<Content>,
    /// Never in a sealed event.
    #[serde(default)]
    #[schemars(with = "Option<s::Refused>")]
    pub completion: Option<Content>,
    /// Never in a sealed event.
    #[serde(default)]
    #[schemars(with = "Option<s::Refused>")]
    pub choices: Option<Content>,
    /// Never in a sealed event.
    #[serde(default)]
    #[schemars(with = "Option<s::Refused>")]
    pub input: Option<Content>,
    /// Never in a sealed event.
    #[serde(default)]
    #[schemars(with = "Option<s::Refused>")]
    pub output: Option<Content>,
    /// Never in a sealed event.
    #[serde(default)]
    #[schemars(with = "Option<s::Refused>")]
    pub text: Option<Content>,
    /// Never in a sealed event.
    #[serde(default)]
    #[schemars(with = "Option<s::Refused>")]
    pub content: Option<Content>,
}

/// An API key as the gateway sees it.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "api_key")]
pub struct ApiKey<'a> {
    /// Pseudonym of the key.
    #[serde(borrow)]
    #[schemars(with = "s::Pseudonym")]
    pub id: Str<'a>,
    /// Day of creation.
    #[serde(borrow, default)]
    #[schemars(with = "Option<s::Day>")]
    pub created: Option<Str<'a>>,
    /// Rotation class: `standard` (90 days) or `privileged` (30).
    #[serde(borrow, default)]
    #[schemars(with = "Option<s::KeyClass>")]
    pub class: Option<Str<'a>>,
}

/// Identities under the old key id.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "prev")]
pub struct Prev<'a> {
    /// The user.
    #[serde(borrow, default)]
    #[schemars(with = "Option<s::Pseudonym>")]
    pub user: Option<Str<'a>>,
    /// The API key.
    #[serde(borrow, default)]
    #[schemars(with = "Option<s::Pseudonym>")]
    pub api_key: Option<Str<'a>>,
}

/// The caller.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "client")]
pub struct Client<'a> {
    /// Pseudonym of the network (IPv6: of the /64).
    #[serde(borrow, default)]
    #[schemars(with = "Option<s::Pseudonym>")]
    pub net: Option<Str<'a>>,
    /// Name of the application.
    #[serde(borrow, default)]
    #[schemars(with = "Option<s::Name>")]
    pub app: Option<Str<'a>>,
}

/// The model.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "model")]
pub struct Model<'a> {
    /// Asked for.
    #[serde(borrow)]
    #[schemars(with = "s::ModelName")]
    pub requested: Str<'a>,
    /// Answered.
    #[serde(borrow, default)]
    #[schemars(with = "Option<s::ModelName>")]
    pub served: Option<Str<'a>>,
}

/// Durations.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "latency")]
pub struct Latency {
    /// The whole call, milliseconds.
    #[serde(default)]
    #[schemars(with = "Option<s::NonNegative>")]
    pub total_ms: Option<f64>,
    /// To the first token, milliseconds.
    #[serde(default)]
    #[schemars(with = "Option<s::NonNegative>")]
    pub ttft_ms: Option<f64>,
}

/// Tokens.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "usage")]
pub struct Usage<'a> {
    /// Prompt tokens, cache reads and writes included.
    #[serde(default)]
    #[schemars(with = "Option<s::Tokens>")]
    pub input: Option<Int>,
    /// Completion tokens, reasoning included.
    #[serde(default)]
    #[schemars(with = "Option<s::Tokens>")]
    pub output: Option<Int>,
    /// Part of `input` read from a cache.
    #[serde(default)]
    #[schemars(with = "Option<s::Tokens>")]
    pub cache_read: Option<Int>,
    /// Part of `input` written to a cache.
    #[serde(default)]
    #[schemars(with = "Option<s::Tokens>")]
    pub cache_write: Option<Int>,
    /// Part of `output` that was reasoning.
    #[serde(default)]
    #[schemars(with = "Option<s::Tokens>")]
    pub reasoning: Option<Int>,
    /// How sure the numbers are; absent means `final`.
    #[serde(borrow, default)]
    #[schemars(with = "Option<s::UsageState>")]
    pub state: Option<Str<'a>>,
}

/// A guardrail's decision.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "policy")]
pub struct Policy<'a> {
    /// The decision.
    #[serde(borrow)]
    #[schemars(with = "s::Decision")]
    pub decision: Str<'a>,
    /// Names of the rules that decided.
    #[serde(borrow, default)]
    #[schemars(with = "Option<Vec<s::Name>>")]
    pub rules: Option<Vec<Str<'a>>>,
}

/// A tool call.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "tool")]
pub struct Tool<'a> {
    /// Name of the tool.
    #[serde(borrow)]
    #[schemars(with = "s::Name")]
    pub name: Str<'a>,
    /// Keyed hash of the arguments.
    #[serde(borrow, default)]
    #[schemars(with = "Option<s::Pseudonym>")]
    pub args: Option<&'a RawValue>,
}

/// A source of context.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "source")]
pub struct Source<'a> {
    /// Keyed hash of what it is.
    #[serde(borrow, default)]
    #[schemars(with = "Option<s::Pseudonym>")]
    pub id: Option<Str<'a>>,
    /// Its kind: `internal`, `web`, …
    #[serde(borrow, default)]
    #[schemars(with = "Option<s::Name>")]
    pub label: Option<Str<'a>>,
}

/// One text, described without containing it.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "sketch", extend("if" = s::with_prints(), "then" = s::needs_kid()))]
pub struct Sketch<'a> {
    /// Who said it; only in `context`, where it is required.
    #[serde(borrow, default)]
    #[schemars(with = "Option<s::Role>")]
    pub role: Option<Str<'a>>,
    /// Index into `sources`; only in `context`.
    #[serde(default)]
    #[schemars(with = "Option<s::U32>")]
    pub source: Option<Int>,
    /// Key id of `prints` (required with them), `digest` and `values`.
    #[serde(borrow, default)]
    #[schemars(with = "Option<s::KeyId>")]
    pub kid: Option<Str<'a>>,
    /// Keyed BLAKE3 of the normalised text.
    #[serde(borrow, default)]
    #[schemars(with = "Option<s::Pseudonym>")]
    pub digest: Option<Str<'a>>,
    /// Length in bytes.
    #[serde(default)]
    #[schemars(with = "Option<s::Long>")]
    pub bytes: Option<Int>,
    /// Length in Unicode scalars.
    #[serde(default)]
    #[schemars(with = "Option<s::Long>")]
    pub chars: Option<Int>,
    /// Words by UAX #29.
    #[serde(default)]
    #[schemars(with = "Option<s::Long>")]
    pub words: Option<Int>,
    /// Which rules and model looked at it.
    #[serde(borrow, default)]
    #[schemars(with = "Option<s::Name>")]
    pub ruleset: Option<Str<'a>>,
    /// Rules that hit, most severe first.
    #[serde(borrow, default)]
    #[schemars(with = "Option<s::Hits>")]
    pub hits: Option<Vec<Obj<Hit<'a>>>>,
    /// Scores.
    #[serde(default)]
    #[schemars(with = "Option<Score>")]
    pub score: Option<Obj<Score>>,
    /// Winnowed keyed fingerprints.
    #[serde(borrow, default)]
    #[schemars(with = "Option<s::Prints>")]
    pub prints: Option<Str<'a>>,
    /// Small counts.
    #[serde(borrow, default)]
    #[schemars(with = "Option<Features>")]
    pub features: Option<Obj<Features<'a>>>,
    /// Only in trusted sources, where it is sealed on the way in.
    #[serde(borrow, default)]
    #[schemars(with = "Option<s::Refused>")]
    pub text: Option<&'a RawValue>,
    /// Never in a sealed event.
    #[serde(default)]
    #[schemars(with = "Option<s::Refused>")]
    pub content: Option<Content>,
    /// Never in a sealed event.
    #[serde(default)]
    #[schemars(with = "Option<s::Refused>")]
    pub messages: Option<Content>,
}

/// A rule that hit.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "hit")]
pub struct Hit<'a> {
    /// Rule id.
    #[serde(borrow)]
    #[schemars(with = "s::Name")]
    pub rule: Str<'a>,
    /// How many times, default 1.
    #[serde(default)]
    #[schemars(with = "Option<s::U32>")]
    pub n: Option<Int>,
    /// Keyed hashes of the canonical values found.
    #[serde(borrow, default)]
    #[schemars(with = "Option<s::Values>")]
    pub values: Option<Vec<Str<'a>>>,
}

/// Scores.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "score")]
pub struct Score {
    /// Injection, rules and model together.
    #[serde(default)]
    #[schemars(with = "Option<s::Unit>")]
    pub injection: Option<f64>,
}

/// Small counts; nothing from which text could be rebuilt.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "features")]
pub struct Features<'a> {
    /// Control characters.
    #[serde(default)]
    #[schemars(with = "Option<s::U32>")]
    pub control: Option<Int>,
    /// Invisible characters.
    #[serde(default)]
    #[schemars(with = "Option<s::U32>")]
    pub invisible: Option<Int>,
    /// Whether one word mixes scripts.
    #[serde(default)]
    pub mixed_script: Option<bool>,
    /// Encoded runs that were decoded.
    #[serde(default)]
    #[schemars(with = "Option<s::U32>")]
    pub encoded: Option<Int>,
    /// Work left out by the scan; 0 if all was looked at.
    #[serde(default)]
    #[schemars(with = "Option<s::U32>")]
    pub skipped: Option<Int>,
    /// Bits per byte.
    #[serde(default)]
    #[schemars(with = "Option<s::Entropy>")]
    pub entropy: Option<f64>,
    /// Language guess.
    #[serde(borrow, default)]
    #[schemars(with = "Option<s::Lang>")]
    pub lang: Option<Str<'a>>,
}
