//! Which offerings a gap is filled with, and which workers go when there are too many.
//!
//! The best-scored offerings first, among equals the cheapest for what is missing: a slice that covers a small gap is
//! cheaper than a whole GPU mostly idle. One offering at a time rather than an even spread: losses strike the weak pools,
//! and recorded markets show that the best one alone with replacement on notice beats a spread at a lower price.

use std::collections::BTreeMap;

use crate::time::Timestamp;

use super::offering::{Instance, Market, Offering, OfferingId, Stage};

/// Scores closer than this are equal.
const SCORE_STEP: f64 = 0.1;

/// Less than this is nothing: sums of the same capacities differ by how they were added.
pub(super) const NOTHING: f64 = 1e-6;

/// What may still be bought.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) workers: u32,
    pub(super) usd_micros_per_hour: u64,
}

/// What is missing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gap {
    pub(super) tokens_per_second: f64,
    /// Workers, however small.
    pub(super) workers: u32,
}

impl Gap {
    pub(super) fn is_closed(self) -> bool {
        self.tokens_per_second <= NOTHING && self.workers == 0
    }
}

/// Launches of one market that close a gap as far as there is room: how many of which offering, and what is left.
pub(super) fn fill(
    gap: Gap,
    market: Market,
    offerings: &[Offering],
    counts: &mut BTreeMap<OfferingId, u32>,
    room: &mut Room,
    now: Timestamp,
) -> (BTreeMap<OfferingId, u32>, Gap) {
    let mut launches: BTreeMap<OfferingId, u32> = BTreeMap::new();
    let mut gap = gap;
    // Each round buys one worker, so the room bounds the rounds.
    while !gap.is_closed() && room.workers > 0 {
        let open = offerings.iter().filter(|offering| {
            offering.market == market
                && offering.tokens_per_second > 0.0
                && offering.score.open(now)
                && counts.get(&offering.id).copied().unwrap_or(0) < offering.most
                && offering.usd_micros_per_hour <= room.usd_micros_per_hour
        });
        let units = gap.tokens_per_second;
        let best =
            open.min_by(|a, b| rank(a, units).partial_cmp(&rank(b, units)).unwrap_or(core::cmp::Ordering::Equal));
        let Some(best) = best else { break };
        *launches.entry(best.id.clone()).or_default() += 1;
        *counts.entry(best.id.clone()).or_default() += 1;
        room.workers -= 1;
        room.usd_micros_per_hour -= best.usd_micros_per_hour;
        gap.tokens_per_second = (gap.tokens_per_second - best.tokens_per_second).max(0.0);
        gap.workers = gap.workers.saturating_sub(1);
    }
    (launches, gap)
}

/// Less is better: the step of the score, the price of what is useful of it, the name.
fn rank(offering: &Offering, gap: f64) -> (f64, f64, &str) {
    let step = -(offering.score.value() / SCORE_STEP).round();
    let useful = offering.tokens_per_second.min(gap).max(1e-9);
    (step, offering.usd_micros_per_hour as f64 / useful, &offering.id.0)
}

/// Ready workers that can go so that at least `target` stays: on demand first, then the dearest, the idlest first.
pub(super) fn surplus<'a>(
    target: f64,
    standing: f64,
    market: Market,
    instances: &'a [Instance],
    of: &BTreeMap<&OfferingId, &Offering>,
) -> Vec<&'a Instance> {
    let mut candidates: Vec<(&Instance, &Offering)> = instances
        .iter()
        .filter(|instance| instance.stage == Stage::Ready)
        .filter_map(|instance| of.get(&instance.offering).map(|offering| (instance, *offering)))
        .filter(|(_, offering)| offering.market == market)
        .collect();
    candidates.sort_by(|(a, x), (b, y)| {
        let price = y.usd_micros_per_token().total_cmp(&x.usd_micros_per_token());
        price.then(a.running.cmp(&b.running)).then(a.id.cmp(&b.id))
    });
    let mut standing = standing;
    let mut going = Vec::new();
    for (instance, offering) in candidates {
        if standing - offering.tokens_per_second >= target - NOTHING {
            standing -= offering.tokens_per_second;
            going.push(instance);
        }
    }
    going
}
