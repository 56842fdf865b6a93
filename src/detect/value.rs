//! The cross-user leak: a value of one user in another user's answer. Home: shared row, one per
//! (kid, value), judged by the leader.
//!
//! A row is a set that merges in any order: the eight who sent it last, and at most eight candidates
//! (who received the value, in which event, when). A batch only adds; the leader judges each candidate
//! once, when the minute of its `end` has closed, over those who sent it in the seven days before. A value
//! that more than three users sent belongs to nobody (support addresses).

use std::collections::{BTreeMap, BTreeSet};

use super::single::named;
use super::wire::{Damaged, Reader, Writer};
use super::{DetectorId, Finding, Stages, finding_id};
use crate::event::{Kid, Pseudonym, Severity, SmolStr, Stage, Time};

/// Senders kept in a row: twice as many as show that a value belongs to nobody, so that those who send it
/// between a candidate's end and its judgement, a minute or two later, push nobody out who counts.
pub const MAX_SENDERS: usize = 8;
/// Who sent it no later than this before what is judged is forgotten: a day beyond what counts, for candidates
/// that come late.
const FORGOTTEN_AFTER_MS: i64 = SENT_WITHIN_MS + 86_400_000;
/// Candidates kept in a row until they are judged; more are counted.
pub const MAX_CANDIDATES: usize = 8;
/// A sender counts if it sent within this time before the candidate.
pub const SENT_WITHIN_MS: i64 = 7 * 86_400_000;
/// Most users that may have sent a value that still belongs to somebody.
const MAX_OWNERS: usize = 3;

/// (key id, keyed hash): the row's key, in lock order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueKey {
    /// Which content key.
    pub kid: Kid,
    /// The keyed hash of the value.
    pub mac: [u8; 16],
}

impl From<Pseudonym> for ValueKey {
    fn from(p: Pseudonym) -> Self {
        Self {
            kid: p.kid,
            mac: p.mac,
        }
    }
}

/// Who received a value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate {
    /// When the call ended.
    pub end: Time,
    /// Id of the event.
    pub event: SmolStr,
    /// Who received it.
    pub user: Pseudonym,
    /// Their tenant.
    pub tenant: SmolStr,
    /// The rule that found the value.
    pub rule: SmolStr,
    /// Version of that rule.
    pub version: u32,
    /// What the value is.
    pub entity: SmolStr,
    /// The model that answered.
    pub model: SmolStr,
    /// The gateway.
    pub gateway: SmolStr,
    /// Whether the rule counts only what it would have done.
    pub shadow: bool,
}

/// What one batch adds to a row.
pub type ValueDelta = ValueRow;

/// The senders and candidates of one value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ValueRow {
    /// First and last `end` per sender; the [`MAX_SENDERS`] that sent it last.
    pub senders: BTreeMap<Pseudonym, (Time, Time)>,
    /// Not yet judged; the [`MAX_CANDIDATES`] earliest.
    pub candidates: BTreeSet<Candidate>,
    /// Candidates beyond the bound.
    pub more_candidates: u64,
    /// Latest `end` of any use: the row expires seven days after it.
    pub last_used: Time,
}

impl ValueRow {
    /// Adds a sender.
    pub fn sent(&mut self, user: Pseudonym, end: Time) {
        let s = self.senders.entry(user).or_insert((end, end));
        *s = (s.0.min(end), s.1.max(end));
        self.last_used = self.last_used.max(end);
        self.trim();
    }

    /// Adds a candidate.
    pub fn received(&mut self, candidate: Candidate) {
        self.last_used = self.last_used.max(candidate.end);
        self.candidates.insert(candidate);
        self.trim();
    }

    /// Unites two rows. Commutative and associative: who is kept depends on each sender's last `end` alone,
    /// which no order of merging changes; the first is exact as long as no more than [`MAX_SENDERS`] sent it.
    pub fn merge(&mut self, other: &Self) {
        for (user, (first, last)) in &other.senders {
            let s = self.senders.entry(*user).or_insert((*first, *last));
            *s = (s.0.min(*first), s.1.max(*last));
        }
        self.candidates.extend(other.candidates.iter().cloned());
        self.more_candidates += other.more_candidates;
        self.last_used = self.last_used.max(other.last_used);
        self.trim();
    }

    fn trim(&mut self) {
        // Not by age: the clock of one partition may be days ahead of another's.
        while self.senders.len() > MAX_SENDERS {
            let oldest = self
                .senders
                .iter()
                .min_by_key(|(u, (_, last))| (*last, **u));
            let Some(oldest) = oldest.map(|(u, _)| *u) else {
                break;
            };
            self.senders.remove(&oldest);
        }
        while self.candidates.len() > MAX_CANDIDATES {
            self.candidates.pop_last();
            self.more_candidates += 1;
        }
    }

    /// Takes the candidates whose `end` is before `until` and judges each: a finding where one to
    /// three others sent the value in the seven days before, and the receiver did not.
    pub fn judge(
        &mut self,
        stages: &Stages,
        key: &ValueKey,
        until: Time,
        at: Time,
    ) -> Vec<Finding> {
        let mut findings = Vec::new();
        while let Some(c) = self.candidates.first().cloned() {
            if c.end >= until {
                break;
            }
            self.candidates.pop_first();
            findings.extend(self.verdict(stages, key, &c, at));
        }
        let forgotten = until.0.saturating_sub(FORGOTTEN_AFTER_MS);
        self.senders.retain(|_, (_, last)| last.0 > forgotten);
        findings
    }

    fn verdict(&self, stages: &Stages, key: &ValueKey, c: &Candidate, at: Time) -> Option<Finding> {
        let before = self.senders.iter().filter(|(_, (first, last))| {
            *first <= c.end && last.0 >= c.end.0.saturating_sub(SENT_WITHIN_MS)
        });
        let mut owners = Vec::new();
        let mut since = c.end;
        let earliest = Time(c.end.0.saturating_sub(SENT_WITHIN_MS));
        for (user, (first, _)) in before {
            if *user == c.user {
                return None;
            }
            owners.push(user.to_string());
            since = since.min((*first).max(earliest));
        }
        if !(1..=MAX_OWNERS).contains(&owners.len()) {
            return None;
        }
        let rule = "leak-cross-user";
        let subject = super::partition::user_subject(&c.user);
        let hours = c.end.since_ms(since) / 3_600_000;
        let mut what = named(&c.gateway, &c.event);
        what.extend_from_slice(&key.mac);
        Some(Finding {
            id: finding_id(DetectorId::Leak, rule, 1, &subject, &what),
            detector: DetectorId::Leak,
            rule: SmolStr::new_static(rule),
            version: 1,
            severity: Severity::Critical,
            stage: if c.shadow {
                Stage::Shadow
            } else {
                stages.cap(DetectorId::Leak, Stage::Page)
            },
            tenant: c.tenant.clone(),
            subject,
            at,
            start: c.end,
            end: c.end,
            user: Some(c.user),
            model: Some(c.model.clone()),
            gateway: Some(c.gateway.clone()),
            event: Some(c.event.clone()),
            reason: format!(
                "a value of type {} (rule {}) that {} sent within {hours} h before stands in this user's response",
                c.entity,
                c.rule,
                owners.join(" and "),
            ),
            resolve_after_ms: super::leak::RESOLVE_AFTER_MS,
        })
    }

    /// The row's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.u8(1);
        w.i64(self.last_used.0);
        w.u64(self.more_candidates);
        w.len(self.senders.len());
        for (user, (first, last)) in &self.senders {
            w.pseudonym(user);
            w.i64(first.0);
            w.i64(last.since_ms(*first));
        }
        w.len(self.candidates.len());
        for c in &self.candidates {
            w.i64(c.end.0);
            w.str(&c.event);
            w.pseudonym(&c.user);
            w.str(&c.tenant);
            w.str(&c.rule);
            w.u64(u64::from(c.version));
            w.str(&c.entity);
            w.str(&c.model);
            w.str(&c.gateway);
            w.bool(c.shadow);
        }
        w.0
    }

    /// Reads a row back.
    pub fn decode(bytes: &[u8]) -> Result<Self, Damaged> {
        let mut r = Reader::new(bytes);
        if r.u8()? != 1 {
            return Err(r.damaged());
        }
        let mut row = Self {
            last_used: Time(r.i64()?),
            more_candidates: r.u64()?,
            ..Self::default()
        };
        for _ in 0..r.len()? {
            let user = r.pseudonym()?;
            let first = Time(r.i64()?);
            let last = first.plus_ms(r.i64()?);
            row.senders.insert(user, (first, last));
        }
        for _ in 0..r.len()? {
            row.candidates.insert(Candidate {
                end: Time(r.i64()?),
                event: r.str()?,
                user: r.pseudonym()?,
                tenant: r.str()?,
                rule: r.str()?,
                version: r.small()?,
                entity: r.str()?,
                model: r.str()?,
                gateway: r.str()?,
                shadow: r.bool()?,
            });
        }
        Ok(row)
    }

    /// The earliest `end` of a candidate that still waits, so that the leader finds due rows by an
    /// index.
    pub fn earliest_candidate(&self) -> Option<Time> {
        self.candidates.first().map(|c| c.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn user(n: u8) -> Pseudonym {
        Pseudonym {
            kid: Kid::parse("k7").expect("kid"),
            mac: [n; 16],
        }
    }
    fn candidate(n: u8, end: i64) -> Candidate {
        Candidate {
            end: Time(end),
            event: SmolStr::new(format!("e{n}-{end}")),
            user: user(n),
            tenant: SmolStr::new("acme"),
            rule: SmolStr::new("pii-us-ssn"),
            version: 1,
            entity: SmolStr::new("US_SSN"),
            model: SmolStr::new("m"),
            gateway: SmolStr::new("g"),
            shadow: false,
        }
    }
    fn key() -> ValueKey {
        user(200).into()
    }

    #[test]
    fn fires_when_another_sent_it_before() {
        let mut row = ValueRow::default();
        row.sent(user(1), Time(1_000));
        row.received(candidate(2, 5_000));
        let f = row.judge(&Stages::default(), &key(), Time(60_000), Time(70_000));
        assert_eq!(f.len(), 1);
        assert_eq!(f[0].user, Some(user(2)));
        assert!(
            row.judge(&Stages::default(), &key(), Time(60_000), Time(70_000))
                .is_empty()
        );
    }

    #[test]
    fn own_later_shared_and_old_values_do_not_fire() {
        let cases: [(&str, Vec<(u8, i64)>, i64); 4] = [
            ("own", vec![(1, 0), (2, 0)], 5_000),
            ("sent later", vec![(1, 6_000)], 5_000),
            ("four owners", vec![(1, 0), (3, 0), (4, 0), (5, 0)], 5_000),
            ("too old", vec![(1, 0)], SENT_WITHIN_MS + 1),
        ];
        for (name, sent, end) in cases {
            let mut row = ValueRow::default();
            for (u, t) in sent {
                row.sent(user(u), Time(t));
            }
            row.received(candidate(2, end));
            assert!(
                row.judge(&Stages::default(), &key(), Time(end + 1), Time(end + 1))
                    .is_empty(),
                "{name}"
            );
        }
    }

    #[test]
    fn who_sent_it_long_ago_keeps_no_present_sender_out() {
        const DAY: i64 = 86_400_000;
        let mut row = ValueRow::default();
        for (u, t) in [(1, 0), (3, 60_000), (4, 120_000)] {
            row.sent(user(u), Time(t));
        }
        row.sent(user(1), Time(9 * DAY));
        for (u, t) in [(5, 10 * DAY), (2, 10 * DAY + 60_000)] {
            row.sent(user(u), Time(t));
        }
        // Its own value comes back nine minutes later.
        let end = 10 * DAY + 600_000;
        row.received(candidate(2, end));
        assert!(
            row.judge(&Stages::default(), &key(), Time(end + 1), Time(end + 1))
                .is_empty()
        );
        // Four who left leave room for a later owner, whose value then reaches another.
        row.received(candidate(7, 30 * DAY));
        row.sent(user(6), Time(30 * DAY - 1_000));
        let found = row.judge(&Stages::default(), &key(), Time(31 * DAY), Time(31 * DAY));
        assert_eq!(found.len(), 1);
        assert!(
            found[0]
                .reason
                .contains(&format!("that {} sent within 0 h", user(6))),
            "{}",
            found[0].reason
        );
    }

    #[test]
    fn a_candidate_waits_for_its_minute() {
        let mut row = ValueRow::default();
        row.sent(user(1), Time(0));
        row.received(candidate(2, 61_000));
        assert!(
            row.judge(&Stages::default(), &key(), Time(60_000), Time(70_000))
                .is_empty()
        );
        assert_eq!(row.earliest_candidate(), Some(Time(61_000)));
    }

    proptest! {
        #[test]
        fn merge_is_commutative_and_associative(
            ops in prop::collection::vec((0u8..4, 0i64..1_000, any::<bool>(), 0usize..3), 0..24),
        ) {
            // Up to four senders: within the bound everything must agree, first and last included.
            let mut parts = [ValueRow::default(), ValueRow::default(), ValueRow::default()];
            for (u, t, sent, part) in ops {
                if sent { parts[part].sent(user(u), Time(t)) } else { parts[part].received(candidate(u, t)) }
            }
            let [a, b, c] = parts;
            let mut abc = a.clone(); abc.merge(&b); abc.merge(&c);
            let mut cba = c.clone(); cba.merge(&b); cba.merge(&a);
            let mut bc = b.clone(); bc.merge(&c);
            let mut a_bc = a.clone(); a_bc.merge(&bc);
            prop_assert_eq!(&abc.senders, &cba.senders);
            prop_assert_eq!(&abc.candidates, &cba.candidates);
            prop_assert_eq!(&abc.senders, &a_bc.senders);
            prop_assert_eq!(&abc.candidates, &a_bc.candidates);
            prop_assert_eq!(ValueRow::decode(&abc.encode()), Ok(abc));
        }

        #[test]
        fn the_latest_senders_stay_and_days_apart_no_order_of_merging_matters(
            ops in prop::collection::vec((0u8..12, 0i64..480, 0usize..3), 0..60),
            at in 0i64..480,
        ) {
            const HOUR: i64 = 3_600_000;
            let mut one = ValueRow::default();
            let mut parts = [ValueRow::default(), ValueRow::default(), ValueRow::default()];
            for (u, t, part) in ops {
                one.sent(user(u), Time(t * HOUR));
                parts[part].sent(user(u), Time(t * HOUR));
            }
            parts[1].received(candidate(50, at * HOUR));
            let [a, b, c] = parts;
            let mut abc = a.clone(); abc.merge(&b); abc.merge(&c);
            let mut cba = c; cba.merge(&b); cba.merge(&a);
            let lasts = |r: &ValueRow| r.senders.iter().map(|(u, s)| (*u, s.1)).collect::<Vec<_>>();
            prop_assert_eq!(lasts(&one), lasts(&abc));
            prop_assert_eq!(lasts(&abc), lasts(&cba));
            if abc.senders.len() < MAX_SENDERS {
                let judged = |r: &mut ValueRow| {
                    r.judge(&Stages::default(), &key(), Time(481 * HOUR), Time(481 * HOUR)).len()
                };
                prop_assert_eq!(judged(&mut abc), judged(&mut cba));
            }
        }
    }

    #[test]
    fn senders_of_other_days_hide_no_leak_in_whatever_order_partitions_merge() {
        const DAY: i64 = 86_400_000;
        let mut old = ValueRow::default();
        for (u, t) in [(1, 0), (3, 1_000), (4, 2_000), (6, 3_000)] {
            old.sent(user(u), Time(t));
        }
        let mut owner = ValueRow::default();
        owner.sent(user(5), Time(DAY));
        let mut answer = ValueRow::default();
        answer.received(candidate(2, 7 * DAY + DAY / 2));
        for order in [[&old, &owner, &answer], [&answer, &owner, &old]] {
            let mut row = ValueRow::default();
            for part in order {
                row.merge(part);
            }
            let until = Time(8 * DAY);
            let found = row.judge(&Stages::default(), &key(), until, until);
            assert_eq!(found.len(), 1, "one owner within the seven days");
        }
    }
}
