-- How long days are kept is the owner's to say: `drop_partitions` runs with the owner's rights, and took any
-- day from whoever may drop. A stolen password of `run` could so erase findings and the audit chain.
-- `veilwatch db migrate --config F` (and a `run` that migrates) writes what the configuration says.

CREATE OR REPLACE FUNCTION vw.drop_partitions(parent text, before date) RETURNS SETOF text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, vw, pg_temp AS $$
DECLARE
  child text;
  keep  int;
BEGIN
  SELECT t.keep_days INTO keep FROM vw.day_table t WHERE t.name = parent;
  IF keep IS NULL THEN
    RAISE EXCEPTION 'not a table partitioned by day: %', parent;
  END IF;
  IF before IS NULL OR before > (now() AT TIME ZONE 'UTC')::date - keep THEN
    RAISE EXCEPTION '% is kept % days in this database; a shorter time is set by the owner: veilwatch db migrate --config FILE',
      parent, keep USING ERRCODE = 'insufficient_privilege';
  END IF;
  FOR child IN
    SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
     WHERE i.inhparent = format('vw.%I', parent)::regclass
       AND c.relname ~ ('^' || parent || '_\d{8}$')
       AND c.relname < vw.partition_name(parent, before)
     ORDER BY 1
  LOOP
    EXECUTE format('DROP TABLE vw.%I', child);
    RETURN NEXT child;
  END LOOP;
  EXECUTE format('DELETE FROM vw.%I WHERE day < %L', parent || '_default', before);
END $$;

-- Objects of a session's own must not stand in for ours.
ALTER FUNCTION vw.ensure_partition(text, date) SET search_path = pg_catalog, vw, pg_temp;
ALTER FUNCTION vw.missing_partitions(date, date) SET search_path = pg_catalog, vw, pg_temp;
ALTER FUNCTION vw.default_rows() SET search_path = pg_catalog, vw, pg_temp;
