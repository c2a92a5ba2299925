//! Single-flight: a request that is known already joins the job under way, or is served from the one that has ended.
//!
//! One look at the markers, then a decision, then one `accept`. Only a race (another handler wrote the marker between
//! the look and the write, or a job ended between the look and the join) makes it look again, a bounded number of
//! times.

use std::time::Duration;

use penstock_policy::classes::Class;
use penstock_policy::id::JobId;
use penstock_policy::job::{Denied, Step};
use penstock_policy::marker::{self, Known, Plan};
use penstock_policy::time::Timestamp;

use crate::Service;
use crate::admit::{Admission, How, Outcome};
use crate::draft::Draft;
use crate::error::ApiError;
use crate::ports::{JobRecord, MarkerClaim, MarkerKey, Stepped, Tenant};

/// How often a lost race is run again.
const MOST_ROUNDS: u32 = 200;

impl Service {
    /// Goes by what is known of the same request until it is ours, joined or served.
    pub(crate) async fn single_flight(
        &self,
        tenant: &Tenant,
        draft: Draft,
        key: MarkerKey,
        fingerprint: u64,
    ) -> Result<Admission, ApiError> {
        for _ in 0..MOST_ROUNDS {
            let now = self.ports.clock.now();
            let marker = self.ports.markers.find(&key).await?;
            let record = match &marker {
                Some(marker) => self.ports.jobs.record(marker.job).await?,
                None => None,
            };
            let claim = |replaces| {
                let key = key.clone();
                MarkerClaim { key, fingerprint, expires: now.after(marker_ttl(draft.class())), replaces }
            };
            match marker::plan(marker.as_ref(), known(record.as_ref()), fingerprint, draft.class(), now) {
                Plan::Run { replaces } => {
                    if let Outcome::Ours(admission) = self.accept(tenant, &draft, Some(claim(replaces)), now).await? {
                        return Ok(admission);
                    }
                }
                Plan::Resend(job) => {
                    let under = draft.under(job);
                    if let Outcome::Ours(admission) = self.accept(tenant, &under, Some(claim(Some(job))), now).await?
                        && (admission.created == draft.spec.created || self.join(job, now).await?)
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

    /// Adds this request's interest to a job; `false` if it has ended or is about to be cancelled: look again.
    async fn join(&self, job: JobId, now: Timestamp) -> Result<bool, ApiError> {
        match self.ports.jobs.step(job, &Stepped::from(Step::Join), self.nonce(), now).await? {
            Ok(_) => Ok(true),
            Err(Denied::Ended(_) | Denied::Unwanted | Denied::Absent) => Ok(false),
            Err(
                Denied::Present
                | Denied::Leased(_)
                | Denied::Fenced
                | Denied::Wanted
                | Denied::NotEnded
                | Denied::Settled,
            ) => Err(ApiError::internal()),
        }
    }

    fn without_run(&self, draft: &Draft, job: JobId, how: How, now: Timestamp) -> Admission {
        Admission {
            job,
            shown: JobId::new(now, self.ports.entropy.draw()),
            how,
            wait: None,
            class: draft.class(),
            levels: None,
            created: draft.spec.created,
        }
    }
}

/// A marker outlives the longest run of its job by the time a finished answer is served again.
fn marker_ttl(class: Class) -> Duration {
    class.patience() + marker::TTL
}

fn known(record: Option<&JobRecord>) -> Known {
    match record {
        None => Known::Absent,
        Some(record) => Known::Job {
            state: record.head.state,
            // A record without a spec is a tombstone, and has ended.
            class: record.spec.as_ref().map_or(Class::P3, |spec| spec.class),
            interest: record.head.interest,
            ended: record.finished,
            failed_for_good: matches!(&record.outcome, Some(Err(verdict)) if verdict.is_for_good()),
        },
    }
}
