//! Rows and who has them: a prompt takes one, begins to decode in the first free one, goes on, and gives it back.
//!
//! Decoding sequences keep the rows `0..n`: whoever begins changes places with what lies behind them, and when one ends the
//! last closes the gap.

use penstock_policy::prefix::Source;

use super::sequence::{Replay, Running, Visit};
use super::{Scheduler, count};
use crate::engine::answer::Chosen;
use crate::engine::decoder::Decoder;
use crate::engine::sampler::BadLogits;
use crate::engine::task::{Fate, Task};

impl<D: Decoder> Scheduler<D> {
    /// Gives a prompt a row, with as much of it as there is already.
    pub(super) fn take_row(&mut self, which: usize) -> Option<usize> {
        let prompt = &mut self.waiting[which];
        let placement = self.rows.take(&prompt.task.as_prompt())?;
        match placement.source {
            Source::Itself => self.decoder.cut(placement.row, placement.reused),
            Source::Row(from) => self.decoder.copy_row(from, placement.row, placement.reused),
        }
        prompt.row = Some(placement.row);
        prompt.read = placement.reused;
        if prompt.visit == Visit::First {
            prompt.task.cached = count(placement.reused);
            self.begun = Some(prompt.task.arrived);
        }
        Some(placement.row)
    }

    /// Goes on with a sequence whose prompt is read: with an inherited token, or with the one that was chosen.
    pub(super) fn begin(&mut self, row: usize, task: Task, number: u64, chosen: Option<Result<Chosen, BadLogits>>) {
        let mut running = Running { task, number, last: 0, replayed: 0 };
        if running.replay() == Replay::Took {
            return self.begin_decoding(row, running);
        }
        match running.task.advance(chosen.unwrap_or(Err(BadLogits::Empty))) {
            Fate::GoesOn(last) => self.begin_decoding(row, Running { last, ..running }),
            fate @ (Fate::Ends | Fate::Failed) => {
                self.count_fault(&fate);
                self.rows.release(row);
            }
        }
    }

    /// Moves a sequence whose prompt is read to the first row behind those that decode.
    pub(super) fn begin_decoding(&mut self, row: usize, running: Running) {
        let target = self.running.len();
        if row != target {
            self.swap(row, target);
            // If another prompt was being read there, it lives on in the row that became free.
            for prompt in &mut self.waiting {
                if prompt.row == Some(target) {
                    prompt.row = Some(row);
                }
            }
        }
        self.running.push(running);
    }

    /// Takes note that the rows' `tokens` are in the cache, and goes on with what was chosen after those that were asked.
    pub(super) fn advance(&mut self, tokens: &[u32], chosen: Vec<Option<Result<Chosen, BadLogits>>>) {
        tokens.iter().enumerate().for_each(|(row, &token)| self.rows.decoded(row, token));
        // From the last row down: a row that is released changes places with the last one, which has had its turn.
        for (row, chosen) in chosen.into_iter().enumerate().rev() {
            let running = &mut self.running[row];
            match chosen.map(|chosen| running.task.advance(chosen)) {
                None => drop(running.replay()),
                Some(Fate::GoesOn(id)) => running.last = id,
                Some(fate @ (Fate::Ends | Fate::Failed)) => {
                    self.count_fault(&fate);
                    self.release(row);
                }
            }
        }
    }

    pub(super) fn count_fault(&mut self, fate: &Fate) {
        self.faults = if matches!(fate, Fate::Failed) { self.faults.saturating_add(1) } else { 0 };
    }

    /// Frees the row of a decoding sequence and closes the gap.
    pub(super) fn release(&mut self, row: usize) -> Running {
        let last = self.running.len() - 1;
        if row != last {
            self.swap(row, last);
        }
        self.rows.release(last);
        self.running.swap_remove(row)
    }

    pub(super) fn swap(&mut self, a: usize, b: usize) {
        self.decoder.swap_rows(a, b);
        self.rows.swap(a, b);
    }

    /// Forgets a row that holds nothing of use any more.
    pub(super) fn forget(&mut self, row: usize) {
        self.decoder.cut(row, 0);
        self.rows.forget(row);
    }
}
