//! Metrics as lines of a log, in CloudWatch's embedded metric format: no call, no agent, nothing to wait for.
//!
//! Format: <https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>.
//! Every series that CloudWatch makes is billed, so only stage, pool, class and outcome are dimensions; the other labels
//! stand in the line, where Logs Insights finds them. A series is billed for each hour in which it is sent anything, so one
//! that rests at zero is not sent: after something else its zero is told once. What is missing reads as nothing.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value, json};

use super::{Label, Meter, Metric, Unit};
use crate::ports::Clock;

/// The namespace of all metrics.
pub const NAMESPACE: &str = "Penstock";

/// Writes a line a record.
pub struct Emf {
    stage: String,
    clock: Arc<dyn Clock>,
    out: Mutex<Box<dyn Write + Send>>,
    /// The series that were last something else than zero: as many as pools have classes and outcomes.
    stirring: Mutex<BTreeSet<String>>,
}

impl Emf {
    /// Writes to `out`, which a Lambda function's log is made of, as the stage of that name.
    #[must_use]
    pub fn new(stage: &str, clock: Arc<dyn Clock>, out: Box<dyn Write + Send>) -> Self {
        Self { stage: stage.to_owned(), clock, out: Mutex::new(out), stirring: Mutex::default() }
    }

    /// Whether a record says nothing that the last one of its series has not said.
    fn rests(&self, labels: &[(Label, &str)], values: &[(Metric, f64)]) -> bool {
        let dimensions = labels.iter().filter(|(label, _)| is_dimension(*label)).map(|(_, value)| *value);
        let series: Vec<&str> = dimensions.chain(values.iter().map(|(metric, _)| metric.name())).collect();
        let mut stirring = self.stirring.lock().unwrap_or_else(PoisonError::into_inner);
        if values.iter().any(|(_, value)| *value != 0.0) {
            stirring.insert(series.join(" "));
            return false;
        }
        !stirring.remove(&series.join(" "))
    }

    fn line(&self, labels: &[(Label, &str)], values: &[(Metric, f64)]) -> Value {
        let mut dimensions = vec!["stage"];
        let mut line = Map::new();
        line.insert("stage".to_owned(), json!(self.stage));
        for (label, value) in labels {
            if is_dimension(*label) {
                dimensions.push(label.name());
            }
            line.insert(label.name().to_owned(), json!(value));
        }
        let metrics: Vec<Value> =
            values.iter().map(|(metric, _)| json!({"Name": metric.name(), "Unit": unit(metric.unit())})).collect();
        for (metric, value) in values {
            line.insert(metric.name().to_owned(), json!(value));
        }
        let about = json!({"Namespace": NAMESPACE, "Dimensions": [dimensions], "Metrics": metrics});
        let aws = json!({"Timestamp": self.clock.now().as_millis(), "CloudWatchMetrics": [about]});
        line.insert("_aws".to_owned(), aws);
        Value::Object(line)
    }
}

impl Meter for Emf {
    fn record(&self, labels: &[(Label, &str)], values: &[(Metric, f64)]) {
        if self.rests(labels, values) {
            return;
        }
        // In one write: lines of several threads must not run into each other.
        let line = format!("{}\n", self.line(labels, values));
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        // A log that cannot be written has nowhere to say so.
        let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
    }
}

/// Whether CloudWatch makes series of it.
#[must_use]
pub const fn is_dimension(label: Label) -> bool {
    match label {
        Label::Pool | Label::Class | Label::Outcome => true,
        Label::Route | Label::Status | Label::ServedBy => false,
    }
}

const fn unit(unit: Unit) -> &'static str {
    match unit {
        Unit::Count => "Count",
        Unit::Seconds => "Seconds",
        Unit::PerSecond => "Count/Second",
        Unit::Plain => "None",
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use penstock_policy::time::Timestamp;

    use super::*;

    struct Still;

    #[async_trait]
    impl Clock for Still {
        fn now(&self) -> Timestamp {
            Timestamp::from_millis(1_700_000_000_000)
        }

        async fn sleep_until(&self, _: Timestamp) {}
    }

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_rests_at_zero_is_told_once_and_not_again() {
        let written = Shared::default();
        let emf = Emf::new("dev", Arc::new(Still), Box::new(written.clone()));
        let lines = || String::from_utf8(written.0.lock().unwrap().clone()).unwrap().lines().count();
        let backlog = |pool: &str, jobs: f64| {
            emf.record(&[(Label::Pool, pool)], &[(Metric::Backlog, jobs), (Metric::BacklogTokens, 0.0)]);
        };
        backlog("main", 0.0);
        assert_eq!(lines(), 0);
        backlog("main", 2.0);
        backlog("other", 0.0);
        assert_eq!(lines(), 1);
        backlog("main", 0.0);
        backlog("main", 0.0);
        assert_eq!(lines(), 2);
    }

    #[test]
    fn a_record_is_one_line_with_few_dimensions_and_all_labels() {
        let written = Shared::default();
        let emf = Emf::new("dev", Arc::new(Still), Box::new(written.clone()));
        let labels = [(Label::Route, "/v1/models"), (Label::Pool, "main")];
        emf.record(&labels, &[(Metric::Requests, 1.0), (Metric::FirstByte, 0.25)]);
        emf.record(&[], &[(Metric::ControlTicks, 1.0)]);
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let expected = json!({
            "stage": "dev", "route": "/v1/models", "pool": "main", "requests": 1.0, "first_byte_seconds": 0.25,
            "_aws": {"Timestamp": 1_700_000_000_000i64, "CloudWatchMetrics": [{
                "Namespace": "Penstock", "Dimensions": [["stage", "pool"]],
                "Metrics": [{"Name": "requests", "Unit": "Count"}, {"Name": "first_byte_seconds", "Unit": "Seconds"}],
            }]},
        });
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0], expected);
        assert_eq!(lines[1]["_aws"]["CloudWatchMetrics"][0]["Dimensions"], json!([["stage"]]));
    }
}
