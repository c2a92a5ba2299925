//! Equal tensors of keys and values, allocated once, on the processor or on a GPU; their first dimension is rows or blocks.

use std::ops::Range;

use half::f16;
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::Session;
use ort::value::{DynTensor, DynValue, TensorElementType};

use super::cuda::CudaRuntime;
use super::view::view;
use crate::engine::device::Device;
use crate::engine::graph::Element;

/// The tensors, and how to reach them.
pub(super) struct Tensors {
    tensors: Vec<DynTensor>,
    memory: MemoryInfo<'static>,
    allocator: Allocator,
    element: Element,
    /// Moves numbers that this process cannot reach; `None`: they are in its own memory.
    cuda: Option<CudaRuntime>,
}

impl Tensors {
    /// Allocates `count` tensors of `dimensions` on the device that `session` runs on.
    ///
    /// # Errors
    /// ONNX Runtime's, if the memory cannot be had.
    pub(super) fn new(
        session: &Session,
        device: &Device,
        element: Element,
        dimensions: [usize; 4],
        count: usize,
    ) -> ort::Result<Self> {
        let (memory, allocator, cuda) = match device {
            Device::Cpu => {
                let memory = MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::Default)?;
                (memory, Allocator::default(), None)
            }
            Device::Cuda(gpu) => {
                let of_gpu =
                    || MemoryInfo::new(AllocationDevice::CUDA, gpu.ordinal, AllocatorType::Device, MemoryType::Default);
                (of_gpu()?, Allocator::new(session, of_gpu()?)?, Some(CudaRuntime::open()?))
            }
        };
        let numbers = match element {
            Element::F16 => TensorElementType::Float16,
            Element::F32 | Element::I32 | Element::I64 | Element::Other => TensorElementType::Float32,
        };
        let tensors =
            (0..count).map(|_| DynTensor::new(&allocator, numbers, dimensions)).collect::<ort::Result<Vec<_>>>()?;
        Ok(Self { tensors, memory, allocator, element, cuda })
    }

    /// The rows `rows` of a tensor, over the same memory.
    ///
    /// # Errors
    /// If the rows are not there.
    pub(super) fn part(&mut self, tensor: usize, rows: Range<usize>) -> ort::Result<DynValue> {
        view(&mut self.tensors[tensor], rows, self.element, &self.memory, &self.allocator)
    }

    /// Copies rows of every tensor, pairs of from and to, one after another.
    ///
    /// # Errors
    /// If the device refuses; what was copied to is then undefined.
    pub(super) fn copy(&mut self, stretches: Stretches, pairs: &[(usize, usize)]) -> ort::Result<()> {
        self.move_numbers(
            stretches,
            pairs,
            |all| pairs.iter().for_each(|&(from, to)| stretches.copy(all, from, to)),
            |all| pairs.iter().for_each(|&(from, to)| stretches.copy(all, from, to)),
        )
    }

    /// Exchanges two rows of every tensor; on a GPU through the row `spare`.
    ///
    /// # Errors
    /// If the device refuses; what the rows hold is then undefined.
    pub(super) fn swap(&mut self, stretches: Stretches, a: usize, b: usize, spare: usize) -> ort::Result<()> {
        let through_spare = [(a, spare), (b, a), (spare, b)];
        self.move_numbers(stretches, &through_spare, |all| stretches.swap(all, a, b), |all| stretches.swap(all, a, b))
    }

    /// Applies `half` or `single` to every tensor in this process's memory, or `copies` to every tensor on a GPU.
    fn move_numbers(
        &mut self,
        stretches: Stretches,
        copies: &[(usize, usize)],
        half: impl Fn(&mut [f16]),
        single: impl Fn(&mut [f32]),
    ) -> ort::Result<()> {
        let bytes = self.element.bytes();
        for tensor in &mut self.tensors {
            match (&self.cuda, self.element) {
                (Some(cuda), _) => cuda.copy_rows(tensor, stretches.in_bytes(bytes), copies)?,
                (None, Element::F16) => half(tensor.try_extract_tensor_mut()?.1),
                (None, Element::F32 | Element::I32 | Element::I64 | Element::Other) => {
                    single(tensor.try_extract_tensor_mut()?.1);
                }
            }
        }
        self.cuda.as_ref().map_or(Ok(()), CudaRuntime::wait)
    }
}

/// Where a row's numbers lie: `count` stretches, `stride` apart, of which the first `used` numbers matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stretches {
    pub(super) count: usize,
    pub(super) stride: usize,
    pub(super) used: usize,
}

impl Stretches {
    fn in_bytes(self, bytes: usize) -> Self {
        Self { count: self.count, stride: self.stride * bytes, used: self.used * bytes }
    }

    fn copy<T: Copy>(&self, all: &mut [T], from: usize, to: usize) {
        let row = self.count * self.stride;
        for start in (0..row).step_by(self.stride.max(1)) {
            let source = from * row + start;
            all.copy_within(source..source + self.used, to * row + start);
        }
    }

    fn swap<T>(&self, all: &mut [T], a: usize, b: usize) {
        let (low, high) = (a.min(b), a.max(b));
        if low == high {
            return;
        }
        let row = self.count * self.stride;
        let (front, back) = all.split_at_mut(high * row);
        for start in (0..row).step_by(self.stride.max(1)) {
            let ours = &mut front[low * row + start..][..self.used];
            ours.swap_with_slice(&mut back[start..][..self.used]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copying_a_row_fills_the_used_part_of_every_head_and_nothing_else() {
        let mut all: Vec<i32> = (0..24).collect();
        Stretches { count: 2, stride: 4, used: 3 }.copy(&mut all, 0, 2);
        assert_eq!(all[..16], (0..16).collect::<Vec<_>>());
        assert_eq!(all[16..], [0, 1, 2, 19, 4, 5, 6, 23]);
    }

    #[test]
    fn swapping_rows_exchanges_the_used_part_of_every_head_and_nothing_else() {
        // 3 rows, 2 heads, 4 tokens of 1 number; the first 2 tokens are used.
        let mut all: Vec<i32> = (0..24).collect();
        let stretches = Stretches { count: 2, stride: 4, used: 2 };
        stretches.swap(&mut all, 2, 0);
        assert_eq!(all[..8], [16, 17, 2, 3, 20, 21, 6, 7]);
        assert_eq!(all[8..16], [8, 9, 10, 11, 12, 13, 14, 15]);
        assert_eq!(all[16..], [0, 1, 18, 19, 4, 5, 22, 23]);
        stretches.swap(&mut all, 1, 1);
        stretches.swap(&mut all, 0, 2);
        assert_eq!(all, (0..24).collect::<Vec<_>>());
    }
}
