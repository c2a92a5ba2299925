//! Packed steps on a scripted model whose rows share a pool of blocks: blocks hold the tokens that were written to them, and
//! what a row says next is a hash of what its blocks hold. Any mix-up of rows or blocks changes an answer, and a call that
//! finds no block panics.

use std::sync::Arc;

use penstock_policy::classes::Class;
use penstock_policy::paged::{Blocks, Copy, Table};
use penstock_service::ports::TokenEvent;
use proptest::prelude::*;
use tokio::sync::mpsc;

use super::*;
use crate::engine::answer::Outcome;
use crate::engine::decoder::{Calls, Cancel, ChosenTokens, DecoderFault, OnLogits};
use crate::engine::scheduler::tests::{VOCAB, alone, next_token, read, task};

const CAPACITY: usize = 5 * BLOCK_TOKENS;

struct Pool {
    blocks: Blocks,
    tables: Vec<Table>,
    memory: Vec<Vec<u32>>,
    calls: usize,
    /// The call that fails.
    fault: Option<usize>,
    most_parts: usize,
}

impl Pool {
    fn new(rows: usize, blocks: u32) -> Self {
        assert!(blocks as usize * BLOCK_TOKENS >= CAPACITY);
        Self {
            blocks: Blocks::new(blocks),
            tables: std::iter::repeat_with(Table::default).take(rows).collect(),
            memory: vec![vec![VOCAB; BLOCK_TOKENS]; blocks as usize],
            calls: 0,
            fault: None,
            most_parts: 0,
        }
    }

    fn tokens(&self, row: usize) -> Vec<u32> {
        let table = &self.tables[row];
        let all = table.blocks().iter().flat_map(|&block| self.memory[block as usize].iter().copied());
        all.take(table.tokens()).collect()
    }

    /// Cuts all rows, and gives the blocks that nobody has then.
    fn free_in_the_end(mut self) -> usize {
        self.tables.iter_mut().for_each(|table| self.blocks.cut(table, 0));
        self.blocks.free()
    }
}

impl Decoder for Pool {
    fn slots(&self) -> usize {
        self.tables.len()
    }
    fn capacity(&self) -> usize {
        CAPACITY
    }
    fn prefill(&mut self, _: usize, _: &[u32], _: OnLogits<'_>) -> Result<(), DecoderFault> {
        panic!("calls are packed")
    }
    fn decode(&mut self, _: &[u32], _: OnLogits<'_>) -> Result<(), DecoderFault> {
        panic!("calls are packed")
    }
    fn calls(&self) -> Calls {
        Calls::Packed
    }
    fn append(&mut self, parts: &[Part<'_>], logits: OnLogits<'_>) -> Result<(), DecoderFault> {
        self.calls += 1;
        self.most_parts = self.most_parts.max(parts.len());
        for &Part { row, tokens, .. } in parts {
            let from = self.tables[row].tokens();
            assert!(from + tokens.len() <= CAPACITY && !tokens.is_empty());
            let copy = self.blocks.grow(&mut self.tables[row], tokens.len()).expect("the scheduler asked before");
            if let Some(Copy { from, to }) = copy {
                self.memory[to as usize] = self.memory[from as usize].clone();
            }
            for (at, &token) in (from..).zip(tokens) {
                let block = self.tables[row].blocks()[at / BLOCK_TOKENS] as usize;
                self.memory[block][at % BLOCK_TOKENS] = token;
            }
        }
        if self.fault == Some(self.calls) {
            return Err(DecoderFault { what: "scripted".into(), spoiled: 0..0 });
        }
        for (place, part) in parts.iter().enumerate().filter(|(_, part)| part.logits == Logits::Wanted) {
            let mut numbers = vec![0.0; VOCAB as usize];
            numbers[next_token(&self.tokens(part.row)) as usize] = 1.0;
            logits(place, &numbers);
        }
        Ok(())
    }
    fn give_up(&self, growth: &[Growth], expendable: &[usize]) -> Result<usize, Shortage> {
        let empty = Table::default();
        let table = |row: Option<usize>| row.map_or(&empty, |row| &self.tables[row]);
        let growth: Vec<(&Table, usize)> = growth.iter().map(|growth| (table(growth.row), growth.tokens)).collect();
        let expendable: Vec<&Table> = expendable.iter().map(|&row| &self.tables[row]).collect();
        self.blocks.give_up(&growth, &expendable)
    }
    fn cut(&mut self, row: usize, tokens: usize) {
        self.blocks.cut(&mut self.tables[row], tokens);
    }
    fn copy_row(&mut self, from: usize, to: usize, tokens: usize) {
        let shared = self.blocks.share(&self.tables[from], tokens);
        self.blocks.cut(&mut self.tables[to], 0);
        self.tables[to] = shared;
    }
    fn swap_rows(&mut self, a: usize, b: usize) {
        self.tables.swap(a, b);
    }
    fn cancel(&self) -> Cancel {
        Arc::new(|| {})
    }
    fn resume(&mut self) {}
}

fn scheduler(rows: usize, blocks: u32, chosen: ChosenTokens) -> Scheduler<Pool> {
    let bounds = batch::Config::new(u32::try_from(rows).unwrap(), 120, 100, 2).unwrap();
    Scheduler::new(Pool::new(rows, blocks), bounds, chosen)
}

/// A prompt that begins as all do and goes on in its own way.
fn prompt(common: u32, own: u32, number: u32) -> Vec<u32> {
    let common = (0..common).map(|place| 1 + place % 90);
    common.chain((0..own).map(|place| 1 + (place * 7 + number * 13) % 95)).collect()
}

fn steps(scheduler: &mut Scheduler<Pool>) -> Vec<Progress> {
    let mut steps = Vec::new();
    loop {
        let step = scheduler.step();
        if step == Progress::Idle {
            return steps;
        }
        steps.push(step);
        assert!(steps.len() < 20_000, "there is no end");
    }
}

fn expect(stream: &mut mpsc::Receiver<TokenEvent>, prompt: &[u32], limit: u32) -> u32 {
    let (answer, end) = read(stream);
    assert_eq!(answer, alone(prompt, limit).0);
    match end {
        Some(TokenEvent::Finished { cached_tokens, .. }) => cached_tokens,
        other => panic!("{other:?}"),
    }
}

/// An answer of so many tokens at least, which the scripted model gives to some prompt of this length.
fn long_winded(common: u32, own: u32, tokens: usize) -> Vec<u32> {
    (0..2_000).map(|number| prompt(common, own, number)).find(|prompt| alone(prompt, 1_000).0.len() >= tokens).unwrap()
}

#[test]
fn prompts_are_read_together_and_beside_answers() {
    let mut scheduler = scheduler(6, 8, ChosenTokens::LikeRead);
    let prompts: Vec<Vec<u32>> = (0..4).map(|number| prompt(0, 20, number)).collect();
    let mut streams: Vec<_> = (0..)
        .zip(&prompts)
        .map(|(number, prompt)| {
            let (task, stream) = task(number, prompt.clone(), 9);
            scheduler.submit(task);
            stream
        })
        .collect();
    assert_eq!(scheduler.step(), Progress::Read { tokens: 80, reused: 0 });
    let (late, mut stream) = task(9, prompt(0, 30, 9), 9);
    scheduler.submit(late);
    assert_eq!(scheduler.step(), Progress::Mixed { rows: 4, tokens: 30, reused: 0 });
    steps(&mut scheduler);
    for (stream, prompt) in streams.iter_mut().zip(&prompts) {
        assert_eq!(expect(stream, prompt, 9), 0);
    }
    expect(&mut stream, &prompt(0, 30, 9), 9);
    assert_eq!(scheduler.decoder.most_parts, 5);
}

#[test]
fn prompts_that_begin_alike_share_blocks_and_are_computed_once() {
    let mut scheduler = scheduler(6, 8, ChosenTokens::LikeRead);
    let prompts: Vec<Vec<u32>> = (0..4).map(|number| prompt(600, 20, number)).collect();
    let mut streams: Vec<_> = (0..)
        .zip(&prompts)
        .map(|(number, prompt)| {
            let (task, stream) = task(number, prompt.clone(), 5);
            scheduler.submit(task);
            stream
        })
        .collect();
    let computed: u32 = steps(&mut scheduler)
        .iter()
        .map(|step| match step {
            Progress::Read { tokens, .. } | Progress::Mixed { tokens, .. } => *tokens,
            Progress::Decoded { .. } | Progress::Preempted | Progress::SetAside | Progress::Idle => 0,
        })
        .sum();
    let cached: Vec<u32> = streams.iter_mut().zip(&prompts).map(|(stream, prompt)| expect(stream, prompt, 5)).collect();
    assert_eq!(computed + cached.iter().sum::<u32>(), 4 * 620);
    assert!(cached.iter().filter(|&&cached| cached >= 600).count() == 3, "{cached:?}");
    // Two full blocks are shared, and each has its own copy of the third: apart they would have needed twelve of eight.
    assert!(scheduler.decoder.blocks.free() >= 2);
    assert_eq!(scheduler.into_decoder().free_in_the_end(), 8);
}

#[test]
fn a_sequence_that_finds_no_memory_to_go_on_is_set_aside_and_ends_as_it_would_have_alone() {
    for chosen in [ChosenTokens::LikeRead, ChosenTokens::Apart] {
        let mut scheduler = scheduler(4, 5, chosen);
        // Each fills two blocks and says more than half of the third; five do not hold two of them.
        let prompts = [long_winded(0, 500, 150), long_winded(0, 505, 150)];
        let mut streams = Vec::new();
        for (number, prompt) in (0..).zip(&prompts) {
            let (task, stream) = task(number, prompt.clone(), 700);
            scheduler.submit(task);
            streams.push(stream);
        }
        // The second is let in while there is room for what both may say next.
        let steps = steps(&mut scheduler);
        let cached: Vec<u32> =
            streams.iter_mut().zip(&prompts).map(|(stream, prompt)| expect(stream, prompt, 700)).collect();
        assert_eq!(cached, [0, 0], "computing again is not reuse");
        assert!(steps.contains(&Progress::SetAside) && !steps.contains(&Progress::Preempted));
        assert_eq!(scheduler.into_decoder().free_in_the_end(), 5);
    }
}

#[test]
fn batch_work_makes_way_for_urgent_work_that_finds_no_memory() {
    let mut scheduler = scheduler(4, 5, ChosenTokens::LikeRead);
    let batch = long_winded(0, 700, 100);
    let (mut slow, mut preempted) = task(0, batch.clone(), 300);
    slow.class = Class::P3;
    scheduler.submit(slow);
    for _ in 0..20 {
        scheduler.step();
    }
    let urgent = prompt(0, 900, 5);
    let (fast, mut stream) = task(1, urgent.clone(), 5);
    scheduler.submit(fast);
    assert!(steps(&mut scheduler).contains(&Progress::Preempted));
    expect(&mut stream, &urgent, 5);
    let (so_far, end) = read(&mut preempted);
    assert_eq!(end, Some(TokenEvent::Failed(EngineFault::Preempted)));
    assert!(!so_far.is_empty() && alone(&batch, 300).0.starts_with(&so_far));
}

#[test]
fn a_prompt_that_waits_for_memory_is_not_passed_by_smaller_ones_for_ever() {
    let mut scheduler = scheduler(4, 5, ChosenTokens::LikeRead);
    let mut small = Vec::new();
    for number in 0..3 {
        let (task, stream) = task(number, prompt(0, 300, number), 40);
        scheduler.submit(task);
        small.push(stream);
    }
    scheduler.step();
    let big = prompt(0, 1_200, 99);
    let (waiting, mut answer) = task(99, big.clone(), 3);
    scheduler.submit(waiting);
    // Small ones keep coming, each as soon as one has ended.
    let mut answered = None;
    for number in 100..160 {
        let (task, stream) = task(number, prompt(0, 300, number), 40);
        scheduler.submit(task);
        small.push(stream);
        for _ in 0..12 {
            scheduler.step();
        }
        if answered.is_none() && is_over(&mut answer, &big) {
            answered = Some(number);
        }
    }
    assert!(answered.is_some_and(|number| number < 140), "{answered:?}");
    steps(&mut scheduler);
}

fn is_over(stream: &mut mpsc::Receiver<TokenEvent>, prompt: &[u32]) -> bool {
    if stream.is_empty() || !stream.is_closed() {
        return false;
    }
    expect(stream, prompt, 3);
    true
}

#[test]
fn a_call_that_fails_costs_its_sequences_and_no_block() {
    let mut scheduler = scheduler(4, 8, ChosenTokens::LikeRead);
    scheduler.decoder.fault = Some(3);
    let mut streams = Vec::new();
    for number in 0..3 {
        let (task, stream) = task(number, prompt(300, 20, number), 8);
        scheduler.submit(task);
        streams.push(stream);
    }
    steps(&mut scheduler);
    let mut lost = 0;
    for (number, stream) in (0..).zip(&mut streams) {
        match read(stream) {
            (_, Some(TokenEvent::Failed(EngineFault::Fault(what)))) => {
                assert_eq!(what, "scripted");
                lost += 1;
            }
            (answer, _) => assert_eq!(answer, alone(&prompt(300, 20, number), 8).0),
        }
    }
    assert!(lost >= 1);
    assert_eq!(scheduler.into_decoder().free_in_the_end(), 8);
}

/// A sequence of the property below.
#[derive(Clone, Debug)]
struct Arrival {
    after: usize,
    common: u32,
    own: u32,
    limit: u32,
    class: usize,
    /// Steps after which its client is gone.
    gone: Option<usize>,
}

/// The same under way.
struct Open {
    arrival: Arrival,
    words: Vec<u32>,
    so_far: Vec<u32>,
    stream: mpsc::Receiver<TokenEvent>,
    /// The step at which it came.
    begun: usize,
}

fn arrival() -> impl Strategy<Value = Arrival> {
    let gone = prop_oneof![4 => Just(None), 1 => (0usize..60).prop_map(Some)];
    (0usize..30, prop_oneof![Just(0u32), 0u32..700], 1u32..300, 1u32..260, 0usize..4, gone)
        .prop_map(|(after, common, own, limit, class, gone)| Arrival { after, common, own, limit, class, gone })
}

proptest! {
    /// Whatever comes and goes, however short memory is: no call lacks a block, every answer is the one that its prompt
    /// gets alone, also over preemptions, only batch work is preempted, all work ends, and no block is lost.
    #[test]
    fn answers_do_not_depend_on_company_and_no_block_is_lost(
        rows in 1usize..6,
        blocks in 5u32..11,
        like_read in any::<bool>(),
        arrivals in proptest::collection::vec(arrival(), 1..14),
    ) {
        let chosen = if like_read { ChosenTokens::LikeRead } else { ChosenTokens::Apart };
        let mut scheduler = scheduler(rows, blocks, chosen);
        let mut open: Vec<Open> = Vec::new();
        let mut coming: std::collections::VecDeque<(u32, Arrival)> = (0..).zip(arrivals).collect();
        let (mut step, mut since_last) = (0usize, 0usize);
        loop {
            while coming.front().is_some_and(|(_, arrival)| arrival.after <= since_last) {
                let Some((number, arrival)) = coming.pop_front() else { break };
                let words = prompt(arrival.common, arrival.own, number);
                let (mut task, stream) = task(number, words.clone(), arrival.limit);
                task.class = Class::ALL[arrival.class];
                scheduler.submit(task);
                open.push(Open { arrival, words, so_far: Vec::new(), stream, begun: step });
                since_last = 0;
            }
            let progress = scheduler.step();
            step += 1;
            since_last += 1;
            prop_assert!(step < 50_000, "there is no end");
            let mut going = Vec::new();
            for Open { arrival, words, mut so_far, mut stream, begun } in open {
                if arrival.gone.is_some_and(|after| step - begun > after) {
                    continue;
                }
                let (said, end) = read(&mut stream);
                so_far.extend(said);
                match end {
                    None => going.push(Open { arrival, words, so_far, stream, begun }),
                    Some(TokenEvent::Finished { .. }) => prop_assert_eq!(so_far, alone(&words, arrival.limit).0),
                    Some(TokenEvent::Failed(EngineFault::Preempted)) => {
                        prop_assert_eq!(arrival.class, 3);
                        // The next worker goes on with it.
                        let (mut task, stream) = task(77, words.clone(), arrival.limit);
                        task.class = Class::P3;
                        let grown = task.answer.inherit(&so_far, 0);
                        prop_assert!(matches!(grown.map(|grown| grown.outcome), Ok(Outcome::Open)));
                        match chosen {
                            ChosenTokens::LikeRead => task.prompt.extend(&so_far),
                            ChosenTokens::Apart => task.replay.clone_from(&so_far),
                        }
                        scheduler.submit(task);
                        going.push(Open { arrival, words, so_far, stream, begun });
                    }
                    Some(other) => prop_assert!(false, "{:?}", other),
                }
            }
            open = going;
            if progress == Progress::Idle && coming.is_empty() && open.is_empty() {
                break;
            }
            prop_assert!(progress != Progress::Idle || !coming.is_empty() || scheduler.queued() > 0, "work is left");
        }
        prop_assert_eq!(scheduler.into_decoder().free_in_the_end(), blocks as usize);
    }
}
