//! From a checked request to whatever will answer it: a job of its own, one under way, or one that has ended.
//!
//! Here it is decided under which name a request may be known already; what is known, and what follows from it, is the
//! business of `single_flight`; the limits that stand before a run of its own are those of `admit`.

use penstock_policy::time::Timestamp;
use penstock_wire::chat::ChatRequest;

use crate::Service;
use crate::admit::{Admission, Outcome};
use crate::asked::Asked;
use crate::canonical::{KeyOf, canonical, fingerprint, marker_key};
use crate::error::ApiError;
use crate::ports::{Pool, Tenant};

impl Service {
    /// Finds what answers a chat request of `tenant`.
    ///
    /// # Errors
    /// What the client is told: an unknown model, a maximum beyond the context, a reused idempotency key, a limit, an
    /// overloaded pool, a store that does not answer.
    pub(crate) async fn obtain(
        &self,
        tenant: &Tenant,
        request: &ChatRequest,
        asked: &Asked,
        now: Timestamp,
    ) -> Result<Admission, ApiError> {
        let pools = self.pools(now).await?;
        let pool = suitable(&pools, request)?;
        let canonical = canonical(request, pool.id.as_str());
        let fingerprint = fingerprint(&canonical);
        let key = match &asked.idempotency_key {
            Some(key) => Some(marker_key(&self.marker_secret, &tenant.id, &KeyOf::Idempotency(key))),
            None if request.is_deterministic() => {
                Some(marker_key(&self.marker_secret, &tenant.id, &KeyOf::Request(&canonical)))
            }
            None => None,
        };
        let draft = self.draft(tenant, request, pool, now)?;
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

/// The pool of the model asked for, if it can give as long an answer as is asked for.
fn suitable<'p>(pools: &'p [Pool], request: &ChatRequest) -> Result<&'p Pool, ApiError> {
    let pool = pools.iter().find(|pool| pool.model == request.model).ok_or_else(|| {
        let known: Vec<&str> = pools.iter().map(|pool| pool.model.as_str()).collect();
        ApiError::no_such_model(&request.model, &known)
    })?;
    match request.max_tokens.filter(|max| *max > pool.context_length) {
        None => Ok(pool),
        Some(max_tokens) => {
            let message = format!(
                "'max_tokens' is {max_tokens}: this model has a context of {} tokens, prompt and answer together",
                pool.context_length
            );
            Err(ApiError::invalid("max_tokens", "invalid_value", message))
        }
    }
}
