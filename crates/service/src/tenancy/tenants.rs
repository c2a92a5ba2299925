//! What the operator does about tenants: adding them, setting their terms, making and revoking their keys.
//!
//! A key that is revoked is refused everywhere within a minute: handlers remember keys for 50 s. Several keys of one
//! tenant are good at the same time, so a key is changed without a gap: make another, hand it over, revoke the first, at
//! once or after a while.

use std::time::Duration;

use penstock_policy::classes::Class;
use penstock_policy::gcra::Limit;
use penstock_policy::id::{KeyId, TenantId};
use penstock_policy::tenant::{Budget, Caching, Period, Ramp, TenantLimits};
use penstock_policy::time::Timestamp;
use penstock_wire::admin::{KeyList, KeyShown, NewKey, NewTenant, TenantList, TenantShown, Terms};

use crate::error::ApiError;
use crate::ports::{KeyRecord, Tenant};
use crate::{ApiKey, Service};

/// What a new tenant may use unless its terms say otherwise.
const USUAL_REQUESTS_PER_MINUTE: u64 = 600;
const USUAL_TOKENS_PER_MINUTE: u64 = 1_000_000;

/// The longest label of a key, in bytes.
const LONGEST_LABEL: usize = 100;

/// The most live keys of one tenant: more than any rotation needs, few enough to be listed at once.
const MOST_KEYS: usize = 100;

/// The longest a tenant's answers are kept, in days: records on DynamoDB carry their end from the beginning.
const MOST_KEEP_DAYS: u32 = 365;

const DAY: Duration = Duration::from_secs(24 * 3600);

impl Service {
    pub(crate) async fn add_tenant(&self, new: &NewTenant) -> Result<TenantShown, ApiError> {
        let now = self.ports.clock.now();
        let id = TenantId::new(&new.id).map_err(|error| ApiError::invalid("id", "invalid_value", error.to_string()))?;
        if self.ports.control.tenant(&id).await?.is_some() {
            return Err(ApiError::taken("id", format!("there is a tenant '{id}' already")));
        }
        let per_minute = |units| Limit::per_minute(units).map_err(|_| ApiError::internal());
        let limits = TenantLimits::rates(per_minute(USUAL_REQUESTS_PER_MINUTE)?, per_minute(USUAL_TOKENS_PER_MINUTE)?);
        let mut tenant = Tenant::new(id, Class::P1, limits, now);
        apply(&new.terms, &mut tenant)?;
        self.ports.control.put_tenant(&tenant).await?;
        self.caches.tenants.forget(&tenant.id);
        Ok(shown(&tenant))
    }

    pub(crate) async fn list_tenants(&self) -> Result<TenantList, ApiError> {
        let tenants = self.ports.control.tenants().await?;
        Ok(TenantList { object: "list".to_owned(), data: tenants.iter().map(shown).collect() })
    }

    pub(crate) async fn show_tenant(&self, id: &str) -> Result<TenantShown, ApiError> {
        self.existing(id).await.map(|tenant| shown(&tenant))
    }

    /// Sets terms. What runs is not touched; handlers go by the new terms within a minute.
    pub(crate) async fn set_terms(&self, id: &str, terms: &Terms) -> Result<TenantShown, ApiError> {
        let mut tenant = self.existing(id).await?;
        apply(terms, &mut tenant)?;
        self.ports.control.put_tenant(&tenant).await?;
        self.caches.tenants.forget(&tenant.id);
        Ok(shown(&tenant))
    }

    pub(crate) async fn new_key(&self, tenant: &str, new: &NewKey) -> Result<KeyShown, ApiError> {
        let now = self.ports.clock.now();
        let tenant = self.existing(tenant).await?;
        if new.label.len() > LONGEST_LABEL || new.label.chars().any(char::is_control) {
            let message = format!("'label' must be {LONGEST_LABEL} bytes of one line at most");
            return Err(ApiError::invalid("label", "invalid_value", message));
        }
        let live = self.ports.control.keys(&tenant.id).await?;
        if live.iter().filter(|key| key.revoked.is_none()).count() >= MOST_KEYS {
            return Err(ApiError::taken("tenant", format!("this tenant has {MOST_KEYS} keys: revoke some first")));
        }
        let key = ApiKey::generate(|| self.ports.entropy.draw());
        let record = KeyRecord { label: new.label.clone(), created: now, ..key.record(tenant.id) };
        self.ports.control.put_key(&record).await?;
        self.caches.keys.forget(&record.id);
        Ok(KeyShown { key: Some(key.expose()), ..shown_key(&record) })
    }

    pub(crate) async fn list_keys(&self, tenant: &str) -> Result<KeyList, ApiError> {
        let tenant = self.existing(tenant).await?;
        let keys = self.ports.control.keys(&tenant.id).await?;
        Ok(KeyList { object: "list".to_owned(), data: keys.iter().map(shown_key).collect() })
    }

    /// Revokes a key, `after` a while if its holders need time. An earlier end that was set before stands.
    pub(crate) async fn revoke_key(&self, tenant: &str, key: &str, after: Duration) -> Result<KeyShown, ApiError> {
        let tenant = self.existing(tenant).await?;
        let found = match KeyId::new(key) {
            Ok(id) => self.ports.control.key(&id).await?.filter(|found| found.tenant == tenant.id),
            Err(_) => None,
        };
        let found = found.ok_or_else(|| ApiError::nothing_like_it("key", key))?;
        let end = self.ports.clock.now().after(after);
        let revoked = Some(found.revoked.map_or(end, |earlier| earlier.min(end)));
        let record = KeyRecord { revoked, ..found };
        self.ports.control.put_key(&record).await?;
        self.caches.keys.forget(&record.id);
        Ok(shown_key(&record))
    }

    /// The tenant of that id, read anew.
    pub(crate) async fn existing(&self, id: &str) -> Result<Tenant, ApiError> {
        let found = match TenantId::new(id) {
            Ok(id) => self.ports.control.tenant(&id).await?,
            Err(_) => None,
        };
        found.ok_or_else(|| ApiError::nothing_like_it("tenant", id))
    }
}

fn apply(terms: &Terms, tenant: &mut Tenant) -> Result<(), ApiError> {
    apply_limits(terms, &mut tenant.limits)?;
    if let Some(class) = &terms.class {
        tenant.ceiling = Class::from_name(class).ok_or_else(|| bad("class", "must be p0, p1, p2 or p3"))?;
    }
    if let Some(caching) = &terms.caching {
        let known = Caching::from_name(caching);
        tenant.caching = known.ok_or_else(|| bad("caching", "must be off, deterministic or all"))?;
    }
    if let Some(days) = terms.keep_days {
        if !(1..=MOST_KEEP_DAYS).contains(&days) {
            return Err(bad("keep_days", &format!("must be 1 to {MOST_KEEP_DAYS}")));
        }
        tenant.retention.keep = DAY * days;
    }
    let set = |value: Option<bool>, place: &mut bool| *place = value.unwrap_or(*place);
    set(terms.upstream, &mut tenant.fallback.upstream);
    set(terms.smaller_model, &mut tenant.fallback.smaller_model);
    set(terms.default_answer, &mut tenant.fallback.default_answer);
    set(terms.store, &mut tenant.retention.store);
    set(terms.keep_orphans, &mut tenant.keep_orphans);
    set(terms.suspended, &mut tenant.suspended);
    if let Some(secs) = terms.tokens_not_before {
        tenant.tokens_not_before = Some(Timestamp::from_millis(secs.saturating_mul(1000)));
    }
    Ok(())
}

fn apply_limits(terms: &Terms, limits: &mut TenantLimits) -> Result<(), ApiError> {
    let rate = |field: &str, units: u64| {
        Limit::per_minute(units).map_err(|_| bad(field, "must be a whole number above 0 and below 10^9"))
    };
    if let Some(units) = terms.requests_per_minute {
        limits.requests = rate("requests_per_minute", units)?;
    }
    if let Some(units) = terms.tokens_per_minute {
        limits.tokens = rate("tokens_per_minute", units)?;
    }
    if let Some(most) = terms.concurrency {
        if most == 0 {
            return Err(bad("concurrency", "must be above 0; to take no requests at all, suspend the tenant"));
        }
        limits.concurrency = Some(most);
    }
    apply_budget(terms, limits)?;
    match (terms.ramp_floor_per_minute, terms.ramp_growth_percent, limits.ramp) {
        (None, None, _) => {}
        (Some(floor), None, None) => {
            limits.ramp = Some(Ramp { floor_per_minute: floor, growth_percent_per_minute: 50 })
        }
        (None, Some(_), None) => return Err(bad("ramp_growth_percent", "needs ramp_floor_per_minute with it")),
        (floor, growth, known) => {
            let known = known.unwrap_or(Ramp { floor_per_minute: 0, growth_percent_per_minute: 0 });
            limits.ramp = Some(Ramp {
                floor_per_minute: floor.unwrap_or(known.floor_per_minute),
                growth_percent_per_minute: growth.unwrap_or(known.growth_percent_per_minute),
            });
        }
    }
    for lifted in &terms.lift {
        match lifted.as_str() {
            "concurrency" => limits.concurrency = None,
            "budget" => limits.budget = None,
            "ramp" => limits.ramp = None,
            _ => return Err(bad("lift", "can be concurrency, budget or ramp: the other limits every tenant has")),
        }
    }
    Ok(())
}

fn apply_budget(terms: &Terms, limits: &mut TenantLimits) -> Result<(), ApiError> {
    let period = match &terms.budget_period {
        Some(name) => Some(Period::from_name(name).ok_or_else(|| bad("budget_period", "must be day or month"))?),
        None => None,
    };
    let amount = match &terms.budget_usd {
        Some(text) => Some(
            text.parse::<penstock_policy::cost::UsdMicros>().map_err(|error| bad("budget_usd", &error.to_string()))?.0,
        ),
        None => None,
    };
    match (amount, period, limits.budget) {
        (None, None, _) => {}
        (None, Some(_), None) => return Err(bad("budget_period", "needs budget_usd with it")),
        (amount, period, known) => {
            limits.budget = Some(Budget {
                usd_micros: amount.or(known.map(|known| known.usd_micros)).unwrap_or(0),
                period: period.or(known.map(|known| known.period)).unwrap_or(Period::Month),
            });
        }
    }
    Ok(())
}

fn bad(field: &str, rule: &str) -> ApiError {
    ApiError::invalid(field, "invalid_value", format!("'{field}' {rule}"))
}

fn shown(tenant: &Tenant) -> TenantShown {
    let Tenant { limits, fallback, retention, .. } = tenant;
    let terms = Terms {
        class: Some(tenant.ceiling.name().to_owned()),
        requests_per_minute: Some(per_minute(&limits.requests)),
        tokens_per_minute: Some(per_minute(&limits.tokens)),
        concurrency: limits.concurrency,
        budget_usd: limits.budget.map(|budget| penstock_policy::cost::UsdMicros(budget.usd_micros).to_string()),
        budget_period: limits.budget.map(|budget| budget.period.name().to_owned()),
        ramp_floor_per_minute: limits.ramp.map(|ramp| ramp.floor_per_minute),
        ramp_growth_percent: limits.ramp.map(|ramp| ramp.growth_percent_per_minute),
        lift: Vec::new(),
        caching: Some(tenant.caching.name().to_owned()),
        upstream: Some(fallback.upstream),
        smaller_model: Some(fallback.smaller_model),
        default_answer: Some(fallback.default_answer),
        store: Some(retention.store),
        keep_days: Some(u32::try_from(retention.keep.as_secs() / DAY.as_secs()).unwrap_or(u32::MAX)),
        keep_orphans: Some(tenant.keep_orphans),
        tokens_not_before: tenant.tokens_not_before.map(Timestamp::as_secs),
        suspended: Some(tenant.suspended),
    };
    TenantShown { id: tenant.id.to_string(), object: "tenant".to_owned(), created_at: tenant.created.as_secs(), terms }
}

/// Units a minute, to the nearest whole one.
fn per_minute(limit: &Limit) -> u64 {
    const MINUTE_NS: i64 = 60_000_000_000;
    u64::try_from((MINUTE_NS + limit.period_ns() / 2) / limit.period_ns().max(1)).unwrap_or(0)
}

fn shown_key(key: &KeyRecord) -> KeyShown {
    KeyShown {
        id: key.id.to_string(),
        object: "key".to_owned(),
        tenant: key.tenant.to_string(),
        label: key.label.clone(),
        created_at: key.created.as_secs(),
        last_used_at: key.used.map(Timestamp::as_secs),
        revoked_at: key.revoked.map(Timestamp::as_secs),
        key: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant() -> Tenant {
        let limit = Limit::per_minute(60).unwrap();
        let limits = TenantLimits::rates(limit, limit);
        Tenant::new(TenantId::new("acme").unwrap(), Class::P1, limits, Timestamp::EPOCH)
    }

    #[test]
    fn what_is_shown_of_a_tenant_sets_another_on_the_same_terms() {
        let terms: Terms = serde_json::from_value(serde_json::json!({
            "class": "p2", "requests_per_minute": 90, "tokens_per_minute": 120_000, "concurrency": 3,
            "budget_usd": "12.50", "budget_period": "day", "ramp_floor_per_minute": 10, "ramp_growth_percent": 20,
            "caching": "all", "upstream": true, "store": false, "keep_days": 3, "suspended": true,
        }))
        .unwrap();
        let (mut first, mut second) = (tenant(), tenant());
        apply(&terms, &mut first).unwrap();
        assert_eq!(first.limits.budget, Some(Budget { usd_micros: 12_500_000, period: Period::Day }));
        apply(&shown(&first).terms, &mut second).unwrap();
        assert_eq!(second, first);
    }

    #[test]
    fn what_is_not_named_stays_and_a_limit_that_is_lifted_is_gone() {
        let mut tenant = tenant();
        apply(&Terms { concurrency: Some(3), budget_usd: Some("1".to_owned()), ..Terms::default() }, &mut tenant)
            .unwrap();
        apply(&Terms { lift: vec!["concurrency".to_owned()], ..Terms::default() }, &mut tenant).unwrap();
        assert_eq!((tenant.limits.concurrency, tenant.limits.budget.is_some()), (None, true));
    }

    #[test]
    fn terms_that_make_no_sense_are_refused_by_name() {
        let refused = |terms: Terms| apply(&terms, &mut tenant()).unwrap_err().body.error.param.unwrap();
        assert_eq!(refused(Terms { class: Some("p9".to_owned()), ..Terms::default() }), "class");
        assert_eq!(refused(Terms { requests_per_minute: Some(0), ..Terms::default() }), "requests_per_minute");
        assert_eq!(refused(Terms { concurrency: Some(0), ..Terms::default() }), "concurrency");
        assert_eq!(refused(Terms { budget_usd: Some("lots".to_owned()), ..Terms::default() }), "budget_usd");
        assert_eq!(refused(Terms { budget_period: Some("day".to_owned()), ..Terms::default() }), "budget_period");
        assert_eq!(refused(Terms { ramp_growth_percent: Some(5), ..Terms::default() }), "ramp_growth_percent");
        assert_eq!(refused(Terms { keep_days: Some(0), ..Terms::default() }), "keep_days");
        assert_eq!(refused(Terms { lift: vec!["tokens".to_owned()], ..Terms::default() }), "lift");
    }
}
