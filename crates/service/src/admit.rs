//! Admission: from a drafted job to one that is accepted, or refused by a limit.
//!
//! What names a request, and whether it is known already, is looked at before (`obtain`, `single_flight`).

use std::sync::Arc;
use std::time::Duration;

use penstock_policy::admission::{self, Capacity};
use penstock_policy::classes::Class;
use penstock_policy::gcra;
use penstock_policy::id::{JobId, PoolId};
use penstock_policy::time::Timestamp;

use crate::Service;
use crate::adopt::HeldTry;
use crate::draft::Draft;
use crate::error::ApiError;
use crate::kept::Kept;
use crate::ports::{
    Acceptance, Accepted, BucketKey, Levels, MarkerClaim, Message, Payload, Take, TakeOutcome, TakePart, Tenant,
};
use crate::recall::Found;
use crate::telling::Heading;

/// A worker's rate that is assumed while none has ever reported, in tokens a second: a small model on one CPU core.
const ASSUMED_RATE: f64 = 200.0;

/// A request on its way.
pub(crate) struct Admission {
    /// The job that answers.
    pub(crate) job: JobId,
    /// The id the client sees: its own job's, or a fresh one if the answer is another request's.
    pub(crate) shown: JobId,
    /// How it came about.
    pub(crate) how: How,
    /// What is known of the wait.
    pub(crate) wait: Option<Duration>,
    /// The class granted.
    pub(crate) class: Class,
    /// The tenant's buckets after the take.
    pub(crate) levels: Option<Levels>,
    /// When the request came.
    pub(crate) created: Timestamp,
    /// The kept answer, if that is what the request gets.
    pub(crate) kept: Option<Arc<Kept>>,
    /// The hold on the job, to be renewed while the client waits.
    pub(crate) hold: Option<HeldTry>,
}

impl Admission {
    /// What stands at the head of the answer, of a model as the client wrote its name.
    pub(crate) fn heading(&self, model: &str) -> Heading {
        Heading { shown: self.shown, created: self.created, model: model.to_owned(), class: self.class }
    }
}

/// How a request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// A job of its own.
    Fresh,
    /// A job under way that the same request had started.
    Joined,
    /// The result of a job that has ended.
    Served,
    /// An answer from outside the pools, with no job behind it.
    Elsewhere,
    /// A kept answer.
    Kept {
        /// Where it was found.
        found: Found,
        /// How old it is.
        age: Duration,
    },
}

impl Service {
    /// Takes one request, and no tokens, from the tenant's limits: what an answer costs that needs no run of its own.
    pub(crate) async fn take_request(&self, tenant: &Tenant, now: Timestamp) -> Result<(), ApiError> {
        match self.ports.limits.take(&tenant_take(tenant, 0), self.nonce(), now).await? {
            TakeOutcome::Granted { .. } => Ok(()),
            TakeOutcome::Refused { part, until, .. } => Err(refusal_of_tenant(tenant, part, 0, until, now)),
        }
    }

    async fn capacity(&self, pool: &PoolId, now: Timestamp) -> Result<Capacity, ApiError> {
        let read = async {
            let workers = self.ports.control.workers(pool, now.before(admission::WORKER_SILENCE)).await?;
            let live = workers.iter().filter(|worker| !worker.draining).map(|worker| worker.tokens_per_second);
            Ok(Capacity::of(live, ASSUMED_RATE).tokens_per_second)
        };
        let good_for = |_: &f64| self.timing.capacity_cache;
        let tokens_per_second = self.caches.capacity.fetch(pool, now, good_for, read).await?;
        Ok(Capacity { tokens_per_second })
    }

    /// Accepts a job, if every limit has room for it.
    ///
    /// # Errors
    /// A limit, an overloaded pool, a store that does not answer.
    pub(crate) async fn accept(
        &self,
        tenant: &Tenant,
        draft: &Draft,
        marker: Option<MarkerClaim>,
        now: Timestamp,
    ) -> Result<Outcome, ApiError> {
        let spec = &draft.spec;
        let queue_limit =
            self.capacity(&spec.pool, now).await?.virtual_queue(spec.class).map_err(|_| ApiError::internal())?;
        let queue_take = Take {
            key: BucketKey::VirtualQueue { pool: spec.pool.clone(), class: spec.class, shard: 0 },
            // A request larger than the whole queue still fits an empty one.
            parts: vec![TakePart { limit: queue_limit, units: spec.estimated_tokens.min(queue_limit.burst()) }],
        };
        let nonce = self.nonce();
        let message = Message { spec: spec.clone(), payload: self.payload(draft, nonce).await? };
        let acceptance = Acceptance {
            message,
            takes: vec![tenant_take(tenant, spec.estimated_tokens), queue_take],
            marker,
            attempt: draft.attempt.clone(),
            nonce,
        };
        let accepted = self.ports.jobs.accept(&acceptance, now).await?;
        if !matches!(accepted, Accepted::Yes { .. })
            && let Payload::Blob(key) = &acceptance.message.payload
        {
            self.ports.blobs.remove(key).await?;
        }
        match accepted {
            Accepted::Yes { spec, levels } => {
                let wait = levels.get(1).map(|levels| gcra::backlog(levels.part(0), now));
                Ok(Outcome::Ours(Admission {
                    job: spec.id,
                    shown: spec.id,
                    how: How::Fresh,
                    wait,
                    class: spec.class,
                    levels: levels.into_iter().next(),
                    created: spec.created,
                    kept: None,
                    hold: None,
                }))
            }
            Accepted::Held(_) => Ok(Outcome::Held),
            Accepted::Refused { key, part, until, .. } => Err(match key {
                BucketKey::VirtualQueue { .. } | BucketKey::Upstream { .. } => {
                    ApiError::overloaded(admission::come_back(until, now))
                }
                BucketKey::Tenant { .. } => refusal_of_tenant(tenant, part, spec.estimated_tokens, until, now),
            }),
        }
    }
}

/// One request and `tokens` tokens of a tenant's limits.
pub(crate) fn tenant_take(tenant: &Tenant, tokens: u64) -> Take {
    Take {
        key: BucketKey::Tenant { tenant: tenant.id.clone(), shard: 0 },
        parts: vec![
            TakePart { limit: tenant.limits.requests, units: 1 },
            TakePart { limit: tenant.limits.tokens, units: tokens },
        ],
    }
}

/// What a tenant is told that has reached a part of its limits.
pub(crate) fn refusal_of_tenant(
    tenant: &Tenant,
    part: usize,
    tokens: u64,
    until: Option<Timestamp>,
    now: Timestamp,
) -> ApiError {
    let come_back = admission::come_back(until, now);
    match part {
        0 => ApiError::rate_limited("requests", tenant.limits.requests.burst(), 1, come_back),
        _ => ApiError::rate_limited("tokens", tenant.limits.tokens.burst(), tokens, come_back),
    }
}

/// What became of an acceptance that no limit refused.
pub(crate) enum Outcome {
    /// Accepted: the job is ours to finish.
    Ours(Admission),
    /// Another request holds the marker.
    Held,
}
