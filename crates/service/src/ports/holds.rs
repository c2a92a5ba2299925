//! Holds: what is occupied as long as something lasts, and given back once.
//!
//! A rate refills by itself; jobs at a time and money do not. So a hold is kept by name: holding under a name that is held
//! already changes nothing, and giving back a name that is not held does not either. Both may be repeated freely, by an
//! adapter or a caller that lost a reply, and whatever dies in between, nothing is counted twice or given back twice.

use penstock_policy::classes::Class;
use penstock_policy::id::{JobId, PoolId, TenantId};
use penstock_policy::time::Timestamp;

/// What is occupied.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HoldKey {
    /// A tenant's jobs at a time.
    Concurrency {
        /// The tenant.
        tenant: TenantId,
    },
    /// A tenant's money: spent, and held by jobs that have not ended.
    Money {
        /// The tenant.
        tenant: TenantId,
        /// The period, by its name: `2026-11-25` or `2026-11`.
        period: String,
    },
    /// A tenant's return slots of a pool and class, in tokens.
    Returns {
        /// The tenant.
        tenant: TenantId,
        /// The pool.
        pool: PoolId,
        /// The class.
        class: Class,
    },
}

/// The name something is held under: 1 to 64 letters and digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HoldName(String);

impl HoldName {
    /// Checks and makes a name; `None` if `text` breaks the rule above.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let fits = (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        fits.then(|| Self(text.to_owned()))
    }

    /// The name of what a job holds.
    #[must_use]
    pub fn of_job(job: JobId) -> Self {
        Self(job.to_string())
    }

    /// The job, if it is one's.
    #[must_use]
    pub fn job(&self) -> Option<JobId> {
        self.0.parse().ok()
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Something to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldClaim {
    /// What is occupied.
    pub key: HoldKey,
    /// By whom.
    pub name: HoldName,
    /// How much of it.
    pub units: u64,
    /// How much there is.
    pub most: u64,
    /// When it is expected to be given back: told to those who find no room, and the moment from which a recount doubts
    /// it.
    pub until: Timestamp,
    /// Whatever the holder wants to find again, 256 bytes at most.
    pub note: String,
}

/// One hold as found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldEntry {
    /// By whom.
    pub name: HoldName,
    /// How much.
    pub units: u64,
    /// When it is expected to be given back.
    pub until: Timestamp,
    /// What the holder wanted to find again.
    pub note: String,
}

/// All that is held under a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// All holds together, and what was used up for good.
    pub total: u64,
    /// The holds, sorted by name.
    pub entries: Vec<HoldEntry>,
}

impl Holding {
    /// When the next of them is expected to be given back.
    #[must_use]
    pub fn next(&self) -> Option<Timestamp> {
        self.entries.iter().map(|entry| entry.until).min()
    }
}

/// The verdict on a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// It is held, by this call or an earlier one.
    Yes,
    /// There is no room. Nothing was changed.
    Full(Holding),
}
