//! The stored form of tenants and pools: JSON with a version, the same on SQLite and DynamoDB.
//!
//! What a version of today does not say has the value it had when nobody could say it, so that records of older programs
//! read on.

use std::time::Duration;

use penstock_policy::classes::Class;
use penstock_policy::cost::Price;
use penstock_policy::gcra::Limit;
use penstock_policy::id::{PoolId, TenantId};
use penstock_policy::tenant::{Budget, Caching, FallbackConsent, Period, Ramp, Retention, TenantLimits};
use penstock_policy::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ports::{Fallback, Pool, PoolKind, Tenant};

/// The newest version of either record that is understood.
const NEWEST: u32 = 1;

/// A tenant as stored text.
#[must_use]
pub fn tenant_text(tenant: &Tenant) -> String {
    let limits = &tenant.limits;
    let stored = StoredTenant {
        v: NEWEST,
        ceiling: tenant.ceiling.name().to_owned(),
        requests: stored_limit(&limits.requests),
        tokens: stored_limit(&limits.tokens),
        concurrency: limits.concurrency,
        budget: limits.budget.map(|budget| (budget.usd_micros, budget.period.name().to_owned())),
        ramp: limits.ramp.map(|ramp| (ramp.floor_per_minute, ramp.growth_percent_per_minute)),
        caching: Some(tenant.caching.name().to_owned()),
        upstream: tenant.fallback.upstream,
        smaller_model: tenant.fallback.smaller_model,
        default_answer: tenant.fallback.default_answer,
        store: tenant.retention.store,
        keep_s: tenant.retention.keep.as_secs(),
        keep_orphans: tenant.keep_orphans,
        tokens_not_before: tenant.tokens_not_before.map(Timestamp::as_millis),
        suspended: tenant.suspended,
        created: tenant.created.as_millis(),
    };
    serde_json::to_string(&stored).unwrap_or_default()
}

/// Back again; `None` if the text is damaged or a newer program's.
#[must_use]
pub fn tenant_from(id: &TenantId, text: &str) -> Option<Tenant> {
    let stored: StoredTenant = serde_json::from_str(text).ok().filter(|stored: &StoredTenant| stored.v <= NEWEST)?;
    let budget = match stored.budget {
        Some((usd_micros, period)) => Some(Budget { usd_micros, period: Period::from_name(&period)? }),
        None => None,
    };
    let ramp =
        stored.ramp.map(|(floor_per_minute, growth)| Ramp { floor_per_minute, growth_percent_per_minute: growth });
    Some(Tenant {
        id: id.clone(),
        ceiling: Class::from_name(&stored.ceiling)?,
        limits: TenantLimits {
            requests: limit(stored.requests)?,
            tokens: limit(stored.tokens)?,
            concurrency: stored.concurrency,
            budget,
            ramp,
        },
        caching: match stored.caching {
            Some(name) => Caching::from_name(&name)?,
            None => Caching::default(),
        },
        fallback: FallbackConsent {
            upstream: stored.upstream,
            smaller_model: stored.smaller_model,
            default_answer: stored.default_answer,
        },
        retention: Retention { store: stored.store, keep: Duration::from_secs(stored.keep_s) },
        keep_orphans: stored.keep_orphans,
        tokens_not_before: stored.tokens_not_before.map(Timestamp::from_millis),
        suspended: stored.suspended,
        created: Timestamp::from_millis(stored.created),
    })
}

/// A pool as stored text.
#[must_use]
pub fn pool_text(pool: &Pool) -> String {
    let stored = StoredPool {
        v: NEWEST,
        model: pool.model.clone(),
        context_length: pool.context_length,
        tokens_per_byte: pool.tokens_per_byte,
        usual_output_tokens: pool.usual_output_tokens,
        created: pool.created.as_millis(),
        embedding: pool.kind == PoolKind::Embedding,
        input_price: pool.price.input_usd_micros_per_million_tokens,
        output_price: pool.price.output_usd_micros_per_million_tokens,
        fallbacks: pool.fallbacks.iter().map(StoredFallback::from).collect(),
        default_answer: pool.default_answer.clone(),
    };
    serde_json::to_string(&stored).unwrap_or_default()
}

/// Back again; `None` if the text is damaged or a newer program's.
#[must_use]
pub fn pool_from(id: &PoolId, text: &str) -> Option<Pool> {
    let stored: StoredPool = serde_json::from_str(text).ok().filter(|stored: &StoredPool| stored.v <= NEWEST)?;
    Some(Pool {
        id: id.clone(),
        model: stored.model,
        context_length: stored.context_length,
        tokens_per_byte: stored.tokens_per_byte,
        usual_output_tokens: stored.usual_output_tokens,
        created: Timestamp::from_millis(stored.created),
        kind: if stored.embedding { PoolKind::Embedding } else { PoolKind::Generation },
        price: Price {
            input_usd_micros_per_million_tokens: stored.input_price,
            output_usd_micros_per_million_tokens: stored.output_price,
        },
        fallbacks: stored.fallbacks.into_iter().map(Fallback::try_from).collect::<Result<_, _>>().ok()?,
        default_answer: stored.default_answer,
    })
}

#[derive(Serialize, Deserialize)]
struct StoredTenant {
    v: u32,
    ceiling: String,
    /// A limit is kept as its period in nanoseconds and its burst, which is what it consists of, so that it reads back
    /// exactly.
    requests: (i64, u64),
    tokens: (i64, u64),
    #[serde(default, skip_serializing_if = "Option::is_none")]
    concurrency: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    budget: Option<(u64, String)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ramp: Option<(u64, u32)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    caching: Option<String>,
    #[serde(default)]
    upstream: bool,
    #[serde(default)]
    smaller_model: bool,
    #[serde(default)]
    default_answer: bool,
    #[serde(default = "stores")]
    store: bool,
    #[serde(default = "a_week")]
    keep_s: u64,
    #[serde(default)]
    keep_orphans: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tokens_not_before: Option<i64>,
    #[serde(default)]
    suspended: bool,
    #[serde(default)]
    created: i64,
}

#[derive(Serialize, Deserialize)]
struct StoredPool {
    v: u32,
    model: String,
    context_length: u32,
    tokens_per_byte: f64,
    usual_output_tokens: u32,
    created: i64,
    #[serde(default)]
    embedding: bool,
    #[serde(default)]
    input_price: u64,
    #[serde(default)]
    output_price: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    fallbacks: Vec<StoredFallback>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    default_answer: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredFallback {
    Pool(String),
    SmallerModel(String),
    Upstream(String),
}

impl From<&Fallback> for StoredFallback {
    fn from(fallback: &Fallback) -> Self {
        match fallback {
            Fallback::Pool(pool) => Self::Pool(pool.to_string()),
            Fallback::SmallerModel(pool) => Self::SmallerModel(pool.to_string()),
            Fallback::Upstream(name) => Self::Upstream(name.clone()),
        }
    }
}

impl TryFrom<StoredFallback> for Fallback {
    type Error = penstock_policy::id::InvalidId;

    fn try_from(stored: StoredFallback) -> Result<Self, Self::Error> {
        Ok(match stored {
            StoredFallback::Pool(pool) => Self::Pool(PoolId::new(&pool)?),
            StoredFallback::SmallerModel(pool) => Self::SmallerModel(PoolId::new(&pool)?),
            StoredFallback::Upstream(name) => Self::Upstream(name),
        })
    }
}

fn stored_limit(limit: &Limit) -> (i64, u64) {
    (limit.period_ns(), limit.burst())
}

fn limit((period_ns, burst): (i64, u64)) -> Option<Limit> {
    Limit::new(1, Duration::from_nanos(u64::try_from(period_ns).ok()?), burst).ok()
}

fn stores() -> bool {
    Retention::default().store
}

fn a_week() -> u64 {
    Retention::default().keep.as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant() -> Tenant {
        let limits = TenantLimits {
            requests: Limit::per_minute(7).unwrap(),
            tokens: Limit::new(1_000_003, Duration::from_secs(3), 12_345).unwrap(),
            concurrency: Some(9),
            budget: Some(Budget { usd_micros: 5_000_000, period: Period::Month }),
            ramp: Some(Ramp { floor_per_minute: 10, growth_percent_per_minute: 50 }),
        };
        let id = TenantId::new("acme").unwrap();
        Tenant {
            caching: Caching::All,
            fallback: FallbackConsent { upstream: true, smaller_model: false, default_answer: true },
            retention: Retention { store: false, keep: Duration::from_secs(60) },
            keep_orphans: true,
            tokens_not_before: Some(Timestamp::from_millis(5)),
            suspended: true,
            ..Tenant::new(id, Class::P2, limits, Timestamp::from_millis(1))
        }
    }

    #[test]
    fn a_tenant_reads_back_exactly() {
        let tenant = tenant();
        assert_eq!(tenant_from(&tenant.id, &tenant_text(&tenant)), Some(tenant));
    }

    #[test]
    fn a_pool_reads_back_exactly() {
        let id = PoolId::new("main").unwrap();
        let pool = Pool {
            kind: PoolKind::Embedding,
            price: Price { input_usd_micros_per_million_tokens: 3, output_usd_micros_per_million_tokens: 4 },
            fallbacks: vec![
                Fallback::Pool(PoolId::new("other").unwrap()),
                Fallback::SmallerModel(PoolId::new("small").unwrap()),
                Fallback::Upstream("cloud".to_owned()),
            ],
            default_answer: Some("later, please".to_owned()),
            tokens_per_byte: 0.1 + 0.2,
            ..Pool::new(id, "m", 4096, Timestamp::from_millis(1))
        };
        assert_eq!(pool_from(&pool.id, &pool_text(&pool)), Some(pool));
    }

    #[test]
    fn what_an_older_program_did_not_say_has_the_usual_terms() {
        let id = TenantId::new("acme").unwrap();
        let read = tenant_from(&id, r#"{"v":1,"ceiling":"p1","requests":[1000,60],"tokens":[10,600]}"#).unwrap();
        let limits = TenantLimits::rates(limit((1000, 60)).unwrap(), limit((10, 600)).unwrap());
        assert_eq!(read, Tenant::new(id, Class::P1, limits, Timestamp::EPOCH));
    }

    #[test]
    fn a_newer_program_s_record_is_left_alone() {
        let tenant = tenant();
        assert_eq!(tenant_from(&tenant.id, &tenant_text(&tenant).replacen("\"v\":1", "\"v\":9", 1)), None);
    }
}
