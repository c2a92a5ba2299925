//! Metrics as sums that Prometheus scrapes, in the OpenMetrics text format.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::{Kind, Label, Meter, Metric, Unit};

type Labels = Vec<(&'static str, String)>;

enum Series {
    Counter(Family<Labels, Counter<f64, AtomicU64>>),
    Gauge(Family<Labels, Gauge<f64, AtomicU64>>),
    Histogram(Family<Labels, Histogram, fn() -> Histogram>),
}

/// Keeps the sums of all that was recorded.
pub struct Prometheus {
    registry: Registry,
    series: BTreeMap<Metric, Series>,
}

impl Default for Prometheus {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("penstock");
        let series = Metric::ALL.map(|metric| {
            let (name, help) = (metric.name(), metric.help());
            let series = match metric.kind() {
                Kind::Counter => {
                    let family = Family::default();
                    registry.register(name, help, Family::clone(&family));
                    Series::Counter(family)
                }
                Kind::Gauge => {
                    let family = Family::default();
                    registry.register(name, help, Family::clone(&family));
                    Series::Gauge(family)
                }
                Kind::Histogram => {
                    let family = Family::new_with_constructor(buckets(metric.unit()));
                    registry.register(name, help, Family::clone(&family));
                    Series::Histogram(family)
                }
            };
            (metric, series)
        });
        Self { registry, series: BTreeMap::from(series) }
    }
}

/// Waits run from a millisecond to hours; other distributions are of multiples.
fn buckets(unit: Unit) -> fn() -> Histogram {
    match unit {
        Unit::Seconds => || Histogram::new(exponential_buckets(0.001, 2.0, 23)),
        Unit::Count | Unit::PerSecond | Unit::Plain => {
            || Histogram::new([0.5, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0])
        }
    }
}

impl Prometheus {
    /// Everything as text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

impl Meter for Prometheus {
    fn record(&self, labels: &[(Label, &str)], values: &[(Metric, f64)]) {
        let labels: Labels = labels.iter().map(|(label, value)| (label.name(), (*value).to_owned())).collect();
        for (metric, value) in values {
            match self.series.get(metric) {
                Some(Series::Counter(family)) => drop(family.get_or_create(&labels).inc_by(value.max(0.0))),
                Some(Series::Gauge(family)) => drop(family.get_or_create(&labels).set(*value)),
                Some(Series::Histogram(family)) => family.get_or_create(&labels).observe(*value),
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_add_up_gauges_stand_and_times_are_distributed() {
        let metrics = Prometheus::default();
        let labels = [(Label::Pool, "main"), (Label::Class, "p1")];
        for wait in [0.0015, 0.5] {
            metrics.record(&labels, &[(Metric::Jobs, 1.0), (Metric::Dwell, wait), (Metric::Backlog, wait * 10.0)]);
        }
        let text = metrics.text();
        for line in [
            "penstock_jobs_total{pool=\"main\",class=\"p1\"} 2.0",
            "penstock_backlog_jobs{pool=\"main\",class=\"p1\"} 5.0",
            "penstock_dwell_seconds_count{pool=\"main\",class=\"p1\"} 2",
            "penstock_dwell_seconds_bucket{le=\"0.002\",pool=\"main\",class=\"p1\"} 1",
        ] {
            assert!(text.lines().any(|printed| printed == line), "{line} is not in\n{text}");
        }
    }
}
