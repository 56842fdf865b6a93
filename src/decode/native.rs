//! The native event: from wire types to [`Event`], every bound checked, every refusal with its place.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::reason::Reason;
use super::wire::{self, Int, Obj, Str};
use super::{MAX_LONG, MAX_STATUS, MAX_TOKENS, VERSION, money, name, place};
use crate::event::{
    ApiKey, Decision, Event, Features, Hit, KeyClass, Kid, MAX_HITS, MAX_PARTS, MAX_PRINTS,
    MAX_RESPONSE_PRINTS, MAX_VALUES, Part, Policy, Previous, Pseudonym, Role, Side, Sketch,
    SmolStr, Source, Time, Tool, Usage, UsageState,
};
use crate::seal::{Domain, Keys};

/// A refusal: why, which field, which byte of the text.
pub(super) struct Bad {
    pub reason: Reason,
    pub path: Option<SmolStr>,
    pub byte: Option<usize>,
}

/// Decodes one JSON text. With `keys` the source is trusted.
pub(super) fn decode(text: &str, keys: Option<&Keys>) -> Result<Box<Event>, Bad> {
    let wire: Obj<wire::Event<'_>> =
        serde_json::from_str(text).map_err(|e| parse_error(text, &e))?;
    Reader {
        text,
        keys,
        tenant: None,
    }
    .event(wire.0)
}

/// Where `part` starts in `text`, if it is a slice of it.
pub(super) fn offset_in(text: &str, part: &str) -> Option<usize> {
    (part.as_ptr() as usize)
        .checked_sub(text.as_ptr() as usize)
        .filter(|n| *n <= text.len())
}

/// Turns serde's error into a reason and a place. Its message quotes values, so only its fixed
/// beginning is read, and nothing of it is passed on.
pub(super) fn parse_error(text: &str, e: &serde_json::Error) -> Bad {
    /// Versions may differ in any field, so an unknown one is recognised before the field that failed.
    #[derive(serde::Deserialize)]
    struct Probe {
        v: Option<Int>,
    }
    if e.is_data()
        && let Ok(Obj(Probe { v: Some(v) })) = serde_json::from_str(text)
        && v.0 != VERSION
    {
        return Bad {
            reason: Reason::UnknownVersion,
            path: Some(SmolStr::new_static("v")),
            byte: None,
        };
    }
    let byte = place::byte_of(text, e.line(), e.column());
    let message = e.to_string();
    let named = || message.split('`').nth(1).and_then(place::known);
    let (reason, field) = if message.starts_with("missing field") {
        (Reason::MissingField, named())
    } else if message.starts_with(wire::DUPLICATE) {
        (Reason::DuplicateField, named())
    } else if message.starts_with("recursion limit") {
        (Reason::TooDeep, None)
    } else if message.starts_with("number out of range")
        || message.starts_with(wire::OUT_OF_RANGE)
        || message.starts_with("invalid value")
    {
        (Reason::OutOfRange, None)
    } else if e.is_data() {
        (Reason::WrongType, None)
    } else {
        (Reason::NotJson, None)
    };
    let at = place::path_at(text, byte);
    let path = match (field, at) {
        // The parent of a missing field is known by where its object ended; the last key seen in
        // that object is not part of the path.
        (Some(f), at) => {
            let parent = at.and_then(|p| p.rfind('.').map(|i| SmolStr::from(&p[..i])));
            Some(parent.map_or_else(|| f.into(), |p| format!("{p}.{f}").into()))
        }
        (None, at) => at,
    };
    Bad {
        reason,
        path,
        byte: Some(byte),
    }
}

struct Reader<'t, 'k> {
    text: &'t str,
    /// Keys of a trusted source.
    keys: Option<&'k Keys>,
    tenant: Option<SmolStr>,
}

type Path<'p> = fmt::Arguments<'p>;

impl Reader<'_, '_> {
    fn bad<T>(&self, reason: Reason, path: Path<'_>, value: Option<&Str<'_>>) -> Result<T, Bad> {
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

    /// A name of the given alphabet. Trusted sources' names are mapped, never refused.
    fn word(
        &self,
        path: Path<'_>,
        s: &Str<'_>,
        ok: fn(&str) -> bool,
        map: fn(&str) -> SmolStr,
    ) -> Result<SmolStr, Bad> {
        let has_at = memchr::memchr(b'@', s.0.as_bytes()).is_some();
        let email = has_at && name::has_email(&s.0);
        if ok(&s.0) && !email {
            return Ok(SmolStr::new(&s.0));
        }
        match self.keys {
            Some(k) if email => Ok(smol_str::format_smolstr!(
                "{}",
                k.pseudonym(Domain::User, self.tenant.as_deref(), &s.0)
            )),
            Some(_) => Ok(map(&s.0)),
            None if email => self.bad(Reason::UnsealedIdentity, path, Some(s)),
            None => self.bad(Reason::BadName, path, Some(s)),
        }
    }

    fn name(&self, path: Path<'_>, s: &Str<'_>) -> Result<SmolStr, Bad> {
        self.word(path, s, name::is_name, |s| {
            name::mapped(s, name::MAX_NAME, name::name_char)
        })
    }

    fn maybe_name(&self, path: Path<'_>, s: Option<&Str<'_>>) -> Result<Option<SmolStr>, Bad> {
        s.map(|s| self.name(path, s)).transpose()
    }

    fn model(&self, path: Path<'_>, s: &Str<'_>) -> Result<SmolStr, Bad> {
        self.word(path, s, name::is_model, |s| {
            name::mapped(s, name::MAX_MODEL, |c| c == '@' || name::name_char(c))
        })
    }

    fn error(&self, path: Path<'_>, s: &Str<'_>) -> Result<SmolStr, Bad> {
        self.word(path, s, name::is_error, |s| {
            name::mapped(&s.to_lowercase(), name::MAX_NAME, |c| {
                c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '.' | '-')
            })
        })
    }

    /// A pseudonym; in trusted sources a plain identity is sealed here.
    fn identity(&self, path: Path<'_>, domain: Domain, s: &Str<'_>) -> Result<Pseudonym, Bad> {
        match (s.0.parse(), self.keys) {
            (Ok(p), _) => Ok(p),
            (Err(_), Some(k)) => Ok(k.pseudonym(domain, self.tenant.as_deref(), &s.0)),
            (Err(_), None) => self.bad(Reason::UnsealedIdentity, path, Some(s)),
        }
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
            id: self.word(format_args!("id"), &w.id, name::is_id, |s| {
                name::mapped(s, name::MAX_NAME, |c| c.is_ascii_graphic())
            })?,
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
            app: self.maybe_name(
                format_args!("client.app"),
                w.client.as_ref().and_then(|c| c.0.app.as_ref()),
            )?,
            operation: self.name(format_args!("operation"), &w.operation)?,
            route: self.maybe_name(format_args!("route"), w.route.as_ref())?,
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
                .map(|s| self.sketch(format_args!("request"), &s.0, Side::Request))
                .transpose()?,
            context,
            response: w
                .response
                .map(|s| self.sketch(format_args!("response"), &s.0, Side::Response))
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
            _ => Ok(()),
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
        if let Some(Obj(p)) = sent {
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
            s.filter(|s| s.0.parse::<Pseudonym>().is_err())
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
                .map(|(i, r)| self.name(format_args!("policy.rules[{i}]"), r))
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
                    name: self.name(format_args!("tools[{i}].name"), &t.name)?,
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
                    label: self.maybe_name(format_args!("sources[{i}].label"), s.label.as_ref())?,
                })
            })
            .collect()
    }

    fn context(
        &self,
        parts: Option<Vec<Obj<wire::Sketch<'_>>>>,
        sources: usize,
    ) -> Result<Vec<Part>, Bad> {
        let parts = parts.unwrap_or_default();
        if parts.len() > MAX_PARTS {
            return self.bad(Reason::OutOfRange, format_args!("context"), None);
        }
        parts
            .iter()
            .enumerate()
            .map(|(i, Obj(p))| {
                let Some(role) = &p.role else {
                    return self.bad(
                        Reason::MissingField,
                        format_args!("context[{i}].role"),
                        None,
                    );
                };
                let role = match &*role.0 {
                    "system" => Role::System,
                    "user" => Role::User,
                    "assistant" => Role::Assistant,
                    "tool" => Role::Tool,
                    "document" => Role::Document,
                    _ => self.bad(
                        Reason::UnknownValue,
                        format_args!("context[{i}].role"),
                        Some(role),
                    )?,
                };
                let source = match p.source {
                    None => None,
                    some => {
                        let n = self.u32(format_args!("context[{i}].source"), some)?;
                        if usize::try_from(n).is_ok_and(|n| n < sources) {
                            Some(n)
                        } else {
                            self.bad(
                                Reason::OutOfRange,
                                format_args!("context[{i}].source"),
                                None,
                            )?
                        }
                    }
                };
                let sketch = self.sketch(format_args!("context[{i}]"), p, Side::Request)?;
                let digest = sketch.digest;
                let alone = digest.is_some() && is_digest_alone(p);
                Ok(Part {
                    role,
                    source,
                    digest,
                    sketch: (!alone).then_some(sketch),
                })
            })
            .collect()
    }

    fn sketch(&self, at: Path<'_>, s: &wire::Sketch<'_>, side: Side) -> Result<Sketch, Bad> {
        for (field, present) in [
            ("text", s.text.is_some()),
            ("content", s.content.is_some()),
            ("messages", s.messages.is_some()),
        ] {
            if present && self.keys.is_none() {
                return self.bad(Reason::TextInSealed, format_args!("{at}.{field}"), None);
            }
        }
        let kid = match &s.kid {
            None => None,
            Some(k) => match Kid::parse(&k.0) {
                Some(kid) => Some(kid),
                None => self.bad(Reason::BadName, format_args!("{at}.kid"), Some(k))?,
            },
        };
        if s.prints.is_some() && kid.is_none() {
            return self.bad(Reason::MissingField, format_args!("{at}.kid"), None);
        }
        let digest = match &s.digest {
            None => None,
            Some(d) => match d.0.parse::<Pseudonym>() {
                Ok(p) => Some(p),
                Err(_) => self.bad(
                    Reason::UnsealedIdentity,
                    format_args!("{at}.digest"),
                    Some(d),
                )?,
            },
        };
        #[expect(
            clippy::cast_possible_truncation,
            reason = "0 to 1: only precision is lost"
        )]
        let injection = self
            .float(
                format_args!("{at}.score.injection"),
                s.score.as_ref().and_then(|s| s.0.injection),
                1.0,
            )?
            .map(|x| x as f32);
        Ok(Sketch {
            kid: kid.or(digest.map(|d| d.kid)).unwrap_or_default(),
            digest,
            bytes: self.int(format_args!("{at}.bytes"), s.bytes, MAX_LONG)?,
            chars: self.int(format_args!("{at}.chars"), s.chars, MAX_LONG)?,
            words: self.int(format_args!("{at}.words"), s.words, MAX_LONG)?,
            ruleset: self.maybe_name(format_args!("{at}.ruleset"), s.ruleset.as_ref())?,
            hits: self.hits(at, s.hits.as_deref().unwrap_or_default())?,
            injection,
            prints: match &s.prints {
                None => Vec::new(),
                Some(p) => self.prints(format_args!("{at}.prints"), p, side)?,
            },
            features: match &s.features {
                None => Features::default(),
                Some(Obj(f)) => self.features(at, f)?,
            },
        })
    }

    fn hits(&self, at: Path<'_>, hits: &[Obj<wire::Hit<'_>>]) -> Result<Vec<Hit>, Bad> {
        if hits.len() > MAX_HITS {
            return self.bad(Reason::OutOfRange, format_args!("{at}.hits"), None);
        }
        hits.iter()
            .enumerate()
            .map(|(i, Obj(h))| {
                let values = h.values.as_deref().unwrap_or_default();
                if values.len() > MAX_VALUES {
                    return self.bad(
                        Reason::OutOfRange,
                        format_args!("{at}.hits[{i}].values"),
                        None,
                    );
                }
                Ok(Hit {
                    rule: self.name(format_args!("{at}.hits[{i}].rule"), &h.rule)?,
                    n: match h.n {
                        None => 1,
                        n => self.u32(format_args!("{at}.hits[{i}].n"), n)?,
                    },
                    values: values
                        .iter()
                        .enumerate()
                        .map(|(j, v)| {
                            v.0.parse().or_else(|_| {
                                self.bad(
                                    Reason::UnsealedIdentity,
                                    format_args!("{at}.hits[{i}].values[{j}]"),
                                    Some(v),
                                )
                            })
                        })
                        .collect::<Result<_, _>>()?,
                })
            })
            .collect()
    }

    fn prints(&self, path: Path<'_>, p: &Str<'_>, side: Side) -> Result<Vec<u64>, Bad> {
        let max = match side {
            Side::Request => MAX_PRINTS,
            Side::Response => MAX_RESPONSE_PRINTS,
        };
        let mut buf = [0u8; MAX_RESPONSE_PRINTS * 8 + 3];
        // The longest base64 of `max` prints; what is longer is out of range before it is decoded.
        if p.0.len() > (max * 8).div_ceil(3) * 4 {
            return self.bad(Reason::OutOfRange, path, Some(p));
        }
        let Ok(n) = STANDARD.decode_slice(p.0.as_bytes(), &mut buf) else {
            return self.bad(Reason::BadBase64, path, Some(p));
        };
        let (prints, rest) = buf[..n].as_chunks::<8>();
        if !rest.is_empty() {
            return self.bad(Reason::BadBase64, path, Some(p));
        }
        Ok(prints.iter().map(|b| u64::from_le_bytes(*b)).collect())
    }

    fn features(&self, at: Path<'_>, f: &wire::Features<'_>) -> Result<Features, Bad> {
        /// Bits per byte cannot be more.
        const MAX_ENTROPY: f64 = 8.0;
        let entropy = self.float(
            format_args!("{at}.features.entropy"),
            f.entropy,
            MAX_ENTROPY,
        )?;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "0 to 8: only precision is lost"
        )]
        let entropy = entropy.unwrap_or_default() as f32;
        Ok(Features {
            control: self.u32(format_args!("{at}.features.control"), f.control)?,
            invisible: self.u32(format_args!("{at}.features.invisible"), f.invisible)?,
            mixed_script: f.mixed_script.unwrap_or(false),
            encoded: self.u32(format_args!("{at}.features.encoded"), f.encoded)?,
            entropy,
            lang: f
                .lang
                .as_ref()
                .map(|l| {
                    self.word(format_args!("{at}.features.lang"), l, name::is_lang, |_| {
                        SmolStr::new_static("und")
                    })
                })
                .transpose()?,
        })
    }

    fn unscanned(&self, counts: Option<wire::Counts<'_>>) -> Result<Vec<(SmolStr, u64)>, Bad> {
        counts
            .map(|c| c.0)
            .unwrap_or_default()
            .iter()
            .map(|(k, n)| {
                // The key is the gateway's own word: it is checked, and not repeated in the path.
                let name = self.name(format_args!("unscanned"), k)?;
                Ok((
                    name,
                    self.int(format_args!("unscanned.*"), Some(*n), MAX_LONG)?,
                ))
            })
            .collect()
    }
}

/// Whether a part holds nothing but its digest: it was sent before in its session.
fn is_digest_alone(p: &wire::Sketch<'_>) -> bool {
    p.kid.is_none()
        && p.bytes.is_none()
        && p.chars.is_none()
        && p.words.is_none()
        && p.ruleset.is_none()
        && p.hits.is_none()
        && p.score.is_none()
        && p.prints.is_none()
        && p.features.is_none()
        && p.text.is_none()
}

/// RFC 3339 with seconds and a zone; nothing that merely looks like it.
pub(super) fn instant(s: &str) -> Option<Time> {
    let b = s.as_bytes();
    if b.len() < 20 || b.len() > 35 || b[10] != b'T' || &b[17..19] == b"60" {
        return None;
    }
    let shape = |b: &[u8], pattern: &[u8]| {
        b.len() == pattern.len()
            && b.iter().zip(pattern).all(|(c, p)| match p {
                b'0' => c.is_ascii_digit(),
                p => c == p,
            })
    };
    if !shape(&b[..19], b"0000-00-00T00:00:00") {
        return None;
    }
    let mut rest = &b[19..];
    if let [b'.', frac @ ..] = rest {
        let n = frac.iter().take_while(|c| c.is_ascii_digit()).count();
        if !(1..=9).contains(&n) {
            return None;
        }
        rest = &frac[n..];
    }
    let zone = rest == b"Z"
        || ((shape(rest, b"+00:00") || shape(rest, b"-00:00"))
            && rest[1..3] <= *b"23".as_slice()
            && rest[4..6] <= *b"59".as_slice());
    if zone { Time::parse_rfc3339(s) } else { None }
}

/// `YYYY-MM-DD` as days since 1970-01-01.
fn day(s: &str) -> Option<i32> {
    let mut b = *b"0000-00-00T00:00:00Z";
    b.get_mut(..10)?
        .copy_from_slice(s.as_bytes().get(..10).filter(|_| s.len() == 10)?);
    let t = instant(std::str::from_utf8(&b).ok()?)?;
    i32::try_from(t.0.div_euclid(86_400_000)).ok()
}
