//! The terms a tenant is served on: what it may use, what may be kept of it, what may answer in a model's place.
//!
//! Plain values; who asks them is `admission` (limits), `cache` (caching), `degrade` (consent).

use core::time::Duration;

use crate::gcra::Limit;

/// A tenant's limits. The first two every tenant has; a limit that is `None` is not enforced and costs nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TenantLimits {
    /// Requests.
    pub requests: Limit,
    /// Tokens, prompt and answer together.
    pub tokens: Limit,
    /// Jobs accepted and not ended at the same time.
    pub concurrency: Option<u32>,
    /// Money.
    pub budget: Option<Budget>,
    /// How fast the rate of requests may grow.
    pub ramp: Option<Ramp>,
}

impl TenantLimits {
    /// Limits of requests and tokens alone.
    #[must_use]
    pub const fn rates(requests: Limit, tokens: Limit) -> Self {
        Self { requests, tokens, concurrency: None, budget: None, ramp: None }
    }
}

/// An amount of money that may be spent in each period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Millionths of a US dollar.
    pub usd_micros: u64,
    /// In each of these.
    pub period: Period,
}

/// A budget's period, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Period {
    /// A calendar day.
    Day,
    /// A calendar month.
    Month,
}

impl Period {
    /// Its stored name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Month => "month",
        }
    }

    /// The period of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Day, Self::Month].into_iter().find(|period| period.name() == name)
    }
}

/// How fast a tenant's rate of requests may grow, so that the fleet can follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ramp {
    /// Requests a minute that are never held back, however sudden.
    pub floor_per_minute: u64,
    /// Growth allowed beyond what was reached before, in percent a minute.
    pub growth_percent_per_minute: u32,
}

/// Which answers may be kept and given again to the same tenant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Caching {
    /// None.
    Off,
    /// Those that would come out the same: temperature 0, or a seed.
    #[default]
    Deterministic,
    /// All.
    All,
}

impl Caching {
    /// Its stored name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Deterministic => "deterministic",
            Self::All => "all",
        }
    }

    /// The rule of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Off, Self::Deterministic, Self::All].into_iter().find(|rule| rule.name() == name)
    }
}

/// What a tenant accepts in place of an answer of the model it asked for, when that model cannot answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FallbackConsent {
    /// An answer of an upstream outside this deployment, which then sees the prompt.
    pub upstream: bool,
    /// An answer of a smaller model.
    pub smaller_model: bool,
    /// The pool's configured text.
    pub default_answer: bool,
}

/// What is kept of a tenant's requests once they are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Whether answers are kept at all beyond what delivering them needs.
    pub store: bool,
    /// For how long.
    pub keep: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        Self { store: true, keep: Duration::from_secs(7 * 24 * 3600) }
    }
}
