//! Token buckets.

use std::sync::Arc;
use std::time::Duration;

use penstock_policy::gcra::{self, Bucket, Limit, Spent, Verdict};
use penstock_policy::id::Nonce;
use penstock_service::ports::{Levels, Limits, PortError, Reservation, TakeOutcome};

use crate::harness::*;

fn is_granted(outcome: &TakeOutcome) -> bool {
    matches!(outcome, TakeOutcome::Granted { .. })
}

fn reservation(outcome: TakeOutcome) -> Reservation {
    match outcome {
        TakeOutcome::Granted { reservation, .. } => reservation,
        TakeOutcome::Refused { .. } => panic!("refused"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_takers_of_two_processes_are_granted_exactly_the_burst() {
    let world = World::new().await;
    let other = world.another().await;
    let taking = take(tenant_bucket(), &[(per_second(10, 40), 1), (per_second(1000, 4000), 100)]);
    let tasks: Vec<_> = (0..64)
        .map(|number| {
            let (aws, taking) = (Arc::clone(if number % 2 == 0 { &world.aws } else { &other }), taking.clone());
            tokio::spawn(async move { aws.take(&taking, nonce(), NOW).await.unwrap() })
        })
        .collect();
    let mut granted = 0;
    for task in tasks {
        granted += usize::from(is_granted(&task.await.unwrap()));
    }
    assert_eq!(granted, 40);
    assert!(is_granted(&world.aws.take(&taking, nonce(), NOW.after(Duration::from_millis(100))).await.unwrap()));
    assert!(!is_granted(&world.aws.take(&taking, nonce(), NOW.after(Duration::from_millis(100))).await.unwrap()));
}

#[tokio::test]
async fn a_lost_reply_and_a_repetition_take_once() {
    let world = World::new().await;
    let taking = take(tenant_bucket(), &[(per_second(1, 10), 3)]);
    world.faults.next("UpdateItem", "-adm", 1, Fault::ReplyLost);
    let first = world.aws.take(&taking, Nonce(77), NOW).await.unwrap();
    assert_eq!(world.faults.left(), 0);
    assert_eq!(world.aws.calls().take()["DynamoDB.UpdateItem"], 2);
    assert_eq!(world.aws.take(&taking, Nonce(77), NOW).await.unwrap(), first);
    let levels = world.aws.peek(&tenant_bucket()).await.unwrap();
    assert_eq!(gcra::available(levels.part(0), &taking.parts[0].limit, NOW), 7);
    // Another nonce is another take.
    world.aws.take(&taking, Nonce(78), NOW).await.unwrap();
    let levels = world.aws.peek(&tenant_bucket()).await.unwrap();
    assert_eq!(gcra::available(levels.part(0), &taking.parts[0].limit, NOW), 4);
}

/// The model is the policy on a plain variable; every answer must be the model's, and every granted level too.
#[tokio::test]
async fn any_sequence_of_takes_and_refunds_answers_as_the_policy_does() {
    let world = World::new().await;
    let limits = [per_second(10, 20), per_second(100, 300)];
    let mut draws = Draws(2026);
    let (mut model, mut now) = ([Bucket::default(); 2], NOW);
    let mut held: Vec<Reservation> = Vec::new();
    let (mut grants, mut refusals, mut refunds) = (0, 0, 0);
    for _ in 0..300 {
        now = match draws.below(6) {
            0 => now.after(Duration::from_millis(draws.below(4000))),
            1 => now.before(Duration::from_millis(draws.below(50))),
            _ => now,
        };
        if draws.below(4) == 0 && !held.is_empty() {
            let back = held.swap_remove(usize::try_from(draws.below(held.len() as u64)).unwrap());
            world.aws.refund(&back, now).await.unwrap();
            for (bucket, spent) in model.iter_mut().zip(&back.spent) {
                *bucket = gcra::refund(*bucket, *spent);
            }
            refunds += 1;
            continue;
        }
        let units = [draws.below(23), draws.below(120)];
        let taking = take(tenant_bucket(), &[(limits[0], units[0]), (limits[1], units[1])]);
        let verdicts: Vec<Verdict> =
            (0..2).map(|part| gcra::take(model[part], &limits[part], units[part], now)).collect();
        match world.aws.take(&taking, nonce(), now).await.unwrap() {
            TakeOutcome::Granted { reservation, levels } => {
                for (part, verdict) in verdicts.into_iter().enumerate() {
                    let Verdict::Granted { bucket, spent } = verdict else { panic!("granted, not {verdict:?}") };
                    assert_eq!((levels.part(part), reservation.spent[part]), (bucket, spent));
                    model[part] = bucket;
                }
                held.push(reservation);
                grants += 1;
            }
            TakeOutcome::Refused { part, until, levels } => {
                let expected = match verdicts[part] {
                    Verdict::Refused { until } => Some(until),
                    Verdict::NeverSatisfiable => None,
                    Verdict::Granted { .. } => panic!("refused by a part that grants"),
                };
                assert_eq!((until, levels), (expected, known(&model)));
                refusals += 1;
            }
        }
    }
    assert!(grants > 50 && refusals > 50 && refunds > 20, "{grants} {refusals} {refunds}");
}

fn known(model: &[Bucket; 2]) -> Levels {
    if model == &[Bucket::default(); 2] { Levels::default() } else { Levels(model.to_vec()) }
}

#[tokio::test]
async fn a_refund_applies_only_to_the_parts_still_in_its_generation() {
    let world = World::new().await;
    // The first part is full again after a second, the second only after a minute.
    let limits = [per_second(10, 10), Limit::per_minute(60).unwrap()];
    let taking = take(tenant_bucket(), &[(limits[0], 10), (limits[1], 50)]);
    let first = reservation(world.aws.take(&taking, nonce(), NOW).await.unwrap());
    let later = NOW.after(Duration::from_secs(5));
    let small = take(tenant_bucket(), &[(limits[0], 4), (limits[1], 0)]);
    let second = reservation(world.aws.take(&small, nonce(), later).await.unwrap());
    assert_eq!(second.spent.iter().map(|spent| spent.generation).collect::<Vec<_>>(), [2, 1]);

    world.aws.refund(&first, later).await.unwrap();
    let levels = world.aws.peek(&tenant_bucket()).await.unwrap();
    assert_eq!(gcra::available(levels.part(0), &limits[0], later), 6);
    assert_eq!(gcra::available(levels.part(1), &limits[1], later), 60);
    // Neither generation matches: nothing happens, and it is no error.
    let stale = Reservation { spent: first.spent.iter().map(|s| Spent { generation: 9, ..*s }).collect(), ..first };
    world.aws.refund(&stale, later).await.unwrap();
    assert_eq!(world.aws.peek(&tenant_bucket()).await.unwrap(), levels);
}

#[tokio::test]
async fn a_refund_whose_reply_is_lost_is_not_repeated() {
    let world = World::new().await;
    let limit = per_second(1, 10);
    let held = reservation(world.aws.take(&take(tenant_bucket(), &[(limit, 8)]), nonce(), NOW).await.unwrap());
    let part = Reservation {
        spent: held.spent.iter().map(|spent| Spent { cost_ns: spent.cost_ns / 2, ..*spent }).collect(),
        ..held
    };
    let _ = world.aws.calls().take();
    world.faults.next("UpdateItem", "-adm", 1, Fault::ReplyLost);
    assert!(matches!(world.aws.refund(&part, NOW).await, Err(PortError::Unavailable { .. })));
    assert_eq!(world.aws.calls().take()["DynamoDB.UpdateItem"], 1);
    let levels = world.aws.peek(&tenant_bucket()).await.unwrap();
    assert_eq!(gcra::available(levels.part(0), &limit, NOW), 6);
}

#[tokio::test]
async fn more_than_the_burst_is_refused_for_ever_and_an_empty_part_costs_nothing() {
    let world = World::new().await;
    let too_much = take(tenant_bucket(), &[(per_second(1, 10), 1), (per_second(1, 10), 11)]);
    let refused = world.aws.take(&too_much, nonce(), NOW).await.unwrap();
    assert_eq!(refused, TakeOutcome::Refused { part: 1, until: None, levels: Levels::default() });
    assert!(!world.aws.calls().take().contains_key("DynamoDB.UpdateItem"));

    let limit = per_second(1, 10);
    let all = take(tenant_bucket(), &[(limit, 10), (limit, 0)]);
    assert!(is_granted(&world.aws.take(&all, nonce(), NOW).await.unwrap()));
    let nothing = take(tenant_bucket(), &[(limit, 0), (limit, 0)]);
    assert!(is_granted(&world.aws.take(&nothing, nonce(), NOW).await.unwrap()));
    let one = take(tenant_bucket(), &[(limit, 1), (limit, 0)]);
    let TakeOutcome::Refused { part: 0, until, .. } = world.aws.take(&one, nonce(), NOW).await.unwrap() else {
        panic!("must be refused");
    };
    assert_eq!(until, Some(NOW.after(Duration::from_secs(1))));
}
