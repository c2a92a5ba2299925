//! The operator's own routes, `/admin/v1/...`: tenants and their keys.

use serde::{Deserialize, Serialize};

/// Terms to set; what is absent stays as it is, or is as usual for a new tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Terms {
    /// The best class it may have, `p0` to `p3`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Requests a minute, as many at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u64>,
    /// Tokens a minute, prompt and answer together, as many at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<u64>,
    /// Jobs accepted and not ended at the same time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// Dollars that may be spent in each `budget_period`, such as `12.50`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_usd: Option<String>,
    /// `day` or `month` (the default), in UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_period: Option<String>,
    /// Requests a minute that are never held back for growing too fast; with `ramp_growth_percent`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ramp_floor_per_minute: Option<u64>,
    /// How many percent a minute its rate of requests may grow beyond that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ramp_growth_percent: Option<u32>,
    /// Limits to lift: any of `concurrency`, `budget`, `ramp`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lift: Vec<String>,
    /// Which answers may be given again: `off`, `deterministic`, `all`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caching: Option<String>,
    /// An upstream outside this deployment may answer, and sees the prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<bool>,
    /// A smaller model may answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smaller_model: Option<bool>,
    /// A configured text may answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_answer: Option<bool>,
    /// Answers may be kept to be given again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<bool>,
    /// For how many days the tenant wants them kept; records of jobs go after 7 in either case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_days: Option<u32>,
    /// Jobs whose clients have gone run to their end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_orphans: Option<bool>,
    /// Signed tokens issued before this moment, in seconds since the epoch, are refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_not_before: Option<i64>,
    /// None of its requests are taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suspended: Option<bool>,
}

/// A tenant to add.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewTenant {
    /// Its id: 1 to 64 letters, digits and `._-:`.
    pub id: String,
    /// Its terms.
    #[serde(default)]
    pub terms: Terms,
}

/// A tenant and its terms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantShown {
    /// Its id.
    pub id: String,
    /// Always `tenant`.
    pub object: String,
    /// When it was added, in seconds since the epoch.
    pub created_at: i64,
    /// Its terms, those with a value.
    pub terms: Terms,
}

/// All tenants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantList {
    /// Always `list`.
    pub object: String,
    /// The tenants, sorted by id.
    pub data: Vec<TenantShown>,
}

/// A key to make.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NewKey {
    /// What its owner will know it by.
    pub label: String,
}

/// A key, without its secret unless it was made by this very call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyShown {
    /// Its id, the part after `ps_`.
    pub id: String,
    /// Always `key`.
    pub object: String,
    /// Whose it is.
    pub tenant: String,
    /// What its owner knows it by.
    pub label: String,
    /// Seconds since the epoch.
    pub created_at: i64,
    /// When it was last used, within a day or so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<i64>,
    /// When it stops, or stopped, to be valid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<i64>,
    /// The whole key; shown once, never stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// A tenant's keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyList {
    /// Always `list`.
    pub object: String,
    /// The keys, sorted by id.
    pub data: Vec<KeyShown>,
}

/// A part of erasing a tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EraseSome {
    /// `next` of the part before; absent to begin, or to begin again after a break.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Usage is removed too, and with it what bills are made of.
    pub usage: bool,
}

/// How far erasing has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erased {
    /// Jobs removed by this part.
    pub jobs: u64,
    /// Markers and waiting messages removed by this part.
    pub traces: u64,
    /// Jobs that workers are still letting go of, or that a handler may still accept: ask again in some seconds.
    pub waiting: bool,
    /// What to go on with; absent once everything is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}
