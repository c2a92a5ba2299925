//! Accepting work that nobody waits for: straight into the park, whatever the queue holds; and calling much of it off.

use futures_util::future::try_join_all;
use penstock_policy::classes::Class;
use penstock_policy::id::JobId;
use penstock_policy::job::Step;
use penstock_policy::parking::Berth;
use penstock_policy::time::Timestamp;

use crate::Service;
use crate::admission::wanted::Wanted;
use crate::error::ApiError;
use crate::ports::{Acceptance, Accepted, JobSpec, Message, Payload, Pool, PortResult, Stepped, Tenant};

/// Jobs that are called off at the same time: enough for the store to write them in groups.
const TOGETHER: usize = 64;

/// What is fixed about a job that is parked, beside its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stall {
    /// Its id. Parking the same id again changes nothing and gives the job as it was accepted first.
    pub id: JobId,
    /// Its class, if the tenant may have so good a one.
    pub class: Class,
    /// When running it stops to make sense.
    pub due: Timestamp,
}

impl Service {
    /// Parks a job for `pool`. It takes nothing of the tenant's limits nor of the virtual queue: whoever parks in bulk has
    /// limits of its own; its tokens count into the pool's backlog from the next control tick on.
    ///
    /// # Errors
    /// 400, naming the field, if the pool's model can never do it; 503 if a store does not answer, after which the same id
    /// may be parked again.
    pub async fn park(
        &self,
        tenant: &Tenant,
        wanted: Wanted<'_>,
        pool: &Pool,
        stall: &Stall,
        now: Timestamp,
    ) -> Result<JobSpec, ApiError> {
        wanted.fits(pool)?;
        let mut draft = self.draft(tenant, wanted, pool, now).await?.under(stall.id);
        draft.spec.class = Class::granted(stall.class, tenant.ceiling);
        draft.spec.due = stall.due;
        draft.spec.streamed = false;
        let nonce = self.nonce();
        let message = Message { payload: self.payload(&draft, nonce).await?, spec: draft.spec };
        let acceptance =
            Acceptance { message, berth: Berth::Parked, takes: Vec::new(), marker: None, attempt: None, nonce };
        match self.ports.jobs.accept(&acceptance, now).await? {
            Accepted::Yes { spec, .. } => {
                // A job that was parked before keeps the request it was parked with.
                if spec.created != now
                    && let Payload::Blob(key) = &acceptance.message.payload
                {
                    self.ports.blobs.remove(key).await?;
                }
                Ok(*spec)
            }
            // Nothing was taken, and there is no marker.
            Accepted::Refused { .. } | Accepted::Held(_) => Err(ApiError::internal()),
        }
    }

    /// Cancels jobs, parked, queued or running, whoever wants them, and settles them. Says how many were cancelled by this
    /// call; those that had ended stay as they ended.
    ///
    /// # Errors
    /// If a store does not answer. What was cancelled stays so, and the same call may be made again.
    pub async fn cancel_all(&self, jobs: impl IntoIterator<Item = JobId> + Send) -> PortResult<u64> {
        let jobs: Vec<JobId> = jobs.into_iter().collect();
        let mut cancelled = 0;
        for some in jobs.chunks(TOGETHER) {
            let ours = try_join_all(some.iter().map(|job| self.cancel_one(*job))).await?;
            cancelled += ours.into_iter().map(u64::from).sum::<u64>();
        }
        Ok(cancelled)
    }

    async fn cancel_one(&self, job: JobId) -> PortResult<bool> {
        let cancel = Stepped::from(Step::Cancel { regardless_of_interest: true });
        let now = self.ports.clock.now();
        let cancelled = self.ports.jobs.step(job, &cancel, self.nonce(), now).await?.is_ok();
        // One that another call has cancelled may not be settled yet.
        self.settle(job).await?;
        Ok(cancelled)
    }
}
