//! Drains the outbox: one worker per sink, retries with backoff and jitter.
