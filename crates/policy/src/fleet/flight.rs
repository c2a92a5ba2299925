//! The flight recorder: all that a plan was made from, so that it can be made again, bit for bit, elsewhere and later.

use core::time::Duration;

use super::demand::{Backlog, Load};
use super::offering::{Instance, Offering};
use super::tuning::Choice;
use super::{Limits, Memory, Observed, Plan, plan};
use crate::forecast::Forecast;
use crate::time::Timestamp;

/// The input of one plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Flight {
    /// When it was made.
    pub at: Timestamp,
    /// The forecast of the pool's tokens, if there was one.
    pub forecast: Option<Forecast>,
    /// Tokens offered a second.
    pub tokens_per_second: f64,
    /// What waited, by class.
    pub backlog: [Backlog; 4],
    /// The workers there were.
    pub instances: Vec<Instance>,
    /// What could be had, with what was learned of it.
    pub offerings: Vec<Offering>,
    /// How long a launch took to serve.
    pub lead: Duration,
    /// Quantile and utilisation in use.
    pub choice: Choice,
    /// What was kept of earlier plans.
    pub memory: Memory,
    /// What the pool was allowed.
    pub limits: Limits,
}

impl Flight {
    /// The plan that follows: always the same.
    #[must_use]
    pub fn plan(&self) -> Plan {
        let load =
            Load { forecast: self.forecast.as_ref(), tokens_per_second: self.tokens_per_second, backlog: self.backlog };
        let observed = Observed {
            load,
            instances: &self.instances,
            offerings: &self.offerings,
            lead: self.lead,
            choice: self.choice,
        };
        plan(&observed, &self.memory, &self.limits, self.at)
    }
}
