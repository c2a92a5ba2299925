//! A circuit breaker in the standard sense: *closed* lets calls through, *open* refuses them, *half-open* lets a few
//! probes through to find out.
//!
//! What is often left out is kept as state here. A probe holds a **permit with a lease**: a prober that dies gives its
//! place back when the lease ends. A permit carries the **generation** in which it was given, and a report from another
//! generation changes nothing: the late answer of a call from before the trip neither closes nor opens anything.
//! Opening by rate needs a count too, so that one failure of two calls at night opens nothing.
//!
//! Waits between trips double, and are forgotten only after the breaker has stayed closed for a while, so that a
//! dependency that fails every second call is not asked again each second.

use core::time::Duration;

use crate::time::Timestamp;

/// The parts in which the window of a closed breaker slides.
const PARTS: usize = 10;
const PARTS_WIDE: i64 = 10;

/// When a breaker opens, for how long, and what closes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// It opens after so many failures in a row.
    pub consecutive: u32,
    /// It opens too if, within this time, ...
    pub window: Duration,
    /// ... at least so many calls ended, ...
    pub least: u32,
    /// ... of which at least this share failed, in percent.
    pub percent: u32,
    /// The first wait before probes; each trip doubles it.
    pub first_wait: Duration,
    /// The longest wait.
    pub longest_wait: Duration,
    /// How many probes may be under way at once.
    pub permits: usize,
    /// How long a probe may take before its permit is given to another.
    pub lease: Duration,
    /// How many probes must succeed, none failing between, to close it.
    pub successes: u32,
    /// After so long closed, earlier trips are forgotten.
    pub forget: Duration,
}

impl Config {
    /// In front of each dependency of one process: reacts within milliseconds to what the shared breaker sees after
    /// ten seconds. One probe suffices, since five failures open it again.
    pub const LOCAL: Self = Self {
        consecutive: 5,
        window: Duration::from_secs(10),
        least: 20,
        percent: 50,
        first_wait: Duration::from_secs(1),
        longest_wait: Duration::from_secs(30),
        permits: 1,
        lease: Duration::from_secs(10),
        successes: 1,
        forget: Duration::from_secs(60),
    };
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The dependency answered, whatever it said.
    Success,
    /// It did not.
    Failure,
}

/// Leave to make one call; its outcome is reported with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permit {
    /// The generation it was given in.
    pub generation: u64,
    /// Which probe of that generation it is; 0 for a call through a closed breaker.
    pub probe: u64,
}

/// A probe under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The permit's number within its generation, from 1.
    pub probe: u64,
    /// When its place is free again, reported or not.
    pub until: Timestamp,
}

/// The probes of a half-open breaker. The default is nothing under way in generation 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probes {
    /// Counts the trips: only reports of this generation count.
    pub generation: u64,
    /// The permits out.
    pub leases: Vec<Lease>,
    /// The probes that have succeeded since the last failure.
    pub successes: u32,
    /// How many permits this generation has given.
    pub given: u64,
}

/// What a probe's report means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probed {
    /// It is from another generation, or its lease had ended: nothing changes.
    Stale,
    /// It counts, and more are needed.
    Counted,
    /// The last success that was needed.
    Proven,
    /// The dependency still fails; a new generation begins.
    Failed,
}

impl Probes {
    /// Gives a permit, if fewer than `most` are out.
    pub fn give(&mut self, most: usize, lease: Duration, now: Timestamp) -> Option<Permit> {
        self.leases.retain(|lease| lease.until > now);
        if self.leases.len() >= most {
            return None;
        }
        self.given = self.given.saturating_add(1);
        self.leases.push(Lease { probe: self.given, until: now.after(lease) });
        Some(Permit { generation: self.generation, probe: self.given })
    }

    /// Counts the outcome of a probe towards `needed` successes in a row.
    pub fn report(&mut self, permit: Permit, outcome: Outcome, needed: u32, now: Timestamp) -> Probed {
        self.leases.retain(|lease| lease.until > now);
        let held = self.leases.iter().position(|lease| lease.probe == permit.probe);
        let Some(place) = held.filter(|_| permit.generation == self.generation) else { return Probed::Stale };
        self.leases.swap_remove(place);
        match outcome {
            Outcome::Failure => {
                self.begin_anew();
                Probed::Failed
            }
            Outcome::Success => {
                self.successes = self.successes.saturating_add(1);
                if self.successes >= needed { Probed::Proven } else { Probed::Counted }
            }
        }
    }

    /// Takes a permit back whose call was not made, or of which nothing was learned.
    pub fn withdraw(&mut self, permit: Permit) {
        if permit.generation == self.generation {
            self.leases.retain(|lease| lease.probe != permit.probe);
        }
    }

    /// Begins a generation: what was under way before does not count any more.
    pub fn begin_anew(&mut self) {
        *self = Self { generation: self.generation.saturating_add(1), ..Self::default() };
    }

    /// When the next place is free at the latest; `None` if one is free now.
    #[must_use]
    pub fn full_until(&self, most: usize, now: Timestamp) -> Option<Timestamp> {
        let out = self.leases.iter().filter(|lease| lease.until > now);
        let ends: Vec<Timestamp> = out.map(|lease| lease.until).collect();
        ends.iter().min().copied().filter(|_| ends.len() >= most)
    }
}

/// Where a breaker stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Calls go through.
    Closed {
        /// Failures since the last success.
        run: u32,
        /// Calls of late.
        window: Window,
    },
    /// Calls are refused until then.
    Open {
        /// When probes may begin.
        until: Timestamp,
    },
    /// Probes go through.
    HalfOpen,
}

/// A breaker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breaker {
    /// Where it stands.
    pub state: State,
    /// Since when.
    pub since: Timestamp,
    /// Trips that are not forgotten yet.
    pub trips: u32,
    /// The generation, and the probes under way.
    pub probes: Probes,
}

impl Default for Breaker {
    /// Closed, and as if it had always been.
    fn default() -> Self {
        Self {
            state: State::Closed { run: 0, window: Window::default() },
            since: Timestamp::EPOCH,
            trips: 0,
            probes: Probes::default(),
        }
    }
}

/// Whether a call may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Make it, and report.
    Go(Permit),
    /// Do not.
    Refuse {
        /// When to ask again.
        until: Timestamp,
    },
}

/// Asks for one call.
#[must_use]
pub fn ask(mut breaker: Breaker, config: &Config, now: Timestamp) -> (Decision, Breaker) {
    if let State::Open { until } = breaker.state {
        // A wall clock that stepped back must not lengthen the wait.
        let until = until.min(now.after(config.longest_wait));
        if until > now {
            breaker.state = State::Open { until };
            return (Decision::Refuse { until }, breaker);
        }
        breaker.state = State::HalfOpen;
        breaker.since = now;
    }
    let decision = match breaker.state {
        State::Closed { .. } => Decision::Go(Permit { generation: breaker.probes.generation, probe: 0 }),
        State::Open { until } => Decision::Refuse { until },
        State::HalfOpen => match breaker.probes.give(config.permits, config.lease, now) {
            Some(permit) => Decision::Go(permit),
            None => {
                let free = breaker.probes.full_until(config.permits, now);
                Decision::Refuse { until: free.unwrap_or(now).min(now.after(config.first_wait)) }
            }
        },
    };
    (decision, breaker)
}

/// Reports how a permitted call ended.
#[must_use]
pub fn report(mut breaker: Breaker, permit: Permit, outcome: Outcome, config: &Config, now: Timestamp) -> Breaker {
    match &mut breaker.state {
        State::Closed { run, window } if permit.generation == breaker.probes.generation => {
            *run = if outcome == Outcome::Failure { run.saturating_add(1) } else { 0 };
            window.add(outcome, config.window, now);
            let by_rate = window.exceeds(config);
            if *run >= config.consecutive || by_rate {
                return trip(breaker, config, now);
            }
        }
        // An answer to a call of an earlier generation, or from before the trip.
        State::Closed { .. } | State::Open { .. } => {}
        State::HalfOpen => match breaker.probes.report(permit, outcome, config.successes, now) {
            Probed::Stale | Probed::Counted => {}
            Probed::Failed => return trip(breaker, config, now),
            Probed::Proven => {
                breaker.probes.begin_anew();
                breaker.state = State::Closed { run: 0, window: Window::default() };
                breaker.since = now;
            }
        },
    }
    breaker
}

fn trip(mut breaker: Breaker, config: &Config, now: Timestamp) -> Breaker {
    let was_closed = matches!(breaker.state, State::Closed { .. });
    if was_closed && now.since(breaker.since) >= config.forget {
        breaker.trips = 0;
    }
    let doubled = config.first_wait.saturating_mul(1u32.checked_shl(breaker.trips).unwrap_or(u32::MAX));
    breaker.trips = breaker.trips.saturating_add(1);
    breaker.probes.begin_anew();
    breaker.state = State::Open { until: now.after(doubled.min(config.longest_wait)) };
    breaker.since = now;
    breaker
}

/// Counts of the calls that ended within a sliding time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    parts: [Part; PARTS],
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Part {
    number: i64,
    calls: u32,
    failures: u32,
}

impl Window {
    fn add(&mut self, outcome: Outcome, length: Duration, now: Timestamp) {
        let part_ms = i64::try_from(length.as_millis() / PARTS as u128).unwrap_or(i64::MAX).max(1);
        let number = now.as_millis().div_euclid(part_ms);
        // What is older than the window, or from a future that a clock stepping back has undone.
        for part in &mut self.parts {
            if part.number > number || number.saturating_sub(part.number) >= PARTS_WIDE {
                *part = Part::default();
            }
        }
        let place = usize::try_from(number.rem_euclid(PARTS_WIDE)).unwrap_or(0);
        let part = &mut self.parts[place];
        if part.number != number {
            *part = Part { number, ..Part::default() };
        }
        part.calls = part.calls.saturating_add(1);
        part.failures = part.failures.saturating_add(u32::from(outcome == Outcome::Failure));
    }

    fn exceeds(&self, config: &Config) -> bool {
        let calls: u64 = self.parts.iter().map(|part| u64::from(part.calls)).sum();
        let failures: u64 = self.parts.iter().map(|part| u64::from(part.failures)).sum();
        calls >= u64::from(config.least) && failures > 0 && failures * 100 >= calls * u64::from(config.percent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: Config = Config::LOCAL;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millis(1_700_000_000_000 + ms)
    }

    fn go(breaker: &mut Breaker, now: Timestamp) -> Option<Permit> {
        let (decision, next) = ask(breaker.clone(), &LOCAL, now);
        *breaker = next;
        match decision {
            Decision::Go(permit) => Some(permit),
            Decision::Refuse { .. } => None,
        }
    }

    fn call(breaker: &mut Breaker, outcome: Outcome, now: Timestamp) -> bool {
        let Some(permit) = go(breaker, now) else { return false };
        *breaker = report(breaker.clone(), permit, outcome, &LOCAL, now);
        true
    }

    fn tripped(at_ms: i64) -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 0..5 {
            assert!(call(&mut breaker, Outcome::Failure, at(at_ms)));
        }
        breaker
    }

    #[test]
    fn five_failures_in_a_row_open_it_and_four_do_not() {
        let mut breaker = Breaker::default();
        for _ in 0..10 {
            for _ in 0..4 {
                assert!(call(&mut breaker, Outcome::Failure, at(0)));
            }
            // A success between; spread out so that the rate does not open it.
            breaker = Breaker { probes: breaker.probes, ..Breaker::default() };
        }
        assert!(!call(&mut tripped(0), Outcome::Success, at(999)));
    }

    #[test]
    fn half_of_twenty_calls_open_it_and_half_of_nineteen_do_not() {
        let mut breaker = Breaker::default();
        for n in 0..19 {
            let outcome = if n % 2 == 0 { Outcome::Failure } else { Outcome::Success };
            assert!(call(&mut breaker, outcome, at(n)));
        }
        assert!(matches!(breaker.state, State::Closed { .. }), "nineteen calls are too few");
        assert!(call(&mut breaker, Outcome::Success, at(19)));
        assert!(matches!(breaker.state, State::Open { .. }), "ten of twenty");
    }

    #[test]
    fn failures_older_than_the_window_do_not_count() {
        let mut breaker = Breaker::default();
        for n in 0..40 {
            let outcome = if n % 2 == 0 { Outcome::Failure } else { Outcome::Success };
            assert!(call(&mut breaker, outcome, at(n * 1000)), "ten in ten seconds are too few");
        }
    }

    #[test]
    fn waits_double_up_to_the_longest_and_are_forgotten_after_a_quiet_minute() {
        let mut breaker = tripped(0);
        let mut now = 0;
        for wait in [1000, 2000, 4000, 8000, 16_000, 30_000, 30_000] {
            assert!(!call(&mut breaker, Outcome::Failure, at(now + wait - 1)));
            now += wait;
            assert!(call(&mut breaker, Outcome::Failure, at(now)), "a probe after {wait} ms");
        }
        now += 30_000;
        assert!(call(&mut breaker, Outcome::Success, at(now)));
        now += 60_000;
        for _ in 0..5 {
            assert!(call(&mut breaker, Outcome::Failure, at(now)));
        }
        assert_eq!(breaker.state, State::Open { until: at(now + 1000) });
    }

    #[test]
    fn one_probe_at_a_time_and_a_leaked_one_is_regained_after_its_lease() {
        let mut breaker = tripped(0);
        assert!(go(&mut breaker, at(1000)).is_some());
        assert!(go(&mut breaker, at(1001)).is_none());
        assert!(go(&mut breaker, at(10_999)).is_none());
        assert!(call(&mut breaker, Outcome::Success, at(11_000)), "the first prober is taken for dead");
        assert!(matches!(breaker.state, State::Closed { .. }));
    }

    #[test]
    fn a_late_answer_from_before_the_trip_or_of_a_lapsed_probe_changes_nothing() {
        let mut breaker = Breaker::default();
        let early = go(&mut breaker, at(0)).unwrap();
        for _ in 0..5 {
            assert!(call(&mut breaker, Outcome::Failure, at(0)));
        }
        let probe = go(&mut breaker, at(1000)).unwrap();
        let before = breaker.clone();
        assert_eq!(report(breaker.clone(), early, Outcome::Success, &LOCAL, at(1001)), before);
        let lapsed = report(breaker.clone(), probe, Outcome::Success, &LOCAL, at(11_000));
        assert_eq!(lapsed.state, State::HalfOpen);
        let closed = report(breaker, probe, Outcome::Success, &LOCAL, at(1002));
        assert!(matches!(closed.state, State::Closed { .. }));
        assert_eq!(report(closed.clone(), probe, Outcome::Failure, &LOCAL, at(1003)), closed);
    }

    #[test]
    fn a_clock_that_steps_back_does_not_keep_it_open_for_ever() {
        let mut breaker = tripped(3_600_000);
        assert!(go(&mut breaker, at(0)).is_none());
        assert!(go(&mut breaker, at(29_999)).is_none());
        assert!(go(&mut breaker, at(30_000)).is_some());
    }
}
