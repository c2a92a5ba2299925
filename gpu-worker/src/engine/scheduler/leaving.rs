//! Sequences that leave before their end: nobody wants them any more, others are more urgent, or a call spoiled their rows.

use penstock_policy::classes::Class;
use penstock_policy::preempt::{self, Holder};
use penstock_service::ports::EngineFault;

use super::sequence::{Prompt, Running, TakenOut};
use super::{Scheduler, count};
use crate::engine::decoder::{Decoder, DecoderFault};
use crate::engine::task::Task;

impl<D: Decoder> Scheduler<D> {
    pub(super) fn drop_abandoned(&mut self) {
        for row in (0..self.running.len()).rev() {
            if self.running[row].task.events.is_closed() {
                self.release(row);
            }
        }
        let rows = &mut self.rows;
        self.waiting.retain(|prompt| {
            let wanted = !prompt.task.events.is_closed();
            if let (false, Some(row)) = (wanted, prompt.row) {
                rows.release(row);
            }
            wanted
        });
    }

    /// Sends a batch sequence back to the queue if an urgent one needs its row. Says whether it did.
    pub(super) fn make_way(&mut self) -> bool {
        let queued: Vec<Class> =
            self.waiting.iter().filter(|prompt| prompt.row.is_none()).map(|prompt| prompt.task.class).collect();
        !queued.is_empty() && self.preempt_for(&queued, self.free_slots())
    }

    /// Sends a batch sequence back to the queue if one of the `queued` classes is urgent and nothing is `free`. Says
    /// whether it did.
    pub(super) fn preempt_for(&mut self, queued: &[Class], free: usize) -> bool {
        let holders: Vec<Holder> = self
            .holders()
            .map(|(task, _, row)| Holder { class: task.class, tokens: count(self.rows.length(row)) })
            .collect();
        let Some(victim) = preempt::victim(queued, count(free), &holders) else {
            return false;
        };
        self.take_out(victim).task.fail(EngineFault::Preempted);
        true
    }

    /// The sequences that hold a row, with their numbers and rows: first those that decode, by row; then those that read,
    /// by their place among the waiting.
    pub(super) fn holders(&self) -> impl Iterator<Item = (&Task, u64, usize)> {
        let running = self.running.iter().enumerate().map(|(row, running)| (&running.task, running.number, row));
        running.chain(self.waiting.iter().filter_map(|prompt| prompt.row.map(|row| (&prompt.task, prompt.number, row))))
    }

    /// Takes a sequence, by its place among [`Self::holders`], out of its row, which keeps what it holds.
    pub(super) fn take_out(&mut self, holder: usize) -> TakenOut {
        let mut reading = (0..self.waiting.len()).filter(|&place| self.waiting[place].row.is_some());
        match holder.checked_sub(self.running.len()).and_then(|place| reading.nth(place)) {
            Some(place) => {
                let Prompt { task, number, row, .. } = self.waiting.remove(place);
                row.into_iter().for_each(|row| self.rows.release(row));
                TakenOut { task, number, said: Vec::new(), replayed: 0 }
            }
            None => {
                let mut said = self.rows.tokens_of(holder)[self.running[holder].task.prompt.len()..].to_vec();
                let Running { task, number, last, replayed } = self.release(holder);
                said.push(last);
                TakenOut { task, number, said, replayed }
            }
        }
    }

    /// Fails the sequences of a failed call and of all other rows that it has spoiled.
    pub(super) fn lose(&mut self, fault: &DecoderFault, called: &[usize]) {
        tracing::error!(what = %fault, ?called, spoiled = ?fault.spoiled, "a call of the model failed");
        self.faults = self.faults.saturating_add(1);
        let told = EngineFault::Fault(fault.what.clone());
        let is_lost = |row: &usize| called.contains(row) || fault.spoiled.contains(row);
        // Also rows that nobody needs: the next prompt must not take over what they hold.
        let lost: Vec<usize> = (0..self.decoder.slots()).filter(is_lost).collect();
        lost.into_iter().for_each(|row| self.forget(row));
        let rows = &mut self.rows;
        self.waiting.retain(|prompt| match prompt.row {
            Some(row) if is_lost(&row) => {
                rows.release(row);
                prompt.task.fail(told.clone());
                false
            }
            Some(_) | None => true,
        });
        for row in (0..self.running.len()).rev().filter(is_lost) {
            self.release(row).task.fail(told.clone());
        }
    }
}
