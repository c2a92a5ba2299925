//! The seven experts: plain ways to continue a series, each right at some time.
//!
//! The mean of the last half hour; the profile of the day; that profile at the level of the last half hour, hour and two
//! hours, remembered for 1.5, 5 and 15 h; the same weekday of four weeks at today's level; and that without its own level
//! at the level of the last hour. All work on sums over the history, so one forecast costs a few ten thousand additions.
//!
//! Edge cases: missing steps count in no mean; a slot without any past takes the last day's mean; before a day of history
//! every expert says the mean of the last hour. None reads at or past its origin, so that what was forecast then can be
//! computed again when it can be compared.

use core::ops::Range;

use super::local::LocalTime;
use super::ring::Ring;
use super::step::Step;

/// How many there are.
pub const EXPERTS: usize = 7;

/// Those trusted before any error is known: the profile, at the level of the last hour and two, and by itself.
pub(super) const TRUSTED_AT_FIRST: [f64; EXPERTS] = [0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0];

const PROFILE_DAYS: i64 = 21;
const PROFILE_DECAY: f64 = 0.93;
const WEEKS: i64 = 4;
const WEEK_DECAY: f64 = 0.6;
const WEEKS_FROM_DAYS: i64 = 8;
/// Weekdays are told apart when each has been seen.
const WEEKDAYS_FROM_DAYS: i64 = 7;

/// A profile at a recent level: how long that level is remembered, and over how many half hours it is taken.
struct Level {
    memory_hours: f64,
    half_hours: i64,
}

const SHORT: Level = Level { memory_hours: 1.5, half_hours: 1 };
const MIDDLE: Level = Level { memory_hours: 5.0, half_hours: 2 };
const LONG: Level = Level { memory_hours: 15.0, half_hours: 4 };

/// History with the sums that every mean comes from.
pub(super) struct View<'a> {
    ring: &'a Ring,
    local: &'a LocalTime,
    step: Step,
    raw: Sums,
    limited: Sums,
}

impl<'a> View<'a> {
    pub(super) fn new(ring: &'a Ring, local: &'a LocalTime, step: Step) -> Self {
        Self { ring, local, step, raw: Sums::of(&ring.raw), limited: Sums::of(&ring.limited) }
    }

    /// The mean of what was offered in `[from, to)`, or `None` if nothing of it is known.
    pub(super) fn mean(&self, from: i64, to: i64) -> Option<f64> {
        self.raw.mean(from - self.ring.begin, to - self.ring.begin)
    }

    /// What was offered in a step; NaN if it is not known.
    pub(super) fn raw(&self, index: i64) -> f64 {
        value(&self.ring.raw, index - self.ring.begin)
    }

    /// How many steps were known before `origin`.
    pub(super) fn age(&self, origin: i64) -> i64 {
        origin - self.ring.begin
    }

    /// What each expert says at `origin` of the steps `ahead` of it.
    pub(super) fn experts(&self, origin: i64, ahead: Range<i64>) -> [Vec<f64>; EXPERTS] {
        if self.age(origin) < self.step.per_day() {
            let flat = self.recent(origin, self.step.per_hour());
            return core::array::from_fn(|_| ahead.clone().map(|_| flat).collect());
        }
        let last = self.recent(origin, (self.step.per_hour() / 2).max(1));
        let profile = self.profile(origin, ahead.clone());
        let (week, week_level) = self.weeks(origin, ahead.clone(), &profile);
        let at_level = |level: &Level| self.at_level(origin, ahead.start, &profile, level, Base::Profile);
        let (short, middle, long) = (at_level(&SHORT), at_level(&MIDDLE), at_level(&LONG));
        let week_at_level = self.at_level(origin, ahead.start, &week, &MIDDLE, Base::Weeks);
        let last = ahead.map(|_| last).collect();
        [last, profile, short, middle, long, week_level, week_at_level]
    }

    /// The mean of the last `steps` before `origin`; if nothing of them is known, of the last day; else nothing comes.
    pub(super) fn recent(&self, origin: i64, steps: i64) -> f64 {
        self.mean(origin - steps, origin).or_else(|| self.mean(origin - self.step.per_day(), origin)).unwrap_or(0.0)
    }

    fn limited_mean(&self, from: i64, to: i64) -> Option<f64> {
        self.limited.mean(from - self.ring.begin, to - self.ring.begin)
    }

    /// The mean of the same local time on up to 21 days, the days half-way at the level of the last one.
    fn profile(&self, origin: i64, ahead: Range<i64>) -> Vec<f64> {
        let day = self.step.per_day();
        let around = (self.step.per_hour() / 2).max(1);
        let now = self.limited_mean(origin - day, origin);
        let days = PROFILE_DAYS.min(self.age(origin) / day + 1);
        let told_apart = self.age(origin) >= WEEKDAYS_FROM_DAYS * day;
        let mut weight = PROFILE_DECAY;
        let by_day: Vec<(i64, f64, f64)> = (1..=days)
            .map(|days| {
                let then = self.limited_mean(origin - days * day, origin - (days - 1) * day);
                let level = ratio(now, then).clamp(0.3, 3.0).sqrt();
                let this = (days, weight, level);
                weight *= PROFILE_DECAY;
                this
            })
            .collect();
        ahead
            .map(|ahead| {
                let index = origin + ahead;
                let weekday = self.local.weekday(index, self.step);
                let (mut sum, mut weights) = (0.0, 0.0);
                for &(days, decay, level) in &by_day {
                    let at = self.local.earlier(index, days, self.step);
                    if at >= origin {
                        continue;
                    }
                    // A mean over the neighbours is steadier, but must not look past the origin.
                    let found = if at + around >= origin {
                        value(&self.ring.limited, at - self.ring.begin)
                    } else if at < self.ring.begin {
                        f64::NAN
                    } else {
                        self.limited_mean(at - around, at + around + 1).unwrap_or(f64::NAN)
                    };
                    if found.is_nan() {
                        continue;
                    }
                    let weight = if told_apart { kinship(weekday, days) * decay } else { decay };
                    sum += weight * found * level;
                    weights += weight;
                }
                if weights > 0.0 { sum / weights } else { now.unwrap_or(0.0) }
            })
            .collect()
    }

    /// The same weekday of up to four weeks, as it was and at the level of the day just ended; the profile where there is
    /// none, and before the level of a week ago is known too: the very first day is often unlike all others.
    fn weeks(&self, origin: i64, ahead: Range<i64>, profile: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let day = self.step.per_day();
        if self.age(origin) < WEEKS_FROM_DAYS * day {
            return (profile.to_vec(), profile.to_vec());
        }
        let now = self.limited_mean(origin - day, origin);
        let levels: Vec<f64> = (1..=WEEKS)
            .map(|week| {
                let to = origin - 7 * week * day;
                let then = if to - day < self.ring.begin { None } else { self.limited_mean(to - day, to) };
                then.map_or(1.0, |then| ratio(now, Some(then)).clamp(0.33, 3.0))
            })
            .collect();
        ahead
            .zip(profile)
            .map(|(ahead, profile)| {
                let (mut sum, mut at_level, mut weights, mut weight) = (0.0, 0.0, 0.0, 1.0);
                for (week, level) in (1..=WEEKS).zip(&levels) {
                    weight *= WEEK_DECAY;
                    let at = self.local.earlier(origin + ahead, 7 * week, self.step);
                    let found = if at < origin { value(&self.ring.limited, at - self.ring.begin) } else { f64::NAN };
                    if !found.is_nan() {
                        sum += weight * found;
                        at_level += weight * found * level;
                        weights += weight;
                    }
                }
                if weights > 0.0 { (sum / weights, at_level / weights) } else { (*profile, *profile) }
            })
            .unzip()
    }

    /// A base at the level of the last steps, which is forgotten with time.
    fn at_level(&self, origin: i64, first: i64, base: &[f64], level: &Level, kind: Base) -> Vec<f64> {
        let back = (level.half_hours * self.step.per_hour() / 2).max(1);
        let then = origin - back;
        // What the base said of these very steps before they came.
        let expected = if self.age(then) < self.step.per_day() {
            vec![self.recent(then, self.step.per_hour()); usize::try_from(back).unwrap_or(0)]
        } else {
            let profile = self.profile(then, 0..back);
            match kind {
                Base::Profile => profile,
                Base::Weeks => self.weeks(then, 0..back, &profile).0,
            }
        };
        let day = self.limited_mean(origin - self.step.per_day(), origin).unwrap_or(0.0);
        let (mut came, mut said, mut known) = (0.0, 0.0, 0.0);
        for (at, expected) in (then..origin).zip(expected) {
            let value = value(&self.ring.limited, at - self.ring.begin);
            if !value.is_nan() {
                came += value;
                said += expected;
                known += 1.0;
            }
        }
        let floor = 0.05 * day * known + 1e-9;
        let ratio = ((came + floor) / (said + floor)).clamp(0.2, 5.0);
        let per_hour = self.step.per_hour() as f64;
        (first..)
            .zip(base)
            .map(|(ahead, base)| {
                let hours = (ahead as f64 + 0.5) / per_hour;
                base * (1.0 + (ratio - 1.0) * (-hours / level.memory_hours).exp())
            })
            .collect()
    }
}

#[derive(Clone, Copy)]
enum Base {
    Profile,
    Weeks,
}

/// How much a day `days` before one of this weekday tells about it.
fn kinship(weekday: i64, days: i64) -> f64 {
    let other = (weekday - days).rem_euclid(7);
    if other == weekday {
        3.0
    } else if (other >= 5) == (weekday >= 5) {
        1.0
    } else {
        0.25
    }
}

fn ratio(now: Option<f64>, then: Option<f64>) -> f64 {
    match (now, then) {
        (Some(now), Some(then)) => (now + 1e-9) / (then + 1e-9),
        (None, _) | (_, None) => 1.0,
    }
}

fn value(of: &[f32], at: i64) -> f64 {
    usize::try_from(at).ok().and_then(|at| of.get(at)).map_or(f64::NAN, |value| f64::from(*value))
}

/// Running sums and counts of what is known: any mean in two subtractions.
struct Sums {
    sum: Vec<f64>,
    count: Vec<u32>,
}

impl Sums {
    fn of(values: &[f32]) -> Self {
        let (mut sum, mut count) = (Vec::with_capacity(values.len() + 1), Vec::with_capacity(values.len() + 1));
        let (mut total, mut known) = (0.0, 0);
        sum.push(total);
        count.push(known);
        for value in values {
            if !value.is_nan() {
                total += f64::from(*value);
                known += 1;
            }
            sum.push(total);
            count.push(known);
        }
        Self { sum, count }
    }

    fn mean(&self, from: i64, to: i64) -> Option<f64> {
        let end = self.sum.len() - 1;
        let place = |at: i64| usize::try_from(at.max(0)).map_or(end, |at| at.min(end));
        let (from, to) = (place(from), place(to));
        let known = self.count[to].checked_sub(self.count[from]).filter(|known| *known > 0)?;
        Some((self.sum[to] - self.sum[from]).max(0.0) / f64::from(known))
    }
}
