//! Evaluates the standing of each pool: what its workers and fronts have counted, whether it has workers at all.
//!
//! A slot that is old enough that nobody adds to it any more is read once and remembered, so that a tick reads two or
//! three slots a pool; after a cold start it reads all of the longest window.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;

use penstock_policy::admission::WORKER_SILENCE;
use penstock_policy::degrade::{self, Evidence, LONGEST_WINDOW, Reason, SLOT, Standing, Tier, Workers};
use penstock_policy::id::PoolId;
use penstock_policy::time::Timestamp;

use crate::Service;
use crate::degradation::health::{begin_of, key_of, read, slot_of};
use crate::gather::SETTLED_AFTER;
use crate::ports::{PortResult, WorkerRecord};
use crate::telemetry::{Label, Metric};

/// How long a worker that has not signed off is remembered as lost.
const REMEMBERED: Duration = Duration::from_secs(600);

/// A pool has moved to another tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TierChange {
    /// The pool.
    pub pool: PoolId,
    /// The tier it stood in.
    pub from: Tier,
    /// The tier it stands in now.
    pub to: Tier,
    /// Why.
    pub reason: Reason,
}

/// The slots of health that are read already and settled.
pub(crate) type Slots = BTreeMap<(PoolId, i64), degrade::Counts>;

impl Service {
    /// Evaluates every pool's standing and posts those that change; to be done every ten seconds by one process at a
    /// time. Two at once do no harm: the slower one decides anew on what the quicker one has posted.
    ///
    /// # Errors
    /// If a store does not answer; the pools evaluated before stand as posted.
    pub async fn evaluate_breakers(&self, now: Timestamp) -> PortResult<Vec<TierChange>> {
        let mut changes = Vec::new();
        for pool in self.pools(now).await?.iter() {
            let slots = self.slots(&pool.id, now).await?;
            let known = self.ports.control.workers(&pool.id, now.before(REMEMBERED)).await?;
            let evidence = Evidence { slots: &slots, workers: workers(&known, now) };
            let mut from = Tier::Normal;
            let standing = self
                .revise(&pool.id, |standing| {
                    from = standing.tier;
                    Some(degrade::evaluate(standing, &evidence, now)).filter(|next| next != standing)
                })
                .await?;
            self.measure_standing(&pool.id, &standing, &slots, now);
            if standing.tier != from {
                let reason = standing.reason;
                let (to, pool) = (standing.tier, pool.id.clone());
                tracing::warn!(%pool, from = from.number(), to = to.number(), ?reason, "tier of degradation");
                changes.push(TierChange { pool, from, to, reason });
            }
        }
        Ok(changes)
    }

    /// Measures where a pool stands, and the newest slot that nobody adds to any more.
    fn measure_standing(
        &self,
        pool: &PoolId,
        standing: &Standing,
        slots: &[(Timestamp, degrade::Counts)],
        now: Timestamp,
    ) {
        let settled = slots.iter().filter(|(begin, _)| begin.after(SLOT + SETTLED_AFTER) <= now);
        let newest = settled.max_by_key(|(begin, _)| *begin).map(|(_, counts)| *counts).unwrap_or_default();
        let values = [
            (Metric::Tier, f64::from(standing.tier.number())),
            (Metric::Starts, newest.started as f64),
            (Metric::LateStarts, newest.late as f64),
            (Metric::Failures, (newest.errors + newest.timeouts) as f64),
        ];
        self.meter.record(&[(Label::Pool, pool.as_str())], &values);
    }

    async fn slots(&self, pool: &PoolId, now: Timestamp) -> PortResult<Vec<(Timestamp, degrade::Counts)>> {
        let (oldest, newest) = (slot_of(now.before(LONGEST_WINDOW)), slot_of(now));
        let lock = || self.caches.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let unread: Vec<i64> = {
            let mut known = lock();
            known.retain(|(of, slot), _| of != pool || *slot >= oldest);
            (oldest..=newest).filter(|slot| !known.contains_key(&(pool.clone(), *slot))).collect()
        };
        let keys: Vec<_> = unread.iter().map(|slot| key_of(pool, *slot)).collect();
        let sums = self.ports.tally.sums(&keys).await?;
        let fresh = unread.iter().zip(&sums).map(|(slot, sums)| (*slot, read(sums)));
        let mut slots: Vec<(Timestamp, degrade::Counts)> = Vec::new();
        let mut known = lock();
        for (slot, counts) in fresh {
            if begin_of(slot).after(SLOT + SETTLED_AFTER) <= now {
                known.insert((pool.clone(), slot), counts);
            } else {
                slots.push((begin_of(slot), counts));
            }
        }
        slots.extend(
            known.iter().filter(|((of, _), _)| of == pool).map(|((_, slot), counts)| (begin_of(*slot), *counts)),
        );
        Ok(slots)
    }
}

/// Whether a pool has workers, has lost them, or wants none.
fn workers(known: &[WorkerRecord], now: Timestamp) -> Workers {
    let alive = |worker: &&WorkerRecord| !worker.draining && now.since(worker.seen) < WORKER_SILENCE;
    if known.iter().any(|worker| alive(&worker)) {
        return Workers::Ready;
    }
    match known.iter().filter(|worker| !worker.draining).map(|worker| worker.seen).max() {
        Some(seen) => Workers::Lost { seen },
        None => Workers::NotWanted,
    }
}
