//! Keeping an answer: a consequence of its job's end, drawn before the end counts as settled.
//!
//! Idempotent: who repeats it writes the same answer under the same key. An answer that was made later stays.

use penstock_policy::cache::Life;
use penstock_policy::id::JobId;
use penstock_policy::job::State;
use penstock_policy::time::Timestamp;

use crate::Service;
use crate::kept::answer::{Body, Kept, KeptSaid};
use crate::kept::recall::life_of;
use crate::ports::{BlobKey, ENTRY_BYTES, Entry, JobRecord, Keep, MarkerKey, PortError, PortResult};

impl Service {
    /// Keeps what a job that has ended said, if it was to be kept and is worth it.
    pub(crate) async fn keep_answer(&self, job: JobId, record: &JobRecord, now: Timestamp) -> PortResult<()> {
        let Some((spec, keep)) = record.spec.as_ref().and_then(|spec| Some((spec, spec.keep.as_ref()?))) else {
            return Ok(());
        };
        let said: KeptSaid = match (record.head.state, &record.outcome) {
            (State::Succeeded, Some(Ok(_))) => match self.said_of(job, record).await? {
                Some(Ok(said)) => Ok(said),
                Some(Err(_)) => return Ok(()),
                // The settler wrote them, or reads strongly: they are there in a moment.
                None => {
                    return Err(PortError::Unavailable { store: "jobs", cause: "chunks are not seen yet".to_owned() });
                }
            },
            (State::Failed, Some(Err(verdict))) if verdict.is_for_good() => Err(verdict.clone()),
            (
                State::Parked
                | State::Queued
                | State::Running
                | State::Succeeded
                | State::Failed
                | State::Cancelled
                | State::Expired,
                _,
            ) => return Ok(()),
        };
        let key = MarkerKey { tenant: spec.tenant.clone(), digest: keep.digest.clone() };
        let made = record.finished.unwrap_or(now);
        let fresh = Kept { job, life: Life { made, ends: made }, ttl: penstock_policy::cache::BASE, said };
        let (life, ttl) = life_of(keep, fresh.digest(), fresh.said.is_err(), self.fraction(), made);
        match self.keep(&key, keep, &Kept { life, ttl, ..fresh }).await {
            // A store that refuses for good must not keep the job from being settled.
            Err(error) if !error.is_passing() => {
                tracing::error!(%job, %error, "an answer cannot be kept");
                Ok(())
            }
            result => result,
        }
    }

    async fn keep(&self, key: &MarkerKey, keep: &Keep, kept: &Kept) -> PortResult<()> {
        let Some(mut body) = kept.stored() else { return Ok(()) };
        if body.len() > ENTRY_BYTES {
            let Some(blob) = BlobKey::new(&format!("kept/{}-{}", key.digest, kept.job)) else { return Ok(()) };
            self.ports.blobs.put(&blob, body).await?;
            body = Body::naming(&blob);
        }
        let entry = Entry { made: kept.life.made, forgotten: kept.life.forgotten(), body };
        // The copies first: whoever finds the new answer under the first may look for it under all.
        for copy in (0..keep.copies.max(1)).rev() {
            self.ports.answers.keep(key, copy, &entry).await?;
        }
        Ok(())
    }
}
