//! The model: what the ports promise, on plain maps, by the functions of `penstock_policy` alone.

use std::collections::BTreeMap;

use penstock_policy::gcra::{self, Bucket, JointVerdict, Limit, Spent};
use penstock_policy::id::{JobId, Nonce};
use penstock_policy::job::{Denied, Head, Position, Step, apply};
use penstock_policy::marker::Marker;
use penstock_policy::parking::Berth;
use penstock_policy::time::Timestamp;
use penstock_service::ports::{
    Acceptance, BucketKey, Chunk, Claim, JobRecord, JobSpec, Levels, MarkerKey, Reservation, Stepped, Take,
};
use penstock_service::stored::story::{self, Event};

#[derive(Default)]
pub(crate) struct Model {
    buckets: BTreeMap<BucketKey, (Vec<Bucket>, Nonce)>,
    markers: BTreeMap<MarkerKey, Marker>,
    pub(crate) jobs: BTreeMap<JobId, JobRecord>,
    chunks: BTreeMap<(JobId, Position), Chunk>,
}

/// What a take came to, as far as every adapter must agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    Granted { left: Vec<u64> },
    Refused { part: usize, until: Option<Timestamp> },
}

/// What an accept came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AcceptedAs {
    Yes { spec: Box<JobSpec>, left: Vec<Vec<u64>> },
    Refused { key: BucketKey, part: usize, until: Option<Timestamp> },
    Held(JobId),
    CalledOff,
}

/// What a claim came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ClaimedAs {
    Yes(JobRecord),
    No(Denied, JobRecord),
    OtherDigest(String),
}

impl Model {
    pub(crate) fn take(&mut self, take: &Take, nonce: Nonce, now: Timestamp) -> (Taken, Option<Reservation>) {
        let (buckets, last) = self.buckets.get(&take.key).cloned().unwrap_or_default();
        if last == nonce {
            let spent = take.parts.iter().zip(&buckets).map(|(part, bucket)| Spent {
                cost_ns: part.limit.cost(part.units).unwrap_or(0),
                generation: bucket.generation,
            });
            let reservation = Reservation { key: take.key.clone(), spent: spent.collect() };
            return (Taken::Granted { left: left(&buckets, take, now) }, Some(reservation));
        }
        let parts: Vec<(Limit, u64)> = take.parts.iter().map(|part| (part.limit, part.units)).collect();
        match gcra::take_all(&buckets, &parts, now) {
            JointVerdict::Refused { part, until } => (Taken::Refused { part, until }, None),
            JointVerdict::Granted { buckets, spent } => {
                let granted = Taken::Granted { left: left(&buckets, take, now) };
                self.buckets.insert(take.key.clone(), (buckets, nonce));
                (granted, Some(Reservation { key: take.key.clone(), spent }))
            }
        }
    }

    pub(crate) fn refund(&mut self, reservation: &Reservation) {
        if let Some((buckets, _)) = self.buckets.get_mut(&reservation.key) {
            for (bucket, spent) in buckets.iter_mut().zip(&reservation.spent) {
                *bucket = gcra::refund(*bucket, *spent);
            }
        }
    }

    fn give_back(&mut self, taken: &[Reservation]) {
        for reservation in taken {
            self.refund(reservation);
            if let Some((_, nonce)) = self.buckets.get_mut(&reservation.key) {
                *nonce = Nonce::default();
            }
        }
    }

    pub(crate) fn left(&self, take: &Take, now: Timestamp) -> Vec<u64> {
        left(&self.buckets.get(&take.key).map(|(buckets, _)| buckets.clone()).unwrap_or_default(), take, now)
    }

    pub(crate) fn accept(&mut self, acceptance: &Acceptance, now: Timestamp) -> AcceptedAs {
        let id = acceptance.message.spec.id;
        let mut taken = Vec::new();
        let mut spec = acceptance.message.spec.clone();
        let mut lefts = Vec::new();
        for take in &acceptance.takes {
            let fresh = self.buckets.get(&take.key).is_none_or(|(_, last)| *last != acceptance.nonce);
            match self.take(take, acceptance.nonce, now) {
                (Taken::Refused { part, until }, _) => {
                    self.give_back(&taken);
                    return AcceptedAs::Refused { key: take.key.clone(), part, until };
                }
                (Taken::Granted { left }, reservation) => {
                    taken.extend(reservation.clone().filter(|_| fresh));
                    spec.reservations.extend(reservation);
                    let levels =
                        Levels(self.buckets.get(&take.key).map(|(buckets, _)| buckets.clone()).unwrap_or_default());
                    spec.admitted.drawn.push(story::drawn(take, &levels, now));
                    lefts.push(left);
                }
            }
        }
        let is_tombstone =
            self.jobs.get(&id).is_some_and(|record| record.spec.is_none() && record.head.state.is_terminal());
        if let Some(claim) = &acceptance.marker {
            if let Some(found) = self.markers.get(&claim.key).copied()
                && found.expires > now
                && found.job != id
                && Some(found.job) != claim.replaces
            {
                self.give_back(&taken);
                return AcceptedAs::Held(found.job);
            }
            if is_tombstone {
                self.markers.remove(&claim.key);
                self.give_back(&taken);
                return AcceptedAs::CalledOff;
            }
            let marker = Marker { job: id, fingerprint: claim.fingerprint, written: now, expires: claim.expires };
            // A marker that is ours already stays as it is.
            if self.markers.get(&claim.key).is_none_or(|old| old.job != id || old.expires <= now) {
                self.markers.insert(claim.key.clone(), marker);
            }
        }
        if is_tombstone {
            self.give_back(&taken);
            return AcceptedAs::CalledOff;
        }
        if let Some(JobRecord { spec: Some(known), .. }) = self.jobs.get(&id) {
            return AcceptedAs::Yes { spec: Box::new(known.clone()), left: lefts };
        }
        let put = match acceptance.berth {
            Berth::Queue => Step::Put,
            Berth::Parked => Step::Park,
        };
        if let Ok(head) = apply(put, acceptance.nonce, self.jobs.get(&id).map(|r| &r.head), now) {
            self.jobs.insert(id, JobRecord { spec: Some(spec.clone()), ..JobRecord::bare(head) });
        }
        AcceptedAs::Yes { spec: Box::new(spec), left: lefts }
    }

    pub(crate) fn claim(&mut self, claim: &Claim, nonce: Nonce, now: Timestamp) -> ClaimedAs {
        let id = claim.spec.id;
        let found = self.jobs.get(&id).cloned();
        let step = Step::Claim { lease_until: claim.lease_until };
        let head = match apply(step, nonce, found.as_ref().map(|record| &record.head), now) {
            Ok(head) => head,
            Err(denied) => return ClaimedAs::No(denied, found.unwrap_or_else(|| panic!("denied on nothing"))),
        };
        if let Some(fixed) = found.as_ref().and_then(|record| record.digest.clone())
            && fixed != claim.digest
            && self.chunks(id, None).next().is_some()
        {
            return ClaimedAs::OtherDigest(fixed);
        }
        if let Some(record) = found.as_ref().filter(|record| record.head == head) {
            return ClaimedAs::Yes(record.clone());
        }
        let (known, mut told) = found.map_or((None, Vec::new()), |record| (record.spec, record.story));
        story::append(&mut told, Some(Event::claimed(now, &claim.owner, &claim.digest)));
        let record = JobRecord {
            spec: known.or_else(|| Some(claim.spec.clone())),
            owner: Some(claim.owner.clone()),
            digest: Some(claim.digest.clone()),
            started: Some(now),
            story: told,
            ..JobRecord::bare(head)
        };
        self.jobs.insert(id, record.clone());
        ClaimedAs::Yes(record)
    }

    pub(crate) fn step(&mut self, id: JobId, stepped: &Stepped, nonce: Nonce, now: Timestamp) -> Result<Head, Denied> {
        let found = self.jobs.get(&id).cloned();
        let before = found.as_ref().map(|record| record.head);
        let head = apply(stepped.step, nonce, before.as_ref(), now)?;
        if before != Some(head) {
            let ends = head.state.is_terminal() && !before.is_some_and(|before| before.state.is_terminal());
            let mut record = JobRecord { head, ..found.unwrap_or_else(|| JobRecord::bare(head)) };
            story::append(&mut record.story, stepped.event.clone());
            if ends {
                record.finished = Some(now);
                record.outcome.clone_from(&stepped.outcome);
            }
            self.jobs.insert(id, record);
        }
        Ok(head)
    }

    pub(crate) fn put_chunk(&mut self, id: JobId, chunk: &Chunk) {
        self.chunks.insert((id, chunk.position), chunk.clone());
    }

    pub(crate) fn chunks(&self, id: JobId, after: Option<Position>) -> impl Iterator<Item = &Chunk> {
        let of_job = self.chunks.iter().filter(move |((job, _), _)| *job == id);
        of_job.filter(move |((_, position), _)| after.is_none_or(|after| *position > after)).map(|(_, chunk)| chunk)
    }

    pub(crate) fn marker(&self, key: &MarkerKey) -> Option<Marker> {
        self.markers.get(key).copied()
    }

    pub(crate) fn clear_marker(&mut self, key: &MarkerKey, job: JobId) {
        if self.markers.get(key).is_some_and(|marker| marker.job == job) {
            self.markers.remove(key);
        }
    }
}

/// What could be taken of each part now.
pub(crate) fn left(buckets: &[Bucket], take: &Take, now: Timestamp) -> Vec<u64> {
    let bucket = |part: usize| buckets.get(part).copied().unwrap_or_default();
    take.parts.iter().enumerate().map(|(part, of)| gcra::available(bucket(part), &of.limit, now)).collect()
}
