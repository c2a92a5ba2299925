//! Who decides how many workers there are: the planner, and what others do instead.
//!
//! The others follow the same terms: capacity is kept for a quarter of an hour after it was last needed, launches take as
//! long, drains finish what runs. None of them looks at the queue.

use core::time::Duration;
use std::collections::VecDeque;

use penstock_policy::fleet::demand::{Backlog, Load};
use penstock_policy::fleet::offering::Stage;
use penstock_policy::fleet::report::Step as Planned;
use penstock_policy::fleet::tuning::{self, QUANTILES, Tuner};
use penstock_policy::fleet::{CALM, Limits, Memory, Observed, plan};
use penstock_policy::forecast::{Basis, Forecast, Forecaster, Load as Seen, LocalTime, Step};

use super::demand::Demand;
use super::fleet::Fleet;
use super::moment::Moment;
use super::scenario::MarketSpec;
use crate::baselines::Baseline;
use crate::trace::Trace;

/// The share of its capacity that target tracking fills.
const UTILISATION: f64 = 0.7;

/// Workers that a SpotHedge-like fleet has beyond what is needed.
const HEDGE: u32 = 2;

/// What a launch costs in the planner's choice of its settings, in seconds of a worker.
const BILLED_START_SECS: f64 = 300.0;

/// How a fleet is scaled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Always enough for the busiest minute, known beforehand.
    StaticPeak,
    /// Target tracking: the offered load of the last minute.
    Reactive,
    /// A cloud's predictive scaling: hourly means of the weekday-aware 14-day average over target tracking.
    AwsLike,
    /// Target tracking on an even spread over the zones with two workers more, on demand for what is not ready.
    SpotHedgeLike,
    /// The planner.
    Planned,
    /// Who knows the load and what the market takes back.
    Oracle,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    /// Launches by offering.
    pub launch: Vec<(usize, u32)>,
    /// Workers that take nothing new.
    pub drain: Vec<u32>,
    /// Workers to hand back.
    pub release: Vec<u32>,
}

/// What is seen at a tick.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The workers.
    pub fleet: &'a Fleet,
    /// Estimated tokens offered a second in the last minute.
    pub tokens_per_second: f64,
    /// What waits.
    pub backlog: [Backlog; 4],
    /// The whole load, for who knows it.
    pub demand: &'a Demand,
    /// Now.
    pub now: Moment,
}

/// A scaler with what it remembers.
#[derive(Debug)]
pub struct Scaler {
    kind: Kind,
    limits: Limits,
    memory: Memory,
    forecaster: Forecaster,
    tuner: Option<Tuner>,
    /// The newest forecast: tokens by step of five minutes.
    pub forecast: Option<Forecast>,
    local: LocalTime,
    /// Tokens by hour, for whoever plans by them.
    hours: Vec<f64>,
    predicted: Vec<f64>,
    /// What was wanted lately.
    wanted: VecDeque<(Moment, u32)>,
}

impl Scaler {
    /// A scaler of a fleet with these limits, for forecasts in such steps.
    #[must_use]
    pub fn new(kind: Kind, market: &MarketSpec, step: Step) -> Self {
        let limits = Limits {
            least_workers: market.least_workers,
            most_workers: market.most_workers,
            most_on_demand: market.most_on_demand,
            usd_micros_per_hour: u64::MAX,
            calm: penstock_policy::fleet::CALM,
        };
        Self {
            kind,
            limits,
            memory: Memory::default(),
            forecaster: Forecaster::new(step),
            tuner: None,
            forecast: None,
            local: LocalTime::new(0, []),
            hours: Vec::new(),
            predicted: Vec::new(),
            wanted: VecDeque::new(),
        }
    }

    /// How many workers stand ready when it begins, where the first minutes offer `tokens_per_second`.
    #[must_use]
    pub fn begins_with(&self, tokens_per_second: f64, utilisation: f64, view: &View<'_>) -> u32 {
        let usual = units(tokens_per_second / utilisation, view.fleet);
        let begins = match self.kind {
            Kind::StaticPeak | Kind::Oracle => self.others(view),
            Kind::Reactive | Kind::AwsLike | Kind::SpotHedgeLike | Kind::Planned => usual,
        };
        begins.clamp(self.limits.least_workers.max(1), self.limits.most_workers)
    }

    /// What was forecast for the step that `now` lies in, in tokens a second: the median and 90 %.
    #[must_use]
    pub fn said(&self, now: Moment) -> Option<(f64, f64)> {
        let forecast = self.forecast.as_ref().filter(|forecast| forecast.basis() != Basis::Nothing)?;
        let secs = forecast.step().duration().as_secs_f64();
        let ahead = now.timestamp().since(forecast.from()).as_secs_f64() / secs;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a step or two")]
        let ahead = (ahead as usize).min(forecast.steps().checked_sub(1)?);
        Some((forecast.quantile(0.5, ahead) / secs, forecast.quantile(0.9, ahead) / secs))
    }

    /// A step of five minutes is over, in which so many tokens were offered.
    pub fn step_over(&mut self, tokens: f64, fleet: &Fleet, now: Moment) {
        let step = self.forecaster.step().duration();
        let begin = now.timestamp().before(step);
        if self.kind == Kind::AwsLike {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "hours of a simulation")]
            let hour = ((now.secs() - 1.0).max(0.0) / 3600.0) as usize;
            self.hours.resize(hour + 1, 0.0);
            self.hours[hour] += tokens;
        }
        if self.kind != Kind::Planned {
            return;
        }
        let _ = self.forecaster.observe(begin, Seen::Offered(tokens), &self.local);
        let forecast = self.forecaster.forecast(&self.local);
        let capacity = fleet.tokens_per_second * step.as_secs_f64();
        let lead = fleet.boot_p90() / step.as_secs_f64();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few steps")]
        let lead = (lead.ceil() as usize).max(1);
        let said = QUANTILES.map(|q| forecast.quantile(q, lead) / capacity);
        let day_steps = 86_400.0 / step.as_secs_f64();
        let terms = tuning::Terms {
            lead_steps: lead,
            hold_steps: 3,
            launch_cost_steps: BILLED_START_SECS / step.as_secs_f64(),
            penalty: crate::planning::PENALTY,
            half_life_steps: 4.0 * day_steps,
        };
        self.tuner.get_or_insert_with(|| Tuner::new(terms)).step(tokens / capacity, &said);
        self.forecast = Some(forecast);
    }

    /// What to do now.
    pub fn orders(&mut self, view: &View<'_>) -> Orders {
        if self.kind == Kind::Planned { self.planned(view) } else { self.tracked(view) }
    }

    fn planned(&mut self, view: &View<'_>) -> Orders {
        let (instances, offerings) = (view.fleet.instances(), view.fleet.offerings());
        let choice = self.tuner.as_ref().map_or(tuning::Choice::CAUTIOUS, Tuner::choice);
        let observed = Observed {
            load: Load {
                forecast: self.forecast.as_ref(),
                tokens_per_second: view.tokens_per_second,
                backlog: view.backlog,
            },
            instances: &instances,
            offerings: &offerings,
            lead: Duration::from_secs_f64(view.fleet.boot_p90() + 20.0),
            choice,
        };
        let plan = plan(&observed, &self.memory, &self.limits, view.now.timestamp());
        self.memory = plan.memory;
        let mut orders = Orders::default();
        let number = |id: &str| id.trim_start_matches("i-").parse::<u32>().ok();
        for step in plan.steps {
            match step {
                Planned::Launch { offering, count, .. } => orders.launch.push((view.fleet.offering(&offering), count)),
                Planned::Drain { instance, .. } => orders.drain.extend(number(&instance)),
                Planned::Release { instance } => orders.release.extend(number(&instance)),
            }
        }
        orders
    }

    /// Workers that those who are no planner want now.
    fn others(&self, view: &View<'_>) -> u32 {
        let tracked = || units(view.tokens_per_second / UTILISATION, view.fleet);
        match self.kind {
            Kind::StaticPeak => units(view.demand.most() / UTILISATION, view.fleet),
            Kind::Oracle => {
                let ahead = 1.2 * view.fleet.boot_p90();
                units(view.demand.most_in(view.now.secs(), view.now.secs() + ahead), view.fleet)
            }
            Kind::Reactive | Kind::Planned => tracked(),
            Kind::SpotHedgeLike => tracked() + HEDGE,
            Kind::AwsLike => {
                let ahead = view.now.plus(CALM.as_secs_f64()).secs();
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "hours of a simulation")]
                let (from, to) = ((view.now.secs() / 3600.0) as usize, (ahead / 3600.0) as usize);
                let said = (from..=to).filter_map(|hour| self.predicted.get(hour)).copied().fold(0.0, f64::max);
                tracked().max(units(said / 3600.0 / UTILISATION, view.fleet))
            }
        }
    }

    /// Hourly means for two days ahead, made anew every six hours once there is a day.
    fn predict(&mut self, now: Moment) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "hours of a simulation")]
        let hour = (now.secs() / 3600.0) as usize;
        if hour < 24 || !hour.is_multiple_of(6) || self.predicted.len() >= hour + 24 || self.hours.len() < hour {
            return;
        }
        let Ok(step) = Step::new(3600) else { return };
        let first = step.index(Moment::default().timestamp());
        let trace = Trace::new(String::new(), step, first, self.hours[..hour].to_vec(), self.local.clone());
        let mut trace = trace;
        // The average looks at the days before only.
        trace.filled.resize(hour + 24, 0.0);
        self.predicted.resize(hour, 0.0);
        self.predicted.extend(Baseline::Average.points(&trace, hour));
    }

    fn tracked(&mut self, view: &View<'_>) -> Orders {
        if self.kind == Kind::AwsLike {
            self.predict(view.now);
        }
        let now = view.now;
        self.wanted.push_back((now, self.others(view)));
        while self.wanted.front().is_some_and(|(at, _)| now.since(*at) > CALM.as_secs_f64()) {
            self.wanted.pop_front();
        }
        let most = self.wanted.iter().map(|(_, wanted)| *wanted).max().unwrap_or(0);
        let wanted = most.clamp(self.limits.least_workers.max(1), self.limits.most_workers);
        let counts = view.fleet.counts();
        let on_demand = match self.kind {
            Kind::SpotHedgeLike => {
                (wanted - HEDGE.min(wanted)).saturating_sub(counts.spot).min(self.limits.most_on_demand)
            }
            Kind::StaticPeak | Kind::Reactive | Kind::AwsLike | Kind::Planned | Kind::Oracle => 0,
        };
        let mut orders = Orders::default();
        let last = view.fleet.zones();
        let spot: u32 = (0..last).map(|zone| view.fleet.held(zone)).sum();
        let spread = self.kind == Kind::SpotHedgeLike;
        if let Some(zone) = view.fleet.zone(spread, now).filter(|_| wanted > spot) {
            if spread {
                // Evenly, one zone after another.
                let zones = u32::try_from(last).unwrap_or(1).max(1);
                let each = (wanted - spot).div_ceil(zones);
                orders
                    .launch
                    .extend((0..last).map(|other| (other, each)).take(usize::try_from(wanted - spot).unwrap_or(0)));
            } else {
                orders.launch.push((zone, wanted - spot));
            }
        }
        let held = view.fleet.held(last);
        if on_demand > held {
            orders.launch.push((last, on_demand - held));
        }
        let surplus = [(true, spot.saturating_sub(wanted)), (false, held.saturating_sub(on_demand))];
        for (of_spot, many) in surplus {
            let ready = view.fleet.units.iter().filter(|(_, unit)| unit.stage == Stage::Ready);
            let mut ready: Vec<_> = ready.filter(|(_, unit)| view.fleet.is_spot(unit.offering) == of_spot).collect();
            ready.sort_by_key(|(id, unit)| (unit.worker.running(), **id));
            orders.drain.extend(ready.iter().take(usize::try_from(many).unwrap_or(0)).map(|(id, _)| **id));
        }
        let drained = view.fleet.units.iter().filter(|(_, unit)| unit.stage == Stage::Drained);
        orders.release.extend(drained.map(|(id, _)| *id));
        orders
    }
}

fn units(tokens_per_second: f64, fleet: &Fleet) -> u32 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, and saturates")]
    let units = (tokens_per_second / fleet.tokens_per_second - 1e-9).ceil().max(0.0) as u32;
    units
}
