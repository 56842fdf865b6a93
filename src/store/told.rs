//! Why an incident stands there and who was told: what `explain` reads beside the story.

use sqlx::Row as _;

use super::{Store, StoreError, time, uuid};
use crate::event::Hash16;

type Stamp = chrono::DateTime<chrono::Utc>;

/// Events shown, newest first.
const EVENTS: i64 = 5;
/// Fates shown, newest first: an incident that lasts for weeks has one a repeat and sink.
const FATES: i64 = 200;

/// Findings of one rule in an incident.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct RuleCount {
    /// Detector.
    pub detector: String,
    /// Rule.
    pub rule: String,
    /// Version of the rule.
    pub version: i32,
    /// Findings.
    pub findings: i64,
    /// Different users in them.
    pub users: i64,
    /// Different events in them.
    pub events: i64,
    /// RFC 3339.
    pub first_at: String,
    /// RFC 3339.
    pub last_at: String,
    /// The worst of them.
    pub severity: String,
}

/// A stored event: sealed, so it has no text.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct StoredEvent {
    /// Its id.
    pub event: String,
    /// Where it stands in Kafka: `topic/partition@offset`.
    pub record: String,
    /// RFC 3339.
    pub end_at: String,
    /// Gateway.
    pub gateway: String,
    /// User.
    pub user: Option<String>,
    /// Tenant.
    pub tenant: Option<String>,
    /// Model.
    pub model: String,
    /// As event.v1 says.
    pub sealed: serde_json::Value,
}

/// What became of one change towards one sink.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Told {
    /// RFC 3339.
    pub at: String,
    /// `firing`, `repeat`, `escalated`, `resolved`, …
    pub change: String,
    /// Sink, or the route's name where it has none.
    pub sink: String,
    /// `queued`, `grouped`, `silenced`, …
    pub fate: String,
    /// The silence's id, the inhibiting rule, the lead's key.
    pub detail: String,
}

/// A message of an incident on its way.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Sent {
    /// RFC 3339.
    pub at: String,
    /// What it says.
    pub kind: String,
    /// To whom.
    pub sink: String,
    /// `pending`, `claimed`, `sent`, `parked`, `expired`, `grouped`.
    pub state: String,
    /// Attempts so far.
    pub attempts: i32,
    /// RFC 3339.
    pub sent_at: Option<String>,
    /// Why it was not.
    pub last_error: Option<String>,
}

/// The evidence and the ways of one incident.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Grounds {
    /// By rule, the most findings first.
    pub rules: Vec<RuleCount>,
    /// The newest stored events of its findings.
    pub stored_events: Vec<StoredEvent>,
    /// Every decision about telling somebody.
    pub told: Vec<Told>,
    /// The messages.
    pub messages: Vec<Sent>,
}

fn at(r: &sqlx::postgres::PgRow, i: usize) -> String {
    time(r.get::<Stamp, _>(i)).to_string()
}

fn stored_event(r: &sqlx::postgres::PgRow) -> StoredEvent {
    StoredEvent {
        event: r.get(0),
        record: r.get(1),
        end_at: at(r, 2),
        gateway: r.get(3),
        user: r.get(4),
        tenant: r.get(5),
        model: r.get(6),
        sealed: r.get(7),
    }
}

const EVENT: &str = "e.id, e.topic || '/' || e.part || '@' || e.off, e.end_at, e.gateway, e.user_id, e.tenant, e.model, e.sealed";

impl Store {
    /// On what an incident's number rests, and who was told of it.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn incident_grounds(&self, key: Hash16, number: i32) -> Result<Grounds, StoreError> {
        let failed = || StoreError::statement("could not read what an incident rests on");
        let rules = sqlx::query(
            "SELECT detector, rule, version, count(*), count(DISTINCT user_id), count(DISTINCT event_id),
                    min(start_at), max(end_at), vw.severity_name(max(severity))
               FROM vw.finding WHERE incident = $1 AND number = $2
              GROUP BY 1, 2, 3 ORDER BY 4 DESC, 1, 2, 3",
        )
        .bind(uuid(key))
        .bind(number)
        .fetch_all(self.pool())
        .await
        .map_err(failed())?
        .iter()
        .map(|r| RuleCount {
            detector: r.get(0),
            rule: r.get(1),
            version: r.get(2),
            findings: r.get(3),
            users: r.get(4),
            events: r.get(5),
            first_at: at(r, 6),
            last_at: at(r, 7),
            severity: r.get(8),
        })
        .collect();
        let sql = format!(
            "SELECT DISTINCT ON (e.end_at, e.id) {EVENT} FROM vw.event e
               JOIN (SELECT DISTINCT event_id, user_id FROM vw.finding
                      WHERE incident = $1 AND number = $2 AND event_id IS NOT NULL) f
                 ON e.id = f.event_id AND e.user_id IS NOT DISTINCT FROM f.user_id
              ORDER BY e.end_at DESC, e.id LIMIT $3"
        );
        let stored_events = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(uuid(key))
            .bind(number)
            .bind(EVENTS)
            .fetch_all(self.pool())
            .await
            .map_err(failed())?
            .iter()
            .map(stored_event)
            .collect();
        let told = sqlx::query(
            "SELECT at, kind, sink, fate, detail FROM (
               SELECT id, at, kind, sink, fate, detail FROM vw.fate
                WHERE key = $1 AND number = $2 ORDER BY id DESC LIMIT $3) f ORDER BY id",
        )
        .bind(uuid(key))
        .bind(number)
        .bind(FATES)
        .fetch_all(self.pool())
        .await
        .map_err(failed())?
        .iter()
        .map(|r| Told {
            at: at(r, 0),
            change: r.get(1),
            sink: r.get(2),
            fate: r.get(3),
            detail: r.get(4),
        })
        .collect();
        let messages = sqlx::query(
            "SELECT created_at, kind, sink, state, attempts, sent_at, last_error FROM (
               SELECT created_at, kind, sink, state, attempts, sent_at, last_error, seq FROM notifications
                WHERE incident_id = $1 AND incident_number = $2 ORDER BY created_at DESC, sink, seq DESC LIMIT $3) n
              ORDER BY created_at, sink, seq",
        )
        .bind(key.to_string())
        .bind(number)
        .bind(FATES)
        .fetch_all(self.pool())
        .await
        .map_err(failed())?
        .iter()
        .map(|r| Sent {
            at: at(r, 0),
            kind: r.get(1),
            sink: r.get(2),
            state: r.get(3),
            attempts: r.get(4),
            sent_at: r.get::<Option<Stamp>, _>(5).map(|t| time(t).to_string()),
            last_error: r.get(6),
        })
        .collect();
        Ok(Grounds {
            rules,
            stored_events,
            told,
            messages,
        })
    }

    /// The stored events of an id, newest first: gateways may use an id twice.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn stored_events(&self, id: &str) -> Result<Vec<StoredEvent>, StoreError> {
        let sql = format!(
            "SELECT {EVENT} FROM vw.event e WHERE e.id = $1 ORDER BY e.end_at DESC, e.topic, e.part, e.off LIMIT $2"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(id)
            .bind(EVENTS)
            .fetch_all(self.pool())
            .await
            .map_err(StoreError::statement("could not read a stored event"))?;
        Ok(rows.iter().map(stored_event).collect())
    }

    /// The incidents that findings of an event belong to, and what the findings say: incident, number,
    /// detector, rule, stage, fate, reason.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn findings_of_event(&self, id: &str) -> Result<Vec<EventFinding>, StoreError> {
        let rows = sqlx::query(
            "SELECT incident_id, incident_number, detector, rule, severity, stage, fate, reason, end_at
               FROM findings WHERE event_id = $1 ORDER BY end_at DESC, detector, rule LIMIT $2",
        )
        .bind(id)
        .bind(FATES)
        .fetch_all(self.pool())
        .await
        .map_err(StoreError::statement("could not read an event's findings"))?;
        Ok(rows
            .iter()
            .map(|r| EventFinding {
                incident: r.get(0),
                number: r.get(1),
                detector: r.get(2),
                rule: r.get(3),
                severity: r.get(4),
                stage: r.get(5),
                fate: r.get(6),
                reason: r.get(7),
                end_at: at(r, 8),
            })
            .collect())
    }
}

/// A finding of one event.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct EventFinding {
    /// The incident, where it has one: shadow findings have none.
    pub incident: Option<String>,
    /// Its number.
    pub number: Option<i32>,
    /// Detector.
    pub detector: String,
    /// Rule.
    pub rule: String,
    /// How bad.
    pub severity: String,
    /// `shadow`, `ticket` or `page`.
    pub stage: String,
    /// `new`, `folded`, `shadow` or `excepted`.
    pub fate: String,
    /// In one sentence.
    pub reason: String,
    /// RFC 3339.
    pub end_at: String,
}
