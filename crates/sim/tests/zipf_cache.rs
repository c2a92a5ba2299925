//! The trace of `scenarios/zipf_cache.json` through the whole service: how many requests need no run, and that what is
//! asked for most is run once for each of its lives, whatever burst meets its end.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a test may stop at the first surprise, and prints its figures"
)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use penstock_policy::cache::BASE;
use penstock_policy::time::Timestamp;
use penstock_service::config::Timing;
use penstock_service::ports::{Clock, Entropy};
use penstock_sim::{World, answer_to};
use serde_json::{Value, json};
use tower::ServiceExt;

const SCENARIO: &str = include_str!("../scenarios/zipf_cache.json");
const TICK: Duration = Duration::from_millis(40);

/// What came of the requests.
#[derive(Default)]
struct Outcome {
    asked: u64,
    served_by: BTreeMap<String, u64>,
    wrong: Vec<String>,
}

struct Scenario(Value);

impl Scenario {
    fn number(&self, name: &str) -> f64 {
        self.0.pointer(name).and_then(Value::as_f64).unwrap()
    }

    /// The share of requests that are for each question or an earlier one.
    fn cumulated(&self) -> Vec<f64> {
        let weight = |rank: u32| f64::from(rank).powf(-self.number("/exponent"));
        let count = self.number("/questions") as u32;
        let all: f64 = (1..=count).map(weight).sum();
        (1..=count)
            .scan(0.0, |sum, rank| {
                *sum += weight(rank) / all;
                Some(*sum)
            })
            .collect()
    }

    fn rate(&self, since_start: Duration) -> f64 {
        let within = since_start.as_secs_f64() % self.number("/burst/every_s");
        let factor = if within < self.number("/burst/lasts_s") { self.number("/burst/times") } else { 1.0 };
        self.number("/requests_per_second") * factor
    }
}

fn question(rank: usize) -> String {
    format!("question {rank}")
}

fn uniform(world: &World) -> f64 {
    (world.kernel.draw() >> 75) as f64 / (1u64 << 53) as f64
}

fn ask(world: &World, front: usize, fronts: &[axum::Router], prompt: String, outcome: &Arc<Mutex<Outcome>>) {
    let body = json!({"model": "scripted", "temperature": 0, "messages": [{"role": "user", "content": prompt}]});
    let request = Request::post("/v1/chat/completions")
        .header("authorization", format!("Bearer {}", world.key))
        .body(Body::from(body.to_string()))
        .unwrap();
    let (router, outcome) = (fronts[front].clone(), Arc::clone(outcome));
    world.client(async move {
        let response = router.oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body: Value = serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap();
        let mut outcome = outcome.lock().unwrap();
        outcome.asked += 1;
        if parts.status == StatusCode::OK && body["choices"][0]["message"]["content"] == answer_to(&prompt).as_str() {
            let served_by = parts.headers["x-penstock-served-by"].to_str().unwrap().to_owned();
            *outcome.served_by.entry(served_by).or_default() += 1;
        } else {
            outcome.wrong.push(body.to_string());
        }
    });
}

#[test]
fn on_a_zipf_trace_with_bursts_nine_in_ten_need_no_run_and_hot_answers_one_a_life() {
    let scenario = Scenario(serde_json::from_str(SCENARIO).unwrap());
    let timing = Timing { lease: Duration::from_secs(2), visibility: Duration::from_secs(3), ..Timing::default() };
    let mut world = World::new(77, timing, World::wide_limits().unwrap()).unwrap();
    for _ in 0..scenario.number("/workers") as u32 {
        world.start_worker(scenario.number("/slots") as u32, TICK).unwrap();
    }
    let fronts: Vec<axum::Router> =
        (0..scenario.number("/fronts") as u32).map(|_| penstock_service::router(world.start_front().1)).collect();
    let (cumulated, outcome) = (scenario.cumulated(), Arc::new(Mutex::new(Outcome::default())));
    let begun = world.kernel.now();
    let ends = begun.after(Duration::from_secs(60) * scenario.number("/minutes") as u32);
    let mut asked = 0;
    while world.kernel.now() < ends {
        let gap = -(1.0 - uniform(&world)).ln() / scenario.rate(world.kernel.now().since(begun));
        world.kernel.run_until(world.kernel.now().after(Duration::from_secs_f64(gap)), || false);
        let drawn = uniform(&world);
        let rank = cumulated.partition_point(|share| *share < drawn).min(cumulated.len() - 1);
        ask(&world, asked as usize % fronts.len(), &fronts, question(rank), &outcome);
        asked += 1;
    }
    assert!(
        world.kernel.run_until(world.kernel.now().after(Duration::from_secs(60)), || {
            outcome.lock().unwrap().asked == asked
        })
    );
    let outcome = outcome.lock().unwrap();
    assert!(outcome.wrong.is_empty(), "{:?}", outcome.wrong.first());
    let without = 1.0 - world.runs.all() as f64 / asked as f64;
    println!(
        "{asked} requests, {} runs: {:.1} % needed none; {:?}",
        world.runs.all(),
        without * 100.0,
        outcome.served_by
    );
    let bar = scenario.number("/share_without_a_run_at_least");
    assert!(without >= bar, "{without:.3} of the requests needed no run, of {bar}");
    check_lives(&world, 20, ends.since(begun));
}

/// A life is 0.7 of the base at least, of which the last fifth is for refreshing: two runs of a question that is asked for
/// all the time are never closer, and no burst makes more of them.
fn check_lives(world: &World, hottest: usize, took: Duration) {
    let shortest = BASE.mul_f64(0.7 * 0.8);
    for rank in 0..hottest {
        let runs: Vec<Timestamp> = world.runs.times(&question(rank));
        println!("rank {rank}: {} runs", runs.len());
        assert!(!runs.is_empty());
        for pair in runs.windows(2) {
            let apart = pair[1].since(pair[0]);
            assert!(apart >= shortest, "rank {rank}: two runs within {apart:?}");
        }
        // Lives double while nothing changes: 5, 10, 20 minutes.
        let most = 1 + (took.as_secs_f64() / BASE.as_secs_f64() / 0.56).log2().ceil() as usize + 1;
        assert!(runs.len() <= most, "rank {rank}: {} runs", runs.len());
    }
}
