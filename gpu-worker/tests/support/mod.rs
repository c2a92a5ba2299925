//! What the engine's tests share: where the library and the fixtures are, sequences, and reading a stream to its end.
//!
//! ONNX Runtime's library is named by `PENSTOCK_ORT`. Without it these tests fail rather than pass without having run.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test binary uses a part of its own")]

pub mod bytes;

use std::num::NonZeroU32;
use std::path::PathBuf;

use penstock_gpu_worker::engine::{EngineConfig, OnnxEngine};
use penstock_policy::classes::Class;
use penstock_policy::id::{JobId, TenantId};
use penstock_policy::time::Timestamp;
use penstock_service::ports::{
    Engine, EngineFault, FinishReason, Generation, Part, Sampling, Sequence, TokenEvent, TokenLogprob, TokenStream,
};
use penstock_wire::chat::Message;

/// The library that the environment names.
pub fn library() -> PathBuf {
    let path = std::env::var_os("PENSTOCK_ORT").map(PathBuf::from).expect(
        "PENSTOCK_ORT must name ONNX Runtime's shared library, 1.24 or newer (onnxruntime/capi/libonnxruntime.so.* of \
         the Python wheel)",
    );
    assert!(path.exists(), "PENSTOCK_ORT names {}, which does not exist", path.display());
    path
}

pub fn fixture(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "fixtures", name].iter().collect()
}

/// The task model with so many slots.
pub fn config(slots: u32) -> EngineConfig {
    EngineConfig { slots: NonZeroU32::new(slots), ..EngineConfig::new(fixture("task-int4"), library()) }
}

pub fn engine(slots: u32) -> OnnxEngine {
    OnnxEngine::load(&config(slots)).unwrap()
}

/// A greedy sequence with one user message.
pub fn sequence(prompt: &str) -> Sequence {
    Sequence {
        job: JobId::new(Timestamp::from_millis(0), 7),
        tenant: TenantId::new("tester").unwrap(),
        class: Class::P1,
        generation: Generation {
            v: 1,
            messages: vec![Message::new("user", prompt)],
            sampling: Sampling::default(),
            date: "2026-11-21".into(),
            ..Generation::default()
        },
        choice: 0,
        resume_ids: Vec::new(),
        resume_bytes: 0,
    }
}

/// A stream that was read to its end.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reply {
    pub prompt_tokens: u32,
    pub ids: Vec<u32>,
    pub text: String,
    /// The same by channel.
    pub parts: Vec<Part>,
    pub logprobs: Vec<TokenLogprob>,
    pub reasoning_tokens: u32,
    /// How many bytes of text there were after each id.
    pub shown_after: Vec<usize>,
    pub end: Option<Result<(FinishReason, u32), EngineFault>>,
}

impl Reply {
    fn hear(&mut self, parts: &[Part]) {
        for part in parts {
            match part {
                Part::Content(text) | Part::Reasoning(text) => self.text += text,
                Part::Call { name, arguments } => self.text.extend([name.as_str(), arguments]),
                Part::Vectors(_) => {}
            }
            Part::append(&mut self.parts, part.clone());
        }
    }

    pub fn fault(&self) -> &EngineFault {
        self.end.as_ref().unwrap().as_ref().unwrap_err()
    }
}

pub fn start(engine: &OnnxEngine, sequence: Sequence) -> TokenStream {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(engine.start(sequence))
}

/// Reads a stream to its end and checks the order of its events.
pub fn read(mut stream: TokenStream) -> Reply {
    let mut reply = Reply::default();
    let mut started = false;
    while let Some(event) = stream.blocking_recv() {
        assert!(reply.end.is_none(), "an event after the end: {event:?}");
        match event {
            TokenEvent::Started { prompt_tokens } => {
                assert!(!started && reply.ids.is_empty());
                started = true;
                reply.prompt_tokens = prompt_tokens;
            }
            TokenEvent::Tokens { ids, parts, logprobs } => {
                assert!(started);
                reply.hear(&parts);
                reply.logprobs.extend(logprobs);
                reply.shown_after.extend(ids.iter().map(|_| reply.text.len()));
                reply.ids.extend(ids);
            }
            TokenEvent::Finished { reason, completion_tokens, reasoning_tokens, .. } => {
                assert!(started);
                reply.reasoning_tokens = reasoning_tokens;
                reply.end = Some(Ok((reason, completion_tokens)));
            }
            TokenEvent::Failed(fault) => reply.end = Some(Err(fault)),
        }
    }
    assert!(reply.end.is_some(), "the stream ended without a word");
    reply
}

pub fn ask(engine: &OnnxEngine, prompt: &str) -> Reply {
    read(start(engine, sequence(prompt)))
}

/// Starts all prompts at once and reads all streams.
pub fn ask_all(engine: &OnnxEngine, prompts: &[String]) -> Vec<Reply> {
    let streams: Vec<_> = prompts.iter().map(|prompt| start(engine, sequence(prompt))).collect();
    streams.into_iter().map(read).collect()
}

/// Numbers that look random and are the same in every run.
pub struct Draws(pub u64);

impl Draws {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    /// A task the model was trained on, and its answer.
    pub fn task(&mut self) -> (String, String) {
        let length = 1 + self.below(10);
        let digits: String = (0..length).map(|_| char::from(b'0' + u8::try_from(self.below(10)).unwrap())).collect();
        match self.below(3) {
            0 => (format!("C:{digits}="), digits),
            1 => (format!("R:{digits}="), digits.chars().rev().collect()),
            _ => {
                let mut sorted: Vec<char> = digits.chars().collect();
                sorted.sort_unstable();
                (format!("S:{digits}="), sorted.into_iter().collect())
            }
        }
    }
}
