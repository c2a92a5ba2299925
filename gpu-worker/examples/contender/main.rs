//! Penstock's engine as a contender of `bench/run`: reads a list of requests in token ids, runs them through the
//! scheduler as the engine's own thread does, and prints one JSON object.
//!
//! usage: contender MODEL_DIR LIBRARY WORK.json SLOTS [--no-reuse] [--best-effort] [--exported-kernels]
//!
//! `SLOTS`: a number, or `auto` for as many as the engine finds best. `WORK.json`: `[{"prompt": [ids], "max_new": tokens, "at": seconds}, ..]`, in the order of `at`. No token ends an
//! answer before `max_new`. With `--no-reuse` every request belongs to another tenant, so that no prompt takes over what
//! another has computed.

#![allow(clippy::print_stdout, reason = "a tool that prints")]

mod drive;
mod usage;

use std::error::Error;
use std::num::NonZeroU32;
use std::path::PathBuf;

use penstock_gpu_worker::engine::Reproducibility;
use penstock_gpu_worker::engine::graph_bytes::reads_faster_in_single_precision;
use penstock_gpu_worker::engine::ort::Kernels;

use self::drive::{Call, Ran, Request, Setup, Tenants};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, library, work, slots, flags @ ..] = arguments.as_slice() else {
        return Err(
            "usage: contender MODEL_DIR LIBRARY WORK.json SLOTS [--no-reuse] [--best-effort] [--exported-kernels]"
                .into(),
        );
    };
    let mut setup = Setup {
        model: PathBuf::from(model),
        library: PathBuf::from(library),
        slots: if slots == "auto" { None } else { Some(slots.parse::<NonZeroU32>()?) },
        tenants: Tenants::One,
        reproducibility: Reproducibility::Exact,
        kernels: Kernels::Ours,
    };
    for flag in flags {
        match flag.as_str() {
            "--no-reuse" => setup.tenants = Tenants::OneEach,
            "--exported-kernels" => setup.kernels = Kernels::AsExported,
            "--best-effort" => setup.reproducibility = Reproducibility::BestEffort,
            other => return Err(format!("unknown flag {other}").into()),
        }
    }
    let requests: Vec<Request> = serde_json::from_str(&std::fs::read_to_string(work)?)?;
    let ran = drive::run(&setup, &requests)?;
    println!("{}", report(&ran));
    Ok(())
}

/// What all contenders print, and what only ours knows: the calls of the model, in order.
fn report(ran: &Ran) -> serde_json::Value {
    let calls: Vec<(&str, u32)> = ran
        .calls
        .iter()
        .map(|call| match *call {
            Call::Read { tokens } => ("read", tokens),
            Call::Decode { rows } => ("decode", rows),
        })
        .collect();
    serde_json::json!({
        "slots": ran.slots,
        "load_s": ran.load_s,
        "wall_s": ran.wall_s,
        "cpu_s": ran.cpu_s,
        "resident_bytes": ran.resident_bytes,
        "answers": ran.answers,
        "times": ran.times,
        "calls": calls,
        "reads_in_single_precision": reads_faster_in_single_precision(),
        "reused_tokens": ran.reused_tokens,
    })
}
