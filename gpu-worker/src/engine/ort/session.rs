//! Opens a graph as a session on a device, and describes its inputs and outputs as plain data.

use std::path::Path;
use std::sync::Arc;

use ort::environment::Environment;
use ort::ep::{ArenaExtendStrategy, CUDA};
use ort::session::{NoSelectedOutputs, RunOptions, Session};
use ort::value::{Outlet, TensorElementType, ValueType};

use super::error::DriverError;
use super::operator;
use crate::engine::decoder::Cancel;
use crate::engine::device::Device;
use crate::engine::graph::{Element, Graph, Port};
use crate::engine::graph_bytes::{self, Attention};

/// Where a graph comes from.
#[derive(Clone, Copy, Debug)]
pub enum Source<'g> {
    /// A file.
    File(&'g Path),
    /// A file's contents, changed; our operators are known to it.
    Edited {
        /// The contents.
        bytes: &'g [u8],
        /// Where the file lay and its weights lie.
        folder: &'g Path,
    },
}

/// Opens a graph on `device`, with `threads` threads for one operator on the processor.
///
/// Threads do not spin while they wait: on a machine shared with the service that would take time from it. Operators
/// run one after another, since a decoder's graph is a chain. A GPU's memory is taken as it is needed, not doubled ahead
/// of need, so that what is left can be planned for the cache. If the device cannot be had the session is refused:
/// running on another instead would be slow, and nobody would know why.
///
/// # Errors
/// ONNX Runtime's, if it cannot read or run the graph, or has no such device.
pub fn open(environment: &Environment, source: Source<'_>, device: &Device, threads: usize) -> ort::Result<Session> {
    let mut builder = Session::builder(environment)?
        .with_intra_threads(threads)?
        .with_inter_threads(1)?
        .with_intra_op_spinning(false)?;
    if let Device::Cuda(gpu) = device {
        let provider = CUDA::default()
            .with_device_id(gpu.ordinal)
            .with_arena_extend_strategy(ArenaExtendStrategy::SameAsRequested)
            .build()
            .error_on_failure();
        builder = builder.with_execution_providers([provider])?;
    }
    if matches!(source, Source::Edited { .. }) {
        builder = builder.with_operators(operator::domain()?)?;
    }
    match source {
        Source::File(path) => builder.commit_from_file(path),
        Source::Edited { bytes, folder } => builder
            .with_config_entry("session.model_external_initializers_file_folder_path", folder.to_string_lossy())?
            .commit_from_memory(bytes),
    }
}

/// Whose attention computes on a processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernels {
    /// ONNX Runtime's, where it has any: for attention over blocks it has none.
    AsExported,
    /// Ours, where it can do what the graph asks for and the processor has the instructions.
    Ours,
}

/// A session with the best attention there is.
pub(super) struct Opened {
    pub(super) session: Session,
    /// The graph with our attention, if that is what runs; else it runs as exported.
    pub(super) ours: Option<Vec<u8>>,
}

/// Opens a graph with our attention if that is wanted and can be, or must be; else as exported.
///
/// # Errors
/// [`DriverError`]: the graph cannot be run on the device.
pub(super) fn open_best(
    environment: &Environment,
    graph: &Path,
    device: &Device,
    threads: usize,
    kernels: Kernels,
) -> Result<Opened, DriverError> {
    if *device == Device::Cpu {
        let mut bytes = std::fs::read(graph).map_err(DriverError::Unreadable)?;
        let attention = graph_bytes::use_our_attention(&mut bytes);
        let wanted = kernels == Kernels::Ours && operator::is_supported();
        if attention == Some(Attention::OverBlocks) || attention.is_some() && wanted {
            match (
                open(environment, Source::Edited { bytes: &bytes, folder: folder(graph) }, device, threads),
                attention,
            ) {
                (Ok(session), _) => return Ok(Opened { session, ours: Some(bytes) }),
                // As exported it cannot run here: this is the error that says why.
                (Err(error), Some(Attention::OverBlocks)) => return Err(DriverError::Runtime(error)),
                // Its own errors come again below, if they are not about our operator.
                (Err(error), Some(Attention::OverRows) | None) => {
                    tracing::debug!(%error, "attention stays ONNX Runtime's");
                }
            }
        }
    }
    let session = open(environment, Source::File(graph), device, threads).map_err(|source| match device {
        Device::Cpu => DriverError::Runtime(source),
        Device::Cuda(_) => DriverError::Device { device: device.clone(), source },
    })?;
    Ok(Opened { session, ours: None })
}

/// The folder of a graph's weights.
pub(super) fn folder(graph: &Path) -> &Path {
    graph.parent().unwrap_or(Path::new("."))
}

/// A way to end the call that runs with these options.
pub(super) fn cancel(run: &Arc<RunOptions<NoSelectedOutputs>>) -> Cancel {
    let run = Arc::clone(run);
    Arc::new(move || {
        if let Err(error) = run.terminate() {
            tracing::error!(%error, "a call of the model cannot be ended");
        }
    })
}

/// Lets calls with these options run again.
pub(super) fn resume(run: &RunOptions<NoSelectedOutputs>) {
    if let Err(error) = run.unterminate() {
        tracing::error!(%error, "calls of the model stay ended");
    }
}

/// The session's inputs and outputs.
pub(super) fn describe(session: &Session) -> Graph {
    Graph { inputs: session.inputs().iter().map(port).collect(), outputs: session.outputs().iter().map(port).collect() }
}

fn port(outlet: &Outlet) -> Port {
    let (element, shape) = match outlet.dtype() {
        ValueType::Tensor { ty, shape, .. } => (element(*ty), shape.to_vec()),
        ValueType::Sequence(_) | ValueType::Map { .. } | ValueType::Optional(_) => (Element::Other, Vec::new()),
    };
    Port { name: outlet.name().to_owned(), element, shape }
}

fn element(ty: TensorElementType) -> Element {
    let known = [
        (TensorElementType::Float32, Element::F32),
        (TensorElementType::Float16, Element::F16),
        (TensorElementType::Int32, Element::I32),
        (TensorElementType::Int64, Element::I64),
    ];
    known.into_iter().find(|(theirs, _)| *theirs == ty).map_or(Element::Other, |(_, ours)| ours)
}
