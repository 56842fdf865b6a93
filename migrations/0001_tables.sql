-- The tables of Veilwatch. They live in the schema `vw`; what analysts read are the views of 0003.
--
-- Conventions: text keys are COLLATE "C", so that Postgres sorts (and therefore locks) in the byte
-- order in which the program sorts. Times of the stream are bigint milliseconds since 1970; times
-- that people read are timestamptz. Ids of 16 bytes are uuid. No index stands on a column that
-- batches change, so that updates stay HOT. Tables that only grow are partitioned by day.

CREATE SCHEMA IF NOT EXISTS vw;

-- ---------------------------------------------------------------- the stream

-- One row per partition: the linearisation point of everything (docs/ARCHITECTURE.md).
CREATE TABLE vw.stream_partition (
  topic        text COLLATE "C" NOT NULL,
  part         int              NOT NULL,
  next_offset  bigint           NOT NULL,              -- first offset not yet applied
  claim_id     uuid             NOT NULL,              -- the fence: random, new on every claim
  epoch        bigint           NOT NULL DEFAULT 1,    -- for people and metrics; never the fence
  owner        text             NOT NULL DEFAULT '',
  claimed_at   timestamptz      NOT NULL DEFAULT now(),
  watermark    bigint           NOT NULL DEFAULT 0,    -- append time of the last applied record, ms
  applied_at   timestamptz      NOT NULL DEFAULT now(),
  last_ts_ms   bigint           NOT NULL DEFAULT 0,    -- fingerprint of record next_offset - 1
  last_crc     int              NOT NULL DEFAULT 0,
  chain        bytea            NOT NULL,              -- audit head after next_offset - 1
  audit_seal   bytea            NOT NULL,              -- head of the chain over audit_batch's own rows
  halted       text,                                   -- why it is halted, or null
  PRIMARY KEY (topic, part)
) WITH (fillfactor = 50);

CREATE TABLE vw.detector_checkpoint (
  topic  text COLLATE "C" NOT NULL,
  part   int    NOT NULL,
  as_of  bigint NOT NULL,                              -- never above next_offset
  fmt    int    NOT NULL,
  crc    int    NOT NULL,
  state  bytea  NOT NULL,
  at     timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (topic, part)
) WITH (fillfactor = 50);
ALTER TABLE vw.detector_checkpoint ALTER COLUMN state SET STORAGE EXTERNAL;

-- Counters of a partition's hour: what arrived and what became of it.
CREATE TABLE vw.stream_hour (
  topic       text COLLATE "C" NOT NULL,
  part        int         NOT NULL,
  hour        timestamptz NOT NULL,
  records     bigint NOT NULL DEFAULT 0,
  events      bigint NOT NULL DEFAULT 0,
  duplicates  bigint NOT NULL DEFAULT 0,
  late        bigint NOT NULL DEFAULT 0,
  clamped     bigint NOT NULL DEFAULT 0,
  dead        bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (topic, part, hour)
) WITH (fillfactor = 50);

CREATE TABLE vw.stream_gap (
  topic   text COLLATE "C" NOT NULL,
  part    int    NOT NULL,
  lo      bigint NOT NULL,
  hi      bigint NOT NULL,                             -- exclusive
  reason  text   NOT NULL,                             -- retention | skipped | truncated
  author  text   NOT NULL DEFAULT '',
  at      timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (topic, part, lo)
);

CREATE TABLE vw.dead_letter (
  day          date NOT NULL,                          -- day of append
  topic        text COLLATE "C" NOT NULL,
  part         int    NOT NULL,
  off          bigint NOT NULL,
  reason       text   NOT NULL,
  path         text   NOT NULL DEFAULT '',
  byte_pos     bigint,
  bytes        bigint NOT NULL,
  gateway      text,
  at           timestamptz NOT NULL,
  replayed_at  timestamptz,
  PRIMARY KEY (day, topic, part, off)
) PARTITION BY RANGE (day);

CREATE TABLE vw.audit_batch (
  day       date NOT NULL,                             -- day of append of the batch's last record
  topic     text COLLATE "C" NOT NULL,
  part      int    NOT NULL,
  lo        bigint NOT NULL,
  hi        bigint NOT NULL,                           -- exclusive
  n         int    NOT NULL,
  claim_id  uuid   NOT NULL,
  kid       text   NOT NULL DEFAULT '',                -- key of the leaves in trusted sources
  prev      bytea  NOT NULL,
  h         bytea  NOT NULL,
  seal      bytea  NOT NULL,                           -- sha256(seal before || lo || hi || n || prev || h)
  at        timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (day, topic, part, lo, claim_id)         -- a recreated topic counts from 0 again
) PARTITION BY RANGE (day);

-- Events kept for analysts (store.events): sealed, so they hold no text.
CREATE TABLE vw.event (
  day      date NOT NULL,                              -- day of append
  topic    text COLLATE "C" NOT NULL,
  part     int    NOT NULL,
  off      bigint NOT NULL,
  id       text   NOT NULL,
  gateway  text   NOT NULL DEFAULT '',
  user_id  text,
  tenant   text,
  model    text   NOT NULL,
  end_at   timestamptz NOT NULL,
  sealed   jsonb  NOT NULL,
  PRIMARY KEY (day, topic, part, off)
) PARTITION BY RANGE (day);
CREATE INDEX event_id ON vw.event (id);
CREATE INDEX event_user ON vw.event (user_id, end_at);

-- ---------------------------------------------------------------- detector state

CREATE TABLE vw.user_state (
  user_id  text COLLATE "C" NOT NULL,
  topic    text COLLATE "C" NOT NULL,
  part     int    NOT NULL,
  as_of    bigint NOT NULL,                            -- offset up to which the state is applied
  at_ms    bigint NOT NULL,                            -- watermark when written: the newest copy wins
  state    bytea  NOT NULL,
  PRIMARY KEY (user_id, topic, part)
) PARTITION BY HASH (user_id);
DO $$ BEGIN
  FOR i IN 0..7 LOOP
    EXECUTE format('CREATE TABLE vw.user_state_%s PARTITION OF vw.user_state FOR VALUES WITH (MODULUS 8, REMAINDER %s) WITH (fillfactor = 60)', i, i);
  END LOOP;
END $$;

-- A user's pseudonym after a key rotation, and the oldest known one.
CREATE TABLE vw.alias (
  new_id  text COLLATE "C" PRIMARY KEY,
  old_id  text COLLATE "C" NOT NULL,
  at      timestamptz NOT NULL DEFAULT now()
);

-- Values of the cross-user leak: keyed hashes only.
CREATE TABLE vw.value (
  kid       text COLLATE "C" NOT NULL,
  mac       bytea NOT NULL,
  last_day  date  NOT NULL,                            -- changes once a day at most
  row       bytea NOT NULL,
  PRIMARY KEY (kid, mac)
) WITH (fillfactor = 60);
CREATE INDEX value_last_day ON vw.value (last_day);

-- Which values have a candidate that ends in a minute: what the leader judges when it closes.
CREATE TABLE vw.value_pending (
  day     date   NOT NULL,
  minute  bigint NOT NULL,
  kid     text COLLATE "C" NOT NULL,
  mac     bytea  NOT NULL,
  judged  boolean NOT NULL DEFAULT false,
  PRIMARY KEY (day, minute, kid, mac)
) PARTITION BY RANGE (day);
CREATE INDEX value_pending_due ON vw.value_pending (minute) WHERE NOT judged;

-- One mergeable blob per batch, minute and lateness.
CREATE TABLE vw.minute_part (
  day     date   NOT NULL,
  minute  bigint NOT NULL,                             -- minutes since 1970
  topic   text COLLATE "C" NOT NULL,
  part    int    NOT NULL,
  lo      bigint NOT NULL,                             -- first offset of the batch
  late    boolean NOT NULL,
  claim_id uuid  NOT NULL,
  merged  boolean NOT NULL DEFAULT false,
  blob    bytea  NOT NULL,
  PRIMARY KEY (day, minute, topic, part, lo, late, claim_id)
) PARTITION BY RANGE (day);
ALTER TABLE vw.minute_part ALTER COLUMN blob SET STORAGE EXTERNAL;
CREATE INDEX minute_part_due ON vw.minute_part (minute) WHERE NOT merged;

-- Minutes merged without one or more partitions.
CREATE TABLE vw.partial_minute (
  minute    bigint PRIMARY KEY,
  left_out  text[] NOT NULL,
  at        timestamptz NOT NULL DEFAULT now()
);

-- Leader and notifier: one holder in the fleet each, fenced like a partition.
CREATE TABLE vw.lease (
  name            text PRIMARY KEY,
  claim_id        uuid   NOT NULL,
  owner           text   NOT NULL DEFAULT '',
  renewed_at      timestamptz NOT NULL DEFAULT now(),
  merged_through  bigint,
  fmt             int    NOT NULL DEFAULT 0,
  state           bytea  NOT NULL DEFAULT ''
) WITH (fillfactor = 50);
ALTER TABLE vw.lease ALTER COLUMN state SET STORAGE EXTERNAL;

-- ---------------------------------------------------------------- budgets

CREATE TABLE vw.ledger (
  width             smallint NOT NULL,                 -- 0 user; 1..5 key, team, tenant, model, everyone
  subject           text COLLATE "C" NOT NULL,
  period            text COLLATE "C" NOT NULL,
  events            bigint NOT NULL,
  tokens_input      bigint NOT NULL,
  tokens_output     bigint NOT NULL,
  cost_pico         numeric(38,0) NOT NULL,
  estimated_tokens  bigint NOT NULL,
  missing_events    bigint NOT NULL,
  unpriced_events   bigint NOT NULL,
  unpriced_tokens   bigint NOT NULL,
  PRIMARY KEY (width, subject, period)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);

CREATE TABLE vw.budget_limit (
  id          text COLLATE "C" PRIMARY KEY,
  width       smallint NOT NULL,
  subject     text COLLATE "C" NOT NULL,               -- '*' means each subject of that scope
  period      text COLLATE "C" NOT NULL,               -- the kind: h d w m t, with '@zone' where named
  unit        text NOT NULL CHECK (unit IN ('tokens', 'usd')),
  amount      numeric(38,0) NOT NULL CHECK (amount > 0), -- tokens, or pico-dollars
  thresholds  int[] NOT NULL DEFAULT '{50,80,100}',
  source      text NOT NULL DEFAULT 'config',          -- config | cli
  author      text NOT NULL DEFAULT '',
  enabled     boolean NOT NULL DEFAULT true,
  retest      boolean NOT NULL DEFAULT true,           -- the leader tests stored totals once
  changed_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX budget_limit_subject ON vw.budget_limit (width, subject, period);

CREATE TABLE vw.budget_raise (
  id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  budget_id   text COLLATE "C" NOT NULL REFERENCES vw.budget_limit (id),
  subject     text COLLATE "C" NOT NULL,               -- '*': every subject of the budget
  extra       numeric(38,0) NOT NULL CHECK (extra > 0),
  starts_at   timestamptz NOT NULL DEFAULT now(),
  expires_at  timestamptz NOT NULL,
  author      text NOT NULL CHECK (author <> ''),
  reason      text NOT NULL CHECK (reason <> ''),
  lapsed      boolean NOT NULL DEFAULT false           -- the leader has tested the totals after expiry
);
CREATE INDEX budget_raise_budget ON vw.budget_raise (budget_id, expires_at);

-- A threshold crossed: once per budget, subject, period and threshold.
CREATE TABLE vw.budget_crossing (
  budget_id      text COLLATE "C" NOT NULL,
  subject        text COLLATE "C" NOT NULL,
  period         text COLLATE "C" NOT NULL,
  threshold      int  NOT NULL,
  amount         numeric(38,0) NOT NULL,               -- the limit in force then
  value          numeric(38,0) NOT NULL,
  at             timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (budget_id, subject, period, threshold)
);
CREATE INDEX budget_crossing_at ON vw.budget_crossing (at);

-- ---------------------------------------------------------------- findings, incidents

CREATE TABLE vw.finding (
  day         date NOT NULL,                           -- day of end_at
  id          uuid NOT NULL,
  detector    text NOT NULL,
  rule        text NOT NULL,
  version     int  NOT NULL,
  severity    smallint NOT NULL,
  stage       smallint NOT NULL,
  fate        text NOT NULL,                           -- new | folded | shadow | excepted
  tenant      text NOT NULL,
  subject     text NOT NULL,
  happened_at timestamptz NOT NULL,
  start_at    timestamptz NOT NULL,
  end_at      timestamptz NOT NULL,
  user_id     text,
  model       text,
  gateway     text,
  event_id    text,
  reason      text NOT NULL,
  incident    uuid,
  number      int,
  stored_at   timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (day, id)
) PARTITION BY RANGE (day);
CREATE INDEX finding_incident ON vw.finding (incident, number);
CREATE INDEX finding_user ON vw.finding (user_id, end_at) WHERE user_id IS NOT NULL;

-- The present incident of each key; number 0: a key that has none yet.
CREATE TABLE vw.incident_head (
  key          uuid PRIMARY KEY,
  wide         boolean  NOT NULL,
  number       int      NOT NULL DEFAULT 0,
  state        smallint NOT NULL DEFAULT 0,            -- 0 open, 1 acknowledged, 2 resolved
  severity     smallint NOT NULL,
  stage        smallint NOT NULL,
  tenant       text NOT NULL,
  detector     text NOT NULL,
  rule         text NOT NULL,
  subject      text NOT NULL,
  user_id      text,
  model        text,
  gateway      text,
  event_id     text,
  reason       text NOT NULL DEFAULT '',
  opened_at    timestamptz NOT NULL,
  last_end     timestamptz NOT NULL,
  resolve_at   timestamptz NOT NULL,
  resolved_at  timestamptz,
  findings     bigint NOT NULL DEFAULT 0,
  version      bigint NOT NULL DEFAULT 0,
  assignee     text,
  acked_at     timestamptz,
  acked_by     text,
  verdict      text CHECK (verdict IN ('true', 'false', 'benign')),
  verdict_by   text
) WITH (fillfactor = 60);
-- The one index on a changing column: heads change by the hundred a second at most, and the notifier
-- must find what is due among all that is open.
CREATE INDEX incident_head_due ON vw.incident_head (resolve_at) WHERE state < 2 AND number > 0;

-- Earlier numbers of a key, as they stood when the next one opened.
CREATE TABLE vw.incident_past (LIKE vw.incident_head INCLUDING DEFAULTS);
ALTER TABLE vw.incident_past ADD PRIMARY KEY (key, number);

-- What happened to an incident. `head` is the incident as of the change: what the notifier judges.
CREATE TABLE vw.incident_change (
  id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  key       uuid   NOT NULL,
  number    int    NOT NULL,
  version   bigint NOT NULL,
  kind      text   NOT NULL,
  severity  smallint NOT NULL,
  stage     smallint NOT NULL,
  at        timestamptz NOT NULL,
  reason    text   NOT NULL DEFAULT '',
  author    text   NOT NULL DEFAULT '',
  head      jsonb,
  taken     boolean NOT NULL DEFAULT false,            -- the notifier has decided on it
  stored_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 80);
CREATE INDEX incident_change_key ON vw.incident_change (key, number, version);
CREATE INDEX incident_change_due ON vw.incident_change (id) WHERE NOT taken;

CREATE TABLE vw.incident_note (
  id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  key     uuid NOT NULL,
  number  int  NOT NULL,
  kind    text NOT NULL CHECK (kind IN ('note', 'verdict', 'assign', 'acknowledge', 'resolve')),
  author  text NOT NULL,
  body    text NOT NULL CHECK (length(body) <= 4000),
  at      timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX incident_note_key ON vw.incident_note (key, number);

-- ---------------------------------------------------------------- notifications

CREATE TABLE vw.notify_group (
  id     text COLLATE "C" PRIMARY KEY,
  state  jsonb NOT NULL
) WITH (fillfactor = 60);

-- What became of each (incident change, sink). `queued`: an outbox row carries it.
CREATE TABLE vw.fate (
  id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  key      uuid   NOT NULL,
  number   int    NOT NULL,
  version  bigint NOT NULL,
  kind     text   NOT NULL,
  sink     text COLLATE "C" NOT NULL,
  fate     text   NOT NULL,
  detail   text   NOT NULL DEFAULT '',
  at       timestamptz NOT NULL DEFAULT now()
);
-- One fate each. Repeats and escalations of the notifier carry the head's version, so they may recur.
CREATE UNIQUE INDEX fate_once ON vw.fate (key, version, kind, sink) WHERE kind NOT IN ('repeat', 'escalated');
CREATE INDEX fate_at ON vw.fate (at);

CREATE TABLE vw.outbox (
  key          uuid NOT NULL,
  number       int  NOT NULL,
  sink         text COLLATE "C" NOT NULL,
  seq          bigint NOT NULL,
  kind         text NOT NULL,
  severity     smallint NOT NULL,
  dedup_key    uuid NOT NULL,
  state        smallint NOT NULL DEFAULT 0,            -- 0 pending 1 claimed 2 sent 3 parked 4 expired 5 grouped
  attempts     int  NOT NULL DEFAULT 0,
  next_at      timestamptz NOT NULL DEFAULT now(),
  claim_id     uuid,
  claim_until  timestamptz,
  last_error   text NOT NULL DEFAULT '',
  payload      jsonb NOT NULL,
  created_at   timestamptz NOT NULL DEFAULT now(),
  finished_at  timestamptz,
  PRIMARY KEY (key, number, sink, seq)                 -- UNIQUE (incident, sink, seq)
);
CREATE INDEX outbox_due ON vw.outbox (sink, severity DESC, next_at) WHERE state IN (0, 1);
CREATE INDEX outbox_finished ON vw.outbox (finished_at) WHERE finished_at IS NOT NULL;

CREATE TABLE vw.silence (
  id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  matchers    jsonb NOT NULL,
  author      text NOT NULL CHECK (author <> ''),
  comment     text NOT NULL CHECK (comment <> ''),
  starts_at   timestamptz NOT NULL DEFAULT now(),
  ends_at     timestamptz NOT NULL,
  created_at  timestamptz NOT NULL DEFAULT now(),
  CHECK (ends_at > starts_at)
);
CREATE INDEX silence_ends ON vw.silence (ends_at);

-- Who did what by hand: raises, silences, skips, uses of keys.
CREATE TABLE vw.action_log (
  id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at      timestamptz NOT NULL DEFAULT now(),
  author  text NOT NULL,
  action  text NOT NULL,
  detail  jsonb NOT NULL DEFAULT '{}'
);
