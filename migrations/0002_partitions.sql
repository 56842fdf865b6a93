-- Day partitions: made ahead, moved out of DEFAULT, dropped by age. The functions run with the
-- owner's rights, so that the roles of the running program need no DDL.

CREATE TABLE vw.day_table (
  name       text PRIMARY KEY,
  keep_days  int NOT NULL CHECK (keep_days > 0)
);
INSERT INTO vw.day_table VALUES
  ('dead_letter', 30), ('event', 30), ('finding', 400), ('audit_batch', 400),
  ('minute_part', 3), ('value_pending', 3);

CREATE FUNCTION vw.partition_name(parent text, d date) RETURNS text
LANGUAGE sql IMMUTABLE AS $$ SELECT parent || '_' || to_char(d, 'YYYYMMDD') $$;

-- Makes the partition of one day; rows of that day that fell into DEFAULT move into it.
-- Returns whether it was missing.
CREATE FUNCTION vw.ensure_partition(parent text, d date) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, vw AS $$
DECLARE
  child text := vw.partition_name(parent, d);
BEGIN
  IF NOT EXISTS (SELECT 1 FROM vw.day_table t WHERE t.name = parent) THEN
    RAISE EXCEPTION 'not a table partitioned by day: %', parent;
  END IF;
  IF to_regclass(format('vw.%I', child)) IS NOT NULL THEN
    RETURN false;
  END IF;
  -- One maker at a time; the lock ends with the transaction.
  PERFORM pg_advisory_xact_lock(hashtext('vw.ensure_partition'));
  IF to_regclass(format('vw.%I', child)) IS NOT NULL THEN
    RETURN false;
  END IF;
  -- LIKE and ATTACH, not PARTITION OF: attaching does not lock out writers of the parent.
  EXECUTE format('CREATE TABLE vw.%I (LIKE vw.%I INCLUDING DEFAULTS INCLUDING STORAGE)', child, parent);
  EXECUTE format('WITH moved AS (DELETE FROM vw.%I WHERE day = %L RETURNING *) INSERT INTO vw.%I SELECT * FROM moved',
                 parent || '_default', d, child);
  EXECUTE format('ALTER TABLE vw.%I ATTACH PARTITION vw.%I FOR VALUES FROM (%L) TO (%L)', parent, child, d, d + 1);
  RETURN true;
END $$;

-- The partitions that are missing between two days, both included.
CREATE FUNCTION vw.missing_partitions(first date, last date)
RETURNS TABLE (parent text, d date)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, vw AS $$
  SELECT t.name, g::date
    FROM vw.day_table t, generate_series(first::timestamp, last::timestamp, interval '1 day') g
   WHERE to_regclass(format('vw.%I', vw.partition_name(t.name, g::date))) IS NULL
   ORDER BY 2, 1
$$;

-- Drops the partitions of days before `before`; DEFAULT rows that old go too. Returns their names.
CREATE FUNCTION vw.drop_partitions(parent text, before date) RETURNS SETOF text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, vw AS $$
DECLARE
  child text;
BEGIN
  IF NOT EXISTS (SELECT 1 FROM vw.day_table t WHERE t.name = parent) THEN
    RAISE EXCEPTION 'not a table partitioned by day: %', parent;
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

-- Days that fell into DEFAULT: 0 rows in a healthy database.
CREATE FUNCTION vw.default_rows() RETURNS TABLE (parent text, d date, n bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, vw AS $$
DECLARE
  t text;
BEGIN
  FOR t IN SELECT name FROM vw.day_table ORDER BY 1 LOOP
    RETURN QUERY EXECUTE format('SELECT %L::text, day, count(*) FROM vw.%I GROUP BY day', t, t || '_default');
  END LOOP;
END $$;

DO $$
DECLARE
  t text;
BEGIN
  FOR t IN SELECT name FROM vw.day_table LOOP
    EXECUTE format('CREATE TABLE vw.%I PARTITION OF vw.%I DEFAULT', t || '_default', t);
    FOR i IN -2..8 LOOP
      PERFORM vw.ensure_partition(t, (now() AT TIME ZONE 'UTC')::date + i);
    END LOOP;
  END LOOP;
END $$;
