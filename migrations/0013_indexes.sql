-- Indexes for what runbooks and analysts ask and for what expiry reads every minute, and a right that 0010 forgot.

-- `findings` by incident as the view names it, by event (`explain --event`), by rule.
CREATE INDEX finding_incident_id ON vw.finding (vw.hex(incident), number);
CREATE INDEX finding_event ON vw.finding (event_id) WHERE event_id IS NOT NULL;
CREATE INDEX finding_rule ON vw.finding (rule, happened_at);
CREATE INDEX stream_hour_hour ON vw.stream_hour (hour);

-- The roles file grants it to new databases, this to those that were upgraded without it.
DO $$
DECLARE
  r text;
BEGIN
  FOR r IN SELECT rolname FROM pg_roles WHERE rolname IN ('veilwatch_writer', 'veilwatch_notify', 'veilwatch_analyst') LOOP
    EXECUTE format('GRANT SELECT ON missing_events TO %I', r);
  END LOOP;
  IF EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'veilwatch_writer') THEN
    GRANT SELECT, INSERT, UPDATE ON vw.missing_hour TO veilwatch_writer;
  END IF;
  IF EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'veilwatch_retention') THEN
    GRANT SELECT, DELETE ON vw.missing_hour TO veilwatch_retention;
    GRANT UPDATE (late) ON vw.missing_hour TO veilwatch_retention;
  END IF;
END $$;
