//! Steps of decoders whose calls read one prompt's part, or decode a token for each of the first rows.

use penstock_policy::batch::{self, Load, Placed, Step, Waiting};
use penstock_policy::prefix;

use super::sequence::{Prompt, Running};
use super::{Progress, Scheduler, count};
use crate::engine::decoder::Decoder;

impl<D: Decoder> Scheduler<D> {
    pub(super) fn step_apart(&mut self) -> Progress {
        let waiting: Vec<Waiting> = self.waiting.iter().map(|prompt| self.as_waiting(prompt)).collect();
        let load = Load { rows: count(self.running.len()), waiting: &waiting, free_slots: count(self.free_slots()) };
        let (step, state) = batch::next(self.state, &load, &self.bounds);
        self.state = state;
        match step {
            Step::Idle => Progress::Idle,
            Step::Decode => {
                let rows = count(self.running.len());
                self.decode();
                Progress::Decoded { rows }
            }
            Step::Prefill { which, tokens } => {
                let reused = self.prefill(which, tokens as usize);
                Progress::Read { tokens, reused }
            }
        }
    }

    pub(super) fn decode(&mut self) {
        let tokens: Vec<u32> = self.running.iter().map(|running| running.last).collect();
        let mut chosen = Vec::with_capacity(tokens.len());
        let running = &self.running;
        let called = self.decoder.decode(&tokens, &mut |row, logits| {
            let Running { task, replayed, .. } = &running[row];
            let asked = *replayed == task.replay.len();
            chosen.push(asked.then(|| task.answer.choose(logits)));
        });
        if let Err(fault) = called {
            let rows: Vec<usize> = (0..tokens.len()).collect();
            return self.lose(&fault, &rows);
        }
        debug_assert_eq!(chosen.len(), tokens.len());
        self.advance(&tokens, chosen);
    }

    /// Reads the next tokens of a prompt. Gives the tokens that it took over, if it had no row before.
    pub(super) fn prefill(&mut self, which: usize, tokens: usize) -> u32 {
        let before = self.waiting[which].task.cached;
        let Some(row) = self.waiting[which].row.or_else(|| self.take_row(which)) else {
            // The policy starts no prompt unless a row is free.
            debug_assert!(false);
            return 0;
        };
        let prompt = &mut self.waiting[which];
        let end = prompt.read + tokens;
        let task = &prompt.task;
        let reused = task.cached - before;
        let complete = end == task.prompt.len();
        let asked = complete && task.replay.is_empty();
        let mut chosen = None;
        let part = &task.prompt[prompt.read..end];
        let called = self.decoder.prefill(row, part, &mut |_, logits| {
            chosen = asked.then(|| task.answer.choose(logits));
        });
        self.rows.read(row, part);
        prompt.read = end;
        if let Err(fault) = called {
            self.lose(&fault, &[row]);
        } else if complete {
            let Prompt { task, number, .. } = self.waiting.remove(which);
            self.begin(row, task, number, chosen);
        }
        reused
    }

    pub(super) fn as_waiting(&self, prompt: &Prompt) -> Waiting {
        let task = &prompt.task;
        if prompt.row.is_some() {
            let remaining = count(task.prompt.len() - prompt.read);
            return Waiting { remaining, class: task.class, placed: Placed::InSlot };
        }
        let wanted = task.as_prompt();
        if self.free_slots() == 0 {
            // There is nowhere to go, so that what it would find there does not matter.
            return Waiting { remaining: count(task.prompt.len()), class: task.class, placed: Placed::Queued };
        }
        let now = self.rows.most_shared(&wanted);
        let awaits = |other: &Prompt| {
            // Not one of a worse class, which would let it wait for others.
            other.row.is_some()
                && other.task.class <= task.class
                && prefix::worth_waiting(&wanted, &other.task.as_prompt(), now)
        };
        let placed = if self.waiting.iter().any(awaits) { Placed::Awaiting } else { Placed::Queued };
        Waiting { remaining: count(task.prompt.len() - now), class: task.class, placed }
    }
}
