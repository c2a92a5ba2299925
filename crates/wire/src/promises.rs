//! `GET /v1/promises`: how well the promises of the last hour were kept.

use serde::{Deserialize, Serialize};

/// All pools and tiers that promised anything.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct PromiseList {
    /// Always `list`.
    pub object: String,
    /// The figures.
    pub data: Vec<PromiseFigures>,
}

impl Default for PromiseList {
    fn default() -> Self {
        Self { object: "list".to_owned(), data: Vec::new() }
    }
}

/// How well the promises to one tier of a model were kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct PromiseFigures {
    /// The model.
    pub model: String,
    /// The tier.
    pub service_tier: String,
    /// How many promises have come due.
    pub made: u64,
    /// The share of answers that were there by the 50 % moment.
    pub kept_50: f64,
    /// The share that were there by the 95 % moment.
    pub kept_95: f64,
    /// The 95 % wait that was stated as a multiple of the wait there was, on average: 1 is as sharp as can be.
    pub stated_over_actual: f64,
}
