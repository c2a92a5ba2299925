//! Single-flight: a request that is known already joins the job under way, or is served from the one that has ended.
//!
//! One look at the markers, then a decision, then one `accept`. Only a race (another handler wrote the marker between
//! the look and the write, or a job ended between the look and the join) makes it look again, a bounded number of
//! times.

use std::time::Duration;

use penstock_policy::classes::Class;
use penstock_policy::id::JobId;
use penstock_policy::job::{Denied, State, Step};
use penstock_policy::marker::{self, Asking, Known, Marker, Plan};
use penstock_policy::time::Timestamp;

use crate::Service;
use crate::admission::admit::{Admission, How, Outcome};
use crate::admission::draft::Draft;
use crate::error::ApiError;
use crate::ports::{JobRecord, MarkerClaim, MarkerKey, Stepped, Tenant};

/// How often a lost race is run again.
const MOST_ROUNDS: u32 = 200;

/// A name under which a request may be known, and how far that goes.
pub(crate) struct Flight {
    pub(crate) key: MarkerKey,
    pub(crate) fingerprint: u64,
    /// For how long after its end a job of that name answers.
    pub(crate) served_for: Duration,
    /// The marker, or that there is none, if the store was asked just now.
    pub(crate) seen: Option<Option<Marker>>,
}

impl Service {
    /// Goes by what is known of the same request until it is ours, joined or served.
    pub(crate) async fn single_flight(
        &self,
        tenant: &Tenant,
        mut draft: Draft,
        flight: Flight,
    ) -> Result<Admission, ApiError> {
        let Flight { key, fingerprint, served_for, mut seen } = flight;
        for _ in 0..MOST_ROUNDS {
            let now = self.ports.clock.now();
            let marker = match seen.take() {
                Some(marker) => marker,
                None => self.ports.markers.find(&key).await?,
            };
            let record = match &marker {
                Some(marker) => self.ports.jobs.record(marker.job).await?,
                None => None,
            };
            let claim = |replaces| {
                let key = key.clone();
                MarkerClaim { key, fingerprint, expires: now.after(marker_ttl(draft.class())), replaces }
            };
            let asking = Asking { fingerprint, class: draft.class(), served_for };
            match marker::plan(marker.as_ref(), known(record.as_ref()), &asking, now) {
                Plan::Run { replaces } => {
                    if let Outcome::Ours(admission) = self.accept(tenant, &draft, Some(claim(replaces)), now).await? {
                        if self.is_wanted_by(&draft, &admission, now).await? {
                            return Ok(admission);
                        }
                        // Whoever took us for dead has sent our job again, and it has ended: its id is spent.
                        draft = draft.under(JobId::new(now, self.ports.entropy.draw()));
                    }
                }
                Plan::Resend(job) => {
                    let under = draft.under(job);
                    if let Outcome::Ours(admission) = self.accept(tenant, &under, Some(claim(Some(job))), now).await?
                        && self.is_wanted_by(&draft, &admission, now).await?
                    {
                        return Ok(admission);
                    }
                }
                Plan::Serve(job) => {
                    self.take_request(tenant, now).await?;
                    return Ok(self.without_run(&draft, job, How::Served, now));
                }
                Plan::Join(job) => {
                    self.take_request(tenant, now).await?;
                    if self.join(job, now).await? {
                        return Ok(self.without_run(&draft, job, How::Joined, now));
                    }
                }
                Plan::PutAway(job) => self.put_away(job).await?,
                Plan::Wait { until } => self.ports.clock.sleep_until(until).await,
                Plan::Conflict => return Err(ApiError::key_reused()),
            }
        }
        Err(ApiError::store_unavailable())
    }

    /// Whether the job's record counts this request among those who want it: as its maker, or as one that joins it now,
    /// because another had made it; `false` if that one has ended.
    async fn is_wanted_by(&self, draft: &Draft, admission: &Admission, now: Timestamp) -> Result<bool, ApiError> {
        Ok(admission.created == draft.spec.created || self.join(admission.job, now).await?)
    }

    /// Adds this request's interest to a job; `false` if it has ended or is about to be cancelled: look again.
    pub(crate) async fn join(&self, job: JobId, now: Timestamp) -> Result<bool, ApiError> {
        match self.ports.jobs.step(job, &Stepped::from(Step::Join), self.nonce(), now).await? {
            Ok(_) => Ok(true),
            Err(Denied::Ended(_) | Denied::Unwanted | Denied::Absent) => Ok(false),
            Err(
                Denied::Present
                | Denied::Leased(_)
                | Denied::Fenced
                | Denied::Wanted
                | Denied::NotEnded
                | Denied::Settled
                | Denied::Unparked,
            ) => Err(ApiError::internal()),
        }
    }

    /// The admission of a request that is answered by a job of another.
    pub(crate) fn without_run(&self, draft: &Draft, job: JobId, how: How, now: Timestamp) -> Admission {
        Admission {
            job,
            shown: JobId::new(now, self.ports.entropy.draw()),
            how,
            promise: None,
            class: draft.class(),
            levels: None,
            created: draft.spec.created,
            kept: None,
            hold: None,
        }
    }
}

/// A marker outlives the longest run of its job by the time a finished answer is served again.
pub(crate) fn marker_ttl(class: Class) -> Duration {
    class.patience() + marker::TTL
}

/// What the record of a marker's job, or of a try's, says of it.
pub(crate) fn known(record: Option<&JobRecord>) -> Known {
    match record {
        None => Known::Absent,
        Some(record) => Known::Job {
            // An answer that is removed serves nobody: the request is run anew.
            state: if record.forgotten { State::Expired } else { record.head.state },
            // A record without a spec is a tombstone, and has ended.
            class: record.spec.as_ref().map_or(Class::P3, |spec| spec.class),
            interest: record.head.interest,
            ended: record.finished,
            failed_for_good: matches!(&record.outcome, Some(Err(verdict)) if verdict.is_for_good()),
        },
    }
}
