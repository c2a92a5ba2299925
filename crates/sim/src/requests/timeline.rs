//! How a run went, sampled at equal steps: what the charts are drawn from.

use super::fleet::Counts;

/// What was seen in one step.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// Its end, in seconds from the beginning.
    pub at: f64,
    /// Requests a second that came for the first time.
    pub offered: f64,
    /// Requests a second that were let in, answered from what is kept, refused.
    pub accepted: f64,
    /// See above.
    pub hits: f64,
    /// See above.
    pub refused: f64,
    /// Estimated tokens a second that were offered and needed a run.
    pub tokens: f64,
    /// What was forecast for this step when a launch for it would have been made, in tokens a second: median and 90 %.
    pub forecast: Option<(f64, f64)>,
    /// The workers.
    pub workers: Counts,
    /// What they do, in estimated tokens a second.
    pub capacity: f64,
    /// Jobs that wait, by class.
    pub waiting: [u64; 4],
    /// The expected wait and run of a P1 job, in seconds: half, nineteen of twenty.
    pub eta: Option<(f64, f64)>,
    /// Clients of P0 and P1 that wait for an answer.
    pub connected: u32,
    /// The tier of degradation.
    pub tier: u8,
}
