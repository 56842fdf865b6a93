//! The short way for sealed events: from bytes to [`Event`] in one pass, without the wire types.
//!
//! It takes what gateways send nearly always: known fields, each once, strings of the contract's own
//! alphabets without escapes, plain decimal numbers. At anything else it gives up and the long way
//! decides, with its errors and their places. So it must never take what the long way refuses, nor
//! read it differently: the tests below compare the two on altered records.

mod cursor;
mod sketch;
#[cfg(test)]
mod tests;

use super::super::name::{self, NAME, PLAIN};
use super::super::{MAX_LONG, MAX_STATUS, MAX_TOKENS, Spare, VERSION, money};
use super::{day, instant};
use crate::event::{
    ApiKey, Decision, Event, KeyClass, MAX_PARTS, Part, Policy, Pseudonym, SmolStr, Source, Tool,
    Usage, UsageState,
};
use cursor::{Cursor, once};

/// Decodes a sealed event, or gives up.
pub(super) fn decode(text: &str, spare: &mut Spare) -> Option<Box<Event>> {
    let mut event = match spare.0.pop() {
        Some(mut old) => {
            *old = blank();
            old
        }
        None => Box::new(blank()),
    };
    let mut c = Cursor { text, at: 0 };
    let whole = c.event(&mut event).is_some() && {
        c.space();
        c.at == text.len()
    };
    if !whole {
        spare.0.push(event);
        return None;
    }
    Some(event)
}

impl Cursor<'_> {
    fn name(&mut self) -> Option<SmolStr> {
        let s = self.string(NAME)?;
        (1..=name::MAX_NAME)
            .contains(&s.len())
            .then(|| SmolStr::new(s))
    }

    /// Without `@`: whether one stands in an e-mail is for the long way.
    fn model(&mut self) -> Option<SmolStr> {
        let s = self.string(NAME)?;
        (1..=name::MAX_MODEL)
            .contains(&s.len())
            .then(|| SmolStr::new(s))
    }

    fn id(&mut self) -> Option<SmolStr> {
        let s = self.string(PLAIN)?;
        (1..=name::MAX_NAME)
            .contains(&s.len())
            .then(|| SmolStr::new(s))
    }

    fn pseudonym(&mut self) -> Option<Pseudonym> {
        self.string(NAME)?.parse().ok()
    }

    fn event(&mut self, e: &mut Event) -> Option<()> {
        let mut seen = 0u64;
        self.object(|c, key| {
            let field = match key {
                b"v" => 0,
                b"id" => 1,
                b"gateway" => 2,
                b"at" => 3,
                b"operation" => 4,
                b"model" => 5,
                b"status" => 6,
                b"boot" => 7,
                b"lane" => 8,
                b"seq" => 9,
                b"dropped" => 10,
                b"tenant" => 11,
                b"team" => 12,
                b"user" => 13,
                b"session" => 14,
                b"api_key" => 15,
                b"client" => 16,
                b"route" => 17,
                b"stream" => 18,
                b"provider" => 19,
                b"error" => 20,
                b"latency" => 21,
                b"usage" => 22,
                b"cost_usd" => 23,
                b"policy" => 24,
                b"tools" => 25,
                b"sources" => 26,
                b"request" => 27,
                b"context" => 28,
                b"response" => 29,
                _ => return None,
            };
            once(&mut seen, field)?;
            match field {
                0 => return (c.int(VERSION)? == VERSION).then_some(()),
                1 => e.id = c.id()?,
                2 => e.gateway = c.name()?,
                3 => e.at = instant(c.string(NAME)?)?,
                4 => e.operation = c.name()?,
                5 => (e.model_requested, e.model_served) = c.models()?,
                6 => e.status = u16::try_from(c.int(MAX_STATUS)?).ok()?,
                7 => e.boot = Some(c.name()?),
                8 => e.lane = c.u32()?,
                9 => e.seq = Some(c.int(MAX_LONG)?),
                10 => e.dropped = c.int(MAX_LONG)?,
                11 => e.tenant = Some(c.name()?),
                12 => e.team = Some(c.name()?),
                13 => e.user = Some(c.pseudonym()?),
                14 => e.session = Some(c.pseudonym()?),
                15 => e.api_key = Some(c.api_key()?),
                16 => c.client(e)?,
                17 => e.route = Some(c.name()?),
                18 => e.stream = c.bool()?,
                19 => e.provider = Some(c.name()?),
                20 => {
                    let s = c.string(NAME)?;
                    e.error = Some(name::is_error(s).then(|| SmolStr::new(s))?);
                }
                21 => c.latency(e)?,
                22 => e.usage = c.usage()?,
                23 => e.reported_cost = Some(money::parse(c.string(NAME)?)?),
                24 => e.policy = Some(c.policy()?),
                25 => e.tools = c.array(usize::MAX, Self::tool)?,
                26 => e.sources = c.array(usize::MAX, Self::source)?,
                27 => e.request = Some(c.sketch(None)?.0),
                28 => e.context = c.array(MAX_PARTS, Self::part)?,
                _ => e.response = Some(c.sketch(None)?.0),
            }
            Some(())
        })?;
        /// The first seven fields are required.
        const REQUIRED: u64 = 0x7f;
        let sources = e.sources.len();
        let fits = |p: &Part| {
            p.source
                .is_none_or(|n| usize::try_from(n).is_ok_and(|n| n < sources))
        };
        (seen & REQUIRED == REQUIRED && e.context.iter().all(fits)).then_some(())
    }

    fn models(&mut self) -> Option<(SmolStr, Option<SmolStr>)> {
        let (mut requested, mut served) = (None, None);
        let mut seen = 0;
        self.object(|c, key| {
            match key {
                b"requested" => {
                    once(&mut seen, 0)?;
                    requested = Some(c.model()?);
                }
                b"served" => {
                    once(&mut seen, 1)?;
                    served = Some(c.model()?);
                }
                _ => return None,
            }
            Some(())
        })?;
        Some((requested?, served))
    }

    fn api_key(&mut self) -> Option<ApiKey> {
        let (mut id, mut created_day, mut class) = (None, None, KeyClass::Standard);
        let mut seen = 0;
        self.object(|c, key| {
            match key {
                b"id" => {
                    once(&mut seen, 0)?;
                    id = Some(c.pseudonym()?);
                }
                b"created" => {
                    once(&mut seen, 1)?;
                    created_day = Some(day(c.string(NAME)?)?);
                }
                b"class" => {
                    once(&mut seen, 2)?;
                    class = match c.string(NAME)? {
                        "standard" => KeyClass::Standard,
                        "privileged" => KeyClass::Privileged,
                        _ => return None,
                    };
                }
                _ => return None,
            }
            Some(())
        })?;
        Some(ApiKey {
            id: id?,
            created_day,
            class,
        })
    }

    fn client(&mut self, e: &mut Event) -> Option<()> {
        let mut seen = 0;
        self.object(|c, key| {
            match key {
                b"net" => {
                    once(&mut seen, 0)?;
                    e.net = Some(c.pseudonym()?);
                }
                b"app" => {
                    once(&mut seen, 1)?;
                    e.app = Some(c.name()?);
                }
                _ => return None,
            }
            Some(())
        })
    }

    fn latency(&mut self, e: &mut Event) -> Option<()> {
        let mut seen = 0;
        self.object(|c, key| {
            match key {
                b"total_ms" => {
                    once(&mut seen, 0)?;
                    e.total_ms = Some(c.float(f64::MAX)?);
                }
                b"ttft_ms" => {
                    once(&mut seen, 1)?;
                    e.ttft_ms = Some(c.float(f64::MAX)?);
                }
                _ => return None,
            }
            Some(())
        })
    }

    fn usage(&mut self) -> Option<Usage> {
        let mut u = Usage {
            state: UsageState::Final,
            ..Usage::default()
        };
        let mut seen = 0;
        self.object(|c, key| {
            match key {
                b"input" => {
                    once(&mut seen, 0)?;
                    u.input = c.int(MAX_TOKENS)?;
                }
                b"output" => {
                    once(&mut seen, 1)?;
                    u.output = c.int(MAX_TOKENS)?;
                }
                b"cache_read" => {
                    once(&mut seen, 2)?;
                    u.cache_read = c.int(MAX_TOKENS)?;
                }
                b"cache_write" => {
                    once(&mut seen, 3)?;
                    u.cache_write = c.int(MAX_TOKENS)?;
                }
                b"reasoning" => {
                    once(&mut seen, 4)?;
                    u.reasoning = c.int(MAX_TOKENS)?;
                }
                b"state" => {
                    once(&mut seen, 5)?;
                    u.state = match c.string(NAME)? {
                        "final" => UsageState::Final,
                        "estimated" => UsageState::Estimated,
                        "missing" => UsageState::Missing,
                        _ => return None,
                    };
                }
                _ => return None,
            }
            Some(())
        })?;
        Some(u)
    }

    fn policy(&mut self) -> Option<Policy> {
        let (mut decision, mut rules) = (None, Vec::new());
        let mut seen = 0;
        self.object(|c, key| {
            match key {
                b"decision" => {
                    once(&mut seen, 0)?;
                    decision = Some(match c.string(NAME)? {
                        "allow" => Decision::Allow,
                        "block" => Decision::Block,
                        "redact" => Decision::Redact,
                        "error" => Decision::Error,
                        "none" => Decision::None,
                        _ => return None,
                    });
                }
                b"rules" => {
                    once(&mut seen, 1)?;
                    rules = c.array(usize::MAX, Self::name)?;
                }
                _ => return None,
            }
            Some(())
        })?;
        Some(Policy {
            decision: decision?,
            rules,
        })
    }

    fn tool(&mut self) -> Option<Tool> {
        let (mut name, mut args) = (None, None);
        let mut seen = 0;
        self.object(|c, key| {
            match key {
                b"name" => {
                    once(&mut seen, 0)?;
                    name = Some(c.name()?);
                }
                b"args" => {
                    once(&mut seen, 1)?;
                    args = Some(c.pseudonym()?);
                }
                _ => return None,
            }
            Some(())
        })?;
        Some(Tool { name: name?, args })
    }

    fn source(&mut self) -> Option<Source> {
        let (mut id, mut label) = (None, None);
        let mut seen = 0;
        self.object(|c, key| {
            match key {
                b"id" => {
                    once(&mut seen, 0)?;
                    id = Some(c.pseudonym()?);
                }
                b"label" => {
                    once(&mut seen, 1)?;
                    label = Some(c.name()?);
                }
                _ => return None,
            }
            Some(())
        })?;
        Some(Source { id, label })
    }
}

/// What stands where a record says nothing.
fn blank() -> Event {
    Event {
        id: SmolStr::default(),
        gateway: SmolStr::default(),
        boot: None,
        lane: 0,
        seq: None,
        dropped: 0,
        at: crate::event::Time(0),
        tenant: None,
        team: None,
        user: None,
        session: None,
        api_key: None,
        prev: None,
        net: None,
        app: None,
        operation: SmolStr::default(),
        route: None,
        stream: false,
        provider: None,
        model_requested: SmolStr::default(),
        model_served: None,
        status: 0,
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
    }
}
