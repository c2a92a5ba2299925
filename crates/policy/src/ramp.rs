//! The ramp: a tenant's rate of requests may grow only so fast, so that the fleet can follow.
//!
//! Allowed is what was reached within the last minutes, and a part more. What was reached is counted by the minute
//! ([`slot`]) and read back as sums, so every handler computes the same allowance from the same numbers; the allowance is
//! then one more part of the tenant's take, and as exact as the others. A burst of the floor, or of ten seconds of the
//! allowance, comes on top once, after idling.
//!
//! Edge cases: a tenant that has been idle for [`MEMORY`] begins at its floor again; a count that is read late is a little
//! low, which allows a little less.

use core::time::Duration;

use crate::gcra::{InvalidLimit, Limit};
use crate::tenant::Ramp;
use crate::time::Timestamp;

/// How many whole minutes are looked back upon: a pause shorter than this costs a tenant nothing.
pub const MEMORY: i64 = 5;

const MINUTE: Duration = Duration::from_secs(60);

/// The number of the minute that a request at `now` is counted in.
#[must_use]
pub const fn slot(now: Timestamp) -> i64 {
    now.as_secs().div_euclid(60)
}

/// When the allowance computed at `now` is to be computed again: when the minute is over.
#[must_use]
pub const fn good_until(now: Timestamp) -> Timestamp {
    Timestamp::from_millis((slot(now) + 1) * 60_000)
}

/// The limit of this minute, after `reached` requests in each of the last [`MEMORY`] whole minutes.
///
/// # Errors
/// [`InvalidLimit`] if the floor is 0 and nothing was reached: such a ramp lets nobody begin.
pub fn allowance(ramp: &Ramp, reached: &[u64]) -> Result<Limit, InvalidLimit> {
    let peak = reached.iter().copied().max().unwrap_or(0);
    let grown = u128::from(peak) * (100 + u128::from(ramp.growth_percent_per_minute));
    let grown = u64::try_from(grown.div_ceil(100)).unwrap_or(u64::MAX);
    let per_minute = grown.max(ramp.floor_per_minute);
    Limit::new(per_minute, MINUTE, ramp.floor_per_minute.max(per_minute / 6))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gcra::{Bucket, Verdict, take};

    const RAMP: Ramp = Ramp { floor_per_minute: 60, growth_percent_per_minute: 50 };

    #[test]
    fn a_tenant_begins_at_its_floor_and_grows_from_what_it_reached() {
        assert_eq!(allowance(&RAMP, &[]), Limit::new(60, MINUTE, 60));
        assert_eq!(allowance(&RAMP, &[0, 10, 0]), Limit::new(60, MINUTE, 60));
        assert_eq!(allowance(&RAMP, &[100, 1000, 5]), Limit::new(1500, MINUTE, 250));
        assert_eq!(allowance(&Ramp { floor_per_minute: 0, ..RAMP }, &[]), Err(InvalidLimit::ZeroRate));
    }

    #[test]
    fn a_tenant_that_asks_for_everything_grows_by_the_stated_rate() {
        let (mut bucket, mut reached) = (Bucket::default(), Vec::new());
        for minute in 0..8i64 {
            let limit = allowance(&RAMP, &reached).unwrap();
            let granted = (0..60_000).filter(|ms| {
                match take(bucket, &limit, 1, Timestamp::from_millis(60_000 * (minute + 1) + ms)) {
                    Verdict::Granted { bucket: next, .. } => {
                        bucket = next;
                        true
                    }
                    Verdict::Refused { .. } | Verdict::NeverSatisfiable => false,
                }
            });
            reached.push(granted.count() as u64);
        }
        // The floor's burst comes on top in the first minute; later each minute has half as much again.
        assert!((118..=121).contains(&reached[0]), "{reached:?}");
        for at in 1..reached.len() {
            let peak = reached[..at].iter().max().unwrap();
            assert!(reached[at] * 2 <= peak * 3 + 2, "never more than half as much again: {reached:?}");
        }
        for pair in reached[4..].windows(2) {
            assert!((1.45..=1.52).contains(&(pair[1] as f64 / pair[0] as f64)), "{reached:?}");
        }
    }
}
