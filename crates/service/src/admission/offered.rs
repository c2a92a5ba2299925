//! What was offered to a pool: first attempts, those included that the pool had no room for. It is what the fleet is
//! forecast and tracked from: a fleet that counted only what it accepted would never grow.
//!
//! Not counted: what says that it is a retry, what joins another's job, what a kept answer answers, and what its tenant's
//! own limits refuse, which more workers would not let in.

use std::time::Duration;

use penstock_policy::id::PoolId;
use penstock_policy::time::Timestamp;

use crate::Service;
use crate::admission::draft::Draft;
use crate::ports::{Counts, PortResult, TallyKey};

/// The span of time that is tallied together: a whole part of the forecast's steps.
pub(crate) const SLOT: Duration = Duration::from_secs(30);

/// How long a slot is kept, for a control loop that was away.
pub(crate) const KEPT: Duration = Duration::from_secs(2 * 3600);

/// What was offered in some span.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Offered {
    /// First attempts.
    pub(crate) requests: f64,
    /// The tokens they were estimated to be, prompt and answer.
    pub(crate) tokens: f64,
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

fn key_of(pool: &PoolId, slot: i64) -> TallyKey {
    TallyKey::new("offered", pool.as_str(), &slot.to_string())
}

impl Service {
    /// Counts a request that nothing known answers, whatever becomes of it.
    pub(crate) fn count_offered(&self, draft: &Draft, now: Timestamp) {
        if draft.is_retry {
            return;
        }
        let (slot, spec) = (slot_of(now), &draft.spec);
        let tokens = i64::try_from(spec.estimated_tokens).unwrap_or(i64::MAX);
        self.gather.count(key_of(&spec.pool, slot), [("n", 1), ("t", tokens)], begin_of(slot).after(KEPT), now);
    }

    /// What was offered to a pool in each of these slots.
    pub(crate) async fn offered(
        &self,
        pool: &PoolId,
        slots: impl IntoIterator<Item = i64> + Send,
    ) -> PortResult<Vec<Offered>> {
        let keys: Vec<TallyKey> = slots.into_iter().map(|slot| key_of(pool, slot)).collect();
        let read = |counts: &Counts| {
            let of = |name: &str| counts.get(name).copied().unwrap_or(0) as f64;
            Offered { requests: of("n"), tokens: of("t") }
        };
        Ok(self.ports.tally.sums(&keys).await?.iter().map(read).collect())
    }
}
