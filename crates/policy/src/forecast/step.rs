//! The length of the steps that load is counted in, and the horizons that are told apart.

use core::fmt;
use core::ops::Range;
use core::time::Duration;

use crate::time::Timestamp;

/// How many stretches of horizon have weights and residuals of their own.
pub const BUCKETS: usize = 6;

/// Their edges, in hours ahead.
const EDGES: [i64; BUCKETS + 1] = [0, 1, 2, 4, 8, 16, 24];

/// The length of a step: a whole part of an hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step(i64);

/// A length that does not divide an hour, or lies outside 60 to 3,600 seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidStep(pub u32);

impl fmt::Display for InvalidStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s is no step: use a whole part of an hour, of 60 s or more", self.0)
    }
}

impl core::error::Error for InvalidStep {}

impl Step {
    /// Five minutes: what the fleet is planned in.
    pub const FIVE_MINUTES: Self = Self(300);

    /// A step of `secs` seconds.
    ///
    /// # Errors
    /// [`InvalidStep`] if it is shorter than a minute or does not divide an hour.
    pub const fn new(secs: u32) -> Result<Self, InvalidStep> {
        if secs >= 60 && secs <= 3_600 && 3_600 % secs == 0 { Ok(Self(secs as i64)) } else { Err(InvalidStep(secs)) }
    }

    /// Its length in seconds.
    #[must_use]
    pub const fn secs(self) -> i64 {
        self.0
    }

    /// Its length.
    #[must_use]
    pub const fn duration(self) -> Duration {
        Duration::from_secs(self.0.unsigned_abs())
    }

    /// Steps in an hour.
    #[must_use]
    pub const fn per_hour(self) -> i64 {
        3_600 / self.0
    }

    /// Steps in a day: also how far a forecast reaches.
    #[must_use]
    pub const fn per_day(self) -> i64 {
        86_400 / self.0
    }

    /// The number of the step that `at` lies in, counted from the epoch.
    #[must_use]
    pub const fn index(self, at: Timestamp) -> i64 {
        at.as_secs().div_euclid(self.0)
    }

    /// When a step begins.
    #[must_use]
    pub const fn begin(self, index: i64) -> Timestamp {
        Timestamp::from_millis(index.saturating_mul(self.0).saturating_mul(1_000))
    }

    /// Steps ahead that belong to a bucket.
    #[must_use]
    pub(super) const fn bucket(self, bucket: usize) -> Range<i64> {
        EDGES[bucket] * self.per_hour()..EDGES[bucket + 1] * self.per_hour()
    }

    /// After how many hours a bucket's forecast can be compared with all that came.
    pub(super) const fn matures_after_hours(bucket: usize) -> i64 {
        EDGES[bucket + 1]
    }

    /// The bucket of a step ahead; beyond a day the last one.
    pub(super) fn bucket_of(self, ahead: i64) -> usize {
        let hours = ahead / self.per_hour();
        EDGES[1..BUCKETS].iter().filter(|edge| **edge <= hours).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_divide_an_hour() {
        assert!(Step::new(300).is_ok() && Step::new(1800).is_ok() && Step::new(60).is_ok());
        assert_eq!(Step::new(700), Err(InvalidStep(700)));
        assert_eq!(Step::new(0), Err(InvalidStep(0)));
        assert_eq!(Step::new(7200), Err(InvalidStep(7200)));
    }

    #[test]
    fn every_step_ahead_lies_in_the_bucket_that_says_so() {
        let step = Step::FIVE_MINUTES;
        for bucket in 0..BUCKETS {
            assert!(step.bucket(bucket).all(|ahead| step.bucket_of(ahead) == bucket));
        }
        assert_eq!(step.bucket(BUCKETS - 1).end, step.per_day());
    }
}
