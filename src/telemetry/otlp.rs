//! Metrics and traces over OTLP (gRPC), where an endpoint is configured.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::trace::SdkTracerProvider;

/// How long one export may take: a dead collector must not hold up shutdown.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(3);

/// The running exporters.
#[derive(Debug)]
pub(super) struct Providers {
    meters: SdkMeterProvider,
    tracers: SdkTracerProvider,
}

pub(super) fn start(
    endpoint: &str,
    interval_s: u64,
) -> Result<Providers, opentelemetry_otlp::ExporterBuildError> {
    let resource = Resource::builder()
        .with_service_name("veilwatch")
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    let spans = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(EXPORT_TIMEOUT)
        .build()?;
    let tracers = SdkTracerProvider::builder()
        .with_batch_exporter(spans)
        .with_resource(resource.clone())
        .build();
    let points = opentelemetry_otlp::MetricExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(EXPORT_TIMEOUT)
        .build()?;
    let reader = PeriodicReader::builder(points)
        .with_interval(Duration::from_secs(interval_s.max(1)))
        .build();
    let meters = SdkMeterProvider::builder()
        .with_reader(reader)
        .with_resource(resource)
        .build();
    super::metrics().attach(&opentelemetry::metrics::MeterProvider::meter(
        &meters,
        "veilwatch",
    ));
    Ok(Providers { meters, tracers })
}

impl Providers {
    /// The layer that turns spans into OTLP spans.
    pub(super) fn layer<S>(&self) -> impl tracing_subscriber::Layer<S> + use<S>
    where
        S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
    {
        // Files, lines and threads would be most of what is sent, and tell an operator nothing.
        tracing_opentelemetry::layer()
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_tracer(self.tracers.tracer("veilwatch"))
    }

    /// Sends what is left, as far as the collector takes it.
    pub(super) fn shutdown(self) {
        let _ = self.tracers.shutdown_with_timeout(EXPORT_TIMEOUT);
        let _ = self.meters.shutdown_with_timeout(EXPORT_TIMEOUT);
    }
}
