//! The engine's driver on ONNX Runtime: the only place that knows `ort`, and the only one with `unsafe` code.

mod cache;
mod cuda;
mod encoder;
mod library;
mod operator;
mod session;
mod slot;
mod view;

pub use encoder::OrtEncoder;
pub use library::{LibraryError, environment};
pub use session::{Source, open};
pub use slot::{Kernels, Padding, Reading, SlotDecoder, SlotError, SlotOptions};
