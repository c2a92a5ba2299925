//! What clients send and what stores give back, mutated: nothing panics, a client's fault is answered as one, and what is
//! read from a store is read the same when it is written again.
//!
//! Stable Rust has no coverage to go by, so the mutation goes by structure instead: good texts (`corpus/`, and what a running
//! deployment stores) and steps that a careless writer takes. A failing case shrinks to a few steps and is kept in
//! `proptest-regressions`. `PROPTEST_CASES=100000` looks longer.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod mutate;

use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use axum::body::Body;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use penstock_policy::classes::Class;
use penstock_policy::id::{PoolId, TenantId};
use penstock_service::config::Timing;
use penstock_service::ports::{Assignment, Clock, Payload, QueueId};
use penstock_service::stored::chunk::{self, StoredWords};
use penstock_service::stored::record::{outcome_from, outcome_text, spec_from, spec_text};
use penstock_service::stored::story::{story_from, story_text};
use penstock_service::stored::{control, message};
use penstock_sim::World;
use proptest::prelude::*;
use serde_json::Value;
use tower::ServiceExt;

use mutate::{mutated, mutations};

const BODIES: [(&str, &str); 5] = [
    ("/v1/chat/completions", include_str!("corpus/chat.json")),
    ("/v1/chat/completions", include_str!("corpus/chat_tools.json")),
    ("/v1/completions", include_str!("corpus/completions.json")),
    ("/v1/responses", include_str!("corpus/responses.json")),
    ("/v1/embeddings", include_str!("corpus/embeddings.json")),
];

fn world() -> World {
    World::new(1, Timing::default(), World::wide_limits().unwrap()).unwrap()
}

/// Sends a body, and gives what the client hears.
fn post(world: &World, route: &str, body: Vec<u8>) -> (StatusCode, String) {
    let request =
        Request::post(route).header("authorization", format!("Bearer {}", world.key)).body(Body::from(body)).unwrap();
    let router = penstock_service::router(Arc::clone(&world.service));
    let heard = Arc::new(Mutex::new(None));
    let into = Arc::clone(&heard);
    world.client(async move {
        let (parts, body) = router.oneshot(request).await.unwrap().into_parts();
        let body = body.collect().await.map(|body| body.to_bytes().to_vec());
        *into.lock().unwrap() = Some((parts.status, body.unwrap_or_default()));
    });
    world.kernel.run_until(world.kernel.now().after(Duration::from_secs(3600)), || heard.lock().unwrap().is_some());
    // Every request is answered within the hour.
    let (status, body) = heard.lock().unwrap().take().unwrap();
    (status, String::from_utf8_lossy(&body).into_owned())
}

/// What a deployment stores while it answers each of the good bodies, by kind.
struct Stored {
    messages: Vec<String>,
    payloads: Vec<String>,
    specs: Vec<String>,
    outcomes: Vec<String>,
    stories: Vec<String>,
    words: Vec<StoredWords>,
    tenant: String,
    pools: Vec<String>,
}

fn now<T>(future: impl Future<Output = T>) -> T {
    futures_util::FutureExt::now_or_never(future).unwrap()
}

fn stored() -> &'static Stored {
    static STORED: OnceLock<Stored> = OnceLock::new();
    STORED.get_or_init(|| {
        let mut world = world();
        let store = world.store();
        let router = penstock_service::router(Arc::clone(&world.service));
        for (route, body) in BODIES {
            let request = Request::post(route)
                .header("authorization", format!("Bearer {}", world.key))
                .body(Body::from(body))
                .unwrap();
            let router = router.clone();
            world.client(async move {
                // What is answered is looked at elsewhere.
                drop(router.oneshot(request).await.unwrap().into_body().collect().await);
            });
        }
        world.kernel.run_until(world.kernel.now().after(Duration::from_millis(100)), || false);
        let (mut messages, mut payloads) = (Vec::new(), Vec::new());
        for pool in ["default", "encoder"] {
            for class in Class::ALL {
                let queue = QueueId { pool: PoolId::new(pool).unwrap(), class };
                let received = now(store.queue.receive(&queue, 10, Duration::ZERO, Duration::ZERO)).unwrap();
                for message in received.into_iter().map(|delivery| delivery.message.unwrap()) {
                    if let Payload::Inline(text) = &message.payload {
                        payloads.push(text.clone());
                    }
                    messages.push(message::encode(&message));
                }
            }
        }
        world.start_worker(4, Duration::from_millis(10)).unwrap();
        world.start_encoder(4, Duration::from_millis(10)).unwrap();
        world.kernel.run_until(world.kernel.now().after(Duration::from_secs(300)), || false);
        let tenant = TenantId::new("tenant").unwrap();
        let (mut specs, mut outcomes, mut stories, mut words) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for job in now(store.erasure.jobs_of(&tenant, None)).unwrap().found {
            let record = now(store.jobs.record(job)).unwrap().unwrap();
            specs.extend(record.spec.as_ref().map(spec_text));
            outcomes.extend(record.outcome.as_ref().map(outcome_text));
            stories.push(story_text(&record.story));
            words.extend(now(store.jobs.chunks(job, None)).unwrap().iter().map(|part| chunk::stored(&part.words)));
        }
        let tenant = control::tenant_text(&now(store.control.tenant(&tenant)).unwrap().unwrap());
        let pools = now(store.control.pools()).unwrap().iter().map(control::pool_text).collect();
        Stored { messages, payloads, specs, outcomes, stories, words, tenant, pools }
    })
}

#[test]
fn the_good_texts_are_good_and_there_are_some_of_each_kind() {
    let mut world = world();
    world.start_worker(4, Duration::from_millis(1)).unwrap();
    world.start_encoder(4, Duration::from_millis(1)).unwrap();
    for (route, body) in BODIES {
        let (status, heard) = post(&world, route, body.into());
        assert_eq!(status, StatusCode::OK, "{route} {body}: {heard}");
    }
    let stored = stored();
    assert!(stored.messages.iter().all(|text| message::decode(text).is_ok()));
    assert!(stored.payloads.iter().all(|text| Assignment::read(text.as_bytes()).is_some()));
    assert!(stored.specs.iter().all(|text| spec_from(text).is_some()));
    assert!(stored.outcomes.iter().all(|text| outcome_from(text).is_some()));
    assert!(stored.stories.iter().all(|text| story_from(text).is_some()));
    let kinds = [stored.messages.len(), stored.specs.len(), stored.outcomes.len(), stored.words.len()];
    assert!(kinds.iter().all(|count| *count >= BODIES.len()), "{kinds:?}");
}

fn one_of<T>(all: &[T], place: usize) -> &T {
    &all[place % all.len()]
}

proptest! {
    /// A client's fault is a 4xx that says what is wrong; nothing a client writes makes a 5xx.
    #[test]
    fn a_bad_body_is_the_clients_fault(which in 0usize..BODIES.len(), steps in mutations()) {
        let (route, body) = BODIES[which];
        let mut world = world();
        world.start_worker(4, Duration::from_millis(1)).unwrap();
        world.start_encoder(4, Duration::from_millis(1)).unwrap();
        let body = mutated(body, &steps);
        let (status, heard) = post(&world, route, body);
        prop_assert!(status == StatusCode::OK || status.is_client_error(), "{status}: {heard}");
        if status.is_client_error() {
            let error: Value = serde_json::from_str(&heard).unwrap();
            prop_assert!(error["error"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{heard}");
        }
    }

    /// A damaged message, payload or record is refused or read, and what is read is written and read the same again.
    #[test]
    fn what_a_store_gives_back_is_read_or_refused(place in 0usize..1000, steps in mutations()) {
        let stored = stored();
        let damaged = |texts: &[String]| {
            String::from_utf8_lossy(&mutated(one_of::<String>(texts, place), &steps)).into_owned()
        };
        if let Ok(read) = message::decode(&damaged(&stored.messages)) {
            prop_assert_eq!(message::decode(&message::encode(&read)), Ok(read));
        }
        // Whatever it is, it is read or refused.
        let _ = Assignment::read(damaged(&stored.payloads).as_bytes());
        if let Some(read) = spec_from(&damaged(&stored.specs)) {
            prop_assert_eq!(spec_from(&spec_text(&read)), Some(read));
        }
        if let Some(read) = outcome_from(&damaged(&stored.outcomes)) {
            prop_assert_eq!(outcome_from(&outcome_text(&read)), Some(read));
        }
        if let Some(read) = story_from(&damaged(&stored.stories)) {
            prop_assert_eq!(story_from(&story_text(&read)), Some(read));
        }
        let tenant = TenantId::new("tenant").unwrap();
        if let Some(read) = control::tenant_from(&tenant, &damaged(std::slice::from_ref(&stored.tenant))) {
            prop_assert_eq!(control::tenant_from(&tenant, &control::tenant_text(&read)), Some(read));
        }
        let pool = PoolId::new("default").unwrap();
        if let Some(read) = control::pool_from(&pool, &damaged(&stored.pools)) {
            prop_assert_eq!(control::pool_from(&pool, &control::pool_text(&read)), Some(read));
        }
    }

    #[test]
    fn what_is_stored_of_an_answer_is_read_or_refused(place in 0usize..1000, steps in mutations()) {
        let StoredWords { text, more } = one_of(&stored().words, place);
        let damage = |text: &String| String::from_utf8_lossy(&mutated(text, &steps)).into_owned();
        let damaged = StoredWords { text: text.clone(), more: more.as_ref().map(damage) };
        if let Some(read) = chunk::words(damaged) {
            prop_assert_eq!(chunk::words(chunk::stored(&read)).is_some(), true);
        }
    }
}
