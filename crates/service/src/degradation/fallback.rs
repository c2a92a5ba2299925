//! What answers a request when its pool is not well: which pool, or what in the place of a pool.
//!
//! The tier in which a pool stands says how new work is treated (`penstock_policy::degrade`). Where the pool is not to
//! compute an answer, or has no room for it, others are asked in this order, each if it is configured and the tenant
//! consents: other pools of the model, pools of a smaller one, upstreams outside this deployment, the configured text.
//! If nobody answers, the client is told when to come back. Every answer says how it was made.

use std::sync::Arc;

use futures_util::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue};
use penstock_policy::admission;
use penstock_policy::breaker::{Outcome, Permit};
use penstock_policy::classes::Class;
use penstock_policy::cost::UsdMicros;
use penstock_policy::degrade::{self, Course, Standing, Tier};
use penstock_policy::id::{JobId, PoolId, UpstreamId};
use penstock_policy::time::Timestamp;

use crate::Service;
use crate::admission::admit::{Admission, How};
use crate::admission::wanted::{Shorter, Wanted};
use crate::degradation::outside::{OutsideAnswer, Unanswered};
use crate::door::asked::Asked;
use crate::door::relay::{End, Progress, Relay, Said};
use crate::error::ApiError;
use crate::kept::canonical::{KeyOf, marker_key};
use crate::ports::{Fallback, Pool, Tenant};

/// What answers a request.
pub(crate) struct Obtained {
    pub(crate) admission: Admission,
    pub(crate) source: Source,
    pub(crate) made: Made,
}

/// How an answer is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Made {
    /// The tier of the pool that was asked for.
    tier: Tier,
    by: By,
    /// What it is expected to cost, where that is known before it is made.
    cost: Option<UsdMicros>,
}

/// Who makes an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
enum By {
    /// The pool that was asked for.
    Home,
    /// Another pool of the same model.
    Pool(PoolId),
    /// A pool of a smaller model.
    SmallerModel(PoolId),
    /// An upstream.
    Upstream(UpstreamId),
    /// The configured text.
    DefaultAnswer,
}

impl Made {
    /// Says it in the headers.
    pub(crate) fn tell(&self, headers: &mut HeaderMap) {
        let mut tell = |name: &'static str, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        };
        tell("x-penstock-tier", &self.tier.number().to_string());
        let (served_by, fallback) = match &self.by {
            By::Home => (None, None),
            By::Pool(pool) => (Some("fallback"), Some(format!("pool={pool}"))),
            By::SmallerModel(pool) => (Some("fallback"), Some(format!("smaller_model={pool}"))),
            By::Upstream(upstream) => (Some("fallback"), Some(format!("upstream={upstream}"))),
            By::DefaultAnswer => (Some("default"), None),
        };
        if let Some(served_by) = served_by {
            tell("x-penstock-served-by", served_by);
        }
        if let Some(fallback) = fallback {
            tell("x-penstock-fallback", &fallback);
        }
        if let Some(cost) = self.cost {
            tell("x-penstock-cost-usd", &cost.to_string());
        }
    }
}

/// Where an answer's words come from.
pub(crate) struct Source {
    words: Words,
    /// The answer is a probe of an open pool, to be reported.
    probe: Option<Probe>,
}

enum Words {
    Job(Relay),
    Outside(Box<OutsideAnswer>),
}

/// A permit to probe; taken back when it is dropped without an outcome.
struct Probe {
    service: Arc<Service>,
    pool: PoolId,
    permit: Option<Permit>,
}

impl Probe {
    fn report(mut self, outcome: Outcome) {
        if let Some(permit) = self.permit.take() {
            let (service, pool) = (Arc::clone(&self.service), self.pool.clone());
            let task = async move { service.report_probe(&pool, permit, outcome).await };
            self.service.ports.spawner.spawn(task.boxed());
        }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            let (service, pool) = (Arc::clone(&self.service), self.pool.clone());
            let task = async move { service.withdraw_probe(&pool, permit).await };
            self.service.ports.spawner.spawn(task.boxed());
        }
    }
}

impl Source {
    /// The words of a job.
    pub(crate) fn job(relay: Relay) -> Self {
        Self { words: Words::Job(relay), probe: None }
    }

    /// Leaves a job to run though nobody waits for it any more.
    pub(crate) fn let_run(&mut self) {
        match &mut self.words {
            Words::Job(relay) => relay.let_run(),
            Words::Outside(_) => {}
        }
    }

    /// Waits for new text or the end, up to `until`.
    pub(crate) async fn progress(&mut self, until: Timestamp) -> Progress {
        let progress = match &mut self.words {
            Words::Job(relay) => relay.progress(until).await,
            Words::Outside(answer) => answer.progress(until).await,
        };
        match &progress {
            Progress::Ended(End::Answered(_)) => self.probed(None),
            Progress::Ended(End::Failed(error)) => self.probed(Some(error)),
            Progress::Said(_) | Progress::Quiet => {}
        }
        progress
    }

    /// Waits for the whole answer, up to `until`.
    pub(crate) async fn whole(&mut self, until: Timestamp) -> Option<Said> {
        let said = match &mut self.words {
            Words::Job(relay) => relay.whole(until).await,
            Words::Outside(answer) => answer.whole(until).await,
        };
        if let Some(said) = &said {
            self.probed(said.as_ref().err());
        }
        said
    }

    fn probed(&mut self, failure: Option<&ApiError>) {
        if let Some(probe) = self.probe.take() {
            let failed = failure.is_some_and(|error| error.status.is_server_error());
            probe.report(if failed { Outcome::Failure } else { Outcome::Success });
        }
    }
}

/// A request that looks for an answer.
#[derive(Clone, Copy)]
struct Asking<'r> {
    tenant: &'r Tenant,
    wanted: Wanted<'r>,
    asked: &'r Asked,
    class: Class,
    pools: &'r [Pool],
    home: &'r Pool,
    tier: Tier,
    now: Timestamp,
}

impl Service {
    /// Finds what answers a request of `tenant`, as well as its pool is.
    ///
    /// # Errors
    /// As [`Service::obtain_in`]; and 503 with the moment to come back while the pool is closed and nobody answers in its
    /// place.
    pub(crate) async fn answer(
        self: &Arc<Self>,
        tenant: &Tenant,
        wanted: Wanted<'_>,
        asked: &Asked,
        now: Timestamp,
    ) -> Result<Obtained, ApiError> {
        let obtained = self.by_standing(tenant, wanted, asked, now).await;
        match &obtained {
            Ok(Obtained { admission, .. }) => match admission.how {
                // A job's use, and an upstream's, is counted at its end.
                How::Fresh | How::Elsewhere => {}
                How::Joined | How::Served | How::Kept { .. } => self.count_hit(&tenant.id, now),
            },
            Err(error) if error.is_refusal() => self.count_refusal(&tenant.id, now),
            Err(_) => {}
        }
        obtained
    }

    async fn by_standing(
        self: &Arc<Self>,
        tenant: &Tenant,
        wanted: Wanted<'_>,
        asked: &Asked,
        now: Timestamp,
    ) -> Result<Obtained, ApiError> {
        let pools = self.pools(now).await?;
        let home = wanted.pool(&pools)?;
        let class = Class::granted(admission::class_of_tier(wanted.service_tier()), tenant.ceiling);
        let standing = self.standing(&home.id, now).await;
        let tier = standing.tier(now);
        let asking = Asking { tenant, wanted, asked, class, pools: &pools, home, tier, now };
        match degrade::course(&standing, class, self.fraction(), now) {
            Course::Home => match self.at(&asking, home, By::Home).await {
                Err(refusal) if refusal.is_overload() => self.otherwise(&asking, refusal).await,
                obtained => obtained,
            },
            Course::Kept => self.capped(&asking, false).await,
            Course::Switched => self.capped(&asking, true).await,
            Course::Stale => match self.kept(&asking, true).await? {
                Some(kept) => Ok(kept),
                None => self.capped(&asking, true).await,
            },
            Course::Probe => match self.take_probe(&home.id, now).await {
                Some(permit) => {
                    let probe = Probe { service: Arc::clone(self), pool: home.id.clone(), permit: Some(permit) };
                    let mut obtained = self.at(&asking, home, By::Home).await?;
                    // An answer that was there already says nothing of the pool.
                    if obtained.admission.how == How::Fresh {
                        obtained.source.probe = Some(probe);
                    }
                    Ok(obtained)
                }
                None => self.otherwise(&asking, self.closed(&standing, now)).await,
            },
            Course::Fallback => self.otherwise(&asking, self.closed(&standing, now)).await,
            Course::Refuse => match self.kept(&asking, true).await? {
                Some(kept) => Ok(kept),
                None => Err(self.closed(&standing, now)),
            },
        }
    }

    fn closed(&self, standing: &Standing, now: Timestamp) -> ApiError {
        let until = degrade::come_back(standing, self.fraction(), now);
        ApiError::degraded(standing.tier(now), admission::come_back(Some(until), now))
    }

    /// In a pool that computes, with answers capped; with `switch`, in another one first that stands better.
    async fn capped(self: &Arc<Self>, asking: &Asking<'_>, switch: bool) -> Result<Obtained, ApiError> {
        let shorter = asking.wanted.capped(asking.home.usual_output_tokens);
        let wanted = shorter.as_ref().map_or(asking.wanted, Shorter::wanted);
        let asking = &Asking { wanted, ..*asking };
        if switch {
            for fallback in &asking.home.fallbacks {
                if let Fallback::Pool(id) = fallback
                    && let Some(obtained) = self.elsewhere(asking, id, By::Pool(id.clone())).await?
                {
                    return Ok(obtained);
                }
            }
        }
        match self.at(asking, asking.home, By::Home).await {
            Err(refusal) if refusal.is_overload() => self.otherwise(asking, refusal).await,
            obtained => obtained,
        }
    }

    /// By whoever answers in the pool's place; else `refusal`.
    async fn otherwise(self: &Arc<Self>, asking: &Asking<'_>, refusal: ApiError) -> Result<Obtained, ApiError> {
        let consent = asking.tenant.fallback;
        if let Some(kept) = self.kept(asking, false).await? {
            return Ok(kept);
        }
        if asking.asked.wish.only_if_cached {
            return Err(refusal);
        }
        let mut looked_for_older = false;
        for fallback in ranked(&asking.home.fallbacks) {
            // After the other pools of the model, before everything that would answer differently.
            if !looked_for_older && !matches!(fallback, Fallback::Pool(_)) {
                looked_for_older = true;
                if let Some(kept) = self.kept(asking, true).await? {
                    return Ok(kept);
                }
            }
            let obtained = match fallback {
                Fallback::Pool(id) => self.elsewhere(asking, id, By::Pool(id.clone())).await?,
                // Vectors of different models do not compare.
                Fallback::SmallerModel(id) if consent.smaller_model && asking.wanted.makes_text() => {
                    self.elsewhere(asking, id, By::SmallerModel(id.clone())).await?
                }
                // What can wait is not worth money, unless the operator has chosen that upstreams answer everything.
                Fallback::Upstream(name)
                    if consent.upstream && (asking.class <= Class::P1 || asking.tier == Tier::Manual) =>
                {
                    self.outside(asking, name).await?
                }
                Fallback::SmallerModel(_) | Fallback::Upstream(_) => None,
            };
            if let Some(obtained) = obtained {
                return Ok(obtained);
            }
        }
        if !looked_for_older && let Some(kept) = self.kept(asking, true).await? {
            return Ok(kept);
        }
        match &asking.home.default_answer {
            Some(text) if consent.default_answer && asking.wanted.makes_text() => {
                self.take_request(asking.tenant, asking.now).await?;
                let answer = OutsideAnswer::configured(text, asking.wanted.answers());
                let id = JobId::new(asking.now, self.ports.entropy.draw());
                Ok(made_outside(asking, id, answer, By::DefaultAnswer, UsdMicros::ZERO))
            }
            Some(_) | None => Err(refusal),
        }
    }

    async fn at(self: &Arc<Self>, asking: &Asking<'_>, pool: &Pool, by: By) -> Result<Obtained, ApiError> {
        let admission = self.obtain_in(asking.tenant, asking.wanted, pool, asking.asked, asking.now).await?;
        let source = Source::job(Relay::of(Arc::clone(self), &admission));
        Ok(Obtained { admission, source, made: Made { tier: asking.tier, by, cost: None } })
    }

    /// A kept answer of the pool that was asked for; with `in_need` also one past its end.
    async fn kept(self: &Arc<Self>, asking: &Asking<'_>, in_need: bool) -> Result<Option<Obtained>, ApiError> {
        let Asking { tenant, wanted, asked, home, tier, now, .. } = *asking;
        let admission = self.kept_instead(tenant, wanted, home, asked, in_need, now).await?;
        Ok(admission.map(|admission| {
            let source = Source::job(Relay::of(Arc::clone(self), &admission));
            Obtained { admission, source, made: Made { tier, by: By::Home, cost: None } }
        }))
    }

    /// In another pool, if there is one that stands better and has room.
    async fn elsewhere(
        self: &Arc<Self>,
        asking: &Asking<'_>,
        id: &PoolId,
        by: By,
    ) -> Result<Option<Obtained>, ApiError> {
        let Some(pool) = asking.pools.iter().find(|pool| pool.id == *id && pool.kind == asking.home.kind) else {
            return Ok(None);
        };
        let tier = self.standing(id, asking.now).await.tier(asking.now);
        // One that computes, and that stands better than the one that was asked for (or as well, if that one is full).
        let better = if asking.tier == Tier::Normal { tier == Tier::Normal } else { tier < asking.tier };
        if tier >= Tier::Open || !better || !self.is_staffed(id, asking.now).await? {
            return Ok(None);
        }
        match self.at(asking, pool, by).await {
            Ok(obtained) => Ok(Some(obtained)),
            // Too long for it, or too full: somebody else may do.
            Err(refusal) if refusal.is_overload() || refusal.status == http::StatusCode::BAD_REQUEST => Ok(None),
            Err(refusal) => Err(refusal),
        }
    }

    /// Whether a pool has a worker that takes work. One that has none may be given work of its own, which then waits for
    /// a worker, but nobody else's.
    async fn is_staffed(&self, pool: &PoolId, now: Timestamp) -> Result<bool, ApiError> {
        let read = async {
            let workers = self.ports.control.workers(pool, now.before(admission::WORKER_SILENCE)).await?;
            Ok(workers.iter().any(|worker| !worker.draining))
        };
        let good_for = |_: &bool| self.timing.capacity_cache;
        Ok(self.caches.staffed.fetch(pool, now, good_for, read).await?)
    }

    async fn outside(self: &Arc<Self>, asking: &Asking<'_>, name: &str) -> Result<Option<Obtained>, ApiError> {
        let (Some(request), Ok(name)) = (asking.wanted.chat(), UpstreamId::new(name)) else { return Ok(None) };
        let id = JobId::new(asking.now, self.ports.entropy.draw());
        // The same for each of the client's own tries that bear a key of its.
        let key = match &asking.asked.idempotency_key {
            Some(key) => marker_key(&self.marker_secret, &asking.tenant.id, &KeyOf::Idempotency(key)).digest,
            None => id.to_string(),
        };
        match self.ask_upstream(&name, asking.tenant, request, asking.home, (id, format!("penstock-{key}"))).await {
            Ok((answer, cost)) => Ok(Some(made_outside(asking, id, answer, By::Upstream(name), cost))),
            Err(Unanswered::Refused(refusal)) => Err(refusal),
            Err(reason @ (Unanswered::NotOffered | Unanswered::Spent | Unanswered::Closed | Unanswered::Failed)) => {
                tracing::info!(upstream = %name, ?reason, "an upstream does not answer in a pool's place");
                Ok(None)
            }
        }
    }
}

/// An answer that no job stands behind.
fn made_outside(asking: &Asking<'_>, id: JobId, answer: OutsideAnswer, by: By, cost: UsdMicros) -> Obtained {
    let admission = Admission {
        job: id,
        shown: id,
        how: How::Elsewhere,
        promise: None,
        class: asking.class,
        levels: None,
        created: asking.now,
        kept: None,
        hold: None,
    };
    let source = Source { words: Words::Outside(Box::new(answer)), probe: None };
    Obtained { admission, source, made: Made { tier: asking.tier, by, cost: Some(cost) } }
}

/// Fallbacks in the order in which they are tried, kind by kind whatever the order in which they are configured; within a
/// kind it is that.
fn ranked(fallbacks: &[Fallback]) -> Vec<&Fallback> {
    let mut ranked: Vec<&Fallback> = fallbacks.iter().collect();
    ranked.sort_by_key(|fallback| rank_of(fallback));
    ranked
}

const fn rank_of(fallback: &Fallback) -> usize {
    match fallback {
        Fallback::Pool(_) => 0,
        Fallback::SmallerModel(_) => 1,
        Fallback::Upstream(_) => 2,
    }
}
