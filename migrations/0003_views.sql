-- What analysts read. The names stay (docs/SQL.md says what each column means). The views run with
-- their owner's rights: a reader needs SELECT on them and on nothing else.

CREATE FUNCTION vw.severity_name(s smallint) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT (ARRAY['informational', 'low', 'medium', 'high', 'critical'])[s + 1] $$;
CREATE FUNCTION vw.stage_name(s smallint) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT (ARRAY['shadow', 'ticket', 'page'])[s + 1] $$;
CREATE FUNCTION vw.scope_name(w smallint) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT (ARRAY['user', 'key', 'team', 'tenant', 'model', 'everyone'])[w + 1] $$;
CREATE FUNCTION vw.hex(u uuid) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT replace(u::text, '-', '') $$;

-- The kind of a period's name: 'd:2026-11-21@Europe/Berlin' -> 'd@Europe/Berlin'.
CREATE FUNCTION vw.period_kind(period text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT left(period, 1) || coalesce(substring(period FROM '@.*$'), '') $$;

-- The name of the period of a kind at a time; the same names as `account::period` writes.
CREATE FUNCTION vw.period_name(kind text, t timestamptz) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT CASE left(kind, 1)
    WHEN 'h' THEN 'h:' || to_char(l, 'YYYY-MM-DD"T"HH24')
                 || CASE WHEN off = 0 THEN '' ELSE CASE WHEN off < 0 THEN '-' ELSE '+' END
                    || to_char(abs(off) / 60, 'FM00') || to_char(abs(off) % 60, 'FM00') END || z
    WHEN 'd' THEN 'd:' || to_char(l, 'YYYY-MM-DD') || z
    WHEN 'w' THEN 'w:' || to_char(l, 'IYYY-"W"IW') || z
    WHEN 'm' THEN 'm:' || to_char(l, 'YYYY-MM') || z
    ELSE 't' END
  FROM (SELECT l, z, (extract(epoch FROM l - (t AT TIME ZONE 'UTC')) / 60)::int AS off
          FROM (SELECT t AT TIME ZONE coalesce(nullif(substring(kind FROM '@(.*)$'), ''), 'UTC') AS l,
                       coalesce(substring(kind FROM '@.*$'), '') AS z) a) b
$$;

CREATE VIEW incidents AS
SELECT vw.hex(key) AS incident_id, number, (ARRAY['open', 'acknowledged', 'resolved'])[state + 1] AS state,
       vw.severity_name(severity) AS severity, vw.stage_name(stage) AS stage, tenant, detector, rule, subject,
       user_id, model, gateway, event_id, reason, opened_at, last_end AS last_seen_at, resolved_at, findings,
       assignee, acked_at AS acknowledged_at, acked_by AS acknowledged_by, verdict, verdict_by
  FROM vw.incident_head WHERE number > 0
UNION ALL
SELECT vw.hex(key), number, (ARRAY['open', 'acknowledged', 'resolved'])[state + 1],
       vw.severity_name(severity), vw.stage_name(stage), tenant, detector, rule, subject,
       user_id, model, gateway, event_id, reason, opened_at, last_end, resolved_at, findings,
       assignee, acked_at, acked_by, verdict, verdict_by
  FROM vw.incident_past;

CREATE VIEW findings AS
SELECT day, vw.hex(id) AS finding_id, happened_at, start_at, end_at, detector, rule, version,
       vw.severity_name(severity) AS severity, vw.stage_name(stage) AS stage, fate, tenant, subject,
       user_id, model, gateway, event_id, reason, vw.hex(incident) AS incident_id,
       number AS incident_number, stored_at
  FROM vw.finding;

CREATE VIEW notifications AS
SELECT vw.hex(key) AS incident_id, number AS incident_number, sink, seq, kind,
       vw.severity_name(severity) AS severity,
       (ARRAY['pending', 'claimed', 'sent', 'parked', 'expired', 'grouped'])[state + 1] AS state,
       vw.hex(dedup_key) AS dedup_key, attempts, created_at, next_at AS next_attempt_at,
       CASE WHEN state = 2 THEN finished_at END AS sent_at, nullif(last_error, '') AS last_error,
       payload ->> 'title' AS title, payload
  FROM vw.outbox;

CREATE VIEW budgets AS
SELECT b.id AS budget_id, vw.scope_name(b.width) AS scope, l.subject, l.period,
       l.period = vw.period_name(b.period, now()) AS current, b.unit,
       CASE b.unit WHEN 'usd' THEN b.amount / 1e12 ELSE b.amount END AS limit_amount,
       CASE b.unit WHEN 'usd' THEN f.limit_now / 1e12 ELSE f.limit_now END AS limit_in_force,
       CASE b.unit WHEN 'usd' THEN l.cost_pico / 1e12 ELSE l.tokens_input + l.tokens_output END AS used,
       round(100 * CASE b.unit WHEN 'usd' THEN l.cost_pico ELSE l.tokens_input + l.tokens_output END / f.limit_now, 2) AS used_percent,
       (SELECT max(c.threshold) FROM vw.budget_crossing c
         WHERE c.budget_id = b.id AND c.subject = l.subject AND c.period = l.period) AS highest_threshold,
       l.events, l.estimated_tokens, l.missing_events, l.unpriced_events, l.unpriced_tokens
  FROM vw.budget_limit b
  JOIN vw.ledger l ON l.width = b.width AND vw.period_kind(l.period) = b.period
                  AND (b.subject = '*' OR b.subject = l.subject)
 CROSS JOIN LATERAL (SELECT b.amount + coalesce(sum(r.extra), 0) AS limit_now FROM vw.budget_raise r
                      WHERE r.budget_id = b.id AND r.subject IN (l.subject, '*')
                        AND r.starts_at <= now() AND r.expires_at > now()) f
 WHERE b.enabled;

CREATE VIEW usage_hourly AS
SELECT to_timestamp(substr(period, 3, 13), 'YYYY-MM-DD"T"HH24') AT TIME ZONE current_setting('TimeZone') AT TIME ZONE 'UTC' AS hour,
       vw.scope_name(width) AS scope, subject, events, tokens_input, tokens_output,
       tokens_input + tokens_output AS tokens, cost_pico / 1e12 AS cost_usd, cost_pico,
       estimated_tokens, missing_events, unpriced_events, unpriced_tokens
  FROM vw.ledger WHERE period LIKE 'h:%' AND length(period) = 15;

CREATE VIEW dead_letters AS
SELECT day, topic, part AS partition, off AS "offset", reason, nullif(path, '') AS field_path,
       byte_pos AS byte_position, bytes AS size_bytes, gateway, at, replayed_at
  FROM vw.dead_letter;

CREATE VIEW completeness AS
SELECT h.topic, h.part AS partition, h.hour, h.records, h.events, h.duplicates, h.late, h.clamped,
       h.dead AS dead_letters,
       coalesce((SELECT sum(g.hi - g.lo) FROM vw.stream_gap g
          WHERE g.topic = h.topic AND g.part = h.part AND g.at >= h.hour AND g.at < h.hour + interval '1 hour'), 0)::bigint AS lost_records,
       (SELECT count(*) FROM vw.partial_minute m
         WHERE m.minute >= extract(epoch FROM h.hour) / 60 AND m.minute < extract(epoch FROM h.hour) / 60 + 60
           AND h.topic || '/' || h.part = ANY (m.left_out)) AS partial_minutes,
       to_timestamp(p.watermark / 1000.0) AS applied_through, p.halted
  FROM vw.stream_hour h
  JOIN vw.stream_partition p ON p.topic = h.topic AND p.part = h.part;

REVOKE ALL ON FUNCTION vw.ensure_partition(text, date), vw.drop_partitions(text, date),
  vw.missing_partitions(date, date), vw.default_rows() FROM PUBLIC;
