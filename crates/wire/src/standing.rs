//! How pools stand, and an operator's orders, as the operator's routes say them.

use serde::{Deserialize, Serialize};

/// How every pool stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandingList {
    /// One entry a pool.
    pub data: Vec<StandingShown>,
}

/// How a pool stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandingShown {
    /// The pool.
    pub pool: String,
    /// The model clients ask for.
    pub model: String,
    /// The tier in force, 0 to 4.
    pub tier: u8,
    /// The tier by evidence, which an order covers.
    pub tier_by_evidence: u8,
    /// Why that: `healthy`, `errors`, `late`, `no_worker`, `calm`, `recovering`.
    pub reason: String,
    /// Since when, seconds since the epoch; absent if it never changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<i64>,
    /// Probes in a row that have succeeded.
    pub probes_succeeded: u32,
    /// The order in force: `refuse` or `fallbacks`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<String>,
    /// When it ends, seconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_until: Option<i64>,
}

/// An order to give.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrderGiven {
    /// `refuse` everything, answer by `fallbacks`, or `none`: go by evidence again.
    pub order: String,
    /// For how many seconds; needed by the first two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_s: Option<u64>,
}
