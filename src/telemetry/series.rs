//! Counters, gauges and histograms with bounded label sets.
//!
//! They are written once a batch, not once an event, by all threads of the process. A metric holds
//! at most [`MAX_SERIES`] label sets; what comes after is counted under `other`, so that no name from
//! outside can make `/metrics` grow.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use dashmap::DashMap;

/// Most label sets of one metric. 2,000 partitions still have a series each.
pub const MAX_SERIES: usize = 2_000;

/// The fixed part of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Desc {
    /// Full name with unit, such as `veilwatch_records_total`.
    pub name: &'static str,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    /// One line.
    pub help: &'static str,
}

type Key = Vec<String>;

#[derive(Debug)]
struct Cells<T> {
    desc: Desc,
    cells: DashMap<Key, Arc<T>>,
}

impl<T: Default> Cells<T> {
    fn new(desc: Desc) -> Self {
        Self {
            desc,
            cells: DashMap::new(),
        }
    }

    fn get(&self, labels: &[&str]) -> Arc<T> {
        debug_assert_eq!(labels.len(), self.desc.labels.len(), "{}", self.desc.name);
        let key: Key = labels.iter().map(|l| (*l).to_owned()).collect();
        if let Some(cell) = self.cells.get(&key) {
            return cell.clone();
        }
        // Threads that come here at once may pass the bound by as many label sets as there are threads.
        let key = if self.cells.len() >= MAX_SERIES {
            labels.iter().map(|_| "other".to_owned()).collect()
        } else {
            key
        };
        self.cells.entry(key).or_default().clone()
    }

    fn remove(&self, labels: &[&str]) {
        let key: Key = labels.iter().map(|l| (*l).to_owned()).collect();
        self.cells.remove(&key);
    }

    fn each(&self, mut f: impl FnMut(&Key, &T)) {
        // In the order of their labels, so that two looks at `/metrics` compare line by line.
        let cells = self.cells.iter();
        let sorted: BTreeMap<Key, Arc<T>> = cells
            .map(|c| (c.key().clone(), c.value().clone()))
            .collect();
        for (k, v) in &sorted {
            f(k, v);
        }
    }
}

/// A number that only grows.
#[derive(Debug)]
pub struct Counter(Cells<AtomicU64>);

impl Counter {
    pub(super) fn new(desc: Desc) -> Self {
        Self(Cells::new(desc))
    }
    /// Adds `n` to the series of these label values.
    pub fn add(&self, labels: &[&str], n: u64) {
        if n > 0 {
            self.0.get(labels).fetch_add(n, Ordering::Relaxed);
        }
    }
    /// Adds one.
    pub fn inc(&self, labels: &[&str]) {
        self.add(labels, 1);
    }
    /// The present value; 0 where nothing was counted.
    pub fn value(&self, labels: &[&str]) -> u64 {
        self.0.get(labels).load(Ordering::Relaxed)
    }
    /// The sum over all label sets.
    pub fn total(&self) -> u64 {
        let mut sum = 0u64;
        self.0
            .each(|_, v| sum = sum.saturating_add(v.load(Ordering::Relaxed)));
        sum
    }
}

/// A number that goes up and down.
#[derive(Debug)]
pub struct Gauge(Cells<AtomicU64>);

impl Gauge {
    pub(super) fn new(desc: Desc) -> Self {
        Self(Cells::new(desc))
    }
    /// Sets the series of these label values.
    pub fn set(&self, labels: &[&str], v: f64) {
        self.0.get(labels).store(v.to_bits(), Ordering::Relaxed);
    }
    /// The present value.
    pub fn value(&self, labels: &[&str]) -> f64 {
        f64::from_bits(self.0.get(labels).load(Ordering::Relaxed))
    }
    /// Forgets a series, such as a partition that another replica owns now.
    pub fn remove(&self, labels: &[&str]) {
        self.0.remove(labels);
    }
}

/// Upper bounds of the buckets, in seconds: 1 ms to 60 s covers a commit, a send and a claim.
pub const BUCKETS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0,
];

#[derive(Debug, Default)]
struct Buckets {
    counts: [AtomicU64; BUCKETS.len() + 1],
    sum_us: AtomicU64,
}

/// A distribution of durations, in seconds.
#[derive(Debug)]
pub struct Histogram {
    cells: Cells<Buckets>,
    otlp: OnceLock<opentelemetry::metrics::Histogram<f64>>,
}

impl Histogram {
    pub(super) fn new(desc: Desc) -> Self {
        Self {
            cells: Cells::new(desc),
            otlp: OnceLock::new(),
        }
    }
    /// Records a duration.
    pub fn observe(&self, labels: &[&str], d: std::time::Duration) {
        let s = d.as_secs_f64();
        let cell = self.cells.get(labels);
        let i = BUCKETS.partition_point(|b| *b < s);
        if let Some(c) = cell.counts.get(i) {
            c.fetch_add(1, Ordering::Relaxed);
        }
        let us = u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
        cell.sum_us.fetch_add(us, Ordering::Relaxed);
        if let Some(h) = self.otlp.get() {
            let kv: Vec<_> = self
                .cells
                .desc
                .labels
                .iter()
                .zip(labels)
                .map(|(k, v)| opentelemetry::KeyValue::new(*k, (*v).to_owned()))
                .collect();
            h.record(s, &kv);
        }
    }
    /// How many were recorded.
    pub fn count(&self, labels: &[&str]) -> u64 {
        let cell = self.cells.get(labels);
        cell.counts.iter().map(|c| c.load(Ordering::Relaxed)).sum()
    }
}

/// What `/metrics` and OTLP ask of each metric.
pub(super) trait Expose {
    /// Writes the metric in Prometheus' text format, version 0.0.4.
    fn expose(&self, out: &mut String);
    /// Registers the metric with an OpenTelemetry meter.
    fn attach(&'static self, meter: &opentelemetry::metrics::Meter);
}

fn head(out: &mut String, d: &Desc, kind: &str) {
    let _ = writeln!(
        out,
        "# HELP {} {}\n# TYPE {} {kind}",
        d.name, d.help, d.name
    );
}

fn labels(out: &mut String, d: &Desc, key: &Key, more: Option<(&str, &str)>) {
    let pairs = d.labels.iter().copied().zip(key.iter().map(String::as_str));
    let mut first = true;
    for (k, v) in pairs.chain(more) {
        out.push(if first { '{' } else { ',' });
        first = false;
        let _ = write!(out, "{k}=\"");
        for c in v.chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '"' => out.push_str("\\\""),
                c if c.is_control() => out.push(' '),
                c => out.push(c),
            }
        }
        out.push('"');
    }
    if !first {
        out.push('}');
    }
}

fn key_values(d: &Desc, key: &Key) -> Vec<opentelemetry::KeyValue> {
    let pairs = d.labels.iter().zip(key);
    pairs
        .map(|(k, v)| opentelemetry::KeyValue::new(*k, v.clone()))
        .collect()
}

impl Expose for Counter {
    fn expose(&self, out: &mut String) {
        head(out, &self.0.desc, "counter");
        if self.0.desc.labels.is_empty() {
            let _ = self.0.get(&[]);
        }
        self.0.each(|k, v| {
            out.push_str(self.0.desc.name);
            labels(out, &self.0.desc, k, None);
            let _ = writeln!(out, " {}", v.load(Ordering::Relaxed));
        });
    }
    fn attach(&'static self, meter: &opentelemetry::metrics::Meter) {
        meter
            .u64_observable_counter(self.0.desc.name)
            .with_unit(unit(self.0.desc.name))
            .with_description(self.0.desc.help)
            .with_callback(move |o| {
                self.0.each(|k, v| {
                    o.observe(v.load(Ordering::Relaxed), &key_values(&self.0.desc, k));
                });
            })
            .build();
    }
}

impl Expose for Gauge {
    fn expose(&self, out: &mut String) {
        head(out, &self.0.desc, "gauge");
        self.0.each(|k, v| {
            out.push_str(self.0.desc.name);
            labels(out, &self.0.desc, k, None);
            let _ = writeln!(out, " {}", f64::from_bits(v.load(Ordering::Relaxed)));
        });
    }
    fn attach(&'static self, meter: &opentelemetry::metrics::Meter) {
        meter
            .f64_observable_gauge(self.0.desc.name)
            .with_unit(unit(self.0.desc.name))
            .with_description(self.0.desc.help)
            .with_callback(move |o| {
                self.0.each(|k, v| {
                    let v = f64::from_bits(v.load(Ordering::Relaxed));
                    o.observe(v, &key_values(&self.0.desc, k));
                });
            })
            .build();
    }
}

impl Expose for Histogram {
    fn expose(&self, out: &mut String) {
        let d = &self.cells.desc;
        head(out, d, "histogram");
        self.cells.each(|k, cell| {
            let mut sum = 0;
            for (i, c) in cell.counts.iter().enumerate() {
                sum += c.load(Ordering::Relaxed);
                let le = BUCKETS.get(i).map_or("+Inf".into(), ToString::to_string);
                let _ = write!(out, "{}_bucket", d.name);
                labels(out, d, k, Some(("le", &le)));
                let _ = writeln!(out, " {sum}");
            }
            let us = cell.sum_us.load(Ordering::Relaxed);
            let seconds = std::time::Duration::from_micros(us).as_secs_f64();
            let _ = write!(out, "{}_sum", d.name);
            labels(out, d, k, None);
            let _ = writeln!(out, " {seconds}");
            let _ = write!(out, "{}_count", d.name);
            labels(out, d, k, None);
            let _ = writeln!(out, " {sum}");
        });
    }
    fn attach(&'static self, meter: &opentelemetry::metrics::Meter) {
        let h = meter
            .f64_histogram(self.cells.desc.name)
            .with_description(self.cells.desc.help)
            .with_unit("s")
            .build();
        let _ = self.otlp.set(h);
    }
}

/// The unit that a name says, in UCUM as OTLP wants it. What is counted has the unit 1.
pub(super) fn unit(name: &str) -> &'static str {
    let name = name.trim_end_matches("_total");
    if name.ends_with("_seconds") {
        "s"
    } else if name.ends_with("_bytes") {
        "By"
    } else {
        "1"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: Desc = Desc {
        name: "x_total",
        labels: &["k"],
        help: "h",
    };

    #[test]
    fn label_sets_are_bounded() {
        let c = Counter::new(D);
        for i in 0..MAX_SERIES + 10 {
            c.inc(&[&i.to_string()]);
        }
        assert_eq!(c.value(&["other"]), 10);
        assert_eq!(c.total(), u64::try_from(MAX_SERIES).expect("small") + 10);
    }

    #[test]
    fn hostile_label_values_stay_on_their_line() {
        let c = Counter::new(D);
        c.inc(&["a\"\\\nb"]);
        let mut s = String::new();
        c.expose(&mut s);
        assert_eq!(
            s,
            "# HELP x_total h\n# TYPE x_total counter\nx_total{k=\"a\\\"\\\\ b\"} 1\n"
        );
    }

    #[test]
    fn histogram_buckets_are_cumulative() {
        let h = Histogram::new(Desc {
            name: "d_seconds",
            labels: &[],
            help: "h",
        });
        h.observe(&[], std::time::Duration::from_millis(3));
        h.observe(&[], std::time::Duration::from_secs(100));
        let mut s = String::new();
        h.expose(&mut s);
        assert!(s.contains("d_seconds_bucket{le=\"0.005\"} 1\n"), "{s}");
        assert!(s.contains("d_seconds_bucket{le=\"+Inf\"} 2\n"), "{s}");
        assert!(s.contains("d_seconds_count 2\n"), "{s}");
    }
}
