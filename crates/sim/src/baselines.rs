//! The plain methods that a forecast must beat, with the same honest bounds: quantiles of their own matured errors.

use std::collections::VecDeque;

use penstock_policy::forecast::QUANTILES;

use crate::score::Said;
use crate::trace::Trace;

/// Stretches of horizon that have errors of their own, in hours.
const EDGES: [usize; 7] = [0, 1, 2, 4, 8, 16, 24];

/// Before errors are known.
const UNKNOWN: [f64; QUANTILES.len()] = [0.0, 0.1, 0.2, 0.35, 0.6, 0.9, 1.2, 1.6];

const WINDOW_HOURS: usize = 240;

/// A plain method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Baseline {
    /// The last step goes on.
    Last,
    /// The mean of the last hour goes on.
    MeanHour,
    /// As yesterday.
    NaiveDay,
    /// As a week ago; as yesterday before there is one.
    NaiveWeek,
    /// The mean of the last 14 days at this time, the same weekday counting three times, the other kind of day a quarter:
    /// what a cloud's predictive scaling is taken for.
    Average,
}

impl Baseline {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Last, Self::MeanHour, Self::NaiveDay, Self::NaiveWeek, Self::Average];

    /// Its name in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Last => "last",
            Self::MeanHour => "mean_1h",
            Self::NaiveDay => "naive_day",
            Self::NaiveWeek => "naive_week",
            Self::Average => "average_14d",
        }
    }

    /// What it says at `origin` (at least a day into the trace) of the next day.
    #[must_use]
    pub fn points(self, trace: &Trace, origin: usize) -> Vec<f64> {
        let (y, day) = (&trace.filled, trace.per_day());
        let steps = origin..origin + day;
        match self {
            Self::Last => steps.map(|_| y[origin - 1]).collect(),
            Self::MeanHour => {
                let hour = &y[origin - trace.per_hour()..origin];
                let mean = hour.iter().sum::<f64>() / hour.len() as f64;
                steps.map(|_| mean).collect()
            }
            Self::NaiveDay => steps.map(|at| y[at - day]).collect(),
            Self::NaiveWeek => steps.map(|at| y[at.checked_sub(7 * day).unwrap_or(at - day)]).collect(),
            Self::Average => steps.map(|at| average(trace, at)).collect(),
        }
    }
}

fn average(trace: &Trace, at: usize) -> f64 {
    let day = trace.per_day();
    let weekday = |at: usize| (trace.at(at).as_secs().div_euclid(86_400) + 3).rem_euclid(7);
    let (mut sum, mut weights) = (0.0, 0.0);
    for past in (1..=14).map_while(|days| at.checked_sub(days * day)) {
        let (then, now) = (weekday(past), weekday(at));
        let weight = if then == now {
            3.0
        } else if (then >= 5) == (now >= 5) {
            1.0
        } else {
            0.25
        };
        sum += weight * trace.filled[past];
        weights += weight;
    }
    sum / weights
}

/// A plain method with bounds from its own errors of the last ten days, origin by origin, an hour apart.
#[derive(Debug)]
pub struct Bounded {
    baseline: Baseline,
    /// What was said at the last day's origins, with the scale of each step.
    pending: VecDeque<(usize, Vec<f64>, f64)>,
    errors: [VecDeque<Vec<f64>>; 6],
}

impl Bounded {
    /// Begins without errors.
    #[must_use]
    pub fn new(baseline: Baseline) -> Self {
        Self { baseline, pending: VecDeque::new(), errors: core::array::from_fn(|_| VecDeque::new()) }
    }

    /// What it says at this origin; origins come an hour apart.
    pub fn say(&mut self, trace: &Trace, origin: usize) -> Said {
        let hour = trace.per_hour();
        for (bucket, edges) in EDGES.windows(2).enumerate() {
            let Some(then) = origin.checked_sub(edges[1] * hour) else { continue };
            if let Some((_, points, level)) = self.pending.iter().find(|(at, _, _)| *at == then) {
                let errors = (edges[0] * hour..edges[1] * hour)
                    .map(|ahead| (trace.raw[then + ahead] - points[ahead]) / scale(points[ahead], *level))
                    .filter(|error| !error.is_nan());
                let errors = errors.collect();
                self.errors[bucket].push_back(errors);
                if self.errors[bucket].len() > WINDOW_HOURS {
                    self.errors[bucket].pop_front();
                }
            }
        }
        let points = self.baseline.points(trace, origin);
        let level = level(trace, origin);
        let z: Vec<[f64; QUANTILES.len()]> = self.errors.iter().map(quantiles).collect();
        let said = points
            .iter()
            .enumerate()
            .map(|(ahead, point)| {
                let bucket = EDGES[1..6].iter().filter(|edge| **edge * hour <= ahead).count();
                z[bucket].map(|z| (point + z * scale(*point, level)).max(0.0))
            })
            .collect();
        self.pending.push_back((origin, points, level));
        if self.pending.len() > 25 {
            self.pending.pop_front();
        }
        said
    }
}

fn quantiles(errors: &VecDeque<Vec<f64>>) -> [f64; QUANTILES.len()] {
    let mut all: Vec<f64> = errors.iter().flatten().copied().collect();
    if all.len() < 24 {
        return UNKNOWN;
    }
    all.sort_by(f64::total_cmp);
    QUANTILES.map(|q| quantile(&all, q))
}

/// The quantile of sorted values, linear between neighbours.
#[must_use]
pub fn quantile(sorted: &[f64], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let at = q * last as f64;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the length")]
    let below = (at as usize).min(last);
    sorted[below] + (at - below as f64) * (sorted[(below + 1).min(last)] - sorted[below])
}

fn level(trace: &Trace, origin: usize) -> f64 {
    let mean = |days: usize| {
        let past = &trace.filled[origin.saturating_sub(days * trace.per_day())..origin];
        past.iter().sum::<f64>() / past.len() as f64
    };
    mean(1).max(0.25 * mean(7)) + 1e-9
}

fn scale(point: f64, level: f64) -> f64 {
    (point.max(0.05 * level) * level).sqrt()
}
