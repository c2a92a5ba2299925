//! Measures a model folder: time to load, tokens a second with all slots busy, and requests through the whole engine.
//!
//! usage: measure MODEL_DIR LIBRARY PROMPT [SLOTS,SLOTS,..]
//!
//! For each number of slots: the engine is loaded, then runs 400 greedy requests with that prompt, as many at a time as
//! it has slots.

#![allow(clippy::print_stdout, reason = "a tool that prints")]

use std::collections::VecDeque;
use std::error::Error;
use std::num::NonZeroU32;
use std::time::Instant;

use penstock_gpu_worker::engine::{EngineConfig, OnnxEngine};
use penstock_policy::classes::Class;
use penstock_policy::id::{JobId, TenantId};
use penstock_policy::time::Timestamp;
use penstock_service::ports::{Engine, Generation, Sampling, Sequence, TokenEvent, TokenStream};
use penstock_wire::chat::Message;

const REQUESTS: u32 = 400;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, folder, library, prompt, rest @ ..] = arguments.as_slice() else {
        return Err("usage: measure MODEL_DIR LIBRARY PROMPT [SLOTS,SLOTS,..]".into());
    };
    let slots = rest.first().map_or("1,8,16", String::as_str);
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let tenant = TenantId::new("measure")?;
    for slots in slots.split(',') {
        let slots: NonZeroU32 = slots.parse()?;
        let began = Instant::now();
        let engine = OnnxEngine::load(&EngineConfig { slots: Some(slots), ..EngineConfig::new(folder, library) })?;
        let loaded = began.elapsed();
        let began = Instant::now();
        let tokens = runtime.block_on(run(&engine, &tenant, prompt, slots.get() as usize));
        let seconds = began.elapsed().as_secs_f64();
        println!(
            "{slots:>2} slots: loaded in {loaded:.2?}, {:.0} tokens/s when all slots decode; {REQUESTS} requests: {:.0} \
             requests/s, {:.0} answer tokens/s",
            engine.info().tokens_per_second,
            f64::from(REQUESTS) / seconds,
            f64::from(tokens) / seconds,
        );
    }
    Ok(())
}

/// Runs all requests, `slots` at a time, and gives the tokens of all answers.
async fn run(engine: &OnnxEngine, tenant: &TenantId, prompt: &str, slots: usize) -> u32 {
    let mut open: VecDeque<TokenStream> = VecDeque::new();
    let mut tokens = 0;
    for _ in 0..REQUESTS {
        if open.len() == slots
            && let Some(oldest) = open.pop_front()
        {
            tokens += finish(oldest).await;
        }
        open.push_back(engine.start(sequence(tenant, prompt)).await);
    }
    for stream in open {
        tokens += finish(stream).await;
    }
    tokens
}

async fn finish(mut stream: TokenStream) -> u32 {
    while let Some(event) = stream.recv().await {
        if let TokenEvent::Finished { completion_tokens, .. } = event {
            return completion_tokens;
        }
    }
    0
}

fn sequence(tenant: &TenantId, prompt: &str) -> Sequence {
    let message = Message::new("user", prompt);
    let sampling = Sampling { max_tokens: Some(128), ..Sampling::default() };
    Sequence {
        job: JobId::new(Timestamp::from_millis(0), 0),
        tenant: tenant.clone(),
        class: Class::P1,
        generation: Generation {
            messages: vec![message],
            sampling,
            date: "2026-01-01".into(),
            ..Generation::default()
        },
        choice: 0,
        resume_ids: Vec::new(),
        resume_bytes: 0,
    }
}
