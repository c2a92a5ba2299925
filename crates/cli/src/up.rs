//! `penstock up`.

use std::io::Write;
use std::path::PathBuf;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use penstock_service::config::Traces;
use penstock_service::tokens::issuer::IssuerConfig;
use penstock_sqlite::Durability;
use tokio::signal::unix::{SignalKind, signal};

use crate::command::Up;
use crate::embedded::{Data, Embedded, Plan};
use crate::error::CliError;
use crate::instructions::instructions;
use crate::local_fleet::Autoscale;
use crate::{paths, ready};

/// Starts everything, says how to use it, and runs until it is asked to stop.
pub(crate) async fn run(args: Up) -> Result<(), CliError> {
    raise_open_files();
    // Listened for from the beginning, so that a stop during the start is a stop too.
    let mut interrupt = signal(SignalKind::interrupt()).map_err(CliError::Signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(CliError::Signals)?;
    let folder: Option<PathBuf> = match (args.ephemeral, args.data) {
        (true, _) => None,
        (false, Some(folder)) => Some(folder),
        (false, None) => Some(paths::data()?),
    };
    let durability = if args.fsync { Durability::Power } else { Durability::Process };
    let data = match &folder {
        Some(path) => Data::Folder { path: path.clone(), durability },
        None => Data::Memory,
    };
    let prepared = match &args.prepared {
        Some(path) => {
            Some(std::fs::read_to_string(path).map_err(CliError::file("reading the prepared questions", path))?)
        }
        None => None,
    };
    let traces = args.otlp.map(|endpoint| Traces { endpoint, share: args.trace_share });
    let issuers = match &args.issuers {
        Some(path) => IssuerConfig::list(&std::fs::read_to_string(path).map_err(CliError::file("reading", path))?)?,
        None => Vec::new(),
    };
    let plan = Plan {
        engine: args.engine,
        upstream: args.upstream,
        issuers,
        workers: args.workers,
        autoscale: args.autoscale.map(|range| Autoscale { range, calm: args.calm }),
        port: args.port,
        data,
        traces,
    };
    let starting = Embedded::start(plan, crate::progress);
    let embedded = tokio::select! {
        biased;
        _ = interrupt.recv() => return Ok(()),
        _ = terminate.recv() => return Ok(()),
        embedded = starting => embedded?,
    };
    let files: Vec<PathBuf> = folder.as_deref().map(ready::in_folder).into_iter().chain(args.ready_file).collect();
    for file in &files {
        embedded.ready.write(file)?;
    }
    say(&instructions(&embedded.ready, embedded.has_workers, embedded.first_kind));
    let asked = tokio::select! {
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
        () = embedded.keep_house() => Ok(()),
        () = embedded.keep_prepared(prepared.as_deref(), crate::progress) => Ok(()),
    };
    eprintln!(
        "penstock: stopping; what waits stays queued{}",
        if folder.is_some() { "" } else { " until now: nothing is kept" }
    );
    for file in &files {
        // Gone already is as good.
        let _ = std::fs::remove_file(file);
    }
    embedded.stop().await;
    asked
}

/// Lets this process hold as many connections as the system allows it: a soft limit of 1,024 files is usual, and each
/// client that waits takes one. What is refused here is met later, as a connection that is not accepted.
fn raise_open_files() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!(%error, soft, "cannot raise the limit of open files");
    }
}

/// Prints to standard output, which may be closed.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}
