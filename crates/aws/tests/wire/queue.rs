//! Queues.

use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_policy::classes::Class;
use penstock_policy::id::PoolId;
use penstock_service::ports::{Delivery, Message, Payload, PortError, Queue, QueueId};

use crate::harness::*;

const MINUTE: Duration = Duration::from_secs(60);

async fn receive(world: &World, visibility: Duration, wait: Duration) -> Vec<Delivery> {
    world.aws.receive(&queue_id(), 10, visibility, wait).await.unwrap()
}

#[tokio::test]
async fn a_message_is_hidden_given_back_and_removed() {
    let world = World::new().await;
    let sent = message(fresh_job());
    world.aws.send(&queue_id(), &sent, Duration::ZERO, NOW).await.unwrap();
    assert_eq!(world.aws.depth(&queue_id()).await.unwrap(), 1);

    let first = receive(&world, MINUTE, Duration::ZERO).await;
    assert_eq!(first.len(), 1);
    assert_eq!((first[0].message.as_ref(), first[0].receives), (Ok(&sent), 1));
    assert!(first[0].sent > NOW.before(Duration::from_secs(365 * 24 * 3600 * 5)));
    assert_eq!(receive(&world, MINUTE, Duration::ZERO).await, []);
    assert_eq!(world.aws.depth(&queue_id()).await.unwrap(), 1);

    world.aws.hide(&first[0].receipt, Duration::ZERO).await.unwrap();
    let second = receive(&world, MINUTE, Duration::from_secs(2)).await;
    assert_eq!((second.len(), second[0].receives), (1, 2));
    assert_eq!(second[0].sent, first[0].sent);

    world.aws.ack(&second[0].receipt).await.unwrap();
    // Again, and with receipts that have run out: no error.
    world.aws.ack(&second[0].receipt).await.unwrap();
    world.aws.ack(&first[0].receipt).await.unwrap();
    world.aws.hide(&second[0].receipt, MINUTE).await.unwrap();
    assert_eq!(world.aws.depth(&queue_id()).await.unwrap(), 0);
}

#[tokio::test]
async fn a_message_nobody_acknowledges_comes_back_after_its_visibility() {
    let world = World::new().await;
    world.aws.send(&queue_id(), &message(fresh_job()), Duration::ZERO, NOW).await.unwrap();
    assert_eq!(receive(&world, Duration::from_millis(900), Duration::ZERO).await.len(), 1);
    assert_eq!(receive(&world, MINUTE, Duration::from_secs(5)).await.len(), 1);
}

#[tokio::test]
async fn a_long_poll_wakes_when_a_message_comes_and_a_delay_holds_it_back() {
    let world = World::new().await;
    // The first call asks for the queue's URL.
    assert_eq!(world.aws.depth(&queue_id()).await.unwrap(), 0);
    let begun = Instant::now();
    let aws = Arc::clone(&world.aws);
    let polling = tokio::spawn(async move { aws.receive(&queue_id(), 1, MINUTE, Duration::from_secs(20)).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    world.aws.send(&queue_id(), &message(fresh_job()), Duration::from_millis(1100), NOW).await.unwrap();
    assert_eq!(polling.await.unwrap().unwrap().len(), 1);
    let waited = begun.elapsed();
    assert!(waited >= Duration::from_millis(2000) && waited < Duration::from_secs(12), "{waited:?}");
}

#[tokio::test]
async fn any_text_travels_unchanged_and_the_largest_payload_fits() {
    let world = World::new().await;
    let odd = "{\"a\":\"\u{ffff}\u{fffe}\u{7f}\\u0001 \u{1f600} & <\"}";
    for text in [odd.to_owned(), "\"".repeat(240 * 1024)] {
        let sent = Message { payload: Payload::Inline(text), ..message(fresh_job()) };
        world.aws.send(&queue_id(), &sent, Duration::ZERO, NOW).await.unwrap();
        let received = receive(&world, MINUTE, Duration::from_secs(2)).await;
        assert_eq!(received[0].message.as_ref(), Ok(&sent));
        world.aws.ack(&received[0].receipt).await.unwrap();
    }
}

#[tokio::test]
async fn a_receive_takes_what_it_was_told_to_and_classes_do_not_mix() {
    let world = World::new().await;
    for _ in 0..12 {
        world.aws.send(&queue_id(), &message(fresh_job()), Duration::ZERO, NOW).await.unwrap();
    }
    let other = QueueId { class: Class::P0, ..queue_id() };
    assert_eq!(world.aws.receive(&other, 10, MINUTE, Duration::ZERO).await.unwrap(), []);
    assert!(world.aws.receive(&queue_id(), 3, MINUTE, Duration::ZERO).await.unwrap().len() <= 3);
    let mut received = 3;
    while received < 12 {
        let more = receive(&world, MINUTE, Duration::from_secs(1)).await.len();
        assert!(more > 0, "{received} of 12");
        received += more;
    }
    assert_eq!(received, 12);
}

#[tokio::test]
async fn a_queue_that_is_not_there_is_a_refusal_and_is_looked_for_again() {
    let world = World::new().await;
    let late = QueueId { pool: PoolId::new("late").unwrap(), class: Class::P1 };
    assert!(matches!(world.aws.depth(&late).await, Err(PortError::Refused { store: "sqs", .. })));
    world.aws.create_queues(&late.pool).await.unwrap();
    world.aws.create_queues(&late.pool).await.unwrap();
    assert_eq!(world.aws.depth(&late).await.unwrap(), 0);
}
