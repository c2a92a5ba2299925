//! The contract of parked jobs: what is parked is found, by tenant and due moment, until any step takes it out; and it
//! reads back as the message that was accepted.

use std::collections::BTreeMap;
use std::time::Duration;

use penstock_policy::classes::Class;
use penstock_policy::id::{JobId, PoolId, TenantId, WorkerId};
use penstock_policy::job::{Denied, State, Step};
use penstock_policy::parking::{Berth, Parked};
use penstock_policy::time::Timestamp;
use penstock_service::ports::{Acceptance, Accepted, Backlog, BlobKey, Claim, Message, Payload, QueueId, Stepped};

use crate::queues::spec;
use crate::subject::{BASE_MS, Chance, POOL, Subject};

const NOW: Timestamp = Timestamp::from_millis(BASE_MS);

/// Names whose order as texts is not the order of their beginnings.
const TENANTS: [&str; 5] = ["park", "park-er", "park.ing", "park1", "parks"];

fn queue(class: Class) -> QueueId {
    QueueId { pool: PoolId::new(POOL).unwrap(), class }
}

/// Random arrivals and departures, against a map.
pub(crate) async fn check(subject: &Subject, rounds: u64) {
    let mut chance = Chance(77);
    let mut lot: BTreeMap<JobId, Message> = BTreeMap::new();
    for round in 0..rounds {
        match chance.below(3) {
            0 | 1 => {
                let message = park(subject, &mut chance).await;
                lot.insert(message.spec.id, message);
            }
            _ => leave(subject, &mut chance, &mut lot).await,
        }
        if round % 16 == 0 {
            compare(subject, &mut chance, &lot).await;
        }
    }
    compare(subject, &mut chance, &lot).await;
    for class in Class::ALL {
        assert_eq!(subject.queue.depth(&queue(class)).await.unwrap(), 0, "parking sends nothing");
    }
}

async fn park(subject: &Subject, chance: &mut Chance) -> Message {
    let job = chance.job(NOW);
    let tenant = TENANTS[usize::try_from(chance.below(5)).unwrap()];
    let class = if chance.below(2) == 0 { Class::P2 } else { Class::P3 };
    // Few moments, so that some jobs are due at the same.
    let due = NOW.after(Duration::from_secs(60 * chance.below(8)));
    let spec =
        penstock_service::ports::JobSpec { class, due, estimated_tokens: chance.below(500), ..spec(job, tenant) };
    let payload = match chance.below(3) {
        0 => Payload::Blob(BlobKey::new(&format!("req/{job}-1")).unwrap()),
        _ => Payload::Inline(format!("{{\"text\":\"\u{fc}nicode \u{2713} {}\"}}", "x".repeat(round_length(chance)))),
    };
    let message = Message { spec, payload };
    let acceptance = Acceptance {
        message: message.clone(),
        berth: Berth::Parked,
        takes: Vec::new(),
        marker: None,
        attempt: None,
        nonce: chance.nonce(),
    };
    for _ in 0..1 + chance.below(2) {
        let accepted = subject.jobs.accept(&acceptance, NOW).await.unwrap();
        assert!(matches!(accepted, Accepted::Yes { .. }), "{accepted:?}");
    }
    let record = subject.jobs.record(job).await.unwrap().unwrap();
    assert_eq!((record.head.state, record.spec), (State::Parked, Some(message.spec.clone())));
    message
}

fn round_length(chance: &mut Chance) -> usize {
    usize::try_from(chance.below(20_000)).unwrap()
}

/// A parked job leaves, by one of the ways there are.
async fn leave(subject: &Subject, chance: &mut Chance, lot: &mut BTreeMap<JobId, Message>) {
    let Some(place) = chance.below(lot.len().max(1) as u64).try_into().ok().filter(|_| !lot.is_empty()) else { return };
    let job = *lot.keys().nth(place).unwrap();
    let message = lot.remove(&job).unwrap();
    let nonce = chance.nonce();
    let step = match chance.below(4) {
        0 => {
            let claim = Claim {
                spec: message.spec,
                owner: WorkerId::new("w").unwrap(),
                digest: "d".to_owned(),
                lease_until: NOW.after(Duration::from_secs(45)),
            };
            subject.jobs.claim(&claim, nonce, NOW).await.unwrap();
            let late = subject.jobs.step(job, &Stepped::from(Step::Unpark), chance.nonce(), NOW).await.unwrap();
            assert_eq!(late, Err(Denied::Unparked));
            return;
        }
        1 => Step::Expire,
        2 => Step::Cancel { regardless_of_interest: true },
        _ => Step::Unpark,
    };
    for _ in 0..2 {
        subject.jobs.step(job, &Stepped::from(step), nonce, NOW).await.unwrap().unwrap();
    }
    assert_eq!(subject.parking.message(job).await.unwrap(), None);
}

async fn compare(subject: &Subject, chance: &mut Chance, lot: &BTreeMap<JobId, Message>) {
    for class in [Class::P2, Class::P3] {
        let mut expected: Vec<Parked> = lot
            .values()
            .filter(|message| message.spec.class == class)
            .map(|message| Parked {
                due: message.spec.due,
                job: message.spec.id,
                tenant: message.spec.tenant.clone(),
                tokens: message.spec.estimated_tokens,
            })
            .collect();
        expected.sort_unstable();
        let (jobs, tokens) = (expected.len() as u64, expected.iter().map(|job| job.tokens).sum());
        assert_eq!(subject.parking.backlog(&queue(class)).await.unwrap(), Backlog { jobs, tokens });

        let mut tenants: Vec<TenantId> = expected.iter().map(|job| job.tenant.clone()).collect();
        tenants.sort();
        tenants.dedup();
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = subject.parking.tenants(&queue(class), after.as_ref(), 2).await.unwrap();
            after = page.last().cloned();
            seen.extend(page);
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen, tenants);

        let from = NOW.after(Duration::from_secs(60 * chance.below(4)));
        for tenant in &tenants {
            let most = 1 + usize::try_from(chance.below(30)).unwrap();
            let found = subject.parking.parked(&queue(class), tenant, from, most).await.unwrap();
            let of_tenant = expected.iter().filter(|job| job.tenant == *tenant && job.due >= from);
            assert_eq!(found, of_tenant.take(most).cloned().collect::<Vec<_>>());
        }
    }
    if let Some((job, message)) = lot.iter().nth(usize::try_from(chance.below(lot.len().max(1) as u64)).unwrap()) {
        assert_eq!(subject.parking.message(*job).await.unwrap().as_ref(), Some(message));
    }
}
