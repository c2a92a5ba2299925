//! The scheduler on a scripted model: what a row says next is a hash of exactly the tokens it holds, so that any mix-up
//! of rows, any token lost or read twice, changes an answer.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use penstock_policy::id::{JobId, TenantId};
use penstock_policy::time::Timestamp;
use penstock_service::ports::{FinishReason, Sampling, TokenEvent};
use proptest::prelude::*;
use tokio::sync::mpsc;

use super::*;
use crate::engine::answer::Answer;
use crate::engine::decoder::{Cancel, DecoderFault, OnLogits};
use crate::engine::tokenizer::tests::bytes;

pub(super) const VOCAB: u32 = 96;
pub(super) const EOS: u32 = 0;
const CAPACITY: usize = 64;

/// What follows a row that holds `tokens`.
pub(super) fn next_token(tokens: &[u32]) -> u32 {
    let hash = tokens
        .iter()
        .fold(7u64, |hash, &token| (hash ^ u64::from(token)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23));
    u32::try_from(hash % u64::from(VOCAB)).unwrap()
}

#[derive(Default)]
struct Script {
    rows: Vec<Vec<u32>>,
    calls: usize,
    /// Calls that fail, and the rows they spoil besides those they touch.
    faults: BTreeMap<usize, Range<usize>>,
    /// The call that gives no numbers for its first row.
    not_a_number: Option<usize>,
    chunks: Vec<usize>,
    copies: usize,
}

impl Script {
    fn new(slots: usize) -> Self {
        Self { rows: vec![Vec::new(); slots], ..Self::default() }
    }

    fn answer(&mut self, rows: Range<usize>, logits: OnLogits<'_>) -> Result<(), DecoderFault> {
        self.calls += 1;
        if let Some(spoiled) = self.faults.remove(&self.calls) {
            for row in spoiled.clone() {
                self.rows[row] = vec![VOCAB - 1; 3];
            }
            return Err(DecoderFault { what: "scripted".into(), spoiled });
        }
        for (place, row) in rows.enumerate() {
            assert!(self.rows[row].len() <= CAPACITY);
            let mut numbers = vec![0.0; VOCAB as usize];
            numbers[next_token(&self.rows[row]) as usize] = 1.0;
            if place == 0 && self.not_a_number == Some(self.calls) {
                numbers[5] = f32::NAN;
            }
            logits(place, &numbers);
        }
        Ok(())
    }
}

impl Decoder for Script {
    fn slots(&self) -> usize {
        self.rows.len()
    }
    fn capacity(&self) -> usize {
        CAPACITY
    }
    fn prefill(&mut self, row: usize, tokens: &[u32], logits: OnLogits<'_>) -> Result<(), DecoderFault> {
        assert!(!tokens.is_empty());
        self.chunks.push(tokens.len());
        self.rows[row].extend_from_slice(tokens);
        self.answer(row..row + 1, logits)
    }
    fn decode(&mut self, tokens: &[u32], logits: OnLogits<'_>) -> Result<(), DecoderFault> {
        for (row, &token) in tokens.iter().enumerate() {
            assert!(!self.rows[row].is_empty(), "row {row} decodes without a prompt");
            self.rows[row].push(token);
        }
        self.answer(0..tokens.len(), logits)
    }
    fn cut(&mut self, row: usize, tokens: usize) {
        self.rows[row].truncate(tokens);
    }
    fn copy_row(&mut self, from: usize, to: usize, tokens: usize) {
        self.rows[to] = self.rows[from][..tokens].to_vec();
        self.copies += 1;
    }
    fn swap_rows(&mut self, a: usize, b: usize) {
        self.rows.swap(a, b);
    }
    fn cancel(&self) -> Cancel {
        Arc::new(|| {})
    }
    fn resume(&mut self) {}
}

pub(in crate::engine) fn task(number: u32, prompt: Vec<u32>, limit: u32) -> (Task, mpsc::Receiver<TokenEvent>) {
    let sampling = Sampling { max_tokens: Some(limit), ..Sampling::default() };
    let (events, stream) = mpsc::channel(limit as usize + 4);
    let task = Task {
        job: JobId::new(Timestamp::from_millis(0), u128::from(number)),
        tenant: TenantId::new("tester").unwrap(),
        class: Class::P1,
        prompt,
        replay: Vec::new(),
        answer: Answer::new(&sampling, &bytes(), [EOS].into(), limit),
        events,
        cached: 0,
        arrived: Instant::now(),
    };
    (task, stream)
}

/// What a sequence answers that runs alone.
pub(super) fn alone(prompt: &[u32], limit: u32) -> (Vec<u32>, FinishReason) {
    let mut tokens = prompt.to_vec();
    loop {
        let token = next_token(&tokens);
        tokens.push(token);
        let answer = tokens[prompt.len()..].to_vec();
        if token == EOS {
            return (answer, FinishReason::Stop);
        }
        if answer.len() == limit as usize {
            return (answer, FinishReason::Length);
        }
    }
}

/// The ids a stream holds so far, and how it ended.
pub(super) fn read(stream: &mut mpsc::Receiver<TokenEvent>) -> (Vec<u32>, Option<TokenEvent>) {
    let mut answer = Vec::new();
    while let Ok(event) = stream.try_recv() {
        match event {
            TokenEvent::Tokens { ids, .. } => answer.extend(ids),
            end @ (TokenEvent::Finished { .. } | TokenEvent::Failed(_)) => return (answer, Some(end)),
            TokenEvent::Started { .. } => panic!("the intake says that"),
        }
    }
    (answer, None)
}

fn bounds(slots: u32) -> batch::Config {
    batch::Config::new(slots, slots + 8, 6, 2).unwrap()
}

fn scheduler(slots: usize) -> Scheduler<Script> {
    Scheduler::new(Script::new(slots), bounds(u32::try_from(slots).unwrap()), ChosenTokens::Apart)
}

/// Prompts of which many begin alike.
fn prompts() -> impl Strategy<Value = Vec<u32>> {
    (0usize..30, proptest::collection::vec(1u32..VOCAB, 0..12)).prop_map(|(common, own)| {
        let mut prompt: Vec<u32> = (1..=30).take(common).collect();
        prompt.extend(own);
        if prompt.is_empty() { vec![9] } else { prompt }
    })
}

fn run(scheduler: &mut Scheduler<Script>) {
    while scheduler.step() != Progress::Idle {}
}

/// Expects the answer that a sequence gives alone; gives the tokens of its prompt that it did not compute.
fn expect(stream: &mut mpsc::Receiver<TokenEvent>, prompt: &[u32], limit: u32) -> u32 {
    let (answer, end) = read(stream);
    let (expected, reason) = alone(prompt, limit);
    assert_eq!(answer, expected);
    match end {
        Some(TokenEvent::Finished { reason: told, completion_tokens, cached_tokens, .. }) => {
            assert_eq!((told, completion_tokens as usize), (reason, expected.len()));
            cached_tokens
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_sequence_takes_a_call_per_token_and_none_for_the_last() {
    let mut scheduler = scheduler(2);
    let (task, mut stream) = task(0, vec![5, 6, 7], 4);
    scheduler.submit(task);
    run(&mut scheduler);
    expect(&mut stream, &[5, 6, 7], 4);
    let tokens = alone(&[5, 6, 7], 4).0.len();
    assert_eq!(scheduler.decoder.calls, tokens);
}

#[test]
fn inherited_tokens_are_put_through_the_model_one_at_a_time_and_not_chosen_again() {
    let prompt = [5, 6, 7];
    let (whole, _) = alone(&prompt, 9);
    for cut in 1..whole.len() {
        let mut scheduler = scheduler(2);
        let (mut task, mut stream) = task(0, prompt.to_vec(), 9);
        task.replay = whole[..cut].to_vec();
        task.answer.inherit(&task.replay, 0).unwrap();
        scheduler.submit(task);
        run(&mut scheduler);
        assert_eq!(read(&mut stream).0, whole[cut..]);
        assert_eq!(scheduler.decoder.chunks, [3], "the prompt alone is read as one");
        assert_eq!(scheduler.decoder.calls, whole.len());
    }
}

#[test]
fn more_sequences_than_slots_wait_and_are_all_answered() {
    let mut scheduler = scheduler(3);
    let mut streams = Vec::new();
    for number in 0..20 {
        let prompt: Vec<u32> = (0..=number % 9).map(|token| token + number).collect();
        let (task, stream) = task(number, prompt.clone(), 8);
        scheduler.submit(task);
        streams.push((stream, prompt));
    }
    scheduler.step();
    assert!(scheduler.busy_slots() <= 3);
    run(&mut scheduler);
    assert_eq!(scheduler.busy_slots(), 0);
    for (stream, prompt) in &mut streams {
        expect(stream, prompt, 8);
    }
}

#[test]
fn a_failed_call_fails_its_own_sequences_and_those_it_spoiled_and_no_other() {
    // The first reads its prompt and decodes; the second's long prompt is read in between, from call 2 on.
    for (spoiled, survivors) in [(1..2, 2), (1..3, 2), (0..3, 1)] {
        let mut scheduler = scheduler(4);
        let prompts = [vec![11; 2], vec![13; 5], vec![15; 6]];
        let mut streams = Vec::new();
        for (number, prompt) in (0..).zip(&prompts) {
            let (task, stream) = task(number, prompt.clone(), 9);
            scheduler.submit(task);
            streams.push(stream);
        }
        scheduler.decoder.faults.insert(2, spoiled);
        run(&mut scheduler);
        assert_eq!(scheduler.busy_slots(), 0);
        let ends: Vec<_> = streams.iter_mut().map(|stream| read(stream).1.unwrap()).collect();
        assert_eq!(ends[1], TokenEvent::Failed(EngineFault::Fault("scripted".into())));
        let finished = ends.iter().filter(|end| matches!(end, TokenEvent::Finished { .. })).count();
        // The third has no row yet when the call fails, so it always lives.
        assert_eq!(finished, survivors, "{ends:?}");
    }
}

#[test]
fn logits_that_are_no_numbers_fail_their_own_sequence() {
    let mut scheduler = scheduler(2);
    let (first, mut broken) = task(0, vec![21, 22], 5);
    let (second, mut whole) = task(1, vec![23, 24], 5);
    scheduler.submit(first);
    scheduler.submit(second);
    scheduler.decoder.not_a_number = Some(3);
    run(&mut scheduler);
    assert!(matches!(read(&mut broken).1, Some(TokenEvent::Failed(EngineFault::Fault(_)))));
    expect(&mut whole, &[23, 24], 5);
}

#[test]
fn stopping_tells_running_reading_and_waiting_sequences() {
    let mut scheduler = scheduler(2);
    let mut streams = Vec::new();
    for number in 0..5 {
        let (task, stream) = task(number, vec![31; 20], 30);
        scheduler.submit(task);
        streams.push(stream);
    }
    for _ in 0..5 {
        assert_ne!(scheduler.step(), Progress::Idle);
    }
    scheduler.stop();
    assert_eq!(scheduler.step(), Progress::Idle);
    assert_eq!(scheduler.busy_slots(), 0);
    for stream in &mut streams {
        assert_eq!(read(stream).1, Some(TokenEvent::Failed(EngineFault::Stopping)));
    }
}

#[test]
fn a_prompt_computes_only_what_no_row_holds() {
    let mut scheduler = scheduler(3);
    let system: Vec<u32> = (1..=20).collect();
    for (number, question) in (0..).zip([50u32, 51, 52]) {
        let prompt = [&system[..], &[question, 60, 61]].concat();
        let (task, mut stream) = task(number, prompt.clone(), 3);
        scheduler.submit(task);
        run(&mut scheduler);
        assert_eq!(expect(&mut stream, &prompt, 3), if number == 0 { 0 } else { 20 });
    }
    let read: usize = scheduler.decoder.chunks.iter().sum();
    assert_eq!(read, 23 + 3 + 3);
}

#[test]
fn prompts_that_come_together_compute_their_common_beginning_once() {
    let mut scheduler = scheduler(4);
    let system: Vec<u32> = (1..=20).collect();
    let prompts: Vec<Vec<u32>> = (50..54).map(|question| [&system[..], &[question, 60]].concat()).collect();
    let mut streams = Vec::new();
    for (number, prompt) in (0..).zip(&prompts) {
        let (task, stream) = task(number, prompt.clone(), 6);
        scheduler.submit(task);
        streams.push(stream);
    }
    run(&mut scheduler);
    let cached: Vec<u32> = streams.iter_mut().zip(&prompts).map(|(stream, prompt)| expect(stream, prompt, 6)).collect();
    assert_eq!(cached, [0, 20, 20, 20]);
    assert_eq!(scheduler.decoder.copies, 3);
    assert_eq!(scheduler.decoder.chunks.iter().sum::<usize>(), 22 + 2 + 2 + 2);
}

#[test]
fn what_one_tenant_computed_is_not_reused_for_another() {
    let mut scheduler = scheduler(2);
    let prompt: Vec<u32> = (1..=20).collect();
    for (number, tenant) in (0..).zip(["one", "other", "one"]) {
        let (task, mut stream) = task(number, prompt.clone(), 3);
        scheduler.submit(Task { tenant: TenantId::new(tenant).unwrap(), ..task });
        run(&mut scheduler);
        assert_eq!(expect(&mut stream, &prompt, 3), if number == 2 { 18 } else { 0 });
    }
}

#[test]
fn chosen_tokens_are_reused_only_where_the_last_bits_do_not_matter() {
    for (chosen, reused) in [(ChosenTokens::Apart, 8), (ChosenTokens::LikeRead, 8 + 4)] {
        let mut scheduler = Scheduler::new(Script::new(2), bounds(2), chosen);
        let prompt: Vec<u32> = (71..=78).collect();
        let (first, mut stream) = task(0, prompt.clone(), 5);
        scheduler.submit(first);
        run(&mut scheduler);
        expect(&mut stream, &prompt, 5);
        // The next turn of the same conversation. The last token of the answer never entered the cache.
        let turn = [prompt.clone(), alone(&prompt, 5).0, vec![80, 81, 82]].concat();
        let (second, mut stream) = task(1, turn.clone(), 5);
        scheduler.submit(second);
        run(&mut scheduler);
        assert_eq!(expect(&mut stream, &turn, 5), reused);
    }
}

#[test]
fn a_failed_call_leaves_nothing_that_is_reused() {
    let mut scheduler = scheduler(2);
    let prompt: Vec<u32> = (1..=20).collect();
    let (first, mut stream) = task(0, prompt.clone(), 5);
    scheduler.submit(first);
    scheduler.decoder.faults.insert(3, 0..2);
    run(&mut scheduler);
    assert!(matches!(read(&mut stream).1, Some(TokenEvent::Failed(EngineFault::Fault(_)))));
    let (second, mut stream) = task(1, prompt.clone(), 5);
    scheduler.submit(second);
    run(&mut scheduler);
    assert_eq!(expect(&mut stream, &prompt, 5), 0);
}

#[test]
fn batch_work_makes_way_for_urgent_work_and_for_nothing_else() {
    let mut scheduler = scheduler(2);
    let mut submit = |number, class| {
        let (task, stream) = task(number, vec![33, 34, 35], 20);
        scheduler.submit(Task { class, tenant: TenantId::new(&format!("t{number}")).unwrap(), ..task });
        for _ in 0..3 {
            scheduler.step();
        }
        stream
    };
    let mut batch = [submit(0, Class::P3), submit(1, Class::P3)];
    let mut flexible = submit(2, Class::P2);
    let mut urgent = submit(3, Class::P0);
    run(&mut scheduler);
    expect(&mut urgent, &[33, 34, 35], 20);
    expect(&mut flexible, &[33, 34, 35], 20);
    // The younger had less to lose. What it had said is the beginning of what it would have said.
    let (said, end) = read(&mut batch[1]);
    assert_eq!(end, Some(TokenEvent::Failed(EngineFault::Preempted)));
    assert_eq!(said, alone(&[33, 34, 35], 20).0[..said.len()]);
    assert!(!said.is_empty());
    expect(&mut batch[0], &[33, 34, 35], 20);
}

proptest! {
    /// Whole days: sequences arrive, are abandoned, calls fail. Whoever is answered is answered as if alone, everybody
    /// else is told, and no row stays taken.
    #[test]
    fn whatever_happens_to_others_an_answer_is_what_it_would_be_alone(
        slots in 1usize..6,
        arrivals in proptest::collection::vec(
            (0usize..6, prompts(), 1u32..20, prop::option::weighted(0.2, 0usize..30), 0usize..4),
            1..40,
        ),
        exact in any::<bool>(),
        faults in proptest::collection::btree_map(1usize..200, (0usize..6, 0usize..6), 0..4),
    ) {
        let mut script = Script::new(slots);
        script.faults = faults
            .into_iter()
            .map(|(call, (a, b))| (call, a.min(b).min(slots)..a.max(b).min(slots)))
            .collect();
        let any_faults = !script.faults.is_empty();
        let budget = u32::try_from(slots).unwrap();
        let mut scheduler = Scheduler::new(script, bounds(budget), if exact { ChosenTokens::Apart } else { ChosenTokens::LikeRead });
        let mut streams = Vec::new();
        let mut abandoned = Vec::new();
        for (number, (pause, prompt, limit, patience, class)) in (0..).zip(arrivals) {
            let (task, stream) = task(number, prompt.clone(), limit);
            let task = Task { class: Class::ALL[class], ..task };
            scheduler.submit(task);
            match patience {
                Some(steps) => abandoned.push((steps, stream)),
                None => streams.push((stream, prompt, limit, class)),
            }
            for _ in 0..pause {
                scheduler.step();
                prop_assert!(scheduler.busy_slots() <= slots);
                abandoned.iter_mut().for_each(|(steps, _)| *steps = steps.saturating_sub(1));
                abandoned.retain(|(steps, _)| *steps > 0);
            }
        }
        drop(abandoned);
        run(&mut scheduler);
        prop_assert_eq!(scheduler.busy_slots(), 0);
        for (mut stream, prompt, limit, class) in streams {
            let (answer, end) = read(&mut stream);
            let (expected, reason) = alone(&prompt, limit);
            match end {
                Some(TokenEvent::Finished { reason: told, completion_tokens, .. }) => {
                    prop_assert_eq!(&answer, &expected);
                    prop_assert_eq!(told, reason);
                    prop_assert_eq!(completion_tokens as usize, expected.len());
                }
                Some(TokenEvent::Failed(fault)) => {
                    prop_assert!(any_faults || fault == EngineFault::Preempted && class == 3);
                    prop_assert_eq!(&answer[..], &expected[..answer.len()]);
                }
                other => prop_assert!(false, "a sequence was forgotten: {:?}", other),
            }
        }
        let chunks = &scheduler.decoder.chunks;
        prop_assert!(chunks.iter().all(|&tokens| tokens <= 6), "chunks of {:?}", chunks);
    }
}
