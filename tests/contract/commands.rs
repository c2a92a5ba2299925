//! Random sequences of commands about jobs, limits and markers, each compared with the model at once.
//!
//! A quarter of the commands is repeated with the same nonce, as after a lost reply, and must give the same answer.
//! Time passes between commands, and sometimes steps back. Every sequence has its own tenant, jobs and keys, so that
//! sequences do not meet and a failing one is named by its number.

use std::time::Duration;

use futures_util::StreamExt;
use penstock_policy::classes::Class;
use penstock_policy::cost::{Price, UsdMicros};
use penstock_policy::gcra::Limit;
use penstock_policy::id::{Epoch, JobId, Nonce, PoolId, TenantId, WorkerId};
use penstock_policy::job::{End, Position, Step};
use penstock_policy::parking::Berth;
use penstock_policy::tenant::Retention;
use penstock_policy::time::Timestamp;
use penstock_service::ports::{
    Acceptance, Accepted, Answer, BucketKey, Chunk, Claim, Claimed, ErrorVerdict, FinishReason, JobRecord, JobSpec,
    Likelihood, MarkerClaim, MarkerKey, Message, Part, Payload, PortError, Reservation, Stepped, Take, TakeOutcome,
    TakePart, TokenLogprob,
};
use penstock_service::stored::chunk::Words;
use penstock_service::stored::story::{Admitted, Event};

use crate::model::{AcceptedAs, ClaimedAs, Model, Taken, left};
use crate::subject::{BASE_MS, Chance, POOL, Subject};

const COMMANDS: u64 = 10;

/// Runs `count` sequences, some side by side: a server in another process has time for several.
pub(crate) async fn run_sequences(subject: &Subject, count: u64) {
    let sequences = futures_util::stream::iter(0..count);
    sequences.for_each_concurrent(8, |number| async move { Sequence::new(subject, number).run().await }).await;
}

struct Sequence<'s> {
    subject: &'s Subject,
    number: u64,
    chance: Chance,
    model: Model,
    now: Timestamp,
    jobs: Vec<JobId>,
    /// What was taken: the subject's reservation and the model's.
    reservations: Vec<(Reservation, Reservation)>,
}

impl<'s> Sequence<'s> {
    fn new(subject: &'s Subject, number: u64) -> Self {
        let mut chance = Chance(number.wrapping_mul(0x5851_f42d_4c95_7f2d) ^ 0x00c0_ffee);
        let now = Timestamp::from_millis(BASE_MS + i64::try_from(number).unwrap() * 10_000_000);
        let jobs = (0..3).map(|_| chance.job(now)).collect();
        Self { subject, number, chance, model: Model::default(), now, jobs, reservations: Vec::new() }
    }

    async fn run(&mut self) {
        for _ in 0..COMMANDS {
            self.pass_time();
            match self.chance.below(20) {
                0..=3 => self.accept().await,
                4..=7 => self.claim().await,
                8..=12 => self.step().await,
                13..=14 => self.put_chunk().await,
                15..=16 => self.take().await,
                17 => self.refund().await,
                18 => self.clear_marker().await,
                _ => self.read().await,
            }
        }
        self.read().await;
    }

    fn pass_time(&mut self) {
        let ms = i64::try_from(self.chance.below(40_000)).unwrap();
        let back = self.chance.below(8) == 0;
        self.now = Timestamp::from_millis(self.now.as_millis() + if back { -ms / 8 } else { ms });
    }

    fn lost_reply(&mut self) -> bool {
        self.chance.below(4) == 0
    }

    fn tenant(&self) -> TenantId {
        TenantId::new(&format!("t{}", self.number)).unwrap()
    }

    fn pick_job(&mut self) -> JobId {
        self.jobs[usize::try_from(self.chance.below(3)).unwrap()]
    }

    /// Plain text mostly, which is stored in the first form; sometimes other channels and answers.
    fn some_words(&mut self) -> Words {
        let text = ["", "plain", "ünïcode ✓ \"quoted\"\n"][usize::try_from(self.chance.below(3)).unwrap()].to_owned();
        let parts = if text.is_empty() { Vec::new() } else { vec![Part::Content(text.clone())] };
        let likely = |bytes: &[u8]| Likelihood { bytes: bytes.to_vec(), logprob: -0.125 };
        match self.chance.below(3) {
            0 => Words {
                choice: 2,
                parts: [parts, vec![Part::Reasoning(text), Part::Call { name: "f".into(), arguments: "{}".into() }]]
                    .concat()
                    .into_iter()
                    .filter(|part| part.bytes() > 0)
                    .collect(),
                logprobs: vec![TokenLogprob { chosen: likely(b"\xf0\x9f"), top: vec![likely(b"a")] }],
            },
            _ => Words { parts, ..Words::default() },
        }
    }

    fn spec(&mut self, id: JobId) -> JobSpec {
        JobSpec {
            id,
            route: penstock_service::Route::Completions,
            tenant: self.tenant(),
            class: Class::P1,
            pool: PoolId::new(POOL).unwrap(),
            model: "task".to_owned(),
            created: self.now,
            due: self.now.after(Duration::from_secs(600)),
            streamed: self.chance.below(2) == 0,
            estimated_tokens: 10,
            reservations: Vec::new(),
            price: Price::default(),
            retention: Retention::default(),
            admitted: Admitted::default(),
            keep: None,
        }
    }

    fn a_take(&mut self) -> Take {
        let part = |per_minute: u64, units: u64| TakePart { limit: Limit::per_minute(per_minute).unwrap(), units };
        if self.chance.below(3) == 0 {
            let pool = PoolId::new(&format!("p{}", self.number)).unwrap();
            let units = self.chance.below(40);
            return Take {
                key: BucketKey::VirtualQueue { pool, class: Class::P1, shard: 0 },
                parts: vec![part(60, units)],
            };
        }
        let units = self.chance.below(70);
        Take { key: BucketKey::Tenant { tenant: self.tenant(), shard: 0 }, parts: vec![part(6, 1), part(60, units)] }
    }

    fn marker_key(&mut self) -> MarkerKey {
        let key = self.chance.below(2);
        MarkerKey { tenant: self.tenant(), digest: format!("{:x}-{key}", self.number) }
    }

    async fn take(&mut self) {
        let (take, nonce) = (self.a_take(), self.chance.nonce());
        let (expected, by_model) = self.model.take(&take, nonce, self.now);
        let times = 1 + u64::from(self.lost_reply());
        for time in 0..times {
            let outcome = self.subject.limits.take(&take, nonce, self.now).await.unwrap();
            let (seen, reservation) = match outcome {
                TakeOutcome::Granted { reservation, levels } => {
                    (Taken::Granted { left: left(&levels.0, &take, self.now) }, Some(reservation))
                }
                TakeOutcome::Refused { part, until, .. } => (Taken::Refused { part, until }, None),
            };
            assert_eq!(seen, expected, "sequence {}, take {take:?} at {}, time {time}", self.number, self.now);
            if time == 0
                && let Some(pair) = reservation.zip(by_model.clone())
            {
                self.reservations.push(pair);
            }
        }
    }

    async fn refund(&mut self) {
        // Never repeated: a refund's caller does not try again.
        if let Some((by_subject, by_model)) = self.reservations.pop() {
            self.subject.limits.refund(&by_subject, self.now).await.unwrap();
            self.model.refund(&by_model);
        }
    }

    async fn accept(&mut self) {
        let id = self.pick_job();
        let takes = (0..self.chance.below(3)).map(|_| self.a_take()).collect::<Vec<_>>();
        let mut takes: Vec<Take> = takes;
        takes.dedup_by(|a, b| a.key == b.key);
        let marker = (self.chance.below(2) == 0).then(|| MarkerClaim {
            key: self.marker_key(),
            fingerprint: 7,
            expires: self.now.after(Duration::from_millis(1 + self.chance.below(60_000))),
            replaces: (self.chance.below(2) == 0).then(|| self.pick_job()),
        });
        let message = Message { spec: self.spec(id), payload: Payload::Inline("{}".to_owned()) };
        let berth = if self.chance.below(4) == 0 { Berth::Parked } else { Berth::Queue };
        let acceptance = Acceptance { message, berth, takes, marker, attempt: None, nonce: self.chance.nonce() };
        let expected = self.model.accept(&acceptance, self.now);
        for time in 0..1 + u64::from(self.lost_reply()) {
            let seen = match self.subject.jobs.accept(&acceptance, self.now).await {
                Err(PortError::Unavailable { .. }) => AcceptedAs::CalledOff,
                Err(error) => panic!("{error}"),
                Ok(Accepted::Held(marker)) => AcceptedAs::Held(marker.job),
                Ok(Accepted::Refused { key, part, until, .. }) => AcceptedAs::Refused { key, part, until },
                Ok(Accepted::Yes { spec, levels }) => AcceptedAs::Yes {
                    spec,
                    left: acceptance.takes.iter().zip(levels).map(|(t, l)| left(&l.0, t, self.now)).collect(),
                },
            };
            let place = format!("sequence {}, {acceptance:?} at {}, time {time}", self.number, self.now);
            assert_eq!(without_reservation(seen), without_reservation(expected.clone()), "{place}");
        }
    }

    async fn claim(&mut self) {
        let id = self.pick_job();
        let claim = Claim {
            spec: self.spec(id),
            owner: WorkerId::new(&format!("w{}", self.chance.below(2))).unwrap(),
            digest: format!("d{}", self.chance.below(8) / 7),
            lease_until: self.now.after(Duration::from_millis(self.chance.below(60_000))),
        };
        let nonce = self.chance.nonce();
        let expected = self.model.claim(&claim, nonce, self.now);
        for time in 0..1 + u64::from(self.lost_reply()) {
            let seen = match self.subject.jobs.claim(&claim, nonce, self.now).await.unwrap() {
                Claimed::Yes(record) => ClaimedAs::Yes(*record),
                Claimed::No { denied, record } => ClaimedAs::No(denied, *record),
                Claimed::OtherDigest(digest) => ClaimedAs::OtherDigest(digest),
            };
            let place = format!("sequence {}, {claim:?} at {}, time {time}", self.number, self.now);
            assert_eq!(bare_claim(seen), bare_claim(expected.clone()), "{place}");
        }
    }

    async fn step(&mut self) {
        let id = self.pick_job();
        let newest = self.model.jobs.get(&id).map_or(0, |record| record.head.epoch.0);
        // Mostly the newest epoch, so that steps get through; sometimes a stale one.
        let epoch = Epoch(if self.chance.below(5) == 0 { newest.saturating_sub(1) } else { newest });
        let (step, outcome) = match self.chance.below(12) {
            10 => (Step::CallOff, None),
            0 => (Step::Renew { epoch, lease_until: self.now.after(Duration::from_secs(30)) }, None),
            1 => (Step::Release { epoch, blameless: self.chance.below(2) == 0 }, None),
            2 | 3 => {
                let last = (self.chance.below(2) == 0).then_some(Position { epoch, seq: 3 });
                let failed = self.chance.below(2) == 0;
                let end = if failed { End::Failed } else { End::Succeeded };
                (Step::Finish { epoch, end, last }, Some(if failed { Err(verdict()) } else { Ok(answer()) }))
            }
            4 => (Step::Expire, None),
            5 => (Step::Join, None),
            6 => (Step::Leave, None),
            7 | 8 => (Step::Settle, None),
            9 => (Step::Unpark, None),
            _ => (Step::Cancel { regardless_of_interest: self.chance.below(2) == 0 }, None),
        };
        let event = (self.chance.below(2) == 0).then_some(Event::Settled { at: self.now, cost: UsdMicros(7) });
        let stepped = Stepped { step, outcome, event, addition: None };
        let nonce = self.chance.nonce();
        let expected = self.model.step(id, &stepped, nonce, self.now);
        for time in 0..1 + u64::from(self.lost_reply()) {
            let seen = self.subject.jobs.step(id, &stepped, nonce, self.now).await.unwrap();
            assert_eq!(seen, expected, "sequence {}, {stepped:?} at {}, time {time}", self.number, self.now);
        }
    }

    async fn put_chunk(&mut self) {
        let id = self.pick_job();
        let at = |chance: &mut Chance| Position {
            epoch: Epoch(u32::try_from(1 + chance.below(3)).unwrap()),
            seq: u32::try_from(chance.below(12)).unwrap(),
        };
        let position = at(&mut self.chance);
        let chunk = Chunk {
            position,
            parent: (self.chance.below(3) == 0).then(|| at(&mut self.chance)),
            ids: (0..self.chance.below(4)).map(|id| u32::MAX - u32::try_from(id).unwrap()).collect(),
            words: self.some_words(),
        };
        for _ in 0..1 + u64::from(self.lost_reply()) {
            self.subject.jobs.put_chunk(id, &chunk).await.unwrap();
        }
        self.model.put_chunk(id, &chunk);
    }

    async fn clear_marker(&mut self) {
        let (key, job) = (self.marker_key(), self.pick_job());
        for _ in 0..1 + u64::from(self.lost_reply()) {
            self.subject.markers.clear(&key, job).await.unwrap();
        }
        self.model.clear_marker(&key, job);
    }

    async fn read(&mut self) {
        let id = self.pick_job();
        let seen = self.subject.jobs.record(id).await.unwrap().map(bare_record);
        let expected = self.model.jobs.get(&id).cloned().map(bare_record);
        assert_eq!(seen, expected, "sequence {}, record", self.number);
        let after = (self.chance.below(2) == 0).then_some(Position { epoch: Epoch(2), seq: 1 });
        let seen = self.subject.jobs.chunks(id, after).await.unwrap();
        let expected: Vec<Chunk> = self.model.chunks(id, after).cloned().collect();
        assert_eq!(seen, expected, "sequence {}, chunks after {after:?}", self.number);
        let key = self.marker_key();
        let seen = self.subject.markers.find(&key).await.unwrap().map(|marker| (marker.job, marker.fingerprint));
        let expected = self.model.marker(&key).map(|marker| (marker.job, marker.fingerprint));
        assert_eq!(seen, expected, "sequence {}, marker", self.number);
        let take = self.a_take();
        let levels = self.subject.limits.peek(&take.key).await.unwrap();
        assert_eq!(
            left(&levels.0, &take, self.now),
            self.model.left(&take, self.now),
            "sequence {}, peek",
            self.number
        );
    }
}

fn answer() -> Answer {
    Answer {
        reasons: vec![FinishReason::Length, FinishReason::Stop],
        prompt_tokens: 8,
        completion_tokens: 6,
        cached_tokens: 3,
        reasoning_tokens: 1,
    }
}

fn verdict() -> ErrorVerdict {
    ErrorVerdict { status: 400, code: "c".to_owned(), param: Some("messages".to_owned()), message: "m".to_owned() }
}

/// Generations may differ between adapters (one gives a take back where another never made it), so reservations are
/// not compared; what they are good for is.
fn without_reservation(accepted: AcceptedAs) -> AcceptedAs {
    match accepted {
        AcceptedAs::Yes { spec, left } => {
            AcceptedAs::Yes { spec: Box::new(JobSpec { reservations: Vec::new(), ..*spec }), left }
        }
        refused @ (AcceptedAs::Refused { .. } | AcceptedAs::Held(_) | AcceptedAs::CalledOff) => refused,
    }
}

fn bare_claim(claimed: ClaimedAs) -> ClaimedAs {
    match claimed {
        ClaimedAs::Yes(record) => ClaimedAs::Yes(bare_record(record)),
        ClaimedAs::No(denied, record) => ClaimedAs::No(denied, bare_record(record)),
        other @ ClaimedAs::OtherDigest(_) => other,
    }
}

/// Without what may differ: the reservation's generation, and the nonce of an adapter's own sub-steps.
fn bare_record(mut record: JobRecord) -> JobRecord {
    if let Some(spec) = &mut record.spec {
        spec.reservations.clear();
    }
    record.head.nonce = Nonce(0);
    record
}
