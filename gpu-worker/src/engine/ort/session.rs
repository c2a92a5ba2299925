//! Opens a graph as a session on the CPU, and describes its inputs and outputs as plain data.

use std::path::Path;

use ort::environment::Environment;
use ort::session::Session;
use ort::value::{Outlet, TensorElementType, ValueType};

use crate::engine::graph::{Element, Graph, Port};

/// Opens the graph at `path` with `threads` threads for one operator.
///
/// Threads do not spin while they wait: on a machine shared with the service that would take time from it. Operators
/// run one after another, since a decoder's graph is a chain.
///
/// # Errors
/// ONNX Runtime's, if it cannot read or run the graph.
pub fn open(environment: &Environment, path: &Path, threads: usize) -> ort::Result<Session> {
    Session::builder(environment)?
        .with_intra_threads(threads)?
        .with_inter_threads(1)?
        .with_intra_op_spinning(false)?
        .commit_from_file(path)
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
