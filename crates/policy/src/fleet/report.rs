//! What a plan says for itself: every step with its reason, and what could not be had.

use core::fmt;

use super::demand::Cause;
use super::offering::OfferingId;
use crate::classes::Class;

/// Why workers are launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaunchReason {
    /// More is needed than stands.
    Need(Cause),
    /// The market takes workers back: their successors start while they still serve.
    Notice,
    /// Spot has been short for a minute; on demand stands in.
    SpotShort,
    /// Work of this class is due before spot could be waited for.
    Due(Class),
}

/// Why a worker goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainReason {
    /// For a quarter of an hour less has been needed.
    Surplus,
    /// Spot is back: what stood in goes.
    SpotBack,
    /// Nobody has come for a quarter of an hour, and nobody is expected.
    Idle,
}

/// One step of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Launch so many.
    Launch {
        /// Of which kind.
        offering: OfferingId,
        /// How many.
        count: u32,
        /// Why.
        reason: LaunchReason,
    },
    /// Let a worker finish what it has and take nothing new.
    Drain {
        /// Which.
        instance: String,
        /// Why.
        reason: DrainReason,
    },
    /// Hand back a worker that has nothing left.
    Release {
        /// Which.
        instance: String,
    },
}

/// What stands between the need and the plan.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Short {
    /// The pool's own limits.
    Limits {
        /// Tokens a second that are missing.
        tokens_per_second: f64,
    },
    /// No offering is open.
    NothingToBuy {
        /// Tokens a second that are missing.
        tokens_per_second: f64,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Launch { offering, count, reason } => write!(f, "launch {count} x {offering}: {reason}"),
            Self::Drain { instance, reason } => write!(f, "drain {instance}: {reason}"),
            Self::Release { instance } => write!(f, "release {instance}: drained"),
        }
    }
}

impl fmt::Display for LaunchReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Need(Cause::Forecast) => write!(f, "the forecast"),
            Self::Need(Cause::Tracking) => write!(f, "the load"),
            Self::Need(Cause::Backlog(class)) => write!(f, "what waits in {}", class.name()),
            Self::Need(Cause::Floor) => write!(f, "the pool's floor"),
            Self::Notice => write!(f, "successors of workers that the market takes back"),
            Self::SpotShort => write!(f, "spot is short"),
            Self::Due(class) => write!(f, "{} is due before spot could come", class.name()),
        }
    }
}

impl fmt::Display for DrainReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Surplus => write!(f, "less is needed"),
            Self::SpotBack => write!(f, "spot is back"),
            Self::Idle => write!(f, "nobody comes"),
        }
    }
}
