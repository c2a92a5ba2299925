//! Erasing one tenant: nothing of it is left, and nothing of another is touched.

use std::time::Duration;

use bytes::Bytes;
use penstock_policy::id::{Epoch, JobId, TenantId, WorkerId};
use penstock_policy::job::{End, Position, Step};
use penstock_policy::time::Timestamp;
use penstock_service::noted_of;
use penstock_service::ports::{
    Acceptance, Accepted, Answer, BlobKey, Chunk, Claim, Claimed, FinishReason, Forget, MarkerClaim, MarkerKey,
    Message, Part, Payload, Stepped,
};
use penstock_service::stored::chunk::Words;

use crate::queues::spec;
use crate::subject::{BASE_MS, Chance, Subject};

const NOW: Timestamp = Timestamp::from_millis(BASE_MS);

/// What the erased tenant's prompts and answers hold, and nothing else does.
pub(crate) const NEEDLE: &str = "mene-tekel";

struct Made {
    job: JobId,
    marker: MarkerKey,
    /// What goes with the job.
    blobs: Vec<BlobKey>,
    /// What goes with the tenant's other traces.
    noted: BlobKey,
}

/// A job with everything a job can leave behind, ended and settled.
async fn make(subject: &Subject, tenant: &str, chance: &mut Chance) -> Made {
    let job = JobId::new(NOW, u128::from(chance.draw()));
    let spec = spec(job, tenant);
    let digest = format!("{:016x}", chance.draw());
    let marker = MarkerKey { tenant: TenantId::new(tenant).unwrap(), digest };
    let expires = NOW.after(Duration::from_secs(300));
    let payload = Payload::Inline(format!("{{\"prompt\":\"{NEEDLE} of {tenant}\"}}"));
    let acceptance = Acceptance {
        message: Message { spec: spec.clone(), payload },
        takes: Vec::new(),
        marker: Some(MarkerClaim { key: marker.clone(), fingerprint: 1, expires, replaces: None }),
        attempt: None,
        berth: penstock_policy::parking::Berth::Queue,
        nonce: chance.nonce(),
    };
    let accepted = subject.jobs.accept(&acceptance, NOW).await.unwrap();
    assert!(matches!(accepted, Accepted::Yes { .. }), "{accepted:?}");
    let claim = Claim {
        spec,
        owner: WorkerId::new("w").unwrap(),
        digest: "d".to_owned(),
        lease_until: NOW.after(Duration::from_secs(45)),
    };
    assert!(matches!(subject.jobs.claim(&claim, chance.nonce(), NOW).await.unwrap(), Claimed::Yes(_)));
    let position = Position { epoch: Epoch(1), seq: 0 };
    let words = Words { parts: vec![Part::Content(format!("{NEEDLE} said to {tenant}"))], ..Words::default() };
    subject.jobs.put_chunk(job, &Chunk { position, parent: None, ids: vec![7], words }).await.unwrap();
    let answer = Answer {
        reasons: vec![FinishReason::Stop],
        prompt_tokens: 1,
        completion_tokens: 1,
        cached_tokens: 0,
        reasoning_tokens: 0,
    };
    let finish = Step::Finish { epoch: Epoch(1), end: End::Succeeded, last: Some(position) };
    let finish = Stepped { outcome: Some(Ok(answer)), ..Stepped::from(finish) };
    subject.jobs.step(job, &finish, chance.nonce(), NOW).await.unwrap().unwrap();
    subject.jobs.step(job, &Stepped::from(Step::Settle), chance.nonce(), NOW).await.unwrap().unwrap();
    let blobs: Vec<BlobKey> = ["req", "res"].map(|kind| BlobKey::new(&format!("{kind}/{job}-1")).unwrap()).into();
    let noted = BlobKey::new(&format!("{}{job}", noted_of(&marker.tenant))).unwrap();
    for blob in blobs.iter().chain([&noted]) {
        subject.blobs.put(blob, Bytes::from(format!("{NEEDLE} stored"))).await.unwrap();
    }
    Made { job, marker, blobs, noted }
}

async fn jobs_of(subject: &Subject, tenant: &TenantId) -> Vec<JobId> {
    let (mut jobs, mut after) = (Vec::new(), None);
    loop {
        let page = subject.erasure.jobs_of(tenant, after.as_deref()).await.unwrap();
        jobs.extend(page.found);
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    jobs.sort_unstable();
    jobs
}

pub(crate) async fn check(subject: &Subject) {
    let mut chance = Chance(31);
    let [gone, stays] = ["erased-one", "erased-on"].map(|name| TenantId::new(name).unwrap());
    let mut erased = Vec::new();
    for _ in 0..3 {
        erased.push(make(subject, gone.as_str(), &mut chance).await);
    }
    let kept = make(subject, stays.as_str(), &mut chance).await;
    let mut expected: Vec<JobId> = erased.iter().map(|made| made.job).collect();
    expected.sort_unstable();
    assert_eq!(jobs_of(subject, &gone).await, expected);

    // Words alone: the record stays and says so.
    subject.erasure.forget(erased[0].job, Forget::Words).await.unwrap();
    let record = subject.jobs.record(erased[0].job).await.unwrap().unwrap();
    assert!(record.forgotten && record.spec.is_some() && record.outcome.is_some());
    assert_eq!(subject.jobs.chunks(erased[0].job, None).await.unwrap(), []);

    for made in &erased {
        for _ in 0..2 {
            subject.erasure.forget(made.job, Forget::Everything).await.unwrap();
        }
        let record = subject.jobs.record(made.job).await.unwrap().unwrap();
        assert!(record.head.state.is_terminal() && record.forgotten);
        assert_eq!((record.spec, record.outcome, record.owner), (None, None, None));
        assert_eq!(subject.jobs.chunks(made.job, None).await.unwrap(), []);
        for blob in &made.blobs {
            assert_eq!(subject.blobs.get(blob).await.unwrap(), None);
        }
    }
    let mut after = None;
    loop {
        let page = subject.erasure.remove_traces(&gone, after.as_deref()).await.unwrap();
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    assert_eq!(jobs_of(subject, &gone).await, []);
    for made in &erased {
        assert_eq!(subject.markers.find(&made.marker).await.unwrap(), None);
        assert_eq!(subject.blobs.get(&made.noted).await.unwrap(), None);
    }
    assert_eq!(jobs_of(subject, &stays).await, [kept.job]);
    assert_eq!(subject.jobs.chunks(kept.job, None).await.unwrap().len(), 1);
    assert!(subject.markers.find(&kept.marker).await.unwrap().is_some());
    for blob in kept.blobs.iter().chain([&kept.noted]) {
        assert!(subject.blobs.get(blob).await.unwrap().is_some());
    }
    subject.erasure.scrub().await.unwrap();
    assert!(subject.jobs.record(kept.job).await.unwrap().unwrap().outcome.is_some());
}

/// Neither the database, nor its log, nor the folder of payloads holds a byte of what an erased tenant said or was told.
pub(crate) async fn check_bytes(subject: &Subject, folder: &std::path::Path) {
    let mut chance = Chance(32);
    let tenant = TenantId::new("erased-byte").unwrap();
    let needles = [format!("{NEEDLE} of {tenant}"), format!("{NEEDLE} said to {tenant}"), format!("{NEEDLE} stored")];
    let mut made = Vec::new();
    for _ in 0..50 {
        made.push(make(subject, tenant.as_str(), &mut chance).await);
    }
    assert_eq!(needles.each_ref().map(|needle| is_in(folder, needle)), [true; 3]);
    for Made { job, .. } in made {
        subject.erasure.forget(job, Forget::Everything).await.unwrap();
    }
    assert_eq!(subject.erasure.remove_traces(&tenant, None).await.unwrap().next, None);
    subject.erasure.scrub().await.unwrap();
    assert_eq!(needles.each_ref().map(|needle| is_in(folder, needle)), [false; 3]);
    assert!(!is_in(folder, tenant.as_str()));
}

fn is_in(folder: &std::path::Path, needle: &str) -> bool {
    std::fs::read_dir(folder).unwrap().map(Result::unwrap).any(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return is_in(&path, needle);
        }
        let bytes = std::fs::read(path).unwrap();
        bytes.windows(needle.len()).any(|window| window == needle.as_bytes())
    })
}
