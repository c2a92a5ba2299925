//! What a fleet did and why, tick by tick, as the operator's routes say it and as files keep it.

use serde::{Deserialize, Serialize};

/// The ticks that are remembered of a pool's fleet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FleetLog {
    /// Oldest first; an hour of them under load.
    pub data: Vec<FleetTick>,
}

/// One tick: what a person reads of it, and the bytes from which the very same plan is made again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FleetTick {
    /// The version of this form.
    pub v: u32,
    /// The pool.
    pub pool: String,
    /// When, milliseconds since the epoch.
    pub at_ms: i64,
    /// Tokens offered a second.
    pub offered: f64,
    /// Tokens a second that were needed.
    pub needed: f64,
    /// Tokens a second that the plan aimed at, as far as capacity may rise at once.
    pub target: f64,
    /// Workers by stage: launching, ready, noticed, draining, drained.
    pub workers: [u32; 5],
    /// What was done, each with its reason.
    pub steps: Vec<String>,
    /// All that the plan was made from, in base64.
    pub input: String,
    /// The plan, in base64.
    pub plan: String,
}
