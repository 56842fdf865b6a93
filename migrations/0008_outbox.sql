-- Parked notifications are looked for when a sink works again: few rows among all that were ever sent.

CREATE INDEX outbox_parked ON vw.outbox (sink) WHERE state = 3;
