//! All that is known of a pool's fleet, and its one step: look, forecast, choose, plan.
//!
//! The control loop hands in what it sees ([`Sight`]) and carries out what comes back; between ticks it keeps
//! [`Autoscaler::encode`] and, because four weeks of load are large and change seldom, the forecaster by itself. So a loop
//! that runs elsewhere next time goes on where this one stopped, and the same state and sight give the same plan.

use core::time::Duration;

use super::demand::{Backlog, Load};
use super::flight::Flight;
use super::offering::{Instance, Offering};
use super::orders::Orders;
use super::roll::Roll;
use super::tuning::{QUANTILES, Terms, Tuner};
use super::{CALM, Limits, Memory, Plan};
use crate::forecast::{self, Forecaster, LocalTime, Step};
use crate::time::Timestamp;

/// What a share of load above capacity costs when choices are compared: 1 % is as dear as 40 % more capacity.
const PENALTY: f64 = 40.0;

/// Days after which what a choice has cost counts half.
const HALF_LIFE_DAYS: f64 = 4.0;

/// The autoscaler of one pool.
#[derive(Clone, Debug, PartialEq)]
pub struct Autoscaler {
    pub(super) tuner: Tuner,
    pub(super) memory: Memory,
    pub(super) roll: Roll,
}

/// What the loop sees of a pool.
#[derive(Clone, Debug, PartialEq)]
pub struct Sight {
    /// Tokens offered in the steps that have ended since the last look, oldest first.
    pub ended: Vec<(Timestamp, forecast::Load)>,
    /// Tokens offered a second, over the last minutes.
    pub tokens_per_second: f64,
    /// What waits, by class.
    pub backlog: [Backlog; 4],
    /// The workers there are.
    pub instances: Vec<Instance>,
    /// What can be had; what was learned of each is filled in here.
    pub offerings: Vec<Offering>,
}

/// What one step decided.
#[derive(Clone, Debug, PartialEq)]
pub struct Tick {
    /// All that the plan was made from.
    pub flight: Flight,
    /// The plan.
    pub plan: Plan,
    /// What it comes to.
    pub orders: Orders,
}

impl Default for Autoscaler {
    fn default() -> Self {
        let day = Step::FIVE_MINUTES.per_day() as f64;
        let hold = CALM.as_secs() / Step::FIVE_MINUTES.duration().as_secs();
        let terms = Terms {
            // A boot takes no longer than a step; a bought worker is kept for the calm.
            lead_steps: 1,
            hold_steps: usize::try_from(hold).unwrap_or(1),
            launch_cost_steps: 1.0,
            penalty: PENALTY,
            half_life_steps: HALF_LIFE_DAYS * day,
        };
        Self { tuner: Tuner::new(terms), memory: Memory::default(), roll: Roll::default() }
    }
}

impl Autoscaler {
    /// One step at `now`. `forecaster` takes the steps that have ended; `local` is the users' time.
    pub fn tick(
        &mut self,
        forecaster: &mut Forecaster,
        sight: Sight,
        limits: &Limits,
        local: &LocalTime,
        now: Timestamp,
    ) -> Tick {
        let Sight { ended, tokens_per_second, backlog, instances, mut offerings } = sight;
        self.roll.call(&instances, now);
        for offering in &mut offerings {
            offering.score = self.roll.score(&offering.id);
        }
        let worker = offerings.iter().map(|offering| offering.tokens_per_second).fold(0.0, f64::max);
        for (at, load) in ended {
            self.learn(forecaster, at, load, worker, local);
        }
        let forecast = forecaster.forecast(local);
        let load = Load { forecast: Some(&forecast), tokens_per_second, backlog };
        let lead = self.roll.lead();
        let flight = Flight {
            at: now,
            forecast: load.forecast.cloned(),
            tokens_per_second,
            backlog,
            instances,
            offerings,
            lead,
            choice: self.tuner.choice(),
            memory: self.memory.clone(),
            limits: *limits,
        };
        let plan = flight.plan();
        self.memory = plan.memory.clone();
        let orders = Orders::of(&plan, &flight.instances, lead, now);
        Tick { flight, plan, orders }
    }

    /// How long a launch takes to serve, nine in ten of those seen.
    #[must_use]
    pub fn lead(&self) -> Duration {
        self.roll.lead()
    }

    fn learn(
        &mut self,
        forecaster: &mut Forecaster,
        at: Timestamp,
        load: forecast::Load,
        worker: f64,
        local: &LocalTime,
    ) {
        let taken = forecaster.observe(at, load, local);
        let unit = worker * forecaster.step().duration().as_secs_f64();
        if let (forecast::Load::Offered(tokens), forecast::Taken::Added { .. }) = (load, taken)
            && unit > 0.0
        {
            let forecast = forecaster.forecast(local);
            self.tuner.step(tokens / unit, &QUANTILES.map(|q| forecast.quantile(q, 1) / unit));
        }
    }
}
