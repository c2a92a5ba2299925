//! Which quantile of the forecast to buy for, and how full to run what is seen: chosen while running, for each pool, from
//! what every choice would have cost.
//!
//! No pair of these suits all loads: a steady one is cheapest at a low quantile, a bursty one must buy more. So all pairs
//! are followed in the shadow, on the load that really came, and the one with the least cost lately is used. Cost is
//! capacity bought relative to what was needed, plus a penalty for the share of load that stood above the capacity.
//!
//! Following 96 pairs costs no more than 20 series: capacity is the larger of what the forecast and what tracking asks,
//! and holding capacity for a while commutes with taking the larger.
//!
//! Edge cases: before two days have been seen the cautious first choice stays; another pair must be better by a
//! margin, so that the choice does not flutter; a silent pool keeps its choice.

use std::collections::VecDeque;

/// Quantiles of the forecast that are followed.
pub const QUANTILES: [f64; 8] = [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.975, 0.99];

/// Shares of its capacity that tracking fills; above 1 it follows the forecast alone more and more.
pub const UTILISATIONS: [f64; 12] = [0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95, 1.05, 1.2, 1.5, 2.0];

/// One choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    pub(super) quantile: usize,
    pub(super) utilisation: usize,
}

impl Choice {
    /// What is used before anything is known: nine in ten, three quarters full.
    pub const CAUTIOUS: Self = Self { quantile: 4, utilisation: 5 };

    /// The quantile of the forecast to buy for.
    #[must_use]
    pub const fn quantile(self) -> f64 {
        QUANTILES[self.quantile]
    }

    /// The share of its capacity that what is seen may fill.
    #[must_use]
    pub const fn utilisation(self) -> f64 {
        UTILISATIONS[self.utilisation]
    }
}

/// How capacity follows decisions, in steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Terms {
    /// Steps from a decision until what it launched serves.
    pub lead_steps: usize,
    /// Steps that capacity is kept after it was last needed.
    pub hold_steps: usize,
    /// Steps' worth of a unit that launching one costs.
    pub launch_cost_steps: f64,
    /// What a share of load above capacity costs, in units of the capacity that was needed: 40 makes 1 % as dear as 40 %
    /// more capacity.
    pub penalty: f64,
    /// Steps after which what a choice has cost counts half.
    pub half_life_steps: f64,
}

/// Every choice in the shadow.
#[derive(Clone, Debug, PartialEq)]
pub struct Tuner {
    pub(super) terms: Terms,
    pub(super) by_quantile: Vec<Held>,
    pub(super) by_utilisation: Vec<Held>,
    pub(super) needed: Held,
    /// Units each pair had in the last step; row by quantile.
    pub(super) units: Vec<f64>,
    pub(super) bought: Vec<f64>,
    pub(super) above: Vec<f64>,
    pub(super) load: f64,
    pub(super) need: f64,
    pub(super) seen_steps: usize,
    pub(super) choice: Choice,
}

/// What was asked for lately: some of it is still coming, some is still kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Held {
    pub(super) asked: VecDeque<f64>,
}

impl Held {
    fn ask(&mut self, units: f64, keep: usize) {
        self.asked.push_back(units);
        while self.asked.len() > keep {
            self.asked.pop_front();
        }
    }

    /// What is there `late` steps after it was asked for, kept `hold` steps; `None` before anything could arrive.
    fn there(&self, late: usize, hold: usize) -> Option<f64> {
        let arrived = self.asked.len().checked_sub(late).filter(|arrived| *arrived > 0)?;
        Some(self.asked.range(arrived.saturating_sub(hold + 1)..arrived).copied().fold(0.0, f64::max))
    }
}

/// How much better another choice must be.
const MARGIN: f64 = 0.01;

impl Tuner {
    /// Knows nothing yet.
    #[must_use]
    pub fn new(terms: Terms) -> Self {
        let pairs = QUANTILES.len() * UTILISATIONS.len();
        Self {
            terms,
            by_quantile: vec![Held::default(); QUANTILES.len()],
            by_utilisation: vec![Held::default(); UTILISATIONS.len()],
            needed: Held::default(),
            units: vec![0.0; pairs],
            bought: vec![0.0; pairs],
            above: vec![0.0; pairs],
            load: 0.0,
            need: 0.0,
            seen_steps: 0,
            choice: Choice::CAUTIOUS,
        }
    }

    /// The choice to use now.
    #[must_use]
    pub const fn choice(&self) -> Choice {
        self.choice
    }

    /// A step is over: `load` came in it, and `said` of the step `lead` ahead is what the forecast has at each of
    /// [`QUANTILES`]. All in units of capacity.
    pub fn step(&mut self, load: f64, said: &[f64; QUANTILES.len()]) {
        let Terms { lead_steps, hold_steps, launch_cost_steps, half_life_steps, .. } = self.terms;
        let forget = (-core::f64::consts::LN_2 / half_life_steps).exp();
        let keep = lead_steps + hold_steps + 2;
        self.needed.ask(load.ceil(), keep);
        // What was decided when the step began `lead_steps` ago serves in this step.
        let there = |held: &[Held]| held.iter().map(|held| held.there(lead_steps, hold_steps)).collect::<Vec<_>>();
        let (quantiles, utilisations) = (there(&self.by_quantile), there(&self.by_utilisation));
        let mut pair = 0;
        for quantile in &quantiles {
            for utilisation in &utilisations {
                let (Some(quantile), Some(utilisation)) = (quantile, utilisation) else { continue };
                let units = quantile.max(*utilisation).max(1.0);
                let launched = (units - self.units[pair]).max(0.0);
                self.units[pair] = units;
                self.bought[pair] = self.bought[pair] * forget + units + launched * launch_cost_steps;
                self.above[pair] = self.above[pair] * forget + (load - units).max(0.0);
                pair += 1;
            }
        }
        if pair > 0 {
            self.load = self.load * forget + load;
            let need = self.needed.there(0, hold_steps).unwrap_or(0.0).max(1.0);
            self.need = self.need * forget + need;
            self.seen_steps += 1;
        }
        for (held, said) in self.by_quantile.iter_mut().zip(said) {
            held.ask((said - 1e-9).ceil(), keep);
        }
        for (held, utilisation) in self.by_utilisation.iter_mut().zip(UTILISATIONS) {
            held.ask((load / utilisation).ceil(), keep);
        }
        self.choose();
    }

    fn choose(&mut self) {
        // Half a day of steps at least, or the first choice is chance.
        if (self.seen_steps as f64) < self.terms.half_life_steps / 6.0 || self.load <= 0.0 {
            return;
        }
        let cost = |pair: usize| self.bought[pair] / self.need + self.terms.penalty * self.above[pair] / self.load;
        let best = (0..self.bought.len()).min_by(|a, b| cost(*a).total_cmp(&cost(*b))).unwrap_or(0);
        let used = self.choice.quantile * UTILISATIONS.len() + self.choice.utilisation;
        if cost(best) < cost(used) * (1.0 - MARGIN) {
            self.choice = Choice { quantile: best / UTILISATIONS.len(), utilisation: best % UTILISATIONS.len() };
        }
    }
}
