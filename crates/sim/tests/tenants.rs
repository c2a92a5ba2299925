//! What a tenant sees of its own work and nobody else of it: usage, explanations, jobs.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may stop at the first surprise")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use futures_util::FutureExt;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use penstock_policy::classes::Class;
use penstock_policy::cost::{Price, UsdMicros};
use penstock_policy::id::TenantId;
use penstock_service::config::Timing;
use penstock_service::ports::{Clock, Entropy, Pool, Tenant};
use penstock_service::{ApiKey, OperatorKey, Service};
use penstock_sim::World;
use serde_json::{Value, json};
use tower::ServiceExt;

const TICK: Duration = Duration::from_millis(40);
const PRICE: Price =
    Price { input_usd_micros_per_million_tokens: 150_000, output_usd_micros_per_million_tokens: 600_000 };

/// A deployment with a price, whose workers lose a lease quickly.
fn world(seed: u64) -> World {
    let timing = Timing { lease: Duration::from_secs(2), visibility: Duration::from_secs(3), ..Timing::default() };
    let world = World::new(seed, timing, World::wide_limits().unwrap()).unwrap();
    let control = Arc::clone(&world.service.ports().control);
    at_once(async {
        for pool in control.pools().await.unwrap() {
            control.put_pool(&Pool { price: PRICE, ..pool }).await.unwrap();
        }
    });
    world
}

/// The store in memory answers at once.
fn at_once<T>(work: impl Future<Output = T>) -> T {
    work.now_or_never().unwrap()
}

/// Adds another tenant and gives its key.
fn newcomer(world: &World, name: &str) -> String {
    let key = ApiKey::generate(|| world.kernel.draw());
    let limits = World::wide_limits().unwrap();
    let tenant = Tenant::new(TenantId::new(name).unwrap(), Class::P1, limits, world.kernel.now());
    let control = &world.service.ports().control;
    at_once(control.put_tenant(&tenant)).unwrap();
    at_once(control.put_key(&key.record(tenant.id.clone()))).unwrap();
    key.expose()
}

/// Sends a request and runs the world until it is answered.
fn call(
    world: &mut World,
    key: &str,
    method: Method,
    path: &str,
    body: &Value,
) -> (StatusCode, http::HeaderMap, Value) {
    call_after(0, world, key, method, path, body)
}

/// The same from a client that has tried before.
fn call_after(
    tries: u32,
    world: &mut World,
    key: &str,
    method: Method,
    path: &str,
    body: &Value,
) -> (StatusCode, http::HeaderMap, Value) {
    let answer = Arc::new(Mutex::new(None));
    let (router, place) = (penstock_service::router(Arc::clone(&world.service)), Arc::clone(&answer));
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("authorization", format!("Bearer {key}"))
        .header("x-stainless-retry-count", tries)
        .body(Body::from(body.to_string()))
        .unwrap();
    world.client(async move {
        let (parts, body) = router.oneshot(request).await.unwrap().into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        *place.lock().unwrap() = Some((parts.status, parts.headers, text));
    });
    let until = world.kernel.now().after(Duration::from_secs(600));
    world.kernel.run_until(until, || answer.lock().unwrap().is_some());
    let (status, headers, text) = answer.lock().unwrap().take().unwrap();
    (status, headers, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

fn ask(world: &mut World, key: &str, prompt: &str) -> (StatusCode, http::HeaderMap, Value) {
    let body = json!({"model": "scripted", "temperature": 0, "messages": [{"role": "user", "content": prompt}]});
    call(world, key, Method::POST, "/v1/chat/completions", &body)
}

fn get(world: &mut World, key: &str, path: &str) -> (StatusCode, Value) {
    let (status, _, body) = call(world, key, Method::GET, path, &Value::Null);
    (status, body)
}

fn pass(world: &mut World, time: Duration) {
    let until = world.kernel.now().after(time);
    world.kernel.run_until(until, || false);
}

#[test]
fn a_day_s_usage_is_what_its_answers_said_they_used_and_hits_are_counted_apart() {
    let mut world = world(1);
    world.start_worker(4, TICK).unwrap();
    let key = world.key.clone();
    let (mut input, mut output, mut cost) = (0, 0, UsdMicros::ZERO);
    for prompt in ["one", "two two", "three three three"] {
        let (_, _, answer) = ask(&mut world, &key, prompt);
        let (tin, tout) = (answer["usage"]["prompt_tokens"].as_u64(), answer["usage"]["completion_tokens"].as_u64());
        (input, output) = (input + tin.unwrap(), output + tout.unwrap());
        cost = cost.plus(PRICE.of(tin.unwrap(), tout.unwrap()));
    }
    assert_eq!(ask(&mut world, &key, "one").0, StatusCode::OK);
    pass(&mut world, Duration::from_secs(10));
    let (_, usage) = get(&mut world, &key, "/v1/usage");
    let total = &usage["total"];
    assert_eq!((total["requests"].as_u64(), total["hits"].as_u64()), (Some(3), Some(1)), "{usage}");
    assert_eq!((total["input_tokens"].as_u64(), total["output_tokens"].as_u64()), (Some(input), Some(output)));
    assert_eq!(total["cost_usd_micros"].as_u64(), Some(cost.0));
    assert_eq!(total["cost_usd"].as_str(), Some(cost.to_string().as_str()));
    assert_eq!(usage["data"][0]["cost_usd_micros"], total["cost_usd_micros"]);
}

/// Workers die at random moments, some after they have written the end and before they have settled it.
#[test]
fn whoever_dies_each_job_is_counted_once() {
    for seed in 0..40 {
        let mut world = world(seed);
        let key = world.key.clone();
        let jobs = 4;
        for n in 0..jobs {
            let router = penstock_service::router(Arc::clone(&world.service));
            let body = json!({"model": "scripted", "messages": [{"role": "user", "content": format!("job {n}")}]});
            let request = Request::post("/v1/chat/completions").header("authorization", format!("Bearer {key}"));
            let request = request.body(Body::from(body.to_string())).unwrap();
            world.client(async move {
                router.oneshot(request).await.unwrap().into_body().collect().await.unwrap();
            });
        }
        for _ in 0..2 {
            let (group, _) = world.start_worker(2, TICK).unwrap();
            let alive = world.kernel.below(1500);
            pass(&mut world, Duration::from_millis(alive));
            world.kernel.kill(group);
        }
        world.start_worker(4, TICK).unwrap();
        pass(&mut world, Duration::from_secs(120));
        let (_, usage) = get(&mut world, &key, "/v1/usage");
        assert_eq!(usage["total"]["requests"].as_u64(), Some(jobs), "seed {seed}: {usage}");
    }
}

#[test]
fn an_explanation_tells_the_whole_way_of_a_job_whose_first_worker_died() {
    let mut world = world(3);
    let (first, _) = world.start_worker(1, TICK).unwrap();
    let key = world.key.clone();
    let router = penstock_service::router(Arc::clone(&world.service));
    let job = Arc::new(Mutex::new(None));
    let place = Arc::clone(&job);
    let prompt = "a long prompt, so that the answer is still being written when its worker dies";
    let body = json!({"model": "scripted", "stream": true, "service_tier": "priority",
                      "messages": [{"role": "user", "content": prompt}]});
    let request = Request::post("/v1/chat/completions").header("authorization", format!("Bearer {key}"));
    let request = request.body(Body::from(body.to_string())).unwrap();
    world.client(async move {
        let response = router.oneshot(request).await.unwrap();
        let id = response.headers()["x-penstock-job-id"].to_str().unwrap().to_owned();
        response.into_body().collect().await.unwrap();
        *place.lock().unwrap() = Some(id);
    });
    pass(&mut world, Duration::from_millis(900));
    world.kernel.kill(first);
    world.start_worker(1, TICK).unwrap();
    pass(&mut world, Duration::from_secs(60));
    let id = job.lock().unwrap().clone().unwrap();
    let (status, told) = get(&mut world, &key, &format!("/v1/jobs/{id}/explain"));
    assert_eq!(status, StatusCode::OK, "{told}");
    let timeline = told["timeline"].as_array().unwrap();
    let words: Vec<&str> = timeline.iter().map(|happening| happening["what"].as_str().unwrap()).collect();
    let judged = words[8];
    assert!(["promise_kept", "promise_broken"].contains(&judged), "{told}");
    let expected =
        ["admitted", "drawn", "drawn", "drawn", "promised", "claimed", "claimed", "answered", judged, "settled"];
    assert_eq!(words, expected, "{told}");
    let (eta, took) = (timeline[4]["eta_ms_95"].as_u64().unwrap(), timeline[7]["after_ms"].as_u64().unwrap());
    assert_eq!(judged == "promise_kept", took <= eta, "{told}");
    assert_eq!(timeline[8]["within_95"], json!(took <= eta));
    assert_eq!(timeline[0]["service_tier"], "priority");
    assert_eq!((&timeline[1]["limit"], &timeline[1]["took"]), (&json!("requests"), &json!(1)));
    assert_eq!((&timeline[3]["limit"], &timeline[3]["took"]), (&json!("queue"), &timeline[0]["estimated_tokens"]));
    assert_eq!((&timeline[5]["epoch"], &timeline[6]["epoch"]), (&json!(1), &json!(2)));
    assert_ne!(timeline[5]["worker"], timeline[6]["worker"]);
    let (tin, tout) = (timeline[7]["prompt_tokens"].as_u64(), timeline[7]["completion_tokens"].as_u64());
    assert_eq!(told["cost_usd"], json!(PRICE.of(tin.unwrap(), tout.unwrap()).to_string()));
    let moments: Vec<i64> = timeline.iter().map(|happening| happening["at_ms"].as_i64().unwrap()).collect();
    assert!(moments.is_sorted(), "{moments:?}");
}

#[test]
fn one_tenant_sees_nothing_of_another_s_job_usage_or_story() {
    let mut world = world(4);
    world.start_worker(4, TICK).unwrap();
    let (key, other) = (world.key.clone(), newcomer(&world, "other"));
    let (_, headers, _) = ask(&mut world, &key, "secret");
    let id = headers["x-penstock-job-id"].to_str().unwrap().to_owned();
    for path in [format!("/v1/jobs/{id}"), format!("/v1/jobs/{id}/explain")] {
        assert_eq!(get(&mut world, &key, &path).0, StatusCode::OK);
        let (status, theirs) = get(&mut world, &other, &path);
        let nowhere = path.replace(&id, "01ARZ3NDEKTSV4RRFFQ69G5FAV");
        assert_eq!((status, theirs), (StatusCode::NOT_FOUND, get(&mut world, &other, &nowhere).1), "{path}");
    }
    let (status, _, _) = call(&mut world, &other, Method::DELETE, &format!("/v1/jobs/{id}"), &Value::Null);
    assert_eq!(status, StatusCode::NOT_FOUND);
    // The same question of another tenant is another job.
    let (_, headers, _) = ask(&mut world, &other, "secret");
    assert_eq!(headers["x-penstock-served-by"], "fresh");
    assert_ne!(headers["x-penstock-job-id"].to_str().unwrap(), id);
    let (_, usage) = get(&mut world, &other, "/v1/usage");
    assert_eq!((&usage["tenant"], &usage["total"]["requests"]), (&json!("other"), &json!(1)));
    assert_eq!(get(&mut world, &other, "/v1/usage?from=last-week").0, StatusCode::BAD_REQUEST);
}

/// Sends the operator's request; the store in memory answers at once.
fn operate(world: &World, method: Method, path: &str, body: &Value) -> (StatusCode, Value) {
    let operator = OperatorKey::generate(|| world.kernel.draw());
    let router = penstock_service::admin_router(Arc::clone(&world.service), &operator);
    let authorization = format!("Bearer {}", operator.expose());
    let request = Request::builder().method(method).uri(path).header("authorization", authorization);
    let request = request.body(Body::from(body.to_string())).unwrap();
    at_once(async {
        let response = router.oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        (parts.status, serde_json::from_slice(&bytes).unwrap())
    })
}

/// Another handler of the same deployment, with memories of its own: what the operator does is done elsewhere.
fn elsewhere(world: &World) -> Arc<Service> {
    let timing = Timing::default();
    Arc::new(Service::new(world.service.ports().clone(), timing, b"sim"))
}

#[test]
fn keys_of_a_tenant_overlap_and_a_revoked_one_is_refused_everywhere_within_a_minute() {
    let mut world = world(5);
    let (status, added) = operate(&world, Method::POST, "/admin/v1/tenants", &json!({"id": "acme"}));
    assert_eq!(status, StatusCode::OK, "{added}");
    let new = |world: &World, label: &str| {
        operate(world, Method::POST, "/admin/v1/tenants/acme/keys", &json!({"label": label})).1
    };
    let (first, second) = (new(&world, "first"), new(&world, "second"));
    let [first_key, second_key] = [&first, &second].map(|key| key["key"].as_str().unwrap().to_owned());
    for key in [&first_key, &second_key] {
        assert_eq!(get(&mut world, key, "/v1/models").0, StatusCode::OK);
    }
    pass(&mut world, Duration::from_secs(1));
    let listed = operate(&world, Method::GET, "/admin/v1/tenants/acme/keys", &json!({})).1;
    assert_eq!(listed["data"].as_array().unwrap().len(), 2);
    assert!(listed["data"][0]["last_used_at"].is_i64() && listed["data"][0]["key"].is_null(), "{listed}");

    // Revoked by another handler, which this one hears of only by reading again.
    let (here, there) = (Arc::clone(&world.service), elsewhere(&world));
    world.service = there;
    let path = format!("/admin/v1/tenants/acme/keys/{}", first["id"].as_str().unwrap());
    assert_eq!(operate(&world, Method::DELETE, &path, &json!({})).0, StatusCode::OK);
    world.service = here;
    pass(&mut world, Duration::from_secs(60));
    assert_eq!(get(&mut world, &first_key, "/v1/models").0, StatusCode::UNAUTHORIZED);
    assert_eq!(get(&mut world, &second_key, "/v1/models").0, StatusCode::OK);

    // With time to change over, and never put off once it is set.
    let path = format!("/admin/v1/tenants/acme/keys/{}", second["id"].as_str().unwrap());
    operate(&world, Method::DELETE, &format!("{path}?after_s=3600"), &json!({}));
    operate(&world, Method::DELETE, &format!("{path}?after_s=7200"), &json!({}));
    pass(&mut world, Duration::from_secs(3500));
    assert_eq!(get(&mut world, &second_key, "/v1/models").0, StatusCode::OK);
    pass(&mut world, Duration::from_secs(200));
    assert_eq!(get(&mut world, &second_key, "/v1/models").0, StatusCode::UNAUTHORIZED);
}

#[test]
fn a_suspended_tenant_is_told_so_and_served_again_when_it_is_taken_back() {
    let mut world = world(6);
    let key = newcomer(&world, "acme");
    for (suspended, expected) in [(true, StatusCode::FORBIDDEN), (false, StatusCode::OK), (true, StatusCode::FORBIDDEN)]
    {
        let terms = json!({ "suspended": suspended });
        assert_eq!(operate(&world, Method::PATCH, "/admin/v1/tenants/acme", &terms).0, StatusCode::OK);
        assert_eq!(get(&mut world, &key, "/v1/models").0, expected);
    }
}

#[test]
fn the_operator_s_routes_take_the_operator_s_key_alone_and_one_tenant_s_keys_are_not_another_s() {
    let mut world = world(7);
    let (key, other) = (world.key.clone(), newcomer(&world, "other"));
    let operator = OperatorKey::generate(|| world.kernel.draw());
    let router = penstock_service::admin_router(Arc::clone(&world.service), &operator);
    for given in [key.as_str(), "", "po_", &operator.expose()[..20]] {
        let request = Request::get("/admin/v1/tenants").header("authorization", format!("Bearer {given}"));
        let response = at_once(router.clone().oneshot(request.body(Body::empty()).unwrap())).unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{given}");
    }
    // The routes of tenants know nothing of the operator's.
    assert_eq!(get(&mut world, &key, "/admin/v1/tenants").0, StatusCode::NOT_FOUND);
    let id = ApiKey::parse(&other).unwrap().id().to_string();
    let (status, _) = operate(&world, Method::DELETE, &format!("/admin/v1/tenants/tenant/keys/{id}"), &json!({}));
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(get(&mut world, &other, "/v1/models").0, StatusCode::OK);
    for terms in
        [json!({"id": "a/b"}), json!({"id": "x", "terms": {"class": "p9"}}), json!({"id": "x", "terms": {"oops": 1}})]
    {
        let (status, refused) = operate(&world, Method::POST, "/admin/v1/tenants", &terms);
        assert_eq!(status, StatusCode::BAD_REQUEST, "{terms}: {refused}");
    }
    assert_eq!(operate(&world, Method::POST, "/admin/v1/tenants", &json!({"id": "other"})).0, StatusCode::CONFLICT);
}

#[test]
fn an_answer_that_is_not_to_be_stored_serves_a_retry_and_is_gone_soon_after() {
    let mut world = world(8);
    world.start_worker(4, TICK).unwrap();
    let key = world.key.clone();
    let body = json!({"model": "scripted", "temperature": 0, "store": false,
                      "messages": [{"role": "user", "content": "for your eyes only"}]});
    let ask = |tries, world: &mut World| call_after(tries, world, &key, Method::POST, "/v1/chat/completions", &body);
    let (_, headers, first) = ask(0, &mut world);
    let id = headers["x-penstock-job-id"].to_str().unwrap().to_owned();
    pass(&mut world, Duration::from_secs(60));
    let (status, headers, retried) = ask(1, &mut world);
    assert_eq!((status, &headers["x-penstock-served-by"]), (StatusCode::OK, &"l2".parse().unwrap()));
    assert_eq!(retried["choices"], first["choices"]);
    pass(&mut world, Duration::from_secs(70));
    let (status, job) = get(&mut world, &key, &format!("/v1/jobs/{id}"));
    assert_eq!((status, &job["status"], &job["result"]), (StatusCode::OK, &json!("succeeded"), &Value::Null));
    let chunks = at_once(world.service.ports().jobs.chunks(id.parse().unwrap(), None)).unwrap();
    assert!(chunks.is_empty());
    let (_, headers, anew) = ask(1, &mut world);
    assert_eq!(headers["x-penstock-served-by"], "fresh");
    assert_eq!(anew["choices"], first["choices"]);
}

/// Erases a tenant as the command does: part by part, waiting where it is told to.
fn erase(world: &mut World, id: &str) -> u64 {
    let path = format!("/admin/v1/tenants/{id}/erase");
    let (mut ask, mut jobs) = (json!({"usage": true}), 0);
    for _ in 0..200 {
        let (status, part) = operate(world, Method::POST, &path, &ask);
        assert_eq!(status, StatusCode::OK, "{part}");
        jobs += part["jobs"].as_u64().unwrap();
        let Some(next) = part["next"].as_str() else { return jobs };
        ask["cursor"] = json!(next);
        if part["waiting"] == true {
            pass(world, Duration::from_secs(3));
        }
    }
    panic!("erasing never ends");
}

#[test]
fn a_tenant_that_is_erased_leaves_nothing_though_work_was_waiting_and_running() {
    let mut world = world(9);
    let (local, key) = (world.key.clone(), newcomer(&world, "acme"));
    world.start_worker(1, TICK).unwrap();
    let (_, headers, _) = ask(&mut world, &key, "done");
    let done = headers["x-penstock-job-id"].to_str().unwrap().to_owned();
    for n in 0..4 {
        let router = penstock_service::router(Arc::clone(&world.service));
        let body = json!({"model": "scripted", "stream": true,
                          "messages": [{"role": "user", "content": "x".repeat(400 + n)}]});
        let request = Request::post("/v1/chat/completions").header("authorization", format!("Bearer {key}"));
        let request = request.body(Body::from(body.to_string())).unwrap();
        world.client(async move {
            let _ = router.oneshot(request).await.unwrap().into_body().collect().await;
        });
    }
    pass(&mut world, Duration::from_millis(500));
    assert_eq!(erase(&mut world, "acme"), 5);
    pass(&mut world, Duration::from_secs(120));
    let ports = world.service.ports();
    let acme = TenantId::new("acme").unwrap();
    assert!(at_once(ports.erasure.jobs_of(&acme, None)).unwrap().found.is_empty());
    assert!(at_once(ports.jobs.chunks(done.parse().unwrap(), None)).unwrap().is_empty());
    assert_eq!(at_once(ports.control.keys(&acme)).unwrap(), []);
    assert_eq!(at_once(ports.control.tenant(&acme)).unwrap(), None);
    assert_eq!(get(&mut world, &key, "/v1/models").0, StatusCode::UNAUTHORIZED);
    assert_eq!(operate(&world, Method::GET, "/admin/v1/tenants/acme/usage", &json!({})).0, StatusCode::NOT_FOUND);
    // Whoever else is here goes on.
    assert_eq!(ask(&mut world, &local, "still here").0, StatusCode::OK);
}
