//! Runs sequences together: one step at a time, as [`penstock_policy::batch`] decides.
//!
//! A sequence waits until its prompt is in the cache, then decodes until its answer ends. Decoding sequences keep the
//! rows `0..n`; a row that becomes free is filled with the last one, which copies one sequence's cache and keeps the
//! rows contiguous. Prompts that are being read live in higher rows and change places when they begin to decode.
//!
//! The scheduler knows no clock, no thread and no model: [`Scheduler::step`] is called by the engine's thread, and the
//! model is a [`Decoder`]. Events never block it, because each sequence's channel has room for all of its events; a
//! consumer that is slow costs memory for its own answer, and nobody's time.
//!
//! Edge cases: a consumer that went away frees its row at the next step; a call that fails loses the rows it touched,
//! and only their sequences; logits that are no numbers fail their own sequence.

use std::ops::Range;

use penstock_policy::batch::{self, Load, Placed, Step, Waiting};
use penstock_policy::id::JobId;
use penstock_service::ports::{EngineFault, TokenEvent};
use tokio::sync::mpsc;

use super::answer::{Answer, Outcome};
use super::decoder::{Decoder, DecoderFault};
use super::sampler::BadLogits;

/// A sequence that was found good and awaits a row.
pub struct Task {
    /// The job, for logs.
    pub job: JobId,
    /// The tokens to read; not empty, and together with `replay` shorter than a row.
    pub prompt: Vec<u32>,
    /// Inherited tokens to put through the model one at a time, as the earlier worker did, instead of reading them with
    /// the prompt: the same numbers come out only of the same calls.
    pub replay: Vec<u32>,
    /// The answer, inherited ids included; open.
    pub answer: Answer,
    /// Where events go; has room for all of them.
    pub events: mpsc::Sender<TokenEvent>,
}

impl Task {
    /// Ends the sequence without an answer.
    pub fn fail(&self, fault: EngineFault) {
        // The consumer may have gone; then nobody is left to tell.
        let _ = self.events.try_send(TokenEvent::Failed(fault));
    }

    /// Appends the token that was chosen and tells of it.
    fn advance(&mut self, chosen: Result<u32, BadLogits>) -> Fate {
        let grown = chosen
            .map_err(|error| error.to_string())
            .and_then(|id| Ok((id, self.answer.push(id).map_err(|error| error.to_string())?)));
        let (id, growth) = match grown {
            Ok(grown) => grown,
            Err(what) => {
                tracing::error!(job = %self.job, %what, "a sequence failed");
                self.fail(EngineFault::Fault(what));
                return Fate::Ends;
            }
        };
        let tokens = TokenEvent::Tokens { ids: vec![id], text: growth.text };
        if self.events.try_send(tokens).is_err() {
            return Fate::Ends;
        }
        match growth.outcome {
            Outcome::Open => Fate::GoesOn(id),
            Outcome::Ended(reason) => {
                let _ = self.events.try_send(TokenEvent::Finished { reason, completion_tokens: self.answer.tokens(), cached_tokens: 0 });
                Fate::Ends
            }
        }
    }
}

/// What becomes of a sequence after a token.
enum Fate {
    /// It goes on from this token.
    GoesOn(u32),
    /// It is over; its consumer knows or has gone.
    Ends,
}

/// Whether a step did something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It did; there may be more to do.
    Worked,
    /// There is nothing to do until a task is submitted.
    Idle,
}

struct Running {
    task: Task,
    /// The token that is chosen but not in the cache yet.
    last: u32,
    /// How many of the inherited tokens have been the last one.
    replayed: usize,
}

impl Running {
    /// Takes the next inherited token as the last one, if there is any left.
    fn replay(&mut self) -> Replay {
        match self.task.replay.get(self.replayed) {
            Some(&id) => {
                self.last = id;
                self.replayed += 1;
                Replay::Took
            }
            None => Replay::Over,
        }
    }
}

/// Whether there was an inherited token left.
#[derive(PartialEq, Eq)]
enum Replay {
    /// There was; it is known already what the model says next.
    Took,
    /// There was not; the model is asked.
    Over,
}

struct Prompt {
    task: Task,
    /// How many of its tokens are in the cache.
    read: usize,
    row: Option<usize>,
}

/// Sequences and the model that runs them.
pub struct Scheduler<D> {
    decoder: D,
    bounds: batch::Config,
    state: batch::State,
    /// By row.
    running: Vec<Running>,
    /// Oldest first.
    waiting: Vec<Prompt>,
}

impl<D: Decoder> Scheduler<D> {
    /// A scheduler without sequences.
    #[must_use]
    pub fn new(decoder: D, bounds: batch::Config) -> Self {
        Self { decoder, bounds, state: batch::State::default(), running: Vec::new(), waiting: Vec::new() }
    }

    /// Adds a sequence. It waits for a row if none is free.
    pub fn submit(&mut self, task: Task) {
        debug_assert!(!task.prompt.is_empty() && task.prompt.len() + task.replay.len() < self.decoder.capacity());
        self.waiting.push(Prompt { task, read: 0, row: None });
    }

    /// How many sequences hold a row.
    #[must_use]
    pub fn busy_slots(&self) -> usize {
        self.running.len() + self.waiting.iter().filter(|prompt| prompt.row.is_some()).count()
    }

    /// Runs the next step: one call of the model at most.
    pub fn step(&mut self) -> Progress {
        self.drop_abandoned();
        let waiting: Vec<Waiting> = self.waiting.iter().map(Prompt::as_waiting).collect();
        let load = Load {
            rows: count(self.running.len()),
            waiting: &waiting,
            free_slots: count(self.decoder.slots().saturating_sub(self.busy_slots())),
        };
        let (step, state) = batch::next(self.state, &load, &self.bounds);
        self.state = state;
        match step {
            Step::Idle => return Progress::Idle,
            Step::Decode => self.decode(),
            Step::Prefill { which, tokens } => self.prefill(which, tokens as usize),
        }
        Progress::Worked
    }

    /// Ends every sequence: their jobs go back to the queue.
    pub fn stop(&mut self) {
        for row in (0..self.running.len()).rev() {
            self.release(row).fail(EngineFault::Stopping);
        }
        for prompt in std::mem::take(&mut self.waiting) {
            prompt.row.into_iter().for_each(|row| self.decoder.clear(row));
            prompt.task.fail(EngineFault::Stopping);
        }
    }

    fn drop_abandoned(&mut self) {
        for row in (0..self.running.len()).rev() {
            if self.running[row].task.events.is_closed() {
                self.release(row);
            }
        }
        let decoder = &mut self.decoder;
        self.waiting.retain(|prompt| {
            let wanted = !prompt.task.events.is_closed();
            if let (false, Some(row)) = (wanted, prompt.row) {
                decoder.clear(row);
            }
            wanted
        });
    }

    fn decode(&mut self) {
        let tokens: Vec<u32> = self.running.iter().map(|running| running.last).collect();
        let mut chosen = Vec::with_capacity(tokens.len());
        let running = &self.running;
        let called = self.decoder.decode(&tokens, &mut |row, logits| {
            let Running { task, replayed, .. } = &running[row];
            let asked = *replayed == task.replay.len();
            chosen.push(asked.then(|| task.answer.choose(logits)));
        });
        if let Err(fault) = called {
            return self.lose(&fault, 0..tokens.len());
        }
        debug_assert_eq!(chosen.len(), tokens.len());
        // From the last row down: a row that is released is filled with the last one, which has had its turn.
        for (row, chosen) in chosen.into_iter().enumerate().rev() {
            let running = &mut self.running[row];
            match chosen.map(|chosen| running.task.advance(chosen)) {
                None => drop(running.replay()),
                Some(Fate::GoesOn(id)) => running.last = id,
                Some(Fate::Ends) => drop(self.release(row)),
            }
        }
    }

    fn prefill(&mut self, which: usize, tokens: usize) {
        let row = self.waiting[which].row.unwrap_or_else(|| self.free_row());
        let prompt = &mut self.waiting[which];
        prompt.row = Some(row);
        let end = prompt.read + tokens;
        let task = &prompt.task;
        let complete = end == task.prompt.len();
        let asked = complete && task.replay.is_empty();
        let mut chosen = None;
        let called = self.decoder.prefill(row, &task.prompt[prompt.read..end], &mut |_, logits| {
            chosen = asked.then(|| task.answer.choose(logits));
        });
        prompt.read = end;
        if let Err(fault) = called {
            return self.lose(&fault, row..row + 1);
        }
        if complete {
            let Prompt { task, .. } = self.waiting.remove(which);
            self.begin(row, task, chosen);
        }
    }

    /// Goes on with a sequence whose prompt is read: with an inherited token, or with the one that was chosen.
    fn begin(&mut self, row: usize, task: Task, chosen: Option<Result<u32, BadLogits>>) {
        let mut running = Running { task, last: 0, replayed: 0 };
        if running.replay() == Replay::Took {
            return self.begin_decoding(row, running);
        }
        match running.task.advance(chosen.unwrap_or(Err(BadLogits::Empty))) {
            Fate::GoesOn(last) => self.begin_decoding(row, Running { last, ..running }),
            Fate::Ends => self.decoder.clear(row),
        }
    }

    /// Moves a sequence whose prompt is read to the first row behind those that decode.
    fn begin_decoding(&mut self, row: usize, running: Running) {
        let target = self.running.len();
        if row != target {
            self.decoder.swap_rows(row, target);
            // If another prompt was being read there, it lives on in the row that became free.
            for prompt in &mut self.waiting {
                if prompt.row == Some(target) {
                    prompt.row = Some(row);
                }
            }
        }
        self.running.push(running);
    }

    /// Frees the row of a decoding sequence and closes the gap.
    fn release(&mut self, row: usize) -> Task {
        let last = self.running.len() - 1;
        self.decoder.clear(row);
        if row != last {
            self.decoder.swap_rows(row, last);
        }
        self.running.swap_remove(row).task
    }

    /// The lowest row that no sequence holds. The policy starts no prompt unless there is one.
    fn free_row(&self) -> usize {
        let taken = |row: &usize| self.waiting.iter().any(|prompt| prompt.row == Some(*row));
        let mut rows = self.running.len()..self.decoder.slots();
        let free = rows.find(|row| !taken(row));
        debug_assert!(free.is_some());
        free.unwrap_or(self.running.len())
    }

    /// Fails the sequences of a failed call and of all other rows that it has spoiled.
    fn lose(&mut self, fault: &DecoderFault, called: Range<usize>) {
        tracing::error!(what = %fault, ?called, spoiled = ?fault.spoiled, "a call of the model failed");
        let lost = |row: &usize| called.contains(row) || fault.spoiled.contains(row);
        let told = EngineFault::Fault(fault.what.clone());
        // Also rows that nobody holds: the next prompt that gets one must find it empty.
        fault.spoiled.clone().for_each(|row| self.decoder.clear(row));
        for row in (0..self.running.len()).rev().filter(lost) {
            self.release(row).fail(told.clone());
        }
        let decoder = &mut self.decoder;
        self.waiting.retain(|prompt| match prompt.row {
            Some(row) if lost(&row) => {
                decoder.clear(row);
                prompt.task.fail(told.clone());
                false
            }
            Some(_) | None => true,
        });
    }
}

impl Prompt {
    fn as_waiting(&self) -> Waiting {
        Waiting {
            remaining: count(self.task.prompt.len() - self.read),
            placed: match self.row {
                Some(_) => Placed::InSlot,
                None => Placed::Queued,
            },
        }
    }
}

/// A number of tokens or rows; they are bounded by memory far below the type's limit.
fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[path = "scheduler_tests.rs"]
mod tests;
