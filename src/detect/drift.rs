//! A model version that was not there before. Home: merged minute.

use std::collections::{BTreeMap, BTreeSet};

use super::part::MinutePart;
use super::wire::{Damaged, Reader, Writer};
use super::{DetectConfig, DetectorId, Finding, finding_id, room};
use crate::event::{Severity, SmolStr, Stage, Time};

/// Models whose versions are remembered; beyond it the earliest seen is forgotten.
const MAX_MODELS: usize = 4_096;
/// Versions remembered per model. A model with more of them at work has no news to tell.
const MAX_VERSIONS: usize = 64;
/// A version that was not seen for this long is forgotten: 30 days.
const KEEP_MINUTES: i64 = 30 * 24 * 60;
/// A first sight is over after this long, milliseconds.
const RESOLVE_AFTER_MS: i64 = 3_600_000;

/// Versions by the model asked for, each with the minute of its last sight.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drift(BTreeMap<SmolStr, (i64, BTreeMap<SmolStr, i64>)>);

impl Drift {
    pub(super) fn minute(
        &mut self,
        config: &DetectConfig,
        part: &MinutePart,
        at: Time,
        fire: bool,
        out: &mut Vec<Finding>,
    ) {
        let asked: BTreeSet<&SmolStr> =
            part.served.keys().map(|(requested, _)| requested).collect();
        let new = asked.iter().filter(|r| !self.0.contains_key(**r)).count();
        room::make(&mut self.0, new, MAX_MODELS, |r| asked.contains(r), |v| v.0);
        for ((requested, served), seen) in &part.served {
            if self.0.len() >= MAX_MODELS && !self.0.contains_key(requested) {
                continue;
            }
            let (born, versions) = self
                .0
                .entry(requested.clone())
                .or_insert_with(|| (part.minute, BTreeMap::new()));
            let learning = part.minute - *born < config.drift.learn_minutes;
            if let Some(last) = versions.get_mut(served) {
                *last = part.minute;
                continue;
            }
            versions.retain(|_, last| part.minute - *last < KEEP_MINUTES);
            // A router that answers with more versions than are kept: each is new again and again.
            let full = versions.len() >= MAX_VERSIONS;
            if full {
                let oldest = versions
                    .iter()
                    .min_by_key(|(name, m)| (**m, (*name).clone()));
                if let Some(name) = oldest.map(|(name, _)| name.clone()) {
                    versions.remove(&name);
                }
            }
            let others = versions.len();
            versions.insert(served.clone(), part.minute);
            if learning || !fire || full {
                continue;
            }
            let rule = "drift-new-version";
            let subject = smol_str::format_smolstr!("model:{served}");
            out.push(Finding {
                id: finding_id(
                    DetectorId::Drift,
                    rule,
                    1,
                    &subject,
                    &[&part.minute.to_le_bytes(), requested.as_bytes()].concat(),
                ),
                detector: DetectorId::Drift,
                rule: SmolStr::new_static(rule),
                version: 1,
                severity: Severity::Low,
                stage: config.stage(DetectorId::Drift, Stage::Ticket),
                tenant: SmolStr::default(),
                subject,
                at,
                start: seen.first.0,
                end: Time::from_minute(part.minute + 1),
                user: None,
                model: Some(served.clone()),
                gateway: None,
                event: Some(seen.first.1.clone()),
                reason: format!(
                    "first answer of version {served} for model {requested}, which {others} other version{} answered before; {} in this minute",
                    if others == 1 { "" } else { "s" },
                    seen.events
                ),
                resolve_after_ms: RESOLVE_AFTER_MS,
            });
        }
    }

    pub(super) fn encode(&self, w: &mut Writer) {
        w.len(self.0.len());
        for (model, (born, versions)) in &self.0 {
            w.str(model);
            w.i64(*born);
            w.len(versions.len());
            for (version, minute) in versions {
                w.str(version);
                w.i64(*minute);
            }
        }
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, Damaged> {
        let mut d = Self::default();
        for _ in 0..r.len()? {
            let model = r.str()?;
            let born = r.i64()?;
            let mut versions = BTreeMap::new();
            for _ in 0..r.len()? {
                let version = r.str()?;
                versions.insert(version, r.i64()?);
            }
            d.0.insert(model, (born, versions));
        }
        Ok(d)
    }
}
