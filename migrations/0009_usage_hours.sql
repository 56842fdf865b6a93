-- The hours of usage, whatever the session's time zone: an hour that the zone skips in spring was shown as
-- the next one. CASE keeps the cast from periods that are not hours of UTC, wherever a filter is evaluated.

CREATE OR REPLACE VIEW usage_hourly AS
SELECT CASE WHEN period LIKE 'h:%' AND length(period) = 15
            THEN (replace(substr(period, 3), 'T', ' ') || ':00')::timestamp AT TIME ZONE 'UTC' END AS hour,
       vw.scope_name(width) AS scope, subject, events, tokens_input, tokens_output,
       tokens_input + tokens_output AS tokens, cost_pico / 1e12 AS cost_usd, cost_pico,
       estimated_tokens, missing_events, unpriced_events, unpriced_tokens
  FROM vw.ledger WHERE period LIKE 'h:%' AND length(period) = 15;
