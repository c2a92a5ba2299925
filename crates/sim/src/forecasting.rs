//! Forecasting a recorded series as it would have been forecast then, beside the plain methods.

use penstock_policy::forecast::{Forecast, Forecaster, Load, QUANTILES};

use crate::baselines::{Baseline, Bounded};
use crate::score::{Said, Scores};
use crate::trace::{Trace, TraceError};

/// The scores of a series.
#[derive(Clone, Debug)]
pub struct ForecastRun {
    /// The series.
    pub trace: String,
    /// Days that were not scored.
    pub warm_up_days: usize,
    /// Hourly origins that were scored.
    pub origins: usize,
    /// Ours.
    pub ours: Scores,
    /// The plain methods, in the order of [`Baseline::ALL`].
    pub baselines: Vec<(Baseline, Scores)>,
}

/// Takes the value of step `at` as the door would have counted it.
pub fn observe(forecaster: &mut Forecaster, trace: &Trace, at: usize) {
    let load = if trace.raw[at].is_nan() { Load::Missing } else { Load::Offered(trace.raw[at]) };
    let _ = forecaster.observe(trace.at(at), load, &trace.local);
}

/// Every quantile of every step of a forecast.
#[must_use]
pub fn said(forecast: &Forecast) -> Said {
    (0..forecast.steps()).map(|ahead| QUANTILES.map(|q| forecast.quantile(q, ahead))).collect()
}

/// Which origins are scored.
#[derive(Clone, Copy, Debug)]
pub struct Scored {
    /// Days before the first of them.
    pub warm_up_days: usize,
    /// The last of them lies before this step.
    pub until: usize,
}

/// Forecasts a series hour by hour; `progress` hears the share that is done.
///
/// # Errors
/// [`TraceError::Short`]: the trace is hardly longer than its warm-up.
pub fn run(trace: &Trace, scored: Scored, mut progress: impl FnMut(f64)) -> Result<ForecastRun, TraceError> {
    let (hour, day) = (trace.per_hour(), trace.per_day());
    // Without a warm-up the first hours themselves are looked at.
    let needed = if scored.warm_up_days == 0 { 3 * hour } else { scored.warm_up_days.max(2) * day + 2 * hour };
    if trace.raw.len() < needed {
        return Err(TraceError::Short { needed, found: trace.raw.len() });
    }
    let mut forecaster = Forecaster::new(trace.step);
    let mut ours = Scores::default();
    let mut baselines: Vec<(Bounded, Baseline, Scores)> =
        Baseline::ALL.map(|baseline| (Bounded::new(baseline), baseline, Scores::default())).into();
    let mut origins = 0;
    let end = trace.raw.len().min(scored.until);
    for origin in 1..end {
        observe(&mut forecaster, trace, origin - 1);
        if origin % hour != 0 {
            continue;
        }
        progress(origin as f64 / end as f64);
        let counts = origin >= scored.warm_up_days * day;
        let came = &trace.raw[origin..(origin + day).min(trace.raw.len())];
        if origin >= 2 * day {
            for (bounded, _, scores) in &mut baselines {
                let said = bounded.say(trace, origin);
                if counts {
                    scores.add(&said, came, hour);
                }
            }
        }
        if counts {
            ours.add(&said(&forecaster.forecast(&trace.local)), came, hour);
            origins += 1;
        }
    }
    Ok(ForecastRun {
        trace: trace.name.clone(),
        warm_up_days: scored.warm_up_days,
        origins,
        ours,
        baselines: baselines.into_iter().map(|(_, baseline, scores)| (baseline, scores)).collect(),
    })
}
