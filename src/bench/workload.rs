//! Workload `reference-1`: seeded native events as gateways would publish them.
//!
//! Users by Zipf's law, 50 teams in 10 tenants, 8 models of 2 versions each, 12 prints a sketch, one
//! event in a hundred with a finding. Everything but the time comes from the seed; sequence numbers
//! are whole unless the caller leaves something out.

use crate::decode::encode;
use crate::event::{
    ApiKey, Event, Features, Hit, KeyClass, Kid, Pseudonym, Sketch, SmolStr, Time, Usage,
    UsageState, hash16,
};

/// What the workload looks like.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Everything follows from it.
    pub seed: u64,
    /// Partitions of the topic; a user stays on one.
    pub partitions: i32,
    /// Distinct users.
    pub users: u32,
    /// Exponent of Zipf's law.
    pub zipf: f64,
    /// One event in so many has a finding.
    pub finding_every: u32,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            seed: 1,
            partitions: 16,
            users: 100_000,
            zipf: 1.1,
            finding_every: 100,
        }
    }
}

/// One event, ready to be published.
#[derive(Debug)]
pub struct Made {
    /// Partition of its user.
    pub partition: i32,
    /// Key: the user.
    pub key: String,
    /// The native event.
    pub value: String,
    /// Its id.
    pub id: SmolStr,
    /// Whether a finding of one event must follow.
    pub finding: bool,
}

/// Models with a price, two versions each.
const MODELS: [(&str, &str, [&str; 2]); 8] = [
    (
        "openai",
        "gpt-4o",
        ["gpt-4o-2024-08-06", "gpt-4o-2024-11-20"],
    ),
    (
        "openai",
        "gpt-4o-mini",
        ["gpt-4o-mini-2024-07-18", "gpt-4o-mini"],
    ),
    ("openai", "gpt-4.1", ["gpt-4.1-2025-04-14", "gpt-4.1"]),
    (
        "openai",
        "gpt-4.1-mini",
        ["gpt-4.1-mini-2025-04-14", "gpt-4.1-mini"],
    ),
    (
        "anthropic",
        "claude-sonnet-4",
        ["claude-sonnet-4-20250514", "claude-sonnet-4-0"],
    ),
    (
        "anthropic",
        "claude-3-5-haiku",
        ["claude-3-5-haiku-20241022", "claude-3-5-haiku-latest"],
    ),
    (
        "google",
        "gemini-2.5-pro",
        ["gemini-2.5-pro", "gemini-2.5-pro-preview-06-05"],
    ),
    (
        "google",
        "gemini-2.5-flash",
        ["gemini-2.5-flash", "gemini-2.5-flash-preview-05-20"],
    ),
];
const GATEWAYS: u32 = 4;
const TENANTS: u32 = 10;
const TEAMS: u32 = 50;
const PRINTS: usize = 12;

/// The generator.
#[derive(Debug)]
pub struct Workload {
    shape: Shape,
    rng: fastrand::Rng,
    /// Cumulative weights of the users, most active first.
    cumulative: Vec<f64>,
    /// Next sequence number per (gateway, partition).
    seq: Vec<u64>,
    boot: SmolStr,
    made: u64,
    kid: Kid,
}

impl Workload {
    /// A generator. `boot` names this run of the gateways.
    pub fn new(shape: Shape, boot: &str) -> Self {
        let mut sum = 0.0;
        let cumulative = (1..=shape.users.max(1))
            .map(|rank| {
                sum += f64::from(rank).powf(-shape.zipf);
                sum
            })
            .collect();
        let lanes = GATEWAYS as usize * usize::try_from(shape.partitions.max(1)).unwrap_or(1);
        Self {
            shape,
            rng: fastrand::Rng::with_seed(shape.seed),
            cumulative,
            seq: vec![0; lanes],
            boot: SmolStr::new(boot),
            made: 0,
            kid: Kid::parse("b1").unwrap_or_default(),
        }
    }

    /// A pseudonym of the workload's key.
    pub(super) fn pseudonym(&self, domain: &str, n: u64) -> Pseudonym {
        Pseudonym {
            kid: self.kid,
            mac: hash16(domain, &[&n.to_le_bytes()]).0,
        }
    }

    fn user(&mut self) -> u32 {
        let top = self.cumulative.last().copied().unwrap_or(1.0);
        let x = self.rng.f64() * top;
        u32::try_from(self.cumulative.partition_point(|c| *c < x)).unwrap_or(0)
    }

    /// A user by Zipf's law, and whether the event has a finding.
    pub(super) fn draw(&mut self) -> (u32, bool) {
        let user = self.user();
        (user, self.finding())
    }

    fn finding(&mut self) -> bool {
        self.shape.finding_every > 0 && self.rng.u32(0..self.shape.finding_every) == 0
    }

    /// The next event; it ends at `now`.
    pub fn next(&mut self, now: Time) -> Made {
        let user = self.user();
        self.event_of(user, now)
    }

    /// An event of one user, for workloads with their own law.
    pub fn event_of(&mut self, user: u32, now: Time) -> Made {
        let finding = self.finding();
        self.made(user, finding, false, now)
    }

    /// An event whose answer holds a credential: a critical finding, told by name within the bench's `storm_limit`.
    pub(super) fn probe_of(&mut self, user: u32, now: Time) -> Made {
        self.made(user, false, true, now)
    }

    fn made(&mut self, user: u32, finding: bool, probe: bool, now: Time) -> Made {
        self.made += 1;
        let partition = i32::try_from(user).unwrap_or(0) % self.shape.partitions.max(1);
        let mut event = self.event(user, partition, finding, now);
        if probe && let Some(response) = &mut event.response {
            response.hits.push(Hit {
                rule: SmolStr::new_static("sec-aws-access-key"),
                n: 1,
                values: Vec::new(),
            });
        }
        let key = event.user.map(|u| u.to_string()).unwrap_or_default();
        Made {
            partition,
            key,
            value: encode::to_json(&event),
            id: event.id,
            finding: finding || probe,
        }
    }

    fn event(&mut self, user: u32, partition: i32, finding: bool, now: Time) -> Event {
        let gateway = user % GATEWAYS;
        let lane = u32::try_from(partition).unwrap_or(0);
        let at =
            (gateway * u32::try_from(self.shape.partitions.max(1)).unwrap_or(1) + lane) as usize;
        let seq = self.seq.get_mut(at).map_or(0, |s| {
            *s += 1;
            *s - 1
        });
        let team = user % TEAMS;
        let (provider, requested, served) = MODELS[(user % 8) as usize];
        let version = usize::from(self.rng.u8(0..10) == 0);
        let output = u64::from(self.rng.u32(20..800));
        let input = u64::from(self.rng.u32(50..4_000));
        let ttft = 120.0 + f64::from(self.rng.u32(0..200));
        let total = (ttft + output as f64 * 9.0).round();
        #[expect(
            clippy::cast_possible_truncation,
            reason = "milliseconds of one answer"
        )]
        let started = now.minus_ms((total as i64).max(0));
        let number = self.made;
        Event {
            id: smol_str::format_smolstr!("{}-{number:012}", self.boot),
            gateway: smol_str::format_smolstr!("gw-{gateway}"),
            boot: Some(self.boot.clone()),
            lane,
            seq: Some(seq),
            dropped: 0,
            at: started,
            tenant: Some(smol_str::format_smolstr!("tenant-{}", team % TENANTS)),
            team: Some(smol_str::format_smolstr!("team-{team}")),
            user: Some(self.pseudonym("user", u64::from(user))),
            session: None,
            api_key: Some(ApiKey {
                id: self.pseudonym("key", u64::from(team)),
                created_day: None,
                class: KeyClass::Standard,
            }),
            prev: None,
            net: None,
            app: None,
            operation: SmolStr::new_static("chat"),
            route: None,
            stream: true,
            provider: Some(SmolStr::new_static(provider)),
            model_requested: SmolStr::new_static(requested),
            model_served: Some(SmolStr::new_static(served[version])),
            status: if self.rng.u32(0..200) == 0 { 500 } else { 200 },
            error: None,
            total_ms: Some(total),
            ttft_ms: Some(ttft),
            usage: Usage {
                input,
                output,
                state: UsageState::Final,
                ..Usage::default()
            },
            reported_cost: None,
            policy: None,
            tools: Vec::new(),
            sources: Vec::new(),
            request: Some(self.sketch(number, finding)),
            context: Vec::new(),
            response: Some(Sketch {
                // The request's twelve prints alone bring the event to its size.
                prints: Vec::new(),
                ruleset: None,
                ..self.sketch(!number, false)
            }),
            unscanned: Vec::new(),
        }
    }

    fn sketch(&mut self, number: u64, finding: bool) -> Sketch {
        let words = u64::from(self.rng.u32(20..300));
        let hits = if finding {
            vec![Hit {
                rule: SmolStr::new_static("inj-override-instructions"),
                n: 1,
                values: Vec::new(),
            }]
        } else {
            Vec::new()
        };
        Sketch {
            kid: self.kid,
            digest: Some(self.pseudonym("digest", number)),
            bytes: words * 6,
            chars: words * 6,
            words,
            ruleset: Some(SmolStr::new_static("b3:000000000000")),
            hits,
            injection: Some(if finding { 0.97 } else { 0.01 }),
            prints: (0..PRINTS).map(|_| self.rng.u64(..)).collect(),
            features: Features {
                entropy: 4.1,
                lang: Some(SmolStr::new_static("en")),
                ..Features::default()
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{Decoder, RawRecord};

    #[test]
    fn seeded_of_the_right_size_and_decodable() {
        let now = Time(1_800_000_000_000);
        let shape = Shape {
            users: 1_000,
            ..Shape::default()
        };
        let (mut a, mut b) = (Workload::new(shape, "b0"), Workload::new(shape, "b0"));
        let mut decoder = Decoder::sealed();
        for i in 0..500 {
            let (x, y) = (a.next(now), b.next(now));
            assert_eq!(x.value, y.value);
            // A hit names its rule.
            let most = if x.finding { 1_040 } else { 1_000 };
            assert!(
                (850..=most).contains(&x.value.len()),
                "{}: {}",
                x.value.len(),
                x.value
            );
            let raw = RawRecord {
                topic: "t",
                partition: x.partition,
                offset: i,
                append: now,
                key: None,
                value: Some(x.value.as_bytes()),
                headers: &[],
            };
            let event = decoder.decode(&raw).expect("an event");
            assert_eq!(event.id, x.id);
            assert_eq!(event.end(now), (now, false));
        }
    }
}
