//! Notices a call of the model that never returns, ends it, and if that does not help, says so.
//!
//! A driver that hangs or a kernel that loops keeps the engine's thread for ever, with everybody's sequences in it. The
//! call is asked to end when it takes longer than [`Limits::call`]; the runtime looks at that between operators, so that
//! its sequences fail and the engine goes on. If the thread still hangs after as long again the engine is given up: it
//! takes nothing more, its jobs go to other workers, and whoever owns the engine starts another.
//!
//! The decision is a function of durations; the thread that asks the clock is [`watch`].

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::decoder::Cancel;

/// How long things may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A call of the model.
    pub call: Duration,
}

impl Limits {
    /// The least limit: a machine that swaps or a GPU that is shared may well be slow for so long.
    const LEAST: Duration = Duration::from_secs(20);

    /// How many times longer than the longest call at warm-up a call may take.
    const TIMES: u32 = 50;

    /// Limits for a model whose longest call at warm-up took `longest`.
    #[must_use]
    pub fn for_longest(longest: Duration) -> Self {
        Self { call: longest.saturating_mul(Self::TIMES).max(Self::LEAST) }
    }
}

/// What to do about a call that has run for so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Fine,
    /// Ask it to end.
    End,
    /// Give the engine up.
    GiveUp,
}

/// What to do about a call that has run for `elapsed`.
#[must_use]
pub fn judge(elapsed: Duration, limits: &Limits) -> Verdict {
    if elapsed <= limits.call {
        Verdict::Fine
    } else if elapsed <= limits.call * 2 {
        Verdict::End
    } else {
        Verdict::GiveUp
    }
}

/// What the engine's thread and the watching one tell each other.
pub struct Pulse {
    base: Instant,
    /// When the running call began, in milliseconds after `base`, plus one; 0: none runs.
    began: AtomicU64,
    ended: AtomicBool,
    given_up: AtomicBool,
    over: Mutex<bool>,
    told: Condvar,
}

impl Default for Pulse {
    fn default() -> Self {
        Self {
            base: Instant::now(),
            began: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            given_up: AtomicBool::new(false),
            over: Mutex::new(false),
            told: Condvar::new(),
        }
    }
}

impl Pulse {
    /// A call begins.
    pub fn begin(&self) {
        let now = u64::try_from(self.base.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.began.store(now + 1, Ordering::Release);
    }

    /// The call has returned. Says whether it was asked to end, so that later ones must be allowed again.
    pub fn returned(&self) -> bool {
        self.began.store(0, Ordering::Release);
        self.ended.swap(false, Ordering::AcqRel)
    }

    /// Whether the engine was given up.
    #[must_use]
    pub fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Acquire)
    }

    /// Gives the engine up for another reason.
    pub fn give_up(&self) {
        self.given_up.store(true, Ordering::Release);
    }

    /// Ends the watching.
    pub fn stop(&self) {
        *self.over.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.told.notify_all();
    }

    fn elapsed(&self) -> Option<Duration> {
        let began = self.began.load(Ordering::Acquire).checked_sub(1)?;
        Some(self.base.elapsed().saturating_sub(Duration::from_millis(began)))
    }
}

/// Looks at the engine's pulse until it is told to stop or the engine is given up. Blocks; runs on a thread of its own.
pub fn watch(pulse: &Arc<Pulse>, limits: &Limits, cancel: &Cancel) {
    let mut over = pulse.over.lock().unwrap_or_else(PoisonError::into_inner);
    while !*over {
        match pulse.elapsed().map_or(Verdict::Fine, |elapsed| judge(elapsed, limits)) {
            Verdict::Fine => {}
            Verdict::End => {
                if !pulse.ended.swap(true, Ordering::AcqRel) {
                    tracing::error!(limit = ?limits.call, "a call of the model takes too long and is ended");
                    cancel();
                }
            }
            Verdict::GiveUp => {
                tracing::error!("a call of the model does not end: the engine is given up");
                pulse.give_up();
                return;
            }
        }
        (over, _) = pulse.told.wait_timeout(over, limits.call / 8).unwrap_or_else(PoisonError::into_inner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_ended_after_its_limit_and_given_up_after_twice_that() {
        let limits = Limits { call: Duration::from_secs(20) };
        for (seconds, verdict) in
            [(0, Verdict::Fine), (20, Verdict::Fine), (21, Verdict::End), (40, Verdict::End), (41, Verdict::GiveUp)]
        {
            assert_eq!(judge(Duration::from_secs(seconds), &limits), verdict, "after {seconds} s");
        }
    }

    #[test]
    fn the_limit_grows_with_the_model() {
        assert_eq!(Limits::for_longest(Duration::from_millis(3)).call, Duration::from_secs(20));
        assert_eq!(Limits::for_longest(Duration::from_secs(2)).call, Duration::from_secs(100));
    }
}
