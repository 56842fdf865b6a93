//! Ledger rows: usage by (scope, subject, period), summed exactly.
//!
//! [`Tally`] sums on the hot path by cheap keys (one look-up for the user, one for everything wider).
//! Users and API keys stay pseudonyms until a row is written: most rows are theirs, and as text each
//! would be a string of its own.

use std::collections::BTreeMap;
use std::fmt;

use foldhash::{HashMap, HashMapExt as _};

use super::period::{Grain, Period, SLOT_MS};
use super::{Books, OTHER_MODELS, Priced};
use crate::detect::Seen;
use crate::event::{Event, Pseudonym, SmolStr, Time, UsageState};

/// Whose usage a ledger or a budget counts.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// One user.
    User,
    /// One API key.
    Key,
    /// One team of a tenant (`acme/support`).
    Team,
    /// One tenant.
    Tenant,
    /// One model (version).
    Model,
    /// All traffic (`*`).
    Everyone,
}

impl Scope {
    /// All scopes, narrow first.
    pub const ALL: [Self; 6] = [
        Self::User,
        Self::Key,
        Self::Team,
        Self::Tenant,
        Self::Model,
        Self::Everyone,
    ];
    /// 0 for the user, 1–5 for the wide ones: rows are locked in this order, hot rows last.
    pub fn width(self) -> u8 {
        match self {
            Self::User => 0,
            Self::Key => 1,
            Self::Team => 2,
            Self::Tenant => 3,
            Self::Model => 4,
            Self::Everyone => 5,
        }
    }
    /// The wire name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Key => "key",
            Self::Team => "team",
            Self::Tenant => "tenant",
            Self::Model => "model",
            Self::Everyone => "everyone",
        }
    }
    /// The scope of that name.
    pub fn parse(s: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.as_str() == s)
    }
    /// The scope of that width.
    pub fn from_width(width: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.width() == width)
    }
}

/// Whose usage a row counts: `k7:…`, `acme/support`, `acme`, `gpt-4o-2024-08-06`, `*`. An event without a
/// tenant has the subject `-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// Of a user or an API key.
    Pseudonym(Pseudonym),
    /// Of everything else.
    Name(SmolStr),
}

impl Subject {
    /// The subject that a row of this scope names.
    pub fn read(scope: Scope, text: &str) -> Self {
        let pseudonym = match scope {
            Scope::User | Scope::Key => text.parse().ok(),
            _ => None,
        };
        pseudonym.map_or_else(|| Self::Name(SmolStr::new(text)), Self::Pseudonym)
    }

    /// As a row has it.
    pub fn text(&self) -> SmolStr {
        match self {
            Self::Pseudonym(p) => smol_str::format_smolstr!("{p}"),
            Self::Name(name) => name.clone(),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pseudonym(p) => p.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// A ledger row's key. Its order is of no meaning outside the program: Postgres sorts subjects as text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LedgerKey {
    /// Whose, by kind.
    pub scope: Scope,
    /// Whose.
    pub subject: Subject,
    /// When.
    pub period: Period,
}

/// What a batch adds to a ledger row. All sums; merging is addition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LedgerDelta {
    /// Events, whatever their usage state.
    pub events: u64,
    /// Prompt tokens.
    pub tokens_input: u64,
    /// Completion tokens.
    pub tokens_output: u64,
    /// Computed cost in pico-dollars.
    pub cost_pico: i128,
    /// Part of the tokens that the gateway estimated.
    pub estimated_tokens: u64,
    /// Events whose usage is unknown: counted here, never as zero.
    pub missing_events: u64,
    /// Events with tokens and no price.
    pub unpriced_events: u64,
    /// Their tokens.
    pub unpriced_tokens: u64,
}

impl LedgerDelta {
    /// Adds another delta.
    pub fn add(&mut self, o: &Self) {
        self.events += o.events;
        self.tokens_input += o.tokens_input;
        self.tokens_output += o.tokens_output;
        self.cost_pico += o.cost_pico;
        self.estimated_tokens += o.estimated_tokens;
        self.missing_events += o.missing_events;
        self.unpriced_events += o.unpriced_events;
        self.unpriced_tokens += o.unpriced_tokens;
    }

    /// Input plus output.
    pub fn tokens(&self) -> u64 {
        self.tokens_input.saturating_add(self.tokens_output)
    }

    /// What one event adds.
    pub fn of(event: &Event, priced: Priced) -> Self {
        let u = &event.usage;
        let mut d = Self {
            events: 1,
            ..Self::default()
        };
        if u.state == UsageState::Missing {
            d.missing_events = 1;
            return d;
        }
        d.tokens_input = u.input;
        d.tokens_output = u.output;
        if u.state == UsageState::Estimated {
            d.estimated_tokens = u.tokens();
        }
        match priced {
            Priced::Pico(p) => d.cost_pico = i128::from(p),
            Priced::Unpriced if u.tokens() > 0 => {
                d.unpriced_events = 1;
                d.unpriced_tokens = u.tokens();
            }
            Priced::Unpriced => {}
        }
        d
    }
}

/// Everything wider than the user that an event belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Wide {
    slot: i64,
    tenant: Option<SmolStr>,
    team: Option<SmolStr>,
    key: Option<Pseudonym>,
    model: SmolStr,
}

/// Sums one batch.
#[derive(Debug, Default)]
pub struct Tally {
    users: HashMap<(i64, Pseudonym), LedgerDelta>,
    wide: HashMap<Wide, LedgerDelta>,
    grains: Vec<(Scope, Grain)>,
}

impl Tally {
    /// Adds an accepted event.
    pub fn add(&mut self, books: &Books, event: &Event, seen: &Seen, priced: Priced) {
        if self.grains.is_empty() {
            self.grains.clone_from(&books.grains);
        }
        let slot = seen.end.0.div_euclid(SLOT_MS);
        let delta = LedgerDelta::of(event, priced);
        if let Some(user) = seen.user {
            self.users.entry((slot, user)).or_default().add(&delta);
        }
        let wide = Wide {
            slot,
            tenant: event.tenant.clone(),
            team: event.team.clone(),
            key: seen.api_key,
            model: match books.model(event) {
                Some(model) => model.clone(),
                None => SmolStr::new_static(OTHER_MODELS),
            },
        };
        self.wide.entry(wide).or_default().add(&delta);
    }

    /// The rows of the batch.
    pub fn finish(self) -> LedgerRows {
        let mut names = Names {
            grains: &self.grains,
            cache: BTreeMap::new(),
        };
        let mut rows = Vec::with_capacity(self.users.len() + 4 * self.wide.len());
        for ((slot, user), delta) in &self.users {
            for period in names.of(Scope::User, *slot) {
                let key = LedgerKey {
                    scope: Scope::User,
                    subject: Subject::Pseudonym(*user),
                    period: period.clone(),
                };
                rows.push((key, *delta));
            }
        }
        // Sum per scope first: thousands of combinations fold into few rows, and only those are
        // named and sorted.
        let mut folded: HashMap<(Scope, i64, Whose<'_>), LedgerDelta> = HashMap::new();
        for (w, delta) in &self.wide {
            let tenant = tenant_subject(w.tenant.as_deref());
            let mut fold = |scope, whose| {
                folded.entry((scope, w.slot, whose)).or_default().add(delta);
            };
            if let Some(key) = w.key {
                fold(Scope::Key, Whose::Key(key));
            }
            if let Some(team) = &w.team {
                fold(Scope::Team, Whose::Team(tenant, team));
            }
            fold(Scope::Tenant, Whose::Name(tenant));
            fold(Scope::Model, Whose::Name(&w.model));
            fold(Scope::Everyone, Whose::Name("*"));
        }
        for ((scope, slot, whose), delta) in &folded {
            let subject = match whose {
                Whose::Key(p) => Subject::Pseudonym(*p),
                Whose::Team(tenant, team) => Subject::Name(team_subject(tenant, team)),
                Whose::Name(n) => Subject::Name(SmolStr::new(n)),
            };
            for period in names.of(*scope, *slot) {
                let key = LedgerKey {
                    scope: *scope,
                    subject: subject.clone(),
                    period: period.clone(),
                };
                rows.push((key, *delta));
            }
        }
        // Slots of one period are one row.
        LedgerRows::sum(rows)
    }
}

/// Ledger rows that a batch adds to: sorted, each once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LedgerRows(Vec<(LedgerKey, LedgerDelta)>);

impl LedgerRows {
    /// Rows of any order; those of one key are added up.
    pub fn sum(mut rows: Vec<(LedgerKey, LedgerDelta)>) -> Self {
        rows.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        rows.dedup_by(|later, kept| {
            let same = later.0 == kept.0;
            if same {
                kept.1.add(&later.1);
            }
            same
        });
        Self(rows)
    }

    /// Adds to one row.
    pub fn add(&mut self, key: LedgerKey, delta: &LedgerDelta) {
        match self.0.binary_search_by(|row| row.0.cmp(&key)) {
            Ok(at) => self.0[at].1.add(delta),
            Err(at) => self.0.insert(at, (key, *delta)),
        }
    }

    /// The rows.
    pub fn iter(&self) -> std::slice::Iter<'_, (LedgerKey, LedgerDelta)> {
        self.0.iter()
    }

    /// Whether nothing is added.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'a> IntoIterator for &'a LedgerRows {
    type Item = &'a (LedgerKey, LedgerDelta);
    type IntoIter = std::slice::Iter<'a, (LedgerKey, LedgerDelta)>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// The subject of a tenant's ledger. `-` is for events that name none; a tenant of that name is `%2D`.
fn tenant_subject(tenant: Option<&str>) -> &str {
    match tenant {
        None => "-",
        Some("-") => "%2D",
        Some(tenant) => tenant,
    }
}

/// The subject of a team's ledger: `tenant/team`. A slash in the tenant is `%2F`, so that the team `b/c`
/// of `a` and the team `c` of `a/b` are two.
fn team_subject(tenant: &str, team: &str) -> SmolStr {
    if tenant.contains('/') {
        let tenant = tenant.replace('/', "%2F");
        return smol_str::format_smolstr!("{tenant}/{team}");
    }
    smol_str::format_smolstr!("{tenant}/{team}")
}

/// The tenant that a ledger's subject belongs to; empty if it is no tenant's.
pub fn tenant_of(scope: Scope, subject: &str) -> SmolStr {
    let name = match scope {
        Scope::Tenant => subject,
        Scope::Team => subject.split('/').next().unwrap_or_default(),
        _ => "",
    };
    match name {
        "-" => SmolStr::default(),
        "%2D" => SmolStr::new_static("-"),
        name if scope == Scope::Team => SmolStr::new(name.replace("%2F", "/")),
        name => SmolStr::new(name),
    }
}

#[derive(PartialEq, Eq, Hash)]
enum Whose<'a> {
    Key(Pseudonym),
    Team(&'a str, &'a str),
    Name(&'a str),
}

/// Period names by slot: naming is calendar work, and a batch has few slots.
struct Names<'a> {
    grains: &'a [(Scope, Grain)],
    cache: BTreeMap<(Scope, i64), Vec<Period>>,
}

impl Names<'_> {
    fn of(&mut self, scope: Scope, slot: i64) -> &[Period] {
        self.cache.entry((scope, slot)).or_insert_with(|| {
            let at = Time(slot.saturating_mul(SLOT_MS));
            self.grains
                .iter()
                .filter(|(s, _)| *s == scope)
                .map(|(_, grain)| grain.period(at))
                .collect()
        })
    }
}
