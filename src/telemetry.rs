//! What the program says about itself: logs, metrics, traces, health.
//!
//! Every metric stands in the one table of [`mod@metrics`]; the table feeds `/metrics` and OTLP alike.
//! Labels are names from the configuration, gateways' names or fixed words, never users, never text. Logs are JSON
//! lines in a pipe and pretty on a terminal; a log line carries positions and names, no values.

pub mod health;
pub mod http;
pub mod metrics;
mod otlp;
mod secret;
mod series;

pub use health::Health;
pub use metrics::{Metrics, metrics};
pub use secret::Secret;
pub use series::{Counter, Gauge, Histogram};

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

/// How the program reports on itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TelemetryConfig {
    /// Filter in `tracing`'s syntax, such as `info` or `info,veilwatch::ingest=debug`.
    pub log: String,
    /// JSON lines instead of pretty lines.
    pub json: bool,
    /// Collector for OTLP over gRPC, such as `http://127.0.0.1:4317`. None: no export.
    pub otlp_endpoint: Option<String>,
    /// How often metrics are pushed over OTLP, in seconds.
    pub otlp_interval_s: u64,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            log: "info".into(),
            json: true,
            otlp_endpoint: None,
            otlp_interval_s: 10,
        }
    }
}

/// Why telemetry could not start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is not one.
    #[error(
        "telemetry.log is not a log filter ({0}); write a level such as \"info\" or \"info,veilwatch::ingest=debug\""
    )]
    Filter(String),
    /// The exporter could not be built.
    #[error(
        "cannot export to telemetry.otlp_endpoint: {0}; give the collector's gRPC address, such as \"http://127.0.0.1:4317\""
    )]
    Otlp(String),
}

/// Keeps the exporters alive; flushes them when dropped.
#[derive(Debug, Default)]
pub struct Guard {
    providers: Option<otlp::Providers>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(p) = self.providers.take() {
            p.shutdown();
        }
    }
}

/// Starts logs, and OTLP where configured (call it inside a tokio runtime then).
///
/// # Errors
/// A filter that does not parse, or an endpoint that is not an address.
pub fn start(config: &TelemetryConfig) -> Result<Guard, TelemetryError> {
    // sqlx tells the text of slow statements, a page for a migration; the exporter's own connections
    // must not trace themselves. What the operator names comes last and wins.
    let quiet = "sqlx=error,h2=error,hyper=error,tonic=error,tower=error";
    let filter = EnvFilter::builder()
        .parse(format!("{quiet},{}", config.log))
        .map_err(|e| TelemetryError::Filter(e.to_string()))?;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = if config.json {
        lines.json().flatten_event(true).boxed()
    } else {
        lines.boxed()
    };
    let providers = match &config.otlp_endpoint {
        Some(endpoint) => Some(
            otlp::start(endpoint, config.otlp_interval_s)
                .map_err(|e| TelemetryError::Otlp(e.to_string()))?,
        ),
        None => None,
    };
    let traces = providers.as_ref().map(otlp::Providers::layer);
    // One filter for all layers: with a filter of each layer, an event that is disabled swallows the
    // next enabled one of its thread when an optional layer is absent.
    // A second start (tests) keeps the first subscriber.
    let _ = tracing_subscriber::registry()
        .with(filter)
        .with(traces)
        .with(lines)
        .try_init();
    Ok(Guard { providers })
}
