//! Workers die at random moments, one after another, and answers go on: a thousand takeovers.
//!
//! Each answer changes hands up to five times, at points drawn by lot, between engines of different numbers of slots
//! that run a dozen others at the same time. What clients were shown is what had been written down: maybe less text than
//! the dead worker had. Contract: what was shown never changes, repeats or breaks inside a character (C1), and the whole
//! is the undisturbed answer (C2).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests stop at the first surprise")]

mod support;

use penstock_gpu_worker::engine::OnnxEngine;
use penstock_service::ports::{Sampling, Sequence, TokenStream};
use support::{Draws, Reply, engine, read, sequence, start};

const TAKEOVERS: usize = 1_000;
const TOGETHER: usize = 12;

/// An answer that changes hands.
struct Story {
    original: Sequence,
    undisturbed: Reply,
    ids: Vec<u32>,
    shown: String,
}

impl Story {
    fn as_taken_over(&self) -> Sequence {
        Sequence { resume_ids: self.ids.clone(), resume_bytes: self.shown.len(), ..self.original.clone() }
    }

    /// The worker dies after some of what it says has been written down; the next one gets that.
    fn cut_off(&mut self, reply: &Reply, draws: &mut Draws) {
        let said = usize::try_from(draws.below(reply.ids.len() as u64 + 1)).unwrap();
        let text = if said == 0 { 0 } else { reply.shown_after[said - 1] };
        assert!(reply.text.is_char_boundary(text), "a character is broken in {:?} at {text}", reply.text);
        self.ids.extend(&reply.ids[..said]);
        self.shown += &reply.text[..text];
        assert!(self.undisturbed.text.starts_with(&self.shown), "{:?} was shown, {:?}", self.shown, self.undisturbed);
        assert!(self.undisturbed.ids.starts_with(&self.ids));
    }
}

/// Requests of every kind: greedy and at random, with penalties and stop strings, short and long.
fn request(draws: &mut Draws) -> Sequence {
    let (prompt, _) = draws.task();
    let mut sequence = sequence(&prompt);
    let seed = draws.below(1 << 40);
    let stop = if draws.below(4) == 0 { vec![draws.below(1000).to_string()] } else { Vec::new() };
    sequence.generation.sampling = match draws.below(3) {
        0 => Sampling { stop, ..Sampling::default() },
        1 => Sampling { temperature: 1.3, seed, max_tokens: Some(60), stop, ..Sampling::default() },
        _ => Sampling {
            temperature: 2.0,
            top_p: 0.95,
            seed,
            max_tokens: Some(90),
            stop,
            presence_penalty: 0.4,
            frequency_penalty: -0.3,
            ..Sampling::default()
        },
    };
    sequence
}

fn run_all(engine: &OnnxEngine, sequences: impl Iterator<Item = Sequence>) -> Vec<Reply> {
    let streams: Vec<TokenStream> = sequences.map(|sequence| start(engine, sequence)).collect();
    streams.into_iter().map(read).collect()
}

#[test]
fn a_thousand_takeovers_leave_every_answer_as_it_would_have_been() {
    let mut draws = Draws(2026);
    let undisturbed = engine(6);
    let workers = [engine(1), engine(3), engine(8)];
    let mut takeovers = 0;
    while takeovers < TAKEOVERS {
        let requests: Vec<Sequence> = (0..TOGETHER).map(|_| request(&mut draws)).collect();
        let replies = run_all(&undisturbed, requests.iter().cloned());
        let mut stories: Vec<Story> = requests
            .into_iter()
            .zip(replies)
            .map(|(original, undisturbed)| Story { original, undisturbed, ids: Vec::new(), shown: String::new() })
            .collect();
        for _ in 0..1 + draws.below(5) {
            let worker = &workers[usize::try_from(draws.below(3)).unwrap()];
            let replies = run_all(worker, stories.iter().map(Story::as_taken_over));
            for (story, reply) in stories.iter_mut().zip(replies) {
                story.cut_off(&reply, &mut draws);
                takeovers += 1;
            }
        }
        for (story, last) in stories.iter().zip(run_all(&workers[2], stories.iter().map(Story::as_taken_over))) {
            assert_eq!(story.shown.clone() + &last.text, story.undisturbed.text);
            assert_eq!([&story.ids[..], &last.ids].concat(), story.undisturbed.ids);
            assert_eq!(last.end, story.undisturbed.end);
        }
    }
}
