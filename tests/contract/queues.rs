//! The contract of queues: at least once, hidden while in flight, removed by acknowledgement.
//!
//! Queues count time themselves, so nothing here waits for a hidden message to come back by itself; giving back is
//! asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use penstock_policy::classes::Class;
use penstock_policy::cost::Price;
use penstock_policy::id::{JobId, PoolId, TenantId};
use penstock_policy::tenant::Retention;
use penstock_policy::time::Timestamp;
use penstock_service::ports::{BlobKey, JobSpec, Message, Payload, QueueId, Receipt};
use penstock_service::stored::story::Admitted;

use crate::subject::{BASE_MS, Chance, POOL, Subject};

const VISIBILITY: Duration = Duration::from_secs(300);
const NO_WAIT: Duration = Duration::ZERO;

/// Random sends, receives, acknowledgements and hand-backs on one queue, against a set.
pub(crate) async fn check(subject: &Subject, rounds: u64) {
    let queue = QueueId { pool: PoolId::new(POOL).unwrap(), class: Class::P3 };
    let mut chance = Chance(42);
    let mut waiting: BTreeMap<JobId, Message> = BTreeMap::new();
    let mut in_flight: Vec<(Message, Receipt, u32)> = Vec::new();
    let mut receives: BTreeMap<JobId, u32> = BTreeMap::new();
    for _ in 0..rounds {
        match chance.below(4) {
            0 => {
                let message = a_message(&mut chance);
                let now = Timestamp::from_millis(BASE_MS);
                subject.queue.send(&queue, &message, Duration::ZERO, now).await.unwrap();
                waiting.insert(message.spec.id, message);
            }
            1 => {
                let max = usize::try_from(1 + chance.below(10)).unwrap();
                let received = subject.queue.receive(&queue, max, VISIBILITY, NO_WAIT).await.unwrap();
                assert!(received.len() <= max);
                assert_eq!(received.is_empty(), waiting.is_empty(), "what is visible is received");
                for delivery in received {
                    let message = delivery.message.unwrap();
                    let sent = waiting.remove(&message.spec.id);
                    assert_eq!(sent.as_ref(), Some(&message), "received once while hidden, and as it was sent");
                    let times = receives.entry(message.spec.id).or_default();
                    *times += 1;
                    assert_eq!(delivery.receives, *times);
                    in_flight.push((message, delivery.receipt, *times));
                }
            }
            2 => {
                if !in_flight.is_empty() {
                    let place = usize::try_from(chance.below(in_flight.len() as u64)).unwrap();
                    let (_, receipt, _) = in_flight.swap_remove(place);
                    subject.queue.ack(&receipt).await.unwrap();
                    subject.queue.ack(&receipt).await.unwrap();
                }
            }
            _ => {
                // A message received five times stays in flight: the sixth receive is its last.
                if let Some(place) = in_flight.iter().position(|(_, _, times)| *times < 5) {
                    let (message, receipt, _) = in_flight.swap_remove(place);
                    subject.queue.hide(&receipt, Duration::ZERO).await.unwrap();
                    waiting.insert(message.spec.id, message);
                }
            }
        }
    }
    let known: BTreeSet<JobId> =
        waiting.keys().copied().chain(in_flight.iter().map(|(message, _, _)| message.spec.id)).collect();
    assert_eq!(subject.queue.depth(&queue).await.unwrap(), known.len() as u64);
    wakes_on_send(subject, &mut chance).await;
}

/// A receiver that waits is woken by a message.
async fn wakes_on_send(subject: &Subject, chance: &mut Chance) {
    let queue = QueueId { pool: PoolId::new(POOL).unwrap(), class: Class::P0 };
    let message = a_message(chance);
    let send = async {
        tokio::task::yield_now().await;
        subject.queue.send(&queue, &message, Duration::ZERO, Timestamp::from_millis(BASE_MS)).await.unwrap();
    };
    let receive = async {
        // On a clock that does not wait, a receive may come back empty before the message is sent.
        loop {
            let received = subject.queue.receive(&queue, 1, VISIBILITY, Duration::from_secs(20)).await.unwrap();
            if let Some(delivery) = received.into_iter().next() {
                break delivery;
            }
            tokio::task::yield_now().await;
        }
    };
    let ((), delivery) = tokio::join!(send, receive);
    assert_eq!(delivery.message, Ok(message));
    subject.queue.ack(&delivery.receipt).await.unwrap();
}

fn a_message(chance: &mut Chance) -> Message {
    let now = Timestamp::from_millis(BASE_MS);
    let payload = match chance.below(3) {
        0 => Payload::Blob(BlobKey::new("req/a").unwrap()),
        1 => Payload::Inline("{\"text\":\"ünïcode ✓ \\u0000 \\\"\"}".to_owned()),
        _ => Payload::Inline("x".repeat(usize::try_from(chance.below(100_000)).unwrap())),
    };
    Message { spec: spec(chance.job(now), "t"), payload }
}

/// A job of a tenant, as it is when nothing particular is asked for.
pub(crate) fn spec(id: JobId, tenant: &str) -> JobSpec {
    let now = Timestamp::from_millis(BASE_MS);
    JobSpec {
        id,
        route: penstock_service::Route::Chat,
        tenant: TenantId::new(tenant).unwrap(),
        class: Class::P3,
        pool: PoolId::new(POOL).unwrap(),
        model: "task".to_owned(),
        created: now,
        due: now.after(Duration::from_secs(60)),
        streamed: false,
        estimated_tokens: 1,
        reservations: Vec::new(),
        price: Price::default(),
        retention: Retention::default(),
        admitted: Admitted::default(),
        keep: None,
    }
}
