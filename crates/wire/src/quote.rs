//! The answer to `x-penstock-dry-run: 1`: what would become of a request.

use serde::{Deserialize, Serialize};

use crate::error::ErrorObject;

/// What would become of a request: a promise, or a refusal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quote {
    /// Always `quote`.
    pub object: String,
    /// The model asked for.
    pub model: String,
    /// The tier that would be used.
    pub service_tier: String,
    /// Milliseconds within which half of such requests are answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta_ms_50: Option<u64>,
    /// Milliseconds within which nineteen of twenty are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta_ms_95: Option<u64>,
    /// About how many requests are ahead and not running yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<u64>,
    /// What it would cost by the estimate, in dollars.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost_usd: Option<String>,
    /// Why it would be refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<ErrorObject>,
    /// When to come back then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl Quote {
    /// A quote that says nothing yet.
    #[must_use]
    pub fn new(model: &str, service_tier: &str) -> Self {
        Self {
            object: "quote".to_owned(),
            model: model.to_owned(),
            service_tier: service_tier.to_owned(),
            eta_ms_50: None,
            eta_ms_95: None,
            position: None,
            cost_usd: None,
            refusal: None,
            retry_after_ms: None,
        }
    }
}
