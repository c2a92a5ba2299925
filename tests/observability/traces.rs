//! One trace from a client's own span through the queue to the worker and back, as a collector gets it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::routing::post;
use harness::server::Home;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use serde_json::json;

/// What a collector was sent, as OpenTelemetry's own types read it.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

impl Collector {
    /// Listens on a free port; its address.
    async fn listen(&self) -> String {
        let taken = Arc::clone(&self.0);
        let take = move |body: String| {
            let taken = Arc::clone(&taken);
            async move {
                taken.lock().unwrap().push(serde_json::from_str(&body).unwrap());
                "{}"
            }
        };
        let router = Router::new().route("/v1/traces", post(take));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(axum::serve(listener, router).into_future());
        format!("http://{address}")
    }

    fn spans(&self) -> Vec<Span> {
        let taken = self.0.lock().unwrap();
        let scopes = taken.iter().flat_map(|message| &message.resource_spans).flat_map(|of| &of.scope_spans);
        scopes.flat_map(|scope| scope.spans.clone()).collect()
    }
}

#[tokio::test]
async fn a_clients_trace_goes_through_the_queue_to_the_worker_and_names_no_word_of_the_prompt() {
    let collector = Collector::default();
    let endpoint = collector.listen().await;
    let home = Home::new();
    // No trace begins here: only what the client traces is kept.
    let server = home.up(&["--otlp", &endpoint, "--trace-share", "0"]);
    assert!(server.client.ask("task-int4", "C:5=", false).await.text().contains('5'));
    let (trace, parent) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
    let body = json!({"model": "task-int4", "temperature": 0, "messages": [{"role": "user", "content": "R:38291="}]});
    let url = format!("{}/v1/chat/completions", server.ready["url"].as_str().unwrap());
    let request = reqwest::Client::new().post(url).bearer_auth(server.ready["api_key"].as_str().unwrap());
    let request = request.header("traceparent", format!("00-{trace}-{parent}-01")).body(body.to_string());
    let text = request.send().await.unwrap().text().await.unwrap();
    assert!(text.contains("19283"), "{text}");
    let mut spans = Vec::new();
    for _ in 0..100 {
        spans = collector.spans();
        if spans.len() >= 3 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let named =
        |name: &str| spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("{name}: {spans:#?}"));
    let hex = |id: &[u8]| id.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let (request, queue, run) = (named("POST /v1/chat/completions"), named("queue"), named("run"));
    assert_eq!(spans.len(), 3, "{spans:#?}");
    assert!(spans.iter().all(|span| hex(&span.trace_id) == trace));
    assert_eq!(hex(&request.parent_span_id), parent);
    for of_job in [queue, run] {
        assert_eq!(of_job.parent_span_id, request.span_id);
        assert!(of_job.start_time_unix_nano >= request.start_time_unix_nano);
    }
    assert_eq!(queue.end_time_unix_nano, run.start_time_unix_nano);
    assert!(run.attributes.iter().any(|attribute| attribute.key == "gen_ai.usage.output_tokens"));
    assert!(!format!("{:?}", collector.0.lock().unwrap()).contains("38291"));
}
