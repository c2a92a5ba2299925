//! When a message that could not be delivered is tried again.
//!
//! The pauses grow from seconds, in which a receiver restarts, to hours, in which somebody repairs it, and end after about
//! a day, as the Standard Webhooks specification advises
//! (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>, "Deliverability and
//! reliability"). Each is stretched or shortened by up to a fifth, so that what failed together does not come back
//! together.

use core::time::Duration;

use crate::time::Timestamp;

/// The pauses after the first, second, ... attempt: 24 hours and 36 minutes together.
const PAUSES: [Duration; 10] = [
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_secs(2 * 60),
    Duration::from_secs(10 * 60),
    Duration::from_secs(24 * 60),
    Duration::from_secs(3600),
    Duration::from_secs(2 * 3600),
    Duration::from_secs(4 * 3600),
    Duration::from_secs(7 * 3600),
    Duration::from_secs(10 * 3600),
];

/// How many times a message is tried at most.
pub const MOST_ATTEMPTS: u32 = 11;

const _: () = assert!(PAUSES.len() + 1 == MOST_ATTEMPTS as usize, "one attempt more than there are pauses");

/// What an answer to a message means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It has arrived.
    Delivered,
    /// It is to be tried again.
    TryAgain,
    /// The receiver wants no more of it.
    Unwanted,
}

/// What an HTTP status means. A redirect is not followed and counts as a failure.
#[must_use]
pub const fn verdict(status: u16) -> Verdict {
    match status {
        200..=299 => Verdict::Delivered,
        410 => Verdict::Unwanted,
        _ => Verdict::TryAgain,
    }
}

/// When a message is tried again after `attempts` (1 or more) that failed, the last one `now`; `None`: never. `chance` is a
/// draw between 0 and 1.
#[must_use]
pub fn next_attempt(attempts: u32, chance: f64, now: Timestamp) -> Option<Timestamp> {
    let pause = PAUSES.get(usize::try_from(attempts.checked_sub(1)?).ok()?)?;
    Some(now.after(pause.mul_f64(0.8 + 0.4 * chance.clamp(0.0, 1.0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_tried_for_about_a_day_ever_more_seldom() {
        for chance in [0.0, 0.5, 1.0] {
            let (mut now, mut attempts, mut last) = (Timestamp::EPOCH, 1, Duration::ZERO);
            while let Some(next) = next_attempt(attempts, chance, now) {
                assert!(next.since(now) > last);
                last = next.since(now);
                (now, attempts) = (next, attempts + 1);
            }
            assert_eq!(attempts, MOST_ATTEMPTS);
            let hours = now.since(Timestamp::EPOCH).as_secs() / 3600;
            assert!((19..=30).contains(&hours), "{hours} h");
        }
        assert_eq!(next_attempt(0, 0.5, Timestamp::EPOCH), None);
    }

    #[test]
    fn only_a_success_is_one() {
        assert_eq!([200, 204, 299].map(verdict), [Verdict::Delivered; 3]);
        assert_eq!([301, 308, 400, 404, 429, 500, 0].map(verdict), [Verdict::TryAgain; 7]);
        assert_eq!(verdict(410), Verdict::Unwanted);
    }
}
