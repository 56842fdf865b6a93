//! Metrics, traces and logs: every metric name and label stands here.
