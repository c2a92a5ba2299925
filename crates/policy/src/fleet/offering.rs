//! What capacity can be had as: an instance type in a zone, spot or on demand, whole or a slice of a GPU.

use core::fmt;
use core::time::Duration;

use crate::time::Timestamp;

use super::score::Score;

/// How capacity is paid for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Market {
    /// Cheap, and can be taken away with two minutes' notice.
    Spot,
    /// Dear, and stays.
    OnDemand,
}

/// What computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Device {
    /// Processors.
    Cpu,
    /// A whole GPU.
    Gpu,
    /// One of so many equal slices of a GPU, sold as an instance or cut by MIG.
    GpuSlice {
        /// How many make a GPU.
        of: u8,
    },
}

/// The name of an offering: type, zone and market, such as `g6.xlarge/use1-az4/spot`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OfferingId(pub String);

impl fmt::Display for OfferingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One kind of capacity.
#[derive(Clone, Debug, PartialEq)]
pub struct Offering {
    /// Its name.
    pub id: OfferingId,
    /// How it is paid for.
    pub market: Market,
    /// What it computes on.
    pub device: Device,
    /// Tokens a second of one worker, measured.
    pub tokens_per_second: f64,
    /// Its price now.
    pub usd_micros_per_hour: u64,
    /// What was learned of launching and keeping it.
    pub score: Score,
    /// How many of it may run at once.
    pub most: u32,
}

impl Offering {
    /// Micro-dollars for a token that it serves, dearer the less likely it is to come and stay.
    #[must_use]
    pub fn usd_micros_per_token(&self) -> f64 {
        self.usd_micros_per_hour as f64 / 3600.0 / self.tokens_per_second.max(1e-9)
    }
}

/// Where a worker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Asked for, not ready yet.
    Launching,
    /// Serves.
    Ready,
    /// Serves for at most two minutes more: the market takes it back.
    Noticed,
    /// Takes nothing new, finishes what it has.
    Draining,
    /// Has nothing left.
    Drained,
}

impl Stage {
    /// Whether it counts as capacity of the next minutes.
    #[must_use]
    pub const fn counts(self) -> bool {
        match self {
            Self::Launching | Self::Ready => true,
            Self::Noticed | Self::Draining | Self::Drained => false,
        }
    }
}

/// A worker that there is.
#[derive(Clone, Debug, PartialEq)]
pub struct Instance {
    /// Its name.
    pub id: String,
    /// What it was bought as.
    pub offering: OfferingId,
    /// Where it stands.
    pub stage: Stage,
    /// Since when it has been asked for.
    pub since: Timestamp,
    /// Sequences that run on it.
    pub running: u32,
}

/// A worker that is not ready after so many times its expected lead is not counted any more.
pub(super) const OVERDUE: u32 = 3;

impl Instance {
    /// Whether it counts as capacity at `now`, where workers usually take `lead` to be ready.
    #[must_use]
    pub fn counts(&self, now: Timestamp, lead: Duration) -> bool {
        let overdue = self.stage == Stage::Launching && now.since(self.since) > lead * OVERDUE;
        self.stage.counts() && !overdue
    }
}
