//! How a pool fares, counted by everybody who sees one of its jobs begin or end, in slots of ten seconds.
//!
//! Counts are gathered before they are added to the shared tally (`crate::gather`).
//!
//! What counts as an error: a job that ended as our failure, and each attempt that came to nothing (an engine's fault, a
//! lease that lapsed), counted by the next worker that claims the job, since of a worker that died nobody else can
//! tell. What does not: the client's mistakes, cancelling, work handed back on purpose, refusals at the door.

use std::time::Duration;

use penstock_policy::degrade::{self, SLOT};
use penstock_policy::id::PoolId;
use penstock_policy::time::Timestamp;

use crate::Ports;
use crate::gather::Gather;
use crate::ports::{Counts, TallyKey};

/// How long a slot is kept, for those who look back.
const KEPT: Duration = Duration::from_secs(3600);

/// What was seen of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// It ended well, or by the client's fault.
    Well,
    /// It, or an attempt at it, failed by ours.
    Failed,
    /// It was not begun in time, or did not say a word in time.
    TimedOut,
    /// A job of an urgent class was started.
    Started {
        /// It had waited too long.
        late: bool,
    },
}

/// Which slot a moment belongs to.
pub(crate) fn slot_of(now: Timestamp) -> i64 {
    now.as_millis().div_euclid(slot_ms())
}

/// When a slot began.
pub(crate) fn begin_of(slot: i64) -> Timestamp {
    Timestamp::from_millis(slot.saturating_mul(slot_ms()))
}

fn slot_ms() -> i64 {
    i64::try_from(SLOT.as_millis()).unwrap_or(i64::MAX).max(1)
}

/// The tally of a pool's slot.
pub(crate) fn key_of(pool: &PoolId, slot: i64) -> TallyKey {
    TallyKey::new("health", pool.as_str(), &slot.to_string())
}

/// Counts as read.
pub(crate) fn read(stored: &Counts) -> degrade::Counts {
    let of = |name: &str| stored.get(name).and_then(|count| u64::try_from(*count).ok()).unwrap_or(0);
    degrade::Counts { ok: of("ok"), errors: of("er"), timeouts: of("to"), started: of("st"), late: of("la") }
}

/// Counts what is seen of jobs.
#[derive(Clone)]
pub(crate) struct Health {
    ports: Ports,
    gather: Gather,
}

impl Health {
    pub(crate) fn new(ports: Ports, gather: Gather) -> Self {
        Self { ports, gather }
    }

    /// Counts what was seen.
    pub(crate) fn count(&self, pool: &PoolId, seen: Seen) {
        let now = self.ports.clock.now();
        let names: &[&str] = match seen {
            Seen::Well => &["ok"],
            Seen::Failed => &["er"],
            Seen::TimedOut => &["to"],
            Seen::Started { late: false } => &["st"],
            Seen::Started { late: true } => &["st", "la"],
        };
        let slot = slot_of(now);
        let ones = names.iter().map(|name| (*name, 1));
        self.gather.count(key_of(pool, slot), ones, begin_of(slot).after(KEPT), now);
    }
}
