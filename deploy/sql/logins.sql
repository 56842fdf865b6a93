-- The login that the monitor of deploy/compose.yaml runs as: no superuser, owner of nothing, in the groups of
-- roles.sql that `veilwatch run` needs. The database's image runs this once, when its volume is empty; what the
-- groups may do is said by `veilwatch db migrate --roles`, which follows.
\set password `cat /run/secrets/run`

DO $$
DECLARE
  r text;
BEGIN
  FOREACH r IN ARRAY ARRAY['veilwatch_writer', 'veilwatch_notify', 'veilwatch_retention'] LOOP
    IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = r) THEN
      EXECUTE format('CREATE ROLE %I NOLOGIN', r);
    END IF;
  END LOOP;
END $$;

CREATE ROLE veilwatch_run LOGIN PASSWORD :'password'
  IN ROLE veilwatch_writer, veilwatch_notify, veilwatch_retention;
