//! How far the forecast errs: quantiles of what it erred by in the last ten days.
//!
//! Errors are measured in units of sqrt(level x forecast), between the Poisson noise of few requests and the proportional
//! noise of many, and kept apart by stretch of horizon. Up to four hours ahead each quantile is steered by its own record:
//! a bound that was broken too often moves outwards by 0.02 a time. Beyond that too few independent hours come back.
//!
//! Edge cases: before 24 errors are known a fixed spread stands in; in the first day the wider of both.

use std::collections::VecDeque;

/// The quantiles that are kept, ascending.
pub const QUANTILES: [f64; 8] = [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.975, 0.99];

/// Stands in before errors are known: wide rather than wrong.
pub(super) const UNKNOWN: [f64; QUANTILES.len()] = [0.0, 0.1, 0.2, 0.35, 0.6, 0.9, 1.2, 1.6];

/// Hours whose errors are kept.
pub(super) const WINDOW_HOURS: usize = 240;

/// Errors of one hour's forecast that are kept, evenly spread over the stretch.
const KEPT: usize = 12;

/// Fewer errors than this say nothing.
const FEWEST: usize = 24;

const GAIN: f64 = 0.02;

/// Errors are kept in 512ths of their unit.
const UNIT: f64 = 512.0;

/// What is known of the errors at one stretch of horizon.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Residuals {
    /// By hour of origin, oldest first.
    pub(super) hours: VecDeque<Vec<i16>>,
    /// The level at which each quantile is read, steered by its own record.
    pub(super) levels: [f64; QUANTILES.len()],
}

impl Default for Residuals {
    fn default() -> Self {
        Self { hours: VecDeque::new(), levels: QUANTILES }
    }
}

impl Residuals {
    /// Takes the errors of one origin, in units of their scale.
    pub(super) fn note(&mut self, errors: &[f64]) {
        let stride = errors.len().div_ceil(KEPT).max(1);
        self.hours.push_back(errors.iter().step_by(stride).map(|error| kept(*error)).collect());
        if self.hours.len() > WINDOW_HOURS {
            self.hours.pop_front();
        }
    }

    /// Steers the levels by how often the bounds `z` held the errors of one origin.
    pub(super) fn steer(&mut self, errors: &[f64], z: &[f64; QUANTILES.len()]) {
        if errors.is_empty() {
            return;
        }
        for ((level, target), bound) in self.levels.iter_mut().zip(QUANTILES).zip(z) {
            let held = errors.iter().filter(|error| *error <= bound).count() as f64 / errors.len() as f64;
            // Near the end a whole step would leave the scale.
            let gain = GAIN * (4.0 * (1.0 - target)).min(1.0);
            *level = (*level + gain * (target - held)).clamp(0.3, 0.998);
        }
    }

    /// The quantiles of the errors, in units of the scale.
    pub(super) fn quantiles(&self, first_day: bool) -> [f64; QUANTILES.len()] {
        let mut all: Vec<i16> = self.hours.iter().flatten().copied().collect();
        if all.len() < FEWEST {
            return UNKNOWN;
        }
        all.sort_unstable();
        let mut most = 0.0f64;
        let mut z = self.levels.map(|level| {
            most = most.max(level);
            sorted_quantile(&all, most)
        });
        if first_day {
            for (z, unknown) in z.iter_mut().zip(UNKNOWN) {
                *z = z.max(unknown);
            }
        }
        z
    }
}

fn kept(error: f64) -> i16 {
    #[expect(clippy::cast_possible_truncation, reason = "a float becomes the nearest integer there is")]
    let kept = (error * UNIT).round() as i16;
    kept
}

/// Linear between neighbours, as most statistics programs do by default.
fn sorted_quantile(sorted: &[i16], level: f64) -> f64 {
    let at = level * (sorted.len() - 1) as f64;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the length")]
    let below = at as usize;
    let (low, high) = (f64::from(sorted[below]), f64::from(sorted[(below + 1).min(sorted.len() - 1)]));
    (low + (at - below as f64) * (high - low)) / UNIT
}

/// The value at quantile `q` of a table at [`QUANTILES`], linear between its entries.
pub(super) fn between(table: &[f64; QUANTILES.len()], q: f64) -> f64 {
    let above = QUANTILES.partition_point(|level| *level < q);
    let (Some(low), Some(high)) = (above.checked_sub(1), (above < QUANTILES.len()).then_some(above)) else {
        return table[above.min(QUANTILES.len() - 1)];
    };
    let share = (q - QUANTILES[low]) / (QUANTILES[high] - QUANTILES[low]);
    table[low] + share * (table[high] - table[low])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_errors_that_came() {
        let mut residuals = Residuals::default();
        assert_eq!(residuals.quantiles(false), UNKNOWN);
        for hour in 0..240 {
            let errors: Vec<f64> = (0..12).map(|at| f64::from((hour * 12 + at) * 7 % 1000) / 1000.0).collect();
            residuals.note(&errors);
        }
        let z = residuals.quantiles(false);
        for (z, q) in z.iter().zip(QUANTILES) {
            assert!((z - q).abs() < 0.01, "{z} for {q}");
        }
        assert!(residuals.quantiles(true)[5] >= 0.9);
    }

    #[test]
    fn a_bound_that_is_broken_too_often_moves_outwards() {
        let mut residuals = Residuals::default();
        for _ in 0..100 {
            residuals.steer(&[1.0], &[0.0; 8]);
        }
        assert!(residuals.levels[4] > 0.99);
        for _ in 0..1000 {
            residuals.steer(&[-1.0], &[0.0; 8]);
        }
        assert!(residuals.levels[4] < 0.6);
    }

    #[test]
    fn quantiles_between_the_kept_ones_are_interpolated() {
        assert!((between(&QUANTILES, 0.85) - 0.85).abs() < 1e-12);
        assert_eq!((between(&QUANTILES, 0.1), between(&QUANTILES, 1.0)), (0.5, 0.99));
    }
}
