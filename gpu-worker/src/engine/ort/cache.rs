//! The memory of a slot cache: for each layer one tensor of keys and one of values, `[rows, heads, capacity, head size]`.
//!
//! The last row is a spare: it belongs to no sequence, so that padding may write to it and an exchange of rows on a GPU
//! may pass through it.

use ort::session::Session;
use ort::value::DynValue;

use super::tensors::{Stretches, Tensors};
use crate::engine::attention::LANES;
use crate::engine::device::Device;
use crate::engine::graph::Element;
use crate::engine::memory::CacheShape;

/// Keys and values of every row.
pub(super) struct Cache {
    tensors: Tensors,
    shape: CacheShape,
    rows: usize,
}

impl Cache {
    /// Allocates `rows` rows and the spare one on the device that `session` runs on.
    ///
    /// # Errors
    /// ONNX Runtime's, if the memory cannot be had.
    pub(super) fn new(
        session: &Session,
        device: &Device,
        element: Element,
        shape: CacheShape,
        rows: usize,
    ) -> ort::Result<Self> {
        let dimensions = [rows + 1, shape.kv_heads, shape.context_length, shape.head_size];
        let tensors = Tensors::new(session, device, element, dimensions, 2 * shape.layers)?;
        Ok(Self { tensors, shape, rows })
    }

    /// The rows `first..first + rows` of a tensor: of layer `l` the keys are tensor `2 l`, the values `2 l + 1`.
    ///
    /// # Errors
    /// If the rows are not there.
    pub(super) fn part(&mut self, tensor: usize, first: usize, rows: usize) -> ort::Result<DynValue> {
        self.tensors.part(tensor, first..first + rows)
    }

    /// Copies the first `tokens` tokens of a row to another.
    ///
    /// # Errors
    /// If the device refuses; what `to` holds is then undefined.
    pub(super) fn copy(&mut self, from: usize, to: usize, tokens: usize) -> ort::Result<()> {
        self.tensors.copy(self.stretches(tokens), &[(from, to)])
    }

    /// Exchanges the first `tokens` tokens of two rows.
    ///
    /// # Errors
    /// If the device refuses; what the rows hold is then undefined.
    pub(super) fn swap(&mut self, a: usize, b: usize, tokens: usize) -> ort::Result<()> {
        self.tensors.swap(self.stretches(tokens), a, b, self.rows)
    }

    fn stretches(&self, tokens: usize) -> Stretches {
        let CacheShape { kv_heads, head_size, context_length, .. } = self.shape;
        // Whole blocks of tokens, since our attention lays keys in blocks.
        let used = tokens.next_multiple_of(LANES).min(context_length);
        Stretches { count: kv_heads, stride: context_length * head_size, used: used * head_size }
    }
}
