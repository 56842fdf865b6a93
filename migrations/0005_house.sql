-- What housekeeping remembers, an order of audit batches that always rises, replays of dead letters by
-- event, gaps that may begin at one place twice, and from when a limit set by hand counts.

-- Where each walk over a table that no index can expire stands, so that a new leader goes on from there.
CREATE TABLE vw.house (
  task       text PRIMARY KEY,
  cursor     text[],                                   -- last key walked over; null: at the beginning
  walked_at  timestamptz                               -- when the end was last reached
);

-- Events applied from a dead letter: each counts once, however many of its records are replayed.
CREATE TABLE vw.revived (
  event  uuid PRIMARY KEY,
  at     timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX revived_at ON vw.revived (at);
INSERT INTO vw.revived (event, at)
  SELECT (detail ->> 'event')::uuid, min(at) FROM vw.action_log
   WHERE action = 'dead-letters replay' AND detail ->> 'event' ~ '^[0-9a-f]{32}$' GROUP BY 1;

-- Offsets fall when a topic is made anew, and two rows may begin at one offset: neither orders a chain.
-- A partition's row is locked before the number is drawn, so its batches' numbers rise. Rows from before
-- have 0; they come first, by offset.
CREATE SEQUENCE vw.audit_seq;
ALTER TABLE vw.audit_batch ADD COLUMN seq bigint NOT NULL DEFAULT 0;
ALTER TABLE vw.audit_batch ALTER COLUMN seq SET DEFAULT nextval('vw.audit_seq');
ALTER TABLE vw.audit_batch DROP CONSTRAINT audit_batch_pkey;
ALTER TABLE vw.audit_batch ADD PRIMARY KEY (day, topic, part, seq, lo, claim_id);

-- A second gap at the same place (a topic made anew, a skip taken back) is a gap too.
ALTER TABLE vw.stream_gap DROP CONSTRAINT stream_gap_pkey;
ALTER TABLE vw.stream_gap ADD COLUMN id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY;
CREATE INDEX stream_gap_place ON vw.stream_gap (topic, part, lo);

-- Since when a ledger is kept for this limit; null: as long as there are events.
ALTER TABLE vw.budget_limit ADD COLUMN counts_from timestamptz;

-- Days that fell into DEFAULT. Of each table so many rows are looked at: the others are found once these
-- have moved.
CREATE OR REPLACE FUNCTION vw.default_rows() RETURNS TABLE (parent text, d date, n bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, vw AS $$
DECLARE
  t text;
BEGIN
  FOR t IN SELECT name FROM vw.day_table ORDER BY 1 LOOP
    RETURN QUERY EXECUTE format('SELECT %L::text, day, count(*) FROM (SELECT day FROM vw.%I LIMIT 100000) s GROUP BY day',
                                t, t || '_default');
  END LOOP;
END $$;

CREATE OR REPLACE VIEW budgets AS
SELECT b.id AS budget_id, vw.scope_name(b.width) AS scope, l.subject, l.period,
       l.period = vw.period_name(b.period, now()) AS current, b.unit,
       CASE b.unit WHEN 'usd' THEN b.amount / 1e12 ELSE b.amount END AS limit_amount,
       CASE b.unit WHEN 'usd' THEN f.limit_now / 1e12 ELSE f.limit_now END AS limit_in_force,
       CASE b.unit WHEN 'usd' THEN l.cost_pico / 1e12 ELSE l.tokens_input + l.tokens_output END AS used,
       round(100 * CASE b.unit WHEN 'usd' THEN l.cost_pico ELSE l.tokens_input + l.tokens_output END / f.limit_now, 2) AS used_percent,
       (SELECT max(c.threshold) FROM vw.budget_crossing c
         WHERE c.budget_id = b.id AND c.subject = l.subject AND c.period = l.period) AS highest_threshold,
       l.events, l.estimated_tokens, l.missing_events, l.unpriced_events, l.unpriced_tokens,
       b.counts_from
  FROM vw.budget_limit b
  JOIN vw.ledger l ON l.width = b.width AND vw.period_kind(l.period) = b.period
                  AND (b.subject = '*' OR b.subject = l.subject)
 CROSS JOIN LATERAL (SELECT b.amount + coalesce(sum(r.extra), 0) AS limit_now FROM vw.budget_raise r
                      WHERE r.budget_id = b.id AND r.subject IN (l.subject, '*')
                        AND r.starts_at <= now() AND r.expires_at > now()) f
 WHERE b.enabled;

-- The gap of a topic made anew goes back: how much was lost with the old one nobody knows.
CREATE OR REPLACE VIEW completeness AS
SELECT h.topic, h.part AS partition, h.hour, h.records, h.events, h.duplicates, h.late, h.clamped,
       h.dead AS dead_letters,
       coalesce((SELECT sum(greatest(g.hi - g.lo, 0)) FROM vw.stream_gap g
          WHERE g.topic = h.topic AND g.part = h.part AND g.at >= h.hour AND g.at < h.hour + interval '1 hour'), 0)::bigint AS lost_records,
       (SELECT count(*) FROM vw.partial_minute m
         WHERE m.minute >= extract(epoch FROM h.hour) / 60 AND m.minute < extract(epoch FROM h.hour) / 60 + 60
           AND h.topic || '/' || h.part = ANY (m.left_out)) AS partial_minutes,
       to_timestamp(p.watermark / 1000.0) AS applied_through, p.halted
  FROM vw.stream_hour h
  JOIN vw.stream_partition p ON p.topic = h.topic AND p.part = h.part;

-- Roles that exist already need no second `db migrate --roles` for this.
DO $$
BEGIN
  IF EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'veilwatch_writer') THEN
    GRANT SELECT, INSERT ON vw.revived TO veilwatch_writer;
    GRANT USAGE ON SEQUENCE vw.audit_seq TO veilwatch_writer;
    -- The last use of a pseudonym after a rotation is noted.
    GRANT UPDATE (at) ON vw.alias TO veilwatch_writer;
  END IF;
  IF EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'veilwatch_retention') THEN
    GRANT SELECT, INSERT, UPDATE ON vw.house TO veilwatch_retention;
    GRANT SELECT, DELETE ON vw.revived TO veilwatch_retention;
    -- Expiry locks before it deletes, so as to pass rows that a batch holds.
    GRANT UPDATE (last_day) ON vw.value TO veilwatch_retention;
    GRANT UPDATE (at) ON vw.alias TO veilwatch_retention;
    GRANT UPDATE (at_ms) ON vw.user_state TO veilwatch_retention;
    GRANT UPDATE (events) ON vw.ledger, vw.stream_hour TO veilwatch_retention;
    GRANT UPDATE (version) ON vw.incident_head TO veilwatch_retention;
    GRANT UPDATE (taken) ON vw.incident_change TO veilwatch_retention;
    GRANT UPDATE (finished_at) ON vw.outbox TO veilwatch_retention;
  END IF;
END $$;
