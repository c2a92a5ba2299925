//! What load will come: the next 24 hours, in steps, with quantiles.
//!
//! Seven plain experts ([`experts`]) are weighed by how right they have been lately at each stretch of horizon
//! ([`combine`]); how far the whole errs is read from its own errors ([`quantile`]). That beats the usual statistical and
//! learned models on loads like ours, and costs a tenth of a millisecond, so that it can run every five minutes: how fresh
//! a forecast is matters more than which model made it.
//!
//! Demand is what was *offered*: first attempts, refused ones included; retries, joins and cache hits excluded. Steps in
//! which nobody counted are missing, not zero.
//!
//! What was forecast is not kept: the experts are functions of the history, so when an hour has come that was forecast
//! eight hours ago, they are asked again what they said then, with the weights of then. So the whole memory of a series
//! is four weeks of values, a few sums, and ten days of errors: some 60 KB ([`Forecaster::encode`]).
//!
//! Edge cases: with no history nothing is known, which is told ([`Basis::Nothing`]) and is not a forecast of zero. In the
//! first day the last hour goes on, with wide bounds. A gap is missing steps; after a gap longer than the memory
//! everything begins anew. A step that comes late or twice is not taken.

pub mod combine;
pub mod experts;
mod local;
pub mod quantile;
mod ring;
mod state;
mod step;

pub use local::LocalTime;
pub use quantile::QUANTILES;
pub use ring::{DAYS, Load};
pub use step::{BUCKETS, InvalidStep, Step};

use std::collections::VecDeque;

pub use crate::bytes::Undecodable;
use crate::time::Timestamp;

use combine::Errors;
use experts::{EXPERTS, View};
use quantile::{Residuals, UNKNOWN, between};
use ring::Ring;

/// Hours whose weights and bounds are kept, to tell what was said then.
const REMEMBERED_HOURS: usize = 25;

/// Bounds are steered by their record up to this bucket: four hours ahead.
const STEERED_BUCKETS: usize = 3;

/// Everything that is known of one series of one pool.
#[derive(Clone, Debug, PartialEq)]
pub struct Forecaster {
    step: Step,
    ring: Ring,
    errors: [Errors; BUCKETS],
    residuals: [Residuals; BUCKETS],
    /// What weights and bounds were at each of the last hours, newest last.
    hours: VecDeque<Hour>,
}

/// Weights and bounds as of one hour.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Hour {
    weights: [[f64; EXPERTS]; BUCKETS],
    z: [[f64; QUANTILES.len()]; BUCKETS],
}

/// What became of an observation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It was added; this many missing steps lay between.
    Added {
        /// Steps that nobody counted.
        missing: u32,
    },
    /// That step is known already; nothing changed.
    Late,
    /// The gap was longer than the memory: everything begins anew with this step.
    BegunAnew,
}

/// What a forecast rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// No history at all: nothing is known, least of all that nobody comes.
    Nothing,
    /// Less than a day: the last hour goes on, with wide bounds. Scaling by what is seen must stay in charge.
    FirstDay,
    /// The experts.
    Experts,
}

impl Forecaster {
    /// A series of which nothing is known.
    #[must_use]
    pub fn new(step: Step) -> Self {
        Self {
            step,
            ring: Ring::default(),
            errors: [Errors::default(); BUCKETS],
            residuals: core::array::from_fn(|_| Residuals::default()),
            hours: VecDeque::new(),
        }
    }

    /// The length of its steps.
    #[must_use]
    pub const fn step(&self) -> Step {
        self.step
    }

    /// When the first step begins that is not known yet.
    #[must_use]
    pub fn known_until(&self) -> Timestamp {
        self.step.begin(self.ring.end())
    }

    /// Takes what was offered in the step that `at` lies in; call it when the step is over.
    ///
    /// A constant effort a step, and once an hour that of one more forecast.
    pub fn observe(&mut self, at: Timestamp, load: Load, local: &LocalTime) -> Taken {
        let index = self.step.index(at);
        if self.ring.raw.is_empty() {
            self.ring.begin = index;
        }
        let Ok(missing) = u32::try_from(index - self.ring.end()) else {
            return Taken::Late;
        };
        if i64::from(missing) > DAYS * self.step.per_day() {
            *self = Self::new(self.step);
            self.ring.begin = index;
            self.push(load, local);
            return Taken::BegunAnew;
        }
        for _ in 0..missing {
            self.push(Load::Missing, local);
        }
        self.push(load, local);
        Taken::Added { missing }
    }

    fn push(&mut self, load: Load, local: &LocalTime) {
        self.ring.push(load, local, self.step);
        if self.ring.end().rem_euclid(self.step.per_hour()) == 0 {
            self.learn(local);
        }
    }

    /// Compares what has come with what was said of it, and sets the weights and bounds of the coming hour.
    fn learn(&mut self, local: &LocalTime) {
        let view = View::new(&self.ring, local, self.step);
        let now = self.ring.end();
        if view.age(now) == self.step.per_day() {
            // The first day's errors are those of another method.
            self.residuals = core::array::from_fn(|_| Residuals::default());
        }
        for bucket in 0..BUCKETS {
            let hours = Step::matures_after_hours(bucket);
            let origin = now - hours * self.step.per_hour();
            let then = usize::try_from(hours).ok().and_then(|hours| self.hours.len().checked_sub(hours));
            let Some(then) = then.map(|at| self.hours[at]) else { continue };
            let ahead = self.step.bucket(bucket);
            let said = view.experts(origin, ahead.clone());
            let came: Vec<f64> = ahead.clone().map(|ahead| view.raw(origin + ahead)).collect();
            let first_day = view.age(origin) < self.step.per_day();
            // An hour of the first day is no record of the experts.
            if first_day && view.age(now) >= self.step.per_day() {
                continue;
            }
            if !first_day && let Some(errors) = absolute(&said, &came) {
                self.errors[bucket].note(errors);
            }
            let level = level(&view, origin, self.step);
            let errors: Vec<f64> = came
                .iter()
                .enumerate()
                .filter(|(_, came)| !came.is_nan())
                .map(|(at, came)| {
                    let point = mix(&said, &then.weights[bucket], at);
                    (came - point) / scale(point, level)
                })
                .collect();
            if bucket < STEERED_BUCKETS && !first_day {
                self.residuals[bucket].steer(&errors, &then.z[bucket]);
            }
            self.residuals[bucket].note(&errors);
        }
        let first_day = view.age(now) < self.step.per_day();
        self.hours.push_back(Hour {
            weights: self.errors.map(|errors| errors.weights()),
            z: core::array::from_fn(|bucket| self.residuals[bucket].quantiles(first_day)),
        });
        if self.hours.len() > REMEMBERED_HOURS {
            self.hours.pop_front();
        }
    }

    /// What will come in the day after the last known step.
    #[must_use]
    pub fn forecast(&self, local: &LocalTime) -> Forecast {
        let view = View::new(&self.ring, local, self.step);
        let origin = self.ring.end();
        let said = view.experts(origin, 0..self.step.per_day());
        let hour = self
            .hours
            .back()
            .copied()
            .unwrap_or(Hour { weights: [Errors::default().weights(); BUCKETS], z: [UNKNOWN; BUCKETS] });
        let level = level(&view, origin, self.step);
        let basis = if self.ring.raw.iter().all(|value| value.is_nan()) {
            Basis::Nothing
        } else if view.age(origin) < self.step.per_day() {
            Basis::FirstDay
        } else {
            Basis::Experts
        };
        let points = (0..self.step.per_day())
            .enumerate()
            .map(|(at, ahead)| mix(&said, &hour.weights[self.step.bucket_of(ahead)], at))
            .collect();
        Forecast { step: self.step, origin, basis, points, level, hour }
    }
}

/// The next 24 hours.
#[derive(Clone, Debug, PartialEq)]
pub struct Forecast {
    step: Step,
    origin: i64,
    basis: Basis,
    points: Vec<f64>,
    level: f64,
    hour: Hour,
}

impl Forecast {
    /// What it rests on.
    #[must_use]
    pub const fn basis(&self) -> Basis {
        self.basis
    }

    /// When its first step begins.
    #[must_use]
    pub const fn from(&self) -> Timestamp {
        self.step.begin(self.origin)
    }

    /// The length of its steps.
    #[must_use]
    pub const fn step(&self) -> Step {
        self.step
    }

    /// How many steps it has.
    #[must_use]
    pub fn steps(&self) -> usize {
        self.points.len()
    }

    /// What the experts together expect in the step `ahead` (0 is the first); beyond the last step, what the last one says.
    #[must_use]
    pub fn point(&self, ahead: usize) -> f64 {
        self.points.get(ahead).or(self.points.last()).copied().unwrap_or(0.0)
    }

    /// What the step `ahead` stays within with probability `q` (0.5 to 0.99; beyond, the nearest of these).
    #[must_use]
    pub fn quantile(&self, q: f64, ahead: usize) -> f64 {
        let point = self.point(ahead);
        let bucket = self.step.bucket_of(i64::try_from(ahead).unwrap_or(i64::MAX));
        (point + between(&self.hour.z[bucket], q) * scale(point, self.level)).max(0.0)
    }

    /// The weights of the experts in the step `ahead`.
    #[must_use]
    pub fn weights(&self, ahead: usize) -> [f64; EXPERTS] {
        self.hour.weights[self.step.bucket_of(i64::try_from(ahead).unwrap_or(i64::MAX))]
    }
}

/// The mean absolute error of each expert; `None` if nothing of that stretch is known.
fn absolute(said: &[Vec<f64>; EXPERTS], came: &[f64]) -> Option<[f64; EXPERTS]> {
    let known = came.iter().filter(|came| !came.is_nan()).count();
    (known > 0).then(|| {
        core::array::from_fn(|expert| {
            let off = came.iter().zip(&said[expert]).filter(|(came, _)| !came.is_nan());
            off.map(|(came, said)| (came - said).abs()).sum::<f64>() / known as f64
        })
    })
}

fn mix(said: &[Vec<f64>; EXPERTS], weights: &[f64; EXPERTS], at: usize) -> f64 {
    said.iter().zip(weights).map(|(said, weight)| weight * said[at]).sum::<f64>().max(0.0)
}

/// The mean of the last day, or a quarter of the last week's if that is more: an outage does not narrow the bounds.
fn level(view: &View<'_>, origin: i64, step: Step) -> f64 {
    let mean = |days: i64| view.mean(origin - days * step.per_day(), origin).unwrap_or(0.0);
    mean(1).max(0.25 * mean(7)) + 1e-9
}

/// What errors are measured in: between the noise of few and the noise of many.
fn scale(point: f64, level: f64) -> f64 {
    (point.max(0.05 * level) * level).sqrt()
}
