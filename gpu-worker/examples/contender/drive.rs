//! The scheduler, driven as the engine's thread drives it, against the clock.

use std::error::Error;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use penstock_gpu_worker::engine::answer::Answer;
use penstock_gpu_worker::engine::load::{Loaded, load};
use penstock_gpu_worker::engine::ort::Kernels;
use penstock_gpu_worker::engine::scheduler::Progress;
use penstock_gpu_worker::engine::task::Task;
use penstock_gpu_worker::engine::tokenizer::TextTokenizer;
use penstock_gpu_worker::engine::{EngineConfig, Reproducibility};
use penstock_policy::classes::Class;
use penstock_policy::id::{JobId, TenantId};
use penstock_policy::time::Timestamp;
use penstock_service::ports::{Sampling, TokenEvent};
use tokio::sync::mpsc;

use crate::usage::{cpu_seconds, resident_bytes};

/// Events of a sequence besides one per token.
const EVENTS_BESIDES_TOKENS: usize = 4;

/// What runs, and how.
pub(crate) struct Setup {
    pub(crate) model: PathBuf,
    pub(crate) library: PathBuf,
    /// `None`: as many as the engine finds best.
    pub(crate) slots: Option<NonZeroU32>,
    pub(crate) tenants: Tenants,
    pub(crate) reproducibility: Reproducibility,
    /// Whose attention computes.
    pub(crate) kernels: Kernels,
}

/// Whose the requests are.
#[derive(Clone, Copy)]
pub(crate) enum Tenants {
    /// One tenant's: what one prompt has computed others may take over.
    One,
    /// Each another's.
    OneEach,
}

/// A request of the work list.
#[derive(serde::Deserialize)]
pub(crate) struct Request {
    prompt: Vec<u32>,
    max_new: u32,
    /// Seconds after the start.
    at: f64,
}

/// A call of the model.
pub(crate) enum Call {
    /// A part of a prompt.
    Read { tokens: u32 },
    /// One token for each of so many rows.
    Decode { rows: u32 },
}

/// What happened.
pub(crate) struct Ran {
    pub(crate) slots: u32,
    pub(crate) load_s: f64,
    pub(crate) wall_s: f64,
    pub(crate) cpu_s: f64,
    /// With the model loaded, after the last token.
    pub(crate) resident_bytes: u64,
    pub(crate) answers: Vec<Vec<u32>>,
    /// Of each token: seconds since its request arrived.
    pub(crate) times: Vec<Vec<f64>>,
    pub(crate) calls: Vec<Call>,
    /// Prompt tokens that were taken over instead of computed.
    pub(crate) reused_tokens: u64,
}

struct Open {
    request: usize,
    events: mpsc::Receiver<TokenEvent>,
}

/// Loads the model as the engine does and runs all requests.
pub(crate) fn run(setup: &Setup, requests: &[Request]) -> Result<Ran, Box<dyn Error>> {
    let began = Instant::now();
    let longest = requests.iter().map(|request| request.prompt.len() + request.max_new as usize + 1).max();
    let config = EngineConfig {
        slots: setup.slots,
        max_context: NonZeroU32::new(u32::try_from(longest.unwrap_or(0))?),
        reproducibility: setup.reproducibility,
        kernels: setup.kernels,
        ..EngineConfig::new(&setup.model, &setup.library)
    };
    let tokenizer = TextTokenizer::from_file(&setup.model.join("tokenizer.json"))?;
    let Loaded { info, mut scheduler, .. } = load(&config)?;

    let mut ran = Ran {
        slots: info.slots,
        load_s: began.elapsed().as_secs_f64(),
        wall_s: 0.0,
        cpu_s: 0.0,
        resident_bytes: 0,
        answers: vec![Vec::new(); requests.len()],
        times: vec![Vec::new(); requests.len()],
        calls: Vec::new(),
        reused_tokens: 0,
    };
    let mut open: Vec<Open> = Vec::new();
    let mut arrivals = requests.iter().enumerate().peekable();
    let (cpu, start) = (cpu_seconds()?, Instant::now());
    loop {
        while let Some((number, request)) = arrivals.next_if(|(_, request)| request.at <= start.elapsed().as_secs_f64())
        {
            let (task, events) = task(setup.tenants, &tokenizer, number, request)?;
            scheduler.submit(task);
            open.push(Open { request: number, events });
        }
        match scheduler.step() {
            Progress::Decoded { rows } => ran.calls.push(Call::Decode { rows }),
            Progress::Read { tokens, reused } => {
                ran.calls.push(Call::Read { tokens });
                ran.reused_tokens += u64::from(reused);
            }
            Progress::Mixed { .. } => return Err("the models here keep a row for each sequence".into()),
            Progress::SetAside => return Err("a sequence was set aside, though each has memory of its own".into()),
            Progress::Preempted => return Err("a sequence was preempted, though all are of one class".into()),
            Progress::Idle => match arrivals.peek() {
                None => break,
                Some((_, next)) => {
                    std::thread::sleep(Duration::from_secs_f64(next.at).saturating_sub(start.elapsed()));
                }
            },
        }
        let now = start.elapsed().as_secs_f64();
        for Open { request, events } in &mut open {
            while let Ok(event) = events.try_recv() {
                match event {
                    TokenEvent::Tokens { ids, .. } => {
                        ran.times[*request].extend(ids.iter().map(|_| now - requests[*request].at));
                        ran.answers[*request].extend(ids);
                    }
                    TokenEvent::Started { .. } | TokenEvent::Finished { .. } => {}
                    TokenEvent::Failed(fault) => return Err(format!("request {request}: {fault}").into()),
                }
            }
        }
        open.retain(|open| !open.events.is_closed());
    }
    ran.wall_s = start.elapsed().as_secs_f64();
    ran.cpu_s = cpu_seconds()? - cpu;
    ran.resident_bytes = resident_bytes()?;
    drop(scheduler);
    Ok(ran)
}

/// A greedy sequence that only its length ends.
fn task(
    tenants: Tenants,
    tokenizer: &TextTokenizer,
    number: usize,
    request: &Request,
) -> Result<(Task, mpsc::Receiver<TokenEvent>), Box<dyn Error>> {
    let sampling = Sampling { temperature: 0.0, max_tokens: Some(request.max_new), ..Sampling::default() };
    let (events, stream) = mpsc::channel(request.max_new as usize + EVENTS_BESIDES_TOKENS);
    let tenant = match tenants {
        Tenants::One => "bench".to_owned(),
        Tenants::OneEach => format!("bench-{number}"),
    };
    let task = Task {
        job: JobId::new(Timestamp::from_millis(0), number as u128),
        tenant: TenantId::new(&tenant)?,
        class: Class::P1,
        prompt: request.prompt.clone(),
        replay: Vec::new(),
        answer: Answer::new(&sampling, tokenizer, [].into(), request.max_new),
        events,
        cached: 0,
        arrived: Instant::now(),
    };
    Ok((task, stream))
}
