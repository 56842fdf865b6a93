//! The vocabulary of the whole program: what one LLM call looks like once it is sealed.
//!
//! An [`Event`] is what `decode` hands to `detect` and `account`. **No type in this file has a
//! field that could hold prompt or completion text**: that is the privacy promise, kept by the
//! compiler. Names (gateway, model, …) are short and of a fixed alphabet; identities are
//! [`Pseudonym`]s; texts are [`Sketch`]es.
//!
//! The wire form (`deploy/schema/event.v1.json`) lives in `decode::native`; these types are plain
//! and may change without changing the contract.

pub mod id;
pub mod pseudonym;
pub mod time;

pub use id::{Hash16, hash16};
pub use pseudonym::{Kid, Pseudonym};
use serde::{Deserialize, Serialize};
pub use smol_str::SmolStr;
pub use time::Time;

/// Largest sealed record, in bytes. Larger: dead letter `too_large`. A sealed event of 64 prints
/// and 32 parts stays well below; a larger bound would let one gateway fill the batch memory.
pub const MAX_SEALED_BYTES: usize = 64 * 1024;
/// Largest record of a trusted source, in bytes (texts included).
pub const MAX_TRUSTED_BYTES: usize = 1024 * 1024;
/// Most context parts in one event.
pub const MAX_PARTS: usize = 32;
/// Most hits in one sketch, most severe first.
pub const MAX_HITS: usize = 32;
/// Most value hashes in one hit.
pub const MAX_VALUES: usize = 8;
/// Most prints in a request or context sketch.
pub const MAX_PRINTS: usize = 64;
/// Most prints in a response sketch.
pub const MAX_RESPONSE_PRINTS: usize = 256;

/// Money: pico-dollars (10⁻¹² USD) of one event. Sums use [`i128`].
pub type Pico = i64;

/// Where a record stands in Kafka, and when the broker appended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Offset in its partition.
    pub offset: i64,
    /// Append time (Kafka's record timestamp under `LogAppendTime`, else the partition's running
    /// maximum).
    pub append: Time,
}

/// A topic and partition.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// Topic name.
    pub topic: SmolStr,
    /// Partition number.
    pub partition: i32,
}

/// One LLM call, sealed.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Unique per event, at most 64 characters.
    pub id: SmolStr,
    /// The publisher.
    pub gateway: SmolStr,
    /// The publisher's start, so that a restart is visible.
    pub boot: Option<SmolStr>,
    /// The publisher's choice of sequence, default 0.
    pub lane: u32,
    /// Counts up from 0 per (gateway, boot, lane).
    pub seq: Option<u64>,
    /// Events the publisher itself discarded since its last one.
    pub dropped: u64,
    /// Start of the request, as the gateway says.
    pub at: Time,
    /// Organisation.
    pub tenant: Option<SmolStr>,
    /// Part of the organisation.
    pub team: Option<SmolStr>,
    /// Who asked.
    pub user: Option<Pseudonym>,
    /// The conversation.
    pub session: Option<Pseudonym>,
    /// The key that paid.
    pub api_key: Option<ApiKey>,
    /// The same identities under the previous key id, during a rotation's overlap.
    pub prev: Option<Previous>,
    /// Where the call came from (network, /64 for IPv6), pseudonymous.
    pub net: Option<Pseudonym>,
    /// The calling application.
    pub app: Option<SmolStr>,
    /// `chat`, `embeddings`, …
    pub operation: SmolStr,
    /// Gateway route.
    pub route: Option<SmolStr>,
    /// Whether the answer was streamed.
    pub stream: bool,
    /// `openai`, `anthropic`, …
    pub provider: Option<SmolStr>,
    /// Model asked for.
    pub model_requested: SmolStr,
    /// Model (version) that answered.
    pub model_served: Option<SmolStr>,
    /// HTTP status.
    pub status: u16,
    /// Error class.
    pub error: Option<SmolStr>,
    /// Whole duration in milliseconds.
    pub total_ms: Option<f64>,
    /// Time to first token in milliseconds.
    pub ttft_ms: Option<f64>,
    /// Tokens.
    pub usage: Usage,
    /// What the gateway believes it cost; reconciled, never trusted.
    pub reported_cost: Option<Pico>,
    /// What the gateway's own policy said.
    pub policy: Option<Policy>,
    /// Tools called.
    pub tools: Vec<Tool>,
    /// Sources of context.
    pub sources: Vec<Source>,
    /// The newest user turn.
    pub request: Option<Sketch>,
    /// Earlier turns, documents, tool results, in prompt order.
    pub context: Vec<Part>,
    /// The answer.
    pub response: Option<Sketch>,
    /// Counts of content that nothing looked at, by kind (`image`, `parts`, …).
    pub unscanned: Vec<(SmolStr, u64)>,
}

impl Event {
    /// The model version that latency, prices and drift are kept by: served, else requested.
    pub fn model(&self) -> &SmolStr {
        self.model_served.as_ref().unwrap_or(&self.model_requested)
    }

    /// When the call ended, as the gateway says: `at` + `total_ms`; clamped into
    /// [append − 24 h, append + 5 min]; `append` itself where no duration is known.
    /// The flag says whether clamping changed it (a forged or broken clock).
    pub fn end(&self, append: Time) -> (Time, bool) {
        let Some(total) = self.total_ms else {
            return (append, false);
        };
        let end = self.at.plus_ms_f64(total);
        let low = append.minus_ms(24 * 3_600_000);
        let high = append.plus_ms(5 * 60_000);
        (end.clamp(low, high), end < low || end > high)
    }

    /// Its place in its lane: start of the publisher and number. `None` without a boot: numbers begin anew at
    /// each start, so that two events of one number may be two.
    pub fn place(&self) -> Option<(&SmolStr, u64)> {
        let boot = self.boot.as_ref().filter(|b| !b.is_empty())?;
        Some((boot, self.seq?))
    }

    /// The tenant, or the empty name where none is given.
    pub fn tenant_or_empty(&self) -> SmolStr {
        self.tenant.clone().unwrap_or_default()
    }

    /// All sketches with the role they were said in: request is `User`, response `Assistant`.
    pub fn sketches(&self) -> impl Iterator<Item = (Side, Role, &Sketch)> {
        let request = self.request.iter().map(|s| (Side::Request, Role::User, s));
        let context = self
            .context
            .iter()
            .filter_map(|p| p.sketch.as_ref().map(|s| (Side::Request, p.role, s)));
        let response = self
            .response
            .iter()
            .map(|s| (Side::Response, Role::Assistant, s));
        request.chain(context).chain(response)
    }
}

/// An API key as the gateway sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiKey {
    /// Pseudonym of the key.
    pub id: Pseudonym,
    /// Day of creation, as days since 1970-01-01.
    pub created_day: Option<i32>,
    /// How long it may live before rotation is due.
    pub class: KeyClass,
}

/// Rotation class of an API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyClass {
    /// Rotation within 90 days.
    #[default]
    Standard,
    /// Rotation within 30 days.
    Privileged,
}

/// Identities under the previous key id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Previous {
    /// The user under the old key.
    pub user: Option<Pseudonym>,
    /// The API key under the old key.
    pub api_key: Option<Pseudonym>,
}

/// Tokens of one call. `input` includes cache reads and writes, `output` includes reasoning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Prompt tokens, cache included.
    pub input: u64,
    /// Completion tokens, reasoning included.
    pub output: u64,
    /// Part of `input` that was read from a cache.
    pub cache_read: u64,
    /// Part of `input` that was written to a cache.
    pub cache_write: u64,
    /// Part of `output` that was reasoning.
    pub reasoning: u64,
    /// Whether the numbers are final.
    pub state: UsageState,
}

impl Usage {
    /// Input plus output, saturating (each is bounded at decode).
    pub fn tokens(&self) -> u64 {
        self.input.saturating_add(self.output)
    }
}

/// How sure the usage is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum UsageState {
    /// As the provider reported.
    Final,
    /// The stream broke; the gateway estimated.
    Estimated,
    /// Nothing is known. Never counted as zero: counted as missing.
    #[default]
    Missing,
}

/// What the gateway's own guardrail decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The decision.
    pub decision: Decision,
    /// Names of the rules that decided.
    pub rules: Vec<SmolStr>,
}

/// A gateway's guardrail decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// Let through.
    Allow,
    /// Refused.
    Block,
    /// Let through with parts removed.
    Redact,
    /// The guardrail failed.
    Error,
    /// No guardrail looked.
    None,
}

/// A tool call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tool {
    /// Name of the tool.
    pub name: SmolStr,
    /// Keyed hash of its arguments.
    pub args: Option<Pseudonym>,
}

/// A source of context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Keyed hash of what it is.
    pub id: Option<Pseudonym>,
    /// `internal`, `web`, …
    pub label: Option<SmolStr>,
}

/// Which way a text travels.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// Towards the model.
    #[default]
    Request,
    /// From the model.
    Response,
}

/// Who said a text.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Operator instructions.
    System,
    /// The user.
    #[default]
    User,
    /// The model.
    Assistant,
    /// A tool's result.
    Tool,
    /// A retrieved document.
    Document,
}

impl Role {
    /// The wire name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
            Self::Document => "document",
        }
    }
}

/// One earlier part of the prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Who said it.
    pub role: Role,
    /// Index into [`Event::sources`].
    pub source: Option<u32>,
    /// Digest of a part already sent in this session (then `sketch` is `None`: not judged again),
    /// or of the sketch itself.
    pub digest: Option<Pseudonym>,
    /// The sketch, where it is sent for the first time.
    pub sketch: Option<Sketch>,
}

/// One text, described without containing it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sketch {
    /// The key of `prints`, `digest` and `values`.
    pub kid: Kid,
    /// Keyed BLAKE3 of the normalised text.
    pub digest: Option<Pseudonym>,
    /// Length in bytes.
    pub bytes: u64,
    /// Length in Unicode scalars.
    pub chars: u64,
    /// Words by UAX #29.
    pub words: u64,
    /// Which rules and model looked at it (`b3:` + 12 hex).
    pub ruleset: Option<SmolStr>,
    /// Rules that hit, most severe first.
    pub hits: Vec<Hit>,
    /// Injection score of rules and model together, 0–1.
    pub injection: Option<f32>,
    /// Winnowed keyed fingerprints of 5-word shingles.
    pub prints: Vec<u64>,
    /// Small counts.
    pub features: Features,
}

/// A rule that hit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// Rule id.
    pub rule: SmolStr,
    /// How many times.
    pub n: u32,
    /// Keyed hashes of the canonical values found, at most [`MAX_VALUES`].
    pub values: Vec<Pseudonym>,
}

/// Small counts about a text; nothing from which it could be rebuilt.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Features {
    /// Control characters.
    pub control: u32,
    /// Invisible characters.
    pub invisible: u32,
    /// Whether one word mixes scripts.
    pub mixed_script: bool,
    /// Encoded runs that were decoded.
    pub encoded: u32,
    /// Work left out when the text was scanned, because it would have passed a bound: bytes not
    /// read, repairs and matches beyond the first. 0: all of it was looked at.
    pub skipped: u32,
    /// Shannon entropy of the bytes, bits, one decimal.
    pub entropy: f32,
    /// Language guess, ISO 639-1.
    pub lang: Option<SmolStr>,
}

/// How bad a finding is. Sigma's levels.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// For the record.
    Informational,
    /// Low.
    Low,
    /// Medium.
    Medium,
    /// High.
    High,
    /// Critical.
    Critical,
}

impl Severity {
    /// The wire name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Informational => "informational",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
    /// All, lowest first; the index is the number stored in Postgres.
    pub const ALL: [Self; 5] = [
        Self::Informational,
        Self::Low,
        Self::Medium,
        Self::High,
        Self::Critical,
    ];
}

/// What a finding may do.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Counts what it would have done.
    Shadow,
    /// Opens an incident on the ticket route.
    Ticket,
    /// Opens an incident that may page.
    Page,
}

impl Stage {
    /// The wire name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Shadow => "shadow",
            Self::Ticket => "ticket",
            Self::Page => "page",
        }
    }
}
