//! The decoder below the engine: tokens against lists that another driver computed (`fixtures/expected_random.py`, on a
//! random model in single precision), and logits against themselves in other company. Sequences are given as ids.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests stop at the first surprise")]

mod drive;
mod support;

use drive::{Case, run};
use penstock_gpu_worker::engine::decoder::Decoder;
use penstock_gpu_worker::engine::ort::{Padding, Reading, SlotDecoder};
use penstock_policy::batch;
use support::fixture;

fn expected() -> Vec<Case> {
    let text = std::fs::read_to_string(fixture("expected_random.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn decoder(name: &str, slots: usize, padding: Padding) -> SlotDecoder {
    drive::decoder(&fixture(name), slots, 170, padding, Reading::InSinglePrecision)
}

#[test]
fn tokens_equal_another_driver_s_at_any_number_of_slots_chunking_and_padding() {
    let requests = expected();
    assert!(requests.len() >= 24 && requests.iter().any(|request| request.prompt.len() == 1));
    for slots in [1, 2, 3, 8, 16] {
        for (budget, chunk) in [(512, 512), (24, 7), (19, 3)] {
            for padding in [Padding::None, Padding::TwoRows] {
                let bounds = batch::Config::new(slots, budget, chunk, 3).unwrap();
                let answers = run(decoder("random-fp32", slots as usize, padding), &requests, bounds).answers;
                for (place, (answer, request)) in answers.iter().zip(&requests).enumerate() {
                    assert_eq!(
                        answer, &request.answer,
                        "request {place}, {slots} slots, budget {budget}, chunks of {chunk}, {padding:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn half_precision_gives_nearly_the_logits_of_single_and_the_same_answers_in_any_company() {
    let tokens: Vec<u32> = (0..40).map(|place| place * 5 % 256).collect();
    let [half, single] = ["random-fp16", "random-fp32"].map(|name| {
        let mut seen = Vec::new();
        decoder(name, 1, Padding::None).prefill(0, &tokens, &mut |_, logits| seen = logits.to_vec()).unwrap();
        seen
    });
    let spread = single.iter().copied().fold(0.0f32, |most, logit| most.max(logit.abs()));
    for (half, single) in half.iter().zip(&single) {
        assert!((half - single).abs() < 0.02 * spread, "{half} and {single} of at most {spread}");
    }
    let requests = expected();
    let answers = [1, 8].map(|slots: u32| {
        let bounds = batch::Config::new(slots, 24, 7, 3).unwrap();
        run(decoder("random-fp16", slots as usize, Padding::None), &requests, bounds).answers
    });
    assert_eq!(answers[0], answers[1]);
}

/// The logits that follow `tokens` in `row`, as bits: the first `read` tokens in chunks of at most `chunk`, the others one
/// at a time in the company of the other rows.
fn bits_after(decoder: &mut SlotDecoder, row: usize, tokens: &[u32], read: usize, chunk: usize) -> Vec<u32> {
    let mut bits = Vec::new();
    let mut keep = |place: usize, wanted: usize, logits: &[f32]| {
        if place == wanted {
            bits = logits.iter().map(|number| number.to_bits()).collect();
        }
    };
    for other in 0..=row {
        decoder.cut(other, 0);
        if other < row {
            decoder.prefill(other, &vec![tokens[0]; other + 1], &mut |_, _| {}).unwrap();
        }
    }
    for part in tokens[..read].chunks(chunk) {
        decoder.prefill(row, part, &mut |place, logits| keep(place, 0, logits)).unwrap();
    }
    for &token in &tokens[read..] {
        let company = vec![token; row + 1];
        decoder.decode(&company, &mut |place, logits| keep(place, row, logits)).unwrap();
    }
    bits
}

#[test]
fn logits_depend_on_the_row_s_own_tokens_to_the_last_bit() {
    for (name, padding, vocabulary) in
        [("task-int4", Padding::TwoRows, 17), ("random-fp32", Padding::None, 256), ("random-fp16", Padding::None, 256)]
    {
        let mut decoder = decoder(name, 6, padding);
        for length in [3u32, 8, 20, 61, 128] {
            let tokens: Vec<u32> = (0..length).map(|place| (place * 7 + 3) % vocabulary).collect();
            let all = tokens.len();
            // Reading: in one chunk, and in smaller ones of at least two tokens, in any row.
            let whole = bits_after(&mut decoder, 0, &tokens, all, all);
            for (row, chunk) in [(1, all), (2, 2), (3, 4), (4, all.div_ceil(2)), (5, 33)] {
                if all % chunk != 1 {
                    let other = bits_after(&mut decoder, row, &tokens, all, chunk);
                    assert_eq!(other, whole, "{name}: {length} tokens in row {row}, chunks of {chunk}");
                }
            }
            // Taking over what another row has read, longer or shorter than what is needed of it.
            for (from, to, shared) in [(0, 5, all - 2), (5, 1, all / 2 + 1), (0, 0, all / 3), (1, 2, 1)] {
                let shared = shared.min(all - 2);
                bits_after(&mut decoder, from, &tokens, all, all);
                if from == to {
                    decoder.cut(to, shared);
                } else {
                    decoder.copy_row(from, to, shared);
                }
                let mut other = Vec::new();
                let mut keep =
                    |_: usize, logits: &[f32]| other = logits.iter().map(|number| number.to_bits()).collect();
                decoder.prefill(to, &tokens[shared..], &mut keep).unwrap();
                assert_eq!(other, whole, "{name}: {shared} of {length} tokens taken over from row {from} by {to}");
            }
            // Decoding: the second half one at a time, with none to five neighbours.
            let alone = bits_after(&mut decoder, 0, &tokens, all / 2 + 1, all);
            for neighbours in 1..6 {
                let other = bits_after(&mut decoder, neighbours, &tokens, all / 2 + 1, all);
                assert_eq!(other, alone, "{name}: {length} tokens beside {neighbours}");
            }
        }
    }
}

#[test]
fn a_row_that_cannot_take_more_is_a_fault_and_not_a_write_beyond_it() {
    let mut decoder = decoder("random-fp32", 2, Padding::None);
    let mut ignore = |_: usize, _: &[f32]| {};
    decoder.prefill(0, &[7; 170], &mut ignore).unwrap();
    let fault = decoder.decode(&[7], &mut ignore).unwrap_err();
    assert_eq!(fault.spoiled, 0..1);
    decoder.cut(0, 0);
    decoder.prefill(0, &[7; 3], &mut ignore).unwrap();
}
