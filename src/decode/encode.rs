//! The other direction: an [`Event`] as canonical JSON of version 1, which decodes to the same event.
//!
//! Written by hand, field by field in the order of the contract: `seal`, `demo` and `bench` print
//! many. All strings are names of narrow alphabets or pseudonyms; only ids can need an escape.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::money;
use crate::event::{
    Decision, Event, Features, KeyClass, Part, Pseudonym, Sketch, Time, UsageState,
};

/// `at` of what has no time, such as a bare line of `seal`.
const EPOCH: Time = Time(0);

/// The event as one line of JSON, without a newline. Absent fields are left out.
pub fn to_json(e: &Event) -> String {
    let mut w = Writer {
        out: Vec::with_capacity(1024),
        first: true,
    };
    w.event(e);
    String::from_utf8(w.out).unwrap_or_default()
}

struct Writer {
    out: Vec<u8>,
    first: bool,
}

impl Writer {
    fn raw(&mut self, s: &str) {
        self.out.extend_from_slice(s.as_bytes());
    }

    /// A key, with the comma before it where one is due.
    fn key(&mut self, k: &str) {
        if !self.first {
            self.out.push(b',');
        }
        self.first = false;
        self.out.push(b'"');
        self.raw(k);
        self.raw("\":");
    }

    fn object(&mut self, f: impl FnOnce(&mut Self)) {
        self.out.push(b'{');
        self.first = true;
        f(self);
        self.first = false;
        self.out.push(b'}');
    }

    fn array<T>(&mut self, items: &[T], mut f: impl FnMut(&mut Self, &T)) {
        self.out.push(b'[');
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                self.out.push(b',');
            }
            f(self, item);
        }
        self.out.push(b']');
        self.first = false;
    }

    fn string(&mut self, s: &str) {
        self.out.push(b'"');
        for b in s.bytes() {
            if matches!(b, b'"' | b'\\') {
                self.out.push(b'\\');
            }
            self.out.push(b);
        }
        self.out.push(b'"');
    }

    fn display(&mut self, x: impl std::fmt::Display) {
        let _ = write!(self.out, "{x}");
    }

    fn number(&mut self, x: impl serde::Serialize) {
        let _ = serde_json::to_writer(&mut self.out, &x);
    }

    fn name(&mut self, k: &str, s: &str) {
        self.key(k);
        self.string(s);
    }

    fn maybe_name(&mut self, k: &str, s: Option<&str>) {
        if let Some(s) = s {
            self.name(k, s);
        }
    }

    fn pseudonym(&mut self, p: &Pseudonym) {
        self.out.push(b'"');
        self.display(p);
        self.out.push(b'"');
    }

    fn maybe_pseudonym(&mut self, k: &str, p: Option<&Pseudonym>) {
        if let Some(p) = p {
            self.key(k);
            self.pseudonym(p);
        }
    }

    fn int(&mut self, k: &str, n: u64) {
        self.key(k);
        self.display(n);
    }

    fn event(&mut self, e: &Event) {
        self.object(|w| {
            w.int("v", super::VERSION);
            w.name("id", &e.id);
            w.name("gateway", &e.gateway);
            w.maybe_name("boot", e.boot.as_deref());
            if e.lane != 0 {
                w.int("lane", e.lane.into());
            }
            if let Some(seq) = e.seq {
                w.int("seq", seq);
            }
            if e.dropped != 0 {
                w.int("dropped", e.dropped);
            }
            w.key("at");
            if e.at == EPOCH {
                // Fixed to the letter, without milliseconds.
                w.raw("\"1970-01-01T00:00:00Z\"");
            } else {
                w.out.push(b'"');
                w.display(e.at);
                w.out.push(b'"');
            }
            w.maybe_name("tenant", e.tenant.as_deref());
            w.maybe_name("team", e.team.as_deref());
            w.maybe_pseudonym("user", e.user.as_ref());
            w.maybe_pseudonym("session", e.session.as_ref());
            w.api_key(e);
            if e.net.is_some() || e.app.is_some() {
                w.key("client");
                w.object(|w| {
                    w.maybe_pseudonym("net", e.net.as_ref());
                    w.maybe_name("app", e.app.as_deref());
                });
            }
            w.name("operation", &e.operation);
            w.maybe_name("route", e.route.as_deref());
            if e.stream {
                w.key("stream");
                w.raw("true");
            }
            w.maybe_name("provider", e.provider.as_deref());
            w.key("model");
            w.object(|w| {
                w.name("requested", &e.model_requested);
                w.maybe_name("served", e.model_served.as_deref());
            });
            w.int("status", e.status.into());
            w.maybe_name("error", e.error.as_deref());
            w.measures(e);
            w.tools(e);
            if let Some(s) = &e.request {
                w.key("request");
                w.object(|w| w.sketch(s));
            }
            if !e.context.is_empty() {
                w.key("context");
                w.array(&e.context, Self::part);
            }
            if let Some(s) = &e.response {
                w.key("response");
                w.object(|w| w.sketch(s));
            }
            if !e.unscanned.is_empty() {
                w.key("unscanned");
                w.object(|w| {
                    for (k, n) in &e.unscanned {
                        w.int(k, *n);
                    }
                });
            }
        });
    }

    fn api_key(&mut self, e: &Event) {
        if let Some(k) = &e.api_key {
            self.key("api_key");
            self.object(|w| {
                w.maybe_pseudonym("id", Some(&k.id));
                if let Some(day) = k.created_day {
                    w.key("created");
                    let date = crate::event::Time(i64::from(day) * 86_400_000).to_string();
                    w.string(date.get(..10).unwrap_or_default());
                }
                if k.class == KeyClass::Privileged {
                    w.name("class", "privileged");
                }
            });
        }
        if let Some(p) = &e.prev {
            self.key("prev");
            self.object(|w| {
                w.maybe_pseudonym("user", p.user.as_ref());
                w.maybe_pseudonym("api_key", p.api_key.as_ref());
            });
        }
    }

    fn measures(&mut self, e: &Event) {
        if e.total_ms.is_some() || e.ttft_ms.is_some() {
            self.key("latency");
            self.object(|w| {
                for (k, ms) in [("total_ms", e.total_ms), ("ttft_ms", e.ttft_ms)] {
                    if let Some(ms) = ms {
                        w.key(k);
                        w.number(ms);
                    }
                }
            });
        }
        if e.usage != crate::event::Usage::default() {
            let u = &e.usage;
            self.key("usage");
            self.object(|w| {
                w.int("input", u.input);
                w.int("output", u.output);
                for (k, n) in [
                    ("cache_read", u.cache_read),
                    ("cache_write", u.cache_write),
                    ("reasoning", u.reasoning),
                ] {
                    if n != 0 {
                        w.int(k, n);
                    }
                }
                let state = match u.state {
                    UsageState::Final => "final",
                    UsageState::Estimated => "estimated",
                    UsageState::Missing => "missing",
                };
                w.name("state", state);
            });
        }
        if let Some(c) = e.reported_cost {
            self.name("cost_usd", &money::print(c));
        }
        if let Some(p) = &e.policy {
            self.key("policy");
            self.object(|w| {
                let decision = match p.decision {
                    Decision::Allow => "allow",
                    Decision::Block => "block",
                    Decision::Redact => "redact",
                    Decision::Error => "error",
                    Decision::None => "none",
                };
                w.name("decision", decision);
                if !p.rules.is_empty() {
                    w.key("rules");
                    w.array(&p.rules, |w, r| w.string(r));
                }
            });
        }
    }

    fn tools(&mut self, e: &Event) {
        if !e.tools.is_empty() {
            self.key("tools");
            self.array(&e.tools, |w, t| {
                w.object(|w| {
                    w.name("name", &t.name);
                    w.maybe_pseudonym("args", t.args.as_ref());
                });
            });
        }
        if !e.sources.is_empty() {
            self.key("sources");
            self.array(&e.sources, |w, s| {
                w.object(|w| {
                    w.maybe_pseudonym("id", s.id.as_ref());
                    w.maybe_name("label", s.label.as_deref());
                });
            });
        }
    }

    fn part(&mut self, p: &Part) {
        self.object(|w| {
            w.name("role", p.role.as_str());
            if let Some(n) = p.source {
                w.int("source", n.into());
            }
            match &p.sketch {
                Some(s) => w.sketch(s),
                None => w.maybe_pseudonym("digest", p.digest.as_ref()),
            }
        });
    }

    fn sketch(&mut self, s: &Sketch) {
        if !s.kid.as_str().is_empty() {
            self.name("kid", s.kid.as_str());
        }
        self.maybe_pseudonym("digest", s.digest.as_ref());
        for (k, n) in [("bytes", s.bytes), ("chars", s.chars), ("words", s.words)] {
            self.int(k, n);
        }
        self.maybe_name("ruleset", s.ruleset.as_deref());
        if !s.hits.is_empty() {
            self.key("hits");
            self.array(&s.hits, |w, h| {
                w.object(|w| {
                    w.name("rule", &h.rule);
                    w.int("n", h.n.into());
                    if !h.values.is_empty() {
                        w.key("values");
                        w.array(&h.values, Self::pseudonym);
                    }
                });
            });
        }
        if let Some(x) = s.injection {
            self.key("score");
            self.object(|w| {
                w.key("injection");
                w.number(x);
            });
        }
        if !s.prints.is_empty() {
            let bytes: Vec<u8> = s.prints.iter().flat_map(|p| p.to_le_bytes()).collect();
            self.key("prints");
            self.out.push(b'"');
            let text = STANDARD.encode(bytes);
            self.raw(&text);
            self.out.push(b'"');
        }
        if s.features != Features::default() {
            self.features(&s.features);
        }
    }

    fn features(&mut self, f: &Features) {
        self.key("features");
        self.object(|w| {
            for (k, n) in [
                ("control", f.control),
                ("invisible", f.invisible),
                ("encoded", f.encoded),
                ("skipped", f.skipped),
            ] {
                if n != 0 {
                    w.int(k, n.into());
                }
            }
            if f.mixed_script {
                w.key("mixed_script");
                w.raw("true");
            }
            if f.entropy > 0.0 {
                w.key("entropy");
                w.number(f.entropy);
            }
            w.maybe_name("lang", f.lang.as_deref());
        });
    }
}
