-- A row whose two names are one is a name that counts as nobody else's: an operator undid a wrong `prev`.
-- They are few among all names, and every process asks for them each few seconds.

CREATE INDEX alias_own ON vw.alias (new_id) WHERE old_id = new_id;

-- `veilwatch alias remove` is an operator's; the roles file grants it to new databases, this to old ones.
DO $$ BEGIN
  IF EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'veilwatch_writer') THEN
    GRANT UPDATE (old_id, at) ON vw.alias TO veilwatch_writer;
  END IF;
END $$;
