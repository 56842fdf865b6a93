-- What became of missing events, by hour and gateway; and `completeness` for hours in which nothing was
-- applied: a partition that stood still, and records that were lost while it did.

CREATE TABLE vw.missing_hour (
  hour         timestamptz NOT NULL,                   -- of the merged minute
  gateway      text COLLATE "C" NOT NULL,
  -- Forged numbers may be as large as a count can be: sums must not overflow.
  late         numeric NOT NULL DEFAULT 0,
  declared     numeric NOT NULL DEFAULT 0,
  restart      numeric NOT NULL DEFAULT 0,
  unexplained  numeric NOT NULL DEFAULT 0,
  PRIMARY KEY (hour, gateway)
);

CREATE VIEW missing_events AS
SELECT hour, gateway, late, declared, restart, unexplained FROM vw.missing_hour;

CREATE OR REPLACE VIEW completeness AS
SELECT a.topic, a.part AS partition, a.hour, coalesce(h.records, 0) AS records, coalesce(h.events, 0) AS events,
       coalesce(h.duplicates, 0) AS duplicates, coalesce(h.late, 0) AS late, coalesce(h.clamped, 0) AS clamped,
       coalesce(h.dead, 0) AS dead_letters,
       coalesce((SELECT sum(greatest(g.hi - g.lo, 0)) FROM vw.stream_gap g
          WHERE g.topic = a.topic AND g.part = a.part AND g.at >= a.hour AND g.at < a.hour + interval '1 hour'), 0)::bigint AS lost_records,
       (SELECT count(*) FROM vw.partial_minute m
         WHERE m.minute >= extract(epoch FROM a.hour) / 60 AND m.minute < extract(epoch FROM a.hour) / 60 + 60
           AND a.topic || '/' || a.part = ANY (m.left_out)) AS partial_minutes,
       to_timestamp(p.watermark / 1000.0) AS applied_through, p.halted,
       CASE p.create_time WHEN true THEN 'producer' WHEN false THEN 'broker' END AS timestamps
  FROM (SELECT topic, part, hour FROM vw.stream_hour
         UNION
        SELECT topic, part, date_trunc('hour', at AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' FROM vw.stream_gap
         UNION
        SELECT q.topic, q.part, to_timestamp(m.minute / 60 * 3600.0)
          FROM vw.partial_minute m CROSS JOIN LATERAL unnest(m.left_out) AS n (name)
          JOIN vw.stream_partition q ON q.topic || '/' || q.part = n.name) a
  JOIN vw.stream_partition p ON p.topic = a.topic AND p.part = a.part
  LEFT JOIN vw.stream_hour h ON h.topic = a.topic AND h.part = a.part AND h.hour = a.hour;
