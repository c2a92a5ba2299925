//! The inference worker's library: continuous batching on ONNX Runtime behind the service's
//! [`Engine`](penstock_service::ports::Engine) port.
//!
//! Building it needs neither ONNX Runtime nor the network: the runtime's shared library is loaded from a path that the
//! caller names.

pub mod engine;
