//! Accepting, and every place at which it can break off.

use std::time::Duration;

use penstock_policy::gcra;
use penstock_policy::id::{JobId, Nonce};
use penstock_policy::job::{State, Step};
use penstock_policy::parking::Berth;
use penstock_service::ports::{
    Acceptance, Accepted, Claimed, Delivery, JobRecord, Jobs, Limits, MarkerClaim, Markers, PortError, Queue, Stepped,
};

use crate::harness::*;

const MINUTE: Duration = Duration::from_secs(60);
const REFUSED: &str = r#"{"__type":"com.amazonaws.sqs#AccessDeniedException","message":"not yours"}"#;
const THROTTLED: &str = r#"{"__type":"com.amazonaws.sqs#RequestThrottled","message":"slower"}"#;
const TABLE_THROTTLED: &str =
    r#"{"__type":"com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException","message":"slower"}"#;

fn acceptance(job: JobId) -> Acceptance {
    Acceptance {
        message: message(job),
        takes: vec![
            take(tenant_bucket(), &[(per_second(1, 10), 1), (per_second(100, 1000), 100)]),
            take(virtual_queue(), &[(per_second(100, 300), 100)]),
        ],
        marker: Some(MarkerClaim {
            key: marker_key(),
            fingerprint: u64::MAX,
            expires: NOW.after(MINUTE),
            replaces: None,
        }),
        attempt: None,
        berth: Berth::Queue,
        nonce: nonce(),
    }
}

async fn accept(world: &World, acceptance: &Acceptance) -> Result<Accepted, PortError> {
    world.aws.accept(acceptance, NOW).await
}

/// How many takes of the acceptance are missing from each bucket.
async fn taken(world: &World) -> [u64; 2] {
    let of = |levels: penstock_service::ports::Levels, limit, part, each| {
        (per_second(100, limit).burst() - gcra::available(levels.part(part), &per_second(100, limit), NOW)) / each
    };
    let tenant = world.aws.peek(&tenant_bucket()).await.unwrap();
    let queue = world.aws.peek(&virtual_queue()).await.unwrap();
    [of(tenant, 1000, 1, 100), of(queue, 300, 0, 100)]
}

async fn received(world: &World) -> Vec<Delivery> {
    world.aws.receive(&queue_id(), 10, MINUTE, Duration::ZERO).await.unwrap()
}

async fn record(world: &World, job: JobId) -> Option<JobRecord> {
    world.aws.record(job).await.unwrap()
}

/// Nothing is left of the attempt: no record that could run, no marker, nothing taken.
async fn assert_nothing_left(world: &World, job: JobId) {
    assert_eq!(taken(world).await, [0, 0]);
    assert_eq!(world.aws.find(&marker_key()).await.unwrap(), None);
    assert!(record(world, job).await.is_none_or(|record| record.head.state == State::Cancelled));
}

#[tokio::test]
async fn an_accepted_job_is_sent_recorded_and_marked_in_four_writes_and_one_send() {
    let world = World::new().await;
    let wanted = acceptance(fresh_job());
    let job = wanted.message.spec.id;
    // The queue's URL is asked for once a process.
    world.aws.depth(&queue_id()).await.unwrap();
    let _ = world.aws.calls().take();
    let Accepted::Yes { spec, levels } = accept(&world, &wanted).await.unwrap() else { panic!("not accepted") };
    let calls = world.aws.calls().take();
    println!("one accept: {calls:?}");
    assert_eq!((calls["DynamoDB.UpdateItem"], calls["SQS.SendMessage"], calls.len()), (4, 1, 2));

    let reservation = spec.reservations[0].clone();
    assert_eq!(reservation.key, tenant_bucket());
    assert_eq!((reservation.spent.len(), levels.len()), (2, 2));
    assert_eq!(taken(&world).await, [1, 1]);
    let stored = record(&world, job).await.unwrap();
    assert_eq!((stored.spec.as_ref(), stored.head.state), (Some(&*spec), State::Queued));
    assert_eq!((stored.head.nonce, stored.head.interest), (wanted.nonce, 1));
    let marker = world.aws.find(&marker_key()).await.unwrap().unwrap();
    assert_eq!((marker.job, marker.fingerprint, marker.written), (job, u64::MAX, NOW));
    let delivered = received(&world).await;
    assert_eq!((delivered.len(), &delivered[0].message.as_ref().unwrap().spec), (1, &*spec));
}

#[tokio::test]
async fn a_repetition_accepts_once() {
    let world = World::new().await;
    let wanted = acceptance(fresh_job());
    let first = accept(&world, &wanted).await.unwrap();
    assert_eq!(accept(&world, &wanted).await.unwrap(), first);
    assert_eq!(taken(&world).await, [1, 1]);
    // Whatever was sent twice is claimed once.
    let claims = [
        world.aws.claim(&claim(wanted.message.spec.id, "w", "d"), nonce(), NOW).await.unwrap(),
        world.aws.claim(&claim(wanted.message.spec.id, "v", "d"), nonce(), NOW).await.unwrap(),
    ];
    assert!(matches!(claims, [Claimed::Yes(_), Claimed::No { .. }]));
}

#[tokio::test]
async fn a_job_sent_again_by_another_attempt_keeps_its_record() {
    let world = World::new().await;
    let job = fresh_job();
    let Accepted::Yes { spec: first, .. } = accept(&world, &acceptance(job)).await.unwrap() else { panic!() };
    let marker = world.aws.find(&marker_key()).await.unwrap().unwrap();
    let later = NOW.after(Duration::from_secs(5));
    let Accepted::Yes { spec, .. } = world.aws.accept(&acceptance(job), later).await.unwrap() else { panic!() };
    assert_eq!((spec, world.aws.find(&marker_key()).await.unwrap()), (first, Some(marker)));
}

#[tokio::test]
async fn lost_replies_at_every_write_change_nothing() {
    let world = World::new().await;
    for (number, (operation, text)) in [
        ("UpdateItem", "B#T#"),
        ("UpdateItem", "B#V#"),
        ("UpdateItem", "-cache"),
        ("UpdateItem", "-job"),
        ("SendMessage", ""),
    ]
    .into_iter()
    .enumerate()
    {
        let mut wanted = acceptance(fresh_job());
        let digest = format!("{number:064}");
        wanted.marker.as_mut().unwrap().key.digest = digest;
        // Small enough to be taken five times.
        wanted.takes[0].parts[0].units = 1;
        wanted.takes[1].parts[0].units = 10;
        world.faults.next(operation, text, 1, Fault::ReplyLost);
        assert!(matches!(accept(&world, &wanted).await.unwrap(), Accepted::Yes { .. }), "{operation} {text}");
        assert_eq!(world.faults.left(), 0, "{operation} {text}");
        assert_eq!(record(&world, wanted.message.spec.id).await.unwrap().head.state, State::Queued);
    }
    assert_eq!(taken(&world).await[0], 5);
}

#[tokio::test]
async fn the_second_buckets_refusal_gives_the_first_back() {
    let world = World::new().await;
    for _ in 0..3 {
        let mut wanted = acceptance(fresh_job());
        wanted.marker = None;
        assert!(matches!(accept(&world, &wanted).await.unwrap(), Accepted::Yes { .. }));
    }
    let mut wanted = acceptance(fresh_job());
    let Accepted::Refused { key, part, until, .. } = accept(&world, &wanted).await.unwrap() else { panic!() };
    assert_eq!((key, part, until), (virtual_queue(), 0, Some(NOW.after(Duration::from_secs(1)))));
    assert_eq!(taken(&world).await, [3, 3]);
    assert_eq!(world.aws.find(&marker_key()).await.unwrap(), None);
    assert_eq!(record(&world, wanted.message.spec.id).await, None);
    // The take that was given back does not count as taken when the same attempt comes again.
    wanted.takes.pop();
    assert!(matches!(accept(&world, &wanted).await.unwrap(), Accepted::Yes { .. }));
    assert_eq!(taken(&world).await, [4, 3]);
}

#[tokio::test]
async fn a_marker_is_held_replaced_taken_over_and_cleared() {
    let world = World::new().await;
    let first = acceptance(fresh_job());
    assert!(matches!(accept(&world, &first).await.unwrap(), Accepted::Yes { .. }));

    let mut second = acceptance(fresh_job());
    let Accepted::Held(marker) = accept(&world, &second).await.unwrap() else { panic!("not held") };
    assert_eq!(marker.job, first.message.spec.id);
    assert_eq!(taken(&world).await, [1, 1]);
    assert_eq!(record(&world, second.message.spec.id).await, None);
    assert_eq!(received(&world).await.len(), 1);

    // Replacing the job it names.
    second.marker.as_mut().unwrap().replaces = Some(first.message.spec.id);
    second.nonce = nonce();
    assert!(matches!(accept(&world, &second).await.unwrap(), Accepted::Yes { .. }));
    assert_eq!(world.aws.find(&marker_key()).await.unwrap().unwrap().job, second.message.spec.id);
    // Replacing a job it no longer names.
    let mut third = acceptance(fresh_job());
    third.marker.as_mut().unwrap().replaces = Some(first.message.spec.id);
    assert!(matches!(accept(&world, &third).await.unwrap(), Accepted::Held(_)));
    // Sending again under its own job's id.
    let mut again = acceptance(second.message.spec.id);
    again.takes.clear();
    again.marker.as_mut().unwrap().replaces = Some(second.message.spec.id);
    assert!(matches!(accept(&world, &again).await.unwrap(), Accepted::Yes { .. }));
    // An expired one, still present.
    third.nonce = nonce();
    third.takes.clear();
    let claim = third.marker.as_mut().unwrap();
    (claim.replaces, claim.expires) = (None, NOW.after(2 * MINUTE));
    let accepted = world.aws.accept(&third, NOW.after(MINUTE)).await.unwrap();
    assert!(matches!(accepted, Accepted::Yes { .. }));
    // Clearing is for the job it names.
    world.aws.clear(&marker_key(), first.message.spec.id).await.unwrap();
    assert!(world.aws.find(&marker_key()).await.unwrap().is_some());
    world.aws.clear(&marker_key(), third.message.spec.id).await.unwrap();
    assert_eq!(world.aws.find(&marker_key()).await.unwrap(), None);
}

#[tokio::test]
async fn a_refused_send_leaves_nothing_behind() {
    let world = World::new().await;
    for (status, body, tries) in [(403, REFUSED, 1), (400, THROTTLED, 3)] {
        let wanted = acceptance(fresh_job());
        world.faults.next("SendMessage", "", tries, Fault::Answer(status, body));
        let error = accept(&world, &wanted).await.unwrap_err();
        assert_eq!(error.is_passing(), status == 400, "{error:?}");
        assert_eq!(world.faults.left(), 0);
        assert_nothing_left(&world, wanted.message.spec.id).await;
        assert_eq!(record(&world, wanted.message.spec.id).await, None);
        assert_eq!(received(&world).await, []);
        // The same attempt, repeated by its caller, takes anew.
        assert!(matches!(accept(&world, &wanted).await.unwrap(), Accepted::Yes { .. }));
        assert_eq!(taken(&world).await, [1, 1]);
        world.aws.clear(&marker_key(), wanted.message.spec.id).await.unwrap();
        received(&world).await;
        // Empty the buckets again for the next round.
        let spec = record(&world, wanted.message.spec.id).await.unwrap().spec.unwrap();
        world.aws.refund(&spec.reservations[0], NOW).await.unwrap();
        let levels = world.aws.peek(&virtual_queue()).await.unwrap();
        let spent = vec![gcra::Spent { cost_ns: 1_000_000_000, generation: levels.part(0).generation }];
        world.aws.refund(&penstock_service::ports::Reservation { key: virtual_queue(), spent }, NOW).await.unwrap();
    }
}

#[tokio::test]
async fn a_send_that_never_arrives_is_called_off() {
    let world = World::new().await;
    let wanted = acceptance(fresh_job());
    world.faults.next("SendMessage", "", 3, Fault::RequestLost);
    assert!(matches!(accept(&world, &wanted).await, Err(PortError::Unavailable { store: "sqs", .. })));
    assert_nothing_left(&world, wanted.message.spec.id).await;
    let tomb = record(&world, wanted.message.spec.id).await.unwrap();
    assert_eq!((tomb.head.state, tomb.head.unsettled, tomb.spec), (State::Cancelled, false, None));
}

#[tokio::test]
async fn a_send_whose_replies_are_all_lost_never_runs() {
    let world = World::new().await;
    let wanted = acceptance(fresh_job());
    world.faults.next("SendMessage", "", 3, Fault::ReplyLost);
    assert!(accept(&world, &wanted).await.is_err());
    assert_nothing_left(&world, wanted.message.spec.id).await;
    let late = received(&world).await;
    assert!(!late.is_empty());
    let spec = late[0].message.as_ref().unwrap().spec.clone();
    let claiming = penstock_service::ports::Claim { spec, ..claim(wanted.message.spec.id, "w", "d") };
    assert!(matches!(world.aws.claim(&claiming, nonce(), NOW).await.unwrap(), Claimed::No { .. }));
    // A refusal after a lost reply proves nothing: the first try may have arrived.
    let wanted = acceptance(fresh_job());
    world.faults.next("SendMessage", "", 1, Fault::ReplyLost);
    world.faults.next("SendMessage", "", 1, Fault::Answer(403, REFUSED));
    assert!(accept(&world, &wanted).await.is_err());
    assert_eq!(record(&world, wanted.message.spec.id).await.unwrap().head.state, State::Cancelled);
    assert_nothing_left(&world, wanted.message.spec.id).await;
}

#[tokio::test]
async fn a_worker_that_claimed_meanwhile_proves_that_the_send_succeeded() {
    let world = World::new().await;
    let wanted = acceptance(fresh_job());
    let job = wanted.message.spec.id;
    // As if a worker had received the message of the first lost reply before the acceptor gave up.
    let claimed = world.aws.claim(&claim(job, "w", "d"), nonce(), NOW).await.unwrap();
    assert!(matches!(claimed, Claimed::Yes(_)));
    world.faults.next("SendMessage", "", 3, Fault::ReplyLost);
    assert!(matches!(accept(&world, &wanted).await.unwrap(), Accepted::Yes { .. }));
    assert_eq!(record(&world, job).await.unwrap().head.state, State::Running);
    assert_eq!(taken(&world).await, [1, 1]);
    assert_eq!(world.aws.find(&marker_key()).await.unwrap().unwrap().job, job);
}

#[tokio::test]
async fn a_tombstone_that_cannot_be_written_keeps_the_marker_and_the_takes() {
    let world = World::new().await;
    let wanted = acceptance(fresh_job());
    world.faults.next("SendMessage", "", 3, Fault::ReplyLost);
    world.faults.next("UpdateItem", "-job", 3, Fault::RequestLost);
    assert!(accept(&world, &wanted).await.is_err());
    assert_eq!(world.faults.left(), 0);
    assert_eq!(taken(&world).await, [1, 1]);
    assert!(world.aws.find(&marker_key()).await.unwrap().is_some());
}

#[tokio::test]
async fn a_record_that_cannot_be_written_keeps_the_marker_because_the_job_will_run() {
    let world = World::new().await;
    let wanted = acceptance(fresh_job());
    let job = wanted.message.spec.id;
    world.faults.next("UpdateItem", "-job", 9, Fault::Answer(400, TABLE_THROTTLED));
    let error = accept(&world, &wanted).await.unwrap_err();
    assert!(matches!(error, PortError::Unavailable { store: "dynamodb", .. }), "{error:?}");
    assert_eq!(world.faults.left(), 0);
    assert_eq!(taken(&world).await, [1, 1]);
    assert_eq!(world.aws.find(&marker_key()).await.unwrap().unwrap().job, job);
    // The message alone makes the record, reservation and all.
    let spec = received(&world).await[0].message.clone().unwrap().spec;
    assert_eq!(spec.reservations.len(), 2);
    let claiming = penstock_service::ports::Claim { spec: spec.clone(), ..claim(job, "w", "d") };
    let Claimed::Yes(claimed) = world.aws.claim(&claiming, nonce(), NOW).await.unwrap() else { panic!() };
    assert_eq!(claimed.spec, Some(spec));
}

#[tokio::test]
async fn a_short_throttle_of_the_queue_or_the_table_is_never_seen() {
    let world = World::new().await;
    world.faults.next("SendMessage", "", 2, Fault::Answer(400, THROTTLED));
    world.faults.next("UpdateItem", "-job", 4, Fault::Answer(400, TABLE_THROTTLED));
    assert!(matches!(accept(&world, &acceptance(fresh_job())).await.unwrap(), Accepted::Yes { .. }));
    assert_eq!(world.faults.left(), 0);
}

#[tokio::test]
async fn a_failed_marker_write_gives_everything_back() {
    let world = World::new().await;
    let wanted = acceptance(fresh_job());
    world.faults.next("UpdateItem", "-cache", 3, Fault::ReplyLost);
    // The condition is its own: even three lost replies are one marker, found by the next attempt.
    assert!(accept(&world, &wanted).await.is_err());
    assert_nothing_left(&world, wanted.message.spec.id).await;
    assert_eq!(received(&world).await, []);
}

#[tokio::test]
async fn a_cancel_before_the_record_stays_a_cancel_and_nobody_is_told_that_it_was_accepted() {
    let world = World::new().await;
    let wanted = acceptance(fresh_job());
    let job = wanted.message.spec.id;
    let cancel = Stepped::from(Step::Cancel { regardless_of_interest: true });
    world.aws.step(job, &cancel, Nonce(u64::MAX), NOW).await.unwrap().unwrap();
    assert!(matches!(accept(&world, &wanted).await, Err(PortError::Unavailable { .. })));
    assert_eq!(record(&world, job).await.unwrap().head.state, State::Cancelled);
    assert_nothing_left(&world, job).await;
}
