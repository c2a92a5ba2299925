//! Models as onnxruntime-genai's builder exports them, against the tokens that other programs give: *transformers* in
//! single precision, onnxruntime-genai itself with 8- and 4-bit weights (`fixtures/identity/make.py`). Three families:
//! Qwen2 (biases), Qwen3 (normalised queries and keys, heads wider than the model), Llama (scaled rotations, a head of
//! its own).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests stop at the first surprise")]

mod drive;
mod support;

use std::collections::BTreeMap;

use drive::{Case, decoder, run};
use penstock_gpu_worker::engine::decoder::Decoder;
use penstock_gpu_worker::engine::ort::{Padding, Reading, SlotDecoder};
use penstock_policy::batch;
use support::fixture;

/// Positions of the models; the longest case has 240 tokens.
const CAPACITY: usize = 256;

fn expected() -> BTreeMap<String, Vec<Case>> {
    let text = std::fs::read_to_string(fixture("identity/expected.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// As the engine loads it: rows of 4-bit products are computed two at a time at least.
fn loaded(name: &str, slots: usize, reading: Reading) -> SlotDecoder {
    let padding = if name.ends_with("int4") { Padding::TwoRows } else { Padding::None };
    decoder(&fixture("identity").join(name), slots, CAPACITY, padding, reading)
}

fn answers_equal_at(slots: u32) {
    let expected = expected();
    assert_eq!(expected.len(), 9);
    for (name, cases) in &expected {
        assert!(cases.len() >= 16, "{name}");
        for (budget, chunk) in [(512, 512), (24, 3)] {
            let bounds = batch::Config::new(slots, budget, chunk, 3).unwrap();
            let answers = run(loaded(name, slots as usize, Reading::AsExported), cases, bounds).answers;
            for (place, (answer, case)) in answers.iter().zip(cases).enumerate() {
                assert_eq!(answer, &case.answer, "{name}: case {place}, {slots} slots, chunks of {chunk}");
            }
        }
    }
}

#[test]
fn answers_equal_other_programs_alone() {
    answers_equal_at(1);
}

#[test]
fn answers_equal_other_programs_beside_one_and_two_neighbours() {
    answers_equal_at(2);
    answers_equal_at(3);
}

#[test]
fn answers_equal_other_programs_in_eight_slots() {
    answers_equal_at(8);
}

#[test]
fn answers_equal_other_programs_in_twelve_slots() {
    answers_equal_at(12);
}

#[test]
fn answers_equal_other_programs_when_prompts_begin_with_what_a_row_holds() {
    for (name, cases) in &expected() {
        // Every case three times, the last two when a row holds its prompt and its answer, and a case that ends sooner.
        let shorter = cases.iter().map(|case| Case { answer: case.answer[..2].to_vec(), ..case.clone() });
        let again: Vec<Case> = cases.iter().chain(cases).cloned().chain(shorter).collect();
        let bounds = batch::Config::new(24, 512, 512, 3).unwrap();
        let ran = run(loaded(name, 24, Reading::AsExported), &again, bounds);
        for (place, (answer, case)) in ran.answers.iter().zip(&again).enumerate() {
            assert_eq!(answer, &case.answer, "{name}: case {place}");
        }
        let prompts: usize = again.iter().map(|case| case.prompt.len()).sum();
        assert!(ran.cached as usize > prompts / 2, "{name}: {} of {prompts} prompt tokens reused", ran.cached);
    }
}

/// The logits of row 0 as bits, after a prompt read in chunks and an answer fed token by token beside `neighbours`.
fn bits(decoder: &mut SlotDecoder, case: &Case, neighbours: usize, chunk: usize) -> Vec<Vec<u32>> {
    let mut rows = Vec::new();
    let mut keep = |place: usize, logits: &[f32]| {
        if place == 0 {
            rows.push(logits.iter().map(|number| number.to_bits()).collect());
        }
    };
    for row in 0..=neighbours {
        decoder.cut(row, 0);
        if row > 0 {
            // Of different lengths, all unlike the case itself.
            decoder.prefill(row, &vec![5; 3 * row], &mut |_, _| {}).unwrap();
        }
    }
    let mut rest = case.prompt.as_slice();
    while !rest.is_empty() {
        let count = |tokens: usize| u32::try_from(tokens).unwrap();
        let (read, left) = rest.split_at(batch::chunk(count(rest.len()), count(chunk)) as usize);
        let mut ignore = |_: usize, _: &[f32]| {};
        decoder.prefill(0, read, if left.is_empty() { &mut keep } else { &mut ignore }).unwrap();
        rest = left;
    }
    for &id in &case.answer {
        decoder.decode(&vec![id; neighbours + 1], &mut keep).unwrap();
    }
    rows
}

#[test]
fn logits_are_the_same_to_the_last_bit_beside_any_number_of_neighbours_and_however_the_prompt_is_chunked() {
    for (name, cases) in &expected() {
        for reading in [Reading::AsExported, Reading::InSinglePrecision] {
            let mut decoder = loaded(name, 12, reading);
            // Attention reads tiles of 64 tokens here: of these prompts one token would be left to a tile of its own.
            let tiled = [65u32, 129, 193].map(|length| Case {
                prompt: (0..length).map(|place| 2 + place * 7 % 190).collect(),
                answer: vec![3, 4],
            });
            for case in cases.iter().step_by(5).chain(&tiled) {
                let alone = bits(&mut decoder, case, 0, CAPACITY);
                assert_eq!(alone.len(), case.answer.len() + 1);
                for (neighbours, chunk) in [(1, CAPACITY), (2, 3), (7, 16), (11, 33), (3, 66)] {
                    let other = bits(&mut decoder, case, neighbours, chunk);
                    assert!(
                        other == alone,
                        "{name}, {reading:?}: {} tokens, {neighbours} neighbours, chunks of {chunk}",
                        case.prompt.len()
                    );
                }
            }
        }
    }
}

#[test]
fn reading_gives_the_same_bits_as_decoding_where_the_decoder_says_so() {
    for (name, cases) in &expected() {
        for reading in [Reading::AsExported, Reading::InSinglePrecision] {
            let mut decoder = loaded(name, 4, reading);
            let says_so = decoder.reads_as_it_decodes();
            assert_eq!(
                says_so,
                cfg!(target_arch = "x86_64") && (reading == Reading::AsExported || !name.ends_with("int4"))
            );
            for case in cases.iter().filter(|_| says_so) {
                let decoded = bits(&mut decoder, case, 0, CAPACITY);
                let whole = Case { prompt: [&case.prompt[..], &case.answer].concat(), answer: Vec::new() };
                let read = bits(&mut decoder, &whole, 0, CAPACITY);
                assert_eq!(read.last(), decoded.last(), "{name}: {} tokens", whole.prompt.len());
            }
        }
    }
}
