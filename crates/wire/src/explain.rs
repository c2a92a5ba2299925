//! `GET /v1/jobs/{id}/explain`: why a job went as it did.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A job's story.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct Explanation {
    /// The job.
    pub id: String,
    /// Always `explanation`.
    pub object: String,
    /// As in the job itself.
    pub status: String,
    /// Whose it is.
    pub tenant: String,
    /// The model asked for.
    pub model: String,
    /// The pool that runs it.
    pub pool: String,
    /// The class granted, `p0` to `p3`.
    pub class: String,
    /// What it was charged, in dollars with six decimals; absent until it is settled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost_usd: Option<String>,
    /// What happened, in order.
    pub timeline: Vec<Happening>,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct Happening {
    /// When, in milliseconds since the epoch.
    pub at_ms: i64,
    /// The same since the request came.
    pub after_ms: u64,
    /// What: a stable word.
    pub what: String,
    /// The same in words for people.
    pub text: String,
    /// Its particulars.
    #[serde(flatten)]
    pub details: Map<String, Value>,
}
