//! Opens a graph as a session on a device, and describes its inputs and outputs as plain data.

use std::path::Path;

use ort::environment::Environment;
use ort::ep::{ArenaExtendStrategy, CUDA};
use ort::session::Session;
use ort::value::{Outlet, TensorElementType, ValueType};

use crate::engine::device::Device;
use crate::engine::graph::{Element, Graph, Port};

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
        builder = builder.with_operators(super::operator::domain()?)?;
    }
    match source {
        Source::File(path) => builder.commit_from_file(path),
        Source::Edited { bytes, folder } => builder
            .with_config_entry("session.model_external_initializers_file_folder_path", folder.to_string_lossy())?
            .commit_from_memory(bytes),
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
        (TensorElementType::Int64, Element::I64),
    ];
    known.into_iter().find(|(theirs, _)| *theirs == ty).map_or(Element::Other, |(_, ours)| ours)
}
