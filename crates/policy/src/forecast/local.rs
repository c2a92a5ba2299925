//! The users' local time: people come to work by their own clocks, so profiles are keyed by local time of day.
//!
//! Policy knows no zones. Whoever calls knows the zone and hands over the offsets from UTC that hold from which moment on;
//! a week in which the clocks change then still finds the right slot of the days before.

use crate::time::Timestamp;

use super::step::Step;

const DAY_SECS: i64 = 86_400;

/// Offsets from UTC, each from a moment on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalTime {
    first_secs: i64,
    /// Moments in seconds, ascending, with the offset that holds from then on.
    changes: Vec<(i64, i64)>,
}

impl LocalTime {
    /// UTC always.
    #[must_use]
    pub const fn utc() -> Self {
        Self { first_secs: 0, changes: Vec::new() }
    }

    /// One offset in seconds east of UTC, and those that replace it from the named moments on (in any order).
    #[must_use]
    pub fn new(offset_secs: i32, changes: impl IntoIterator<Item = (Timestamp, i32)>) -> Self {
        let mut changes: Vec<(i64, i64)> =
            changes.into_iter().map(|(at, offset)| (at.as_secs(), i64::from(offset))).collect();
        changes.sort_unstable();
        Self { first_secs: i64::from(offset_secs), changes }
    }

    /// The offset in steps that holds at this step, rounded down where it is no whole number of steps.
    pub(super) fn offset_steps(&self, index: i64, step: Step) -> i64 {
        let at = index.saturating_mul(step.secs());
        let later = self.changes.partition_point(|(from, _)| *from <= at);
        let offset = later.checked_sub(1).map_or(self.first_secs, |last| self.changes[last].1);
        offset.div_euclid(step.secs())
    }

    /// The step at the same local time `days` days earlier.
    pub(super) fn earlier(&self, index: i64, days: i64, step: Step) -> i64 {
        let plain = index - days * step.per_day();
        if self.changes.is_empty() {
            return plain;
        }
        plain + self.offset_steps(index, step) - self.offset_steps(plain, step)
    }

    /// The local weekday, Monday = 0.
    pub(super) fn weekday(&self, index: i64, step: Step) -> i64 {
        let local = (index + self.offset_steps(index, step)).saturating_mul(step.secs());
        // 1970-01-01 was a Thursday.
        (local.div_euclid(DAY_SECS) + 3).rem_euclid(7)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_earlier_is_the_same_time_on_the_wall_also_across_a_change_of_clocks() {
        let step = Step::new(300).unwrap();
        // 2014-11-02T06:00Z: New York goes from UTC-4 to UTC-5.
        let change = 1_414_908_000;
        let local = LocalTime::new(-14_400, [(Timestamp::from_millis(change * 1000), -18_000)]);
        let at = change / 300 + 12 * 5;
        assert_eq!(at - local.earlier(at, 1, step), 25 * 12);
        assert_eq!(at - local.earlier(at, 7, step), (7 * 24 + 1) * 12);
        let before = change / 300 - 1;
        assert_eq!(before - local.earlier(before, 1, step), 24 * 12);
    }

    #[test]
    fn weekdays_are_those_of_the_users() {
        let step = Step::new(300).unwrap();
        // 2026-11-25T02:00Z is a Wednesday, and still Tuesday in New York.
        let at = 1_795_572_000 / 300;
        assert_eq!(LocalTime::utc().weekday(at, step), 2);
        assert_eq!(LocalTime::new(-18_000, []).weekday(at, step), 1);
    }
}
