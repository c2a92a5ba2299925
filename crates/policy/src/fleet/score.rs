//! What is learned of an offering from its own launches: how likely one comes and stays.
//!
//! Only what we hold or tried is looked at: a launch that came raises the score a little, one that failed lowers it, a
//! loss halves it and bars the offering for ten minutes, because losses come together. Surviving heals it slowly.

use core::time::Duration;

use crate::time::Timestamp;

/// After a loss an offering is left alone this long.
pub const BARRED_AFTER_LOSS: Duration = Duration::from_secs(600);

/// After a failed launch.
pub const BARRED_AFTER_FAILURE: Duration = Duration::from_secs(300);

/// Surviving closes this share of the gap to one in an hour.
const HEALED_AN_HOUR: f64 = 0.2;

/// The score of one offering.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// Between 0 and 1.
    value: f64,
    barred_until: Timestamp,
}

impl Default for Score {
    /// Of which nothing is known: rather good, so that it is tried.
    fn default() -> Self {
        Self { value: 0.7, barred_until: Timestamp::EPOCH }
    }
}

/// What happened to an offering.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event {
    /// A launch came.
    Launched,
    /// A launch was refused, or never came.
    Failed,
    /// The market took some back, with notice or without.
    Lost,
    /// Some of it ran for so long.
    Survived(Duration),
}

impl Score {
    /// A stored score.
    #[must_use]
    pub fn new(value: f64, barred_until: Timestamp) -> Self {
        Self { value: if value.is_finite() { value.clamp(0.0, 1.0) } else { 0.7 }, barred_until }
    }

    /// How likely it comes and stays, 0 to 1.
    #[must_use]
    pub const fn value(self) -> f64 {
        self.value
    }

    /// Until when it is left alone.
    #[must_use]
    pub const fn barred_until(self) -> Timestamp {
        self.barred_until
    }

    /// Whether it may be bought now.
    #[must_use]
    pub fn open(self, now: Timestamp) -> bool {
        self.barred_until <= now
    }

    /// The score after something happened.
    #[must_use]
    pub fn after(self, event: Event, now: Timestamp) -> Self {
        let barred = |wait| self.barred_until.max(now.after(wait));
        match event {
            Event::Launched => Self { value: (self.value + 0.05).min(1.0), ..self },
            Event::Failed => Self { value: self.value * 0.8, barred_until: barred(BARRED_AFTER_FAILURE) },
            Event::Lost => Self { value: self.value * 0.5, barred_until: barred(BARRED_AFTER_LOSS) },
            Event::Survived(time) => {
                let healed = 1.0 - (1.0 - HEALED_AN_HOUR).powf(time.as_secs_f64() / 3600.0);
                Self { value: self.value + (1.0 - self.value) * healed, ..self }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_hurt_survival_heals_and_no_order_of_events_leaves_the_scale() {
        let now = Timestamp::from_millis(1_000_000);
        let hurt = Score::default().after(Event::Lost, now);
        assert!(hurt.value() < 0.4 && !hurt.open(now) && hurt.open(now.after(BARRED_AFTER_LOSS)));
        let healed = hurt.after(Event::Survived(Duration::from_secs(24 * 3600)), now);
        assert!(healed.value() > 0.95);
        let mut score = Score::default();
        for at in 0..1000u32 {
            let event = match at * 7 % 5 {
                0 => Event::Failed,
                1 => Event::Lost,
                2 => Event::Survived(Duration::from_secs(3600)),
                _ => Event::Launched,
            };
            score = score.after(event, now);
            assert!((0.0..=1.0).contains(&score.value()));
        }
    }
}
