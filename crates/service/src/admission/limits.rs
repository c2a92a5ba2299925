//! A tenant's limits at the door: what a request takes of them, what its job holds, and what a refusal says.
//!
//! Requests, tokens and the ramp are parts of one take and exact. Jobs at a time and money are holds under the job's own
//! name, taken before it is accepted and ended when it is settled ([`crate::worker::settle`]): whoever dies in between, each is
//! counted once, and a hold whose job never came to be is found by [`Service::recount_holds`].
//!
//! A tenant that was just refused is refused from memory while its buckets, as they were then, have no room: what a client
//! hammers costs no writes. The buckets are remembered and not the verdict, so a smaller request is let through, and only
//! for [`REMEMBERED`], because jobs that end give back what they did not use.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode};
use penstock_policy::decision::{Refusal, Why};
use penstock_policy::gcra::{Bucket, Limit};
use penstock_policy::id::JobId;
use penstock_policy::promise::Promise;
use penstock_policy::ramp;
use penstock_policy::rates;
use penstock_policy::tenant::{Ramp, TenantLimits};
use penstock_policy::time::Timestamp;

use crate::Service;
use crate::admission::draft::Draft;
use crate::door::told::limit_state;
use crate::error::ApiError;
use crate::ports::{
    BucketKey, Counts, Held, HoldClaim, HoldKey, HoldName, JobRecord, Levels, PortResult, Take, TakePart, TallyKey,
    Tenant,
};

/// How long a refusal's buckets are remembered at most.
const REMEMBERED: Duration = Duration::from_secs(5);

/// How long after its expected end a hold is doubted.
const DOUBTED_AFTER: Duration = Duration::from_secs(60);

/// Tokens that one shard of a tenant's bucket must be able to grant at once: a long context.
const SHARD_TOKENS: u64 = 262_144;

/// How long counts of the ramp are kept: longer than it looks back.
const RAMP_KEPT: Duration = Duration::from_secs(15 * 60);

/// Something a job holds of its tenant's until it is settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// What.
    pub key: HoldKey,
    /// How much.
    pub units: u64,
}

/// Into how many items a tenant's bucket is split: what its rate of requests needs, as long as each still grants a long
/// request at once.
pub(crate) fn shards(limits: &TenantLimits) -> u16 {
    let per_second = 1e9 / (limits.requests.period_ns().max(1) as f64);
    let most = (limits.tokens.burst() / SHARD_TOKENS).min(limits.requests.burst()).max(1);
    rates::shards(per_second).min(u16::try_from(most).unwrap_or(u16::MAX))
}

impl Service {
    /// What one request of `tokens` tokens takes of its tenant's limits.
    pub(crate) async fn tenant_take(&self, tenant: &Tenant, tokens: u64, now: Timestamp) -> PortResult<Take> {
        let shards = shards(&tenant.limits);
        let part = |limit: Limit, units: u64| TakePart { limit: limit.part_of(shards), units };
        let mut parts = vec![part(tenant.limits.requests, 1), part(tenant.limits.tokens, tokens)];
        if let Some(growth) = &tenant.limits.ramp {
            parts.push(part(self.allowance(tenant, growth, now).await?, 1));
        }
        Ok(Take { key: BucketKey::Tenant { tenant: tenant.id.clone(), shard: self.place % shards }, parts })
    }

    /// How fast the tenant may go this minute.
    async fn allowance(&self, tenant: &Tenant, growth: &Ramp, now: Timestamp) -> PortResult<Limit> {
        if let Some(known) = self.caches.ramps.get(&tenant.id, now) {
            return Ok(known);
        }
        let minute = ramp::slot(now);
        let keys: Vec<TallyKey> = (minute - ramp::MEMORY..minute).map(|slot| ramp_key(tenant, slot)).collect();
        let sums = self.ports.tally.sums(&keys).await?;
        let reached: Vec<u64> =
            sums.iter().map(|counts| counts.get("n").and_then(|n| u64::try_from(*n).ok()).unwrap_or(0)).collect();
        // A floor of nothing would let nobody begin: one a minute may.
        let limit = ramp::allowance(growth, &reached).or_else(|_| Limit::per_minute(1));
        let limit = limit.unwrap_or(tenant.limits.requests);
        let good_for = ramp::good_until(now).since(now);
        self.caches.ramps.put(tenant.id.clone(), limit, now, good_for);
        Ok(limit)
    }

    /// Counts an accepted request for the tenant's ramp. What cannot be counted allows a little less later.
    pub(crate) async fn count_for_ramp(&self, tenant: &Tenant, now: Timestamp) {
        if tenant.limits.ramp.is_none() {
            return;
        }
        let counts = Counts::from([("n".to_owned(), 1)]);
        let key = ramp_key(tenant, ramp::slot(now));
        if let Err(error) = self.ports.tally.add(&key, &counts, now.after(RAMP_KEPT), self.nonce()).await {
            tracing::warn!(tenant = %tenant.id, %error, "a request is not counted for the ramp");
        }
    }

    /// The buckets of a take as they last refused somebody; empty if they did not lately.
    pub(crate) fn denied(&self, key: &BucketKey, now: Timestamp) -> Vec<Bucket> {
        self.caches.denied.get(key, now).map(|levels| levels.0).unwrap_or_default()
    }

    /// Remembers the buckets of a refusal.
    pub(crate) fn remember_denial(&self, key: &BucketKey, levels: &Levels, until: Option<Timestamp>, now: Timestamp) {
        let good_for = until.map_or(REMEMBERED, |until| until.since(now).min(REMEMBERED));
        self.caches.denied.put(key.clone(), levels.clone(), now, good_for);
    }

    /// A refusal as its answer, with the state of the limits that refused it.
    pub(crate) fn with_limits(&self, error: ApiError, tenant: &Tenant, now: Timestamp) -> Response {
        let mut response = error.into_response();
        if response.status() == StatusCode::TOO_MANY_REQUESTS {
            let shard = self.place % shards(&tenant.limits);
            let denied = self.denied(&BucketKey::Tenant { tenant: tenant.id.clone(), shard }, now);
            for (name, value) in limit_state(&Levels(denied), &tenant.limits, now) {
                if let Ok(value) = HeaderValue::from_str(&value) {
                    response.headers_mut().insert(name, value);
                }
            }
        }
        response
    }

    /// Holds what the job occupies of its tenant's, all or nothing.
    pub(crate) async fn hold_for(
        &self,
        tenant: &Tenant,
        draft: &Draft,
        promise: &Promise,
        now: Timestamp,
    ) -> PortResult<Result<Vec<Hold>, Refusal>> {
        let mut held: Vec<Hold> = Vec::new();
        for claim in claims(tenant, draft, promise, now) {
            let mut verdict = self.ports.limits.hold(&claim, now).await?;
            if let Held::Full(holding) = &verdict
                && holding.entries.iter().any(|entry| entry.until.after(DOUBTED_AFTER) < now)
                && self.recount(&claim.key, now).await? > 0
            {
                verdict = self.ports.limits.hold(&claim, now).await?;
            }
            match verdict {
                Held::Yes => held.push(Hold { key: claim.key, units: claim.units }),
                Held::Full(holding) => {
                    self.release(&held, draft.spec.id, now).await;
                    let (why, until) = match (&claim.key, tenant.limits.budget) {
                        (HoldKey::Money { .. }, Some(budget)) => (Why::Budget, Some(budget.period.next(now))),
                        _ => (Why::Concurrency, holding.next().map(|next| next.max(now.after(SOONEST)))),
                    };
                    return Ok(Err(Refusal { why, until }));
                }
            }
        }
        Ok(Ok(held))
    }

    /// Ends the holds of a job that was not accepted. What cannot be ended now is found by a recount.
    pub(crate) async fn release(&self, held: &[Hold], job: JobId, now: Timestamp) {
        for hold in held {
            if let Err(error) = self.ports.limits.unhold(&hold.key, &HoldName::of_job(job), 0, now).await {
                tracing::warn!(%job, %error, "a hold of a job that was not accepted stays for now");
            }
        }
    }

    /// Ends the holds that a job has, of money what it cost. May be repeated: a hold ends once.
    pub(crate) async fn end_holds(&self, job: JobId, held: &[Hold], cost: u64, now: Timestamp) -> PortResult<()> {
        for hold in held {
            self.ports.limits.unhold(&hold.key, &HoldName::of_job(job), used_of(&hold.key, cost), now).await?;
        }
        Ok(())
    }

    /// Ends the holds of a tenant whose jobs never came to be or were settled without: what the reconciler does now and
    /// then, and admission when it finds no room. Says how many.
    ///
    /// # Errors
    /// If a store does not answer; what was ended is ended.
    pub async fn recount_holds(&self, tenant: &Tenant, now: Timestamp) -> PortResult<u32> {
        let mut ended = 0;
        if tenant.limits.concurrency.is_some() {
            ended += self.recount(&HoldKey::Concurrency { tenant: tenant.id.clone() }, now).await?;
        }
        if let Some(budget) = &tenant.limits.budget {
            let period = budget.period.at(now);
            ended += self.recount(&HoldKey::Money { tenant: tenant.id.clone(), period }, now).await?;
        }
        Ok(ended)
    }

    async fn recount(&self, key: &HoldKey, now: Timestamp) -> PortResult<u32> {
        let mut ended = 0;
        for entry in self.ports.limits.holding(key).await?.entries {
            if entry.until.after(DOUBTED_AFTER) >= now {
                continue;
            }
            let Some(job) = entry.name.job() else { continue };
            let used = match self.ports.jobs.record(job).await? {
                None => Some(0),
                Some(record) if !over(&record) => None,
                Some(record) => match &record.spec {
                    Some(spec) => Some(self.charge(spec, &record).await?.cost.0),
                    None => Some(0),
                },
            };
            if let Some(cost) = used
                && self.ports.limits.unhold(key, &entry.name, used_of(key, cost), now).await?.is_some()
            {
                ended += 1;
            }
        }
        Ok(ended)
    }
}

/// The soonest moment that somebody without room is asked back at.
const SOONEST: Duration = Duration::from_secs(1);

/// Whether a job is over and done with. One that is not settled yet ends its holds when it is.
fn over(record: &JobRecord) -> bool {
    record.head.state.is_terminal() && !record.head.unsettled
}

const fn used_of(key: &HoldKey, cost: u64) -> u64 {
    match key {
        HoldKey::Money { .. } => cost,
        HoldKey::Concurrency { .. } | HoldKey::Returns { .. } => 0,
    }
}

/// What a job of this tenant has to hold; nothing for a tenant without such limits.
fn claims(tenant: &Tenant, draft: &Draft, promise: &Promise, now: Timestamp) -> Vec<HoldClaim> {
    let (name, until) = (HoldName::of_job(draft.spec.id), now.after(promise.eta_50));
    let claim = |key, units, most| HoldClaim { key, name: name.clone(), units, most, until, note: String::new() };
    let mut claims = Vec::new();
    if let Some(most) = tenant.limits.concurrency {
        claims.push(claim(HoldKey::Concurrency { tenant: tenant.id.clone() }, 1, u64::from(most)));
    }
    if let Some(budget) = tenant.limits.budget
        && !draft.spec.price.is_free()
    {
        let key = HoldKey::Money { tenant: tenant.id.clone(), period: budget.period.at(now) };
        claims.push(claim(key, promise.price.0, budget.usd_micros));
    }
    claims
}

fn ramp_key(tenant: &Tenant, slot: i64) -> TallyKey {
    TallyKey::new("ramp", tenant.id.as_str(), &slot.to_string())
}

/// What a client is told about a refusal, with its tenant's limits where they are what refused.
pub(crate) fn refused(tenant: &Tenant, refusal: &Refusal, asked: u64, now: Timestamp) -> ApiError {
    let come_back = penstock_policy::decision::told(refusal, now);
    let limits = &tenant.limits;
    match refusal.why {
        Why::Requests => ApiError::rate_limited("requests", limits.requests.burst(), 1, come_back),
        Why::Tokens => ApiError::rate_limited("tokens", limits.tokens.burst(), asked, come_back),
        Why::Ramp => ApiError::slow_down(come_back),
        Why::Concurrency => ApiError::too_many_jobs(limits.concurrency.unwrap_or(0), come_back),
        Why::Budget => ApiError::budget_spent(refusal.until, now),
        Why::QueueFull | Why::NoSlot => ApiError::overloaded(come_back),
    }
}
