//! Fleets for a recorded load: ours beside static peak, target tracking, a cloud's predictive scaling, and the oracle.

use penstock_policy::fleet::tuning::{self, QUANTILES, Tuner, UTILISATIONS};
use penstock_policy::forecast::Forecaster;

use crate::baselines::Baseline;
use crate::fluid::{self, Outcome, Terms, Units, evaluate};
use crate::forecasting::observe;
use crate::trace::{Trace, TraceError};

/// What 1 % of the load above capacity costs, as a part of the oracle's hours: forty hundredths.
pub const PENALTY: f64 = 40.0;

/// One family of policies, swept over its settings and with the setting chosen online.
#[derive(Clone, Debug)]
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// Every fixed setting.
    pub swept: Vec<Outcome>,
    /// With the setting chosen while running, from what each would have cost so far.
    pub online: Outcome,
}

/// The fleets of one load.
#[derive(Clone, Debug)]
pub struct PlanRun {
    /// The series.
    pub trace: String,
    /// Who knew the load.
    pub oracle: Outcome,
    /// Ours first, then static peak, reactive, AWS-like.
    pub families: Vec<Family>,
}

impl PlanRun {
    /// Hours relative to the oracle's, and what stood above: the cost that settings are chosen by.
    #[must_use]
    pub fn cost(&self, outcome: &Outcome) -> f64 {
        outcome.gpu_hours / self.oracle.gpu_hours + PENALTY * outcome.above
    }

    /// Hours at a share above capacity, relative to the oracle's.
    #[must_use]
    pub fn at_share(&self, family: usize, share: f64) -> Option<f64> {
        fluid::at_share(&self.families[family].swept, share).map(|hours| hours / self.oracle.gpu_hours)
    }
}

/// Runs every policy on a load; `progress` hears the share that is done.
///
/// # Errors
/// [`TraceError::Short`]: the trace is not longer than its warm-up and a day.
pub fn run(
    trace: &Trace,
    warm_up_days: usize,
    until: usize,
    mut progress: impl FnMut(f64),
) -> Result<PlanRun, TraceError> {
    let (day, len) = (trace.per_day(), trace.filled.len().min(until));
    let from = warm_up_days.max(2) * day;
    if len < from + day {
        return Err(TraceError::Short { needed: from + day, found: len });
    }
    let terms = Terms::usual(trace, from, len);
    let ours = ours(trace, &terms, &mut progress);
    let averages: Vec<Vec<f64>> =
        (2 * day..len).step_by(6 * trace.per_hour()).map(|origin| Baseline::Average.points(trace, origin)).collect();
    let utilisations: Vec<f64> = (6..=30).map(|at| f64::from(at) * 0.05).collect();
    let reactive: Vec<Units> = utilisations.iter().map(|u| fluid::reactive(trace, &terms, *u)).collect();
    let aws: Vec<Units> = utilisations.iter().map(|u| fluid::aws_like(trace, &terms, &averages, *u)).collect();
    let peak: Vec<Units> = (4..=30).map(|at| fluid::static_peak(trace, &terms, f64::from(at) * 0.05)).collect();
    let family = |name, candidates: Vec<Units>| Family {
        name,
        swept: candidates.iter().map(|units| evaluate(trace, &terms, units)).collect(),
        online: evaluate(trace, &terms, &chosen(trace, &terms, &candidates)),
    };
    let families = vec![ours, family("static_peak", peak), family("reactive", reactive), family("aws_like", aws)];
    let oracle = evaluate(trace, &terms, &fluid::oracle(trace, &terms));
    Ok(PlanRun { trace: trace.name.clone(), oracle, families })
}

/// The planner's own demand on its own forecast, planned anew in every step.
fn ours(trace: &Trace, terms: &Terms, progress: &mut impl FnMut(f64)) -> Family {
    let (lead, hold) = (terms.delay_steps(trace), terms.hold_steps(trace));
    let mut forecaster = Forecaster::new(trace.step);
    let mut tuner = Tuner::new(tuning_terms(trace, terms));
    let mut by_quantile = vec![vec![1.0; trace.filled.len() + lead + 1]; QUANTILES.len()];
    let mut by_utilisation = vec![vec![1.0; trace.filled.len() + lead + 1]; UTILISATIONS.len()];
    let mut online = vec![1.0; trace.filled.len() + lead + 1];
    for origin in 1..=terms.to {
        let seen = trace.filled[origin - 1] / terms.capacity;
        observe(&mut forecaster, trace, origin - 1);
        let forecast = forecaster.forecast(&trace.local);
        let said = QUANTILES.map(|q| forecast.quantile(q, lead) / terms.capacity);
        tuner.step(seen, &said);
        for (units, said) in by_quantile.iter_mut().zip(said) {
            units[origin + lead] = (said - 1e-9).ceil();
        }
        for (units, u) in by_utilisation.iter_mut().zip(UTILISATIONS) {
            units[origin + lead] = (seen / u).ceil();
        }
        let choice = tuner.choice();
        let planned = forecast.quantile(choice.quantile(), lead) / terms.capacity;
        online[origin + lead] = (planned - 1e-9).ceil().max((seen / choice.utilisation()).ceil());
        if origin % trace.per_hour() == 0 {
            progress(origin as f64 / terms.to as f64);
        }
    }
    let mut swept = Vec::new();
    for planned in &by_quantile {
        for tracked in &by_utilisation {
            let units: Units = planned.iter().zip(tracked).map(|(a, b)| a.max(*b)).collect();
            swept.push(evaluate(trace, terms, &fluid::held(&units, hold)));
        }
    }
    Family { name: "penstock", swept, online: evaluate(trace, terms, &fluid::held(&online, hold)) }
}

fn tuning_terms(trace: &Trace, terms: &Terms) -> tuning::Terms {
    tuning::Terms {
        lead_steps: terms.delay_steps(trace),
        hold_steps: terms.hold_steps(trace),
        launch_cost_steps: terms.billed_start_secs / trace.step.secs() as f64,
        penalty: PENALTY,
        half_life_steps: 4.0 * trace.per_day() as f64,
    }
}

/// Chooses among whole series day by day, by what each would have cost since the beginning (forgotten by half in four
/// days): the same chance for the others to learn their one parameter.
fn chosen(trace: &Trace, terms: &Terms, candidates: &[Units]) -> Units {
    let forget = (-core::f64::consts::LN_2 / (4.0 * trace.per_day() as f64)).exp();
    let oracle = fluid::oracle(trace, terms);
    let (mut bought, mut above) = (vec![0.0; candidates.len()], vec![0.0; candidates.len()]);
    let (mut load, mut need, mut used) = (0.0, 0.0, candidates.len() / 2);
    let mut units = vec![1.0; trace.filled.len()];
    for at in 0..terms.to {
        units[at] = candidates[used][at];
        for (which, candidate) in candidates.iter().enumerate() {
            let before = at.checked_sub(1).map_or(candidate[at], |before| candidate[before]);
            let launched = (candidate[at] - before).max(0.0) * terms.billed_start_secs / trace.step.secs() as f64;
            bought[which] = bought[which] * forget + candidate[at] + launched;
            above[which] = above[which] * forget + (trace.filled[at] / terms.capacity - candidate[at]).max(0.0);
        }
        load = load * forget + trace.filled[at] / terms.capacity;
        need = need * forget + oracle[at];
        if at >= trace.per_day() && load > 0.0 {
            let cost = |which: usize| bought[which] / need + PENALTY * above[which] / load;
            let best = (0..candidates.len()).min_by(|a, b| cost(*a).total_cmp(&cost(*b))).unwrap_or(used);
            if cost(best) < cost(used) * 0.99 {
                used = best;
            }
        }
    }
    units
}
