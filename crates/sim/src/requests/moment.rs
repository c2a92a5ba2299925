//! Time in a simulation: microseconds from its beginning, so that a step of an engine is more than rounding.

use core::time::Duration;

use penstock_policy::time::Timestamp;

/// A moment of a simulation, in microseconds from its beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

/// When simulations begin: a whole number of every step a forecast can have.
const BEGIN: Timestamp = Timestamp::from_millis(1_800_000_000_000);

impl Moment {
    /// So many seconds from the beginning; negative ones are the beginning.
    #[must_use]
    pub fn from_secs(secs: f64) -> Self {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, and saturates")]
        let micros = (secs.max(0.0) * 1e6).round() as u64;
        Self(micros)
    }

    /// Seconds from the beginning.
    #[must_use]
    pub fn secs(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// The moment `secs` later.
    #[must_use]
    pub fn plus(self, secs: f64) -> Self {
        Self(self.0.saturating_add(Self::from_secs(secs).0))
    }

    /// Seconds since an earlier moment; 0 if it is not earlier.
    #[must_use]
    pub fn since(self, earlier: Self) -> f64 {
        self.0.saturating_sub(earlier.0) as f64 / 1e6
    }

    /// The same moment as policy sees it: whole milliseconds, rounded down.
    #[must_use]
    pub fn timestamp(self) -> Timestamp {
        BEGIN.after(Duration::from_micros(self.0))
    }

    /// The first moment that policy sees as `at` or later.
    #[must_use]
    pub fn at(at: Timestamp) -> Self {
        Self(u64::try_from(at.since(BEGIN).as_micros()).unwrap_or(u64::MAX))
    }
}
