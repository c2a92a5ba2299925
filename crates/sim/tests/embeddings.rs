//! Vectors in virtual time: real router, real use cases, real SQLite, a scripted encoder whose workers die.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use penstock_policy::time::Timestamp;
use penstock_service::config::Timing;
use penstock_service::ports::Clock;
use penstock_sim::{World, vector_of};
use serde_json::{Value, json};
use tower::ServiceExt;

type Answers = Arc<Mutex<Vec<(usize, StatusCode, HeaderMap, Value)>>>;

const TICK: Duration = Duration::from_millis(40);

fn world(seed: u64) -> World {
    let timing = Timing { lease: Duration::from_secs(2), visibility: Duration::from_secs(3), ..Timing::default() };
    World::new(seed, timing, World::wide_limits().unwrap()).unwrap()
}

fn minutes(world: &World, n: u64) -> Timestamp {
    world.kernel.now().after(Duration::from_secs(60 * n))
}

/// Sends a request as a client, and writes down what came back under its number.
fn send(world: &World, answers: &Answers, number: usize, method: &str, path: &str, body: &Value) {
    let router = penstock_service::router(Arc::clone(&world.service));
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("authorization", format!("Bearer {}", world.key))
        .body(Body::from(body.to_string()))
        .unwrap();
    let answers = Arc::clone(answers);
    world.client(async move {
        let (parts, body) = router.oneshot(request).await.unwrap().into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap();
        answers.lock().unwrap().push((number, parts.status, parts.headers, body));
    });
}

fn embed(world: &World, answers: &Answers, number: usize, input: &Value) {
    send(world, answers, number, "POST", "/v1/embeddings", &json!({"model": "scripted-vectors", "input": input}));
}

fn wait(world: &World, answers: &Answers, count: usize) {
    world.kernel.run_until(minutes(world, 10), || answers.lock().unwrap().len() == count);
    assert_eq!(answers.lock().unwrap().len(), count, "every request is answered");
}

fn numbers(body: &Value) -> Vec<Vec<f32>> {
    let data = body["data"].as_array().unwrap();
    data.iter().map(|one| serde_json::from_value(one["embedding"].clone()).unwrap()).collect()
}

#[test]
fn texts_become_vectors_and_large_answers_come_through_a_blob() {
    let mut world = world(1);
    world.start_encoder(4, TICK).unwrap();
    let answers = Answers::default();
    embed(&world, &answers, 0, &json!("abc"));
    // 16 bytes each: beyond 1024 of them a chunk does not hold them.
    let many: Vec<String> = (0..1500).map(|n| format!("{n}")).collect();
    embed(&world, &answers, 1, &json!(many));
    wait(&world, &answers, 2);
    for (number, status, headers, body) in answers.lock().unwrap().iter() {
        assert_eq!(*status, StatusCode::OK, "{body}");
        let texts = if *number == 0 { vec!["abc".to_owned()] } else { many.clone() };
        let expected: Vec<Vec<f32>> = texts.iter().map(|text| vector_of(text).to_vec()).collect();
        assert_eq!(numbers(body), expected);
        let tokens: usize = texts.iter().map(String::len).sum();
        assert_eq!(body["usage"], json!({"prompt_tokens": tokens, "total_tokens": tokens}));
        assert_eq!(headers["x-penstock-served-by"], "fresh");
    }
    let jobs: Vec<String> = answers
        .lock()
        .unwrap()
        .iter()
        .map(|(_, _, headers, _)| headers["x-penstock-job-id"].to_str().unwrap().to_owned())
        .collect();
    let looked = Answers::default();
    for (number, job) in jobs.iter().enumerate() {
        send(&world, &looked, number, "GET", &format!("/v1/jobs/{job}"), &Value::Null);
    }
    wait(&world, &looked, 2);
    for (number, status, _, body) in looked.lock().unwrap().iter() {
        assert_eq!((*status, body["status"].as_str()), (StatusCode::OK, Some("succeeded")));
        assert_eq!(numbers(&body["result"]), numbers(&answers.lock().unwrap()[*number].3), "looked at later");
    }
}

#[test]
fn the_same_texts_are_computed_once_whatever_form_they_are_asked_in() {
    let mut world = world(2);
    let answers = Answers::default();
    for number in 0..6 {
        let format = if number % 2 == 0 { "float" } else { "base64" };
        let body = json!({"model": "scripted-vectors", "input": ["one", "two"], "encoding_format": format});
        send(&world, &answers, number, "POST", "/v1/embeddings", &body);
    }
    let (_, consumer) = world.start_encoder(4, TICK).unwrap();
    wait(&world, &answers, 6);
    let fresh =
        answers.lock().unwrap().iter().filter(|(.., headers, _)| headers.contains_key("x-penstock-job-id")).count();
    assert_eq!((fresh, consumer.running()), (1, 0), "five joined the first");
    for (number, status, _, body) in answers.lock().unwrap().iter() {
        assert_eq!(*status, StatusCode::OK);
        assert_eq!(body["data"][1]["embedding"].is_string(), number % 2 == 1);
    }
}

#[test]
fn a_model_is_asked_at_its_own_route_and_what_is_wrong_is_said() {
    let world = world(3);
    let answers = Answers::default();
    let user = json!([{"role": "user", "content": "hi"}]);
    let wrong = [
        (
            "/v1/chat/completions",
            json!({"model": "scripted-vectors", "messages": user}),
            400,
            "wrong_model_kind",
            "model",
        ),
        ("/v1/embeddings", json!({"model": "scripted", "input": "hi"}), 400, "wrong_model_kind", "model"),
        ("/v1/embeddings", json!({"model": "nothing", "input": "hi"}), 404, "model_not_found", "model"),
        ("/v1/embeddings", json!({"model": "scripted-vectors", "input": []}), 400, "invalid_value", "input"),
        (
            "/v1/embeddings",
            json!({"model": "scripted-vectors", "input": vec!["a"; 2049]}),
            400,
            "invalid_value",
            "input",
        ),
    ];
    for (number, (path, body, ..)) in wrong.iter().enumerate() {
        send(&world, &answers, number, "POST", path, body);
    }
    wait(&world, &answers, wrong.len());
    for (number, status, _, body) in answers.lock().unwrap().iter() {
        let (path, _, expected, code, param) = &wrong[*number];
        let seen = (status.as_u16(), body["error"]["code"].as_str(), body["error"]["param"].as_str());
        assert_eq!(seen, (*expected, Some(*code), Some(*param)), "{path}: {body}");
    }
}

/// Workers die at random moments, before, while and after the vectors are written down; every client gets its vectors.
#[test]
fn whatever_dies_every_client_gets_its_vectors() {
    for seed in 0..60 {
        let mut world = world(seed);
        let answers = Answers::default();
        for number in 0..6 {
            let texts: Vec<String> = (0..=number * 3).map(|n| format!("{number}-{n}")).collect();
            embed(&world, &answers, number, &json!(texts));
        }
        for death in 0..4u64 {
            let (group, _) = world.start_encoder(3, TICK).unwrap();
            let lives = Duration::from_millis(50 + (seed * 37 + death * 211) % 900);
            world.kernel.run_until(world.kernel.now().after(lives), || false);
            world.kernel.kill(group);
        }
        world.start_encoder(3, TICK).unwrap();
        wait(&world, &answers, 6);
        for (number, status, _, body) in answers.lock().unwrap().iter() {
            assert_eq!(*status, StatusCode::OK, "seed {seed}: {body}");
            let expected: Vec<Vec<f32>> =
                (0..=number * 3).map(|n| vector_of(&format!("{number}-{n}")).to_vec()).collect();
            assert_eq!(numbers(body), expected, "seed {seed}, request {number}");
        }
    }
}
