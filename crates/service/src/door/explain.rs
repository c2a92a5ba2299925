//! Why a job went as it did: its stored reasons as a timeline.
//!
//! Everything told here was written down by the writes that made it happen (see `story`); nothing is computed anew except
//! how long things took. A job whose record is gone has no story any more.

use std::time::Duration;

use penstock_policy::id::{Epoch, JobId};
use penstock_policy::job::State;
use penstock_policy::time::Timestamp;
use penstock_wire::explain::{Explanation, Happening};
use serde_json::{Map, Value, json};

use crate::Service;
use crate::error::ApiError;
use crate::ports::{Answer, BucketKey, JobRecord, JobSpec, Tenant};
use crate::stored::story::{Drawn, Event};
use crate::worker::learning::verdict;

impl Service {
    /// The story of a tenant's job.
    ///
    /// # Errors
    /// 404 if there is no such job, or it is another tenant's; the two look alike.
    pub(crate) async fn explain(&self, tenant: &Tenant, id: JobId) -> Result<Explanation, ApiError> {
        let record = self.own(tenant, id).await?;
        explained(id, &record).ok_or_else(ApiError::no_such_job)
    }

    /// The story of anybody's job, for the operator.
    ///
    /// # Errors
    /// 404 if there is no such job.
    pub async fn explain_any(&self, id: JobId) -> Result<Explanation, ApiError> {
        let record = self.ports.jobs.record(id).await?;
        record.and_then(|record| explained(id, &record)).ok_or_else(ApiError::no_such_job)
    }
}

/// The story as far as it is written down; `None` of a tombstone.
fn explained(id: JobId, record: &JobRecord) -> Option<Explanation> {
    let spec = record.spec.as_ref()?;
    let mut told = Timeline { created: spec.created, happenings: Vec::new() };
    admitted(&mut told, spec);
    promised(&mut told, spec);
    worked_on(&mut told, spec, record);
    let settled = record.story.iter().find_map(|event| match event {
        Event::Settled { at, cost } => Some((*at, *cost)),
        Event::Claimed { .. } | Event::Released { .. } => None,
    });
    ended(&mut told, record);
    judged(&mut told, spec, record);
    if let Some((at, cost)) = settled {
        told.tell(
            at,
            "settled",
            format!("settled: charged {cost} dollars; what was not used went back"),
            json!({
                "cost_usd": cost.to_string(),
            }),
        );
    }
    Some(Explanation {
        id: id.to_string(),
        object: "explanation".to_owned(),
        status: record.head.state.status().to_owned(),
        tenant: spec.tenant.to_string(),
        model: spec.model.clone(),
        pool: spec.pool.to_string(),
        class: spec.class.name().to_owned(),
        cost_usd: settled.map(|(_, cost)| cost.to_string()),
        timeline: told.happenings,
    })
}

struct Timeline {
    created: Timestamp,
    happenings: Vec<Happening>,
}

impl Timeline {
    fn tell(&mut self, at: Timestamp, what: &str, text: String, details: Value) {
        let after_ms = u64::try_from(at.since(self.created).as_millis()).unwrap_or(u64::MAX);
        let details = match details {
            Value::Object(map) => map,
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Map::new(),
        };
        self.happenings.push(Happening { at_ms: at.as_millis(), after_ms, what: what.to_owned(), text, details });
    }
}

fn admitted(told: &mut Timeline, spec: &JobSpec) {
    let asked = spec.admitted.tier.as_deref().unwrap_or("none");
    let text = format!(
        "accepted as {} (service_tier asked for: {asked}): {} bytes of prompt, estimated at {} tokens with the answer; to be run within {}",
        spec.class.name(),
        spec.admitted.prompt_bytes,
        spec.estimated_tokens,
        seconds(spec.due.since(spec.created)),
    );
    told.tell(
        spec.created,
        "admitted",
        text,
        json!({
            "service_tier": spec.admitted.tier,
            "prompt_bytes": spec.admitted.prompt_bytes,
            "estimated_tokens": spec.estimated_tokens,
            "due_ms": spec.due.as_millis(),
            "stored": spec.retention.store,
        }),
    );
    for (reservation, parts) in spec.reservations.iter().zip(&spec.admitted.drawn) {
        for (index, drawn) in parts.iter().enumerate() {
            let Drawn { took, left, of, refill } = drawn;
            let (limit, text) = match (&reservation.key, index) {
                (BucketKey::Tenant { .. }, 0) => ("requests", format!("limit of requests: took {took}")),
                (BucketKey::Tenant { .. }, 1) => ("tokens", format!("limit of tokens: took {took}")),
                (BucketKey::Tenant { .. }, _) => ("other", format!("limit: took {took}")),
                (BucketKey::VirtualQueue { class, .. }, _) => {
                    let ahead = seconds(*refill);
                    ("queue", format!("queue of {}: took {took} tokens; {ahead} of work with this job's", class.name()))
                }
                (BucketKey::Upstream { .. }, _) => ("upstream", format!("budget of the upstream: took {took}")),
            };
            let before = left.saturating_add(*took);
            told.tell(
                spec.created,
                "drawn",
                format!("{text} ({before} of {of} left before, {left} after)"),
                json!({
                    "limit": limit, "took": took, "before": before, "left": left, "of": of,
                    "full_again_ms": u64::try_from(refill.as_millis()).unwrap_or(u64::MAX),
                }),
            );
        }
    }
}

fn promised(told: &mut Timeline, spec: &JobSpec) {
    let Some(promise) = &spec.admitted.promise else { return };
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let text = format!(
        "promised: half of such answers within {}, nineteen of twenty within {}; {} jobs ahead; {} dollars by the estimate",
        seconds(promise.eta_50),
        seconds(promise.eta_95),
        promise.position,
        promise.price,
    );
    told.tell(
        spec.created,
        "promised",
        text,
        json!({
            "eta_ms_50": ms(promise.eta_50), "eta_ms_95": ms(promise.eta_95),
            "position": promise.position, "price_usd": promise.price.to_string(),
        }),
    );
}

/// Whether the promise was kept, by the same judgement that is published and learned from.
fn judged(told: &mut Timeline, spec: &JobSpec, record: &JobRecord) {
    let (Some(kept), Some(promise), Some(at)) = (verdict(spec, record), &spec.admitted.promise, record.finished) else {
        return;
    };
    let (what, word) = if kept.most { ("promise_kept", "kept") } else { ("promise_broken", "broken") };
    let half = if kept.half { "within" } else { "not within" };
    let text = format!(
        "the promise of {} was {word} after {}, {half} the {} that half of such answers take",
        seconds(promise.eta_95),
        seconds(at.since(spec.created)),
        seconds(promise.eta_50),
    );
    told.tell(at, what, text, json!({"within_50": kept.half, "within_95": kept.most}));
}

/// Claims and releases, and how long the job waited before each claim.
fn worked_on(told: &mut Timeline, spec: &JobSpec, record: &JobRecord) {
    let mut epoch = Epoch(0);
    let mut waits_since = spec.created;
    for event in &record.story {
        match event {
            Event::Claimed { at, worker, digest } => {
                epoch = epoch.next();
                claimed(told, *at, epoch, worker.as_str(), digest, at.since(waits_since));
            }
            Event::Released { at, epoch, why } => {
                let text = format!("given back in epoch {}: {}", epoch.0, why.name());
                told.tell(
                    *at,
                    "released",
                    text,
                    json!({
                        "epoch": epoch.0, "why": why.name(), "counts_as_failure": !why.is_blameless(),
                    }),
                );
                waits_since = *at;
            }
            Event::Settled { .. } => {}
        }
    }
    // The newest claim is a field of its own; there may have been more than the story has room for.
    if record.head.epoch > epoch
        && let (Some(at), Some(worker)) = (record.started, &record.owner)
    {
        let unseen = record.head.epoch.0.saturating_sub(epoch.0).saturating_sub(1);
        if unseen > 0 {
            told.tell(at, "unseen", format!("{unseen} claims are not recorded one by one"), json!({"claims": unseen}));
        }
        let digest = record.digest.as_deref().unwrap_or_default();
        claimed(told, at, record.head.epoch, worker.as_str(), digest, at.since(waits_since));
    }
}

fn claimed(told: &mut Timeline, at: Timestamp, epoch: Epoch, worker: &str, digest: &str, waited: Duration) {
    let text = format!("claimed by {worker} in epoch {} (model {digest}) after waiting {}", epoch.0, seconds(waited));
    told.tell(
        at,
        "claimed",
        text,
        json!({
            "epoch": epoch.0, "worker": worker, "digest": digest,
            "waited_ms": u64::try_from(waited.as_millis()).unwrap_or(u64::MAX),
        }),
    );
}

fn ended(told: &mut Timeline, record: &JobRecord) {
    let Some(at) = record.finished else { return };
    let ran = record.started.map_or(Duration::ZERO, |started| at.since(started));
    match &record.outcome {
        Some(Ok(answer)) => {
            let Answer { prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens, .. } = answer;
            let text = format!(
                "answered after running {}: {prompt_tokens} tokens of prompt ({cached_tokens} of them cached), \
                 {completion_tokens} of answer ({reasoning_tokens} of them thoughts)",
                seconds(ran)
            );
            told.tell(
                at,
                "answered",
                text,
                json!({
                    "ran_ms": u64::try_from(ran.as_millis()).unwrap_or(u64::MAX),
                    "prompt_tokens": prompt_tokens, "cached_tokens": cached_tokens,
                    "completion_tokens": completion_tokens, "reasoning_tokens": reasoning_tokens,
                    "finish_reasons": answer.reasons.iter().map(|reason| reason.name()).collect::<Vec<_>>(),
                }),
            );
        }
        Some(Err(verdict)) => {
            let text = format!("failed with status {}, {}: {}", verdict.status, verdict.code, verdict.message);
            told.tell(at, "failed", text, json!({"status": verdict.status, "code": verdict.code}));
        }
        None => {
            let text = match record.head.state {
                State::Cancelled => "cancelled: its tenant said so, or nobody wanted the answer any more",
                State::Expired => "expired: no worker could begin in time",
                State::Parked | State::Queued | State::Running | State::Succeeded | State::Failed => "ended",
            };
            told.tell(at, record.head.state.status(), text.to_owned(), json!({}));
        }
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.3} s", duration.as_secs_f64())
}
