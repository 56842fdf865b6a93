//! A bound on the incidents that records may open in an hour. Home: partition.
//!
//! Subjects, rules, gateways and tenants are names out of records. Who may publish may invent any number of
//! them, and each would be an incident: a row, a group of the notifier, a page. Within one hour of append
//! time the findings of one gateway by one rule are about at most [`OWN`] subjects of this partition, all
//! findings of the partition about at most [`ALL`]. What comes after that is about the gateway: one incident
//! that counts them all, while every finding keeps its user and its event. It depends on nothing but the
//! records of the partition, so a replay folds the same.

use std::collections::{BTreeMap, BTreeSet};

use super::Finding;
use super::wire::{Damaged, Reader, Writer};
use crate::event::{Hash16, SmolStr, Time, hash16};

/// Subjects of their own in an hour, by gateway and rule. An attack by this many people at once is one
/// problem; sixteen partitions have as many each.
const OWN: u32 = 1_024;
/// Subjects of their own in an hour, by whatever gateway and rule.
const ALL: usize = 4_096;
/// Gateways and rules that are told of beside them; beyond it they share one incident a detector.
const TOLD: usize = 256;
/// Rule of what has no room even by its gateway and rule.
const CROWDED: &str = "crowded";
const HOUR_MS: i64 = 3_600_000;

/// Who has an incident of their own in this hour.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Flood {
    hour: i64,
    /// Hashes of incident keys.
    subjects: BTreeSet<u64>,
    /// How many of them by hash of gateway and rule.
    own: BTreeMap<u64, u32>,
    /// Hashes of the keys of incidents that count the rest.
    told: BTreeSet<u64>,
}

fn short(hash: Hash16) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = hash.0;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

impl Flood {
    /// Leaves the finding about its subject, or makes it one about its gateway. Whether it did that.
    pub(super) fn place(&mut self, f: &mut Finding, gateway: &SmolStr, append: Time) -> bool {
        let hour = append.0.div_euclid(HOUR_MS);
        if hour != self.hour {
            *self = Self {
                hour,
                ..Self::default()
            };
        }
        let key = short(f.key());
        if self.subjects.contains(&key) {
            return false;
        }
        let pair = short(hash16("flood", &[gateway.as_bytes(), f.rule.as_bytes()]));
        let own = self.own.get(&pair).copied().unwrap_or_default();
        if own < OWN && self.subjects.len() < ALL {
            self.subjects.insert(key);
            self.own.insert(pair, own + 1);
            return false;
        }
        f.tenant = SmolStr::default();
        f.subject = smol_str::format_smolstr!("gateway:{gateway}");
        let mut told = short(f.key());
        if !self.told.contains(&told) && self.told.len() >= TOLD {
            f.rule = SmolStr::new_static(CROWDED);
            f.subject = SmolStr::new_static("gateway:(many)");
            told = short(f.key());
        }
        self.told.insert(told);
        f.reason = format!(
            "one of more subjects than are told of in an hour: {}",
            f.reason
        );
        true
    }

    pub(super) fn encode(&self, w: &mut Writer) {
        w.i64(self.hour);
        w.len(self.subjects.len());
        for key in &self.subjects {
            w.u64(*key);
        }
        w.len(self.own.len());
        for (pair, n) in &self.own {
            w.u64(*pair);
            w.u64(u64::from(*n));
        }
        w.len(self.told.len());
        for key in &self.told {
            w.u64(*key);
        }
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, Damaged> {
        let mut f = Self {
            hour: r.i64()?,
            ..Self::default()
        };
        for _ in 0..r.len()? {
            f.subjects.insert(r.u64()?);
        }
        for _ in 0..r.len()? {
            let pair = r.u64()?;
            let n = u32::try_from(r.u64()?).map_err(|_| r.damaged())?;
            f.own.insert(pair, n);
        }
        for _ in 0..r.len()? {
            f.told.insert(r.u64()?);
        }
        Ok(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::{DetectorId, finding_id};
    use crate::event::{Severity, Stage};

    fn finding(rule: &str, tenant: &str, subject: &str) -> Finding {
        Finding {
            id: finding_id(DetectorId::Leak, rule, 1, subject, b"e"),
            detector: DetectorId::Leak,
            rule: rule.into(),
            version: 1,
            severity: Severity::High,
            stage: Stage::Page,
            tenant: tenant.into(),
            subject: subject.into(),
            at: Time(0),
            start: Time(0),
            end: Time(0),
            user: None,
            model: None,
            gateway: None,
            event: None,
            reason: "a leak".to_owned(),
            resolve_after_ms: 1,
        }
    }

    /// The incident keys of so many invented names.
    fn keys(flood: &mut Flood, n: usize, name: impl Fn(usize) -> (SmolStr, Finding)) -> usize {
        let mut keys = BTreeSet::new();
        for i in 0..n {
            let (gateway, mut f) = name(i);
            flood.place(&mut f, &gateway, Time(0));
            keys.insert(f.key());
        }
        keys.len()
    }

    #[test]
    fn invented_users_of_one_gateway_are_one_incident_more_and_hide_nobody_elses() {
        let mut flood = Flood::default();
        let user = |i: usize| ("gw-a".into(), finding("pii-x", "t", &format!("user:{i}")));
        assert_eq!(keys(&mut flood, 10_000, user), 1_025);
        // Who was there before stays so; another gateway and another rule have room.
        for (gateway, rule, subject, own) in [
            ("gw-a", "pii-x", "user:7", true),
            ("gw-a", "pii-x", "user:9999", false),
            ("gw-b", "pii-x", "user:9999", true),
            ("gw-a", "pii-y", "user:9998", true),
        ] {
            let mut f = finding(rule, "t", subject);
            assert_eq!(!flood.place(&mut f, &gateway.into(), Time(0)), own);
            assert_eq!(f.subject == subject, own, "{gateway} {rule}");
            assert!(f.reason.ends_with("a leak"));
        }
        // The next hour begins anew.
        let mut f = finding("pii-x", "t", "user:9999");
        assert!(!flood.place(&mut f, &"gw-a".into(), Time(HOUR_MS)));
    }

    #[test]
    fn no_choice_of_names_opens_more_than_the_bound() {
        let all = ALL + TOLD + 1;
        let names: [fn(usize) -> (SmolStr, Finding); 3] = [
            |i| (format!("gw-{i}").into(), finding("pii-x", "t", "user:1")),
            |i| ("gw".into(), finding(&format!("pii-{i}"), "t", "user:1")),
            |i| {
                (
                    format!("gw-{i}").into(),
                    finding(&format!("pii-{i}"), &format!("t{i}"), &format!("user:{i}")),
                )
            },
        ];
        for name in names {
            let n = keys(&mut Flood::default(), 20_000, name);
            assert!(n <= all, "{n} incidents");
        }
    }

    #[test]
    fn a_restart_goes_on_where_it_was() {
        let mut flood = Flood::default();
        let user = |i: usize| ("gw".into(), finding("pii-x", "t", &format!("user:{i}")));
        keys(&mut flood, 1_500, user);
        let mut w = Writer::default();
        flood.encode(&mut w);
        assert_eq!(Flood::decode(&mut Reader::new(&w.0)), Ok(flood));
    }
}
