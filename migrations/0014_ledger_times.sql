-- The ledger by period and by hour: what is current, or of the last days, is a sliver of 400 days of a row
-- per user and day. Neither column ever changes, so an update of a total stays within its page.

CREATE INDEX ledger_period ON vw.ledger (width, period);

-- The same hours as before, in an expression that an index may hold (a cast from text depends on a setting).
CREATE OR REPLACE VIEW usage_hourly AS
SELECT CASE WHEN period LIKE 'h:%' AND length(period) = 15
            THEN make_timestamp(substr(period, 3, 4)::int, substr(period, 8, 2)::int, substr(period, 11, 2)::int,
                                substr(period, 14, 2)::int, 0, 0) AT TIME ZONE 'UTC' END AS hour,
       vw.scope_name(width) AS scope, subject, events, tokens_input, tokens_output,
       tokens_input + tokens_output AS tokens, cost_pico / 1e12 AS cost_usd, cost_pico,
       estimated_tokens, missing_events, unpriced_events, unpriced_tokens
  FROM vw.ledger WHERE period LIKE 'h:%' AND length(period) = 15;

-- By time instead of by name: a question about the last days reads these and not the hours of 400 days.
CREATE INDEX ledger_hours ON vw.ledger (
  (CASE WHEN period LIKE 'h:%' AND length(period) = 15
        THEN make_timestamp(substr(period, 3, 4)::int, substr(period, 8, 2)::int, substr(period, 11, 2)::int,
                            substr(period, 14, 2)::int, 0, 0) AT TIME ZONE 'UTC' END))
  WHERE period LIKE 'h:%' AND length(period) = 15;
