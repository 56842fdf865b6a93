-- Least privilege. Run once by a role with CREATEROLE after `veilwatch db migrate`, and again after
-- each upgrade (`veilwatch db migrate --roles` does both). The roles are groups (NOLOGIN): create
-- logins of your own and grant them what they need:
--
--   CREATE ROLE veilwatch_run LOGIN PASSWORD '…' IN ROLE veilwatch_writer, veilwatch_notify, veilwatch_retention;
--   CREATE ROLE alice         LOGIN PASSWORD '…' IN ROLE veilwatch_analyst;
--
--   veilwatch_owner      owns nothing here by itself; migrate as a member to keep DDL out of `run`
--   veilwatch_writer     what `veilwatch run` needs to apply batches: no DELETE, no TRUNCATE, no
--                        UPDATE on the audit chain and the stored events
--   veilwatch_notify     the notifier and the sinks' workers; acknowledging, silencing
--   veilwatch_retention  expiry and partitions
--   veilwatch_analyst    the views, nothing else

DO $$
DECLARE
  r text;
BEGIN
  FOREACH r IN ARRAY ARRAY['veilwatch_owner', 'veilwatch_writer', 'veilwatch_notify', 'veilwatch_retention', 'veilwatch_analyst'] LOOP
    BEGIN
      IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = r) THEN
        EXECUTE format('CREATE ROLE %I NOLOGIN', r);
      END IF;
    EXCEPTION WHEN duplicate_object OR unique_violation THEN
      NULL; -- somebody else made it at the same time
    END;
  END LOOP;
END $$;

DO $$
BEGIN
  EXECUTE format('GRANT CREATE ON DATABASE %I TO veilwatch_owner', current_database());
END $$;

GRANT USAGE ON SCHEMA vw TO veilwatch_writer, veilwatch_notify, veilwatch_retention;
GRANT SELECT ON _sqlx_migrations TO veilwatch_writer, veilwatch_notify, veilwatch_retention;
GRANT SELECT ON ALL TABLES IN SCHEMA vw TO veilwatch_writer, veilwatch_notify, veilwatch_retention;
GRANT SELECT ON incidents, findings, notifications, budgets, usage_hourly, dead_letters, completeness,
  missing_events
  TO veilwatch_writer, veilwatch_notify, veilwatch_analyst;

GRANT INSERT ON
  vw.stream_partition, vw.detector_checkpoint, vw.stream_hour, vw.stream_gap, vw.dead_letter,
  vw.audit_batch, vw.event, vw.user_state, vw.alias, vw.value, vw.value_pending, vw.minute_part,
  vw.partial_minute, vw.lease, vw.ledger, vw.budget_limit, vw.budget_raise, vw.budget_crossing,
  vw.finding, vw.incident_head, vw.incident_past, vw.incident_change, vw.action_log,
  vw.watched, vw.revived, vw.missing_hour
  TO veilwatch_writer;
GRANT UPDATE ON
  vw.stream_partition, vw.detector_checkpoint, vw.stream_hour, vw.user_state, vw.value,
  vw.value_pending, vw.minute_part, vw.partial_minute, vw.lease, vw.ledger, vw.budget_limit,
  vw.budget_raise, vw.incident_head, vw.watched, vw.missing_hour
  TO veilwatch_writer;
GRANT UPDATE (replayed_at) ON vw.dead_letter TO veilwatch_writer;

GRANT INSERT, UPDATE ON
  vw.lease, vw.incident_head, vw.incident_past, vw.incident_change, vw.notify_group, vw.fate,
  vw.outbox, vw.silence
  TO veilwatch_notify;
GRANT DELETE ON vw.notify_group TO veilwatch_notify;
GRANT INSERT ON vw.incident_note, vw.action_log TO veilwatch_notify, veilwatch_writer;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA vw TO veilwatch_writer, veilwatch_notify;

GRANT DELETE ON
  vw.value, vw.alias, vw.user_state, vw.ledger, vw.budget_crossing, vw.incident_head,
  vw.incident_past, vw.incident_change, vw.incident_note, vw.fate, vw.outbox, vw.silence,
  vw.stream_hour, vw.partial_minute, vw.budget_raise, vw.watched, vw.revived,
  vw.missing_hour
  TO veilwatch_retention;
GRANT INSERT, UPDATE ON vw.house TO veilwatch_retention;
-- Expiry locks before it deletes, so as to pass rows that a batch holds; a lock needs UPDATE on a column.
GRANT UPDATE (last_day) ON vw.value TO veilwatch_retention;
GRANT UPDATE (at) ON vw.alias TO veilwatch_retention, veilwatch_writer;
GRANT UPDATE (old_id) ON vw.alias TO veilwatch_writer;
GRANT UPDATE (at_ms) ON vw.user_state TO veilwatch_retention;
GRANT UPDATE (events) ON vw.ledger, vw.stream_hour TO veilwatch_retention;
GRANT UPDATE (late) ON vw.missing_hour TO veilwatch_retention;
GRANT UPDATE (version) ON vw.incident_head TO veilwatch_retention;
GRANT UPDATE (taken) ON vw.incident_change TO veilwatch_retention;
GRANT UPDATE (finished_at) ON vw.outbox TO veilwatch_retention;
GRANT EXECUTE ON FUNCTION vw.ensure_partition(text, date), vw.drop_partitions(text, date)
  TO veilwatch_retention;
GRANT EXECUTE ON FUNCTION vw.missing_partitions(date, date), vw.default_rows()
  TO veilwatch_retention, veilwatch_writer, veilwatch_notify, veilwatch_analyst;
