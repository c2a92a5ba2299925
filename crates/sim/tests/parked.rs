//! Parked work in virtual time: nothing is ever stuck, deadlines that can be kept are, tenants share, and much of it is
//! called off at once.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use futures_util::FutureExt;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use penstock_policy::classes::Class;
use penstock_policy::id::{JobId, PoolId, TenantId};
use penstock_policy::job::State;
use penstock_policy::time::Timestamp;
use penstock_service::config::Timing;
use penstock_service::ports::{Clock, Entropy, JobRecord, Pool, QueueId, Tenant};
use penstock_service::{Service, Stall, Wanted};
use penstock_sim::{Faults, Group, World};
use penstock_wire::chat::ChatRequest;
use serde_json::json;
use tower::ServiceExt;

/// A slow model: hours of work are few events.
const TICK: Duration = Duration::from_millis(200);
const HOUR: Duration = Duration::from_secs(3600);

fn world(seed: u64) -> World {
    let timing = Timing { lease: Duration::from_secs(5), visibility: Duration::from_secs(7), ..Timing::default() };
    World::new(seed, timing, World::wide_limits().unwrap()).unwrap()
}

/// A process that does nothing but tick.
fn start_control(world: &mut World) -> Group {
    let (group, service) = world.start_front();
    let ticking = async move { service.control_loop(Duration::from_secs(5)).await };
    world.kernel.spawner(group).spawn(Box::pin(ticking));
    group
}

/// The store in memory answers at once.
fn at_once<T>(work: impl Future<Output = T>) -> T {
    work.now_or_never().unwrap()
}

fn pool(world: &World) -> Pool {
    let pools = at_once(world.service.ports().control.pools()).unwrap();
    pools.into_iter().find(|pool| pool.model == "scripted").unwrap()
}

fn queue(class: Class) -> QueueId {
    QueueId { pool: PoolId::new("default").unwrap(), class }
}

fn tenant(world: &World, name: &str) -> Tenant {
    world.add_tenant(name, |_| {}).unwrap();
    at_once(world.service.ports().control.tenant(&TenantId::new(name).unwrap())).unwrap().unwrap()
}

/// Parks a job of about `tokens` tokens.
fn park(world: &World, tenant: &Tenant, class: Class, within: Duration, tokens: usize) -> JobId {
    let now = world.kernel.now();
    let id = JobId::new(now, world.kernel.draw());
    let content = format!("{}{:06}", "a".repeat((tokens / 2).saturating_sub(6)), world.kernel.below(1_000_000));
    let body = json!({"model": "scripted", "max_tokens": content.len(), "seed": 1,
                      "messages": [{"role": "user", "content": content}]});
    let request = ChatRequest::parse(body.to_string().as_bytes()).unwrap();
    let stall = Stall { id, class, due: now.after(within) };
    let pool = pool(world);
    let parking = world.service.park(tenant, Wanted::Chat(&request), &pool, &stall, now);
    let spec = at_once(parking).map_err(|error| error.body.error.message).unwrap();
    assert_eq!((spec.id, spec.class, spec.due), (id, class, stall.due));
    id
}

fn record(service: &Service, job: JobId) -> JobRecord {
    at_once(service.ports().jobs.record(job)).unwrap().unwrap()
}

/// Runs until all of `jobs` have ended, and gives their records.
fn run(world: &World, jobs: &[JobId], most: Duration) -> Vec<JobRecord> {
    let until = world.kernel.now().after(most);
    let service = Arc::clone(&world.service);
    let mut left = jobs.to_vec();
    let (kernel, mut looked) = (world.kernel.clone(), Timestamp::EPOCH);
    world.kernel.run_until(until, || {
        // A look at the clock is cheaper than one at the store.
        if kernel.now().since(looked) >= Duration::from_secs(5) {
            looked = kernel.now();
            left.retain(|job| !record(&service, *job).head.state.is_terminal());
        }
        left.is_empty()
    });
    jobs.iter().map(|job| record(&world.service, *job)).collect()
}

fn in_queue(world: &World, class: Class) -> u64 {
    at_once(world.service.ports().queue.depth(&queue(class))).unwrap()
}

fn parked(world: &World, class: Class) -> u64 {
    at_once(world.service.ports().parking.backlog(&queue(class))).unwrap().jobs
}

#[test]
fn what_waits_beyond_two_minutes_is_parked_counts_as_queued_and_all_of_it_is_answered() {
    let mut world = world(1);
    start_control(&mut world);
    world.start_worker(4, TICK).unwrap();
    world.kernel.run_until(world.kernel.now().after(Duration::from_secs(10)), || false);
    let answers = Arc::new(Mutex::new(Vec::new()));
    // A quarter of an hour of work.
    let count = 120;
    for n in 0..count {
        let router = penstock_service::router(Arc::clone(&world.service));
        let (key, answers) = (world.key.clone(), Arc::clone(&answers));
        let content = format!("{}{n:04}", "b".repeat(70));
        let body = json!({"model": "scripted", "service_tier": "flex", "max_tokens": 74,
                          "messages": [{"role": "user", "content": content}]});
        world.client(async move {
            let request = Request::post("/v1/chat/completions")
                .header("authorization", format!("Bearer {key}"))
                .body(Body::from(body.to_string()))
                .unwrap();
            let (parts, body) = router.oneshot(request).await.unwrap().into_parts();
            let whole = body.collect().await.is_ok();
            answers.lock().unwrap().push((parts.status, whole));
        });
    }
    world.kernel.run_until(world.kernel.now().after(Duration::from_secs(20)), || false);
    let (waits, stored) = (in_queue(&world, Class::P2), parked(&world, Class::P2));
    assert!(waits < 60 && stored > 60, "{waits} in the queue, {stored} parked");
    let mut first = at_once(world.service.ports().parking.parked(
        &queue(Class::P2),
        &TenantId::new("tenant").unwrap(),
        Timestamp::EPOCH,
        1,
    ))
    .unwrap();
    let shown = record(&world.service, first.pop().unwrap().job).head.state;
    assert_eq!((shown, shown.status()), (State::Parked, "queued"));
    let done = Arc::clone(&answers);
    world.kernel.run_until(world.kernel.now().after(HOUR), || done.lock().unwrap().len() == count);
    let answers = answers.lock().unwrap();
    assert_eq!(answers.len(), count);
    assert!(answers.iter().all(|(status, whole)| *status == StatusCode::OK && *whole));
    assert_eq!(parked(&world, Class::P2), 0);
}

#[test]
fn deadlines_are_kept_where_they_can_be_even_behind_a_day_of_other_work() {
    let mut world = world(2);
    start_control(&mut world);
    world.start_worker(4, TICK).unwrap();
    world.kernel.run_until(world.kernel.now().after(Duration::from_secs(10)), || false);
    let (bulk, quick) = (tenant(&world, "bulk"), tenant(&world, "quick"));
    // Twenty minutes of work at the rate of three slots, due in as many hours.
    let patient: Vec<JobId> = (0..220).map(|_| park(&world, &bulk, Class::P3, 20 * HOUR, 80)).collect();
    world.kernel.run_until(world.kernel.now().after(Duration::from_secs(60)), || false);
    // And five minutes of it that must be done within ten, where a turn each would take them beyond.
    let soon = Duration::from_secs(10 * 60);
    let pressing: Vec<JobId> = (0..50).map(|_| park(&world, &quick, Class::P3, soon, 80)).collect();
    let ended = run(&world, &pressing, 2 * HOUR);
    let late = ended.iter().filter(|record| record.head.state != State::Succeeded).count();
    assert_eq!(late, 0, "of {}", ended.len());
    let ended = run(&world, &patient, 20 * HOUR);
    assert!(ended.iter().all(|record| record.head.state == State::Succeeded));
}

#[test]
fn a_tenant_with_little_parked_is_not_kept_waiting_by_one_with_much() {
    let mut world = world(3);
    start_control(&mut world);
    world.start_worker(4, TICK).unwrap();
    world.kernel.run_until(world.kernel.now().after(Duration::from_secs(10)), || false);
    let (much, little) = (tenant(&world, "much"), tenant(&world, "little"));
    for _ in 0..250 {
        park(&world, &much, Class::P3, 20 * HOUR, 80);
    }
    world.kernel.run_until(world.kernel.now().after(Duration::from_secs(60)), || false);
    let begun = world.kernel.now();
    // Due later than all the others.
    let jobs: Vec<JobId> = (0..50).map(|_| park(&world, &little, Class::P3, 23 * HOUR, 80)).collect();
    let ended = run(&world, &jobs, 20 * HOUR);
    let last = ended.iter().filter_map(|record| record.finished).max().unwrap();
    // Alone they would take five minutes; with half of the pool, and a queue of two minutes before them, some twelve.
    let took = last.since(begun);
    assert!(took < Duration::from_secs(1000), "{took:?}");
}

/// Control processes and workers die at random moments; every job that was parked ends once, with an answer.
#[test]
fn whatever_dies_nothing_parked_is_lost_and_nothing_is_stuck() {
    for seed in 0..20 {
        let mut world = world(seed);
        // A job that outlives three workers is given up.
        let mut deaths = 0;
        let tenants = ["a", "b", "c"].map(|name| tenant(&world, name));
        let mut jobs = Vec::new();
        let mut control = start_control(&mut world);
        let mut worker = world.start_worker(4, TICK).unwrap().0;
        for _ in 0..6 {
            for _ in 0..30 {
                let tenant = &tenants[usize::try_from(world.kernel.below(3)).unwrap()];
                let class = if world.kernel.below(2) == 0 { Class::P2 } else { Class::P3 };
                let tokens = 16 + usize::try_from(world.kernel.below(40)).unwrap();
                jobs.push(park(&world, tenant, class, 3 * HOUR, tokens));
            }
            let pause = Duration::from_millis(500 + world.kernel.below(20_000));
            world.kernel.run_until(world.kernel.now().after(pause), || false);
            if deaths == 2 || world.kernel.below(2) == 0 {
                world.kernel.kill(control);
                control = start_control(&mut world);
            } else {
                deaths += 1;
                world.kernel.kill(worker);
                let faults = Faults::default();
                worker = world.start_worker_of(&queue(Class::P3).pool, 4, TICK, faults).unwrap().0;
            }
        }
        let ended = run(&world, &jobs, 4 * HOUR);
        for (job, record) in jobs.iter().zip(&ended) {
            assert_eq!(record.head.state, State::Succeeded, "seed {seed}: {job}: {record:?}");
        }
        assert_eq!(parked(&world, Class::P2) + parked(&world, Class::P3), 0, "seed {seed}");
    }
}

#[test]
fn thousands_of_jobs_are_called_off_at_once_wherever_they_are() {
    let mut world = world(5);
    start_control(&mut world);
    let bulk = tenant(&world, "bulk");
    let jobs: Vec<JobId> = (0..3000).map(|_| park(&world, &bulk, Class::P3, 20 * HOUR, 80)).collect();
    world.start_worker(4, TICK).unwrap();
    world.kernel.run_until(world.kernel.now().after(Duration::from_secs(60)), || false);
    let done = jobs.iter().filter(|job| record(&world.service, **job).head.state.is_terminal()).count();
    assert!(in_queue(&world, Class::P3) > 10 && done > 0, "some are queued, some have ended");
    assert_eq!(at_once(world.service.cancel_all(jobs.clone())).unwrap(), (jobs.len() - done) as u64);
    assert_eq!(at_once(world.service.cancel_all(jobs.clone())).unwrap(), 0, "again, nothing is left to do");
    assert_eq!(parked(&world, Class::P3), 0);
    for record in run(&world, &jobs, HOUR) {
        assert!(matches!(record.head.state, State::Succeeded | State::Cancelled) && !record.head.unsettled);
    }
    // What had been sent is received and thrown away.
    world.kernel.run_until(world.kernel.now().after(Duration::from_secs(120)), || in_queue(&world, Class::P3) == 0);
    assert_eq!(in_queue(&world, Class::P3), 0);
}
