//! Runs the whole pipeline over a file in virtual time, with memory instead of Kafka and Postgres.
//!
//! The same core as `run`: decode, detect, account, decide. One partition whose append time is the
//! running maximum of `at` + `total_ms`, with long calls put where they end; minutes close, groups wait, incidents resolve as that time
//! passes. Nothing here depends on a clock or on how long it takes, so two runs give the same bytes.

mod line;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use line::{Line, Summary};

use crate::account::{Books, Budgets, Tally};
use crate::decide::notify::Board;
use crate::decide::{Change, Folded, Head, Routes, fold, notify};
use crate::decode::{Decoder, RawRecord};
use crate::detect::{
    CLOSE_AFTER_MS, DetectConfig, Effects, Finding, Leader, Part, PartitionState, Seen, ValueKey,
    ValueRow,
};
use crate::event::{Event, Hash16, Position, Pseudonym, SmolStr, Time, TopicPartition};
use crate::seal::Sealer;

/// Longest call that moves virtual time, milliseconds: a week. The contract takes any duration; a single
/// forged one must not carry all that follows to where no calendar is.
const LONGEST_CALL_MS: f64 = 7.0 * 24.0 * 3_600_000.0;

/// Most long calls that wait for their end; beyond it the earliest is applied.
const MAX_HELD: usize = 4_096;

/// Part of the leader's parts: there is one partition.
const TOPIC: &str = "file";

/// Minutes without events that are closed one by one; a longer pause is jumped over.
const MAX_IDLE_MINUTES: i64 = 48 * 60;

/// A run.
pub struct Replay {
    decoder: Decoder,
    books: Books,
    budgets: Budgets,
    has_budgets: bool,
    routes: Routes,
    state: PartitionState,
    rows: BTreeMap<Pseudonym, (i64, Arc<[u8]>)>,
    /// Oldest names of rotated pseudonyms.
    names: BTreeMap<Pseudonym, (Pseudonym, Time)>,
    values: BTreeMap<ValueKey, ValueRow>,
    /// Rows that wait, by the earliest `end` of a candidate.
    due_values: std::collections::BTreeSet<(Time, ValueKey)>,
    open: Effects,
    /// Encoded parts of minutes that have not closed.
    waiting: BTreeMap<(i64, bool), Vec<Vec<u8>>>,
    leader: Leader,
    heads: BTreeMap<Hash16, Head>,
    /// Open heads by the moment at which they resolve.
    due_heads: std::collections::BTreeSet<(Time, Hash16)>,
    board: Board,
    /// When the board wants to be looked at again: asked for once a look, since it asks every group.
    look_at: Option<Time>,
    /// Long calls by their end, and a number that keeps the file's order.
    held: BTreeMap<(Time, u64), Box<Event>>,
    held_number: u64,
    offset: i64,
    /// The partition's append time: virtual now.
    now: Option<Time>,
    /// The next minute to close.
    minute: Option<i64>,
    silent: bool,
    /// The file has no more lines.
    ended: bool,
    lines: Vec<Line>,
    summary: Summary,
}

impl Replay {
    /// Takes longer lines than a record of Kafka may be.
    #[must_use]
    pub fn with_max_bytes(mut self, max: usize) -> Self {
        self.decoder = self.decoder.with_max_bytes(max);
        self
    }

    /// Starts a run. `budgets` and `routes` as configured; text is sealed with `sealer`.
    pub fn new(
        config: DetectConfig,
        books: Books,
        budgets: Vec<crate::account::Budget>,
        routes: Routes,
        sealer: Arc<Sealer>,
    ) -> Self {
        let config = Arc::new(config);
        Self {
            decoder: Decoder::trusted(sealer).taking_pseudonyms(),
            books,
            has_budgets: !budgets.is_empty(),
            budgets: Budgets::new(budgets),
            routes,
            state: PartitionState::new(Arc::clone(&config)),
            rows: BTreeMap::new(),
            names: BTreeMap::new(),
            values: BTreeMap::new(),
            due_values: std::collections::BTreeSet::new(),
            open: Effects::default(),
            waiting: BTreeMap::new(),
            leader: Leader::new(config),
            heads: BTreeMap::new(),
            due_heads: std::collections::BTreeSet::new(),
            board: Board::default(),
            look_at: None,
            held: BTreeMap::new(),
            held_number: 0,
            offset: 0,
            now: None,
            minute: None,
            silent: false,
            ended: false,
            lines: Vec::new(),
            summary: Summary::default(),
        }
    }

    /// While silent, everything is learnt and nothing is reported: history before the run.
    pub fn silent(&mut self, silent: bool) {
        self.release(Time(i64::MAX));
        if self.silent && !silent {
            self.summary = Summary::default();
            self.lines.clear();
            self.heads.clear();
            self.due_heads.clear();
            self.board = Board::default();
            self.look_at = None;
        }
        self.silent = silent;
    }

    /// Takes one line.
    ///
    /// # Errors
    /// Why the line is no event, and where; it quotes nothing of it.
    pub fn line(&mut self, text: &str) -> Result<(), String> {
        let record = RawRecord {
            topic: TOPIC,
            partition: 0,
            offset: self.offset,
            append: self.now.unwrap_or_default(),
            key: None,
            value: Some(text.as_bytes()),
            headers: &[],
        };
        match self.decoder.decode(&record) {
            Ok(event) => {
                self.event(&event);
                Ok(())
            }
            Err(d) => {
                if let (Some(now), Some(origin)) = (self.now, &d.origin) {
                    self.open.refused(now, origin);
                }
                self.refuse();
                Err(d.to_string())
            }
        }
    }

    /// Counts a line that could not even be read.
    pub fn refuse(&mut self) {
        self.offset += 1;
        self.summary.refused += 1;
    }

    /// Takes one event. A long call waits until the file reaches its end: in a file ordered by start it would
    /// carry time ahead, and make all that came meanwhile late.
    pub fn event(&mut self, event: &Event) {
        let took = event.total_ms.unwrap_or(0.0).min(LONGEST_CALL_MS);
        let end = event.at.plus_ms_f64(took);
        self.release(end);
        let soon = self.now.unwrap_or(event.at).plus_ms(CLOSE_AFTER_MS);
        if event.at <= soon && end > soon {
            self.held_number += 1;
            self.held
                .insert((end, self.held_number), Box::new(event.clone()));
            if self.held.len() > MAX_HELD
                && let Some(((end, _), event)) = self.held.pop_first()
            {
                self.apply(&event, end);
            }
            return;
        }
        self.apply(event, end);
    }

    /// Applies the held calls that end by then.
    fn release(&mut self, until: Time) {
        while let Some(first) = self.held.first_entry()
            && first.key().0 <= until
        {
            let ((end, _), event) = first.remove_entry();
            self.apply(&event, end);
        }
    }

    fn apply(&mut self, event: &Event, end: Time) {
        let append = self.now.map_or(end, |now| now.max(end));
        self.advance(append);
        let position = Position {
            offset: self.offset,
            append,
        };
        self.offset += 1;
        for (name, _) in self.state.unknown(std::iter::once(event)) {
            if let Some(known) = self.names.get(&name) {
                self.state.load_alias(name, Some(*known));
            }
        }
        for user in self.state.missing_users(std::iter::once(event)) {
            let row = self.rows.get(&user).map(|(o, b)| (*o, &**b));
            self.state.load_user(user, row, false);
        }
        let priced = self.books.prices.price(event, event.end(append).0);
        let seen = self
            .state
            .observe(position, event, priced.pico(), &mut self.open);
        self.state.end_batch(&mut self.open);
        for row in std::mem::take(&mut self.open.user_rows) {
            self.rows.insert(row.user, (row.as_of, row.state));
        }
        for (new, oldest) in self.open.aliases.drain(..) {
            self.names.insert(new, (oldest, append));
        }
        let Some(seen) = seen else {
            self.summary.duplicates += 1;
            return;
        };
        self.minute.get_or_insert(seen.end.minute());
        self.summary.events += 1;
        self.account(event, &seen, priced);
        self.values();
        self.open.flagged.clear();
        let findings = std::mem::take(&mut self.open.findings);
        self.findings(&findings, append);
    }

    fn account(&mut self, event: &Event, seen: &Seen, priced: crate::account::Priced) {
        let delta = crate::account::LedgerDelta::of(event, priced);
        self.summary.tokens = self.summary.tokens.saturating_add(delta.tokens());
        self.summary.cost_pico += delta.cost_pico;
        if !self.has_budgets {
            return;
        }
        let mut tally = Tally::default();
        tally.add(&self.books, event, seen, priced);
        let crossings = self.budgets.add(&tally.finish(), seen.end);
        let findings = crate::decide::findings(&crossings, self.leader.stages());
        let now = self.now.unwrap_or_default();
        self.findings(&findings, now);
    }

    fn values(&mut self) {
        for (key, delta) in std::mem::take(&mut self.open.values) {
            let row = self.values.entry(key).or_default();
            if let Some(due) = row.earliest_candidate() {
                self.due_values.remove(&(due, key));
            }
            row.merge(&delta);
            if let Some(due) = row.earliest_candidate() {
                self.due_values.insert((due, key));
            }
        }
    }

    /// Moves virtual time: minutes close, incidents resolve, groups are told, in order.
    fn advance(&mut self, to: Time) {
        loop {
            let close = self
                .minute
                .map(|m| (Time::from_minute(m + 1).plus_ms(CLOSE_AFTER_MS), m))
                .filter(|(at, _)| *at <= to);
            // An incident resolves once the watermark is past the moment.
            let resolve = self
                .due_heads
                .first()
                .map(|(at, _)| at.plus_ms(1))
                .filter(|at| *at <= to);
            let told = self.look_at.filter(|at| *at <= to);
            let next = [close.map(|c| c.0), resolve, told]
                .into_iter()
                .flatten()
                .min();
            let Some(at) = next else { break };
            let at = self.now.map_or(at, |now| now.max(at));
            self.now = Some(at);
            if let Some((_, minute)) = close.filter(|c| c.0 <= at) {
                self.close(minute, at, to);
            } else if resolve.is_some_and(|r| r <= at) {
                self.resolve(at);
            } else {
                self.tell(&[], at);
            }
        }
        self.now = Some(to);
    }

    fn close(&mut self, minute: i64, at: Time, to: Time) {
        self.open.close();
        let parts: Vec<Part> = self.take_parts(minute);
        let idle_until = to.minute() - MAX_IDLE_MINUTES;
        if parts.is_empty() && self.waiting.is_empty() && minute < idle_until {
            // A hole of years in the file: nothing is learnt from its minutes one by one.
            self.minute = Some(idle_until);
            return;
        }
        // Behind the file's last line nobody knows what was sent.
        let unknown = self.ended && parts.is_empty();
        let mut findings = self.leader.merge_minute(minute, &parts, unknown);
        let until = Time::from_minute(minute + 1);
        let due: Vec<(Time, ValueKey)> = self
            .due_values
            .iter()
            .take_while(|(end, _)| *end < until)
            .copied()
            .collect();
        let mut rows = Vec::new();
        for (end, key) in due {
            self.due_values.remove(&(end, key));
            if let Some(row) = self.values.remove(&key) {
                rows.push((key, row));
            }
        }
        rows.sort_by_key(|(key, _)| *key);
        findings.extend(self.leader.judge_values(minute, &mut rows));
        for (key, row) in rows {
            if let Some(due) = row.earliest_candidate() {
                self.due_values.insert((due, key));
            }
            self.values.insert(key, row);
        }
        self.minute = Some(minute + 1);
        self.findings(&findings, at);
    }

    /// Parts of this minute, and late ones of earlier minutes. Later ones wait.
    fn take_parts(&mut self, minute: i64) -> Vec<Part> {
        for (key, bytes) in std::mem::take(&mut self.open.minute_parts) {
            self.waiting.entry(key).or_default().push(bytes);
        }
        let later = self.waiting.split_off(&(minute + 1, false));
        std::mem::replace(&mut self.waiting, later)
            .into_values()
            .flatten()
            .map(|bytes| Part {
                from: TopicPartition {
                    topic: SmolStr::new_static(TOPIC),
                    partition: 0,
                },
                bytes,
            })
            .collect()
    }

    fn resolve(&mut self, at: Time) {
        let mut changes = Vec::new();
        while let Some((due, key)) = self.due_heads.first().copied() {
            if due >= at {
                break;
            }
            self.due_heads.pop_first();
            if let Some(head) = self.heads.get_mut(&key)
                && let Some(change) = head.resolve(at)
            {
                changes.push((change, head.clone()));
            }
        }
        self.tell(&changes, at);
    }

    fn findings(&mut self, findings: &[Finding], now: Time) {
        if self.silent || findings.is_empty() {
            return;
        }
        let mut changes = Vec::new();
        for f in findings {
            self.summary.findings += 1;
            self.lines.push(Line::finding(f));
            let key = f.key();
            if let Some(head) = self.heads.get(&key) {
                self.due_heads.remove(&(head.resolve_at, key));
            }
            let Folded {
                changes: new,
                fates,
                ..
            } = fold(std::slice::from_ref(f), &mut self.heads);
            self.summary.incidents += fates.new;
            if let Some(head) = self.heads.get(&key) {
                if head.state != crate::decide::State::Resolved {
                    self.due_heads.insert((head.resolve_at, key));
                }
                changes.extend(new.into_iter().map(|c| (c, head.clone())));
            }
        }
        self.tell(&changes, now);
    }

    fn tell(&mut self, changes: &[(Change, Head)], now: Time) {
        for (change, head) in changes {
            self.lines.extend(Line::incident(change, head));
        }
        let told = notify(&self.routes, &[], &mut self.board, changes, now);
        self.look_at = self.board.next_due(&self.routes);
        for row in told.outbox {
            self.summary.notifications += 1;
            self.lines.push(Line::notification(&row));
        }
    }

    /// Ends the run: time runs on until everything that was seen is judged and told. Silence after
    /// the file is not judged: the file ends, the traffic may not.
    pub fn finish(&mut self) {
        self.ended = true;
        self.release(Time(i64::MAX));
        let Some(now) = self.now else { return };
        self.open.close();
        let open = self.open.minute_parts.keys().map(|k| k.0);
        let last = open
            .chain(self.waiting.keys().map(|k| k.0))
            .chain(self.minute.map(|m| m - 1))
            .max();
        let Some(last) = last else { return };
        let end = Time::from_minute(last + 1).plus_ms(CLOSE_AFTER_MS);
        self.advance(now.max(end));
        let (findings, at) = self.leader.finish();
        self.advance(self.now.map_or(at, |n| n.max(at)));
        self.findings(&findings, at);
        // Groups that wait are told; repeats and resolutions lie beyond the file.
        if let Some(due) = self.board.waiting_until() {
            self.advance(self.now.map_or(due, |n| n.max(due)));
        }
    }

    /// The output in order, and the summary.
    pub fn output(mut self) -> (Vec<Line>, Summary) {
        self.lines.sort_by(|a, b| a.order().cmp(&b.order()));
        (self.lines, self.summary)
    }
}
