//! What was offered in each step of the last 28 days, and the same with outages and spikes limited.
//!
//! A value is kept in sixteen bits (six of exponent, ten of mantissa: exact to 2,048, within 0.05 % above), so that four
//! weeks of five minutes are 16 KB. Values are rounded when they come in, so what is stored and loaded forecasts the same.
//!
//! The limited copy serves profiles only: a day without service must not teach them that nobody comes. A value outside
//! [median / 4, 3 x median + noise] of the same slot 1, 2, 3, 7 and 14 days before is moved to the edge. It is causal: a
//! limited value is what later days are limited against, so a surge that stays is believed after three days. Only the first
//! three days are limited later, on the fourth.

use super::local::LocalTime;
use super::step::Step;

/// Days that are kept.
pub const DAYS: i64 = 28;

/// Days back that a value is compared with.
const COMPARED: [i64; 5] = [1, 2, 3, 7, 14];

/// History begins to be limited when it is this long: one day alone proves nothing.
const LIMIT_FROM_DAYS: i64 = 2;

/// What was offered in one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Load {
    /// First attempts, refused ones included; in requests or in tokens.
    Offered(f64),
    /// Nobody knows: the door itself was down, or its counts were lost.
    Missing,
}

/// The ring; missing steps are NaN.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Ring {
    pub(super) begin: i64,
    pub(super) raw: Vec<f32>,
    pub(super) limited: Vec<f32>,
}

impl Ring {
    /// The first step that is not known yet.
    pub(super) fn end(&self) -> i64 {
        self.begin + i64::try_from(self.raw.len()).unwrap_or(i64::MAX)
    }

    /// Steps held.
    pub(super) fn len(&self) -> i64 {
        self.end() - self.begin
    }

    /// Adds the next step's value.
    pub(super) fn push(&mut self, load: Load, local: &LocalTime, step: Step) {
        let value = match load {
            Load::Offered(value) if value.is_finite() => rounded(value),
            Load::Offered(_) | Load::Missing => f32::NAN,
        };
        let limited = self.limit(value, local, step);
        self.raw.push(value);
        self.limited.push(limited);
        self.limit_the_first_days(local, step);
        let most = usize::try_from(DAYS * step.per_day()).unwrap_or(usize::MAX);
        // Dropped a day at a time: moving four weeks for each step would cost more than forecasting.
        let day = usize::try_from(step.per_day()).unwrap_or(usize::MAX);
        if self.raw.len() >= most + day {
            self.raw.drain(..day);
            self.limited.drain(..day);
            self.begin += step.per_day();
        }
    }

    fn limit(&self, value: f32, local: &LocalTime, step: Step) -> f32 {
        if value.is_nan() || self.len() < LIMIT_FROM_DAYS * step.per_day() {
            return value;
        }
        let mut past = [0.0; COMPARED.len()];
        let mut known = 0;
        for days in COMPARED {
            let index = local.earlier(self.end(), days, step) - self.begin;
            let found = usize::try_from(index).ok().and_then(|index| self.limited.get(index).copied());
            if let Some(found) = found.filter(|found| !found.is_nan()) {
                past[known] = found;
                known += 1;
            }
        }
        if known < 2 {
            return value;
        }
        let (least, most) = limits(median(&mut past[..known]));
        rounded32(value.clamp(least, most))
    }

    /// Nothing could be compared with the first days when they came, or only with each other. On the fourth day the slot's own four values can:
    /// a first day is often a load test, or a move that was not finished.
    fn limit_the_first_days(&mut self, local: &LocalTime, step: Step) {
        let day = step.per_day();
        if self.len() <= 3 * day || self.len() > 4 * day {
            return;
        }
        let places = [0, 1, 2, 3].map(|days| {
            let index = local.earlier(self.end() - 1, days, step) - self.begin;
            usize::try_from(index).ok().filter(|index| *index < self.limited.len())
        });
        let [Some(today), Some(second), Some(first), Some(zeroth)] = places else { return };
        let mut values = [today, second, first, zeroth].map(|place| self.raw[place]);
        if values.iter().any(|value| value.is_nan()) {
            return;
        }
        let (least, most) = limits(median(&mut values));
        for place in [second, first, zeroth] {
            self.limited[place] = rounded32(self.raw[place].clamp(least, most));
        }
    }
}

/// Where a value may lie whose like had this median: a quarter to three times of it, and the noise of few.
fn limits(median: f32) -> (f32, f32) {
    (median / 4.0, 3.0 * median + 2.0 * (median + 1.0).sqrt())
}

fn median(values: &mut [f32]) -> f32 {
    values.sort_by(f32::total_cmp);
    let (high, low) = (values.len() / 2, (values.len().max(1) - 1) / 2);
    values.get(high).zip(values.get(low)).map_or(f32::NAN, |(high, low)| f32::midpoint(*high, *low))
}

fn rounded(value: f64) -> f32 {
    #[expect(clippy::cast_possible_truncation, reason = "the nearest there is, and rounded to sixteen bits next")]
    let value = value as f32;
    rounded32(value)
}

fn rounded32(value: f32) -> f32 {
    unpack(pack(value))
}

/// Smallest exponent that is told apart from zero: 2^-16.
const LEAST_EXPONENT: u32 = 127 - 16;
/// Marks a missing value.
pub(super) const MISSING: u16 = u16::MAX;

/// Sixteen bits of a value of 0 or more; negative ones are 0, NaN is [`MISSING`].
pub(super) fn pack(value: f32) -> u16 {
    if value.is_nan() {
        return MISSING;
    }
    // Half of the last kept bit is added, so that the cut rounds.
    let bits = value.max(0.0).to_bits().saturating_add(1 << 12);
    let code = (bits >> 13).saturating_sub(LEAST_EXPONENT << 10);
    u16::try_from(code).unwrap_or(MISSING - 1).min(MISSING - 1)
}

/// The value that [`pack`] made sixteen bits of.
pub(super) fn unpack(code: u16) -> f32 {
    match code {
        MISSING => f32::NAN,
        0 => 0.0,
        code => f32::from_bits((u32::from(code) + (LEAST_EXPONENT << 10)) << 13),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_bits_hold_counts_exactly_and_tokens_closely() {
        for count in 0..=2048u16 {
            assert_eq!(unpack(pack(f32::from(count))), f32::from(count));
        }
        for value in [3_333.3f32, 1e6, 2.4e9, 1e13] {
            assert!((unpack(pack(value)) / value - 1.0).abs() < 5e-4, "{value}");
        }
        assert!(unpack(pack(f32::NAN)).is_nan());
        assert_eq!(unpack(pack(-1.0)), 0.0);
        assert!(unpack(pack(f32::INFINITY)) > 1e13);
        for code in 0..MISSING {
            assert_eq!(pack(unpack(code)), code);
        }
    }

    #[test]
    fn an_outage_and_a_spike_are_limited_for_profiles_and_kept_as_they_were() {
        let (step, local) = (Step::new(3600).unwrap(), LocalTime::utc());
        let mut ring = Ring::default();
        for _ in 0..72 {
            ring.push(Load::Offered(1000.0), &local, step);
        }
        ring.push(Load::Offered(0.0), &local, step);
        ring.push(Load::Offered(1e6), &local, step);
        ring.push(Load::Missing, &local, step);
        assert_eq!(ring.raw[72..74], [0.0, rounded(1e6)]);
        assert_eq!(ring.limited[72], 250.0);
        assert!((3000.0..3070.0).contains(&ring.limited[73]));
        assert!(ring.raw[74].is_nan() && ring.limited[74].is_nan());
    }

    #[test]
    fn a_first_day_unlike_all_others_is_limited_when_the_others_are_known() {
        let (step, local) = (Step::new(3600).unwrap(), LocalTime::utc());
        let mut ring = Ring::default();
        for hour in 0..24 * 4 {
            ring.push(Load::Offered(if hour < 24 { 20_000.0 } else { 1000.0 }), &local, step);
        }
        assert_eq!(ring.raw[5], 20_000.0);
        assert!(ring.limited[5] < 3070.0 && ring.limited[30] == 1000.0);
    }

    #[test]
    fn four_weeks_stay() {
        let (step, local) = (Step::new(3600).unwrap(), LocalTime::utc());
        let mut ring = Ring::default();
        for at in 0..24 * 40 {
            ring.push(Load::Offered(f64::from(at)), &local, step);
        }
        assert_eq!(ring.end(), 24 * 40);
        assert!((24 * DAYS..24 * (DAYS + 1)).contains(&ring.len()));
    }
}
