//! `GET /v1/usage`: what a tenant used, day by day.

use serde::{Deserialize, Serialize};

/// What a tenant used in some days.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct UsageReport {
    /// Always `usage`.
    pub object: String,
    /// The tenant.
    pub tenant: String,
    /// The days on which anything was used, oldest first.
    pub data: Vec<UsageOfDay>,
    /// All of them together.
    pub total: Used,
}

/// What was used on one day.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct UsageOfDay {
    /// The day in UTC, `YYYY-MM-DD`.
    pub date: String,
    /// What was used.
    #[serde(flatten)]
    pub used: Used,
}

/// An amount of use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct Used {
    /// Jobs that ended.
    pub requests: u64,
    /// Tokens of their prompts.
    pub input_tokens: u64,
    /// Those of them that a worker had in its cache.
    pub cached_tokens: u64,
    /// Tokens of their answers.
    pub output_tokens: u64,
    /// Requests answered by another request's job, under way or ended.
    pub hits: u64,
    /// Requests refused by a limit, a full queue or a breaker.
    pub refused: u64,
    /// What it costs, in millionths of a US dollar.
    pub cost_usd_micros: u64,
    /// The same in dollars, with six decimals.
    pub cost_usd: String,
}
