//! What a rule file, a list file and an override file look like: the keys, before any check.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_saphyr::Spanned;

/// A text with its place.
pub(super) type Text = Spanned<String>;

/// `rules/<area>/<id>.yml`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Veilwatch rule")]
pub(super) struct RuleFile {
    /// Unique name: 5 to 64 of a-z, 0-9 and `-`, beginning with inj-, pii- or sec-.
    #[schemars(with = "String", regex(pattern = r"^(inj|pii|sec)-[a-z0-9-]{1,60}$"))]
    pub id: Text,
    /// One line, at most 120 characters.
    #[schemars(with = "String")]
    pub title: Text,
    /// What it finds and why it matters.
    #[serde(default)]
    pub description: String,
    /// experimental, test, stable or deprecated.
    #[schemars(with = "Option<String>")]
    pub status: Option<Text>,
    /// informational, low, medium, high or critical.
    #[schemars(with = "String")]
    pub level: Text,
    /// shadow, ticket or page.
    #[schemars(with = "Option<String>")]
    pub stage: Option<Text>,
    /// Raised when the meaning changes.
    #[schemars(with = "Option<u32>")]
    pub version: Option<Spanned<u32>>,
    /// Presidio's entity name, the secret's kind, or the technique.
    #[serde(rename = "type")]
    #[schemars(with = "String")]
    pub kind: Text,
    /// Secrets: the provider is known.
    pub typed: Option<bool>,
    /// Taxonomy ids.
    #[schemars(with = "Option<Vec<String>>")]
    pub tags: Option<Vec<Text>>,
    /// Links.
    #[serde(default)]
    pub references: Vec<String>,
    /// Known false positives.
    #[serde(default)]
    pub falsepositives: Vec<String>,
    /// A name in deploy/runbooks.
    #[schemars(with = "Option<String>")]
    pub runbook: Option<Text>,
    /// Where it looks.
    pub scope: Option<ScopeFile>,
    /// Injection: evidence of the rule alone, 0 to 1.
    #[schemars(with = "Option<f32>")]
    pub weight: Option<Spanned<f32>>,
    /// Which rule names a value that two rules found, 0 to 100.
    #[schemars(with = "Option<u8>")]
    pub priority: Option<Spanned<u8>>,
    /// What must hold.
    #[serde(rename = "match")]
    #[schemars(with = "NodeFile")]
    pub matches: Spanned<NodeFile>,
    /// Words near the value.
    pub context: Option<ContextFile>,
    /// Checks of the value.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub validators: Vec<Text>,
    /// Least Shannon entropy of the value, bits per character.
    #[schemars(with = "Option<f32>")]
    pub min_entropy: Option<Spanned<f32>>,
    /// The rule counts only from the n-th hit.
    pub window: Option<WindowFile>,
    /// What is not a hit, and until when.
    #[schemars(with = "Option<Vec<ExceptionFile>>")]
    pub exceptions: Option<Spanned<Vec<Spanned<ExceptionFile>>>>,
    /// Its tests.
    #[serde(default)]
    #[schemars(with = "Vec<TestFile>")]
    pub tests: Vec<Spanned<TestFile>>,
}

/// `scope`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ScopeFile {
    /// system, user, assistant, tool, document.
    #[schemars(with = "Option<Vec<String>>")]
    pub roles: Option<Spanned<Vec<Text>>>,
    /// request, response.
    #[schemars(with = "Option<Vec<String>>")]
    pub sides: Option<Spanned<Vec<Text>>>,
}

/// A node of `match`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NodeFile {
    /// One of these must occur.
    #[schemars(with = "Option<Vec<String>>")]
    pub keywords: Option<Spanned<Vec<Text>>>,
    /// Must match.
    #[schemars(with = "Option<String>")]
    pub regex: Option<Text>,
    /// A list file's phrases, as keywords.
    #[schemars(with = "Option<String>")]
    pub list: Option<Text>,
    /// One must hold.
    #[schemars(with = "Option<Vec<NodeFile>>")]
    pub any: Option<Spanned<Vec<Spanned<NodeFile>>>>,
    /// All must hold.
    #[schemars(with = "Option<Vec<NodeFile>>")]
    pub all: Option<Spanned<Vec<Spanned<NodeFile>>>>,
    /// None may hold.
    #[schemars(with = "Option<Vec<NodeFile>>")]
    pub not: Option<Spanned<Vec<Spanned<NodeFile>>>>,
    /// Largest distance between the parts, characters.
    #[schemars(with = "Option<u32>")]
    pub within: Option<Spanned<u32>>,
    /// Top node only: which readings.
    #[schemars(with = "Option<Vec<String>>")]
    pub readings: Option<Spanned<Vec<Text>>>,
}

/// `context`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ContextFile {
    /// Whole words, `*` at an end for any ending.
    #[schemars(with = "Vec<String>")]
    pub words: Spanned<Vec<Text>>,
    /// Distance in characters, default 60.
    #[schemars(with = "Option<u32>")]
    pub within: Option<Spanned<u32>>,
    /// Whether a value without one is dropped.
    #[serde(default)]
    pub required: bool,
}

/// `window`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WindowFile {
    /// Hits needed.
    #[schemars(with = "u32")]
    pub count: Spanned<u32>,
    /// A duration with its unit: 90s, 10m, 2h, 1d.
    #[schemars(with = "String")]
    pub within: Text,
    /// user, session or key.
    #[schemars(with = "Option<String>")]
    pub by: Option<Text>,
}

/// One of `exceptions`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ExceptionFile {
    /// Why.
    #[schemars(with = "String")]
    pub reason: Text,
    /// Last day, YYYY-MM-DD.
    #[schemars(with = "String")]
    pub until: Text,
    /// What it excepts.
    #[schemars(with = "String")]
    pub regex: Text,
}

/// One of `tests`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TestFile {
    /// Optional name.
    pub name: Option<String>,
    /// The text.
    #[schemars(with = "Option<String>")]
    pub text: Option<Text>,
    /// Instead of `text`: a sequence in virtual time.
    #[schemars(with = "Option<Vec<TestEventFile>>")]
    pub events: Option<Spanned<Vec<TestEventFile>>>,
    /// Whether the rule must hit.
    #[serde(rename = "match")]
    pub matches: bool,
    /// The value it must find.
    pub value: Option<String>,
    /// Role of the text, default user.
    #[schemars(with = "Option<String>")]
    pub role: Option<Text>,
    /// Side of the text, default request.
    #[schemars(with = "Option<String>")]
    pub side: Option<Text>,
}

/// One of a test's `events`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TestEventFile {
    /// Since the first, with its unit.
    #[schemars(with = "String")]
    pub offset: Text,
    /// The text.
    pub text: String,
}

/// `rules/lists/<name>.yml`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ListFile {
    /// Its name, for `list:` and `${name}`.
    #[schemars(with = "String")]
    pub name: Text,
    /// What it is.
    #[serde(default)]
    #[expect(dead_code, reason = "for the reader of the file")]
    pub description: String,
    /// Phrases.
    #[schemars(with = "Option<Vec<String>>")]
    pub phrases: Option<Spanned<Vec<Text>>>,
    /// Or a regex fragment.
    #[schemars(with = "Option<String>")]
    pub regex: Option<Text>,
}

/// `rules/overrides/<name>.yml`, or `--overrides FILE`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OverridesFile {
    /// Changes by rule id.
    #[schemars(with = "Vec<OverrideFile>")]
    pub overrides: Vec<Spanned<OverrideFile>>,
}

/// One of `overrides`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OverrideFile {
    /// The rule that is changed.
    #[schemars(with = "String")]
    pub id: Text,
    /// Why.
    #[schemars(with = "String")]
    pub reason: Text,
    /// False: not run.
    pub enabled: Option<bool>,
    /// New level.
    #[schemars(with = "Option<String>")]
    pub level: Option<Text>,
    /// New stage.
    #[schemars(with = "Option<String>")]
    pub stage: Option<Text>,
    /// New weight.
    #[schemars(with = "Option<f32>")]
    pub weight: Option<Spanned<f32>>,
    /// New scope.
    pub scope: Option<ScopeFile>,
    /// Added exceptions.
    #[schemars(with = "Option<Vec<ExceptionFile>>")]
    pub exceptions: Option<Spanned<Vec<Spanned<ExceptionFile>>>>,
}

/// The JSON Schema of rule files, for editors.
pub(super) fn schema() -> schemars::Schema {
    schemars::schema_for!(RuleFile)
}
