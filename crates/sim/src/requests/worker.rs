//! A worker as a processor that its sequences share: every step gives each of them one token.
//!
//! A step of n sequences takes `step_ms + n x step_ms_per_sequence`; a prompt is read `prompt_tokens_per_step` at a time
//! beside them. So a sequence ends a number of steps after its start, whatever its neighbours do meanwhile, and only how
//! fast the steps come changes when one begins or ends: one event a worker, not one a token.

use penstock_policy::classes::{Class, startable};

use super::moment::Moment;

/// What a worker can do, as measured by the benchmark.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Profile {
    /// Sequences at once.
    pub slots: usize,
    /// Milliseconds a step takes by itself.
    pub step_ms: f64,
    /// And for each sequence in it.
    pub step_ms_per_sequence: f64,
    /// Tokens of a prompt that are read in a step.
    pub prompt_tokens_per_step: f64,
}

impl Profile {
    /// Seconds of a step with so many sequences.
    #[must_use]
    pub fn step_secs(&self, sequences: usize) -> f64 {
        (self.step_ms + self.step_ms_per_sequence * sequences as f64) / 1000.0
    }

    /// Steps that a job of so many tokens takes.
    #[must_use]
    pub fn steps(&self, prompt: u32, output: u32) -> f64 {
        f64::from(prompt) / self.prompt_tokens_per_step + f64::from(output.max(1))
    }

    /// Jobs a second with all slots busy, where jobs take `steps` on average.
    #[must_use]
    pub fn jobs_per_second(&self, steps: f64) -> f64 {
        self.slots as f64 / (steps * self.step_secs(self.slots))
    }
}

/// A job that runs.
#[derive(Clone, Copy, Debug)]
struct Running {
    job: u32,
    class: Class,
    /// The step after which it ends, counted from the worker's beginning.
    ends: f64,
}

/// A worker.
#[derive(Clone, Debug)]
pub struct Worker {
    profile: Profile,
    running: Vec<Running>,
    busy: [usize; 4],
    /// Steps done until `at`.
    done: f64,
    at: Moment,
    /// Counts what has changed: an event of an earlier turn is void.
    pub turn: u32,
}

/// Less than this of a step is rounding.
const EDGE: f64 = 1e-3;

impl Worker {
    /// A worker without work.
    #[must_use]
    pub const fn new(profile: Profile, now: Moment) -> Self {
        Self { profile, running: Vec::new(), busy: [0; 4], done: 0.0, at: now, turn: 0 }
    }

    /// How many run.
    #[must_use]
    pub const fn running(&self) -> usize {
        self.running.len()
    }

    /// Sequences by class.
    #[must_use]
    pub const fn busy(&self) -> [usize; 4] {
        self.busy
    }

    /// How many more jobs of a class it may start.
    #[must_use]
    pub fn room(&self, class: Class) -> usize {
        startable(class, self.profile.slots, self.busy)
    }

    /// Starts a job of so many steps; a batch job that has to make way for it comes back with the steps it has left.
    pub fn start(&mut self, job: u32, class: Class, steps: f64, now: Moment) -> Option<(u32, f64)> {
        self.advance(now);
        let displaced = (self.running.len() >= self.profile.slots).then(|| self.displace()).flatten();
        self.running.push(Running { job, class, ends: self.done + steps });
        self.busy[class.index()] += 1;
        self.turn += 1;
        displaced
    }

    /// The batch job that has the most left to do: it loses the least that has been done.
    fn displace(&mut self) -> Option<(u32, f64)> {
        let batch = self.running.iter().enumerate().filter(|(_, running)| running.class == Class::P3);
        let (at, _) = batch.max_by(|(_, a), (_, b)| a.ends.total_cmp(&b.ends))?;
        Some(self.remove(at))
    }

    fn remove(&mut self, at: usize) -> (u32, f64) {
        let Running { job, class, ends } = self.running.swap_remove(at);
        self.busy[class.index()] -= 1;
        self.turn += 1;
        (job, (ends - self.done).max(0.0))
    }

    /// When the next job ends if nothing else happens.
    #[must_use]
    pub fn next_end(&self) -> Option<Moment> {
        let first = self.running.iter().map(|running| running.ends).min_by(f64::total_cmp)?;
        let steps = (first - self.done).max(0.0);
        Some(self.at.plus(steps * self.profile.step_secs(self.running.len())))
    }

    /// A job that has ended by now.
    pub fn ended(&mut self, now: Moment) -> Option<u32> {
        self.advance(now);
        let at = self.running.iter().position(|running| running.ends <= self.done + EDGE)?;
        Some(self.remove(at).0)
    }

    /// Takes out a job that nobody wants any more.
    pub fn cancel(&mut self, job: u32, now: Moment) {
        self.advance(now);
        if let Some(at) = self.running.iter().position(|running| running.job == job) {
            self.remove(at);
        }
    }

    /// Everything that runs, with the steps left: the worker is gone.
    pub fn stop(&mut self, now: Moment) -> Vec<(u32, f64)> {
        self.advance(now);
        core::iter::from_fn(|| (!self.running.is_empty()).then(|| self.remove(0))).collect()
    }

    fn advance(&mut self, now: Moment) {
        if !self.running.is_empty() {
            self.done += now.since(self.at) / self.profile.step_secs(self.running.len());
        }
        self.at = self.at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILE: Profile =
        Profile { slots: 2, step_ms: 10.0, step_ms_per_sequence: 5.0, prompt_tokens_per_step: 10.0 };

    fn at(secs: f64) -> Moment {
        Moment::from_secs(secs)
    }

    #[test]
    fn a_neighbour_slows_a_job_by_what_a_step_takes_longer() {
        let mut worker = Worker::new(PROFILE, at(0.0));
        worker.start(1, Class::P1, PROFILE.steps(100, 90), at(0.0));
        // A hundred steps of 15 ms.
        assert_eq!(worker.next_end(), Some(at(1.5)));
        worker.start(2, Class::P1, 100.0, at(0.75));
        // Fifty steps left, of 20 ms now.
        assert_eq!(worker.next_end(), Some(at(1.75)));
        assert_eq!(worker.ended(at(1.75)), Some(1));
        assert_eq!(worker.ended(at(1.75)), None);
        assert_eq!(worker.next_end(), Some(at(2.5)));
    }

    #[test]
    fn interactive_work_displaces_batch_work_which_keeps_what_was_done() {
        let mut worker = Worker::new(PROFILE, at(0.0));
        worker.start(1, Class::P3, 100.0, at(0.0));
        worker.start(2, Class::P2, 100.0, at(0.0));
        assert_eq!((worker.room(Class::P2), worker.room(Class::P0)), (0, 1));
        let displaced = worker.start(3, Class::P0, 10.0, at(1.0));
        assert_eq!(displaced, Some((1, 50.0)));
        assert_eq!(worker.stop(at(1.2)), [(2, 40.0), (3, 0.0)]);
    }
}
