//! The stored form of the parts of a job's record that are more than a number: JSON, the same on SQLite and DynamoDB, and
//! the spec also inside messages.

use std::time::Duration;

use penstock_policy::classes::Class;
use penstock_policy::cost::{Price, UsdMicros};
use penstock_policy::gcra::Spent;
use penstock_policy::id::TenantId;
use penstock_policy::promise::{Promise, Regime};
use penstock_policy::tenant::Retention;
use penstock_policy::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::admission::limits::Hold;
use crate::door::route::Route;
use crate::ports::{
    Answer, BucketKey, ErrorVerdict, FinishReason, HoldKey, JobSpec, Keep, Outcome, Replaced, Reservation,
};
use crate::stored::story::{Admitted, Drawn};

/// A spec as stored text.
#[must_use]
pub fn spec_text(spec: &JobSpec) -> String {
    serde_json::to_string(&StoredSpec::from(spec)).unwrap_or_default()
}

/// Back again; `None` if the text is damaged.
#[must_use]
pub fn spec_from(text: &str) -> Option<JobSpec> {
    serde_json::from_str::<StoredSpec>(text).ok()?.try_into().ok()
}

/// An outcome as stored text.
#[must_use]
pub fn outcome_text(outcome: &Outcome) -> String {
    let stored = match outcome {
        Ok(answer) => StoredOutcome::Answer {
            reason: answer.reasons.first().copied().unwrap_or(FinishReason::Stop).name().to_owned(),
            others: answer.reasons.iter().skip(1).map(|reason| reason.name().to_owned()).collect(),
            tin: answer.prompt_tokens,
            tout: answer.completion_tokens,
            cached: answer.cached_tokens,
            thought: answer.reasoning_tokens,
        },
        Err(verdict) => StoredOutcome::Error {
            status: verdict.status,
            code: verdict.code.clone(),
            param: verdict.param.clone(),
            message: verdict.message.clone(),
        },
    };
    serde_json::to_string(&stored).unwrap_or_default()
}

/// Back again; `None` if the text is damaged.
#[must_use]
pub fn outcome_from(text: &str) -> Option<Outcome> {
    Some(match serde_json::from_str(text).ok()? {
        StoredOutcome::Answer { reason, others, tin, tout, cached, thought } => Ok(Answer {
            reasons: [reason].iter().chain(&others).map(|name| FinishReason::from_name(name)).collect::<Option<_>>()?,
            prompt_tokens: tin,
            completion_tokens: tout,
            cached_tokens: cached,
            reasoning_tokens: thought,
        }),
        StoredOutcome::Error { status, code, param, message } => Err(ErrorVerdict { status, code, param, message }),
    })
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum StoredOutcome {
    Answer {
        reason: String,
        tin: u32,
        tout: u32,
        #[serde(default, skip_serializing_if = "is_zero")]
        cached: u32,
        #[serde(default, skip_serializing_if = "is_zero")]
        thought: u32,
        /// The reasons of the answers after the first.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        others: Vec<String>,
    },
    Error {
        status: u16,
        code: String,
        param: Option<String>,
        message: String,
    },
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

fn is_zero_u64(number: &u64) -> bool {
    *number == 0
}

/// A job's spec as it is stored, in messages and in records.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StoredSpec {
    jid: String,
    /// The route it came by, if not chat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    route: Option<String>,
    ten: String,
    cls: String,
    pool: String,
    model: String,
    crt: i64,
    due: i64,
    str: bool,
    est: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    res: Vec<StoredReservation>,
    /// Prices of input and output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pri: Option<(u64, u64)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tier: Option<String>,
    #[serde(default)]
    bytes: u64,
    /// Seconds for which it is kept, if it is stored at all; absent in records of older programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    keep: Option<u64>,
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    unstored: bool,
    /// What each bucket gave, part by part: took, left, of, and milliseconds until full.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    drw: Vec<Vec<(u64, u64, u64, u64)>>,
    /// What is to be kept of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kept: Option<StoredKeep>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    prm: Option<StoredPromise>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    hld: Vec<StoredHold>,
    /// The span of its request, as `traceparent` writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trc: Option<String>,
}

/// What was promised: milliseconds, and the regime's letter.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct StoredPromise {
    half: u64,
    most: u64,
    pos: u64,
    usd_micros: u64,
    exp: u64,
    reg: String,
}

/// What a job holds: `jobs`, or the period whose money it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct StoredHold {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    period: Option<String>,
    units: u64,
}

/// What was spent of one bucket: a tenant's, or that of the job's own pool and class.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct StoredReservation {
    #[serde(skip_serializing_if = "Option::is_none")]
    ten: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<(String, String)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    up: Option<(String, u32)>,
    shard: u16,
    spent: Vec<(i64, u64)>,
}

/// What is to be kept of the answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct StoredKeep {
    key: String,
    /// In how many copies.
    n: u8,
    /// How long it lives at least, in milliseconds.
    #[serde(default, skip_serializing_if = "is_zero_u64")]
    min: u64,
    /// What it replaces: the digest of what that said, how long it was to live in milliseconds, how often it was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    was: Option<(u64, u64, u64)>,
}

impl From<&Keep> for StoredKeep {
    fn from(keep: &Keep) -> Self {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let was = keep.replaces.map(|replaced| (replaced.answer, ms(replaced.ttl), replaced.hits));
        Self { key: keep.digest.clone(), n: keep.copies, min: ms(keep.at_least), was }
    }
}

impl From<StoredKeep> for Keep {
    fn from(stored: StoredKeep) -> Self {
        let replaces = stored.was.map(|(answer, ttl_ms, hits)| {
            let ttl = Duration::from_millis(ttl_ms);
            Replaced { answer, ttl, hits }
        });
        Self { digest: stored.key, copies: stored.n, at_least: Duration::from_millis(stored.min), replaces }
    }
}

impl From<&JobSpec> for StoredSpec {
    fn from(spec: &JobSpec) -> Self {
        let res = spec.reservations.iter().map(StoredReservation::from).collect();
        Self {
            jid: spec.id.to_string(),
            route: Some(spec.route).filter(|route| *route != Route::Chat).map(|route| route.name().to_owned()),
            ten: spec.tenant.to_string(),
            cls: spec.class.name().to_owned(),
            pool: spec.pool.to_string(),
            model: spec.model.clone(),
            crt: spec.created.as_millis(),
            due: spec.due.as_millis(),
            str: spec.streamed,
            est: spec.estimated_tokens,
            res,
            pri: (!spec.price.is_free()).then_some((
                spec.price.input_usd_micros_per_million_tokens,
                spec.price.output_usd_micros_per_million_tokens,
            )),
            tier: spec.admitted.tier.clone(),
            trc: spec.admitted.trace.map(|trace| trace.to_string()),
            bytes: spec.admitted.prompt_bytes,
            keep: Some(spec.retention.keep.as_secs()),
            unstored: !spec.retention.store,
            drw: spec.admitted.drawn.iter().map(|parts| parts.iter().map(stored_drawn).collect()).collect(),
            kept: spec.keep.as_ref().map(StoredKeep::from),
            prm: spec.admitted.promise.as_ref().map(StoredPromise::from),
            hld: spec.admitted.holds.iter().filter_map(stored_hold).collect(),
        }
    }
}

impl TryFrom<StoredSpec> for JobSpec {
    type Error = String;

    fn try_from(stored: StoredSpec) -> Result<Self, String> {
        let invalid = |field: &str| format!("field '{field}' is malformed");
        let reservations = stored.res.into_iter().map(Reservation::try_from).collect::<Result<_, _>>()?;
        let tenant: TenantId = stored.ten.parse().map_err(|_| invalid("ten"))?;
        Ok(Self {
            id: stored.jid.parse().map_err(|_| invalid("jid"))?,
            route: match stored.route {
                None => Route::Chat,
                Some(name) => Route::from_name(&name).ok_or_else(|| invalid("route"))?,
            },
            tenant: tenant.clone(),
            class: Class::from_name(&stored.cls).ok_or_else(|| invalid("cls"))?,
            pool: stored.pool.parse().map_err(|_| invalid("pool"))?,
            model: stored.model,
            created: Timestamp::from_millis(stored.crt),
            due: Timestamp::from_millis(stored.due),
            streamed: stored.str,
            estimated_tokens: stored.est,
            reservations,
            price: stored.pri.map_or_else(Price::default, |(input, output)| Price {
                input_usd_micros_per_million_tokens: input,
                output_usd_micros_per_million_tokens: output,
            }),
            retention: Retention {
                store: !stored.unstored,
                keep: stored.keep.map_or(Retention::default().keep, Duration::from_secs),
            },
            admitted: Admitted {
                tier: stored.tier,
                prompt_bytes: stored.bytes,
                drawn: stored.drw.into_iter().map(|parts| parts.into_iter().map(drawn_from).collect()).collect(),
                promise: stored.prm.and_then(|promise| promise_from(&promise)),
                holds: stored.hld.into_iter().map(|hold| hold_from(&tenant, hold)).collect(),
                // One that cannot be read is none: a trace is never worth a job.
                trace: stored.trc.and_then(|text| text.parse().ok()),
            },
            keep: stored.kept.map(Keep::from),
        })
    }
}

impl From<&Promise> for StoredPromise {
    fn from(promise: &Promise) -> Self {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self {
            half: ms(promise.eta_50),
            most: ms(promise.eta_95),
            pos: promise.position,
            usd_micros: promise.price.0,
            exp: ms(promise.expected),
            reg: promise.regime.code().to_owned(),
        }
    }
}

/// `None` for a regime of a newer program: the promise is not judged then.
fn promise_from(stored: &StoredPromise) -> Option<Promise> {
    Some(Promise {
        eta_50: Duration::from_millis(stored.half),
        eta_95: Duration::from_millis(stored.most),
        position: stored.pos,
        price: UsdMicros(stored.usd_micros),
        expected: Duration::from_millis(stored.exp),
        regime: Regime::from_code(&stored.reg)?,
    })
}

/// A job holds nothing of return slots.
fn stored_hold(hold: &Hold) -> Option<StoredHold> {
    match &hold.key {
        HoldKey::Concurrency { .. } => Some(StoredHold { period: None, units: hold.units }),
        HoldKey::Money { period, .. } => Some(StoredHold { period: Some(period.clone()), units: hold.units }),
        HoldKey::Returns { .. } => None,
    }
}

fn hold_from(tenant: &TenantId, stored: StoredHold) -> Hold {
    let tenant = tenant.clone();
    let key = match stored.period {
        None => HoldKey::Concurrency { tenant },
        Some(period) => HoldKey::Money { tenant, period },
    };
    Hold { key, units: stored.units }
}

fn stored_drawn(drawn: &Drawn) -> (u64, u64, u64, u64) {
    (drawn.took, drawn.left, drawn.of, u64::try_from(drawn.refill.as_millis()).unwrap_or(u64::MAX))
}

fn drawn_from((took, left, of, refill_ms): (u64, u64, u64, u64)) -> Drawn {
    Drawn { took, left, of, refill: Duration::from_millis(refill_ms) }
}

impl From<&Reservation> for StoredReservation {
    fn from(reservation: &Reservation) -> Self {
        let spent = reservation.spent.iter().map(|spent| (spent.cost_ns, spent.generation)).collect();
        match &reservation.key {
            BucketKey::Tenant { tenant, shard } => {
                Self { ten: Some(tenant.to_string()), queue: None, up: None, shard: *shard, spent }
            }
            BucketKey::VirtualQueue { pool, class, shard } => Self {
                ten: None,
                queue: Some((pool.to_string(), class.name().to_owned())),
                up: None,
                shard: *shard,
                spent,
            },
            BucketKey::Upstream { upstream, day } => {
                Self { ten: None, queue: None, up: Some((upstream.to_string(), *day)), shard: 0, spent }
            }
        }
    }
}

impl TryFrom<StoredReservation> for Reservation {
    type Error = String;

    fn try_from(stored: StoredReservation) -> Result<Self, String> {
        let invalid = || "field 'res' is malformed".to_owned();
        let shard = stored.shard;
        let key = match (stored.ten, stored.queue, stored.up) {
            (Some(tenant), None, None) => BucketKey::Tenant { tenant: tenant.parse().map_err(|_| invalid())?, shard },
            (None, Some((pool, class)), None) => BucketKey::VirtualQueue {
                pool: pool.parse().map_err(|_| invalid())?,
                class: Class::from_name(&class).ok_or_else(invalid)?,
                shard,
            },
            (None, None, Some((upstream, day))) => {
                BucketKey::Upstream { upstream: upstream.parse().map_err(|_| invalid())?, day }
            }
            _ => return Err(invalid()),
        };
        let spent = stored.spent.into_iter().map(|(cost_ns, generation)| Spent { cost_ns, generation }).collect();
        Ok(Self { key, spent })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_of_the_first_form_is_read_and_written_as_it_was() {
        let first = r#"{"reason":"stop","tin":3,"tout":5}"#;
        let outcome = outcome_from(first).unwrap();
        let answer = Answer {
            reasons: vec![FinishReason::Stop],
            prompt_tokens: 3,
            completion_tokens: 5,
            cached_tokens: 0,
            reasoning_tokens: 0,
        };
        assert_eq!(outcome, Ok(answer));
        assert_eq!(outcome_text(&outcome), first);
    }

    #[test]
    fn an_outcome_reads_back_as_it_was_written() {
        let answer = Answer {
            reasons: vec![FinishReason::Length, FinishReason::ToolCalls, FinishReason::Stop],
            prompt_tokens: 7,
            completion_tokens: 9,
            cached_tokens: 4,
            reasoning_tokens: 2,
        };
        let verdict = ErrorVerdict {
            status: 400,
            code: "context_length_exceeded".to_owned(),
            param: Some("messages".to_owned()),
            message: "too long".to_owned(),
        };
        for outcome in [Ok(answer), Err(verdict)] {
            assert_eq!(outcome_from(&outcome_text(&outcome)), Some(outcome));
        }
    }
}
