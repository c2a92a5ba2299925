//! Spans sent to a collector over OTLP/HTTP, in its JSON form: <https://opentelemetry.io/docs/specs/otlp/#otlphttp>.
//!
//! Written here and not taken from the OpenTelemetry SDK, because all that is needed of it is this one message, and what it
//! brings along would make every Lambda function's cold start longer. `tests/observability` reads the message with
//! the SDK's own types.
//!
//! What cannot be sent is dropped and said once in the log: a trace is never worth a request.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::spans::{Side, Span, Tracer, Value};
use crate::ports::Clock;

/// Spans that wait to be sent; more are dropped, the oldest first.
const MOST_WAITING: usize = 4096;

/// Spans in one call.
const BATCH: usize = 512;

/// How long a collector may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Sends spans to one collector.
pub struct Otlp {
    url: String,
    client: reqwest::Client,
    resource: Json,
    share: f64,
    waiting: Mutex<VecDeque<Span>>,
    unwell: AtomicBool,
}

impl Otlp {
    /// Sends to the collector at `endpoint` (`http://127.0.0.1:4318`), as the program `name` of the stage `stage`, the
    /// share `share` of traces that begin here.
    ///
    /// # Errors
    /// If no HTTP client can be made.
    pub fn new(endpoint: &str, name: &str, stage: &str, share: f64) -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .timeout(PATIENCE)
            .user_agent(concat!("penstock/", env!("CARGO_PKG_VERSION")))
            .build()?;
        let resource = json!({"attributes": [
            attribute("service.name", &Value::from(name)),
            attribute("service.namespace", &Value::from("penstock")),
            attribute("service.version", &Value::from(env!("CARGO_PKG_VERSION"))),
            attribute("deployment.environment.name", &Value::from(stage)),
        ]});
        let url = format!("{}/v1/traces", endpoint.trim_end_matches('/'));
        Ok(Self { url, client, resource, share, waiting: Mutex::default(), unwell: AtomicBool::new(false) })
    }

    /// Sends what waits.
    pub async fn flush(&self) {
        loop {
            let batch: Vec<Span> = {
                let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                let size = waiting.len().min(BATCH);
                waiting.drain(..size).collect()
            };
            if batch.is_empty() {
                return;
            }
            let body = export(&self.resource, &batch).to_string();
            let sent = self.client.post(&self.url).header(http::header::CONTENT_TYPE, "application/json").body(body);
            let problem = match sent.send().await.and_then(reqwest::Response::error_for_status) {
                Ok(_) => None,
                Err(error) => Some(error.without_url().to_string()),
            };
            let was_unwell = self.unwell.swap(problem.is_some(), Ordering::Relaxed);
            if let Some(problem) = problem.filter(|_| !was_unwell) {
                tracing::warn!(problem, "traces are lost: the collector does not take them");
            }
        }
    }

    /// Sends what waits, every `every`, for ever.
    pub async fn flush_every(&self, every: Duration, clock: &dyn Clock) {
        loop {
            clock.sleep_until(clock.now().after(every)).await;
            self.flush().await;
        }
    }
}

impl Tracer for Otlp {
    fn share(&self) -> f64 {
        self.share
    }

    fn record(&self, span: Span) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= MOST_WAITING {
            waiting.pop_front();
        }
        waiting.push_back(span);
    }
}

/// The message `ExportTraceServiceRequest`. In its JSON form ids are hexadecimal and 64-bit numbers are text.
fn export(resource: &Json, spans: &[Span]) -> Json {
    let spans: Vec<Json> = spans.iter().map(written).collect();
    json!({"resourceSpans": [{"resource": resource, "scopeSpans": [{"scope": {"name": "penstock"}, "spans": spans}]}]})
}

fn written(span: &Span) -> Json {
    let attributes: Vec<Json> = span.attributes.iter().map(|(name, value)| attribute(name, value)).collect();
    let kind = match span.side {
        Side::Internal => 1,
        Side::Server => 2,
        Side::Consumer => 5,
    };
    let mut written = json!({
        "traceId": format!("{:032x}", span.context.trace()),
        "spanId": format!("{:016x}", span.context.span()),
        "name": span.name,
        "kind": kind,
        "startTimeUnixNano": span.begun.as_nanos().to_string(),
        "endTimeUnixNano": span.ended.as_nanos().to_string(),
        "attributes": attributes,
    });
    if let Some(parent) = span.parent {
        written["parentSpanId"] = json!(format!("{parent:016x}"));
    }
    if let Some(why) = &span.failed {
        written["status"] = json!({"code": 2, "message": why});
    }
    written
}

fn attribute(name: &str, value: &Value) -> Json {
    let value = match value {
        Value::Text(text) => json!({"stringValue": text}),
        Value::Number(number) => json!({"intValue": number.to_string()}),
    };
    json!({"key": name, "value": value})
}

#[cfg(test)]
mod tests {
    use penstock_policy::time::Timestamp;
    use penstock_policy::trace::TraceContext;

    use super::*;

    #[test]
    fn what_nobody_takes_does_not_grow_without_end() {
        let otlp = Otlp::new("http://127.0.0.1:1", "worker", "dev", 1.0).unwrap();
        let span = |n: u64| Span {
            context: TraceContext::new(1, n, true),
            parent: None,
            name: "request".to_owned(),
            side: Side::Server,
            begun: Timestamp::EPOCH,
            ended: Timestamp::EPOCH,
            failed: None,
            attributes: Vec::new(),
        };
        (0..10_000).for_each(|n| otlp.record(span(n)));
        assert_eq!(otlp.waiting.lock().unwrap().len(), MOST_WAITING);
    }
}
