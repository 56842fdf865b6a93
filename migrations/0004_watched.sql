-- Registered texts (`veilwatch watch`): names and keyed fingerprints, never the texts. A handful of
-- rows; read when `run` starts.

CREATE TABLE vw.watched (
  name    text COLLATE "C" NOT NULL,
  kid     text COLLATE "C" NOT NULL,                   -- a text is registered under each content key
  kind    text NOT NULL CHECK (kind IN ('canary', 'system-prompt', 'document')),
  prints  bigint[] NOT NULL,
  words   int  NOT NULL,
  at      timestamptz NOT NULL DEFAULT now(),
  author  text NOT NULL,
  PRIMARY KEY (name, kid)
);
