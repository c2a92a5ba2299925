//! The engine's driver on ONNX Runtime: the only place that knows `ort`, and the only one with `unsafe` code.

mod library;
mod session;
mod slot;
mod view;

pub use library::{LibraryError, environment};
pub use session::open;
pub use slot::{Padding, SlotDecoder, SlotError, SlotOptions};
