-- Whose clock a partition's timestamps are: the broker's (LogAppendTime) or the producers' (CreateTime),
-- which makes lateness and the closing of minutes a guess.

ALTER TABLE vw.stream_partition ADD COLUMN create_time boolean;   -- null: no record seen yet

CREATE OR REPLACE VIEW completeness AS
SELECT h.topic, h.part AS partition, h.hour, h.records, h.events, h.duplicates, h.late, h.clamped,
       h.dead AS dead_letters,
       coalesce((SELECT sum(greatest(g.hi - g.lo, 0)) FROM vw.stream_gap g
          WHERE g.topic = h.topic AND g.part = h.part AND g.at >= h.hour AND g.at < h.hour + interval '1 hour'), 0)::bigint AS lost_records,
       (SELECT count(*) FROM vw.partial_minute m
         WHERE m.minute >= extract(epoch FROM h.hour) / 60 AND m.minute < extract(epoch FROM h.hour) / 60 + 60
           AND h.topic || '/' || h.part = ANY (m.left_out)) AS partial_minutes,
       to_timestamp(p.watermark / 1000.0) AS applied_through, p.halted,
       CASE p.create_time WHEN true THEN 'producer' WHEN false THEN 'broker' END AS timestamps
  FROM vw.stream_hour h
  JOIN vw.stream_partition p ON p.topic = h.topic AND p.part = h.part;
