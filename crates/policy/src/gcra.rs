//! Token buckets as GCRA: one stored number, the *theoretical arrival time*.
//!
//! The textbook bucket stores a level and the moment it was computed, and refills before it takes: a read, a multiply
//! and a conditional write. GCRA (ITU-T I.371, "virtual scheduling") keeps only `tat`, the moment at which the bucket
//! will be full again, and needs nothing but addition and comparison, which is all a DynamoDB expression can do. The
//! same arithmetic serves tenant limits (requests, tokens) and the virtual queue of a pool, where `tat - now` is at
//! once the backlog, the expected wait and, through the burst, the point of refusal.
//!
//! All times are integer nanoseconds. A limit of `n` units a minute has a period of `ceil(60 s / n)` a unit, so
//! rounding only ever makes a limit stricter, by less than one nanosecond a unit.
//!
//! Edge cases: an unknown bucket is a full one; a clock that steps back makes `tat` look further away, which refuses
//! more and admits no more; a take larger than the burst can never succeed and is refused as such. The *idle edge*
//! (a take on a bucket that had filled up) forgets how much was unspent and so begins a new generation: a refund of a
//! take from an older generation would credit time that has been credited by idling already, and is void.

use core::time::Duration;

use crate::time::Timestamp;

/// A rate with a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    period_ns: i64,
    burst: u64,
}

/// Why a limit makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidLimit {
    /// A rate of nothing admits nothing for ever; leave the limit out or close the tenant instead.
    ZeroRate,
    /// A burst of nothing admits nothing for ever.
    ZeroBurst,
    /// The time to refill the whole burst does not fit 64 bits of nanoseconds (292 years).
    TooSlow,
}

impl Limit {
    /// A limit of `units` per `per`, of which `burst` may be taken at once.
    ///
    /// # Errors
    /// [`InvalidLimit`] if the rate or the burst is zero, or refilling the burst would take more than 292 years.
    pub fn new(units: u64, per: Duration, burst: u64) -> Result<Self, InvalidLimit> {
        if units == 0 || per.is_zero() {
            return Err(InvalidLimit::ZeroRate);
        }
        if burst == 0 {
            return Err(InvalidLimit::ZeroBurst);
        }
        let period_ns = i64::try_from(per.as_nanos().div_ceil(u128::from(units))).map_err(|_| InvalidLimit::TooSlow)?;
        let limit = Self { period_ns, burst };
        limit.cost(burst).ok_or(InvalidLimit::TooSlow).map(|_| limit)
    }

    /// A limit of `units` a minute with a burst of one minute's worth: how OpenAI states its limits.
    ///
    /// # Errors
    /// As [`Limit::new`].
    pub fn per_minute(units: u64) -> Result<Self, InvalidLimit> {
        Self::new(units, Duration::from_secs(60), units)
    }

    /// How many units may be taken at once.
    #[must_use]
    pub const fn burst(&self) -> u64 {
        self.burst
    }

    /// The time one unit takes to refill, in nanoseconds.
    #[must_use]
    pub const fn period_ns(&self) -> i64 {
        self.period_ns
    }

    /// The time `units` take to refill, in nanoseconds; `None` beyond 64 bits.
    #[must_use]
    pub fn cost(&self, units: u64) -> Option<i64> {
        i64::try_from(units).ok()?.checked_mul(self.period_ns)
    }

    /// The same rate with room for `by` more: a burst of what refills in that time on top. Saturates.
    #[must_use]
    pub fn stretched(&self, by: Duration) -> Self {
        let more = u64::try_from(by.as_nanos() / u128::from(self.period_ns.unsigned_abs().max(1))).unwrap_or(u64::MAX);
        let most = u64::try_from(i64::MAX / self.period_ns.max(1)).unwrap_or(self.burst);
        Self { burst: self.burst.saturating_add(more).min(most), ..*self }
    }

    /// The same rate with another burst, at least 1. Saturates.
    #[must_use]
    pub fn with_burst(&self, burst: u64) -> Self {
        let most = u64::try_from(i64::MAX / self.period_ns.max(1)).unwrap_or(self.burst);
        Self { burst: burst.clamp(1, most.max(1)), ..*self }
    }

    /// One of `shards` equal parts: together they grant no more than the whole.
    #[must_use]
    pub fn part_of(&self, shards: u16) -> Self {
        let shards = i64::from(shards.max(1));
        let split = Self {
            period_ns: self.period_ns.saturating_mul(shards),
            burst: (self.burst / shards.unsigned_abs()).max(1),
        };
        if split.cost(split.burst).is_some() { split } else { *self }
    }

    /// How much refills in `time`, whole units.
    #[must_use]
    pub fn refilled_in(&self, time: Duration) -> u64 {
        u64::try_from(time.as_nanos() / u128::from(self.period_ns.unsigned_abs().max(1))).unwrap_or(u64::MAX)
    }

    /// The time in which the whole burst refills, in nanoseconds.
    #[must_use]
    pub fn span(&self) -> i64 {
        self.cost(self.burst).unwrap_or(i64::MAX)
    }
}

/// A bucket's stored state. The default is a bucket nobody has used: full, generation 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// The moment the bucket is full again, in nanoseconds since the epoch.
    pub tat_ns: i64,
    /// Counts the idle edges.
    pub generation: u64,
}

/// What a granted take spent, to be kept for a later refund.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spent {
    /// The time bought, in nanoseconds.
    pub cost_ns: i64,
    /// The generation it was bought in.
    pub generation: u64,
}

/// The verdict on one take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Granted; store `bucket`.
    Granted {
        /// The new state.
        bucket: Bucket,
        /// What to refund if the request comes to nothing.
        spent: Spent,
    },
    /// Not now.
    Refused {
        /// The earliest moment at which the same take conforms if nobody else takes anything.
        until: Timestamp,
    },
    /// More than the burst: no wait can help.
    NeverSatisfiable,
}

/// The two ways a grant writes the bucket. Adapters turn these into a conditional write; SQLite simply calls [`take`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Branches {
    /// Time bought.
    pub cost_ns: i64,
    /// The present moment. At or above it the bucket is in use: add `cost_ns` to `tat`. Below it the bucket is idle:
    /// set `tat` to `now_ns + cost_ns` and begin a new generation.
    pub now_ns: i64,
    /// The highest `tat` before the take for which it is granted.
    pub ceiling_ns: i64,
}

/// The arithmetic of a take of `units`; `None` if it can never be satisfied.
#[must_use]
pub fn branches(limit: &Limit, units: u64, now: Timestamp) -> Option<Branches> {
    if units > limit.burst {
        return None;
    }
    let cost_ns = limit.cost(units)?;
    let now_ns = now.as_nanos();
    Some(Branches { cost_ns, now_ns, ceiling_ns: now_ns.saturating_add(limit.span() - cost_ns) })
}

/// Takes `units` from the bucket if they are there.
#[must_use]
pub fn take(bucket: Bucket, limit: &Limit, units: u64, now: Timestamp) -> Verdict {
    let Some(Branches { cost_ns, now_ns, ceiling_ns }) = branches(limit, units, now) else {
        return Verdict::NeverSatisfiable;
    };
    if bucket.tat_ns > ceiling_ns {
        let wait_ns = u64::try_from(bucket.tat_ns.saturating_sub(ceiling_ns)).unwrap_or(0);
        return Verdict::Refused { until: now.after(Duration::from_millis(wait_ns.div_ceil(1_000_000))) };
    }
    let next = if bucket.tat_ns < now_ns {
        Bucket { tat_ns: now_ns.saturating_add(cost_ns), generation: bucket.generation.saturating_add(1) }
    } else {
        Bucket { tat_ns: bucket.tat_ns.saturating_add(cost_ns), generation: bucket.generation }
    };
    Verdict::Granted { bucket: next, spent: Spent { cost_ns, generation: next.generation } }
}

/// The verdict on a take from several buckets at once: all or nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JointVerdict {
    /// Every part conforms; store `buckets`.
    Granted {
        /// The new states, part by part.
        buckets: Vec<Bucket>,
        /// What each part spent.
        spent: Vec<Spent>,
    },
    /// Some part does not; nothing is taken.
    Refused {
        /// The part that would conform last, or never.
        part: usize,
        /// When the whole take conforms if nobody else takes anything; `None`: never.
        until: Option<Timestamp>,
    },
}

/// Takes from several buckets at once. A bucket that is missing from `buckets` is one nobody has used.
#[must_use]
pub fn take_all(buckets: &[Bucket], parts: &[(Limit, u64)], now: Timestamp) -> JointVerdict {
    let (mut next, mut spent_parts) = (Vec::with_capacity(parts.len()), Vec::with_capacity(parts.len()));
    let mut refusal: Option<(usize, Timestamp)> = None;
    for (part, (limit, units)) in parts.iter().enumerate() {
        match take(buckets.get(part).copied().unwrap_or_default(), limit, *units, now) {
            Verdict::Granted { bucket, spent } => {
                next.push(bucket);
                spent_parts.push(spent);
            }
            Verdict::NeverSatisfiable => return JointVerdict::Refused { part, until: None },
            Verdict::Refused { until } => {
                if refusal.is_none_or(|(_, earlier)| until > earlier) {
                    refusal = Some((part, until));
                }
            }
        }
    }
    match refusal {
        Some((part, until)) => JointVerdict::Refused { part, until: Some(until) },
        None => JointVerdict::Granted { buckets: next, spent: spent_parts },
    }
}

/// Gives back what a take spent, if the bucket is still in that take's generation.
#[must_use]
pub fn refund(bucket: Bucket, spent: Spent) -> Bucket {
    if bucket.generation == spent.generation {
        Bucket { tat_ns: bucket.tat_ns.saturating_sub(spent.cost_ns), ..bucket }
    } else {
        bucket
    }
}

/// Whole units that could be taken right now.
#[must_use]
pub fn available(bucket: Bucket, limit: &Limit, now: Timestamp) -> u64 {
    let in_use = bucket.tat_ns.saturating_sub(now.as_nanos()).max(0);
    u64::try_from(limit.span().saturating_sub(in_use).max(0) / limit.period_ns).unwrap_or(0)
}

/// How long until the bucket is full again: for a virtual queue, the backlog in time.
#[must_use]
pub fn backlog(bucket: Bucket, now: Timestamp) -> Duration {
    Duration::from_nanos(u64::try_from(bucket.tat_ns.saturating_sub(now.as_nanos())).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millis(1_700_000_000_000 + ms)
    }

    fn granted(bucket: &mut Bucket, limit: &Limit, units: u64, now: Timestamp) -> bool {
        match take(*bucket, limit, units, now) {
            Verdict::Granted { bucket: next, .. } => {
                *bucket = next;
                true
            }
            Verdict::Refused { .. } | Verdict::NeverSatisfiable => false,
        }
    }

    #[test]
    fn exactly_the_burst_is_granted_at_once_and_then_exactly_the_rate() {
        let limit = Limit::new(100, Duration::from_secs(1), 50).unwrap();
        let mut bucket = Bucket::default();
        assert_eq!((0..200).filter(|_| granted(&mut bucket, &limit, 1, at(0))).count(), 50);
        let later = (1..=4000).filter(|ms| granted(&mut bucket, &limit, 1, at(*ms))).count();
        assert_eq!(later, 400);
    }

    #[test]
    fn a_refusal_names_the_moment_at_which_the_same_take_succeeds() {
        let limit = Limit::per_minute(60).unwrap();
        let mut bucket = Bucket::default();
        assert!(granted(&mut bucket, &limit, 60, at(0)));
        let Verdict::Refused { until } = take(bucket, &limit, 5, at(0)) else { panic!("must be refused") };
        assert_eq!(until, at(5000));
        assert!(!granted(&mut bucket, &limit, 5, at(4999)));
        assert!(granted(&mut bucket, &limit, 5, until));
    }

    #[test]
    fn more_than_the_burst_is_never_satisfiable() {
        let limit = Limit::per_minute(60).unwrap();
        assert_eq!(take(Bucket::default(), &limit, 61, at(0)), Verdict::NeverSatisfiable);
    }

    #[test]
    fn a_refund_from_before_the_idle_edge_is_void() {
        let limit = Limit::per_minute(60).unwrap();
        let Verdict::Granted { bucket, spent } = take(Bucket::default(), &limit, 10, at(0)) else { panic!() };
        let Verdict::Granted { bucket: later, .. } = take(bucket, &limit, 10, at(60_000)) else { panic!() };
        assert_eq!(refund(later, spent), later);
        assert_eq!(available(refund(bucket, spent), &limit, at(0)), 60);
    }

    #[test]
    fn a_joint_take_is_all_or_nothing_and_names_the_part_that_waits_longest() {
        let (fast, slow) = (Limit::per_minute(600).unwrap(), Limit::per_minute(60).unwrap());
        let JointVerdict::Granted { buckets, .. } = take_all(&[], &[(fast, 600), (slow, 60)], at(0)) else { panic!() };
        assert_eq!(
            take_all(&buckets, &[(fast, 1), (slow, 2)], at(0)),
            JointVerdict::Refused { part: 1, until: Some(at(2000)) }
        );
        assert_eq!(
            take_all(&buckets, &[(fast, 601), (slow, 2)], at(0)),
            JointVerdict::Refused { part: 0, until: None }
        );
    }

    #[test]
    fn senseless_limits_are_refused() {
        assert_eq!(Limit::per_minute(0), Err(InvalidLimit::ZeroRate));
        assert_eq!(Limit::new(1, Duration::from_secs(1), 0), Err(InvalidLimit::ZeroBurst));
        assert_eq!(Limit::new(1, Duration::from_secs(u64::MAX / 4), 9), Err(InvalidLimit::TooSlow));
    }
}
