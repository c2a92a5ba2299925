//! Batches in virtual time: every line ends in one of the two files, once, whoever dies on the way; what was done before a
//! cancellation or the end of the window stays done.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use penstock_service::Lane;
use penstock_service::config::Timing;
use penstock_service::ports::Clock;
use penstock_sim::{Group, World};
use serde_json::{Value, json};
use tower::ServiceExt;

const TICK: Duration = Duration::from_millis(40);
const HOUR: Duration = Duration::from_secs(3600);

struct Batches {
    world: World,
    /// The process that does errands and ticks.
    clerk: Group,
}

impl Batches {
    fn new(seed: u64) -> Self {
        let timing = Timing { lease: Duration::from_secs(5), visibility: Duration::from_secs(7), ..Timing::default() };
        let mut world = World::new(seed, timing, World::wide_limits().unwrap()).unwrap();
        let clerk = start_clerk(&mut world);
        Self { world, clerk }
    }

    fn call(&self, request: http::request::Builder, body: impl Into<Body>) -> (StatusCode, Bytes) {
        let key = &self.world.key;
        let request = request.header("authorization", format!("Bearer {key}")).body(body.into()).unwrap();
        let answer = Arc::new(Mutex::new(None));
        let (router, place) = (penstock_service::router(Arc::clone(&self.world.service)), Arc::clone(&answer));
        self.world.client(async move {
            let (parts, body) = router.oneshot(request).await.unwrap().into_parts();
            *place.lock().unwrap() = Some((parts.status, body.collect().await.unwrap().to_bytes()));
        });
        let until = self.world.kernel.now().after(Duration::from_secs(60));
        self.world.kernel.run_until(until, || answer.lock().unwrap().is_some());
        answer.lock().unwrap().take().unwrap()
    }

    fn json(&self, method: Method, path: &str, body: &Value) -> (StatusCode, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (status, bytes) = self.call(Request::builder().method(method).uri(path), body);
        (status, serde_json::from_slice(&bytes).unwrap())
    }

    fn keep(&self, lines: &str) -> String {
        let head = "--X\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n\
                    --X\r\ncontent-disposition: form-data; name=\"file\"; filename=\"in.jsonl\"\r\n\r\n";
        let request = Request::builder()
            .method(Method::POST)
            .uri("/v1/files")
            .header("content-type", "multipart/form-data; boundary=X");
        let (status, bytes) = self.call(request, format!("{head}{lines}\r\n--X--\r\n"));
        assert_eq!(status, StatusCode::OK);
        let file: Value = serde_json::from_slice(&bytes).unwrap();
        file["id"].as_str().unwrap().to_owned()
    }

    fn begin(&self, lines: &str, endpoint: &str, window: &str) -> String {
        let body = json!({"input_file_id": self.keep(lines), "endpoint": endpoint, "completion_window": window,
                          "metadata": {"for": "a test"}});
        let (status, batch) = self.json(Method::POST, "/v1/batches", &body);
        assert_eq!((status, &batch["status"]), (StatusCode::OK, &json!("validating")), "{batch}");
        batch["id"].as_str().unwrap().to_owned()
    }

    fn show(&self, id: &str) -> Value {
        self.json(Method::GET, &format!("/v1/batches/{id}"), &Value::Null).1
    }

    fn pass(&self, time: Duration) {
        let until = self.world.kernel.now().after(time);
        self.world.kernel.run_until(until, || false);
    }

    /// Runs until the batch is over, looking every few seconds.
    fn over(&self, id: &str, most: Duration) -> Value {
        let until = self.world.kernel.now().after(most);
        loop {
            self.pass(Duration::from_secs(5));
            let batch = self.show(id);
            if ["completed", "failed", "expired", "cancelled"].contains(&batch["status"].as_str().unwrap()) {
                return batch;
            }
            assert!(self.world.kernel.now() < until, "{batch}");
        }
    }

    /// The lines of one of the batch's files.
    fn lines(&self, file: &Value) -> Vec<Value> {
        let Some(id) = file.as_str() else { return Vec::new() };
        let (status, bytes) = self.call(Request::builder().uri(format!("/v1/files/{id}/content")), Body::empty());
        assert_eq!(status, StatusCode::OK);
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Asserts that every line has ended once, and that the counts say so; gives both files.
    fn all_ended_once(&self, batch: &Value, total: usize) -> (Vec<Value>, Vec<Value>) {
        let (output, errors) = (self.lines(&batch["output_file_id"]), self.lines(&batch["error_file_id"]));
        let name = |line: &Value| line["custom_id"].as_str().unwrap().to_owned();
        let names: Vec<String> = output.iter().chain(&errors).map(name).collect();
        let once: BTreeSet<&String> = names.iter().collect();
        assert_eq!((names.len(), once.len()), (total, total), "{batch}");
        let expected = json!({"total": total, "completed": output.len(), "failed": errors.len()});
        assert_eq!(batch["request_counts"], expected);
        (output, errors)
    }
}

fn start_clerk(world: &mut World) -> Group {
    let (group, service) = world.start_front();
    let spawner = world.kernel.spawner(group);
    let ticking = Arc::clone(&service);
    spawner.spawn(Box::pin(async move { ticking.control_loop(Duration::from_secs(5)).await }));
    spawner.spawn(Box::pin(Arc::clone(&service).errand_loop(Lane::Short, Duration::from_secs(5))));
    spawner.spawn(Box::pin(service.errand_loop(Lane::Long, Duration::from_secs(2))));
    group
}

/// A line of a batch of conversations; a bad one asks for what its route refuses.
fn line(n: usize, is_bad: bool) -> String {
    let tokens = if is_bad { -1 } else { 8 };
    json!({"custom_id": format!("line-{n}"), "method": "POST", "url": "/v1/chat/completions",
           "body": {"model": "scripted", "max_tokens": tokens, "seed": 1,
                    "messages": [{"role": "user", "content": format!("q{n}")}]}})
    .to_string()
}

fn file(lines: usize, is_bad: impl Fn(usize) -> bool) -> String {
    (0..lines).map(|n| line(n, is_bad(n)) + "\n").collect()
}

#[test]
fn every_line_is_answered_or_refused_in_the_order_of_the_file() {
    let mut batches = Batches::new(1);
    batches.world.start_worker(8, TICK).unwrap();
    let id = batches.begin(&file(700, |n| n % 100 == 7), "/v1/chat/completions", "24h");
    let batch = batches.over(&id, HOUR);
    assert_eq!((&batch["status"], &batch["metadata"]), (&json!("completed"), &json!({"for": "a test"})), "{batch}");
    let (output, errors) = batches.all_ended_once(&batch, 700);
    assert_eq!(errors.len(), 7);
    assert!(errors.iter().all(|line| line["response"]["status_code"] == 400
        && line["response"]["body"]["error"]["param"] == "max_tokens"
        && line["error"].is_null()));
    let mut tokens = 0;
    let mut last = None;
    for line in &output {
        let body = &line["response"]["body"];
        assert_eq!((&line["response"]["status_code"], &body["object"]), (&json!(200), &json!("chat.completion")));
        tokens += body["usage"]["total_tokens"].as_u64().unwrap();
        let place: usize = line["custom_id"].as_str().unwrap()[5..].parse().unwrap();
        assert!(last.replace(place).is_none_or(|last| last < place));
    }
    assert_eq!(batch["usage"]["total_tokens"].as_u64(), Some(tokens));
    for moment in ["in_progress_at", "finalizing_at", "completed_at"] {
        assert!(batch[moment].is_i64(), "{moment}");
    }
    let (status, refused) = batches.json(Method::POST, &format!("/v1/batches/{id}/cancel"), &Value::Null);
    assert_eq!((status, &refused["error"]["code"]), (StatusCode::CONFLICT, &json!("batch_is_over")));
}

#[test]
fn answers_can_be_read_while_the_batch_goes_on() {
    let mut batches = Batches::new(2);
    batches.world.start_worker(1, TICK).unwrap();
    let id = batches.begin(&file(200, |_| false), "/v1/chat/completions", "24h");
    let mut seen = 0;
    loop {
        batches.pass(Duration::from_secs(2));
        let batch = batches.show(&id);
        let lines = batches.lines(&batch["output_file_id"]).len();
        assert!(lines >= seen);
        seen = lines;
        if batch["status"] == "completed" {
            break;
        }
        if (1..200).contains(&lines) {
            return;
        }
    }
    assert_eq!(seen, 0, "answers came only at the end");
}

#[test]
fn a_file_that_is_no_batch_fails_with_every_line_at_fault_named() {
    let batches = Batches::new(3);
    let lines = [
        line(0, false),
        "not json".to_owned(),
        String::new(),
        line(0, false),
        line(1, false).replace("POST", "GET"),
        line(2, false).replace("/v1/chat/completions", "/v1/embeddings"),
    ];
    let id = batches.begin(&lines.join("\n"), "/v1/chat/completions", "1h");
    let batch = batches.over(&id, HOUR);
    assert_eq!(batch["status"], "failed");
    let problem = |problem: &Value| (problem["line"].as_u64().unwrap(), problem["code"].as_str().unwrap().to_owned());
    let problems: Vec<(u64, String)> = batch["errors"]["data"].as_array().unwrap().iter().map(problem).collect();
    let expected = [(2, "invalid_json_line"), (4, "duplicate_custom_id"), (5, "invalid_method"), (6, "mismatched_url")];
    assert_eq!(problems, expected.map(|(line, code)| (line, code.to_owned())));
    let id = batches.begin("\n\n", "/v1/chat/completions", "1h");
    assert_eq!(batches.over(&id, HOUR)["errors"]["data"][0]["code"], "empty_file");
}

#[test]
fn a_cancelled_batch_keeps_what_is_done_and_runs_nothing_more() {
    let mut batches = Batches::new(4);
    batches.world.start_worker(2, TICK).unwrap();
    let id = batches.begin(&file(1_000, |_| false), "/v1/chat/completions", "24h");
    while batches.show(&id)["request_counts"]["completed"].as_u64().unwrap() < 50 {
        batches.pass(Duration::from_secs(1));
    }
    let (_, batch) = batches.json(Method::POST, &format!("/v1/batches/{id}/cancel"), &Value::Null);
    assert_eq!(batch["status"], "cancelling");
    let batch = batches.over(&id, HOUR);
    assert_eq!(batch["status"], "cancelled");
    let (output, errors) = batches.all_ended_once(&batch, 1_000);
    assert!((50..1_000).contains(&output.len()));
    assert!(errors.iter().all(|line| line["error"]["code"] == "batch_cancelled" && line["response"].is_null()));
    let runs = batches.world.runs.all();
    batches.pass(HOUR);
    assert_eq!(batches.world.runs.all(), runs, "a line of a cancelled batch was run");
}

#[test]
fn a_batch_whose_time_is_over_keeps_what_is_done() {
    let mut batches = Batches::new(5);
    let (worker, _) = batches.world.start_worker(2, TICK * 10).unwrap();
    let id = batches.begin(&file(600, |_| false), "/v1/chat/completions", "1h");
    while batches.show(&id)["request_counts"]["completed"].as_u64().unwrap() < 30 {
        batches.pass(Duration::from_secs(1));
    }
    batches.world.kernel.kill(worker);
    let batch = batches.over(&id, HOUR * 2);
    assert_eq!(batch["status"], "expired");
    assert!(batch["expired_at"].as_i64().unwrap() - batch["created_at"].as_i64().unwrap() < 3600 + 300);
    let (output, errors) = batches.all_ended_once(&batch, 600);
    assert!((30..600).contains(&output.len()));
    assert!(errors.iter().all(|line| line["error"]["code"] == "batch_expired"));
}

#[test]
fn whoever_dies_each_line_ends_once() {
    for seed in 100..103 {
        let mut batches = Batches::new(seed);
        batches.world.start_worker(4, TICK).unwrap();
        let id = batches.begin(&file(400, |n| n % 50 == 3), "/v1/chat/completions", "4h");
        for death in 0..6 {
            batches.pass(Duration::from_millis(300 + (seed * 7919 + death * 104_729) % 4_000));
            batches.world.kernel.kill(batches.clerk);
            batches.clerk = start_clerk(&mut batches.world);
        }
        let batch = batches.over(&id, HOUR);
        assert_eq!(batch["status"], "completed", "seed {seed}");
        let (_, errors) = batches.all_ended_once(&batch, 400);
        assert_eq!(errors.len(), 8, "seed {seed}");
    }
}

#[test]
fn each_endpoint_answers_in_its_own_form() {
    let mut batches = Batches::new(6);
    batches.world.start_worker(4, TICK).unwrap();
    batches.world.start_encoder(4, TICK).unwrap();
    for (endpoint, body, object) in [
        ("/v1/completions", json!({"model": "scripted", "prompt": "p", "max_tokens": 4}), "text_completion"),
        ("/v1/embeddings", json!({"model": "scripted-vectors", "input": ["a", "b"]}), "list"),
        ("/v1/responses", json!({"model": "scripted", "input": "i", "max_output_tokens": 4}), "response"),
    ] {
        let of = |n: usize, body: &Value| {
            json!({"custom_id": format!("{n}"), "method": "POST", "url": endpoint, "body": body}).to_string() + "\n"
        };
        let mut unknown = body.clone();
        unknown["model"] = json!("nobody");
        let id = batches.begin(&(of(0, &body) + &of(1, &unknown)), endpoint, "1h");
        let batch = batches.over(&id, HOUR);
        let (output, errors) = batches.all_ended_once(&batch, 2);
        assert_eq!(output[0]["response"]["body"]["object"], object, "{output:?}");
        assert_eq!(errors[0]["response"]["body"]["error"]["code"], "model_not_found", "{errors:?}");
    }
    let refused = json!({"model": "scripted", "stream": true, "messages": [{"role": "user", "content": "x"}]});
    let line = json!({"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": refused});
    let batch = batches.over(&batches.begin(&line.to_string(), "/v1/chat/completions", "1h"), HOUR);
    assert_eq!(batches.lines(&batch["error_file_id"])[0]["response"]["body"]["error"]["param"], "stream");
}

#[test]
fn batches_of_what_is_no_batch_s_file_are_refused_and_batches_are_listed() {
    let batches = Batches::new(7);
    let body = |file: &str| json!({"input_file_id": file, "endpoint": "/v1/embeddings", "completion_window": "1h"});
    let (status, refused) = batches.json(Method::POST, "/v1/batches", &body("file-none"));
    assert_eq!((status, &refused["error"]["code"]), (StatusCode::NOT_FOUND, &json!("file_not_found")));
    let ids: Vec<String> = (0..3)
        .map(|_| {
            batches.pass(Duration::from_millis(5));
            batches.begin("x", "/v1/embeddings", "1h")
        })
        .collect();
    let (_, page) = batches.json(Method::GET, "/v1/batches?limit=2", &Value::Null);
    assert_eq!((&page["data"][0]["id"], &page["has_more"]), (&json!(ids[2]), &json!(true)));
    let (_, page) = batches.json(Method::GET, &format!("/v1/batches?limit=2&after={}", ids[1]), &Value::Null);
    assert_eq!((&page["data"][0]["id"], &page["has_more"]), (&json!(ids[0]), &json!(false)));
}
