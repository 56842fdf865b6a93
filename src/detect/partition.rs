//! The state of one partition and the way of one event through the detectors that live there.
//!
//! Called by [`crate::account::Batch::apply`], once per record in offset order. Infallible: what does
//! not fit a bound is counted in the batch's [`super::Counters`].
//!
//! Recovery: [`PartitionState::restore`], then [`PartitionState::observe`] up to the committed offset
//! with findings, parts and values thrown away. User rows evicted on the way must be kept (they carry
//! steps that no stored row has); a user's step below the row's `as_of` is skipped.

mod known;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::alias::{Aliases, Claim};
use super::flood::Flood;
use super::resident::Residents;
use super::told::Wrong;
use super::user::UserState;
use super::window::{Sight, Window};
use super::wire::{Reader, Writer};
use super::{
    Checkpoint, DetectConfig, Effects, Finding, FlaggedEvent, RestoreError, Seen, UserRow, access,
    injection, leak, part, prompt_leak, spend,
};
use crate::event::{Event, Pico, Position, Pseudonym, Sketch, SmolStr, Stage, Time};

/// Format of a partition's checkpoint. Since 2, places of sequences have a mark of the event there; since 3, it
/// says who has an incident of their own in the hour.
pub const FORMAT: i32 = 3;

/// What a single event's findings are about: its user, else its key, else its gateway.
#[derive(Debug, Clone, Copy)]
pub(super) enum Subject<'a> {
    User(Pseudonym),
    Key(Pseudonym),
    Gateway(&'a SmolStr),
}

impl<'a> Subject<'a> {
    fn of(event: &'a Event, seen: &Seen) -> Self {
        match (seen.user, seen.api_key) {
            (Some(user), _) => Self::User(user),
            (None, Some(key)) => Self::Key(key),
            (None, None) => Self::Gateway(&event.gateway),
        }
    }
    pub(super) fn name(&self) -> SmolStr {
        match self {
            Self::User(p) => user_subject(p),
            Self::Key(p) => smol_str::format_smolstr!("key:{p}"),
            Self::Gateway(g) => smol_str::format_smolstr!("gateway:{g}"),
        }
    }
    pub(super) fn user(&self) -> Option<Pseudonym> {
        match self {
            Self::User(p) => Some(*p),
            _ => None,
        }
    }
}

/// `user:` and the pseudonym.
pub fn user_subject(user: &Pseudonym) -> SmolStr {
    smol_str::format_smolstr!("user:{user}")
}

/// State of one (topic, partition).
#[derive(Debug)]
pub struct PartitionState {
    config: Arc<DetectConfig>,
    window: Window,
    users: Residents,
    /// Left memory in this batch; back at once if they are seen again.
    evicted: BTreeMap<Pseudonym, UserState>,
    /// New pseudonym → oldest known one: a cache of what Postgres has.
    aliases: Aliases,
    flood: Flood,
}

impl PartitionState {
    /// A partition that has seen nothing.
    pub fn new(config: Arc<DetectConfig>) -> Self {
        Self {
            config,
            window: Window::default(),
            users: Residents::default(),
            evicted: BTreeMap::new(),
            aliases: Aliases::default(),
            flood: Flood::default(),
        }
    }

    /// Takes other settings, between two events: rules and registered texts change while it runs.
    pub fn configure(&mut self, config: Arc<DetectConfig>) {
        // What is remembered of a name that was undone since.
        for name in &*config.own_names {
            if self.aliases.get(name).is_some_and(|oldest| oldest != *name) {
                self.aliases.insert(*name, *name, Time(0));
            }
        }
        self.config = config;
    }

    /// From a checkpoint. Users come back through [`PartitionState::load_user`].
    pub fn restore(
        config: Arc<DetectConfig>,
        fmt: i32,
        bytes: &[u8],
    ) -> Result<Self, RestoreError> {
        if !(1..=FORMAT).contains(&fmt) {
            return Err(RestoreError::Format {
                found: fmt,
                expected: FORMAT,
            });
        }
        let mut r = Reader::new(bytes);
        let damaged = |d: super::wire::Damaged| RestoreError::Damaged {
            at: d.0,
            len: bytes.len(),
        };
        let mut state = Self::new(config);
        state.window = Window::decode(&mut r, fmt >= 2).map_err(damaged)?;
        for _ in 0..r.len().map_err(damaged)? {
            let new = r.pseudonym().map_err(damaged)?;
            let old = r.pseudonym().map_err(damaged)?;
            // Written by a version that kept them here.
            state.aliases.insert(new, old, Time(0));
        }
        if fmt >= 3 {
            state.flood = Flood::decode(&mut r).map_err(damaged)?;
        }
        if !r.is_at_end() {
            return Err(damaged(r.damaged()));
        }
        Ok(state)
    }

    /// The checkpoint and the rows of the users that changed since the last one. `as_of` is the
    /// offset up to which (exclusive) events were observed.
    pub fn checkpoint(&mut self, as_of: i64) -> (Checkpoint, Vec<UserRow>) {
        let mut w = Writer::default();
        self.window.encode(&mut w);
        // Names from before rotations are read when they are needed.
        w.len(0);
        self.flood.encode(&mut w);
        let mut rows = Vec::new();
        for (user, state) in self.users.sorted() {
            if std::mem::take(&mut state.dirty) {
                state.as_of = state.as_of.max(as_of);
                rows.push(row(user, state));
            }
        }
        let checkpoint = Checkpoint {
            as_of,
            fmt: FORMAT,
            bytes: w.0,
        };
        (checkpoint, rows)
    }

    fn insert(&mut self, user: Pseudonym, state: UserState) {
        // Clean ones too: a batch may hold more users than fit, and each must be there when its
        // event comes.
        if let Some((gone, state)) = self.users.insert(user, state) {
            self.evicted.insert(gone, state);
        }
    }

    /// Observes the next event. `None` if it is a duplicate.
    pub fn observe(
        &mut self,
        position: Position,
        event: &Event,
        cost: Option<Pico>,
        out: &mut Effects,
    ) -> Option<Seen> {
        let told = out.findings.len();
        match self.window.see(event, position.append) {
            Sight::New => {}
            Sight::Duplicate => {
                out.counters.duplicates += 1;
                return None;
            }
            Sight::Conflict => {
                out.counters.conflicts += 1;
                self.tell(Wrong::Sequence, event, position.append, out);
            }
        }
        let (end, clamped) = event.end(position.append);
        let closes = (end.minute() + 1) * 60_000 + super::CLOSE_AFTER_MS;
        // The minute may close once a watermark, the append time of some record, has reached it: a
        // record appended at that very moment must already count as late.
        let late = position.append.0 >= closes;
        let refused = out.counters.alias_refused;
        let seen = Seen {
            end,
            late,
            user: self.user_alias(event, position.append, out),
            api_key: self.key_alias(event, position.append, out),
        };
        if out.counters.alias_refused > refused {
            self.tell(Wrong::Alias, event, position.append, out);
        }
        out.counters.events += 1;
        out.counters.late += u64::from(late);
        out.counters.clamped += u64::from(clamped);
        let part = event.sketches().any(|(_, _, s)| s.features.skipped > 0);
        out.counters.part_scanned += u64::from(part);
        let weight = spend::weight(event, cost);
        let context = part::Context {
            end,
            late,
            clamped,
            append: position.append,
            api_key: seen.api_key,
            cost,
            weight,
        };
        out.parts.add(event, &context, &mut out.counters);

        let before = out.findings.len();
        let subject = Subject::of(event, &seen);
        let config = Arc::clone(&self.config);
        let has_hits = event
            .sketches()
            .any(|(_, _, s)| !s.hits.is_empty() || s.injection.is_some_and(|i| i > 0.0));
        if let Some(user) = seen.user {
            let state = self.user(user, out);
            // A row may be ahead of a replay: that step was taken before.
            if position.offset >= state.as_of {
                state.as_of = position.offset.saturating_add(1);
                state.dirty = true;
                let born = *state.born.get_or_insert(end);
                let learning = end.since_ms(born) < config.spend.learn_ms;
                let step = state.spend.add(end, weight, &config.spend);
                if let Some(raise) = step.raise
                    && !learning
                {
                    let tenant = event.tenant_or_empty();
                    out.parts.elevation(end.minute(), late, &tenant, raise);
                }
                if let Some(alarm) = step.alarm
                    && !learning
                {
                    out.findings
                        .push(spend::finding(&config, event, end, &subject, &alarm));
                }
                if has_hits {
                    let found = injection::judge(&config, event, end, &subject, Some(&mut *state));
                    attack(found, event, &seen, out);
                    leak::judge(&config, event, end, &subject, Some(&*state), out);
                }
            }
        } else if has_hits {
            let found = injection::judge(&config, event, end, &subject, None);
            attack(found, event, &seen, out);
            leak::judge(&config, event, end, &subject, None, out);
        }
        out.findings
            .extend(prompt_leak::judge(&config, event, end, &subject));
        out.findings
            .extend(access::judge(&config, event, end, &subject));
        for f in &mut out.findings[told..] {
            let crowded = self.flood.place(f, &event.gateway, position.append);
            out.counters.crowded += u64::from(crowded);
        }
        if out.findings.len() > before || config.keep.takes(&event.id) {
            out.flagged.push(FlaggedEvent {
                position,
                end,
                event: event.clone(),
            });
        }
        Some(seen)
    }

    /// The records go on at another offset, below those before: the topic was cut or made anew. What is
    /// known of users and events stays; the places up to which it is applied mean nothing any more.
    pub fn rewind(&mut self, to: i64) {
        for (_, state) in self.users.sorted() {
            state.as_of = state.as_of.min(to);
            state.dirty = true;
        }
    }

    /// Ends a batch: rows of the users that had to leave memory go to the effects.
    pub fn end_batch(&mut self, out: &mut Effects) {
        self.aliases.end_batch();
        for (user, state) in std::mem::take(&mut self.evicted) {
            out.counters.evicted_users += 1;
            if state.dirty {
                out.user_rows.push(row(user, &state));
            }
        }
    }

    fn user(&mut self, user: Pseudonym, out: &mut Effects) -> &mut UserState {
        if !self.users.contains(&user) {
            let state = self.evicted.remove(&user).unwrap_or_else(|| {
                out.counters.unloaded_users += 1;
                UserState::default()
            });
            self.insert(user, state);
            if !self.users.contains(&user) {
                // The newcomer itself had to leave again.
                return self.evicted.entry(user).or_default();
            }
        }
        match self.users.get(&user) {
            Some(state) => state,
            None => self.evicted.entry(user).or_default(),
        }
    }

    /// The user's oldest known name. An older one is believed at a rotation's first sight only: who has a
    /// history is not renamed, or one event of anybody would give a user's traffic another name.
    fn user_alias(&mut self, event: &Event, append: Time, out: &mut Effects) -> Option<Pseudonym> {
        let new = event.user?;
        let old = event.prev.and_then(|p| p.user);
        if let Some(known) = self.known_alias(new, append, out) {
            return Some(known);
        }
        match self.aliases.claim(new, old) {
            Claim::None => Some(new),
            Claim::Oldest(oldest) if !self.is_known(&new) && !self.is_own(&new) => {
                // Nothing was ever booked under the new name.
                self.users.forget(&new);
                self.evicted.remove(&new);
                self.aliases.insert(new, oldest, append);
                out.aliases.push((new, oldest));
                Some(oldest)
            }
            Claim::Oldest(_) | Claim::Refused => {
                out.counters.alias_refused += 1;
                Some(new)
            }
        }
    }

    /// The same for an API key: keys have no state, so the first older name is believed.
    fn key_alias(&mut self, event: &Event, append: Time, out: &mut Effects) -> Option<Pseudonym> {
        let new = event.api_key.as_ref()?.id;
        let old = event.prev.and_then(|p| p.api_key);
        if let Some(known) = self.known_alias(new, append, out) {
            return Some(known);
        }
        match self.aliases.claim(new, old) {
            Claim::None => Some(new),
            Claim::Oldest(oldest) if !self.is_own(&new) => {
                self.aliases.insert(new, oldest, append);
                out.aliases.push((new, oldest));
                Some(oldest)
            }
            Claim::Oldest(_) | Claim::Refused => {
                out.counters.alias_refused += 1;
                Some(new)
            }
        }
    }

    /// The older name that is known already; its use is an effect once a day.
    fn known_alias(
        &mut self,
        new: Pseudonym,
        append: Time,
        out: &mut Effects,
    ) -> Option<Pseudonym> {
        let (known, note) = self.aliases.used(&new, append)?;
        if known == new {
            return None;
        }
        if note {
            out.aliases.push((new, known));
        }
        Some(known)
    }

    fn tell(&self, wrong: Wrong, event: &Event, append: Time, out: &mut Effects) {
        let (end, _) = event.end(append);
        out.findings.push(wrong.finding(&self.config, event, end));
    }

    /// Whether an operator said that a name counts as no other.
    fn is_own(&self, name: &Pseudonym) -> bool {
        self.config.own_names.contains(name)
    }

    /// Whether a user was seen before this event.
    fn is_known(&self, user: &Pseudonym) -> bool {
        let state = self.users.peek(user).or_else(|| self.evicted.get(user));
        state.is_some_and(UserState::is_known)
    }
}

/// Records an attack, and for the leader who sent it.
fn attack(found: Option<(Finding, &Sketch)>, event: &Event, seen: &Seen, out: &mut Effects) {
    let Some((finding, sketch)) = found else {
        return;
    };
    // A rule on trial must not make campaigns either.
    if finding.stage != Stage::Shadow {
        out.parts.attack(event, sketch, seen, &mut out.counters);
    }
    out.findings.push(finding);
}

fn row(user: Pseudonym, state: &UserState) -> UserRow {
    UserRow {
        user,
        as_of: state.as_of,
        state: state.encode().into(),
    }
}
