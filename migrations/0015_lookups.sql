-- Look-ups by a whole key have one index. While a table has no statistics (a new database, its first minutes) the
-- planner takes the smallest index that fits at all, and keeps to it: with one that fits by half, every row that
-- it finds is read for every row that is looked for.

-- 0014's, with the subject in it.
DROP INDEX vw.ledger_period;
CREATE INDEX ledger_period ON vw.ledger (width, period, subject);

-- Who asks for what waits at a sink says `finished_at IS NULL`; who asks for an incident's rows does not.
UPDATE vw.outbox SET finished_at = CASE WHEN state > 1 THEN coalesce(finished_at, now()) END
 WHERE (finished_at IS NULL) <> (state < 2);
ALTER TABLE vw.outbox ADD CONSTRAINT outbox_finishes CHECK ((finished_at IS NULL) = (state < 2));
DROP INDEX vw.outbox_due;
CREATE INDEX outbox_due ON vw.outbox (sink, severity DESC, next_at) WHERE finished_at IS NULL;
