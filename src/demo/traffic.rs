//! What ordinary people ask: a crowd of users, and calls in the shapes of real traffic.
//!
//! Arrival gaps and token counts come from a production trace, latencies from measurements against
//! live providers, the rise and fall of the day from fourteen days of real clients, texts from
//! permissively licensed sets (`NOTICE` names them all). Seeded: two runs ask the same things.

use crate::event::Role;

/// Arrival gaps and tokens of a production trace.
const ARRIVALS: &str = include_str!("data/arrivals.csv");
/// Time to first token and per token of four hosted models.
const LATENCY: &str = include_str!("data/latency.csv");
/// Requests per hour of real clients over fourteen days, relative to their mean (100).
const HOURS: &str = include_str!("data/hours.csv");
/// Prompts, answers, documents and attacks.
const TEXTS: &str = include_str!("data/texts.jsonl");

/// Days of history.
pub const HISTORY_DAYS: i64 = 14;
/// The trace is played this much faster than it was: a demo should not be sleepy.
const SPEED: u64 = 4;

/// A user of the demo, in the clear: gateways know their users, the monitor does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Name at the gateway.
    pub name: &'static str,
    /// Organisation.
    pub tenant: &'static str,
    /// Part of it.
    pub team: &'static str,
    /// Application.
    pub app: &'static str,
    /// Index into [`MODELS`].
    pub model: usize,
    /// How busy, relative to the others.
    pub weight: u32,
}

/// A model as asked for and as served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Model {
    /// Provider.
    pub provider: &'static str,
    /// As asked for.
    pub requested: &'static str,
    /// The version that answers.
    pub served: &'static str,
}

/// The models in use; the index is also the group in the latency data.
pub const MODELS: [Model; 4] = [
    Model {
        provider: "openai",
        requested: "gpt-4o",
        served: "gpt-4o-2024-08-06",
    },
    Model {
        provider: "openai",
        requested: "gpt-4o-mini",
        served: "gpt-4o-mini-2024-07-18",
    },
    Model {
        provider: "anthropic",
        requested: "claude-sonnet-4-5",
        served: "claude-sonnet-4-5-20250929",
    },
    Model {
        provider: "mistral",
        requested: "mistral-small",
        served: "mistral-small-2506",
    },
];

const fn user(
    name: &'static str,
    tenant: &'static str,
    team: &'static str,
    app: &'static str,
    model: usize,
    weight: u32,
) -> User {
    User {
        name,
        tenant,
        team,
        app,
        model,
        weight,
    }
}

/// The crowd. Whoever attacks has a name of their own further down, so that a finding about anyone
/// here is a false alarm.
pub const CROWD: [User; 16] = [
    user("amira.b@acme.example", "acme", "support", "helpdesk", 0, 9),
    user("bo.li@acme.example", "acme", "support", "helpdesk", 0, 8),
    user("carla.m@acme.example", "acme", "support", "helpdesk", 0, 7),
    user("dev.p@acme.example", "acme", "engineering", "ide", 2, 9),
    user("erin.k@acme.example", "acme", "engineering", "ide", 2, 7),
    user("fatou.n@acme.example", "acme", "engineering", "ide", 2, 6),
    user("goran.s@globex.example", "globex", "sales", "crm", 1, 8),
    user("hana.t@globex.example", "globex", "sales", "crm", 1, 8),
    user("ivo.r@globex.example", "globex", "sales", "crm", 1, 6),
    user("jun.w@globex.example", "globex", "legal", "drafts", 2, 4),
    user(
        "kofi.a@initech.example",
        "initech",
        "research",
        "notebook",
        3,
        7,
    ),
    user(
        "lena.v@initech.example",
        "initech",
        "research",
        "notebook",
        3,
        6,
    ),
    user(
        "mei.z@initech.example",
        "initech",
        "research",
        "notebook",
        0,
        5,
    ),
    user("nils.o@initech.example", "initech", "ops", "chatops", 3, 5),
    user("olga.d@initech.example", "initech", "ops", "chatops", 1, 4),
    user("pia.f@initech.example", "initech", "ops", "chatops", 1, 3),
];

/// One call as a gateway sees it, texts included.
#[derive(Debug, Clone)]
pub struct Call {
    /// Who asks.
    pub user: User,
    /// The model version that answers, if another than the user's usual.
    pub served: Option<&'static str>,
    /// Prompt tokens.
    pub input: u64,
    /// Completion tokens.
    pub output: u64,
    /// Time to first token, milliseconds.
    pub ttft_ms: f64,
    /// Milliseconds per further token.
    pub per_token_ms: f64,
    /// HTTP status.
    pub status: u16,
    /// Tools called.
    pub tools: Vec<&'static str>,
    /// The newest turn of the user.
    pub request: Option<String>,
    /// Earlier parts of the prompt: role, label of the source, text.
    pub context: Vec<(Role, Option<&'static str>, String)>,
    /// The answer.
    pub response: Option<String>,
    /// Stands for many calls of the past: it has no latency of its own.
    pub rollup: bool,
}

impl Call {
    /// The whole duration in milliseconds.
    pub fn total_ms(&self) -> f64 {
        // Token counts of one call are far below 2^32.
        let tokens = u32::try_from(self.output).unwrap_or(u32::MAX);
        self.ttft_ms + self.per_token_ms * f64::from(tokens)
    }
}

/// Texts of one kind, handed out in a shuffled round.
#[derive(Debug)]
struct Deck {
    texts: Vec<String>,
    next: usize,
}

impl Deck {
    fn new(kind: &str, rng: &mut fastrand::Rng) -> Self {
        let mut texts: Vec<String> = TEXTS
            .lines()
            .filter_map(|l| serde_json::from_str::<serde_json::Value>(l).ok())
            .filter(|v| v["kind"] == kind)
            .filter_map(|v| v["text"].as_str().map(str::to_owned))
            .collect();
        rng.shuffle(&mut texts);
        Self { texts, next: 0 }
    }
    fn draw(&mut self) -> String {
        let text = self.texts.get(self.next).cloned().unwrap_or_default();
        self.next = (self.next + 1) % self.texts.len().max(1);
        text
    }
}

/// Produces calls.
#[derive(Debug)]
pub struct Traffic {
    rng: fastrand::Rng,
    arrivals: Vec<(u64, u64, u64)>,
    next: usize,
    latency: Vec<Vec<(f64, f64)>>,
    hours: Vec<Vec<u32>>,
    prompts: Deck,
    answers: Deck,
    documents: Deck,
    direct: Deck,
    indirect: Deck,
}

fn rows(csv: &str) -> impl Iterator<Item = Vec<&str>> {
    csv.lines().skip(1).map(|l| l.split(',').collect())
}

impl Traffic {
    /// The same seed gives the same calls.
    pub fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let number =
            |r: &[&str], i: usize| r.get(i).and_then(|s| s.parse::<u64>().ok()).unwrap_or(0);
        let arrivals = rows(ARRIVALS)
            .map(|r| (number(&r, 0), number(&r, 1), number(&r, 2).max(1)))
            .collect();
        let mut latency = vec![Vec::new(); MODELS.len()];
        for r in rows(LATENCY) {
            let float = |i: usize| r.get(i).and_then(|s| s.parse::<f64>().ok()).unwrap_or(0.0);
            if let Some(group) = usize::try_from(number(&r, 0))
                .ok()
                .and_then(|g| latency.get_mut(g))
            {
                group.push((float(1), float(2)));
            }
        }
        let hours = rows(HOURS)
            .map(|r| r.iter().skip(1).map(|s| s.parse().unwrap_or(100)).collect())
            .collect();
        Self {
            arrivals,
            next: 0,
            latency,
            hours,
            prompts: Deck::new("prompt", &mut rng),
            answers: Deck::new("answer", &mut rng),
            documents: Deck::new("document", &mut rng),
            direct: Deck::new("attack_direct", &mut rng),
            indirect: Deck::new("attack_indirect", &mut rng),
            rng,
        }
    }

    /// Milliseconds until the next call, and the call.
    pub fn next_call(&mut self) -> (u64, Call) {
        let total: u32 = CROWD.iter().map(|u| u.weight).sum();
        let mut pick = self.rng.u32(0..total);
        let mut who = &CROWD[0];
        for u in &CROWD {
            if pick < u.weight {
                who = u;
                break;
            }
            pick -= u.weight;
        }
        let gap = self.arrivals.get(self.next).map_or(200, |a| a.0) / SPEED;
        (gap, self.call(who))
    }

    /// An ordinary call of this user.
    pub fn call(&mut self, user: &User) -> Call {
        let (_, input, output) = self
            .arrivals
            .get(self.next)
            .copied()
            .unwrap_or((200, 500, 100));
        self.next = (self.next + 1) % self.arrivals.len().max(1);
        let (ttft_ms, per_token_ms) = self.sample_latency(user.model);
        let mut context = Vec::new();
        // A third of the calls bring a document that a tool fetched.
        let fetched = self.rng.u32(0..3) == 0;
        if fetched {
            context.push((Role::Tool, Some("internal"), self.documents.draw()));
        }
        Call {
            user: user.clone(),
            served: None,
            input,
            output,
            ttft_ms,
            per_token_ms,
            // Providers fail now and then; the baseline knows it.
            status: if self.rng.u32(0..200) == 0 { 503 } else { 200 },
            tools: if fetched {
                vec!["search_docs"]
            } else {
                Vec::new()
            },
            request: Some(self.prompts.draw()),
            context,
            response: Some(self.answers.draw()),
            rollup: false,
        }
    }

    fn sample_latency(&mut self, model: usize) -> (f64, f64) {
        let group = &self.latency[model.min(self.latency.len() - 1)];
        let pair = group.get(self.rng.usize(0..group.len().max(1)));
        pair.copied().unwrap_or((300.0, 20.0))
    }

    /// How busy a user is in an hour of the history, 100 = as on average.
    pub fn level(&self, user: usize, hour: usize) -> u32 {
        let client = &self.hours[user % self.hours.len()];
        client.get(hour % client.len()).copied().unwrap_or(100)
    }

    /// A text in which a user overrides or extracts instructions.
    pub fn direct_attack(&mut self) -> String {
        self.direct.draw()
    }
    /// A document that carries instructions for the model.
    pub fn indirect_attack(&mut self) -> String {
        self.indirect.draw()
    }
    /// An ordinary answer.
    pub fn answer(&mut self) -> String {
        self.answers.draw()
    }
    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.rng.u64(0..n.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_asks_the_same() {
        let (mut a, mut b) = (Traffic::new(1), Traffic::new(1));
        for _ in 0..200 {
            let ((ga, ca), (gb, cb)) = (a.next_call(), b.next_call());
            assert_eq!((ga, ca.request, ca.input), (gb, cb.request, cb.input));
        }
    }

    #[test]
    fn the_data_is_whole() {
        let t = Traffic::new(1);
        assert_eq!(t.arrivals.len(), 1500);
        assert!(t.latency.iter().all(|g| g.len() > 100));
        assert_eq!(t.hours.len(), CROWD.len());
        assert!(t.hours.iter().all(|h| h.len() == 336));
        for (deck, least) in [
            (&t.prompts, 200),
            (&t.answers, 80),
            (&t.documents, 50),
            (&t.direct, 8),
            (&t.indirect, 8),
        ] {
            assert!(deck.texts.len() >= least, "{}", deck.texts.len());
        }
        let mut names: Vec<_> = CROWD.iter().map(|u| u.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), CROWD.len());
    }
}
