//! How long to wait before trying again, or before looking again.

use core::time::Duration;

/// Exponential back-off with full jitter: a uniform draw below `base * 2^attempt`, capped.
///
/// `draw` is a fraction in `[0, 1)`. Full jitter spreads retries widest for the same mean
/// (<https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>).
#[must_use]
pub fn full_jitter(base: Duration, cap: Duration, attempt: u32, draw: f64) -> Duration {
    let ceiling = base.saturating_mul(1u32.checked_shl(attempt).unwrap_or(u32::MAX)).min(cap);
    ceiling.mul_f64(draw.clamp(0.0, 1.0))
}

/// How long a waiter on a store that cannot wake it sleeps before its `look`-th look (counted from 0): quick at first,
/// for answers that are nearly ready, then at 200 ms, which costs five reads a second.
#[must_use]
pub fn poll_interval(look: u32) -> Duration {
    const FIRST: [u64; 5] = [40, 60, 90, 130, 200];
    Duration::from_millis(FIRST[(look as usize).min(FIRST.len() - 1)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_off_doubles_up_to_its_cap() {
        let wait = |attempt| full_jitter(Duration::from_millis(100), Duration::from_secs(1), attempt, 1.0);
        assert_eq!([wait(0), wait(1), wait(9), wait(99)], [100, 200, 1000, 1000].map(Duration::from_millis));
    }
}
