//! What the control loop publishes of a pool, and how it keeps the virtual queues honest.
//!
//! A virtual queue counts down by itself at the rate that the front was told. What it cannot know: that a worker died,
//! that answers got shorter than they were estimated, that somebody never came back for a return slot. So each tick it
//! is *re-anchored*: moved towards the work that really waits. Half of the way at a time, because the queues' own counts
//! are approximate and late on AWS, and by adding a difference, so that what is taken meanwhile is not lost.

use core::time::Duration;
use std::collections::BTreeMap;

use crate::classes::Class;
use crate::gcra::{Bucket, Limit, Spent};
use crate::promise::{Errors, Pace, Regime, Spread};
use crate::time::Timestamp;

/// A worker that has not reported for this long is taken for dead.
pub use crate::admission::WORKER_SILENCE;

/// Rates older than this are kept, and never exceeded.
pub const STALE: Duration = Duration::from_secs(30);

/// Takes a second that one item of a virtual queue is meant for; DynamoDB's own limit is 1,000.
const TAKES_PER_SHARD: f64 = 300.0;

/// How much an error weighs falls by half in so many spans of a minute: long enough to have seen the rare cases, short
/// enough to follow a day.
const HALF_LIFE_SPANS: f64 = 20.0;

/// What the errors of other classes count in a class, so that a class with little traffic is not left with its prior.
const OF_OTHERS: f64 = 0.1;

/// What a job that waited for a boot counts: all that waited for the same one erred alike.
const OF_ONE_BOOT: f64 = 0.15;

/// Errors of one kind that were seen in one span of a minute.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Erred {
    /// How many spans ago.
    pub spans_ago: u32,
    /// In which class.
    pub class: Class,
    /// In which regime.
    pub regime: Regime,
    /// How far ([`crate::promise::bin`]).
    pub bin: i32,
    /// How often.
    pub count: u64,
}

/// How far promises err, by class and regime, from what was seen lately.
#[must_use]
pub fn spreads(seen: impl IntoIterator<Item = Erred>) -> [[Spread; 3]; 4] {
    let mut errors: BTreeMap<(Class, Regime), Errors> = BTreeMap::new();
    for Erred { spans_ago, class, regime, bin, count } in seen {
        let weight = (-f64::from(spans_ago) / HALF_LIFE_SPANS).exp2() * count as f64;
        let weight = if regime == Regime::FromZero { weight * OF_ONE_BOOT } else { weight };
        for of in Class::ALL {
            let share = if of == class { 1.0 } else { OF_OTHERS };
            errors.entry((of, regime)).or_default().add(bin, weight * share);
        }
    }
    Class::ALL.map(|class| Regime::ALL.map(|regime| Spread::of(&errors.remove(&(class, regime)).unwrap_or_default())))
}

/// Estimated tokens that really wait or run, by class: so many jobs of so many tokens each, of which those that run are
/// half done on average.
#[must_use]
pub fn ahead(jobs: [u64; 4], mean_tokens: [f64; 4], pace: &Pace) -> [f64; 4] {
    let all: u64 = jobs.iter().sum();
    let running =
        if all == 0 || !pace.ready_in.is_zero() { 0.0 } else { (f64::from(pace.slots) / all as f64).min(1.0) };
    Class::ALL.map(|class| jobs[class.index()] as f64 * mean_tokens[class.index()] * (1.0 - running / 2.0))
}

/// What is published of a pool.
#[derive(Clone, Debug, PartialEq)]
pub struct Rates {
    /// When it was computed.
    pub at: Timestamp,
    /// By whom.
    pub origin: Origin,
    /// What the pool can do.
    pub pace: Pace,
    /// Estimated tokens that really wait or run, class by class.
    pub ahead: [f64; 4],
    /// Into how many items each virtual queue is split.
    pub shards: u16,
    /// How far promises err, by class and regime (in the order of [`Regime::ALL`]).
    pub spread: [[Spread; 3]; 4],
}

/// Who computed rates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The control loop, which goes on computing them and releases what is parked.
    Control,
    /// Whoever needed them and found none published, from what workers say of themselves.
    Guess,
}

impl Rates {
    /// Whether a control loop runs, by the looks of it.
    #[must_use]
    pub fn are_kept_up(&self, now: Timestamp) -> bool {
        self.origin == Origin::Control && self.stale_for(now).is_none()
    }

    /// How long ago they were computed, if too long to follow what happens.
    #[must_use]
    pub fn stale_for(&self, now: Timestamp) -> Option<Duration> {
        Some(now.since(self.at)).filter(|age| *age > STALE)
    }

    /// Tokens of better classes than `class` that stand ahead of it, as last seen, less what was done since.
    #[must_use]
    pub fn better(&self, class: Class, now: Timestamp) -> f64 {
        let then: f64 = self.ahead[..class.index()].iter().sum();
        (then - self.pace.tokens_per_second * now.since(self.at).as_secs_f64()).max(0.0)
    }

    /// How far a promise errs that was made to this class in this regime.
    #[must_use]
    pub fn spread(&self, class: Class, regime: Regime) -> Spread {
        let index = match regime {
            Regime::Free => 0,
            Regime::Queued => 1,
            Regime::FromZero => 2,
        };
        self.spread[class.index()][index]
    }
}

/// How many items a virtual queue needs for `jobs_per_second` takes.
#[must_use]
pub fn shards(jobs_per_second: f64) -> u16 {
    let needed = (jobs_per_second / TAKES_PER_SHARD).ceil();
    if needed.is_finite() {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
        let needed = needed.clamp(1.0, 64.0) as u16;
        needed
    } else {
        1
    }
}

/// A difference to be given back (or, negative, to be taken) so that the bucket tells what waits.
#[must_use]
pub fn anchor(bucket: Bucket, limit: &Limit, real_tokens: f64, now: Timestamp) -> Option<Spent> {
    /// Below this a queue is right enough.
    const TOLERANCE: Duration = Duration::from_millis(250);
    let period = limit.period_ns() as f64;
    #[expect(clippy::cast_possible_truncation, reason = "a float becomes the nearest integer there is")]
    let target_ns = now.as_nanos().saturating_add((real_tokens.max(0.0) * period) as i64);
    // An idle bucket stands in the past, however long ago.
    let found_ns = bucket.tat_ns.max(now.as_nanos());
    let too_much = found_ns.saturating_sub(target_ns);
    if too_much.unsigned_abs() <= u64::try_from(TOLERANCE.as_nanos()).unwrap_or(u64::MAX) {
        return None;
    }
    let cost_ns = bucket.tat_ns.saturating_sub(found_ns.saturating_sub(too_much / 2));
    Some(Spent { cost_ns, generation: bucket.generation })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gcra::refund;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn limit() -> Limit {
        Limit::new(100, Duration::from_secs(1), 6000).unwrap()
    }

    fn anchored(mut bucket: Bucket, real: f64) -> Bucket {
        for _ in 0..20 {
            if let Some(spent) = anchor(bucket, &limit(), real, NOW) {
                bucket = refund(bucket, spent);
            }
        }
        bucket
    }

    #[test]
    fn a_queue_that_lies_comes_to_tell_what_waits_from_above_below_and_idleness() {
        for tat_ms in [0, 1_000_000, 1_010_000, 1_060_000] {
            let bucket = Bucket { tat_ns: tat_ms * 1_000_000, generation: 3 };
            let told = anchored(bucket, 2000.0).tat_ns - NOW.as_nanos();
            assert!((told - 20_000_000_000).abs() <= 250_000_000, "{tat_ms}: {told}");
        }
    }

    #[test]
    fn a_queue_that_tells_the_truth_is_left_alone() {
        let bucket = Bucket { tat_ns: NOW.as_nanos() + 10_000_000_000, generation: 3 };
        assert_eq!(anchor(bucket, &limit(), 1000.0, NOW), None);
        let idle = Bucket { tat_ns: 5, generation: 3 };
        assert_eq!(anchor(idle, &limit(), 0.0, NOW), None);
    }

    #[test]
    fn many_takes_need_many_items() {
        assert_eq!([shards(0.0), shards(300.0), shards(301.0), shards(f64::NAN), shards(1e9)], [1, 1, 2, 1, 64]);
    }
}
