//! The native event: from wire types to [`Event`], every bound checked, every refusal with its place.

mod names;
mod origin;
mod quick;
mod refusal;
mod sketch;
mod text;
mod time;

use std::cell::RefCell;
use std::fmt;

use super::Spare;
use super::reason::Reason;
use super::wire::{self, Int, Obj, Str};
use super::{MAX_LONG, MAX_STATUS, MAX_TOKENS, VERSION, fit, money};
use crate::event::{
    ApiKey, Decision, Event, KeyClass, Policy, Previous, Pseudonym, Role, Side, SmolStr, Source,
    Tool, Usage, UsageState,
};
use crate::seal::{Domain, Keys, Scratch, Sealer};
pub(super) use origin::{origin, origin_of_head};
pub(super) use refusal::parse_error;
pub(super) use text::string;
use time::day;
use time::instant;

/// A refusal: why, which field, which byte of the text.
pub(super) struct Bad {
    pub reason: Reason,
    pub path: Option<SmolStr>,
    pub byte: Option<usize>,
}

/// What a trusted source's texts and identities are sealed with.
pub(super) struct Sealing<'k> {
    pub sealer: &'k Sealer,
    /// Identities that are pseudonyms already are taken as such.
    pub pseudonyms: bool,
    pub scratch: &'k mut Scratch,
}

/// Decodes one JSON text of a sealed source, in the place of a spare event where there is one.
pub(super) fn decode_sealed(text: &str, spare: &mut Spare) -> Result<Box<Event>, Bad> {
    quick::decode(text, spare).map_or_else(|| long(text, None), Ok)
}

/// Decodes one JSON text of a trusted source.
pub(super) fn decode_trusted(text: &str, sealing: Sealing<'_>) -> Result<Box<Event>, Bad> {
    long(text, Some(sealing))
}

/// The long way: takes everything the contract allows, and says what is wrong with the rest.
fn long(text: &str, sealing: Option<Sealing<'_>>) -> Result<Box<Event>, Bad> {
    let wire: Obj<wire::Event<'_>> =
        serde_json::from_str(text).map_err(|e| parse_error(text, &e))?;
    let trusted = sealing.is_some();
    let mut event = Reader {
        text,
        keys: sealing.as_ref().map(|s| s.sealer.keys()),
        sealing: sealing.map(RefCell::new),
        tenant: None,
        unscanned: RefCell::default(),
    }
    .event(wire.0)?;
    if trusted {
        fit::fit(&mut event);
    }
    Ok(event)
}

/// Where `part` starts in `text`, if it is a slice of it.
pub(super) fn offset_in(text: &str, part: &str) -> Option<usize> {
    (part.as_ptr() as usize)
        .checked_sub(text.as_ptr() as usize)
        .filter(|n| *n <= text.len())
}

struct Reader<'t, 'k> {
    text: &'t str,
    /// Keys of a trusted source.
    keys: Option<&'k Keys>,
    sealing: Option<RefCell<Sealing<'k>>>,
    tenant: Option<SmolStr>,
    /// Content of trusted sources that nothing looked at.
    unscanned: RefCell<Vec<(&'static str, u64)>>,
}

type Path<'p> = fmt::Arguments<'p>;

impl Reader<'_, '_> {
    #[cold]
    fn bad<T>(&self, reason: Reason, path: Path<'_>, value: Option<&Str<'_>>) -> Result<T, Bad> {
        let reason = match value {
            Some(s) if s.0.contains('\0') => Reason::Nul,
            _ => reason,
        };
        let byte = value.and_then(|v| match &v.0 {
            std::borrow::Cow::Borrowed(s) => offset_in(self.text, s),
            std::borrow::Cow::Owned(_) => None,
        });
        Err(Bad {
            reason,
            path: Some(smol_str::format_smolstr!("{path}")),
            byte,
        })
    }

    /// A pseudonym; in trusted sources an identity is sealed here, whatever it looks like: callers may
    /// choose what a gateway passes on, and somebody else's pseudonym is no secret.
    fn identity(&self, path: Path<'_>, domain: Domain, s: &Str<'_>) -> Result<Pseudonym, Bad> {
        match self.keys {
            Some(k) => Ok(match self.sent_sealed(s) {
                Some(p) => p,
                None => k.pseudonym(domain, self.tenant.as_deref(), &s.0),
            }),
            None => match s.0.parse() {
                Ok(p) => Ok(p),
                Err(_) => self.bad(Reason::UnsealedIdentity, path, Some(s)),
            },
        }
    }

    /// What a source that may hold sealed events beside raw ones has sealed already.
    fn sent_sealed(&self, s: &Str<'_>) -> Option<Pseudonym> {
        let takes = self.sealing.as_ref().is_some_and(|s| s.borrow().pseudonyms);
        takes.then(|| s.0.parse().ok()).flatten()
    }

    fn maybe_identity(
        &self,
        path: Path<'_>,
        domain: Domain,
        s: Option<&Str<'_>>,
    ) -> Result<Option<Pseudonym>, Bad> {
        s.map(|s| self.identity(path, domain, s)).transpose()
    }

    fn int(&self, path: Path<'_>, n: Option<Int>, max: u64) -> Result<u64, Bad> {
        match n {
            None => Ok(0),
            Some(Int(n)) if n <= max => Ok(n),
            Some(_) => self.bad(Reason::OutOfRange, path, None),
        }
    }

    fn u32(&self, path: Path<'_>, n: Option<Int>) -> Result<u32, Bad> {
        match n.map(|n| u32::try_from(n.0)) {
            None => Ok(0),
            Some(Ok(n)) => Ok(n),
            Some(Err(_)) => self.bad(Reason::OutOfRange, path, None),
        }
    }

    fn float(&self, path: Path<'_>, x: Option<f64>, max: f64) -> Result<Option<f64>, Bad> {
        match x {
            Some(x) if !(x.is_finite() && (0.0..=max).contains(&x)) => {
                self.bad(Reason::OutOfRange, path, None)
            }
            // Minus zero is zero, and would print differently.
            x => Ok(x.map(|x| x + 0.0)),
        }
    }

    fn event(mut self, w: wire::Event<'_>) -> Result<Box<Event>, Bad> {
        if w.v.0 != VERSION {
            return self.bad(Reason::UnknownVersion, format_args!("v"), None);
        }
        self.no_content(&w)?;
        self.tenant = self.maybe_name(format_args!("tenant"), w.tenant.as_ref())?;
        let sources = self.sources(w.sources)?;
        let context = self.context(w.context, sources.len())?;
        let (user, session) = (w.user.as_ref(), w.session.as_ref());
        let model = w.model.0;
        let latency = w.latency.map(|l| l.0);
        Ok(Box::new(Event {
            id: self.id(format_args!("id"), &w.id)?,
            gateway: self.name(format_args!("gateway"), &w.gateway)?,
            boot: self.maybe_name(format_args!("boot"), w.boot.as_ref())?,
            lane: self.u32(format_args!("lane"), w.lane)?,
            seq: match w.seq {
                None => None,
                some => Some(self.int(format_args!("seq"), some, MAX_LONG)?),
            },
            dropped: self.int(format_args!("dropped"), w.dropped, MAX_LONG)?,
            at: match instant(&w.at.0) {
                Some(t) => t,
                None => self.bad(Reason::BadTime, format_args!("at"), Some(&w.at))?,
            },
            team: self.maybe_name(format_args!("team"), w.team.as_ref())?,
            user: self.maybe_identity(format_args!("user"), Domain::User, user)?,
            session: self.maybe_identity(format_args!("session"), Domain::Session, session)?,
            prev: self.previous(w.prev, user, w.api_key.as_ref().map(|k| &k.0.id))?,
            api_key: w.api_key.map(|k| self.api_key(&k.0)).transpose()?,
            net: self.maybe_identity(
                format_args!("client.net"),
                Domain::Net,
                w.client.as_ref().and_then(|c| c.0.net.as_ref()),
            )?,
            app: self.maybe_free_name(
                format_args!("client.app"),
                w.client.as_ref().and_then(|c| c.0.app.as_ref()),
            )?,
            operation: self.name(format_args!("operation"), &w.operation)?,
            route: self.maybe_free_name(format_args!("route"), w.route.as_ref())?,
            stream: w.stream.unwrap_or(false),
            provider: self.maybe_name(format_args!("provider"), w.provider.as_ref())?,
            model_requested: self.model(format_args!("model.requested"), &model.requested)?,
            model_served: model
                .served
                .as_ref()
                .map(|s| self.model(format_args!("model.served"), s))
                .transpose()?,
            status: u16::try_from(self.int(format_args!("status"), Some(w.status), MAX_STATUS)?)
                .unwrap_or(u16::MAX),
            error: w
                .error
                .as_ref()
                .map(|s| self.error(format_args!("error"), s))
                .transpose()?,
            total_ms: self.float(
                format_args!("latency.total_ms"),
                latency.as_ref().and_then(|l| l.total_ms),
                f64::MAX,
            )?,
            ttft_ms: self.float(
                format_args!("latency.ttft_ms"),
                latency.as_ref().and_then(|l| l.ttft_ms),
                f64::MAX,
            )?,
            usage: self.usage(w.usage)?,
            reported_cost: match &w.cost_usd {
                None => None,
                Some(s) => match money::parse(&s.0) {
                    Some(p) => Some(p),
                    None => self.bad(Reason::OutOfRange, format_args!("cost_usd"), Some(s))?,
                },
            },
            policy: w.policy.map(|p| self.policy(&p.0)).transpose()?,
            tools: self.tools(w.tools)?,
            sources,
            request: w
                .request
                .map(|s| self.sketch(format_args!("request"), &s.0, Role::User, Side::Request))
                .transpose()?,
            context,
            response: w
                .response
                .map(|s| {
                    self.sketch(
                        format_args!("response"),
                        &s.0,
                        Role::Assistant,
                        Side::Response,
                    )
                })
                .transpose()?,
            unscanned: self.unscanned(w.unscanned)?,
            tenant: self.tenant,
        }))
    }

    /// Refuses content at the top of a sealed event.
    fn no_content(&self, w: &wire::Event<'_>) -> Result<(), Bad> {
        let fields = [
            ("messages", &w.messages),
            ("prompt", &w.prompt),
            ("completion", &w.completion),
            ("choices", &w.choices),
            ("input", &w.input),
            ("output", &w.output),
            ("text", &w.text),
            ("content", &w.content),
        ];
        match fields.iter().find(|(_, f)| f.is_some()) {
            Some((field, _)) if self.keys.is_none() => {
                self.bad(Reason::TextInSealed, format_args!("{field}"), None)
            }
            Some(_) => {
                self.left_out("messages");
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Counts a piece of content that nothing looks at.
    fn left_out(&self, kind: &'static str) {
        let mut all = self.unscanned.borrow_mut();
        match all.iter_mut().find(|(k, _)| *k == kind) {
            Some((_, n)) => *n += 1,
            None => all.push((kind, 1)),
        }
    }

    fn api_key(&self, k: &wire::ApiKey<'_>) -> Result<ApiKey, Bad> {
        Ok(ApiKey {
            id: self.identity(format_args!("api_key.id"), Domain::Key, &k.id)?,
            created_day: match &k.created {
                None => None,
                Some(s) => match day(&s.0) {
                    Some(d) => Some(d),
                    None => self.bad(Reason::BadTime, format_args!("api_key.created"), Some(s))?,
                },
            },
            class: match k.class.as_ref().map(|c| &*c.0) {
                None | Some("standard") => KeyClass::Standard,
                Some("privileged") => KeyClass::Privileged,
                Some(_) => self.bad(
                    Reason::UnknownValue,
                    format_args!("api_key.class"),
                    k.class.as_ref(),
                )?,
            },
        })
    }

    /// The identities under the old key: as sent, or, in a trusted source while an old key overlaps,
    /// made here.
    fn previous(
        &self,
        sent: Option<Obj<wire::Prev<'_>>>,
        user: Option<&Str<'_>>,
        api_key: Option<&Str<'_>>,
    ) -> Result<Option<Previous>, Bad> {
        // In a trusted source older names are made here: what the caller says of them is not asked for.
        let raw = self
            .sealing
            .as_ref()
            .is_some_and(|s| !s.borrow().pseudonyms);
        if let Some(Obj(p)) = sent.filter(|_| !raw) {
            let prev = Previous {
                user: self.maybe_identity(
                    format_args!("prev.user"),
                    Domain::User,
                    p.user.as_ref(),
                )?,
                api_key: self.maybe_identity(
                    format_args!("prev.api_key"),
                    Domain::Key,
                    p.api_key.as_ref(),
                )?,
            };
            return Ok(Some(prev));
        }
        let Some(keys) = self.keys else {
            return Ok(None);
        };
        let old = |d, s: Option<&Str<'_>>| {
            s.filter(|s| self.sent_sealed(s).is_none())
                .and_then(|s| keys.previous(d, self.tenant.as_deref(), &s.0))
        };
        let prev = Previous {
            user: old(Domain::User, user),
            api_key: old(Domain::Key, api_key),
        };
        Ok((prev != Previous::default()).then_some(prev))
    }

    fn usage(&self, u: Option<Obj<wire::Usage<'_>>>) -> Result<Usage, Bad> {
        let Some(Obj(u)) = u else {
            return Ok(Usage::default());
        };
        Ok(Usage {
            input: self.int(format_args!("usage.input"), u.input, MAX_TOKENS)?,
            output: self.int(format_args!("usage.output"), u.output, MAX_TOKENS)?,
            cache_read: self.int(format_args!("usage.cache_read"), u.cache_read, MAX_TOKENS)?,
            cache_write: self.int(format_args!("usage.cache_write"), u.cache_write, MAX_TOKENS)?,
            reasoning: self.int(format_args!("usage.reasoning"), u.reasoning, MAX_TOKENS)?,
            state: match u.state.as_ref().map(|s| &*s.0) {
                None | Some("final") => UsageState::Final,
                Some("estimated") => UsageState::Estimated,
                Some("missing") => UsageState::Missing,
                Some(_) => self.bad(
                    Reason::UnknownValue,
                    format_args!("usage.state"),
                    u.state.as_ref(),
                )?,
            },
        })
    }

    fn policy(&self, p: &wire::Policy<'_>) -> Result<Policy, Bad> {
        Ok(Policy {
            decision: match &*p.decision.0 {
                "allow" => Decision::Allow,
                "block" => Decision::Block,
                "redact" => Decision::Redact,
                "error" => Decision::Error,
                "none" => Decision::None,
                _ => self.bad(
                    Reason::UnknownValue,
                    format_args!("policy.decision"),
                    Some(&p.decision),
                )?,
            },
            rules: p
                .rules
                .iter()
                .flatten()
                .enumerate()
                .map(|(i, r)| self.free_name(format_args!("policy.rules[{i}]"), r))
                .collect::<Result<_, _>>()?,
        })
    }

    fn tools(&self, tools: Option<Vec<Obj<wire::Tool<'_>>>>) -> Result<Vec<Tool>, Bad> {
        let tools = tools.unwrap_or_default();
        tools
            .iter()
            .enumerate()
            .map(|(i, Obj(t))| {
                Ok(Tool {
                    name: self.free_name(format_args!("tools[{i}].name"), &t.name)?,
                    args: t
                        .args
                        .map(|raw| self.args(format_args!("tools[{i}].args"), raw.get()))
                        .transpose()?,
                })
            })
            .collect()
    }

    /// Arguments: a pseudonym, or in trusted sources any JSON (a string is taken as JSON text, as
    /// providers send it).
    fn args(&self, path: Path<'_>, raw: &str) -> Result<Pseudonym, Bad> {
        let byte = offset_in(self.text, raw);
        let string: Option<Str<'_>> = serde_json::from_str(raw).ok();
        match (string, self.keys) {
            (Some(s), _) => self.identity(path, Domain::Args, &s),
            (None, Some(k)) => Ok(k.pseudonym(Domain::Args, self.tenant.as_deref(), raw)),
            (None, None) => {
                let reason = if raw.starts_with(['{', '[']) {
                    Reason::TextInSealed
                } else {
                    Reason::WrongType
                };
                self.bad(reason, path, None)
                    .map_err(|b: Bad| Bad { byte, ..b })
            }
        }
    }

    fn sources(&self, sources: Option<Vec<Obj<wire::Source<'_>>>>) -> Result<Vec<Source>, Bad> {
        let sources = sources.unwrap_or_default();
        sources
            .iter()
            .enumerate()
            .map(|(i, Obj(s))| {
                Ok(Source {
                    id: self.maybe_identity(
                        format_args!("sources[{i}].id"),
                        Domain::Source,
                        s.id.as_ref(),
                    )?,
                    label: self
                        .maybe_free_name(format_args!("sources[{i}].label"), s.label.as_ref())?,
                })
            })
            .collect()
    }

    fn unscanned(&self, counts: Option<wire::Counts<'_>>) -> Result<Vec<(SmolStr, u64)>, Bad> {
        let mut out: Vec<(SmolStr, u64)> = Vec::new();
        for (k, n) in &counts.map(|c| c.0).unwrap_or_default() {
            // The key is the gateway's own word: it is checked, and not repeated in the path.
            let name = self.free_name(format_args!("unscanned"), k)?;
            out.push((
                name,
                self.int(format_args!("unscanned.*"), Some(*n), MAX_LONG)?,
            ));
        }
        for (kind, n) in self.unscanned.take() {
            match out.iter_mut().find(|(k, _)| k == kind) {
                Some((_, have)) => *have = have.saturating_add(n).min(MAX_LONG),
                None => out.push((SmolStr::new_static(kind), n)),
            }
        }
        Ok(out)
    }
}
