//! What was left lying is found and finished, in virtual time: by runs of the reconciler that may die too.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use penstock_policy::classes::Class;
use penstock_policy::id::{Epoch, JobId, Nonce, PoolId, TenantId, WorkerId};
use penstock_policy::job::{End, State, Step};
use penstock_policy::time::Timestamp;
use penstock_service::config::Timing;
use penstock_service::ports::{Claim, Clock, Entropy, JobRecord, Pool, QueueId, Stepped, Tenant};
use penstock_service::{Reconciled, Stall, Wanted};
use penstock_sim::{Group, World};
use penstock_wire::chat::ChatRequest;
use serde_json::json;

const TICK: Duration = Duration::from_millis(200);
const HOUR: Duration = Duration::from_secs(3600);

fn world(seed: u64) -> World {
    let timing = Timing { lease: Duration::from_secs(5), visibility: Duration::from_secs(7), ..Timing::default() };
    World::new(seed, timing, World::wide_limits().unwrap()).unwrap()
}

/// The store in memory answers at once.
fn at_once<T>(work: impl Future<Output = T>) -> T {
    work.now_or_never().unwrap()
}

fn pass(world: &World, time: Duration) {
    world.kernel.run_until(world.kernel.now().after(time), || false);
}

fn start_house(world: &mut World, every: Duration) -> Group {
    let (group, service) = world.start_front();
    let spawner = world.kernel.spawner(group);
    let (ticking, reconciling) = (Arc::clone(&service), service);
    spawner.spawn(Box::pin(async move { ticking.control_loop(Duration::from_secs(5)).await }));
    spawner.spawn(Box::pin(async move { reconciling.reconcile_loop(every).await }));
    group
}

fn queue(class: Class) -> QueueId {
    QueueId { pool: PoolId::new("default").unwrap(), class }
}

fn tenant(world: &World) -> Tenant {
    world.add_tenant("acme", |_| {}).unwrap();
    at_once(world.service.ports().control.tenant(&TenantId::new("acme").unwrap())).unwrap().unwrap()
}

fn park(world: &World, tenant: &Tenant, class: Class, within: Duration) -> JobId {
    let now = world.kernel.now();
    let pools: Vec<Pool> = at_once(world.service.ports().control.pools()).unwrap();
    let pool = pools.into_iter().find(|pool| pool.model == "scripted").unwrap();
    let id = JobId::new(now, world.kernel.draw());
    let content = format!("{:020}", world.kernel.below(1_000_000));
    let body = json!({"model": "scripted", "max_tokens": 20, "seed": 1,
                      "messages": [{"role": "user", "content": content}]});
    let request = ChatRequest::parse(body.to_string().as_bytes()).unwrap();
    let stall = Stall { id, class, due: now.after(within) };
    at_once(world.service.park(tenant, Wanted::Chat(&request), &pool, &stall, now)).map_err(|_| "refused").unwrap();
    id
}

fn record(world: &World, job: JobId) -> JobRecord {
    at_once(world.service.ports().jobs.record(job)).unwrap().unwrap()
}

fn reconcile(world: &World) -> Reconciled {
    at_once(world.service.reconcile(world.kernel.now())).unwrap()
}

/// Sends a parked job to its queue, and claims it from there as a worker that dies.
fn claimed(world: &World, job: JobId, round: u32) -> Epoch {
    let ports = world.service.ports();
    let now = world.kernel.now();
    let spec = record(world, job).spec.unwrap();
    let claim = Claim {
        spec,
        owner: WorkerId::new("mortal").unwrap(),
        digest: "scripted-1".to_owned(),
        lease_until: now.after(Duration::from_secs(5)),
    };
    at_once(ports.jobs.claim(&claim, Nonce(u64::from(round) + 7), now)).unwrap();
    record(world, job).head.epoch
}

#[test]
fn an_end_that_its_worker_did_not_settle_is_settled_once_and_not_at_once() {
    let world = world(1);
    let acme = tenant(&world);
    let job = park(&world, &acme, Class::P2, HOUR);
    let epoch = claimed(&world, job, 1);
    let finish = Stepped::from(Step::Finish { epoch, end: End::Failed, last: None });
    let now = world.kernel.now();
    at_once(world.service.ports().jobs.step(job, &finish, Nonce(99), now)).unwrap().unwrap();
    assert_eq!(reconcile(&world).settled, 0, "its worker may be about to");
    pass(&world, Duration::from_secs(61));
    assert_eq!(reconcile(&world), Reconciled { settled: 1, ..Reconciled::default() });
    assert!(!record(&world, job).head.unsettled);
    assert_eq!(reconcile(&world), Reconciled::default(), "nothing is left to do");
}

#[test]
fn what_is_past_due_ends_whether_parked_or_queued_or_left_by_a_dead_worker() {
    let world = world(2);
    let acme = tenant(&world);
    let soon = Duration::from_secs(30);
    let [parked, queued, left] = [0; 3].map(|_| park(&world, &acme, Class::P3, soon));
    let ports = world.service.ports();
    at_once(ports.jobs.step(queued, &Stepped::from(Step::Unpark), Nonce(5), world.kernel.now())).unwrap().unwrap();
    claimed(&world, left, 1);
    assert_eq!(reconcile(&world), Reconciled::default());
    pass(&world, Duration::from_secs(61));
    assert_eq!(reconcile(&world), Reconciled { expired: 3, ..Reconciled::default() });
    for job in [parked, queued, left] {
        let head = record(&world, job).head;
        assert_eq!((head.state, head.unsettled), (State::Expired, false));
    }
}

#[test]
fn a_job_whose_third_worker_has_died_is_given_up_without_a_fourth() {
    let world = world(3);
    let acme = tenant(&world);
    let job = park(&world, &acme, Class::P2, HOUR);
    for round in 1..=3 {
        assert_eq!(claimed(&world, job, round), Epoch(round));
        assert_eq!(reconcile(&world), Reconciled::default(), "round {round}: somebody runs it");
        pass(&world, Duration::from_secs(6));
    }
    assert_eq!(reconcile(&world), Reconciled { given_up: 1, ..Reconciled::default() });
    let ended = record(&world, job);
    assert_eq!(ended.head.state, State::Failed);
    assert_eq!(ended.outcome.unwrap().unwrap_err().code, "poison");
}

#[test]
fn a_dead_letter_of_a_living_job_goes_back_and_is_answered_and_one_of_an_ended_job_goes() {
    let mut world = world(4);
    let acme = tenant(&world);
    let ports = world.service.ports().clone();
    let jobs = [0; 2].map(|_| park(&world, &acme, Class::P2, HOUR));
    let now = world.kernel.now();
    for job in jobs {
        let message = at_once(ports.parking.message(job)).unwrap().unwrap();
        at_once(ports.queue.send(&queue(Class::P2), &message, Duration::ZERO, now)).unwrap();
        at_once(ports.jobs.step(job, &Stepped::from(Step::Unpark), Nonce(5), now)).unwrap().unwrap();
    }
    // Received and given back until they are dead letters.
    for _ in 0..21 {
        for delivery in at_once(ports.queue.receive(&queue(Class::P2), 10, HOUR, Duration::ZERO)).unwrap() {
            at_once(ports.queue.hide(&delivery.receipt, Duration::ZERO)).unwrap();
        }
    }
    assert_eq!(at_once(ports.queue.depth(&queue(Class::P2))).unwrap(), 0);
    at_once(world.service.cancel_all([jobs[1]])).unwrap();
    assert_eq!(reconcile(&world), Reconciled { sent_again: 1, removed: 1, ..Reconciled::default() });
    assert_eq!(at_once(ports.queue.dead_letters(&queue(Class::P2), 10, HOUR)).unwrap(), []);
    world.start_worker(2, TICK).unwrap();
    pass(&world, Duration::from_secs(60));
    assert_eq!(record(&world, jobs[0]).head.state, State::Succeeded);
}

/// Workers, control loops and reconcilers die at random moments, jobs are cancelled, queues are left alone for a while. In the
/// end every job has ended once and is settled, and no message, hold or parked entry is left.
#[test]
fn whatever_dies_every_job_ends_and_nothing_is_left_lying() {
    for seed in 0..25 {
        let mut world = world(seed);
        let acme = tenant(&world);
        let mut jobs = Vec::new();
        let mut house = start_house(&mut world, Duration::from_secs(20));
        let mut worker = world.start_worker(4, TICK).unwrap().0;
        for _ in 0..8 {
            for _ in 0..10 {
                let class = if world.kernel.below(2) == 0 { Class::P2 } else { Class::P3 };
                let within = Duration::from_secs(20 + world.kernel.below(900));
                jobs.push(park(&world, &acme, class, within));
            }
            pass(&world, Duration::from_millis(500 + world.kernel.below(15_000)));
            match world.kernel.below(4) {
                0 => {
                    world.kernel.kill(house);
                    house = start_house(&mut world, Duration::from_secs(20));
                }
                1 | 2 => {
                    world.kernel.kill(worker);
                    worker = world.start_worker(4, TICK).unwrap().0;
                }
                _ => {
                    let job = jobs[usize::try_from(world.kernel.below(jobs.len() as u64)).unwrap()];
                    at_once(world.service.cancel_all([job])).unwrap();
                }
            }
        }
        pass(&world, Duration::from_secs(1200));
        let mut ends = [0; 3];
        for job in &jobs {
            let record = record(&world, *job);
            let head = record.head;
            assert!(head.state.is_terminal() && !head.unsettled, "seed {seed}: {job}: {record:?}");
            match head.state {
                State::Succeeded => ends[0] += 1,
                State::Expired => ends[1] += 1,
                State::Failed | State::Cancelled | State::Parked | State::Queued | State::Running => ends[2] += 1,
            }
        }
        assert!(ends[0] > 20, "seed {seed}: {ends:?}");
        let ports = world.service.ports();
        assert_eq!(at_once(ports.census.open_jobs(None)).unwrap().found, [], "seed {seed}");
        for class in [Class::P2, Class::P3] {
            assert_eq!(at_once(ports.parking.backlog(&queue(class))).unwrap().jobs, 0, "seed {seed}");
            assert_eq!(at_once(ports.queue.depth(&queue(class))).unwrap(), 0, "seed {seed}");
        }
        assert!(world.kernel.now() > Timestamp::EPOCH);
    }
}
