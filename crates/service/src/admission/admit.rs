//! Admission: from a drafted job to one that is accepted, or refused by a limit.
//!
//! What names a request, and whether it is known already, is looked at before (`obtain`, `single_flight`).

use std::sync::Arc;
use std::time::Duration;

use penstock_policy::admission::Capacity;
use penstock_policy::classes::Class;
use penstock_policy::decision::{self, Decision, Known, Refusal, Snapshot, Why};
use penstock_policy::degrade::Course;
use penstock_policy::fair::Shares;
use penstock_policy::gcra::{self, Bucket, Limit};
use penstock_policy::id::JobId;
use penstock_policy::parking::Berth;
use penstock_policy::promise::Promise;
use penstock_policy::rates::Rates;
use penstock_policy::returns;
use penstock_policy::time::Timestamp;

use crate::Service;
use crate::admission::adopt::HeldTry;
use crate::admission::draft::Draft;
use crate::admission::limits::{Hold, refused, shards};
use crate::admission::returning::{Again, queue_key};
use crate::door::telling::Heading;
use crate::error::ApiError;
use crate::kept::answer::Kept;
use crate::kept::recall::Found;
use crate::ports::{
    Acceptance, Accepted, BucketKey, Levels, MarkerClaim, Message, Payload, Reservation, Take, TakeOutcome, TakePart,
    Tenant,
};

/// A request on its way.
pub(crate) struct Admission {
    /// The job that answers.
    pub(crate) job: JobId,
    /// The id the client sees: its own job's, or a fresh one if the answer is another request's.
    pub(crate) shown: JobId,
    /// How it came about.
    pub(crate) how: How,
    /// What was promised, if it has a job of its own.
    pub(crate) promise: Option<Promise>,
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

/// How long a virtual queue as last seen is gone by.
const SEEN_FOR: Duration = Duration::from_secs(30);

/// What was gathered about one request before it is decided upon.
struct Gathered {
    rates: Arc<Rates>,
    /// The virtual queue's limit for this tenant, of one shard.
    queue: Limit,
    /// The shard that this process takes from.
    shard: u16,
    /// Who queued how much of it.
    shares: Shares,
    /// How much of it stands before this tenant's next job, as this process or else the control loop saw it last.
    backlog: Duration,
    /// All of it.
    waiting: Duration,
    tenant_take: Take,
    denied: Vec<Bucket>,
}

/// How one try to accept went.
enum Tried {
    Ours(Admission),
    Held,
    Refused {
        key: BucketKey,
        part: usize,
        until: Option<Timestamp>,
        levels: Levels,
    },
    /// The queue is full, and this is the slot to come back at.
    Booked(Timestamp),
}

impl Service {
    /// Takes one request, and no tokens, from the tenant's limits: what an answer costs that needs no run of its own.
    pub(crate) async fn take_request(&self, tenant: &Tenant, now: Timestamp) -> Result<(), ApiError> {
        let take = self.tenant_take(tenant, 0, now).await?;
        match self.ports.limits.take(&take, self.nonce(), now).await? {
            TakeOutcome::Granted { .. } => Ok(()),
            TakeOutcome::Refused { part, until, .. } => {
                Err(refused(tenant, &Refusal { why: Why::of_part(part), until }, 0, now))
            }
        }
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
        let gathered = self.gather(tenant, draft, now).await?;
        let refuse = |refusal: &Refusal| Err(refused(tenant, refusal, draft.spec.estimated_tokens, now));
        let (promise, berth) = match decide(&gathered, draft, now) {
            Decision::Accept { promise, berth, .. } => (promise, berth),
            Decision::Refuse(refusal) => {
                if !refusal.why.is_tenants() {
                    self.count_offered(draft, now);
                }
                return refuse(&refusal);
            }
            // Asked about a request of which nothing is known, at a pool that computes it.
            Decision::Serve(_) | Decision::Join(_) | Decision::Degrade(_) => return Err(ApiError::internal()),
        };
        let held = match self.hold_for(tenant, draft, &promise, now).await? {
            Ok(held) => held,
            Err(refusal) => return refuse(&refusal),
        };
        let tried = self.take_and_send(tenant, draft, &gathered, (promise, berth), &held, marker, now).await;
        match &tried {
            Ok(Tried::Ours(_) | Tried::Booked(_) | Tried::Refused { key: BucketKey::VirtualQueue { .. }, .. }) => {
                self.count_offered(draft, now);
            }
            // Its tenant has no more room, it waits for another's job, or the store failed and the client tries again.
            Ok(Tried::Held | Tried::Refused { .. }) | Err(_) => {}
        }
        match tried {
            Ok(Tried::Ours(admission)) => {
                self.count_for_ramp(tenant, now).await;
                Ok(Outcome::Ours(admission))
            }
            Ok(Tried::Held) => {
                self.release(&held, draft.spec.id, now).await;
                Ok(Outcome::Held)
            }
            Ok(Tried::Refused { key, part, until, .. }) => {
                self.release(&held, draft.spec.id, now).await;
                let why = match key {
                    BucketKey::Tenant { .. } => Why::of_part(part),
                    BucketKey::VirtualQueue { .. } | BucketKey::Upstream { .. } => Why::NoSlot,
                };
                refuse(&Refusal { why, until })
            }
            Ok(Tried::Booked(at)) => {
                self.release(&held, draft.spec.id, now).await;
                refuse(&Refusal { why: Why::QueueFull, until: Some(at) })
            }
            // Whether the job runs may be unknown: its holds stay until it is settled, or a recount finds that it never was.
            Err(error) => Err(error),
        }
    }

    /// What a request would be told, with nothing taken: its decision, and the tenant's buckets as they are.
    pub(crate) async fn quote(
        &self,
        tenant: &Tenant,
        draft: &Draft,
        now: Timestamp,
    ) -> Result<(Decision, Levels), ApiError> {
        let mut gathered = self.gather(tenant, draft, now).await?;
        let levels = self.ports.limits.peek(&gathered.tenant_take.key).await?;
        gathered.denied.clone_from(&levels.0);
        let decision = decide(&gathered, draft, now);
        let queue = self.ports.limits.peek(&queue_key(&draft.spec.pool, draft.class(), gathered.shard)).await?.part(0);
        let units = draft.spec.estimated_tokens.min(gathered.queue.burst());
        let decision = match (decision, gcra::take(queue, &gathered.queue, units, now)) {
            (Decision::Accept { .. }, gcra::Verdict::Refused { until }) => {
                Decision::Refuse(Refusal { why: Why::QueueFull, until: Some(until) })
            }
            (
                Decision::Accept { class, berth, .. },
                gcra::Verdict::Granted { .. } | gcra::Verdict::NeverSatisfiable,
            ) => {
                let all = gcra::backlog(queue, now).as_secs_f64();
                let ahead = Duration::from_secs_f64(gathered.shares.ahead(all));
                let promise = decision::offer(&snapshot(&gathered, draft), ahead, now);
                Decision::Accept { class, promise, berth }
            }
            (other, _) => other,
        };
        Ok((decision, levels))
    }

    async fn gather(&self, tenant: &Tenant, draft: &Draft, now: Timestamp) -> Result<Gathered, ApiError> {
        let spec = &draft.spec;
        let rates = self.rates(&spec.pool, now).await?;
        let whole = queue_limit(&rates, draft)?;
        let shard = self.place % rates.shards;
        let seen = self.caches.queues.get(&queue_key(&spec.pool, spec.class, shard), now);
        let all = match seen {
            Some((bucket, at)) if at >= rates.at => gcra::backlog(bucket, now),
            Some(_) | None => published_backlog(&rates, spec.class, now),
        };
        let shares = self.sharing.shares(&spec.pool, spec.class, &spec.tenant, all, now);
        let queued = whole.refilled_in(all) as f64;
        let queue = shares.limit(&whole, queued, returns::WINDOW);
        let backlog = all.mul_f64(if queued > 0.0 { (shares.ahead(queued) / queued).clamp(0.0, 1.0) } else { 1.0 });
        let tenant_take = self.tenant_take(tenant, spec.estimated_tokens, now).await?;
        let denied = self.denied(&tenant_take.key, now);
        Ok(Gathered { rates, queue, shard, shares, backlog, waiting: all, tenant_take, denied })
    }

    /// Takes and sends: with the room that was kept for it if the request comes back for it, else as a newcomer; and from
    /// another shard of the tenant's bucket if the first has no room.
    #[expect(clippy::too_many_arguments, reason = "one request's particulars, read once")]
    async fn take_and_send(
        &self,
        tenant: &Tenant,
        draft: &Draft,
        gathered: &Gathered,
        offered: (Promise, Berth),
        held: &[Hold],
        marker: Option<MarkerClaim>,
        now: Timestamp,
    ) -> Result<Tried, ApiError> {
        let mut kept: Option<Reservation> = None;
        let mut tenant_take = gathered.tenant_take.clone();
        let mut asked = false;
        if draft.is_retry {
            match self.recognise(draft, now).await? {
                Again::InTime(reservation) => kept = Some(reservation),
                Again::Early(at) => return Ok(Tried::Booked(at)),
                Again::Newcomer => {}
            }
            asked = true;
        }
        loop {
            let tried =
                self.try_once(draft, gathered, &tenant_take, kept.clone(), offered, held, marker.clone(), now).await;
            let tried = match (tried, &kept) {
                (Ok(tried @ Tried::Ours(_)), _) => return Ok(tried),
                (Ok(tried), _) => tried,
                (Err(error), None) => return Err(error),
                (Err(error), Some(reservation)) => {
                    self.give_up_slot(reservation, now).await;
                    return Err(error);
                }
            };
            match &tried {
                Tried::Refused { key: BucketKey::VirtualQueue { .. }, .. } if !asked => {
                    asked = true;
                    match self.recognise(draft, now).await? {
                        Again::InTime(reservation) => kept = Some(reservation),
                        Again::Early(at) => return Ok(Tried::Booked(at)),
                        Again::Newcomer => return self.book_or_refuse(draft, gathered, tried, now).await,
                    }
                }
                Tried::Refused { key: BucketKey::VirtualQueue { .. }, .. } => {
                    return self.book_or_refuse(draft, gathered, tried, now).await;
                }
                Tried::Refused { key: BucketKey::Tenant { shard, .. }, levels, until, .. } => {
                    self.remember_denial(&tenant_take.key, levels, *until, now);
                    let shards = shards(&tenant.limits);
                    let other = (shard + 1) % shards;
                    if other != *shard && tenant_take == gathered.tenant_take {
                        tenant_take.key = BucketKey::Tenant { tenant: tenant.id.clone(), shard: other };
                        continue;
                    }
                    if let Some(reservation) = &kept {
                        self.give_up_slot(reservation, now).await;
                    }
                    return Ok(tried);
                }
                Tried::Refused { key: BucketKey::Upstream { .. }, .. }
                | Tried::Held
                | Tried::Booked(_)
                | Tried::Ours(_) => {
                    if let Some(reservation) = &kept {
                        self.give_up_slot(reservation, now).await;
                    }
                    return Ok(tried);
                }
            }
        }
    }

    async fn book_or_refuse(
        &self,
        draft: &Draft,
        gathered: &Gathered,
        tried: Tried,
        now: Timestamp,
    ) -> Result<Tried, ApiError> {
        match self.book(draft, &gathered.queue, gathered.shard, now).await? {
            Some(at) => Ok(Tried::Booked(at)),
            None => Ok(tried),
        }
    }

    /// The room of a slot whose request was not accepted after all.
    async fn give_up_slot(&self, reservation: &Reservation, now: Timestamp) {
        if let Err(error) = self.ports.limits.refund(reservation, now).await {
            tracing::warn!(%error, "a return slot's room is not given back; the next anchoring takes it out");
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one request's particulars, read once")]
    async fn try_once(
        &self,
        draft: &Draft,
        gathered: &Gathered,
        tenant_take: &Take,
        kept: Option<Reservation>,
        (promise, berth): (Promise, Berth),
        held: &[Hold],
        marker: Option<MarkerClaim>,
        now: Timestamp,
    ) -> Result<Tried, ApiError> {
        let mut spec = draft.spec.clone();
        spec.admitted.promise = Some(promise);
        spec.admitted.holds = held.to_vec();
        let queue_take = Take {
            key: queue_key(&spec.pool, spec.class, gathered.shard),
            // A request larger than the whole queue still fits an empty one.
            parts: vec![TakePart { limit: gathered.queue, units: spec.estimated_tokens.min(gathered.queue.burst()) }],
        };
        let takes = match &kept {
            None => vec![tenant_take.clone(), queue_take],
            Some(_) => vec![tenant_take.clone()],
        };
        spec.reservations.extend(kept);
        let nonce = self.nonce();
        let message = Message { spec, payload: self.payload(draft, nonce).await? };
        let acceptance = Acceptance { message, berth, takes, marker, attempt: draft.attempt.clone(), nonce };
        let accepted = self.ports.jobs.accept(&acceptance, now).await?;
        if !matches!(accepted, Accepted::Yes { .. })
            && let Payload::Blob(key) = &acceptance.message.payload
        {
            self.ports.blobs.remove(key).await?;
        }
        Ok(match accepted {
            Accepted::Yes { spec, levels } => {
                if let Some(seen) = levels.get(1) {
                    let key = queue_key(&spec.pool, spec.class, gathered.shard);
                    self.caches.queues.put(key, (seen.part(0), now), now, SEEN_FOR);
                }
                self.sharing.note(&spec.pool, spec.class, &spec.tenant, spec.estimated_tokens, now);
                let promise = spec.admitted.promise.unwrap_or(promise);
                Tried::Ours(Admission {
                    job: spec.id,
                    shown: spec.id,
                    how: How::Fresh,
                    promise: Some(promise),
                    class: spec.class,
                    levels: levels.into_iter().next(),
                    created: spec.created,
                    kept: None,
                    hold: None,
                })
            }
            Accepted::Held(_) => Tried::Held,
            Accepted::Refused { key, part, until, levels } => Tried::Refused { key, part, until, levels },
        })
    }
}

/// The limit of one shard of the draft's virtual queue.
fn queue_limit(rates: &Rates, draft: &Draft) -> Result<Limit, ApiError> {
    let capacity = Capacity { tokens_per_second: rates.pace.tokens_per_second };
    let whole = capacity.virtual_queue(draft.class()).map_err(|_| ApiError::internal())?;
    Ok(whole.part_of(rates.shards))
}

/// The work that waited when the rates were published, less what was done since.
fn published_backlog(rates: &Rates, class: Class, now: Timestamp) -> Duration {
    let then = rates.ahead[class.index()] / rates.pace.tokens_per_second.max(1e-3);
    Duration::from_secs_f64(then.clamp(0.0, 1e9)).saturating_sub(now.since(rates.at))
}

fn snapshot<'g>(gathered: &'g Gathered, draft: &Draft) -> Snapshot<'g> {
    Snapshot {
        known: Known::Nothing,
        class: draft.class(),
        estimate: draft.estimate,
        price: draft.spec.price,
        parts: &[],
        denied: &gathered.denied,
        course: Course::Home,
        rates: &gathered.rates,
        backlog: gathered.backlog,
        waiting: gathered.waiting,
    }
}

fn decide(gathered: &Gathered, draft: &Draft, now: Timestamp) -> Decision {
    let parts: Vec<(Limit, u64)> = gathered.tenant_take.parts.iter().map(|part| (part.limit, part.units)).collect();
    decision::decide(&Snapshot { parts: &parts, ..snapshot(gathered, draft) }, now)
}

/// What became of an acceptance that no limit refused.
#[expect(clippy::large_enum_variant, reason = "taken apart at once: a box would cost an allocation a request")]
pub(crate) enum Outcome {
    /// Accepted: the job is ours to finish.
    Ours(Admission),
    /// Another request holds the marker.
    Held,
}
