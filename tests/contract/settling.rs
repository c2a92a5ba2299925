//! A step and the addition that belongs to it: both or neither, once, whoever else adds at the same moment. And stories
//! that have no room left.

use std::time::Duration;

use futures_util::future::join_all;
use penstock_policy::cost::UsdMicros;
use penstock_policy::id::{Epoch, JobId, Nonce, WorkerId};
use penstock_policy::job::{Denied, Step};
use penstock_policy::time::Timestamp;
use penstock_service::ports::{Addition, Claim, Claimed, Counts, Stepped, TallyKey};
use penstock_service::stored::story::{Event, MOST_EVENTS, WhyReleased};

use crate::queues::spec;
use crate::subject::{BASE_MS, Chance, Subject};

const NOW: Timestamp = Timestamp::from_millis(BASE_MS);

pub(crate) async fn check(subject: &Subject) {
    check_additions(subject).await;
    check_full_story(subject).await;
}

fn settle(key: &TallyKey) -> Stepped {
    Stepped {
        step: Step::Settle,
        outcome: None,
        event: Some(Event::Settled { at: NOW, cost: UsdMicros(3) }),
        addition: Some(Addition {
            key: key.clone(),
            counts: Counts::from([("requests".to_owned(), 1), ("usd_micros".to_owned(), 3)]),
            expires: NOW.after(Duration::from_secs(86_400)),
        }),
    }
}

/// Many jobs of one tenant end at once; each reply is taken for lost.
async fn check_additions(subject: &Subject) {
    let mut chance = Chance(21);
    let (key, other) = (TallyKey::new("usage", "settler", "day"), TallyKey::new("usage", "settler", "other"));
    let jobs: Vec<(JobId, Nonce)> =
        (0..12).map(|_| (JobId::new(NOW, u128::from(chance.draw())), chance.nonce())).collect();
    let early = subject.jobs.step(jobs[0].0, &settle(&key), jobs[0].1, NOW).await.unwrap();
    assert_eq!(early, Err(Denied::Absent));
    for (job, _) in &jobs {
        subject.jobs.step(*job, &Stepped::from(Step::Expire), chance.nonce(), NOW).await.unwrap().unwrap();
    }
    join_all(jobs.iter().map(async |(job, nonce)| {
        for _ in 0..2 {
            // A store may refuse for the moment where many write one tally: nothing is done then, and it is tried again.
            while subject.jobs.step(*job, &settle(&key), *nonce, NOW).await.is_err() {}
        }
    }))
    .await;
    for (job, _) in &jobs {
        let again = subject.jobs.step(*job, &settle(&other), chance.nonce(), NOW).await.unwrap();
        assert_eq!(again, Err(Denied::Settled));
        let record = subject.jobs.record(*job).await.unwrap().unwrap();
        assert_eq!(record.story, [Event::Settled { at: NOW, cost: UsdMicros(3) }]);
    }
    let sums = subject.tally.sums(&[key, other]).await.unwrap();
    assert_eq!(sums, [Counts::from([("requests".to_owned(), 12), ("usd_micros".to_owned(), 36)]), Counts::new()]);
}

/// A job that is claimed and given back without end keeps its first events, and every step is still made.
async fn check_full_story(subject: &Subject) {
    let mut chance = Chance(22);
    let spec = spec(JobId::new(NOW, 22), "story");
    for round in 1..=20u32 {
        let claim = Claim {
            spec: spec.clone(),
            owner: WorkerId::new(&format!("w{round}")).unwrap(),
            digest: "sha256:0123456789abcdef".to_owned(),
            lease_until: NOW.after(Duration::from_secs(45)),
        };
        let claimed = subject.jobs.claim(&claim, chance.nonce(), NOW).await.unwrap();
        assert!(matches!(claimed, Claimed::Yes(_)), "round {round}: {claimed:?}");
        let event = Some(Event::Released { at: NOW, epoch: Epoch(round), why: WhyReleased::Preempted });
        let release = Step::Release { epoch: Epoch(round), blameless: true };
        let release = Stepped { step: release, outcome: None, event, addition: None };
        subject.jobs.step(spec.id, &release, chance.nonce(), NOW).await.unwrap().unwrap();
    }
    let record = subject.jobs.record(spec.id).await.unwrap().unwrap();
    assert_eq!((record.head.epoch, record.head.releases), (Epoch(20), 20));
    assert_eq!(record.story.len(), MOST_EVENTS);
    assert!(matches!(&record.story[22], Event::Claimed { worker, .. } if worker.as_str() == "w12"));
}
