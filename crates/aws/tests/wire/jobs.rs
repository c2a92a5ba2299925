//! Claims, steps and chunks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_policy::id::{Epoch, JobId, Nonce};
use penstock_policy::job::{Denied, End, Head, Position, State, Step, apply};
use penstock_service::ports::{
    Answer, Chunk, Claimed, ErrorVerdict, FinishReason, JobRecord, Jobs, Part, StepResult, Stepped,
};
use penstock_service::stored::chunk::Words;

use crate::harness::*;

const LEASE: Duration = Duration::from_secs(45);

fn held(claimed: Claimed) -> JobRecord {
    match claimed {
        Claimed::Yes(record) => *record,
        other @ (Claimed::No { .. } | Claimed::OtherDigest(_)) => panic!("not claimed: {other:?}"),
    }
}

async fn step(world: &World, job: JobId, step: Step) -> StepResult {
    world.aws.step(job, &step.into(), nonce(), NOW).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_sixteen_workers_one_claims_and_the_others_learn_until_when() {
    let world = World::new().await;
    let job = fresh_job();
    let tasks: Vec<_> = (0..16)
        .map(|number| {
            let aws = Arc::clone(&world.aws);
            tokio::spawn(async move { aws.claim(&claim(job, &format!("w{number}"), "d"), nonce(), NOW).await.unwrap() })
        })
        .collect();
    let mut winners = Vec::new();
    for task in tasks {
        match task.await.unwrap() {
            Claimed::Yes(record) => winners.push(record),
            Claimed::No { denied, record } => {
                assert_eq!(denied, Denied::Leased(NOW.after(LEASE)));
                assert_eq!(record.head.epoch, Epoch(1));
            }
            Claimed::OtherDigest(digest) => panic!("{digest}"),
        }
    }
    assert_eq!(winners.len(), 1);
    let record = world.aws.record(job).await.unwrap().unwrap();
    assert_eq!(record, *winners[0]);
    assert_eq!((record.spec, record.started), (Some(spec(job)), Some(NOW)));
    assert_eq!((record.head.interest, record.head.state), (1, State::Running));
}

fn said(text: &str) -> Words {
    let parts = if text.is_empty() { Vec::new() } else { vec![Part::Content(text.to_owned())] };
    Words { parts, ..Words::default() }
}

#[tokio::test]
async fn a_claim_whose_reply_is_lost_is_still_the_claimers() {
    let world = World::new().await;
    let job = fresh_job();
    world.faults.next("UpdateItem", "-job", 1, Fault::ReplyLost);
    let first = held(world.aws.claim(&claim(job, "w", "d"), Nonce(7), NOW).await.unwrap());
    assert_eq!((world.faults.left(), first.head.epoch), (0, Epoch(1)));
    assert_eq!(held(world.aws.claim(&claim(job, "w", "d"), Nonce(7), NOW).await.unwrap()), first);
    assert!(matches!(world.aws.claim(&claim(job, "w", "d"), Nonce(8), NOW).await.unwrap(), Claimed::No { .. }));
    // After the lease, anybody's.
    let later = NOW.after(LEASE + Duration::from_millis(1));
    assert_eq!(held(world.aws.claim(&claim(job, "v", "d"), Nonce(9), later).await.unwrap()).head.epoch, Epoch(2));
}

/// Each kind of step once, its reply lost, and then repeated with the same nonce: granted, applied once.
#[tokio::test]
async fn every_step_survives_a_lost_reply_and_a_repetition() {
    let world = World::new().await;
    let epoch = |number| Epoch(number);
    let last = Some(Position { epoch: Epoch(2), seq: 4 });
    let (job, tomb, late) = (fresh_job(), fresh_job(), fresh_job());
    held(world.aws.claim(&claim(job, "w", "d"), nonce(), NOW).await.unwrap());
    let script: [(JobId, Step); 12] = [
        (job, Step::Renew { epoch: epoch(1), lease_until: NOW.after(2 * LEASE) }),
        (job, Step::Join),
        (job, Step::Leave),
        (job, Step::Release { epoch: epoch(1), blameless: true }),
        (job, Step::Claim { lease_until: NOW.after(LEASE) }),
        (job, Step::Finish { epoch: epoch(2), end: End::Failed, last }),
        (job, Step::Settle),
        (tomb, Step::Cancel { regardless_of_interest: false }),
        (late, Step::Expire),
        (late, Step::Settle),
        (fresh_job(), Step::CallOff),
        (fresh_job(), Step::Put),
    ];
    for (job, step) in script {
        let before = world.aws.record(job).await.unwrap().map(|record| record.head);
        let nonce = nonce();
        let expected = apply(step, nonce, before.as_ref(), NOW);
        world.faults.next("UpdateItem", "-job", 1, Fault::ReplyLost);
        assert_eq!(world.aws.step(job, &step.into(), nonce, NOW).await.unwrap(), expected, "{step:?}");
        assert_eq!(world.faults.left(), 0);
        assert_eq!(world.aws.step(job, &step.into(), nonce, NOW).await.unwrap(), expected, "{step:?} again");
        assert!(expected.is_ok(), "{step:?}");
    }
    let record = world.aws.record(tomb).await.unwrap().unwrap();
    assert_eq!((record.spec, record.finished, record.head.state), (None, Some(NOW), State::Cancelled));
    let claimed = world.aws.claim(&claim(tomb, "w", "d"), nonce(), NOW).await.unwrap();
    assert!(matches!(claimed, Claimed::No { denied: Denied::Ended(State::Cancelled), .. }));
}

/// The expressions against the table, on random steps with moments that jump both ways.
#[tokio::test]
async fn any_sequence_of_steps_answers_as_the_table_does() {
    let world = World::new().await;
    let mut draws = Draws(1);
    let (mut granted, mut denied) = (0, 0);
    for _ in 0..60 {
        let job = fresh_job();
        let mut model: Option<Head> = None;
        for _ in 0..10 {
            let now = NOW.after(Duration::from_millis(draws.below(200)));
            let epoch = Epoch(u32::try_from(draws.below(3)).unwrap());
            let lease_until = NOW.after(Duration::from_millis(draws.below(200)));
            let last = (draws.below(2) == 0).then_some(Position { epoch, seq: 3 });
            let step = match draws.below(15) {
                0 => Step::Put,
                13 => Step::CallOff,
                1..=3 => Step::Claim { lease_until },
                4 => Step::Renew { epoch, lease_until },
                5 => Step::Release { epoch, blameless: draws.below(2) == 0 },
                6 => Step::Finish { epoch, end: End::Succeeded, last },
                7 => Step::Expire,
                8 | 9 => Step::Join,
                10 | 11 => Step::Leave,
                12 => Step::Cancel { regardless_of_interest: draws.below(2) == 0 },
                _ => Step::Settle,
            };
            let nonce = nonce();
            let expected = apply(step, nonce, model.as_ref(), now);
            let found = if let Step::Claim { lease_until } = step {
                let making = penstock_service::ports::Claim { lease_until, ..claim(job, "w", "d") };
                match world.aws.claim(&making, nonce, now).await.unwrap() {
                    Claimed::Yes(record) => Ok(record.head),
                    Claimed::No { denied, .. } => Err(denied),
                    Claimed::OtherDigest(digest) => panic!("{digest}"),
                }
            } else {
                world.aws.step(job, &step.into(), nonce, now).await.unwrap()
            };
            assert_eq!(found, expected, "{step:?} on {model:?} at {now}");
            match expected {
                Ok(head) => (model, granted) = (Some(head), granted + 1),
                Err(_) => denied += 1,
            }
        }
    }
    assert!(granted > 100 && denied > 100, "{granted} {denied}");
}

#[tokio::test]
async fn an_end_keeps_its_particulars_and_is_never_changed() {
    let world = World::new().await;
    let job = fresh_job();
    held(world.aws.claim(&claim(job, "w", "sha256:ab"), nonce(), NOW).await.unwrap());
    let last = Some(Position { epoch: Epoch(1), seq: 0 });
    let answer = Answer {
        reasons: vec![FinishReason::Stop, FinishReason::Stop],
        prompt_tokens: 3,
        completion_tokens: 5,
        cached_tokens: 2,
        reasoning_tokens: 1,
    };
    let end = Stepped {
        step: Step::Finish { epoch: Epoch(1), end: End::Succeeded, last },
        outcome: Some(Ok(answer.clone())),
        event: None,
        addition: None,
    };
    assert!(world.aws.step(job, &end, nonce(), NOW.after(LEASE)).await.unwrap().is_ok());
    let verdict = ErrorVerdict { status: 500, code: "x".into(), param: None, message: "y".into() };
    let step_again = Step::Finish { epoch: Epoch(1), end: End::Failed, last: None };
    let again = Stepped { step: step_again, outcome: Some(Err(verdict)), event: None, addition: None };
    assert_eq!(world.aws.step(job, &again, nonce(), NOW).await.unwrap(), Err(Denied::Ended(State::Succeeded)));
    let record = world.aws.record(job).await.unwrap().unwrap();
    assert_eq!((record.outcome, record.finished), (Some(Ok(answer)), Some(NOW.after(LEASE))));
    assert_eq!((record.head.last, record.head.unsettled), (last, true));
    assert_eq!(record.digest.as_deref(), Some("sha256:ab"));
    assert!(step(&world, job, Step::Settle).await.is_ok());
    assert_eq!(step(&world, job, Step::Settle).await, Err(Denied::Settled));
}

#[tokio::test]
async fn another_model_may_take_a_job_over_only_before_its_first_word() {
    let world = World::new().await;
    let job = fresh_job();
    held(world.aws.claim(&claim(job, "w", "old"), nonce(), NOW).await.unwrap());
    // A live lease comes first, whatever the digest.
    let denied = world.aws.claim(&claim(job, "v", "new"), nonce(), NOW).await.unwrap();
    assert!(matches!(denied, Claimed::No { denied: Denied::Leased(_), .. }));

    assert!(step(&world, job, Step::Release { epoch: Epoch(1), blameless: true }).await.is_ok());
    let taken = held(world.aws.claim(&claim(job, "v", "new"), nonce(), NOW).await.unwrap());
    assert_eq!((taken.digest.as_deref(), taken.head.epoch), (Some("new"), Epoch(2)));

    let chunk = Chunk { position: Position { epoch: Epoch(2), seq: 0 }, parent: None, ids: vec![1], words: said("a") };
    world.aws.put_chunk(job, &chunk).await.unwrap();
    assert!(step(&world, job, Step::Release { epoch: Epoch(2), blameless: true }).await.is_ok());
    let refused = world.aws.claim(&claim(job, "w", "old"), nonce(), NOW).await.unwrap();
    assert_eq!(refused, Claimed::OtherDigest("new".to_owned()));
    let taken = held(world.aws.claim(&claim(job, "w", "new"), nonce(), NOW).await.unwrap());
    assert_eq!(taken.head.epoch, Epoch(3));
}

#[tokio::test]
async fn chunks_come_in_order_across_pages_and_after_a_place() {
    let world = World::new().await;
    let job = fresh_job();
    let text = "wort ".repeat(20_000);
    let chunks: Vec<Chunk> = (0..30u32)
        .map(|number| Chunk {
            position: Position { epoch: Epoch(1 + number / 12), seq: number % 12 },
            parent: (number == 12).then_some(Position { epoch: Epoch(1), seq: 11 }),
            ids: vec![number; 3],
            words: said(if number == 29 { "" } else { &text }),
        })
        .collect();
    for chunk in chunks.iter().rev() {
        world.aws.put_chunk(job, chunk).await.unwrap();
    }
    // Again: unconditional, and the same.
    world.aws.put_chunk(job, &chunks[4]).await.unwrap();
    let _ = world.aws.calls().take();
    assert_eq!(world.aws.chunks(job, None).await.unwrap(), chunks);
    assert!(world.aws.calls().take()["DynamoDB.Query"] > 2);
    for number in [0, 11, 12, 28, 29] {
        let after = Some(chunks[number].position);
        assert_eq!(world.aws.chunks(job, after).await.unwrap(), chunks[number + 1..]);
    }
    assert_eq!(world.aws.chunks(fresh_job(), None).await.unwrap(), []);
}

#[tokio::test]
async fn a_watch_looks_quickly_first() {
    let world = World::new().await;
    let mut watch = world.aws.watch(fresh_job());
    let begun = Instant::now();
    watch.changed().await;
    watch.changed().await;
    assert!(begun.elapsed() >= Duration::from_millis(90));
}
