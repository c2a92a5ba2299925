//! What became of everybody.

use penstock_policy::admission::longest_wait;
use penstock_policy::classes::Class;
use penstock_policy::promise::Kept;

use super::histogram::Histogram;

/// How somebody's story ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With the answer of a run.
    Answered,
    /// With a kept answer.
    Hit,
    /// With the answer of a run that somebody else had asked for.
    Joined,
    /// With a kept answer past its end, because nothing better was to be had.
    Stale,
    /// With an answer from elsewhere.
    Fallback,
    /// Was let in, and hung up before there was an answer.
    Lost,
    /// Was told that no wait as long as clients wait would help.
    TurnedAway,
    /// Was refused as often as it tries, or went at the first refusal.
    GaveUp,
}

impl End {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Answered,
        Self::Hit,
        Self::Joined,
        Self::Stale,
        Self::Fallback,
        Self::Lost,
        Self::TurnedAway,
        Self::GaveUp,
    ];

    /// Its name in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Hit => "hit",
            Self::Joined => "joined",
            Self::Stale => "stale",
            Self::Fallback => "fallback",
            Self::Lost => "lost",
            Self::TurnedAway => "turned_away",
            Self::GaveUp => "gave_up",
        }
    }

    /// Whether there was an answer.
    #[must_use]
    pub const fn is_answer(self) -> bool {
        match self {
            Self::Answered | Self::Hit | Self::Joined | Self::Stale | Self::Fallback => true,
            Self::Lost | Self::TurnedAway | Self::GaveUp => false,
        }
    }

    const fn index(self) -> usize {
        self as usize
    }
}

/// Somebody's whole story.
#[derive(Clone, Copy, Debug)]
pub struct Story {
    /// The class.
    pub class: Class,
    /// How it ended.
    pub end: End,
    /// From the first try to the end, in seconds.
    pub secs: f64,
    /// It was refused at least once.
    pub refused: bool,
    /// It was told when to come back at least once, and is one that obeys.
    pub told: bool,
}

/// Everybody of one class.
#[derive(Clone, Debug, Default)]
pub struct OfClass {
    /// By end, in the order of [`End::ALL`].
    pub ends: [u64; 8],
    /// From the first try to the answer.
    pub latency: Histogram,
    /// From the acceptance to the start.
    pub wait: Histogram,
    /// Refused at least once.
    pub refused: u64,
    /// Told when to come back, of those who obey.
    pub told: u64,
    /// Of them those who had an answer in the end.
    pub told_and_answered: u64,
    /// Had no answer within the longest wait of the class.
    pub missed: u64,
    /// Promises that came due, and those kept at 50 and at 95 %.
    pub promised: u64,
    /// See above.
    pub kept_50: u64,
    /// See above.
    pub kept_95: u64,
    /// The stated 95 % over the actual time.
    pub sharpness: Histogram,
}

impl OfClass {
    /// Everybody.
    #[must_use]
    pub fn asked(&self) -> u64 {
        self.ends.iter().sum()
    }

    /// Who ended so.
    #[must_use]
    pub const fn ended(&self, end: End) -> u64 {
        self.ends[end.index()]
    }

    /// Who had an answer.
    #[must_use]
    pub fn answered(&self) -> u64 {
        End::ALL.into_iter().filter(|end| end.is_answer()).map(|end| self.ended(end)).sum()
    }

    /// The sum of two.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let mut sum = self.clone();
        sum.ends.iter_mut().zip(other.ends).for_each(|(a, b)| *a += b);
        sum.latency.merge(&other.latency);
        sum.wait.merge(&other.wait);
        sum.sharpness.merge(&other.sharpness);
        sum.refused += other.refused;
        sum.told += other.told;
        sum.told_and_answered += other.told_and_answered;
        sum.missed += other.missed;
        sum.promised += other.promised;
        sum.kept_50 += other.kept_50;
        sum.kept_95 += other.kept_95;
        sum
    }
}

/// Everybody.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// By class.
    pub classes: [OfClass; 4],
}

impl Tally {
    /// Adds a story.
    pub fn end(&mut self, story: &Story) {
        let class = &mut self.classes[story.class.index()];
        class.ends[story.end.index()] += 1;
        let answer = story.end.is_answer();
        if answer {
            class.latency.add(story.secs);
        }
        class.refused += u64::from(story.refused);
        class.told += u64::from(story.told);
        class.told_and_answered += u64::from(story.told && answer);
        class.missed += u64::from(!answer || story.secs > longest_wait(story.class).as_secs_f64());
    }

    /// Adds what became of a promise.
    pub fn promise(&mut self, class: Class, kept: &Kept) {
        let class = &mut self.classes[class.index()];
        class.promised += 1;
        class.kept_50 += u64::from(kept.half);
        class.kept_95 += u64::from(kept.most);
        class.sharpness.add(kept.stated_over_actual);
    }

    /// All classes together.
    #[must_use]
    pub fn all(&self) -> OfClass {
        self.classes.iter().fold(OfClass::default(), |sum, class| sum.plus(class))
    }

    /// The two interactive classes together.
    #[must_use]
    pub fn interactive(&self) -> OfClass {
        self.classes[0].plus(&self.classes[1])
    }
}

/// A share; 1 of nothing.
#[must_use]
pub fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 1.0 } else { part as f64 / whole as f64 }
}
