//! The engine's driver on ONNX Runtime: the only place that knows `ort`, and the only one with `unsafe` code.

mod cache;
mod cuda;
mod encoder;
mod error;
mod library;
mod logits;
mod operator;
mod paged;
mod session;
mod slot;
mod tensors;
mod view;

use std::path::Path;

use ::ort::environment::Environment;

pub use encoder::OrtEncoder;
pub use error::DriverError;
pub use library::{LibraryError, environment};
pub use paged::{PagedDecoder, PagedOptions};
pub use session::{Kernels, Source, open};
pub use slot::{Padding, Reading, SlotDecoder, SlotOptions};

use crate::engine::graph::Layout;
use crate::engine::model::ModelConfig;

/// A decoder of the kind that the graph was exported for.
pub enum Driver {
    /// Each sequence has a row of its own.
    Slots(Box<SlotDecoder>),
    /// Sequences share a pool of blocks.
    Blocks(Box<PagedDecoder>),
}

impl Driver {
    /// Opens the graph and looks at its inputs to see what it is.
    ///
    /// # Errors
    /// [`DriverError`]: the graph cannot be run, contradicts its configuration, or needs more memory than there is.
    pub fn load(
        environment: &Environment,
        graph: &Path,
        config: &ModelConfig,
        slots: SlotOptions,
        blocks: PagedOptions,
    ) -> Result<Self, DriverError> {
        let opened = session::open_best(environment, graph, &slots.device, slots.threads, slots.kernels)?;
        match session::describe(&opened.session).layout(&config.names) {
            Layout::Rows => {
                let decoder = SlotDecoder::with(environment, opened, graph, config, slots)?;
                Ok(Self::Slots(Box::new(decoder)))
            }
            Layout::Blocks => Ok(Self::Blocks(Box::new(PagedDecoder::with(opened, config, blocks)?))),
        }
    }
}
