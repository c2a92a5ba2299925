//! Weights of the experts, learned while running: for each stretch of horizon the inverse sixth power of an expert's mean
//! absolute error, forgotten with a half-life of 72 h.
//!
//! Such weights follow whoever has been right lately without trusting one alone; an error counts when its whole stretch
//! has come, so nothing looks ahead. One bad hour must not dethrone an expert: an error counts no more than a few times
//! what all have been wrong by lately.

use super::experts::{EXPERTS, TRUSTED_AT_FIRST};

/// How an hour-old error weighs against a new one: half after 72 h.
const FORGET: f64 = 0.990_419_1;

const POWER: i32 = -6;

/// Errors that must be known before weights follow them.
const FEWEST: f64 = 6.0;

/// An error counts at most this many times the mean error so far.
const CAP: f64 = 5.0;

/// What is known of the experts at one stretch of horizon.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Errors {
    /// Forgetting sums of absolute errors.
    pub(super) sums: [f64; EXPERTS],
    /// How many errors they stand for.
    pub(super) count: f64,
}

impl Errors {
    /// Takes note of how far each expert was off.
    pub(super) fn note(&mut self, errors: [f64; EXPERTS]) {
        let cap = if self.count >= FEWEST {
            CAP * self.sums.iter().sum::<f64>() / (self.count * self.sums.len() as f64)
        } else {
            f64::INFINITY
        };
        // A series that has been silent must be able to learn when it begins.
        let cap = if cap > 0.0 { cap } else { f64::INFINITY };
        for (sum, error) in self.sums.iter_mut().zip(errors) {
            *sum = *sum * FORGET + error.min(cap);
        }
        self.count = self.count * FORGET + 1.0;
    }

    /// The experts' weights, which add up to one.
    pub(super) fn weights(&self) -> [f64; EXPERTS] {
        let best = self.sums.iter().copied().fold(f64::INFINITY, f64::min);
        let raw = if self.count < FEWEST {
            TRUSTED_AT_FIRST
        } else {
            let floor = 1e-9 + 1e-6 * self.sums.iter().copied().fold(0.0, f64::max);
            self.sums.map(|sum| ((sum + floor) / (best + floor)).powi(POWER))
        };
        let total: f64 = raw.iter().sum();
        raw.map(|weight| weight / total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_who_is_right_is_believed_and_a_newcomer_takes_over() {
        let mut errors = Errors::default();
        for _ in 0..50 {
            errors.note([1.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0]);
        }
        assert!(errors.weights()[0] > 0.98);
        for _ in 0..400 {
            errors.note([3.0, 1.0, 3.0, 3.0, 3.0, 3.0, 3.0]);
        }
        assert!(errors.weights()[1] > 0.95);
    }

    #[test]
    fn one_bad_hour_changes_little() {
        let mut errors = Errors::default();
        for _ in 0..100 {
            errors.note([1.0, 1.2, 2.0, 2.0, 2.0, 2.0, 2.0]);
        }
        let before = errors.weights()[0];
        errors.note([1e6, 1.2, 2.0, 2.0, 2.0, 2.0, 2.0]);
        assert!(before - errors.weights()[0] < 0.2);
    }

    #[test]
    fn weights_add_up_also_of_experts_who_are_never_wrong() {
        let mut errors = Errors::default();
        for _ in 0..20 {
            assert!((errors.weights().iter().sum::<f64>() - 1.0).abs() < 1e-9);
            errors.note([0.0; EXPERTS]);
        }
    }
}
