//! The contract of the census, and of dead letters: what is not over is listed until it is settled, whatever becomes of it;
//! what was received too often is found apart from its queue.

use std::collections::BTreeSet;
use std::time::Duration;

use penstock_policy::classes::Class;
use penstock_policy::id::{Epoch, JobId, PoolId, WorkerId};
use penstock_policy::job::{End, Step};
use penstock_policy::parking::Berth;
use penstock_policy::time::Timestamp;
use penstock_service::ports::{Acceptance, Claim, Message, Payload, QueueId, Stepped};

use crate::queues::spec;
use crate::subject::{BASE_MS, Chance, POOL, Subject};

const NOW: Timestamp = Timestamp::from_millis(BASE_MS);
const HIDDEN: Duration = Duration::from_secs(300);

async fn step(subject: &Subject, chance: &mut Chance, job: JobId, step: Step) {
    subject.jobs.step(job, &Stepped::from(step), chance.nonce(), NOW).await.unwrap().unwrap();
}

async fn listed(subject: &Subject) -> BTreeSet<JobId> {
    let (mut jobs, mut after) = (BTreeSet::new(), None);
    loop {
        let page = subject.census.open_jobs(after.as_deref()).await.unwrap();
        for job in page.found {
            assert!(jobs.insert(job), "listed twice: {job}");
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return jobs,
        }
    }
}

pub(crate) async fn check(subject: &Subject, count: u64) {
    let mut chance = Chance(91);
    let mut open = BTreeSet::new();
    for _ in 0..count {
        let job = chance.job(NOW);
        let berth = if chance.below(3) == 0 { Berth::Parked } else { Berth::Queue };
        let message = Message { spec: spec(job, "census"), payload: Payload::Inline("{}".to_owned()) };
        let claim = Claim {
            spec: message.spec.clone(),
            owner: WorkerId::new("w").unwrap(),
            digest: "d".to_owned(),
            lease_until: NOW.after(Duration::from_secs(45)),
        };
        let nonce = chance.nonce();
        let acceptance = Acceptance { message, berth, takes: Vec::new(), marker: None, attempt: None, nonce };
        // Some are known by their claim alone, or by their cancel.
        let accepted = chance.below(4) > 0;
        if accepted {
            subject.jobs.accept(&acceptance, NOW).await.unwrap();
        }
        match chance.below(6) {
            0 if accepted && berth == Berth::Parked => {}
            0 | 1 if accepted && berth == Berth::Queue => {
                open.insert(job);
            }
            0 | 1 => {
                subject.jobs.claim(&claim, chance.nonce(), NOW).await.unwrap();
                step(subject, &mut chance, job, Step::Release { epoch: Epoch(1), blameless: true }).await;
                open.insert(job);
            }
            2 => {
                subject.jobs.claim(&claim, chance.nonce(), NOW).await.unwrap();
                open.insert(job);
            }
            end => {
                let unsettled = chance.below(2) == 0;
                if end == 3 {
                    subject.jobs.claim(&claim, chance.nonce(), NOW).await.unwrap();
                    let finish = Step::Finish { epoch: Epoch(1), end: End::Failed, last: None };
                    step(subject, &mut chance, job, finish).await;
                } else {
                    let cancel = Step::Cancel { regardless_of_interest: true };
                    step(subject, &mut chance, job, if end == 4 { cancel } else { Step::Expire }).await;
                }
                if unsettled {
                    open.insert(job);
                } else {
                    step(subject, &mut chance, job, Step::Settle).await;
                }
            }
        }
    }
    assert_eq!(listed(subject).await, open);
    dead_letters(subject, &mut chance).await;
}

async fn dead_letters(subject: &Subject, chance: &mut Chance) {
    let queue = QueueId { pool: PoolId::new(POOL).unwrap(), class: Class::P1 };
    let message = Message { spec: spec(chance.job(NOW), "census"), payload: Payload::Inline("{}".to_owned()) };
    subject.queue.send(&queue, &message, Duration::ZERO, NOW).await.unwrap();
    assert_eq!(subject.queue.dead_letters(&queue, 10, HIDDEN).await.unwrap(), []);
    for _ in 0..21 {
        for delivery in subject.queue.receive(&queue, 10, HIDDEN, Duration::ZERO).await.unwrap() {
            subject.queue.hide(&delivery.receipt, Duration::ZERO).await.unwrap();
        }
    }
    assert_eq!(subject.queue.depth(&queue).await.unwrap(), 0);
    let found = subject.queue.dead_letters(&queue, 10, HIDDEN).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].message.as_ref(), Ok(&message));
    assert_eq!(subject.queue.dead_letters(&queue, 10, HIDDEN).await.unwrap(), [], "hidden");
    subject.queue.hide(&found[0].receipt, Duration::ZERO).await.unwrap();
    let again = subject.queue.dead_letters(&queue, 10, HIDDEN).await.unwrap();
    subject.queue.ack(&again[0].receipt).await.unwrap();
    assert_eq!(subject.queue.dead_letters(&queue, 10, Duration::ZERO).await.unwrap(), []);
}
