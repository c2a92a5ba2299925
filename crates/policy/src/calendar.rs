//! Days and months in UTC, which budgets and usage are counted by and chat templates print.

use crate::tenant::Period;
use crate::time::Timestamp;

const DAY_SECS: i64 = 86_400;

/// A day of the civil calendar, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day {
    year: i64,
    month: i64,
    day: i64,
}

impl Day {
    /// The day of a moment (days to civil date after Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
    #[must_use]
    pub const fn of(moment: Timestamp) -> Self {
        let days = moment.as_secs().div_euclid(DAY_SECS) + 719_468;
        let era = days.div_euclid(146_097);
        let day_of_era = days.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
        Self { year, month, day }
    }

    /// `YYYY-MM-DD`.
    #[must_use]
    pub fn name(self) -> String {
        format!("{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }

    /// `YYYY-MM`: the month it belongs to.
    #[must_use]
    pub fn month_name(self) -> String {
        format!("{:04}-{:02}", self.year, self.month)
    }
}

impl Period {
    /// The name of the period that `now` lies in: `2026-11-25` or `2026-11`.
    #[must_use]
    pub fn at(self, now: Timestamp) -> String {
        match self {
            Self::Day => Day::of(now).name(),
            Self::Month => Day::of(now).month_name(),
        }
    }

    /// When the next period begins.
    #[must_use]
    pub fn next(self, now: Timestamp) -> Timestamp {
        let midnight =
            |days: i64| Timestamp::from_millis((now.as_secs().div_euclid(DAY_SECS) + days) * DAY_SECS * 1000);
        match self {
            Self::Day => midnight(1),
            // At most 31 days away.
            Self::Month => (1..=31).map(midnight).find(|day| Day::of(*day).day == 1).unwrap_or_else(|| midnight(31)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(secs: i64) -> Timestamp {
        Timestamp::from_millis(secs * 1000)
    }

    #[test]
    fn days_are_named_as_the_calendar_names_them() {
        for (at, day) in [
            (0, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (1_709_164_800, "2024-02-29"),
            (1_735_689_599, "2024-12-31"),
            (1_795_219_200, "2026-11-21"),
        ] {
            assert_eq!(Day::of(secs(at)).name(), day);
        }
    }

    #[test]
    fn a_period_ends_where_the_next_one_begins() {
        // 2024-02-29, within a leap year's short month.
        let now = secs(1_709_164_800 + 5_000);
        assert_eq!((Period::Day.at(now).as_str(), Period::Month.at(now).as_str()), ("2024-02-29", "2024-02"));
        assert_eq!(Day::of(Period::Day.next(now)).name(), "2024-03-01");
        assert_eq!(Period::Month.next(now), Period::Day.next(now));
        assert_eq!(Day::of(Period::Month.next(Period::Month.next(now))).name(), "2024-04-01");
    }
}
