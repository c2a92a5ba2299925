//! The whole service in virtual time: real router, real use cases, real SQLite, scripted engine.
#![expect(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test may stop at the first surprise")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use penstock_policy::gcra::Limit;
use penstock_policy::time::Timestamp;
use penstock_service::config::Timing;
use penstock_service::ports::{Clock, TenantLimits};
use penstock_sim::{World, answer_to, choice_of};
use serde_json::{Value, json};
use tower::ServiceExt;

type Answers = Arc<Mutex<Vec<(String, StatusCode, String)>>>;

const TICK: Duration = Duration::from_millis(40);

fn timing() -> Timing {
    Timing { lease: Duration::from_secs(2), visibility: Duration::from_secs(3), ..Timing::default() }
}

fn world(seed: u64) -> World {
    World::new(seed, timing(), World::wide_limits().unwrap()).unwrap()
}

fn minutes(world: &World, n: u64) -> Timestamp {
    world.kernel.now().after(Duration::from_secs(60 * n))
}

async fn post(world_router: axum::Router, key: String, body: Value) -> (StatusCode, http::HeaderMap, String) {
    let request = Request::post("/v1/chat/completions")
        .header("authorization", format!("Bearer {key}"))
        .body(Body::from(body.to_string()))
        .unwrap();
    let response = world_router.oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let text = match body.collect().await {
        Ok(body) => String::from_utf8(body.to_bytes().to_vec()).unwrap(),
        Err(error) => format!("broken off: {error}"),
    };
    (parts.status, parts.headers, text)
}

/// Asks as a client, and writes down what came back.
fn ask(world: &World, answers: &Answers, prompt: &str, extra: Value) {
    let router = penstock_service::router(Arc::clone(&world.service));
    let (key, answers, prompt) = (world.key.clone(), Arc::clone(answers), prompt.to_owned());
    let mut body = json!({"model": "scripted", "messages": [{"role": "user", "content": prompt}]});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    world.client(async move {
        let (status, _, text) = post(router, key, body).await;
        answers.lock().unwrap().push((prompt, status, text));
    });
}

/// The text of an answer, whole or streamed.
fn said(body: &str) -> String {
    if let Ok(whole) = serde_json::from_str::<Value>(body) {
        return whole["choices"][0]["message"]["content"].as_str().unwrap_or_default().to_owned();
    }
    assert!(body.ends_with("data: [DONE]\n\n"), "a stream ends with [DONE]: {body}");
    body.lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .filter(|data| *data != "[DONE]")
        .map(|data| serde_json::from_str::<Value>(data).unwrap())
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
        .collect()
}

fn expect_all_right(answers: &Answers, count: usize, seed: u64) {
    let answers = answers.lock().unwrap();
    assert_eq!(answers.len(), count, "seed {seed}: every request is answered");
    for (prompt, status, body) in answers.iter() {
        assert_eq!(*status, StatusCode::OK, "seed {seed}: {body}");
        assert_eq!(said(body), answer_to(prompt), "seed {seed}");
    }
}

#[test]
fn a_request_is_answered_whole_and_streamed() {
    let mut world = world(1);
    world.start_worker(4, TICK).unwrap();
    let answers = Answers::default();
    ask(&world, &answers, "hello", json!({}));
    ask(&world, &answers, "wörld ✓", json!({"stream": true}));
    world.kernel.run_until(minutes(&world, 1), || answers.lock().unwrap().len() == 2);
    expect_all_right(&answers, 2, 1);
}

#[test]
fn requests_wait_for_a_worker_that_comes_later_and_a_stream_says_it_is_alive() {
    let mut world = world(2);
    let answers = Answers::default();
    ask(&world, &answers, "early", json!({"stream": true}));
    world.kernel.run_until(minutes(&world, 1), || false);
    assert!(answers.lock().unwrap().is_empty());
    world.start_worker(4, TICK).unwrap();
    world.kernel.run_until(minutes(&world, 1), || answers.lock().unwrap().len() == 1);
    expect_all_right(&answers, 1, 2);
    let alive = answers.lock().unwrap()[0].2.matches(": keep-alive").count();
    assert!((3..=6).contains(&alive), "one comment each 10 s after the first 10 s: {alive}");
}

/// What each comment of a stream that waits says: how many are ahead, and for how many milliseconds more.
fn waits_told(body: &str) -> Vec<(u64, u64)> {
    let said = |line: &str| {
        let (position, eta) = line.strip_prefix(": keep-alive position=")?.split_once(" eta_ms=")?;
        Some((position.parse().ok()?, eta.parse().ok()?))
    };
    body.lines().filter_map(said).collect()
}

#[test]
fn a_stream_that_waits_is_told_how_many_are_ahead_and_how_long_it_takes_and_neither_grows() {
    let mut world = world(4);
    world.start_worker(1, Duration::from_millis(500)).unwrap();
    world.kernel.run_until(minutes(&world, 1), || false);
    let answers = Answers::default();
    for n in 0..6 {
        ask(&world, &answers, &format!("a question of some length, number {n}"), json!({"stream": true}));
        world.kernel.run_until(world.kernel.now().after(Duration::from_millis(100)), || false);
    }
    world.kernel.run_until(minutes(&world, 30), || answers.lock().unwrap().len() == 6);
    let answers = answers.lock().unwrap();
    assert_eq!(answers.len(), 6);
    let (.., last) = answers.iter().find(|(prompt, ..)| prompt.ends_with(" 5")).unwrap();
    let told = waits_told(last);
    assert!(told.len() >= 3 && told.len() == last.matches(": keep-alive").count(), "{last}");
    assert!(told[0].0 > 0 && told.windows(2).all(|pair| pair[1] <= pair[0]), "{told:?}");
}

#[test]
fn a_client_that_we_broke_off_from_finds_its_job_again_and_if_it_does_not_come_the_job_ends() {
    let mut world = world(5);
    let answers = Answers::default();
    // Not deterministic: only a retry may take the job over.
    for prompt in ["comes back", "stays away"] {
        ask(&world, &answers, prompt, json!({"temperature": 1}));
    }
    world.kernel.run_until(world.kernel.now().after(Duration::from_secs(5)), || false);
    world.adversary.set_refusing(true);
    world.kernel.run_until(minutes(&world, 10), || answers.lock().unwrap().len() == 2);
    world.adversary.set_refusing(false);
    for (_, status, body) in answers.lock().unwrap().drain(..) {
        let broken = status == StatusCode::INTERNAL_SERVER_ERROR || body.starts_with("broken off");
        assert!(broken, "{status}: {body}");
    }
    world.kernel.run_until(world.kernel.now().after(Duration::from_secs(30)), || false);
    let retry = Request::post("/v1/chat/completions").header("x-stainless-retry-count", "1");
    let body = json!({"model": "scripted", "messages": [{"role": "user", "content": "comes back"}], "temperature": 1});
    let request = retry.header("authorization", format!("Bearer {}", world.key));
    let request = request.body(Body::from(body.to_string())).unwrap();
    let (router, again) = (penstock_service::router(Arc::clone(&world.service)), Arc::new(Mutex::new(None)));
    let heard = Arc::clone(&again);
    world.client(async move {
        let response = router.oneshot(request).await.unwrap();
        *heard.lock().unwrap() = Some((response.status(), response.headers().clone()));
    });
    // The grace of the other ends before a worker comes.
    world.kernel.run_until(world.kernel.now().after(Duration::from_secs(40)), || false);
    world.start_worker(2, TICK).unwrap();
    world.kernel.run_until(minutes(&world, 5), || again.lock().unwrap().is_some());
    world.kernel.run_until(minutes(&world, 1), || false);
    let (status, headers) = again.lock().unwrap().clone().unwrap();
    assert_eq!((status, headers["x-penstock-served-by"].to_str().unwrap()), (StatusCode::OK, "fresh"));
    assert_eq!(world.runs.of("comes back"), 1);
    assert_eq!(world.runs.of("stays away"), 0, "nobody waited for it any more");
}

#[test]
fn a_whole_answer_that_takes_long_begins_with_blank_lines() {
    let mut world = world(3);
    let answers = Answers::default();
    ask(&world, &answers, "patience", json!({}));
    world.kernel.run_until(minutes(&world, 5), || false);
    world.start_worker(1, TICK).unwrap();
    world.kernel.run_until(minutes(&world, 5), || answers.lock().unwrap().len() == 1);
    expect_all_right(&answers, 1, 3);
    assert!(answers.lock().unwrap()[0].2.starts_with("\n\n"));
}

/// Workers die at random moments, with and without successors; whatever the interleaving, every client hears the
/// whole text once.
#[test]
fn whatever_dies_every_client_hears_the_whole_text_once() {
    for seed in 0..300 {
        let mut world = world(seed);
        let answers = Answers::default();
        let count = 6;
        for n in 0..count {
            let prompt: String =
                (0..20 + world.kernel.below(60)).map(|i| char::from(b'a' + ((i + n) % 26) as u8)).collect();
            ask(&world, &answers, &prompt, json!({"stream": n % 2 == 0}));
        }
        let mut groups = vec![world.start_worker(2, TICK).unwrap().0, world.start_worker(3, TICK).unwrap().0];
        // Two deaths: a job that outlives three workers is given up, which the next test shows.
        for _ in 0..2 {
            let pause = Duration::from_millis(world.kernel.below(3000));
            world.kernel.run_until(world.kernel.now().after(pause), || false);
            let victim = groups.swap_remove(world.kernel.below(groups.len() as u64) as usize);
            world.kernel.kill(victim);
            groups.push(world.start_worker(2, TICK).unwrap().0);
        }
        world.kernel.run_until(minutes(&world, 10), || answers.lock().unwrap().len() == count as usize);
        expect_all_right(&answers, count as usize, seed);
    }
}

/// The texts of all answers to a request, whole or streamed, and how often log probabilities were told of their tokens.
fn choices_of(body: &str, count: usize) -> Vec<(String, usize)> {
    let mut choices = vec![(String::new(), 0); count];
    let pieces: Vec<Value> = match serde_json::from_str::<Value>(body) {
        Ok(whole) => vec![whole],
        Err(_) => {
            let data = body.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]");
            data.map(|data| serde_json::from_str(data).unwrap()).collect()
        }
    };
    for choice in pieces.iter().flat_map(|piece| piece["choices"].as_array().unwrap()) {
        let (text, told) = &mut choices[choice["index"].as_u64().unwrap() as usize];
        let said = if choice["delta"].is_object() { &choice["delta"] } else { &choice["message"] };
        *text += said["content"].as_str().unwrap_or_default();
        *told += choice["logprobs"]["content"].as_array().map_or(0, Vec::len);
    }
    choices
}

/// One job, several answers: each goes on where it stood when a worker died, and the client hears each whole and once.
#[test]
fn whatever_dies_every_one_of_several_answers_is_heard_whole_and_once() {
    for seed in 0..100 {
        let mut world = world(seed);
        let answers = Answers::default();
        let count = 4;
        for n in 0..count {
            let prompt: String =
                (0..20 + world.kernel.below(60)).map(|i| char::from(b'a' + ((i + n) % 26) as u8)).collect();
            ask(&world, &answers, &prompt, json!({"stream": n % 2 == 0, "n": n + 1, "logprobs": n > 1}));
        }
        let mut groups = vec![world.start_worker(2, TICK).unwrap().0, world.start_worker(3, TICK).unwrap().0];
        for _ in 0..2 {
            let pause = Duration::from_millis(world.kernel.below(3000));
            world.kernel.run_until(world.kernel.now().after(pause), || false);
            let victim = groups.swap_remove(world.kernel.below(groups.len() as u64) as usize);
            world.kernel.kill(victim);
            groups.push(world.start_worker(2, TICK).unwrap().0);
        }
        world.kernel.run_until(minutes(&world, 10), || answers.lock().unwrap().len() == count as usize);
        let answers = answers.lock().unwrap();
        assert_eq!(answers.len(), count as usize, "seed {seed}");
        for (prompt, status, body) in answers.iter() {
            assert_eq!(*status, StatusCode::OK, "seed {seed}: {body}");
            let wanted = body.matches("\"finish_reason\":\"stop\"").count();
            assert!((1..=4).contains(&wanted));
            let choices = choices_of(body, wanted);
            let logprobs = wanted > 2;
            for (choice, (text, told)) in (0..).zip(&choices) {
                assert_eq!(*text, choice_of(prompt, choice), "seed {seed}");
                assert_eq!(*told, if logprobs { text.chars().count() } else { 0 }, "seed {seed}");
            }
        }
    }
}

#[test]
fn the_prompt_of_several_answers_is_charged_once() {
    let mut world = world(17);
    world.start_worker(4, TICK).unwrap();
    let answers = Answers::default();
    ask(&world, &answers, "hello", json!({"n": 3}));
    world.kernel.run_until(minutes(&world, 1), || answers.lock().unwrap().len() == 1);
    let body: Value = serde_json::from_str(&answers.lock().unwrap()[0].2).unwrap();
    assert_eq!(
        (body["usage"]["prompt_tokens"].as_u64(), body["usage"]["completion_tokens"].as_u64()),
        (Some(5), Some(17))
    );
    assert_eq!(body["usage"]["total_tokens"], 22);
}

#[test]
fn a_request_that_outlives_three_workers_is_given_up_and_says_so() {
    let mut world = world(4);
    let answers = Answers::default();
    ask(&world, &answers, &"deadly".repeat(50), json!({}));
    for _ in 0..3 {
        let (group, _) = world.start_worker(1, TICK).unwrap();
        world.kernel.run_until(world.kernel.now().after(Duration::from_secs(5)), || false);
        world.kernel.kill(group);
    }
    world.start_worker(1, TICK).unwrap();
    world.kernel.run_until(minutes(&world, 2), || answers.lock().unwrap().len() == 1);
    let (_, status, body) = answers.lock().unwrap()[0].clone();
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["error"]["code"], "poison");
}

#[test]
fn a_drained_worker_finishes_what_it_has_and_takes_nothing_more() {
    let mut world = world(5);
    let answers = Answers::default();
    ask(&world, &answers, &"x".repeat(50), json!({}));
    let (_, consumer) = world.start_worker(1, TICK).unwrap();
    let begun = world.kernel.now();
    world.kernel.run_until(begun.after(Duration::from_millis(500)), || false);
    consumer.drain();
    ask(&world, &answers, "too late", json!({}));
    world.kernel.run_until(begun.after(Duration::from_secs(30)), || false);
    expect_all_right(&answers, 1, 5);
    assert_eq!(consumer.running(), 0);
}

#[test]
fn the_same_deterministic_request_runs_once_however_often_it_is_asked() {
    let mut world = world(6);
    world.start_worker(4, TICK).unwrap();
    let answers = Answers::default();
    for n in 0..20 {
        ask(&world, &answers, "the same question", json!({"temperature": 0, "stream": n % 3 == 0}));
    }
    world.kernel.run_until(minutes(&world, 1), || answers.lock().unwrap().len() == 20);
    expect_all_right(&answers, 20, 6);
    let router = penstock_service::router(Arc::clone(&world.service));
    let key = world.key.clone();
    let seen = Arc::new(Mutex::new(None));
    let out = Arc::clone(&seen);
    world.client(async move {
        let body = json!({"model": "scripted", "temperature": 0, "messages": [{"role": "user", "content": "the same question"}]});
        *out.lock().unwrap() = Some(post(router, key, body).await);
    });
    let begun = world.kernel.now();
    world.kernel.run_until(minutes(&world, 1), || seen.lock().unwrap().is_some());
    let (status, headers, _) = seen.lock().unwrap().clone().unwrap();
    assert_eq!((status, headers["x-penstock-served-by"].to_str().unwrap()), (StatusCode::OK, "l2"));
    assert_eq!(world.kernel.now(), begun, "an answer that is known takes no time");
}

#[test]
fn the_request_limit_is_exact_and_says_when_to_come_back() {
    let limits = TenantLimits { requests: Limit::per_minute(10).unwrap(), ..World::wide_limits().unwrap() };
    let mut world = World::new(7, timing(), limits).unwrap();
    world.start_worker(4, TICK).unwrap();
    let answers = Answers::default();
    for n in 0..30 {
        ask(&world, &answers, &format!("question {n}"), json!({}));
    }
    world.kernel.run_until(minutes(&world, 1), || answers.lock().unwrap().len() == 30);
    let refused: Vec<Value> = answers
        .lock()
        .unwrap()
        .iter()
        .filter(|(_, status, _)| *status == StatusCode::TOO_MANY_REQUESTS)
        .map(|(_, _, body)| serde_json::from_str(body).unwrap())
        .collect();
    assert_eq!(refused.len(), 20);
    assert_eq!(refused[0]["error"]["code"], "rate_limit_exceeded");
}

#[test]
fn tokens_that_were_reserved_and_not_used_are_given_back() {
    // Each request reserves 5 + 32 tokens and uses 5 + 5; ten of them fit only if the rest comes back.
    let limits = TenantLimits { tokens: Limit::per_minute(140).unwrap(), ..World::wide_limits().unwrap() };
    let mut world = World::new(8, timing(), limits).unwrap();
    world.start_worker(4, TICK).unwrap();
    for n in 0..10 {
        let answers = Answers::default();
        ask(&world, &answers, &format!("abcd{n}"), json!({}));
        world.kernel.run_until(minutes(&world, 1), || answers.lock().unwrap().len() == 1);
        expect_all_right(&answers, 1, 8);
    }
}

#[test]
fn a_dry_run_states_the_promise_on_every_route_and_takes_nothing() {
    let mut world = world(6);
    world.start_worker(2, TICK).unwrap();
    let chat = json!({"model": "scripted", "messages": [{"role": "user", "content": "how long would it take"}]});
    let response = json!({"model": "scripted", "input": "how long would it take"});
    let completion = json!({"model": "scripted", "prompt": "how long would it take"});
    let heard = Arc::new(Mutex::new(Vec::new()));
    for (path, body) in [("/v1/chat/completions", chat), ("/v1/responses", response), ("/v1/completions", completion)] {
        let (router, heard) = (penstock_service::router(Arc::clone(&world.service)), Arc::clone(&heard));
        let request = Request::post(path).header("authorization", format!("Bearer {}", world.key));
        let request = request.header("x-penstock-dry-run", "1").body(Body::from(body.to_string())).unwrap();
        world.client(async move {
            let response = router.oneshot(request).await.unwrap();
            let (parts, body) = response.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            heard.lock().unwrap().push((path, parts.status, serde_json::from_slice::<Value>(&body).unwrap()));
        });
    }
    world.kernel.run_until(minutes(&world, 1), || heard.lock().unwrap().len() == 3);
    for (path, status, quote) in heard.lock().unwrap().iter() {
        assert_eq!((*status, &quote["object"]), (StatusCode::OK, &json!("quote")), "{path}: {quote}");
        assert!(quote["eta_ms_50"].as_u64() <= quote["eta_ms_95"].as_u64() && quote["position"] == 0, "{quote}");
    }
    world.kernel.run_until(minutes(&world, 1), || false);
    assert_eq!(world.runs.all(), 0);
}

#[test]
fn a_client_that_hangs_up_stops_the_engine_after_a_grace() {
    let mut world = world(9);
    let (_, consumer) = world.start_worker(1, Duration::from_secs(1)).unwrap();
    let router = penstock_service::router(Arc::clone(&world.service));
    let key = world.key.clone();
    let body = json!({"model": "scripted", "stream": true, "messages": [{"role": "user", "content": "x".repeat(600)}]});
    let (clock, hung_up) = (world.kernel.clone(), Arc::new(Mutex::new(false)));
    let flag = Arc::clone(&hung_up);
    world.client(async move {
        let request = Request::post("/v1/chat/completions").header("authorization", format!("Bearer {key}"));
        let response = router.oneshot(request.body(Body::from(body.to_string())).unwrap()).await.unwrap();
        clock.sleep_until(clock.now().after(Duration::from_secs(5))).await;
        drop(response);
        *flag.lock().unwrap() = true;
    });
    world.kernel.run_until(minutes(&world, 1), || *hung_up.lock().unwrap());
    assert_eq!(consumer.running(), 1, "the grace has only begun");
    let cancelled_by = world.kernel.now().after(Duration::from_secs(60 + 2));
    assert!(world.kernel.run_until(cancelled_by, || consumer.running() == 0));
}

#[test]
fn a_request_that_no_worker_takes_ends_at_its_due_moment() {
    let world = world(13);
    let answers = Answers::default();
    ask(&world, &answers, "anybody there?", json!({"stream": true, "service_tier": "priority"}));
    world.kernel.run_until(minutes(&world, 30), || answers.lock().unwrap().len() == 1);
    let (_, status, body) = answers.lock().unwrap()[0].clone();
    assert_eq!(status, StatusCode::OK, "committed after the hold");
    assert!(body.contains("\"code\":\"timeout\""), "{body}");
}

#[test]
fn a_stream_of_urgent_work_does_not_wear_out_the_messages_behind_it() {
    let mut world = world(14);
    world.start_worker(1, TICK).unwrap();
    let answers = Answers::default();
    for n in 0..60 {
        let tier = if n % 15 == 0 { "default" } else { "priority" };
        ask(&world, &answers, &format!("question {n}"), json!({"service_tier": tier}));
    }
    world.kernel.run_until(minutes(&world, 5), || answers.lock().unwrap().len() == 60);
    expect_all_right(&answers, 60, 14);
}

#[test]
fn a_pool_that_answers_shorter_than_asked_does_not_take_itself_for_full() {
    let mut world = world(15);
    world.start_worker(4, TICK).unwrap();
    // Each reserves 3,000 of the 30,000 tokens that a backlog of five minutes is, and uses 20.
    for n in 0..30 {
        let answers = Answers::default();
        ask(&world, &answers, &format!("question {n:2}"), json!({"max_tokens": 3000}));
        world.kernel.run_until(minutes(&world, 1), || answers.lock().unwrap().len() == 1);
        expect_all_right(&answers, 1, 15);
    }
}

#[test]
fn a_worker_that_reads_a_long_prompt_in_silence_keeps_its_claim() {
    let mut world = world(16);
    world.start_worker(1, TICK).unwrap();
    let router = penstock_service::router(Arc::clone(&world.service));
    let key = world.key.clone();
    let seen = Arc::new(Mutex::new(None));
    let out = Arc::clone(&seen);
    let prompt = "x".repeat(4000);
    let begun = world.kernel.now();
    world.client(async move {
        let body = json!({"model": "scripted", "max_tokens": 90, "messages": [{"role": "user", "content": prompt}]});
        *out.lock().unwrap() = Some(post(router, key, body).await);
    });
    world.kernel.run_until(minutes(&world, 10), || seen.lock().unwrap().is_some());
    assert_eq!(seen.lock().unwrap().as_ref().unwrap().0, StatusCode::OK);
    // 100 ticks of reading and 4,000 of saying; a second claim would read again, after the lease.
    let ticks = world.kernel.now().since(begun).as_millis() / TICK.as_millis();
    assert!((4100..4150).contains(&ticks), "{ticks}");
}

#[test]
fn an_idempotency_key_joins_the_same_request_and_refuses_another() {
    let mut world = world(10);
    world.start_worker(2, TICK).unwrap();
    let results = Arc::new(Mutex::new(Vec::new()));
    for (n, text) in ["first", "first", "second"].into_iter().enumerate() {
        let router = penstock_service::router(Arc::clone(&world.service));
        let (key, out) = (world.key.clone(), Arc::clone(&results));
        world.client(async move {
            let body = json!({"model": "scripted", "messages": [{"role": "user", "content": text}]});
            let request = Request::post("/v1/chat/completions")
                .header("authorization", format!("Bearer {key}"))
                .header("idempotency-key", "k1")
                .body(Body::from(body.to_string()))
                .unwrap();
            let status = router.oneshot(request).await.unwrap().status();
            out.lock().unwrap().push((text, status));
        });
        world.kernel.run_until(minutes(&world, 1), || results.lock().unwrap().len() == n + 1);
    }
    let results = results.lock().unwrap();
    assert_eq!(results[..], [("first", StatusCode::OK), ("first", StatusCode::OK), ("second", StatusCode::CONFLICT)]);
}

#[test]
fn what_is_no_good_request_leaves_nothing_behind() {
    let world = world(11);
    let answers = Arc::new(Mutex::new(Vec::new()));
    let bodies: Vec<(String, u16)> = vec![
        ("{".into(), 400),
        (json!({"model": "nope", "messages": [{"role": "user", "content": "a"}]}).to_string(), 404),
        (json!({"model": "scripted", "messages": []}).to_string(), 400),
        (
            json!({"model": "scripted", "max_tokens": 5000, "messages": [{"role": "user", "content": "a"}]})
                .to_string(),
            400,
        ),
        ("[".repeat(100_000), 400),
        ("x".repeat(10_000_000), 413),
    ];
    for (body, expected) in bodies {
        let router = penstock_service::router(Arc::clone(&world.service));
        let (key, answers) = (world.key.clone(), Arc::clone(&answers));
        world.client(async move {
            let request = Request::post("/v1/chat/completions").header("authorization", format!("Bearer {key}"));
            let response = router.oneshot(request.body(Body::from(body)).unwrap()).await.unwrap();
            let status = response.status().as_u16();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            let error: Value = serde_json::from_slice(&body).unwrap();
            assert!(error["error"]["message"].is_string());
            answers.lock().unwrap().push((status, expected));
        });
    }
    world.kernel.run_until(minutes(&world, 1), || answers.lock().unwrap().len() == 6);
    for (status, expected) in answers.lock().unwrap().iter() {
        assert_eq!(status, expected);
    }
    assert_eq!(answers.lock().unwrap().len(), 6);
}

#[test]
fn a_wrong_key_is_refused_without_saying_why() {
    let world = world(12);
    let answers = Answers::default();
    for key in [world.key.replace("ps_", "ps_x"), format!("{}x", world.key), "nonsense".to_owned()] {
        let router = penstock_service::router(Arc::clone(&world.service));
        let answers = Arc::clone(&answers);
        world.client(async move {
            let (status, _, text) = post(router, key, json!({})).await;
            answers.lock().unwrap().push((String::new(), status, text));
        });
    }
    world.kernel.run_until(minutes(&world, 1), || answers.lock().unwrap().len() == 3);
    assert!(answers.lock().unwrap().iter().all(|(_, status, _)| *status == StatusCode::UNAUTHORIZED));
}
