//! Steps of a decoder whose calls may mix everything, and whose rows share memory.
//!
//! Each call decodes every running sequence and reads parts of as many prompts as its budget has room for
//! ([`batch::pack`]).
//!
//! **Memory.** Rows grow as tokens come, so that what fits today may not fit tomorrow; the model's calls never find that
//! out, the scheduler does beforehand:
//! - Rows that nobody needs give up what they hold, the one needed longest ago first.
//! - A prompt begins only if all of it fits beside what the others have been promised: the rest of each prompt that is
//!   being read, and for each running sequence what it may say in its next block. A prompt that does not fit waits, and
//!   batch work makes way for one that is urgent.
//! - When memory runs out all the same, one sequence makes way for the others ([`preempt::yields`]).
//!
//! The oldest sequence of the best class never makes way and has the whole memory in the end, which holds a sequence of
//! full length: so all work ends.
//!
//! Edge cases: with nothing running a prompt always fits; a prompt that waits for memory keeps its turn, so that smaller
//! ones cannot slip past it for ever.

use penstock_policy::batch::{self, Chunk, Load, Waiting};
use penstock_policy::paged::{BLOCK_TOKENS, Shortage};
use penstock_policy::preempt::{self, Sitting, Yield};
use penstock_service::ports::EngineFault;

use super::sequence::{Prompt, TakenOut, Visit};
use super::{Progress, Scheduler, count};
use crate::engine::decoder::{Decoder, Growth, Logits, Part};

/// A part of a prompt that rides along in a call.
struct Riding {
    /// The prompt's number.
    number: u64,
    tokens: usize,
}

impl<D: Decoder> Scheduler<D> {
    pub(super) fn step_packed(&mut self) -> Progress {
        if let Some(class) = self.refused.take()
            && self.preempt_for(&[class], 0)
        {
            return Progress::Preempted;
        }
        let mut growth: Vec<Growth> = (0..self.running.len()).map(|row| Growth { row: Some(row), tokens: 1 }).collect();
        if self.make_room(&growth).is_err() {
            return self.relieve();
        }
        let (riding, reused) = self.pack(&mut growth);
        if growth.is_empty() {
            // Prompts that hold memory and get no more of it would wait for one another for ever.
            let stuck = self.waiting.iter().any(|prompt| prompt.row.is_some());
            return if stuck { self.relieve() } else { Progress::Idle };
        }
        self.call(&riding, reused)
    }

    /// Adds parts of prompts to a call for which `growth` has the running sequences already. Gives the parts, and the
    /// prompt tokens that the cache had already.
    fn pack(&mut self, growth: &mut Vec<Growth>) -> (Vec<Riding>, u32) {
        let rows = count(self.running.len());
        let (mut riding, mut reused, mut taken) = (Vec::<Riding>::new(), 0, 0);
        let mut free_slots = self.free_slots();
        let mut waiting: Vec<Waiting> = self.waiting.iter().map(|prompt| self.as_waiting(prompt)).collect();
        loop {
            let load = Load { rows, waiting: &waiting, free_slots: count(free_slots) };
            let Some((Chunk { which, tokens }, state)) = batch::pack(self.state, &load, taken, &self.bounds) else {
                break;
            };
            let before = self.waiting[which].task.cached;
            let placed = self.waiting[which].row.is_some();
            if !placed && !self.admits(which) {
                // It keeps its turn, and nobody else begins before it.
                self.refused = Some(self.waiting[which].task.class);
                free_slots = 0;
                continue;
            }
            let Some(row) = self.waiting[which].row.or_else(|| self.take_row(which)) else {
                // The policy starts no prompt unless a row is free.
                debug_assert!(false);
                break;
            };
            growth.push(Growth { row: Some(row), tokens: tokens as usize });
            if self.make_room(growth).is_err() {
                growth.pop();
                if !placed {
                    self.put_back(which, row, before);
                }
                break;
            }
            self.state = state;
            taken += tokens;
            reused += self.waiting[which].task.cached - before;
            riding.push(Riding { number: self.waiting[which].number, tokens: tokens as usize });
            if !placed {
                // Others may begin like it.
                free_slots = self.free_slots();
                waiting = self.waiting.iter().map(|prompt| self.as_waiting(prompt)).collect();
            }
            for (prompt, waiting) in self.waiting.iter().zip(&mut waiting) {
                if riding.iter().any(|riding| riding.number == prompt.number) {
                    waiting.remaining = 0;
                }
            }
        }
        (riding, reused)
    }

    /// Whether a prompt without a row fits beside what the others were promised.
    fn admits(&self, which: usize) -> bool {
        let nobody = self.running.is_empty() && self.waiting.iter().all(|prompt| prompt.row.is_none());
        if nobody {
            return true;
        }
        let Prompt { task, .. } = &self.waiting[which];
        let wanted = task.as_prompt();
        // Whole blocks that it shares are there already; it writes to the rest of the last one, and so to a copy.
        let shared = self.rows.most_shared(&wanted) / BLOCK_TOKENS * BLOCK_TOKENS;
        let own = Growth { row: None, tokens: task.prompt.len() + 1 - shared };
        let running = self.running.iter().enumerate().map(|(row, running)| {
            let left = running.task.answer.left() as usize + running.task.replay.len() - running.replayed;
            Growth { row: Some(row), tokens: left.min(BLOCK_TOKENS) }
        });
        let reading = self.waiting.iter().filter_map(|prompt| {
            let tokens = prompt.task.prompt.len() - prompt.read + 1;
            prompt.row.map(|row| Growth { row: Some(row), tokens })
        });
        let promised: Vec<Growth> = running.chain(reading).chain([own]).collect();
        let source = self.rows.source(&wanted);
        let expendable: Vec<usize> = self.rows.expendable().into_iter().filter(|row| Some(*row) != source).collect();
        self.decoder.give_up(&promised, &expendable).is_ok()
    }

    /// Takes its row from a prompt that has just got it. What it shared counts for others again.
    fn put_back(&mut self, which: usize, row: usize, cached: u32) {
        self.forget(row);
        self.rows.release(row);
        let prompt = &mut self.waiting[which];
        (prompt.row, prompt.read, prompt.task.cached) = (None, 0, cached);
    }

    /// Makes rows that nobody needs give up what they hold until there is memory for `growth`.
    fn make_room(&mut self, growth: &[Growth]) -> Result<(), Shortage> {
        let expendable = self.rows.expendable();
        let given_up = self.decoder.give_up(growth, &expendable)?;
        expendable[..given_up].iter().for_each(|&row| self.forget(row));
        Ok(())
    }

    /// Takes its memory from the sequence that makes way for the others.
    fn relieve(&mut self) -> Progress {
        let sitting: Vec<Sitting> =
            self.holders().map(|(task, arrived, _)| Sitting { class: task.class, arrived }).collect();
        match preempt::yields(&sitting) {
            Some(Yield::ToTheQueue(holder)) => {
                self.take_out(holder).task.fail(EngineFault::Preempted);
                Progress::Preempted
            }
            Some(Yield::UntilLater(holder)) => {
                let taken_out = self.take_out(holder);
                self.set_aside(taken_out);
                Progress::SetAside
            }
            None => {
                // The memory holds a sequence of full length: it cannot be short with one alone.
                debug_assert!(false);
                if !sitting.is_empty() {
                    let what = "the cache does not hold one sequence".to_owned();
                    self.take_out(0).task.fail(EngineFault::Fault(what));
                }
                Progress::Preempted
            }
        }
    }

    fn set_aside(&mut self, TakenOut { mut task, number, said, replayed }: TakenOut) {
        if !said.is_empty() {
            task.set_aside(said, replayed, self.chosen);
        }
        let place = self.waiting.partition_point(|prompt| prompt.number < number);
        self.waiting.insert(place, Prompt { task, number, read: 0, row: None, visit: Visit::Again });
    }

    /// Calls the model: every running sequence, and the parts that ride along.
    fn call(&mut self, riding: &[Riding], reused: u32) -> Progress {
        let lasts: Vec<u32> = self.running.iter().map(|running| running.last).collect();
        let prompts: Vec<&Prompt> = riding
            .iter()
            .filter_map(|riding| self.waiting.iter().find(|prompt| prompt.number == riding.number))
            .collect();
        let running = &self.running;
        let asked = |row: usize| running[row].replayed == running[row].task.replay.len();
        let ends = |prompt: &Prompt, tokens: usize| {
            prompt.read + tokens == prompt.task.prompt.len() && prompt.task.replay.is_empty()
        };
        let logits = |wanted: bool| if wanted { Logits::Wanted } else { Logits::Unneeded };
        let decoding =
            lasts.chunks(1).enumerate().map(|(row, tokens)| Part { row, tokens, logits: logits(asked(row)) });
        let reading = prompts.iter().zip(riding).filter_map(|(prompt, &Riding { tokens, .. })| {
            let part = &prompt.task.prompt[prompt.read..prompt.read + tokens];
            prompt.row.map(|row| Part { row, tokens: part, logits: logits(ends(prompt, tokens)) })
        });
        let parts: Vec<Part<'_>> = decoding.chain(reading).collect();
        let rows = lasts.len();
        let (mut decoded, mut read) = (vec![None; rows], vec![None; riding.len()]);
        let called = self.decoder.append(&parts, &mut |place, logits| match place.checked_sub(rows) {
            None => decoded[place] = Some(running[place].task.answer.choose(logits)),
            Some(place) => read[place] = Some(prompts[place].task.answer.choose(logits)),
        });
        if let Err(fault) = called {
            let called: Vec<usize> = parts.iter().map(|part| part.row).collect();
            self.lose(&fault, &called);
            return progress(rows, riding, reused);
        }
        self.advance(&lasts, decoded);
        for (&Riding { number, tokens }, chosen) in riding.iter().zip(read) {
            let Some(which) = self.waiting.iter().position(|prompt| prompt.number == number) else { continue };
            let prompt = &mut self.waiting[which];
            let Some(row) = prompt.row else { continue };
            let end = prompt.read + tokens;
            self.rows.read(row, &prompt.task.prompt[prompt.read..end]);
            prompt.read = end;
            if end == prompt.task.prompt.len() {
                let Prompt { task, .. } = self.waiting.remove(which);
                self.begin(row, task, number, chosen);
            }
        }
        progress(rows, riding, reused)
    }
}

fn progress(rows: usize, riding: &[Riding], reused: u32) -> Progress {
    let (rows, tokens) = (count(rows), count(riding.iter().map(|riding| riding.tokens).sum()));
    match (rows, tokens) {
        (rows, 0) => Progress::Decoded { rows },
        (0, tokens) => Progress::Read { tokens, reused },
        (rows, tokens) => Progress::Mixed { rows, tokens, reused },
    }
}

#[cfg(test)]
#[path = "packed_tests.rs"]
mod tests;
