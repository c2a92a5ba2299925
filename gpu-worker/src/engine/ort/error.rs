//! Why ONNX Runtime cannot run a model here.

use crate::engine::device::Device;
use crate::engine::graph::GraphError;
use crate::engine::memory::{CacheTooLarge, PoolTooSmall};

/// Why a graph cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// ONNX Runtime refuses the graph or the allocation.
    #[error("ONNX Runtime cannot load the model: {0}")]
    Runtime(#[from] ort::Error),
    /// The device cannot be had.
    #[error(
        "ONNX Runtime cannot use {device}: {source}; it takes the library of the Python wheel `onnxruntime-gpu` with \
         libonnxruntime_providers_cuda.so beside it, CUDA 13's libraries on the loader's path (LD_LIBRARY_PATH), and a \
         driver of version 580 or newer"
    )]
    Device {
        /// The device.
        device: Device,
        /// ONNX Runtime's words.
        source: ort::Error,
    },
    /// The graph contradicts its configuration.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The cache would not fit into memory.
    #[error(transparent)]
    Memory(#[from] CacheTooLarge),
    /// The cache would not hold one whole context.
    #[error(transparent)]
    Pool(#[from] PoolTooSmall),
    /// The graph's file cannot be read.
    #[error("cannot read the graph: {0}")]
    Unreadable(#[source] std::io::Error),
}
