//! From a checked request to whatever will answer it: a kept answer, a job under way, one that has ended, or a job of its
//! own.
//!
//! Here it is decided under which name a request may be known; what follows from what is known under it is the business of
//! `recall` (kept answers), `single_flight` (requests that come out the same, or bear a name) and `adopt` (retries of the
//! others). The limits that stand before a run of its own are those of `admit`.

use std::sync::Arc;
use std::time::Duration;

use penstock_policy::cache::{self, Use};
use penstock_policy::marker;
use penstock_policy::time::Timestamp;

use crate::Service;
use crate::admission::admit::Admission;
use crate::admission::single_flight::{Flight, marker_ttl};
use crate::admission::wanted::Wanted;
use crate::door::asked::Asked;
use crate::error::ApiError;
use crate::kept::answer::Kept;
use crate::kept::canonical::{KeyOf, fingerprint, marker_key};
use crate::kept::recall::{Known, Recalled};
use crate::ports::{MarkerClaim, Pool, Tenant};

/// How long a job's own record answers for the kept answer that is being written.
const BEING_KEPT: Duration = Duration::from_secs(10);

impl Service {
    /// Finds what answers a request of `tenant` in `pool`.
    ///
    /// # Errors
    /// What the client is told: a maximum beyond the context, a reused idempotency key, a limit, an overloaded pool, a
    /// store that does not answer, that there is no kept answer where only one was wanted.
    pub(crate) async fn obtain_in(
        self: &Arc<Self>,
        tenant: &Tenant,
        wanted: Wanted<'_>,
        pool: &Pool,
        asked: &Asked,
        now: Timestamp,
    ) -> Result<Admission, ApiError> {
        wanted.fits(pool)?;
        let canonical = wanted.canonical(pool.id.as_str());
        let known = self.known_as(tenant, wanted, asked, &canonical);
        let recalled = self.recall(&known, now).await;
        if let Some((kept, found)) = &recalled.given {
            self.owe_hit(tenant, now)?;
            if recalled.refresh {
                self.refresh(&known, pool, kept, &canonical, now).await;
            }
            return Ok(self.given(&known, Arc::clone(kept), *found, now));
        }
        if let Some(prepared) = self.prepared(&known, &canonical, asked, now).await {
            self.owe_hit(tenant, now)?;
            return Ok(prepared);
        }
        if asked.wish.only_if_cached {
            return Err(ApiError::not_kept());
        }
        match self.run(&known, pool, asked, &canonical, &recalled, now).await {
            // Of a pool that is full, others are asked first (`fallback`).
            Err(error) if error.is_store_failure() => match self.in_need(&known, &recalled, now) {
                Some(stale) => self.owe_hit(tenant, now).map(|()| stale),
                None => Err(error),
            },
            result => result,
        }
    }

    /// A kept answer in the place of a run that `pool` does not give now: a fresh one; with `in_need` also one past its end.
    ///
    /// # Errors
    /// 429 if the tenant's limit of requests was found reached.
    pub(crate) async fn kept_instead(
        self: &Arc<Self>,
        tenant: &Tenant,
        wanted: Wanted<'_>,
        pool: &Pool,
        asked: &Asked,
        in_need: bool,
        now: Timestamp,
    ) -> Result<Option<Admission>, ApiError> {
        let canonical = wanted.canonical(pool.id.as_str());
        let known = self.known_as(tenant, wanted, asked, &canonical);
        let recalled = self.recall(&known, now).await;
        let kept = match &recalled.given {
            Some((kept, found)) => Some(self.given(&known, Arc::clone(kept), *found, now)),
            None if in_need => self.in_need(&known, &recalled, now),
            None => None,
        };
        if kept.is_some() {
            self.owe_hit(tenant, now)?;
        }
        Ok(kept)
    }

    /// An answer that the operator had prepared for everybody.
    async fn prepared(
        self: &Arc<Self>,
        known: &Known<'_>,
        canonical: &[u8],
        asked: &Asked,
        now: Timestamp,
    ) -> Option<Admission> {
        if asked.idempotency_key.is_some() {
            return None;
        }
        let key = self.prepared_key(known.tenant, &asked.wish, canonical, now).await?;
        let prepared = Known { key, usage: Use::Share, ..*known };
        // Who keeps it young is `preload`.
        let (kept, found) = self.recall(&prepared, now).await.given?;
        Some(self.given(&prepared, kept, found, now))
    }

    fn known_as<'r>(&self, tenant: &'r Tenant, wanted: Wanted<'r>, asked: &Asked, canonical: &[u8]) -> Known<'r> {
        let may_store = tenant.retention.store && wanted.may_be_stored();
        let usage = match cache::usage(tenant.caching, wanted.is_deterministic(), may_store, &asked.wish) {
            // A key promises the answer of the run that bears it, and a conflict if another request bears it.
            Use::Share if asked.idempotency_key.is_some() => Use::Renew,
            usage @ (Use::None | Use::Renew | Use::Share) => usage,
        };
        let key = marker_key(&self.marker_secret, &tenant.id, &KeyOf::Request(canonical));
        Known { tenant, wanted, key, usage, wish: asked.wish }
    }

    /// A job of its own, or one that the same request has started.
    async fn run(
        &self,
        known: &Known<'_>,
        pool: &Pool,
        asked: &Asked,
        canonical: &[u8],
        recalled: &Recalled,
        now: Timestamp,
    ) -> Result<Admission, ApiError> {
        let (tenant, secret) = (known.tenant, &self.marker_secret);
        let mut draft = self.draft(tenant, known.wanted, pool, now).await?;
        draft.is_retry = asked.earlier_tries > 0;
        draft.spec.admitted.trace = asked.trace;
        draft.fingerprint = fingerprint(canonical);
        draft.spec.keep = self.keep_of(known, recalled.older.as_deref());
        let fingerprint = fingerprint(canonical);
        // A retry asks for what its earlier try may have ended with.
        let is_retry = asked.earlier_tries > 0;
        if let Some(name) = &asked.idempotency_key {
            let key = marker_key(secret, &tenant.id, &KeyOf::Idempotency(name));
            let flight = Flight { key, fingerprint, served_for: marker::TTL, seen: None };
            return self.single_flight(tenant, draft, flight).await;
        }
        if known.wanted.is_deterministic() || known.usage != Use::None {
            let served_for = match known.usage {
                Use::None | Use::Renew if is_retry => marker::TTL,
                Use::None | Use::Renew => Duration::ZERO,
                Use::Share => BEING_KEPT,
            };
            let flight = Flight { key: known.key.clone(), fingerprint, served_for, seen: recalled.marker };
            return self.single_flight(tenant, draft, flight).await;
        }
        let key = marker_key(secret, &tenant.id, &KeyOf::Tries(canonical));
        self.first_try_or_retry(tenant, draft, key, asked.earlier_tries).await
    }

    /// Has a kept answer computed anew, unless that is under way. Whatever comes of it, the answer at hand is given.
    async fn refresh(&self, known: &Known<'_>, pool: &Pool, kept: &Kept, canonical: &[u8], now: Timestamp) {
        if !self.memory.may_refresh(&known.key, now) {
            return;
        }
        let Ok(mut draft) = self.draft(known.tenant, known.wanted, pool, now).await else { return };
        draft.fingerprint = fingerprint(canonical);
        draft.spec.keep = self.keep_of(known, Some(kept));
        draft.spec.streamed = false;
        let claim = MarkerClaim {
            key: known.key.clone(),
            fingerprint: fingerprint(canonical),
            expires: now.after(marker_ttl(draft.class())),
            // Whoever refreshes first replaces the job that made the answer, and so is the only one.
            replaces: Some(kept.job),
        };
        if let Err(error) = self.accept(known.tenant, &draft, Some(claim), now).await {
            tracing::info!(code = error.body.error.code.as_deref(), "a kept answer is not refreshed now");
        }
    }
}
