//! The contract of kept answers and of the tries of requests.

use std::time::Duration;

use bytes::Bytes;
use penstock_policy::attempt::{Attempt, Hold, MOST};
use penstock_policy::id::{JobId, Nonce, TenantId};
use penstock_policy::parking::Berth;
use penstock_policy::time::Timestamp;
use penstock_service::ports::{
    Acceptance, Accepted, AttemptClaim, ENTRY_BYTES, Entry, MarkerClaim, MarkerKey, Message, Payload, Swapped,
};

use crate::queues::spec;
use crate::subject::{BASE_MS, Chance, Subject};

const NOW: Timestamp = Timestamp::from_millis(BASE_MS);

fn key(name: &str) -> MarkerKey {
    MarkerKey { tenant: TenantId::new("keeper").unwrap(), digest: format!("kept-{name}") }
}

fn entry(made: u64, body: &'static [u8]) -> Entry {
    let made = NOW.after(Duration::from_secs(made));
    Entry { made, forgotten: made.after(Duration::from_secs(86_400)), body: Bytes::from_static(body) }
}

fn acceptance(job: JobId, chance: &mut Chance) -> Acceptance {
    let spec = spec(job, key("").tenant.as_str());
    let message = Message { spec, payload: Payload::Inline("{}".to_owned()) };
    Acceptance { message, takes: Vec::new(), marker: None, attempt: None, berth: Berth::Queue, nonce: chance.nonce() }
}

/// A later answer replaces an earlier one and never the other way round; copies and keys are apart; one look brings the
/// marker too.
pub(crate) async fn check_answers(subject: &Subject) {
    let (answers, mut chance) = (&subject.answers, Chance(21));
    let looked = answers.look(&key("a"), 0).await.unwrap();
    assert_eq!((looked.entry, looked.marker), (None, None));
    let (first, second) = (entry(1, b"\0first"), entry(2, b"second\xff"));
    for kept in [&first, &second, &first, &second] {
        answers.keep(&key("a"), 0, kept).await.unwrap();
    }
    assert_eq!(answers.look(&key("a"), 0).await.unwrap().entry, Some(second.clone()));
    assert_eq!(answers.look(&key("a"), 1).await.unwrap().entry, None);
    assert_eq!(answers.look(&key("b"), 0).await.unwrap().entry, None);
    answers.keep(&key("a"), 1, &first).await.unwrap();
    answers.forget(&key("a"), 0).await.unwrap();
    answers.forget(&key("a"), 0).await.unwrap();
    assert_eq!(answers.look(&key("a"), 0).await.unwrap().entry, None);
    assert_eq!(answers.look(&key("a"), 1).await.unwrap().entry, Some(first));

    let job = chance.job(NOW);
    let mut accepted = acceptance(job, &mut chance);
    let expires = NOW.after(Duration::from_secs(9));
    accepted.marker = Some(MarkerClaim { key: key("a"), fingerprint: u64::MAX, expires, replaces: None });
    assert!(matches!(subject.jobs.accept(&accepted, NOW).await.unwrap(), Accepted::Yes { .. }));
    let full = Entry { body: vec![7; ENTRY_BYTES].into(), ..second };
    answers.keep(&key("a"), 0, &full).await.unwrap();
    let looked = answers.look(&key("a"), 0).await.unwrap();
    assert_eq!(looked.entry, Some(full));
    assert_eq!(looked.marker.map(|marker| (marker.job, marker.fingerprint)), Some((job, u64::MAX)));
}

/// Tries are remembered by accepting, the newest of them; a hold is changed by whoever knows it, once.
pub(crate) async fn check_attempts(subject: &Subject) {
    let mut chance = Chance(22);
    let hold = Hold::fresh(Nonce(u64::MAX), NOW);
    let claim = AttemptClaim { key: key("t"), hold, expires: NOW.after(Duration::from_secs(600)) };
    assert_eq!(subject.attempts.tries(&claim.key).await.unwrap(), []);
    let mut jobs = Vec::new();
    for number in 0..MOST + 3 {
        let job = chance.job(NOW.after(Duration::from_millis(number as u64)));
        let mut accepted = acceptance(job, &mut chance);
        accepted.attempt = Some(claim.clone());
        for _ in 0..2 {
            assert!(matches!(subject.jobs.accept(&accepted, NOW).await.unwrap(), Accepted::Yes { .. }));
        }
        jobs.push(job);
        let newest: Vec<Attempt> = jobs.iter().rev().take(MOST).rev().map(|job| Attempt { job: *job, hold }).collect();
        assert_eq!(subject.attempts.tries(&claim.key).await.unwrap(), newest);
    }
    let (newest, oldest) = (jobs[MOST + 2], jobs[0]);
    let swap =
        async |job: JobId, from: &Hold, to: &Hold| subject.attempts.swap(&claim.key, job, from, to).await.unwrap();
    let later = NOW.after(Duration::from_secs(31));
    let (mine, theirs) = (hold.taken_over(Nonce(1), later), hold.taken_over(Nonce(2), later));
    assert_eq!(swap(newest, &hold, &mine).await, Swapped::Yes);
    assert_eq!(swap(newest, &hold, &mine).await, Swapped::Yes, "a repetition after a lost reply");
    assert_eq!(swap(newest, &hold, &theirs).await, Swapped::No);
    assert_eq!(swap(oldest, &hold, &theirs).await, Swapped::No, "forgotten");
    assert_eq!(swap(newest, &mine, &mine.delivered(later)).await, Swapped::Yes);
    // Accepting the same job again leaves its hold as it is.
    let mut again = acceptance(newest, &mut chance);
    again.attempt = Some(claim.clone());
    subject.jobs.accept(&again, NOW).await.unwrap();
    let found = subject.attempts.tries(&claim.key).await.unwrap();
    assert_eq!(found.last(), Some(&Attempt { job: newest, hold: mine.delivered(later) }));
    for _ in 0..2 {
        subject.attempts.forget_try(&claim.key, newest).await.unwrap();
    }
    assert_eq!(subject.attempts.tries(&claim.key).await.unwrap().len(), MOST - 1);
    subject.attempts.forget_try(&key("never"), newest).await.unwrap();
    assert_eq!(subject.attempts.tries(&key("never")).await.unwrap(), []);
    one_adopter(subject, &claim.key, jobs[MOST], hold).await;
}

/// Sixteen retries at once: one of them takes a try over.
async fn one_adopter(subject: &Subject, key: &MarkerKey, job: JobId, hold: Hold) {
    let adopters: Vec<_> = (1..=16)
        .map(|number| {
            let (attempts, key) = (subject.attempts.clone(), key.clone());
            let to = hold.taken_over(Nonce(number), NOW.after(Duration::from_secs(40)));
            tokio::spawn(async move { attempts.swap(&key, job, &hold, &to).await.unwrap() })
        })
        .collect();
    let mut winners = 0;
    for adopter in adopters {
        winners += usize::from(adopter.await.unwrap() == Swapped::Yes);
    }
    assert_eq!(winners, 1);
}
