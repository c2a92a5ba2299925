//! Models over blocks, as onnxruntime-genai's builder exports them for GPUs, run here with our own attention over blocks:
//! against the tokens that *transformers* gives on the same weights (`fixtures/paged/make.py`), against the same model over
//! rows, and against themselves in other company, other chunks, other blocks and other hands.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests stop at the first surprise")]

mod drive;
mod support;

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::PathBuf;

use drive::{Case, over_blocks, run, task, tokenizer};
use penstock_gpu_worker::engine::decoder::{ChosenTokens, Decoder, Growth, Logits, Part};
use penstock_gpu_worker::engine::load::LoadError;
use penstock_gpu_worker::engine::metrics::Metrics;
use penstock_gpu_worker::engine::ort::{Padding, PagedDecoder, Reading};
use penstock_gpu_worker::engine::scheduler::{Progress, Scheduler};
use penstock_gpu_worker::engine::{EngineConfig, OnnxEngine};
use penstock_policy::batch;
use penstock_policy::classes::Class;
use penstock_policy::paged::BLOCK_TOKENS;
use penstock_service::ports::{Engine, EngineFault, Sequence, TokenEvent};
use support::{Draws, fixture, library, read, sequence, start};
use tokio::sync::mpsc::Receiver;

/// Positions of the models: two and a half blocks.
const CAPACITY: usize = 640;

const GRAPHS: [&str; 3] = ["qwen2-blocks", "qwen2-blocks-fp32", "llama-blocks"];

fn expected() -> BTreeMap<String, Vec<Case>> {
    let text = std::fs::read_to_string(fixture("paged/expected.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The cases of a graph's family.
fn cases_of(graph: &str) -> Vec<Case> {
    expected().remove(graph.split('-').next().unwrap()).unwrap()
}

fn decoder(graph: &str, rows: usize, blocks: Option<usize>) -> PagedDecoder {
    over_blocks(&fixture("paged").join(graph), rows, CAPACITY, blocks)
}

fn assert_answers(answers: &[Vec<u32>], cases: &[Case], what: &str) {
    for (place, (answer, case)) in answers.iter().zip(cases).enumerate() {
        assert_eq!(answer, &case.answer, "{what}: case {place} of {} tokens", case.prompt.len());
    }
}

#[test]
fn answers_equal_another_program_s_in_any_number_of_rows_and_however_calls_are_packed() {
    for graph in GRAPHS {
        let cases = cases_of(graph);
        assert!(cases.len() >= 30);
        for (rows, budget, chunk) in [(1, 700, 700), (3, 90, 66), (8, 512, 300)] {
            let bounds = batch::Config::new(rows, budget, chunk, 3).unwrap();
            let ran = run(decoder(graph, rows as usize, None), &cases, bounds);
            assert_answers(&ran.answers, &cases, &format!("{graph}, {rows} rows, {budget} tokens a call"));
        }
    }
}

/// Tokens that are unlike those of another seed from the first on.
fn words(length: usize, seed: usize) -> Vec<u32> {
    (0..length).map(|place| u32::try_from(2 + (place * 37 + place * place * seed + seed * 11) % 250).unwrap()).collect()
}

/// The last logits of one call, by part, as bits.
fn called(decoder: &mut PagedDecoder, parts: &[(usize, &[u32])]) -> Vec<Vec<u32>> {
    let parts: Vec<Part<'_>> =
        parts.iter().map(|&(row, tokens)| Part { row, tokens, logits: Logits::Wanted }).collect();
    let mut bits = vec![Vec::new(); parts.len()];
    let keep = &mut |place: usize, logits: &[f32]| bits[place] = logits.iter().map(|number| number.to_bits()).collect();
    decoder.append(&parts, keep).unwrap();
    bits
}

#[test]
fn in_single_precision_logits_are_those_of_the_same_model_over_rows_to_the_last_bit() {
    let mut blocks = decoder("qwen2-blocks-fp32", 2, None);
    let folder = fixture("paged").join("qwen2-rows-fp32");
    // Rows for our attention are multiples of 16 tokens.
    let mut rows = drive::decoder(&folder, 2, CAPACITY, Padding::None, Reading::AsExported);
    for length in [1, 2, 16, 200, 255, 256, 257, 300, 511, 512, 513, 600] {
        let tokens = words(length, 3);
        let mut over_rows = Vec::new();
        let mut keep = |_: usize, logits: &[f32]| {
            over_rows.push(logits.iter().map(|number| number.to_bits()).collect::<Vec<u32>>());
        };
        rows.cut(0, 0);
        rows.prefill(0, &tokens, &mut keep).unwrap();
        (5..9).for_each(|token| rows.decode(&[token], &mut keep).unwrap());
        blocks.cut(0, 0);
        let mut over_blocks = called(&mut blocks, &[(0, &tokens)]);
        (5..9).for_each(|token| over_blocks.extend(called(&mut blocks, &[(0, &[token])])));
        assert!(over_blocks == over_rows, "{length} tokens");
    }
}

#[test]
fn logits_depend_on_the_row_s_own_tokens_to_the_last_bit() {
    for graph in GRAPHS {
        let mut decoder = decoder(graph, 6, None);
        for length in [1usize, 2, 17, 255, 256, 257, 400, 511, 512, 513] {
            let tokens = words(length, 1);
            let alone = called(&mut decoder, &[(0, &tokens)]).remove(0);
            decoder.cut(0, 0);
            // Read in chunks of any size, beside others that read and decode in the same call.
            for (row, chunk) in [(1, 255), (2, 256), (3, 257), (4, 100), (5, 33)] {
                let neighbours: Vec<usize> = (0..6).filter(|&other| other != row).collect();
                let mut last = Vec::new();
                for (number, part) in tokens.chunks(chunk).enumerate() {
                    let others: Vec<Vec<u32>> =
                        neighbours.iter().map(|&other| words(1 + other * number, other + 2)).collect();
                    let mut parts: Vec<(usize, &[u32])> =
                        neighbours.iter().zip(&others).map(|(&other, tokens)| (other, tokens.as_slice())).collect();
                    parts.insert(number % 6, (row, part));
                    last = called(&mut decoder, &parts).remove(number % 6);
                }
                assert!(last == alone, "{graph}: {length} tokens in row {row}, chunks of {chunk}");
                // Not in order: what comes next finds its blocks in another order.
                [3, 0, 5, 1, 4, 2].into_iter().for_each(|row| decoder.cut(row, 0));
            }
            // The last ones one at a time.
            for decoded in [1, 3].into_iter().filter(|&decoded| decoded < length) {
                let (read, rest) = tokens.split_at(length - decoded);
                called(&mut decoder, &[(2, read)]);
                let mut last = Vec::new();
                rest.iter().for_each(|token| last = called(&mut decoder, &[(0, &[9, 8]), (2, &[*token])]).remove(1));
                assert!(last == alone, "{graph}: {length} tokens, the last {decoded} decoded");
                (0..6).for_each(|row| decoder.cut(row, 0));
            }
        }
        assert!(decoder.reads_as_it_decodes());
        assert_eq!(decoder.free_blocks(), decoder.all_blocks());
    }
}

#[test]
fn rows_that_share_blocks_go_on_apart() {
    for graph in GRAPHS {
        let mut decoder = decoder(graph, 4, None);
        for shared in [1usize, 100, 255, 256, 257, 512, 520] {
            let common = words(530, 1);
            let tails = [words(20, 2), words(20, 3), words(20, 4)];
            let alone: Vec<Vec<u32>> = tails
                .iter()
                .map(|tail| {
                    let whole = [&common[..shared], tail].concat();
                    let bits = called(&mut decoder, &[(0, &whole)]).remove(0);
                    decoder.cut(0, 0);
                    bits
                })
                .collect();
            called(&mut decoder, &[(0, &common)]);
            let free = decoder.free_blocks();
            decoder.copy_row(0, 1, shared);
            decoder.copy_row(0, 2, shared);
            assert_eq!(decoder.free_blocks(), free, "sharing takes no block");
            decoder.swap_rows(2, 3);
            decoder.cut(0, shared);
            let parts = [(0, &tails[0][..]), (1, &tails[1]), (3, &tails[2])];
            assert!(called(&mut decoder, &parts) == alone, "{graph}: {shared} tokens shared by three");
            let full = shared / BLOCK_TOKENS;
            let apart = (shared + 20).div_ceil(BLOCK_TOKENS) - full;
            assert_eq!(decoder.all_blocks() - decoder.free_blocks(), full + 3 * apart, "{graph}: {shared} shared");
            (0..4).for_each(|row| decoder.cut(row, 0));
            assert_eq!(decoder.free_blocks(), decoder.all_blocks());
        }
    }
}

#[test]
fn prompts_that_begin_with_what_a_row_holds_compute_the_rest_only() {
    for graph in GRAPHS {
        let cases = cases_of(graph);
        // Every case twice, then once more with half of its answer in the prompt.
        let resumed = cases.iter().map(|case| {
            let (said, rest) = case.answer.split_at(case.answer.len() / 2);
            Case { prompt: [&case.prompt[..], said].concat(), answer: rest.to_vec() }
        });
        let again: Vec<Case> = cases.iter().chain(&cases).cloned().chain(resumed).collect();
        let bounds = batch::Config::new(24, 700, 700, 3).unwrap();
        let ran = run(decoder(graph, 24, None), &again, bounds);
        assert_answers(&ran.answers, &again, graph);
        let prompts: usize = again.iter().map(|case| case.prompt.len()).sum();
        assert!(ran.cached as usize > prompts / 2, "{graph}: {} of {prompts} prompt tokens reused", ran.cached);
    }
}

#[test]
fn a_row_that_cannot_take_more_and_a_pool_that_is_used_up_are_faults_that_touch_nothing() {
    let mut decoder = decoder("qwen2-blocks", 3, Some(3));
    let mut ignore = |_: usize, _: &[f32]| {};
    assert_eq!((decoder.all_blocks(), decoder.tokens_each(3), decoder.tokens_each(1)), (3, 256, CAPACITY));
    let long = words(CAPACITY, 1);
    let whole = called(&mut decoder, &[(0, &long[..300])]).remove(0);
    decoder.cut(0, 0);
    assert!(decoder.prefill(1, &words(CAPACITY + 1, 1), &mut ignore).is_err());
    called(&mut decoder, &[(0, &long[..299]), (1, &long[..5])]);
    let growth = [Growth { row: Some(2), tokens: 200 }];
    assert_eq!(decoder.give_up(&growth, &[1, 0]), Ok(1));
    let parts = [
        Part { row: 0, tokens: &long[299..300], logits: Logits::Wanted },
        Part { row: 2, tokens: &long[..200], logits: Logits::Wanted },
    ];
    let fault = decoder.append(&parts, &mut ignore).unwrap_err();
    assert!(fault.what.contains("lacks 1 blocks"), "{fault}");
    decoder.cut(1, 0);
    assert_eq!(called(&mut decoder, &[(0, &long[299..300])]).remove(0), whole, "as if that call had not been");
    (0..3).for_each(|row| decoder.cut(row, 0));
    assert_eq!(decoder.free_blocks(), 3);
}

/// A request under way.
struct Open {
    case: Case,
    class: Class,
    so_far: Vec<u32>,
    stream: Receiver<TokenEvent>,
    /// Steps until its client goes.
    patience: Option<u64>,
}

/// `PENSTOCK_SOAK` sets the number of requests.
#[test]
fn many_requests_in_scarce_memory_get_their_answers_and_leave_every_block_free() {
    let requests: usize = std::env::var("PENSTOCK_SOAK").ok().map_or(400, |number| number.parse().unwrap());
    let tokenizer = tokenizer();
    for (graph, chosen) in [("qwen2-blocks", ChosenTokens::LikeRead), ("llama-blocks", ChosenTokens::Apart)] {
        let cases = cases_of(graph);
        let mut draws = Draws(11);
        // A third of what eight rows could fill.
        let decoder = decoder(graph, 8, Some(8));
        let mut scheduler = Scheduler::new(decoder, batch::Config::new(8, 200, 150, 3).unwrap(), chosen);
        let (mut open, mut begun) = (Vec::<Open>::new(), 0);
        let (mut good, mut preempted, mut set_aside, mut gone) = (0, 0, 0, 0);
        while begun < requests || !open.is_empty() {
            while begun < requests && open.len() < 10 {
                let case = cases[usize::try_from(draws.below(cases.len() as u64)).unwrap()].clone();
                let class = Class::ALL[usize::try_from(draws.below(4)).unwrap()];
                let (mut task, stream) = task(begun as u128, &case, &tokenizer);
                task.class = class;
                scheduler.submit(task);
                let patience = (draws.below(12) == 0).then(|| draws.below(30));
                open.push(Open { case, class, so_far: Vec::new(), stream, patience });
                begun += 1;
            }
            match scheduler.step() {
                Progress::SetAside => set_aside += 1,
                Progress::Preempted => preempted += 1,
                Progress::Idle | Progress::Read { .. } | Progress::Decoded { .. } | Progress::Mixed { .. } => {}
            }
            open.retain_mut(|open| {
                if let Some(patience) = &mut open.patience {
                    if *patience == 0 {
                        gone += 1;
                        return false;
                    }
                    *patience -= 1;
                }
                while let Ok(event) = open.stream.try_recv() {
                    match event {
                        TokenEvent::Tokens { ids, .. } => open.so_far.extend(ids),
                        TokenEvent::Finished { .. } => {
                            assert_eq!(open.so_far, open.case.answer);
                            good += 1;
                            return false;
                        }
                        TokenEvent::Failed(EngineFault::Preempted) => {
                            // The next worker goes on with it, and it is this one.
                            assert_eq!(open.class, Class::P3);
                            let (mut task, stream) = task(7, &open.case, &tokenizer);
                            task.class = Class::P3;
                            task.answer.inherit(&open.so_far, 0).unwrap();
                            match chosen {
                                ChosenTokens::LikeRead => task.prompt.extend(&open.so_far),
                                ChosenTokens::Apart => task.replay.clone_from(&open.so_far),
                            }
                            scheduler.submit(task);
                            open.stream = stream;
                        }
                        other @ (TokenEvent::Started { .. } | TokenEvent::Failed(_)) => panic!("{other:?}"),
                    }
                }
                true
            });
        }
        println!(
            "{graph}: {requests} requests, {good} answered, {preempted} preempted, {set_aside} set aside, {gone} abandoned"
        );
        assert!(good > requests / 2 && preempted > 0 && gone > 0, "{good}, {preempted}, {gone}");
        let mut decoder = scheduler.into_decoder();
        (0..decoder.slots()).for_each(|row| decoder.cut(row, 0));
        assert_eq!(decoder.free_blocks(), decoder.all_blocks());
    }
}

/// A model folder around a graph over blocks, with tokens that are bytes.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("penstock-paged-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        support::bytes::write_around(&folder, "qwen2-blocks");
        Self(folder)
    }

    fn config(&self) -> EngineConfig {
        EngineConfig::new(&self.0, library())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn asked(number: usize) -> Sequence {
    let mut asked = sequence(&"What does the weir hold? ".repeat(number * 3 % 20).replace("What", &number.to_string()));
    asked.generation.sampling.max_tokens = Some(50);
    if number % 2 == 1 {
        let sampling = &mut asked.generation.sampling;
        (sampling.temperature, sampling.seed) = (1.2, number as u64);
    }
    asked
}

#[test]
fn an_engine_sees_from_the_graph_that_its_cache_is_in_blocks() {
    let folder = Folder::new("engine");
    let metrics = Metrics::new();
    let engine = OnnxEngine::load_recorded(&folder.config(), metrics.recorder("m", "w")).unwrap();
    assert_eq!(engine.info().context_length, 640);
    let alone: Vec<_> = (0..12).map(|number| read(start(&engine, asked(number)))).collect();
    let streams: Vec<_> = (0..12).map(|number| start(&engine, asked(number))).collect();
    let together: Vec<_> = streams.into_iter().map(read).collect();
    assert_eq!(together, alone);
    // An answer changes hands after any number of tokens, and both workers have the same kind of cache.
    let other = OnnxEngine::load(&EngineConfig { slots: NonZeroU32::new(2), ..folder.config() }).unwrap();
    for (number, whole) in alone.iter().enumerate() {
        let cut = whole.ids.len() * (number + 1) / 13;
        let inherited = Sequence { resume_ids: whole.ids[..cut].to_vec(), ..asked(number) };
        let rest = read(start(&other, inherited));
        assert_eq!((&rest.ids[..], &rest.text), (&whole.ids[cut..], &whole.text), "cut after {cut}");
    }
    let text = metrics.text();
    assert!(text.contains("kind=\"mixed\"") && text.contains("prompt_tokens_reused"), "{text}");
}

#[test]
fn attention_that_ours_cannot_do_is_refused_when_the_model_is_loaded() {
    let folder = Folder::new("softcap");
    let graph = folder.0.join("model.onnx");
    let mut bytes = std::fs::read(&graph).unwrap();
    let attribute = b"\x07softcap\x15";
    let at = bytes.windows(attribute.len()).position(|window| window == attribute).unwrap() + attribute.len();
    bytes[at..at + 4].copy_from_slice(&30.0f32.to_le_bytes());
    std::fs::write(&graph, bytes).unwrap();
    let error = OnnxEngine::load(&folder.config()).map(drop).unwrap_err();
    assert!(matches!(error, LoadError::Graph { .. }) && error.to_string().contains("softcap"), "{error}");
}

#[test]
fn a_configuration_of_another_graph_is_refused_by_name() {
    let folder = Folder::new("names");
    let path = folder.0.join("genai_config.json");
    let text = std::fs::read_to_string(&path).unwrap();
    for (from, to, told) in [
        ("\"past_sequence_lengths\": \"past_sequence_lengths\"", "\"past_sequence_lengths\": \"lengths\"", "`lengths`"),
        ("\"head_size\": 16", "\"head_size\": 32", "head_size"),
        ("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3", "num_hidden_layers"),
    ] {
        assert!(text.contains(from), "{from}");
        std::fs::write(&path, text.replace(from, to)).unwrap();
        let error = OnnxEngine::load(&folder.config()).map(drop).unwrap_err();
        assert!(matches!(error, LoadError::Graph { .. }) && error.to_string().contains(told), "{error}");
    }
}
