//! Drives the decoder and the scheduler with lists of token ids, without a tokenizer's or a template's part in it.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test binary uses a part of its own")]

use std::path::Path;
use std::time::Instant;

use penstock_gpu_worker::engine::answer::Answer;
use penstock_gpu_worker::engine::decoder::{ChosenTokens, Decoder};
use penstock_gpu_worker::engine::device::Device;
use penstock_gpu_worker::engine::memory::Shortage;
use penstock_gpu_worker::engine::model::ModelConfig;
use penstock_gpu_worker::engine::ort::{
    Kernels, Padding, PagedDecoder, PagedOptions, Reading, SlotDecoder, SlotOptions, environment,
};
use penstock_gpu_worker::engine::scheduler::{Progress, Scheduler};
use penstock_gpu_worker::engine::task::Task;
use penstock_gpu_worker::engine::tokenizer::TextTokenizer;
use penstock_policy::batch;
use penstock_policy::classes::Class;
use penstock_policy::id::JobId;
use penstock_policy::time::Timestamp;
use penstock_service::ports::TokenEvent;
use tokio::sync::mpsc;

use crate::support::{fixture, library, sequence};

/// A prompt, and what another program answers to it greedily.
#[derive(Clone, Debug, serde::Deserialize)]
pub struct Case {
    pub prompt: Vec<u32>,
    pub answer: Vec<u32>,
}

/// The model in `folder`, with rows of `capacity` tokens.
pub fn decoder(folder: &Path, slots: usize, capacity: usize, padding: Padding, reading: Reading) -> SlotDecoder {
    let path = folder.join("genai_config.json");
    let config = ModelConfig::parse(&std::fs::read_to_string(&path).unwrap(), &path).unwrap();
    let options = SlotOptions {
        slots,
        on_shortage: Shortage::Refuse,
        capacity,
        threads: 1,
        padding,
        device: Device::Cpu,
        reading,
        kernels: Kernels::Ours,
    };
    let environment = environment(&library()).unwrap();
    SlotDecoder::load(&environment, &folder.join(&config.filename), &config, options).unwrap()
}

/// The answers to prompts that were submitted together.
pub struct Ran {
    /// In the order of the prompts.
    pub answers: Vec<Vec<u32>>,
    /// Prompt tokens that were not computed.
    pub cached: u32,
}

/// The same of a graph over blocks, of so many or of as many as all rows could need.
pub fn over_blocks(folder: &Path, rows: usize, capacity: usize, blocks: Option<usize>) -> PagedDecoder {
    let path = folder.join("genai_config.json");
    let config = ModelConfig::parse(&std::fs::read_to_string(&path).unwrap(), &path).unwrap();
    let options = PagedOptions { rows, blocks, capacity, threads: 1, device: Device::Cpu };
    let environment = environment(&library()).unwrap();
    PagedDecoder::load(&environment, &folder.join(&config.filename), &config, options).unwrap()
}

/// A task of the tester's that answers a case, which no token ends before its length.
pub fn task(number: u128, case: &Case, tokenizer: &TextTokenizer) -> (Task, mpsc::Receiver<TokenEvent>) {
    let limit = u32::try_from(case.answer.len()).unwrap();
    let (events, stream) = mpsc::channel(case.answer.len() + 4);
    let sampling = sequence("").generation.sampling;
    let task = Task {
        job: JobId::new(Timestamp::from_millis(0), number),
        tenant: sequence("").tenant,
        class: Class::P1,
        prompt: case.prompt.clone(),
        replay: Vec::new(),
        answer: Answer::new(&sampling, tokenizer, [].into(), limit),
        events,
        cached: 0,
        arrived: Instant::now(),
    };
    (task, stream)
}

/// A tokenizer for tasks that are given as ids.
pub fn tokenizer() -> TextTokenizer {
    TextTokenizer::from_file(&fixture("task-int4").join("tokenizer.json")).unwrap()
}

/// Submits all prompts of one tenant at once and gives the answers, each as long as expected. No token ends an answer.
pub fn run(decoder: impl Decoder, cases: &[Case], bounds: batch::Config) -> Ran {
    let tokenizer = tokenizer();
    let mut scheduler = Scheduler::new(decoder, bounds, ChosenTokens::Apart);
    let mut streams = Vec::new();
    for (number, case) in (0..).zip(cases) {
        let (task, stream) = task(number, case, &tokenizer);
        scheduler.submit(task);
        streams.push(stream);
    }
    while scheduler.step() != Progress::Idle {}
    let mut ran = Ran { answers: Vec::new(), cached: 0 };
    for mut stream in streams {
        let mut answer = Vec::new();
        while let Ok(event) = stream.try_recv() {
            match event {
                TokenEvent::Tokens { ids, .. } => answer.extend(ids),
                TokenEvent::Finished { cached_tokens, .. } => ran.cached += cached_tokens,
                TokenEvent::Started { .. } => {}
                TokenEvent::Failed(fault) => panic!("{fault:?}"),
            }
        }
        ran.answers.push(answer);
    }
    ran
}
