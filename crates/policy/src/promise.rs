//! The promise: when a job that is accepted now will have its answer.
//!
//! First an [`Expectation`] from what is known: the work ahead of the job, the pool's calibrated rate, how long answers of
//! this length take. Then the error of such expectations, *measured*: how often which ratio of actual to expected was seen
//! for this pool and class ([`Errors`]). Half of the answers come within the median ratio; nineteen of twenty within the
//! upper quantile. An empirical quantile needs no model of the error and corrects any constant bias of the expectation by
//! itself, as in split-conformal prediction (Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World", 2005);
//! a weak prior with a long tail errs on the safe side while there are few observations.
//!
//! Errors are counted by [`Regime`], because a job that finds a free slot errs otherwise than one that waits, and one that
//! waits for a worker to boot otherwise than both.

use core::time::Duration;
use std::collections::BTreeMap;

use crate::cost::UsdMicros;

/// What is promised of one job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise {
    /// Half of such jobs have ended within this time of their admission.
    pub eta_50: Duration,
    /// Nineteen of twenty have.
    pub eta_95: Duration,
    /// About how many jobs are ahead of it and not running yet.
    pub position: u64,
    /// What it costs at most by the estimate.
    pub price: UsdMicros,
    /// What was expected before the error was added, and how: the error is measured against it.
    pub expected: Duration,
    /// The regime it was expected in.
    pub regime: Regime,
}

impl Promise {
    /// How many jobs are still ahead of one that has waited for `waited`, and how much longer its answer is expected to
    /// take: what was ahead is taken to have gone at an even pace, so that neither number ever grows.
    #[must_use]
    pub fn left(&self, waited: Duration) -> (u64, Duration) {
        let left = self.eta_50.saturating_sub(waited);
        let share = left.as_secs_f64() / self.eta_50.as_secs_f64().max(1e-3);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a whole number")]
        let ahead = (self.position as f64 * share).ceil() as u64;
        (ahead.min(self.position), left)
    }
}

/// What a pool can do, as published.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// Tokens a second with all slots busy.
    pub tokens_per_second: f64,
    /// Slots of all live workers together.
    pub slots: u32,
    /// Estimated tokens of a usual job: what the virtual queue counts.
    pub mean_job_tokens: f64,
    /// Milliseconds that a running job takes for each token it was estimated at.
    pub ms_per_token: f64,
    /// How long until there is a worker at all; zero if there is one.
    pub ready_in: Duration,
}

/// How a job finds its pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Regime {
    /// With a slot free, or nearly.
    Free,
    /// With others ahead of it.
    Queued,
    /// Without any worker: one has to boot first.
    FromZero,
}

impl Regime {
    /// Every regime.
    pub const ALL: [Self; 3] = [Self::Free, Self::Queued, Self::FromZero];

    /// Its letter in stored names.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Free => "f",
            Self::Queued => "q",
            Self::FromZero => "z",
        }
    }

    /// The regime of that letter.
    #[must_use]
    pub fn from_code(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|regime| regime.code() == code)
    }
}

/// When an answer is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expectation {
    /// Until it starts.
    pub dwell: Duration,
    /// From start to end.
    pub run: Duration,
    /// Jobs ahead of it that are not running yet.
    pub position: u64,
    /// How it finds the pool.
    pub regime: Regime,
}

impl Expectation {
    /// From admission to the end.
    #[must_use]
    pub fn total(&self) -> Duration {
        // A job takes a moment even if nothing is known of it; ratios need something to divide by.
        (self.dwell + self.run).max(Duration::from_millis(20))
    }
}

/// Expects the end of a job of `tokens` estimated tokens that has `ahead` of them before it, running ones included.
#[must_use]
pub fn expect(pace: &Pace, tokens: u64, ahead: f64) -> Expectation {
    let job = positive(pace.mean_job_tokens, 1.0);
    let slots = f64::from(pace.slots.max(1));
    // What the slots work off together, in the tokens that jobs are estimated at: a prompt's are sooner done than an
    // answer's, and what a worker measured at its start were the latter.
    let calibrated = positive(pace.tokens_per_second, 1.0);
    let rate = positive(slots * 1000.0 / pace.ms_per_token, calibrated);
    // Running jobs are half done on average; a newcomer waits for what does not run yet.
    let running = slots * job / 2.0;
    let waiting = (ahead.max(0.0) - running).max(0.0);
    let dwell = pace.ready_in + seconds(waiting / rate);
    let run = seconds(tokens as f64 * positive(pace.ms_per_token, 1000.0 * slots / rate) / 1000.0);
    let regime = if !pace.ready_in.is_zero() {
        Regime::FromZero
    } else if dwell * 4 < run {
        Regime::Free
    } else {
        Regime::Queued
    };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, and saturates")]
    let position = (waiting / job).round() as u64;
    Expectation { dwell, run, position, regime }
}

fn positive(value: f64, otherwise: f64) -> f64 {
    if value.is_finite() && value > 0.0 { value } else { otherwise }
}

/// A year at most: beyond it nobody waits, and `Duration` must not overflow.
fn seconds(value: f64) -> Duration {
    Duration::from_secs_f64(value.clamp(0.0, 3.2e7))
}

/// Bins an octave: neighbours are 9 % apart, which is what a quantile can be too wide by.
const BINS_AN_OCTAVE: f64 = 8.0;

/// Ratios beyond 64 or below a 64th are counted as that.
const MOST_BIN: i32 = 48;

/// The bin that an answer is counted in which took `actual` though `expected` was expected.
#[must_use]
pub fn bin(expected: Duration, actual: Duration) -> i32 {
    let ratio = actual.as_secs_f64().max(1e-3) / expected.as_secs_f64().max(1e-3);
    #[expect(clippy::cast_possible_truncation, reason = "a logarithm of an f64 is small")]
    let bin = (ratio.log2() * BINS_AN_OCTAVE).ceil() as i32;
    bin.clamp(-MOST_BIN, MOST_BIN)
}

/// How often which error was seen: weights by bin.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Errors(BTreeMap<i32, f64>);

/// What is believed before anything was seen: mostly right, now and then three times as long.
const PRIOR: [(i32, f64); 5] = [(-4, 0.25), (1, 0.75), (5, 0.5), (9, 0.25), (13, 0.25)];

impl Errors {
    /// Counts `weight` observations in a bin.
    pub fn add(&mut self, bin: i32, weight: f64) {
        if weight > 0.0 {
            *self.0.entry(bin.clamp(-MOST_BIN, MOST_BIN)).or_default() += weight;
        }
    }

    /// How much was observed.
    #[must_use]
    pub fn weight(&self) -> f64 {
        self.0.values().sum()
    }

    /// The bins and their weights.
    pub fn bins(&self) -> impl Iterator<Item = (i32, f64)> {
        self.0.iter().map(|(bin, weight)| (*bin, *weight))
    }

    /// The ratio of actual to expected that a share `q` of jobs stays within, upper edge of its bin.
    #[must_use]
    pub fn quantile(&self, q: f64) -> f64 {
        let mut bins = self.0.clone();
        // The prior fades as observations come: it weighs as much as two of them and no more.
        for (bin, weight) in PRIOR {
            *bins.entry(bin).or_default() += weight;
        }
        let all: f64 = bins.values().sum();
        let rank = q * all;
        let mut seen = 0.0;
        for (bin, weight) in &bins {
            seen += weight;
            if seen >= rank {
                return edge(*bin);
            }
        }
        bins.keys().next_back().map_or(1.0, |bin| edge(*bin))
    }
}

fn edge(bin: i32) -> f64 {
    (f64::from(bin) / BINS_AN_OCTAVE).exp2()
}

/// The two ratios that a promise states.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Half stay within it.
    pub half: f64,
    /// Nineteen of twenty do.
    pub most: f64,
}

/// The share that the upper ratio is aimed at. A little above what is promised, because what is seen lags behind what
/// happens: in a surge the newest errors are not known yet.
const AIM: f64 = 0.975;

impl Spread {
    /// What the errors seen so far amount to.
    #[must_use]
    pub fn of(errors: &Errors) -> Self {
        Self { half: errors.quantile(0.5), most: errors.quantile(AIM) }
    }
}

/// States the promise for what is expected.
#[must_use]
pub fn promise(expectation: &Expectation, spread: &Spread, price: UsdMicros) -> Promise {
    let expected = expectation.total();
    let times = |ratio: f64| seconds(expected.as_secs_f64() * positive(ratio, 1.0));
    let eta_50 = times(spread.half);
    Promise {
        eta_50,
        eta_95: times(spread.most).max(eta_50),
        position: expectation.position,
        price,
        expected,
        regime: expectation.regime,
    }
}

/// What became of a promise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kept {
    /// The answer was there by the 50 % moment.
    pub half: bool,
    /// It was there by the 95 % moment.
    pub most: bool,
    /// The 95 % wait that was stated as a multiple of the wait there was: the sharpness, 1 at best.
    pub stated_over_actual: f64,
    /// The bin that the error is counted in.
    pub bin: i32,
}

/// Compares a promise with what happened.
#[must_use]
pub fn kept(promise: &Promise, actual: Duration) -> Kept {
    Kept {
        half: actual <= promise.eta_50,
        most: actual <= promise.eta_95,
        stated_over_actual: promise.eta_95.as_secs_f64() / actual.as_secs_f64().max(1e-3),
        bin: bin(promise.expected, actual),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PACE: Pace = Pace {
        tokens_per_second: 100.0,
        slots: 4,
        mean_job_tokens: 50.0,
        ms_per_token: 40.0,
        ready_in: Duration::ZERO,
    };

    #[test]
    fn a_job_waits_for_what_does_not_run_yet_and_then_runs_at_its_own_pace() {
        let free = expect(&PACE, 50, 60.0);
        assert_eq!((free.dwell, free.run, free.regime), (Duration::ZERO, Duration::from_secs(2), Regime::Free));
        let queued = expect(&PACE, 50, 1100.0);
        assert_eq!((queued.dwell, queued.position), (Duration::from_secs(10), 20));
        assert_eq!(queued.regime, Regime::Queued);
        let cold = expect(&Pace { ready_in: Duration::from_secs(30), ..PACE }, 50, 0.0);
        assert_eq!((cold.dwell, cold.regime), (Duration::from_secs(30), Regime::FromZero));
    }

    #[test]
    fn senseless_measures_give_some_promise_all_the_same() {
        let none = Pace {
            tokens_per_second: 0.0,
            slots: 0,
            mean_job_tokens: f64::NAN,
            ms_per_token: -1.0,
            ready_in: Duration::ZERO,
        };
        let promise = promise(&expect(&none, u64::MAX, f64::INFINITY), &Spread::of(&Errors::default()), UsdMicros(0));
        assert!(promise.eta_50 <= promise.eta_95);
    }

    #[test]
    fn what_was_seen_takes_the_place_of_what_was_believed() {
        let mut errors = Errors::default();
        assert!((2.0..3.5).contains(&errors.quantile(0.95)), "cautious while nothing is known");
        for _ in 0..1000 {
            errors.add(bin(Duration::from_secs(10), Duration::from_secs(5)), 1.0);
        }
        let spread = Spread::of(&errors);
        assert!((0.49..=0.56).contains(&spread.half) && (0.49..=0.56).contains(&spread.most), "{spread:?}");
    }

    #[test]
    fn what_is_ahead_goes_while_it_is_waited_for_and_never_grows() {
        let expectation = Expectation {
            dwell: Duration::from_secs(90),
            run: Duration::from_secs(10),
            position: 9,
            regime: Regime::Queued,
        };
        let promise = promise(&expectation, &Spread { half: 1.0, most: 2.0 }, UsdMicros(7));
        let left = |secs| promise.left(Duration::from_secs(secs));
        assert_eq!(left(0), (9, Duration::from_secs(100)));
        assert_eq!(left(50), (5, Duration::from_secs(50)));
        assert_eq!(left(99), (1, Duration::from_secs(1)));
        assert_eq!(left(1000), (0, Duration::ZERO));
        assert!((0..120).all(|secs| left(secs + 1).0 <= left(secs).0));
    }

    #[test]
    fn a_promise_is_kept_up_to_its_moment() {
        let expectation =
            Expectation { dwell: Duration::ZERO, run: Duration::from_secs(10), position: 0, regime: Regime::Free };
        let promise = promise(&expectation, &Spread { half: 1.0, most: 2.0 }, UsdMicros(7));
        let seen = kept(&promise, Duration::from_secs(20));
        assert_eq!((seen.half, seen.most, seen.stated_over_actual, seen.bin), (false, true, 1.0, 8));
        assert!(!kept(&promise, Duration::from_millis(20_001)).most);
    }

    proptest! {
        /// Whatever the errors are, as long as tomorrow's are like yesterday's, the share that is promised stays within.
        #[test]
        fn the_upper_quantile_covers_what_it_says(seed in any::<u64>(), spread in 0.05f64..1.5) {
            let mut state = seed;
            let mut draw = move || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 11) as f64 / (1u64 << 53) as f64
            };
            // Roughly normal in the logarithm.
            let mut ratio = || ((0..6).map(|_| draw()).sum::<f64>() - 3.0).mul_add(spread, 0.3).exp();
            let mut errors = Errors::default();
            let expected = Duration::from_secs(10);
            for _ in 0..600 {
                errors.add(bin(expected, expected.mul_f64(ratio())), 1.0);
            }
            let most = errors.quantile(0.95);
            let within = (0..4000).filter(|_| ratio() <= most).count();
            prop_assert!(within >= 3600, "{within} of 4000");
        }
    }
}
