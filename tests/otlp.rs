//! A collector in this process: takes OTLP over gRPC as the protocol says, decodes it with its published
//! types, and knows what `run` must have sent. The planted-text hunt sends to it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use prost::Message as _;
use veilwatch::telemetry::metrics;

const TRACES: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
const METRICS: &str = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export";
/// Bytes before a gRPC message: whether it is compressed, and its length.
const PREFIX: usize = 5;

type Calls = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// A running collector.
pub struct Collector {
    /// Where it listens.
    pub address: SocketAddr,
    calls: Calls,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Collector {
    /// Listens on a free port of loopback.
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
            .await
            .expect("a port");
        let address = listener.local_addr().expect("its address");
        let calls = Calls::default();
        let kept = Arc::clone(&calls);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let kept = Arc::clone(&kept);
                tokio::spawn(async move {
                    let Ok(mut connection) = h2::server::handshake(stream).await else {
                        return;
                    };
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        tokio::spawn(take(request, respond, Arc::clone(&kept)));
                    }
                });
            }
        });
        Self {
            address,
            calls,
            task,
        }
    }

    /// Checks names, kinds and units of everything that came; returns all of it as text.
    pub fn check(&self) -> String {
        let calls = self.calls.lock().expect("calls");
        let mut text = String::new();
        let mut units: BTreeMap<String, (String, &str)> = BTreeMap::new();
        let mut spans: BTreeMap<String, usize> = BTreeMap::new();
        for (path, body) in calls.iter() {
            match path.as_str() {
                METRICS => {
                    let r = ExportMetricsServiceRequest::decode(body.as_slice()).expect("metrics");
                    let _ = writeln!(text, "{r:?}");
                    for m in r
                        .resource_metrics
                        .iter()
                        .flat_map(|r| &r.scope_metrics)
                        .flat_map(|s| &s.metrics)
                    {
                        let kind = match &m.data {
                            Some(Data::Sum(s)) if s.is_monotonic => "counter",
                            Some(Data::Gauge(_)) => "gauge",
                            Some(Data::Histogram(_)) => "histogram",
                            other => panic!("{} is {other:?}", m.name),
                        };
                        units.insert(m.name.clone(), (m.unit.clone(), kind));
                    }
                }
                TRACES => {
                    let r = ExportTraceServiceRequest::decode(body.as_slice()).expect("traces");
                    let _ = writeln!(text, "{r:?}");
                    for r in &r.resource_spans {
                        let service = r
                            .resource
                            .iter()
                            .flat_map(|r| &r.attributes)
                            .find(|a| a.key == "service.name");
                        assert!(format!("{service:?}").contains("veilwatch"), "{service:?}");
                        for s in r.scope_spans.iter().flat_map(|s| &s.spans) {
                            assert!(
                                s.end_time_unix_nano >= s.start_time_unix_nano
                                    && s.trace_id.len() == 16
                            );
                            *spans.entry(s.name.clone()).or_default() += 1;
                        }
                    }
                }
                other => panic!("nobody serves {other}"),
            }
        }
        for (name, unit, kind) in [
            ("veilwatch_records_total", "1", "counter"),
            ("veilwatch_record_bytes_total", "By", "counter"),
            ("veilwatch_dead_letters_total", "1", "counter"),
            ("veilwatch_findings_total", "1", "counter"),
            ("veilwatch_partitions_assigned", "1", "gauge"),
            ("veilwatch_commit_seconds", "s", "histogram"),
            ("process_cpu_seconds_total", "s", "counter"),
            ("process_resident_memory_bytes", "By", "gauge"),
        ] {
            assert_eq!(units.get(name), Some(&(unit.to_owned(), kind)), "{name}");
        }
        for name in units.keys().filter(|n| n.starts_with("veilwatch_")) {
            assert!(
                metrics::NAMES.contains(&name.as_str()),
                "{name} is not in the table"
            );
        }
        assert!(
            spans.contains_key("commit") && spans.contains_key("send"),
            "{spans:?}"
        );
        text
    }
}

/// One unary call: keeps its message, answers an empty one.
async fn take(
    request: http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<prost::bytes::Bytes>,
    calls: Calls,
) {
    let path = request.uri().path().to_owned();
    let mut stream = request.into_body();
    let mut body = Vec::new();
    while let Some(Ok(chunk)) = stream.data().await {
        let _ = stream.flow_control().release_capacity(chunk.len());
        body.extend_from_slice(&chunk);
    }
    assert!(
        body.len() >= PREFIX && body[0] == 0,
        "an uncompressed message"
    );
    calls
        .lock()
        .expect("calls")
        .push((path, body[PREFIX..].to_vec()));
    let head = http::Response::builder()
        .header("content-type", "application/grpc")
        .body(())
        .expect("a head");
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    if let Ok(mut send) = respond.send_response(head, false) {
        let _ = send.send_data(prost::bytes::Bytes::from_static(&[0; PREFIX]), false);
        let _ = send.send_trailers(trailers);
    }
}
