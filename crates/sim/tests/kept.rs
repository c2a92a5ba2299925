//! Kept answers, single-flight and retries, in virtual time: what runs, how often, and who is given what.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use penstock_policy::tenant::Caching;
use penstock_policy::time::Timestamp;
use penstock_service::Service;
use penstock_service::config::Timing;
use penstock_service::ports::Clock;
use penstock_sim::{BAD_PROMPT, World, answer_to};
use serde_json::{Value, json};
use tower::ServiceExt;

const TICK: Duration = Duration::from_millis(40);
const MINUTE: Duration = Duration::from_secs(60);

fn world(seed: u64) -> World {
    let timing = Timing { lease: Duration::from_secs(2), visibility: Duration::from_secs(3), ..Timing::default() };
    World::new(seed, timing, World::wide_limits().unwrap()).unwrap()
}

/// What came back.
#[derive(Clone, Debug)]
struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
    /// When it was complete.
    at: Timestamp,
}

impl Reply {
    fn served_by(&self) -> &str {
        self.headers.get("x-penstock-served-by").map_or("", |value| value.to_str().unwrap())
    }

    fn age(&self) -> Option<u64> {
        self.headers.get("age").map(|value| value.to_str().unwrap().parse().unwrap())
    }

    /// The text of the answer, whole or streamed.
    fn text(&self) -> String {
        if let Ok(whole) = serde_json::from_str::<Value>(&self.body) {
            return whole["choices"][0]["message"]["content"].as_str().unwrap_or_default().to_owned();
        }
        let data = self.body.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]");
        let chunks = data.map(|data| serde_json::from_str::<Value>(data).unwrap());
        chunks.filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned)).collect()
    }
}

type Pending = Arc<Mutex<Option<Reply>>>;

/// A question to be asked.
#[derive(Clone)]
struct Question {
    router: Router,
    key: String,
    body: Value,
    headers: Vec<(&'static str, String)>,
}

impl Question {
    fn new(world: &World, prompt: &str) -> Self {
        Self {
            router: penstock_service::router(Arc::clone(&world.service)),
            key: world.key.clone(),
            body: json!({"model": "scripted", "temperature": 0, "messages": [{"role": "user", "content": prompt}]}),
            headers: Vec::new(),
        }
    }

    fn of(self, key: &str) -> Self {
        Self { key: key.to_owned(), ..self }
    }

    fn at(self, front: &Arc<Service>) -> Self {
        Self { router: penstock_service::router(Arc::clone(front)), ..self }
    }

    fn with(mut self, field: &str, value: Value) -> Self {
        self.body[field] = value;
        self
    }

    /// The same, as the stock client sends it when temperature is not set: two runs may differ.
    fn by_chance(mut self) -> Self {
        self.body.as_object_mut().unwrap().remove("temperature");
        self
    }

    fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    fn request(&self) -> Request<Body> {
        let mut request = Request::post("/v1/chat/completions").header("authorization", format!("Bearer {}", self.key));
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        request.body(Body::from(self.body.to_string())).unwrap()
    }

    /// Asks, and goes on; the reply comes in time.
    fn ask(self, world: &World) -> Pending {
        let pending = Pending::default();
        let (out, clock) = (Arc::clone(&pending), world.kernel.clone());
        world.client(async move {
            let response = self.router.clone().oneshot(self.request()).await.unwrap();
            let (parts, body) = response.into_parts();
            let body = match body.collect().await {
                Ok(body) => String::from_utf8(body.to_bytes().to_vec()).unwrap(),
                Err(error) => format!("broken off: {error}"),
            };
            *out.lock().unwrap() = Some(Reply { status: parts.status, headers: parts.headers, body, at: clock.now() });
        });
        pending
    }

    /// Asks, and hangs up after a while.
    fn ask_and_leave(self, world: &World, after: Duration) {
        let clock = world.kernel.clone();
        world.client(async move {
            let asking = Box::pin(async move {
                let response = self.router.clone().oneshot(self.request()).await.unwrap();
                let _ = response.into_body().collect().await;
            });
            let leaving = clock.now().after(after);
            futures_util::future::select(asking, clock.sleep_until(leaving)).await;
        });
    }

    /// Asks, and waits for the reply.
    fn now(self, world: &World) -> Reply {
        let pending = self.ask(world);
        wait(world, 30, || pending.lock().unwrap().is_some());
        pending.lock().unwrap().clone().unwrap()
    }
}

fn wait(world: &World, minutes: u32, done: impl FnMut() -> bool) {
    let until = world.kernel.now().after(MINUTE * minutes);
    assert!(world.kernel.run_until(until, done), "not within {minutes} minutes");
}

fn pass(world: &World, time: Duration) {
    let until = world.kernel.now().after(time);
    world.kernel.run_until(until, || false);
}

#[test]
fn an_answer_is_kept_and_given_from_memory_then_from_the_store_whole_and_streamed() {
    let mut world = world(1);
    world.start_worker(4, TICK).unwrap();
    let fresh = Question::new(&world, "what is kept?").now(&world);
    assert_eq!((fresh.served_by(), fresh.age()), ("fresh", None));
    pass(&world, Duration::from_secs(1));
    // The answer was said before anything was remembered: the first to ask reads the store, the next one's memory knows.
    for (served_by, stream) in [("l2", false), ("l1", true), ("l1", false)] {
        let begun = world.kernel.now();
        let hit = Question::new(&world, "what is kept?").with("stream", json!(stream)).now(&world);
        assert_eq!((hit.status, hit.served_by(), hit.text()), (StatusCode::OK, served_by, answer_to("what is kept?")));
        assert_eq!(hit.at, begun, "a kept answer takes no time");
        assert!(hit.age().is_some_and(|age| age <= 2));
        assert_eq!(hit.body.ends_with("data: [DONE]\n\n"), stream);
        assert!(hit.headers.get("x-penstock-job-id").is_none(), "nobody is told another's job");
    }
    pass(&world, Duration::from_secs(11));
    assert_eq!(Question::new(&world, "what is kept?").now(&world).served_by(), "l2");
    let (_, other) = world.start_front();
    assert_eq!(Question::new(&world, "what is kept?").at(&other).now(&world).served_by(), "l2");
    assert_eq!(world.runs.all(), 1);
}

#[test]
fn a_stream_of_a_kept_answer_has_the_pieces_of_the_first() {
    let mut world = world(2);
    world.start_worker(4, TICK).unwrap();
    let pieces = |reply: &Reply| -> Vec<String> {
        let data = reply.body.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]");
        let chunks = data.map(|data| serde_json::from_str::<Value>(data).unwrap());
        chunks.map(|chunk| chunk["choices"].to_string()).collect()
    };
    let question = Question::new(&world, &"a long question ".repeat(9)).with("stream", json!(true));
    let (fresh, hit) = (question.clone().now(&world), question.now(&world));
    assert_eq!(hit.served_by(), "l2");
    assert!(pieces(&fresh).len() > 5);
    assert_eq!(pieces(&fresh), pieces(&hit));
}

#[test]
fn a_request_says_what_it_wishes_of_kept_answers() {
    let mut world = world(3);
    world.start_worker(4, TICK).unwrap();
    let question = || Question::new(&world, "anything new?");
    let none = question().header("cache-control", "only-if-cached").now(&world);
    assert_eq!((none.status, none.body.contains("not_cached")), (StatusCode::GATEWAY_TIMEOUT, true));
    question().now(&world);
    pass(&world, Duration::from_secs(60));
    assert_eq!(question().header("cache-control", "only-if-cached").now(&world).served_by(), "l2");
    assert_eq!(question().header("cache-control", "max-age=90").now(&world).age(), Some(60));
    assert_eq!(question().header("cache-control", "no-store").now(&world).served_by(), "fresh");
    assert_eq!(world.runs.all(), 2, "what must not be stored is run, and leaves the kept answer as it is");
    assert_eq!(question().now(&world).age(), Some(60));
    assert_eq!(question().header("cache-control", "no-cache").now(&world).served_by(), "fresh");
    pass(&world, Duration::from_secs(11));
    assert_eq!(question().now(&world).age(), Some(11), "the new answer has replaced the old one");
    assert_eq!(question().header("cache-control", "max-age=5").now(&world).served_by(), "fresh");
    assert_eq!(world.runs.all(), 4);
}

#[test]
fn nothing_is_kept_of_who_wants_nothing_kept() {
    let mut world = world(4);
    world.start_worker(4, TICK).unwrap();
    let off = world.add_tenant("off", |tenant| tenant.caching = Caching::Off).unwrap();
    let secretive = world.add_tenant("secretive", |tenant| tenant.retention.store = false).unwrap();
    for (key, store) in [(off, true), (secretive, true), (world.key.clone(), false)] {
        let before = world.runs.all();
        for _ in 0..2 {
            let question = Question::new(&world, "a secret").of(&key);
            let question = if store { question } else { question.with("store", json!(false)) };
            let reply = question.now(&world);
            assert_eq!((reply.served_by(), reply.text()), ("fresh", answer_to("a secret")));
            pass(&world, Duration::from_secs(1));
        }
        assert_eq!(world.runs.all(), before + 2);
    }
}

#[test]
fn a_tenant_that_wants_all_kept_has_answers_by_chance_kept_too() {
    let mut world = world(5);
    world.start_worker(4, TICK).unwrap();
    let all = world.add_tenant("all", |tenant| tenant.caching = Caching::All).unwrap();
    for (key, runs) in [(&all, 1), (&world.key.clone(), 2)] {
        let before = world.runs.all();
        for _ in 0..2 {
            Question::new(&world, "by chance").by_chance().of(key).now(&world);
            pass(&world, Duration::from_secs(1));
        }
        assert_eq!(world.runs.all(), before + runs);
    }
}

#[test]
fn what_would_fail_again_is_told_again_for_a_minute_without_a_run() {
    let mut world = world(6);
    world.start_worker(4, TICK).unwrap();
    let question = || Question::new(&world, &format!("what is a {BAD_PROMPT}"));
    let first = question().now(&world);
    assert_eq!(first.status, StatusCode::BAD_REQUEST);
    pass(&world, Duration::from_secs(15));
    let again = question().now(&world);
    assert_eq!((again.status, again.served_by(), world.runs.all()), (StatusCode::BAD_REQUEST, "", 1));
    pass(&world, 2 * MINUTE);
    question().now(&world);
    assert_eq!(world.runs.all(), 2);
}

/// One hit in the last tenth refreshes; everybody is given the old answer meanwhile, from however many processes.
#[test]
fn an_answer_that_is_asked_for_is_refreshed_by_one_run_before_it_ends_and_lives_longer_then() {
    for seed in 0..6 {
        let mut world = world(100 + seed);
        world.start_worker(4, TICK).unwrap();
        let fronts: Vec<Arc<Service>> = (0..3).map(|_| world.start_front().1).collect();
        Question::new(&world, "hot").now(&world);
        let begun = world.kernel.now();
        // Asked once a second at each front: far beyond two lives of at most 6.5 minutes, doubled once.
        let mut renewed_at = Vec::new();
        while world.kernel.now().since(begun) < 20 * MINUTE {
            let runs = world.runs.all();
            let replies: Vec<Pending> =
                fronts.iter().map(|front| Question::new(&world, "hot").at(front).ask(&world)).collect();
            pass(&world, Duration::from_secs(1));
            for reply in replies {
                let reply = reply.lock().unwrap().clone().unwrap();
                assert!(matches!(reply.served_by(), "l1" | "l2"), "seed {seed}: {}", reply.served_by());
                assert_eq!(reply.text(), answer_to("hot"));
            }
            if world.runs.all() > runs {
                assert_eq!(world.runs.all(), runs + 1, "seed {seed}: one run a refresh");
                renewed_at.push(world.kernel.now().since(begun));
            }
        }
        assert!((2..=3).contains(&renewed_at.len()), "seed {seed}: {renewed_at:?}");
        assert!(renewed_at[1] - renewed_at[0] > renewed_at[0], "seed {seed}: what stays the same lives longer");
    }
}

#[test]
fn when_an_answer_has_ended_those_who_ask_at_once_share_one_run() {
    let mut world = world(8);
    world.start_worker(8, TICK).unwrap();
    Question::new(&world, "all at once").now(&world);
    pass(&world, 10 * MINUTE);
    let pending: Vec<Pending> = (0..50).map(|_| Question::new(&world, "all at once").ask(&world)).collect();
    wait(&world, 5, || pending.iter().all(|reply| reply.lock().unwrap().is_some()));
    assert_eq!(world.runs.all(), 2);
}

#[test]
fn memory_answers_while_the_store_is_out_and_older_answers_are_better_than_none() {
    let mut world = world(9);
    world.start_worker(4, TICK).unwrap();
    Question::new(&world, "known").now(&world);
    pass(&world, Duration::from_secs(1));
    assert_eq!(Question::new(&world, "known").now(&world).served_by(), "l2");
    world.adversary.set_out(true);
    assert_eq!(Question::new(&world, "known").now(&world).served_by(), "l1");
    pass(&world, Duration::from_secs(30));
    assert_eq!(Question::new(&world, "known").now(&world).served_by(), "l1", "still fresh, though the store is silent");
    let unknown = Question::new(&world, "unknown").now(&world);
    assert_eq!(unknown.status, StatusCode::SERVICE_UNAVAILABLE);
    // A minute is how long the records of keys and tenants are known without the store.
    world.adversary.set_out(false);
    pass(&world, 10 * MINUTE);
    Question::new(&world, "warm the records up").now(&world);
    world.adversary.set_out(true);
    let stale = Question::new(&world, "known").now(&world);
    assert_eq!((stale.served_by(), stale.text()), ("stale", answer_to("known")));
    assert!(stale.age().is_some_and(|age| age > 600));
    let young = Question::new(&world, "known").header("cache-control", "max-age=60").now(&world);
    assert_eq!(young.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[test]
fn an_answer_past_its_end_is_given_when_the_pool_is_full() {
    let mut world = world(10);
    let (worker, _) = world.start_worker(4, TICK).unwrap();
    let known = || Question::new(&world, "what is it that everybody asks?");
    known().now(&world);
    pass(&world, 10 * MINUTE);
    world.kernel.kill(worker);
    pass(&world, MINUTE);
    // Without workers the pool is taken for 200 tokens a second: five minutes of that fill the queue of the class.
    // The large ones first; and no time passes, in which the queue would drain.
    let mut filling: Vec<Pending> = Vec::new();
    for (count, tokens) in [(15, 4000), (150, 32)] {
        let ask =
            |n| Question::new(&world, &format!("fill {tokens} {n}")).with("max_tokens", json!(tokens)).ask(&world);
        filling.extend((0..count).map(ask));
        pass(&world, Duration::ZERO);
    }
    let refused = |reply: &Pending| reply.lock().unwrap().as_ref().is_some_and(|reply| reply.status.as_u16() == 503);
    assert!(filling.iter().skip(15).any(refused));
    let stale = known().now(&world);
    assert_eq!((stale.status, stale.served_by()), (StatusCode::OK, "stale"), "{}", stale.body);
}

#[test]
fn hits_are_settled_in_arrears_and_refused_once_the_limit_is_reached() {
    let mut world = world(11);
    world.start_worker(4, TICK).unwrap();
    let key = world
        .add_tenant("small", |tenant| tenant.limits.requests = penstock_policy::gcra::Limit::per_minute(60).unwrap())
        .unwrap();
    let question = || Question::new(&world, "again").of(&key);
    question().now(&world);
    pass(&world, Duration::from_secs(60));
    let mut statuses = Vec::new();
    for _ in 0..400 {
        statuses.push(question().now(&world).status.as_u16());
        pass(&world, Duration::from_millis(50));
    }
    let given = statuses.iter().filter(|status| **status == 200).count();
    // 60 at once and 20 in the 20 seconds since, and at most 20 that were not yet counted each time the limit was met.
    assert!((60..=130).contains(&given), "{given} given");
    assert!(statuses.contains(&429));
}

#[test]
fn a_thousand_identical_requests_at_once_are_one_run() {
    let mut world = world(12);
    world.start_worker(4, TICK).unwrap();
    let fronts: Vec<Arc<Service>> = (0..4).map(|_| world.start_front().1).collect();
    let pending: Vec<Pending> = (0..1_000)
        .map(|n| Question::new(&world, "the same").at(&fronts[n % 4]).with("stream", json!(n % 3 == 0)).ask(&world))
        .collect();
    wait(&world, 10, || pending.iter().all(|reply| reply.lock().unwrap().is_some()));
    for reply in pending {
        let reply = reply.lock().unwrap().clone().unwrap();
        assert_eq!((reply.status, reply.text()), (StatusCode::OK, answer_to("the same")));
    }
    assert_eq!(world.runs.all(), 1);
}

/// The front that leads is killed after a random number of its steps, and so is the worker: whatever each had done by then,
/// those who wait at another front get the answer of one run, or of one that takes over.
#[test]
fn when_the_leader_dies_at_any_step_the_others_get_one_answer() {
    for seed in 0..80 {
        let mut world = world(1_000 + seed);
        world.start_worker(4, TICK).unwrap();
        let (leading, leader) = world.start_front();
        let (_, other) = world.start_front();
        let question = Question::new(&world, "leader").at(&leader);
        let router = question.router.clone();
        let request = question.request();
        world.kernel.spawner(leading).spawn(Box::pin(async move {
            let _ = router.oneshot(request).await;
        }));
        let mut steps = world.kernel.below(40);
        world.kernel.run_until(world.kernel.now().after(Duration::from_secs(20)), || {
            steps = steps.saturating_sub(1);
            steps == 0
        });
        world.kernel.kill(leading);
        let pending: Vec<Pending> = (0..5).map(|_| Question::new(&world, "leader").at(&other).ask(&world)).collect();
        wait(&world, 5, || pending.iter().all(|reply| reply.lock().unwrap().is_some()));
        for reply in &pending {
            assert_eq!(reply.lock().unwrap().clone().unwrap().text(), answer_to("leader"), "seed {seed}");
        }
        assert_eq!(world.runs.all(), 1, "seed {seed}");
    }
}

#[test]
fn a_retry_takes_over_the_job_its_client_has_lost() {
    for seed in 0..30 {
        let mut world = world(2_000 + seed);
        world.start_worker(4, TICK).unwrap();
        let (_, other) = world.start_front();
        let prompt = "x".repeat(200);
        let question = || Question::new(&world, &prompt).by_chance();
        // Anywhere between the first step and long after the end.
        question().ask_and_leave(&world, Duration::from_millis(world.kernel.below(20_000)));
        pass(&world, Duration::from_millis(world.kernel.below(25_000)));
        let question = if seed % 2 == 0 { question() } else { question().at(&other) };
        let retry = question.header("x-stainless-retry-count", "1").now(&world);
        assert_eq!((retry.status, retry.text()), (StatusCode::OK, answer_to(&prompt)), "seed {seed}");
        assert_eq!(world.runs.all(), 1, "seed {seed}");
    }
}

#[test]
fn the_retry_of_a_client_whose_front_died_waits_until_the_hold_lapses() {
    let mut world = world(13);
    world.start_worker(4, Duration::from_millis(400)).unwrap();
    let (dying, front) = world.start_front();
    let prompt = "y".repeat(150);
    let question = || Question::new(&world, &prompt).by_chance();
    let (router, request) = (penstock_service::router(front), question().request());
    world.kernel.spawner(dying).spawn(Box::pin(async move {
        let _ = router.oneshot(request).await.map(axum::response::Response::into_body).unwrap().collect().await;
    }));
    pass(&world, Duration::from_secs(5));
    world.kernel.kill(dying);
    let retry = question().header("x-stainless-retry-count", "1").now(&world);
    assert_eq!((retry.text(), world.runs.all()), (answer_to(&prompt), 1));
}

#[test]
fn two_who_ask_the_same_by_chance_get_a_run_each_and_their_retries_none_of_the_others() {
    let mut world = world(14);
    world.start_worker(4, TICK).unwrap();
    let question = || Question::new(&world, "dice").by_chance();
    let pending = [question().ask(&world), question().ask(&world)];
    wait(&world, 1, || pending.iter().all(|reply| reply.lock().unwrap().is_some()));
    assert_eq!(world.runs.all(), 2);
    pass(&world, Duration::from_secs(1));
    // Both were delivered, so nobody can tell whose retry this is.
    question().header("x-stainless-retry-count", "1").now(&world);
    assert_eq!(world.runs.all(), 3);
}

#[test]
fn an_answer_is_given_to_one_retry_and_no_more() {
    let mut world = world(15);
    world.start_worker(4, TICK).unwrap();
    let question = || Question::new(&world, "once").by_chance();
    question().now(&world);
    pass(&world, Duration::from_secs(1));
    let retry = || question().header("x-stainless-retry-count", "1").now(&world);
    retry();
    pass(&world, Duration::from_secs(1));
    assert_eq!(world.runs.all(), 1);
    retry();
    assert_eq!(world.runs.all(), 2);
}

#[test]
fn what_its_tenant_keeps_for_clients_that_left_runs_to_its_end() {
    let mut world = world(16);
    let (_, consumer) = world.start_worker(1, Duration::from_secs(1)).unwrap();
    let keeper = world.add_tenant("keeper", |tenant| tenant.keep_orphans = true).unwrap();
    let prompt = "z".repeat(300);
    Question::new(&world, &prompt).by_chance().of(&keeper).ask_and_leave(&world, Duration::from_secs(5));
    pass(&world, 3 * MINUTE);
    assert_eq!(consumer.running(), 1, "long after the grace");
    pass(&world, 3 * MINUTE);
    let retry = Question::new(&world, &prompt).by_chance().of(&keeper).header("x-stainless-retry-count", "1");
    let reply = retry.now(&world);
    assert_eq!((reply.text(), world.runs.all()), (answer_to(&prompt), 1));
}

/// Another tenant's every request, by key, by retry, by idempotency key, by id, meets nothing of the first one's: neither
/// a byte nor a run saved nor a moment sooner.
#[test]
fn no_tenant_ever_meets_anothers_answer() {
    for seed in 0..30 {
        let mut world = world(3_000 + seed);
        world.start_worker(4, TICK).unwrap();
        let mallory = world.add_tenant("mallory", |tenant| tenant.caching = Caching::All).unwrap();
        let prompt = format!("private {}", world.kernel.below(9));
        let shape = |question: Question, world: &World| match world.kernel.below(4) {
            0 => question,
            1 => question.by_chance(),
            2 => question.header("idempotency-key", "shared"),
            _ => question.by_chance().header("x-stainless-retry-count", "1"),
        };
        let mine: Vec<Reply> = (0..3).map(|_| shape(Question::new(&world, &prompt), &world).now(&world)).collect();
        pass(&world, Duration::from_millis(world.kernel.below(40_000)));
        let runs = world.runs.all();
        let begun = world.kernel.now();
        let theirs = shape(Question::new(&world, &prompt).of(&mallory), &world).now(&world);
        assert_eq!((theirs.served_by(), world.runs.all()), ("fresh", runs + 1), "seed {seed}: a run of its own");
        let took = theirs.at.since(begun);
        assert!(took >= TICK * u32::try_from(prompt.len()).unwrap(), "seed {seed}: {took:?} is no run");
        for reply in &mine {
            let Some(id) = reply.headers.get("x-penstock-job-id") else { continue };
            let path = format!("/v1/jobs/{}", id.to_str().unwrap());
            let (router, key) = (penstock_service::router(Arc::clone(&world.service)), mallory.clone());
            let status = Arc::new(Mutex::new(None));
            let out = Arc::clone(&status);
            world.client(async move {
                let request = Request::get(path).header("authorization", format!("Bearer {key}"));
                *out.lock().unwrap() =
                    Some(router.oneshot(request.body(Body::empty()).unwrap()).await.unwrap().status());
            });
            wait(&world, 1, || status.lock().unwrap().is_some());
            assert_eq!(*status.lock().unwrap(), Some(StatusCode::NOT_FOUND), "seed {seed}");
        }
    }
}

#[test]
fn prepared_questions_are_answered_before_anybody_asks_and_for_everybody() {
    let mut world = world(17);
    world.start_worker(4, TICK).unwrap();
    let other = world.add_tenant("other", |_| {}).unwrap();
    let off = world.add_tenant("off", |tenant| tenant.caching = Caching::Off).unwrap();
    let question = || Question::new(&world, "when do you open?").by_chance();
    let list = format!("{}\n\nnot json\n", question().body);
    let prepare = || {
        let (service, list, out) = (Arc::clone(&world.service), list.clone(), Arc::new(Mutex::new(None)));
        let report = Arc::clone(&out);
        world.client(async move { *report.lock().unwrap() = Some(service.preload(&list).await.unwrap()) });
        wait(&world, 1, || out.lock().unwrap().is_some());
        out.lock().unwrap().clone().unwrap()
    };
    let report = prepare();
    assert_eq!((report.questions, report.asked, report.failed.len()), (2, 1, 1));
    pass(&world, MINUTE);
    assert_eq!(prepare().ready, 1);
    pass(&world, MINUTE);
    for (key, served_by) in [(&world.key, "l2"), (&other, "l1"), (&off, "fresh")] {
        let reply = question().of(key).now(&world);
        assert_eq!((reply.served_by(), reply.text()), (served_by, answer_to("when do you open?")), "{key}");
    }
    let runs = world.runs.all();
    assert_eq!(runs, 2, "one ahead, one for the tenant that wants no kept answers");
    assert_eq!(Question::new(&world, "when do you close?").of(&other).now(&world).served_by(), "fresh");
    // Looked after once a minute, the answer never ends; it is refreshed about once an hour.
    for _ in 0..180 {
        pass(&world, MINUTE);
        prepare();
        assert!(matches!(question().of(&other).now(&world).served_by(), "l1" | "l2"));
    }
    let refreshed = world.runs.of("when do you open?") - 2;
    assert!((1..=4).contains(&refreshed), "{refreshed}");
}
