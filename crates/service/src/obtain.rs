//! From a checked request to whatever will answer it: a job of its own, one under way, or one that has ended.
//!
//! Here it is decided under which name a request may be known already; what is known, and what follows from it, is the
//! business of `single_flight`; the limits that stand before a run of its own are those of `admit`.

use penstock_policy::time::Timestamp;

use crate::Service;
use crate::admit::{Admission, Outcome};
use crate::asked::Asked;
use crate::canonical::{KeyOf, fingerprint, marker_key};
use crate::error::ApiError;
use crate::ports::{Pool, Tenant};
use crate::wanted::Wanted;

impl Service {
    /// Finds what answers a request of `tenant` in `pool`.
    ///
    /// # Errors
    /// What the client is told: a maximum beyond the context, a reused idempotency key, a limit, an overloaded pool, a
    /// store that does not answer.
    pub(crate) async fn obtain_in(
        &self,
        tenant: &Tenant,
        wanted: Wanted<'_>,
        pool: &Pool,
        asked: &Asked,
        now: Timestamp,
    ) -> Result<Admission, ApiError> {
        wanted.fits(pool)?;
        let canonical = wanted.canonical(pool.id.as_str());
        let fingerprint = fingerprint(&canonical);
        let key = match &asked.idempotency_key {
            Some(key) => Some(marker_key(&self.marker_secret, &tenant.id, &KeyOf::Idempotency(key))),
            None if wanted.is_deterministic() => {
                Some(marker_key(&self.marker_secret, &tenant.id, &KeyOf::Request(&canonical)))
            }
            None => None,
        };
        let draft = self.draft(tenant, wanted, pool, now)?;
        match key {
            Some(key) => self.single_flight(tenant, draft, key, fingerprint).await,
            None => match self.accept(tenant, &draft, None, now).await? {
                Outcome::Ours(admission) => Ok(admission),
                // Without a marker nobody else can hold it.
                Outcome::Held => Err(ApiError::internal()),
            },
        }
    }
}
