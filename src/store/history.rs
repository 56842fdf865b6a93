//! Reading incidents back: lists, and the whole story of one.

use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::{Store, StoreError, time, uuid};
use crate::event::{Hash16, Time};

/// Findings shown in a story, latest first: the rest stands in the view `findings`.
const STORY_FINDINGS: i64 = 50;

/// What to list.
#[derive(Debug, Clone, Default)]
pub struct IncidentFilter {
    /// Only in this state.
    pub state: Option<String>,
    /// Resolved ones too, where no state is given.
    pub resolved_too: bool,
    /// Only of this detector.
    pub detector: Option<String>,
    /// Only of this tenant.
    pub tenant: Option<String>,
    /// Only of this user.
    pub user: Option<String>,
    /// Only opened at or after.
    pub since: Option<Time>,
    /// At most so many.
    pub limit: i64,
}

/// An incident as it stands.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct IncidentRow {
    /// The incident's id (key), 32 hex.
    pub incident: String,
    /// Its number.
    pub number: i32,
    /// `open`, `acknowledged`, `resolved`.
    pub state: String,
    /// How bad.
    pub severity: String,
    /// `ticket` or `page`.
    pub stage: String,
    /// Tenant, may be empty.
    pub tenant: String,
    /// Who saw it.
    pub detector: String,
    /// By which rule.
    pub rule: String,
    /// About what.
    pub subject: String,
    /// User.
    pub user: Option<String>,
    /// Model.
    pub model: Option<String>,
    /// Gateway.
    pub gateway: Option<String>,
    /// Event.
    pub event: Option<String>,
    /// In one sentence.
    pub reason: String,
    /// RFC 3339.
    pub opened_at: String,
    /// RFC 3339.
    pub last_seen_at: String,
    /// RFC 3339.
    pub resolved_at: Option<String>,
    /// How many findings.
    pub findings: i64,
    /// Whose it is.
    pub assignee: Option<String>,
    /// An analyst's judgement.
    pub verdict: Option<String>,
}

/// One entry of a timeline.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct TimelineEntry {
    /// RFC 3339.
    pub at: String,
    /// `opened`, `escalated`, `note`, `sent`, …
    pub what: String,
    /// A person, a sink, or empty.
    pub by: String,
    /// Reason or remark.
    pub text: String,
}

/// A finding of an incident.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct FindingRow {
    /// 32 hex.
    pub finding: String,
    /// RFC 3339.
    pub end_at: String,
    /// `new` or `folded`.
    pub fate: String,
    /// How bad.
    pub severity: String,
    /// In one sentence.
    pub reason: String,
    /// Event.
    pub event: Option<String>,
}

/// Everything about one incident.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Story {
    /// As it stands.
    pub incident: IncidentRow,
    /// What happened, in order.
    pub timeline: Vec<TimelineEntry>,
    /// Its latest findings, latest first.
    pub findings: Vec<FindingRow>,
}

const COLUMNS: &str = "incident_id, number, state, severity, stage, tenant, detector, rule, subject, user_id, model, gateway,
  event_id, reason, opened_at, last_seen_at, resolved_at, findings, assignee, verdict";

type Stamp = chrono::DateTime<chrono::Utc>;

fn row(r: &PgRow) -> IncidentRow {
    let at = |i: usize| time(r.get::<Stamp, _>(i)).to_string();
    IncidentRow {
        incident: r.get(0),
        number: r.get(1),
        state: r.get(2),
        severity: r.get(3),
        stage: r.get(4),
        tenant: r.get(5),
        detector: r.get(6),
        rule: r.get(7),
        subject: r.get(8),
        user: r.get(9),
        model: r.get(10),
        gateway: r.get(11),
        event: r.get(12),
        reason: r.get(13),
        opened_at: at(14),
        last_seen_at: at(15),
        resolved_at: r.get::<Option<Stamp>, _>(16).map(|t| time(t).to_string()),
        findings: r.get(17),
        assignee: r.get(18),
        verdict: r.get(19),
    }
}

impl Store {
    /// Lists incidents: open before acknowledged before resolved, worst first, newest first.
    pub async fn incidents(&self, f: &IncidentFilter) -> Result<Vec<IncidentRow>, StoreError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM incidents
              WHERE (state = $1 OR ($1::text IS NULL AND ($2 OR state <> 'resolved')))
                AND ($3::text IS NULL OR detector = $3) AND ($4::text IS NULL OR tenant = $4)
                AND ($5::text IS NULL OR user_id = $5) AND ($6::timestamptz IS NULL OR opened_at >= $6)
              ORDER BY array_position(ARRAY['open', 'acknowledged', 'resolved'], state),
                       array_position(ARRAY['critical', 'high', 'medium', 'low', 'informational'], severity),
                       last_seen_at DESC, incident_id, number
              LIMIT $7"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(&f.state)
            .bind(f.resolved_too)
            .bind(&f.detector)
            .bind(&f.tenant)
            .bind(&f.user)
            .bind(f.since.map(super::stamp))
            .bind(f.limit)
            .fetch_all(self.pool())
            .await
            .map_err(StoreError::statement("could not list incidents"))?;
        Ok(rows.iter().map(row).collect())
    }

    /// The key of an incident from its first hexadecimal digits.
    pub async fn find_incident(&self, prefix: &str) -> Result<Hash16, StoreError> {
        let bad =
            !(4..=32).contains(&prefix.len()) || !prefix.bytes().all(|b| b.is_ascii_hexdigit());
        if bad {
            return Err(StoreError::Refusal(
                "an incident's id is 32 hexadecimal digits, or at least the first 4 of them"
                    .to_owned(),
            ));
        }
        let prefix = prefix.to_ascii_lowercase();
        let (low, high) = (format!("{prefix:0<32}"), format!("{prefix:f<32}"));
        let key = |s: &str| s.parse::<Hash16>().map(uuid).unwrap_or_default();
        let rows = sqlx::query(
            "SELECT key FROM vw.incident_head WHERE number > 0 AND key BETWEEN $1 AND $2 ORDER BY key LIMIT 2",
        )
        .bind(key(&low))
        .bind(key(&high))
        .fetch_all(self.pool())
        .await
        .map_err(StoreError::statement("could not look an incident up"))?;
        match rows.as_slice() {
            [] => Err(StoreError::Refusal(format!(
                "there is no incident {prefix}"
            ))),
            [one] => Ok(super::hash16(one.get(0))),
            _ => Err(StoreError::Refusal(format!(
                "several incidents begin with {prefix}: give more digits"
            ))),
        }
    }

    /// The whole story of one incident number; `None`: there is no such number.
    pub async fn incident_story(
        &self,
        key: Hash16,
        number: Option<i32>,
    ) -> Result<Option<Story>, StoreError> {
        let what = "could not read an incident";
        let sql = format!(
            "SELECT {COLUMNS} FROM incidents WHERE incident_id = $1 AND ($2::int IS NULL OR number = $2) ORDER BY number DESC LIMIT 1"
        );
        let found = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(key.to_string())
            .bind(number)
            .fetch_optional(self.pool())
            .await
            .map_err(StoreError::statement(what))?;
        let Some(incident) = found.as_ref().map(row) else {
            return Ok(None);
        };
        let timeline = sqlx::query(
            "SELECT at, kind, author, reason FROM vw.incident_change WHERE key = $1 AND number = $2
             UNION ALL SELECT at, kind, author, body FROM vw.incident_note
              WHERE key = $1 AND number = $2 AND kind NOT IN ('acknowledge', 'resolve')
             UNION ALL SELECT finished_at, 'sent ' || kind, sink, payload ->> 'title' FROM vw.outbox
              WHERE key = $1 AND number = $2 AND state = 2
              ORDER BY 1",
        )
        .bind(uuid(key))
        .bind(incident.number)
        .fetch_all(self.pool())
        .await
        .map_err(StoreError::statement(what))?
        .iter()
        .map(|r| TimelineEntry {
            at: time(r.get::<Stamp, _>(0)).to_string(),
            what: r.get(1),
            by: r.get(2),
            text: r.get::<Option<String>, _>(3).unwrap_or_default(),
        })
        .collect();
        let findings = sqlx::query(
            "SELECT vw.hex(id), end_at, fate, vw.severity_name(severity), reason, event_id FROM vw.finding
              WHERE incident = $1 AND number = $2 ORDER BY end_at DESC, id LIMIT $3",
        )
        .bind(uuid(key))
        .bind(incident.number)
        .bind(STORY_FINDINGS)
        .fetch_all(self.pool())
        .await
        .map_err(StoreError::statement(what))?
        .iter()
        .map(|r| FindingRow {
            finding: r.get(0),
            end_at: time(r.get::<Stamp, _>(1)).to_string(),
            fate: r.get(2),
            severity: r.get(3),
            reason: r.get(4),
            event: r.get(5),
        })
        .collect();
        Ok(Some(Story {
            incident,
            timeline,
            findings,
        }))
    }
}
