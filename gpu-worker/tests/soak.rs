//! Many requests of every shape through one engine: resident memory stays flat and no slot is lost.
//!
//! `PENSTOCK_SOAK` sets the number of requests; the figures in SPECIFICATION.md are of 100,000 in a release build.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests stop at the first surprise")]

mod support;

use std::collections::VecDeque;

use penstock_gpu_worker::engine::OnnxEngine;
use penstock_gpu_worker::engine::metrics::Metrics;
use penstock_policy::classes::Class;
use penstock_policy::id::TenantId;
use penstock_service::ports::{Engine, EngineFault, Sampling, Sequence, TokenStream};
use support::{Draws, config, read, sequence, start};

const SLOTS: u32 = 12;

/// The resident memory of this process, in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}

/// Prompts of one to four hundred tokens, of four tenants and all classes, some begun alike, some abandoned, some bad.
fn request(draws: &mut Draws) -> Sequence {
    let (task, _) = draws.task();
    let filler = "C:9876543210=".repeat(usize::try_from(draws.below(9).pow(2) / 2).unwrap());
    let mut sequence = sequence(&format!("{filler}{task}"));
    if draws.below(50) == 0 {
        sequence = support::sequence(&"C:1=".repeat(400));
    }
    sequence.tenant = TenantId::new(&format!("t{}", draws.below(4))).unwrap();
    sequence.class = Class::ALL[usize::try_from(draws.below(4)).unwrap()];
    sequence.generation.sampling = Sampling {
        temperature: if draws.below(2) == 0 { 0.0 } else { 1.0 },
        seed: draws.below(1 << 40),
        max_tokens: Some(u32::try_from(1 + draws.below(24)).unwrap()),
        ..Sampling::default()
    };
    sequence
}

#[test]
fn memory_stays_flat_and_no_slot_is_lost() {
    let requests: usize = std::env::var("PENSTOCK_SOAK").ok().map_or(2_000, |number| number.parse().unwrap());
    let mut draws = Draws(7);
    let metrics = Metrics::new();
    let engine = OnnxEngine::load_recorded(&config(SLOTS), metrics.recorder("task", "soak")).unwrap();
    let mut open: VecDeque<TokenStream> = VecDeque::new();
    let (mut good, mut preempted, mut refused, mut abandoned) = (0usize, 0usize, 0usize, 0usize);
    let mut after_a_quarter = 0;
    for number in 0..requests {
        if number == requests / 4 {
            after_a_quarter = resident();
        }
        if open.len() >= SLOTS as usize + 4 {
            let reply = read(open.pop_front().unwrap());
            match reply.end.as_ref().unwrap() {
                Ok((_, tokens)) => {
                    assert_eq!(*tokens as usize, reply.ids.len());
                    good += 1;
                }
                Err(EngineFault::Preempted) => preempted += 1,
                Err(EngineFault::BadRequest { code, .. }) => {
                    assert_eq!(code, "context_length_exceeded");
                    refused += 1;
                }
                Err(fault) => panic!("{fault:?}"),
            }
        }
        let stream = start(&engine, request(&mut draws));
        if draws.below(20) == 0 {
            drop(stream);
            abandoned += 1;
        } else {
            open.push_back(stream);
        }
    }
    open.into_iter().for_each(|stream| drop(read(stream)));
    let at_the_end = resident();
    // All slots at once once more: none was lost on the way.
    let last: Vec<TokenStream> = (0..SLOTS).map(|_| start(&engine, sequence("R:38291="))).collect();
    for stream in last {
        assert_eq!(read(stream).text, "19283");
    }
    // The numbers of a step follow its answers.
    let none_busy = || metrics.text().contains("penstock_engine_slots_busy{model=\"task\",worker=\"soak\"} 0\n");
    assert!((0..1_000_000).any(|_| none_busy()), "{}", metrics.text());
    assert!(engine.is_alive() && good > requests / 2 && refused > 0 && preempted > 0 && abandoned > 0);
    let grown = at_the_end.saturating_sub(after_a_quarter);
    println!(
        "{requests} requests: {good} answered, {preempted} preempted, {refused} refused, {abandoned} abandoned; resident \
         {after_a_quarter} KiB after a quarter, {at_the_end} KiB at the end"
    );
    assert!(grown < 8 * 1024, "{grown} KiB more than after a quarter");
}
