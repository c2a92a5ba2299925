//! The `penstock` command.

mod ask;
mod batch;
mod batch_command;
mod breaker;
mod command;
mod desk;
mod embedded;
mod error;
mod explain;
mod fleet;
mod instructions;
mod local_fleet;
mod models;
mod onnx_runtime;
mod paths;
mod ready;
mod simulate;
mod simulate_command;
mod staff;
mod tenant;
mod tenant_command;
mod up;
mod upstream;

use std::process::ExitCode;

use clap::Parser;

use command::{Ask, Cli, Command, Up};
use penstock_gpu_worker::engine::device;

/// Says what takes time, or what has been done.
fn progress(line: &str) {
    eprintln!("penstock: {line}");
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("PENSTOCK_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let device = match &cli.command {
        Command::Up(Up { engine, .. }) | Command::Ask(Ask { engine, .. }) => Some(&engine.device),
        Command::Model(command) => command.device(),
        Command::Batch(_)
        | Command::Tenant(_)
        | Command::Explain(_)
        | Command::Breaker(_)
        | Command::Fleet(_)
        | Command::Simulate(_) => None,
    };
    if let Some(device) = device
        && let Err(error) = device::show(device, std::env::var_os("CUDA_VISIBLE_DEVICES").as_deref())
    {
        eprintln!("penstock: cannot start anew with {} alone in sight: {error}", device);
        return ExitCode::FAILURE;
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("penstock: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = match cli.command {
        Command::Up(args) => runtime.block_on(up::run(args)),
        Command::Ask(args) => runtime.block_on(ask::run(args)),
        Command::Batch(args) => runtime.block_on(batch::run(args)),
        Command::Model(args) => runtime.block_on(models::run(args)),
        Command::Tenant(args) => runtime.block_on(tenant::run(args)),
        Command::Explain(args) => runtime.block_on(explain::run(args)),
        Command::Breaker(args) => runtime.block_on(breaker::run(args)),
        Command::Fleet(args) => runtime.block_on(fleet::run(args)),
        Command::Simulate(what) => simulate::run(&what),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("penstock: {error}");
            ExitCode::FAILURE
        }
    }
}
